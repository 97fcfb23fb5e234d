"""A few lines that stay at the bottom of a terminal while others write above them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from loomc_runner.watching import log

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

INTERVAL = 0.1
"""Seconds between two looks at what there is to show."""

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def can_move(out: TextIO | None) -> bool:
    """Whether lines on this stream can be written over: it is a terminal that knows how, and Unicode."""
    if out is None or not out.isatty() or os.environ.get("TERM", "").lower() in {"dumb", "unknown"}:
        return False
    return (getattr(out, "encoding", None) or "").lower().replace("-", "").startswith("utf")


class Footer:
    """Lines at the bottom of a terminal, drawn anew ten times a second by a thread of their own.

    Whole lines that are written to standard output or standard error of the same terminal appear above them, however
    they are written: the streams themselves are held, so that this is also true of a log handler that was made
    before. In a file or a pipe nothing changes. A forked process has no footer, and writes as ever.

    Args:
        out: The terminal.
        draw: Gives the lines, for so many columns and lines of the terminal.
    """

    def __init__(self, out: TextIO, draw: Callable[[int, int], Text]) -> None:
        self.out, self.draw = out, draw
        self._write = out.write
        self._held: list[tuple[TextIO, Callable[[str], int], list[str]]] = []
        self._frame = ""
        self._lock = threading.RLock()  # for writing; whoever works on a run never takes it, unless it prints
        self._stop = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._refresh, name="loomc-progress", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to draw."""
        try:
            self._hold()
            self._put(HIDE, "")
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take the lines away and leave the terminal as it was; a second Ctrl-C does not get in between."""
        try:
            self._close()
        except KeyboardInterrupt:
            self._close()
            raise

    def _close(self) -> None:
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            for stream, ours, _ in self._held:
                if vars(stream).get("write") is ours:
                    vars(stream).pop("write")  # that of its class is back
            rest = "".join("".join(begun) for _, _, begun in self._held)
            self._held.clear()
            with suppress(OSError, ValueError):  # the terminal is gone, or closed
                self._put(rest, "", end=SHOW)

    def _hold(self) -> None:
        """Let what is written to this terminal pass through here."""
        for stream in (sys.stdout, sys.stderr):
            if stream is None or any(stream is held for held, _, _ in self._held):
                continue
            if stream is self.out or _is_same_terminal(stream, self.out):
                with suppress(OSError, ValueError, AttributeError, TypeError):  # one that is no ordinary stream
                    stream.flush()
                    begun: list[str] = []
                    ours = self._writer(stream.write, begun)
                    stream.write = ours  # type: ignore[method-assign]
                    self._held.append((stream, ours, begun))

    def _writer(self, write: Callable[[str], int], begun: list[str]) -> Callable[[str], int]:
        def above(text: str) -> int:
            if not isinstance(text, str) or self._stop.is_set() or os.getpid() != self._pid:
                return write(text)
            with self._lock:
                whole, newline, rest = text.rpartition("\n")
                if newline:
                    lines = "".join(begun) + whole + newline
                    begun[:] = [rest] if rest else []
                    self._put(lines, self._frame)
                elif rest:
                    begun.append(rest)
            return len(text)

        return above

    def _refresh(self) -> None:
        console = _console(self.out)
        try:
            while not self._stop.is_set():
                frame = _frame(console, self.draw(*_size(self.out)))
                with self._lock:
                    if frame != self._frame and not self._stop.is_set():
                        self._put("", frame)
                self._stop.wait(INTERVAL)
        except (OSError, ValueError):  # the terminal is gone; the runs go on
            return
        except Exception:  # noqa: BLE001 - no mistake of a display may show itself between other people's lines
            log.exception("the progress cannot be shown any more; the run goes on")

    def _put(self, above: str, frame: str, *, end: str = "") -> None:
        """Write in one go, in the place of the old frame: what is to stay above, and a frame."""
        rows = self._frame.count("\n")
        erase = f"\r\x1b[{rows}A\x1b[J" if rows else "\r\x1b[J" if self._frame else ""
        self._frame = frame
        text = f"{erase}{above}{frame}{end}"
        if text:
            try:
                self._write(text)
            except UnicodeEncodeError:  # half of a character
                encoding = self.out.encoding
                self._write(text.encode(encoding, "backslashreplace").decode(encoding))
            self.out.flush()


def _is_same_terminal(stream: Any, out: TextIO) -> bool:
    try:
        return bool(stream.isatty()) and os.ttyname(stream.fileno()) == os.ttyname(out.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _size(out: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal."""
    try:
        columns, lines = os.get_terminal_size(out.fileno())
    except (OSError, ValueError, AttributeError):
        columns, lines = 0, 0
    return columns or 80, lines or 24


def _console(out: TextIO) -> Console:
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR"))  # said, since older versions of rich take an empty one for set
    return Console(file=out, force_terminal=True, no_color=plain, highlight=False, markup=False, emoji=False)


def _frame(console: Console, text: Text) -> str:
    """The lines as they are sent to the terminal, with its colours."""
    if not text.plain:
        return ""
    with console.capture() as captured:
        console.print(text, end="", no_wrap=True, overflow="crop", soft_wrap=True)
    return captured.get()
