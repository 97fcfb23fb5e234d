"""The points of a run's curves, as plain data; of a very long run so many that a picture can show them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from loomc_runner.records import INITIAL, Run
from loomc_runner.report import Line, page_steps, reason, story
from loomc_runner.store import Store

MOST_POINTS = 1000
"""Points of one curve, restores aside; a longer run keeps the first, last, lowest and highest of every stretch."""

MOST_RESTORES = 100
"""Restores that are kept of one run; of more than that every second one, or every fourth, and so on."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run stood after a step: its score, if it has one, and what was spent by then.

    `cost_usd` counts failed tries and child runs. The last point may be of tries that did not become a step.
    """

    step_n: int
    score: float | None
    cost_usd: float
    failed: bool


@dataclass(frozen=True, slots=True)
class Restore:
    """After step `after` the run went back to the state of step `to`; -1 is the initial state."""

    after: int
    to: int


@dataclass(frozen=True, slots=True)
class Curve:
    """What a picture shows of a run; `usd` and `iterations` are the limits of its budget, `best` its best step."""

    run_id: str
    loop: str | None
    status: str
    reason: str
    steps: int
    best: int | None
    usd: float | None
    iterations: int | None
    points: tuple[Point, ...]
    restores: tuple[Restore, ...]

    @property
    def cost_usd(self) -> float:
        """What was spent in the end."""
        return self.points[-1].cost_usd if self.points else 0.0

    @property
    def scores(self) -> dict[int, float]:
        """The score of each step that has one."""
        return {point.step_n: point.score for point in self.points if point.score is not None}


def curve_of(store: Store, run: Run) -> Curve:
    """What a picture shows of a run; read in windows, twice."""
    restores = _restores(store, run)
    wanted = {step_n for restore in restores for step_n in (restore.after, restore.to)} | {run.best_step}
    budget = run.budget or {}
    return Curve(
        run_id=run.id,
        loop=run.loop,
        status=run.status.value,
        reason=reason(run),
        steps=run.steps,
        best=run.best_step,
        usd=budget.get("usd"),
        iterations=budget.get("iterations"),
        points=tuple(_points(story(store, run), run, wanted)),
        restores=tuple(restores),
    )


def _restores(store: Store, run: Run) -> list[Restore]:
    found: list[Restore] = []
    previous, seen, every = INITIAL, 0, 1
    for step in page_steps(store, run):
        if step.parent_n != previous:
            if seen % every == 0:
                found.append(Restore(previous, step.parent_n))
            seen += 1
        if len(found) > MOST_RESTORES:
            found, every = found[::2], every * 2
        previous = step.step_n
    return found


def _points(lines: Iterator[Line], run: Run, wanted: set[int | None]) -> Iterator[Point]:
    """The points of a story, at most four of every stretch besides those that are wanted."""
    stretch = 1 if run.steps <= MOST_POINTS else -(-run.steps * 4 // MOST_POINTS)
    for _, some in groupby(_all_points(lines, run), lambda point: point.step_n // stretch):
        yield from _chosen(some, wanted)


def _all_points(lines: Iterator[Line], run: Run) -> Iterator[Point]:
    left_over: Line | None = None
    for line in lines:
        if line.committed:
            yield Point(line.step_n, line.score, line.total_usd, failed=line.error is not None)
        left_over = None if line.committed else line
    if left_over is not None:  # what was spent after the newest step
        yield Point(run.steps, None, left_over.total_usd, failed=True)


def _chosen(points: Iterator[Point], wanted: set[int | None]) -> Iterator[Point]:
    """Of a stretch the first, the last, the lowest, the highest and the wanted ones, in order."""
    first = last = lowest = highest = next(points)
    kept = {first.step_n: first}
    for point in points:
        last = point
        if point.step_n in wanted:
            kept[point.step_n] = point
        if point.score is not None:
            lowest = point if lowest.score is None or point.score < lowest.score else lowest
            highest = point if highest.score is None or point.score > highest.score else highest
    kept |= {point.step_n: point for point in (lowest, highest, last)}
    yield from (kept[step_n] for step_n in sorted(kept))
