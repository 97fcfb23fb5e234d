"""SIGTERM ends a run in order: the step is left, and the run is paused instead of merely dying."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_inside = 0  # loops under way on the main thread; async ones end in any order


@contextmanager
def orderly_termination() -> Iterator[None]:
    """While inside, SIGTERM raises SystemExit(143), so that the run is marked as paused.

    Only on the main thread, and only over the default disposition, which the last loop puts back; a program with
    a handler of its own keeps it.
    """
    global _inside  # noqa: PLW0603 - a process has one disposition
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, _leave):
        yield
        return
    _inside += 1
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        _inside -= 1
        if not _inside and signal.getsignal(signal.SIGTERM) is _leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)
