"""SIGTERM ends a run in order: its step is finished and committed, and the run paused, before the process ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_inside = 0  # loops under way on the main thread; async ones end in any order
_asked = 0  # how often it has come


@contextmanager
def orderly_termination() -> Iterator[None]:
    """While inside, SIGTERM asks the loops to stop after their steps, and ends the process then, with status 143.

    A second SIGTERM ends it at once. Only on the main thread, and only over the default disposition, which the last
    loop puts back; a program with a handler of its own keeps it.
    """
    global _inside  # noqa: PLW0603 - a process has one disposition
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, _ask):
        yield
        return
    _inside += 1
    signal.signal(signal.SIGTERM, _ask)
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            _leave()


def termination_asked() -> bool:
    """Whether SIGTERM has come: no further step is to start in this process."""
    return _asked > 0


def _ask(number: int, _frame: Any) -> None:
    global _asked  # noqa: PLW0603 - a process ends once
    _asked += 1
    if _asked > 1:
        raise SystemExit(128 + number)


def _leave() -> None:
    """The last loop has ended: put back what was, and end the process if that was asked for."""
    global _asked
    if signal.getsignal(signal.SIGTERM) is _ask:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asked, _asked = _asked, 0
    if asked == 1:  # else it is on its way already
        raise SystemExit(128 + signal.SIGTERM)


def _forget() -> None:
    """A forked child is no loop of ours: it ends like any process."""
    global _inside, _asked  # noqa: PLW0603 - a forked process has its own
    _inside = _asked = 0
    if signal.getsignal(signal.SIGTERM) is _ask:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
