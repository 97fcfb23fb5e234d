"""A whole run as JSON, JSON Lines or CSV, written piece by piece, so that its size does not matter."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from loomc_runner.records import INITIAL, Run
from loomc_runner.report import attempt_json, charge_json, page_steps, run_json, step_json
from loomc_runner.store import Store

FORMAT = "loomc.run/1"


def write_json(store: Store, run: Run, out: TextIO) -> None:
    """One JSON object: `format`, `run`, `initial_state`, `steps` with states, `attempts`, `charges`, `children`."""
    head = {"format": FORMAT, "run": run_json(store, run), "initial_state": _initial_state(store, run)}
    out.write(json.dumps(head)[:-1])
    for name, items in _lists(store, run).items():
        out.write(f',\n"{name}": [')
        out.writelines(("," if index else "") + "\n" + json.dumps(item) for index, item in enumerate(items))
        out.write("]")
    out.write("}\n")


def write_jsonl(store: Store, run: Run, out: TextIO) -> None:
    """One JSON object a line: the run first, then each step, attempt, charge and child, named by `type`."""
    head = {"type": "run", "format": FORMAT, **run_json(store, run), "initial_state": _initial_state(store, run)}
    out.write(json.dumps(head) + "\n")
    for name, items in _lists(store, run).items():
        kind = "child" if name == "children" else name.removesuffix("s")
        rows = (item if isinstance(item, dict) else {"id": item} for item in items)
        out.writelines(json.dumps({"type": kind, **row}) + "\n" for row in rows)


def write_csv(store: Store, run: Run, out: TextIO) -> None:
    """One row a step, with the state as JSON in the last column."""
    writer: Any = None
    for row in _steps(store, run):
        if writer is None:
            writer = csv.DictWriter(out, list(row))
            writer.writeheader()
        writer.writerow({**row, "state": json.dumps(row["state"])})


WRITERS = {"json": write_json, "jsonl": write_jsonl, "csv": write_csv}


def _lists(store: Store, run: Run) -> dict[str, Iterable[Any]]:
    return {
        "steps": _steps(store, run),
        "attempts": map(attempt_json, store.attempts(run.id)),
        "charges": map(charge_json, store.charges(run.id)),
        "children": [child.id for child in store.list_runs(parent=run.id)],
    }


def _steps(store: Store, run: Run) -> Iterator[dict[str, Any]]:
    for step in page_steps(store, run):
        yield {**step_json(step), "state": json.loads(store.state(run.id, step.step_n))}


def _initial_state(store: Store, run: Run) -> Any:
    if run.loop is None:  # loomc 0.3.0 did not keep it
        return None
    return json.loads(store.state(run.id, INITIAL))
