"""What `@loop` gives: a handle that runs a loop, resumes it, streams it and forks it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from loomc_runner import opening
from loomc_runner.budget import Budget
from loomc_runner.children import Batch, map_in_tasks, map_in_threads
from loomc_runner.errors import AnswerRefused, SpecError
from loomc_runner.forking import fork
from loomc_runner.outside import find_question, give_answer, verdicts
from loomc_runner.questions import Approval
from loomc_runner.records import RunResult
from loomc_runner.running import Ending, Request, run_to_end
from loomc_runner.sigterm import orderly_termination
from loomc_runner.spec import LoopSpec, respecified
from loomc_runner.state import Codec
from loomc_runner.store import finish
from loomc_runner.stream import AsyncStream, Stream

if TYPE_CHECKING:
    from loomc_runner.whatif import WhatIf

S = TypeVar("S")

Page = str | os.PathLike[str]
"""The file of an HTML page."""


class Handle(Generic[S]):
    """What sync and async loops share: everything that starts no step."""

    def __init__(self, spec: LoopSpec[S]) -> None:
        look_like(self, spec.fn)
        self.spec = spec

    def __repr__(self) -> str:
        return f"<loop {self.spec.name}>"

    def with_options(self, **changes: Any) -> Self:
        """The same loop with other options, named as in `@loop`: in a test, `with_options(checkpoint="memory")`."""
        return type(self)(respecified(self.spec, changes))

    def _again(
        self, run_id: str, budget: Budget | None, progress: bool | None, trace: Page | None, *, force: bool
    ) -> Request[S]:
        """A run that exists is to go on."""
        changes = Request(self.spec, None, run_id, existing=True, budget=budget, force=force)
        return dataclasses.replace(changes, progress=progress, trace=trace)

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
        return fork(self.spec, opening.store_of(self.spec), run_id, step, update)

    def answer(self, run_id: str, value: Any, *, by: str, question: str | None = None) -> None:
        """Answer the open question of a run, or of one of its child runs; `resume` it then.

        Args:
            run_id: The run that waits.
            value: The answer: what `ask` gives, as the type it names or as plain JSON.
            by: Who answers; it is stored with the answer.
            question: Which one, as `STEP.NUMBER`, where several are open.

        Raises:
            AnswerRefused: When it does not fit the question, is the second answer to it, or comes too late.
        """
        from pydantic_core import PydanticSerializationError, to_jsonable_python

        store = opening.store_of(self.spec)
        try:
            values = [to_jsonable_python(value)]
        except PydanticSerializationError as error:
            raise AnswerRefused(f"an answer to run {run_id} must be JSON, not {value!r}: {error}") from None
        if isinstance(value, Approval):
            values = verdicts(value.by or by, value.note, approved=value.approved)
        elif isinstance(value, bool):
            values += verdicts(by, approved=value)
        give_answer(store, find_question(store, run_id, question), values, by, self.spec.clock.now())

    @overload
    def what_if(
        self, run_id: str, *, converge_on: Any = None, budget: Budget | None = None, backtrack: Any = None
    ) -> WhatIf: ...
    @overload
    def what_if(
        self,
        run_id: list[str] | tuple[str, ...],
        *,
        converge_on: Any = None,
        budget: Budget | None = None,
        backtrack: Any = None,
    ) -> list[WhatIf]: ...
    def what_if(
        self,
        run_id: str | list[str] | tuple[str, ...],
        *,
        converge_on: Any = None,
        budget: Budget | None = None,
        backtrack: Any = None,
    ) -> WhatIf | list[WhatIf]:
        """Where a run, or each of several, would have stopped under other rules; executes no step.

        Args:
            run_id: A run of this loop, or several.
            converge_on: The detectors that would have been asked instead of its own.
            budget: The budget that would have held instead of its own: dollars, `step_usd` and iterations.
            backtrack: Always refused: after another way back other steps would have been taken.

        Raises:
            SpecError: When the record cannot tell: judges, async detectors, scores that are not there.
        """
        from loomc_runner.whatif import what_if

        if backtrack is not None:
            raise SpecError(f"backtrack={backtrack!r}: other steps would have been taken, and they are not on record")
        if not isinstance(run_id, str):
            return [self.what_if(one, converge_on=converge_on, budget=budget) for one in run_id]
        spec, store = (
            respecified(self.spec, {"converge_on": converge_on, "budget": budget}),
            opening.store_of(self.spec),
        )
        run = store.get_run(run_id)
        opening.check_owner(self.spec, run)
        codec: Codec[S] = Codec(opening.stored_type(self.spec, run), self.spec.migrate)
        return what_if(store, run, spec.detectors, budget, codec)


class Loop(Handle[S]):
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
        return _final(self._drive(Request(self.spec, state, run_id)))

    def run(
        self, state: S, *, run_id: str | None = None, progress: bool | None = None, trace: Page | None = None
    ) -> RunResult[S]:
        """Run to the end and tell how it stands; limits and stalls do not raise, the step's own errors do.

        Args:
            state: The initial state.
            run_id: An id of your choice. When that run exists, it goes on, or gives its stored result.
            progress: Show it live on standard error; else as `@loop(progress=...)` says.
            trace: A file for an HTML page of the run, with what functions under `@flow_xray.trace` did in its steps.
                It is written when the run stops, however it stops.
        """
        return self._drive(Request(self.spec, state, run_id, progress=progress, trace=trace))[0]

    def resume(
        self,
        run_id: str,
        *,
        budget: Budget | None = None,
        force: bool = False,
        progress: bool | None = None,
        trace: Page | None = None,
    ) -> S:
        """Go on with a run that stopped, and give its final state; what was spent stays spent.

        Args:
            run_id: The run. A completed one gives its stored result and executes nothing.
            budget: New totals for the limits it names; the others stay as stored.
            force: Go on also with a stalled or cancelled run.
            progress: As for `run`.
            trace: As for `run`.

        Raises:
            RunNotFound, RunLocked, RunMismatch, NotResumable: When it cannot be resumed here and now.
            SpecError: When a new limit is below what is used already.
        """
        return _final(self._drive(self._again(run_id, budget, progress, trace, force=force)))

    @overload
    def stream(self, state: S, *, run_id: str | None = None) -> Stream[S]: ...
    @overload
    def stream(self, *, run_id: str, budget: Budget | None = None, force: bool = False) -> Stream[S]: ...
    def stream(
        self, state: Any = ..., *, run_id: str | None = None, budget: Budget | None = None, force: bool = False
    ) -> Stream[S]:
        """Run step by step: an iterator of the committed steps. With only a `run_id`, that run is resumed."""
        return Stream(Request(self.spec, state, run_id, state is ..., budget, force))

    @overload
    def map(self, states: Iterable[S], *, max_workers: int = 4) -> list[S]: ...
    @overload
    def map(self, states: Iterable[S], *, max_workers: int = 4, return_exceptions: bool) -> list[S | BaseException]: ...
    def map(self, states: Iterable[S], *, max_workers: int = 4, return_exceptions: bool = False) -> Any:
        """Run the loop from each of several states side by side, in threads; the final states in the same order.

        Inside a step they are child runs, and are found again when the step is tried again. A run whose next step
        does not fit what the others have left of the enclosing budgets is tried again when one of them has ended.
        Where one waits for an answer the others run on.

        Args:
            states: The initial states.
            max_workers: How many run at the same time.
            return_exceptions: Give errors in the place of final states. Without it the first one is raised, after
                the other runs have been paused at their next commit.
        """
        requests = (Request(self.spec, state) for state in states)
        with orderly_termination():
            return map_in_threads(Batch(requests, max_workers, return_exceptions=return_exceptions))

    def _drive(self, request: Request[S]) -> Ending[S]:
        with orderly_termination():
            return finish(run_to_end(request))


class AsyncLoop(Handle[S]):
    """A durable loop around an `async def` function; it has the same verbs as `Loop`, to be awaited."""

    def __call__(self, state: S, *, run_id: str | None = None) -> Coroutine[Any, Any, S]:
        """Run to the end and give the final state; see `Loop.__call__`."""
        return self._finally(Request(self.spec, state, run_id).placed())

    def run(
        self, state: S, *, run_id: str | None = None, progress: bool | None = None, trace: Page | None = None
    ) -> Coroutine[Any, Any, RunResult[S]]:
        """Run to the end and tell how it stands; see `Loop.run`."""
        return self._result(Request(self.spec, state, run_id, progress=progress, trace=trace).placed())

    async def resume(
        self,
        run_id: str,
        *,
        budget: Budget | None = None,
        force: bool = False,
        progress: bool | None = None,
        trace: Page | None = None,
    ) -> S:
        """Go on with a run that stopped, and give its final state; see `Loop.resume`."""
        return await self._finally(self._again(run_id, budget, progress, trace, force=force))

    @overload
    def stream(self, state: S, *, run_id: str | None = None) -> AsyncStream[S]: ...
    @overload
    def stream(self, *, run_id: str, budget: Budget | None = None, force: bool = False) -> AsyncStream[S]: ...
    def stream(
        self, state: Any = ..., *, run_id: str | None = None, budget: Budget | None = None, force: bool = False
    ) -> AsyncStream[S]:
        """Run step by step: an async iterator of the committed steps; see `Loop.stream`."""
        return AsyncStream(Request(self.spec, state, run_id, state is ..., budget, force))

    @overload
    def map(self, states: Iterable[S], *, max_workers: int = 4) -> Coroutine[Any, Any, list[S]]: ...
    @overload
    def map(
        self, states: Iterable[S], *, max_workers: int = 4, return_exceptions: bool
    ) -> Coroutine[Any, Any, list[S | BaseException]]: ...
    def map(self, states: Iterable[S], *, max_workers: int = 4, return_exceptions: bool = False) -> Any:
        """Run the loop from each of several states side by side, in tasks; see `Loop.map`.

        When one fails the others are cancelled, which pauses them.
        """
        requests = (Request(self.spec, state) for state in states)
        return self._map(Batch(requests, max_workers, return_exceptions=return_exceptions))

    async def _map(self, batch: Batch[S]) -> Sequence[S | BaseException]:
        with orderly_termination():
            return await map_in_tasks(batch)

    async def _finally(self, request: Request[S]) -> S:
        return _final(await self._drive(request))

    async def _result(self, request: Request[S]) -> RunResult[S]:
        return (await self._drive(request))[0]

    async def _drive(self, request: Request[S]) -> Ending[S]:
        with orderly_termination():
            return await run_to_end(request)


def look_like(handle: object, fn: Callable[..., Any]) -> None:
    """Give a handle the name and the docstring of its function; the function itself is at `__wrapped__`."""
    functools.update_wrapper(cast("Callable[..., Any]", handle), fn)


def _final(ending: Ending[S]) -> S:
    result, error = ending
    if error is not None:
        raise error
    return result.state
