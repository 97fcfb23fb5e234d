"""`@circuit_breaker`: a function that keeps failing is left alone for a while."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from loomc_runner import deadline
from loomc_runner.breaker.circuit import Backoff, Call, CircuitBreaker, State
from loomc_runner.breaker.record import note, recall
from loomc_runner.errors import SpecError
from loomc_runner.retry import ErrorFilter
from loomc_runner.spec import recorded_name

__all__ = ["CircuitBreaker", "Guarded", "circuit_breaker"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class Guarded(Generic[P, R]):
    """A function with a circuit breaker: called like the function itself.

    Attributes:
        breaker: Its breaker; for a method, the same one through every instance.
    """

    def __init__(self, fn: Callable[P, R], breaker: CircuitBreaker) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), fn)
        self.fn = fn
        self.breaker = breaker

    def __repr__(self) -> str:
        return f"<guarded {self.breaker.name}: {self.state}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, or raise `CircuitOpenError` when the breaker is open."""
        with Call(self.breaker):
            return deadline.call(functools.partial(self.fn, *args, **kwargs), deadline=None)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self: Guarded[Concatenate[Any, Q], R], instance: object, owner: type) -> Guarded[Q, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        """The method of an instance; what binds nothing (a `partial`, an object that is called) stays as it is."""
        if instance is None or not hasattr(self.fn, "__get__"):
            return self
        return type(self)(self.fn.__get__(instance, owner), self.breaker)

    @property
    def state(self) -> State:
        """`closed`, `open`, or `half_open`: the cooldown is over, and the next call is a trial."""
        return self.breaker.state

    def reset(self) -> None:
        """Close the breaker and forget all failures."""
        self.breaker.reset()


class AsyncGuarded(Guarded[P, Coroutine[Any, Any, R]]):
    """An async function with a circuit breaker."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await the function, or raise `CircuitOpenError` when the breaker is open."""
        with Call(self.breaker):
            return await deadline.call_async(functools.partial(self.fn, *args, **kwargs), deadline=None)


@overload
def circuit_breaker(fn: Callable[P, R], /) -> Guarded[P, R]: ...
@overload
def circuit_breaker(
    *,
    fail_threshold: int = 3,
    cooldown: str | float | timedelta = "30s",
    backoff: Backoff = "fixed",
    max_cooldown: str | float | timedelta | None = None,
    is_failure: ErrorFilter | None = None,
    name: str | None = None,
) -> Callable[[Callable[P, R]], Guarded[P, R]]: ...
def circuit_breaker(
    fn: Any = None,
    /,
    *,
    fail_threshold: int = 3,
    cooldown: str | float | timedelta = "30s",
    backoff: Backoff = "fixed",
    max_cooldown: str | float | timedelta | None = None,
    is_failure: ErrorFilter | None = None,
    name: str | None = None,
) -> Any:
    """Leave a function alone for a while when it keeps failing: calls then raise `CircuitOpenError` at once.

    It works anywhere. Inside a run its changes are recorded, and a breaker that was open when the run stopped is open
    when that is resumed.

    Args:
        fn: The function or method, sync or async, when the decorator is used bare.
        fail_threshold: How many failures in a row open the breaker.
        cooldown: How long it stays open, as `"30s"` or a timedelta. Then one call is let through as a trial: when
            it succeeds the breaker closes, and when it fails it opens again.
        backoff: `"fixed"`, or `"exponential"`: the cooldown doubles whenever a trial fails.
        max_cooldown: The longest that an exponential cooldown may grow to; ten times the cooldown unless given.
        is_failure: What counts as a failure: an exception type, a tuple of them, or a function of the error that
            returns True or False; any other error is as good as a success. Without it every `Exception` counts but
            a used-up budget and the `CircuitOpenError` of another breaker, which are neither.
        name: How errors name the function, instead of `module.qualname`.

    Raises:
        SpecError: When an option cannot work; it names the value.
    """
    make = functools.partial(
        CircuitBreaker,
        fail_threshold=fail_threshold,
        cooldown=cooldown,
        backoff=backoff,
        max_cooldown=max_cooldown,
        is_failure=is_failure,
        before_call=recall,
        on_change=note,
    )
    make("unnamed" if name is None else name)  # an option that cannot work is told here, before there is a function

    def decorate(function: Any) -> Any:
        guarded = AsyncGuarded if _check_function(function) else Guarded
        return guarded(function, make(name or recorded_name(function)))

    return decorate if fn is None else decorate(fn)


def _check_function(fn: Any) -> bool:
    """Whether the function is async; refuses what cannot be guarded."""
    if not callable(fn) or isinstance(fn, type | staticmethod):
        hint = "; put it below @staticmethod or @classmethod" if isinstance(fn, staticmethod | classmethod) else ""
        raise SpecError(f"@circuit_breaker decorates a function, not {fn!r}{hint}")
    if any(_is(kind, fn) for kind in (inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
        raise SpecError(f"@circuit_breaker on {fn!r}: a generator fails while it is read, not when it is called")
    return _is(inspect.iscoroutinefunction, fn)


def _is(kind: Callable[[Any], bool], fn: Any) -> bool:
    return kind(fn) or kind(getattr(fn, "__call__", None))  # noqa: B004
