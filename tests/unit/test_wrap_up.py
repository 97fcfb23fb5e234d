"""`Budget(wrap_up=...)`: when the dollars come to an end, one last step turns what is there into a result."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest
from driving import Draft, Maker, columns, dying, go, grow, scripted, size, timed
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    Done,
    Escalate,
    LastGood,
    Retry,
    RunStatus,
    SpecError,
    call,
    current_run,
    judge,
    spend,
)
from loomc_runner.budget import to_nano
from loomc_runner.context import step_here
from loomc_runner.holds import hold
from loomc_runner.records import NANO, Charge
from loomc_runner.report.verify import verify
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FakeClock

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

BUDGET = Budget(usd=1.00, wrap_up=0.25, step_usd=0.30)
UNDECLARED = Budget(usd=1.00, wrap_up=0.25)

Act = Callable[[Draft], Any]


def pay(usd: float, then: Act = grow) -> Act:
    """A step that pays, and then does something."""

    def step(draft: Draft) -> Any:
        spend(usd=usd)
        return then(draft)

    return step


def buy(usd: float, then: Act = grow) -> Act:
    """A step with a call that is refused when it does not fit, and costs what it may; then it does something."""

    def step(draft: Draft) -> Any:
        scope = step_here("a call")
        charge = Charge(scope.step_n, to_nano(usd), 0, "a call", scope.clock.now())
        hold(scope, charge, lambda: False, lambda: charge).settle(charge)
        return then(draft)

    return step


def fail(draft: Draft) -> Draft:
    """A step that fails."""
    raise ConnectionError(f"at {draft.n}")


AS_A_RULE, AT_LAST, FREE = pay(0.30), pay(0.20), pay(0.0)


class Tries:
    """A step that does one thing as a rule, and another to wrap up; it keeps what it was told in each of its tries."""

    def __init__(self, step: Act = AS_A_RULE, last: Act = AT_LAST) -> None:
        self.told: list[tuple[int, bool]] = []
        self.given: list[int] = []
        self.step, self.last = step, last

    def __call__(self, draft: Draft) -> Any:
        """Do it."""
        here = current_run()
        self.told.append((here.step_n, here.wrap_up))
        self.given.append(draft.n)
        return (self.last if here.wrap_up else self.step)(draft)

    def made(self, make: Maker, **options: Any) -> Any:
        """The loop of it."""
        return make(lambda draft: self(draft), **{"budget": BUDGET, **options})

    @property
    def last_ones(self) -> list[int]:
        """The steps that were to wrap up, once for each try."""
        return [step_n for step_n, wraps_up in self.told if wraps_up]


def steps_of(make: Maker, run_id: str = "r1") -> list[tuple[Any, ...]]:
    """The committed steps: where each began, what it cost, and what was decided."""
    return columns(make.store.steps(run_id), "parent_n", "cost_usd", "decision")


@pytest.fixture(params=["sync", "async"])
def mortal(request: pytest.FixtureRequest, disk: SQLite) -> Maker:
    """What makes loops of both kinds whose runs outlive their process."""
    return Maker(disk, is_async=request.param == "async")


# --- when it begins


def test_when_the_next_step_does_not_fit_one_more_may_wrap_up(make: Maker) -> None:
    """Two steps for 0.30 fit under 0.75; the third is told that it is the last, and spends of what was kept."""
    tries = Tries()
    result = go(tries.made(make).run(Draft(), run_id="r1"))
    assert tries.told == [(0, False), (1, False), (2, True)]
    assert (result.status, result.steps, result.state) == (RunStatus.BUDGET_EXHAUSTED, 3, Draft(3))
    assert result.stop_reason == "budget: usd 0.80 of 1.00 (wrapped up in step 2)"
    assert steps_of(make) == [(-1, 0.3, None), (0, 0.3, None), (1, 0.2, None)]
    assert make.store.attempts("r1") == []


def test_a_loop_that_is_called_raises_with_the_words_of_its_reason(make_in_memory: Maker) -> None:
    """The error carries the state that was wrapped up."""
    with pytest.raises(BudgetExhausted, match=r"run r1: usd 0\.80 of 1\.00 \(wrapped up in step 2\)") as caught:
        go(Tries().made(make_in_memory)(Draft(), run_id="r1"))
    assert (caught.value.run_id, caught.value.state) == ("r1", Draft(3))


def test_a_stream_gives_the_last_step_as_any_other(make: Maker) -> None:
    """Each committed step once, the one that wraps up included."""
    tries = Tries(step=pay(0.30, buy(0.20)))
    steps = go(tries.made(make, budget=UNDECLARED).stream(Draft(), run_id="r1"))
    assert columns(steps, "step_n", "cost_usd") == [(0, 0.5), (1, 0.2)]
    assert tries.told == [(0, False), (1, True)]


def test_a_first_step_that_does_not_fit_wraps_up(make_in_memory: Maker) -> None:
    """A run whose steps are all too dear has one step, for what was kept."""
    tries = Tries()
    result = go(tries.made(make_in_memory, budget=Budget(usd=1, wrap_up=0.25, step_usd=0.8)).run(Draft()))
    assert (tries.told, result.steps, result.cost_usd) == ([(0, True)], 1, 0.2)


def test_a_charge_across_the_cap_has_the_step_tried_again_to_wrap_up(make: Maker) -> None:
    """It is recorded and stops the step there; the same step begins again from the stored state, with what is left."""

    def spoil(draft: Draft) -> Draft:
        draft.words.append("spoilt")
        return pay(0.80)(draft)

    tries = Tries(spoil, pay(0.10))
    result = go(tries.made(make, budget=UNDECLARED).run(Draft(), run_id="r1"))
    assert (tries.told, result.state) == ([(0, False), (0, True)], Draft(1))
    assert (result.cost_usd, result.stop_reason) == (0.9, "budget: usd 0.90 of 1.00 (wrapped up in step 0)")
    (attempt,) = make.store.attempts("r1")
    assert (attempt.step_n, attempt.nano_usd) == (0, to_nano(0.80))
    assert "usd 0.80 of 0.75 ($0.25 more kept for wrapping up)" in attempt.error


def test_a_step_that_returns_all_the_same_is_kept_and_the_next_wraps_up(make: Maker) -> None:
    """A state that was paid for is committed, also when its step had swallowed the refusal."""

    def swallow(draft: Draft) -> Draft:
        with pytest.raises(BudgetExhausted):
            spend(usd=0.80)
        return grow(draft)

    tries = Tries(swallow, pay(0.10))
    result = go(tries.made(make, budget=UNDECLARED).run(Draft(), run_id="r1"))
    assert (tries.told, result.state) == ([(0, False), (1, True)], Draft(2))
    assert steps_of(make) == [(-1, 0.8, None), (0, 0.1, None)]


def test_a_step_with_a_refused_call_is_tried_again_and_its_durable_calls_are_replayed(make: Maker) -> None:
    """What it had done and paid by then is not done and not paid again."""
    found: list[int] = []

    def research(n: int) -> int:
        found.append(n)
        spend(usd=0.10)
        return n

    def step(draft: Draft) -> Draft:
        call(research, draft.n)
        return buy(0.70)(draft)

    def last(draft: Draft) -> Draft:
        return Draft(call(research, draft.n), ["wrapped up"])

    tries = Tries(step, last)
    result = go(tries.made(make, budget=UNDECLARED).run(Draft(7), run_id="r1"))
    assert (tries.told, found) == ([(0, False), (0, True)], [7])
    assert (result.state, result.cost_usd) == (Draft(7, ["wrapped up"]), 0.1)
    assert columns(make.store.attempts("r1"), "step_n", "nano_usd") == [(0, to_nano(0.10))]
    assert [charge.nano_usd for charge in make.store.charges("r1")] == [to_nano(0.10)]


@pytest.mark.parametrize("ask", [pay(0.50), buy(0.50)], ids=["crosses", "is refused"])
def test_when_a_scorer_runs_into_the_cap_the_next_step_wraps_up(make: Maker, ask: Act) -> None:
    """The state it was to score is committed, without a score."""

    def score(draft: Draft) -> float:
        return float(ask(draft).n) if not current_run().wrap_up else 9.0

    tries = Tries(last=FREE)
    result = go(tries.made(make, budget=UNDECLARED, scorer=score).run(Draft(), run_id="r1"))
    assert tries.told == [(0, False), (1, True)]
    assert columns(make.store.steps("r1"), "score", "error") == [(None, None), (9.0, None)]
    assert result.stop_reason is not None
    assert result.stop_reason.endswith("(wrapped up in step 1)")


@pytest.mark.parametrize("ask", [pay(0.50), buy(0.50)], ids=["crosses", "is refused"])
def test_when_a_judge_runs_into_the_cap_the_next_step_wraps_up(make: Maker, ask: Act) -> None:
    """The step it was to judge is committed, and gone on from."""

    def approve(draft: Draft) -> bool:
        return bool(current_run().wrap_up or ask(draft).n < 0)

    tries = Tries(last=FREE)
    result = go(tries.made(make, budget=UNDECLARED, converge_on=judge(approve)).run(Draft(), run_id="r1"))
    assert tries.told == [(0, False), (1, True)]
    assert [row[0] for row in steps_of(make)] == [-1, 0]
    assert (result.status, result.stop_reason) == (RunStatus.COMPLETED, "converged: judge(approve)")


def test_when_the_cost_function_comes_across_the_cap_the_next_step_wraps_up(make: Maker) -> None:
    """It is asked when the step has returned, so that its state is kept."""
    tries = Tries(grow, grow)
    options: dict[str, Any] = {"budget": UNDECLARED, "cost_fn": lambda _: 0.8}
    result = go(tries.made(make, **options).run(Draft(), run_id="r1"))
    assert (tries.told, result.steps, result.cost_usd) == ([(0, False), (1, True)], 2, 1.6)


def test_when_the_handler_of_a_stall_runs_into_the_cap_the_step_is_tried_again(make_in_memory: Maker) -> None:
    """What it was to change is changed in the try that wraps up."""
    asked: list[bool] = []

    def shake(draft: Draft, history: Any) -> Draft:
        asked.append(current_run().wrap_up)
        if not asked[-1]:
            spend(usd=0.60)
        return Draft(10)

    tries = Tries(pay(0.10, lambda draft: Draft(draft.n)), FREE)
    options: dict[str, Any] = {"budget": UNDECLARED, "scorer": size, "on_stall": Escalate(1, shake)}
    result = go(tries.made(make_in_memory, **options).run(Draft()))
    assert (tries.told, asked) == ([(0, False), (1, False), (2, True)], [False, True])
    assert result.state == Draft(11)


def test_a_try_that_does_not_fit_is_made_to_wrap_up(make_in_memory: Maker) -> None:
    """Where a step is to be tried again, and that would be too dear, it is tried again with what was kept."""
    tries = Tries(pay(0.40, fail))
    options: dict[str, Any] = {"budget": Budget(usd=1, wrap_up=0.25, step_usd=0.4), "retry": Retry(9, wait=0)}
    result = go(tries.made(make_in_memory, **options).run(Draft()))
    assert (tries.told, result.steps, result.cost_usd) == ([(0, False), (0, True)], 1, 0.6)


# --- when it does not


@pytest.mark.parametrize("usd", [1.00, 1.50])
def test_where_nothing_is_left_nothing_wraps_up(make: Maker, usd: float) -> None:
    """A step that has spent the whole cap has spent what was kept."""
    tries = Tries(pay(usd))
    result = go(tries.made(make, budget=UNDECLARED).run(Draft(), run_id="r1"))
    assert (tries.last_ones, result.cost_usd) == ([], usd)
    assert result.stop_reason == f"budget: usd {usd:.2f} of 1.00"


@pytest.mark.parametrize("limit", ["iterations", "tokens", "wall_clock"])
def test_no_other_limit_begins_it(make_in_memory: Maker, limit: str) -> None:
    """What was kept is dollars, and buys nothing else."""
    clock = FakeClock()
    budget = {"iterations": {"iterations": 2}, "tokens": {"tokens": 2}, "wall_clock": {"wall_clock": "2s"}}[limit]

    def step(draft: Draft) -> Draft:
        clock.advance(1)
        spend(usd=0.01, tokens=1)
        return grow(draft)

    tries = Tries(step)
    refine = tries.made(make_in_memory, budget=Budget(usd=1, wrap_up=0.25, **budget))  # type: ignore[arg-type]
    result = go(timed(refine, clock).run(Draft()))
    assert (result.status, tries.last_ones) == (RunStatus.BUDGET_EXHAUSTED, [])
    assert result.stop_reason.startswith(f"budget: {limit} ")


def test_where_the_iterations_are_used_up_too_nothing_wraps_up(make_in_memory: Maker) -> None:
    """The last step is one of them."""
    tries = Tries()
    result = go(tries.made(make_in_memory, budget=Budget(usd=1, wrap_up=0.25, step_usd=0.3, iterations=2)).run(Draft()))
    assert (result.steps, tries.last_ones, result.stop_reason) == (2, [], "budget: iterations 2 of 2")


def test_without_it_the_end_is_the_end(make_in_memory: Maker) -> None:
    """No step is told that it is the last when nothing was kept."""
    tries = Tries()
    result = go(tries.made(make_in_memory, budget=Budget(usd=1, step_usd=0.3)).run(Draft()))
    assert (result.steps, tries.last_ones) == (3, [])


# --- where it begins, and how it ends


def test_it_starts_from_the_step_that_the_strategy_names(make: Maker) -> None:
    """After a regression that is the best one, whatever ended the others."""
    grows = scripted(5, 3)
    tries = Tries(pay(0.30, grows))
    options: dict[str, Any] = {"scorer": size, "backtrack": BestScore()}
    go(tries.made(make, **options).run(Draft(), run_id="r1"))
    assert (tries.told, tries.given) == ([(0, False), (1, False), (2, True)], [0, 5, 5])
    assert steps_of(make) == [(-1, 0.3, None), (0, 0.3, "restore 0"), (0, 0.2, None)]


@pytest.mark.parametrize("asks", ["judge", "cost_fn", "in the middle"])
def test_it_starts_from_there_also_after_a_refusal(make_in_memory: Maker, asks: str) -> None:
    """A judge that was refused, a charge after the step, a call in the middle of the next."""
    grows, judged = scripted(5, 3), count()
    dear = {"judge": [pay(0.1), buy(0.6)], "cost_fn": [pay(0.1), grow], "in the middle": [pay(0.1), pay(0.1), buy(0.6)]}
    todo = iter(dear[asks])
    options: dict[str, Any] = {
        "judge": {"converge_on": judge(lambda draft: next(judged) > 1 or next(todo)(draft).n < 0)},
        "cost_fn": {"cost_fn": lambda draft: 0.7 if draft.n == 3 else 0.1},
        "in the middle": {},
    }[asks]
    step = grows if asks != "in the middle" else lambda draft: next(todo)(draft) and grows(draft)
    tries = Tries(step, FREE)
    go(tries.made(make_in_memory, budget=UNDECLARED, scorer=size, backtrack=BestScore(), **options).run(Draft()))
    assert (tries.last_ones, tries.given[-1]) == ([2], 5)


def test_done_in_it_completes_the_run_with_its_result(make: Maker) -> None:
    """It has turned what was there into a result, of another type where it likes."""
    tries = Tries(last=pay(0.20, lambda draft: Done(grow(draft), result={"report": draft.n})))
    result = go(tries.made(make).run(Draft(), run_id="r1"))
    assert (result.status, result.stop_reason) == (RunStatus.COMPLETED, "done: the step said so (wrapped up)")
    assert (result.state, result.result, result.cost_usd) == (Draft(3), {"report": 2}, 0.8)
    assert go(tries.made(make).resume("r1")) == Draft(3)
    assert len(tries.told) == 3


def test_a_detector_may_be_content_with_it(make_in_memory: Maker) -> None:
    """It is a step that is looked at as any other."""
    result = go(Tries().made(make_in_memory, converge_on=judge(lambda draft: draft.n == 3)).run(Draft()))
    assert (result.status, result.steps) == (RunStatus.COMPLETED, 3)


def test_a_step_that_is_done_needs_no_wrapping_up(make: Maker) -> None:
    """Also when it has crossed the cap of the others, or its cost comes to that."""

    def swallow(draft: Draft) -> Done[Draft, None]:
        with pytest.raises(BudgetExhausted):
            spend(usd=0.80)
        return Done(grow(draft))

    for options in ({}, {"cost_fn": lambda _: 0.1}):
        tries = Tries(swallow)
        result = go(tries.made(make, budget=UNDECLARED, **options).run(Draft()))
        assert (result.status, tries.told) == (RunStatus.COMPLETED, [(0, False)])


def test_a_step_that_is_done_is_the_last_one_though_its_scorer_has_run_into_the_cap(make: Maker) -> None:
    """It said so, and there was enough for the scorer in what was kept: no other step is taken."""

    def score(draft: Draft) -> float:
        spend(usd=0.20)
        return 1.0

    tries = Tries(pay(0.60, lambda draft: Done(grow(draft))), FREE)
    result = go(tries.made(make, budget=UNDECLARED, scorer=score).run(Draft()))
    assert (tries.told, result.status, result.cost_usd) == ([(0, False)], RunStatus.COMPLETED, 0.8)


def test_the_record_of_a_run_that_wrapped_up_is_whole(make: Maker) -> None:
    """Whichever way it began."""
    for number, step in enumerate((pay(0.30), pay(0.80), buy(0.80), pay(0.30, buy(0.20)))):
        go(Tries(step).made(make, budget=UNDECLARED).run(Draft(), run_id=f"r{number}"))
        assert list(verify(make.store, make.store.get_run(f"r{number}"))) == []


# --- once


def test_it_is_over_though_it_has_spent_nothing(make: Maker) -> None:
    """There is one last step, and not as many as what was kept would pay for."""
    tries = Tries(last=FREE)
    result = go(tries.made(make).run(Draft()))
    assert (tries.last_ones, result.cost_usd) == ([2], 0.6)
    assert result.stop_reason == "budget: usd 0.60 of 1.00 (wrapped up in step 2)"


def test_it_is_tried_again_as_any_other_step(make: Maker) -> None:
    """It stays the step that wraps up, and there is one of it."""
    todo = iter([pay(0.05, fail), pay(0.05, fail), pay(0.05)])
    tries = Tries(last=lambda draft: next(todo)(draft))
    result = go(tries.made(make, retry=Retry(attempts=3, wait=0)).run(Draft(), run_id="r1"))
    assert (tries.last_ones, result.steps, result.cost_usd) == ([2, 2, 2], 3, 0.75)
    assert len(make.store.attempts("r1")) == 2


def test_the_try_that_was_refused_is_none_of_its_tries(make: Maker) -> None:
    """With two attempts it may fail once, whatever it was that began it."""
    todo = iter([fail, FREE])
    tries = Tries(buy(0.80), lambda draft: next(todo)(draft))
    options: dict[str, Any] = {"budget": UNDECLARED, "retry": Retry(attempts=2, wait=0)}
    result = go(tries.made(make, **options).run(Draft()))
    assert (tries.told, result.steps) == ([(0, False), (0, True), (0, True)], 1)


def test_it_is_over_when_its_failure_was_absorbed(make: Maker) -> None:
    """Under `LastGood` a failed step is a step, and this was the last one."""
    tries = Tries(last=pay(0.05, fail))
    result = go(tries.made(make, backtrack=LastGood()).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.state) == (RunStatus.BUDGET_EXHAUSTED, 3, Draft(2))
    assert tries.last_ones == [2]
    assert result.stop_reason == "budget: usd 0.65 of 1.00 (wrapped up in step 2)"


@pytest.mark.parametrize("last", [pay(0.50), buy(0.50)], ids=["crosses", "is refused"])
def test_the_whole_cap_ends_it(make: Maker, last: Act) -> None:
    """A charge across it is recorded, a call that does not fit is not made; it is not begun again, and it says so."""
    tries = Tries(last=last)
    result = go(tries.made(make).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, tries.last_ones) == (RunStatus.BUDGET_EXHAUSTED, 2, [2])
    assert "usd 1.10 of 1.00" in str(result.stop_reason)
    assert "wrapping up in step 2" in str(result.stop_reason)
    assert len(make.store.attempts("r1")) == 1


@pytest.mark.parametrize("asks", ["scorer", "converge_on", "cost_fn"])
def test_the_whole_cap_ends_it_also_when_it_has_returned(make: Maker, asks: str) -> None:
    """What is asked about its state spends of the same dollars; the state is kept."""

    def dear(draft: Draft) -> float:
        usd = 0.50 if current_run().wrap_up else 0.0
        if asks != "cost_fn":
            spend(usd=usd)
        return usd if asks == "cost_fn" else 0.0

    tries = Tries()
    asked: Any = judge(lambda draft: bool(dear(draft))) if asks == "converge_on" else dear
    result = go(tries.made(make, **{asks: asked}).run(Draft(), run_id="r1"))
    assert (result.steps, result.state, tries.last_ones) == (3, Draft(3), [2])
    assert "usd 1.30 of 1.00" in str(result.stop_reason)
    assert "in step 2)" in str(result.stop_reason)


@pytest.mark.parametrize("spent", [0.10, 0.80], ids=["committed", "lost"])
def test_a_strategy_that_raises_loses_no_step_that_was_paid_for(make: Maker, spent: float) -> None:
    """Also where a judge has run into the cap, and the next step was to wrap up."""

    def wrong(history: Any) -> int:
        raise ValueError("no way back")

    def approve(draft: Draft) -> bool:
        spend(usd=spent)
        return False

    options: dict[str, Any] = {"budget": UNDECLARED, "converge_on": judge(approve), "backtrack": wrong}
    with pytest.raises(ValueError, match="no way back"):
        go(make(pay(0.10), **options).run(Draft(), run_id="r1"))
    run = make.store.get_run("r1")
    assert (run.status, run.steps, run.stop_reason) == (RunStatus.FAILED, 1, "failed: ValueError: no way back")


# --- in a tree of runs


def tree(make: Maker, child: Any) -> Callable[[Draft], Any]:
    """A step that calls a child run."""

    def step(draft: Draft) -> Any:
        return child(draft)

    async def async_step(draft: Draft) -> Any:
        return await child(draft)

    async_step.__annotations__ = step.__annotations__ = {"draft": Draft}
    return async_step if make.is_async else step


def loop_of(make: Maker, fn: Callable[..., Any], **options: Any) -> Any:
    """A loop of a function that is sync or async as the maker's are."""
    from loomc_runner import loop

    return loop(checkpoint=make.store, **options)(fn)


def test_children_of_the_step_that_wraps_up_may_spend_what_was_kept(make: Maker) -> None:
    """They are refused it before, and are not told that they are the last step: that is their parent's."""
    told: list[tuple[bool, float | None]] = []

    def work(draft: Draft) -> Done[Draft, None]:
        here = current_run()
        told.append((here.wrap_up, here.left_usd))
        spend(usd=0.20)
        return Done(grow(draft))

    child = make(work, name="child", budget=Budget())
    parent = loop_of(make, tree(make, child), name="parent", budget=Budget(usd=0.50, wrap_up=0.20))
    result = go(parent.run(Draft(), run_id="r1"))
    assert (result.steps, result.cost_usd) == (2, 0.4)
    assert result.stop_reason == "budget: usd 0.40 of 0.50 (wrapped up in step 1)"
    assert told == [(False, 0.3), (False, 0.3)]


def test_a_child_that_was_cut_off_at_the_parents_cap_goes_on_in_the_step_that_wraps_up(make: Maker) -> None:
    """The parent's step is tried again, finds its child where it was, and that one takes its next step."""
    begun: list[int] = []

    def work(draft: Draft) -> Any:
        begun.append(draft.n)
        return buy(0.20, lambda draft: Done(grow(draft)) if draft.n else grow(draft))(draft)

    child = make(work, name="child", budget=Budget())
    parent = loop_of(make, tree(make, child), name="parent", budget=Budget(usd=0.50, wrap_up=0.20))
    result = go(parent.run(Draft(), run_id="r1"))
    assert (begun, result.state, result.steps, result.cost_usd) == ([0, 1], Draft(2), 1, 0.4)
    assert [(run.id, run.steps, run.status) for run in make.store.list_runs(parent="r1")] == [
        ("r1.0.0", 2, RunStatus.COMPLETED)
    ]


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "tasks"])
def test_children_side_by_side_that_do_not_all_fit_go_on_in_the_step_that_wraps_up(
    memory: MemoryStore, is_async: bool
) -> None:
    """Those that are complete give their results, the others have what was kept."""
    make, begun = Maker(memory, is_async=is_async), list[int]()

    def work(draft: Draft) -> Done[Draft, None]:
        begun.append(draft.n)
        return buy(0.10, Done)(draft)

    child = make(work, name="child", budget=Budget())

    def step(draft: Draft) -> Any:
        return Done(Draft(len(child.map([Draft(n) for n in range(4)]))))

    async def async_step(draft: Draft) -> Any:
        return Done(Draft(len(await child.map([Draft(n) for n in range(4)]))))

    async_step.__annotations__ = step.__annotations__ = {"draft": Draft}
    parent = loop_of(make, async_step if is_async else step, budget=Budget(usd=0.50, wrap_up=0.20))
    result = go(parent.run(Draft(), run_id="r1"))
    assert (result.status, result.state, result.steps) == (RunStatus.COMPLETED, Draft(4), 1)
    assert (result.cost_usd, len(memory.attempts("r1"))) == (0.40, 1)
    assert sorted(set(begun)) == [0, 1, 2, 3]
    assert {run.status for run in memory.list_runs(parent="r1")} == {RunStatus.COMPLETED}


def test_a_child_wraps_up_on_its_own_dollars_and_its_parent_goes_on(make: Maker) -> None:
    """What a child keeps is its own; for its parent its end is an error or a result, as ever."""
    tries = Tries(last=pay(0.20, Done))
    child = tries.made(make, name="child")
    parent = loop_of(make, tree(make, child), name="parent", budget=Budget(usd=9, iterations=2))
    result = go(parent.run(Draft(), run_id="r1"))
    assert (result.steps, result.cost_usd, tries.last_ones) == (2, 1.6, [2, 2])


def test_an_enclosing_cap_begins_no_wrapping_up_of_a_child(make: Maker) -> None:
    """What the child has kept is not there when its parent has no more; that limit is the one reported."""
    tries = Tries()
    child = tries.made(make, name="child")
    parent = loop_of(make, tree(make, child), name="parent", budget=Budget(usd=0.5))
    result = go(parent.run(Draft(), run_id="r1"))
    assert (tries.last_ones, result.cost_usd) == ([], 0.3)
    (run,) = make.store.list_runs(parent="r1")
    assert str(run.stop_reason).startswith("budget of the enclosing run r1: usd 0.60 of 0.50")


def test_a_child_that_has_wrapped_up_does_not_do_so_again_for_its_parent(make: Maker) -> None:
    """When its parent's step is tried again it is as it was: at its end."""
    tries = Tries()
    child = tries.made(make, name="child")
    options: dict[str, Any] = {"budget": Budget(usd=9), "retry": Retry(2, wait=0, on=BudgetExhausted)}
    with pytest.raises(BudgetExhausted, match="wrapped up"):
        go(loop_of(make, tree(make, child), name="parent", **options).run(Draft(), run_id="r1"))
    assert (len(make.store.attempts("r1")), tries.last_ones, len(tries.told)) == (2, [2], 3)


# --- over resumes


BEGINNINGS: dict[str, Act] = {
    "does not fit": AS_A_RULE,
    "crosses": lambda draft: pay(0.60 if draft.n else 0.30)(draft),
    "is refused": pay(0.10, buy(0.70)),
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_run_that_was_killed_in_it_goes_on_with_it(mortal: Maker, beginning: Act) -> None:
    """It wraps up once more, for what is left; what was spent stays spent, and never comes to more than there was."""

    def die(draft: Draft) -> Draft:
        spend(usd=0.02)
        os.kill(os.getpid(), signal.SIGKILL)
        return draft

    deadly = Tries(beginning, die).made(mortal, budget=UNDECLARED)
    begin: list[Callable[[], Any]] = [partial(deadly.run, Draft(), run_id="r1"), *[partial(deadly.resume, "r1")] * 2]
    assert [dying(lambda life=life: go(life())) for life in begin] == [signal.SIGKILL] * 3
    before = mortal.store.subtree("r1")[0]
    tries = Tries(beginning, pay(0.02))
    result = go(tries.made(mortal, budget=UNDECLARED).run(Draft(), run_id="r1"))
    assert len(tries.last_ones) == 1
    assert tries.told[-1] == (result.steps - 1, True)
    assert "wrapp" in str(result.stop_reason)
    assert before < to_nano(result.cost_usd) <= to_nano(1.00)
    assert list(verify(mortal.store, mortal.store.get_run("r1"))) == []


def test_one_that_was_killed_before_it_had_paid_is_charged_what_was_kept(mortal: Maker) -> None:
    """That was its reservation; what is left then is less, and is all that the next try has."""

    def die(draft: Draft) -> Draft:
        os.kill(os.getpid(), signal.SIGKILL)
        return draft

    refine = Tries(last=die).made(mortal)
    assert dying(lambda: go(refine.run(Draft(), run_id="r1"))) == signal.SIGKILL
    tries = Tries(last=pay(0.15))
    result = go(tries.made(mortal).run(Draft(), run_id="r1"))
    assert (tries.told, result.cost_usd) == ([(2, True)], 1.0)
    assert columns(mortal.store.charges("r1"), "nano_usd", "estimated")[2:] == [
        (to_nano(0.25), True),
        (to_nano(0.15), False),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError], ids=["interrupted", "failed"])
def test_a_run_that_stopped_in_it_goes_on_with_it(make: Maker, error: type[BaseException]) -> None:
    """It has not wrapped up yet."""

    def stop(draft: Draft) -> Draft:
        raise error("now")

    with pytest.raises(error):
        go(Tries(last=pay(0.05, stop)).made(make).run(Draft(), run_id="r1"))
    tries = Tries(last=pay(0.05))
    result = go(tries.made(make).run(Draft(), run_id="r1"))
    assert (tries.told, result.cost_usd) == ([(2, True)], 0.7)


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize("last", [FREE, buy(2.00), pay(0.30, buy(2.00))], ids=["ended", "refused", "crossed"])
def test_a_resume_after_it_does_nothing_more(make: Maker, beginning: Act, last: Act) -> None:
    """However often: the run has come to its end, and raises that."""
    tries = Tries(beginning, last)
    refine = tries.made(make, budget=UNDECLARED)
    result = go(refine.run(Draft(), run_id="r1"))
    told = list(tries.told)
    for _ in range(3):
        with pytest.raises(BudgetExhausted, match="usd"):
            go(refine.resume("r1"))
    run = make.store.get_run("r1")
    assert (tries.told, run.status, run.steps) == (told, RunStatus.BUDGET_EXHAUSTED, result.steps)
    assert run.nano_usd == to_nano(result.cost_usd)


@pytest.mark.parametrize(
    "budget",
    [Budget(iterations=50), Budget(usd=1), Budget(usd=1, wrap_up=0.25)],
    ids=["other limits", "the same", "the same and as much kept"],
)
def test_a_budget_that_is_not_raised_wraps_up_no_more(make: Maker, budget: Budget) -> None:
    """More is spent only when there are more dollars, not when some other limit is named."""
    tries = Tries()
    refine = tries.made(make)
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted, match="wrapped up"):
        go(refine.resume("r1", budget=budget))
    assert (len(tries.told), make.store.get_run("r1").cost_usd) == (3, 0.8)


def test_with_more_dollars_the_steps_go_on_and_a_new_one_wraps_up_at_the_new_end(make: Maker) -> None:
    """As much as before is kept again."""
    tries = Tries()
    refine = tries.made(make)
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted, match=r"usd 1\.90 of 2\.00 \(wrapped up in step 6\)"):
        go(refine.resume("r1", budget=Budget(usd=2)))
    assert tries.told[3:] == [(3, False), (4, False), (5, False), (6, True)]
    assert make.store.get_run("r1").budget == {"usd": 2.0, "wrap_up": 0.25, "step_usd": 0.3}


def test_a_raise_that_buys_no_other_step_wraps_up_anew(make_in_memory: Maker) -> None:
    """The new end is there at once."""
    tries = Tries(last=pay(0.15))
    refine = tries.made(make_in_memory)
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted, match=r"usd 0\.90 of 1\.10 \(wrapped up in step 3\)"):
        go(refine.resume("r1", budget=Budget(usd=1.10)))
    assert tries.last_ones == [2, 3]


def test_a_run_that_kept_nothing_can_be_given_something_to_wrap_up(make_in_memory: Maker) -> None:
    """With the dollars it has, or with more."""
    tries = Tries()
    refine = tries.made(make_in_memory, budget=Budget(usd=0.7, step_usd=0.3))
    go(refine.run(Draft(), run_id="r1"))
    assert tries.last_ones == []
    with pytest.raises(BudgetExhausted, match=r"wrapped up in step 2"):
        go(refine.resume("r1", budget=Budget(usd=0.90, wrap_up=0.25)))
    assert tries.told[2:] == [(2, True)]


def test_a_fork_keeps_as_much_and_wraps_up_for_itself(make: Maker) -> None:
    """It begins with nothing spent."""
    tries = Tries()
    refine = tries.made(make)
    go(refine.run(Draft(), run_id="r1"))
    forked = refine.fork("r1", step=2)
    with pytest.raises(BudgetExhausted, match=r"usd 0\.80 of 1\.00 \(wrapped up in step 2\)"):
        go(refine.resume(forked))
    assert tries.told[3:] == [(0, False), (1, False), (2, True)]


def test_what_would_have_been_wrapped_up_is_not_on_record(make_in_memory: Maker) -> None:
    """`what_if` refuses it, naming what it can be asked about."""
    refine = Tries().made(make_in_memory)
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(SpecError, match=r"^Budget\(wrap_up=0.1\): .*; ask about usd without it$"):
        refine.what_if("r1", budget=Budget(usd=0.5, wrap_up=0.1))
    assert refine.what_if("r1", budget=Budget(usd=0.5)).would_cost_usd == 0.3


# --- the cap


@given(
    usd=st.integers(100, 10 * NANO),
    kept=st.floats(0.01, 0.99),
    step=st.floats(0.02, 1.2),
    parts=st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=20),
    is_async=st.booleans(),
)
def test_no_more_is_spent_than_there_is_where_no_step_costs_more_than_it_said(
    usd: int, kept: float, step: float, parts: list[tuple[float, bool]], is_async: bool
) -> None:
    """Nor is any of what was kept spent before the step that wraps up, of which there is one.

    A step has said with `step_usd` what it costs at most, and the one that wraps up looks at what it has left; each
    try of them may cost so much, and fail.
    """
    budget = Budget(usd=usd / NANO, wrap_up=int(usd * kept) / NANO, step_usd=int(usd * step) / NANO)
    left = iter(parts)

    def act(draft: Draft) -> Draft:
        here, (part, fails) = current_run(), next(left, (1.0, False))
        most = to_nano(here.left_usd if here.wrap_up else budget.step_usd)
        assert most <= to_nano(here.left_usd)
        spend(usd=int(most * part) / NANO)
        return fail(draft) if fails else Draft(draft.n + 1, ["wrapped up"] if here.wrap_up else draft.words)

    store = MemoryStore()
    refine = Maker(store, is_async=is_async)(act, budget=budget, retry=Retry(50, wait=0))
    result = go(refine.run(Draft(), run_id="r1"))
    costs = [record.nano_usd or 0 for record in store.steps("r1")]
    tries = [attempt.nano_usd for attempt in store.attempts("r1") if attempt.step_n < result.steps - 1]
    assert store.subtree("r1")[0] <= usd
    if result.state.words:
        assert sum(costs[:-1]) + sum(tries) <= usd - budget.nano_kept
    else:  # what was left went into tries of it that failed
        assert store.subtree("r1")[0] == usd
