"""Durable calls: `@tool` and `call` record what a function gave, so that it is not executed a second time."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, overload

from loomc_runner.calls.made import Made
from loomc_runner.calls.spec import ToolSpec, make_tool_spec
from loomc_runner.context import current_scope
from loomc_runner.errors import SpecError
from loomc_runner.retry import Retry
from loomc_runner.store import finish

__all__ = ["call", "tool"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


@overload
def tool(fn: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: str | float | timedelta | None = None,
    once: bool = False,
    breaker: Callable[[Any], Any] | None = None,
    key: Callable[..., str] | None = None,
) -> Callable[[F], F]: ...
def tool(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: str | float | timedelta | None = None,
    once: bool = False,
    breaker: Callable[[Any], Any] | None = None,
    key: Callable[..., str] | None = None,
) -> Any:
    """Make the calls of a function durable: inside a step a completed call is never executed again.

    When the step is tried again, or its run resumed, the recorded result is given back, as the type that the function
    declares to return. A call is known by the function's name, its arguments and its occurrence among equals in the
    step; so calls may be made from threads and with `asyncio.gather`, in any order. Outside of a loop it is the plain
    function.

    Args:
        fn: A function or method, sync or async, when the decorator is used bare.
        name: How the call is recorded, instead of the module's and the function's name.
        retry: What to try again, `Retry(...)`. Without it errors are raised at once.
        timeout: How long one try may take, such as `"30s"`; then `TimeoutError`. A sync function on another than the
            main thread cannot be interrupted.
        once: Never execute it twice. A call that was started and has no result (the process died) becomes a question
            to a person; one that failed raises `CallError`.
        breaker: A `circuit_breaker(...)` to put around each try.
        key: A function of the arguments that gives the text they are known by, where they are not JSON.

    Raises:
        SpecError: When an option cannot work; when a call is made whose arguments are not JSON and that has no key.
        StateError: When a result cannot be stored and read back as it was.
    """
    names = sys._getframe(1).f_locals  # noqa: SLF001 - classes that are local to the caller may annotate the result

    def decorate(function: Any) -> Any:
        spec = make_tool_spec(function, name=name, retry=retry, timeout=timeout, once=once, key=key)
        if breaker is not None and not callable(breaker):
            raise SpecError(f"breaker={breaker!r} of {spec.name}: give circuit_breaker(...)")
        guarded = function if breaker is None else breaker(function)
        return _durable(dataclasses.replace(spec, fn=guarded, names=names))

    return decorate if fn is None else decorate(fn)


def call(fn: Callable[..., R], /, *args: Any, key: str | None = None, **kwargs: Any) -> R:
    """Make one durable call of a function that is not yours, sync or async.

    Write `call(search, "x")` for `search("x")`, and `await call(fetch, url)` for `await fetch(url)`.

    Args:
        fn: The function; one with `@tool` keeps its options.
        *args: What it gets.
        key: What the call is known by, instead of its arguments; once in a step.
        **kwargs: What it gets by name.

    Raises:
        SpecError: When the arguments are not JSON, or the function is a lambda, and there is no key.
        StateError: When the result cannot be stored; annotate what the function returns.
    """
    inner: Any = fn
    while isinstance(inner, functools.partial):
        inner, args, kwargs = inner.func, (*inner.args, *args), {**inner.keywords, **kwargs}
    is_method = inspect.ismethod(inner)
    if is_method:
        inner, args = inner.__func__, (inner.__self__, *args)
    if key is None and getattr(inner, "__name__", "") == "<lambda>" and current_scope() is not None:
        raise SpecError(f"{inner.__qualname__} says nothing of what it does; name a function, or give the call a key=")
    spec = getattr(inner, "__loomc_tool__", None) or _spec_of(inner, is_method=is_method)
    result: R = _make(spec, args, kwargs, key)
    return result


def _spec_of(fn: Any, *, is_method: bool) -> ToolSpec:
    """What is known of a function without `@tool`; remembered, since building a codec takes longer than many a call."""
    remembered = inspect.isroutine(fn) or inspect.isfunction(inspect.unwrap(fn))
    return (_spec_for if remembered else _spec_for.__wrapped__)(fn, is_method=is_method)


@functools.lru_cache(maxsize=512)
def _spec_for(fn: Any, *, is_method: bool) -> ToolSpec:
    spec = make_tool_spec(fn)
    return dataclasses.replace(spec, is_method=is_method or spec.is_method)


def _durable(spec: ToolSpec) -> Any:
    """The function that makes the calls, to be used like the one it stands for."""
    if spec.is_async:

        @functools.wraps(spec.declared)
        async def durable(*args: Any, **kwargs: Any) -> Any:
            return await _make(spec, args, kwargs)

    else:

        @functools.wraps(spec.declared)
        def durable(*args: Any, **kwargs: Any) -> Any:
            return _make(spec, args, kwargs)

    durable.__loomc_tool__ = spec  # type: ignore[attr-defined]
    return durable


def _make(spec: ToolSpec, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None = None) -> Any:
    """Make a call: its result, or for an async function a coroutine."""
    scope = current_scope()
    if scope is None:
        return spec.fn(*args, **kwargs)
    made = Made(spec, scope, args, kwargs, key)
    return made.result() if spec.is_async else finish(made.result())
