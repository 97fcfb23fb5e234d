"""What a step costs is counted, since seconds tell more of the machine: statements, commits and serialisations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from pydantic import BaseModel

from loomc_runner import Budget, loop, spend, tool, track
from loomc_runner.state import Codec
from loomc_runner.store.sqlite import SQLite
from vendor import Script

STEPS = 20


class Draft(BaseModel):
    """A small state."""

    n: int = 0


@contextmanager
def counted(store: SQLite) -> Iterator[Counter[str]]:
    """Count the statements that a store executes, by their first word, and how often a state is written."""
    words = Counter[str]()
    connection = store.current(to_write=True)
    connection.set_trace_callback(lambda statement: words.update([statement.split(maxsplit=1)[0]]))
    encode = Codec.encode

    def counting(self: Codec[Any], value: Any) -> str:
        words.update(["a state"])
        return encode(self, value)

    Codec.encode = counting  # type: ignore[method-assign]
    try:
        yield words
    finally:
        Codec.encode = encode  # type: ignore[method-assign]
        connection.set_trace_callback(None)


def per_step(tmp_path: Path, work: Any, **options: Any) -> dict[str, float]:
    """What each step more makes of statements and writings, by a run of some steps and one of twice as many."""
    store = SQLite(tmp_path / "runs.db")
    found = []
    for steps in (STEPS, 2 * STEPS):

        @loop(checkpoint=store, name="tests:counted", budget=Budget(iterations=steps, usd=10), **options)
        def count(draft: Draft) -> Draft:
            work()
            return Draft(n=draft.n + 1)

        with counted(store) as words:
            count.run(Draft())
        found.append(words)
    store.close()
    return {word: (found[1][word] - found[0][word]) / STEPS for word in found[1] if found[1][word] != found[0][word]}


BARE = {"BEGIN": 1, "UPDATE": 1, "INSERT": 1, "COMMIT": 1, "a state": 1}
"""A step inserts itself and updates its run, in one transaction, and its state is written once."""

CASES: list[tuple[Any, dict[str, Any], dict[str, float]]] = [
    (lambda: spend(usd=0), {}, {"BEGIN": 1, "UPDATE": 1, "INSERT": 1, "COMMIT": 1}),
    (lambda: None, {"cost_fn": lambda _: 0.001}, {"INSERT": 1}),
]


@pytest.mark.parametrize(("work", "options", "more"), CASES, ids=["spend", "cost_fn"])
def test_a_step_is_one_commit_and_a_charge_in_it_another(
    tmp_path: Path, work: Any, options: dict[str, Any], more: dict[str, float]
) -> None:
    """A charge is stored at once, in a commit of its own; what a cost function says comes with the step's."""
    assert per_step(tmp_path, work, **options) == {word: BARE[word] + more.get(word, 0) for word in BARE}


def test_a_durable_call_is_two_commits(tmp_path: Path) -> None:
    """One says that it began, one what came of it; nothing is read for it in a step that goes well the first time."""

    @tool
    def look() -> int:
        return 5

    def work() -> None:
        spend(usd=0)
        look()

    found = per_step(tmp_path, work)
    assert (found["COMMIT"], found["BEGIN"]) == (4, 4)
    assert "SELECT" not in found


def test_a_tracked_call_is_two_commits(tmp_path: Path, script: Script) -> None:
    """One holds what it may cost before it is sent, one puts what it came to in its place, which is looked up."""
    with Anthropic(api_key=script.key, base_url=script.url) as client:
        track(client)
        messages: Any = [{"role": "user", "content": "When does the harbour open?"}]
        found = per_step(
            tmp_path, lambda: client.messages.create(model="claude-sonnet-5-5", max_tokens=100, messages=messages)
        )
    assert (found["COMMIT"], found["SELECT"]) == (3, 2)
