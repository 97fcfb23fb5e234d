"""`@loop`: a durable loop from a function or method that is one iteration."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from loomc_runner.backtrack import Strategy
from loomc_runner.budget import Budget
from loomc_runner.converge import Detector, Escalate
from loomc_runner.handle import AsyncLoop, Loop, look_like
from loomc_runner.keep import Keep
from loomc_runner.notices import BudgetNotice
from loomc_runner.records import Done, StepRecord
from loomc_runner.retry import Retry
from loomc_runner.spec import LoopSpec, make_spec
from loomc_runner.store import Store

S = TypeVar("S")

OnStep = Callable[[StepRecord[Any]], Any]
OnBudget = Callable[[BudgetNotice], Any]


class LoopMethod(Generic[S]):
    """A loop on a method: through an instance it is that instance's `Loop`."""

    def __init__(self, spec: LoopSpec[S]) -> None:
        look_like(self, spec.fn)
        self.spec = spec

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Loop[S]: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Loop[S]:
        return self if instance is None else Loop(_bound(self.spec, instance))


class AsyncLoopMethod(Generic[S]):
    """A loop on an async method: through an instance it is that instance's `AsyncLoop`."""

    def __init__(self, spec: LoopSpec[S]) -> None:
        look_like(self, spec.fn)
        self.spec = spec

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> AsyncLoop[S]: ...
    def __get__(self, instance: object | None, owner: type) -> Self | AsyncLoop[S]:
        return self if instance is None else AsyncLoop(_bound(self.spec, instance))


class Decorator(Protocol):
    """What `@loop(...)` gives: it makes a loop of a function or a method, sync or async."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # an awaitable state is no state: async comes first
        self, fn: Callable[[S], Awaitable[S | Done[S, Any]]], /
    ) -> AsyncLoop[S]: ...
    @overload
    def __call__(self, fn: Callable[[S], S | Done[S, Any]], /) -> Loop[S]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[[Any, S], Awaitable[S | Done[S, Any]]], /
    ) -> AsyncLoopMethod[S]: ...
    @overload
    def __call__(self, fn: Callable[[Any, S], S | Done[S, Any]], /) -> LoopMethod[S]: ...


@overload
def loop(  # type: ignore[overload-overlap]
    fn: Callable[[S], Awaitable[S | Done[S, Any]]], /
) -> AsyncLoop[S]: ...
@overload
def loop(fn: Callable[[S], S | Done[S, Any]], /) -> Loop[S]: ...
@overload
def loop(  # type: ignore[overload-overlap]
    fn: Callable[[Any, S], Awaitable[S | Done[S, Any]]], /
) -> AsyncLoopMethod[S]: ...
@overload
def loop(fn: Callable[[Any, S], S | Done[S, Any]], /) -> LoopMethod[S]: ...
@overload
def loop(
    *,
    budget: Budget | None = None,
    checkpoint: str | os.PathLike[str] | Store = "sqlite",
    converge_on: Detector | Sequence[Detector] | None = None,
    backtrack: Strategy | Sequence[Strategy] | None = None,
    on_stall: Escalate | None = None,
    scorer: Callable[[Any], Any] | None = None,
    cost_fn: Callable[[Any], Any] | None = None,
    retry: Retry | None = None,
    migrate: Callable[[Any], Any] | None = None,
    on_step: OnStep | Sequence[OnStep] | None = None,
    on_budget: OnBudget | Sequence[OnBudget] | None = None,
    keep: Keep | None = None,
    progress: bool = False,
    name: str | None = None,
    tags: Sequence[str] = (),
) -> Decorator: ...
def loop(
    fn: Any = None,
    /,
    *,
    budget: Budget | None = None,
    checkpoint: str | os.PathLike[str] | Store = "sqlite",
    converge_on: Any = None,
    backtrack: Any = None,
    on_stall: Escalate | None = None,
    scorer: Callable[[Any], Any] | None = None,
    cost_fn: Callable[[Any], Any] | None = None,
    retry: Retry | None = None,
    migrate: Callable[[Any], Any] | None = None,
    on_step: OnStep | Sequence[OnStep] | None = None,
    on_budget: OnBudget | Sequence[OnBudget] | None = None,
    keep: Keep | None = None,
    progress: bool = False,
    name: str | None = None,
    tags: Sequence[str] = (),
) -> Any:
    """Make a durable loop of a function that is one iteration: it takes the state and returns the next.

    Args:
        fn: The function or method, when the decorator is used bare.
        budget: What a run may use. Without one a safety cap of 1,000 iterations holds; `Budget()` is no limit.
        checkpoint: Where runs are kept: `"sqlite"` (the file that `LOOMC_DB` names, else
            `.loomc/checkpoints.db`), a path, `sqlite:///PATH`, `SQLite(path, durability="process")` where a commit need
            not survive a power cut, `"memory"`, or a store of your own.
        converge_on: A detector or a list of them; any may stop the loop.
        backtrack: A strategy or a list of them; the first that names a step is followed.
        on_stall: `Escalate(after=...)`, what to do when scores stop getting better.
        scorer: A function of the state that gives its score, a finite number.
        cost_fn: A function of the state that gives what the step cost, in dollars; `spend` is the other way.
        retry: Which errors of a step are met with another try, `Retry(attempts=3)`; without it every error ends the
            run, or is what `backtrack` absorbs.
        migrate: A function of a stored state that no longer fits its type, as plain JSON, that gives one that does.
        on_step: A function, or several, that each committed step is given to; async ones in async loops. What it
            raises is logged and stops nothing. It is told once, and not again after a crash: nothing may depend on it.
        on_budget: A function, or several, that is told when 50, 80 and 100 percent of a limit are used up, with a
            `BudgetNotice`: once each, after the try of a step in which it came to that, and not again after a resume.
            Otherwise as `on_step`.
        keep: Which states are kept, `Keep(every=10, best=3)`; the others are dropped as the run goes on, which keeps
            the database small. Without it all are. Child loops have their own.
        progress: Show each run live on standard error; `run(..., progress=True)` does it for one run.
        name: How runs name this loop, instead of `module:qualname`. Give one when the function may move.
        tags: Words that `loomc runs` shows and exports carry.

    Raises:
        SpecError: When an option cannot work; it names the value.
    """
    names = sys._getframe(1).f_locals  # noqa: SLF001 - classes that are local to the caller may annotate the state

    def decorate(function: Any) -> Any:
        return _handle_for(
            make_spec(
                function,
                budget=budget,
                checkpoint=checkpoint,
                converge_on=converge_on,
                backtrack=backtrack,
                on_stall=on_stall,
                scorer=scorer,
                cost_fn=cost_fn,
                retry=retry,
                migrate=migrate,
                on_step=on_step,
                on_budget=on_budget,
                keep=keep,
                progress=progress,
                name=name,
                tags=tags,
                names=names,
            )
        )

    return decorate if fn is None else decorate(fn)


def _handle_for(spec: LoopSpec[Any]) -> Any:
    spec.annotations  # noqa: B018 - read now, while local names are what they were
    if spec.is_method:
        return AsyncLoopMethod(spec) if spec.is_async else LoopMethod(spec)
    return AsyncLoop(spec) if spec.is_async else Loop(spec)


def _bound(spec: LoopSpec[S], instance: object) -> LoopSpec[S]:
    return dataclasses.replace(spec, fn=spec.fn.__get__(instance))
