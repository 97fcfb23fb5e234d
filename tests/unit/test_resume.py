"""A run that stopped goes on from its last committed step, with what it had spent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from driving import Draft, Maker, columns, die, doing, dying, go, grow, size, timed, until

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    Done,
    Escalate,
    NotResumable,
    RunNotFound,
    RunStatus,
    SpecError,
    StateError,
    StoreBusy,
    StoreError,
    loop,
    spend,
)
from loomc_runner.records import Transition
from loomc_runner.store import Store
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, FakeClock, FaultyStore, a_resumption


def pay(draft: Draft) -> Draft:
    """Grow for half a dollar and seven tokens."""
    spend(usd=0.5, tokens=7)
    return grow(draft)


def stop_as(store: Store, run_id: str, status: str) -> None:
    """Give a run another status, as something outside would."""
    run = store.get_run(run_id)
    claim = store.claim(run_id, a_resumption(loop=run.loop, budget=run.budget))
    store.commit(claim.lease, Transition(AT, status=RunStatus(status), stop_reason=f"{status}: by a test"))


def counted(calls: list[int]) -> Callable[[Draft], Draft]:
    """A step that tells when it is called, and with what."""

    def step(draft: Draft) -> Draft:
        calls.append(draft.n)
        return grow(draft)

    return step


# --- by status


@pytest.mark.parametrize("status", ["failed", "paused"])
def test_a_run_that_stopped_on_the_way_goes_on(make: Maker, status: str) -> None:
    """From the last committed step, executing no step again."""
    calls: list[int] = []
    refine = make(counted(calls), budget=Budget(iterations=2))
    go(refine.run(Draft(), run_id="r1"))
    stop_as(make.store, "r1", status)
    with pytest.raises(BudgetExhausted):
        go(refine.resume("r1", budget=Budget(iterations=4)))
    assert calls == [0, 1, 2, 3]
    assert [(step.step_n, step.parent_n) for step in make.store.steps("r1")] == [(n, n - 1) for n in range(4)]


def test_a_completed_run_gives_its_stored_result(make: Maker) -> None:
    """Nothing is executed, forced or not, and nothing in the store changes."""
    calls: list[int] = []
    refine = make(counted(calls), converge_on=until(2))
    go(refine(Draft(), run_id="r1"))
    before = make.store.get_run("r1")
    assert [go(refine.resume("r1")), go(refine.resume("r1", force=True, budget=Budget(usd=1)))] == [Draft(2)] * 2
    assert (calls, make.store.get_run("r1")) == ([0, 1], before)


def test_an_exhausted_run_raises_again_unless_it_is_raised(make: Maker) -> None:
    """Without more budget nothing is executed; with more it goes on."""
    calls: list[int] = []
    refine = make(counted(calls), budget=Budget(iterations=2))
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted, match="iterations 2 of 2") as caught:
        go(refine.resume("r1", force=True))
    assert (calls, caught.value.run_id, caught.value.state) == ([0, 1], "r1", Draft(2))
    assert make.store.get_run("r1").status == "budget_exhausted"
    with pytest.raises(BudgetExhausted, match="iterations 3 of 3"):
        go(refine.resume("r1", budget=Budget(iterations=3)))
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("status", ["stalled", "cancelled"])
def test_a_run_that_was_ended_needs_force(make: Maker, status: str) -> None:
    """Stalled and cancelled runs stay as they are, and say how to go on all the same."""
    refine = make(grow, budget=Budget(iterations=2))
    go(refine.run(Draft(), run_id="r1"))
    stop_as(make.store, "r1", status)
    before = make.store.get_run("r1")
    for verb, argument in ((refine.resume, "r1"), (partial(refine, run_id="r1"), Draft())):
        with pytest.raises(NotResumable, match=rf"r1 is {status}.*force=True.*loomc resume r1 --force"):
            go(verb(argument))
    assert make.store.get_run("r1") == before
    with pytest.raises(BudgetExhausted):
        go(refine.resume("r1", budget=Budget(iterations=3), force=True))
    assert make.store.get_run("r1").steps == 3


def test_a_stalled_run_can_be_forced_past_its_stall(make: Maker) -> None:
    """It goes on from where it stalled, and what it does then counts anew."""
    better = [False]
    refine = make(lambda draft: grow(draft) if better[0] else draft, scorer=size, on_stall=Escalate(after=1))
    go(refine.run(Draft(), run_id="r1"))
    better[0] = True
    assert go(refine.with_options(converge_on=until(3)).resume("r1", force=True)) == Draft(3)


@pytest.mark.parametrize("run_id", ["r9", "", "a b"])
def test_a_run_that_does_not_exist_cannot_be_resumed(make: Maker, run_id: str) -> None:
    """Nothing is begun in its place."""
    with pytest.raises(RunNotFound, match=f"there is no run {run_id}"):
        go(make(grow).resume(run_id))
    assert make.store.list_runs() == []


@pytest.mark.parametrize("run_id", [None, 7])
def test_what_is_no_id_cannot_be_resumed(make: Maker, run_id: Any) -> None:
    """A forgotten id does not begin a run."""
    with pytest.raises(SpecError, match="run_id="):
        go(make(grow).resume(run_id))
    assert make.store.list_runs() == []


# --- after a death


@pytest.mark.parametrize("is_async", [False, True])
def test_a_run_that_died_in_its_first_step_goes_on(disk: SQLite, is_async: bool) -> None:
    """The initial state is stored before the first iteration, and shown as interrupted until somebody goes on."""
    make = Maker(disk, is_async=is_async)
    assert dying(lambda: go(make(die)(Draft(5, ["a"]), run_id="r1"))) == 9
    assert (disk.get_run("r1").status, disk.get_run("r1").steps) == ("interrupted", 0)
    assert go(make(grow, converge_on=until(7)).resume("r1")) == Draft(7, ["a"])
    assert disk.get_run("r1").resumes == 1


def test_a_run_that_died_later_repeats_only_the_step_in_flight(disk: SQLite) -> None:
    """What the dead step had paid stays paid, and it is kept as an attempt."""
    make = Maker(disk, is_async=False)

    def step(draft: Draft) -> Draft:
        return die(pay(draft)) if draft.n == 2 else pay(draft)

    assert dying(lambda: make(step, budget=Budget(usd=9))(Draft(), run_id="r1")) == 9
    result = make(pay, converge_on=until(3)).run(Draft(), run_id="r1")
    assert (result.state.n, result.steps, result.cost_usd, result.tokens) == (3, 3, 2.0, 28)
    assert [(attempt.step_n, attempt.error, attempt.nano_usd) for attempt in disk.attempts("r1")] == [
        (2, "interrupted: the process ended", 500_000_000)
    ]


@pytest.mark.parametrize("n", [0, 1])
def test_a_step_that_died_before_it_paid_is_charged_its_reservation(disk: SQLite, n: int) -> None:
    """Nobody knows what it had bought, so what was expected is assumed, and marked as estimated."""
    make = Maker(disk, is_async=False)
    options: dict[str, Any] = {"budget": Budget(usd=9, step_usd=2), "converge_on": until(2)}

    def step(draft: Draft) -> Draft:
        return die(draft) if draft.n == n else pay(draft)

    assert dying(lambda: make(step, **options)(Draft(), run_id="r1")) == 9
    assert make(pay, **options).run(Draft(), run_id="r1").cost_usd == 3.0
    charges = [(500_000_000, False)] * 2
    charges.insert(n, (2_000_000_000, True))
    assert columns(disk.charges("r1"), "nano_usd", "estimated") == charges


def test_a_run_whose_disk_failed_goes_on_in_the_same_process(disk: SQLite) -> None:
    """When not even the pause can be written, the run is left as if its process had died, but nobody holds it."""
    make = Maker(disk, is_async=False)

    def step(draft: Draft) -> Draft:
        if draft.n == 2 and not healed:
            with closing(sqlite3.connect(disk.path)) as db:
                db.execute("CREATE TRIGGER full BEFORE UPDATE ON runs BEGIN SELECT RAISE(FAIL, 'disk full'); END")
        return grow(draft)

    healed: list[bool] = []
    refine = make(step, converge_on=until(4))
    with pytest.raises(StoreError, match="disk full") as caught:
        refine(Draft(), run_id="r1")
    assert caught.value.state == Draft(3)
    with closing(sqlite3.connect(disk.path)) as db:
        db.execute("DROP TRIGGER full")
    healed.append(True)
    assert refine.resume("r1") == Draft(4)


# --- the budget


def test_everything_adds_up_over_resumes(make: Maker) -> None:
    """Money, tokens, iterations and working time are those of all lives together."""
    clock = FakeClock()

    def step(draft: Draft) -> Draft:
        clock.advance(2)
        return pay(draft)

    refine = make(step, budget=Budget(iterations=2))
    refine = timed(refine, clock)
    go(refine.run(Draft(), run_id="r1"))
    for total in (4, 5):
        clock.advance(1000)
        with pytest.raises(BudgetExhausted):
            go(refine.resume("r1", budget=Budget(iterations=total)))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.steps, result.cost_usd, result.tokens, result.elapsed) == (5, 2.5, 35, 10.0)


LIMITS = {
    "usd": (Budget(usd=1), Budget(usd=2), "usd 2.00 of 2.00"),
    "tokens": (Budget(tokens=14), Budget(tokens=28), "tokens 28 of 28"),
    "iterations": (Budget(iterations=2), Budget(iterations=4), "iterations 4 of 4"),
    "wall_clock": (Budget(wall_clock="2s"), Budget(wall_clock="4s"), "wall_clock 4 of 4"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_new_limit_is_a_new_total(make: Maker, limit: str) -> None:
    """Raised from two steps' worth to four, a run takes two more steps."""
    clock = FakeClock()

    def step(draft: Draft) -> Draft:
        after = pay(draft)
        clock.advance(1)
        return after

    small, large, reason = LIMITS[limit]
    refine = make(step, budget=small)
    refine = timed(refine, clock)
    assert go(refine.run(Draft(), run_id="r1")).steps == 2
    with pytest.raises(BudgetExhausted, match=reason):
        go(refine.resume("r1", budget=large))
    assert make.store.get_run("r1").steps == 4


def test_limits_that_are_not_named_stay(make: Maker) -> None:
    """More iterations are no more money."""
    refine = make(pay, budget=Budget(usd=1.5, iterations=2, step_usd=0.1))
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted, match=r"usd 1\.50 of 1\.50"):
        go(refine.resume("r1", budget=Budget(iterations=50)))
    assert make.store.get_run("r1").budget == {"usd": 1.5, "iterations": 50, "step_usd": 0.1}


TOO_LITTLE = [Budget(usd=0.99), Budget(tokens=13), Budget(iterations=1), Budget(wall_clock="1ms")]


@pytest.mark.parametrize("budget", TOO_LITTLE, ids=str)
def test_a_total_below_what_was_spent_is_refused(make: Maker, budget: Budget) -> None:
    """The limit and what is used are named, and the run is left as it is."""
    clock = FakeClock()
    refine = make(doing(lambda: clock.advance(1), pay), budget=Budget(iterations=2))
    refine = timed(refine, clock)
    go(refine.run(Draft(), run_id="r1"))
    before = make.store.get_run("r1")
    (limit,) = budget.to_json()
    with pytest.raises(SpecError, match=rf"Budget\({limit}=.*run r1 has used"):
        go(refine.resume("r1", budget=budget))
    assert make.store.get_run("r1") == before


def test_a_total_that_is_used_up_is_exhausted(make: Maker) -> None:
    """What was spent already may be the new total: then there is nothing left, and no error in saying so."""
    refine = make(pay, budget=Budget(usd=9, iterations=2))
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted, match=r"usd 1\.00 of 1\.00"):
        go(refine.resume("r1", budget=Budget(usd=1, iterations=5)))


def test_only_a_budget_is_a_budget(make: Maker) -> None:
    """Dollars alone are refused, and the run is left as it is."""
    refine = make(grow, budget=Budget(iterations=1))
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(SpecError, match=r"budget=3\.0"):
        go(refine.resume("r1", budget=3.0))
    assert make.store.get_run("r1").resumes == 0


def test_the_stored_budget_beats_an_edited_decorator(make: Maker) -> None:
    """More is spent only when somebody says so to the resume; new runs have the new budget."""
    go(make(grow, budget=Budget(iterations=2)).run(Draft(), run_id="r1"))
    edited = make(grow, budget=Budget(iterations=9))
    with pytest.raises(BudgetExhausted, match="2 of 2"):
        go(edited.resume("r1"))
    with pytest.raises(BudgetExhausted, match="9 of 9"):
        go(edited(Draft()))


def test_the_safety_cap_can_be_raised(make: Maker) -> None:
    """A run without a budget gets the limits it is resumed with, and keeps its cap where it is not named."""
    refine = make(pay, converge_on=until(1))
    go(refine.run(Draft(), run_id="r1"))
    fork = refine.fork("r1", step=0)
    with pytest.raises(BudgetExhausted, match=r"usd 1\.00 of 1\.00"):
        go(refine.with_options(converge_on=None).resume(fork, budget=Budget(usd=1)))
    assert make.store.get_run(fork).budget == {"usd": 1, "iterations": 1000}


# --- changed code


def test_changed_code_goes_on_and_is_noted(make: Maker) -> None:
    """A run belongs to its loop by name; that the function has changed since is written down once."""
    go(make(grow, budget=Budget(iterations=1)).run(Draft(), run_id="r1"))

    def changed(draft: Draft) -> Draft:
        return Draft(draft.n + 10)

    for total in (2, 3):
        with pytest.raises(BudgetExhausted):
            go(make(changed).resume("r1", budget=Budget(iterations=total)))
    assert make.store.get_run("r1").notes == ("the code of the loop has changed",)
    assert make.store.state("r1", 2) == '{"n":21,"words":[]}'


@dataclass
class Essay:
    """What a draft might be called and look like a version later."""

    n: int
    title: str


def test_a_state_that_does_not_fit_any_more_is_refused(make: Maker) -> None:
    """The field is named, and the run can still be resumed by the loop as it was."""
    refine = make(grow, budget=Budget(iterations=1))
    go(refine.run(Draft(), run_id="r1"))

    def newer(draft: Essay) -> Essay:
        return draft

    with pytest.raises(StateError, match=r"state\.title"):
        go(make(newer).resume("r1"))
    run = make.store.get_run("r1")
    assert (run.status, run.stop_reason) == ("budget_exhausted", "budget: iterations 1 of 1")
    assert go(refine.with_options(converge_on=until(2)).resume("r1", budget=Budget(iterations=2))) == Draft(2)


def test_a_regression_at_the_limit_is_gone_back_from(make: Maker) -> None:
    """What the strategy could not decide, since the budget ended the run first, it decides at the resume."""

    def step(draft: Draft) -> Draft:
        with suppress(BudgetExhausted):
            spend(tokens=10)
        return Draft({0: 5, 5: 3}[draft.n])

    refine = make(step, scorer=size, backtrack=BestScore(), budget=Budget(tokens=15))
    assert go(refine.run(Draft(), run_id="r1")).status is RunStatus.BUDGET_EXHAUSTED
    with pytest.raises(BudgetExhausted):
        go(refine.resume("r1", budget=Budget(tokens=25)))
    assert [step.parent_n for step in make.store.steps("r1")] == [-1, 0, 0]


def test_a_decision_that_was_made_stands(make: Maker) -> None:
    """Where a run goes on was stored with its last step; a strategy that is gone by now is not needed for it."""
    values = iter([3, 1, 4])
    refine = make(lambda draft: Draft(next(values)), scorer=size, backtrack=BestScore(), budget=Budget(iterations=2))
    go(refine.run(Draft(), run_id="r1"))
    go(refine.with_options(backtrack=None, converge_on=until(4)).resume("r1", budget=Budget(iterations=3)))
    assert columns(make.store.steps("r1"), "parent_n") == [(-1,), (0,), (0,)]


# --- a store that fails at the wrong moment


@pytest.mark.parametrize(("at", "error"), [(1, StoreError("gone")), (2, StoreError("gone")), (2, KeyboardInterrupt())])
def test_a_resume_that_fails_leaves_the_run_resumable(make: Maker, at: int, error: BaseException) -> None:
    """Whatever its first writes meet, the run is not held, and the next resume goes on."""
    refine = make(grow, budget=Budget(iterations=1), converge_on=until(2))
    go(refine.run(Draft(), run_id="r1"))
    faulty = refine.with_options(checkpoint=FaultyStore(make.store, at=at, act=error))
    with pytest.raises(type(error)):
        go(faulty.resume("r1", budget=Budget(iterations=2)))
    assert go(refine.resume("r1", budget=Budget(iterations=2))) == Draft(2)


def test_a_resume_waits_for_a_busy_store(make: Maker) -> None:
    """Somebody else is writing: the claim comes again until it is through."""
    refine = make(grow, budget=Budget(iterations=1), converge_on=until(2))
    go(refine.run(Draft(), run_id="r1"))
    busy = refine.with_options(checkpoint=FaultyStore(make.store, at=1, act=StoreBusy("busy")))
    assert go(busy.resume("r1", budget=Budget(iterations=2))) == Draft(2)


@pytest.mark.parametrize(("status", "error"), [("completed", None), ("cancelled", NotResumable)])
def test_a_run_that_ends_while_it_is_resumed_has_ended(make: Maker, status: str, error: Any) -> None:
    """Between the look at a run and the claim another process may have ended it: then nothing is executed."""
    refine = make(grow, budget=Budget(iterations=1))
    go(refine.run(Draft(), run_id="r1"))
    meanwhile = FaultyStore(make.store, verb="claim", at=1, act=lambda: stop_as(make.store, "r1", status))
    late = refine.with_options(checkpoint=meanwhile)
    if error is None:
        assert go(late.resume("r1", budget=Budget(iterations=2))) == Draft(1)
    else:
        with pytest.raises(error):
            go(late.resume("r1", budget=Budget(iterations=2)))
    run = make.store.get_run("r1")
    assert (run.status, run.stop_reason, run.steps) == (status, f"{status}: by a test", 1)


def test_a_state_without_a_declared_type_comes_back(disk: SQLite) -> None:
    """A run remembers the type its first state had."""

    def step(state):  # type: ignore[no-untyped-def]
        return Done(grow(state)) if state.n else grow(state)

    refine: Any = loop(checkpoint=disk, budget=Budget(iterations=1))(step)
    refine.run(Draft(), run_id="r1")
    assert refine.resume("r1", budget=Budget(iterations=2)) == Draft(2)
