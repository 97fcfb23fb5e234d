"""What runs would do when they are resumed, and resuming all that were cut off."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from loomc_runner.budget import Budget
from loomc_runner.cli import render
from loomc_runner.cli.app import IN_A_PROCESS, AsJson, Database, app
from loomc_runner.cli.database import option_of, path_of, url_of
from loomc_runner.errors import LoomcError
from loomc_runner.export import call_json, limit_json, question_json, write_array
from loomc_runner.records import Run, RunStatus
from loomc_runner.report import page_runs, printable
from loomc_runner.store import open_reader


def show_plan(
    db: str | None, run: Run, target: str | None, budget: Budget | None, *, force: bool, as_json: bool
) -> None:
    """Print what a resume of the run would do."""
    from loomc_runner.cli.resuming import find_loop
    from loomc_runner.plan import make_plan

    store = open_reader(db)
    try:
        spec: Any = find_loop(url_of(db), run, target).spec
    except LoomcError as error:
        spec = error
    plan = make_plan(spec, store, run, budget, force=force)
    if as_json:
        named = {"run_id": run.id, "outcome": plan.outcome, "goes_on": plan.goes_on, "changes": list(plan.changes)}
        named |= {"limits": [limit_json(limit) for limit in plan.limits], "replayed": plan.replayed}
        named |= {"questions": [question_json(question) for question in plan.questions]}
        print(json.dumps({**named, "in_doubt": [call_json(call) for call in plan.in_doubt]}))
        return
    doubts = [f"{call.name} was started {call.started_at:%Y-%m-%d %H:%M:%S} UTC" for call in plan.in_doubt]
    facts = [
        ("run", f"{run.id}  {run.status.value}"),
        ("resume", plan.outcome),
        *(("" if index else "budget", str(limit)) for index, limit in enumerate(plan.limits)),
        *(("" if index else "changed", change) for index, change in enumerate(plan.changes)),
        *(("" if index else "asks", f"{q.prompt} (run {q.run_id})") for index, q in enumerate(plan.questions)),
        ("replayed", f"{plan.replayed} recorded results" if plan.replayed else ""),
        *(("" if index else "in doubt", doubt) for index, doubt in enumerate(doubts)),
    ]
    render.show_facts(render.Screen.of_stdout(), facts)


@app.command()
def recover(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list them, and whether their code is there.")
    ] = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Go on with every run that was cut off, one after the other, each in a process of its own."""
    interrupted = page_runs(open_reader(db), status=RunStatus.INTERRUPTED, roots=True)
    outcomes = _outcomes(db, list(interrupted), dry_run=dry_run)
    if as_json:
        found = list(outcomes)
        write_array(sys.stdout, found)
        print()
    else:
        found = []
        for outcome in outcomes:
            print(printable(f"run {outcome['run_id']}: {outcome['outcome']}"), flush=True)
            found.append(outcome)
        if not found:
            print(f"no interrupted runs in {printable(path_of(db))}")
    failed = sum(not outcome["ok"] for outcome in found)
    if failed and not dry_run:
        why = f"loomc show RUN{option_of(db)} tells why"
        raise LoomcError(f"{failed} of {len(found)} runs neither completed nor wait for an answer; {why}")


def _outcomes(db: str | None, runs: list[Run], *, dry_run: bool) -> Iterator[dict[str, Any]]:
    for run in runs:
        options = ["--plan"] if dry_run else []
        command = ["resume", run.id, "--json", "--db", url_of(db), *options]
        done = subprocess.run([*IN_A_PROCESS, *command], stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
        told: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        if dry_run:
            yield {"run_id": run.id, "ok": told.get("goes_on", False), "outcome": told.get("outcome", "cannot be told")}
        else:
            outcome = told.get("stop_reason") or told.get("status") or "did not go on"
            yield {"run_id": run.id, "ok": told.get("status") in {"completed", "waiting"}, "outcome": outcome}
