"""Who runs a run: one lock file per process, released by the kernel when the process dies."""

from __future__ import annotations

import atexit
import os
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from loomc_runner.errors import RunLocked

if TYPE_CHECKING:
    from filelock import FileLock

FOLDER = "owners"

_guard = threading.Lock()
_own: dict[Path, tuple[str, FileLock]] = {}
_held: set[tuple[str, str]] = set()
_inherited: list[object] = []


def own_token(folder: Path) -> str:
    """The name under which this process owns runs of the databases in a folder; taken at the first use."""
    from filelock import FileLock

    with _guard:
        if folder not in _own:
            (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
            token = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
            # Not thread-local: the lock belongs to the process, whichever thread came first.
            lock = FileLock(_path(folder, token), thread_local=False)
            lock.acquire(timeout=0)
            _own[folder] = token, lock
        return _own[folder][0]


def is_alive(folder: Path, token: str) -> bool:
    """Whether the process that owns under this name still lives; asks the kernel and changes nothing."""
    import fcntl

    if folder in _own and _own[folder][0] == token:
        return True
    try:
        descriptor = os.open(_path(folder, token), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def forget(folder: Path, token: str) -> None:
    """Remove the file of a dead owner."""
    _path(folder, token).unlink(missing_ok=True)


def hold(store: str, run_id: str) -> None:
    """Note that a thread of this process works on a run.

    Raises:
        RunLocked: When another one does already.
    """
    with _guard:
        if (store, run_id) in _held:
            raise RunLocked(f"run {run_id} is being worked on in this process already; wait for it, or resume it later")
        _held.add((store, run_id))


def let_go(store: str, run_id: str) -> None:
    """Note that nobody in this process works on the run any more."""
    with _guard:
        _held.discard((store, run_id))


def _path(folder: Path, token: str) -> Path:
    return folder / FOLDER / f"{token}.lock"


def _release_all() -> None:
    for folder, (token, lock) in list(_own.items()):
        forget(folder, token)  # a missing file means dead, so it goes before the lock does
        lock.release()
    _own.clear()


def _start_anew() -> None:
    """In a forked child: the parent's locks and runs are the parent's."""
    global _guard  # noqa: PLW0603 - one registry a process, and a fork makes another process
    _guard = threading.Lock()  # another thread of the parent may have held it at the fork
    _inherited.extend(_own.values())  # kept, since a lock that is collected would be unlocked for the parent too
    _own.clear()
    _held.clear()


atexit.register(_release_all)
os.register_at_fork(after_in_child=_start_anew)
