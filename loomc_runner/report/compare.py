"""Two runs side by side: score against step, score against money, and where they part."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from loomc_runner.records import INITIAL, NANO, Run, StepRecord
from loomc_runner.report.direction import direction_of
from loomc_runner.report.pages import page_steps
from loomc_runner.report.runs import initial_state, kept_state
from loomc_runner.report.story import story
from loomc_runner.scores import Direction, gain
from loomc_runner.store import Store

LEVELS = 10
"""At how many amounts of money two runs are compared."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: what it came to. `best_score` and `best_step` are None when nothing was scored."""

    run_id: str
    status: str
    steps: int
    cost_usd: float
    best_score: float | None
    best_step: int | None


@dataclass(frozen=True, slots=True)
class Pair:
    """The scores of both runs at the same step; None where a run has no such step, or no score."""

    step_n: int
    first: float | None
    second: float | None


@dataclass(frozen=True, slots=True)
class Level:
    """The best score that each run had for so much money; None where it had none yet."""

    usd: float
    first: float | None
    second: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs have in common, and which is better.

    Attributes:
        first, second: The two runs.
        direction: Which scores are better, `maximize` or `minimize`; None when the record does not tell, or the runs
            do not agree.
        parts_at: The first step whose states differ, -1 for the initial states; None when the shorter one is the
            beginning of the longer one, as far as their states are kept.
        same_until: The last step before that whose states are known to be the same; the states of those in between
            were dropped. None when no state is known to be the same.
        gain: By how much the best score of the second run is better, negative when it is worse; None when one has none,
            or the direction is not known.
        levels: Their best scores against money.
    """

    first: Side
    second: Side
    direction: Direction | None
    parts_at: int | None
    same_until: int | None
    gain: float | None
    levels: tuple[Level, ...]


def compare(store: Store, first: Run, second: Run) -> Comparison:
    """Compare two runs: what they came to, and where they part."""
    sides = _side(store, first), _side(store, second)
    known = {direction for run in (first, second) if (direction := direction_of(store, run)) is not None}
    direction = known.pop() if len(known) == 1 else None
    before, after = sides[0].best_score, sides[1].best_score
    gained = None
    if before is not None and after is not None:
        gained = 0.0 if before == after else None if direction is None else gain(after, before, direction)
    return Comparison(*sides, direction, *_parting(store, first, second), gained, _levels(store, first, second))


def page_pairs(store: Store, first: Run, second: Run) -> Iterator[Pair]:
    """The scores of both runs step by step, as long as one of them has a step."""
    pairs = zip_longest(page_steps(store, first), page_steps(store, second))
    for step_n, (one, other) in enumerate(pairs):
        yield Pair(step_n, None if one is None else one.score, None if other is None else other.score)


def _side(store: Store, run: Run) -> Side:
    best = store.steps(run.id, run.best_step, run.best_step + 1) if run.best_step is not None else ()
    score = best[0].score if best else None
    return Side(run.id, run.status.value, run.steps, store.subtree(run.id)[0] / NANO, score, run.best_step)


def _parting(store: Store, first: Run, second: Run) -> tuple[int | None, int | None]:
    """The first step whose states differ, and the last before it whose states are the same."""
    if initial_state(store, first) != initial_state(store, second):
        return INITIAL, None
    same = INITIAL
    for one, other in zip(page_steps(store, first), page_steps(store, second), strict=False):
        before, after = kept_state(store, first, one), kept_state(store, second, other)
        if before is None or after is None:
            continue
        if before != after:
            return one.step_n, same
        same = one.step_n
    return None, same


def _levels(store: Store, first: Run, second: Run) -> tuple[Level, ...]:
    """Both runs at the same amounts, up to what the dearer one has spent."""
    curves = _curve(store, first), _curve(store, second)
    most = max((curve[-1][0] for curve in curves if curve), default=0.0)
    if not most:
        return ()
    amounts = [most * level / LEVELS for level in range(1, LEVELS + 1)]
    return tuple(Level(usd, *(_best_for(curve, usd) for curve in curves)) for usd in amounts)


def _curve(store: Store, run: Run) -> list[tuple[float, float | None]]:
    """What the run had spent each time its best score had changed, and at its end."""
    curve: list[tuple[float, float | None]] = []
    best: StepRecord[Any] | None = None
    steps, total = iter(page_steps(store, run)), 0.0
    step = next(steps, None)
    for line in story(store, run):
        total = line.total_usd
        if step is not None and line.step_n == step.step_n and line.committed:
            if step.best_n == step.step_n:
                best = step
                curve.append((total, best.score))
            step = next(steps, None)
    return [*curve, (total, None if best is None else best.score)]


def _best_for(curve: list[tuple[float, float | None]], usd: float) -> float | None:
    index = bisect_right(curve, usd * (1 + 1e-9), key=lambda point: point[0])
    return curve[index - 1][1] if index else None
