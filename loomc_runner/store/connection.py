"""An SQLite file and the one connection a process has to it: opened when needed, closed for a fork."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from loomc_runner.errors import RunNotFound, SpecError, StoreBusy, StoreError
from loomc_runner.store import schema
from loomc_runner.store.sql import LONG_ROW, begin, commit, roll_back

BUSY_MS = 5
"""How long SQLite itself waits for another writer before the caller is told."""

OPENING_S, READER_S = 0.25, 5.0
"""How long opening waits, which is once in a process, for others who make, bring up to date or close the file."""

LOOK_S = 1.0
"""How often to look whether the file is still the one that was opened; a look costs as much as a small step."""

LOG_PAGES, WRITES = 1000, 32
"""Pages after which SQLite merges the log into the file and begins it anew (`wal_autocheckpoint`); the transaction
before which it is made that long."""

PAGE = 4096
"""Bytes of a page, as SQLite makes them."""

NO_CACHE = 10
"""Pages of a cache that lets a big transaction write to the log before it is committed."""

Durability = Literal["power", "process"]

SYNCHRONOUS = {"power": "FULL", "process": "NORMAL"}
"""When SQLite waits for the disk: at each commit, or only where the log is merged into the file."""

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}

FULL = "the disk is full; make room, then resume"
HINTS = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_READONLY: "it is read-only; make it writable, or name another place with LOOMC_DB or --db",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the folder, or name another place with LOOMC_DB or --db",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database; name the right file with LOOMC_DB or --db",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore a copy, or try the sqlite3 command .recover",
    sqlite3.SQLITE_IOERR: "reading or writing it failed; check the disk and its quota",
}


class SQLiteFile:
    """One SQLite file as all threads of a process use it.

    One connection serves all threads, one after the other: SQLite takes one writer at a time anyway, and so threads
    never find it busy. It is closed before a fork, because a forked process does not have the locks that SQLite
    believes it has: the first of the two to close would take the log of committed steps from the other.
    Until something is written it is opened for reading, so that a look for a run neither makes a database nor
    brings an older one up to date.

    Args:
        path: The file; it and its folder are made at the first write.
        durability: What a commit survives: `"power"` or `"process"`.
        read_only: Read an existing file and create nothing; older tables are read as they are.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "power", read_only: bool = False
    ) -> None:
        if durability not in SYNCHRONOUS:
            raise SpecError(f'durability={durability!r}: give "power" (survives a power cut) or "process"')
        self.path = Path(path).resolve()
        self.durability = durability
        self.read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._writable = False
        self._looked = 0.0
        self.writes = 0
        self.lock = threading.RLock()
        _files.add(self)

    def close(self) -> None:
        """Close the connection; the next verb opens it again."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
            self._connection, self._writable = None, False

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let no thread use the file meanwhile."""
        with self.lock:
            self.close()
            yield

    def _reading(self) -> _Use:
        return _Use(self)

    def _writing(self) -> _Use:
        return _Writing(self)

    def current(self, to_write: bool) -> sqlite3.Connection:
        """The connection, opened when there is none to this very file; called with the lock held."""
        now = time.monotonic()
        if self._connection is not None and (self._opened is None or now - self._looked > LOOK_S):
            self._looked = now
            if self._opened != _identity(self.path):  # made, deleted, or another one
                self.close()
        read_with = None
        if to_write and not self._writable:
            read_with, self._connection, self._writable = self._connection, None, True
        try:
            if self._connection is None:
                self._opened, self._looked = _identity(self.path), now
                self._connection = self._open_patiently()
                self._opened = _identity(self.path) if to_write else self._opened
        finally:
            if read_with is not None:  # only now: the last one to close a file merges its log and deletes it
                read_with.close()
        return self._connection

    def lengthen_log(self, db: sqlite3.Connection) -> None:
        """Make the log as long as it gets; called with the lock held, and outside of a transaction.

        A disk takes twice as long for a commit that makes a file longer as for one that writes over what is there
        (the new length is one more thing to make durable), and a log would grow for its first thousand pages. So
        that many are written at once, in a transaction that is rolled back: a program that commits much gains that
        back within a few commits, and one that does not never comes here.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        if self.durability == "process":
            return
        with suppress(sqlite3.Error, OSError):  # there is none, it is locked, or there is no room: it grows by itself
            if log.stat().st_size < LOG_PAGES * PAGE:
                _write_through(db, LOG_PAGES * PAGE)

    def look_again(self) -> None:
        """Look at the next verb whether the file is still the one that was opened."""
        self._looked = 0.0

    def _open_patiently(self) -> sqlite3.Connection:
        end = time.monotonic() + (READER_S if self.read_only else OPENING_S)
        while True:
            try:
                return self._open()
            except sqlite3.Error as error:
                if _code(error) not in BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.002)

    def _open(self) -> sqlite3.Connection:
        self.writes = 0
        if self._opened is None and not self._writable and not self.read_only:
            return _nothing(self.path)
        if self._writable and not self.path.parent.exists():
            make_folder(self.path.parent)
        db = connect(self.path, "rwc" if self._writable else reader_mode(self.path))
        try:
            if self._writable:
                db.execute(f"PRAGMA synchronous = {SYNCHRONOUS[self.durability]}")
                db.execute("PRAGMA fullfsync = 1")  # macOS: through the disk's own cache too
                schema.prepare(db, self.path)
                db.execute("PRAGMA journal_mode = WAL")
            else:
                schema.read_as_today(db, self.path)
                db.execute("PRAGMA query_only = 1")
        except BaseException:
            db.close()
            raise
        return db


class _Use:
    """The connection for the time of one verb: for one thread at a time, and with errors in words.

    A class and not a generator: every step passes here.
    """

    __slots__ = ("_file",)

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    def __enter__(self) -> sqlite3.Connection:
        self._file.lock.acquire()
        try:
            return self._file.current(to_write=False)
        except BaseException as error:
            _Use.__exit__(self, type(error), error, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._file.lock.release()
        if isinstance(error, sqlite3.Error | OSError):
            raise in_words(self._file.path, error) from error


class _Writing(_Use):
    """The connection for the time of one transaction."""

    __slots__ = ("_db",)

    def __enter__(self) -> sqlite3.Connection:
        file = self._file
        file.lock.acquire()
        try:
            self._db = db = file.current(not file.read_only)
            file.writes += 1
            if file.writes == WRITES:
                file.lengthen_log(db)
            begin(db)
        except BaseException as error:
            _Use.__exit__(self, type(error), error, None)
            raise
        return db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            (commit if kind is None else roll_back)(self._db)
        except BaseException as second:
            _Use.__exit__(self, type(second), second, None)
            raise
        _Use.__exit__(self, kind, error, None)


def _write_through(db: sqlite3.Connection, size: int) -> None:
    """Write so many bytes to the log, as part of nothing."""
    (usual,) = db.execute("PRAGMA cache_size").fetchone()
    try:
        db.execute(f"PRAGMA cache_size = {NO_CACHE}")
        begin(db)
        db.execute(LONG_ROW, (size,))
    finally:
        try:
            roll_back(db)
        finally:
            db.execute(f"PRAGMA cache_size = {usual}")


def reader_mode(path: Path) -> str:
    """How SQLite opens a file to read it, so that nothing is left beside it.

    Raises:
        RunNotFound: When there is no such file.
        StoreError: When it lies in a read-only folder together with a log, which cannot be merged there.
    """
    if not path.exists():
        raise RunNotFound(f"there is no database at {path}; a first run makes it; LOOMC_DB or --db name another")
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "rw"  # reading a database with a log takes files beside it, which go when it is closed
    for suffix in ("-wal", "-journal"):
        log = path.with_name(path.name + suffix)
        if log.exists() and log.stat().st_size:
            raise StoreError(f"{path} is read-only and has unmerged changes; copy its folder to read it")
    return "ro&immutable=1"


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to the file that waits for nobody and begins no transaction by itself."""
    uri = f"{path.as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)


def in_words(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    """An error with the file as users should read it."""
    if isinstance(error, OSError):
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        hint = FULL if full else f"{error}; check the folder, or name another place with LOOMC_DB or --db"
        return StoreError(f"{path}: {hint}")
    if _code(error) in BUSY:
        return StoreBusy(f"{path} is locked by another program")
    return StoreError(f"{path}: {HINTS.get(_code(error), error)}")


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes carry the primary one in the low byte


def _nothing(path: Path) -> sqlite3.Connection:
    """What a store that was never written to reads."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    schema.prepare(db, path)
    return db


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def make_folder(folder: Path) -> None:
    """Make the folder of a database: for its owner only, and not for git."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")


_files: weakref.WeakSet[SQLiteFile] = weakref.WeakSet()
_forking = threading.Lock()
_paused = ExitStack()


def _pause_all() -> None:
    _forking.acquire()
    for file in list(_files):
        _paused.enter_context(file.closed())


def _go_on() -> None:
    _paused.close()
    _forking.release()


os.register_at_fork(before=_pause_all, after_in_parent=_go_on, after_in_child=_go_on)
