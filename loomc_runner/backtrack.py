"""Strategies: pure functions of the history that say from which step to go on."""

from __future__ import annotations

from collections.abc import Callable
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
    """

    metric: Callable[[Any], Any] | None = None
    tolerance: float = 0.0
    direction: Direction = "maximize"
    needs_score: ClassVar[bool] = True
    returns_best: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.metric is not None and not callable(self.metric):
            raise SpecError(f"BestScore(metric={self.metric!r}): give a function of the state")
        check_number("BestScore(tolerance", self.tolerance, least=0)
        check_direction("BestScore", self.direction)

    def __call__(self, history: History, /) -> int | None:
        """The best step when the newest scored worse."""
        newest = history[-1]
        if newest.score is None or newest.best_n is None or newest.best_n == newest.step_n:
            return None
        best = history[newest.best_n].score
        lost = 0.0 if best is None else gain(best, newest.score, self.direction)
        return newest.best_n if lost > self.tolerance else None


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
