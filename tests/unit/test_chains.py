"""Which earlier step a big state is built on: few hops, few bytes, and never more than all of it."""

from __future__ import annotations

import json
import random
import sqlite3
import string
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loomc_runner import StoreError
from loomc_runner.records import INITIAL, RunStatus, Transition
from loomc_runner.store import chains
from loomc_runner.store.chains import MOST_HOPS, MOST_PATCHES, Chain, Chains, bases, lasting
from loomc_runner.store.sqlite import SQLite
from loomc_runner.store.states import Known, Written, put_together, whole
from loomc_runner.testing import AT, PAUSED, a_run, a_step

WORDS = ["".join(random.Random(n).choices(string.ascii_lowercase, k=3 + n % 7)) for n in range(2000)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLite]:
    """A store on disk that need not wait for it."""
    store = SQLite(tmp_path / "chains.db", durability="process")
    yield store
    store.close()


class Row(dict[int, Written]):
    """The rows of a run, as its chain writes them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.chain, self.reads = Chain(), 0

    def read(self, step_n: int) -> Known | None:
        """What is stored of a step, found by its hops."""
        self.reads += 1
        found, at = list[Written](), step_n
        while True:
            found.append(self[at])
            if found[-1].base_n is None:
                return put_together(found)
            at = found[-1].base_n

    def write(self, text: str, parent_n: int | None = None) -> int:
        """Store one step more; how many bytes that takes."""
        step_n = len(self) + INITIAL
        parent_n = step_n - 1 if parent_n is None else parent_n
        self[step_n] = self.chain.write(step_n, parent_n, text, self.read)
        return room(self[step_n])

    def hops(self, step_n: int) -> int:
        """Steps that one is built on, one on the other."""
        known = self.read(step_n)
        assert known is not None
        return known.hops


def room(written: Written) -> int:
    """Bytes that are stored."""
    return len(written.blob.encode() if isinstance(written.blob, str) else written.blob or b"")


def words(chance: random.Random, size: int) -> str:
    """Text as people write it: it gets half as long when it is compressed."""
    return " ".join(chance.choices(WORDS, k=size // 7))[:size]


PLACES: dict[str, Callable[[int, str], dict[str, Any]]] = {
    "first": lambda n, text: {"transcript": text, "turn": n, "cost": n * 0.1, "note": "the same " * 20},
    "middle": lambda n, text: {"turn": n, "cost": n * 0.1, "transcript": text, "left": 10**6 - n, "done": False},
    "last": lambda n, text: {"turn": n, "cost": n * 0.1, "note": "the same " * 20, "transcript": text},
}


GROWING = [*((place, steps, 1200) for place in PLACES for steps in (1, 8, 64)), ("middle", 4096, 40)]


@pytest.mark.parametrize(("place", "steps", "growth"), GROWING)
def test_a_growing_transcript_costs_what_it_grows_by(place: str, steps: int, growth: int) -> None:
    """Wherever it stands: each step takes less than twice that, and the way back is seven hops per power of eight."""
    chance, rows, text = random.Random(1), Row(), words(random.Random(2), 3000)
    rows.write(json.dumps(PLACES[place](0, text)))
    stored = 0
    for n in range(steps):
        text += words(chance, growth)
        stored += rows.write(json.dumps(PLACES[place](n + 1, text)))
    assert rows.reads == 0
    assert stored <= steps * (2 * growth + 250)  # a difference that tells little takes some hundred bytes
    assert max(map(rows.hops, range(max(0, steps - 70), steps))) <= {1: 1, 8: 8, 64: 21, 4096: 42}[steps]


def test_a_way_back_is_never_long() -> None:
    """Where each step has more in common with its parent than with any other, it ends after so many hops."""
    chance, rows = random.Random(1), Row()
    window = [words(chance, 700) for _ in range(4)]
    for _ in range(3 * MOST_HOPS):
        window = [*window[1:], words(chance, 700)]
        rows.write(json.dumps(window))
    found = [rows.hops(n) for n in range(INITIAL, len(rows) + INITIAL)]
    assert max(found) <= MOST_HOPS
    assert sum(rows[n].encoding == "json" for n in rows) <= 2 * len(rows) / MOST_HOPS


def test_patches_are_not_built_on_each_other_without_end() -> None:
    """Each takes a pass over all of the text, so there are no more than so many between a state and a whole one."""
    chance, rows = random.Random(1), Row()
    parts = [words(chance, 150) for _ in range(200)]
    for _ in range(100):
        parts = [f"{part[:140]}{chance.randrange(10**9):09}" for part in parts]
        rows.write(json.dumps(parts))
    known = [rows.read(n) for n in range(INITIAL, 99)]
    assert {rows[n].encoding for n in rows} == {"json", "patch"}
    assert MOST_PATCHES / 2 < max(state.patches for state in known if state) <= MOST_PATCHES


def test_going_back_to_the_best_for_long_takes_few_hops() -> None:
    """Five hundred steps that all start from the same one."""
    chance, rows, best = random.Random(1), Row(), words(random.Random(2), 5000)
    for _ in range(10):
        rows.write(best := best + words(chance, 100))
    for _ in range(500):
        rows.write(best[:4000] + words(chance, 300) + best[4000:], parent_n=8)
    assert max(rows.hops(n) for n in range(500, 509)) <= 35


def random_text(chance: random.Random, _: int) -> str:
    """What nothing makes shorter, so that it is left readable."""
    return "".join(chance.choices(string.ascii_letters + string.digits + "+/", k=20_000))


HARD: dict[str, Callable[[random.Random, int], str]] = {
    "random": random_text,
    "random bytes as text": lambda chance, _: json.dumps(chance.randbytes(8000).decode("latin-1")),
    "changed everywhere": lambda chance, _: json.dumps([chance.random() for _ in range(1000)]),
    "words changed everywhere": lambda chance, _: words(chance, 20_000),
    "shrinking": lambda _, n: words(random.Random(1), 60_000)[: 60_000 // (n + 1)],
    "half of it new": lambda chance, n: words(random.Random(1), 8000) + words(chance, 7900 + n),
    "quotes in quotes": lambda chance, n: json.dumps(json.dumps([words(chance, 30) for _ in range(40)])) + "\\" * n,
    "emoji": lambda chance, _: json.dumps("".join(chance.choices("😀🎉🔥✨", k=5000)), ensure_ascii=False),
    "repeated": lambda _, n: "xyz"[n % 3] * 100_000,
    "longer and longer repeats": lambda _, n: "".join(letter * 3900 for letter in string.ascii_letters[: n + 2]),
    "just below a limit": lambda chance, n: "x" * (4094 + n % 4),
}


@pytest.mark.parametrize("kind", HARD)
def test_a_hard_state_takes_no_more_than_all_of_it(kind: str) -> None:
    """Five hundredths more at most, and 4,095 characters where a difference is left readable."""
    chance, rows = random.Random(1), Row()
    for n in range(40):
        text = HARD[kind](chance, n)
        stored, full = rows.write(text), room(whole(text))
        assert stored <= max(1.05 * full, min(4095, len(text) / 4))
        assert rows.read(n + INITIAL) == Known(text, *(rows.read(n + INITIAL) or ())[1:])


def test_where_patches_save_nothing_they_are_tried_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some hundred states without anything in common only a few were tried."""
    tried = list[int]()
    patched_on = chains.patched_on

    def counting(base_n: int, base: str, text: str) -> Written:
        tried.append(base_n)
        return patched_on(base_n, base, text)

    monkeypatch.setattr(chains, "patched_on", counting)
    chance, rows = random.Random(1), Row()
    for n in range(300):
        rows.write(random_text(chance, n))
    assert len(tried) <= 12


def test_each_step_is_built_on_an_earlier_one_that_is_at_hand() -> None:
    """Whichever it is: what it may be built on is earlier, and was kept at hand when the one before was written."""
    for step_n in range(5000):
        found = list(bases(step_n, step_n - 1))
        assert found
        assert found == sorted(found)
        assert set(found) <= lasting(step_n - 1)
    assert all(len(lasting(n)) <= 7 for n in range(INITIAL, 5000))


# --- what is at hand


def test_looking_at_all_states_keeps_few_at_hand(store: SQLite) -> None:
    """Whoever reads the states of a run at work in between does not fill the memory with them."""
    lease = store.create_run(a_run(), "x" * 5000)
    for n in range(100):
        store.commit(lease, Transition(AT, a_step(n), f"{n:05}" * 1000))
    for n in range(100):
        store.state("r", n)
    chain = store._chains.of("r")
    assert chain is not None
    assert chain.size <= 6 * 5000


def test_very_long_states_are_not_kept_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit only the newest is; the others are read again where they are needed."""
    monkeypatch.setattr(chains, "MOST_AT_HAND", 50_000)
    rows, text = Row(), words(random.Random(1), 30_000)
    for n in range(200):
        rows.write(text + str(n))
        assert rows.chain.size <= 2 * len(text) + 10
    assert [rows.read(n) == Known(text + str(n + 1), rows.hops(n)) for n in (-1, 70, 198)] == [True] * 3
    assert max(map(rows.hops, range(198))) <= 28


def test_runs_that_take_turns_are_each_built_on_their_own_states(
    store: SQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is room at hand for those of one run only."""
    monkeypatch.setattr(chains, "MOST_AT_HAND", 10_000)
    chance, texts = random.Random(1), dict[str, list[str]]()
    leases = {run_id: store.create_run(a_run(run_id), words(chance, 6000)) for run_id in "abc"}
    for n in range(30):
        for run_id, lease in leases.items():
            texts.setdefault(run_id, []).append(store.state(run_id, n - 1) + words(chance, 50))
            store.commit(lease, Transition(AT, a_step(n), texts[run_id][n]))
    assert {run_id: [store.state(run_id, n) for n in range(30)] for run_id in texts} == texts
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT count(*) FROM steps WHERE encoding = 'cut'").fetchone() == (90,)


def test_a_write_asks_no_other_run_for_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs are at work, only the one that is written to is measured."""
    asked, texts, size = 0, {f"r{n}": "x" * 2000 for n in range(50)}, Chain.size

    def counting(chain: Chain) -> int:
        nonlocal asked
        asked += 1
        return size.fget(chain) if size.fget else 0

    monkeypatch.setattr(Chain, "size", property(counting))
    monkeypatch.setattr(chains, "MOST_AT_HAND", 60_000)
    many = Chains()
    for n in range(INITIAL, 10):
        for run_id, text in texts.items():
            many.write(run_id, n, n - 1, text + str(n), lambda _: None)
    assert asked <= 2 * 50 * 11
    left = [chain for run_id in texts if (chain := many.of(run_id))]
    assert 0 < len(left) < 50
    assert sum(chain.size for chain in left) <= 60_000
    many.forget(*texts)
    many.write("r0", 0, INITIAL, "x" * 2000, lambda _: None)
    assert many.of("r0") is not None


def test_a_state_that_was_rolled_back_is_no_base(store: SQLite) -> None:
    """After a commit that failed the next is built on what is stored, whatever that one would have written."""
    lease = store.create_run(a_run(), "0")
    store.commit(lease, Transition(AT, a_step(0), "a" * 5000))
    with pytest.raises(StoreError):  # there is such a step already
        store.commit(lease, Transition(AT, a_step(0), "b" * 5000))
    store.commit(lease, Transition(AT, a_step(1), "b" * 5001))
    store.commit(lease, Transition(AT, a_step(2), None))
    assert [store.state("r", n) for n in range(3)] == ["a" * 5000, "b" * 5001, "b" * 5001]


def test_an_interrupt_in_the_middle_of_a_difference_leaves_no_base(
    store: SQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a state is written: the commit is undone, and the same step may get another state."""
    lease, at = store.create_run(a_run(), "0"), 0
    chance, texts = random.Random(1), list[str]()
    text = words(chance, 5000)

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal at
        if frame.f_code.co_filename.endswith(("chains.py", "states.py", "difference.py")) and event == "line":
            at -= 1
            if at == 0:
                raise KeyboardInterrupt
        return trace

    for n in range(90):
        at = 1 + n * 3
        sys.settrace(trace)
        try:
            store.commit(lease, Transition(AT, a_step(n), text + "lost" + words(chance, 100)))
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if len(store.steps("r")) == n:
            store.commit(lease, Transition(AT, a_step(n), text := text + words(chance, 40)))
        texts.append(store.state("r", n))
        text = texts[-1]
    store.close()
    assert [store.state("r", n) for n in range(90)] == texts
    assert all(len(newer) > len(older) for older, newer in pairwise(texts))


def test_runs_that_end_in_other_threads_disturb_nobody(store: SQLite) -> None:
    """Threads that write, read and end runs at once each read back what they have written."""
    failures = list[BaseException]()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(name: str) -> None:
        chance = random.Random(name)
        try:
            for life in range(8):
                text = words(chance, 1500)
                lease = store.create_run(a_run(f"{name}-{life}"), text)
                texts = [text]
                for n in range(8):
                    texts.append(text := text + words(chance, 30))
                    store.commit(lease, Transition(AT, a_step(n), text))
                    assert store.state(f"{name}-{life}", n // 2 - 1) == texts[n // 2]
                store.commit(lease, PAUSED)
                assert [store.state(f"{name}-{life}", n) for n in range(INITIAL, 8)] == texts
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert failures == []
    assert store.get_run("a-0").status is RunStatus.PAUSED


def test_failed_steps_in_a_row_have_the_state_of_their_parent(store: SQLite) -> None:
    """A hundred of them are one hop each, after a restore to the initial state too."""
    lease = store.create_run(a_run(), "i" * 3000)
    store.commit(lease, Transition(AT, a_step(0), "a" * 3000))
    for n in range(1, 101):
        store.commit(lease, Transition(AT, a_step(n, parent_n=INITIAL if n > 50 else 0)))
    store.commit(lease, Transition(AT, a_step(101, parent_n=100), "i" * 3001))
    assert {store.state("r", n) for n in range(1, 51)} == {"a" * 3000}
    assert {store.state("r", n) for n in range(51, 101)} == {"i" * 3000}
    assert store.state("r", 101) == "i" * 3001
