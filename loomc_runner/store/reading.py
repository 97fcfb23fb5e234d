"""Reading from the default store."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

from loomc_runner.errors import RunNotFound, StateDropped, StoreError
from loomc_runner.records import INITIAL, Attempt, BreakerChange, Call, Charge, Question, Run, RunStatus, StepRecord
from loomc_runner.store import owners, rows, sql
from loomc_runner.store.chains import Chains
from loomc_runner.store.connection import Durability, SQLiteFile
from loomc_runner.store.states import DROPPED, Known, Written, put_together

R = TypeVar("R")

MANY = 2**62
"""More steps than any run has."""


class SQLiteReader(SQLiteFile):
    """The verbs that read, of runs in one SQLite file."""

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "power", read_only: bool = False
    ) -> None:
        super().__init__(path, durability=durability, read_only=read_only)
        self._chains = Chains()

    def _open(self) -> sqlite3.Connection:
        self._chains = Chains()  # it may be another file by now
        return super()._open()

    def get_run(self, run_id: str) -> Run:
        """The run; `interrupted` when its owner is dead."""
        with self._reading() as db:
            return self._row(db, run_id)

    def list_runs(
        self,
        *,
        prefix: str = "",
        status: RunStatus | None = None,
        loop: str | None = None,
        parent: str | None = None,
        parent_step: int | None = None,
        origin: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Run]:
        """Runs, newest first."""
        by_owner = status in {RunStatus.RUNNING, RunStatus.INTERRUPTED}  # only a look at the owner tells the two apart
        window = (None, 0) if by_owner else (limit, offset)
        with self._reading() as db:
            found = db.execute(*sql.list_query(prefix, status, loop, parent, parent_step, origin, *window)).fetchall()
            runs = [self._as_shown(self._record(rows.run_from, row, row[0])) for row in found]
        if not by_owner:
            return runs
        matching = (run for run in runs if run.status is status)
        return list(islice(matching, offset, None if limit is None else offset + limit))

    def steps(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[StepRecord[Any]]:
        """The committed steps of a window, in order."""
        return self._window(sql.STEPS, rows.step_from, run_id, max(start, 0), stop)

    def state(self, run_id: str, step_n: int) -> str:
        """The state after a step as JSON text."""
        with self._reading() as db:
            known = self._known(db, run_id, step_n)
            if (chain := self._chains.of(run_id)) is not None:
                chain.note(step_n, known)
        return known.text

    def _known(self, db: sqlite3.Connection, run_id: str, step_n: int) -> Known:
        """A stored state, put together from those that it is built on."""
        try:
            found = [Written(*row) for row in db.execute(sql.STATE, {"run": run_id, "step": step_n})]
        except sqlite3.OperationalError as error:
            if hasattr(error, "sqlite_errorcode"):
                raise
            raise self._damaged(run_id, step_n, "it is no UTF-8") from error  # the error has all of it in its words
        if not found:
            raise RunNotFound(_missing_step(run_id, step_n))
        if found[-1].encoding == DROPPED and all(written.encoding == "same" for written in found[:-1]):
            nearest = db.execute(sql.KEPT, {"run": run_id, "step": step_n}).fetchone()
            raise StateDropped(run_id, step_n, tuple(n for n in nearest if n is not None))
        try:
            return put_together(found)
        except Exception as error:
            raise self._damaged(run_id, step_n, str(error)) from error

    def _damaged(self, run_id: str, step_n: int, why: str) -> StoreError:
        problem = f"the state of step {step_n} of run {run_id} is damaged: {why}"
        return StoreError(f"{self.path}: {problem}; loomc verify {run_id} tells more")

    def attempts(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[Attempt]:
        """The failed and cut-off tries of a window of steps, in order."""
        return self._window(sql.ATTEMPTS, rows.attempt_from, run_id, start, stop)

    def charges(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[Charge]:
        """The charges of a window of steps, in the order in which they were recorded."""
        return self._window(sql.CHARGES, rows.charge_from, run_id, start, stop)

    def calls(
        self, run_id: str, start: int = 0, stop: int | None = None, *, seq: int = 0, limit: int | None = None
    ) -> Sequence[Call]:
        """The durable calls of a window of steps, in order."""
        window = (run_id, start, seq, MANY if stop is None else stop, -1 if limit is None else limit)
        with self._reading() as db:
            found = db.execute(sql.CALLS, window).fetchall()
        return [self._record(rows.call_from, row, run_id) for row in found]

    def questions(self, run_id: str | None = None) -> Sequence[Question]:
        """The questions of a run and its child runs, or the open ones of all."""
        query = (sql.OPEN_QUESTIONS,) if run_id is None else (sql.QUESTIONS, (run_id,))
        with self._reading() as db:
            return [rows.question_from(row) for row in db.execute(*query).fetchall()]

    def breakers(self, run_id: str) -> Sequence[BreakerChange]:
        """How circuit breakers changed in a run and its child runs, in order."""
        with self._reading() as db:
            return [rows.breaker_from(row) for row in db.execute(sql.BREAKERS, (run_id,)).fetchall()]

    def subtree(self, run_id: str) -> tuple[int, int]:
        """Nano-dollars and tokens of a run together with all its child runs."""
        with self._reading() as db:
            nano, tokens = db.execute(sql.SUBTREE, (run_id,)).fetchone()
        return nano, tokens

    def _window(
        self, query: str, record: Callable[[Sequence[Any]], R], run_id: str, start: int, stop: int | None
    ) -> list[R]:
        """The records of a window of steps."""
        with self._reading() as db:
            found = db.execute(query, (run_id, start, MANY if stop is None else stop)).fetchall()
        return [self._record(record, row, run_id) for row in found]

    def _record(self, record: Callable[[Sequence[Any]], R], row: Sequence[Any], run_id: str) -> R:
        """A row as a record.

        Raises:
            StoreError: When it holds what no release has written.
        """
        try:
            return record(row)
        except (ValueError, TypeError, KeyError, OverflowError, zlib.error) as error:
            problem = f"a row of run {run_id} is damaged ({type(error).__name__}: {error})"
            raise StoreError(f"{self.path}: {problem}; loomc verify {run_id} tells more") from error

    def _row(self, db: sqlite3.Connection, run_id: str) -> Run:
        row = db.execute(sql.GET_RUN, (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"there is no run {run_id} in {self.path}; loomc runs lists those there are")
        return self._as_shown(self._record(rows.run_from, row, run_id))

    def _as_shown(self, run: Run) -> Run:
        if run.status is not RunStatus.RUNNING or (run.owner and owners.is_alive(self.path.parent, run.owner)):
            return run
        return dataclasses.replace(run, status=RunStatus.INTERRUPTED)


def _missing_step(run_id: str, step_n: int) -> str:
    if step_n == INITIAL:
        return f"run {run_id} has no stored initial state, since loomc 0.3.0 kept none; start it anew"
    return f"run {run_id} has no step {step_n}; loomc show {run_id} lists its steps"
