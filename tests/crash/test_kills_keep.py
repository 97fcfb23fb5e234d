"""A process is killed while it drops states: what is to be kept is there and right, and the run goes on."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from killing import KILLED, Death, Fuse, assert_records_are_whole, live
from loomc_runner import BestScore, Budget, BudgetExhausted, Keep, StateDropped, call, loop
from loomc_runner.records import CallStatus
from loomc_runner.store import Store
from loomc_runner.store.sqlite import SQLite
from refiners import Traced, step_number

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

KEEP = Keep(every=7, best=2, last=3, results=100)
BEFORE, ONCE, ALL = 16, 18, 36
"""Steps before states are dropped, after they were dropped once, and all of them, in which they are dropped twice."""


@dataclass
class Draft:
    """A state big enough to be stored as what it differs in from another."""

    score: int
    trail: list[str]


def tool(n: int) -> str:
    """A call whose result is long in every third step."""
    return hashlib.sha256(str(n).encode()).hexdigest() * (3 if n % 3 else 1)


def life(keep: Keep | None, store: Store, steps: int) -> None:
    """Begin the run, or go on with it, up to so many steps."""

    def step(draft: Draft) -> Draft:
        n = step_number()
        word = call(tool, n)
        return Draft(n * 7 % 11, [*draft.trail[-40:], f"{word[:60]} {draft.trail[-1][:20]}"])

    options: dict[str, Any] = {"scorer": lambda draft: draft.score, "backtrack": BestScore(tolerance=4)}
    handle = loop(name="thrifty", checkpoint=store, keep=keep, budget=Budget(iterations=steps), **options)(step)
    with suppress(BudgetExhausted):
        if steps == BEFORE or keep is None:
            handle.run(Draft(0, ["x" * 60] * 40), run_id="r")
        else:
            handle.resume("r", budget=Budget(iterations=steps))


def by_write(path: str, death: Death) -> None:
    """A life that ends around a write."""
    life(KEEP, death.around(SQLite(path)), ONCE)


def to_the_end(path: str) -> None:
    """A life that is left alone."""
    life(KEEP, SQLite(path), ALL)


def by_statement(path: str, death: Death) -> None:
    """A life that ends inside a transaction."""
    life(KEEP, Traced(path, Fuse(death)), ONCE)


def committed(store: Store) -> tuple[list[Any], dict[int, str], list[Any]]:
    """The steps of the run, the states that are kept, and what is left of the results of its calls."""
    rows = store.steps("r")
    steps = [(row.step_n, row.parent_n, row.score, row.decision, row.best_n) for row in rows]
    states = dict[int, str]()
    for n in range(-1, len(rows)):
        with suppress(StateDropped):
            states[n] = store.state("r", n)
    done = (made for made in store.calls("r") if made.status is CallStatus.DONE)  # one that was cut off is made anew
    calls = [(made.step_n, made.name, made.result, made.result_hash, made.result_size) for made in done]
    return steps, states, calls


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A place for databases; in memory where there is room: no power fails here."""
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Any]:
    """The run shortly before states are dropped, the one that goes on undisturbed, and the one that keeps all."""
    found: dict[str, Any] = {}
    for name, keep, lengths in (("calm", KEEP, (BEFORE, ALL)), ("full", None, (ALL,))):
        with closing(SQLite(folder / f"{name}.db")) as store:
            for length in lengths:
                life(keep, store, length)
                store.close()
                if length == BEFORE:
                    shutil.copy(folder / "calm.db", folder / "begun.db")
            found[name] = committed(store)
    return found


def assert_as_undisturbed(path: Path, runs: dict[str, Any]) -> None:
    """The same steps and results; all states that are to be kept, each as it was; hardly any other."""
    with closing(SQLite(path, read_only=True)) as store:
        steps, states, calls = committed(store)
    assert (steps, calls) == (runs["calm"][0], runs["calm"][2])
    assert states == {n: runs["full"][1][n] for n in states}
    assert runs["calm"][1].keys() <= states.keys()
    assert len(states) <= len(runs["calm"][1]) + 4
    assert_records_are_whole(str(path))


def test_undisturbed_it_drops_states_and_long_results(runs: dict[str, Any]) -> None:
    """What is killed below does what it is there for."""
    steps, states, calls = runs["calm"]
    assert steps == runs["full"][0]
    assert 12 <= len(states) <= 24
    assert [result is None for _, _, result, _, _ in calls] == [n % 3 > 0 for n in range(ALL)]


@pytest.mark.parametrize(("one_life", "where"), [(by_write, "before"), (by_write, "after"), (by_statement, "inside")])
def test_a_run_that_is_killed_while_it_drops_states_goes_on(
    folder: Path, runs: dict[str, Any], one_life: Callable[[str, Death], None], where: Any
) -> None:
    """Around each write, or at each statement, a kill drops all that the commit drops, or nothing."""
    for number in itertools.count(1):
        path = folder / f"{one_life.__name__}-{where}-{number}.db"
        shutil.copy(folder / "begun.db", path)
        ended = live(one_life, str(path), Death(where, number))
        assert ended in {0, KILLED}
        assert live(to_the_end, str(path)) == 0
        assert_as_undisturbed(path, runs)
        path.unlink()
        if ended == 0:
            break
    assert number > (40 if one_life is by_statement else 4)
