"""What `loomc resume` does: find the loop of a run, and go on with it."""

from __future__ import annotations

import dataclasses
from typing import Any

from loomc_runner.budget import Budget
from loomc_runner.cli.database import url_of
from loomc_runner.cli.working import Manner, work
from loomc_runner.errors import RunMismatch
from loomc_runner.handle import AsyncLoop, Loop
from loomc_runner.locate import loop_named, loop_of
from loomc_runner.records import Run


def go_on(db: str | None, run: Run, target: str | None, budget: Budget | None, manner: Manner, *, force: bool) -> None:
    """Go on with a run to its end, and print the result.

    Raises:
        LoomcError: When the run did not complete; it says why, and how to go on.
    """
    if run.parent_run_id is not None:
        raise RunMismatch(
            f"run {run.id} is a child of run {run.parent_run_id}, which pays for it; go on with that one, "
            f"or branch off: loomc fork {run.id} --step N"
        )
    work(
        lambda: find_loop(url_of(db), run, target),
        lambda handle: handle.stream(run_id=run.id, budget=budget, force=force),
        db,
        manner,
    )


def find_loop(url: str, run: Run, target: str | None) -> Loop[Any] | AsyncLoop[Any]:
    """The loop of the run, over the database at hand; the run keeps the name it has."""
    handle = loop_of(run) if target is None else loop_named(target, run)
    name = handle.spec.name if run.loop is None or handle.spec.adopts else run.loop
    return type(handle)(dataclasses.replace(handle.spec, checkpoint=url, name=name))
