"""Budgets as they are declared."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from loomc_runner.clock import parse_duration
from loomc_runner.errors import CostError, SpecError
from loomc_runner.records import NANO

LARGEST_USD = 1e9


@dataclass(frozen=True)
class Budget:
    """What a run may use; every limit holds over all its resumes, and child runs spend from it too.

    Args:
        usd: Dollars. Charges come from `spend` and from `cost_fn`.
        iterations: Committed steps of this loop; steps of child loops do not count.
        wall_clock: Working time as `"90s"`, `"10m"`, `"1h30m"` or a timedelta. Waiting for a person, or for
            the consumer of a stream, is not working time.
        tokens: Tokens, as given to `spend(tokens=...)`.
        step_usd: What one step is expected to cost at most, child runs included. Reserved before each step, so
            that no step starts which does not fit. Without it the dearest step so far is taken.
        strict: Make a step for which nobody recorded a cost an error instead of a warning.
        wrap_up: Dollars of `usd` that are kept for one last step. When the others end for want of dollars it may spend
            them, with `current_run().wrap_up` true, to turn what is there into a result.

    `Budget()` has no limit at all. Raises `SpecError` for values that cannot be limits.
    """

    usd: float | None = None
    iterations: int | None = None
    wall_clock: str | timedelta | None = None
    tokens: int | None = None
    step_usd: float | None = None
    strict: bool = False
    wrap_up: float | None = None

    def __post_init__(self) -> None:
        for name in ("usd", "step_usd", "wrap_up"):
            value = getattr(self, name)
            if value is not None and not _is_amount(value):
                raise SpecError(f"Budget({name}={value!r}): give dollars, zero or more")
        for name in ("iterations", "tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise SpecError(f"Budget({name}={value!r}): give a whole number, at least 1")
        if self.wrap_up is not None and not 0 < self.wrap_up < (self.usd or 0):
            wanted = "give usd too, of which it is a part" if self.usd is None else f"give a part of usd={self.usd!r}"
            raise SpecError(f"Budget(wrap_up={self.wrap_up!r}): {wanted}, more than zero")
        if not isinstance(self.strict, bool):
            raise SpecError(f"Budget(strict={self.strict!r}): give True or False")
        if self.wall_clock is not None:
            try:
                parse_duration(self.wall_clock)
            except SpecError as error:
                raise SpecError(f"Budget(wall_clock={self.wall_clock!r}): {error}") from None

    @cached_property
    def wall_clock_seconds(self) -> float | None:
        """The wall clock limit in seconds."""
        return None if self.wall_clock is None else parse_duration(self.wall_clock)

    @cached_property
    def nano_usd(self) -> int | None:
        """The dollar limit in nano-dollars."""
        return None if self.usd is None else round(self.usd * NANO)

    @cached_property
    def nano_kept(self) -> int:
        """Nano-dollars that are kept for wrapping up."""
        return 0 if self.wrap_up is None else round(self.wrap_up * NANO)

    def replaced_by(self, newer: Budget) -> Budget:
        """This budget with the limits that the newer one names."""
        named = {f.name: value for f in dataclasses.fields(newer) if (value := getattr(newer, f.name)) is not None}
        return dataclasses.replace(self, **{**named, "strict": self.strict or newer.strict})

    def to_json(self) -> dict[str, Any]:
        """The limits that are set, as plain JSON."""
        named: dict[str, Any] = {"iterations": self.iterations, "tokens": self.tokens, "strict": self.strict or None}
        for name in ("usd", "step_usd", "wrap_up"):
            named[name] = None if (value := getattr(self, name)) is None else float(value)
        if self.wall_clock_seconds is not None:
            named["wall_clock"] = f"{self.wall_clock_seconds:.6f}".rstrip("0").rstrip(".") + "s"
        return {name: value for name, value in named.items() if value is not None}


SAFETY_CAP = Budget(iterations=1000)
"""What holds for a loop without any `budget`."""

SAFETY_NOTE = " (the safety cap: this loop has no budget)"


def to_nano(usd: Any) -> int:
    """Dollars as integer nano-dollars.

    Raises:
        CostError: When it is not a finite number, zero or more.
    """
    if type(usd) is float and 0.0 <= usd <= LARGEST_USD:  # as a rule, and none of NaN
        return round(usd * NANO)
    if not _is_amount(usd):
        raise CostError(f"a cost must be a finite number of dollars, zero or more, not {usd!r}")
    return round(float(usd) * NANO)


def _is_amount(value: Any) -> bool:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return False
    try:
        amount = float(value)
    except (ValueError, OverflowError):  # a signalling NaN; a number beyond all floats
        return False
    return math.isfinite(amount) and 0 <= amount <= LARGEST_USD
