"""A run as a page for a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from loomc_runner.cli.app import AsJson, Database, RunId, app
from loomc_runner.report import find_run, printable
from loomc_runner.store import open_reader


@app.command()
def trace(
    run: RunId,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file; else trace-RUN.html in this folder.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Write an HTML page of a run: its steps, attempts, calls and child runs, with what each took and cost."""
    from loomc_runner.trace import page_path, write_page

    store = open_reader(db)
    found = find_run(store, run)
    path = Path(f"trace-{found.id}.html") if output is None else output
    written = write_page(store, found, page_path(path))
    if as_json:
        print(json.dumps({"path": str(path), "nodes": written.nodes, "folded_steps": written.folded_steps}))
        return
    folded = f", {written.folded_steps:,} steps folded" if written.folded_steps else ""
    print(f"{printable(str(path))}: {written.nodes:,} nodes{folded}")
