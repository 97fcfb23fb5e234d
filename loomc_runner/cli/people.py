"""What people do to runs: answer their questions, pause and cancel them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from loomc_runner.cli import render
from loomc_runner.cli.app import AsJson, Database, RunId, app
from loomc_runner.cli.database import next_command, option_of, path_of, url_of
from loomc_runner.clock import SystemClock
from loomc_runner.export import question_json, run_json, write_array
from loomc_runner.outside import ask_to_stop, find_question, give_answer, verdicts
from loomc_runner.records import Control, RunStatus
from loomc_runner.report import find_run, printable, reason
from loomc_runner.store import open_reader, open_store

By = Annotated[str, typer.Option(help="Who answers; it is kept with the answer.", show_default=False)]
Which = Annotated[
    str | None,
    typer.Option("--question", help="Which one, as STEP.NUMBER, where several are open.", show_default=False),
]
Note = Annotated[str, typer.Option(help="What there is to say about it.", show_default=False)]


@app.command()
def questions(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Only those of this run and its child runs.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """List the open questions of the runs that wait for an answer."""
    store, screen = open_reader(db), render.Screen.of_stdout()
    asked = store.questions() if run is None else store.questions(find_run(store, run).id)
    found = [question for question in asked if question.is_open]
    if as_json:
        write_array(sys.stdout, map(question_json, found))
        print()
        return
    if not render.show_questions(screen, found):
        print(f"no open questions in {printable(path_of(db))}")
        return
    there = option_of(db)
    verbs = [f"loomc {verb} --by YOU{there}" for verb in ("approve RUN", "deny RUN", "answer RUN JSON")]
    facts = [("" if index else "answer with", verb) for index, verb in enumerate(verbs)]
    render.show_facts(screen, [*facts, ("then", f"loomc resume RUN{there}")])


@app.command()
def answer(
    run: RunId,
    value: Annotated[str, typer.Argument(metavar="JSON", help="The answer, as JSON; a text needs no quotes.")],
    by: By,
    question: Which = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Answer a question that a run waits for."""
    try:
        values = [json.loads(value), value]
    except json.JSONDecodeError:
        values = [value]
    _answer(db, run, question, values, by, as_json=as_json)


@app.command()
def approve(
    run: RunId, by: By, note: Note = "", question: Which = None, as_json: AsJson = False, db: Database = None
) -> None:
    """Say yes to what a run wants to do."""
    _answer(db, run, question, verdicts(by, note, approved=True), by, as_json=as_json)


@app.command()
def deny(
    run: RunId, by: By, note: Note = "", question: Which = None, as_json: AsJson = False, db: Database = None
) -> None:
    """Say no to what a run wants to do."""
    _answer(db, run, question, verdicts(by, note, approved=False), by, as_json=as_json)


@app.command()
def pause(
    run: RunId,
    now: Annotated[bool, typer.Option("--now", help="In the middle of the step, if that is async.")] = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Pause a run after the step that runs; what is done so far is kept, and it goes on with resume."""
    _stop(db, run, Control.PAUSE_NOW if now else Control.PAUSE, as_json=as_json)


@app.command()
def cancel(run: RunId, as_json: AsJson = False, db: Database = None) -> None:
    """End a run for good, after the step that runs."""
    _stop(db, run, Control.CANCEL, as_json=as_json)


def _answer(db: str | None, run: str, which: str | None, values: Sequence[Any], by: str, *, as_json: bool) -> None:
    found = find_run(open_reader(db), run)
    store = open_store(url_of(db))
    asked = find_question(store, found.id, which)
    give_answer(store, asked, values, by, SystemClock().now())
    if as_json:
        (answered,) = (q for q in store.questions(asked.run_id) if (q.run_id, q.number) == (asked.run_id, asked.number))
        print(json.dumps(question_json(answered)))
        return
    command = next_command(store, store.get_run(found.id), db)
    print(f"run {asked.run_id} has its answer to {printable(asked.prompt)!r}" + (f": {command}" if command else ""))


def _stop(db: str | None, run: str, control: Control, *, as_json: bool) -> None:
    found = find_run(open_reader(db), run)
    store = open_store(url_of(db))
    now = ask_to_stop(store, found, control, SystemClock().now())
    if as_json:
        print(json.dumps(run_json(store, now)))
    elif now.status is RunStatus.RUNNING:
        verb = "be cancelled" if control is Control.CANCEL else "pause"
        at_once = "at once if its step is async, else " if control is Control.PAUSE_NOW else ""
        print(f"run {now.id} will {verb} {at_once}after the step that runs")
    else:
        print(f"run {now.id} is {printable(reason(now))}")
