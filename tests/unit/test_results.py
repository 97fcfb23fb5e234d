"""What a run comes to: its result, its money, and the reason why it ended."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from driving import Draft, Maker, columns, go, grow, make_async, scripted, size, timed, until

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    Done,
    LastGood,
    RunResult,
    RunStatus,
    StateError,
    all_of,
    predicate,
    spend,
    target,
)
from loomc_runner.testing import FakeClock


def test_a_result_tells_how_the_run_stands(make: Maker) -> None:
    """Every field is that of the whole run."""
    clock = FakeClock()

    def step(draft: Draft) -> Draft:
        clock.advance(1.5)
        spend(usd=0.25, tokens=10)
        return grow(draft)

    refine = make(step, scorer=size, budget=Budget(usd=9), converge_on=target(3))
    assert go(timed(refine, clock).run(Draft(), run_id="r1")) == RunResult(
        run_id="r1",
        status=RunStatus.COMPLETED,
        stop_reason="converged: target(3) reached with 3",
        state=Draft(3),
        result=None,
        best_state=Draft(3),
        best_score=3.0,
        best_step=2,
        steps=3,
        cost_usd=0.75,
        tokens=30,
        elapsed=4.5,
    )


def test_without_a_scorer_nothing_is_best(make: Maker) -> None:
    """Then the newest state is the result."""
    result = go(make(grow, converge_on=until(2)).run(Draft()))
    assert (result.state, result.best_state, result.best_score, result.best_step) == (Draft(2), None, None, None)


def test_the_best_may_be_the_lowest(make: Maker) -> None:
    """With `direction="minimize"` less is better, everywhere."""
    strategy = BestScore(direction="minimize")
    result = go(make(scripted(5, 2, 4), scorer=size, backtrack=strategy, budget=Budget(iterations=3)).run(Draft()))
    assert (result.state, result.best_score, result.best_step) == (Draft(2), 2.0, 1)


# --- Done


@dataclass
class Report:
    """A result that is no state."""

    title: str
    pages: int = 1


def finishing(draft: Draft) -> Draft | Done[Draft, Report]:
    """Be done at 2, with a report."""
    return Done(grow(draft), result=Report("two")) if draft.n == 1 else grow(draft)


def test_done_ends_a_run_well(make: Maker) -> None:
    """Its state is the last one, committed and scored like any other."""
    result = go(make(lambda draft: Done(grow(draft)), scorer=size).run(Draft(), run_id="r1"))
    assert (result.status, result.stop_reason, result.state) == ("completed", "done: the step said so", Draft(1))
    assert columns(make.store.steps("r1"), "score", "decision") == [(1.0, "stop")]


def test_a_result_comes_back_as_it_was_declared(make: Maker) -> None:
    """`Done(state, result=...)` stores a value of another type, also for whoever asks the completed run later."""
    refine = make(finishing)
    assert go(refine.run(Draft(), run_id="r1")).result == Report("two")
    assert go(refine.run(Draft(), run_id="r1")).result == Report("two")
    assert go(refine.resume("r1")) == Draft(2)


@pytest.mark.parametrize("result", [0, "", [], False, {"a": [1, None]}])
def test_a_result_without_a_declared_type_is_plain_json(make_in_memory: Maker, result: Any) -> None:
    """An empty result is a result."""
    refine = make_in_memory(lambda draft: Done(draft, result=result))
    assert go(refine.run(Draft(), run_id="r1")).result == result
    assert go(refine.run(Draft(), run_id="r1")).result == result


@pytest.mark.parametrize("result", [object(), float("nan"), {1, 2}])
def test_a_result_that_cannot_be_stored_keeps_the_step(make: Maker, result: Any) -> None:
    """The run fails with the reason; the state was paid for, and is there."""

    def step(draft: Draft) -> Draft | Done[Draft, Any]:
        return Done(grow(draft), result=result) if draft.n == 0 else Done(grow(draft), result="good")

    refine = make(step)
    with pytest.raises(StateError):
        go(refine(Draft(), run_id="r1"))
    assert (make.store.get_run("r1").status, len(make.store.steps("r1"))) == ("failed", 1)
    assert go(refine.run(Draft(), run_id="r1")).result == "good"


# --- why it ended


def test_any_detector_of_a_list_stops_the_loop(make: Maker) -> None:
    """The first one with a reason is the reason."""
    result = go(make(grow, converge_on=[predicate(lambda _: "" or None), until(3), until(2)]).run(Draft()))
    assert (result.state.n, result.stop_reason) == (2, "converged: enough")


def test_all_of_waits_for_all(make: Maker) -> None:
    """Every detector must agree, and all their reasons are given."""
    options: dict[str, Any] = {"scorer": size, "converge_on": all_of(until(2), target(4))}
    result = go(make(grow, **options).run(Draft()))
    assert (result.state.n, result.stop_reason) == (4, "converged: enough and target(4) reached with 4")


def test_the_last_iteration_may_converge(make: Maker) -> None:
    """A loop that is good enough at its limit is complete, not exhausted."""
    assert go(make(grow, budget=Budget(iterations=3), converge_on=until(3)).run(Draft())).status == "completed"


# --- money


def test_twenty_dimes_are_two_dollars(make: Maker) -> None:
    """Money is counted exactly: the twentieth dime fits, the twenty-first does not."""
    result = go(make(grow, cost_fn=lambda _: 0.1, budget=Budget(usd=2)).run(Draft()))
    assert (result.steps, result.cost_usd, result.stop_reason) == (20, 2.0, "budget: usd 2.00 of 2.00")


def test_no_step_starts_that_is_not_expected_to_fit(make: Maker) -> None:
    """The dearest step so far is what the next one is expected to cost."""
    prices = iter([0.25, 1, 0.25])
    result = go(make(grow, cost_fn=lambda _: next(prices), budget=Budget(usd=2)).run(Draft()))
    assert (result.steps, result.cost_usd) == (2, 1.25)
    assert result.stop_reason == "budget: usd 2.25 of 2.00 ($1.25 spent, the rest expected)"


def test_a_declared_price_is_what_is_expected(make: Maker) -> None:
    """With `step_usd` not even the first step starts when it would not fit, and cheap steps do not raise the bar."""
    refine = make(grow, cost_fn=lambda _: 0.25, budget=Budget(usd=2, step_usd=1.5))
    assert go(refine.run(Draft())).steps == 3
    result = go(refine.with_options(budget=Budget(usd=1, step_usd=1.5)).run(Draft()))
    assert (result.status, result.steps, result.state) == ("budget_exhausted", 0, Draft())


def test_a_charge_that_crosses_the_cap_is_recorded_and_stops_the_step(make: Maker) -> None:
    """The step ends at that charge; all that was spent is known, and the state is the last committed one."""

    def step(draft: Draft) -> Draft:
        for _ in range(4):
            spend(usd=0.75)
        return grow(draft)

    result = go(make(step, budget=Budget(usd=2)).run(Draft(5), run_id="r1"))
    assert (result.state, result.steps, result.cost_usd) == (Draft(5), 0, 2.25)
    assert result.stop_reason == "budget: usd 2.25 of 2.00"
    assert columns(make.store.attempts("r1"), "step_n", "nano_usd") == [(0, 2_250_000_000)]


def test_a_step_that_returns_all_the_same_is_committed(make: Maker) -> None:
    """A step that swallows the limit is paid for and kept; the run ends after it."""

    def step(draft: Draft) -> Draft:
        with suppress(BudgetExhausted):
            spend(tokens=200)
        return grow(draft)

    result = go(make(step, budget=Budget(tokens=100), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert (result.status, result.state, result.steps) == ("budget_exhausted", Draft(1), 1)
    assert result.stop_reason == "budget: tokens 200 of 100"
    assert make.store.attempts("r1") == []


def test_a_step_that_is_done_all_the_same_is_done(make: Maker) -> None:
    """A finished run is complete, though its last charge crossed the cap."""

    def step(draft: Draft) -> Done[Draft, None]:
        with suppress(BudgetExhausted):
            spend(usd=3)
        return Done(grow(draft))

    result = go(make(step, budget=Budget(usd=2)).run(Draft()))
    assert (result.status, result.cost_usd) == ("completed", 3.0)


def test_money_of_failed_tries_counts(make: Maker) -> None:
    """A run that fails and is resumed spends from what is left."""

    def step(draft: Draft) -> Draft:
        spend(usd=1)
        raise OSError

    refine = make(step, budget=Budget(usd=2.5))
    for _ in range(2):
        with pytest.raises(OSError):
            go(refine(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted, match=r"usd 3\.00 of 2\.50 \(\$2\.00 spent, the rest expected\)"):
        go(refine.resume("r1"))
    assert columns(make.store.attempts("r1"), "attempt", "error", "nano_usd") == [
        (0, "OSError", 1_000_000_000),
        (1, "OSError", 1_000_000_000),
    ]


def test_money_of_absorbed_failures_counts(make: Maker) -> None:
    """What `LastGood` absorbs has been paid for."""

    def step(draft: Draft) -> Draft:
        spend(usd=1)
        raise OSError

    result = go(make(step, budget=Budget(usd=2), backtrack=LastGood(9)).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.cost_usd) == ("budget_exhausted", 2, 2.0)


def test_charges_and_a_cost_function_add_up(make: Maker) -> None:
    """Both are charges of the step, with their labels."""

    def step(draft: Draft) -> Draft:
        spend(usd=0.5, label="model")
        return grow(draft)

    refine = make(step, cost_fn=lambda _: 0.25, budget=Budget(usd=9, iterations=1))
    assert go(refine.run(Draft(), run_id="r1")).cost_usd == 0.75
    assert columns(make.store.charges("r1"), "label", "nano_usd") == [("model", 500_000_000), ("cost_fn", 250_000_000)]
    assert columns(make.store.steps("r1"), "cost_usd", "priced") == [(0.75, True)]


def test_results_of_async_loops_are_awaited_once() -> None:
    """The wrapper of these tests makes a coroutine function of a plain one."""
    assert go(make_async(grow)(Draft())) == Draft(1)
