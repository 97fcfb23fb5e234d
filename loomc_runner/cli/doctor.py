"""Whether a database is in order, and what to do where it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loomc_runner.cli import render
from loomc_runner.cli.app import AsJson, Database, app
from loomc_runner.cli.database import option_of, path_of
from loomc_runner.errors import LoomcError
from loomc_runner.report import dollars, printable
from loomc_runner.report.words import size

if TYPE_CHECKING:
    from loomc_runner.report.health import Health, Owner, Problem
    from loomc_runner.store.upkeep import Use


@app.command()
def doctor(as_json: AsJson = False, db: Database = None) -> None:
    """Look at all of a database: file, tables, locks and runs left behind; exit status 1 when something is wrong.

    Runs that were cut off, or wait for an answer that came too late, are warnings. Nothing is written.
    """
    from loomc_runner.clock import SystemClock
    from loomc_runner.report.health import examine

    health = examine(Path(path_of(db)), SystemClock().now())
    wrong = [problem for problem in health.problems if not problem.is_warning]
    if as_json:
        print(json.dumps(_health_json(health, db)))
    else:
        render.show_facts(render.Screen.of_stdout(), [*_facts(health), *_problems(health, db)])
    if wrong:
        found = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
        raise LoomcError(f"{found} in {health.path}: {wrong[0].text}")
    if not as_json:
        print("nothing is wrong" if health.problems else "all is well")


def _health_json(health: Health, db: str | None) -> dict[str, Any]:
    """What is known of a database, with stable keys."""
    measure = health.measure
    return {
        "database": str(health.path),
        "exists": health.exists,
        "healthy": health.healthy,
        "bytes": measure and measure.size,
        "log_bytes": measure and measure.log,
        "free_bytes": measure and measure.free,
        "copies": [{"path": str(copy), "bytes": copy.stat().st_size} for copy in health.copies],
        "tables_version": measure and measure.version,
        "tables_known": health.tables_known,
        "journal_mode": measure and measure.journal_mode,
        "versions": health.versions,
        "runs": health.runs,
        "cost_usd": health.cost_usd,
        "owners": [
            {"owner": owner.token, "pid": owner.pid, "alive": owner.alive, "runs": list(owner.runs)}
            for owner in health.owners
        ],
        "largest": [
            {
                "run_id": use.run_id,
                "bytes": use.state_bytes + use.result_bytes,
                "state_bytes": use.state_bytes,
                "result_bytes": use.result_bytes,
                "states_whole": use.whole,
                "states_built_on": use.built_on,
                "states_dropped": use.dropped,
            }
            for use in health.largest
        ],
        "problems": [
            {"problem": problem.text, "command": _command(problem, db), "warning": problem.is_warning}
            for problem in health.problems
        ],
    }


def _facts(health: Health) -> Iterator[tuple[str, str]]:
    yield "database", str(health.path)
    if (measure := health.measure) is not None:
        parts = [size(measure.size), f"{size(measure.log)} of log" if measure.log else "", _free(health)]
        yield "size", ", ".join(part for part in parts if part)
        yield "tables", _tables(health)
        yield "journal", measure.journal_mode
    for copy in health.copies:
        yield "copy", f"{copy}, {size(copy.stat().st_size)}, of before it was brought up to date; it may go"
    yield "versions", ", ".join(f"{name} {number}" for name, number in health.versions.items())
    if health.exists:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(health.runs.items()))
        yield "runs", f"{counts}, which cost {dollars(health.cost_usd or 0.0)}" if counts else "none"
    for index, use in enumerate(health.largest):
        yield ("" if index else "largest"), _use(use)
    for index, owner in enumerate(health.owners):
        yield ("" if index else "locks"), _lock(owner)


def _free(health: Health) -> str:
    return f"{size(health.measure.free)} of it free" if health.measure and health.measure.free else ""


def _tables(health: Health) -> str:
    found = health.measure.version if health.measure else 0
    if found == health.tables_known:
        return f"version {found}, up to date"
    if found > health.tables_known:
        return f"version {found}; this release knows {health.tables_known}"
    written = f"version {found}" if found or not health.runs else "of loomc 0.3.0"
    return f"{written}; read as they are, and brought to version {health.tables_known} by the next run"


def _use(use: Use) -> str:
    """What a run takes in the file: its states, and the results of its calls."""
    kinds = {"whole": use.whole, "built on others": use.built_on, "dropped": use.dropped}
    states = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    results = f", results of calls {size(use.result_bytes)}" if use.result_bytes else ""
    return f"run {printable(use.run_id)}: states {size(use.state_bytes)} ({states}){results}"


def _lock(owner: Owner) -> str:
    state = "at work" if owner.alive and owner.runs else "alive" if owner.alive else "dead"
    return f"process {owner.pid} is {state}" + (f" on {', '.join(owner.runs)}" if owner.runs else "")


def _problems(health: Health, db: str | None) -> Iterator[tuple[str, str]]:
    for problem in health.problems:
        command = _command(problem, db)
        yield ("warning" if problem.is_warning else "problem"), problem.text + (f": {command}" if command else "")


def _command(problem: Problem, db: str | None) -> str | None:
    """What mends it, as it can be typed here."""
    if problem.command is None or not problem.command.startswith("loomc "):
        return problem.command
    return problem.command + option_of(db)
