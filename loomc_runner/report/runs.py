"""One run among others: found by its id, with its child runs, and how to go on with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loomc_runner.clock import SystemClock
from loomc_runner.errors import RunNotFound, StateDropped
from loomc_runner.records import INITIAL, NANO, Call, CallStatus, Question, Run, RunStatus, StepRecord
from loomc_runner.report.limits import Limit, limits
from loomc_runner.report.pages import ancestors, page_calls
from loomc_runner.store import MOST_TRIES, Store


@dataclass(frozen=True, slots=True)
class Branch:
    """A run in a tree of runs, and how deep it lies there."""

    depth: int
    run: Run


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


def family(store: Store, run: Run) -> Iterator[Branch]:
    """A run and all its child runs, each below its parent, in the order in which they began."""
    waiting, seen = [Branch(0, run)], set[str]()
    while waiting:
        branch = waiting.pop()
        if branch.run.id not in seen:  # a damaged record may go in circles
            seen.add(branch.run.id)
            yield branch
            waiting.extend(Branch(branch.depth + 1, child) for child in store.list_runs(parent=branch.run.id))


def inside(store: Store, run: Run) -> list[tuple[str, str]]:
    """What is to be known of the inside of the run's steps, as names and words: its calls and its open questions."""
    counts = Counter(call.status for call in page_calls(store, run))
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


def dropped_result(call: Call) -> str:
    """What is left of a result that was dropped, in words."""
    return f"dropped: {call.result_size:,} characters, SHA-256 {(call.result_hash or '')[:16]}"


def reason(run: Run) -> str:
    """Why the run is where it is, in words; empty while it runs."""
    return run.stop_reason or ("interrupted: its process died" if run.status is RunStatus.INTERRUPTED else "")


def command_to_go_on(store: Store, run: Run) -> str | None:
    """The command that goes on with the run, or None when there is nothing to go on with.

    A child run goes on with the run it belongs to, which pays for it.
    """
    if run.status in {RunStatus.RUNNING, RunStatus.COMPLETED} or not _has_a_state(store, run):
        return None
    if run.parent_run_id is not None:
        outermost = [each for each in ancestors(store, run) if each.parent_run_id is None]
        return command_to_go_on(store, outermost[0]) if outermost else None
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
    """The state a run began with, as JSON text; None where it is not kept: runs of loomc 0.3.0 had none."""
    try:
        return store.state(run.id, INITIAL)
    except (RunNotFound, StateDropped):
        return None


def kept_state(store: Store, run: Run, step: StepRecord[Any]) -> str | None:
    """The state after a step, as JSON text; None where it was dropped, perhaps only just now."""
    try:
        return None if step.state_dropped else store.state(run.id, step.step_n)
    except StateDropped:
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
