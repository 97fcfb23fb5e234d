"""Whether higher or lower scores were better in a run."""

from __future__ import annotations

from typing import cast

from loomc_runner.records import Run
from loomc_runner.report.pages import page_steps
from loomc_runner.scores import Direction
from loomc_runner.store import Store


def direction_of(store: Store, run: Run) -> Direction | None:
    """The direction in which the run looked for better scores; None when nothing on record tells.

    Runs of older versions do not say it. Their best step is on record: any other score lies on its worse side.
    """
    if run.direction is not None:
        return cast("Direction", run.direction)
    if run.best_step is None:
        return None
    (best,) = store.steps(run.id, run.best_step, run.best_step + 1) or (None,)
    for step in page_steps(store, run):
        if best is not None and best.score is not None and step.score not in {None, best.score}:
            return "minimize" if (step.score or 0.0) > best.score else "maximize"
    return None
