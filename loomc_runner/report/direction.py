"""Whether higher or lower scores were better in a run, as its record tells."""

from __future__ import annotations

from loomc_runner.records import Run
from loomc_runner.report.pages import page_steps
from loomc_runner.scores import Direction
from loomc_runner.store import Store


def direction_of(store: Store, run: Run) -> Direction:
    """The direction in which the run looked for better scores; `maximize` when nothing in it tells.

    The best step is on record, the direction is not: any other score lies on the worse side of the best one.
    """
    if run.best_step is None:
        return "maximize"
    (best,) = store.steps(run.id, run.best_step, run.best_step + 1) or (None,)
    for step in page_steps(store, run):
        if best is not None and best.score is not None and step.score not in {None, best.score}:
            return "minimize" if (step.score or 0.0) > best.score else "maximize"
    return "maximize"
