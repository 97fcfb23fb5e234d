"""The database that a command works on: named by `--db`, or found where runs are kept by default."""

from __future__ import annotations

import shlex

from loomc_runner.records import Run
from loomc_runner.report import command_to_go_on
from loomc_runner.store import Store, default_path


def path_of(db: str | None) -> str:
    """Where its file is."""
    return str(default_path()) if db is None else db.removeprefix("sqlite:///")


def url_of(db: str | None) -> str:
    """The database as `checkpoint=` takes it; as a URL, since a file may be called `memory`."""
    return f"sqlite:///{path_of(db)}"


def option_of(db: str | None) -> str:
    """What a next command needs to find the same database."""
    return "" if db is None else f" --db {shlex.quote(db)}"


def next_command(store: Store, run: Run, db: str | None) -> str | None:
    """The command that goes on with the run, as it can be typed here."""
    command = command_to_go_on(store, run)
    return None if command is None else command + option_of(db)
