"""Burr with its SQLite persister, as its counter example shows it: one action with a transition to itself."""

from __future__ import annotations

from burr.core import ApplicationBuilder, State, action, default
from burr.core.persistence import SQLitePersister
from child import RUN, TINY, Child, main


def work(child: Child) -> None:
    @action(reads=["n"], writes=["n"])
    def tiny(state: State) -> State:
        child.begin_step(state["n"])
        return state.update(n=state["n"] + 1)

    @action(reads=["n", "items"], writes=["n", "items"])
    def growing(state: State) -> State:
        if child.resuming:
            child.check(len(state["items"]))
        child.begin_step(state["n"])
        return state.update(n=state["n"] + 1).append(items=child.item())

    persister = SQLitePersister(str(child.path), "steps")
    persister.initialize()
    app = (
        ApplicationBuilder()
        .with_actions(step=growing if child.growing else tiny)
        .with_transitions(("step", "step", default))
        .with_identifiers(app_id=RUN)
        .initialize_from(
            persister,
            resume_at_next_action=True,
            default_state={"n": 0, "items": []} if child.growing else TINY,
            default_entrypoint="step",
        )
        .with_state_persister(persister)
        .build()
    )
    app.run()


if __name__ == "__main__":
    main("apache-burr", work)
