"""`@loop` and the handles it gives: start a run, resume it, stream it, fork it."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, Self, TypeVar, cast, overload

from loomc_runner import opening
from loomc_runner.backtrack import Strategy
from loomc_runner.budget import Budget, Ledger
from loomc_runner.converge import Detector, Escalate
from loomc_runner.driver import Cursor, Verdict, drive, end, flow, pause
from loomc_runner.errors import LoomcError, RunNotFound, SpecError
from loomc_runner.records import Done, Run, RunResult, RunStatus, StepRecord
from loomc_runner.sigterm import orderly_termination
from loomc_runner.spec import LoopSpec, make_spec
from loomc_runner.store import Store, finish

S = TypeVar("S")

PAUSED_BY_CONSUMER = Verdict(RunStatus.PAUSED, "paused: the consumer of the stream stopped reading")


class _Handle(Generic[S]):
    """What sync and async loops share: everything that starts no step."""

    def __init__(self, spec: LoopSpec[S]) -> None:
        _look_like(self, spec.fn)
        self.spec = spec

    def __repr__(self) -> str:
        return f"<loop {self.spec.name}>"

    def with_options(self, **changes: Any) -> Self:
        """The same loop with other options, named as in `@loop`: in a test, `with_options(checkpoint="memory")`."""
        return type(self)(_respecified(self.spec, changes))

    def fork(self, run_id: str, *, step: int, update: Mapping[str, Any] | None = None) -> str:
        """Make a new run from an old step, and return its id; `resume` it to run it.

        Args:
            run_id: The run to branch off from; it is left as it is.
            step: The step whose state the new run begins with; -1 is the initial state.
            update: Fields of the state to change first.

        Raises:
            RunNotFound: When there is no such run or step.
            StateError: When the changed state does not fit its type.
        """
        return opening.fork(self.spec, opening.store_of(self.spec), run_id, step, update)

    async def _open(self, state: Any, run_id: str | None, wanted: _Wanted) -> Cursor[S] | RunResult[S]:
        """A cursor to drive, or the stored result of a run that is complete."""
        spec, store = self.spec, opening.store_of(self.spec)
        if run_id is None and not wanted.existing:
            return await opening.begin(spec, state, opening.new_run_id())
        if not isinstance(run_id, str):
            raise SpecError(f"run_id={run_id!r}: give the id of a run, a string")
        try:
            run: Run | None = await opening.look_up(spec, store, run_id)
        except RunNotFound:
            if wanted.existing:
                raise
            run = None
        if run is None:
            return await opening.begin(spec, state, run_id)
        opening.check_owner(spec, run)
        if not wanted.existing:
            opening.check_initial(spec, store, run, state)
        if run.status is RunStatus.COMPLETED:
            return opening.stored_result(spec, store, run)
        return await opening.resume(spec, run_id, wanted.budget, force=wanted.force)

    async def _run(self, state: Any, run_id: str | None, wanted: _Wanted) -> tuple[RunResult[S], BaseException | None]:
        cursor: Cursor[S] | None = None
        try:
            opened = await self._open(state, run_id, wanted)
            if isinstance(opened, RunResult):
                return opened, None
            cursor = opened
            await drive(cursor)
        except BaseException as error:
            if cursor is not None and not cursor.stopped:  # Ctrl-C between two steps
                await pause(cursor, error)
            _inform(error, cursor)
            raise
        result, cause = opening.result_of(cursor), cursor.verdict.error if cursor.verdict else None
        if cause is not None:
            _inform(cause, cursor, result)
        if cause is not None and result.status is RunStatus.FAILED:
            raise cause
        return result, cause


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """How a run is asked for: whether it must exist, and what a resume may change."""

    existing: bool = False
    budget: Budget | None = None
    force: bool = False


class Loop(_Handle[S]):
    """A durable loop around a plain function; call it like the function.

    It needs no event loop of its own, so it also works inside a running one, in threads, and in async loops.
    """

    def __call__(self, state: S, *, run_id: str | None = None) -> S:
        """Run to the end and give the final state (the best one under `BestScore`).

        Args:
            state: The initial state.
            run_id: An id of your choice. When that run exists, it goes on, or gives its stored result.

        Raises:
            BudgetExhausted: When a limit ended the run.
            StallError: When `on_stall` ended it.
            Exception: The step's own error. All of them carry `run_id`, `state` and `best_state`.
        """
        return _final(self._drive(state, run_id, _Wanted()))

    def run(self, state: S, *, run_id: str | None = None) -> RunResult[S]:
        """Run to the end and tell how it stands; limits and stalls do not raise, the step's own errors do."""
        return self._drive(state, run_id, _Wanted())[0]

    def resume(self, run_id: str, *, budget: Budget | None = None, force: bool = False) -> S:
        """Go on with a run that stopped, and give its final state; what was spent stays spent.

        Args:
            run_id: The run. A completed one gives its stored result and executes nothing.
            budget: New totals for the limits it names; the others stay as stored.
            force: Go on also with a stalled or cancelled run.

        Raises:
            RunNotFound, RunLocked, RunMismatch, NotResumable: When it cannot be resumed here and now.
            SpecError: When a new limit is below what is used already.
        """
        return _final(self._drive(None, run_id, _Wanted(existing=True, budget=budget, force=force)))

    @overload
    def stream(self, state: S, *, run_id: str | None = None) -> Stream[S]: ...
    @overload
    def stream(self, *, run_id: str, budget: Budget | None = None, force: bool = False) -> Stream[S]: ...
    def stream(
        self, state: Any = ..., *, run_id: str | None = None, budget: Budget | None = None, force: bool = False
    ) -> Stream[S]:
        """Run step by step: an iterator of the committed steps. With only a `run_id`, that run is resumed."""
        return Stream(self, state, run_id, _Wanted(state is ..., budget, force))

    def _drive(self, state: Any, run_id: str | None, wanted: _Wanted) -> tuple[RunResult[S], BaseException | None]:
        with orderly_termination():
            return finish(self._run(state, run_id, wanted))


class AsyncLoop(_Handle[S]):
    """A durable loop around an `async def` function; it has the same verbs as `Loop`, to be awaited."""

    async def __call__(self, state: S, *, run_id: str | None = None) -> S:
        """Run to the end and give the final state; see `Loop.__call__`."""
        return _final(await self._drive(state, run_id, _Wanted()))

    async def run(self, state: S, *, run_id: str | None = None) -> RunResult[S]:
        """Run to the end and tell how it stands; see `Loop.run`."""
        return (await self._drive(state, run_id, _Wanted()))[0]

    async def resume(self, run_id: str, *, budget: Budget | None = None, force: bool = False) -> S:
        """Go on with a run that stopped, and give its final state; see `Loop.resume`."""
        return _final(await self._drive(None, run_id, _Wanted(existing=True, budget=budget, force=force)))

    @overload
    def stream(self, state: S, *, run_id: str | None = None) -> AsyncStream[S]: ...
    @overload
    def stream(self, *, run_id: str, budget: Budget | None = None, force: bool = False) -> AsyncStream[S]: ...
    def stream(
        self, state: Any = ..., *, run_id: str | None = None, budget: Budget | None = None, force: bool = False
    ) -> AsyncStream[S]:
        """Run step by step: an async iterator of the committed steps; see `Loop.stream`."""
        return AsyncStream(self, state, run_id, _Wanted(state is ..., budget, force))

    async def _drive(
        self, state: Any, run_id: str | None, wanted: _Wanted
    ) -> tuple[RunResult[S], BaseException | None]:
        with orderly_termination():
            return await self._run(state, run_id, wanted)


class _Steps(Generic[S]):
    """A run that is taken step by step.

    Attributes:
        run_id: Its id, known before the first step.
        result: How it stands, once it stopped; None before.
    """

    def __init__(self, handle: _Handle[S], state: Any, run_id: str | None, wanted: _Wanted) -> None:
        self.run_id = opening.new_run_id() if run_id is None else run_id
        self.result: RunResult[S] | None = None
        self._handle, self._state, self._wanted = handle, state, wanted
        self._cursor: Cursor[S] | None = None
        self._flow: AsyncGenerator[StepRecord[S]] | None = None
        self._closed = False
        if wanted.existing and run_id is None:
            raise SpecError("stream() has nothing to run: give it a state, or the run_id of a run to go on with")
        if not wanted.existing and (wanted.budget is not None or wanted.force):
            raise SpecError("budget= and force= change a run that exists: give stream() its run_id and no state")

    def standing(self) -> Ledger | None:
        """What the run has used so far, while it works; None before its first step."""
        return None if self._cursor is None else self._cursor.ledger

    async def _next(self) -> StepRecord[S]:
        try:
            if self._flow is None and not self._closed:
                self._flow = await self._begin()
            if self._flow is not None:
                return await anext(self._flow)
        except StopAsyncIteration:
            pass
        except BaseException as error:
            _inform(error, self._cursor)
            raise
        self._finish()
        raise StopAsyncIteration

    async def _begin(self) -> AsyncGenerator[StepRecord[S]]:
        opened = await self._handle._open(self._state, self.run_id, self._wanted)  # noqa: SLF001 - one class in two
        if isinstance(opened, RunResult):
            self.result = opened
            raise StopAsyncIteration
        self._cursor = opened
        return flow(opened)

    def _finish(self) -> None:
        if self.result is not None or self._cursor is None:
            return
        self.result = opening.result_of(self._cursor)
        error = self._cursor.verdict.error if self._cursor.verdict else None
        if error is not None and self.result.status is RunStatus.FAILED:
            _inform(error, self._cursor, self.result)
            raise error

    async def _close(self) -> None:
        if self._flow is not None:  # by hand, since a running event loop would do it some time; refuses inside a step
            await self._flow.aclose()
        self._closed = True
        if self._cursor is not None and not self._cursor.stopped:
            await end(self._cursor, PAUSED_BY_CONSUMER)
        if self._cursor is not None and self.result is None:
            self.result = opening.result_of(self._cursor)

    def __del__(self) -> None:
        if sys is not None and not sys.is_finalizing():
            with suppress(RuntimeError, LoomcError):  # an async one without its event loop can only try
                finish(self._close())


class Stream(_Steps[S], Iterator[StepRecord[S]]):
    """The committed steps of a run, as they happen. Leaving it early pauses the run: close it, or use `with`."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepRecord[S]:
        try:
            with orderly_termination():
                return finish(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Pause the run, unless it has stopped."""
        finish(self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(_Steps[S], AsyncIterator[StepRecord[S]]):
    """The committed steps of a run, as they happen. Leaving it early pauses the run: use `async with`, or `aclose`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StepRecord[S]:
        with orderly_termination():
            return await self._next()

    async def aclose(self) -> None:
        """Pause the run, unless it has stopped."""
        await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class LoopMethod(Generic[S]):
    """A loop on a method: through an instance it is that instance's `Loop`."""

    def __init__(self, spec: LoopSpec[S]) -> None:
        _look_like(self, spec.fn)
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
        _look_like(self, spec.fn)
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
    name: str | None = None,
    tags: Sequence[str] = (),
) -> Any:
    """Make a durable loop of a function that is one iteration: it takes the state and returns the next.

    Args:
        fn: The function or method, when the decorator is used bare.
        budget: What a run may use. Without one a safety cap of 1,000 iterations holds; `Budget()` is no limit.
        checkpoint: Where runs are kept: `"sqlite"` (the file that `LOOMC_DB` names, else
            `.loomc/checkpoints.db`), a path, `sqlite:///PATH`, `"memory"`, or a store of your own.
        converge_on: A detector or a list of them; any may stop the loop.
        backtrack: A strategy or a list of them; the first that names a step is followed.
        on_stall: `Escalate(after=...)`, what to do when scores stop getting better.
        scorer: A function of the state that gives its score, a finite number.
        cost_fn: A function of the state that gives what the step cost, in dollars; `spend` is the other way.
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
                name=name,
                tags=tags,
                names=names,
            )
        )

    return decorate if fn is None else decorate(fn)


def _look_like(handle: object, fn: Callable[..., Any]) -> None:
    """Give a handle the name and the docstring of its function; the function itself is at `__wrapped__`."""
    functools.update_wrapper(cast("Callable[..., Any]", handle), fn)


def _handle_for(spec: LoopSpec[Any]) -> Any:
    spec.annotations  # noqa: B018 - read now, while local names are what they were
    if spec.is_method:
        return AsyncLoopMethod(spec) if spec.is_async else LoopMethod(spec)
    return AsyncLoop(spec) if spec.is_async else Loop(spec)


def _bound(spec: LoopSpec[S], instance: object) -> LoopSpec[S]:
    return dataclasses.replace(spec, fn=spec.fn.__get__(instance))


def _respecified(spec: LoopSpec[Any], changes: dict[str, Any]) -> LoopSpec[Any]:
    options = {
        "budget": spec.budget,
        "checkpoint": spec.checkpoint,
        "converge_on": spec.detectors,
        "backtrack": spec.strategies,
        "on_stall": spec.on_stall,
        "scorer": None if any(getattr(part, "metric", None) for part in spec.strategies) else spec.scorer,
        "cost_fn": spec.cost_fn,
        "name": spec.name,
        "tags": spec.tags,
    }
    if unknown := set(changes) - set(options):
        raise TypeError(f"a loop has no option {', '.join(sorted(unknown))}; it has {', '.join(options)}")
    changed = make_spec(spec.fn, **{**options, **changes}, names=spec.names)
    return dataclasses.replace(changed, clock=spec.clock, adopts=spec.adopts)


def _final(outcome: tuple[RunResult[S], BaseException | None]) -> S:
    result, error = outcome
    if error is not None:
        raise error
    return result.state


def _inform(error: BaseException, cursor: Cursor[Any] | None, result: RunResult[Any] | None = None) -> None:
    """Let an error that leaves a run tell which run, where it stood, and how to go on."""
    if cursor is None:
        return
    run_id = cursor.lease.run_id
    known = {"run_id": run_id, "state": cursor.state, "best_state": result.best_state if result else None}
    if getattr(error, "run_id", None) in (None, run_id):  # else it tells of a child, or of an enclosing run
        for name, value in known.items():
            if getattr(error, name, None) is None:
                with suppress(AttributeError, TypeError):  # errors with slots cannot carry it; the note says it too
                    setattr(error, name, value)
    note = opening.describe_resumption(run_id)
    if note not in getattr(error, "__notes__", ()):
        with suppress(AttributeError, TypeError):  # frozen ones take no note either
            error.add_note(note)
