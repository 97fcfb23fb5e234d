"""Strategies: pure functions of the history that say from which step to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, ClassVar, Protocol

from loomc_runner.errors import SpecError
from loomc_runner.records import INITIAL
from loomc_runner.scores import Direction, History, check_count, check_direction, check_number, gain


class Strategy(Protocol):
    """Say from which step to go on, or None to go on from the newest.

    Any callable with this signature is a strategy. The newest record may be of a step that failed (`error` is
    set); a strategy that returns a step then absorbs the failure. -1 is the initial state.
    """

    def __call__(self, history: History, /) -> int | None:
        """The number of the step to restore, or None."""
        ...


@dataclass(frozen=True)
class BestScore:
    """Go back to the best state so far when a step scores worse; the loop's result is the best state.

    Args:
        metric: A function of the state that gives the score, when the loop has no `scorer`.
        tolerance: How much worse than the best a step may score without going back. Raise it to let the
            loop walk through a small dip.
        direction: `"maximize"`, or `"minimize"` when a lower score is better.
        resample: How often the scorer is asked in all before a new best replaces the old one. Raise it to 3 or more
            when the same state is not always given the same score: then the first score, and each one that beats the
            best, is asked for again, the step's score is the mean of all the answers (`StepRecord.scores`), and it is
            the new best only if that still beats the old one. So a lucky score does not block the better steps
            that come after it. Each answer is charged as the first is. When the scorer fails on the way, or meets a
            limit, the answers so far are kept, but the step has no score and is not the best.
    """

    metric: Callable[[Any], Any] | None = None
    tolerance: float = 0.0
    direction: Direction = "maximize"
    resample: int = 1
    needs_score: ClassVar[bool] = True
    returns_best: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.metric is not None and not callable(self.metric):
            raise SpecError(f"BestScore(metric={self.metric!r}): give a function of the state")
        check_number("BestScore(tolerance", self.tolerance, least=0)
        check_direction("BestScore", self.direction)
        check_count("BestScore(resample", self.resample)

    def __call__(self, history: History, /) -> int | None:
        """The best step when the newest scored worse."""
        newest = history[-1]
        if newest.score is None or newest.best_n is None or newest.best_n == newest.step_n:
            return None
        best = history[newest.best_n].score
        lost = 0.0 if best is None else gain(best, newest.score, self.direction)
        return newest.best_n if lost > self.tolerance else None


def askings(strategies: Iterable[Any]) -> int:
    """How often a scorer is asked before a new best replaces the old one: the most that a strategy wants."""
    wanted = (getattr(strategy, "resample", 1) for strategy in strategies)
    return max((times for times in wanted if isinstance(times, int)), default=1)


def is_new_best(score: float, history: History, direction: Direction) -> bool:
    """Whether the score beats that of the best step so far, or there is none yet."""
    best_n = history[-1].best_n if len(history) else None
    best = None if best_n is None else history[best_n].score
    return best is None or gain(score, best, direction) > 0


@dataclass(frozen=True)
class LastGood:
    """Go on from the last good state when a step fails, up to `max_failures` failures in a row.

    A failure that is absorbed is a committed step with its `error` and its parent's state, and counts as an
    iteration; what it spent stays spent. The next failure after `max_failures` in a row ends the run with
    its own error.
    """

    max_failures: int = 3

    def __post_init__(self) -> None:
        check_count("LastGood(max_failures", self.max_failures)

    def __call__(self, history: History, /) -> int | None:
        """The step to go on from when the newest failed, unless too many failed in a row."""
        newest = history[-1]
        if newest.error is None:
            return None
        earlier = range(newest.step_n - 1, INITIAL, -1)
        failures = 1 + sum(
            1 for _ in takewhile(lambda n: history[n].error is not None, islice(earlier, self.max_failures))
        )
        return newest.parent_n if failures <= self.max_failures else None
