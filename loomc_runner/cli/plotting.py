"""Runs as pictures: in a file, or here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from loomc_runner.cli import render
from loomc_runner.cli.app import AsJson, Database, RunIds, app
from loomc_runner.errors import RunNotFound
from loomc_runner.export import plain
from loomc_runner.report import find_run
from loomc_runner.store import open_reader

NARROW = 80
"""Columns of a picture that goes into a pipe."""


@app.command()
def plot(
    run: RunIds,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .png, .svg or .html file instead of the terminal.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Draw scores and costs of runs, step by step, with returns to earlier steps, the best step and the budget.

    It needs more than the rest of loomc: pip install "loomc-runner[plot]".
    """
    from loomc_runner import plot as plots

    if output is not None:
        plots.check_path(output)
    store = open_reader(db)
    found = {one.id: one for one in (find_run(store, prefix) for prefix in run)}
    curves = [plots.curve_of(store, one) for one in found.values()]
    if as_json:
        print(json.dumps([plain(curve) for curve in curves]))
        return
    drawn = [curve for curve in curves if curve.points]
    if not drawn:
        raise RunNotFound(f"run {curves[0].run_id} has taken no step yet: there is nothing to draw")
    if output is not None:
        plots.write_picture(drawn, output)
        return
    screen = render.Screen.of_stdout()
    print(plots.draw(drawn, screen.width or NARROW, coloured=screen.coloured))
    print()
    render.show_facts(screen, plots.legend(drawn))
