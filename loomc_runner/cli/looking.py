"""What is on record of a run, piece by piece: its lineage, tries, calls and states, and how two of them differ."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loomc_runner.cli import render
from loomc_runner.cli.app import NAMES, AsJson, Database, Limit, Offset, RunId, app, known_runs
from loomc_runner.cli.paging import show_page, write_page
from loomc_runner.cli.render import Cell, Column
from loomc_runner.clock import format_duration
from loomc_runner.errors import LoomcError, RunNotFound
from loomc_runner.export import attempt_json, call_json, plain, write_array
from loomc_runner.records import INITIAL, NANO, Attempt, Call, CallStatus, Run
from loomc_runner.report import dropped_result, find_run, page_attempts, page_calls, place, printable
from loomc_runner.store import Store, open_reader

if TYPE_CHECKING:
    from loomc_runner.report.compare import Comparison, Pair
    from loomc_runner.report.diff import Change
    from loomc_runner.report.lineage import Node

HISTORY = (*(Column("step"), Column("score", right=True), Column("cost", right=True), Column("", least=10)),)
ATTEMPTS = (
    *(Column("step", right=True), Column("try", right=True), Column("cost", right=True), Column("time", right=True)),
    *(Column("began"), Column("category"), Column("error", least=20)),
)
CALLS = (
    *(Column("step", right=True), Column("call", right=True), Column("status"), Column("cost", right=True)),
    *(Column("time", right=True), Column("name", least=10, tail=True), Column("result", least=10)),
)
PAIRS = (Column("step", right=True), Column("first", right=True), Column("second", right=True))
LEVELS = (Column("for", right=True), Column("first", right=True), Column("second", right=True))
CALL_COLOURS = {CallStatus.STARTED: "yellow", CallStatus.DONE: "green", CallStatus.FAILED: "red"}

StepNumber = Annotated[int, typer.Argument(metavar="A", help="A step; -1: the initial state.", show_default=False)]
OtherStep = Annotated[int, typer.Argument(metavar="B", help="Another step.", show_default=False)]


@app.command()
def history(run: RunId, limit: Limit = None, offset: Offset = 0, as_json: AsJson = False, db: Database = None) -> None:
    """Show which step grew from which, as a tree: returns to earlier steps, and runs forked from here.

    A step whose state was dropped to save room is an empty circle.
    """
    from loomc_runner.report.lineage import lineage

    store = open_reader(db)
    found = find_run(store, run)
    forks = _forks(store, found)
    if as_json:
        rows = ({**plain(node), "forks": forks.get(node.step_n, [])} for node in lineage(store, found))
        write_page(rows, limit, offset)
        return
    show_page(HISTORY, (_history_row(node, forks) for node in lineage(store, found)), limit, offset)
    if found.origin is not None:
        origin, step = found.origin
        print(f"run {printable(found.id)} was forked from {place(step)} of run {printable(origin)}")


def _forks(store: Store, run: Run) -> dict[int, list[str]]:
    """The runs forked from each step of a run."""
    forks: dict[int, list[str]] = {}
    for other in store.list_runs(origin=run.id):
        if other.origin is not None:
            forks.setdefault(other.origin[1], []).append(other.id)
    return forks


def _history_row(node: Node, forks: dict[int, list[str]]) -> tuple[Cell, ...]:
    sides = "│ " * (node.depth - node.begins) + ("├─" if node.begins else "")
    name = "initial state" if node.step_n == INITIAL else str(node.step_n)
    marks = {"★ best": node.best, "✘ failed": node.failed, "✘ missing on record": node.missing}
    words = [mark for mark, applies in marks.items() if applies]
    word, _, number = (node.decision or "").partition(" ")
    words += {"restore": [f"↩ back to {place(int(number or 0))}"], "escalate": ["⇧ escalated"]}.get(word, [])
    words += [f"⑂ run {fork}" for fork in forks.get(node.step_n, [])]
    return (
        Cell(f"{sides}{'○' if node.state_dropped else '●'} {name}"),
        Cell("" if node.score is None else f"{node.score:.6g}"),
        Cell("" if node.cost_usd is None else render.money(node.cost_usd)),
        Cell(printable("  ".join(words)), "red" if node.failed or node.missing else "green" if node.best else ""),
    )


@app.command()
def attempts(run: RunId, limit: Limit = None, offset: Offset = 0, as_json: AsJson = False, db: Database = None) -> None:
    """List the tries of steps that did not become a step, with their errors and what they cost."""
    store = open_reader(db)
    found = find_run(store, run)
    if as_json:
        write_page(map(attempt_json, page_attempts(store, found)), limit, offset)
        return
    rows = map(_attempt_row, page_attempts(store, found))
    if not show_page(ATTEMPTS, rows, limit, offset):
        print(f"no try of a step of run {printable(found.id)} has failed")


def _attempt_row(attempt: Attempt) -> tuple[Cell, ...]:
    return (
        Cell(str(attempt.step_n)),
        Cell(str(attempt.attempt)),
        Cell(render.money(attempt.nano_usd / NANO)),
        Cell(format_duration(attempt.duration) if attempt.duration else ""),
        Cell(render.when(attempt.started_at)),
        Cell(printable(attempt.category)),
        Cell(printable(attempt.error)),
    )


@app.command()
def calls(
    run: RunId,
    status: Annotated[CallStatus | None, typer.Option(help="Only those with this status.", show_default=False)] = None,
    limit: Limit = None,
    offset: Offset = 0,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """List the durable calls of a run, each try of them, with results, errors and cost."""
    store = open_reader(db)
    found = find_run(store, run)
    wanted = (call for call in page_calls(store, found) if status in {None, call.status})
    if as_json:
        write_page(map(call_json, wanted), limit, offset)
        return
    if not show_page(CALLS, map(_call_row, wanted), limit, offset):
        print(f"no calls{f' that are {status.value}' if status else ''} in run {printable(found.id)}")


def _call_row(call: Call) -> tuple[Cell, ...]:
    return (
        Cell(str(call.step_n)),
        Cell(str(call.seq)),
        Cell(call.status.value, CALL_COLOURS[call.status]),
        Cell(render.money(call.nano_usd / NANO)),
        Cell(format_duration(call.duration) if call.duration else ""),
        Cell(printable(call.name)),
        Cell(printable(call.error or (call.result if call.result_hash is None else dropped_result(call)) or "")),
    )


@app.command()
def state(
    run: RunId,
    step: Annotated[
        int | None, typer.Option(help="The step; -1: the initial state. [default: the newest]", show_default=False)
    ] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Show the state after a step, as JSON that a person reads."""
    store = open_reader(db)
    found = find_run(store, run)
    step_n = found.steps - 1 if step is None else step
    value = _state(store, found, step_n)
    if as_json:
        print(json.dumps({"run_id": found.id, "step_n": step_n, "state": value}))
        return
    for line in json.dumps(value, indent=2, ensure_ascii=False).split("\n"):
        print(printable(line))


def _state(store: Store, run: Run, step_n: int) -> Any:
    if not INITIAL <= step_n < max(run.steps, 0):
        last = f"0 to {run.steps - 1}" if run.steps else "none yet"
        raise RunNotFound(f"run {run.id} has no step {step_n}; it has {last}, and -1 for the initial state")
    return json.loads(store.state(run.id, step_n))


@app.command(context_settings={**NAMES, "ignore_unknown_options": True})  # -1 is a step, and no option
def diff(run: RunId, a: StepNumber, b: OtherStep, as_json: AsJson = False, db: Database = None) -> None:
    """Show how the states after two steps differ; texts of several lines as a unified diff."""
    from loomc_runner.report.diff import differences

    store = open_reader(db)
    found = find_run(store, run)
    changes = list(differences(_state(store, found, a), _state(store, found, b)))
    if as_json:
        write_array(sys.stdout, map(plain, changes))
        print()
        return
    if not changes:
        print(f"the states after {place(a)} and {place(b)} of run {printable(found.id)} are equal")
        return
    screen = render.Screen.of_stdout()
    columns = (Column("path", tail=True), Column(place(a), least=8), Column(place(b), least=8))
    render.table(screen, columns, (_change_row(change) for change in changes if not change.unified))
    for change in changes:
        _show_texts(screen, change)


def _change_row(change: Change) -> tuple[Cell, ...]:
    colour = {"added": "green", "removed": "red", "changed": ""}[change.kind]
    before = "" if change.kind == "added" else json.dumps(change.before, ensure_ascii=False)
    after = "" if change.kind == "removed" else json.dumps(change.after, ensure_ascii=False)
    return Cell(printable(change.path), colour), Cell(printable(before)), Cell(printable(after))


def _show_texts(screen: render.Screen, change: Change) -> None:
    """Two texts line by line."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for index, line in enumerate(change.unified):
        if index == 0:
            print(screen.paint(printable(change.path), "bold"))
        if index > 1:
            print(screen.paint(printable(line), colours.get(line[:1], "")))


@app.command(name="compare")
def compare_runs(
    run1: Annotated[
        str, typer.Argument(metavar="RUN1", help="A run id, or its unique beginning.", autocompletion=known_runs)
    ],
    run2: Annotated[str, typer.Argument(metavar="RUN2", help="Another one.", autocompletion=known_runs)],
    limit: Limit = None,
    offset: Offset = 0,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Exit status 1 when the best score of the second run is worse.")
    ] = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Compare two runs: score against step and against money, and the first step where they part."""
    from loomc_runner.report.compare import compare, page_pairs

    store = open_reader(db)
    first, second = find_run(store, run1), find_run(store, run2)
    told = compare(store, first, second)
    pairs = page_pairs(store, first, second)
    if as_json:
        wanted = islice(pairs, offset, None if not limit else offset + limit)
        print(json.dumps({**plain(told), "scores": [plain(pair) for pair in wanted]}))
    else:
        _show_comparison(told, pairs, limit, offset)
    if fail_if_worse and told.gain is None:
        scored = told.first.best_score is not None and told.second.best_score is not None
        why = "which scores are better is not on record" if scored else "one of them has no score"
        raise LoomcError(f"run {first.id} and run {second.id} cannot be compared: {why}")
    if fail_if_worse and told.gain is not None and told.gain < 0:
        raise LoomcError(f"run {second.id} is worse than run {first.id}: its best score is {-told.gain:g} behind")


def _show_comparison(told: Comparison, pairs: Iterable[Pair], limit: int | None, offset: int) -> None:
    screen = render.Screen.of_stdout()
    for name, side in (("first", told.first), ("second", told.second)):
        best = "no score" if side.best_score is None else f"best score {side.best_score:g} in step {side.best_step}"
        words = f"run {side.run_id}  {side.status}  {side.steps} steps, {render.money(side.cost_usd)}, {best}"
        render.show_facts(screen, [(name, words)])
    gained = (
        ""
        if told.gain is None
        else f"{told.gain:+g} for the second" + (f" ({told.direction} the score)" if told.direction else "")
    )
    render.show_facts(screen, [("part at", _parting(told)), ("gain", gained)])
    print()
    rows = ((Cell(str(pair.step_n)), *_scores(pair.first, pair.second)) for pair in pairs)
    show_page(PAIRS, rows, limit, offset)
    if told.levels:
        print()
        levels = ((Cell(render.money(at.usd)), *_scores(at.first, at.second)) for at in told.levels)
        render.table(screen, LEVELS, levels)


def _parting(told: Comparison) -> str:
    """Where two runs part; what is not known, since states were dropped, is said."""
    if told.parts_at == INITIAL or told.same_until is None:
        return "from the beginning: their initial states differ"
    shorter = min(told.first.steps, told.second.steps)
    end = shorter if told.parts_at is None else told.parts_at
    unknown = end - told.same_until > 1
    doubt = f"of the steps after {place(told.same_until)} not both states are kept"
    if told.parts_at is not None:
        return f"{place(told.parts_at)} or before: {doubt}" if unknown else place(told.parts_at)
    if unknown:
        return f"nowhere that is known: {doubt}"
    return "nowhere" + (": one is the beginning of the other" if told.first.steps != told.second.steps else "")


def _scores(*scores: float | None) -> Iterator[Cell]:
    return (Cell("" if score is None else f"{score:.6g}") for score in scores)
