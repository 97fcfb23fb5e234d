"""Live progress of runs: lines that move on a terminal, a plain line for each step anywhere else."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from loomc_runner.clock import format_duration
from loomc_runner.progress.board import Board, used_of
from loomc_runner.progress.footer import Footer, can_move
from loomc_runner.progress.view import CallAtWork, RunAtWork, as_text, parts, shortened, sparkline
from loomc_runner.records import Attempt, StepRecord
from loomc_runner.watching import note, watched_by

if TYPE_CHECKING:
    from rich.text import Text

__all__ = [
    "CallAtWork",
    "Display",
    "Footer",
    "RunAtWork",
    "as_text",
    "can_move",
    "join",
    "leave",
    "parts",
    "shortened",
    "shown",
    "sparkline",
    "used_of",
]


class Display(Board):
    """Shows the runs at work in this process on a stream, as lines that move where they can, else line by line."""

    def __init__(self, out: TextIO | None) -> None:
        super().__init__()
        self.out, self.users = out, 0
        self.footer = Footer(out, self.draw) if out is not None and can_move(out) else None

    def start(self) -> None:
        """Begin to draw; where that cannot be, there are plain lines."""
        if self.footer is not None:
            try:
                self.footer.start()
            except (OSError, ValueError, RuntimeError, AttributeError) as error:
                self.footer = None
                note("the progress is told line by line: %s", error)

    def finish(self) -> None:
        """Leave the terminal as it was."""
        if self.footer is not None:
            self.footer.close()

    def draw(self, width: int, height: int) -> Text:
        """All runs as they stand now."""
        views, others = self.views()
        return as_text(views, others, width, height)

    def committed(self, run_id: str, step: StepRecord[Any]) -> None:
        """Show the step."""
        super().committed(run_id, step)
        if self.footer is None and (view := self.view(run_id, step.step_n)):
            failed = [f"failed: {shortened(step.error)}"] if step.error else []
            self._say(" · ".join([f"run {shortened(run_id)}", *parts(view, bars=False), *failed]))

    def failed(self, run_id: str, attempt: Attempt, delay: float | None) -> None:
        """Show the try that failed; how the outermost run ends, its caller tells."""
        super().failed(run_id, attempt, delay)
        if self.footer is None and (delay is not None or self.has_parent(run_id)):
            again = "" if delay is None else " · tried again" + (f" in {format_duration(delay)}" if delay else "")
            self._say(f"run {shortened(run_id)} · step {attempt.step_n} · {shortened(attempt.error)}{again}")

    def _say(self, line: str) -> None:
        if self.out is not None and self.users:
            with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more, or it is no stream
                self.out.write(f"{line}\n")
                self.out.flush()


class _Stage:
    """Where the one display of this process is."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.display: Display | None = None
        self._go_on: list[Callable[[], None]] = []

    def hold_still(self) -> None:
        """A process is about to be forked."""
        if self.display is not None and self.display.footer is not None:
            self._go_on.append(self.display.footer.hold_still())

    def go_on(self) -> None:
        """It was."""
        while self._go_on:
            self._go_on.pop()()

    def end(self) -> None:
        """The process ends, and a run is still on display: its stream was never closed."""
        if self.display is not None:
            self.display.finish()

    def clear(self) -> None:
        """A forked process has neither the thread that draws nor those that held a lock."""
        if self.display is not None:
            self.display.forget()
            self.display.users = 0
        self.lock, self.display = threading.RLock(), None
        self._go_on.clear()


_stage = _Stage()
atexit.register(_stage.end)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stage.hold_still, after_in_parent=_stage.go_on, after_in_child=_stage.clear)


def join() -> Display:
    """The one display of this process; the first who joins starts it."""
    with _stage.lock:
        if _stage.display is None:
            display = Display(sys.stderr)
            _stage.display = display
            display.start()
        _stage.display.users += 1
        return _stage.display


def leave(display: Display) -> None:
    """Do without the display; the last who leaves ends it."""
    with _stage.lock:
        if display is not _stage.display:  # that of the process that this one was forked from
            return
        display.users -= 1
        if not display.users:
            _stage.display = None
            display.finish()


@contextmanager
def shown() -> Iterator[None]:
    """Show every run of this context on standard error while it works, child runs below their parents.

    However many ask for it, in threads and in tasks, there is one display, and it is gone at the end. What is printed
    and logged meanwhile appears above it. Off a terminal each step is a plain line.
    """
    display = join()
    try:
        with watched_by(display):
            yield
    finally:
        leave(display)
