"""The agent's tools: search and read Python files, run a test file; and what their syntax tree tells."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from fixing.trial import SECRETS
from loomc_runner import Retry, tool

MOST_HITS = 1000
SKIPPED = {"__pycache__", "build", "dist", "node_modules", "site-packages"}


@dataclass(frozen=True)
class Hit:
    """A line that matches."""

    path: str
    line: int
    text: str


@dataclass(frozen=True)
class Part:
    """Some lines of a file, and how many it has."""

    lines: tuple[str, ...]
    of: int


@dataclass(frozen=True)
class Outcome:
    """How the tests of a file went, and the last that pytest said."""

    path: str
    passed: int
    failed: int
    tail: str


class PytestDied(RuntimeError):
    """Pytest did not come to its end; out of memory, say, so it is worth another try."""

    category = "transient"


@tool
def search(pattern: str, root: str) -> list[Hit]:
    """Find the lines that match in the Python files of a folder, or in one file."""
    regex = re.compile(pattern)
    lines = ((path, *line) for path in python_files(Path(root)) for line in enumerate(lines_of(path), start=1))
    hits = (Hit(str(path), number, text.strip()) for path, number, text in lines if regex.search(text))
    return list(islice(hits, MOST_HITS))


@tool
def read(path: str, first: int, last: int) -> Part:
    """Read some lines of a file; the first is 1, and the last is included."""
    lines = lines_of(Path(path))
    return Part(tuple(lines[first - 1 : last]), len(lines))


@tool(timeout="5m", retry=Retry(attempts=2, wait="1s"))
def run_tests(path: str, folder: str) -> Outcome:
    """Run a test file with pytest in a process of its own, seen from the folder of the repository.

    Raises:
        PytestDied: It was killed, or broke.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "--tb=short", "-p", "no:cacheprovider", path]
    command += ["-n", "0"] if find_spec("xdist") else []
    ours = {name: value for name, value in os.environ.items() if name not in SECRETS}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=ours | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a group of its own, so that what the tests start can be ended too
    )
    with process:
        try:
            tail = process.communicate()[0].strip().splitlines()[-12:]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode < 0 or process.returncode == 3:
        raise PytestDied(f"pytest {path} ended with status {process.returncode}")
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", tail[-1] if tail else "")
    }
    return Outcome(path, counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0), "\n".join(tail))


def python_files(root: Path) -> Iterator[Path]:
    """Give the Python files below a folder, without hidden folders, caches and virtual environments."""
    if root.is_file():
        yield root
        return
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or entry.name in SKIPPED or entry.is_symlink() or (entry / "pyvenv.cfg").exists():
            continue
        if entry.is_dir() or entry.suffix == ".py":
            yield from python_files(entry)


def lines_of(path: Path) -> list[str]:
    """Read a file into lines, counted as Python counts them."""
    return path.read_text(encoding="utf-8", errors="replace").split("\n")


def users_in(source: str, symbol: str) -> list[str]:
    """Name the functions and classes that use a symbol, as `Class.method`; `module` is what stands outside of all."""
    tree, found = ast.parse(source), dict[str, None]()
    renamed = {alias.asname for alias in ast.walk(tree) if isinstance(alias, ast.alias) and alias.name == symbol}

    def visit(node: ast.AST, place: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            place = f"{place}.{node.name}".strip(".")
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        if name == symbol or (name and name in renamed):
            found[place or "module"] = None
        for child in ast.iter_child_nodes(node):
            visit(child, place)

    visit(tree, "")
    return list(found)
