"""The fakes that users test with do what they say."""

from __future__ import annotations

import signal
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from store_lives import Life

from loomc_runner import StoreError, loop
from loomc_runner.records import Transition
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, PAUSED, FakeClock, FaultyStore, a_resumption, a_run, a_step

GONE = StoreError("the disk is gone")


def steps_after_failing(**options: Any) -> list[int]:
    """Create a run and commit three steps, whatever fails; the numbers of those that are stored."""
    store = MemoryStore()
    faulty = FaultyStore(store, act=GONE, **options)
    lease = faulty.create_run(a_run(), "0")
    for n in range(3):
        with suppress(StoreError):
            faulty.commit(lease, Transition(AT, a_step(n), "[]"))
    return [step.step_n for step in store.steps("r")]


def test_a_clock_stands_still_until_it_is_moved() -> None:
    """Both readings of the fake clock move together, and only by hand."""
    clock = FakeClock()
    readings = [clock.now(), clock.now()]
    clock.advance(90)
    assert (readings, clock.now() - AT, clock.monotonic()) == ([AT, AT], timedelta(seconds=90), 90.0)


def test_a_failure_before_a_write_prevents_it() -> None:
    """With `when="before"` the chosen write is not made, and the others are."""
    assert steps_after_failing(at=3, when="before") == [0, 2]


def test_a_failure_after_a_write_comes_too_late() -> None:
    """With `when="after"` the chosen write is made, and then the error is raised."""
    assert steps_after_failing(at=3, when="after") == [0, 1, 2]
    with pytest.raises(StoreError, match="disk is gone"):
        FaultyStore(MemoryStore(), at=1, when="after", act=GONE).create_run(a_run(), "0")


def test_writes_are_counted_over_all_verbs_or_for_one() -> None:
    """`at` counts every write from 1; with `verb` only those of that verb."""
    assert steps_after_failing(at=2) == [1, 2]
    assert steps_after_failing(at=2, verb="commit") == [0, 2]
    assert steps_after_failing(at=1, verb="claim") == [0, 1, 2]


def test_calls_are_counted_by_verb() -> None:
    """`calls` says how often each write was asked for; reading goes through uncounted."""
    store = FaultyStore(MemoryStore())
    store.commit(store.create_run(a_run(), "0"), PAUSED)
    store.commit(store.claim("r", a_resumption()).lease, PAUSED)
    assert store.get_run("r").resumes == 1
    assert store.writes == {"create_run": 1, "commit": 2, "claim": 1}


def test_a_function_that_returns_lets_the_write_be_made() -> None:
    """An `act` that is a function is called once, at its time, and what it returns changes nothing."""
    seen: list[int] = []
    inner = MemoryStore()
    store = FaultyStore(inner, at=2, when="before", act=lambda: seen.append(inner.get_run("r").steps))
    lease = store.create_run(a_run(), "0")
    for n in range(2):
        store.commit(lease, Transition(AT, a_step(n), "[]"))
    assert (seen, inner.get_run("r").steps) == ([0], 2)


@pytest.mark.parametrize(("when", "kept"), [("before", 1), ("after", 2)])
def test_a_process_can_be_killed_at_a_write(tmp_path: Any, when: str, kept: int) -> None:
    """An `act` that kills the process leaves what was written until then, and the run can be taken over."""
    script = """
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
store = FaultyStore(SQLite(sys.argv[1]), at=3, when=sys.argv[2], act=kill)
lease = store.create_run(a_run(), "0")
for n in range(5):
    store.commit(lease, Transition(AT, a_step(n), "[]"))
"""
    with Life(script, tmp_path / "runs.db", when) as life:
        assert life.process.wait(30) == -signal.SIGKILL
    store = SQLite(tmp_path / "runs.db")
    assert (store.claim("r", a_resumption()).run.steps, len(store.steps("r"))) == (kept, kept)
    store.close()


def test_a_loop_that_meets_a_failing_store_can_be_resumed() -> None:
    """A store that fails at one commit ends the run with its error; with a store that works it goes on."""
    store = MemoryStore()

    def grow(state: list[int]) -> list[int]:
        return [*state, len(state)]

    options: Any = {"name": "grow", "converge_on": lambda history: "long" if len(history) == 3 else None}
    with pytest.raises(StoreError, match="disk is gone"):
        loop(checkpoint=FaultyStore(store, at=2, act=GONE), **options)(grow)([], run_id="r")
    assert loop(checkpoint=store, **options)(grow).resume("r") == [0, 1, 2]
