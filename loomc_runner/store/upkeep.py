"""What SQLite itself knows of a database file: whether it is sound, how big it is, and how to make it smaller."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from loomc_runner.errors import LoomcError
from loomc_runner.store.connection import BUSY_MS, READER_S, connect, in_words, reader_mode
from loomc_runner.store.schema import COPIES, VERSION

MOST_LINES = 20
"""Lines that are asked for of what is wrong with a file."""

PRAGMAS = ("page_count", "freelist_count", "page_size", "user_version")

SIZE = "CASE typeof({0}) WHEN 'blob' THEN length({0}) WHEN 'text' THEN length(CAST({0} AS BLOB)) ELSE 0 END"
"""Bytes of a value. That of a blob stands before it, and nothing of it is read; texts are short here."""

LARGEST = (
    f"SELECT run_id, states, coalesce(results, 0), whole, built_on, dropped FROM ("
    f"SELECT run_id, sum({SIZE.format('state_blob')}) AS states, sum(encoding = 'json') AS whole, "
    "sum(encoding IN ('same', 'cut', 'patch')) AS built_on, sum(encoding = 'dropped') AS dropped "
    "FROM steps GROUP BY run_id) LEFT JOIN ("
    f"SELECT run_id, sum({SIZE.format('result')}) AS results FROM calls GROUP BY run_id) USING (run_id) "
    "ORDER BY states + coalesce(results, 0) DESC, run_id LIMIT ?"
)

COMPACT_S = 10.0
"""How long compacting waits for others who write to the file or read from it."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A database file in figures: its bytes, those of its log, those in use and free inside, its version and mode."""

    size: int
    log: int
    used: int
    free: int
    version: int
    journal_mode: str


@dataclass(frozen=True, slots=True)
class Use:
    """What a run takes in the file, its child runs left out: bytes of its states and of the results of its calls.

    So many of its states are whole, built on others, and dropped.
    """

    run_id: str
    state_bytes: int
    result_bytes: int
    whole: int
    built_on: int
    dropped: int


def size_of(path: str | os.PathLike[str]) -> int:
    """Bytes that a database takes on the disk, with the log beside it; 0 when there is none."""
    return sum(file.stat().st_size for file in (Path(path), *_logs(Path(path))) if file.exists())


def copies_of(path: str | os.PathLike[str]) -> list[Path]:
    """The copies of an older database that were made beside it when it was brought up to date."""
    found = [Path(path).with_name(f"{Path(path).name}.{word}") for word in COPIES]
    return [file for file in found if file.exists()]


def measure(path: str | os.PathLike[str]) -> Measure:
    """A database file in figures; nothing is written.

    Raises:
        RunNotFound: When there is no such file.
        StoreError: When it cannot be read.
    """
    file = Path(path).resolve()
    try:
        with closing(_reader(file)) as db:
            pages, free, page, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS)
            log = sum(beside.stat().st_size for beside in _logs(file) if beside.exists())
            return Measure(file.stat().st_size, log, (pages - free) * page, free * page, version, _journal_mode(file))
    except (sqlite3.Error, OSError) as error:
        raise in_words(file, error) from error


def largest(path: str | os.PathLike[str], most: int) -> list[Use]:
    """The runs that take most, the largest first; none of a file whose tables are older. Nothing is written.

    Raises:
        RunNotFound: When there is no such file.
        StoreError: When it cannot be read.
    """
    file = Path(path).resolve()
    try:
        with closing(_reader(file)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                return []
            return [Use(*row) for row in db.execute(LARGEST, (most,))]
    except (sqlite3.Error, OSError) as error:
        raise in_words(file, error) from error


def compact(path: str | os.PathLike[str]) -> str | None:
    """Give the room of what was deleted back to the disk; why that could not be done, or None when it was.

    The file is written anew, as big as what is in it, in one transaction: whoever reads goes on meanwhile, whoever
    writes waits. It needs as much room again on the disk while it works.
    """
    file = Path(path).resolve()
    try:
        with closing(connect(file, "rw")) as db:
            db.execute(f"PRAGMA busy_timeout = {int(COMPACT_S * 1000)}")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA fullfsync = 1")
            db.execute("VACUUM")
            merged = _merged(db)
    except (sqlite3.Error, OSError) as error:
        return str(in_words(file, error))
    return None if merged else f"{file} is in use by another program, and its log cannot be merged yet"


def _merged(db: sqlite3.Connection) -> bool:
    """Whether the log could be merged into the file and cut; asked for often and briefly, since writers wait for it."""
    db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    end = time.monotonic() + COMPACT_S
    while (busy := db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]) and time.monotonic() < end:
        time.sleep(BUSY_MS / 100)
    return not busy


def damage(path: str | os.PathLike[str]) -> list[str]:
    """What SQLite finds wrong with a database file, in words; nothing when all is well.

    All of the file is read, and nothing is written or made. A file that cannot be looked into is told like damage.
    """
    file, found = Path(path).resolve(), []
    try:
        with closing(_reader(file)) as db:
            for (text,) in db.execute(f"PRAGMA integrity_check({MOST_LINES})"):
                found += [line for line in text.split("\n") if line != "ok"]
            lost = Counter((table, parent) for table, _, parent, _ in db.execute("PRAGMA foreign_key_check"))
            found += [
                f"{count} rows of {table} belong to nothing in {parent}" for (table, parent), count in lost.items()
            ]
    except LoomcError as error:
        found.append(str(error))
    except (sqlite3.Error, OSError) as error:
        found.append(str(in_words(file, error)))
    return found


def _journal_mode(path: Path) -> str:
    """What the file itself says, since a connection in a read-only folder does not see it."""
    with path.open("rb") as file:
        return "wal" if file.read(19)[18:] == b"\2" else "delete"


def _logs(path: Path) -> list[Path]:
    """Where SQLite keeps what is not merged into the file yet."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]


def _reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads the tables as they are, and waits a little for who has locked them."""
    db = connect(path, reader_mode(path))
    try:
        db.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
        db.execute("PRAGMA query_only = 1")
        db.execute(f"PRAGMA busy_timeout = {int(READER_S * 1000)}")
    except BaseException:
        db.close()
        raise
    return db
