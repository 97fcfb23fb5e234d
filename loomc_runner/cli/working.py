"""A run worked on in the terminal, begun or gone on with: live progress, then how it stands and how to go on."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import dataclass
from traceback import print_exception
from typing import Any

import typer
from pydantic_core import to_jsonable_python

from loomc_runner.cli.database import next_command
from loomc_runner.cli.signals import leaving_on
from loomc_runner.errors import LoomcError, RunNotFound
from loomc_runner.handle import AsyncLoop, Loop
from loomc_runner.progress import shown
from loomc_runner.records import RunResult, RunStatus
from loomc_runner.report import dollars, printable, reason
from loomc_runner.store import Store, open_store
from loomc_runner.stream import AsyncStream, Stream
from loomc_runner.trace import traced

AnyLoop = Loop[Any] | AsyncLoop[Any]
AnyStream = Stream[Any] | AsyncStream[Any]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a run is worked on: the page of its trace, whether errors show where they came from, and the last word."""

    trace: str | None = None
    traceback: bool = False
    as_json: bool = False


def work(find: Callable[[], AnyLoop], begin: Callable[[AnyLoop], AnyStream], db: str | None, manner: Manner) -> None:
    """Find a loop, work on a run of it to its end, and print the result.

    Raises:
        LoomcError: When the run did not complete; it says why, and how to go on.
    """
    stream: AnyStream | None = None
    store: Store | None = None
    try:
        with redirect_stdout(sys.stderr) if manner.as_json else nullcontext():  # what the steps print is no result
            handle = find()
            store, stream = open_store(handle.spec.checkpoint), begin(handle)
            _read(stream, store, manner.trace)
    except Exception as error:
        if manner.traceback:
            print_exception(error)
        if stream is None or (isinstance(error, LoomcError) and error.run_id is None):  # the run was not begun
            raise
        hint = "" if manner.traceback else " (--traceback shows where it came from)"
        words = f"failed: {type(error).__name__}: {error}"
        raise LoomcError(_outcome(store, stream.run_id, db, words) + hint) from error
    except (KeyboardInterrupt, SystemExit) as error:
        if stream is not None:
            print(f"loomc: {printable(_outcome(store, stream.run_id, db))}", file=sys.stderr)
        code = 130 if isinstance(error, KeyboardInterrupt) else error.code
        raise typer.Exit(code if isinstance(code, int) and code else 1) from error
    finally:
        if manner.as_json and stream is not None and stream.result is not None:
            print(_result_json(stream.result))
    if stream.result is None or stream.result.status is not RunStatus.COMPLETED:
        raise LoomcError(_outcome(store, stream.run_id, db))
    if not manner.as_json:
        print(_result_line(stream.result))


def _read(stream: AnyStream, store: Store, page: str | None) -> None:
    """Take every step there is."""

    async def read(steps: AsyncStream[Any]) -> None:
        async for _ in steps:
            pass

    with ExitStack() as stack:
        stack.enter_context(leaving_on(signal.SIGHUP))  # of SIGTERM the run takes care itself
        if page is not None:
            stack.enter_context(traced(store, stream.run_id, page))
        stack.enter_context(shown())
        if isinstance(stream, AsyncStream):
            asyncio.run(read(stream))
            return
        for _ in stream:
            pass


def _outcome(store: Store | None, run_id: str, db: str | None, words: str = "") -> str:
    """Why the run is where it is, and the command that goes on with it."""
    try:
        if store is None:
            return f"run {run_id} {words}"
        now = store.get_run(run_id)
    except RunNotFound:  # it ended before its first step
        return f"run {run_id} {words or 'was not begun'}"
    command = next_command(store, now, db)
    return f"run {now.id} {words or reason(now) or now.status.value}" + (f"; to go on: {command}" if command else "")


def _result_line(result: RunResult[Any]) -> str:
    best = "" if result.best_score is None else f", best score {result.best_score:g} at step {result.best_step}"
    spent = f"after {result.steps} steps, {dollars(result.cost_usd)}"
    return printable(f"run {result.run_id} {result.status.value} {spent}{best}: {result.stop_reason}")


def _result_json(result: RunResult[Any]) -> str:
    named = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return json.dumps(to_jsonable_python(named))
