"""Loops side by side: what `map` does, with threads for sync loops and tasks for async ones."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from loomc_runner.context import HALTED, TERMINATED, Halt, Leaving, current_scope, halting
from loomc_runner.errors import BudgetExhausted, RunStopped, WaitingForAnswer
from loomc_runner.records import RunStatus
from loomc_runner.running import Request, run_to_end
from loomc_runner.scores import check_count
from loomc_runner.sigterm import termination_asked
from loomc_runner.store import finish

if TYPE_CHECKING:
    import asyncio

S = TypeVar("S")


class Batch(Generic[S]):
    """Runs that are made side by side: which of them come next, and what came of the others.

    A run that was refused because of what the others hold reserved is tried again after one of them has ended. One
    that waits for a person is no failure: the others run on.
    """

    def __init__(self, requests: Iterable[Request[S]], max_workers: int, *, return_exceptions: bool) -> None:
        check_count("map(max_workers", max_workers)
        self.requests = [request.placed() for request in requests]  # in order, so that each finds its place again
        self.max_workers, self.return_exceptions = max_workers, return_exceptions
        self.todo = deque(range(len(self.requests)))
        self.results: dict[int, S | BaseException] = {}
        self.refused: dict[int, BudgetExhausted] = {}
        self.settled, self.since = 0, dict[int, int]()  # how many have ended, and how many had when each was started
        self.left: list[BaseException] = []
        self.failure: BaseException | None = None
        self.under_way = 0
        self.halt = Halt(current_scope(), halting.get())

    def starting(self) -> Iterable[int]:
        """The runs to start now."""
        while self.todo and self.under_way < self.max_workers and self.failure is None and not self._is_stopping():
            self.under_way += 1
            index = self.todo.popleft()
            self.since[index] = self.settled
            yield index

    def ended(self, index: int, outcome: S | BaseException) -> None:
        """Take note of what came of a run."""
        self.under_way -= 1
        if isinstance(outcome, BudgetExhausted) and self._is_refused(index, outcome):
            self.refused[index] = outcome
        elif isinstance(outcome, Leaving | WaitingForAnswer):
            self.left.append(outcome)
        elif isinstance(outcome, BaseException) and not (self.return_exceptions and isinstance(outcome, Exception)):
            self.failure = self.failure or outcome
        else:
            self.results[index] = outcome
        if index not in self.refused:
            self.settled += 1
        if self.settled > self.since[index]:  # something has been settled, also while this one was being refused
            self._try_again()
        elif not self.under_way and not self.todo:  # nobody else holds anything
            self._give_up(index)

    def list(self) -> Sequence[S | BaseException]:
        """The results in the order of the states, or the first failure; where one waits, so does the whole."""
        if self.failure is not None:
            raise self.failure
        if self.left:
            raise self.left[0]
        if self.todo:
            raise self._stopped()
        return [self.results[index] for index in range(len(self.requests))]

    def _is_stopping(self) -> bool:
        """Whether somebody wants the whole to stop, so that nothing more may begin."""
        owner = self.halt.owner
        left = owner is not None and owner.left is not None and owner.left.status is not RunStatus.WAITING
        return left or termination_asked() or self.halt.asked()

    def _stopped(self) -> BaseException:
        owner = self.halt.owner
        leave = HALTED if self.halt.asked() else TERMINATED
        return RunStopped(leave.reason) if owner is None else owner.leave(leave)

    def _is_refused(self, index: int, error: BudgetExhausted) -> bool:
        place = self.requests[index].place
        return place is not None and error.run_id is not None and place.run_id.startswith(f"{error.run_id}.")

    def _try_again(self) -> None:
        for index in self.refused:
            request = self.requests[index]
            if request.place is not None:
                self.requests[index] = dataclasses.replace(
                    request, place=dataclasses.replace(request.place, begun=True)
                )
        self.todo.extend(self.refused)
        self.refused.clear()

    def _give_up(self, index: int) -> None:
        error = self.refused.pop(index)
        for other, theirs in self.refused.items():
            self.results[other] = theirs
        self.refused.clear()
        self.results[index] = error
        if not self.return_exceptions:
            self.failure = self.failure or error


def map_in_threads(batch: Batch[S]) -> Sequence[S | BaseException]:
    """Make the runs in threads; when one fails the others stop after their steps."""
    jobs: dict[Future[S], int] = {}
    with ThreadPoolExecutor(batch.max_workers, thread_name_prefix="loomc-map") as pool:
        try:
            while True:
                for index in batch.starting():
                    context = copy_context()
                    context.run(halting.set, batch.halt)
                    jobs[pool.submit(_work, context, batch.requests[index])] = index
                if not jobs:
                    return batch.list()
                for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                    error = job.exception()
                    batch.ended(jobs.pop(job), job.result() if error is None else error)
                if batch.failure is not None:
                    batch.halt.failed = True
        except BaseException:  # Ctrl-C: the threads are waited for
            batch.halt.failed = True
            raise


def _work(context: Context, request: Request[S]) -> S:
    return context.run(_final, request)


def _final(request: Request[S]) -> S:
    result, error = finish(run_to_end(request))
    if error is not None:
        raise error
    return result.state


async def map_in_tasks(batch: Batch[S]) -> Sequence[S | BaseException]:
    """Make the runs in tasks; when one fails the others are cancelled."""
    import asyncio

    jobs: dict[asyncio.Task[S], int] = {}
    try:
        while True:
            for index in batch.starting():
                jobs[asyncio.create_task(_final_async(batch.requests[index]))] = index
            if not jobs:
                return batch.list()
            for job in (await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED))[0]:
                batch.ended(jobs.pop(job), _outcome(job))
            if batch.failure is not None:
                return batch.list()
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


def _outcome(job: asyncio.Task[Any]) -> Any:
    import asyncio

    if job.cancelled():
        return asyncio.CancelledError()
    return job.exception() or job.result()


async def _final_async(request: Request[S]) -> S:
    result, error = await run_to_end(request)
    if error is not None:
        raise error
    return result.state
