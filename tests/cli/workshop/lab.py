"""The loops that the command is tried on: run as a script they leave runs behind, named after themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from loomc_runner import BestScore, Budget, Done, Escalate, LastGood, loop, score_plateau, spend, target

SCORES = (1.0, 3.0, 2.0, 2.5, 4.0, 1.0, 6.0)

NASTY = "[bold]no[/bold] \x1b[31mred\x1b[0m \x9b31m\nline two \u202egnp.exe \x07" + "and so on " * 12

BROKEN = bool(os.environ.get("BROKEN"))
"""Whether this process is one in which things go wrong."""

calls = iter(range(1000))


@dataclass
class Draft:
    """A state: how far it is."""

    n: int = 0
    text: str = "x"


def further(draft: Draft) -> Draft:
    """The plainest step; in a chatty process it talks."""
    if os.environ.get("CHATTY"):
        print("working")
    return Draft(draft.n + 1, draft.text)


def hang() -> None:
    """In a broken process, wait until somebody comes."""
    if BROKEN:
        print("hanging", flush=True)
        time.sleep(60)


@loop(
    budget=Budget(usd=2, iterations=15, wall_clock="10m"), converge_on=score_plateau(3), scorer=lambda d: -abs(d.n - 2)
)
def climb(draft: Draft) -> Draft:
    """Gets better, then worse, and stops."""
    spend(usd=0.05, tokens=100)
    return further(draft)


@loop(budget=Budget(usd=2), scorer=lambda _: SCORES[next(calls)], backtrack=BestScore(), converge_on=target(5))
def zigzag(draft: Draft) -> Draft:
    """Goes back to its best twice."""
    spend(usd=0.05)
    return further(draft)


@loop(budget=Budget(usd=1))
def fragile(draft: Draft) -> Draft | Done[Draft, dict[str, int]]:
    """Fails in its third step, in a broken process."""
    spend(usd=0.03)
    if draft.n == 2 and BROKEN:
        raise ValueError(NASTY)
    return Done(draft, result={"found": 7}) if draft.n == 3 else further(draft)


@loop(budget=Budget(usd=0.10))
def poor(draft: Draft) -> Draft | Done[Draft, None]:
    """Has less money than it needs."""
    spend(usd=0.03)
    return Done(draft) if draft.n == 4 else further(draft)


@loop(scorer=lambda _: 1.0, on_stall=Escalate(after=2))
def stubborn(draft: Draft) -> Draft:
    """Never gets better, and has no budget."""
    return further(draft)


@loop(budget=Budget(usd=1), scorer=lambda d: float(d.n), backtrack=LastGood(), converge_on=target(4))
def forgiving(draft: Draft) -> Draft:
    """Survives a failure; nobody records what it costs."""
    if next(calls) == 2:
        raise RuntimeError("the model is overloaded")
    return further(draft)


@loop(budget=Budget(usd=5, iterations=40))
def mortal(draft: Draft) -> Draft | Done[Draft, None]:
    """Is killed in its fourth step, in a broken process, after it has paid."""
    spend(usd=0.02)
    if draft.n == 3 and BROKEN:
        os.kill(os.getpid(), signal.SIGKILL)
    return Done(draft) if draft.n == 5 else further(draft)


@loop(budget=Budget(usd=5))
def patient(draft: Draft) -> Draft | Done[Draft, None]:
    """Hangs in its third step, in a broken process."""
    spend(usd=0.01)
    if draft.n == 2:
        hang()
    return Done(draft) if draft.n == 3 else further(draft)


@loop(budget=Budget(usd=5))
async def gentle(draft: Draft) -> Draft | Done[Draft, None]:
    """Waits in its third step, in a broken process; it is async."""
    spend(usd=0.01)
    if draft.n == 2 and BROKEN:
        print("hanging", flush=True)
        await asyncio.sleep(60)
    return Done(draft) if draft.n == 3 else further(draft)


@loop(name="A loop: called by name", budget=Budget(iterations=3))
def named(draft: Draft) -> Draft:
    """Has a name of its own."""
    return further(draft)


@loop(budget=Budget(iterations=3))
def undeclared(draft):
    """Does not say what its state is."""
    return further(draft)


@loop(budget=Budget(iterations=2))
def apprentice(draft: Draft) -> Draft | Done[Draft, None]:
    """The child of master."""
    spend(usd=0.01)
    return Done(draft)


@loop(budget=Budget(usd=1, iterations=2))
def master(draft: Draft) -> Draft:
    """Has its work done by a child."""
    spend(usd=0.10)
    apprentice(draft, run_id=f"master-{draft.n}")
    return further(draft)


class Painter:
    """Somebody whose method is a loop."""

    @loop(budget=Budget(iterations=1))
    def paint(self, draft: Draft) -> Draft:
        """One stroke."""
        return further(draft)


def make_inner() -> Any:
    """A loop inside a function."""

    @loop(budget=Budget(iterations=1))
    def inner(draft: Draft) -> Draft:
        return further(draft)

    return inner


LOOPS: dict[str, Any] = {
    **{fn.spec.fn.__name__: fn for fn in (climb, zigzag, fragile, poor, stubborn, forgiving, patient, gentle, named)},
    "undeclared": undeclared,
    "master": master,
    "method": Painter().paint,
    "inner": make_inner(),
    "mortal": mortal,
}


def leave(name: str) -> None:
    """Run a loop to its end, whatever that is."""
    global calls
    calls = iter(range(1000))
    try:
        result = LOOPS[name](Draft(), run_id=name)
        if isawaitable(result):
            asyncio.run(result)
    except Exception as error:
        print(type(error).__name__)


def begin(name: str) -> None:
    """Take the first step of a run, and pause it."""
    stream = LOOPS[name].stream(Draft(), run_id=name)

    async def first() -> None:
        async with stream as steps:
            await anext(steps)

    if hasattr(stream, "aclose"):
        asyncio.run(first())
    else:
        with stream as steps:
            next(steps)


if __name__ == "__main__":
    deed = {"leave": leave, "begin": begin}[sys.argv[1]]
    for chosen in sys.argv[2:]:
        deed(chosen)
