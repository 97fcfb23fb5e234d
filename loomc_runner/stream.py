"""A run taken step by step: the same road as a whole run, with a stop after each commit."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from loomc_runner.context import current_scope
from loomc_runner.cursor import Cursor, Verdict
from loomc_runner.driver import end, flow, pause
from loomc_runner.errors import LoomcError, SpecError
from loomc_runner.ledger import Ledger
from loomc_runner.opening import result_of
from loomc_runner.records import RunResult, RunStatus, StepRecord
from loomc_runner.running import Request, at_work, conclude, hand_up, inform, open_run, stored_error, tell_end
from loomc_runner.sigterm import orderly_termination
from loomc_runner.store import finish
from loomc_runner.watching import tell, watched_by
from loomc_runner.works import under_way

if TYPE_CHECKING:
    from loomc_runner.progress import Display

S = TypeVar("S")

PAUSED_BY_CONSUMER = Verdict(RunStatus.PAUSED, "paused: the consumer of the stream stopped reading")


class Steps(Generic[S]):
    """A run that is taken step by step.

    Attributes:
        run_id: Its id, known before the first step.
        result: How it stands, once it stopped; None before.
    """

    def __init__(self, request: Request[S]) -> None:
        self.result: RunResult[S] | None = None
        self._cursor: Cursor[S] | None = None
        self._flow: AsyncGenerator[StepRecord[S]] | None = None
        self._closed = self._told = False
        self._display: Display | None = None
        if request.existing and request.run_id is None:
            raise SpecError("stream() has nothing to run: give it a state, or the run_id of a run to go on with")
        if not request.existing and (request.budget is not None or request.force):
            raise SpecError("budget= and force= change a run that exists: give stream() its run_id and no state")
        self._request = request.named()
        self.run_id = str(self._request.run_id)

    def standing(self) -> Ledger | None:
        """What the run has used so far, while it works; None before its first step."""
        return None if self._cursor is None else self._cursor.ledger

    async def _next(self) -> StepRecord[S]:
        with ExitStack() as stack:
            if (scope := current_scope()) is not None:
                stack.enter_context(under_way(scope))
            if self._request.spec.progress and not self._closed and not self._told:
                stack.enter_context(watched_by(self._joined()))
            return await self._advance()

    def _joined(self) -> Display:
        """The display, from the first step until the stream has ended."""
        if self._display is None:
            from loomc_runner.progress import join

            self._display = join()
        return self._display

    async def _advance(self) -> StepRecord[S]:
        try:
            if self._flow is None and not self._closed:
                self._flow = await self._begin()
            if self._flow is not None:
                return await anext(self._flow)
        except StopAsyncIteration:
            pass
        except BaseException as error:
            torn = self._cursor is not None and not self._cursor.stopped and not isinstance(error, GeneratorExit)
            if torn and self._cursor is not None:  # Ctrl-C between two steps
                await pause(self._cursor, error)
            inform(error, self._cursor)
            if not isinstance(error, GeneratorExit):
                self._ended()
            raise
        self._finish()
        raise StopAsyncIteration

    async def _begin(self) -> AsyncGenerator[StepRecord[S]]:
        opened = await open_run(self._request)
        if isinstance(opened, RunResult):
            self.result, _ = hand_up(opened, stored_error(self._request.spec, opened))
            raise StopAsyncIteration
        self._cursor = opened
        tell("began", at_work(opened))
        return flow(opened)

    def _finish(self) -> None:
        self._ended()
        if self.result is None and self._cursor is not None:
            self.result = result_of(self._cursor)
            conclude(self._cursor)

    def _ended(self) -> None:
        """Tell those who look on, once, that the run has stopped, and do without the display."""
        cursor, display = self._cursor, self._display
        if cursor is not None and not cursor.stopped:
            return
        with nullcontext() if display is None else watched_by(display):
            if cursor is not None and not self._told:
                self._told = True
                tell_end(cursor)
        if display is not None:
            from loomc_runner.progress import leave

            self._display = None
            leave(display)

    async def _close(self) -> None:
        if self._flow is not None:  # by hand, since a running event loop would do it some time; refuses inside a step
            await self._flow.aclose()
        self._closed = True
        if self._cursor is not None and not self._cursor.stopped:
            await end(self._cursor, PAUSED_BY_CONSUMER)
        self._ended()
        if self._cursor is not None and self.result is None:
            self.result = result_of(self._cursor)

    def __del__(self) -> None:
        if sys is not None and not sys.is_finalizing():
            with suppress(RuntimeError, LoomcError):  # an async one without its event loop can only try
                finish(self._close())


class Stream(Steps[S], Iterator[StepRecord[S]]):
    """The committed steps of a run, as they happen. Leaving it early pauses the run: close it, or use `with`."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepRecord[S]:
        try:
            with orderly_termination():
                return finish(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Pause the run, unless it has stopped."""
        finish(self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(Steps[S], AsyncIterator[StepRecord[S]]):
    """The committed steps of a run, as they happen. Leaving it early pauses the run: use `async with`, or `aclose`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StepRecord[S]:
        with orderly_termination():
            return await self._next()

    async def aclose(self) -> None:
        """Pause the run, unless it has stopped."""
        await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
