"""A few lines that stay at the bottom of a terminal while others write above them."""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from loomc_runner.report import printable
from loomc_runner.watching import note

if TYPE_CHECKING:
    from rich.text import Text

INTERVAL = 0.1
"""Seconds between two looks at what there is to show."""

CLOSING = 1.0
"""Seconds to wait at the end for a terminal that takes nothing, before it is left as it is."""

MOST_BEGUN = 4096
"""Characters of a line that has only begun; then it is written as it is."""

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def can_move(out: TextIO | None) -> bool:
    """Whether lines on this stream can be written over: it is a terminal that knows how, and Unicode."""
    if out is None or not _is_terminal(out) or os.environ.get("TERM", "").lower() in {"dumb", "unknown"}:
        return False
    return (getattr(out, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def _is_terminal(out: Any) -> bool:
    """Whether it says so; a stand-in for a stream may lack the question, and a closed one refuses it."""
    try:
        return bool(out.isatty())
    except (AttributeError, OSError, ValueError):
        return False


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
        self._write: Callable[[str], int] = partial(type(out).write, out)  # also where somebody has put another way
        self._held: list[_Held] = []
        self._frame = self._lines = ""
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

    def hold_still(self) -> Callable[[], None]:
        """Draw nothing until what is given back is called: a process that is forked now finds no stream in use."""
        if self._lock.acquire(timeout=CLOSING):
            return self._lock.release
        return lambda: None  # a terminal that takes nothing

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
            self._thread.join(CLOSING)
        for held in self._held:
            held.let_go()
        if not self._lock.acquire(timeout=CLOSING):  # a terminal that takes nothing: leave it alone
            return
        try:
            begun, self._lines = self._begun(), ""
            self._held.clear()
            with suppress(OSError, ValueError):  # the terminal is gone, or closed
                if select.select([], [self.out], [], CLOSING)[1]:
                    self._put(begun, "", end=SHOW)
        finally:
            self._lock.release()

    def _hold(self) -> None:
        """Let what is written to this terminal pass through here."""
        for stream in (sys.stdout, sys.stderr):
            if stream is None or any(stream is held.stream for held in self._held):
                continue
            if stream is self.out or _is_same_terminal(stream, self.out):
                with suppress(OSError, ValueError, AttributeError, TypeError):  # one that is no ordinary stream
                    stream.flush()
                    self._held.append(_Held(stream, self._above))

    def _above(self, held: _Held, text: str) -> int:
        """Write what is whole above the lines; what has only begun stands right over them until it ends."""
        if not isinstance(text, str) or self._stop.is_set() or os.getpid() != self._pid:
            return held.write(text)
        with self._lock:
            whole, newline, rest = f"{held.begun}{text}".rpartition("\n")
            if len(rest) > MOST_BEGUN:
                whole, newline, rest = f"{whole}{newline}{rest}", "\n", ""
            held.begun = rest
            if newline and held.is_plain:
                self._put(whole + newline, self._with_begun())
            elif newline:  # somebody else's way to write: it gets what is its own
                self._put("", "")
                held.write(whole + newline)
                self._put("", self._with_begun())
        return len(text)  # what has only begun is shown when it still has a little later: a print writes in two parts

    def _begun(self) -> str:
        return "".join(held.begun for held in self._held)

    def _with_begun(self) -> str:
        """The lines, below what was begun to be written, such as a question that waits for its answer."""
        begun = self._begun().rpartition("\r")[2]
        shown = printable(begun)[-(_size(self.out)[0] - 1) // 2 :] if begun else ""  # some characters are two wide
        return f"{shown}\n{self._lines}" if shown else self._lines

    def _refresh(self) -> None:
        try:
            while not self._stop.is_set():
                lines = _rendered(self.draw(*_size(self.out)))
                with self._lock:
                    self._lines = lines
                    if (frame := self._with_begun()) != self._frame and not self._stop.is_set():
                        self._put("", frame)
                self._stop.wait(INTERVAL)
        except (OSError, ValueError):  # the terminal is gone; the runs go on
            return
        except Exception:  # noqa: BLE001 - no mistake of a display may show itself between other people's lines
            note("the progress cannot be shown any more; the run goes on", exc_info=True)

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


class _Held:
    """A stream whose `write` passes through a footer, and what was begun to be written to it."""

    def __init__(self, stream: TextIO, above: Callable[[_Held, str], int]) -> None:
        self.stream, self.begun = stream, ""
        self.before = vars(stream).get("write")  # somebody may have put a way of their own there
        self.write: Callable[[str], int] = stream.write
        self.ours = partial(above, self)
        stream.write = self.ours  # type: ignore[method-assign]

    @property
    def is_plain(self) -> bool:
        """Whether it writes to the terminal and nowhere else."""
        return self.before is None

    def let_go(self) -> None:
        """Give it back the way to write that it had, unless somebody has changed that since."""
        if vars(self.stream).get("write") is self.ours:
            vars(self.stream).pop("write")
            if self.before is not None:
                vars(self.stream)["write"] = self.before


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


def _rendered(text: Text) -> str:
    """The lines as they are sent to a terminal, with its colours."""
    from rich.console import Console

    if not text.plain:
        return ""
    out = io.StringIO()
    plain = bool(os.environ.get("NO_COLOR"))  # said, since older versions of rich take an empty one for set
    console = Console(file=out, force_terminal=True, no_color=plain, highlight=False, markup=False, emoji=False)
    console.print(text, end="", no_wrap=True, overflow="crop", soft_wrap=True)
    return out.getvalue()
