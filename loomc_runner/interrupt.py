"""A pause at once: an async step is cancelled when somebody outside asks for it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from loomc_runner.context import Leave, Scope
from loomc_runner.errors import RunStopped, StoreError
from loomc_runner.records import Control, RunStatus
from loomc_runner.step import Outcome
from loomc_runner.store import in_event_loop

S = TypeVar("S")

LOOK: Final = 0.5
"""Seconds between two looks whether somebody asks for something, while a step runs or is waited for."""

PAUSED: Final = Leave(RunStatus.PAUSED, "paused: by request")
CANCELLED: Final = Leave(RunStatus.CANCELLED, "cancelled: by request")


async def interruptible(work: Coroutine[Any, Any, Outcome[S]], scope: Scope) -> Outcome[S]:
    """Run an async step, and cancel its task when the run is asked to pause now; a step that has returned is kept."""
    import asyncio

    task = asyncio.current_task() if in_event_loop() else None
    if task is None:  # driven by hand: there is nothing to cancel
        return await work
    loop = task.get_loop()
    before, requests, begun = task.cancelling(), 0, scope.clock.monotonic()

    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal requests, timer
        timer = loop.call_later(LOOK, look)
        if _wants_a_pause(scope):
            requests += 1
            task.cancel()

    timer = loop.call_later(LOOK, look)
    try:
        outcome = await work
        if requests and isinstance(outcome.torn, asyncio.CancelledError):
            outcome.torn = RunStopped(f"run {scope.lease.run_id} {PAUSED.reason}")
    except asyncio.CancelledError:
        if not requests or task.cancelling() - requests > before:  # somebody else cancelled it
            raise
        scope.leave(PAUSED)
        outcome = Outcome(scope.clock.monotonic() - begun)
    finally:
        timer.cancel()
        for _ in range(requests):
            task.uncancel()
    return outcome


def _wants_a_pause(scope: Scope) -> bool:
    try:
        return scope.store.get_run(scope.lease.run_id).control is Control.PAUSE_NOW
    except StoreError:  # it is locked, or gone: the next commit will tell
        return False
