"""What a step costs is counted, since seconds tell more of the machine: statements, commits and serialisations."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from anthropic import Anthropic
from driving import timed
from pydantic import BaseModel

import loomc_runner
from loomc_runner import BestScore, Budget, loop, spend, tool, track
from loomc_runner.clock import Clock, SystemClock
from loomc_runner.state import Codec
from loomc_runner.store.connection import WRITES
from loomc_runner.store.difference import difference
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
    store.writes = WRITES  # the log is not made longer in between, which is done once
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

MOST_CALLS = 70
"""Functions and methods of this package that a step of a loop in memory calls."""

CASES: list[tuple[Any, dict[str, Any], dict[str, float]]] = [
    (lambda: spend(usd=0.001), {}, {"BEGIN": 1, "UPDATE": 1, "INSERT": 1, "COMMIT": 1}),
    (lambda: None, {"cost_fn": lambda _: 0.001}, {"INSERT": 1}),
]


@pytest.mark.parametrize(("work", "options", "more"), CASES, ids=["spend", "cost_fn"])
def test_a_step_is_one_commit_and_a_charge_in_it_another(
    tmp_path: Path, work: Any, options: dict[str, Any], more: dict[str, float]
) -> None:
    """A charge is stored at once, in a commit of its own; what a cost function says comes with the step's."""
    assert per_step(tmp_path, work, **options) == {word: BARE[word] + more.get(word, 0) for word in BARE}


class CountingClock(SystemClock):
    """The machine's clock, which counts how often it is read."""

    def __init__(self) -> None:
        self.reads = Counter[str]()

    def now(self) -> datetime:
        """The date and time."""
        self.reads["date"] += 1
        return super().now()

    def monotonic(self) -> float:
        """Seconds."""
        self.reads["seconds"] += 1
        return super().monotonic()


def run_of(steps: int, clock: Clock) -> None:
    """A run in memory that does nothing."""

    @loop(checkpoint="memory", name="tests:counted", budget=Budget(iterations=steps))
    def count(draft: Draft) -> Draft:
        return Draft(n=draft.n + 1)

    timed(count, clock).run(Draft())


def test_a_step_looks_at_the_clock_no_more_than_it_must() -> None:
    """The date once, for the record; seconds for the working time and for how long the function ran."""
    found = []
    for steps in (STEPS, 2 * STEPS):
        clock = CountingClock()
        run_of(steps, clock)
        found.append(clock.reads)
    assert {name: (found[1][name] - found[0][name]) / STEPS for name in found[1]} == {"date": 1, "seconds": 5}


def test_a_step_is_a_few_calls_of_ours() -> None:
    """What a step of a loop in memory costs is what is called for it, so each layer more is seen here."""
    ours = str(Path(loomc_runner.__file__).parent)
    found = []
    for steps in (STEPS, 2 * STEPS):
        calls = Counter[str]()

        def note(frame: FrameType, event: str, _: Any, calls: Counter[str] = calls) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(ours):
                calls[frame.f_code.co_qualname] += 1

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            run_of(steps, SystemClock())
        finally:
            sys.setprofile(before)
        found.append(calls.total())
    assert (found[1] - found[0]) / STEPS < MOST_CALLS


def test_a_durable_call_is_two_commits(tmp_path: Path) -> None:
    """One says that it began, one what came of it; where nothing was spent they only ask whose the run is.

    Nothing else is read in a step that goes well the first time, and the page of the run is not written again.
    """

    @tool
    def look() -> int:
        return 5

    def work() -> None:
        spend(usd=0.001)
        look()

    found = per_step(tmp_path, work)
    assert (found["COMMIT"], found["BEGIN"]) == (4, 4)
    assert (found["SELECT"], found["UPDATE"]) == (2, 2)


def test_a_tracked_call_is_two_commits(tmp_path: Path, script: Script) -> None:
    """One holds what it may cost before it is sent, one puts what it came to in its place, which is looked up."""
    with Anthropic(api_key=script.key, base_url=script.url) as client:
        track(client)
        messages: Any = [{"role": "user", "content": "When does the harbour open?"}]
        found = per_step(
            tmp_path, lambda: client.messages.create(model="claude-sonnet-5-5", max_tokens=100, messages=messages)
        )
    assert (found["COMMIT"], found["SELECT"]) == (3, 2)


class Transcript(BaseModel):
    """A big state that grows, with counters on either side."""

    turn: int = 0
    messages: list[str] = []
    left: int = 10**6


def test_a_big_state_is_written_once_and_nothing_is_read_for_it(tmp_path: Path) -> None:
    """A step whose state is a long transcript takes the statements of a small one, and the room it grows by."""
    store = SQLite(tmp_path / "runs.db")
    chance = random.Random(1)

    @loop(checkpoint=store, name="tests:grow", budget=Budget(iterations=200))
    def grow(state: Transcript) -> Transcript:
        said = chance.randbytes(150).hex()
        return Transcript(turn=state.turn + 1, messages=[*state.messages, said], left=state.left - 1)

    grow.run(Transcript(messages=[chance.randbytes(150).hex() for _ in range(100)]), run_id="before")
    with counted(store) as words:
        grow.run(Transcript(messages=[chance.randbytes(150).hex() for _ in range(100)]), run_id="r")
    assert {word: round(words[word] / 200) for word in BARE} == BARE
    assert words["SELECT"] <= 20  # as the run is opened and ended
    sizes = store.current(to_write=True).execute(
        "SELECT length(CAST(state_blob AS BLOB)) FROM steps WHERE run_id = 'r' AND step_n >= 0"
    )
    found = [size for (size,) in sizes]
    store.close()
    assert len(found) == 200
    assert sum(found) <= 200 * 3 * 300  # what each grows by, once for each power of eight
    assert sorted(found)[150] <= 500  # as most are


def test_what_is_restored_is_read_once(tmp_path: Path) -> None:
    """A step that starts from an earlier one asks for its state, and is built on what it was given."""
    store = SQLite(tmp_path / "runs.db")
    chance = random.Random(1)

    @loop(
        checkpoint=store,
        name="tests:back",
        budget=Budget(iterations=100),
        scorer=lambda state: -len(state.messages),
        backtrack=BestScore(),
    )
    def grow(state: Transcript) -> Transcript:
        return Transcript(turn=state.turn + 1, messages=[*state.messages, chance.randbytes(150).hex()])

    with counted(store) as words:
        grow.run(Transcript(messages=[chance.randbytes(150).hex() for _ in range(100)]), run_id="r")
    forms = Counter(form for (form,) in store.current(to_write=True).execute("SELECT encoding FROM steps"))
    store.close()
    assert words["WITH"] <= 110
    assert forms["cut"] == 100


def test_what_is_alike_is_compared_in_long_steps() -> None:
    """A change in a long text makes some hundred of them, not more."""
    looks = Counter[str]()

    class Looked(str):
        __slots__ = ()

        def startswith(self, *found: Any) -> bool:
            looks.update(["head"])
            return super().startswith(*found)

        def endswith(self, *found: Any) -> bool:
            looks.update(["tail"])
            return super().endswith(*found)

        def find(self, *found: Any) -> int:
            looks.update(["find"])
            return super().find(*found)

    text = random.Random(1).randbytes(5_000_000).hex()
    difference(Looked(text), Looked(text[:4_000_000] + "more" + text[4_000_000:]))
    assert looks.total() <= 10_000_000 / 65_536 + 150
