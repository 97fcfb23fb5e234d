"""What a run came to: records in, plain data out. Reads only, and imports no user code."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from loomc_runner.budget import SAFETY_CAP, Budget
from loomc_runner.clock import SystemClock, format_duration
from loomc_runner.errors import RunNotFound
from loomc_runner.records import INITIAL, NANO, Attempt, CallStatus, Question, Run, RunStatus, StepRecord
from loomc_runner.store import MOST_TRIES, Store

WINDOW = 200

LEFT = {"waiting": "?", "paused": "⏸", "cancelled": "⏹"}
"""The mark of a try that was left in order, by its category."""

ENDS = {"done": "✔ done", "converged": "✔ converged"}
"""The mark of a completed run's last step, by the first word of its stop reason."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a budget: what was used, and how much there is; printed as it is said."""

    name: str
    used: float
    limit: float

    @property
    def left(self) -> float:
        """What is left of it; below zero when more was used than allowed."""
        return self.limit - self.used

    def __str__(self) -> str:
        """The limit in words, such as `$0.32 of $2.00, $1.68 left` or `4 of 15 iterations, 11 left`."""
        unit = f" {self.name}" if self.name in {"iterations", "tokens"} else ""
        over = f"{self._amount(-self.left)} over" if self.left < 0 else "nothing left"
        rest = f"{self._amount(self.left)} left" if self.left > 0 else over
        return f"{self._amount(self.used)} of {self._amount(self.limit)}{unit}, {rest}"

    def _amount(self, value: float) -> str:
        if self.name == "usd":
            return dollars(value)
        return format_duration(value) if self.name == "wall_clock" else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Branch:
    """A run in a tree of runs, and how deep it lies there."""

    depth: int
    run: Run


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a run's story: a committed step, a try that did not become one, or the step that is under way.

    `cost_usd` is None when nobody recorded a cost, `duration` when nobody took the time. `total_usd` is what the run
    had spent after it, child runs included. `marks` are words such as `↩ from step 2`.
    """

    step_n: int
    cost_usd: float | None
    total_usd: float
    score: float | None
    duration: float | None
    marks: tuple[str, ...]
    error: str | None


def printable(text: str) -> str:
    """The text with control characters written out, so that it is one line and nothing in it steers a terminal.

    Control, format (bidirectional ones too), private and unassigned characters and line separators become
    escapes as Python writes them; what can be seen, and any kind of space, stays.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else ascii(char)[1:-1] for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def dollars(usd: float) -> str:
    """Money as a person reads it: two decimals, or up to four where they say something."""
    if 0 < usd < 0.0001:
        return "<$0.0001"
    whole, _, cents = f"{usd:.4f}".partition(".")
    return f"${whole}.{cents[:2]}{cents[2:].rstrip('0')}"


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
    store: Store,
    *,
    status: RunStatus | None = None,
    loop: str | None = None,
    limit: int | None = None,
    offset: int = 0,
    roots: bool = False,
) -> Iterator[Run]:
    """Runs, newest first, read in windows so that the first ones are there at once; `roots` leaves out child runs."""
    if roots:
        outermost = (run for run in page_runs(store, status=status, loop=loop) if run.parent_run_id is None)
        yield from islice(outermost, offset, None if limit is None else offset + limit)
        return
    left = math.inf if limit is None else limit
    while left > 0:
        size = int(min(WINDOW, left))
        runs = store.list_runs(status=status, loop=loop, limit=size, offset=offset)
        yield from runs
        if len(runs) < size:
            return
        offset, left = offset + size, left - size


def page_steps(store: Store, run: Run) -> Iterator[StepRecord[Any]]:
    """All committed steps of a run, in order, read in windows."""
    for start in range(0, run.steps, WINDOW):
        yield from store.steps(run.id, start, min(start + WINDOW, run.steps))


def story(store: Store, run: Run) -> Iterator[Line]:
    """The run line by line: its steps in order, each after the tries of it that failed; then what is under way."""
    attempts, total, previous = deque(store.attempts(run.id)), 0, INITIAL
    capped = _is_dollar_capped(store, run)
    for step in page_steps(store, run):
        while attempts and attempts[0].step_n <= step.step_n:
            total += attempts[0].nano_usd
            yield _failed_try(attempts.popleft(), total)
        total += step.nano_usd or 0
        yield _committed(run, step, total, previous, unpriced=capped and not step.priced)
        previous = step.step_n
    for attempt in attempts:
        total += attempt.nano_usd
        yield _failed_try(attempt, total)
    if run.in_flight is not None:
        yield _under_way(run, total, store.subtree(run.id)[0])


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
    return Line(step.step_n, cost, total / NANO, step.score, step.duration or None, tuple(marks), step.error)


def _failed_try(attempt: Attempt, total: int) -> Line:
    cost, left = attempt.nano_usd / NANO, attempt.category in LEFT
    marks, error = ((f"{LEFT[attempt.category]} {attempt.error}",), None) if left else ((), attempt.error)
    return Line(attempt.step_n, cost, total / NANO, None, attempt.duration or None, marks, error)


def _under_way(run: Run, total: int, spent: int) -> Line:
    """The step a run was in when its record was read: what is spent and belongs to no other line is its cost."""
    cost = max(spent - total, 0)
    marks = ("… under way",) if run.status is RunStatus.RUNNING else ("✂ cut off",)
    return Line(run.in_flight or 0, cost / NANO, (total + cost) / NANO, None, None, marks, None)


def _is_dollar_capped(store: Store, run: Run) -> bool:
    if (run.budget or {}).get("usd") is not None:
        return True
    return run.parent_run_id is not None and _is_dollar_capped(store, store.get_run(run.parent_run_id))


def family(store: Store, run: Run, depth: int = 0) -> Iterator[Branch]:
    """A run and all its child runs, each below its parent, in the order in which they began."""
    yield Branch(depth, run)
    for child in reversed(store.list_runs(parent=run.id)):
        yield from family(store, child, depth + 1)


def inside(store: Store, run: Run) -> list[tuple[str, str]]:
    """What is to be known of the inside of the run's steps, as names and words: its calls and its open questions."""
    counts = Counter(call.status for call in store.calls(run.id))
    words = {CallStatus.DONE: "done", CallStatus.FAILED: "failed", CallStatus.STARTED: "without a result"}
    calls = ", ".join(f"{counts[status]} {word}" for status, word in words.items() if counts[status])
    now = SystemClock().now()
    asked = [question for question in store.questions(run.id) if question.is_open]
    questions = [
        ("asks" if not index else "", f"{q.prompt} (run {q.run_id}, question {q.number}{_expiry(q, now)})")
        for index, q in enumerate(asked)
    ]
    wanted = [("asked for", f"{run.control.value}, after the step that runs")] if run.control else []
    return [*([("calls", calls)] if calls else []), *questions, *wanted]


def _expiry(question: Question, now: datetime) -> str:
    if question.expires_at is None:
        return ""
    return ", expired" if question.has_expired(now) else f", until {question.expires_at.astimezone():%Y-%m-%d %H:%M}"


def reason(run: Run) -> str:
    """Why the run is where it is, in words; empty while it runs."""
    return run.stop_reason or ("interrupted: its process died" if run.status is RunStatus.INTERRUPTED else "")


def limits(store: Store, run: Run, budget: Budget | None = None) -> list[Limit]:
    """Every limit of the run's budget, or of another one, with what is used of it; else that of the safety cap."""
    if budget is None:
        budget = SAFETY_CAP if run.budget is None and run.loop is not None else Budget(**(run.budget or {}))
    spent, tokens = store.subtree(run.id)
    pairs = (
        ("usd", spent / NANO, budget.usd),
        ("tokens", float(tokens), budget.tokens),
        ("iterations", float(run.steps), budget.iterations),
        ("wall_clock", run.worked, budget.wall_clock_seconds),
    )
    return [Limit(name, used, float(limit)) for name, used, limit in pairs if limit is not None]


def command_to_go_on(store: Store, run: Run) -> str | None:
    """The command that goes on with the run, or None when there is nothing to go on with.

    A child run goes on with the run it belongs to, which pays for it.
    """
    if run.status in {RunStatus.RUNNING, RunStatus.COMPLETED} or not _has_a_state(store, run):
        return None
    if run.parent_run_id is not None:
        return command_to_go_on(store, store.get_run(run.parent_run_id))
    if asked := _first_asked(store, run):
        verb = "approve" if "approved" in asked.schema.get("properties", {}) else "answer"
        return f"loomc {verb} {asked.run_id}{'' if verb == 'approve' else ' ANSWER'} --by YOU"
    options = " module:loop" if run.loop is None else ""  # loomc 0.3.0 kept no name
    if run.status in {RunStatus.STALLED, RunStatus.CANCELLED} or run.stuck > MOST_TRIES:
        options += " --force"
    expected = (run.budget or {}).get("step_usd") or run.dearest_nano / NANO
    for limit in limits(store, run):
        if _is_reached(limit, run):
            options += f" --{limit.name.replace('_', '-')} {_more(limit, expected)}"
    return f"loomc resume {run.id}{options}"


def _first_asked(store: Store, run: Run) -> Question | None:
    """The oldest question that a waiting run needs an answer to."""
    if run.status is not RunStatus.WAITING:
        return None
    now = SystemClock().now()
    return next((q for q in store.questions(run.id) if q.is_open and not q.has_expired(now)), None)


def initial_state(store: Store, run: Run) -> str | None:
    """The state a run began with, as JSON text; None in runs of loomc 0.3.0, which did not keep it."""
    try:
        return store.state(run.id, INITIAL)
    except RunNotFound:
        return None


def _has_a_state(store: Store, run: Run) -> bool:
    return run.steps > 0 or initial_state(store, run) is not None


def _is_reached(limit: Limit, run: Run) -> bool:
    return limit.left <= 0 or (run.stop_reason or "").startswith(f"budget: {limit.name} ")


def _more(limit: Limit, expected_usd: float) -> str:
    """Half as much again, and enough for the next step."""
    if limit.name != "usd":
        wanted = math.ceil(max(limit.limit, limit.used) * 1.5)
        return f"{wanted}s" if limit.name == "wall_clock" else str(wanted)
    wanted_usd = max(limit.limit, limit.used + expected_usd) * 1.5
    return f"{wanted_usd:.2f}" if wanted_usd >= 0.1 else f"{wanted_usd:.2g}"
