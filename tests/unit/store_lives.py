"""Other processes, for the tests of stores and owners: scripts that are run, listened to and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import loomc_runner

ROOT = Path(loomc_runner.__file__).parents[1]
PREAMBLE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from loomc_runner.store import block, finish, owners, patiently
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import *
from loomc_runner.errors import *
from loomc_runner.records import *

def say(*words):
    print(*words, flush=True)

def hear():
    sys.stdin.readline()

def wait(verb, *arguments):
    return finish(patiently(block, verb, *arguments))
"""


class Life:
    """A process that runs a script; at the end of the `with` block it is killed, with all that it has started."""

    def __init__(self, script: str, *arguments: object, command: tuple[str, ...] = (), **options: Any) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        python = [*command, sys.executable, "-c", PREAMBLE + script, *map(str, arguments)]
        options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
        self.process: Any = subprocess.Popen(python, env=environment, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def hear(self) -> str:
        """Wait for the next line it says."""
        line: str = self.process.stdout.readline()
        assert line, "it ended without a word"
        return line.strip()

    def tell(self) -> None:
        """Let it go on."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL, and only it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> str:
        """Let it end by itself; the rest of what it said, also what was read ahead with an earlier line."""
        self.process.stdin.close()
        self.process.stdin = None
        words = self.process.stdout.read()  # `communicate` would not see what is buffered
        assert self.process.wait(timeout=30) == 0, words
        return str(words).strip()


def live(script: str, *arguments: object, **options: Any) -> str:
    """Run a script to its end in a process of its own; what it said."""
    with Life(script, *arguments, **options) as life:
        return life.end()
