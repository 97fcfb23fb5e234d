"""Write the golden database of loomc 0.3.0 with the released package itself.

Run it from the root of the project, alone with loomc 0.3.0 in a fresh environment::

    python -m venv /tmp/old
    /tmp/old/bin/pip install loomc==0.3.0
    /tmp/old/bin/python tests/golden/make_loomc_0_3_0.py OUT.db

OUT.db must not exist yet. OUT.json is written beside it: what a reader should find in each run, read back
with plain sqlite3. Run ids and times are new each time, so always commit both files together.
"""

import asyncio
import hashlib
import inspect
import json
import multiprocessing
import signal
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import refinements as work
from loomc_0_3_0_loops import make_loops


def outage(in_round: int, times: int = 1) -> work.Model:
    """Return a model that fails so many times in one round and answers otherwise."""
    failures = iter(range(times))

    def call_model(function: str, round_number: int) -> str:
        if round_number == in_round and next(failures, None) is not None:
            raise ConnectionError("the model is overloaded")
        return work.answer(function, round_number)

    return call_model


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run to leave behind; without a state it is a child run that an earlier case makes."""

    name: str
    function: str
    status: str
    steps: int
    about: str
    state: Any = None
    model: work.Model = work.answer
    raises: str | None = None
    kill_in_round: int | None = None


CASES = (
    Case(
        name="best_score",
        function="polish",
        status="completed",
        steps=5,
        about="BestScore: step 3 scored worse, so step 4 started again from step 2 and did the same; "
        "the caller got the state of step 2, the last row holds the worse one",
        state=work.start(rounds=9),
    ),
    Case(
        name="failed",
        function="summarize",
        status="failed",
        steps=3,
        about="step 3 raised and there was no backtracking: neither the step nor its error is stored",
        state=work.start(rounds=6),
        model=outage(in_round=4),
        raises="ConnectionError: the model is overloaded",
    ),
    Case(
        name="last_good_recovered",
        function="translate",
        status="completed",
        steps=5,
        about="LastGood: step 3 raised and is stored with its error and the state it began with; "
        "step 4 made that round again",
        state=work.start(rounds=4),
        model=outage(in_round=4),
    ),
    Case(
        name="last_good_failed",
        function="fact_check",
        status="failed",
        steps=4,
        about="LastGood absorbed and stored the error of step 3, then the stop condition raised on its "
        "missing score: the last row is the failed step",
        state=work.start(rounds=9),
        model=outage(in_round=4),
        raises="TypeError: '>=' not supported between instances of 'NoneType' and 'float'",
    ),
    Case(
        name="budget_exhausted",
        function="expand",
        status="budget_exhausted",
        steps=3,
        about="Budget(usd=0.05): the third step was let in at 0.03 and carried the run over its cap",
        state=work.start(rounds=6),
        raises="BudgetExhausted: Budget exhausted: usd (0.0600 / 0.0500)",
    ),
    Case(
        name="stalled",
        function="tighten",
        status="completed",
        steps=3,
        about="Escalate(after=2) raised StallError; loomc 0.3.0 stores a stalled run as completed",
        state=work.start(rounds=9),
        raises="StallError: Loop stalled: no score improvement for 2 iterations",
    ),
    Case(
        name="killed",
        function="outline",
        status="running",
        steps=2,
        about="SIGKILL in the third step (step 2): two steps are stored, the status was never updated",
        state=work.start(rounds=4),
        kill_in_round=3,
    ),
    Case(
        name="killed_before_first_step",
        function="research",
        status="running",
        steps=0,
        about="SIGKILL in the first step (step 0): no step is stored, and so no state at all",
        state=work.start(rounds=4),
        kill_in_round=1,
    ),
    Case(
        name="async",
        function="proofread",
        status="completed",
        steps=2,
        about="a loop over a coroutine function; nothing in the rows says so",
        state=work.start(rounds=2),
    ),
    Case(
        name="pydantic",
        function="review",
        status="completed",
        steps=3,
        about="a Pydantic state, stored as the JSON of model_dump_json without the name of its type",
        state=work.Review(text="Draft.", due=date(2026, 7, 3)),
    ),
    Case(
        name="pydantic_failed",
        function="review",
        status="failed",
        steps=2,
        about="a second run of the same Pydantic loop, to be resumed: step 2 raised and is not stored",
        state=work.Review(text="Draft.", due=date(2026, 7, 3)),
        model=outage(in_round=3),
        raises="ConnectionError: the model is overloaded",
    ),
    Case(
        name="plain_dict",
        function="collect",
        status="completed",
        steps=3,
        about="a plain dict state in a loop without a cost function and a scorer: cost 0.0, score NULL",
        state={"round": 0, "rounds": 3, "findings": []},
    ),
    Case(
        name="nested_parent",
        function="write_report",
        status="completed",
        steps=2,
        about="each step ran one child loop; the rows hold its own cost without its children's",
        state=work.start(rounds=2),
    ),
    Case(
        name="nested_child_1",
        function="draft_section",
        status="completed",
        steps=2,
        about="the child run of the parent's step 0; nothing in the rows names the parent",
    ),
    Case(
        name="nested_child_2",
        function="draft_section",
        status="completed",
        steps=2,
        about="the child run of the parent's step 1; nothing in the rows names the parent",
    ),
)
"""Every run of the database, in the order of creation."""


def require(met: bool, complaint: str) -> None:
    """Stop with one plain line unless the condition is met."""
    if not met:
        sys.exit(f"make_loomc_0_3_0: {complaint}")


def call(runner: Any, state: Any) -> str | None:
    """Run a loop to its end and return the error it raised, or None."""
    try:
        result = runner(state)
        if inspect.isawaitable(result):
            asyncio.run(wait_for(result))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


async def wait_for(result: Any) -> None:
    """Wait for an asynchronous loop."""
    await result


def run_until_killed(db_path: str, case: Case, told: Connection) -> None:
    """Run a loop in a child process, say when it is in the fatal round, and wait there for the kill."""

    def call_model(function: str, round_number: int) -> str:
        if round_number == case.kill_in_round:
            told.send(round_number)
            time.sleep(60)
        return work.answer(function, round_number)

    work.call_model = call_model
    make_loops(db_path)[case.function](case.state)


def kill(db_path: str, case: Case) -> None:
    """Start a loop in a child process and kill it with SIGKILL in the fatal round."""
    processes = multiprocessing.get_context("spawn")
    hears, told = processes.Pipe(duplex=False)
    child = processes.Process(target=run_until_killed, args=(db_path, case, told), daemon=True)
    child.start()
    told.close()
    require(hears.recv() == case.kill_in_round, "the child was not in the fatal round")
    child.kill()
    child.join()
    require(child.exitcode == -signal.SIGKILL, f"the child ended with {child.exitcode}, not by SIGKILL")


def play(db_path: str, loops: dict[str, Any], case: Case) -> None:
    """Run one case into the database."""
    if case.kill_in_round is not None:
        kill(db_path, case)
        return
    if case.state is None:
        return
    work.call_model = case.model
    raised = call(loops[case.function], case.state)
    require(raised == case.raises, f"{case.name} raised {raised}, not {case.raises}")


def spec_hash(function: str) -> str:
    """Return what loomc 0.3.0 stores to identify the loop over a function of refinements.py."""
    name = f"{work.__name__}.{function}".encode()
    return hashlib.md5(name, usedforsecurity=False).hexdigest()[:8]


def read_runs(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return id, spec_hash and status of all runs in the order of their creation."""
    return database.execute("SELECT id, spec_hash, status FROM runs ORDER BY rowid").fetchall()


def read_steps(database: sqlite3.Connection, run_id: str) -> list[tuple[Any, ...]]:
    """Return state, cost, score and error of a run's steps."""
    query = "SELECT state_blob, cost_usd, score, error FROM steps WHERE run_id = ? ORDER BY step_n"
    return database.execute(query, (run_id,)).fetchall()


def check(case: Case, stored_hash: str, status: str, steps: int) -> None:
    """Stop unless the run is stored as the case says."""
    found = (stored_hash, status, steps)
    meant = (spec_hash(case.function), case.status, case.steps)
    require(found == meant, f"{case.name} is stored as {found}, not {meant}")


def describe(database: sqlite3.Connection, row: tuple[str, str, str], case: Case) -> dict[str, Any]:
    """Return what a reader should find in one run."""
    run_id, stored_hash, status = row
    steps = read_steps(database, run_id)
    check(case, stored_hash, status, len(steps))
    return {
        "name": case.name,
        "id": run_id,
        "about": case.about,
        "function": case.function,
        "spec_hash": stored_hash,
        "status": status,
        "steps": len(steps),
        "cost_usd": round(sum((cost for _, cost, _, _ in steps), 0.0), 9),
        "scores": [score for _, _, score, _ in steps],
        "errors": [error for _, _, _, error in steps],
        "raised": case.raises,
        "final_state": json.loads(steps[-1][0]) if steps else None,
    }


def read_back(db_path: str) -> list[dict[str, Any]]:
    """Describe every run of the database."""
    with closing(sqlite3.connect(db_path)) as database:
        rows = read_runs(database)
        require(len(rows) == len(CASES), f"{len(rows)} runs are stored, not {len(CASES)}")
        return [describe(database, row, case) for row, case in zip(rows, CASES, strict=True)]


def main() -> None:
    """Write the database and, beside it, the expectations."""
    require(len(sys.argv) == 2, "name one file to write: OUT.db")
    require(version("loomc") == "0.3.0", f"loomc 0.3.0 is needed, this is {version('loomc')}")
    out = Path(sys.argv[1])
    require(not out.exists(), f"{out} exists")
    loops = make_loops(str(out))
    work.section_loop = loops["draft_section"]
    for case in CASES:
        play(str(out), loops, case)
    expectations = {"written_by": "loomc 0.3.0", "module": work.__name__, "runs": read_back(str(out))}
    text = json.dumps(expectations, indent=2, ensure_ascii=False)
    out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
