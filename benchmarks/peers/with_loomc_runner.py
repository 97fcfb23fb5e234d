"""loomc_runner: one file, a commit a step, as a path for `checkpoint=` gives it.

It imports much only when it is needed; a loop of one step does so before the time begins, since imports do not count.
"""

from __future__ import annotations

import tempfile

from child import RUN, Child, main
from pydantic import BaseModel

from loomc_runner import Budget, loop
from loomc_runner.store.sqlite import SQLite


class Tiny(BaseModel):
    """A state of about 250 bytes."""

    text: str = "x" * 200
    n: int = 0
    notes: list[str] = []


class Transcript(BaseModel):
    """A list that grows."""

    n: int = 0
    items: list[str] = []


def work(child: Child) -> None:
    store = SQLite(child.path, durability="process") if child.variant == "process" else str(child.path)

    @loop(checkpoint=store, budget=Budget(iterations=child.steps + 1))
    def tiny(state: Tiny) -> Tiny:
        child.begin_step(state.n)
        return Tiny(n=state.n + 1)

    @loop(checkpoint=store, budget=Budget(iterations=child.steps + 1))
    def growing(state: Transcript) -> Transcript:
        if child.resuming:
            child.check(len(state.items))
        child.begin_step(state.n)
        return Transcript(n=state.n + 1, items=[*state.items, child.item()])

    if child.resuming:
        (growing if child.growing else tiny).resume(RUN)
    elif child.growing:
        growing(Transcript(), run_id=RUN)
    else:
        tiny(Tiny(), run_id=RUN)


def warm_up() -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:

        @loop(checkpoint=f"{folder}/runs.db", budget=Budget(iterations=1))
        def once(state: int) -> int:
            return state + 1

        found = once.run(0)
        once.with_options(budget=Budget(iterations=2)).run(0, run_id=found.run_id)


if __name__ == "__main__":
    warm_up()
    main("loomc-runner", work)
