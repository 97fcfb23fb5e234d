"""Which states of a run are kept: what a loop declares, and what follows from it step by step."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from loomc_runner.errors import SpecError
from loomc_runner.records import INITIAL, StepRecord, Transition
from loomc_runner.scores import Direction, History, check_count, gain

NEWEST = 20
"""How many of the newest states are kept where nobody says it."""

LEAST_BATCH = 16
"""Steps after which states are dropped, at least: those that are built on them are rebuilt each time."""

EVEN = 8
"""A batch ends right before a state that few others are built across: SQLite builds each eighth one on an eighth."""

MOST_KNOWN = 64
"""Earlier bests that a resumed run looks up, at most."""


@dataclass(frozen=True)
class Keep:
    """Which states of a run are kept; the others are dropped as the run goes on. The record of every step stays.

    A state is kept when one of the arguments keeps it. Whatever they say, these are kept: the initial state, the newest
    one, that of the best step, and that of the step the run goes on from; so a run is resumed, goes back and ends as
    without it. Reading a state that was dropped raises `StateDropped`, and no run can be forked from there.

    Args:
        every: Keep the state of each so many-th step: of the steps 0, 10, 20 and so on for 10.
        best: Keep the states of so many best-scored steps.
        last: Keep so many of the newest states, 20 unless you say it. Raise it when a detector, a strategy or a
            handler of your own looks at the states of older steps; `semantic_delta` sees to that itself.
        results: Keep results of durable calls up to so many characters, once their step is committed; of longer ones
            only hash and size stay. With nothing else all states are kept.

    States are dropped after every 16 steps (after half of `last`, if that is more), in the commit of a step, so at most
    times there are some more than that. What was dropped does not come back when the declaration changes, and what an
    earlier declaration has kept stays: `loomc prune --states` drops it.
    """

    every: int | None = None
    best: int | None = None
    last: int | None = None
    results: int | None = None

    def __post_init__(self) -> None:
        given = {item.name: getattr(self, item.name) for item in fields(self) if getattr(self, item.name) is not None}
        if not given:
            raise SpecError("Keep(): say what is kept, such as Keep(every=10, best=3)")
        for name, value in given.items():
            check_count(f"Keep({name}", value)

    @property
    def drops_states(self) -> bool:
        """Whether any state is dropped at all; without that it is about results of calls only."""
        return any(value is not None for value in (self.every, self.best, self.last)) and self.every != 1

    @property
    def newest(self) -> int:
        """How many of the newest states are kept."""
        return NEWEST if self.last is None else self.last

    @property
    def batch(self) -> int:
        """After how many steps states are dropped."""
        return max(LEAST_BATCH, self.newest // 2 // EVEN * EVEN)

    def has_place(self, step_n: int) -> bool:
        """Whether the state of a step is kept for its number alone."""
        return step_n == INITIAL or (self.every is not None and step_n % self.every == 0)


def way(read: Callable[[int], StepRecord[Any]], step_n: int, length: int) -> Iterator[int]:
    """A step and those it came from, so many of them that did not fail."""
    while step_n != INITIAL and length > 0:
        yield step_n
        step = read(step_n)
        length -= step.error is None
        step_n = step.parent_n


class Best:
    """The best-scored steps of those it was told of, so many at most."""

    def __init__(self, most: int, direction: Direction) -> None:
        self._most, self._direction = most, direction
        self._heap: list[tuple[float, int]] = []

    def add(self, step: StepRecord[Any]) -> None:
        """One more step; the worst goes when there are too many, of equal ones the newest."""
        if step.score is not None and self._most:
            heapq.heappush(self._heap, (gain(step.score, 0.0, self._direction), -step.step_n))
            if len(self._heap) > self._most:
                heapq.heappop(self._heap)

    @property
    def steps(self) -> set[int]:
        """Their numbers."""
        return {-number for _, number in self._heap}


class Keeper:
    """Says at each step of a run which states are not kept any more; knows a handful of steps however long the run is.

    The steps that have left the newest ones since the last batch are looked at, with those that were spared before. So
    a batch is known from the number of its step, and a resumed run need not find out what was dropped. Which steps were
    spared is found by following the bests back; one that is missed, since it is none of the bests there ever were, is
    kept longer than it need be, and none is dropped too early.

    Args:
        keep: What the loop declares.
        history: The steps of the run, also those it has when it is resumed.
        direction: Which scores are better.
        looks_back: How many steps back from the one a run goes on from detectors look at states.
    """

    def __init__(self, keep: Keep, history: History, direction: Direction, looks_back: int = 0) -> None:
        self._keep, self._history, self._reach = keep, history, looks_back + 2
        self._best = Best(keep.best or 0, direction)
        self._spared = set[int]()
        if len(history) and keep.drops_states:
            self._find_spared()

    def _find_spared(self) -> None:
        history, begin = self._history, len(self._history) - self._keep.newest
        ahead = history[max(begin - self._keep.batch, 0) :]  # those that no batch has looked at yet
        known = {step.step_n: step for step in [*_bests(history), *ahead]}
        for step in known.values():
            self._best.add(step)
        needed = known.keys() | self._needed(history[-1], ())
        self._spared = {n for n in needed if n < begin and not self._keep.has_place(n)}

    def thinned(self, change: Transition, next_n: int | None) -> Transition:
        """The commit of a step, with what it drops; `next_n` is the step that the run goes on from."""
        if change.step is None:
            return change
        dropped = self._dropped(change.step, () if next_n is None else (next_n,)) if self._keep.drops_states else ()
        change.dropped, change.longest_result = dropped, self._keep.results
        return change

    def _dropped(self, step: StepRecord[Any], goes_on: Iterable[int]) -> tuple[int, ...]:
        self._best.add(step)
        batch, end = self._keep.batch, step.step_n - self._keep.newest + 1
        if (end - INITIAL) % batch or end <= 0:
            return ()
        old = (n for n in range(max(end - batch, 0), end) if not self._keep.has_place(n))
        looked_at = self._spared.union(old)
        self._spared = looked_at & (self._best.steps | self._needed(step, goes_on))
        return tuple(sorted(looked_at - self._spared))

    def _needed(self, step: StepRecord[Any], goes_on: Iterable[int]) -> set[int]:
        """The steps whose states the run itself may ask for, after this one."""
        ends = {step.step_n, *goes_on, *(n for n in (step.restored_n, step.best_n) if n is not None)}
        return {n for end in ends for n in way(self._history.__getitem__, end, self._reach)}


def _bests(history: History) -> Iterator[StepRecord[Any]]:
    """The best step, the one that was the best before that, and so on; not too many."""
    best_n = history[-1].best_n
    for _ in range(MOST_KNOWN):
        if best_n is None:
            return
        yield history[best_n]
        best_n = history[best_n - 1].best_n if best_n else None
