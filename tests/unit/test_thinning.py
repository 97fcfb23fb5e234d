"""States that are dropped: the others are read as before, and what was built on them is built on something else."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from loomc_runner import RunLocked, StateDropped, StoreBusy, StoreError
from loomc_runner.records import INITIAL, Lease, Transition
from loomc_runner.store.chains import MOST_HOPS
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, PAUSED, a_resumption, a_run, a_step

STEPS = 80


class Case:
    """A run of growing states with a failed step now and then, and what each of them was."""

    def __init__(self, path: Path) -> None:
        """Store it."""
        chance = random.Random(1)
        self.store = SQLite(path, durability="process")
        text = "".join(chance.choices("abcdefgh ", k=5000))
        self.lease: Lease = self.store.create_run(a_run(), text)
        self.texts = {INITIAL: text}
        for n in range(STEPS):
            text = text[: n * 50] + "".join(chance.choices("abcdefgh ", k=90)) + text[n * 50 :]
            self.texts[n] = self.texts[n - 1] if n % 10 == 5 else text
            self.store.commit(self.lease, Transition(AT, a_step(n), None if n % 10 == 5 else text))

    def assert_kept(self, dropped: Collection[int]) -> None:
        """All but those are read as they were, and those say that they were dropped."""
        with closing(SQLite(self.store.path, read_only=True)) as reader:
            for n, text in self.texts.items():
                if n in dropped:
                    with pytest.raises(StateDropped, match=f"the state of step {n} of run r was dropped"):
                        reader.state("r", n)
                else:
                    assert reader.state("r", n) == text

    def rows(self) -> dict[int, tuple[int | None, str, int]]:
        """Each row: what it is built on, its form, and what that takes."""
        with closing(sqlite3.connect(self.store.path)) as db:
            found = db.execute("SELECT step_n, base_n, encoding, length(state_blob) FROM steps").fetchall()
        return {n: (base_n, form, size or 0) for n, base_n, form, size in found}

    def hops(self) -> dict[int, int]:
        """How many steps each is built on."""
        hops: dict[int | None, int] = {None: -1}
        for n, (base_n, *_) in sorted(self.rows().items()):
            hops[n] = hops[base_n] + 1
        return {n: count for n, count in hops.items() if n is not None}


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A run at work."""
    case = Case(tmp_path / "runs.db")
    yield case
    case.store.close()


DROPS: dict[str, Collection[int]] = {
    "the first": [INITIAL],
    "one": [20],
    "what many are built on": [7, 15, 63],
    "one after the other": range(10, 20),
    "every second": range(0, STEPS, 2),
    "all but the newest": range(INITIAL, STEPS - 1),
    "all": range(INITIAL, STEPS),
    "none": [],
    "what is not there": [500, -2],
}


@pytest.mark.parametrize("steps", DROPS.values(), ids=DROPS)
def test_what_stays_is_read_as_before(case: Case, steps: Collection[int]) -> None:
    """Whichever go, no other state changes, and none has a longer way back than before."""
    before = case.hops()
    case.store.commit(case.lease, PAUSED)
    case.store.drop_states("r", steps)
    case.assert_kept(set(steps) & set(case.texts))
    dropped = [row for n, row in case.rows().items() if n in set(steps)]
    assert dropped == [(None, "dropped", 0)] * len(dropped)
    assert all(count <= before[n] for n, count in case.hops().items())


def test_dropping_in_a_commit_is_the_same(case: Case) -> None:
    """States may go with the commit of a step that is built on others; and those that were dropped may go again."""
    dropped = set[int]()
    for n in range(STEPS, STEPS + 40):
        dropped |= {n - 70, n - 69, n // 2}
        case.texts[n] = case.texts[n - 1] + "more"
        case.store.commit(case.lease, Transition(AT, a_step(n), case.texts[n], dropped=tuple(dropped)))
    case.assert_kept(dropped)
    assert max(case.hops().values()) <= MOST_HOPS


def test_a_window_of_states_takes_the_room_of_a_window(case: Case) -> None:
    """Where all but the newest states are dropped as the run goes on, the rows take no more with every step."""
    rooms = []
    for n in range(STEPS, STEPS + 200):
        case.texts[n] = case.texts[n - 1][50:] + f"{n:050}"
        gone = range(INITIAL, n - 9) if n == STEPS else [n - 10]
        case.store.commit(case.lease, Transition(AT, a_step(n), case.texts[n], dropped=tuple(gone)))
        rooms.append(sum(size for *_, size in case.rows().values()))
    case.assert_kept(range(INITIAL, STEPS + 190))
    assert max(rooms[100:]) <= 1.2 * max(rooms[20:100])


def test_what_is_rewritten_is_no_bigger_than_all_of_it(case: Case) -> None:
    """A state that loses its base becomes a difference from the next that stays, else it is whole."""
    case.store.commit(case.lease, PAUSED)
    case.store.drop_states("r", range(1, STEPS, 2))
    kept = {n: row for n, row in case.rows().items() if row[1] != "dropped"}
    assert {form for _, form, _ in kept.values()} == {"json", "cut"}
    assert sum(form == "json" for _, form, _ in kept.values()) == 1
    assert max(size for n, (_, _, size) in kept.items() if n >= 0) < len(case.texts[INITIAL]) / 2


def test_a_drop_that_fails_drops_nothing(case: Case) -> None:
    """Of a run at work nothing is dropped from outside, nor while another program writes, nor by a lost commit."""
    with pytest.raises(RunLocked, match="cannot be dropped"):
        case.store.drop_states("r", [3])
    with closing(sqlite3.connect(case.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            case.store.commit(case.lease, Transition(AT, a_step(STEPS), "0", dropped=(3, 4)))
    with pytest.raises(StoreError):  # there is such a step already
        case.store.commit(case.lease, Transition(AT, a_step(0), "0", dropped=(3, 4)))
    case.assert_kept([])
    case.texts[STEPS] = case.texts[STEPS - 1] + "!"
    case.store.commit(case.lease, Transition(AT, a_step(STEPS), case.texts[STEPS], dropped=(3, 4)))
    case.assert_kept([3, 4])


def test_a_damaged_state_is_not_rewritten(case: Case) -> None:
    """When one that would be rewritten cannot be read the drop is refused as a whole."""
    case.store.commit(case.lease, PAUSED)
    with closing(sqlite3.connect(case.store.path, isolation_level=None)) as db:
        db.execute("UPDATE steps SET state_blob = '[1]' WHERE step_n = 8")
    with pytest.raises(StoreError, match=r"the state of step 8 of run r is damaged"):
        case.store.drop_states("r", [3, 7])
    assert "dropped" not in {form for _, form, _ in case.rows().values()}


def test_a_run_goes_on_after_its_states_were_dropped(case: Case) -> None:
    """Its next states are built on those that stay; here only the newest does."""
    case.store.commit(case.lease, PAUSED)
    case.store.drop_states("r", range(INITIAL, STEPS - 1))
    lease = case.store.claim("r", a_resumption()).lease
    for n in range(STEPS, STEPS + 20):
        case.texts[n] = case.texts[n - 1] + "more"
        case.store.commit(lease, Transition(AT, a_step(n), case.texts[n]))
    case.assert_kept(range(INITIAL, STEPS - 1))
    assert {form for n, (_, form, _) in case.rows().items() if n >= STEPS} == {"cut"}
