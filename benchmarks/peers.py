"""The same work with loomc_runner, with the libraries it is compared to, and with `sqlite3` alone.

Each library has a virtual environment of its own, made here with pip, and is used as its own guides show it for a loop
with a checkpoint per step; `benchmarks/peers/` has a file for each. All of them take turns, each in fresh processes,
and right before each one its floor does the same work, so that ratios hold on a noisy machine:

    python benchmarks/peers.py --envs ~/.cache/peers            # 1,000 steps, 5 rounds; keeps the environments
    python benchmarks/peers.py --steps 10000 --works tiny
    python benchmarks/peers.py --only bare,loomc_runner --here  # no environment: what this interpreter has

Ctrl-C ends it early and prints what was measured by then.

Two kinds of work: a tiny state of 250 bytes, and a transcript to which each step adds 1 KB. The process is cut off
in the middle of the step after the last; `resume` is the time from the end of the imports to the start of that step in
a fresh process, and the memory this takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gauge import place, size_mb, spread, table

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = {
    "bare": [],
    "loomc_runner": ["-e", str(ROOT)],
    "loomc": ["loomc>=0.3.0"],
    "loom_runner": ["loom-runner>=0.1.3"],
    "langgraph": ["langgraph>=1.2", "langgraph-checkpoint-sqlite>=3.1"],
    "dbos": ["dbos>=3.4"],
    "burr": ["apache-burr>=0.43"],
}
"""What each environment has; the name is also that of the file in `peers/`."""

FLOORS = {"FULL": "bare, WAL FULL", "EXTRA": "bare, WAL FULL", "NORMAL": "bare, WAL NORMAL"}
"""The floor for each `synchronous`: what survives a power cut, and what survives only the death of the process."""

SECONDS = 900


@dataclass
class Peer:
    """One row: a library, how it is used, and what was measured with it."""

    name: str
    env: str
    variant: str = ""
    works: Sequence[str] = ("tiny", "growing")
    look: dict[str, Any] = field(default_factory=dict)
    taken: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def peers() -> list[Peer]:
    """All rows, in the order of the table."""
    return [
        Peer("bare, WAL FULL", "bare", "full"),
        Peer("bare, WAL NORMAL", "bare", "normal"),
        Peer("bare, rollback journal FULL", "bare", "delete"),
        Peer("bare, WAL FULL, new item only", "bare", "append", ["growing"]),
        Peer("loomc_runner", "loomc_runner", "power"),
        Peer('loomc_runner, durability="process"', "loomc_runner", "process"),
        Peer("loomc", "loomc"),
        Peer("loom-runner", "loom_runner", "full"),
        Peer("loom-runner, compact", "loom_runner", "compact"),
        Peer("LangGraph, sync", "langgraph", "sync"),
        Peer("LangGraph, async", "langgraph", "async"),
        Peer("LangGraph, sync, DeltaChannel", "langgraph", "delta", ["growing"]),
        Peer("DBOS, steps return items", "dbos", "item"),
        Peer("DBOS, steps return the state", "dbos", "state", ["growing"]),
        Peer("Burr", "burr"),
    ]


class Failed(Exception):
    """A library could not be installed or did not do its work."""


def install(env: str, envs: Path) -> str:
    """Make the environment of a library unless it is there; its interpreter."""
    folder = envs / env
    python = folder / "bin" / "python"
    if not python.exists():
        _call([sys.executable, "-m", "venv", str(folder)])
        _call([str(python), "-m", "pip", "install", "--quiet", *PACKAGES[env]])
    return str(python)


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"still at work after {SECONDS} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Failed(lines[-1].strip()[:160] if lines else f"exit status {done.returncode}")
    return done.stdout


def run(peer: Peer, python: str, phase: str, path: Path, work: str, steps: int) -> dict[str, Any]:
    """One process of a library: what it printed last."""
    script = ROOT / "benchmarks" / "peers" / f"with_{peer.env}.py"
    command = [python, str(script), phase, str(path), "--steps", str(steps), "--variant", peer.variant]
    printed = _call([*command, "--growing"] if work == "growing" else command)
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    if "error" in result:
        raise Failed(result["error"])
    return result


def measure(peer: Peer, python: str, work: str, steps: int) -> dict[str, float]:
    """Fill a database, be cut off and resume."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "runs.db"
        filled = run(peer, python, "fill", path, work, steps)
        taken = {"us": filled["us"], "peak_mb": filled["mb"]}
        try:
            resumed = run(peer, python, "resume", path, work, steps)
            taken |= {"resume_ms": resumed["ms"], "resume_mb": resumed["mb"]}
        except Failed as problem:
            peer.problems[work] = f"resume failed: {problem}"
        taken["db_mb"] = size_mb(path)
    return taken


def beside_floor(peer: Peer, python: str, work: str, steps: int) -> dict[str, float]:
    """Measure a peer right after its floor, which is what its ratio is to; the floors themselves need none."""
    floor = next((each for each in peers() if each.name == FLOORS.get(peer.look["synchronous"])), None)
    if floor is None or floor.name == peer.name:
        return measure(peer, python, work, steps) | ({"ratio": 1.0} if floor else {})
    with tempfile.TemporaryDirectory(dir=".") as folder:
        base = run(floor, sys.executable, "fill", Path(folder) / "runs.db", work, steps)
    taken = measure(peer, python, work, steps)
    return taken | {"ratio": taken["us"] / base["us"]}


def compare(rows: list[Peer], works: dict[str, int], rounds: int, pythons: dict[str, str]) -> None:
    """Measure every peer in turn, `rounds` times."""
    for peer in rows:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            try:
                peer.look = run(peer, pythons[peer.env], "look", Path(folder) / "runs.db", peer.works[0], 3)
            except Failed as problem:
                peer.problems = dict.fromkeys(works, f"failed: {problem}")
    for number in range(rounds):
        for work, steps in works.items():
            for peer in rows:
                if work in peer.works and not peer.problems.get(work, "").startswith("failed"):
                    try:
                        taken = beside_floor(peer, pythons[peer.env], work, steps)
                        peer.taken.setdefault(work, []).append(taken)
                    except Failed as problem:
                        peer.problems[work] = f"failed: {problem}"
        print(f"round {number + 1} of {rounds} is done", file=sys.stderr)


def cells(peer: Peer, work: str) -> list[str]:
    """The row of a peer."""
    runs = peer.taken.get(work, [])
    durability = f"{peer.look.get('journal', '?')} {peer.look.get('synchronous', '?')}"
    row = [peer.name, str(peer.look.get("version", "?")), durability]
    problem = peer.problems.get(work, "")
    if not runs or problem.startswith("failed"):
        return [*row, "failed", *[""] * 5]
    ratios = [taken["ratio"] for taken in runs if "ratio" in taken]
    resumes = [taken for taken in runs if "resume_ms" in taken]
    return [
        *row,
        spread(taken["us"] for taken in runs),
        spread(ratios, 2) if ratios else "unknown",
        spread((taken["db_mb"] for taken in runs), 1),
        spread((taken["peak_mb"] for taken in runs), 1),
        spread((taken["resume_ms"] for taken in resumes), 1) if resumes else "failed",
        spread((taken["resume_mb"] for taken in resumes), 1) if resumes else "",
    ]


HEAD = ["", "version", "durability", "us a step", "ratio to floor", "MB on disk", "MB of memory", "resume, ms", "MB"]


def show(rows: list[Peer], works: dict[str, int]) -> None:
    """Print the tables."""
    rounds = max(len(runs) for peer in rows for runs in [[], *peer.taken.values()])
    print(f"{place()}; {rounds} rounds; min / median / max. The floor of a library is bare WAL with its `synchronous`.")
    for work, steps in works.items():
        kind = "a state of 250 bytes" if work == "tiny" else f"a transcript that grows by 1 KB a step to {steps} KB"
        print(f"\n{steps:,} steps, {kind}:\n")
        print(table(HEAD, [cells(peer, work) for peer in rows if work in peer.works]))
        problems = [f"- {peer.name}: {peer.problems[work]}" for peer in rows if work in peer.problems]
        print("\n".join(["", *problems]) if problems else "", end="\n" if problems else "")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of the tiny state")
    parser.add_argument("--growing", type=int, default=1000, help="steps of the transcript")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--works", nargs="+", choices=["tiny", "growing"], default=["tiny", "growing"])
    parser.add_argument("--only", help=f"some of {','.join(PACKAGES)}")
    parser.add_argument("--envs", type=Path, help="where environments are kept; else they are made each time")
    parser.add_argument("--here", action="store_true", help="use this interpreter and make no environments")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(PACKAGES)
    rows = [peer for peer in peers() if peer.env in chosen]
    counts = {"tiny": options.steps, "growing": options.growing}
    works = {work: counts[work] for work in options.works}
    with tempfile.TemporaryDirectory() as folder:
        envs = (options.envs or Path(folder)).absolute()
        pythons = {"bare": sys.executable}
        for env in dict.fromkeys(peer.env for peer in rows):
            try:
                pythons[env] = sys.executable if options.here or env == "bare" else install(env, envs)
            except Failed as problem:
                pythons[env] = ""
                for peer in rows:
                    if peer.env == env:
                        peer.problems = dict.fromkeys(works, f"failed to install: {problem}")
        try:
            compare(rows, works, options.rounds, pythons)
        except KeyboardInterrupt:
            print("interrupted: this is what there was", file=sys.stderr)
    show(rows, works)


if __name__ == "__main__":
    main()
