"""All statements."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final

from loomc_runner.records import BreakerChange, Call, Charge, Question, Run, RunStatus, StepRecord
from loomc_runner.store.base import ENDED

RUN_COLUMNS = tuple(item.name for item in fields(Run))
RUNS = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs"
INSERT_RUN = f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}) VALUES ({', '.join('?' * len(RUN_COLUMNS))})"
GET_RUN = f"{RUNS} WHERE id = ?"

STEP_COLUMNS = StepRecord._fields[:-2]  # but not whether its state was dropped, and where that is read
STEPS = (
    f"SELECT {', '.join(STEP_COLUMNS)}, encoding = 'dropped' FROM steps "
    "WHERE run_id = ? AND step_n >= ? AND step_n < ? ORDER BY step_n"
)
INSERT_STEP = (
    f"INSERT INTO steps (run_id, encoding, base_n, state_blob, {', '.join(STEP_COLUMNS)}) "
    f"VALUES ({', '.join('?' * (len(STEP_COLUMNS) + 4))})"
)
STATE = (  # and those that it is built on, each on an earlier one, as they are at one moment
    "WITH RECURSIVE chain (step_n, encoding, base_n, state_blob) AS ("
    "SELECT step_n, encoding, base_n, state_blob FROM steps WHERE run_id = :run AND step_n = :step UNION ALL "
    "SELECT s.step_n, s.encoding, s.base_n, s.state_blob FROM chain c JOIN steps s "
    "ON s.run_id = :run AND s.step_n = c.base_n AND c.base_n < c.step_n) "
    "SELECT encoding, base_n, state_blob FROM chain"
)

BASE = "SELECT base_n FROM steps WHERE run_id = ? AND step_n = ?"
BUILT_ON = "SELECT step_n FROM steps WHERE run_id = ? AND base_n = ?"
REWRITE_STATE = "UPDATE steps SET encoding = ?, base_n = ?, state_blob = ? WHERE run_id = ? AND step_n = ?"
ROW = f"SELECT rowid, run_id, {', '.join(STEP_COLUMNS)} FROM steps WHERE run_id = ? AND step_n = ?"
DELETE_ROW = "DELETE FROM steps WHERE run_id = ? AND step_n = ?"
INSERT_DROPPED = (
    f"INSERT INTO steps (rowid, run_id, {', '.join(STEP_COLUMNS)}, encoding) "
    f"VALUES ({', '.join('?' * (len(STEP_COLUMNS) + 2))}, 'dropped')"
)
KEPT = (  # on either side of a step whose state was dropped
    "SELECT (SELECT step_n FROM steps WHERE run_id = :run AND step_n < :step AND encoding <> 'dropped' "
    "ORDER BY step_n DESC LIMIT 1), (SELECT step_n FROM steps WHERE run_id = :run AND step_n > :step "
    "AND encoding <> 'dropped' ORDER BY step_n LIMIT 1)"
)

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
OWNED = "SELECT 1 FROM runs WHERE id = ? AND epoch = ?"
NOTE = "UPDATE runs SET notes = ? WHERE id = ?"

LONG_ROW = "INSERT INTO charges (run_id, step_n, nano_usd, at, usage) VALUES ('', 0, 0, '', zeroblob(?))"

CHARGE_COLUMNS = Charge._fields
INSERT_CHARGE = (
    f"INSERT INTO charges (run_id, {', '.join(CHARGE_COLUMNS)}) VALUES ({', '.join('?' * (len(CHARGE_COLUMNS) + 1))})"
)
KEYED_CHARGE = "SELECT id, nano_usd, tokens FROM charges WHERE run_id = ? AND key = ?"
REPLACE_CHARGE = f"UPDATE charges SET {' = ?, '.join(CHARGE_COLUMNS)} = ? WHERE id = ?"
DELETE_CHARGE = "DELETE FROM charges WHERE id = ?"
INSERT_ATTEMPT = (
    "INSERT INTO attempts (run_id, step_n, attempt, error, category, nano_usd, started_at, duration) "
    "VALUES (?, ?, (SELECT count(*) FROM attempts WHERE run_id = ? AND step_n = ?), ?, ?, ?, ?, ?)"
)
ATTEMPTS = (
    "SELECT step_n, attempt, error, category, nano_usd, started_at, duration FROM attempts "
    "WHERE run_id = ? AND step_n >= ? AND step_n < ? ORDER BY step_n, attempt"
)
CHARGES = f"SELECT {', '.join(CHARGE_COLUMNS)} FROM charges WHERE run_id = ? AND step_n >= ? AND step_n < ? ORDER BY id"

DELETE_CALL = "DELETE FROM calls WHERE run_id = ? AND step_n = ? AND seq = ?"
CALL_COLUMNS = Call._fields
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


def begin(db: sqlite3.Connection) -> None:
    """Begin to write, as the only writer, what is written until `commit` all of it or not at all."""
    if db.in_transaction:  # what a Ctrl-C left open, which came as one was being begun
        roll_back(db)
    try:
        db.execute("BEGIN IMMEDIATE")
    except BaseException:  # a Ctrl-C may come right after it
        roll_back(db)
        raise


def commit(db: sqlite3.Connection) -> None:
    """Commit what was written since `begin`; where it cannot be committed, nothing of it stays."""
    try:
        db.execute("COMMIT")
    except BaseException:
        roll_back(db)
        raise


def roll_back(db: sqlite3.Connection) -> None:
    """Nothing of what was written since `begin` stays."""
    if db.in_transaction:
        db.execute("ROLLBACK")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Write all of it or nothing, as the only writer."""
    begin(db)
    try:
        yield
    except BaseException:
        roll_back(db)
        raise
    commit(db)


NULL: Final = math.nan
"""What SQLite takes for NULL (https://sqlite.org/c3ref/bind_blob.html), and Python's module hands over at once.

For a None it looks for an adapter first, and for a bool: as long as a third of a statement takes, and most columns of
most rows are empty.
"""


def put(db: sqlite3.Connection, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
    """Write a row; what no text can hold (file names in errors that are not UTF-8) is written as escapes."""
    row = [NULL if value is None else value for value in values]
    try:
        return db.execute(statement, row)
    except UnicodeEncodeError:
        texts = [v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in row]
        return db.execute(statement, texts)


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
