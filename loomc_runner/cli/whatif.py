"""What other stopping rules would have made of past runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from loomc_runner.budget import Budget
from loomc_runner.cli import render
from loomc_runner.cli.app import AsJson, Database, RunIds, app
from loomc_runner.cli.render import Cell, Column
from loomc_runner.errors import SpecError
from loomc_runner.export import plain
from loomc_runner.records import INITIAL
from loomc_runner.report import direction_of, find_run, printable
from loomc_runner.store import open_reader

if TYPE_CHECKING:  # what decides is imported when it is asked
    from loomc_runner.converge import Detector
    from loomc_runner.scores import Direction
    from loomc_runner.whatif import WhatIf

COLUMNS = (
    *(Column("run"), Column("steps", right=True), Column("stops after", right=True), Column("saved", right=True)),
    *(Column("lost", right=True), Column("cost", right=True), Column("score", right=True), Column("why", least=20)),
)


@app.command("what-if")
def ask_what_if(
    run: RunIds,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many scored steps without a better score.", show_default=False)
    ] = None,
    min_delta: Annotated[
        float | None, typer.Option(help="What counts as better, with --patience. [default: 0.01]", show_default=False)
    ] = None,
    target_score: Annotated[
        float | None, typer.Option("--target", help="Stop at this score.", show_default=False)
    ] = None,
    usd: Annotated[float | None, typer.Option(help="Stop at so many dollars.", show_default=False)] = None,
    iterations: Annotated[int | None, typer.Option(help="Stop after so many steps.", show_default=False)] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Tell where runs would have stopped under other rules, what that saves and what it loses; runs nothing.

    Of several rules the one that stops first counts. The score is the best one by then.
    """
    from loomc_runner.whatif import what_if

    if min_delta is not None and patience is None:
        raise SpecError(f"--min-delta {min_delta:g} says what counts as better: add --patience N")
    if patience is target_score is usd is iterations is None:
        raise SpecError("name a rule: --patience N, --target SCORE, --usd DOLLARS or --iterations N")
    store, budget = open_reader(db), Budget(usd=usd, iterations=iterations)
    asked = []
    for found in (find_run(store, prefix) for prefix in run):
        detectors = _detectors(patience, min_delta, target_score, direction_of(store, found) or "maximize")
        asked.append(what_if(store, found, detectors, budget))
    if as_json:
        print(json.dumps([plain(one) for one in asked]))
        return
    screen = render.Screen.of_stdout()
    render.table(screen, COLUMNS, [*map(_row, asked), *([_total(asked)] if len(asked) > 1 else [])])
    doubts = [f"run {one.run_id}: {doubt}" for one in asked for doubt in one.unknown]
    render.show_facts(screen, (("" if index else "not known", doubt) for index, doubt in enumerate(doubts)))


def _detectors(
    patience: int | None, min_delta: float | None, score: float | None, direction: Direction
) -> list[Detector]:
    from loomc_runner.converge import score_plateau, target

    detectors: list[Detector] = []
    if score is not None:
        detectors.append(target(score, direction))
    if patience is not None:
        plateau = score_plateau(patience, direction=direction)
        detectors.append(plateau if min_delta is None else score_plateau(patience, min_delta, direction))
    return detectors


def _row(one: WhatIf) -> tuple[Cell, ...]:
    places = {None: "-", INITIAL: "no step"}
    return (
        Cell(printable(one.run_id)),
        Cell(str(one.steps)),
        Cell(places.get(one.stop_step, f"step {one.stop_step}")),
        Cell(render.money(one.saved_usd)),
        Cell(_score(one.score_lost)),
        Cell(render.money(one.would_cost_usd)),
        Cell(_score(one.would_score)),
        Cell(printable(one.stop_reason or "would not have stopped earlier")),
    )


def _total(asked: list[WhatIf]) -> tuple[Cell, ...]:
    stopped = sum(one.stop_step is not None for one in asked)
    return (
        Cell("total", "bold"),
        Cell(str(sum(one.steps for one in asked))),
        Cell(""),
        Cell(render.money(sum(one.saved_usd for one in asked))),
        Cell(""),
        Cell(render.money(sum(one.would_cost_usd for one in asked))),
        Cell(""),
        Cell(f"{stopped} of {len(asked)} runs would have stopped"),
    )


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.6g}"
