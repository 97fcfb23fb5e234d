"""What the tests of loops share: one state, loops that are sync or async as a test is told, and lives that end."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from inspect import isawaitable, iscoroutine
from typing import Any

from loomc_runner import loop
from loomc_runner.clock import Clock
from loomc_runner.store import Store


@dataclass
class Draft:
    """A state: a number that grows, and the words that came with it."""

    n: int = 0
    words: list[str] = field(default_factory=list)


def grow(draft: Draft) -> Draft:
    """The plainest step."""
    return Draft(draft.n + 1, draft.words)


def doing(act: Callable[[], object], step: Callable[[Draft], Draft] = grow) -> Callable[[Draft], Draft]:
    """A step that does something else first."""

    def both(draft: Draft) -> Draft:
        act()
        return step(draft)

    return both


def timed(refine: Any, clock: Clock) -> Any:
    """The same loop with a clock that is moved by hand."""
    return type(refine)(dataclasses.replace(refine.spec, clock=clock))


def until(n: int) -> Callable[[Any], bool]:
    """A detector that stops a loop at a number."""

    def enough(history: Any) -> bool:
        return bool(history[-1].state.n >= n)

    return enough


def size(draft: Draft) -> float:
    """A scorer: more is better."""
    return float(draft.n)


def scripted(*scores: float) -> Callable[[Draft], Draft]:
    """A step that leaves the scores as they are listed, one a call, wherever it starts from."""
    left = iter(scores)
    return lambda draft: Draft(int(next(left)), draft.words)


def make_async(fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The same function as an `async def` that waits a moment."""

    @functools.wraps(fn)
    async def waiting(*args: Any) -> Any:
        await asyncio.sleep(0)
        return fn(*args)

    return waiting


class Maker:
    """Makes loops of plain functions: `make(step, budget=...)`, all of them sync or all of them async."""

    def __init__(self, store: Store, *, is_async: bool) -> None:
        self.store, self.is_async = store, is_async

    def __call__(self, fn: Callable[..., Any], **options: Any) -> Any:
        """The handle. Its state is a Draft, its store that of the test, its name the same for every function."""
        fn.__annotations__ = fn.__annotations__ or {"draft": Draft}
        options = {"checkpoint": self.store, "name": "tests:draft", **options}
        return loop(**options)(make_async(fn) if self.is_async else fn)


def go(value: Any) -> Any:
    """The value of what a handle gave: async loops are awaited, streams of steps are read to their end."""
    if iscoroutine(value):
        return asyncio.run(value)
    if hasattr(value, "aclose"):
        return asyncio.run(_read(value))
    return list(value) if hasattr(value, "close") else value


async def _read(steps: Any) -> list[Any]:
    return [step async for step in steps]


async def wait_for(value: Any) -> Any:
    """The value, awaited where there is something to await."""
    return await value if isawaitable(value) else value


def dying(fn: Callable[..., object], *args: Any) -> int:
    """Call a function in a forked process; the signal that ended it, or 0."""
    process = os.fork()
    if not process:
        try:
            fn(*args)
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(process, 0)[1])


def die(draft: Draft) -> Draft:
    """A step that ends its process, as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return draft


def columns(records: Iterable[Any], *names: str) -> list[tuple[Any, ...]]:
    """Some fields of some records."""
    return [tuple(getattr(record, name) for name in names) for record in records]


async def pull(steps: Any) -> Any:
    """The next step of a stream of either kind."""
    if hasattr(steps, "aclose"):
        return await anext(steps)
    for step in steps:
        return step
    raise StopAsyncIteration


async def close(steps: Any) -> None:
    """Close a stream of either kind."""
    await (steps.aclose() if hasattr(steps, "aclose") else wait_for(steps.close()))
