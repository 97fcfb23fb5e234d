"""Steps per second of several processes on one database, each with a run of its own, against those of one process.

SQLite takes one writer at a time, so that all of them together can be no faster than one; the question is how much is
lost to waiting for one another. The floor does the same with `sqlite3` alone, whose own busy handler waits:

    python benchmarks/parallel.py                        # 8 processes of 1,000 steps, 5 rounds
    python benchmarks/parallel.py --processes 2 --steps 5000

`busy` is how often a commit found the database locked, per step; `waited` the share of the time that went by until it
was not; `longest` the longest step; `first out` when the first process was done, as a share of the time of the last.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from gauge import middle, place, table
from pydantic import BaseModel

from loomc_runner import Budget, loop
from loomc_runner.errors import StoreBusy
from loomc_runner.store.sqlite import SQLite

TEXT = "x" * 200


class State(BaseModel):
    """A state of about 250 bytes."""

    text: str = TEXT
    n: int = 0
    notes: list[str] = []


class Counting(SQLite):
    """A store that counts how often its commits found the file locked, and how long that lasted."""

    busy = 0
    waited = 0.0
    _since: float | None = None

    def commit(self, *args: Any) -> Any:
        """Commit, or note that it has to be tried again."""
        try:
            control = super().commit(*args)
        except StoreBusy:
            self._since = self._since or time.monotonic()
            self.busy += 1
            raise
        if self._since is not None:
            self.waited += time.monotonic() - self._since
            self._since = None
        return control


def durable(path: Path, run_id: str, steps: int) -> tuple[list[float], int, float]:
    """A loop of its own; when its steps began, how often it was busy, and how long it waited for that."""
    ticks: list[float] = []
    store = Counting(path)

    @loop(checkpoint=store, budget=Budget(iterations=steps))
    def count(state: State) -> State:
        ticks.append(time.monotonic())
        return State(n=state.n + 1)

    count.with_options(checkpoint="memory").run(State())  # what is imported at need
    ticks.clear()
    ready()
    count.run(State(), run_id=run_id)
    return [*ticks, time.monotonic()], store.busy, store.waited


def bare(path: Path, run_id: str, steps: int) -> tuple[list[float], int, float]:
    """What any durable loop has to do: one insert, one update, one commit a step."""
    db = sqlite3.connect(path, isolation_level=None, timeout=600)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, status TEXT, steps INTEGER, updated_at TEXT)")
    db.execute(
        "CREATE TABLE IF NOT EXISTS steps (run_id TEXT, step_n INTEGER, state_blob TEXT, cost_usd REAL, score REAL, "
        "timestamp TEXT, PRIMARY KEY (run_id, step_n))"
    )
    ready()
    db.execute("INSERT INTO runs VALUES (?, 'running', 0, '')", (run_id,))
    ticks = []
    for n in range(steps):
        ticks.append(time.monotonic())
        state = json.dumps({"text": TEXT, "n": n, "notes": []})
        db.execute("BEGIN IMMEDIATE")
        row = (run_id, n, state, 0.0, None, "2026-01-01T00:00:00.000000+00:00")
        db.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?)", row)
        db.execute("UPDATE runs SET steps = ?, updated_at = ? WHERE id = ?", (n + 1, row[-1], row[0]))
        db.execute("COMMIT")
    return [*ticks, time.monotonic()], 0, 0.0


def ready() -> None:
    """Say that the imports are done, and wait for the others."""
    print("ready", flush=True)
    sys.stdin.readline()


KINDS = {"bare": bare, "loomc_runner": durable}


def work(kind: str, path: Path, number: int, steps: int) -> None:
    """What one process does."""
    ticks, busy, waited = KINDS[kind](path, f"run-{number}", steps)
    longest = max(after - before for before, after in pairwise(ticks))
    result = {"begun": ticks[0], "ended": ticks[-1], "busy": busy, "waited": waited, "longest": longest}
    print(json.dumps(result), flush=True)


def together(kind: str, processes: int, steps: int) -> dict[str, float]:
    """Let so many processes work on one file at once."""
    with tempfile.TemporaryDirectory(dir=".") as folder, ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--work", kind, f"{folder}/runs.db", str(n), "--steps", str(steps)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for n in range(processes)
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        results = [json.loads(child.communicate()[0]) for child in children]
    begun = min(result["begun"] for result in results)
    taken = [result["ended"] - begun for result in results]
    return {
        "steps_s": processes * steps / max(taken),
        "busy": sum(result["busy"] for result in results) / (processes * steps),
        "waited": sum(result["waited"] for result in results) / sum(taken),
        "longest": max(result["longest"] for result in results) * 1e3,
        "first": min(taken) / max(taken),
    }


def compare(processes: int, steps: int, rounds: int) -> None:
    """Measure one process and several in turn, and print the table."""
    counts = [1, processes]
    results: dict[tuple[str, int], list[dict[str, float]]] = {(kind, n): [] for kind in KINDS for n in counts}
    for _ in range(rounds):
        for (kind, n), runs in results.items():
            runs.append(together(kind, n, steps))
    rows = []
    for (kind, n), runs in results.items():
        ratios = [run["steps_s"] / one["steps_s"] for run, one in zip(runs, results[kind, 1], strict=True)]
        shares = [middle((run[field] for run in runs), 2) for field in ("busy", "waited")]
        longest, first = middle(run["longest"] for run in runs), middle((run["first"] for run in runs), 2)
        rows.append(
            [f"{kind}, {n}", middle(run["steps_s"] for run in runs), middle(ratios, 2), *shares, longest, first]
        )
    print(f"{place()}; {steps:,} steps each, {rounds} rounds; median (min-max)\n")
    print(table(["processes", "steps/s", "/ one", "busy", "waited", "longest, ms", "first out"], rows))
    ours = results["loomc_runner", processes]
    reached = statistics.median(
        run["steps_s"] / one["steps_s"] for run, one in zip(ours, results["loomc_runner", 1], strict=True)
    )
    print(f"\n{processes} processes reach {reached:.2f} of one; at least 0.80 is wanted.")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        kind, path, number = options.work
        work(kind, Path(path), int(number), options.steps)
    else:
        compare(options.processes, options.steps, options.rounds)


if __name__ == "__main__":
    main()
