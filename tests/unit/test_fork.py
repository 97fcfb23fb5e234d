"""A fork is a new run that begins with the state of an old step."""

from __future__ import annotations

from typing import Any

import pytest
from driving import Draft, Maker, columns, go, grow, until

from loomc_runner import Budget, RunMismatch, RunNotFound, StateError, StoreBusy, loop, spend
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import FaultyStore


def pay(draft: Draft) -> Draft:
    """Grow for a dollar."""
    spend(usd=1)
    return grow(draft)


def everything(make: Maker, run_id: str) -> tuple[Any, ...]:
    """All that is stored of a run."""
    return make.store.get_run(run_id), make.store.steps(run_id), make.store.charges(run_id)


def test_a_fork_begins_where_the_old_step_ended(make: Maker) -> None:
    """The new run has the old step's state as its initial one, waits to be resumed, and tells where it is from."""
    refine = make(grow, converge_on=until(4), tags=["x"])
    go(refine(Draft(), run_id="r1"))
    run = make.store.get_run(run_id := refine.fork("r1", step=1))
    assert (run.status, run.forked_from, run.steps, run.tags) == ("paused", "r1:1", 0, ("x",))
    assert run.stop_reason == "paused: forked from step 1 of r1, not begun"
    assert [step.state.n for step in go(refine.stream(run_id=run_id))] == [3, 4]


def test_a_fork_leaves_the_old_run_as_it_is(make: Maker) -> None:
    """Neither making nor running the new one changes anything in the old one."""
    refine = make(pay, budget=Budget(usd=9), converge_on=until(3))
    go(refine(Draft(), run_id="r1"))
    before = everything(make, "r1")
    go(refine.resume(refine.fork("r1", step=0, update={"words": ["new"]})))
    assert everything(make, "r1") == before


def test_step_minus_one_is_the_initial_state(make: Maker) -> None:
    """A run can be begun anew, also one that never finished a step."""

    def step(draft: Draft) -> Draft:
        if draft.words == ["bad"]:
            raise ZeroDivisionError
        return grow(draft)

    refine = make(step, converge_on=until(1))
    with pytest.raises(ZeroDivisionError):
        go(refine(Draft(0, ["bad"]), run_id="r1"))
    assert go(refine.resume(refine.fork("r1", step=-1, update={"words": []}))) == Draft(1)


def test_fields_are_changed_first(make: Maker) -> None:
    """`update` replaces the fields it names; the others stay."""
    refine = make(grow, converge_on=until(4))
    go(refine(Draft(0, ["a"]), run_id="r1"))
    assert go(refine.resume(refine.fork("r1", step=2, update={"words": ["b"]}))) == Draft(4, ["b"])


@pytest.mark.parametrize(
    ("update", "message"),
    [({"m": 1}, "names m, but the state has n, words"), ({"n": "x"}, r"state\.n"), ({"words": [1]}, "words")],
)
def test_a_change_that_does_not_fit_is_refused(make: Maker, update: dict[str, Any], message: str) -> None:
    """The field is named, and no run is made."""
    refine = make(grow, converge_on=until(2))
    go(refine(Draft(), run_id="r1"))
    with pytest.raises(StateError, match=message):
        refine.fork("r1", step=0, update=update)
    assert columns(make.store.list_runs(), "id") == [("r1",)]


def test_a_state_without_fields_takes_no_update(memory: MemoryStore) -> None:
    """A number is forked as it is, and has no fields to change."""

    @loop(checkpoint=memory, converge_on=lambda history: history[-1].state > 2)
    def refine(number: int) -> int:
        return number + 1

    refine(0, run_id="r1")
    assert refine.resume(refine.fork("r1", step=0)) == 3
    with pytest.raises(StateError, match="has no fields"):
        refine.fork("r1", step=0, update={"n": 1})


@pytest.mark.parametrize("step", [2, -2, 99, True, None, 1.0, "0"])
def test_only_a_step_that_exists_can_be_forked(make_in_memory: Maker, step: Any) -> None:
    """Any other number is refused, naming the run and the command that lists its steps."""
    refine = make_in_memory(grow, converge_on=until(2))
    go(refine(Draft(), run_id="r1"))
    with pytest.raises(RunNotFound, match=f"r1 has no step {step!r}.*loomc show r1"):
        refine.fork("r1", step=step)


def test_only_a_run_of_this_loop_can_be_forked(make: Maker) -> None:
    """There must be such a run, and it must be this loop's."""
    go(make(grow, converge_on=until(1), name="theirs")(Draft(), run_id="r1"))
    with pytest.raises(RunMismatch, match="theirs"):
        make(grow).fork("r1", step=0, update={"no such field": 1})
    with pytest.raises(RunNotFound, match="r9"):
        make(grow).fork("r9", step=0)


def test_a_fork_has_the_old_budget_and_spends_anew(make: Maker) -> None:
    """The limits are those of the old run, whatever the decorator says by now, and nothing is spent yet."""
    refine = make(pay, budget=Budget(usd=3))
    go(refine.run(Draft(), run_id="r1"))
    other = refine.with_options(budget=Budget(usd=50))
    result = go(other.run(Draft(2), run_id=other.fork("r1", step=1)))
    assert (result.status, result.cost_usd, result.state.n) == ("budget_exhausted", 3.0, 5)
    assert make.store.get_run(result.run_id).nano_usd == 3_000_000_000


def test_a_run_at_work_can_be_forked(make: Maker) -> None:
    """A step may branch off from its own run; the fork is a run of its own, and no child."""
    forks: list[str] = []

    def step(draft: Draft) -> Draft:
        if draft.n == 2:
            forks.append(refine.fork("r1", step=1))
        return grow(draft)

    refine = make(step, converge_on=until(3))
    go(refine(Draft(), run_id="r1"))
    fork = make.store.get_run(forks[0])
    assert (fork.forked_from, fork.parent_run_id) == ("r1:1", None)
    assert go(refine.resume(fork.id)) == Draft(3)


def test_a_fork_waits_for_a_busy_store(make: Maker) -> None:
    """Like every other verb it does not fail because somebody else is writing."""
    refine = make(grow, converge_on=until(2))
    go(refine(Draft(), run_id="r1"))
    for at in (1, 2):
        busy = FaultyStore(make.store, at=at, act=StoreBusy("busy"))
        run = make.store.get_run(refine.with_options(checkpoint=busy).fork("r1", step=0))
        assert (run.status, run.forked_from) == ("paused", "r1:0")
