"""Records for the tests of stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from loomc_runner.records import (
    INITIAL,
    Call,
    CallStatus,
    Charge,
    Lease,
    Question,
    Run,
    RunStatus,
    StepRecord,
    Transition,
)
from loomc_runner.store import Resumption, Store
from loomc_runner.testing.doubles import AT

LATER = AT + timedelta(minutes=1)
PAUSED = Transition(LATER, status=RunStatus.PAUSED, stop_reason="paused: by a test")
"""Gives a run up, so that it can be claimed."""


def a_run(name: str = "r", **fields: Any) -> Run:
    """A run to create."""
    return Run(**{"id": name, "loop": "tests:refine", "created_at": AT, "updated_at": AT, **fields})


def a_step(step_n: int, **fields: Any) -> StepRecord[Any]:
    """A step to commit; it started from the one before it."""
    values = {"parent_n": step_n - 1, "score": None, "nano_usd": None, "tokens": 0, "timestamp": AT, "duration": 0.0}
    return StepRecord(step_n=step_n, **{**values, **fields})


def a_charge(nano_usd: int, tokens: int = 0, *, step_n: int = 0) -> Charge:
    """A charge to commit."""
    return Charge(step_n, nano_usd, tokens, "a test", AT)


def a_resumption(**fields: Any) -> Resumption:
    """What a claim writes."""
    values = {"source": None, "spec_hash": "spec", "code_hash": "code", "budget": None}
    return Resumption(**{"at": LATER, "loop": "tests:refine", **values, **fields})


def a_call(seq: int, **fields: Any) -> Call:
    """A call that was started."""
    values = {"step_n": 0, "name": "tests.work", "key": f"k:{seq}", "status": CallStatus.STARTED, "started_at": AT}
    return Call(**{**values, "seq": seq, **fields})


def a_question(run_id: str = "r", seq: int = 0, **fields: Any) -> Question:
    """A question that is open."""
    values = {"step_n": 0, "key": f"q:{seq}", "prompt": "Really?", "schema": {"type": "boolean"}, "asked_at": AT}
    return Question(**{**values, "run_id": run_id, "seq": seq, **fields})


def inside(**fields: Any) -> Transition:
    """What a commit in the middle of a step stores."""
    return Transition(LATER, keep_in_flight=True, **fields)


def advance(store: Store, lease: Lease, steps: int) -> None:
    """Commit so many first steps of a run."""
    for n in range(steps):
        store.commit(lease, Transition(AT, step=a_step(n), state=f"[{n}]"))


def everything(store: Store, run_id: str) -> list[Any]:
    """All that a store knows of a run."""
    rows = store.steps(run_id)
    states = [store.state(run_id, step_n) for step_n in range(INITIAL, len(rows))]
    return [store.get_run(run_id), rows, states, store.attempts(run_id), store.charges(run_id)]
