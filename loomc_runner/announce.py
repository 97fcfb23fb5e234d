"""Tell the user's own functions what has happened: `on_step` of each committed step, `on_budget` of what is used up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutine
from typing import Any

from loomc_runner.context import outside_of_steps
from loomc_runner.cursor import Cursor
from loomc_runner.errors import BudgetExhausted
from loomc_runner.notices import notices
from loomc_runner.watching import note, tell


async def announce(cursor: Cursor[Any]) -> None:
    """Tell those who look on of the step that was just committed, if it was, and of what it has used up."""
    spec, step = cursor.spec, cursor.record
    if step is not None:
        tell("committed", cursor.lease.run_id, step)
        for callback in spec.on_step:
            await _call(cursor, callback, step, f"on_step failed after step {step.step_n}")
    if spec.on_budget:
        error = cursor.verdict.error if cursor.verdict else None
        for notice in notices(cursor.ledger, cursor.told, error if isinstance(error, BudgetExhausted) else None):
            for callback in spec.on_budget:
                await _call(cursor, callback, notice, f"on_budget failed at {notice.percent}% of {notice.limit}")


async def _call(cursor: Cursor[Any], callback: Callable[[Any], Any], given: Any, failure: str) -> None:
    """Call a function that only looks on; what it raises is logged, and changes nothing.

    It is called outside of any step, also in a child run: what it does is no part of the parent's step.
    """
    cancelled = _cancellations(cursor)
    try:
        with outside_of_steps():
            answer = callback(given)
            if isawaitable(answer):
                await _waited_for(cursor, answer)
    except BaseException as error:
        stray = type(error).__name__ == "CancelledError" and _cancellations(cursor) == cancelled
        if not isinstance(error, Exception) and not stray:  # Ctrl-C, or somebody cancels the run
            raise
        note("run %s: %s; the run goes on", cursor.lease.run_id, failure, exc_info=True)


def _cancellations(cursor: Cursor[Any]) -> int:
    """How often somebody has asked to cancel the task that works on the run."""
    if not cursor.spec.is_async:
        return 0
    import asyncio

    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _waited_for(cursor: Cursor[Any], answer: Awaitable[Any]) -> None:
    """Wait for what a callback gave; a sync loop cannot."""
    if cursor.spec.is_async:
        await answer
        return
    if iscoroutine(answer):
        answer.close()
    raise TypeError("it gave something to await, but the loop is not async")
