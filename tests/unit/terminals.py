"""A real pseudo-terminal in this process, and what is to be seen on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from typing import Self, TextIO

CODE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PATIENCE = 20


class Terminal:
    """A terminal of so many columns and lines: `stream` is written to, `text` has all that was written.

    As a context it is standard output and standard error.
    """

    def __init__(self, columns: int = 100, lines: int = 24) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.stream: TextIO = os.fdopen(theirs, "w", encoding="utf-8")  # closed with the terminal
        self.columns = columns
        self._bytes, self._written = b"", threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                return
            with self._written:
                self._bytes += more
                self._written.notify_all()

    def __enter__(self) -> Self:
        self._kept, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), self.stream, self.stream
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._kept

    @property
    def text(self) -> str:
        """All that was written, with its codes."""
        return self._bytes.decode(errors="replace").replace("\r\n", "\n")

    @property
    def plain(self) -> str:
        """The same without colours."""
        return COLOUR.sub("", self.text)

    def await_text(self, *patterns: str) -> None:
        """Wait until each pattern has been written at some time."""
        for pattern in patterns:
            with self._written:
                seen = self._written.wait_for(lambda: re.search(pattern, self.plain), timeout=PATIENCE)  # noqa: B023
            assert seen, f"{pattern} is not in {self.plain[-2000:]}"

    def close(self) -> None:
        """Nothing more is written."""
        if not self.stream.closed:
            self.stream.close()
            self._reader.join()
            os.close(self._ours)

    def screen(self) -> str:
        """What is to be seen when all was written: what was erased is gone."""
        self.close()
        return "\n".join(line.rstrip() for line in shown(self.plain)).strip("\n")


def shown(text: str) -> list[str]:
    """The lines of a terminal to which this was written, without the codes that move its cursor."""
    lines, at, column = [""], 0, 0
    for part in CODE.findall(text):
        if part.endswith("A") and part[0] == "\x1b":
            at = max(at - int(part[2:-1] or 1), 0)
        elif part == "\x1b[J":
            lines[at:] = [lines[at][:column]]
        elif part == "\r":
            column = 0
        elif part == "\n":
            at, column = at + 1, 0
            lines += [""] * (at + 1 - len(lines))
        elif part[0] != "\x1b":
            lines[at] = lines[at][:column].ljust(column) + part + lines[at][column + len(part) :]
            column += len(part)
    return lines
