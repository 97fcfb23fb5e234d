"""A strategy says from which step to go on; what is restored is what was stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from driving import Draft, Maker, columns, die, dying, go, grow, scripted, size, until

from loomc_runner import BestScore, Budget, BudgetExhausted, LastGood, RunStatus, SpecError, spend
from loomc_runner.store.sqlite import SQLite

WAY = ("step_n", "parent_n", "decision")


def way(make: Maker, run_id: str = "r1") -> list[tuple[Any, ...]]:
    """From where each step started, and what was decided after it."""
    return columns(make.store.steps(run_id), *WAY)


def failing_at(*calls: int) -> Callable[[Draft], Draft]:
    """A step that fails at some of its calls, after spoiling the state it was given."""
    made = [0]

    def step(draft: Draft) -> Draft:
        made[0] += 1
        draft.words.append("spoiled" if made[0] in calls else "good")
        if made[0] in calls:
            raise OSError(made[0])
        return grow(draft)

    return step


# --- BestScore


def test_a_regression_restarts_from_the_best_step(make: Maker) -> None:
    """A worse step is kept, and the next one starts from the best one so far."""
    refine = make(scripted(3, 1, 2, 5), scorer=size, backtrack=BestScore(), budget=Budget(iterations=4))
    assert go(refine.run(Draft(), run_id="r1")).state.n == 5
    assert way(make) == [(0, -1, None), (1, 0, "restore 0"), (2, 0, "restore 0"), (3, 0, None)]


def test_the_best_state_is_the_result(make: Maker) -> None:
    """Under `BestScore` a loop gives its best state, not its newest."""
    refine = make(scripted(1, 3, 2), scorer=size, backtrack=BestScore(), budget=Budget(iterations=3))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.state.n, result.best_state.n, result.best_score, result.best_step) == (3, 3, 3.0, 1)
    assert go(make(grow, scorer=size, budget=Budget(iterations=2)).run(Draft(), run_id="r2")).state.n == 2


def test_mutation_in_place_cannot_spoil_a_restore(make: Maker) -> None:
    """What is restored comes from the stored bytes, whatever has been done to the objects since."""
    scores = iter([3, 1, 1, 4])
    seen: list[list[str]] = []

    def step(draft: Draft) -> Draft:
        seen.append(list(draft.words))
        draft.n = next(scores)
        draft.words.append(str(draft.n))
        return draft

    go(make(step, scorer=size, backtrack=BestScore(), converge_on=until(4))(Draft()))
    assert seen == [[], ["3"], ["3"], ["3"]]


def test_a_strategy_sees_what_it_would_have_seen(make: Maker) -> None:
    """After a resume the way goes on as if nothing had happened."""
    scores = [3, 1, 2, 1, 5, 4, 4]

    def way_of(run_id: str, *lives: int) -> list[Any]:
        refine = make(scripted(*scores), scorer=size, backtrack=BestScore(), budget=Budget(iterations=lives[0]))
        go(refine.run(Draft(), run_id=run_id))
        for total in lives[1:]:
            with pytest.raises(BudgetExhausted):
                go(refine.resume(run_id, budget=Budget(iterations=total)))
        return way(make, run_id)

    whole = way_of("whole", 7)
    assert way_of("cut", 1, 2, 3, 4, 5, 6, 7) == whole
    assert [decision for *_, decision in whole] == [None, *["restore 0"] * 3, None, *["restore 4"] * 2]


def test_a_restore_survives_a_kill(disk: SQLite) -> None:
    """A run that died after it was decided to go back goes back."""
    make = Maker(disk, is_async=False)
    options: dict[str, Any] = {"scorer": size, "backtrack": BestScore()}
    scores = iter([3, 1])
    assert dying(lambda: make(lambda draft: Draft(next(scores, 0) or die(draft)), **options)(Draft(), run_id="r1")) == 9  # type: ignore[arg-type]
    assert go(make(grow, **options, converge_on=until(4)).resume("r1")) == Draft(4)
    assert way(make) == [(0, -1, None), (1, 0, "restore 0"), (2, 0, "stop")]


# --- LastGood


def test_a_failure_is_absorbed(make: Maker) -> None:
    """It is a step with its error, its cost and its parent's state, and the next one starts where it started."""
    steps = failing_at(2)

    def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        return steps(draft)

    refine = make(step, backtrack=LastGood(), budget=Budget(usd=9), converge_on=until(3))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.state, result.cost_usd, result.status) == (Draft(3, ["good"] * 3), 2.0, RunStatus.COMPLETED)
    assert way(make) == [(0, -1, None), (1, 0, "restore 0"), (2, 0, None), (3, 2, "stop")]
    assert columns(make.store.steps("r1"), "error", "cost_usd")[1] == ("OSError: 2", 0.5)
    assert make.store.state("r1", 1) == make.store.state("r1", 0)


def test_an_absorbed_failure_is_an_iteration(make: Maker) -> None:
    """So a loop that always fails comes to its end."""
    refine = make(failing_at(2, 3), backtrack=LastGood(max_failures=9), budget=Budget(iterations=3))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.status, result.state, result.steps) == (RunStatus.BUDGET_EXHAUSTED, Draft(1, ["good"]), 3)


def test_the_first_step_may_fail(make: Maker) -> None:
    """Then the initial state is restored."""
    refine = make(failing_at(1), backtrack=LastGood(), converge_on=until(1))
    assert go(refine(Draft(0, ["first"]), run_id="r1")) == Draft(1, ["first", "good"])
    assert way(make) == [(0, -1, "restore -1"), (1, -1, "stop")]


def test_too_many_failures_in_a_row_end_the_run(make: Maker) -> None:
    """The failure that is one too many is raised, and leaves an attempt instead of a step."""
    refine = make(failing_at(2, 3, 5, 6, 7), backtrack=LastGood(max_failures=2))
    with pytest.raises(OSError, match="7") as caught:
        go(refine(Draft(), run_id="r1"))
    assert caught.value.state == Draft(2, ["good", "good"])  # type: ignore[attr-defined]
    assert [bool(step.error) for step in make.store.steps("r1")] == [False, True, True, False, True, True]
    assert columns(make.store.attempts("r1"), "step_n", "error") == [(6, "OSError: 7")]


def test_failures_are_counted_over_resumes(make: Maker) -> None:
    """A run that failed too often fails again at the next failure, and is well again after a good step."""
    refine = make(failing_at(1, 2, 3, 4, 6, 7), backtrack=LastGood(max_failures=2), converge_on=until(2))
    for _ in range(2):
        with pytest.raises(OSError, match=r"^(3|4)"):
            go(refine(Draft(), run_id="r1"))
    assert go(refine.resume("r1")) == Draft(2, ["good"] * 2)
    assert [bool(step.error) for step in make.store.steps("r1")] == [True, True, False, True, True, False]


def test_a_failed_try_leaves_the_state_as_it_was(make: Maker) -> None:
    """What a failing step did to its state in place is seen neither in the error nor in the run that goes on."""
    refine = make(failing_at(2), converge_on=until(2))
    with pytest.raises(OSError, match="2") as caught:
        go(refine(Draft(), run_id="r1"))
    assert caught.value.state == Draft(1, ["good"])  # type: ignore[attr-defined]
    assert go(refine.resume("r1")) == Draft(2, ["good"] * 2)


# --- several strategies, and ones of one's own


@pytest.mark.parametrize("order", [1, -1])
def test_two_strategies_work_together(make: Maker, order: int) -> None:
    """In either order, failures are absorbed and regressions gone back from."""
    values = iter([3, 0, 1, 4])

    def step(draft: Draft) -> Draft:
        return Draft(next(values) or 1 // 0)

    strategies = [BestScore(), LastGood()][::order]
    assert go(make(step, scorer=size, backtrack=strategies, converge_on=until(4))(Draft(), run_id="r1")).n == 4
    assert way(make) == [(0, -1, None), (1, 0, "restore 0"), (2, 0, "restore 0"), (3, 0, "stop")]


def test_a_function_is_a_strategy(make: Maker) -> None:
    """Any callable that names a step or nothing will do; -1 begins anew."""

    def anew(history: Any) -> int | None:
        return -1 if history[-1].state.n == 2 and len(history) < 5 else None

    go(make(grow, backtrack=anew, converge_on=until(3))(Draft(), run_id="r1"))
    assert [parent_n for _, parent_n, _ in way(make)] == [-1, 0, -1, 2, -1, 4, 5]


@pytest.mark.parametrize("answer", [99, 1, -2, True, "0", 0.0])
def test_a_strategy_must_name_a_step_there_is(make_in_memory: Maker, answer: Any) -> None:
    """Anything else fails the run by name, keeps the step, and leaves a run that can go on."""

    def astray(history: Any) -> Any:
        return answer

    refine = make_in_memory(grow, backtrack=astray)
    with pytest.raises(SpecError, match="must return the number of a step"):
        go(refine(Draft(), run_id="r1"))
    assert (make_in_memory.store.get_run("r1").status, len(make_in_memory.store.steps("r1"))) == ("failed", 1)
    assert go(refine.with_options(backtrack=None, converge_on=until(2)).resume("r1")) == Draft(2)


@pytest.mark.parametrize("fails", [False, True])
def test_a_strategy_that_raises_fails_the_run(make: Maker, fails: bool) -> None:
    """A step that returned is kept; of one that failed there is an attempt, and its error stands behind."""

    def broken(history: Any) -> int:
        raise LookupError("strategy")

    def step(draft: Draft) -> Draft:
        return grow(draft) if not fails else Draft(0 // 0)

    refine = make(step, backtrack=broken)
    with pytest.raises(LookupError, match="strategy") as caught:
        go(refine(Draft(), run_id="r1"))
    run = make.store.get_run("r1")
    assert (run.status, run.stop_reason) == ("failed", "failed: LookupError: strategy")
    assert [len(make.store.steps("r1")), len(make.store.attempts("r1"))] == [not fails, fails]
    assert isinstance(caught.value.__context__, ZeroDivisionError) is fails
