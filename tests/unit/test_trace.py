"""The page of a run: a tree from its records, with what users' own traced functions did in its steps."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import flow_xray
import pytest
from driving import Draft, Maker, doing, go, grow, scripted, size, until

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    Done,
    LastGood,
    LoomcError,
    LoomcWarning,
    Retry,
    RunNotFound,
    RunStatus,
    SpecError,
    ask,
    loop,
    spend,
    tool,
)
from loomc_runner.clock import SystemClock
from loomc_runner.outside import find_question, give_answer
from loomc_runner.store.memory import MemoryStore
from loomc_runner.trace import write_page
from loomc_runner.trace.live import DEEPEST, Live
from loomc_runner.trace.nodes import MOST_NODES, Node, pruned
from loomc_runner.trace.page import CHANGES, adapted
from loomc_runner.trace.texts import LONGEST, shown

AT_ONCE = Retry(attempts=3, wait=0)


@flow_xray.trace
def think(text: str) -> str:
    """A function of the user's."""
    return text.upper()


@flow_xray.trace
def stop(error: BaseException) -> None:
    """A function that does not return."""
    raise error


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Where the page is written."""
    return tmp_path / "trace.html"


def tree_in(page: Path) -> dict[str, Any]:
    """The tree that is in a page."""
    found = re.search(r"^const TRACE=(.*);$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    (root,) = json.loads(found[1])["nodes"]
    return root


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node and all below it."""
    yield node
    for child in node["children"]:
        yield from walk(child)


def outline(node: dict[str, Any]) -> Any:
    """The names of a node and of all below it."""
    return (node["name"], *map(outline, node["children"])) if node["children"] else node["name"]


def below(page: Path, name: str) -> list[Any]:
    """The names of what is below the first node with this name."""
    node = next(node for node in walk(tree_in(page)) if node["name"] == name)
    return [outline(child) for child in node["children"]]


def total(page: Path, name: str) -> float:
    """What the page adds up over all its nodes."""
    return sum(node.get("meta", {}).get(name, 0) for node in walk(tree_in(page)))


# --- from the records


def test_the_tree_is_run_step_attempt_call_and_child(make: Maker, page: Path):
    """Every kind of record has its node, below what it happened in."""
    fails = [ConnectionError("away")]

    @tool(name="look")
    def look(word: str) -> str:
        return word

    @loop(checkpoint=make.store, name="tests:child")
    def child(n: int) -> Done[int, None]:
        return Done(n)

    def step(draft: Draft) -> Draft:
        look("x")
        if fails:
            raise fails.pop()
        child(draft.n)
        return grow(draft)

    sync = Maker(make.store, is_async=False)
    sync(step, budget=Budget(iterations=9), converge_on=until(2), retry=AT_ONCE).run(Draft(), run_id="a", trace=page)
    of_child = "run a.{}.0 tests:child"
    assert outline(tree_in(page)) == (
        "run a tests:draft",
        ("step 0", ("step 0 attempt 0", "look"), (of_child.format(0), "step 0")),
        ("step 1", "look", (of_child.format(1), "step 0")),
    )


def test_scores_restores_costs_and_the_reason_are_told(make: Maker, page: Path):
    """What was decided stands in tags, and what each step began with in its inputs."""
    step = doing(lambda: spend(usd=0.01, tokens=5, label="small-model"), scripted(1, 3, 2, 4))
    refine = make(step, scorer=size, backtrack=BestScore(), converge_on=until(4), budget=Budget(usd=1))
    go(refine.run(Draft(), run_id="a", trace=page))
    root = tree_in(page)
    steps = root["children"]
    assert [step["tags"].get("score") for step in steps] == ["1", "3", "2", "4"]
    assert steps[2]["tags"]["decision"] == "restore 1"
    assert steps[3]["inputs"] == {"the state after step 1": '{"n":3,"words":[]}'}
    assert steps[3]["output"] == '{"n":4,"words":[]}'
    assert steps[3]["tags"]["best"] == "yes"
    assert steps[0]["meta"] == {"model": "small-model", "total_tokens": 5, "estimated_cost_usd": 0.01}
    assert root["tags"]["cost"] == "$0.04"
    assert root["tags"]["stopped"].startswith("converged")


def test_what_the_page_adds_up_is_what_the_run_spent(make_in_memory: Maker, page: Path):
    """Failed tries and child runs count once, and tokens that functions have counted are not counted again."""

    @flow_xray.trace
    def model() -> str:
        flow_xray.trace.meta(model="gpt-4o", prompt_tokens=30, completion_tokens=10)
        return "said"

    @loop(budget=Budget(usd=1), checkpoint=make_in_memory.store)
    def child(n: int) -> Done[int, None]:
        spend(usd=0.2, tokens=7)
        return Done(n)

    fails = [ConnectionError("away")]

    def step(draft: Draft) -> Draft:
        model()
        spend(usd=0.1, tokens=100)
        child(draft.n)
        if fails:
            raise fails.pop()
        return grow(draft)

    sync = Maker(make_in_memory.store, is_async=False)
    refine = sync(step, budget=Budget(usd=2), converge_on=until(2), retry=AT_ONCE)
    result = refine.run(Draft(), trace=page)
    assert round(total(page, "estimated_cost_usd"), 9) == round(result.cost_usd, 9) == 0.7
    assert total(page, "total_tokens") == result.tokens == 314


def test_a_run_that_is_under_way_has_its_page(memory: MemoryStore, page: Path):
    """The step that is under way is shown as that."""

    def step(draft: Draft) -> Draft:
        write_page(memory, memory.get_run("a"), page)
        return grow(draft)

    Maker(memory, is_async=False)(step, converge_on=until(2)).run(Draft(), run_id="a")
    assert outline(tree_in(page)) == ("run a tests:draft", "step 0", "step 1")
    assert tree_in(page)["children"][1]["tags"] == {"under way": True}
    assert tree_in(page)["tags"]["status"] == "running"


def test_an_absorbed_failure_and_its_error_are_told(make: Maker, page: Path):
    """A step that a strategy absorbed has its error."""
    step = scripted(1)
    go(make(step, backtrack=LastGood(), budget=Budget(iterations=2)).run(Draft(), trace=page))
    assert [node["error"] is None for node in tree_in(page)["children"]] == [True, False]


# --- live


def test_functions_are_shown_in_their_steps_and_calls(make: Maker, page: Path):
    """What a traced function did stands below the step or the call that it did it in."""
    look = tool(name="look")(think)

    def step(draft: Draft) -> Draft:
        think(f"step {draft.n}")
        look("called")
        return grow(draft)

    Maker(make.store, is_async=False)(step, converge_on=until(2)).run(Draft(), trace=page)
    assert below(page, "step 1") == ["think", ("look", "think")]
    functions = [node for node in walk(tree_in(page)) if node["name"] == "think"]
    assert [node["inputs"]["text"] for node in functions] == ["step 0", "called", "step 1", "called"]
    assert functions[0]["output"] == "STEP 0"


def test_functions_of_an_async_step_are_shown(memory: MemoryStore, page: Path):
    """Also those that run side by side, and those in threads that asyncio starts."""

    @flow_xray.trace
    async def wait(text: str) -> str:
        await asyncio.sleep(0)
        return await asyncio.to_thread(think, text)

    @loop(checkpoint=memory)
    async def refine(n: int) -> Done[int, None]:
        await asyncio.gather(wait("a"), wait("b"))
        return Done(n)

    asyncio.run(refine.run(1, trace=page))
    waits = [("wait", "think")] * 2
    assert [(name.rpartition(".")[2].rpartition(")")[2], *rest) for name, *rest in below(page, "step 0")] == waits


def in_a_copy(text: str) -> None:
    """Call it in a thread that knows what the step knows."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(copy_context().run, think, text).result()


def in_a_thread(text: str) -> None:
    """Call it in a thread that knows nothing."""
    thread = threading.Thread(target=think, args=(text,))
    thread.start()
    thread.join()


@pytest.mark.parametrize(("where", "shown_there"), [(in_a_copy, ["think"]), (in_a_thread, [])])
def test_functions_in_a_thread_are_shown_when_it_has_the_context(memory, page, where, shown_there):
    """A thread with a copy of the context belongs to the step; any other one knows no step, and works as ever."""
    make = Maker(memory, is_async=False)
    make(doing(lambda: where("x")), budget=Budget(iterations=1)).run(Draft(), trace=page)
    assert below(page, "step 0") == shown_there


def test_functions_of_children_in_threads_are_shown_in_their_own_steps(memory: MemoryStore, page: Path):
    """`map` runs children in threads, and each has its own functions."""

    @loop(checkpoint=memory, name="child")
    def child(n: int) -> Done[int, None]:
        think(str(n))
        return Done(n)

    @loop(checkpoint=memory, name="parent")
    def parent(n: int) -> Done[int, None]:
        child.map([1, 2, 3])
        return Done(n)

    parent.run(0, run_id="a", trace=page)
    runs = tree_in(page)["children"][0]["children"]
    assert sorted(map(outline, runs)) == [(f"run a.0.{k} child", ("step 0", "think")) for k in range(3)]
    inputs = {run["inputs"]["initial state"]: run["children"][0]["children"][0]["inputs"]["text"] for run in runs}
    assert inputs == {"1": "1", "2": "2", "3": "3"}


def test_each_try_of_a_step_has_its_own_functions(make_in_memory: Maker, page: Path):
    """A retry does not mix with the try before it."""
    tries = iter([ConnectionError("one"), ConnectionError("two"), None])

    def step(draft: Draft) -> Draft:
        error = next(tries)
        think(str(error))
        if error:
            raise error
        return grow(draft)

    go(make_in_memory(step, retry=AT_ONCE, budget=Budget(iterations=1)).run(Draft(), trace=page))
    assert below(page, "step 0") == [("step 0 attempt 0", "think"), ("step 0 attempt 1", "think"), "think"]
    assert [node["inputs"]["text"] for node in walk(tree_in(page)) if node["name"] == "think"] == ["one", "two", "None"]


def test_a_replayed_call_is_shown_from_its_record(memory: MemoryStore, page: Path):
    """A call that is not executed again has its node all the same, and nothing is made up below it."""
    look = tool(name="look")(think)

    def step(draft: Draft) -> Draft:
        look("x")
        ask("Go on?")
        return grow(draft)

    refine = Maker(memory, is_async=False)(step, converge_on=until(1))
    assert refine.run(Draft(), run_id="a", trace=page).status is RunStatus.WAITING
    assert below(page, "step 0") == [("step 0 attempt 0", ("look", "think"), "question 0.0")]
    assert next(node for node in walk(tree_in(page)) if node["name"] == "step 0")["error"] is None
    give_answer(memory, find_question(memory, "a"), json.dumps("yes"), "me", SystemClock().now())
    refine.resume("a", trace=page)
    assert below(page, "step 0") == [("step 0 attempt 0", "look", "question 0.0")]


# --- runs that end badly


def test_a_failing_run_fails_and_has_its_page(make: Maker, page: Path):
    """The error comes through, and stands in the page with the function it came from."""
    step = doing(lambda: stop(ValueError("no good")))
    with pytest.raises(ValueError, match="no good"):
        go(make(step).run(Draft(), trace=page))
    root = tree_in(page)
    assert [node["error"] for node in walk(root)][1:] == ["ValueError: no good"] * 3
    assert root["tags"]["status"] == "failed"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError()])
def test_a_run_that_is_torn_apart_has_its_page(make: Maker, page: Path, error: BaseException):
    """Ctrl-C and the like go their way; the step is cut off, and the function in it did not end."""
    with pytest.raises(type(error)):
        go(make(doing(lambda: stop(error))).run(Draft(), trace=page))
    step, function = list(walk(tree_in(page)))[1:]
    assert (step["error"], step["tags"]) == ("cut off", {"cut off": True})
    assert function["tags"] == {"did not end": True}
    assert function["latency_ms"] <= step["latency_ms"] + 1


def test_a_function_that_the_wall_clock_ends_did_not_end(memory: MemoryStore, page: Path):
    """What is raised to end it is nobody's business, and not shown."""

    @flow_xray.trace
    def hang(draft: Draft) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            pass

    refine = Maker(memory, is_async=False)(hang, budget=Budget(wall_clock="50ms"))
    with pytest.raises(BudgetExhausted):
        refine(Draft())
    refine.run(Draft(), trace=page)
    assert "DeadlineReached" not in page.read_text()
    *_, function = walk(tree_in(page))
    assert function["tags"] == {"did not end": True}
    assert 40 <= function["latency_ms"] < 10_000


def test_a_step_goes_on_as_ever_when_its_functions_cannot_be_shown(memory: MemoryStore, page: Path):
    """A value that cannot be put into words is said to be one; the step does not notice."""

    class Shy:
        def __str__(self) -> str:
            raise RuntimeError("never")

        __repr__ = __str__

    class Worse(int):
        def __ge__(self, other: object) -> bool:
            raise RuntimeError("never")

    @flow_xray.trace
    def shy() -> Shy:
        flow_xray.trace.tag(Shy(), x=Shy())
        flow_xray.trace.meta(model=Shy())
        return Shy()

    @flow_xray.trace
    def worse() -> None:
        flow_xray.trace.meta(total_tokens=Worse(1))

    make = Maker(memory, is_async=False)
    make(doing(shy), budget=Budget(iterations=1)).run(Draft(), trace=page)
    *_, function = walk(tree_in(page))
    assert function["output"] == function["tags"]["x"] == "a Shy, which cannot be shown"
    make(doing(worse), budget=Budget(iterations=1)).run(Draft(), trace=page)
    assert below(page, "step 0") == []


# --- the file


def never(draft: Draft) -> Draft:
    """A step that must not be begun."""
    pytest.fail("it was begun")


@pytest.mark.parametrize(("place", "words"), [("no/where.html", "make the folder"), (".", "is no file")])
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_paid_for(make, tmp_path, place, words):
    """A place where no file can be made is an error at once."""
    with pytest.raises(SpecError, match=words):
        go(make(never).run(Draft(), trace=tmp_path / place))
    assert make.store.list_runs() == []


def test_a_page_that_cannot_be_written_any_more_is_an_error_when_the_run_went_well(make: Maker, tmp_path: Path):
    """The run is stored, and the error names the command that writes the page from the records."""
    folder = tmp_path / "gone"
    folder.mkdir()
    refine = make(doing(lambda: folder.exists() and folder.rmdir()), budget=Budget(iterations=1))
    with pytest.raises(LoomcError, match=r"loomc trace a -o .*gone/trace.html"):
        go(refine.run(Draft(), run_id="a", trace=folder / "trace.html"))
    assert make.store.get_run("a").steps == 1


def test_a_page_that_cannot_be_written_does_not_hide_the_error_of_the_run(make: Maker, tmp_path: Path):
    """The run's own error is raised; of the page there is a warning."""
    folder = tmp_path / "gone"
    folder.mkdir()

    def step(draft: Draft) -> Draft:
        folder.rmdir()
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"), pytest.warns(LoomcWarning, match="could not be written"):
        go(make(step).run(Draft(), run_id="a", trace=folder / "trace.html"))
    folder.mkdir()
    with pytest.raises(ValueError, match="no good"):  # warnings are errors here
        go(make(step).run(Draft(), run_id="b", trace=folder / "trace.html"))


def test_a_run_that_never_began_raises_its_own_error_only(make: Maker, page: Path):
    """There is nothing to write a page of."""
    with pytest.raises(LoomcError):
        go(make(grow).run(Draft(n=float("nan")), trace=page))  # type: ignore[arg-type]
    assert not page.exists()


def test_an_old_page_is_replaced_as_a_whole(memory: MemoryStore, page: Path, monkeypatch):
    """When writing fails the old page is still there, and nothing else is left in the folder."""
    Maker(memory, is_async=False)(grow, budget=Budget(iterations=1)).run(Draft(), run_id="a", trace=page)
    before = page.read_text()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(memory, memory.get_run("a"), page)
    assert page.read_text() == before
    assert [path.name for path in page.parent.iterdir()] == [page.name]


# --- texts


def test_values_are_cut_at_the_stated_size():
    """A long value says how long it is, and how much of a value is shown."""
    text = shown("x" * 10_000_000)
    assert text == "x" * LONGEST + " … (cut: 1,000 characters of a value are shown, it has 10,000,000)"
    assert shown("x" * LONGEST) == "x" * LONGEST


def test_control_characters_in_values_are_written_out():
    """Lines stay lines; whatever steers a terminal or turns a text round is seen."""
    assert shown("one\r\n\ttwo\x1b[31m\u202e\ud800") == "one\n    two\\x1b[31m\\u202e\\ud800"


# --- large runs


class Counted(MemoryStore):
    """A store that counts the states that are read of it."""

    states = 0

    def state(self, run_id: str, step_n: int) -> str:
        """The state, counted."""
        self.states += 1
        return super().state(run_id, step_n)


def test_the_middle_steps_of_a_long_run_are_folded(page: Path):
    """The first and last steps, the best one and those that failed are shown, the others counted and not read."""
    store = Counted()
    fails = {1800: ConnectionError("away")}

    def step(draft: Draft) -> Draft:
        spend(usd=0.001, tokens=1)
        if draft.n in fails:
            raise fails.pop(draft.n)
        return grow(draft)

    refine = Maker(store, is_async=False)(
        step, scorer=lambda draft: -abs(draft.n - 2001), budget=Budget(iterations=4000), retry=AT_ONCE
    )
    result = refine.run(Draft(), run_id="a")
    store.states = 0
    written = write_page(store, store.get_run("a"), page)
    steps = tree_in(page)["children"]
    assert written.nodes == sum(1 for _ in walk(tree_in(page))) <= MOST_NODES
    assert [node["name"] for node in (steps[0], steps[-1])] == ["step 0", "step 3999"]
    before, best, after = (steps[i] for i in range(len(steps)) if folds_around(steps, i))
    assert best["name"] == "step 2000"
    shown_steps = sum(node["kind"] == "step" for node in steps)
    assert written.folded_steps == 4000 - shown_steps
    assert before["name"] == f"… {int(best['name'][5:]) - int(before['tags']['from'][5:]):,} steps"
    assert after["tags"]["cost"].startswith("$")
    assert store.states <= shown_steps + 5
    assert round(total(page, "estimated_cost_usd"), 6) == round(result.cost_usd, 6)


def folds_around(steps: list[dict[str, Any]], i: int) -> bool:
    """Whether a node is a fold, or stands between two."""
    return steps[i]["kind"] == "folded" or {steps[i - 1]["kind"], steps[(i + 1) % len(steps)]["kind"]} == {"folded"}


def test_very_many_child_runs_of_a_step_are_folded(memory: MemoryStore, page: Path):
    """The first and the last of them are shown; what the others have cost is counted."""

    @loop(checkpoint=memory, name="child")
    def child(n: int) -> Done[int, None]:
        spend(usd=0.001)
        return Done(n)

    @loop(checkpoint=memory, name="parent")
    def parent(n: int) -> Done[int, None]:
        for k in range(1100):
            child(k)
        return Done(n)

    result = parent.run(0, run_id="a")
    written = write_page(memory, memory.get_run("a"), page)
    (fold,) = (node for node in walk(tree_in(page)) if node["kind"] == "folded")
    assert fold["name"] == f"… {written.folded_steps:,} child runs"
    assert written.nodes == 2 + 2 * (1100 - written.folded_steps) + 1 <= MOST_NODES
    assert round(total(page, "estimated_cost_usd"), 6) == round(result.cost_usd, 6)


@pytest.mark.parametrize("room", [1, 10, 300, 1023, 3000])
def test_a_tree_is_brought_within_its_room_wherever_it_is_large(room: int):
    """What is folded counts its tokens, dollars and steps on."""

    def grown(depth: int) -> Node:
        return Node("x", "step", 0.0, tokens=1, usd=1.0, children=[grown(depth - 1) for _ in range(2 * (depth > 0))])

    nodes = [*pruned(grown(10), room).walk()]
    assert len(nodes) <= max(room, 2)
    assert sum(node.tokens for node in nodes) == sum(node.usd for node in nodes) == 2047
    assert sum(node.folded_steps + (node.kind == "step") for node in nodes) == 2047


def test_states_that_are_not_kept_any_more_are_left_out(page: Path):
    """Pruned runs, and those of loomc 0.3.0, have pages as well; notes are told."""

    class Forgetful(MemoryStore):
        def state(self, run_id: str, step_n: int) -> str:
            raise RunNotFound("pruned")

    store = Forgetful()
    with pytest.warns(LoomcWarning):
        Maker(store, is_async=False)(grow, budget=Budget(usd=1), converge_on=until(1)).run(Draft(), run_id="a")
    write_page(store, store.get_run("a"), page)
    run, step = walk(tree_in(page))
    assert "unpriced" in run["inputs"]["notes"]
    assert (step["inputs"], step["output"]) == ({}, None)


def test_nothing_is_folded_in_a_run_that_fits(memory: MemoryStore, page: Path):
    """Up to 2,000 nodes everything is shown."""
    look = tool(name="look")(lambda n: n)
    step = doing(lambda: [look(n) for n in range(17)])
    Maker(memory, is_async=False)(step, budget=Budget(iterations=111)).run(Draft(), run_id="a")
    assert write_page(memory, memory.get_run("a"), page).nodes == 1 + 111 * 18
    assert not [node for node in walk(tree_in(page)) if node["kind"] == "folded"]


def test_ten_thousand_nodes_are_written_in_five_seconds(memory: MemoryStore, page: Path):
    """Also when it is the calls that are many."""
    look = tool(name="look")(lambda n: n)
    step = doing(lambda: [look(n) for n in range(99)])
    Maker(memory, is_async=False)(step, budget=Budget(iterations=100)).run(Draft(), run_id="a")
    begun = time.perf_counter()
    written = write_page(memory, memory.get_run("a"), page)
    assert time.perf_counter() - begun < 5
    assert MOST_NODES / 2 < written.nodes <= MOST_NODES
    assert written.folded_steps > 50


def test_runs_in_runs_are_shown_ten_deep(memory: MemoryStore, page: Path):
    """Each below the step of its parent."""

    @loop(checkpoint=memory, name="deep", budget=Budget(iterations=100))
    def deep(n: int) -> int | Done[int, None]:
        return Done(deep(n + 1) if n < 10 else n) if n % 2 else n

    @loop(checkpoint=memory, name="down")
    def down(n: int) -> Done[int, None]:
        return Done(down(n + 1) if n < 10 else n)

    down.run(0, run_id="a", trace=page)
    assert [node["name"] for node in walk(tree_in(page))][::2] == [f"run a{'.0.0' * k} down" for k in range(11)]


def test_a_deep_recursion_of_functions_is_folded(memory: MemoryStore, page: Path):
    """Neither Python nor a browser is brought to its limits."""

    @flow_xray.trace
    def dig(n: int) -> int:
        return dig(n - 1) if n else 0

    Maker(memory, is_async=False)(doing(lambda: dig(150)), budget=Budget(iterations=1)).run(Draft(), trace=page)
    *_, last = walk(tree_in(page))
    assert (last["name"], last["kind"]) == ("… 1 function", "folded")
    assert sum(1 for _ in walk(tree_in(page))) == 2 + DEEPEST + 1


def test_what_is_kept_of_functions_is_bounded(memory: MemoryStore):
    """A run of any length costs no more memory than a page has room for, and its last functions are kept."""
    live = Live()
    for step_n in range(3 * MOST_NODES):
        with live("a", step_n, None):
            think("x")
    kept = [step_n for step_n in range(3 * MOST_NODES) if live.of_try("a", step_n, 0)]
    assert kept == [*range(MOST_NODES), *range(2 * MOST_NODES, 3 * MOST_NODES)]


# --- the page of flow-xray


def test_each_text_that_is_changed_stands_once_in_the_page_of_flow_xray(tmp_path: Path):
    """A new flow-xray with another page is noticed here."""
    flow_xray.trace.run(think, "x").to_html(str(tmp_path / "raw.html"))
    raw = (tmp_path / "raw.html").read_text()
    assert [raw.count(text) for text in CHANGES] == [1] * len(CHANGES)
    assert raw.count("<head>") == raw.count("<script") == 1
    assert raw.count("https://") == adapted(raw).count("https://") - 1  # that in the policy


def test_a_page_that_we_do_not_know_may_load_nothing():
    """Where our changes do not apply, the policy lets nothing through."""
    page = adapted("<head></head><script>import('https://cdn.jsdelivr.net/x')</script>")
    policy = re.search('content="(.*?)"', page)
    assert policy is not None
    assert "https:" not in policy[1]
    assert policy[1].startswith("default-src 'none'; ")
