"""A workshop with a database of runs of every kind, and the command as it is installed."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from loomc_runner.cli import main

HERE = Path(__file__).parent
LOOMC = str(Path(sys.executable).with_name("loomc"))

UNWANTED = {"LOOMC_DB", "BROKEN", "NO_COLOR", "FORCE_COLOR", "COLUMNS"}

ENDED = ["climb", "zigzag", "poor", "stubborn", "forgiving", "named", "undeclared", "master", "method", "inner"]


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The last line on standard error; live progress stands above it."""
        return self.err.splitlines()[-1]


def environment(**more: str) -> dict[str, str]:
    """The environment of a child process: this one's, without what would change the output."""
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    return {**kept, "TERM": "xterm-256color", "TZ": "UTC", **more}


def python(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder."""
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment(**env), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the workshop, in which a run of every kind has stopped, each in its own way."""
    folder = tmp_path_factory.mktemp("finished") / "workshop"
    shutil.copytree(HERE / "workshop", folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert python(folder, "lab.py", "begin", "patient", "gentle").returncode == 0
    assert python(folder, "-W", "ignore", "lab.py", "leave", *ENDED).returncode == 0
    assert python(folder, "lab.py", "leave", "fragile", "mortal", BROKEN="1").returncode == -9
    with closing(sqlite3.connect(folder / ".loomc" / "checkpoints.db")) as db:  # what was killed has left its log
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@pytest.fixture
def workshop(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder to work in; the loops stay where they were defined."""
    shutil.copytree(finished / ".loomc", tmp_path / ".loomc")
    return tmp_path


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The workshop as it was, without any run."""
    shutil.copytree(HERE / "workshop", tmp_path / "workshop", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "workshop"


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a folder, with more environment."""
    return python


@pytest.fixture(scope="session")
def begin() -> Callable[..., Path]:
    """Begin runs of the gate in a folder, where its script is put; the folder."""

    def run(folder: Path, *loops: str, status: int = 0, **env: str) -> Path:
        shutil.copy(HERE / "workshop/gate.py", folder)
        ended = python(folder, "gate.py", *loops, **env)
        assert ended.returncode == status, ended.stderr
        return folder

    return run


@pytest.fixture
def loomc() -> Callable[..., Outcome]:
    """The installed command in a process of its own: `loomc(folder, "runs", NO_COLOR="1")`."""

    def run(folder: Path, *args: str, **env: str) -> Outcome:
        ended = subprocess.run(
            [LOOMC, *args], cwd=folder, env=environment(**env), capture_output=True, text=True, check=False, timeout=60
        )
        return Outcome(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def started() -> Callable[..., subprocess.Popen[str]]:
    """The installed command, not waited for."""

    def start(folder: Path, *args: str, **env: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([LOOMC, *args], cwd=folder, env=environment(**env), stdout=pipe, stderr=pipe, text=True)

    return start


@pytest.fixture
def on_terminal() -> Callable[..., str]:
    """Run the command, or another program, on a terminal of so many columns; what it writes there."""

    def run(folder: Path, columns: int, *args: str, program: str = LOOMC, **env: str) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        process = subprocess.Popen(
            [program, *args], cwd=folder, env={**environment(), "TERM": "xterm", **env}, **streams
        )
        os.close(theirs)
        text = read_all(ours)
        os.close(ours)
        process.wait(timeout=30)
        return text

    return run


def read_all(terminal: int) -> str:
    """Everything that is written to a terminal, until nobody writes any more."""
    text = b""
    while True:
        try:
            text += os.read(terminal, 65536)
        except OSError:
            return text.decode().replace("\r\n", "\n")


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Outcome]:
    """The same command in this process, where one of its own would add nothing but time."""

    def run(folder: Path, *args: str, **env: str) -> Outcome:
        monkeypatch.chdir(folder)
        for name in UNWANTED:
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with forgotten_modules(tmp_path_factory.getbasetemp()), pytest.raises(SystemExit) as ended:
            main(args)
        return Outcome(int(ended.value.code or 0), *capsys.readouterr())

    return run


@contextmanager
def forgotten_modules(within: Path) -> Iterator[None]:
    """What is imported from a folder inside is imported anew the next time."""
    path, modules = [*sys.path], dict(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in {*sys.modules} - {*modules}:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(within)):
                del sys.modules[name]
        sys.modules["__main__"] = modules["__main__"]
