"""A run that is asked for: opened, driven to its end, and told about when it goes wrong."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from loomc_runner import opening
from loomc_runner.budget import Budget
from loomc_runner.context import Leave, current_scope, halting
from loomc_runner.cursor import Cursor
from loomc_runner.driver import drive, pause
from loomc_runner.errors import RunHalted, RunNotFound, RunStopped, SpecError, StallError, WaitingForAnswer
from loomc_runner.place import Place, place
from loomc_runner.records import Run, RunResult, RunStatus
from loomc_runner.spec import LoopSpec
from loomc_runner.store import Store
from loomc_runner.watching import AtWork, tell
from loomc_runner.works import under_way

S = TypeVar("S")

Ending = tuple[RunResult[S], BaseException | None]
"""How a run stands, and the error that `fn(state)` raises for it (a limit, a stall), if any."""


_importing: ContextVar[str | None] = ContextVar("loomc_runner_importing", default=None)


@contextmanager
def importing(name: str) -> Iterator[None]:
    """While `loomc resume` imports a module, no run begins or goes on in it: that would be paid for twice."""
    token = _importing.set(name)
    try:
        yield
    finally:
        _importing.reset(token)


@dataclass(frozen=True, slots=True)
class Request(Generic[S]):
    """How a run is asked for: begun from a state, or gone on with (`existing`), and what that may change.

    A child run has its `place` in its parent's step. With `progress` it is shown live, None leaves that to the loop;
    with `trace` an HTML page of it is written when it stops.
    """

    spec: LoopSpec[S]
    state: Any = None
    run_id: str | None = None
    existing: bool = False
    budget: Budget | None = None
    force: bool = False
    place: Place | None = None
    progress: bool | None = None
    trace: str | os.PathLike[str] | None = None

    def placed(self) -> Request[S]:
        """The same; a new run that is called inside a step gets its place in it, now and not when it is awaited."""
        if self.existing or self.run_id is not None or self.place is not None or _importing.get():
            return self
        return dataclasses.replace(self, place=place(self.spec, self.state))

    def named(self) -> Request[S]:
        """The same, with the id that the run has, or will have once it begins."""
        request = self.placed()
        if request.run_id is not None:
            return request
        run_id = opening.new_run_id() if request.place is None else request.place.run_id
        return dataclasses.replace(request, run_id=run_id)


async def open_run(request: Request[S]) -> Cursor[S] | RunResult[S]:
    """A cursor to drive, or the stored result of a run that is complete."""
    if name := _importing.get():
        raise SpecError(f'{name} runs a loop when it is imported; put that under: if __name__ == "__main__"')
    if request.place is not None:
        return await _open_child(request, request.place)
    spec, run_id, store = request.spec, request.run_id, opening.store_of(request.spec)
    if run_id is None and not request.existing:
        return await opening.begin(spec, request.state, opening.new_run_id())
    if not isinstance(run_id, str):
        raise SpecError(f"run_id={run_id!r}: give the id of a run, a string")
    try:
        run: Run | None = await opening.look_up(spec, store, run_id)
    except RunNotFound:
        if request.existing:
            raise
        run = None
    if run is None:
        return await opening.begin(spec, request.state, run_id)
    opening.check_owner(spec, run)
    if not request.existing:
        opening.check_initial(spec, store, run, request.state)
    return await _go_on(request, store, run)


async def _open_child(request: Request[S], place: Place) -> Cursor[S] | RunResult[S]:
    """A child run, as it is known in its parent's step."""
    spec, store = request.spec, opening.store_of(request.spec)
    if place.begun:
        try:
            run = await opening.look_up(spec, store, place.run_id)
        except RunNotFound:  # it was called, and never came to begin
            return await opening.begin(spec, request.state, place.run_id, place.key)
        if (scope := current_scope()) is not None and any(store.subtree(run.id)):
            scope.account.priced = True  # its cost was recorded in an earlier try
        opening.check_owner(spec, run)
        if run.status is RunStatus.STALLED:
            return opening.stored_result(spec, store, run)
        return await _go_on(dataclasses.replace(request, force=True), store, run)
    return await opening.begin(spec, request.state, place.run_id, place.key)


async def _go_on(request: Request[S], store: Store, run: Run) -> Cursor[S] | RunResult[S]:
    """An existing run: its stored result when it is complete or still waits, else a cursor to drive."""
    spec = request.spec
    if run.status is RunStatus.COMPLETED or opening.waits_for(store, run, spec.clock.now()) is not None:
        return opening.stored_result(spec, store, run)
    return await opening.resume(spec, run.id, request.budget, force=request.force)


async def run_to_end(request: Request[S]) -> Ending[S]:
    """Open a run and drive it until it stops. The step's own errors are raised."""
    with ExitStack() as stack:
        if (scope := current_scope()) is not None:
            stack.enter_context(under_way(scope))
        if (page := request.trace) is not None:
            from loomc_runner.trace import traced

            request = request.named()
            stack.enter_context(traced(opening.store_of(request.spec), str(request.run_id), page))
        if request.spec.progress if request.progress is None else request.progress:
            from loomc_runner.progress import shown

            stack.enter_context(shown())
        return await _run_to_end(request)


async def _run_to_end(request: Request[S]) -> Ending[S]:
    cursor: Cursor[S] | None = None
    try:
        opened = await open_run(request.placed())
        if isinstance(opened, RunResult):
            return hand_up(opened, stored_error(request.spec, opened))
        cursor = opened
        tell("began", at_work(cursor))
        await drive(cursor)
    except BaseException as error:
        if cursor is not None and not cursor.stopped:  # Ctrl-C between two steps
            await pause(cursor, error)
        inform(error, cursor)
        raise
    finally:
        if cursor is not None:
            tell_end(cursor)
    return conclude(cursor)


def at_work(cursor: Cursor[Any]) -> AtWork:
    """The run as those see it who look on."""
    return AtWork(cursor.spec.name, cursor.ledger, cursor.history)


def tell_end(cursor: Cursor[Any]) -> None:
    """Tell those who look on that the run has stopped."""
    if (verdict := cursor.verdict) is not None:
        tell("ended", cursor.lease.run_id, verdict.status, verdict.reason or verdict.status.value)


def conclude(cursor: Cursor[S]) -> Ending[S]:
    """How a run stands that has stopped. The step's own errors are raised."""
    result, error = opening.result_of(cursor), cursor.verdict.error if cursor.verdict else None
    if error is not None:
        inform(error, cursor, result)
        if result.status is RunStatus.FAILED:
            raise error
    return hand_up(result, error)


def stored_error(spec: LoopSpec[S], result: RunResult[S]) -> BaseException | None:
    """What `fn(state)` raises for a run that nothing was executed for."""
    if result.status is RunStatus.WAITING:
        store = opening.store_of(spec)
        question = opening.waits_for(store, store.get_run(result.run_id), spec.clock.now())
        return WaitingForAnswer(result.run_id, question.prompt if question else "")
    if result.status is RunStatus.STALLED and spec.on_stall is not None:
        return StallError(spec.on_stall.after)
    return None


def hand_up(result: RunResult[S], error: BaseException | None) -> Ending[S]:
    """How a run ended; a child that waits, or was asked to stop, lets its parent's step do the same."""
    scope, halt = current_scope(), halting.get()
    if scope is None or not isinstance(error, WaitingForAnswer | RunStopped):
        return result, error
    halted = isinstance(error, RunHalted)
    if halted and halt is not None and halt.owner is scope and halt.failed:  # the one who made it stop is told
        return result, error
    prompt = error.prompt if isinstance(error, WaitingForAnswer) else None
    raise scope.leave(Leave(result.status, result.stop_reason or result.status.value, prompt, halted=halted))


def inform(error: BaseException, cursor: Cursor[Any] | None, result: RunResult[Any] | None = None) -> None:
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
    note = opening.describe_resumption(cursor.store, run_id)
    if note not in getattr(error, "__notes__", ()):
        with suppress(AttributeError, TypeError):  # frozen ones take no note either
            error.add_note(note)
