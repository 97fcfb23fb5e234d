"""What a run came to, in words and numbers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from driving import Draft, Maker, grow, scripted, size, until

from loomc_runner import BestScore, Budget, Done, Escalate, LastGood, spend, target
from loomc_runner.errors import RunNotFound
from loomc_runner.records import Run, RunStatus
from loomc_runner.report import (
    Limit,
    command_to_go_on,
    dollars,
    find_run,
    limits,
    page_runs,
    page_steps,
    printable,
    reason,
    story,
)
from loomc_runner.report.pages import WINDOW
from loomc_runner.store.memory import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run_of(**fields) -> Run:
    """A run that needs no store."""
    return Run(**{"id": "r", "loop": "m:f", "created_at": NOW, "updated_at": NOW, "steps": 1, **fields})


def exhausted(words, **budget):
    """The fields of a run whose budget ended it."""
    return {"status": RunStatus.BUDGET_EXHAUSTED, "stop_reason": f"budget: {words}", "budget": budget}


def sync(store) -> Maker:
    """What makes sync loops."""
    return Maker(store, is_async=False)


def marks(store, run_id="r") -> dict[int, tuple[str, ...]]:
    """The marks of a run's steps."""
    return {line.step_n: line.marks for line in story(store, store.get_run(run_id))}


class Counting(MemoryStore):
    """A store that counts the windows that are read."""

    windows = 0

    def list_runs(self, **window):
        """A window of runs."""
        self.windows += 1
        return super().list_runs(**window)

    def steps(self, run_id, start=0, stop=None):
        """A window of steps."""
        self.windows += 1
        return super().steps(run_id, start, stop)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [bold]text[/bold] … Zoë, 日本\u3000語 🙂", "plain [bold]text[/bold] … Zoë, 日本\u3000語 🙂"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[31m \x9b31m \x7f \x00", r"\x1b[31m \x9b31m \x7f \x00"),
        ("\u202egnp \u2066x \u200b", r"\u202egnp \u2066x \u200b"),
        ("one\u2028two\u2029three\x85", r"one\u2028two\u2029three\x85"),
        ("\ud800 \ue000", r"\ud800 \ue000"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text, shown):
    """Every control, format, private and lone surrogate character becomes an escape; all that can be seen stays."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("usd", "words"),
    [(0, "$0.00"), (2, "$2.00"), (0.3, "$0.30"), (0.0125, "$0.0125"), (0.00001, "<$0.0001"), (1234.5, "$1234.50")],
)
def test_money_has_two_decimals_and_four_where_they_say_something(usd, words):
    """Small costs are not shown as nothing."""
    assert dollars(usd) == words


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit("usd", 0.32, 2), "$0.32 of $2.00, $1.68 left"),
        (Limit("usd", 0.12, 0.1), "$0.12 of $0.10, $0.02 over"),
        (Limit("iterations", 4, 15), "4 of 15 iterations, 11 left"),
        (Limit("iterations", 2, 2), "2 of 2 iterations, nothing left"),
        (Limit("tokens", 1500, 1_000_000), "1500 of 1000000 tokens, 998500 left"),
        (Limit("wall_clock", 250, 600), "4m10s of 10m00s, 5m50s left"),
    ],
)
def test_a_limit_says_what_is_left(limit, words):
    """Used, allowed and left, each in its unit."""
    assert str(limit) == words


def test_a_run_is_found_by_its_id_or_a_unique_beginning(memory):
    """An exact id wins over longer ones; an empty beginning is none."""
    for run_id in ("abc", "abc.0", "b"):
        memory.create_run(run_of(id=run_id), "{}")
    assert [find_run(memory, prefix).id for prefix in ("abc", "abc.", "b")] == ["abc", "abc.0", "b"]
    with pytest.raises(RunNotFound, match=r"^ab is the beginning of several runs: abc, abc\.0$"):
        find_run(memory, "ab")
    for missing in ("", "abcd"):
        with pytest.raises(RunNotFound, match="there is no run"):
            find_run(memory, missing)


def test_runs_are_read_in_windows():
    """The first run costs one window, however many there are; a limit ends the reading, and none is lost."""
    store = Counting()
    for number in range(2 * WINDOW + 1):
        store.create_run(run_of(id=f"{number:04}"), "{}")
    next(page_runs(store))
    assert store.windows == 1
    assert len(list(page_runs(store, limit=WINDOW + 1))) == WINDOW + 1
    assert [run.id for run in page_runs(store, offset=2 * WINDOW)] == [f"{2 * WINDOW:04}"]
    assert len({run.id for run in page_runs(store)}) == 2 * WINDOW + 1


def test_steps_are_read_in_windows():
    """The first line of a long story costs one window, and none is lost between two."""
    store = Counting()
    sync(store)(grow, budget=Budget(iterations=WINDOW + 5)).run(Draft(), run_id="long")
    run, store.windows = store.get_run("long"), 0
    next(story(store, run))
    assert store.windows == 1
    assert [step.step_n for step in page_steps(store, run)] == list(range(WINDOW + 5))


def test_the_story_marks_where_a_run_went_back(memory):
    """A restart names the step it went back to; the best step and the end are marked."""
    refine = sync(memory)(scripted(2, 1, 3, 9), scorer=size, backtrack=BestScore(), converge_on=target(9))
    refine(Draft(), run_id="r")
    assert marks(memory) == {0: (), 1: (), 2: ("↩ from step 0",), 3: ("★ best", "✔ converged")}


def test_a_restart_from_the_beginning_is_marked(memory):
    """When the first step fails, the run goes on from its initial state."""
    tries = iter([True, False])

    def fails_once(draft: Draft) -> Draft:
        if next(tries):
            raise RuntimeError("overloaded")
        return grow(draft)

    sync(memory)(fails_once, backtrack=LastGood(), converge_on=until(1)).run(Draft(), run_id="r")
    lines = list(story(memory, memory.get_run("r")))
    assert [line.marks for line in lines] == [(), ("↩ from the initial state", "✔ converged")]
    assert lines[0].error == "RuntimeError: overloaded"


def test_an_escalation_and_a_done_are_marked(memory):
    """The last mark says how the run ended, in the word of its reason."""

    def step(draft: Draft) -> Draft:
        return Done(draft) if draft.n == 9 else draft

    stall = Escalate(after=1, handler=lambda draft, _: Draft(9))
    sync(memory)(step, scorer=lambda _: 1.0, on_stall=stall).run(Draft(), run_id="r")
    assert marks(memory) == {0: ("★ best",), 1: ("⇧ escalated",), 2: ("✔ done",)}


def test_the_total_grows_with_steps_and_failed_tries(memory):
    """A try stands before the step that came of it, and both count."""
    fails = iter([False, True, False])

    def step(draft: Draft) -> Draft:
        spend(usd=0.25)
        if next(fails):
            raise RuntimeError("overloaded")
        return grow(draft)

    refine = sync(memory)(step, budget=Budget(usd=9), converge_on=until(2))
    with pytest.raises(RuntimeError):
        refine(Draft(), run_id="r")
    refine.resume("r")
    lines = list(story(memory, memory.get_run("r")))
    assert [(line.step_n, line.total_usd, line.error) for line in lines] == [
        (0, 0.25, None),
        (1, 0.5, "RuntimeError: overloaded"),
        (1, 0.75, None),
    ]


@pytest.mark.filterwarnings("ignore::loomc_runner.LoomcWarning")
def test_an_unknown_cost_is_marked_under_any_dollar_cap(memory):
    """Also when the cap is that of an enclosing run; without a cap it is simply not known."""
    child = sync(memory)(grow, converge_on=until(1))

    def parent(draft: Draft) -> Draft:
        spend(usd=0.01)
        return child(draft, run_id="child")

    sync(memory)(parent, budget=Budget(usd=1), converge_on=until(1)).run(Draft(), run_id="parent")
    child.run(Draft(), run_id="free")
    assert marks(memory, "child")[0][0] == "⚠ no cost recorded"
    assert marks(memory, "free") == {0: ("✔ converged",)}
    assert [line.cost_usd for line in story(memory, memory.get_run("free"))] == [None]


def test_the_step_under_way_has_what_no_other_line_has(memory):
    """While a step runs, what it has spent so far stands in a line of its own."""
    seen = []

    def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        seen.append(list(story(memory, memory.get_run("r")))[-1])
        return grow(draft)

    sync(memory)(step, budget=Budget(usd=9), converge_on=until(2)).run(Draft(), run_id="r")
    assert [(line.step_n, line.cost_usd, line.total_usd, line.marks) for line in seen] == [
        (0, 0.5, 0.5, ("… under way",)),
        (1, 0.5, 1.0, ("… under way",)),
    ]


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"status": RunStatus.PAUSED}, "loomc resume r"),
        ({"status": RunStatus.COMPLETED}, None),
        ({"status": RunStatus.CANCELLED}, "loomc resume r --force"),
        ({"status": RunStatus.FAILED, "loop": None}, "loomc resume r module:loop"),
        (exhausted("usd 0.12 of 0.10", usd=0.1) | {"nano_usd": 9 * 10**7, "dearest_nano": 10**8}, "--usd 0.29"),
        (exhausted("usd 0.002 of 0.001", usd=0.001) | {"nano_usd": 2 * 10**6}, "--usd 0.003"),
        (exhausted("usd 0.2 of 0.1", usd=0.1) | {"nano_usd": 2 * 10**8, "status": RunStatus.FAILED}, "--usd 0.30"),
        (exhausted("tokens 900 of 800", tokens=800) | {"tokens": 900}, "--tokens 1350"),
        (exhausted("wall_clock 0.3 of 0.2", wall_clock="0.2s") | {"worked": 0.3}, "--wall-clock 1s"),
        (exhausted("iterations 1 of 1", iterations=1, usd=0.1), "--iterations 2"),
        (exhausted("usd 1 of 1", iterations=1, usd=1) | {"nano_usd": 10**9}, "--usd 1.50 --iterations 2"),
    ],
)
def test_the_command_to_go_on_raises_what_is_used_up(memory, fields, command):
    """Every limit that is reached, half as high again, and enough for the dearest step."""
    memory.create_run(run_of(**fields), "{}")
    assert (command_to_go_on(memory, memory.get_run("r")) or "None").endswith(command or "None")


def test_a_child_goes_on_with_the_run_that_pays_for_it(memory):
    """Whatever stopped the child, the command is that of its outermost parent."""
    memory.create_run(run_of(id="root", status=RunStatus.STALLED), "{}")
    memory.create_run(run_of(id="child", status=RunStatus.FAILED, parent_run_id="root", parent_step=0), "{}")
    memory.create_run(run_of(id="done", status=RunStatus.COMPLETED, parent_run_id="root", parent_step=0), "{}")
    assert command_to_go_on(memory, memory.get_run("child")) == "loomc resume root --force"
    assert command_to_go_on(memory, memory.get_run("done")) is None


def test_limits_are_those_of_the_budget_or_the_safety_cap(memory):
    """`Budget()` is no limit, no budget is 1,000 steps, and loomc 0.3.0 kept none."""
    cases = {
        "capped": {"budget": {"usd": 2.0, "wall_clock": "60s"}},
        "none": {},
        "free": {"budget": {}},
        "old": {"loop": None},
    }
    for run_id, fields in cases.items():
        memory.create_run(run_of(id=run_id, **fields), "{}")
    found = {run_id: [limit.name for limit in limits(memory, memory.get_run(run_id))] for run_id in cases}
    assert found == {"capped": ["usd", "wall_clock"], "none": ["iterations"], "free": [], "old": []}


def test_a_run_without_a_stored_reason_has_one_when_its_process_died():
    """The reason in words is empty only while a run works."""
    assert reason(run_of(status=RunStatus.INTERRUPTED)) == "interrupted: its process died"
    assert reason(run_of(status=RunStatus.RUNNING)) == ""
    assert reason(run_of(status=RunStatus.FAILED, stop_reason="failed: x")) == "failed: x"
