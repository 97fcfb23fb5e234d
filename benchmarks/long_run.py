"""What a step of a long run costs more than one of a short run, in time and memory, with each detector and strategy.

A run of 100,000 steps is compared with one of 1,000, each in a process of its own, and its last tenth with its first.
The store does not wait for the disk, so that the loop itself is seen:

    python benchmarks/long_run.py                            # all of them, some minutes
    python benchmarks/long_run.py --steps 20000 --cases plain "score_plateau(100)"
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from loomc_runner import (
    BestScore,
    Budget,
    Escalate,
    LastGood,
    SQLite,
    diminishing_returns,
    judge,
    loop,
    predicate,
    score_plateau,
    semantic_delta,
    target,
)

SHORT = 1000


class State(BaseModel):
    """A state of about 250 bytes."""

    text: str = "x" * 200
    n: int = 0
    notes: list[str] = []


def rising(state: State) -> float:
    """A score that is always better."""
    return float(state.n)


def falling(state: State) -> float:
    """A score that is always worse: the best step is the first one, and ever further away."""
    return -float(state.n)


def apart(texts: list[str]) -> list[list[float]]:
    """Vectors of texts that are never near to each other."""
    return [[1.0, 0.0] if len(text) % 2 else [0.0, 1.0] for text in texts]


def changed(state: State, _: Any) -> State:
    """What a handler of `Escalate` gives."""
    return state


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "score_plateau(3)": lambda: {"converge_on": score_plateau(patience=3), "scorer": rising},
    "score_plateau(100)": lambda: {"converge_on": score_plateau(patience=100), "scorer": rising},
    "target": lambda: {"converge_on": target(1e9), "scorer": rising},
    "judge": lambda: {"converge_on": judge(lambda _: False)},
    "predicate": lambda: {"converge_on": predicate(lambda history: history[0].step_n < 0)},
    "semantic_delta": lambda: {
        "converge_on": semantic_delta(embed=apart, text_fn=lambda state: "x" * (state.n % 6 + 1))
    },
    "diminishing_returns": lambda: {
        "converge_on": diminishing_returns(1e-9),
        "scorer": rising,
        "cost_fn": lambda _: 0.001,
    },
    "BestScore, rising": lambda: {"backtrack": BestScore(), "scorer": rising},
    "BestScore, falling": lambda: {"backtrack": BestScore(), "scorer": falling},
    "BestScore, walking on": lambda: {"backtrack": BestScore(tolerance=1e9), "scorer": falling},
    "resample, noise": lambda: {
        "backtrack": BestScore(resample=3),
        "converge_on": score_plateau(patience=3, min_delta="noise"),
        "scorer": rising,
    },
    "LastGood": lambda: {"backtrack": LastGood()},
    "Escalate": lambda: {"on_stall": Escalate(after=3, handler=changed), "scorer": falling},
}


def measure(case: str, steps: int) -> dict[str, float]:
    """Run one case in this process: microseconds per step in the first and the last tenth; peak memory."""
    ticks, fails = array("d"), case == "LastGood"
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = SQLite(Path(folder) / "runs.db", durability="process")

        @loop(checkpoint=store, budget=Budget(iterations=steps), **CASES[case]())
        def count(state: State) -> State:
            ticks.append(time.perf_counter())
            if fails and len(ticks) % 3 == 0:
                raise ValueError("every third step fails")
            return State(n=state.n + 1)

        run = count.run(State())
        store.close()
    if run.steps != steps:
        raise SystemExit(f"{case} ended after {run.steps} steps: {run.stop_reason}")
    tenth = steps // 10
    return {
        "first": (ticks[tenth] - ticks[0]) / tenth * 1e6,
        "last": (ticks[-1] - ticks[-1 - tenth]) / tenth * 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measured(case: str, steps: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--measure", case, "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.steps)))
        return
    print(
        f"{options.steps:,} steps; microseconds per step in the first and the last tenth; memory above {SHORT:,} steps"
    )
    for case in options.cases:
        short, long = measured(case, SHORT), measured(case, options.steps)
        print(
            f"{case:22} {long['first']:8.1f} {long['last']:8.1f}  last/first {long['last'] / long['first']:5.2f}"
            f"  {long['peak_mb'] - short['peak_mb']:+6.1f} MB of {short['peak_mb']:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
