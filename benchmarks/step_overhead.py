"""Microseconds per step of a loop that does nothing, against the bare commit it cannot do without.

The floor is `sqlite3` alone: insert a step, update the run, commit, with the same pragmas on the same disk; for a loop
in memory it is a `while` that calls the same function, and for child runs the same runs without a parent. Each case is
measured in fresh processes, in turn with its floor, in the same minutes, so that the ratio holds on a noisy machine:

    python benchmarks/step_overhead.py                            # 1,000 steps, 5 rounds
    python benchmarks/step_overhead.py --steps 100000 --rounds 1  # growth per step, and memory
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

TEXT = "x" * 200


class State(BaseModel):
    """A state of about 250 bytes."""

    text: str = TEXT
    n: int = 0
    notes: list[str] = []


def plain(_: Path, steps: int) -> array[float]:
    """No loop of ours: a `while` that calls the function."""
    ticks = array("d")

    def count(state: State) -> State:
        ticks.append(time.perf_counter())
        return State(n=state.n + 1)

    state = State()
    while state.n < steps:
        state = count(state)
    return ticks


def bare(path: Path, steps: int, synchronous: str = "FULL") -> array[float]:
    """What any durable loop has to do: one insert, one update, one commit a step."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, status TEXT, steps INTEGER, updated_at TEXT)")
    db.execute(
        "CREATE TABLE steps (run_id TEXT, step_n INTEGER, state_blob TEXT, cost_usd REAL, score REAL, timestamp TEXT, "
        "PRIMARY KEY (run_id, step_n))"
    )
    db.execute("INSERT INTO runs VALUES ('a1b2c3d4e5f6', 'running', 0, '')")
    ticks = array("d")
    for n in range(steps):
        ticks.append(time.perf_counter())
        state = json.dumps({"text": TEXT, "n": n, "notes": []})
        db.execute("BEGIN IMMEDIATE")
        row = ("a1b2c3d4e5f6", n, state, 0.0, None, "2026-01-01T00:00:00.000000+00:00")
        db.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?)", row)
        db.execute("UPDATE runs SET steps = ?, updated_at = ? WHERE id = ?", (n + 1, row[-1], row[0]))
        db.execute("COMMIT")
    db.close()
    return ticks


def durable(
    path: Path | str,
    steps: int,
    *,
    usd: float | None = None,
    durability: Literal["power", "process"] = "power",
    **options: Any,
) -> array[float]:
    """The same with a loop, which notes the time at the start of each step; with `usd` it spends that in each."""
    from loomc_runner import Budget, SQLite, loop, spend

    ticks = array("d")

    @loop(
        checkpoint=path if path == "memory" else SQLite(path, durability=durability),
        budget=Budget(iterations=steps),
        **options,
    )
    def count(state: State) -> State:
        ticks.append(time.perf_counter())
        if usd is not None:
            spend(usd=usd)
        return State(n=state.n + 1)

    count.run(State())
    return ticks


def children(path: Path, steps: int, *, nested: bool) -> array[float]:
    """Runs of ten steps, one after the other, as child runs of one step or for themselves."""
    from loomc_runner import Budget, loop

    ticks = array("d")

    @loop(checkpoint=str(path), budget=Budget(iterations=10))
    def count(state: State) -> State:
        ticks.append(time.perf_counter())
        return State(n=state.n + 1)

    def all_of_them() -> None:
        for _ in range(steps // 10):
            count.run(State())

    @loop(checkpoint=str(path), budget=Budget(iterations=1))
    def parent(state: State) -> State:
        all_of_them()
        return state

    if nested:
        parent.run(State())
    else:
        all_of_them()
    return ticks


def calling(path: Path, steps: int, calls: int = 1) -> array[float]:
    """The same with durable calls in each step."""
    from loomc_runner import Budget, loop, tool

    ticks = array("d")

    @tool
    def look_up(n: int, which: int) -> str:
        return f"{n}.{which}"

    @loop(checkpoint=str(path), budget=Budget(iterations=steps))
    def count(state: State) -> State:
        ticks.append(time.perf_counter())
        for which in range(calls):
            look_up(state.n, which)
        return State(n=state.n + 1)

    count.run(State())
    return ticks


def asynchronous(path: Path, steps: int) -> array[float]:
    """The same with an `async def` loop."""
    from loomc_runner import Budget, loop

    ticks = array("d")

    @loop(checkpoint=str(path), budget=Budget(iterations=steps))
    async def count(state: State) -> State:
        ticks.append(time.perf_counter())
        return State(n=state.n + 1)

    asyncio.run(count.run(State()))
    return ticks


CASES: dict[str, Callable[[Path, int], array[float]]] = {
    "bare": bare,
    "sync": durable,
    "async": asynchronous,
    "cost_fn": lambda path, steps: durable(path, steps, cost_fn=lambda _: 0.001),
    "spend": lambda path, steps: durable(path, steps, usd=0.001),
    "call": calling,
    "4 calls": lambda path, steps: calling(path, steps, 4),
    "while": plain,
    "memory": lambda _, steps: durable("memory", steps),
    "bare process": lambda path, steps: bare(path, steps, "NORMAL"),
    "process": lambda path, steps: durable(path, steps, durability="process"),
    "process cost_fn": lambda path, steps: durable(path, steps, durability="process", cost_fn=lambda _: 0.001),
    "flat": lambda path, steps: children(path, steps, nested=False),
    "nested": lambda path, steps: children(path, steps, nested=True),
}

FLOORS = {
    "while": "while",
    "memory": "while",
    "bare process": "bare process",
    "process": "bare process",
    "process cost_fn": "bare process",
    "flat": "flat",
    "nested": "flat",
}
"""What a case is compared with, if not with the bare commit."""


def measure(case: str, steps: int) -> dict[str, float]:
    """Run one case in this process: microseconds per step in all, in the first and the last tenth; peak memory."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file = Path(folder) / "runs.db"
        ticks = CASES[case](file, steps)
        size = file.stat().st_size if file.exists() else 0
    tenth = max(steps // 10, 1)
    return {
        "us": (ticks[-1] - ticks[0]) / max(len(ticks) - 1, 1) * 1e6,
        "first": (ticks[tenth] - ticks[0]) / tenth * 1e6,
        "last": (ticks[-1] - ticks[-1 - tenth]) / tenth * 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "db_mb": size / 1e6,
    }


def compare(cases: list[str], steps: int, rounds: int) -> None:
    """Run the cases in turn, each in a process of its own, and print their ratios to their floors."""
    results: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            command = [sys.executable, __file__, "--measure", case, "--steps", str(steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[case].append(json.loads(done.stdout))
    print(f"{steps:,} steps, {rounds} rounds; microseconds per step: median (min-max)")
    for case, runs in results.items():
        us, floor = [run["us"] for run in runs], FLOORS.get(case, "bare")
        ratios = [run["us"] / base["us"] for run, base in zip(runs, results[floor], strict=True)]
        growth = statistics.median(run["last"] / run["first"] for run in runs)
        print(
            f"{case:15} {statistics.median(us):8.1f} ({min(us):.1f}-{max(us):.1f})"
            f"  ratio to {floor:12} {statistics.median(ratios):5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            f"  last/first tenth {growth:4.2f}"
            f"  {_added(case, runs, results)}"
            f"  peak {statistics.median(run['peak_mb'] for run in runs):6.1f} MB"
            f"  file {statistics.median(run['db_mb'] for run in runs):6.1f} MB"
        )


def _added(case: str, runs: list[dict[str, float]], results: dict[str, list[dict[str, float]]]) -> str:
    """How many bare commits each call or charge adds to a step of the sync loop; microseconds, that memory adds."""
    if case == "memory":
        more = [run["us"] - base["us"] for run, base in zip(runs, results["while"], strict=True)]
        return f"adds {statistics.median(more):5.1f} us ({min(more):.1f}-{max(more):.1f})"
    count = {"spend": 1, "call": 1, "4 calls": 4}.get(case)
    if count is None or "sync" not in results:
        return " " * 20
    pairs = zip(runs, results["sync"], results["bare"], strict=True)
    added = [(run["us"] - sync["us"]) / base["us"] / count for run, sync, base in pairs]
    return f"adds {statistics.median(added):5.2f} ({min(added):.2f}-{max(added):.2f})"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.steps)))
    else:
        floors = {FLOORS.get(case, "bare") for case in options.cases}
        compare([case for case in CASES if case in {*options.cases, *floors}], options.steps, options.rounds)


if __name__ == "__main__":
    main()
