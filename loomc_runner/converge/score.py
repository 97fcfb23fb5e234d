"""Detectors and the stall rule that look at scores."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

from loomc_runner.converge.noise import smallest_gain
from loomc_runner.errors import SpecError
from loomc_runner.records import StepRecord
from loomc_runner.scores import Direction, History, check_count, check_direction, check_number, gain


@dataclass(frozen=True)
class score_plateau:  # noqa: N801 - called like a function, as in loomc 0.3.0
    """Stop when the score has not improved for `patience` steps.

    Args:
        patience: How many scored steps in a row must fail to improve on the best score before them.
        min_delta: The smallest gain over that best which counts as an improvement. Raise it for noisy scores, or give
            `"noise"` under `BestScore(resample=3)`: then a gain counts from one standard error of the difference
            between the two scores on. That is worked out from how far the repeated scores on record lie apart, those
            of the newest 128 steps and of the two compared; as long as none was repeated any gain counts.
        direction: `"maximize"`, or `"minimize"` when a lower score is better.
    """

    patience: int = 3
    min_delta: float | Literal["noise"] = 0.01
    direction: Direction = "maximize"
    needs_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("score_plateau(patience", self.patience)
        if isinstance(self.min_delta, str) and self.min_delta != "noise":
            raise SpecError(f'score_plateau(min_delta={self.min_delta!r}): give a number, 0 or more, or "noise"')
        if not isinstance(self.min_delta, str):
            check_number("score_plateau(min_delta", self.min_delta, least=0)
        check_direction("score_plateau", self.direction)

    @property
    def needs_repeats(self) -> bool:
        """Whether it can say nothing unless scores are asked for more than once."""
        return self.min_delta == "noise"

    def __call__(self, history: History, /) -> str | None:
        """The reason to stop, or None."""
        bests = _bests(history, last_scored(history, self.patience))
        if bests is None:
            return None
        if not isinstance(self.min_delta, str):
            return None if _is_gain(*bests, self.min_delta, self.direction) else str(self)
        delta = smallest_gain(history, *bests)
        return None if _is_gain(*bests, delta, self.direction) else f"{self}: gains below {delta:.3g} are noise"

    def __str__(self) -> str:
        noise = ', min_delta="noise"' if self.needs_repeats else ""
        return f"score_plateau(patience={self.patience}{noise})"


@dataclass(frozen=True)
class target:  # noqa: N801 - called like a function, as its neighbours are
    """Stop when a step reaches the score.

    Args:
        score: The score that is good enough.
        direction: `"maximize"`: this score or higher; `"minimize"`: this score or lower.
    """

    score: float
    direction: Direction = "maximize"
    needs_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("target(score", self.score)
        check_direction("target", self.direction)

    def __call__(self, history: History, /) -> str | None:
        """The reason to stop, or None."""
        score = history[-1].score if history else None
        if score is None or gain(score, self.score, self.direction) < 0:
            return None
        return f"target({self.score:g}) reached with {score:g}"


@dataclass(frozen=True)
class Escalate:
    """What to do when the score has not improved for `after` steps: stop, or change something.

    Args:
        after: How many scored steps in a row must fail to beat the best score before them.
        handler: Called as `handler(state, history)` before the next step; the state it returns goes on (another
            model, another plan), and the count begins anew. Without it the run ends with `StallError`.
        direction: `"maximize"`, or `"minimize"` when a lower score is better.
    """

    after: int = 3
    handler: Callable[[Any, History], Any | Awaitable[Any]] | None = None
    direction: Direction = "maximize"
    needs_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("Escalate(after", self.after)
        if self.handler is not None and not callable(self.handler):
            raise SpecError(f"Escalate(handler={self.handler!r}): give a function handler(state, history)")
        check_direction("Escalate", self.direction)

    def __call__(self, history: History, /) -> bool:
        """Whether the loop has stalled."""
        recent = last_scored(history, self.after)
        if any(step.decision in {"escalate", "stalled"} for step in recent):
            return False
        bests = _bests(history, recent)
        return bests is not None and not _is_gain(*bests, 0.0, self.direction)


def last_scored(history: History, count: int) -> list[StepRecord[Any]]:
    """The last `count` steps that have a score, newest first; none when there are fewer."""
    if len(history) <= count or history[-1].best_n is None:
        return []
    recent = list(islice((step for step in reversed(history) if step.score is not None), count))
    return recent if len(recent) == count else []


def _bests(history: History, recent: list[StepRecord[Any]]) -> tuple[StepRecord[Any], StepRecord[Any]] | None:
    """The best step before the recent ones, and the best one now; None when there is none before, or none is recent."""
    first = recent[-1].step_n if recent else 0
    before, now = (history[first - 1].best_n, history[-1].best_n) if first else (None, None)
    return None if before is None or now is None else (history[before], history[now])


def _is_gain(earlier: StepRecord[Any], best: StepRecord[Any], min_delta: float, direction: Direction) -> bool:
    """Whether the best step is another one than it was, and better by so much."""
    if best.step_n == earlier.step_n or best.score is None or earlier.score is None:
        return False
    more = gain(best.score, earlier.score, direction)
    return more > min_delta or math.isclose(more, min_delta)
