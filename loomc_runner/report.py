"""What a run came to: records in, plain data out. Reads only, and imports no user code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loomc_runner.budget import SAFETY_CAP, Budget
from loomc_runner.clock import format_duration
from loomc_runner.errors import RunNotFound
from loomc_runner.records import INITIAL, NANO, Attempt, Charge, Run, RunStatus, StepRecord
from loomc_runner.store import Store

WINDOW = 500

NEXT = {
    RunStatus.RUNNING: "",
    RunStatus.COMPLETED: "",
    RunStatus.STALLED: " --force",
    RunStatus.CANCELLED: " --force",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a budget: what was used, and how much there is."""

    name: str
    used: float
    limit: float

    def __str__(self) -> str:
        """The limit in words, such as `$0.32 of $2.00` or `4m10s of 10m00s`."""
        if self.name == "usd":
            return f"${self.used:.2f} of ${self.limit:.2f}"
        if self.name == "wall_clock":
            return f"{format_duration(self.used)} of {format_duration(self.limit)}"
        return f"{self.used:g} of {self.limit:g} {self.name}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a run's story: a committed step, or a try that did not become one.

    `total_usd` is what the run had spent after it, child runs included. `marks` are words such as `from step 2`.
    """

    record: StepRecord[Any] | Attempt
    total_usd: float
    marks: tuple[str, ...]


def find_run(store: Store, prefix: str) -> Run:
    """The run with this id, or the only one whose id begins so.

    Raises:
        RunNotFound: When there is none, or more than one.
    """
    try:
        return store.get_run(prefix)
    except RunNotFound as missing:
        found = store.list_runs(prefix=prefix, limit=6) if prefix else []
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(run.id for run in found[:5]) + (", ..." if len(found) > 5 else "")
            raise RunNotFound(f"{prefix} is the beginning of several runs: {names}") from None
        raise missing from None


def page_runs(
    store: Store, *, status: RunStatus | None, loop: str | None, limit: int | None, offset: int
) -> Iterator[Run]:
    """Runs, newest first, read in windows so that the first ones are there at once."""
    left = limit
    while left is None or left > 0:
        size = WINDOW if left is None else min(WINDOW, left)
        runs = store.list_runs(status=status, loop=loop, limit=size, offset=offset)
        yield from runs
        if len(runs) < size:
            return
        offset, left = offset + size, None if left is None else left - size


def page_steps(store: Store, run: Run) -> Iterator[StepRecord[Any]]:
    """All committed steps of a run, in order, read in windows."""
    for start in range(0, run.steps, WINDOW):
        yield from store.steps(run.id, start, start + WINDOW)


def story(store: Store, run: Run) -> Iterator[Line]:
    """The run line by line: its steps in order, each after the tries of it that failed."""
    attempts, total, previous = list(store.attempts(run.id)), 0, INITIAL
    for step in page_steps(store, run):
        while attempts and attempts[0].step_n <= step.step_n:
            attempt = attempts.pop(0)
            total += attempt.nano_usd
            yield Line(attempt, total / NANO, ())
        total += step.nano_usd or 0
        yield Line(step, total / NANO, _marks(run, step, previous))
        previous = step.step_n
    for attempt in attempts:
        total += attempt.nano_usd
        yield Line(attempt, total / NANO, ())


def _marks(run: Run, step: StepRecord[Any], previous: int) -> tuple[str, ...]:
    marks = []
    if step.parent_n != previous:
        marks.append(f"↩ from step {step.parent_n}" if step.parent_n != INITIAL else "↩ from the initial state")
    if step.step_n == run.best_step:
        marks.append("★ best")
    if step.decision == "escalate":
        marks.append("⇧ escalated")
    if step.step_n == run.steps - 1 and run.status is RunStatus.COMPLETED:
        word = "done" if (run.stop_reason or "").startswith("done") else "converged"
        marks.append(f"✔ {word}")
    return tuple(marks)


def limits(store: Store, run: Run) -> list[Limit]:
    """Every limit of the run's budget, with what is used of it; the safety cap where there is no budget."""
    budget = SAFETY_CAP if run.budget is None and run.loop is not None else Budget(**(run.budget or {}))
    spent, tokens = store.subtree(run.id)
    pairs = (
        ("usd", spent / NANO, budget.usd),
        ("tokens", float(tokens), budget.tokens),
        ("iterations", float(run.steps), budget.iterations),
        ("wall_clock", run.worked, budget.wall_clock_seconds),
    )
    return [Limit(name, used, float(limit)) for name, used, limit in pairs if limit is not None]


def command_to_go_on(run: Run, reached: list[Limit]) -> str | None:
    """The command that goes on with the run, or None when there is nothing to go on with."""
    if NEXT.get(run.status) == "":
        return None
    options = NEXT.get(run.status, "")
    if run.status is RunStatus.BUDGET_EXHAUSTED:
        names = {"usd": "--usd", "tokens": "--tokens", "iterations": "--iterations", "wall_clock": "--wall-clock"}
        short = [limit for limit in reached if limit.name in (run.stop_reason or "")]
        options = "".join(f" {names[limit.name]} {_more(limit)}" for limit in short)
    return f"loomc resume {run.id}{options}"


def _more(limit: Limit) -> str:
    wanted = max(limit.limit, limit.used) * 1.5
    if limit.name == "wall_clock":
        return f"{wanted:.0f}s"
    return f"{wanted:.2f}" if limit.name == "usd" else f"{wanted:.0f}"


def run_json(store: Store, run: Run) -> dict[str, Any]:
    """A run as plain JSON with stable keys; `cost_usd` and `tokens` include child runs."""
    spent, tokens = store.subtree(run.id)
    return {
        "id": run.id,
        "loop": run.loop,
        "source": run.source,
        "status": run.status.value,
        "stop_reason": run.stop_reason,
        "created_at": run.created_at.isoformat(),
        "updated_at": run.updated_at.isoformat(),
        "parent_run_id": run.parent_run_id,
        "parent_step": run.parent_step,
        "forked_from": run.forked_from,
        "resumes": run.resumes,
        "in_flight": run.in_flight,
        "budget": run.budget,
        "steps": run.steps,
        "cost_usd": spent / NANO,
        "own_cost_usd": run.cost_usd,
        "tokens": tokens,
        "worked_seconds": run.worked,
        "best_step": run.best_step,
        "result": None if run.result is None else json.loads(run.result),
        "tags": list(run.tags),
        "notes": list(run.notes),
    }


def step_json(step: StepRecord[Any]) -> dict[str, Any]:
    """A step as plain JSON with stable keys; `cost_usd` is null when nobody recorded a cost."""
    return {
        "step_n": step.step_n,
        "parent_n": step.parent_n,
        "score": step.score,
        "cost_usd": step.cost_usd if step.priced else None,
        "tokens": step.tokens,
        "timestamp": step.timestamp.isoformat(),
        "duration": step.duration,
        "error": step.error,
        "decision": step.decision,
        "best_n": step.best_n,
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """A failed or cut-off try as plain JSON with stable keys."""
    return {
        "step_n": attempt.step_n,
        "attempt": attempt.attempt,
        "error": attempt.error,
        "category": attempt.category,
        "cost_usd": attempt.nano_usd / NANO,
        "started_at": attempt.started_at.isoformat(),
        "duration": attempt.duration,
    }


def charge_json(charge: Charge) -> dict[str, Any]:
    """A charge as plain JSON with stable keys."""
    return {
        "step_n": charge.step_n,
        "usd": charge.nano_usd / NANO,
        "tokens": charge.tokens,
        "label": charge.label,
        "at": charge.at.isoformat(),
        "estimated": charge.estimated,
    }
