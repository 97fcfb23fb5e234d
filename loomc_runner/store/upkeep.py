"""What SQLite itself knows of a database file: whether it is sound, and how big it is."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from loomc_runner.errors import LoomcError
from loomc_runner.store.connection import READER_S, connect, in_words, reader_mode

MOST_LINES = 20
"""Lines that are asked for of what is wrong with a file."""


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
