"""A run that is asked for: opened, driven to its end, and told about when it goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from loomc_runner import opening
from loomc_runner.budget import Budget
from loomc_runner.cursor import Cursor
from loomc_runner.driver import drive, pause
from loomc_runner.errors import RunNotFound, SpecError
from loomc_runner.records import Run, RunResult, RunStatus
from loomc_runner.spec import LoopSpec

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
    """How a run is asked for: begun from a state, or gone on with (`existing`), and what that may change."""

    spec: LoopSpec[S]
    state: Any = None
    run_id: str | None = None
    existing: bool = False
    budget: Budget | None = None
    force: bool = False


async def open_run(request: Request[S]) -> Cursor[S] | RunResult[S]:
    """A cursor to drive, or the stored result of a run that is complete."""
    if name := _importing.get():
        raise SpecError(f'{name} runs a loop when it is imported; put that under: if __name__ == "__main__"')
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
    if run.status is RunStatus.COMPLETED:
        return opening.stored_result(spec, store, run)
    return await opening.resume(spec, run_id, request.budget, force=request.force)


async def run_to_end(request: Request[S]) -> Ending[S]:
    """Open a run and drive it until it stops. The step's own errors are raised."""
    cursor: Cursor[S] | None = None
    try:
        opened = await open_run(request)
        if isinstance(opened, RunResult):
            return opened, None
        cursor = opened
        await drive(cursor)
    except BaseException as error:
        if cursor is not None and not cursor.stopped:  # Ctrl-C between two steps
            await pause(cursor, error)
        inform(error, cursor)
        raise
    return conclude(cursor)


def conclude(cursor: Cursor[S]) -> Ending[S]:
    """How a run stands that has stopped. The step's own errors are raised."""
    result, error = opening.result_of(cursor), cursor.verdict.error if cursor.verdict else None
    if error is not None:
        inform(error, cursor, result)
        if result.status is RunStatus.FAILED:
            raise error
    return result, error


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
    note = opening.describe_resumption(run_id)
    if note not in getattr(error, "__notes__", ()):
        with suppress(AttributeError, TypeError):  # frozen ones take no note either
            error.add_note(note)
