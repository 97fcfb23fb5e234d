"""The history reads what is looked at, a little at a time, and decodes every state anew."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

import pytest
from pydantic import BaseModel

from loomc_runner.backtrack import BestScore, LastGood
from loomc_runner.converge import Escalate, score_plateau, target
from loomc_runner.errors import RunNotFound
from loomc_runner.history import RECENT, WINDOW, History
from loomc_runner.records import INITIAL, Lease, StepRecord, Transition
from loomc_runner.state import Codec
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import AT, a_run, a_step


class Draft(BaseModel):
    lines: list[int] = []


class CountingStore:
    """A store that counts what is read from it."""

    def __init__(self, store: Store) -> None:
        self.reads: Counter[str] = Counter()
        self.rows = 0
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def steps(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[StepRecord[Any]]:
        """Count, and read."""
        found = self._store.steps(run_id, start, stop)
        self.reads["steps"] += 1
        self.rows += len(found)
        return found

    def state(self, run_id: str, step_n: int) -> str:
        """Count, and read."""
        self.reads["state"] += 1
        return self._store.state(run_id, step_n)


class Running:
    """A run that commits steps as the driver does."""

    def __init__(self) -> None:
        self.store = CountingStore(MemoryStore())
        self.lease: Lease = self.store.create_run(a_run(), '{"lines":[-1]}')
        self.history: History[Draft] = self.reopened(0)

    def reopened(self, length: int) -> History[Draft]:
        """The history as a resume finds it."""
        return History(self.store, "r", Codec(Draft), length)

    def take(self, **fields: Any) -> StepRecord[Draft]:
        """A step that is in the history, and not committed yet."""
        step_n = len(self.history)
        step = self.history.record(a_step(step_n, **fields))
        self.history.append(step, None if step.error else f'{{"lines":[{step_n}]}}')
        return step

    def commit(self, step: StepRecord[Draft]) -> None:
        """Commit the newest step."""
        text = None if step.error else f'{{"lines":[{step.step_n}]}}'
        self.store.commit(self.lease, Transition(AT, step=step, state=text, in_flight=step.step_n + 1))

    def go(self, steps: int) -> History[Draft]:
        """Commit so many steps."""
        for _ in range(steps):
            self.commit(self.take())
        return self.history


LENGTH = 3 * WINDOW + 7
SOME = [0, 1, RECENT - 1, RECENT, RECENT + 1, WINDOW, LENGTH - RECENT - 1, LENGTH - RECENT, LENGTH - 1]


@pytest.fixture(scope="module")
def run() -> Running:
    """A long run."""
    running = Running()
    running.go(LENGTH)
    return running


@pytest.fixture(params=["driven", "resumed"])
def history(request: pytest.FixtureRequest, run: Running) -> History[Draft]:
    """A long history: of a run that was driven here, and of one that was resumed."""
    return run.history if request.param == "driven" else run.reopened(LENGTH)


def numbers(steps: Sequence[StepRecord[Any]]) -> list[int]:
    """The numbers of the steps."""
    return [step.step_n for step in steps]


@pytest.mark.parametrize("n", SOME)
def test_history_n_is_step_n(history: History[Draft], n: int) -> None:
    """A step is found by its number, or counted from the end, with its state behind it."""
    assert (history[n].step_n, history[n - LENGTH].step_n) == (n, n)
    assert history[n].state == Draft(lines=[n])


@pytest.mark.parametrize("n", [LENGTH, -LENGTH - 1, 10**9])
def test_a_step_that_there_is_not_is_an_index_error(history: History[Draft], n: int) -> None:
    """As in any sequence, and with the number in the message."""
    with pytest.raises(IndexError, match=f"of {LENGTH}"):
        history[n]


@pytest.mark.parametrize(
    "window",
    [
        slice(None),
        slice(-5, None),
        slice(3),
        slice(LENGTH - RECENT - 2, LENGTH - RECENT + 2),
        slice(WINDOW - 1, 2 * WINDOW + 1),
        slice(None, None, -1),
        slice(10, -10, 97),
        slice(-10, 10, -97),
        slice(5, 5),
        slice(10, 5),
        slice(-(10**9), 10**9),
    ],
    ids=str,
)
def test_a_window_is_a_list_of_its_steps(history: History[Draft], window: slice) -> None:
    """Slices give what they give of a list, in any direction."""
    assert numbers(history[window]) == list(range(LENGTH))[window]


def test_a_history_is_walked_in_order_and_backwards(history: History[Draft]) -> None:
    """It is a sequence like any other: length, iteration, truth."""
    assert (len(history), bool(history), numbers(list(history))) == (LENGTH, True, list(range(LENGTH)))
    assert numbers(list(reversed(history))) == list(range(LENGTH))[::-1]
    assert not Running().history


def test_looks_in_any_order_find_the_same(history: History[Draft]) -> None:
    """What is kept of older steps never hides one behind another."""
    looks = random.Random(0).choices(range(-LENGTH, LENGTH), k=400)
    assert [history[n].step_n for n in looks] == [n % LENGTH for n in looks]


def test_a_look_at_the_end_reads_nothing(run: Running) -> None:
    """The recent steps of a run that is driven are at hand."""
    run.store.reads.clear()
    assert numbers(run.history[-RECENT:]) == list(range(LENGTH - RECENT, LENGTH))
    assert run.store.reads == {}


def test_a_state_is_decoded_anew_each_time(run: Running) -> None:
    """Nobody can spoil a state for another by changing it in place."""
    first = run.history[-1].state
    first.lines.append(99)
    assert run.history[-1].state == Draft(lines=[LENGTH - 1])
    assert run.history.state(INITIAL) == Draft(lines=[-1])


def test_only_the_newest_state_is_kept() -> None:
    """The newest state is there before it is stored; any other is read, one at a time."""
    running = Running()
    running.go(5)
    step = running.take()
    assert (step.state, running.history[-1].state, running.store.reads["state"]) == (
        *(Draft(lines=[5]), Draft(lines=[5]), 0),
    )
    assert [step.state.lines for step in running.history[:3]] == [[0], [1], [2]]
    assert running.store.reads["state"] == 3


@pytest.mark.parametrize("before", [0, 3])
def test_a_failed_step_has_the_state_it_started_from(before: int) -> None:
    """A step that failed, whether committed already or not, stands where its parent stood."""
    running = Running()
    running.go(before)
    step = running.take(error="ValueError: failed")
    states = [step.state]
    running.commit(step)
    states.append(running.reopened(before + 1)[-1].state)
    assert states == [Draft(lines=[before - 1])] * 2


def test_a_state_that_is_not_there_is_not_made_up() -> None:
    """Only the newest step may stand for its parent; any other missing state is an error."""
    running = Running()
    running.take(error="ValueError: failed")
    with pytest.raises(RunNotFound, match="no step 7"):
        running.history.state(7)


@pytest.mark.parametrize("before", [0, 3, RECENT, RECENT + 3])
def test_a_step_can_be_taken_back_and_another_put_in_its_place(before: int) -> None:
    """A failure that nobody absorbs leaves no step behind; what is known about a step can be completed."""
    running = Running()
    running.go(before)
    running.take(error="ValueError: failed")
    running.history.drop_newest()
    assert numbers(list(running.history)) == list(range(before))
    running.history.replace_newest(running.history.record(a_step(running.take().step_n, decision="stop")))
    assert running.history[before].decision == "stop"
    assert numbers(list(running.history)) == list(range(before + 1))


DETECTORS = [score_plateau(3), score_plateau(150, min_delta=1e-9), target(2)]
STRATEGIES = [BestScore(), BestScore(tolerance=0.5), LastGood()]


@pytest.mark.parametrize(("shape", "resumed"), [("rising", False), ("falling", True), ("failing", False)])
def test_what_we_ship_reads_little_however_long_the_run(shape: str, resumed: bool) -> None:
    """Over five thousand steps detectors, strategies and the stall rule read a few windows, and not one state."""
    running, rising = Running(), shape == "rising"
    stalls = Escalate(after=50)
    for n in range(5000):
        if resumed and n == 2500:
            running.history = running.reopened(n)
        failed = shape == "failing" and n % 3 > 0
        score = None if failed else n / 5000 if rising else 0.5 - n / 10**6
        step = running.take(score=score, best_n=n if rising else 0, error="E: failed" if failed else None)
        for part in (*STRATEGIES, *(DETECTORS if rising else ())):  # elsewhere they would have stopped the run
            part(running.history)
        if stalls(running.history):
            step = step._replace(decision="escalate")
            running.history.replace_newest(step)
        running.commit(step)
    assert running.store.reads["state"] == 0
    assert running.store.reads["steps"] <= 50
    assert running.store.rows <= 5000


def test_the_record_of_a_step_is_a_value() -> None:
    """Equal to another that says the same, wherever their states are read from; not to a mere tuple, and frozen."""
    step, other = a_step(3), a_step(3)._replace(read_state=lambda n: n)
    assert (step == other, step != other) == (True, False)
    assert hash(step) == hash(other)
    assert step == ANY
    assert step != tuple(step)
    assert step != a_step(4)
    assert "read_state" not in repr(step)
    assert repr(step).startswith("StepRecord(step_n=3, parent_n=")
    with pytest.raises(AttributeError):
        step.step_n = 5
    with pytest.raises(AttributeError):
        step.note = "x"
