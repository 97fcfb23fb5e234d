"""Which step grew from which: the tree of a run's steps."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from loomc_runner.records import INITIAL, Run, StepRecord
from loomc_runner.report.pages import WINDOW, page_steps
from loomc_runner.store import Store

NONE = -2
"""No step: the initial state has the number -1."""


@dataclass(frozen=True, slots=True)
class Node:
    """A step in the tree of its run; -1 is the initial state.

    Attributes:
        step_n: The step.
        parent_n: The step it grew from; None for the initial state.
        depth: 0 on the way from the initial state to the newest step; one more for each way that was left.
        begins: Whether a way that was left begins here.
        score, cost_usd: As recorded; None when there is none.
        best: Whether it is the best step of the run.
        failed: Whether it has an error.
        decision: What was decided after it, as in the record.
        missing: Whether the record has no such step; what grew from it is shown all the same.
        state_dropped: Whether its state was dropped, so that no run can be forked from it.
    """

    step_n: int
    parent_n: int | None
    depth: int
    begins: bool
    score: float | None = None
    cost_usd: float | None = None
    best: bool = False
    failed: bool = False
    decision: str | None = None
    missing: bool = False
    state_dropped: bool = False


def lineage(store: Store, run: Run) -> Iterator[Node]:
    """The steps of a run as a tree, each after the one it grew from; the ways that were left come first.

    It is given line by line, and needs a few bytes a step, so that very long runs have one, too.
    """
    first, following, parents = _children(store, run)
    main = bytearray(run.steps + 1)
    step_n = run.steps - 1
    while step_n > INITIAL:
        main[step_n] = 1
        step_n = parents[step_n]
    steps = _Steps(store, run)
    waiting = [(INITIAL, 0, False)]
    while waiting:
        step_n, depth, begins = waiting.pop()
        yield _node(steps, run, step_n, depth, begins=begins)
        children = []
        child = first[step_n + 1]
        while child != NONE:
            children.append(child)
            child = following[child]
        goes_on = next((child for child in children if main[child]), children[-1] if children else NONE)
        left = [child for child in children if child != goes_on]
        if goes_on != NONE:
            waiting.append((goes_on, depth, False))
        waiting.extend((child, depth + 1, True) for child in reversed(left))


def _children(store: Store, run: Run) -> tuple[array[int], array[int], array[int]]:
    """The first step that grew from each step (shifted by one), the next one of the same parent, and the parents."""
    first, last = array("i", [NONE]) * (run.steps + 1), array("i", [NONE]) * (run.steps + 1)
    following, parents = array("i", [NONE]) * run.steps, array("i", [INITIAL]) * run.steps
    found = page_steps(store, run)
    step = next(found, None)
    for step_n in range(run.steps):
        parent = step_n - 1  # of a step that is missing, as far as anybody knows
        if step is not None and step.step_n == step_n:
            parent = step.parent_n if INITIAL <= step.parent_n < step_n else INITIAL
            step = next(found, None)
        parents[step_n] = parent
        if first[parent + 1] == NONE:
            first[parent + 1] = step_n
        else:
            following[last[parent + 1]] = step_n
        last[parent + 1] = step_n
    return first, following, parents


class _Steps:
    """The steps of a run, read in windows around where one looks."""

    def __init__(self, store: Store, run: Run) -> None:
        self._store, self._run = store, run
        self._begin, self._window = NONE, dict[int, StepRecord[object]]()

    def get(self, step_n: int) -> StepRecord[object] | None:
        """The step, or None where it is missing."""
        begin = step_n - step_n % WINDOW
        if begin != self._begin:
            found = self._store.steps(self._run.id, begin, begin + WINDOW)
            self._begin, self._window = begin, {step.step_n: step for step in found}
        return self._window.get(step_n)


def _node(steps: _Steps, run: Run, step_n: int, depth: int, *, begins: bool) -> Node:
    step = None if step_n == INITIAL else steps.get(step_n)
    if step is None:
        return Node(step_n, None, depth, begins, missing=step_n != INITIAL)
    return Node(
        step_n,
        step.parent_n,
        depth,
        begins,
        step.score,
        step.cost_usd if step.priced else None,
        step_n == run.best_step,
        step.error is not None,
        step.decision,
        state_dropped=step.state_dropped,
    )
