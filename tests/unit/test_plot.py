"""Runs as pictures: their points, and what is drawn of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import vl_convert
from driving import Draft, Maker, grow, scripted, size

from loomc_runner import BestScore, Budget, LastGood, Retry, spend
from loomc_runner.errors import LoomcError, SpecError
from loomc_runner.plot import Point, Restore, curve_of, draw, write_picture
from loomc_runner.plot.curve import MOST_POINTS, MOST_RESTORES, Curve
from loomc_runner.plot.extra import need
from loomc_runner.plot.picture import picture_of
from loomc_runner.records import NANO
from loomc_runner.store.memory import MemoryStore

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{\x1b[31m\u202e"


def curve(fn: Any, run_id: str = "r", **options: Any) -> Curve:
    """The curve of a run of this step."""
    store = MemoryStore()
    Maker(store, is_async=False)(fn, **{"budget": Budget(iterations=9), **options}).run(Draft(), run_id=run_id)
    return curve_of(store, store.get_run(run_id))


def scored(*scores: float, usd: float = 0.25, **options: Any) -> Curve:
    """The curve of a run with these scores, at the same cost a step."""
    budget = Budget(usd=4, iterations=len(scores))
    return curve(scripted(*scores), scorer=size, cost_fn=lambda _: usd, **{"budget": budget, **options})


def parts(*curves: Curve) -> dict[str, list[dict[str, Any]]]:
    """The rows of a picture, by what they are."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in picture_of(curves)["data"]["values"]:
        found.setdefault(row["part"], []).append(row)
    return found


def words_in(svg: str) -> list[str]:
    """What can be read in a picture."""
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


def test_a_curve_has_scores_costs_returns_the_best_step_and_the_limits() -> None:
    """Every step is a point, with the money spent by then."""
    found = scored(1, 3, 2, 4, backtrack=BestScore())
    assert [(p.step_n, p.score, p.cost_usd) for p in found.points] == [
        (0, 1, 0.25),
        (1, 3, 0.5),
        (2, 2, 0.75),
        (3, 4, 1.0),
    ]
    assert found.restores == (Restore(after=2, to=1),)
    assert (found.best, found.usd, found.iterations, found.steps) == (3, 4, 4, 4)


def test_failed_tries_and_child_runs_count_in_the_cost() -> None:
    """The cost is that of `loomc show`: also of a try after the last step, which is a point of its own."""
    make, tries = Maker(MemoryStore(), is_async=False), iter(range(9))
    child = make(grow, name="child", budget=Budget(iterations=1), cost_fn=lambda _: 0.5)

    def step(draft: Draft) -> Draft:
        spend(usd=0.25)
        if next(tries) in {0, 3, 4}:
            raise ConnectionError("away")
        child.run(draft)
        return grow(draft)

    parent = make(step, retry=Retry(attempts=2, wait=0), budget=Budget())
    with pytest.raises(ConnectionError):
        parent.run(Draft(), run_id="r")
    found = curve_of(make.store, make.store.get_run("r"))
    assert found.points == (
        Point(0, None, 1.0, failed=False),
        Point(1, None, 1.75, failed=False),
        Point(2, None, 2.25, failed=True),
    )
    assert found.cost_usd == make.store.subtree("r")[0] / NANO


def test_a_long_run_keeps_what_stands_out() -> None:
    """Of 5,000 steps so many points are left at most; ends, best, worst and those of returns are among them."""
    scores = [((n * 7919 + 1700) % 5003) / 10 for n in range(5000)]
    store, left = MemoryStore(), iter(enumerate(scores))

    def step(draft: Draft) -> Draft:
        n, score = next(left)
        if n % 1000 == 10:
            raise ConnectionError("away")
        return Draft(n, [str(score)])

    ways = [BestScore(tolerance=400), LastGood()]
    options = {"scorer": lambda draft: float(draft.words[0]), "backtrack": ways, "budget": Budget(iterations=5000)}
    Maker(store, is_async=False)(step, **options).run(Draft(), run_id="r")
    found = curve_of(store, store.get_run("r"))
    ends = {step_n for restore in found.restores for step_n in (restore.after, restore.to)}
    best, worst = max(scores), min(scores)
    assert {0, 4999, scores.index(best), scores.index(worst)} | ends <= {point.step_n for point in found.points}
    assert MOST_RESTORES / 2 <= len(found.restores) <= MOST_RESTORES
    assert 0.3 < sum(restore.after < 2500 for restore in found.restores) / len(found.restores) < 0.7
    assert len(found.points) <= MOST_POINTS + 2 * MOST_RESTORES + 1
    assert found.scores[found.best or 0] == best
    assert [point.step_n for point in found.points] == sorted({point.step_n for point in found.points})


@pytest.mark.parametrize(("usd", "drawn"), [(0.25, True), (0.01, False)])
def test_limits_are_drawn_where_they_are_near(usd: float, drawn: bool) -> None:
    """A limit far above what was used would press the curves flat; it stands in words above them either way."""
    found = scored(1, 2, 3, 4, usd=usd)
    rows = parts(found)
    assert [row["label"] for row in rows.get("usd", [])] == (["budget $4.00"] if drawn else [])
    assert [row["step"] for row in rows["last"]] == [3]
    assert "of $4.00 in 4 of 4 steps" in picture_of([found])["title"]["subtitle"][0]


def test_a_picture_shows_returns_failures_and_the_best() -> None:
    """A return bows from the step after which it was made to the step gone back to; a failure stands in between."""
    left = iter([1.0, None, 3.0, 2.0])

    def step(draft: Draft) -> Draft:
        score = next(left)
        if score is None:
            raise ValueError("no")
        return Draft(int(score))

    rows = parts(
        curve(step, scorer=size, backtrack=[BestScore(), LastGood()], budget=Budget(iterations=4)),
        scored(5, 1, 2, backtrack=BestScore()),
    )
    assert [(row["step"], row["score"]) for row in rows["failed"]] == [(1, 1.0)]
    assert [(row["step"], row["label"]) for row in rows["best"]] == [(2, "best 3"), (0, "best 5")]
    assert [(row["step"], row["score"]) for row in rows["back"] if row["order"] != 1] == [(1, 1.0), (0, 5.0)]
    assert rows["arrow"][0]["score"] < 3


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html", ".PNG"])
def test_a_picture_is_written_as_its_name_says(tmp_path, suffix: str) -> None:
    """PNG, SVG or HTML; each is what it says it is."""
    begins = {".png": b"\x89PNG", ".svg": b"<svg", ".html": b"<!DOCTYPE html>"}
    write_picture([scored(1, 2)], tmp_path / f"run{suffix}")
    assert (tmp_path / f"run{suffix}").read_bytes().startswith(begins[suffix.lower()])


@pytest.mark.parametrize(
    "curves",
    [
        [scored(1)],
        [curve(grow)],
        [scored(2, 2, 2, usd=0)],
        [scored(1, 3, 2), curve(grow), scored(*range(40))],
        [replace(scored(1, 2), best=None)],
        [replace(scored(1, 2), run_id=str(n)) for n in range(20)],
    ],
    ids=["one step", "no score", "nothing changes", "several", "no best", "many"],
)
def test_every_kind_of_run_can_be_drawn(curves: list[Curve], tmp_path) -> None:
    """One step, no scores, no cost: the picture has its axes and its runs, and nothing in it is NaN."""
    write_picture(curves, tmp_path / "run.svg")
    svg = (tmp_path / "run.svg").read_text()
    assert "NaN" not in svg
    assert {"step", "cumulative cost in dollars"} <= set(words_in(svg))
    assert ("score" in words_in(svg)) is any(one.scores for one in curves)
    assert max(map(len, draw(curves, 80, coloured=False).splitlines())) <= 80


def test_several_runs_are_told_apart_without_colours() -> None:
    """Each run has its own shape in a picture, and its own symbol in the terminal."""
    runs = [scored(1, 2, run_id="a"), scored(2, 3, run_id="b")]
    shape = picture_of(runs)["layer"][1]["layer"][3]["encoding"]["shape"]["scale"]
    assert shape == {"domain": ["a", "b"], "range": ["circle", "square"]}
    assert {"●", "■"} <= set(draw(runs, 80, coloured=False))


def test_a_long_line_in_the_terminal_has_few_symbols() -> None:
    """Where every step had one, the line would not be seen."""
    text = draw([scored(*(n % 7 for n in range(300)), budget=Budget(iterations=300))], 90, coloured=False)
    assert 10 <= text.count("●") <= 31


def test_a_page_loads_nothing_and_no_name_becomes_markup(tmp_path) -> None:
    """No script, style or picture comes from outside, and the only scripts are the two of the page."""
    write_picture([replace(scored(1, 2), loop=HOSTILE, reason=HOSTILE, run_id=HOSTILE)], tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[^>]*>", page.split("<script>")[0]) == []
    assert "default-src 'none'" in page
    assert page.lower().count("</script>") == 2
    assert "<img src=x" not in page
    spec = json.loads(re.findall(r'vegaEmbed\("#plot", (\{.*\}), \{renderer', page)[0])
    assert HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e") in spec["title"]["text"]


def test_an_unknown_suffix_is_refused_before_anything_is_drawn(tmp_path) -> None:
    """The error names the three there are, and no file is made."""
    with pytest.raises(SpecError, match=r"\.png, \.svg or \.html"):
        write_picture([scored(1)], tmp_path / "run.gif")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_error_says_what_to_install() -> None:
    """One line, with the command."""
    assert need("vl_convert") is vl_convert
    with pytest.raises(LoomcError, match=r'pip install "loomc-runner\[plot\]"'):
        need("no_such_library")


def test_scores_too_far_apart_for_a_terminal_are_refused_in_words():
    """Their range is no number; a picture in a file has room for them."""
    far = replace(scored(1, 2), points=(Point(0, -1.7e308, 0.1, failed=False), Point(1, 1.7e308, 0.2, failed=False)))
    with pytest.raises(LoomcError, match=r"do not fit a terminal; -o run\.png"):
        draw([far], 80, coloured=False)
