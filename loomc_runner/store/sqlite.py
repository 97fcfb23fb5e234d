"""The default store: one SQLite file, readable with any SQLite tool."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from loomc_runner.errors import RunLocked, RunLost, RunNotFound, StoreBusy, StoreError
from loomc_runner.records import INITIAL, Attempt, Charge, Claim, Lease, Run, RunStatus, StepRecord, Transition
from loomc_runner.store import owners, schema, sql
from loomc_runner.store.base import Resumption

BUSY_MS = 5
"""How long SQLite itself waits for another writer before the caller is told."""

HINTS = {
    sqlite3.SQLITE_FULL: "the disk is full; make room, then resume",
    sqlite3.SQLITE_READONLY: "it is read-only; make it writable, or name another place with LOOMC_DB or --db",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the folder, or name another place with LOOMC_DB or --db",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database; name the right file with LOOMC_DB or --db",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore a copy, or try the sqlite3 command .recover",
    sqlite3.SQLITE_IOERR: "reading or writing it failed; check the disk",
}


class SQLiteStore:
    """Runs in one SQLite file, with power-loss durability (WAL, `synchronous=FULL`).

    One connection serves all threads of the process, one after the other: SQLite takes one writer at a time
    anyway, and so threads never find it busy.

    Args:
        path: The file; it and its folder are made at the first write.
        read_only: Read an existing file and create nothing; older tables are read as they are.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection] = []

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.path)!r})"

    # --- writing

    def create_run(self, run: Run, state: str) -> Lease:
        """Insert the run with its initial state and own it."""
        owners.hold(str(self.path), run.id)
        try:
            with self._transaction() as db:
                if db.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone():
                    raise RunLocked(f"run {run.id} has just been started elsewhere; resume it when that has ended")
                owner = owners.own_token(self.path.parent)
                mark = db.execute("SELECT coalesce(max(id), 0) FROM charges").fetchone()[0]
                run = dataclasses.replace(run, owner=owner, epoch=1, in_flight_mark=mark)
                db.execute(sql.INSERT_RUN, sql.run_values(run))
                first: StepRecord[Any] = StepRecord(INITIAL, INITIAL, None, None, 0, run.created_at, 0.0)
                db.execute(sql.INSERT_STEP, sql.step_values(run.id, first, state))
        except BaseException:
            owners.let_go(str(self.path), run.id)
            raise
        return Lease(run.id, owner, 1, os.getpid())

    def claim(self, run_id: str, resumption: Resumption) -> Claim:
        """Own an existing run; a step that was in flight is closed and charged."""
        owners.hold(str(self.path), run_id)
        try:
            with self._transaction() as db:
                run = self._row(db, run_id)
                mine = owners.own_token(self.path.parent)
                if run.owner and run.owner != mine and owners.is_alive(self.path.parent, run.owner):
                    pid = run.owner.partition("-")[0]
                    raise RunLocked(f"run {run_id} is being worked on by process {pid}; wait for it, or end it first")
                if run.in_flight is not None:
                    self._close_in_flight(db, run, resumption)
                db.execute(sql.CLAIM, (mine, *sql.resumption_values(run, resumption), run_id))
                run = dataclasses.replace(self._row(db, run_id), status=run.status, stop_reason=run.stop_reason)
                spent, tokens = db.execute(sql.SUBTREE, (run_id,)).fetchone()
        except BaseException:
            owners.let_go(str(self.path), run_id)
            raise
        return Claim(Lease(run_id, mine, run.epoch, os.getpid()), run, spent, tokens)

    def commit(self, lease: Lease, transition: Transition) -> None:
        """Store one transition of a run in one transaction."""
        try:
            with self._transaction(lease) as db:
                self._write(db, lease, transition)
        except StoreBusy:  # the caller comes again
            raise
        except BaseException:
            self._let_go(lease, transition)
            raise
        self._let_go(lease, transition)

    def _let_go(self, lease: Lease, transition: Transition) -> None:
        if transition.status is not RunStatus.RUNNING:
            owners.let_go(str(self.path), lease.run_id)

    def _write(self, db: sqlite3.Connection, lease: Lease, change: Transition) -> None:
        at, run_id, step = change.at.isoformat(), lease.run_id, change.step
        if step is not None:
            db.execute(sql.INSERT_STEP, sql.step_values(run_id, step, change.state))
        for charge in change.charges:
            db.execute(sql.INSERT_CHARGE, sql.charge_values(run_id, charge))
        if change.attempt is not None:
            db.execute(sql.INSERT_ATTEMPT, sql.attempt_values(run_id, change.attempt))
        if change.notes is not None:
            db.execute(sql.NOTE, (json.dumps(change.notes), run_id, lease.epoch))
        nano = sum(charge.nano_usd for charge in change.charges)
        tokens = sum(charge.tokens for charge in change.charges)
        totals = (int(step is not None), nano, tokens, change.worked, change.best_step, change.dearest_nano)
        where = (run_id, lease.epoch)
        if change.status is not RunStatus.RUNNING:
            ended = (change.status.value, change.stop_reason, change.result, at)
            cursor = db.execute(sql.END, (*ended, *totals, change.keep_in_flight, *where))
        elif change.keep_in_flight:
            cursor = db.execute(sql.SPEND, (nano, tokens, *where))
        else:
            cursor = db.execute(sql.ADVANCE, (at, *totals, change.in_flight, change.reserved_nano, *where))
        if cursor.rowcount != 1:
            raise RunLost(
                f"run {run_id} has ended or was taken over by another process; nothing more is written to it here"
            )

    def _close_in_flight(self, db: sqlite3.Connection, run: Run, resumption: Resumption) -> None:
        step_n = run.in_flight or 0
        recorded, nano = db.execute(sql.SINCE_MARK, (run.id, run.in_flight_mark)).fetchone()
        if not recorded and run.reserved_nano:
            nano = run.reserved_nano
            charge = Charge(step_n, nano, 0, "the step was cut off", resumption.at, estimated=True)
            db.execute(sql.INSERT_CHARGE, sql.charge_values(run.id, charge))
            db.execute(sql.SPEND, (nano, 0, run.id, run.epoch))
        reason = "interrupted: the process ended" if run.status is RunStatus.INTERRUPTED else run.stop_reason
        attempt = Attempt(step_n, 0, reason or "interrupted", "interrupted", nano, run.updated_at, 0.0)
        db.execute(sql.INSERT_ATTEMPT, sql.attempt_values(run.id, attempt))

    # --- reading

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
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Run]:
        """Runs, newest first."""
        by_owner = status in {RunStatus.RUNNING, RunStatus.INTERRUPTED}  # only a look at the owner tells the two apart
        window = (None, 0) if by_owner else (limit, offset)
        with self._reading() as db:
            rows = db.execute(*sql.list_query(prefix, status, loop, parent, *window)).fetchall()
        runs = (self._as_shown(sql.run_from(row)) for row in rows)
        if not by_owner:
            return list(runs)
        matching = (run for run in runs if run.status is status)
        return list(islice(matching, offset, None if limit is None else offset + limit))

    def steps(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[StepRecord[Any]]:
        """The committed steps of a window, in order."""
        with self._reading() as db:
            rows = db.execute(sql.STEPS, (run_id, max(start, 0), 2**62 if stop is None else stop)).fetchall()
        return [sql.step_from(row) for row in rows]

    def state(self, run_id: str, step_n: int) -> str:
        """The state after a step as JSON text."""
        with self._reading() as db:
            while True:
                row = db.execute(sql.STATE, (run_id, step_n)).fetchone()
                if row is None:
                    raise RunNotFound(_missing_step(run_id, step_n))
                encoding, base_n, text = row
                if encoding != "same":
                    return str(text)
                step_n = base_n

    def attempts(self, run_id: str) -> Sequence[Attempt]:
        """The failed and cut-off tries of a run, in order."""
        with self._reading() as db:
            return [sql.attempt_from(row) for row in db.execute(sql.ATTEMPTS, (run_id,)).fetchall()]

    def charges(self, run_id: str) -> Sequence[Charge]:
        """The charges of a run, in order."""
        with self._reading() as db:
            return [sql.charge_from(row) for row in db.execute(sql.CHARGES, (run_id,)).fetchall()]

    def subtree(self, run_id: str) -> tuple[int, int]:
        """Nano-dollars and tokens of a run together with all its child runs."""
        with self._reading() as db:
            nano, tokens = db.execute(sql.SUBTREE, (run_id,)).fetchone()
        return nano, tokens

    def close(self) -> None:
        """Close the connection; the next verb opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _row(self, db: sqlite3.Connection, run_id: str) -> Run:
        row = db.execute(sql.GET_RUN, (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"there is no run {run_id} in {self.path}; loomc runs lists those there are")
        return self._as_shown(sql.run_from(row))

    def _as_shown(self, run: Run) -> Run:
        if run.status is not RunStatus.RUNNING or (run.owner and owners.is_alive(self.path.parent, run.owner)):
            return run
        return dataclasses.replace(run, status=RunStatus.INTERRUPTED)

    # --- the connection

    @contextmanager
    def _transaction(self, lease: Lease | None = None) -> Iterator[sqlite3.Connection]:
        if lease is not None and lease.pid != os.getpid():
            raise RunLost(f"run {lease.run_id} belongs to the process that was forked; only that may write to it")
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            self._start_anew()
        with self._lock:
            try:
                yield self._connection or self._open()
            except sqlite3.Error as error:
                raise self._in_words(error) from error

    def _open(self) -> sqlite3.Connection:
        db = self._open_reader() if self.read_only else self._open_writer()
        self._connection = db
        return db

    def _open_writer(self) -> sqlite3.Connection:
        folder = self.path.parent
        if not folder.exists():
            _make_folder(folder)
        db = _connect(self.path, "rwc")
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            schema.prepare(db, self.path)
        except BaseException:
            db.close()
            raise
        return db

    def _open_reader(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise RunNotFound(
                f"there is no database at {self.path}; a first run makes it; LOOMC_DB or --db name another"
            )
        fixed = not os.access(self.path.parent, os.W_OK)
        wal = self.path.with_name(self.path.name + "-wal")
        if fixed and wal.exists() and wal.stat().st_size:
            raise StoreError(
                f"{self.path} is in a read-only folder and has unmerged changes; copy the folder to read it"
            )
        db = _connect(self.path, "ro&immutable=1" if fixed else "rw" if os.access(self.path, os.W_OK) else "ro")
        try:
            schema.read_as_today(db, self.path)
            db.execute("PRAGMA query_only = 1")
        except BaseException:
            db.close()
            raise
        return db

    def _start_anew(self) -> None:
        """In a forked child: SQLite connections must not be used, nor closed, by two processes."""
        if self._connection is not None:
            self._inherited.append(self._connection)
        self._connection, self._lock, self._pid = None, threading.RLock(), os.getpid()

    def _in_words(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes carry the primary one in the low byte
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return StoreBusy(f"{self.path} is locked by another program")
        return StoreError(f"{self.path}: {HINTS.get(code, error)}")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be made ({error.strerror}); name another place with LOOMC_DB or checkpoint="
        ) from error


def _missing_step(run_id: str, step_n: int) -> str:
    if step_n == INITIAL:
        return f"run {run_id} has no stored initial state"
    return f"run {run_id} has no step {step_n}; loomc show {run_id} lists its steps"
