"""All statements, and how rows become records."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

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
from loomc_runner.store.base import ENDED, Resumption

LONG = 4096
"""Characters of a result; a longer one is stored compressed."""

NUMBERS = ("epoch", "resumes", "steps", "nano_usd", "tokens", "dearest_nano", "worked")
MOMENTS = ("asked_at", "expires_at", "answered_at")

RUN_COLUMNS = tuple(item.name for item in fields(Run))
RUNS = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs"
INSERT_RUN = f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}) VALUES ({', '.join('?' * len(RUN_COLUMNS))})"
GET_RUN = f"{RUNS} WHERE id = ?"

STEP_COLUMNS = tuple(item.name for item in fields(StepRecord) if item.name != "read_state")
STEPS = f"SELECT {', '.join(STEP_COLUMNS)} FROM steps WHERE run_id = ? AND step_n >= ? AND step_n < ? ORDER BY step_n"
INSERT_STEP = (
    f"INSERT INTO steps (run_id, state_blob, base_n, encoding, {', '.join(STEP_COLUMNS)}) "
    f"VALUES ({', '.join('?' * (len(STEP_COLUMNS) + 4))})"
)
STATE = "SELECT encoding, base_n, state_blob FROM steps WHERE run_id = ? AND step_n = ?"

CLAIM = (
    "UPDATE runs SET owner = ?, epoch = epoch + 1, resumes = resumes + 1, status = 'running', stop_reason = NULL, "
    "in_flight = NULL, reserved_nano = 0, updated_at = ?, loop = ?, source = ?, spec_hash = ?, code_hash = ?, "
    "budget = ?, notes = ?, direction = coalesce(?, direction), progress = ?, stuck = ?, "
    "control = (SELECT parent.control FROM runs parent WHERE parent.id = runs.parent_run_id) WHERE id = ?"
)
ADVANCE = (
    "UPDATE runs SET updated_at = ?, steps = steps + ?, nano_usd = nano_usd + ?, tokens = tokens + ?, "
    "worked = worked + ?, best_step = coalesce(?, best_step), dearest_nano = max(dearest_nano, ?), "
    "in_flight = ?, reserved_nano = ?, in_flight_mark = (SELECT coalesce(max(id), 0) FROM charges) "
    "WHERE id = ? AND epoch = ? AND control IS ? AND status = 'running'"
)
END = (
    "UPDATE runs SET status = ?, stop_reason = ?, owner = NULL, result = coalesce(?, result), updated_at = ?, "
    "steps = steps + ?, nano_usd = nano_usd + ?, tokens = tokens + ?, worked = worked + ?, "
    "best_step = coalesce(?, best_step), dearest_nano = max(dearest_nano, ?), "
    "in_flight = CASE WHEN ? THEN in_flight END, control = NULL "
    "WHERE id = ? AND epoch = ? AND control IS ? AND status = 'running'"
)
SPEND = "UPDATE runs SET nano_usd = nano_usd + ?, tokens = tokens + ? WHERE id = ? AND epoch = ?"
NOTE = "UPDATE runs SET notes = ? WHERE id = ?"

INSERT_CHARGE = (
    "INSERT INTO charges (run_id, step_n, nano_usd, tokens, label, at, estimated) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
INSERT_ATTEMPT = (
    "INSERT INTO attempts (run_id, step_n, attempt, error, category, nano_usd, started_at, duration) "
    "VALUES (?, ?, (SELECT count(*) FROM attempts WHERE run_id = ? AND step_n = ?), ?, ?, ?, ?, ?)"
)
ATTEMPTS = (
    "SELECT step_n, attempt, error, category, nano_usd, started_at, duration FROM attempts "
    "WHERE run_id = ? AND step_n >= ? AND step_n < ? ORDER BY step_n, attempt"
)
CHARGES = (
    "SELECT step_n, nano_usd, tokens, label, at, estimated FROM charges "
    "WHERE run_id = ? AND step_n >= ? AND step_n < ? ORDER BY id"
)

CALL_COLUMNS = tuple(item.name for item in fields(Call))
CALLS = (
    f"SELECT {', '.join(CALL_COLUMNS)} FROM calls WHERE run_id = ? AND (step_n, seq) >= (?, ?) AND step_n < ? "
    "ORDER BY step_n, seq LIMIT ?"
)
PUT_CALL = (
    f"INSERT INTO calls (run_id, {', '.join(CALL_COLUMNS)}) VALUES ({', '.join('?' * (len(CALL_COLUMNS) + 1))}) "
    "ON CONFLICT DO UPDATE SET status = excluded.status, result = excluded.result, error = excluded.error, "
    "category = excluded.category, nano_usd = excluded.nano_usd, duration = excluded.duration"
)
QUESTION_COLUMNS = tuple(item.name for item in fields(Question))
QUESTION_NAMES = ", ".join(QUESTION_COLUMNS).replace("default,", "default_answer,")
PUT_QUESTION = (
    f"INSERT INTO questions ({QUESTION_NAMES}) VALUES ({', '.join('?' * len(QUESTION_COLUMNS))}) "
    "ON CONFLICT DO UPDATE SET withdrawn = excluded.withdrawn, "
    "answered_by = coalesce(answered_by, excluded.answered_by), "
    "answered_at = coalesce(answered_at, excluded.answered_at), answer = coalesce(answer, excluded.answer)"
)
WITHDRAW = "UPDATE questions SET withdrawn = 1 WHERE run_id = ? AND step_n = ? AND seq = ? AND answer IS NULL"
WITHDRAW_ALL = "UPDATE questions SET withdrawn = 1 WHERE run_id = ? AND answer IS NULL"
ANSWER = (
    "UPDATE questions SET answer = ?, answered_by = ?, answered_at = ? "
    "WHERE run_id = ? AND step_n = ? AND seq = ? AND answer IS NULL AND NOT withdrawn"
)
BREAKER_COLUMNS = tuple(item.name for item in fields(BreakerChange))
INSERT_BREAKER = (
    f"INSERT INTO breakers (run_id, {', '.join(BREAKER_COLUMNS)}) "
    f"VALUES ({', '.join('?' * (len(BREAKER_COLUMNS) + 1))})"
)

FAMILY = (
    "WITH RECURSIVE family (id) AS (VALUES (?) UNION "
    "SELECT r.id FROM runs r JOIN family ON r.parent_run_id = family.id) "
)
CHILDREN_IN_FLIGHT = "SELECT id FROM runs WHERE parent_run_id = ? AND in_flight IS NOT NULL"
DEAREST = "UPDATE runs SET dearest_nano = max(dearest_nano, ?) WHERE id = ?"
LAND = "UPDATE runs SET in_flight = NULL, reserved_nano = 0 WHERE id = ?"
MEMBERS = FAMILY + "SELECT id FROM family"
OPEN_CHILDREN = (
    FAMILY + f"SELECT id FROM runs WHERE id IN family AND status NOT IN ({', '.join(repr(s.value) for s in ENDED)})"
)
TAG = "UPDATE runs SET tags = ? WHERE id = ?"
DELETE = (
    *(f"DELETE FROM {name} WHERE run_id = ?" for name in ("steps", "attempts", "charges", "calls", "questions")),
    *("DELETE FROM breakers WHERE run_id = ?", "DELETE FROM runs WHERE id = ?"),
)
"""What takes a run out of every table."""

LOWER_MARKS = (  # the next charge gets the number after the newest one, which may just have been deleted
    "UPDATE runs SET in_flight_mark = (SELECT coalesce(max(id), 0) FROM charges) "
    "WHERE in_flight_mark > (SELECT coalesce(max(id), 0) FROM charges)"
)
ASKED = "SELECT control FROM runs WHERE id = ?"
ASK_FOR = "UPDATE runs SET control = ? WHERE id = ?"
SET_STATUS = "UPDATE runs SET status = ?, stop_reason = ?, owner = NULL, control = NULL, updated_at = ? WHERE id = ?"
PROGRESS = (
    FAMILY + "SELECT (SELECT coalesce(sum(steps), 0) FROM runs WHERE id IN family) "
    "+ (SELECT count(*) FROM calls WHERE status = 'done' AND run_id IN family) "
    "+ (SELECT count(*) FROM questions WHERE answer IS NOT NULL AND run_id IN family)"
)
QUESTIONS = FAMILY + f"SELECT {QUESTION_NAMES} FROM questions WHERE run_id IN family ORDER BY asked_at, step_n, seq"
OPEN_QUESTIONS = (
    f"SELECT {QUESTION_NAMES} FROM questions WHERE answer IS NULL AND NOT withdrawn ORDER BY asked_at, step_n, seq"
)
BREAKERS = FAMILY + f"SELECT {', '.join(BREAKER_COLUMNS)} FROM breakers WHERE run_id IN family ORDER BY id"
SUBTREE = FAMILY + "SELECT coalesce(sum(nano_usd), 0), coalesce(sum(tokens), 0) FROM runs WHERE id IN family"
IN_CALLS = (
    "SELECT coalesce(sum(nano_usd) FILTER (WHERE status = 'done'), 0), "
    "count(*) FILTER (WHERE status = 'started' AND NOT EXISTS (SELECT 1 FROM calls later "
    "WHERE later.run_id = calls.run_id AND later.step_n = calls.step_n AND later.key = calls.key "
    "AND later.seq > calls.seq)) FROM calls WHERE run_id = ? AND step_n = ?"
)
IN_STEP = "SELECT coalesce(sum(nano_usd), 0) FROM charges WHERE run_id = ? AND step_n = ?"
CHILDREN_OF = "SELECT id FROM runs WHERE parent_run_id = ? AND parent_step = ?"
SINCE_MARK = FAMILY + "SELECT count(*), coalesce(sum(nano_usd), 0) FROM charges WHERE id > ? AND run_id IN family"


class transaction:  # noqa: N801 - used as `with transaction(db):`
    """Write all of it or nothing, as the only writer."""

    __slots__ = ("_db",)

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._roll_back()  # what a Ctrl-C left open, which came as this was being entered
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except BaseException:  # a Ctrl-C may come right after it
            self._roll_back()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def put(db: sqlite3.Connection, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
    """Write a row; what no text can hold (file names in errors that are not UTF-8) is written as escapes."""
    try:
        return db.execute(statement, values)
    except UnicodeEncodeError:
        texts = (v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in values)
        return db.execute(statement, tuple(texts))


def list_query(
    prefix: str,
    status: RunStatus | None,
    loop: str | None,
    parent: str | None,
    parent_step: int | None,
    origin: str | None,
    limit: int | None,
    offset: int,
) -> tuple[str, list[Any]]:
    """The statement and its values that list runs, newest first. `interrupted` is `running` here."""
    wanted: list[tuple[str, Any]] = []
    if prefix:
        wanted.append(("instr(id, ?) = 1", prefix))
    if status:
        wanted.append(("status = ?", "running" if status is RunStatus.INTERRUPTED else status.value))
    if loop:
        wanted.append(("instr(loop, ?)", loop))
    if parent:
        wanted.append(("parent_run_id = ?", parent))
    if parent_step is not None:
        wanted.append(("parent_step = ?", parent_step))
    if origin is not None:
        wanted += [("forked_from >= ?", f"{origin}:"), ("forked_from < ?", f"{origin};")]  # ; comes right after :
    where = f" WHERE {' AND '.join(clause for clause, _ in wanted)}" if wanted else ""
    values = [value for _, value in wanted]
    window = [-1 if limit is None else limit, offset]
    return f"{RUNS}{where} ORDER BY created_at DESC, id LIMIT ? OFFSET ?", [*values, *window]


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


def step_values(run_id: str, step: StepRecord[Any], state: str | None) -> tuple[Any, ...]:
    """A step as the values of its row; without a state it has its parent's."""
    how = (state, None, "json") if state is not None else (None, step.parent_n, "same")
    return (
        run_id,
        *how,
        step.step_n,
        step.parent_n,
        step.score,
        step.nano_usd,
        step.tokens,
        step.timestamp.isoformat(),
        step.duration,
        step.error,
        step.decision,
        step.best_n,
    )


def step_from(row: Sequence[Any]) -> StepRecord[Any]:
    """A row as a step."""
    values = dict(zip(STEP_COLUMNS, row, strict=True))
    values["timestamp"] = datetime.fromisoformat(values["timestamp"])
    return StepRecord(**values)


def charge_values(run_id: str, charge: Charge) -> tuple[Any, ...]:
    """A charge as the values of its row."""
    at = charge.at.isoformat()
    return run_id, charge.step_n, charge.nano_usd, charge.tokens, charge.label, at, charge.estimated


def charge_from(row: Sequence[Any]) -> Charge:
    """A row as a charge."""
    step_n, nano_usd, tokens, label, at, estimated = row
    return Charge(step_n, nano_usd, tokens, label, datetime.fromisoformat(at), bool(estimated))


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
