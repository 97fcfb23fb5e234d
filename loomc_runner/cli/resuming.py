"""What `loomc resume` does: find the loop, go on with live progress, and tell how the run stands then."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from contextlib import nullcontext, redirect_stdout
from traceback import print_exception
from typing import Any

import typer
from pydantic_core import to_jsonable_python

from loomc_runner.budget import Budget
from loomc_runner.cli.database import next_command, url_of
from loomc_runner.errors import LoomcError, RunMismatch
from loomc_runner.handle import AsyncLoop, Loop
from loomc_runner.locate import loop_named, loop_of
from loomc_runner.progress import track
from loomc_runner.records import Run, RunResult, RunStatus
from loomc_runner.report import dollars, printable, reason
from loomc_runner.store import open_reader
from loomc_runner.stream import AsyncStream, Stream


def go_on(
    db: str | None, run: Run, target: str | None, budget: Budget | None, *, force: bool, traceback: bool, as_json: bool
) -> None:
    """Run a loop to its end, and print the result.

    Raises:
        LoomcError: When the run did not complete; it says why, and how to go on.
    """
    _check_root(run)
    stream: Stream[Any] | AsyncStream[Any] | None = None
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():  # what the steps print is not the result
            stream = find_loop(url_of(db), run, target).stream(run_id=run.id, budget=budget, force=force)
            _follow(stream)
    except Exception as error:
        if traceback:
            print_exception(error)
        if isinstance(error, LoomcError) and error.run_id is None:  # the run was not begun
            raise
        hint = "" if traceback else " (--traceback shows where it came from)"
        raise LoomcError(_outcome(db, run, f"failed: {type(error).__name__}: {error}") + hint) from error
    except (KeyboardInterrupt, SystemExit) as error:
        print(f"loomc: {printable(_outcome(db, run))}", file=sys.stderr)
        code = 130 if isinstance(error, KeyboardInterrupt) else error.code
        raise typer.Exit(code if isinstance(code, int) and code else 1) from error
    finally:
        if as_json and stream is not None and stream.result is not None:
            print(_result_json(stream.result))
    if stream.result is None or stream.result.status is not RunStatus.COMPLETED:
        raise LoomcError(_outcome(db, run))
    if not as_json:
        print(_result_line(stream.result))


def _check_root(run: Run) -> None:
    if run.parent_run_id is not None:
        raise RunMismatch(
            f"run {run.id} is a child of run {run.parent_run_id}, which pays for it; go on with that one, "
            f"or branch off: loomc fork {run.id} --step N"
        )


def find_loop(url: str, run: Run, target: str | None) -> Loop[Any] | AsyncLoop[Any]:
    """The loop of the run, over the database at hand; the run keeps the name it has."""
    handle = loop_of(run) if target is None else loop_named(target, run)
    name = handle.spec.name if run.loop is None or handle.spec.adopts else run.loop
    return type(handle)(dataclasses.replace(handle.spec, checkpoint=url, name=name))


def _follow(stream: Stream[Any] | AsyncStream[Any]) -> None:
    async def follow(steps: AsyncStream[Any]) -> None:
        async for _ in track(steps):
            pass

    if isinstance(stream, AsyncStream):
        asyncio.run(follow(stream))
        return
    for _ in track(stream):
        pass


def _outcome(db: str | None, run: Run, words: str = "") -> str:
    """Why the run is where it is, and the command that goes on with it."""
    store = open_reader(db)
    now = store.get_run(run.id)
    command = next_command(store, now, db)
    return f"run {now.id} {words or reason(now) or now.status.value}" + (f"; to go on: {command}" if command else "")


def _result_line(result: RunResult[Any]) -> str:
    best = "" if result.best_score is None else f", best score {result.best_score:g} at step {result.best_step}"
    spent = f"after {result.steps} steps, {dollars(result.cost_usd)}"
    return printable(f"run {result.run_id} {result.status.value} {spent}{best}: {result.stop_reason}")


def _result_json(result: RunResult[Any]) -> str:
    named = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return json.dumps(to_jsonable_python(named))
