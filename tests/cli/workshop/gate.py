"""Loops that people have a say in: run as a script they begin a run each, named after themselves."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from loomc_runner import Approval, Budget, Done, ask, call, loop, spend, tool


@tool(once=True)
def deploy(version: int) -> str:
    """What must not happen twice."""
    with Path("deployed").open("a", encoding="utf-8") as file:
        file.write(f"{version}\n")
    if os.environ.get("BROKEN"):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"deployed {version}"


@loop(budget=Budget(usd=1))
def ship(version: int) -> Done[int, str]:
    """Asks before it deploys."""
    call(time.strftime, "%Y", key="year")
    spend(usd=0.02)
    decision = ask(f"Deploy version {version}?", Approval)
    return Done(version, result=deploy(version) if decision else f"kept back by {decision.by}: {decision.note}")


@loop(budget=Budget())
def name_it(number: int) -> int | Done[int, str]:
    """Asks for a text, when it gets that far."""
    spend(usd=0.01)
    return Done(number, result=ask(f"What is the name of {number}?")) if number % 2 else number + 1


@loop(budget=Budget(usd=1))
def survey(numbers: list[int]) -> Done[list[int], None]:
    """Two children that ask at the same time."""
    return Done(name_it.map(numbers))


@loop(budget=Budget(iterations=1))
def slow(number: int) -> int:
    """Works until somebody stops it."""
    print("working", flush=True)
    time.sleep(0.05)
    return number + 1


@loop(budget=Budget(iterations=3))
def shaky(number: int) -> int | Done[int, None]:
    """Dies in its second step, in a broken process."""
    if number == 1 and os.environ.get("BROKEN"):
        os.kill(os.getpid(), signal.SIGKILL)
    return Done(number) if number == 2 else number + 1


STATES = {"ship": 3, "survey": [2, 4], "slow": 0, "shaky": 0}

if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        globals()[wanted].run(STATES[wanted], run_id=wanted)
