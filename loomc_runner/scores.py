"""What makes one score better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from loomc_runner.errors import SpecError
from loomc_runner.records import StepRecord

Direction = Literal["maximize", "minimize"]
History = Sequence[StepRecord[Any]]


def gain(score: float, other: float, direction: Direction) -> float:
    """How much better the score is than the other; negative when it is worse."""
    return score - other if direction == "maximize" else other - score


def check_direction(owner: str, direction: str) -> None:
    """Raise `SpecError` unless the direction is one of the two."""
    if direction not in {"maximize", "minimize"}:
        raise SpecError(f'{owner}(direction={direction!r}): give "maximize" or "minimize"')


def check_number(name: str, value: Any, *, least: float = -math.inf) -> None:
    """Raise `SpecError` unless the value is a finite number, not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        wanted = "a finite number" if least == -math.inf else f"a number, {least:g} or more"
        raise SpecError(f"{name}={value!r}): give {wanted}")


def check_count(name: str, value: Any) -> None:
    """Raise `SpecError` unless the value is a whole number, at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SpecError(f"{name}={value!r}): give a whole number, at least 1")
