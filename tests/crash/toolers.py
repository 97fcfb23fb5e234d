"""Loops whose steps are full: durable calls that leave a trace outside of the database, child runs, retries."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from killing import NEVER, Death, Fuse
from loomc_runner import (
    Approval,
    Budget,
    CircuitOpenError,
    Done,
    Retry,
    ask,
    call,
    circuit_breaker,
    loop,
    spend,
    tool,
)
from loomc_runner.records import CallStatus
from loomc_runner.store import Store
from loomc_runner.store.sqlite import SQLite


class Ledge:
    """What was really done: one line for each time that a tool did its work, in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, what: str) -> None:
        """Write a line, at once and whole."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{what}\n".encode())
        os.close(file)

    @property
    def counts(self) -> Counter[str]:
        """How often each thing was done."""
        return Counter(self.path.read_text().split()) if self.path.exists() else Counter()


def workers(store: Store, ledge: Ledge, fuse: Fuse, *, is_async: bool) -> Any:
    """A loop of three steps: two tools, a child of two steps that has a tool, and a call that fails the first time."""

    @tool
    def fetch(what: str) -> str:
        fuse()
        ledge.note(f"fetch-{what}")
        fuse()
        spend(usd=0.01)
        fuse()
        return what

    @tool(once=True)
    def publish(what: str) -> str:
        fuse()
        ledge.note(f"publish-{what}")
        fuse()
        return what

    def shaky(what: str) -> str:
        fuse()
        ledge.note(f"shaky-{what}")
        if ledge.counts[f"shaky-{what}"] == 1:
            raise ConnectionError("the first time it fails")
        return what

    @loop(name="part", checkpoint=store, budget=Budget())
    def part(text: str) -> str | Done[str, None]:
        after = f"{fetch(text)}."
        return Done(after) if after.endswith("..") else after

    def step(text: str) -> str | Done[str, None]:
        number = text.count("|")
        after = f"{text}|{fetch(f'{number}')}{publish(f'{number}')}{part(f'p{number}')}{call(shaky, f's{number}')}"
        return Done(after) if number == 2 else after

    async def async_step(text: str) -> Any:
        await asyncio.sleep(0)
        return step(text)

    async_step.__annotations__ = {"text": str, "return": "str | Done[str, None]"}
    retry = Retry(attempts=3, wait="0s")
    return loop(name="whole", checkpoint=store, budget=Budget(usd=50), retry=retry)(async_step if is_async else step)


def go_on(path: str, run_id: str, is_async: bool, death: Death = NEVER) -> None:
    """What a process does: begin the run or go on with it, until it ends, waits or death comes."""
    ledge = Ledge(Path(f"{path}-{run_id}"))
    handle = workers(death.around(SQLite(path)), ledge, Fuse(death), is_async=is_async)
    result = handle.run("begin", run_id=run_id)
    if is_async:
        asyncio.run(result)


def gate(store: Store, ledge: Ledge, fuse: Fuse) -> Any:
    """A loop that works, asks, works and asks again in a child; a circuit breaker opens meanwhile."""

    @circuit_breaker(fail_threshold=1, cooldown="1h", name="vendor")
    def vendor() -> None:
        ledge.note("vendor")
        raise OSError("down")

    @tool
    def prepare(what: str) -> str:
        fuse()
        ledge.note(f"prepare-{what}")
        with suppress(OSError, CircuitOpenError):
            vendor()
        return what

    @tool(once=True)
    def deploy(what: str) -> str:
        ledge.note(f"deploy-{what}")
        return what

    @loop(name="review", checkpoint=store, budget=Budget())
    def review(what: str) -> Done[str, None]:
        prepare(f"review-{what}")
        fuse()
        return Done(ask(f"What about {what}?"))

    @loop(name="gate", checkpoint=store, budget=Budget())
    def release(what: str) -> Done[str, None]:
        prepare(what)
        fuse()
        if not ask(f"Release {what}?", Approval):
            return Done("denied")
        fuse()
        return Done(f"{deploy(what)}: {review(what)}")

    return release


def through_the_gate(path: str, run_id: str, death: Death = NEVER) -> None:
    """What a process does: begin the release or go on with it, until it ends, waits or death comes."""
    gate(death.around(SQLite(path)), Ledge(Path(f"{path}-{run_id}")), Fuse(death)).run("it", run_id=run_id)


def on_record(store: Store, run_id: str) -> set[str]:
    """What a run and its child runs have on record as done, named as on the ledge."""
    runs = [run_id, *(run.id for run in store.list_runs(parent=run_id))]
    calls = [call for name in runs for call in store.calls(name) if call.status is CallStatus.DONE]
    return {f"{call.name.rpartition('.')[2]}-{json.loads(str(call.result))}" for call in calls}


def a_tree(store: Store, ledge: Ledge) -> Callable[[], Any]:
    """One run with four children side by side, each with four of its own: every leaf works through six calls."""

    @tool
    def work(leaf: str, number: int) -> int:
        ledge.note(f"{leaf}:{number}")
        return number + 1

    @loop(name="leaf", checkpoint=store, budget=Budget(), cost_fn=lambda _: 0.01)
    def leaf(state: list[Any]) -> list[Any] | Done[list[Any], None]:
        name, number = state
        after = [name, work(name, number)]
        return Done(after) if after[1] == 6 else after

    @loop(name="branch", checkpoint=store, budget=Budget(), cost_fn=lambda _: 0.001)
    def branch(state: list[Any]) -> Done[list[Any], None]:
        return Done([state[0], sum(leaf([f"{state[0]}.{n}", 0])[1] for n in range(4))])

    @loop(name="root", checkpoint=store, budget=Budget(usd=500), cost_fn=lambda _: 0.0001)
    def root(state: list[Any]) -> Done[list[Any], None]:
        return Done(branch.map([[f"b{n}", 0] for n in range(4)]))

    def grow() -> Any:
        if any(run.id == "tree" for run in store.list_runs(prefix="tree")):
            return root.resume("tree", force=True)  # nothing is lost, however little each life adds
        return root([], run_id="tree")

    return grow


def grow_on(path: str, death: Death = NEVER) -> None:
    """What a process does: begin the tree or go on with it."""
    a_tree(death.around(SQLite(path)), Ledge(Path(f"{path}-tree")))()
