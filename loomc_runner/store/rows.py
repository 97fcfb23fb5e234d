"""How records become rows, and rows records."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from loomc_runner.clock import in_iso
from loomc_runner.records import (
    Attempt,
    BreakerChange,
    Call,
    CallStatus,
    Charge,
    Control,
    Question,
    Run,
    RunStatus,
    StepRecord,
)
from loomc_runner.store.base import Resumption
from loomc_runner.store.sql import BREAKER_COLUMNS, CALL_COLUMNS, QUESTION_COLUMNS, RUN_COLUMNS, STEP_COLUMNS
from loomc_runner.store.states import Written

LONG = 4096
"""Characters of a result; a longer one is stored compressed."""

NUMBERS = ("epoch", "resumes", "steps", "nano_usd", "tokens", "dearest_nano", "worked")
MOMENTS = ("asked_at", "expires_at", "answered_at")


def run_values(run: Run) -> list[Any]:
    """A run as the values of its row."""
    row = {name: getattr(run, name) for name in RUN_COLUMNS}
    row["status"] = run.status.value
    row["created_at"], row["updated_at"] = run.created_at.isoformat(), run.updated_at.isoformat()
    row["budget"] = budget_text(run.budget)
    row["tags"], row["notes"] = json.dumps(run.tags), json.dumps(run.notes)
    row["control"] = None if run.control is None else run.control.value
    return list(row.values())


def run_from(row: Sequence[Any]) -> Run:
    """A row as a run."""
    values = dict(zip(RUN_COLUMNS, row, strict=True))
    values["status"] = RunStatus(values["status"])
    for name in NUMBERS:
        if not isinstance(values[name], int | float):
            raise TypeError(f"{name} is {values[name]!r}")
    values["created_at"] = datetime.fromisoformat(values["created_at"])
    values["updated_at"] = datetime.fromisoformat(values["updated_at"])
    values["budget"] = None if values["budget"] is None else dict(json.loads(values["budget"]))
    values["tags"], values["notes"] = _words(values["tags"]), _words(values["notes"])
    values["control"] = control_from(values["control"])
    return Run(**values)


def _words(text: str) -> tuple[str, ...]:
    words = tuple(json.loads(text))
    if not all(isinstance(word, str) for word in words):
        raise TypeError(f"{text} is no list of texts")
    return words


def control_from(text: str | None) -> Control | None:
    """What is asked of a run, if anything."""
    return None if text is None else Control(text)


def resumption_values(run: Run, resumption: Resumption, progress: int) -> tuple[Any, ...]:
    """What a claim writes into the row of the run."""
    notes = json.dumps([*run.notes, *resumption.notes])
    names = (resumption.loop, resumption.source, resumption.spec_hash, resumption.code_hash)
    written = (resumption.at.isoformat(), *names, budget_text(resumption.budget), notes, resumption.direction)
    return (*written, progress, resumption.stuck(run, progress))


def budget_text(budget: dict[str, Any] | None) -> str | None:
    """A budget as it is stored."""
    return None if budget is None else json.dumps(budget)


def step_values(run_id: str, step: StepRecord[Any], at: str, state: Written) -> tuple[Any, ...]:
    """A step as the values of its row; `at` is its timestamp as text, which its run gets too."""
    return (
        run_id,
        *state,
        step.step_n,
        step.parent_n,
        step.score,
        step.nano_usd,
        step.tokens,
        at,
        step.duration,
        step.error,
        step.decision,
        step.best_n,
        json.dumps(step.scores) if step.scores else None,
    )


def step_from(row: Sequence[Any]) -> StepRecord[Any]:
    """A row as a step."""
    *columns, dropped = row
    values = dict(zip(STEP_COLUMNS, columns, strict=True))
    values["timestamp"] = datetime.fromisoformat(values["timestamp"])
    values["scores"] = () if values["scores"] is None else tuple(map(float, json.loads(values["scores"])))
    return StepRecord(**values, state_dropped=bool(dropped))


def charge_values(charge: Charge) -> tuple[Any, ...]:
    """A charge as the values of its row, without its run."""
    usage = None if charge.usage is None else json.dumps(dict(charge.usage))
    spent = (charge.step_n, charge.nano_usd, charge.tokens, charge.label, in_iso(charge.at), int(charge.estimated))
    return (*spent, charge.key, charge.model, usage)


def charge_from(row: Sequence[Any]) -> Charge:
    """A row as a charge."""
    step_n, nano_usd, tokens, label, at, estimated, key, model, usage = row
    known = None if usage is None else dict(json.loads(usage))
    return Charge(step_n, nano_usd, tokens, label, datetime.fromisoformat(at), bool(estimated), key, model, known)


def attempt_values(run_id: str, attempt: Attempt) -> tuple[Any, ...]:
    """An attempt as the values of its row; its number is counted by the statement."""
    started = attempt.started_at.isoformat()
    return (
        run_id,
        attempt.step_n,
        run_id,
        attempt.step_n,
        attempt.error,
        attempt.category,
        attempt.nano_usd,
        started,
        attempt.duration,
    )


def attempt_from(row: Sequence[Any]) -> Attempt:
    """A row as an attempt."""
    step_n, number, error, category, nano_usd, started_at, duration = row
    return Attempt(step_n, number, error, category, nano_usd, datetime.fromisoformat(started_at), duration)


def call_values(run_id: str, call: Call) -> tuple[Any, ...]:
    """A call as the values of its row; a long result is compressed."""
    result: str | bytes | None = call.result
    if call.result is not None and len(call.result) > LONG:
        result = zlib.compress(call.result.encode("utf-8", "surrogatepass"))
    return (
        run_id,
        call.step_n,
        call.seq,
        call.name,
        call.key,
        call.status.value,
        call.started_at.isoformat(),
        result,
        call.error,
        call.category,
        call.nano_usd,
        call.duration,
        call.outer,
        call.result_hash,
        call.result_size,
    )


def call_from(row: Sequence[Any]) -> Call:
    """A row as a call."""
    values = dict(zip(CALL_COLUMNS, row, strict=True))
    values["status"], values["started_at"] = CallStatus(values["status"]), datetime.fromisoformat(values["started_at"])
    if isinstance(values["result"], bytes):
        values["result"] = zlib.decompress(values["result"]).decode("utf-8", "surrogatepass")
    return Call(**values)


def question_values(question: Question) -> tuple[Any, ...]:
    """A question as the values of its row."""
    row = {name: getattr(question, name) for name in QUESTION_COLUMNS}
    row["schema"] = json.dumps(question.schema)
    for name in MOMENTS:
        row[name] = None if row[name] is None else row[name].isoformat()
    return tuple(row.values())


def question_from(row: Sequence[Any]) -> Question:
    """A row as a question."""
    values = dict(zip(QUESTION_COLUMNS, row, strict=True))
    values["schema"], values["withdrawn"] = json.loads(values["schema"]), bool(values["withdrawn"])
    for name in MOMENTS:
        values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
    return Question(**values)


def breaker_values(run_id: str, change: BreakerChange) -> tuple[Any, ...]:
    """A change of a circuit breaker as the values of its row."""
    row = {name: getattr(change, name) for name in BREAKER_COLUMNS}
    row["at"], row["retry_at"] = change.at.isoformat(), change.retry_at and change.retry_at.isoformat()
    return (run_id, *row.values())


def breaker_from(row: Sequence[Any]) -> BreakerChange:
    """A row as a change of a circuit breaker."""
    values = dict(zip(BREAKER_COLUMNS, row, strict=True))
    values["at"] = datetime.fromisoformat(values["at"])
    values["retry_at"] = values["retry_at"] and datetime.fromisoformat(values["retry_at"])
    return BreakerChange(**values)
