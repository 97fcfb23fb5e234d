"""`loomc run`: begin a run of a loop from the terminal, and work on it here or in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer

from loomc_runner.budget import Budget
from loomc_runner.cli.app import IN_A_PROCESS, AsJson, Database, app
from loomc_runner.cli.database import option_of, path_of, url_of
from loomc_runner.errors import LoomcError, RequestRefused, RunNotFound, SpecError
from loomc_runner.report import printable
from loomc_runner.store import open_reader

LOOK = 0.05
"""Seconds between two looks whether a detached run has begun."""


@app.command(name="run")
def run_loop(
    target: Annotated[str, typer.Argument(metavar="LOOP", help="module:loop or file.py:loop.", show_default=False)],
    state: Annotated[
        str,
        typer.Option(help="The initial state as JSON; @FILE: a file with it, @-: standard input.", show_default=False),
    ],
    run_id: Annotated[
        str | None, typer.Option(help="An id of your choice; when that run exists, it goes on.", show_default=False)
    ] = None,
    usd: Annotated[float | None, typer.Option(help="Dollars, instead of what the loop says.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps, instead of what the loop says.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens, instead of what the loop says.")] = None,
    wall_clock: Annotated[
        str | None, typer.Option(help="Working time such as 30m, instead of what the loop says.")
    ] = None,
    trace: Annotated[
        str | None, typer.Option(help="Write an HTML page of the run there when it stops.", show_default=False)
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Work on it in the background: print the run id and return.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error of the loop came from.")] = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Begin a run of a loop, and show its progress.

    The loop is imported; its own options hold where none is given here. The run is kept in the database of this
    command, wherever the loop itself would keep it.
    """
    text = _text_of(state)
    budget = Budget(usd=usd, iterations=iterations, tokens=tokens, wall_clock=wall_clock)
    if detach:
        asked = ["--db", url_of(db), *(() if trace is None else ("--trace", trace))]
        for name, limit in budget.to_json().items():
            asked += [f"--{name.replace('_', '-')}", str(limit)]
        _detach([target, *asked], text, run_id, db, as_json=as_json)
        return
    from loomc_runner.cli.working import Manner, work
    from loomc_runner.locate import loop_at

    def find() -> Any:
        handle = loop_at(target)
        merged = _merged(handle.spec.budget, budget)
        return type(handle)(dataclasses.replace(handle.spec, checkpoint=url_of(db), budget=merged))

    work(
        find, lambda handle: handle.stream(_decoded(handle, text), run_id=run_id), db, Manner(trace, traceback, as_json)
    )


def _text_of(state: str) -> str:
    """The JSON text of a state, from the option or from the file it names."""
    text = state
    if state.startswith("@"):
        text = sys.stdin.read() if state == "@-" else Path(state[1:]).read_text(encoding="utf-8")
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise SpecError(f"--state {shown!r} is not JSON: {error}; a text needs quotes, '\"like this\"'") from None
    return text


def _merged(declared: Budget | None, named: Budget) -> Budget | None:
    """The budget of the loop, with the limits that were named in its place."""
    if not named.to_json():
        return declared
    return named if declared is None else declared.replaced_by(named)


def _decoded(handle: Any, text: str) -> Any:
    """The initial state as the loop declares it; plain JSON where it declares nothing."""
    from loomc_runner.state import Codec

    return Codec(handle.spec.annotations[0] or Any).parse(text)


def _detach(args: list[str], state: str, run_id: str | None, db: str | None, *, as_json: bool) -> None:
    """Start a process that works on the run, wait until the run has begun, and leave it alone."""
    from loomc_runner.opening import check_run_id, new_run_id
    from loomc_runner.store.connection import make_folder

    run_id, folder = new_run_id() if run_id is None else run_id, Path(path_of(db)).resolve().parent
    check_run_id(run_id)
    if _has_begun(db, run_id):
        raise RequestRefused(f"run {run_id} exists already; loomc resume {run_id}{option_of(db)} goes on with it")
    if not folder.exists():
        make_folder(folder)
    log = folder / "logs" / f"{run_id}.log"
    log.parent.mkdir(exist_ok=True)
    process = _start([*args, "--state", "@-", "--run-id", run_id], state, log)
    there = option_of(db)
    try:
        _await_beginning(process, db, run_id, log)
    except KeyboardInterrupt:
        print(f"loomc: run {run_id} may begin in process {process.pid}: loomc pause {run_id}{there}", file=sys.stderr)
        raise
    if as_json:
        print(json.dumps({"run_id": run_id, "pid": process.pid, "log": str(log)}))
        return
    print(
        f"run {run_id} began in process {process.pid}: loomc show {run_id} --follow{there}, loomc pause {run_id}{there}"
    )
    print(f"what it prints is in {printable(str(log))}")


def _start(args: list[str], state: str, log: Path) -> subprocess.Popen[str]:
    """A process that works on the run, in a session of its own."""
    with log.open("ab") as out:
        # The state goes through a pipe: an argument may have 128 KB, and everybody can read those of a process.
        process = subprocess.Popen(  # noqa: S603
            [*IN_A_PROCESS, "run", *args],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            start_new_session=True,
            text=True,
        )
    with suppress(BrokenPipeError):  # it has ended; why is told by whoever waits for it
        cast("TextIO", process.stdin).write(state)
    with suppress(BrokenPipeError):
        cast("TextIO", process.stdin).close()
    return process


def _await_beginning(process: subprocess.Popen[str], db: str | None, run_id: str, log: Path) -> None:
    """Wait until the run is on record.

    Raises:
        LoomcError: When the process has ended before; it says what that said.
    """
    while not _has_begun(db, run_id):
        try:
            status = process.wait(LOOK)
        except subprocess.TimeoutExpired:
            continue
        if _has_begun(db, run_id):
            return
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"status {status}"]
        log.unlink()
        raise LoomcError(said[-1].removeprefix("loomc: "))


def _has_begun(db: str | None, run_id: str) -> bool:
    try:
        open_reader(db).get_run(run_id)
    except RunNotFound:  # nor is there a database before the first run
        return False
    return True
