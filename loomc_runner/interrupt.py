"""A pause at once: an async step is cancelled when somebody outside asks for it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from loomc_runner.context import LOOK, PAUSED, Scope
from loomc_runner.errors import LoomcError, RunStopped
from loomc_runner.records import Control
from loomc_runner.step import Outcome

if TYPE_CHECKING:
    import asyncio

S = TypeVar("S")


class Watch:
    """Looks twice a second whether an async run is asked to pause now, and then cancels the task of its step.

    One timer serves all steps of the run: most are over long before anybody looks. It ends by itself when a look
    finds no step at work.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._scope: Scope | None = None
        self._requests = 0

    async def over(self, work: Coroutine[Any, Any, Outcome[S]], scope: Scope) -> Outcome[S]:
        """Run an async step; one that has returned is kept."""
        if (task := _current_task()) is None:  # driven by hand: there is nothing to cancel
            return await work
        if self._loop is not task.get_loop():
            self._loop = task.get_loop()
            self._loop.call_later(LOOK, self._look)
        before, begun = task.cancelling(), scope.clock.monotonic()
        self._task, self._scope, self._requests = task, scope, 0
        try:
            outcome = await work
            if self._requests and outcome.torn is not None:
                outcome.torn = RunStopped(f"run {scope.lease.run_id} {PAUSED.reason}")
        except BaseException:  # a cancellation
            if not self._requests or task.cancelling() - self._requests > before:  # somebody else's, or none
                raise
            scope.leave(PAUSED)
            outcome = Outcome(scope.clock.monotonic() - begun)
        finally:
            self._task = self._scope = None
            for _ in range(self._requests):
                task.uncancel()
        return outcome

    def _look(self) -> None:
        if self._loop is None or self._scope is None or self._task is None:
            self._loop = None
            return
        self._loop.call_later(LOOK, self._look)
        if _wants_a_pause(self._scope):
            self._requests += 1
            self._task.cancel()


def _current_task() -> asyncio.Task[Any] | None:
    import asyncio  # not `from asyncio import ...`, which takes ten times as long, and every step comes here

    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop
        return None


def _wants_a_pause(scope: Scope) -> bool:
    try:
        return scope.store.get_run(scope.lease.run_id).control is Control.PAUSE_NOW
    except LoomcError:  # it is locked, or gone: the next commit will tell
        return False
