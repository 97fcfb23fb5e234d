"""DBOS on SQLite: a workflow that calls one step in a loop; what a step returns is stored, and the rest is replayed.

Variant `item`: a step returns what it adds to the transcript, and the workflow keeps the list, as its guides do.
Variant `state`: a step returns the whole state, so that the state of every step can be read back.
"""

from __future__ import annotations

from typing import Any

from child import RUN, TINY, Child, main
from dbos import DBOS, DBOSConfig, SetWorkflowID

asked: list[Child] = []


@DBOS.step()
def tiny(state: dict[str, Any]) -> dict[str, Any]:
    asked[0].begin_step(state["n"])
    return {**state, "n": state["n"] + 1}


@DBOS.step()
def add(n: int, items: int) -> str:
    if asked[0].resuming:
        asked[0].check(items)
    asked[0].begin_step(n)
    return asked[0].item()


@DBOS.step()
def growing(state: dict[str, Any]) -> dict[str, Any]:
    if asked[0].resuming:
        asked[0].check(len(state["items"]))
    asked[0].begin_step(state["n"])
    return {"n": state["n"] + 1, "items": [*state["items"], asked[0].item()]}


@DBOS.workflow()
def tiny_loop(steps: int) -> None:
    state: dict[str, Any] = TINY
    for _ in range(steps + 1):
        state = tiny(state)


@DBOS.workflow()
def item_loop(steps: int) -> None:
    items: list[str] = []
    for n in range(steps + 1):
        items.append(add(n, len(items)))


@DBOS.workflow()
def state_loop(steps: int) -> None:
    state: dict[str, Any] = {"n": 0, "items": []}
    for _ in range(steps + 1):
        state = growing(state)


def work(child: Child) -> None:
    asked.append(child)
    config: DBOSConfig = {"name": "peers", "system_database_url": f"sqlite:///{child.path}", "log_level": "ERROR"}
    DBOS(config=config)
    DBOS.launch()  # which also recovers the workflows that were cut off
    if child.resuming:
        DBOS.retrieve_workflow(RUN).get_result()
    with SetWorkflowID(RUN):
        if not child.growing:
            tiny_loop(child.steps)
        elif child.variant == "state":
            state_loop(child.steps)
        else:
            item_loop(child.steps)


if __name__ == "__main__":
    main("dbos", work)
