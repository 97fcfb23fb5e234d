"""Commands whose output is looked at while they work, on a terminal or into a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loomc_runner.errors import LoomcError
from loomc_runner.records import RunStatus
from loomc_runner.store import open_reader

LOOMC = str(Path(sys.executable).with_name("loomc"))
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PATIENCE = 30


class Live:
    """A process whose output is read while it works; on a terminal of so many columns, or into a pipe."""

    def __init__(self, folder: Path, *args: str, columns: int | None = None, **env: str) -> None:
        kept = {k: v for k, v in os.environ.items() if k not in {"LOOMC_DB", "NO_COLOR", "COLUMNS", "FORCE_COLOR"}}
        ours, theirs = os.pipe() if columns is None else pty.openpty()
        if columns is not None:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.process = subprocess.Popen(
            args,
            cwd=folder,
            env={**kept, "TERM": "xterm", **env},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE if columns is None else theirs,
        )
        os.close(theirs)
        self._ours, self._bytes, self._more = ours, b"", threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self._ours, 65536)
            except OSError:
                more = b""
            with self._more:
                self._bytes += more
                self._more.notify_all()
            if not more:
                os.close(self._ours)
                return

    @property
    def text(self) -> str:
        """What was written, without colours."""
        return COLOUR.sub("", self._bytes.decode(errors="replace").replace("\r\n", "\n"))

    def await_text(self, *patterns: str) -> None:
        """Wait until each pattern has been written."""
        for pattern in patterns:
            with self._more:
                found = self._more.wait_for(lambda: re.search(pattern, self.text), PATIENCE)  # noqa: B023
            assert found, f"{pattern} is not in:\n{self.text[-3000:]}"

    def end(self) -> tuple[int, str, str]:
        """Its status, its output and its errors, when it has ended."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        err = self.process.stderr.read().decode() if self.process.stderr else ""
        return status, self.text, err


@contextmanager
def living(folder: Path) -> Iterator[Callable[..., Live]]:
    """What starts processes in a folder with the loops that can be waited for; at the end none is left."""
    shutil.copy(Path(__file__).parent / "workshop/longer.py", folder)
    begun: list[Live] = []

    def run(*args: str, columns: int | None = None, **env: str) -> Live:
        begun.append(Live(folder, *args, columns=columns, **env))
        return begun[-1]

    yield run
    for each in begun:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        if each.process.stderr:
            each.process.stderr.close()


def until(true: Callable[[], object]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        os.sched_yield()


def await_steps(folder: Path, run_id: str, steps: int) -> None:
    """Wait until the run has so many steps."""
    file = folder / ".loomc/checkpoints.db"
    until(file.exists)
    store = open_reader(file)

    def is_there() -> bool:
        with suppress(LoomcError):  # it is being made
            return store.get_run(run_id).steps >= steps
        return False

    until(is_there)
    store.close()


def await_death(folder: Path, run_id: str) -> None:
    """Wait until nobody works on the run."""
    store = open_reader(folder / ".loomc/checkpoints.db")
    until(lambda: store.get_run(run_id).status is RunStatus.INTERRUPTED)
    store.close()
