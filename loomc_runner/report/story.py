"""A run line by line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loomc_runner.records import INITIAL, NANO, Attempt, Run, RunStatus, StepRecord
from loomc_runner.report.pages import ancestors, page_attempts, page_steps
from loomc_runner.store import Store

LEFT = {"waiting": "?", "paused": "⏸", "cancelled": "⏹", "wrapping up": "◔"}
"""The mark of a try that was left in order, by its category."""

ENDS = {"done": "✔ done", "converged": "✔ converged"}
"""The mark of a completed run's last step, by the first word of its stop reason."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a run's story: a committed step, a try that did not become one, or the step that is under way.

    `cost_usd` is None when nobody recorded a cost, `duration` when nobody took the time. `total_usd` is what the run
    had spent after it, child runs included. `marks` are words such as `↩ from step 2`. Only a step is
    `committed`. `scores` are the answers of a scorer that was asked more than once.
    """

    step_n: int
    cost_usd: float | None
    total_usd: float
    score: float | None
    duration: float | None
    marks: tuple[str, ...]
    error: str | None
    committed: bool = False
    scores: tuple[float, ...] = ()


def story(store: Store, run: Run, start: int = 0) -> Iterator[Line]:
    """The run line by line: its steps in order, each after the tries of it that failed; then what is under way.

    With a `start` it begins at that step, and so do the totals.
    """
    attempts, total, previous = page_attempts(store, run, start), 0, start - 1 if start else INITIAL
    tried, capped = next(attempts, None), _is_dollar_capped(store, run)
    for step in page_steps(store, run, start):
        while tried is not None and tried.step_n <= step.step_n:
            total += tried.nano_usd
            yield _failed_try(tried, total)
            tried = next(attempts, None)
        total += step.nano_usd or 0
        yield _committed(run, step, total, previous, unpriced=capped and not step.priced)
        previous = step.step_n
    while tried is not None:
        total += tried.nano_usd
        yield _failed_try(tried, total)
        tried = next(attempts, None)
    spent = total if start else store.subtree(run.id)[0]
    if run.in_flight is not None:
        yield _under_way(run, total, spent)
    elif spent > total:
        yield _late(run, total, spent)


def _committed(run: Run, step: StepRecord[Any], total: int, previous: int, *, unpriced: bool) -> Line:
    marks = ["⚠ no cost recorded"] if unpriced else []
    if step.parent_n != previous:
        marks.append(f"↩ from step {step.parent_n}" if step.parent_n != INITIAL else "↩ from the initial state")
    if step.step_n == run.best_step:
        marks.append("★ best")
    if step.decision == "escalate":
        marks.append("⇧ escalated")
    if step.step_n == run.steps - 1 and run.status is RunStatus.COMPLETED:
        marks.append(ENDS.get((run.stop_reason or "").partition(":")[0], "✔ completed"))
    cost = step.cost_usd if step.priced else None
    took = step.duration or None
    usd, told = total / NANO, tuple(marks)
    return Line(step.step_n, cost, usd, step.score, took, told, step.error, committed=True, scores=step.scores)


def _failed_try(attempt: Attempt, total: int) -> Line:
    cost, left = attempt.nano_usd / NANO, attempt.was_left
    marks, error = ((f"{LEFT[attempt.category]} {attempt.error}",), None) if left else ((), attempt.error)
    return Line(attempt.step_n, cost, total / NANO, None, attempt.duration or None, marks, error)


def _under_way(run: Run, total: int, spent: int) -> Line:
    """The step a run was in when its record was read: what is spent and belongs to no other line is its cost."""
    cost = max(spent - total, 0)
    marks = ("… under way",) if run.status is RunStatus.RUNNING else ("✂ cut off",)
    return Line(run.in_flight or 0, cost / NANO, (total + cost) / NANO, None, None, marks, None)


def _late(run: Run, total: int, spent: int) -> Line:
    """What was spent after its step had ended, by a thread that nobody waited for: it is of no try."""
    words = ("⧗ spent after its step had ended",)
    return Line(run.steps - 1, (spent - total) / NANO, spent / NANO, None, None, words, None)


def _is_dollar_capped(store: Store, run: Run) -> bool:
    return any((each.budget or {}).get("usd") is not None for each in (run, *ancestors(store, run)))
