"""LangGraph with its SQLite checkpointer: one node in a circle, a reducer for the transcript.

Variants: `sync` writes each checkpoint before the next step, which is what the others do; `async`, the default of
LangGraph, writes it meanwhile, and is measured until all are written; a process that is killed loses those that are
not. `delta` is `sync` with a DeltaChannel for the transcript, which is in beta.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from child import RUN, TINY, Child, Cut, main
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph


class Tiny(TypedDict):
    """A state of about 250 bytes."""

    text: str
    n: int
    notes: list[str]


class Transcript(TypedDict):
    """A list that grows."""

    n: int
    items: Annotated[list[str], operator.add]


def extended(items: list[str], writes: list[list[str]]) -> list[str]:
    """What a DeltaChannel does with the writes of its steps."""
    return [*items, *(item for write in writes for item in write)]


class Incremental(TypedDict):
    """The same, of which only what is new is stored."""

    n: int
    items: Annotated[list[str], DeltaChannel(extended)]


def work(child: Child) -> None:
    child.lingering = child.variant == "async"

    def tiny(state: Tiny) -> dict[str, Any]:
        child.begin_step(state["n"])
        return {"text": state["text"], "n": state["n"] + 1, "notes": []}

    def growing(state: Any) -> dict[str, Any]:
        if child.resuming:
            child.check(len(state["items"]))
        child.begin_step(state["n"])
        return {"n": state["n"] + 1, "items": [child.item()]}

    kind = (Incremental if child.variant == "delta" else Transcript) if child.growing else Tiny
    builder = StateGraph(kind)
    builder.add_node("step", growing if child.growing else tiny)
    builder.add_edge(START, "step")
    builder.add_edge("step", "step")
    start = None if child.resuming else ({"n": 0, "items": []} if child.growing else TINY)
    with SqliteSaver.from_conn_string(str(child.path)) as saver:
        graph = builder.compile(checkpointer=saver)
        config = {"configurable": {"thread_id": RUN}, "recursion_limit": child.steps + 10}
        try:
            graph.invoke(start, config, durability="async" if child.lingering else "sync")
        except Cut:
            child.end_writing()


if __name__ == "__main__":
    main("langgraph", work)
