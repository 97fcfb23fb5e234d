"""What is under way in a step: its durable calls and child runs, and how what a try leaves behind is ended."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any, Final

from loomc_runner.context import Scope, Work, asked_to_leave, halting
from loomc_runner.records import RunStatus
from loomc_runner.store import in_event_loop, sleep_of

PATIENCE: Final = 60.0
"""Seconds to wait for what a try of a step that failed has left behind."""

LONG_PATIENCE: Final = 600.0
"""Seconds to let run to its end what is under way beside a question; it may be a long and dear call."""

_work: ContextVar[Work | None] = ContextVar("loomc_runner_work", default=None)


class under_way:  # noqa: N801 - used as `with under_way(scope):`
    """Let a step know of a durable call or a child run in it, for as long as that is under way.

    One that contains others counts through them: while they wait it does nothing.
    """

    __slots__ = ("_outer", "_scope", "_token", "_work")

    def __init__(self, scope: Scope) -> None:
        import asyncio

        outer, call = _work.get(), scope.enclosing_call()
        task = asyncio.current_task() if in_event_loop() else None
        self._scope, self._work = scope, Work(scope.account, task, "" if call is None else call.key)
        self._outer = outer if outer is not None and outer.account is scope.account else None

    def __enter__(self) -> None:
        scope = self._scope
        with scope.lock:
            scope.works.add(self._work)
            _count(self._outer, 1)
            scope.account.work(1)
        self._token = _work.set(self._work)

    def __exit__(self, *_: object) -> None:
        _work.reset(self._token)
        scope = self._scope
        with scope.lock:
            scope.account.work(-1)
            _count(self._outer, -1)
            scope.works.discard(self._work)


def _count(outer: Work | None, change: int) -> None:
    """The first work inside of another takes over its place, and the last one gives it back."""
    if outer is None:
        return
    before, outer.inner = outer.inner, outer.inner + change
    if 0 in {before, outer.inner}:
        outer.account.work(-change)


async def end_works(scope: Scope, *, is_async: bool, within: str | None = None, threads: bool = True) -> None:
    """Leave nothing under way of a try that has ended; `within` a call, only what that has left behind.

    Where the step waits they run to their end; else tasks are cancelled. What works in threads cannot be, and is
    waited for with `threads`. None of it is waited for without end, or once the process is to end.
    """
    sleep, cancelled = sleep_of(is_async=is_async), set[Any]()
    waits = scope.left is not None and scope.left.status is RunStatus.WAITING
    end = time.monotonic() + (LONG_PATIENCE if waits else PATIENCE)
    while works := _left_behind(scope, within):
        tasks = {work.task for work in works if _is_task_here(work.task)}
        late = time.monotonic() > end or asked_to_leave(None, halting.get()) is not None
        for task in () if waits and not late else tasks - cancelled:
            task.cancel()
            cancelled.add(task)
        if (late and not tasks - cancelled) or not (tasks or threads):
            break
        await sleep(0.005)
        if late:
            break


def _left_behind(scope: Scope, within: str | None) -> list[Work]:
    mine = _work.get()
    with scope.lock:
        return [work for work in scope.works if work is not mine and within in {None, work.within}]


def _is_task_here(task: Any) -> bool:
    """Whether it is another task of the event loop that runs here; those of other threads are left alone."""
    if task is None or not in_event_loop():
        return False
    import asyncio

    return task is not asyncio.current_task() and task.get_loop() is asyncio.get_running_loop()
