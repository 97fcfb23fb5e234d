"""Real deaths: a life is a forked process that kills itself with SIGKILL at a chosen moment.

The package is imported once and forked many times, since a new Python costs a quarter of a second.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - what a life imports late is imported here, once for all of them
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import closing
from typing import Any, Literal, NamedTuple

from loomc_runner.report.verify import verify
from loomc_runner.store import Store
from loomc_runner.store.sqlite import SQLite
from loomc_runner.store.upkeep import damage
from loomc_runner.testing import FaultyStore

FORK = multiprocessing.get_context("fork")

KILLED = -signal.SIGKILL


class Death(NamedTuple):
    """When a life ends: before or after a write of the store, or inside the user's functions; counted from 1."""

    where: Literal["before", "after", "inside"] = "inside"
    number: int | None = None
    signal: int = signal.SIGKILL

    def come(self) -> None:
        """Let it happen, now."""
        os.kill(os.getpid(), self.signal)

    def around(self, store: Store) -> FaultyStore:
        """The store, around a write of which it happens."""
        if self.where == "inside":
            return FaultyStore(store)
        return FaultyStore(store, at=self.number, when=self.where, act=self.come)


NEVER = Death()


class Fuse:
    """What a loop's functions call wherever they may be killed."""

    def __init__(self, death: Death = NEVER) -> None:
        self.at, self.come, self.passed = death.number if death.where == "inside" else None, death.come, 0

    def __call__(self) -> None:
        """Pass a moment, or die in it."""
        self.passed += 1
        if self.passed == self.at:
            self.come()


def live(fn: Callable[..., object], *args: Any) -> int | None:
    """Call a function in a life of its own; how that ended: 0, 1 for an error, or KILLED."""
    life = FORK.Process(target=fn, args=args, daemon=True)
    life.start()
    life.join()
    return life.exitcode


def assert_records_are_whole(path: str) -> None:
    """Whatever was killed and when: no record has a gap or contradicts itself, and SQLite finds the file sound."""
    with closing(SQLite(path, read_only=True)) as store:
        found = {run.id: [str(finding) for finding in verify(store, run)] for run in store.list_runs()}
    assert found
    assert {run_id: findings for run_id, findings in found.items() if findings} == {}
    assert damage(path) == []
