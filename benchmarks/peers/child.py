"""One process of a comparison: a library does the work and is cut off, or it goes on after that.

The process ends with `os._exit` in the middle of step `steps`, as in a crash, so that a later one has to resume what
is on disk. What it measured is the last line that it prints.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import random
import sqlite3
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gauge import Memory, words

TINY = {"text": "x" * 200, "n": 0, "notes": []}
"""A state of about 250 bytes."""

RUN = "a1b2c3d4e5f6"
"""The id of the run, where a library lets one choose it."""

ITEM = 1000


class Cut(Exception):
    """Ends a run whose library has to write what it still holds."""


class Child:
    """What a library is asked to do, and what it takes.

    Attributes:
        path: The database.
        steps: How many steps are committed before the end.
        growing: Whether the state is a transcript to which each step adds an item of 1 KB, or stays tiny.
        resuming: Whether the steps are there already, and the first one after them is waited for.
        variant: How the library is used, where there are several ways.
        lingering: Whether the library writes later: the last step then raises `Cut`, and what the library did by
            then counts.
    """

    def __init__(self, package: str | None, options: argparse.Namespace) -> None:
        self.package = package
        self.path: Path = options.path
        self.steps: int = options.steps
        self.growing: bool = options.growing
        self.resuming: bool = options.phase == "resume"
        self.looking: bool = options.phase == "look"
        self.variant: str = options.variant
        self.lingering = False
        self._ticks = array("d")
        chance = random.Random(7)
        making = self.growing and not self.resuming
        self._items = iter([words(ITEM, chance) for _ in range(self.steps + 1)] if making else [])
        self._opened: list[sqlite3.Connection] = []
        if self.looking:
            sys.addaudithook(self._hear)
        gc.collect()
        self._memory = Memory()
        self._begun = time.perf_counter()

    def begin_step(self, n: int) -> None:
        """To be called first in step `n`, with all steps before it committed; does not return from the last one."""
        now = time.perf_counter()
        if self.resuming:
            if n != self.steps:
                self._end({"error": f"resumed at step {n}, not at {self.steps}"})
            self._end({"ms": (now - self._begun) * 1e3, "mb": self._memory.above()})
        self._ticks.append(now)
        if n == self.steps:
            if self.looking:
                self._end(self._look())
            if self.lingering:
                raise Cut
            self.end_writing()

    def end_writing(self) -> None:
        """All steps are on disk: say what they took."""
        taken = time.perf_counter() - self._ticks[0]
        self._end({"us": taken / self.steps * 1e6, "mb": self._memory.above()})

    def item(self) -> str:
        """What a step adds to the transcript; it is made before the time begins."""
        return next(self._items)

    def check(self, items: int) -> None:
        """Raise unless a state that was read back has an item of every step."""
        if items != self.steps:
            self._end({"error": f"resumed with {items} items of {self.steps}"})

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "sqlite3.connect/handle":
            self._opened.append(args[0])

    def _look(self) -> dict[str, Any]:
        """How durable the library's own connections to the file are, as they say themselves."""
        found = [how for db in self._opened if (how := _durability(db, self.path))]
        with closing(sqlite3.connect(self.path)) as db:
            (journal,) = db.execute("PRAGMA journal_mode").fetchone()
        version = importlib.metadata.version(self.package) if self.package else sqlite3.sqlite_version
        return {"version": version, "journal": journal, "synchronous": found[-1] if found else "unknown"}

    @staticmethod
    def _end(result: dict[str, Any]) -> NoReturn:
        sys.stdout.write(f"\n{json.dumps(result)}\n")
        sys.stdout.flush()
        os._exit(0)


def _durability(db: sqlite3.Connection, path: Path) -> str:
    """The `synchronous` of an open connection to the file, or nothing."""
    try:
        files = [row[2] for row in db.execute("PRAGMA database_list")]
        if path.resolve() not in [Path(file).resolve() for file in files if file]:
            return ""
        (level,) = db.execute("PRAGMA synchronous").fetchone()
    except sqlite3.Error:  # it is closed, or belongs to another thread
        return ""
    return ("OFF", "NORMAL", "FULL", "EXTRA")[level]


def main(package: str | None, work: Callable[[Child], None]) -> None:
    """Parse the command line of a peer, and let it work; its imports are done by now."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=["look", "fill", "resume"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--growing", action="store_true")
    parser.add_argument("--variant", default="")
    work(Child(package, parser.parse_args()))
    raise SystemExit("the loop ended before its last step")
