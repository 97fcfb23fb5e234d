"""Where runs are kept: `open_store` gives the store that a `checkpoint=` option or `--db` names."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from loomc_runner.errors import SpecError
from loomc_runner.store.base import Resumption, Store, block, finish, in_event_loop, patiently

if TYPE_CHECKING:
    from loomc_runner.store.memory import MemoryStore
    from loomc_runner.store.sqlite import SQLiteStore

__all__ = [
    "Resumption",
    "Store",
    "block",
    "default_path",
    "finish",
    "in_event_loop",
    "open_reader",
    "open_store",
    "patiently",
]

DEFAULT = Path(".loomc") / "checkpoints.db"

_opened: dict[str, Store] = {}
_guard = Lock()


def default_path() -> Path:
    """The database in use when none is named: `LOOMC_DB`, else `.loomc/checkpoints.db` in this folder."""
    return Path(os.environ.get("LOOMC_DB") or DEFAULT)


def check_checkpoint(checkpoint: object) -> None:
    """Raise `SpecError` unless the value can name a store; opens and creates nothing."""
    if checkpoint is None:
        raise SpecError('checkpoint=None: say "sqlite" for the default file, or "memory" to keep nothing')
    if isinstance(checkpoint, str | os.PathLike):
        text = os.fspath(checkpoint)
        if not text or ("://" in text and not text.startswith("sqlite:///")):
            raise SpecError(f'checkpoint={checkpoint!r}: give "sqlite", "memory", a path or sqlite:///PATH')
    elif missing := [verb for verb in _verbs() if not callable(getattr(checkpoint, verb, None))]:
        raise SpecError(f"checkpoint={checkpoint!r}: this is no Store, it lacks {', '.join(missing)}")


def open_store(checkpoint: str | os.PathLike[str] | Store) -> Store:
    """The store a `checkpoint=` option names; the same one for the same file, all over the process."""
    if not isinstance(checkpoint, str | os.PathLike):
        return checkpoint
    text = os.fspath(checkpoint)
    with _guard:
        if text == "memory":
            return _opened.setdefault("memory", _memory_store())
        path = default_path() if text == "sqlite" else Path(text.removeprefix("sqlite:///"))
        key = str(path.absolute())
        if key not in _opened:
            _opened[key] = _sqlite_store(path)
        return _opened[key]


def open_reader(path: str | os.PathLike[str] | None = None) -> Store:
    """A store that only reads an existing file."""
    from loomc_runner.store.sqlite import SQLiteStore

    return SQLiteStore(default_path() if path is None else path, read_only=True)


def _memory_store() -> MemoryStore:
    from loomc_runner.store.memory import MemoryStore

    return MemoryStore()


def _sqlite_store(path: Path) -> SQLiteStore:
    from loomc_runner.store.sqlite import SQLiteStore

    return SQLiteStore(path)


def _verbs() -> list[str]:
    return [name for name, value in vars(Store).items() if callable(value) and not name.startswith("_")]
