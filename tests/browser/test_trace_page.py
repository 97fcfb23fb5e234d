"""The page of a run in a browser, with the network cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_xray
import pytest
from chromium import look_at
from hostile import BAD, NASTY, hostile_run

from loomc_runner import Budget, loop, spend, tool
from loomc_runner.store import open_reader
from loomc_runner.store.memory import MemoryStore
from loomc_runner.trace import write_page
from loomc_runner.trace.texts import named

MARKUP = re.compile(r"[<>\"'`&\\\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\ud800-\udfff]")

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "script", "body", "header", "h1", "h3"),
    *("section", "aside", "div", "span", "p", "b", "br", "pre", "button", "input"),
}
"""What flow-xray's page is made of."""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Where the page is written."""
    return tmp_path / "trace.html"


def ordinary(page: Path) -> None:
    """A run with a call and a function in each step."""
    think = flow_xray.trace(lambda text: text.upper())
    look = tool(name="look")(lambda n: n)

    @loop(checkpoint=MemoryStore(), name="refine", budget=Budget(usd=1, iterations=3))
    def refine(n: int) -> int:
        think("x")
        spend(usd=0.01, tokens=10, label="model")
        return look(n) + 1

    refine.run(0, run_id="a", trace=page)


def large(page: Path) -> None:
    """A run that has more steps than a page shows."""

    @loop(checkpoint=MemoryStore(), name="refine", budget=Budget(iterations=2500))
    def refine(n: int) -> int:
        return n + 1

    refine.run(0, run_id="a", trace=page)


def failing(page: Path) -> None:
    """A run whose step fails."""

    @loop(checkpoint=MemoryStore(), name="refine")
    def refine(n: int) -> int:
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        refine.run(0, run_id="a", trace=page)


@pytest.mark.parametrize(("write", "words"), [(ordinary, "look"), (large, "steps"), (failing, "no good")])
def test_a_page_needs_no_network(page: Path, write: Callable[[Path], None], words: str):
    """No script error, and no request, whatever is clicked; each tab has something to show."""
    write(page)
    seen = look_at(page, nodes=8)
    assert (seen.requests, seen.errors) == ([], [])
    assert "it needs the network" in seen.tabs["graph"]
    for tab in ("overview", "timeline", "raw", "gantt"):
        assert "refine" in seen.tabs[tab]
    assert words in seen.tabs["timeline"] + seen.details[2]


def drawn(page: Any) -> tuple[str, list[str]]:
    """Ask for the graph, with somebody else in the place of the host; what was drawn, and what was asked for."""
    asked = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        source = (
            "export const Graphviz = {load: async () => {"
            "await WebAssembly.instantiate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));"
            "return {dot: text => `<svg width='9' height='9'><g class='node'><title>n1</title>"
            "<text>${text.match(/n1 .*/)[0].replaceAll('<', '')}</text></g></svg>`}}};"
        )
        route.fulfill(content_type="text/javascript", headers={"Access-Control-Allow-Origin": "*"}, body=source)

    page.context.set_offline(False)
    page.context.route("**/*", answer)
    page.click("#mode-graph")
    page.click("#loadgraph")
    page.wait_for_selector("#graphwrap svg", state="attached")
    page.dispatch_event("#graphwrap .node", "click")
    return page.inner_text("#det"), asked


def test_the_graph_is_loaded_when_it_is_asked_for(page: Path):
    """The policy of the page lets that one thing through, and a node of the graph can be clicked."""
    ordinary(page)
    details, asked = look_at(page, nodes=1, more=drawn).more
    assert [url.split("/")[2] for url in asked] == ["cdn.jsdelivr.net"]
    assert details.startswith("step 0")


def test_the_graph_says_so_when_there_is_no_network(page: Path):
    """The other tabs work on."""
    ordinary(page)

    def told(page: Any) -> str:
        page.click("#mode-graph")
        page.click("#loadgraph")
        page.wait_for_selector("#loadgraph", state="detached")
        return page.inner_text("#graphwrap")

    assert "offline" in look_at(page, nodes=1, more=told).more


@pytest.mark.parametrize("live", [True, False], ids=["live", "from the records"])
def test_hostile_texts_are_only_text(tmp_path: Path, page: Path, live: bool):
    """Whatever stands in a record or in a user's function is shown as text: nothing of it is run or becomes markup."""
    hostile_run(tmp_path / "c.db", page)
    if not live:
        store = open_reader(tmp_path / "c.db")
        write_page(store, store.get_run("a"), page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script") == 1
    assert "<img" not in text
    seen = look_at(page, nodes=60)
    assert (seen.requests, seen.errors, seen.pwned) == ([], [], None)
    assert seen.elements <= ELEMENTS
    assert any(BAD in details for details in seen.details)
    shown = "".join([*seen.tabs.values(), *seen.details])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\ud800-\udfff]", shown)


@pytest.mark.parametrize("live", [True, False], ids=["live", "from the records"])
def test_names_and_ids_are_clean(tmp_path: Path, page: Path, live: bool):
    """Names, kinds and the names of inputs and tags mean nothing in HTML; ids are ours, and unique."""
    hostile_run(tmp_path / "c.db", page)
    if not live:
        store = open_reader(tmp_path / "c.db")
        write_page(store, store.get_run("a"), page)
    found = re.search(r"^const TRACE=(.*);$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    nodes, ids = json.loads(found[1])["nodes"], []
    while nodes:
        node = nodes.pop()
        nodes += node["children"]
        meta = node.get("meta", {})
        names = [node["name"], node["kind"], *node["inputs"], *node.get("tags", ()), *meta, str(meta.get("model"))]
        assert not [name for name in names if MARKUP.search(name)]
        assert all(isinstance(value, int | float) for name, value in meta.items() if name != "model")
        ids.append(node["id"])
    assert all(re.fullmatch("n[0-9]+", name) for name in ids)
    assert len(ids) == len(set(ids)) > 5


@pytest.mark.parametrize("text", [NASTY, "\u202egnp.exe", "a\nb", "x" * 1_000_000, "", " ", "__proto__", "\ud800"])
def test_names_have_no_quotes_markup_or_control_characters(text: str):
    """A name can stand in an attribute, and in the words of a graph."""
    name = named(text)
    assert name
    assert not MARKUP.search(name)
    assert len(name) <= 101
    name.encode()
