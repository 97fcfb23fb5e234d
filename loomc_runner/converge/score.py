"""Detectors and the stall rule that look at scores."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from loomc_runner.errors import SpecError
from loomc_runner.records import StepRecord
from loomc_runner.scores import Direction, History, check_count, check_direction, check_number, gain


@dataclass(frozen=True)
class score_plateau:  # noqa: N801 - called like a function, as in loomc 0.3.0
    """Stop when the score has not improved for `patience` steps.

    Args:
        patience: How many scored steps in a row must fail to improve on the best score before them.
        min_delta: The smallest gain over that best which counts as an improvement. Raise it for noisy scores.
        direction: `"maximize"`, or `"minimize"` when a lower score is better.
    """

    patience: int = 3
    min_delta: float = 0.01
    direction: Direction = "maximize"
    needs_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("score_plateau(patience", self.patience)
        check_number("score_plateau(min_delta", self.min_delta, least=0)
        check_direction("score_plateau", self.direction)

    def __call__(self, history: History, /) -> str | None:
        """The reason to stop, or None."""
        recent = last_scored(history, self.patience)
        return str(self) if recent and not _gained(history, recent, self.min_delta, self.direction) else None

    def __str__(self) -> str:
        return f"score_plateau(patience={self.patience})"


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
        if not recent or any(step.decision in {"escalate", "stalled"} for step in recent):
            return False
        return not _gained(history, recent, 0.0, self.direction)


def last_scored(history: History, count: int) -> list[StepRecord[Any]]:
    """The last `count` steps that have a score, newest first; none when there are fewer."""
    if len(history) <= count or history[-1].best_n is None:
        return []
    recent = list(islice((step for step in reversed(history) if step.score is not None), count))
    return recent if len(recent) == count else []


def _gained(history: History, recent: list[StepRecord[Any]], min_delta: float, direction: Direction) -> bool:
    """Whether the best of the recent steps is better than the best before them, if there is one."""
    first, best_n = recent[-1].step_n, history[-1].best_n
    before = history[first - 1].best_n if first else None
    if before is None or best_n is None:
        return True
    best, earlier = history[best_n].score, history[before].score
    if best_n < first or best is None or earlier is None:
        return False
    more = gain(best, earlier, direction)
    return more > min_delta or math.isclose(more, min_delta)
