"""A circuit breaker: counts failures in a row, and says whether a function may be called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from loomc_runner.clock import Clock, SystemClock, parse_duration
from loomc_runner.errors import BudgetExhausted, CircuitOpenError, SpecError
from loomc_runner.retry import ErrorFilter, check_filter, parts_of_error, picks
from loomc_runner.scores import check_count

State = Literal["closed", "open", "half_open"]
Backoff = Literal["fixed", "exponential"]


class Snapshot(NamedTuple):
    """What a breaker knows at one moment.

    `failures` are failures in a row, `openings` how often it opened since it was last closed, `retry_after` the
    seconds until it lets a trial call through.
    """

    state: State
    failures: int
    openings: int
    retry_after: float


class CircuitBreaker:
    """Counts the failures of a function in a row, and says whether it may be called; safe to use from many threads.

    Closed, it lets every call through until `fail_threshold` of them in a row have failed. Open, it refuses all
    calls until the cooldown is over. Half open, it lets one call through as a trial: a success closes the breaker,
    a failure opens it again. A call that ends after the breaker has changed since it began counts no more.

    Args:
        name: How errors name the function.
        clock: What the cooldown is measured by.
        before_call: Called before each call is let in or refused; an error it raises goes to the caller.
        on_change: Called with the new state after each change, outside of the lock: two changes may come at once.

    The other options are those of `circuit_breaker`.
    """

    def __init__(
        self,
        name: str,
        *,
        fail_threshold: int = 3,
        cooldown: str | float | timedelta = "30s",
        backoff: Backoff = "fixed",
        max_cooldown: str | float | timedelta | None = None,
        is_failure: ErrorFilter | None = None,
        clock: Clock | None = None,
        before_call: Callable[[CircuitBreaker], None] | None = None,
        on_change: Callable[[CircuitBreaker, State], None] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise SpecError(f"circuit_breaker(name={name!r}): give a name that is not empty")
        check_count("circuit_breaker(fail_threshold", fail_threshold)
        if is_failure is not None:
            check_filter("circuit_breaker(is_failure", is_failure)
        self.name = name
        self.fail_threshold = fail_threshold
        self.cooldown = _seconds("cooldown", cooldown)
        self.backoff = backoff
        self.max_cooldown = _longest(self.cooldown, backoff, max_cooldown)
        self.is_failure = is_failure
        self.clock: Clock = SystemClock() if clock is None else clock
        self.before_call, self.on_change = before_call, on_change
        self._lock = threading.Lock()
        self._state: State = "closed"
        self._failures = self._openings = self._generation = 0
        self._until = 0.0
        self._on_trial = False

    def __repr__(self) -> str:
        return f"<circuit breaker {self.name}: {self.state}>"

    @property
    def state(self) -> State:
        """`closed`, `open`, or `half_open`: the cooldown is over, and the next call is a trial."""
        return self.snapshot().state

    def snapshot(self) -> Snapshot:
        """What the breaker knows now."""
        with self._lock:
            left = self._left()
            state = "half_open" if self._state == "open" and not left else self._state
            return Snapshot(state, self._failures, self._openings, left)

    def reset(self) -> None:
        """Close the breaker and forget all failures, those of the calls under way too."""
        with self._lock:
            changed = self._state != "closed"
            self._close()
        if changed:
            self._tell("closed")

    def restore(self, retry_after: float, failures: int, openings: int) -> None:
        """Open a closed breaker as it was when it was last seen; does nothing when it is not closed.

        Args:
            retry_after: Seconds that it is to stay open for.
            failures: Its failures in a row.
            openings: How often it had opened since it was last closed.
        """
        with self._lock:
            if self._state != "closed":
                return
            self._failures, self._openings = failures, max(openings, 1)
            self._open_for(retry_after)

    def admit(self, call: Call) -> None:
        """Let a call in.

        Raises:
            CircuitOpenError: When the breaker is open, or half open and another call is the trial.
        """
        if self.before_call is not None:
            self.before_call(self)
        with self._lock:
            left = self._left()
            if began := self._state == "open" and not left:
                self._enter("half_open")
            if self._state == "open" or self._on_trial:
                raise CircuitOpenError(self.name, left)
            self._on_trial = self._state == "half_open"
            call.generation = self._generation
        if began:
            self._tell("half_open")

    def settle(self, call: Call, failed: bool | None) -> None:
        """Count a call that is over: it failed, it succeeded, or (None) it was neither; once, and not too late."""
        changed: State | None = None
        with self._lock:
            if call.generation != self._generation:
                return
            call.generation = None
            trial, self._on_trial = self._on_trial, False
            if failed is False:
                self._failures = 0
                if trial:
                    self._close()
                    changed = "closed"
            elif failed:
                self._failures += 1
                if trial or self._failures >= self.fail_threshold:
                    self._openings += 1
                    self._open_for(self._next_cooldown())
                    changed = "open"
        if changed:
            self._tell(changed)

    def judge(self, error: BaseException | None) -> bool | None:
        """Whether a call that ended so has failed; None when that says nothing about the function.

        Nothing is said by what tears a call away (`KeyboardInterrupt`, a cancelled task), nor, unless `is_failure`
        names it, by a used-up budget or by another breaker inside the function that is open.
        """
        if error is None:
            return False
        if not isinstance(error, Exception):
            return None
        beside = all(isinstance(part, CircuitOpenError | BudgetExhausted) for part in parts_of_error(error))
        if self.is_failure is None:
            return None if beside else True
        return True if picks(self.is_failure, error, any) else None if beside else False

    def _left(self) -> float:
        return max(self._until - self.clock.monotonic(), 0.0) if self._state == "open" else 0.0

    def _next_cooldown(self) -> float:
        if self.max_cooldown is None:
            return self.cooldown
        return min(self.cooldown * 2.0 ** min(self._openings - 1, 1000), self.max_cooldown)

    def _open_for(self, seconds: float) -> None:
        self._enter("open")
        self._until = self.clock.monotonic() + seconds

    def _close(self) -> None:
        self._enter("closed")
        self._failures = self._openings = 0

    def _enter(self, state: State) -> None:
        """Begin a new generation: calls of the ones before count no more."""
        self._state = state
        self._generation += 1
        self._on_trial = False

    def _tell(self, state: State) -> None:
        if self.on_change is not None:
            self.on_change(self, state)


class Call:
    """One call of a guarded function, as a context manager around it."""

    __slots__ = ("breaker", "generation")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self.generation: int | None = None

    def __enter__(self) -> None:
        try:
            self.breaker.admit(self)
        except BaseException:  # an interrupt, or a hook that failed: a trial must not stay taken
            self.breaker.settle(self, None)
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        failed = None
        try:
            failed = self.breaker.judge(error)
        finally:  # an `is_failure` that raises has not judged, and gives the trial back
            self.breaker.settle(self, failed)


def _seconds(name: str, value: Any) -> float:
    try:
        return parse_duration(value)
    except SpecError as error:
        raise SpecError(f"circuit_breaker({name}={value!r}): {error}") from None


def _longest(cooldown: float, backoff: Any, given: Any) -> float | None:
    """The longest cooldown in seconds, or None when it does not grow."""
    if backoff not in ("fixed", "exponential"):
        raise SpecError(f'circuit_breaker(backoff={backoff!r}): give "fixed" or "exponential"')
    if given is None:
        return None if backoff == "fixed" else 10 * cooldown
    if backoff == "fixed":
        raise SpecError(f'circuit_breaker(max_cooldown={given!r}): only a backoff of "exponential" grows')
    longest = _seconds("max_cooldown", given)
    if longest < cooldown:
        raise SpecError(f"circuit_breaker(max_cooldown={given!r}): it is shorter than the cooldown")
    return longest
