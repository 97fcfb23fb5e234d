"""The loops that are killed: one each way to spend, to score, to go back and to end, sync and async."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from killing import NEVER, Death, Fuse
from loomc_runner import BestScore, Budget, Done, Escalate, LastGood, loop, spend, target
from loomc_runner.context import current_scope
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FaultyStore


@dataclass
class Draft:
    """A state that tells the way it came."""

    path: list[int]
    score: float = 0.0

    def then(self, step_n: int, score: float = 0.0) -> Draft:
        """The next draft."""
        return Draft([*self.path, step_n], score)


def step_number() -> int:
    """The number of the running step, so that a step does the same whenever it runs."""
    scope = current_scope()
    assert scope is not None
    return scope.step_n


def spender(fuse: Fuse) -> tuple[Callable[[Draft], Any], dict[str, Any]]:
    """Pays twice a step out of a declared reservation, and says itself when it is done."""

    def step(draft: Draft) -> Draft | Done[Draft, list[int]]:
        fuse()
        spend(usd=0.01, tokens=7)
        fuse()
        spend(usd=0.02, label="second")
        after = draft.then(step_number())
        return Done(after, result=after.path) if len(after.path) == 4 else after

    return step, {"budget": Budget(usd=50, step_usd=0.05)}


def climber(fuse: Fuse) -> tuple[Callable[[Draft], Any], dict[str, Any]]:
    """Is priced and scored from outside, goes back to its best after a regression, and stops at a target."""
    scores = (1.0, 3.0, 2.0, 2.5, 4.0, 1.0, 6.0)

    def step(draft: Draft) -> Draft:
        fuse()
        return draft.then(step_number(), scores[step_number()])

    def price(draft: Draft) -> float:
        fuse()
        return 0.25 + draft.score / 100

    def score(draft: Draft) -> float:
        fuse()
        return draft.score

    options = {"cost_fn": price, "scorer": score, "backtrack": BestScore(), "converge_on": target(5)}
    return step, {"budget": Budget(usd=50), **options}


def stubborn(fuse: Fuse) -> tuple[Callable[[Draft], Any], dict[str, Any]]:
    """Survives a step that fails, and changes something when it stalls."""
    scores = (1.0, 0.5, 0.5, 0.5, 2.0, 3.0)

    def step(draft: Draft) -> Draft:
        spend(usd=0.01 * (step_number() + 1))
        fuse()
        if step_number() == 1:
            raise RuntimeError("this one fails")
        return draft.then(step_number(), scores[step_number()])

    def shake(draft: Draft, _: object) -> Draft:
        fuse()
        return draft.then(-7)

    options = {"scorer": lambda draft: draft.score, "backtrack": LastGood(), "on_stall": Escalate(2, shake)}
    return step, {"budget": Budget(iterations=9), **options, "converge_on": target(3)}


MAKERS = (spender, climber, stubborn)
KINDS = {f"{make.__name__}-{mode}": (make, mode == "async") for make in MAKERS for mode in ("sync", "async")}


def refine(kind: str, store: Store, run_id: str, fuse: Fuse) -> None:
    """Begin a run, or go on with it, until it ends."""
    make, is_async = KINDS[kind]
    step, options = make(fuse)

    async def async_step(draft: Draft) -> Any:
        await asyncio.sleep(0)
        return step(draft)

    async_step.__annotations__ = step.__annotations__
    handle: Any = loop(name=kind, checkpoint=store, **options)(async_step if is_async else step)
    result = handle.run(Draft([]), run_id=run_id)
    if is_async:
        asyncio.run(result)


def one_life(kind: str, path: str, run_id: str, death: Death = NEVER) -> None:
    """What a process does: go on with a run, until that ends or death comes."""
    refine(kind, death.around(SQLite(path)), run_id, Fuse(death))


class Traced(SQLite):
    """A store each of whose statements may be the last."""

    def __init__(self, path: str, fuse: Fuse) -> None:
        super().__init__(path)
        self.fuse = fuse

    def _open(self) -> sqlite3.Connection:
        connection = super()._open()
        connection.set_trace_callback(lambda _: self.fuse())
        return connection


def one_traced_life(path: str, run_id: str, death: Death) -> None:
    """What a process does that may die inside a transaction."""
    refine("spender-sync", Traced(path, Fuse(death)), run_id, Fuse())


def committed(store: Store, run_id: str) -> list[Any]:
    """What a run has committed: its steps without their times, its states, and how it ended."""
    rows = store.steps(run_id)
    steps = [
        (row.step_n, row.parent_n, row.score, row.nano_usd, row.tokens, row.decision, row.best_n, row.error)
        for row in rows
    ]
    states = [store.state(run_id, step_n) for step_n in range(-1, len(rows))]
    run = store.get_run(run_id)
    return [steps, states, run.status, run.stop_reason, run.best_step, run.result, run.steps]


class Undisturbed:
    """A run that nothing happens to, in memory: its steps, its money, and all moments at which it could die."""

    def __init__(self, kind: str) -> None:
        store, fuse = FaultyStore(MemoryStore()), Fuse()
        refine(kind, store, "calm", fuse)
        self.committed, self.nano_usd = committed(store, "calm"), store.get_run("calm").nano_usd
        self.writes = store.writes.total()
        self.deaths = [
            *(Death(where, number) for where in ("before", "after") for number in range(1, self.writes + 1)),
            *(Death("inside", number) for number in range(1, fuse.passed + 1)),
        ]


UNDISTURBED = {kind: Undisturbed(kind) for kind in KINDS}


class Losses:
    """What deaths cost: looked up in the raw rows after each, before anybody resumes."""

    def __init__(self, path: str, run_id: str) -> None:
        self.path, self.run_id = path, run_id
        self.store = SQLite(path, read_only=True)
        self.by_epoch: dict[int, tuple[int, bool]] = {}
        self.epoch = self.before = self.seen = 0

    def note(self) -> None:
        """A life has ended: its step in flight costs what it recorded, else its reservation."""
        run, charges = self.store.get_run(self.run_id), self.store.charges(self.run_id)
        if run.epoch != self.epoch:
            self.epoch, self.before = run.epoch, self.seen
        self.seen = len(charges)
        fresh = [c.nano_usd for c in charges[self.before :] if c.step_n == run.in_flight and not c.estimated]
        if run.in_flight is not None:
            self.by_epoch[self.epoch] = (sum(fresh), False) if fresh else (run.reserved_nano, True)

    @property
    def nano_usd(self) -> int:
        """All of it."""
        return sum(nano for nano, _ in self.by_epoch.values())

    @property
    def estimates(self) -> list[int]:
        """The part that was assumed."""
        return [nano for nano, estimated in self.by_epoch.values() if estimated and nano]
