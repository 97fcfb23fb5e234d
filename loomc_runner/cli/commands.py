"""The commands: parse, call, print."""

from __future__ import annotations

import json
import sys
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from loomc_runner.cli import render
from loomc_runner.cli.app import MANY, AsJson, Database, Offset, RunId, app
from loomc_runner.cli.database import next_command, option_of, path_of, url_of
from loomc_runner.cli.paging import A_SCREENFUL, say_more
from loomc_runner.errors import SpecError
from loomc_runner.export import (
    WRITERS,
    limit_json,
    lists_of,
    run_json,
    step_json,
    tree_json,
    write_array,
    write_object,
)
from loomc_runner.records import RunStatus
from loomc_runner.report import (
    Branch,
    family,
    find_run,
    inside,
    limits,
    page_runs,
    page_steps,
    printable,
    story,
)
from loomc_runner.store import open_reader


@app.command()
def runs(
    status: Annotated[
        RunStatus | None,
        typer.Option(help="Only runs with this status.", show_default=False),
    ] = None,
    loop: Annotated[
        str | None,
        typer.Option(help="Only runs whose loop's name contains this.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="At most so many; 0 for all. [default: 50 on a terminal, else all]", min=0, max=MANY),
    ] = None,
    offset: Annotated[int, typer.Option(help="Leave out so many of the newest.", min=0, max=MANY)] = 0,
    tree: Annotated[
        bool, typer.Option("--tree", help="Child runs below their parents, with what each has cost.")
    ] = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """List the runs, newest first."""
    store, screen = open_reader(db), render.Screen.of_stdout()
    if limit is None and screen.width is not None and not as_json:
        limit = A_SCREENFUL
    wanted = limit or None
    more = None if wanted is None else wanted + 1
    found = page_runs(store, status=status, loop=loop, limit=more, offset=offset, roots=tree)
    shown = islice(found, wanted)
    if as_json:
        write_array(sys.stdout, (tree_json(store, run) if tree else run_json(store, run) for run in shown))
        print()
        return
    branches = chain.from_iterable(family(store, run) for run in shown) if tree else (Branch(0, run) for run in shown)
    count = render.show_runs(screen, ((branch, store.subtree(branch.run.id)[0]) for branch in branches))
    if not count:
        print("no runs" + (" that match" if status or loop or offset else "") + f" in {printable(path_of(db))}")
    elif screen.width is not None and wanted is not None and any(found):
        say_more(wanted, offset)


@app.command()
def show(
    run: RunId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Live, from another process: tell new steps until the run has ended.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many steps; 0 for all.", min=0, max=MANY)] = 0,
    offset: Offset = 0,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Show a run: every step, why it stopped, and how to go on.

    Below the steps stand what was spent, what is left of the budget, and the command that goes on with the run.
    """
    store = open_reader(db)
    found = find_run(store, run)
    if follow:  # leaves with a status of its own
        from loomc_runner.cli.following import follow as follow_run

        follow_run(db, found, as_json=as_json)
    reached, command = limits(store, found), next_command(store, found, db)
    end = offset + limit if limit else None
    if as_json:
        head = {"run": {**run_json(store, found), "limits": [limit_json(limit) for limit in reached], "go_on": command}}
        steps = map(step_json, page_steps(store, found, offset, end))
        lists = {**lists_of(store, found, offset, end), "steps": steps}  # without their states
        write_object(sys.stdout, head, lists)
        return
    screen = render.Screen.of_stdout()
    render.show_head(screen, found)
    lines = (line for line in story(store, found) if line.step_n >= offset)
    render.show_story(screen, takewhile(lambda line: end is None or line.step_n < end, lines))
    branches = islice(family(store, found), 1, render.MOST_BRANCHES + 2)
    render.show_family(screen, ((branch, store.subtree(branch.run.id)[0]) for branch in branches))
    render.show_end(screen, found, reached, store.subtree(found.id)[0], inside(store, found), command)


@app.command()
def resume(
    run: RunId,
    target: Annotated[
        str | None,
        typer.Argument(metavar="LOOP", help="module:loop or file.py:loop, where the run cannot name it."),
    ] = None,
    usd: Annotated[float | None, typer.Option(help="New total of dollars.")] = None,
    iterations: Annotated[int | None, typer.Option(help="New total of steps.")] = None,
    tokens: Annotated[int | None, typer.Option(help="New total of tokens.")] = None,
    wall_clock: Annotated[
        str | None,
        typer.Option(help="New total of working time, such as 30m."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on also with a stalled or cancelled run, or one that gets no further.")
    ] = False,
    trace: Annotated[
        str | None, typer.Option(help="Write an HTML page of the run there when it stops.", show_default=False)
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only tell what would happen.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error of the loop came from.")] = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Go on with a run that stopped, and show its progress.

    Its loop is imported from where it was defined. What was spent stays spent; a new limit is a new total.
    """
    from loomc_runner.budget import Budget
    from loomc_runner.cli.resuming import go_on
    from loomc_runner.cli.working import Manner

    limits_named = any(limit is not None for limit in (usd, iterations, tokens, wall_clock))
    budget = Budget(usd=usd, iterations=iterations, tokens=tokens, wall_clock=wall_clock) if limits_named else None
    found = find_run(open_reader(db), run)
    if plan:
        from loomc_runner.cli.recovering import show_plan

        show_plan(db, found, target, budget, force=force, as_json=as_json)
        return
    go_on(db, found, target, budget, Manner(trace, traceback, as_json), force=force)


@app.command()
def fork(
    run: RunId,
    step: Annotated[int, typer.Option(help="The step whose state the new run begins with; -1: the initial state.")],
    update: Annotated[
        str | None,
        typer.Option(help='Fields of the state to change, as JSON: \'{"text": "..."}\'.'),
    ] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Make a new run from an old step; the old run is left as it is."""
    from loomc_runner import forking
    from loomc_runner.store import open_store

    found = find_run(open_reader(db), run)
    new = forking.fork(None, open_store(url_of(db)), found.id, step, _object(update))
    begins = "with the initial state" if step == -1 else f"at step {step}"
    print(
        json.dumps({"run_id": new})
        if as_json
        else f"run {new} begins {begins} of {found.id}: loomc resume {new}{option_of(db)}"
    )


@app.command()
def export(
    run: RunId,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object (the default).")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row a step.")] = False,
    output: Annotated[
        Path | None,
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
