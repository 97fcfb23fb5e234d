"""Big states: what a step costs when the state is a transcript of megabytes, or changes all over.

Each case runs in fresh processes, in turn with two floors of `sqlite3` alone that store the same states with the same
pragmas: a full copy of every state, and only what changed in the middle of its text, between the head and the tail
that it has in common with the text before. To the advantage of the latter its text begins with the big field, so that
a counter before a list does not make it store the list; and every 64th is a whole text, compressed.

    python benchmarks/growing.py                                 # every case, 3 rounds; needs 6 GB of disk for a while
    python benchmarks/growing.py --cases "list first" "list last" --rounds 5
    python benchmarks/growing.py --steps 200                     # shorter: states grow to a fifth

`memory` is the peak above what the process had before the loop. `reading` is the time to read the state after one of
50 steps with a reader that was just opened, the best of three. `resume` is the time from `resume` to the start of the
next step in a fresh process after a crash, and its memory; what has to be imported is there by then.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from gauge import Memory, middle, place, size_mb, table
from states import CASES, Case, State, Step, Tiny, score

from loomc_runner import Budget, loop
from loomc_runner.backtrack import BestScore
from loomc_runner.store import open_reader

RUN = "a1b2c3d4e5f6"
KEYFRAME = 64
"""How often the second floor stores a whole state."""

SAMPLES = 50


class Watch:
    """Counts the steps of a process, and what it takes beside the steps themselves; ends it in the one after the last.

    It ends as in a crash, so that a later process has to resume what is on disk.
    """

    def __init__(self, steps: int, *, resuming: bool) -> None:
        self.steps = steps
        self.resuming = resuming
        self.begun = self.inside = 0.0
        self.n = 0
        gc.collect()
        self.memory = Memory()
        self.start = time.perf_counter()

    def call(self, step: Step, state: State, chance: random.Random) -> State:
        """Do a step of the user."""
        now = time.perf_counter()
        if self.resuming:
            end({"resume_ms": (now - self.start) * 1e3, "resume_mb": self.memory.above()})
        if self.n == self.steps:
            end({"us": (now - self.begun - self.inside) / self.steps * 1e6, "memory_mb": self.memory.above()})
        self.begun = self.begun or now
        self.n += 1
        made = step(state, chance)
        self.inside += time.perf_counter() - now
        return made


def end(result: dict[str, float]) -> NoReturn:
    """Say what was measured, and end as in a crash."""
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


def durable(case: Case, path: Path, steps: int, *, resuming: bool) -> None:
    """A loop over the states of a case."""
    options: dict[str, Any] = {"backtrack": BestScore(), "scorer": score} if case.back else {}
    begin = None if resuming else case.begin(random.Random(0), steps)
    chance = random.Random(1)
    warm_up()
    watch = Watch(steps, resuming=resuming)

    def step(state: State) -> State:
        return watch.call(case.step, state, chance)

    step.__annotations__ = {"state": case.kind, "return": case.kind}
    decorated: Any = loop(checkpoint=str(path), budget=Budget(iterations=steps + 1), **options)(step)
    if resuming:
        decorated.resume(RUN)
    else:
        decorated(begin, run_id=RUN)


def warm_up() -> None:
    """Import what a loop imports when it needs it."""
    with tempfile.TemporaryDirectory(dir=".") as folder:

        @loop(checkpoint=f"{folder}/runs.db", budget=Budget(iterations=1), scorer=lambda _: 1.0, backtrack=BestScore())
        def once(state: Tiny) -> Tiny:
            return state

        found = once.run(Tiny())
        once.with_options(budget=Budget(iterations=2)).run(Tiny(), run_id=found.run_id)


def bare(case: Case, path: Path, steps: int, store: str) -> None:
    """The same states with one insert, one update and one commit a step."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, status TEXT, steps INTEGER, updated_at TEXT)")
    db.execute(
        "CREATE TABLE steps (run_id TEXT, step_n INTEGER, head INTEGER, tail INTEGER, state_blob, timestamp TEXT, "
        "PRIMARY KEY (run_id, step_n))"
    )
    db.execute("INSERT INTO runs VALUES (?, 'running', 0, '')", (RUN,))
    good = state = case.begin(random.Random(0), steps)
    chance = random.Random(1)
    json.dumps(vars(state))
    watch = Watch(steps, resuming=False)
    before = ""
    for n in range(steps + 1):
        state = watch.call(case.step, state, chance)
        if store == "full copy":
            row: tuple[Any, ...] = (0, 0, json.dumps(vars(state)))
        else:
            text = json.dumps({case.big: getattr(state, case.big, None), **vars(state)})
            row, before = cut(before, text, whole=n % KEYFRAME == 0), text
        db.execute("BEGIN IMMEDIATE")
        at = "2026-01-01T00:00:00.000000+00:00"
        db.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?)", (RUN, n, *row, at))
        db.execute("UPDATE runs SET steps = ?, updated_at = ? WHERE id = ?", (n + 1, at, RUN))
        db.execute("COMMIT")
        if case.back:
            good = state = state if n == 0 else good


def cut(before: str, text: str, *, whole: bool) -> tuple[int, int, str | bytes]:
    """How much of the head and the tail stayed, and what is between; or the whole text, compressed."""
    if whole:
        return 0, 0, zlib.compress(text.encode(), 1)
    head = alike(min(len(before), len(text)), lambda low, high: text.startswith(before[low:high], low))
    most = min(len(before), len(text)) - head
    tail = alike(
        most, lambda low, high: text.endswith(before[len(before) - high : len(before) - low], 0, len(text) - low)
    )
    return head, tail, text[head : len(text) - tail]


def alike(most: int, same: Callable[[int, int], bool]) -> int:
    """The length up to which two texts are the same, found by halving."""
    low, high = 0, most
    while low < high:
        half = (low + high + 1) // 2
        if same(low, half):
            low = half
        else:
            high = half - 1
    return low


def reading(path: Path, step_n: int) -> float:
    """Milliseconds for the state after a step with a reader of its own."""
    begun = time.perf_counter()
    reader = open_reader(path)
    reader.state(RUN, step_n)
    taken = (time.perf_counter() - begun) * 1e3
    reader.close()
    return taken


def read(path: Path, steps: int) -> dict[str, float]:
    """Milliseconds for the states of some steps, the best of three for each: what the machine adds is not theirs."""
    chance = random.Random(2)
    wanted = [steps - 1, *(chance.randrange(-1, steps) for _ in range(SAMPLES - 1))]
    open_reader(path).close()
    taken = [min(reading(path, step_n) for _ in range(3)) for step_n in wanted]
    return {"read_middle": statistics.median(taken), "read_max": max(taken)}


LOOP = "loomc_runner"
STORES = (LOOP, "full copy", "changed middle")


def measure(name: str, store: str, steps: int) -> dict[str, float]:
    """Fill a database in a fresh process; when it is a loop's, resume and read it in others."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "runs.db"

        def child(phase: str) -> dict[str, float]:
            command = [sys.executable, __file__, "--measure", phase, store, name, str(path), "--steps", str(steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result: dict[str, float] = json.loads(done.stdout)
            return result

        taken = child("fill")
        if store == LOOP:
            taken |= child("resume")
        taken["db_mb"] = size_mb(path)
        if store == LOOP:
            taken |= child("read")
    return taken


def in_child(phase: str, store: str, name: str, path: Path, steps: int) -> None:
    """What a fresh process does."""
    case = CASES[name]
    if phase == "read":
        end(read(path, steps))
    elif store == LOOP:
        durable(case, path, steps, resuming=phase == "resume")
    else:
        bare(case, path, steps, store)


Taken = dict[str, list[dict[str, float]]]


def misses(case: Case, taken: Taken) -> list[str]:
    """The limits that do not hold, by their medians."""
    found = []
    for what, limit in case.limits.items():
        field, _, floor = what.partition(" / ")
        ours = [run[field] for run in taken[LOOP]]
        if floor:
            ours = [run[field] / base[field] for run, base in zip(taken[LOOP], taken[floor], strict=True)]
        if statistics.median(ours) > limit:
            found.append(f"{what} {statistics.median(ours):,.2f}, not {limit:,.2f}")
    return found


def row(name: str, store: str, taken: Taken) -> list[str]:
    """A row of the table."""
    runs = taken[store]
    ratios = [
        middle((run["us"] / base["us"] for run, base in zip(runs, taken[floor], strict=True)), 2)
        for floor in STORES[1:]
    ]
    cells = [
        name if store == LOOP else "",
        store,
        middle(run["us"] for run in runs),
        *ratios,
        middle((run["db_mb"] for run in runs), 1),
        middle((run["memory_mb"] for run in runs), 1),
    ]
    if store != LOOP:
        return [*cells, "", "", "", ""]
    reading = [middle((run[field] for run in runs), 1) for field in ("read_middle", "read_max")]
    return [*cells, *reading, *(middle((run[field] for run in runs), 1) for field in ("resume_ms", "resume_mb"))]


HEAD = [
    "case",
    "store",
    "us a step",
    "/ full copy",
    "/ changed middle",
    "MB on disk",
    "MB of memory",
    "reading, ms: median",
    "max",
    "resume, ms",
    "MB",
]


def compare(names: list[str], steps: int, rounds: int) -> None:
    """Measure the cases, their stores in turn, and print the table."""
    results: dict[str, Taken] = {}
    for name in names:
        case = CASES[name]
        count = max(int(steps * case.times), 2)
        results[name] = {store: [] for store in STORES}
        for _ in range(min(rounds, case.rounds)):
            for store in STORES:
                results[name][store].append(measure(name, store, count))
        print(f"{name}: {count:,} steps are done", file=sys.stderr)
    print(f"{place()}; {rounds} rounds; median (min-max); us a step without the time of the step itself\n")
    print(table(HEAD, [row(name, store, taken) for name, taken in results.items() for store in STORES]))
    missed = [
        f"- {name}: {'; '.join(found)}" for name, taken in results.items() if (found := misses(CASES[name], taken))
    ]
    print("\nOut of the limits:\n" + "\n".join(missed) if missed else "\nAll within the limits.")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        phase, store, name, path = options.measure
        in_child(phase, store, name, Path(path), options.steps)
    else:
        compare(options.cases, options.steps, options.rounds)


if __name__ == "__main__":
    main()
