"""loomc 0.3.0, as its README shows it: a model as the state, `checkpoint=` with a store of the file."""

from __future__ import annotations

from typing import Any

from child import RUN, Child, main
from loomc import Budget, loop
from loomc.checkpoint import SQLiteCheckpointStore
from pydantic import BaseModel


class Tiny(BaseModel):
    """A state of about 250 bytes."""

    text: str = "x" * 200
    n: int = 0
    notes: list[str] = []


class Transcript(BaseModel):
    """A list that grows."""

    n: int = 0
    items: list[str] = []


class Store(SQLiteCheckpointStore):
    """Its own store, but the id of the run is ours."""

    def create_run(self, spec_hash: str) -> str:
        """Make a run."""
        run_id = super().create_run(spec_hash)
        with self._conn() as db:
            db.execute("UPDATE runs SET id = ? WHERE id = ?", (RUN, run_id))
        return RUN


def work(child: Child) -> None:
    @loop(checkpoint=Store(child.path), budget=Budget(iterations=child.steps + 1))
    def tiny(state: Any) -> Tiny:
        state = Tiny.model_validate(state)  # after a resume it gets a dictionary
        child.begin_step(state.n)
        return Tiny(n=state.n + 1)

    @loop(checkpoint=Store(child.path), budget=Budget(iterations=child.steps + 1))
    def growing(state: Any) -> Transcript:
        state = Transcript.model_validate(state)
        if child.resuming:
            child.check(len(state.items))
        child.begin_step(state.n)
        return Transcript(n=state.n + 1, items=[*state.items, child.item()])

    if child.resuming:
        (growing if child.growing else tiny).resume(RUN)
    elif child.growing:
        growing(Transcript())
    else:
        tiny(Tiny())


if __name__ == "__main__":
    main("loomc", work)
