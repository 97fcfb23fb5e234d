"""Budgets as they are declared, and the ledger that keeps them: a tree, so that children spend what parents have."""

from __future__ import annotations

import dataclasses
import math
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from loomc_runner.clock import Clock, parse_duration
from loomc_runner.errors import BudgetExhausted, CostError, SpecError
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

    `Budget()` has no limit at all. Raises `SpecError` for values that cannot be limits.
    """

    usd: float | None = None
    iterations: int | None = None
    wall_clock: str | timedelta | None = None
    tokens: int | None = None
    step_usd: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("usd", "step_usd"):
            value = getattr(self, name)
            if value is not None and not _is_amount(value):
                raise SpecError(f"Budget({name}={value!r}): give dollars, zero or more")
        for name in ("iterations", "tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise SpecError(f"Budget({name}={value!r}): give a whole number, at least 1")
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

    def replaced_by(self, newer: Budget) -> Budget:
        """This budget with the limits that the newer one names."""
        named = {f.name: value for f in dataclasses.fields(newer) if (value := getattr(newer, f.name)) is not None}
        return dataclasses.replace(self, **{**named, "strict": self.strict or newer.strict})

    def to_json(self) -> dict[str, Any]:
        """The limits that are set, as plain JSON."""
        named: dict[str, Any] = {"iterations": self.iterations, "tokens": self.tokens, "strict": self.strict or None}
        for name in ("usd", "step_usd"):
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


class Ledger:
    """What one run has spent and may still spend.

    `claimed` is what counts against the dollar cap: all that was spent, and for the open step the larger of
    its reservation and what it and its children claim. Every change travels to the root, under one lock for
    the whole tree. `lineage` is outermost first, so the outermost exhausted limit is the one that raises.
    """

    def __init__(self, run_id: str, budget: Budget | None, clock: Clock, parent: OpenStep | None = None) -> None:
        self.run_id = run_id
        self.budget = SAFETY_CAP if budget is None else budget
        self.note = SAFETY_NOTE if budget is None else ""
        self.clock = clock
        self.parent = parent
        self.lock: threading.RLock = parent.ledger.lock if parent else threading.RLock()
        self.lineage: tuple[Ledger, ...] = (*(parent.ledger.lineage if parent else ()), self)
        self.timed = tuple(ledger for ledger in self.lineage if ledger.budget.wall_clock is not None)
        self.dollar_capped = any(ledger.budget.usd is not None for ledger in self.lineage)
        self.spent = self.claimed = self.tokens = self.steps = self.dearest = 0
        self.worked = 0.0
        self.started: float | None = None
        self.rests_since: float | None = None
        self.recalled: set[str] = set()
        """The circuit breakers that were looked up for this run."""

    def restore(self, *, spent: int, tokens: int, steps: int, dearest: int, worked: float) -> None:
        """Take over what the run had used before it was resumed, up to the parent's account too."""
        self.steps, self.dearest, self.worked = steps, dearest, worked
        with self.lock:
            self.spent += spent
            self.claimed += spent
            self.tokens += tokens

    @property
    def strict(self) -> bool:
        """Whether an enclosing dollar limit insists on recorded costs."""
        return any(ledger.budget.strict for ledger in self.lineage)

    @property
    def elapsed(self) -> float:
        """Seconds of working time so far, all resumes together."""
        started, since = self.started, self.rests_since
        if started is None:
            return self.worked
        return self.worked + (self.clock.monotonic() if since is None else since) - started

    def start_clock(self) -> None:
        """Working time runs from here."""
        self.started = self.clock.monotonic()

    def stop_clock(self) -> None:
        """Working time stands still: the run waits or has ended."""
        with self.lock:
            self.wake()
            self.worked, self.started = self.elapsed, None

    def doze(self) -> None:
        """The clock stands still: all that is at work in the step waits."""
        if self.rests_since is None and self.started is not None:
            self.rests_since = self.clock.monotonic()

    def wake(self) -> None:
        """It goes on; the time in between was no working time."""
        since, self.rests_since = self.rests_since, None
        if since is not None and self.started is not None:
            self.started += self.clock.monotonic() - since

    def seconds_left(self) -> float | None:
        """Working time until the first wall clock of the lineage is used up; None when there is none."""
        if not self.timed:
            return None
        return min((ledger.budget.wall_clock_seconds or 0.0) - ledger.elapsed for ledger in self.timed)

    def expected(self) -> int:
        """Nano-dollars the next step is expected to cost: declared, else the dearest so far."""
        declared = self.budget.step_usd
        return self.dearest if declared is None else round(declared * NANO)

    def open_step(self) -> OpenStep:
        """Reserve the next step here and in every enclosing run.

        Raises:
            BudgetExhausted: When it does not fit; nothing stays reserved then.
        """
        step = OpenStep(self, self.expected())
        with self.lock:
            for ledger in self.lineage:
                ledger.check_used_up()
            if self.budget.iterations is not None and self.steps >= self.budget.iterations:
                raise BudgetExhausted(
                    "iterations", self.steps, self.budget.iterations, run_id=self.run_id, note=self.note
                )
            step.update()
            try:
                self.check_claims()
            except BudgetExhausted:
                step.reserved = 0
                step.update()
                raise
        return step

    def check_used_up(self) -> None:
        """Raise when no time, dollar or token of this run is left, so that nothing more may start."""
        self.check_own_time()
        cap, tokens = self.budget.nano_usd, self.budget.tokens
        if cap is not None and self.spent >= cap and self.spent:
            raise BudgetExhausted("usd", self.spent / NANO, cap / NANO, run_id=self.run_id)
        if tokens is not None and self.tokens >= tokens:
            raise BudgetExhausted("tokens", self.tokens, tokens, run_id=self.run_id)

    def check_own_claim(self) -> None:
        """Raise when the dollars or tokens of this run are overdrawn."""
        budget, cap = self.budget, self.budget.nano_usd
        if cap is not None and self.claimed > cap:
            note = "" if self.spent > cap else f" (${self.spent / NANO:.2f} spent, the rest expected)"
            raise BudgetExhausted("usd", self.claimed / NANO, cap / NANO, run_id=self.run_id, note=note)
        if budget.tokens is not None and self.tokens > budget.tokens:
            raise BudgetExhausted("tokens", self.tokens, budget.tokens, run_id=self.run_id)

    def check_own_time(self) -> None:
        """Raise when the wall clock of this run is used up."""
        seconds = self.budget.wall_clock_seconds
        if seconds is not None and (elapsed := self.elapsed) >= seconds:
            raise BudgetExhausted("wall_clock", elapsed, seconds, run_id=self.run_id)

    def check_claims(self) -> None:
        """Raise for the outermost run whose dollars or tokens are overdrawn."""
        for ledger in self.lineage:
            ledger.check_own_claim()

    def check_time(self) -> None:
        """Raise for the outermost run whose wall clock is used up."""
        for ledger in self.lineage:
            ledger.check_own_time()

    def check_limits(self) -> None:
        """Raise for the outermost run of which any limit is crossed."""
        for ledger in self.lineage:
            ledger.check_own_claim()
            ledger.check_own_time()


class OpenStep:
    """The account of one step while it runs: what is reserved for it, what it and its children spent."""

    def __init__(self, ledger: Ledger, reserved: int) -> None:
        self.ledger = ledger
        self.reserved = reserved
        self.spent = self.claimed = self.children = self.total = self.tokens = 0
        self.priced = False
        self.at_work = self.resting = 0
        self.dozes = self.settled = False

    def work(self, change: int) -> None:
        """So many calls and child runs more, or fewer, are at work in the step."""
        with self.ledger.lock:
            self.at_work += change
            self._look_at_the_clock()

    def rest(self, change: int) -> None:
        """So many of them more, or fewer, wait: for a quota, or before another try."""
        with self.ledger.lock:
            self.resting += change
            self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        """The clock stands still while all that is at work waits, here and so in the enclosing step."""
        dozes = not self.settled and self.resting > 0 and self.resting >= self.at_work
        if dozes == self.dozes:
            return
        self.dozes = dozes
        (self.ledger.doze if dozes else self.ledger.wake)()
        if self.ledger.parent is not None:
            self.ledger.parent.rest(1 if dozes else -1)

    def charge(self, nano_usd: int, tokens: int) -> None:
        """Add what was spent, here and in every enclosing run; checks nothing, since it is spent already."""
        with self.ledger.lock:
            step: OpenStep | None = self
            self.priced = True
            while step is not None:
                step.total += nano_usd
                step.tokens += tokens
                step.ledger.tokens += tokens
                step.ledger.spent += nano_usd
                if step is not self:
                    step.priced = True
                step = step.ledger.parent
            self.spent += nano_usd
            self.update()

    def settle(self) -> int:
        """Close the step, and return what it and its children have spent.

        A child that outlives the step (a task nobody waited for) goes on claiming what it has reserved.
        """
        with self.ledger.lock:
            self.settled = True
            self._look_at_the_clock()
            self.reserved = 0
            self.update()
            self.ledger.dearest = max(self.ledger.dearest, self.total)
            return self.total

    def update(self) -> None:
        """Work out the claim anew, and pass the difference on to every enclosing step and run."""
        step: OpenStep | None = self
        while step is not None:
            claim = max(step.reserved, step.spent + step.children)
            difference, step.claimed = claim - step.claimed, claim
            step.ledger.claimed += difference
            step = step.ledger.parent
            if step is not None:
                step.children += difference
