"""Where runs are kept: `open_store` gives the store that a `checkpoint=` option or `--db` names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from loomc_runner.errors import SpecError
from loomc_runner.store.base import (
    ENDED,
    MOST_TRIES,
    Resumption,
    Store,
    block,
    finish,
    in_event_loop,
    patiently,
    sleep_of,
    tries_here,
)

if TYPE_CHECKING:
    from loomc_runner.store.memory import MemoryStore
    from loomc_runner.store.sqlite import SQLite

__all__ = [
    "ENDED",
    "MOST_TRIES",
    "Resumption",
    "Store",
    "block",
    "default_path",
    "finish",
    "in_event_loop",
    "open_reader",
    "open_store",
    "patiently",
    "sleep_of",
    "tries_here",
]

DEFAULT = Path(".loomc") / "checkpoints.db"

URL = "sqlite:///"

_opened: dict[str, Store] = {}


def default_path() -> Path:
    """The database in use when none is named: `LOOMC_DB`, else `.loomc/checkpoints.db` in this folder."""
    return _path_in(os.environ.get("LOOMC_DB") or str(DEFAULT))


def check_checkpoint(checkpoint: object) -> None:
    """Raise `SpecError` unless the value can name a store; opens and creates nothing."""
    if checkpoint is None:
        raise SpecError('checkpoint=None: say "sqlite" for the default file, or "memory" to keep nothing')
    if isinstance(checkpoint, str | os.PathLike):
        text = os.fspath(checkpoint)
        if not text.removeprefix(URL) or ("://" in text and not text.startswith(URL)):
            raise SpecError(f'checkpoint={checkpoint!r}: give "sqlite", "memory", a path or sqlite:///PATH')
    elif isinstance(checkpoint, type):
        raise SpecError(f"checkpoint={checkpoint!r}: give a store, not its class")
    elif missing := [verb for verb in _verbs() if not callable(getattr(checkpoint, verb, None))]:
        raise SpecError(f"checkpoint={checkpoint!r}: this is no Store, it lacks {', '.join(missing)}")


def open_store(checkpoint: str | os.PathLike[str] | Store) -> Store:
    """The store a `checkpoint=` option names; the same one for the same file, all over the process."""
    if not isinstance(checkpoint, str | os.PathLike):
        return checkpoint
    text = os.fspath(checkpoint)
    if text == "memory":
        return _opened.get(text) or _opened.setdefault(text, _memory_store())
    path = default_path() if text == "sqlite" else _path_in(text)
    key = str(path.absolute())
    return _opened.get(key) or _opened.setdefault(key, _sqlite_store(path))  # a thread may have been faster


def open_reader(path: str | os.PathLike[str] | None = None) -> Store:
    """A store that only reads an existing file."""
    from loomc_runner.store.sqlite import SQLite

    return SQLite(default_path() if path is None else _path_in(os.fspath(path)), read_only=True)


def _path_in(text: str) -> Path:
    return Path(text.removeprefix(URL))


def _memory_store() -> MemoryStore:
    from loomc_runner.store.memory import MemoryStore

    return MemoryStore()


def _sqlite_store(path: Path) -> SQLite:
    from loomc_runner.store.sqlite import SQLite

    return SQLite(path)


def _verbs() -> list[str]:
    return [name for name, value in vars(Store).items() if callable(value) and not name.startswith("_")]
