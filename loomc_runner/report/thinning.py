"""Which states of a run may be dropped to save room, when nobody works on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loomc_runner.keep import Best, Keep, way
from loomc_runner.records import Run, StepRecord
from loomc_runner.report.direction import direction_of
from loomc_runner.report.pages import WINDOW, page_calls, page_steps
from loomc_runner.store import Store


@dataclass(frozen=True, slots=True)
class Thinning:
    """What may be dropped of a run: the states of some steps, and so many results of calls; `kept` states stay."""

    run: Run
    dropped: tuple[int, ...]
    results: int
    kept: int

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is dropped."""
        return not self.dropped and not self.results


def thinning(store: Store, run: Run, keep: Keep) -> Thinning:
    """What a policy does not keep of a run, as far as it is there.

    Besides what a loop with `keep=` keeps, so many of the newest states are kept on the way to the step that the run
    goes on from, and to its best one, since a detector of the loop may look at them.
    """
    results = 0
    if keep.results is not None:
        sizes = (len(call.result) for call in page_calls(store, run, 0, run.steps) if call.result is not None)
        results = sum(size > keep.results for size in sizes)
    if not run.steps or not keep.drops_states:
        return Thinning(run, (), results, 1 + sum(not step.state_dropped for step in page_steps(store, run)))
    best, there = Best(keep.best or 0, direction_of(store, run) or "maximize"), list[int]()
    for step in page_steps(store, run):
        best.add(step)
        if not step.state_dropped:
            there.append(step.step_n)
    needed = best.steps | set(_on_the_way(store, run, keep.newest + 1))
    newest = range(run.steps - keep.newest, run.steps)
    dropped = tuple(n for n in there if n not in newest and n not in needed and not keep.has_place(n))
    return Thinning(run, dropped, results, 1 + len(there) - len(dropped))


def _on_the_way(store: Store, run: Run, length: int) -> Iterator[int]:
    rows = _Rows(store, run)
    newest = rows(run.steps - 1)
    for end in (newest.step_n, newest.restored_n, newest.best_n, run.best_step):
        if end is not None:
            yield from way(rows, end, length)


class _Rows:
    """The steps of a run, read in windows around where one looks."""

    def __init__(self, store: Store, run: Run) -> None:
        self._store, self._run, self._window = store, run, dict[int, StepRecord[Any]]()

    def __call__(self, step_n: int) -> StepRecord[Any]:
        if step_n not in self._window:
            begin = max(step_n - WINDOW + 1, 0)
            self._window = {step.step_n: step for step in self._store.steps(self._run.id, begin, step_n + 1)}
        return self._window[step_n]
