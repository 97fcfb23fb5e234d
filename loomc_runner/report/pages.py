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


def page_steps(store: Store, run: Run, start: int = 0, stop: int | None = None) -> Iterator[StepRecord[Any]]:
    """The committed steps of a run from `start` up to, not including, `stop`, in order."""
    end = run.steps if stop is None else min(stop, run.steps)
    for begin in range(start, end, WINDOW):
        yield from store.steps(run.id, begin, min(begin + WINDOW, end))


def page_attempts(store: Store, run: Run, start: int = 0, stop: int | None = None) -> Iterator[Attempt]:
    """All failed and cut-off tries of a run, those of the step under way too."""
    return _page(store.attempts, run, start, stop)


def page_calls(store: Store, run: Run, start: int = 0, stop: int | None = None) -> Iterator[Call]:
    """All durable calls of a run, in order; a window of calls at once, since one step may make very many."""
    seq = 0
    while found := store.calls(run.id, start, stop, seq=seq, limit=WINDOW):
        yield from found
        start, seq = found[-1].step_n, found[-1].seq + 1


def page_charges(store: Store, run: Run, start: int = 0, stop: int | None = None) -> Iterator[Charge]:
    """All charges of a run, step by step."""
    return _page(store.charges, run, start, stop)


def ancestors(store: Store, run: Run) -> Iterator[Run]:
    """The run a child belongs to, and so on up to the outermost that is there."""
    seen = {run.id}
    while run.parent_run_id is not None and run.parent_run_id not in seen:
        try:
            run = store.get_run(run.parent_run_id)
        except RunNotFound:
            return
        seen.add(run.id)
        yield run


def _page(read: Callable[[str, int, int], Iterable[T]], run: Run, start: int, stop: int | None) -> Iterator[T]:
    end = run.steps + 1 if stop is None else min(stop, run.steps + 1)  # one more than are committed: that under way
    for begin in range(start, end, WINDOW):
        yield from read(run.id, begin, min(begin + WINDOW, end))
