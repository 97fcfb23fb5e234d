"""Seconds until the terminal shows something, and the memory that takes, for runs that are many or long.

A new process each time, on a pseudo-terminal and into a pipe, beside a Python that does nothing and one that imports
the library. As after an installation, all modules are compiled by then, and a first round is not counted:

    python benchmarks/reading.py              # 10,000 runs, 100,000 steps, 5 rounds
"""

from __future__ import annotations

import argparse
import os
import pty
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from loomc_runner.records import Run, RunStatus, Transition
from loomc_runner.store.sqlite import SQLite

LOOMC = [sys.executable, "-c", "from loomc_runner.cli import main; main()"]
TARGETS = {"import loomc_runner": 0.12, "loomc runs": 0.25, "loomc runs | ...": 0.25}
"""Seconds that the first screen may take; of what shows nothing, the whole."""

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Taken(NamedTuple):
    """What one run of the command took."""

    first: float
    whole: float
    megabytes: float


def fill(path: Path, runs: int, steps: int) -> None:
    """A database with many runs, one of a hundred steps, and one that is long."""
    store = SQLite(path)
    for run_id in ("short", "long"):
        lease = store.create_run(Run(run_id, "module:loop", AT, AT), '{"n": 0}')
        store.commit(lease, Transition(AT, status=RunStatus.COMPLETED, stop_reason="done: the step said so"))
    store.close()
    with sqlite3.connect(path) as db:
        for run_id, count in (("short", 100), ("long", steps)):
            db.execute(
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO steps (run_id, step_n, parent_n, state_blob, nano_usd, tokens, score, timestamp, "
                "duration, best_n) SELECT ?, i, i - 1, "
                "'{\"n\": 1}', 1000, 1, i, '2026-01-01T00:00:00+00:00', 0.1, i FROM n",
                (count - 1, run_id),
            )
            db.execute(
                "INSERT INTO charges (run_id, step_n, nano_usd, tokens, at) SELECT run_id, step_n, 1000, 1, timestamp "
                "FROM steps WHERE run_id = ? AND step_n >= 0",
                (run_id,),
            )
            totals = (count, count * 1000, count, count - 1, run_id)
            db.execute("UPDATE runs SET steps = ?, nano_usd = ?, tokens = ?, best_step = ? WHERE id = ?", totals)
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO runs (id, loop, status, stop_reason, created_at, updated_at, steps) "
            "SELECT printf('run-%05d', i), 'module:loop', 'completed', 'converged: score_plateau(patience=3)', "
            "strftime('%Y-%m-%dT%H:%M:%S+00:00', 1767225600 + i, 'unixepoch'), '2026-01-02T00:00:00+00:00', 10 FROM n",
            (runs,),
        )
    db.close()


def as_installed(folder: Path) -> dict[str, str]:
    """The environment of the commands: what they compile is kept, whether or not this folder is the one they are in."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}


def take(command: list[str], environment: dict[str, str], *, on_terminal: bool) -> Taken:
    """Run a command once: until its first output, until its end, and its peak of memory."""
    ours, theirs = pty.openpty() if on_terminal else os.pipe()
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    first = None
    while True:
        try:
            chunk = os.read(ours, 1 << 16)
        except OSError:  # so a terminal says that it is closed
            break
        first = first or time.perf_counter() - begun
        if not chunk:
            break
    _, _, used = os.wait4(process.pid, 0)
    os.close(ours)
    whole = time.perf_counter() - begun
    process.returncode = 0
    return Taken(first or whole, whole, used.ru_maxrss / 1024)


def cases(db: str) -> dict[str, tuple[list[str], bool]]:
    """What is measured: a command, and whether on a terminal."""
    return {
        **{
            line: ([sys.executable, "-c", line], False)
            for line in ("pass", "import loomc_runner", "from loomc_runner import loop", "import typer")
        },
        "loomc --help": ([*LOOMC, "--help"], False),
        "loomc runs": ([*LOOMC, "runs", "--db", db], True),
        "loomc runs | ...": ([*LOOMC, "runs", "--db", db], False),
        "loomc show short": ([*LOOMC, "show", "short", "--db", db], True),
        "loomc show long": ([*LOOMC, "show", "long", "--db", db], True),
        "loomc show long | ...": ([*LOOMC, "show", "long", "--db", db], False),
        "loomc history long": ([*LOOMC, "history", "long", "--db", db], True),
        "loomc explain long": ([*LOOMC, "explain", "long", "--db", db], True),
        "loomc verify long": ([*LOOMC, "verify", "long", "--db", db], True),
        "loomc export long": ([*LOOMC, "export", "long", "--db", db, "-o", os.devnull], True),
    }


def main() -> None:
    """Measure every case in turn, several rounds, and print medians with their spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        fill(path, options.runs, options.steps)
        print(f"{options.runs} runs, {options.steps} steps, {path.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        taken: dict[str, list[Taken]] = {}
        environment = as_installed(Path(folder))
        for _ in range(options.rounds + 1):
            for name, (command, on_terminal) in cases(str(path)).items():
                taken.setdefault(name, []).append(take(command, environment, on_terminal=on_terminal))
        print(f"{'':30}{'first screen, s':>22}{'target':>8}{'to the end, s':>24}{'peak, MB':>10}")
        for name, (_, *times) in taken.items():
            first, whole = (_spread([each[i] for each in times]) for i in (0, 1))
            peak, target = max(each.megabytes for each in times), TARGETS.get(name, "")
            print(f"{name:30}{first:>22}{target:>8}{whole:>24}{peak:>10.0f}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
