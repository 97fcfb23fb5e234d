"""A run as JSON, JSON Lines or CSV, with stable keys, written piece by piece, so that its size does not matter.

All JSON is plain ASCII, as `json.dumps` makes it, so that no control character is in it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TextIO

from loomc_runner.records import NANO, Attempt, BreakerChange, Call, Charge, Question, Run, StepRecord
from loomc_runner.report import (
    Limit,
    initial_state,
    kept_state,
    page_attempts,
    page_calls,
    page_charges,
    page_steps,
    printable,
)
from loomc_runner.store import Store

FORMAT = "loomc.run/1"

CSV_COLUMNS = (
    *("step_n", "parent_n", "score", "cost_usd", "tokens", "timestamp", "duration", "error", "decision", "best_n"),
    *("scores", "state_dropped", "state"),
)


def write_json(store: Store, run: Run, out: TextIO) -> None:
    """One JSON object: `format`, `run`, `initial_state`, `steps` with states, and what happened in and between them.

    That is `attempts`, `calls`, `questions`, `charges`, `breakers` and `children`. Of a state that was dropped `state`
    is null and `state_dropped` true.
    """
    head = {"format": FORMAT, "run": run_json(store, run), "initial_state": _initial_state(store, run)}
    write_object(out, head, lists_of(store, run))


def write_jsonl(store: Store, run: Run, out: TextIO) -> None:
    """One JSON object a line: the run first, then each step, attempt and so on, named by `type`."""
    head = {"type": "run", "format": FORMAT, **run_json(store, run), "initial_state": _initial_state(store, run)}
    out.write(json.dumps(head) + "\n")
    for name, items in lists_of(store, run).items():
        kind = "child" if name == "children" else name.removesuffix("s")
        rows = (item if isinstance(item, dict) else {"id": item} for item in items)
        out.writelines(json.dumps({"type": kind, **row}) + "\n" for row in rows)


def write_csv(store: Store, run: Run, out: TextIO) -> None:
    """One row a step; several scores, and the state in the last column, are JSON; errors stand on one line.

    The state is empty where it was dropped.
    """
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in _steps(store, run):
        error = None if row["error"] is None else printable(row["error"])
        scores = json.dumps(row["scores"]) if row["scores"] else None
        state = None if row["state_dropped"] else json.dumps(row["state"])
        writer.writerow({**row, "error": error, "scores": scores, "state": state})


WRITERS = {"json": write_json, "jsonl": write_jsonl, "csv": write_csv}


def write_array(out: TextIO, items: Iterable[Any]) -> None:
    """A JSON array, written item by item; nothing is written when there is no first item to be had for an error."""
    source = iter(items)
    out.write("[" + "".join("\n" + json.dumps(item) for item in islice(source, 1)))
    out.writelines(",\n" + json.dumps(item) for item in source)
    out.write("]")


def write_object(out: TextIO, head: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> None:
    """A JSON object: what is at hand, then arrays that are written item by item."""
    out.write(json.dumps(head)[:-1])
    for name, items in lists.items():
        out.write(f',\n"{name}": ')
        write_array(out, items)
    out.write("}\n")


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
        "control": run.control and run.control.value,
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
    """A step as plain JSON with stable keys; `cost_usd` is null when nobody recorded a cost.

    `scores` are the answers of a scorer that was asked more than once, else empty. `state_dropped` says whether its
    state was dropped to save room.
    """
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
        "scores": list(step.scores),
        "state_dropped": step.state_dropped,
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
        "model": charge.model,
        "usage": None if charge.usage is None else dict(charge.usage),
    }


def call_json(call: Call) -> dict[str, Any]:
    """A durable call as plain JSON with stable keys; of a result that was dropped there are its hash and its size."""
    return {
        "step_n": call.step_n,
        "seq": call.seq,
        "name": call.name,
        "key": call.key,
        "status": call.status.value,
        "result": None if call.result is None else json.loads(call.result),
        "error": call.error,
        "category": call.category,
        "cost_usd": call.nano_usd / NANO,
        "started_at": call.started_at.isoformat(),
        "duration": call.duration,
        "outer": call.outer,
        "result_hash": call.result_hash,
        "result_size": call.result_size,
    }


def question_json(question: Question) -> dict[str, Any]:
    """A question as plain JSON with stable keys; `answer` and `default` are null when there is none."""
    return {
        "run_id": question.run_id,
        "question": question.number,
        "step_n": question.step_n,
        "prompt": question.prompt,
        "schema": question.schema,
        "asked_at": question.asked_at.isoformat(),
        "expires_at": question.expires_at and question.expires_at.isoformat(),
        "default": None if question.default is None else json.loads(question.default),
        "open": question.is_open,
        "answer": None if question.answer is None else json.loads(question.answer),
        "answered_by": question.answered_by,
        "answered_at": question.answered_at and question.answered_at.isoformat(),
    }


def breaker_json(change: BreakerChange) -> dict[str, Any]:
    """A change of a circuit breaker as plain JSON with stable keys."""
    return {
        "step_n": change.step_n,
        "name": change.name,
        "state": change.state,
        "failures": change.failures,
        "openings": change.openings,
        "at": change.at.isoformat(),
        "retry_at": change.retry_at and change.retry_at.isoformat(),
    }


def tree_json(store: Store, run: Run) -> dict[str, Any]:
    """A run and all its child runs as plain JSON, each in the `children` of its parent."""
    children = [tree_json(store, child) for child in reversed(store.list_runs(parent=run.id))]
    return {**run_json(store, run), "children": children}


def plain(value: Any) -> Any:
    """A report as plain JSON: each record an object with the names of its fields as keys."""
    if isinstance(value, tuple(RECORDS)):
        return RECORDS[type(value)](value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


def limit_json(limit: Limit) -> dict[str, Any]:
    """A limit as plain JSON with stable keys."""
    return {"name": limit.name, "used": limit.used, "limit": limit.limit, "left": limit.left}


def lists_of(store: Store, run: Run, start: int = 0, stop: int | None = None) -> dict[str, Iterable[Any]]:
    """What happened in a run as lists of plain JSON, read as they are written; steps come with their states."""
    return {
        "steps": _steps(store, run),
        "attempts": map(attempt_json, page_attempts(store, run, start, stop)),
        "calls": map(call_json, page_calls(store, run, start, stop)),
        "questions": map(question_json, (q for q in store.questions(run.id) if q.run_id == run.id)),
        "charges": map(charge_json, page_charges(store, run, start, stop)),
        "breakers": map(breaker_json, store.breakers(run.id)),
        "children": (child.id for child in store.list_runs(parent=run.id)),
    }


def _steps(store: Store, run: Run) -> Iterator[dict[str, Any]]:
    for step in page_steps(store, run):
        text = kept_state(store, run, step)
        known = {**step_json(step), "state_dropped": text is None}
        yield {**known, "state": None if text is None else json.loads(text)}


def _initial_state(store: Store, run: Run) -> Any:
    text = initial_state(store, run)
    return None if text is None else json.loads(text)


RECORDS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Attempt: attempt_json,
    BreakerChange: breaker_json,
    Call: call_json,
    Limit: limit_json,
    Question: question_json,
    StepRecord: step_json,
}
"""Records that have their own form as JSON."""
