"""The commands: parse, call, print."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from loomc_runner import __version__, opening
from loomc_runner.budget import Budget
from loomc_runner.cli import render
from loomc_runner.decorator import AsyncLoop, Loop
from loomc_runner.errors import LoomcError, SpecError
from loomc_runner.export import WRITERS
from loomc_runner.records import NANO, RunResult, RunStatus
from loomc_runner.report import (
    attempt_json,
    command_to_go_on,
    find_run,
    limits,
    page_runs,
    page_steps,
    run_json,
    step_json,
    story,
)
from loomc_runner.store import default_path, open_reader, open_store

app = typer.Typer(
    name="loomc",
    help="See, resume, fork and export the runs of durable loops.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Database = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it at run time
    typer.Option("--db", help="The database; else LOOMC_DB, else .loomc/checkpoints.db.", show_default=False),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or its unique beginning.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"loomc_runner {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """See, resume, fork and export the runs of durable loops."""


@app.command()
def runs(
    status: Annotated[
        Optional[RunStatus],  # noqa: UP045
        typer.Option(help="Only runs with this status.", show_default=False),
    ] = None,
    loop: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only runs whose loop's name contains this.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 50,
    offset: Annotated[int, typer.Option(help="Leave out so many of the newest.", min=0)] = 0,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """List the runs, newest first."""
    store = open_reader(db)
    found = page_runs(store, status=status, loop=loop, limit=limit or None, offset=offset)
    if as_json:
        _print_array(run_json(store, run) for run in found)
        return
    costed = ((run, store.subtree(run.id)[0] / NANO) for run in found)
    count = render.show_runs(render.console(), costed)
    if count == 0:
        print("no runs" + (" that match" if status or loop else "") + f" in {_place(db)}")
    elif count == limit:
        print(f"the newest {count}; --limit 0 shows all, --offset {offset + count} the next")


@app.command()
def show(run: RunId, as_json: AsJson = False, db: Database = None) -> None:
    """Show a run: every step, what is left of its budget, why it stopped, and how to go on."""
    store = open_reader(db)
    found = find_run(store, run)
    reached = limits(store, found)
    command = command_to_go_on(found, reached)
    if as_json:
        head = {**run_json(store, found), "limits": list(map(dataclasses.asdict, reached)), "go_on": command}
        steps, attempts = map(step_json, page_steps(store, found)), map(attempt_json, store.attempts(found.id))
        print(json.dumps({"run": head, "steps": list(steps), "attempts": list(attempts)}))
        return
    out = render.console()
    render.show_head(out, found)
    render.show_story(out, story(store, found))
    render.show_end(out, found, reached, store.subtree(found.id)[0] / NANO, command)


@app.command()
def resume(
    run: RunId,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[LOOP]", help="module:loop or file.py:loop, where the run cannot name it."),
    ] = None,
    usd: Annotated[Optional[float], typer.Option(help="New total of dollars.")] = None,  # noqa: UP045
    iterations: Annotated[Optional[int], typer.Option(help="New total of steps.")] = None,  # noqa: UP045
    tokens: Annotated[Optional[int], typer.Option(help="New total of tokens.")] = None,  # noqa: UP045
    wall_clock: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="New total of working time, such as 30m."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on also with a stalled or cancelled run.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where the step's own error came from.")] = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Go on with a run that stopped: its loop is imported from where it was defined, and works here."""
    from loomc_runner.locate import load_loop, loop_of

    found = find_run(open_reader(db), run)
    handle = load_loop(target) if target else loop_of(found)
    spec = dataclasses.replace(handle.spec, checkpoint=_place(db), adopts=found.id)
    limits_named = usd is not None or iterations is not None or tokens is not None or wall_clock is not None
    budget = Budget(usd=usd, iterations=iterations, tokens=tokens, wall_clock=wall_clock) if limits_named else None
    try:
        result = _drive(type(handle)(spec), found.id, budget, force=force)
    except LoomcError:
        raise
    except Exception as error:
        if traceback:
            raise
        message = f"run {found.id} failed: {type(error).__name__}: {error}; {opening.describe_resumption(found.id)}"
        raise LoomcError(f"{message} (--traceback shows where it failed)") from error
    _print_result(result, as_json=as_json)
    if result.status is not RunStatus.COMPLETED:
        store = open_reader(db)
        now = find_run(store, found.id)
        command = command_to_go_on(now, limits(store, now))
        raise LoomcError(f"run {now.id} is {now.status.value}: {now.stop_reason}; to go on: {command}")


@app.command()
def fork(
    run: RunId,
    step: Annotated[int, typer.Option(help="The step whose state the new run begins with; -1: the initial state.")],
    update: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help='Fields of the state to change, as JSON: \'{"text": "..."}\'.'),
    ] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Make a new run from an old step; the old run is left as it is."""
    found = find_run(open_reader(db), run)
    new = opening.fork(None, open_store(_place(db)), found.id, step, _object(update))
    print(
        json.dumps({"run_id": new}) if as_json else f"run {new} begins at step {step} of {found.id}; loomc resume {new}"
    )


@app.command()
def export(
    run: RunId,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object (the default).")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row a step.")] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="A file instead of the terminal.", show_default=False),
    ] = None,
    db: Database = None,
) -> None:
    """Write a whole run, with the state of every step."""
    if as_json + jsonl + csv > 1:
        raise SpecError("--json, --jsonl and --csv: choose one")
    store = open_reader(db)
    write = WRITERS["jsonl" if jsonl else "csv" if csv else "json"]
    found = find_run(store, run)
    if output is None:
        write(store, found, sys.stdout)
        return
    with output.open("w", encoding="utf-8", newline="") as out:
        write(store, found, out)


def _drive(handle: Loop[Any] | AsyncLoop[Any], run_id: str, budget: Budget | None, *, force: bool) -> RunResult[Any]:
    """Resume with live progress; also a completed run, which only gives its result."""
    from loomc_runner.progress import watch

    async def watched(loop: AsyncLoop[Any]) -> RunResult[Any] | None:
        stream = loop.stream(run_id=run_id, budget=budget, force=force)
        with watch(stream) as show_step:
            async for step in stream:
                show_step(step)
        return stream.result

    if isinstance(handle, AsyncLoop):
        result = asyncio.run(watched(handle))
    else:
        stream = handle.stream(run_id=run_id, budget=budget, force=force)
        with watch(stream) as show_step:
            for step in stream:
                show_step(step)
        result = stream.result
    if result is None:
        raise LoomcError(f"run {run_id} ended without a result; loomc show {run_id} tells more")
    return result


def _print_result(result: RunResult[Any], *, as_json: bool) -> None:
    if not as_json:
        best = "" if result.best_score is None else f", best score {result.best_score:g} at step {result.best_step}"
        reason = render.clean(result.stop_reason or "")
        spent = f"after {result.steps} steps, ${result.cost_usd:.4f}"
        print(f"run {result.run_id} {result.status.value} {spent}{best}: {reason}")
        return
    named = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    from pydantic_core import to_jsonable_python

    print(json.dumps(to_jsonable_python(named)))


def _print_array(items: Any) -> None:
    """A JSON array, written item by item."""
    sys.stdout.write("[")
    for index, item in enumerate(items):
        sys.stdout.write((",\n" if index else "\n") + json.dumps(item))
    sys.stdout.write("\n]\n")


def _place(db: Path | None) -> Path:
    return default_path() if db is None else db


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"--update {text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise SpecError(f'--update {text!r}: give an object such as \'{{"text": "..."}}\'')
    return value
