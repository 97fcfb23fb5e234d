"""Detectors that ask a function of yours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from loomc_runner.converge.base import Answer, name_of
from loomc_runner.errors import SpecError
from loomc_runner.scores import History


@dataclass(frozen=True)
class predicate:  # noqa: N801 - called like a function, as in loomc 0.3.0
    """Stop when `fn(history)` says so: a reason in words, or True. `history[-1]` is the newest step."""

    fn: Callable[[History], Answer | Awaitable[Answer]]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise SpecError(f"predicate({self.fn!r}): give a function of the history")

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        """The function's answer."""
        return self.fn(history)

    def __str__(self) -> str:
        return f"predicate({name_of(self.fn)})"


@dataclass(frozen=True)
class judge:  # noqa: N801 - called like a function, as in loomc 0.3.0
    """Stop when `fn(state)` says the newest state is good enough; steps that failed are not shown to it.

    What the judge spends with `spend` is charged to the step it judges.
    """

    fn: Callable[[Any], Answer | Awaitable[Answer]]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise SpecError(f"judge({self.fn!r}): give a function of the state")

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        """The judge's answer."""
        if not history or history[-1].error is not None:
            return None
        return self.fn(history[-1].state)

    def __str__(self) -> str:
        return f"judge({name_of(self.fn)})"
