"""Who runs a run: one lock file per process, released by the kernel when the process dies."""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
from pathlib import Path

from loomc_runner.errors import RunLocked

# flock itself, and not the library filelock: in its versions before 4 a forked child that collects the lock object
# unlocks it for the parent too (seen with 3.16 and 3.20).

FOLDER = "owners"

_guard = threading.Lock()
_own: dict[Path, tuple[str, int]] = {}
_held: set[tuple[str, str]] = set()


def own_token(folder: Path) -> str:
    """The name under which this process owns runs of the databases in a folder; taken at the first use."""
    with _guard:
        token, descriptor = _own.get(folder, ("", -1))
        if not token or not _path(folder, token).exists():  # without its file it counts as dead
            if token:
                os.close(descriptor)
            _own[folder] = _take(folder)
        return _own[folder][0]


def is_alive(folder: Path, token: str) -> bool:
    """Whether the process that owns under this name still lives; asks the kernel and changes nothing."""
    if folder in _own and _own[folder][0] == token:
        return True
    try:
        descriptor = os.open(_path(folder, token), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's, who alone may take it over
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def registered(folder: Path) -> list[str]:
    """The names under which processes have owned runs of the databases in a folder; of the dead too, until swept."""
    return sorted(path.stem for path in (folder / FOLDER).glob("*.lock"))


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


def _take(folder: Path) -> tuple[str, int]:
    """A new name with its locked file; the files of the dead are removed, since a missing one means dead as well."""
    (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
    for path in (folder / FOLDER).glob("*.lock"):
        if not is_alive(folder, path.stem):
            path.unlink(missing_ok=True)
    token = f"{os.getpid()}-{os.urandom(6).hex()}"
    unlocked = folder / FOLDER / token
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(_path(folder, token))  # it gets its name when it is locked, so that nobody takes it for dead
    except BaseException:
        os.close(descriptor)
        unlocked.unlink(missing_ok=True)
        raise
    return token, descriptor


def _path(folder: Path, token: str) -> Path:
    return folder / FOLDER / f"{token}.lock"


def _release_all() -> None:
    for folder, (token, descriptor) in _own.items():
        _path(folder, token).unlink(missing_ok=True)  # a missing file means dead, so it goes before the lock does
        os.close(descriptor)
    _own.clear()


def _start_anew() -> None:
    """In a forked child: the parent's locks and runs are the parent's.

    Its descriptors are closed, never unlocked: the lock stays with the parent, and ends with it.
    """
    global _guard  # noqa: PLW0603 - one registry a process, and a fork makes another process
    _guard = threading.Lock()  # another thread of the parent may have held it at the fork
    for _, descriptor in _own.values():
        os.close(descriptor)
    _own.clear()
    _held.clear()


atexit.register(_release_all)
os.register_at_fork(after_in_child=_start_anew)
