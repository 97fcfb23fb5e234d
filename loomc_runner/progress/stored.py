"""A run at work as its database tells it, for whoever looks on from another process."""

from __future__ import annotations

from datetime import datetime, timedelta

from loomc_runner.budget import SAFETY_CAP, Budget
from loomc_runner.clock import SystemClock
from loomc_runner.progress.board import used_of
from loomc_runner.progress.view import MOST_CHILDREN, RECENT, CallAtWork, RunAtWork
from loomc_runner.records import Attempt, CallStatus, Run, RunStatus
from loomc_runner.store import Store

MOST_READ = 1000
"""Child runs of a step that are read to be counted."""


class Observer:
    """Looks at runs again and again, and so knows since when they have been in their step."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, SystemClock()
        self._since: dict[str, tuple[object, datetime]] = {}

    def view(self, run: Run, note: str | None = None) -> RunAtWork:
        """The run as it stands now; `note` says why nobody works on it."""
        store, now = self.store, self.clock.now()
        steps = store.steps(run.id, max(run.steps - RECENT, 0), run.steps)
        tries = store.attempts(run.id, run.steps, run.steps + 1)
        children = store.list_runs(parent=run.id, parent_step=run.steps, limit=MOST_READ)
        at_work = [child for child in reversed(children) if child.status is RunStatus.RUNNING]
        spent, tokens = store.subtree(run.id)
        return RunAtWork(
            run_id=run.id,
            loop=run.loop,
            step_n=run.steps,
            score=steps[-1].score if steps else None,
            scores=tuple(step.score for step in steps),
            best_step=run.best_step,
            best_score=self._best_score(run),
            limits=used_of(_budget(run), spent, run.steps, tokens, self._worked(run, now)),
            calls=self._calls(run, tries[-1] if tries else None, now),
            failure=_failure(run, tries[-1]) if tries else None,
            note=note,
            children=tuple(self.view(child) for child in at_work[:MOST_CHILDREN]),
            others=max(len(at_work) - MOST_CHILDREN, 0),
            ended=len(children) - len(at_work),
        )

    def _best_score(self, run: Run) -> float | None:
        best = [] if run.best_step is None else self.store.steps(run.id, run.best_step, run.best_step + 1)
        return best[0].score if best else None

    def _worked(self, run: Run, now: datetime) -> float:
        """Working time; what the step under way has taken is stored when it ends, so it is counted from here on."""
        if run.status is not RunStatus.RUNNING or run.in_flight is None:
            return run.worked
        known = (run.worked, run.steps, run.epoch)
        if self._since.get(run.id, (None, now))[0] != known:
            self._since[run.id] = (known, run.updated_at)
        return run.worked + max((now - self._since[run.id][1]).total_seconds(), 0.0)

    def _calls(self, run: Run, last: Attempt | None, now: datetime) -> tuple[CallAtWork, ...]:
        """The calls under way; those that an earlier try left behind without a result are not."""
        if run.status is not RunStatus.RUNNING:
            return ()
        over = None if last is None else last.started_at + timedelta(seconds=last.duration)
        calls = self.store.calls(run.id, run.steps, run.steps + 1)
        return tuple(
            CallAtWork(call.name, max((now - call.started_at).total_seconds(), 0.0))
            for call in calls
            if call.status is CallStatus.STARTED and (over is None or call.started_at > over)
        )


def _failure(run: Run, last: Attempt) -> str | None:
    if last.was_left:
        return None
    return f"{last.error}; tried again" if run.status is RunStatus.RUNNING else last.error


def _budget(run: Run) -> Budget:
    return SAFETY_CAP if run.budget is None and run.loop is not None else Budget(**(run.budget or {}))
