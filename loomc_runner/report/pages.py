"""Records read in windows, so that the first ones are there at once and a long run costs no memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from loomc_runner.errors import RunNotFound
from loomc_runner.records import Attempt, Call, Charge, Run, RunStatus, StepRecord
from loomc_runner.store import Store

T = TypeVar("T")

WINDOW = 200
"""Steps, or runs, that are read at once."""


def page_runs(
    store: Store,
    *,
    status: RunStatus | None = None,
    loop: str | None = None,
    limit: int | None = None,
    offset: int = 0,
    roots: bool = False,
) -> Iterator[Run]:
    """Runs, newest first, read in windows so that the first ones are there at once; `roots` leaves out child runs."""
    if roots:
        outermost = (run for run in page_runs(store, status=status, loop=loop) if run.parent_run_id is None)
        yield from islice(outermost, offset, None if limit is None else offset + limit)
        return
    left = math.inf if limit is None else limit
    while left > 0:
        size = int(min(WINDOW, left))
        runs = store.list_runs(status=status, loop=loop, limit=size, offset=offset)
        yield from runs
        if len(runs) < size:
            return
        offset, left = offset + size, left - size


def page_steps(store: Store, run: Run, start: int = 0) -> Iterator[StepRecord[Any]]:
    """All committed steps of a run from `start` on, in order."""
    for begin in range(start, run.steps, WINDOW):
        yield from store.steps(run.id, begin, min(begin + WINDOW, run.steps))


def page_attempts(store: Store, run: Run, start: int = 0) -> Iterator[Attempt]:
    """All failed and cut-off tries of a run, those of the step under way too."""
    return _page(store.attempts, run, start)


def page_calls(store: Store, run: Run, start: int = 0) -> Iterator[Call]:
    """All durable calls of a run, in order."""
    return _page(store.calls, run, start)


def page_charges(store: Store, run: Run, start: int = 0) -> Iterator[Charge]:
    """All charges of a run, step by step."""
    return _page(store.charges, run, start)


def parent_of(store: Store, run: Run) -> Run | None:
    """The run that a child belongs to; None where that is gone."""
    try:
        return store.get_run(run.parent_run_id or "")
    except RunNotFound:
        return None


def _page(read: Callable[[str, int, int], Iterable[T]], run: Run, start: int) -> Iterator[T]:
    for begin in range(start, run.steps + 1, WINDOW):  # one more than are committed: the step under way
        yield from read(run.id, begin, begin + WINDOW)
