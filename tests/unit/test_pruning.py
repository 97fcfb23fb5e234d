"""Which runs a prune chooses: old and ended ones with their child runs, and never what must stay."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from loomc_runner import SpecError
from loomc_runner.records import RunStatus, Transition
from loomc_runner.report.pruning import bundle, choose
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import AT, a_charge, a_run, a_step

if TYPE_CHECKING:
    from datetime import datetime

    from loomc_runner.report.pruning import Pruning

TODAY = AT + timedelta(days=60)


def leave(
    store: MemoryStore,
    name: str,
    at: datetime = AT,
    status: RunStatus = RunStatus.COMPLETED,
    scores: tuple[float, ...] = (),
    **fields: Any,
) -> None:
    """Leave a run that ended at a moment, with a step for each score; the best of them is the last."""
    lease = store.create_run(a_run(name, created_at=at, updated_at=at, **fields), "0")
    for n, score in enumerate(scores):
        step = a_step(n, score=score, best_n=n)
        store.commit(lease, Transition(at, step, "0", (a_charge(10),), best_step=n))
    if status is not RunStatus.RUNNING:
        store.commit(lease, Transition(at, status=status))


def chosen(store: MemoryStore, **options: Any) -> Pruning:
    """Choose among what is thirty days old."""
    return choose(store, TODAY - timedelta(days=30), **options)


def names(pruning: Pruning) -> set[str]:
    """Say which runs go."""
    return {found.run.id for found in pruning.bundles}


def test_old_runs_that_have_ended_go(memory: MemoryStore) -> None:
    """Newer ones stay, and those that can go on are counted."""
    for status in RunStatus:
        if status is not RunStatus.INTERRUPTED:
            leave(memory, status.value, status=status)
            leave(memory, f"new {status.value}", TODAY, status)
    pruning = chosen(memory)
    assert names(pruning) == {"completed", "failed", "budget_exhausted", "stalled", "cancelled"}
    assert pruning.kept_open == {RunStatus.WAITING: 1, RunStatus.PAUSED: 1}


@pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.WAITING, RunStatus.FAILED])
def test_a_named_status_goes_and_no_other(memory: MemoryStore, status: RunStatus) -> None:
    """Also one whose runs could go on."""
    for each in (RunStatus.PAUSED, RunStatus.WAITING, RunStatus.FAILED, RunStatus.COMPLETED):
        leave(memory, each.value, status=each)
    assert names(chosen(memory, status=status)) == {status.value}


def test_runs_at_work_cannot_be_chosen(memory: MemoryStore) -> None:
    """Not by their status, and not where only a child run is at work."""
    leave(memory, "works", status=RunStatus.RUNNING)
    leave(memory, "parent")
    leave(memory, "child", status=RunStatus.RUNNING, parent_run_id="parent", parent_step=0)
    assert names(chosen(memory)) == set()
    with pytest.raises(SpecError, match="loomc cancel RUN"):
        chosen(memory, status=RunStatus.RUNNING)


def test_a_run_is_as_old_as_the_newest_of_its_child_runs(memory: MemoryStore) -> None:
    """They go together, and never alone."""
    for parent, age in (("old", AT), ("new", TODAY)):
        leave(memory, parent)
        leave(memory, f"{parent}.0", age, parent_run_id=parent, parent_step=0, scores=(1.0, 2.0))
    (only,) = chosen(memory).bundles
    assert [member.id for member in only.members] == ["old", "old.0"]
    assert (only.steps, only.cost_usd, only) == (2, 2e-8, bundle(memory, memory.get_run("old")))


def test_a_part_of_the_loops_name_narrows_it(memory: MemoryStore) -> None:
    """As in the list of runs."""
    leave(memory, "a", loop="shop:refine")
    leave(memory, "b", loop="shop:grade")
    leave(memory, "c", loop=None)
    assert names(chosen(memory, loop="grade")) == {"b"}


@pytest.mark.parametrize(("scores", "best"), [((1.0, 2.0), "high"), ((9.0, 3.0), "low")], ids=["higher", "lower"])
def test_the_best_run_of_a_loop_stays(memory: MemoryStore, scores: tuple[float, ...], best: str) -> None:
    """The one with the best score, whichever direction is better there; the best of another loop stays as well."""
    leave(memory, "any", scores=scores)
    leave(memory, "high", scores=(9.0,) if best == "high" else (8.0,))
    leave(memory, "low", scores=(0.5,))
    leave(memory, "other", scores=(0.1,), loop="other:loop")
    leave(memory, "unscored")
    pruning = chosen(memory, keep_best=True)
    assert {run.id for run in pruning.kept_best} == {best, "other"}
    assert names(pruning) == {"any", "high", "low", "unscored"} - {best}


def test_the_best_run_may_be_a_newer_one(memory: MemoryStore) -> None:
    """Then none of the old ones has to stay; of equally good ones the newest counts."""
    for name, at in (("old", AT), ("older", AT - timedelta(days=1)), ("new", TODAY)):
        leave(memory, name, at, scores=(1.0, 2.0))
    leave(memory, "works", TODAY, RunStatus.RUNNING, scores=(0.1,))
    assert names(chosen(memory, keep_best=True)) == {"old", "older"}


def test_loops_of_two_scripts_are_two_loops(memory: MemoryStore) -> None:
    """Though both are called the same."""
    for name in ("a", "b"):
        leave(memory, name, scores=(1.0, 2.0), loop="__main__:refine", source=f"/{name}.py")
    assert names(chosen(memory, keep_best=True)) == set()
