"""Other stopping rules over what a run has recorded: where it would have stopped, and what that would have saved."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from loomc_runner.budget import Budget
from loomc_runner.clock import SystemClock
from loomc_runner.converge import Detector, first_reason, judge, parts_of
from loomc_runner.errors import BudgetExhausted, SpecError
from loomc_runner.history import History
from loomc_runner.ledger import Ledger
from loomc_runner.records import NANO, Run, RunStatus, StepRecord
from loomc_runner.report import direction_of, page_attempts
from loomc_runner.scores import Direction, gain
from loomc_runner.spec import is_coroutine_function
from loomc_runner.state import Codec
from loomc_runner.store import Store, finish

AFTERWARDS = {"cost_fn", "cost_fn failed", "scorer", "judge"}
"""Labels of charges that are made when a step has returned its state, which is committed then."""

UPWARDS = "whether higher or lower scores are better is not on record; higher is assumed"

CHILDREN = "inside a step, child runs may have stopped at the cap sooner or later than is counted here"

Step = StepRecord[Any]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would have become of a run under other stopping rules.

    Attributes:
        run_id: The run.
        steps, cost_usd, score: What it has taken, spent (child runs included), and reached at best.
        stop_step: The step after which it would have stopped; -1: before its first one. None: not within its record.
        stop_reason: Why, in the words of a stop reason; None when it would not have stopped.
        would_cost_usd, would_score: What it would have spent and reached at best by then.
        saved_usd: Dollars it would not have spent.
        score_lost: How much better its best score is in the end; None where there is no score by then.
        unknown: What the record cannot tell, in words.
    """

    run_id: str
    steps: int
    cost_usd: float
    score: float | None
    stop_step: int | None
    stop_reason: str | None
    would_cost_usd: float
    would_score: float | None
    saved_usd: float
    score_lost: float | None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stop:
    """Where a run would have stopped: after how many steps, why, and what it would have spent in nano-dollars."""

    steps: int
    reason: str
    nano_usd: int
    unknown: tuple[str, ...] = ()


class _Try(NamedTuple):
    """A try of a step, what it spent, and whether it became the step."""

    step_n: int
    nano_usd: int
    committed: bool


def what_if(
    store: Store, run: Run, detectors: Sequence[Detector], budget: Budget | None, codec: Codec[Any] | None = None
) -> WhatIf:
    """Where a run would have stopped with these detectors and this budget instead of its own; executes no step.

    The detectors are asked about each step in turn, and the budget is kept by a ledger, as when the run was driven.

    Args:
        store: Where the run is kept.
        run: The run; of one at work, the record so far.
        detectors: Asked in this order; the first reason counts.
        budget: Its dollars, `step_usd` and iterations; the others are refused.
        codec: Reads the states, for detectors that look at them.

    Raises:
        SpecError: When the record cannot tell.
    """
    _check_rules(detectors, budget)
    course = _Course(store, run, detectors, budget or Budget(), codec or Codec(Any))
    stop = course.follow()
    then = course.seen.best_score
    best = course.seen.run_out(run.steps)
    _check_scores(run, detectors, best)
    spent = store.subtree(run.id)[0]
    would_cost = spent if stop is None else stop.nano_usd
    return WhatIf(
        run_id=run.id,
        steps=run.steps,
        cost_usd=spent / NANO,
        score=best,
        stop_step=None if stop is None else stop.steps - 1,
        stop_reason=None if stop is None else stop.reason,
        would_cost_usd=would_cost / NANO,
        would_score=then,
        saved_usd=(spent - would_cost) / NANO,
        score_lost=None if then is None or best is None else gain(best, then, course.seen.direction),
        unknown=(
            *((CHILDREN,) if course.has_capped_children() else ()),
            *((UPWARDS,) if course.recorded is None and best is not None else ()),
            *(() if stop is None else stop.unknown),
        ),
    )


def _check_rules(detectors: Sequence[Detector], budget: Budget | None) -> None:
    """Refuse rules of which no record can tell what they would have said."""
    named = {} if budget is None else budget.to_json()
    if not detectors and not named:
        raise SpecError("name a rule to ask about: a detector, or a budget with usd or iterations")
    if "wrap_up" in named:
        raise SpecError(
            f"Budget(wrap_up={named['wrap_up']!r}): what a step for wrapping up would have done is not on record; "
            "ask about usd without it"
        )
    if unknown := sorted(set(named) - {"usd", "step_usd", "iterations"}):
        raise SpecError(
            f"Budget({unknown[0]}={named[unknown[0]]!r}): the record does not tell how much of that was used when; "
            "ask about usd and iterations"
        )
    for part in parts_of(tuple(detectors)):
        if isinstance(part, judge):
            raise SpecError(f"{part} asks a model, or whatever its function is; the record does not tell its answers")
        if is_coroutine_function(part):
            raise SpecError(f"{getattr(part, '__qualname__', part)} is async: nothing is waited for over a record")


def _check_scores(run: Run, detectors: Sequence[Detector], best: float | None) -> None:
    needy = [part for part in parts_of(tuple(detectors)) if getattr(part, "needs_score", False)]
    if needy and best is None and run.steps:
        raise SpecError(f"{needy[0]} compares scores, and run {run.id} has none; leave it out, or ask about its budget")


class _Seen(Sequence[Step]):
    """The steps of a run up to one of them, as a detector saw them when that one was the newest.

    The best step so far is worked out anew, since the direction may be another one than that of the run.
    """

    def __init__(self, history: History[Any], direction: Direction) -> None:
        self.direction = direction
        self.best_score: float | None = None
        self._history = history
        self._length = 0
        self._bests = array("q")  # each step that was better than all before it

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        if isinstance(index, slice):
            return [self[step_n] for step_n in range(*index.indices(self._length))]
        step_n = index + self._length if index < 0 else index
        if not 0 <= step_n < self._length:
            raise IndexError(f"step {index} of {self._length}")
        step = self._history[step_n]
        better = bisect_right(self._bests, step_n)
        best_n = self._bests[better - 1] if better else None
        decision = None if step_n == self._length - 1 else step.decision  # what follows from it is being decided
        if (best_n, decision) == (step.best_n, step.decision):
            return step
        return step._replace(best_n=best_n, decision=decision)

    def see(self) -> Step:
        """The next step, as it is recorded."""
        step = self._history[self._length]
        self._length += 1
        if step.score is not None and (
            self.best_score is None or gain(step.score, self.best_score, self.direction) > 0
        ):
            self._bests.append(step.step_n)
            self.best_score = step.score
        return step

    def run_out(self, length: int) -> float | None:
        """See all there are, and give the best score of them."""
        while self._length < length:
            self.see()
        return self.best_score


class _Course:
    """A run that is gone through under other rules, try by try, with a ledger of its own."""

    def __init__(
        self, store: Store, run: Run, detectors: Sequence[Detector], budget: Budget, codec: Codec[Any]
    ) -> None:
        self.store, self.run, self.detectors = store, run, detectors
        self.ledger = Ledger(run.id, budget, SystemClock())
        self.history = History(store, run.id, codec, run.steps)
        self.recorded = direction_of(store, run)
        directions = (getattr(part, "direction", None) for part in parts_of(tuple(detectors)))
        self.seen = _Seen(self.history, next(filter(None, directions), self.recorded or "maximize"))

    def follow(self) -> _Stop | None:
        """Go through the tries until a rule stops the run; None when none does."""
        last: _Try | None = None
        before = 0
        try:
            for one in self._tries():
                if last is None or one.step_n > last.step_n:
                    before = self.ledger.spent
                if stop := self._take(one, before):
                    return stop
                last = one
            if (last is None or last.committed) and not self._has_ended():
                self.ledger.open_step()
        except BudgetExhausted as error:
            return self._stop(f"budget: {error.reason}")
        return None

    def has_capped_children(self) -> bool:
        """Whether there are child runs, which would have looked at the cap within their parent's steps."""
        return self.ledger.dollar_capped and bool(self.store.list_runs(parent=self.run.id, limit=1))

    def _tries(self) -> Iterator[_Try]:
        attempts = page_attempts(self.store, self.run)
        tried = next(attempts, None)
        for step_n in range(self.run.steps + 1):  # one more than are committed: the step under way
            while tried is not None and tried.step_n <= step_n:
                yield _Try(step_n, tried.nano_usd, committed=False)
                tried = next(attempts, None)
            if step_n < self.run.steps:
                yield _Try(step_n, self.history[step_n].nano_usd or 0, committed=True)

    def _take(self, one: _Try, before: int) -> _Stop | None:
        """A try as the driver takes it: it starts when it fits, is cut off at the cap, is committed and looked at.

        Raises:
            BudgetExhausted: When it does not start.
        """
        account = self.ledger.open_step()
        account.charge(one.nano_usd, 0)
        crossed = self._is_overdrawn()
        if crossed and (cut := self._cut_off(one, before)):
            return cut
        account.settle()
        return self._look(crossed=crossed) if one.committed else None

    def _is_overdrawn(self) -> bool:
        try:
            self.ledger.check_claims()
        except BudgetExhausted:
            return True
        return False

    def _cut_off(self, one: _Try, before: int) -> _Stop | None:
        """The end in the middle of a try; None when it had returned its state by then, which is committed."""
        spent, label = self._crossing(one.step_n, before)
        if one.committed and (label in AFTERWARDS or self.run.loop is None):  # loomc 0.3.0 priced returned states
            return None
        doubt = f"step {one.step_n} is cut off where it crosses the cap; would it have returned a state all the same?"
        return self._stop(self._usd_reason(spent), spent, (doubt,) if one.committed else ())

    def _crossing(self, step_n: int, spent: int) -> tuple[int, str | None]:
        """What was spent when a charge of the step crossed the cap, and the label of that charge."""
        cap = self.ledger.budget.nano_usd or 0
        by_children = self.store.list_runs(parent=self.run.id, parent_step=step_n, limit=1)
        for charge in () if by_children else self.store.charges(self.run.id, step_n, step_n + 1):
            spent += charge.nano_usd
            if spent > cap:
                return spent, charge.label
        return self.ledger.spent, None  # the charges of child runs are with them

    def _usd_reason(self, spent: int) -> str:
        cap = self.ledger.budget.usd or 0.0
        return f"budget: {BudgetExhausted('usd', spent / NANO, cap).reason}"

    def _stop(self, reason: str, spent: int | None = None, unknown: tuple[str, ...] = ()) -> _Stop:
        return _Stop(self.ledger.steps, reason, self.ledger.spent if spent is None else spent, unknown)

    def _look(self, *, crossed: bool) -> _Stop | None:
        """What the rules say of a step that is committed now."""
        step = self.seen.see()
        self.ledger.steps += 1
        self._check_way(step)
        if self._is_done(step):
            return None
        if crossed:
            return self._stop(self._usd_reason(self.ledger.spent))
        reason = None if step.error else finish(first_reason(self.detectors, self.seen))
        return self._stop(f"converged: {reason}") if reason else None

    def _check_way(self, step: Step) -> None:
        """Refuse to go on where the run went back to its best, when another step is the best by these rules."""
        went_back = step.error is None and (step.decision or "").startswith("restore ")
        if went_back and self.seen.direction != self.recorded:
            raise SpecError(
                f"run {self.run.id} was to {self.recorded} its scores and went back after step {step.step_n}; "
                f"what it would have done to {self.seen.direction} them is not on record"
            )

    def _is_done(self, step: Step) -> bool:
        is_newest = step.step_n == self.run.steps - 1
        return is_newest and self.run.status is RunStatus.COMPLETED and (self.run.stop_reason or "").startswith("done:")

    def _has_ended(self) -> bool:
        """Whether the run ended with its newest step for a reason that no rule here replaces."""
        if not self.run.steps:
            return False
        newest = self.history[-1]
        failed = newest.error is not None and newest.decision == "stop"
        return failed or newest.decision == "stalled" or self._is_done(newest)
