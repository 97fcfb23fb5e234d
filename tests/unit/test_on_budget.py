"""`@loop(on_budget=...)` is told when half of a limit is used up, when four fifths are, and at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from driving import Draft, Maker, die, doing, dying, go, grow, timed, until
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import (
    Budget,
    BudgetExhausted,
    BudgetNotice,
    Done,
    NotInStep,
    Retry,
    RunStatus,
    SpecError,
    call,
    current_run,
    loop,
    spend,
)
from loomc_runner.ledger import Ledger
from loomc_runner.notices import notices
from loomc_runner.records import NANO
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FakeClock

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notices: list[BudgetNotice] = []

    def __call__(self, notice: BudgetNotice) -> None:
        """Keep it."""
        self.notices.append(notice)

    @property
    def short(self) -> list[tuple[str, int]]:
        """The limits and percentages."""
        return [(notice.limit, notice.percent) for notice in self.notices]

    @property
    def usage(self) -> list[tuple[int, float]]:
        """The percentages, and what was used."""
        return [(notice.percent, notice.used) for notice in self.notices]


def paying(*dollars: float, tokens: int = 0) -> Callable[[Draft], Draft]:
    """A step that pays these amounts, one after the other; then nothing more."""
    left = iter(dollars)

    def step(draft: Draft) -> Draft:
        spend(usd=next(left, 0.0), tokens=tokens)
        return grow(draft)

    return step


# --- what is told


LIMITS: dict[str, dict[str, Any]] = {
    "usd": {"usd": 1.0},
    "tokens": {"tokens": 100},
    "iterations": {"iterations": 10},
    "wall_clock": {"wall_clock": "100s"},
}


@pytest.mark.parametrize("limit", LIMITS)
def test_each_part_of_each_limit_is_told_once_when_it_is_reached(make: Maker, limit: str) -> None:
    """After the step that came to it, with what is used by then and how much there is, in the unit of the limit."""
    clock, told = FakeClock(), Told()

    def step(draft: Draft) -> Draft:
        spend(usd=0.1, tokens=10)
        clock.advance(10)
        return grow(draft)

    refine = timed(make(step, budget=Budget(**LIMITS[limit]), on_budget=told, converge_on=until(12)), clock)
    go(refine.run(Draft(), run_id="r1"))
    most = {"usd": 1.0, "tokens": 100, "iterations": 10, "wall_clock": 100}[limit]
    assert told.notices == [
        BudgetNotice("r1", limit, percent, pytest.approx(most * percent / 100), most) for percent in (50, 80, 100)
    ]


def test_a_step_that_crosses_several_tells_them_in_order(make: Maker) -> None:
    """Limit by limit, the smaller part first."""
    told = Told()
    budget = Budget(usd=1, tokens=10, iterations=5, step_usd=0)
    go(make(paying(0.1, 0.75, 0.15, tokens=3), budget=budget, on_budget=told, converge_on=until(3)).run(Draft()))
    assert told.short == [("usd", 50), ("usd", 80), ("tokens", 50), ("usd", 100), ("tokens", 80), ("iterations", 50)]


def test_several_callbacks_are_told_one_after_the_other(make_in_memory: Maker) -> None:
    """Each notice goes to all of them before the next one."""
    heard: list[tuple[str, int]] = []
    callbacks = [lambda notice, name=name: heard.append((name, notice.percent)) for name in "ab"]
    go(make_in_memory(paying(0.8), budget=Budget(usd=1), on_budget=callbacks, converge_on=until(1)).run(Draft()))
    assert heard == [("a", 50), ("b", 50), ("a", 80), ("b", 80)]


def test_it_is_told_after_the_commit_and_before_the_next_step(make: Maker) -> None:
    """What it is told of is on record by then, also for the reader of a stream."""
    order: list[str] = []

    def told(notice: BudgetNotice) -> None:
        order.append(f"{notice.percent} with {make.store.get_run('r1').steps} steps")

    options: dict[str, Any] = {"budget": Budget(iterations=2), "on_budget": told}
    go(make(doing(lambda: order.append("step")), **options).run(Draft(), run_id="r1"))
    assert order == ["step", "50 with 1 steps", "step", "80 with 2 steps", "100 with 2 steps"]


def test_a_stream_tells_before_its_reader_gets_the_step(memory: MemoryStore) -> None:
    """So that the reader knows as much as the callback."""
    told = Told()
    options: dict[str, Any] = {"budget": Budget(iterations=2), "on_budget": told}
    with Maker(memory, is_async=False)(grow, **options).stream(Draft()) as steps:
        assert [len(told.notices) for _ in steps] == [1, 3]


def test_a_loop_without_a_budget_tells_of_its_safety_cap(memory: MemoryStore) -> None:
    """That is its budget."""
    told = Told()
    loop(checkpoint=memory, on_budget=told, converge_on=lambda history: len(history) == 500)(lambda n: n + 1)(0)
    assert told.notices == [BudgetNotice(memory.list_runs()[0].id, "iterations", 50, 500, 1000)]


def test_without_any_limit_nothing_is_told(make_in_memory: Maker) -> None:
    """There is nothing that could be used up."""
    told = Told()
    go(make_in_memory(paying(100.0), budget=Budget(), on_budget=told, converge_on=until(3)).run(Draft()))
    assert told.notices == []


# --- the end


def test_the_end_is_told_when_the_next_step_does_not_fit(make: Maker) -> None:
    """Though not all is used: it is the end of the run; what was not reached on the way is not told."""
    told = Told()
    result = go(make(paying(0.3, 0.3), budget=Budget(usd=0.8), on_budget=told).run(Draft()))
    assert result.status is RunStatus.BUDGET_EXHAUSTED
    assert told.usage == [(50, 0.6), (100, 0.6)]


def test_the_end_is_told_when_the_first_step_does_not_fit(make: Maker) -> None:
    """Nothing was used then."""
    told = Told()
    go(make(grow, budget=Budget(usd=0.8, step_usd=1), on_budget=told).run(Draft()))
    assert told.usage == [(100, 0.0)]


def test_the_end_is_told_when_another_try_does_not_fit(make: Maker) -> None:
    """Whether it was a step or a try of one that came before."""
    told = Told()

    def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        raise ConnectionError

    go(make(step, budget=Budget(usd=0.8, step_usd=0.5), on_budget=told, retry=Retry(5, wait=0)).run(Draft()))
    assert told.usage == [(50, 0.5), (100, 0.5)]


def test_the_end_is_told_when_a_charge_crosses_it(make: Maker) -> None:
    """In the middle of a step, which is not committed."""
    told = Told()
    result = go(make(paying(0.3, 0.9), budget=Budget(usd=1), on_budget=told).run(Draft()))
    assert (result.steps, told.usage) == (1, [(50, 1.2), (80, 1.2), (100, 1.2)])


def test_the_end_is_told_once_when_the_run_has_wrapped_up(make: Maker) -> None:
    """The step that wraps up is not the end, and what was kept is a part of the whole."""
    told = Told()
    budget = Budget(usd=1, wrap_up=0.25, step_usd=0.3)
    go(make(paying(0.3, 0.3, 0.1), budget=budget, on_budget=told).run(Draft()))
    assert told.usage == [(50, 0.6), (100, 0.7)]


def test_a_run_that_ends_well_is_told_no_end(make_in_memory: Maker) -> None:
    """Only of what was used."""
    told = Told()
    options: dict[str, Any] = {"budget": Budget(usd=1), "on_budget": told}
    assert go(make_in_memory(lambda d: (spend(usd=0.85), Done(d))[1], **options).run(Draft())).status == "completed"
    assert told.short == [("usd", 50), ("usd", 80)]


def test_a_step_that_fails_tells_what_it_has_used(make: Maker) -> None:
    """With each of its tries, also where the run fails with the last one."""
    told = Told()

    def step(draft: Draft) -> Draft:
        spend(usd=0.3)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        go(make(step, budget=Budget(usd=1), on_budget=told, retry=Retry(3, wait=0)).run(Draft()))
    assert told.usage == [(50, 0.6), (80, pytest.approx(0.9))]


# --- over resumes


def test_what_was_told_is_not_told_again_after_a_resume(make: Maker) -> None:
    """Nor is the end, when the run has come to that."""
    told = Told()
    options: dict[str, Any] = {"budget": Budget(usd=1, iterations=3, step_usd=0), "on_budget": told}
    refine = make(paying(0.6, 0.0, 0.3, 0.2), **options)
    go(refine.run(Draft(), run_id="r1"))
    assert told.short == [("usd", 50), ("iterations", 50), ("usd", 80), ("iterations", 80), ("iterations", 100)]
    for _ in range(2):
        with pytest.raises(BudgetExhausted):
            go(refine.resume("r1"))
    assert len(told.notices) == 5
    with pytest.raises(BudgetExhausted):
        go(refine.resume("r1", budget=Budget(iterations=10)))
    assert told.short[5:] == [("usd", 100)]


def test_a_higher_limit_is_told_of_anew_as_far_as_it_is_not_used_up(make: Maker) -> None:
    """Half of it was used before; the rest is to come."""
    told = Told()
    refine = make(paying(0.5, 0.5, 0.7, 0.4), budget=Budget(usd=1, step_usd=0), on_budget=told)
    go(refine.run(Draft(), run_id="r1"))
    told.notices.clear()
    with pytest.raises(BudgetExhausted):
        go(refine.resume("r1", budget=Budget(usd=2)))
    assert told.usage == [(80, 1.7), (100, 2.1)]


def test_a_run_that_was_killed_is_told_of_what_comes_after(disk: SQLite) -> None:
    """What its dead step had used up is known already, and was told by whoever drove it, if he came to it."""
    make, told = Maker(disk, is_async=False), Told()
    options: dict[str, Any] = {"budget": Budget(usd=1, step_usd=0), "on_budget": told}
    assert dying(lambda: make(doing(lambda: spend(usd=0.6), die), **options)(Draft(), run_id="r1")) == 9
    go(make(paying(0.3), **options, converge_on=until(1)).run(Draft(), run_id="r1"))
    assert told.usage == [(80, pytest.approx(0.9))]


def test_a_run_that_was_killed_and_can_take_no_other_step_is_told_its_end(disk: SQLite) -> None:
    """Nobody has told it yet."""
    make, told = Maker(disk, is_async=False), Told()
    options: dict[str, Any] = {"budget": Budget(usd=1), "on_budget": told}
    assert dying(lambda: make(doing(lambda: spend(usd=0.6), die), **options)(Draft(), run_id="r1")) == 9
    for _ in range(2):
        assert make(grow, **options).run(Draft(), run_id="r1").status is RunStatus.BUDGET_EXHAUSTED
    assert told.usage == [(100, 0.6)]


# --- parents and children


def test_a_child_tells_of_its_own_limits_and_a_parent_of_its_own(memory: MemoryStore) -> None:
    """The parent's after its own step, with all that the child has spent in it."""
    ours, theirs = Told(), Told()
    make = Maker(memory, is_async=False)
    child = make(paying(0.3, 0.3), name="child", budget=Budget(usd=1, iterations=2), on_budget=theirs)

    def step(draft: Draft) -> Done[Draft, None]:
        child.run(draft)
        assert ours.notices == []
        return Done(draft)

    make(step, name="parent", budget=Budget(usd=1), on_budget=ours).run(Draft(), run_id="r1")
    assert [(n.run_id, n.limit, n.percent) for n in theirs.notices] == [
        ("r1.0.0", "iterations", 50),
        ("r1.0.0", "usd", 50),
        ("r1.0.0", "iterations", 80),
        ("r1.0.0", "iterations", 100),
    ]
    assert ours.notices == [BudgetNotice("r1", "usd", 50, 0.6, 1.0)]


def test_a_child_that_its_parents_limit_ends_is_told_no_end_of_its_own(memory: MemoryStore) -> None:
    """Its own dollars are there; it is its parent's that are not."""
    ours, theirs = Told(), Told()
    make = Maker(memory, is_async=False)
    child = make(paying(0.3, 0.3), name="child", budget=Budget(usd=9), on_budget=theirs)
    parent = make(lambda draft: child(draft), name="parent", budget=Budget(usd=0.5), on_budget=ours)
    assert parent.run(Draft(), run_id="r1").status is RunStatus.BUDGET_EXHAUSTED
    assert (theirs.notices, ours.usage) == ([], [(50, 0.3), (100, 0.3)])


# --- who is told


def test_an_async_loop_waits_for_an_async_callback(memory: MemoryStore) -> None:
    """The next step comes after it."""
    told = Told()

    async def note(notice: BudgetNotice) -> None:
        await asyncio.sleep(0)
        told(notice)

    step = doing(lambda: None, lambda draft: (len(told.notices) == draft.n or 1 / 0, grow(draft))[1])
    refine = Maker(memory, is_async=True)(step, budget=Budget(iterations=2), on_budget=[note, lambda _: None])
    assert go(refine.run(Draft())).steps == 2
    assert told.short == [("iterations", 50), ("iterations", 80), ("iterations", 100)]


async def later(notice: BudgetNotice) -> None:
    """An async callback."""


class Later:
    """An object with an async call."""

    async def __call__(self, notice: BudgetNotice) -> None:
        """Come later."""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (later, "later is async, but the loop grow is not"),
        ([print, Later()], "is async, but the loop grow is not"),
        (3, "on_budget=3: give a function of the notice, or a list of them"),
        ([print, "x"], "on_budget='x': give a function of the notice"),
        ({"usd": print}, "on_budget={'usd'"),
    ],
)
def test_what_cannot_be_told_is_refused_at_decoration(memory: MemoryStore, value: Any, words: str) -> None:
    """An async function on a sync loop, and what is no function; the message shows it."""
    with pytest.raises(SpecError) as caught:
        Maker(memory, is_async=False)(grow, on_budget=value)
    assert words in str(caught.value)


def test_a_sync_loop_logs_a_callback_that_wants_to_be_awaited(memory: MemoryStore, caplog: Any) -> None:
    """Where that shows only when it is called."""
    refine = Maker(memory, is_async=False)(grow, budget=Budget(iterations=1), on_budget=lambda notice: later(notice))
    assert refine.run(Draft()).steps == 1
    assert "the loop is not async" in caplog.text


def test_what_a_callback_raises_is_logged_and_changes_nothing(make: Maker, caplog: Any) -> None:
    """Once for each notice, with the run and what it was told; the callbacks after it are told."""
    told = Told()

    def breaks(notice: BudgetNotice) -> None:
        raise ValueError("no phone")

    budget = Budget(usd=1, step_usd=0)
    refine = make(paying(0.6), budget=budget, on_budget=[breaks, told], converge_on=until(2))
    assert go(refine.run(Draft(), run_id="r1")).status is RunStatus.COMPLETED
    messages = [record.getMessage() for record in caplog.records if record.exc_info]
    assert messages == ["run r1: on_budget failed at 50% of usd; the run goes on"]
    assert told.short == [("usd", 50)]


@pytest.mark.parametrize("act", [lambda: spend(usd=5), current_run], ids=["spend", "current_run"])
def test_it_is_called_outside_of_any_step(make: Maker, act: Callable[[], Any], caplog: Any) -> None:
    """Also that of a child run, which is in a step of its parent."""
    child = Maker(make.store, is_async=False)(
        grow, name="child", budget=Budget(iterations=1), on_budget=lambda _: act()
    )
    options: dict[str, Any] = {"budget": Budget(iterations=1), "on_budget": lambda _: act()}
    go(make(doing(lambda: child.run(Draft())), **options).run(Draft(), run_id="r1"))
    raised = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert raised == [NotInStep] * 6
    assert make.store.subtree("r1") == (0, 0)


def test_a_loop_that_it_starts_is_a_run_of_its_own(memory: MemoryStore) -> None:
    """And no child of the run that it is told of; a call that it makes is on no record."""
    make = Maker(memory, is_async=False)
    other = make(grow, name="other", converge_on=until(1))

    def told(notice: BudgetNotice) -> None:
        call(other.run, Draft())

    make(grow, budget=Budget(iterations=1), on_budget=told).run(Draft(), run_id="r1")
    assert [run.parent_run_id for run in memory.list_runs()] == [None] * 4
    assert memory.calls("r1") == []


def test_ctrl_c_in_it_pauses_the_run_after_its_step(memory: MemoryStore) -> None:
    """The step is committed, and the next resume goes on behind it."""

    def told(notice: BudgetNotice) -> None:
        raise KeyboardInterrupt

    refine = Maker(memory, is_async=False)(grow, budget=Budget(iterations=4), on_budget=told)
    with pytest.raises(KeyboardInterrupt):
        refine.run(Draft(), run_id="r1")
    run = memory.get_run("r1")
    assert (run.status, run.steps) == (RunStatus.PAUSED, 2)


# --- the rule itself


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 100))
def test_each_part_is_told_the_first_time_that_it_is_reached_and_never_again(costs: list[int], most: int) -> None:
    """Exactly: a half of 100 is 50, in whatever pieces it was spent."""
    ledger, told = Ledger("r1", Budget(usd=most / 100), FakeClock()), dict[str, int]()
    heard: list[tuple[int, int]] = []
    for number, cost in enumerate(costs):
        ledger.spent += cost * NANO // 100
        heard += [(notice.percent, number) for notice in notices(ledger, told)]
    totals = [sum(costs[: number + 1]) for number in range(len(costs))]
    expected = [
        (percent, next(number for number, total in enumerate(totals) if total * 100 >= percent * most))
        for percent in (50, 80, 100)
        if totals and totals[-1] * 100 >= percent * most
    ]
    assert heard == expected
    assert list(notices(ledger, told)) == []


def test_a_limit_that_is_nothing_is_used_up(memory: MemoryStore) -> None:
    """Of no dollars all are spent, by the first thing that happens."""
    told = Told()
    Maker(memory, is_async=False)(paying(0.0), budget=Budget(usd=0), on_budget=told, converge_on=until(1)).run(Draft())
    assert told.usage == [(50, 0.0), (80, 0.0), (100, 0.0)]
