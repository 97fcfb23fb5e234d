"""Loops to be followed: they wait for files that a test puts there, so that nothing depends on time."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from loomc_runner import Budget, Done, Retry, ask, loop, spend, tool


def await_file(name: str) -> None:
    """Wait until the file is there."""
    while not Path(name).exists():
        time.sleep(0.01)


@tool(name="look_up")
def look_up(number: int) -> int:
    """A call that takes as long as the test wants."""
    await_file(f"looked-up-{number}")
    return number


@loop(budget=Budget(iterations=1))
def helper(number: int) -> Done[int, None]:
    """A child run that takes as long as the test wants."""
    await_file("helped")
    return Done(number)


def even(number: int) -> float:
    """A score."""
    return float(number % 2)


@loop(budget=Budget(usd=2, iterations=400, wall_clock="1h"), scorer=even, retry=Retry(attempts=2, wait=0))
def long(number: int) -> int | Done[int, None]:
    """Many steps: it fails once, looks up, has help, dies in a broken process, asks, and is done."""
    spend(usd=0.01)
    if number == 30 and not Path("failed").exists():
        Path("failed").touch()
        raise TimeoutError("\x1b[31mslow\u202e")
    if number == 31:
        look_up(number)
    if number == 32:
        helper.map([1, 2, 3], max_workers=2)
    if number == 33 and os.environ.get("BROKEN"):
        await_file("die")
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 34:
        ask("go \x1b[31mon?", bool)
    return Done(number) if number == 35 else number + 1


@loop(budget=Budget(iterations=3))
def failing(number: int) -> int:
    """Fails in its second step, when the test wants it."""
    if number == 1:
        await_file("fail")
        raise ValueError("no way")
    return number + 1


if __name__ == "__main__":
    globals()[sys.argv[1]].run(0, run_id=sys.argv[1])
