"""Any sequence of states, failures, drops, kills and processes: every state is read back byte for byte."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from killing import FORK, live
from loomc_runner import StateDropped
from loomc_runner.records import INITIAL, Lease, Transition
from loomc_runner.store import chains, difference, states
from loomc_runner.store.chains import MOST_HOPS, SMALL
from loomc_runner.store.sqlite import SQLite
from loomc_runner.store.states import LITTLE, LONG, whole
from loomc_runner.testing import AT, PAUSED, a_resumption, a_run, a_step

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

SEQUENCES = int(os.environ.get("LOOMC_SEQUENCES", "60"))
"""Sequences to run; 10,000 of them take a quarter of an hour."""

A_LITTLE = 1024
"""Bytes more that a difference may take than all of a text that is nearly nothing when it is compressed."""

EDGES = [edge + more for edge in (SMALL, LONG) for more in (-1, 0, 1)]
"""Lengths of texts around which they are stored in another way."""

ALPHABETS = (
    string.ascii_letters + string.digits + "+/",
    '\\"\n\t\x00\x7f/',
    "äöüß€日本語한국어",
    "😀👩‍👩‍👧‍👦🏳️‍🌈\U0001d4b3\u2028\ufeff\uffff\U0010ffff",
    " the harbour opens at nine and closes at five",
)

State = dict[str, Any]


class Move(NamedTuple):
    """What happens next: a step whose state is changed so, or something else; `back` is how far it goes back."""

    what: str
    seed: int
    back: int


def letters(chance: random.Random, most: int = 600) -> str:
    """Some text, of one kind of letters."""
    return "".join(chance.choices(chance.choice(ALPHABETS), k=chance.randrange(most)))


def item(chance: random.Random) -> State:
    """A message, as a transcript has it."""
    return {"role": chance.choice(["user", "tool"]), "content": letters(chance), "n": chance.randrange(10**9)}


def grown(state: State, chance: random.Random) -> None:
    """A transcript gets longer at its end, and counters move on either side of it."""
    state["items"] += [item(chance) for _ in range(chance.randrange(1, 4))]
    state["before"], state["after"] = state["before"] + 1, state["after"] + 7


def grown_inside(state: State, chance: random.Random) -> None:
    """It gets longer in the middle or at its beginning."""
    state["items"].insert(chance.choice([0, len(state["items"]) // 2]), item(chance))


def slid(state: State, chance: random.Random) -> None:
    """The oldest goes, and a new one comes."""
    state["items"] = [*state["items"][chance.randrange(4) :], item(chance)]


def sprinkled(state: State, chance: random.Random) -> None:
    """Many small changes, all over."""
    for found in chance.choices(state["items"], k=chance.randrange(80)) if state["items"] else ():
        found["n"] = chance.randrange(10**9)


def written_anew(state: State, chance: random.Random) -> None:
    """Nothing is left of it."""
    state["items"] = [item(chance) for _ in range(chance.randrange(40))]


def random_all_over(state: State, chance: random.Random) -> None:
    """What nothing makes shorter."""
    state["items"] = [{"content": "".join(chance.choices(ALPHABETS[0], k=chance.randrange(20_000)))}]


def shrunk(state: State, chance: random.Random) -> None:
    """Most of it goes."""
    state["items"] = state["items"][: chance.randrange(5)]
    state["pad"] = ""


def repeated(state: State, chance: random.Random) -> None:
    """The same letters again and again."""
    state["pad"] = chance.choice(["x", "xy", "\\", '"', "😀", "null,"]) * chance.randrange(100_000)


def doubled(state: State, chance: random.Random) -> None:
    """All of it twice, or in another order."""
    chance.shuffle(state["items"])
    state["items"] = (state["items"] * 2)[:60]


def at_an_edge(state: State, chance: random.Random) -> None:
    """As long as a state is that is stored in the one way or just in the other."""
    state["items"], state["pad"], edge = state["items"][:1], "", chance.choice(EDGES)
    state["items"] = state["items"] if len(text_of(state)) < edge else []
    state["pad"] = chance.choice("xé日😀") * (edge - len(text_of(state)))


def replaced_by_little(state: State, _: random.Random) -> None:
    """It is tiny from now on."""
    state.update(items=[], pad="")


def left_alone(_: State, __: random.Random) -> None:
    """The very same."""


CHANGES: dict[str, Callable[[State, random.Random], None]] = {
    change.__name__: change
    for change in (
        *(grown, grown_inside, slid, sprinkled, written_anew, random_all_over),
        *(shrunk, repeated, doubled, at_an_edge, replaced_by_little, left_alone),
    )
}
EVENTS = ("fail", "drop", "drop at rest", "look", "close", "claim", "elsewhere", "killed", "anew")


def text_of(state: State) -> str:
    """A state as its text; an escaped surrogate is one of the things that it holds."""
    return json.dumps(state, ensure_ascii=False, separators=(",", ":")) if state["plain"] else json.dumps(state)


class Truth:
    """What must be read back: the text after each step, None where it was dropped."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.first: State = {"before": 98, "items": [item(chance)], "pad": "", "after": 0, "plain": bool(seed % 4)}
        self.texts: dict[int, str | None] = {INITIAL: text_of(self.first)}
        self.newest = INITIAL

    def follow(self, move: Move) -> Transition:
        """The commit that a move stands for, as it is on record from now on."""
        chance = random.Random(move.seed)
        kept = [n for n, text in self.texts.items() if text is not None]
        parent = kept[max(0, len(kept) - 1 - move.back)]
        text, state = self.texts[parent] or "", None
        if move.what != "fail":
            changed = json.loads(text)
            CHANGES.get(move.what, grown)(changed, chance)
            text = state = text_of(changed)
        dropped = self.drop(chance, parent) if move.what == "drop" else ()
        self.newest += 1
        self.texts[self.newest] = text
        return Transition(AT, a_step(self.newest, parent_n=parent), state, dropped=dropped)

    def drop(self, chance: random.Random, wanted: int) -> tuple[int, ...]:
        """Some steps, but not the one that is wanted, whose states are not kept any more."""
        dropped = tuple(n for n in self.texts if n != wanted and chance.random() < chance.choice([0.1, 0.5, 1]))
        self.texts |= dict.fromkeys(dropped)
        return dropped


class Work:
    """A store that does what a sequence says, beside the truth."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.store = SQLite(path, durability="process")
        self.begin()

    def begin(self) -> None:
        """Make the run."""
        self.truth = Truth(self.seed)
        self.lease: Lease = self.store.create_run(a_run(), self.truth.texts[INITIAL] or "")

    def do(self, moves: Sequence[Move]) -> None:
        """Do all of it."""
        for at, move in enumerate(moves):
            if move.what in {"elsewhere", "killed"}:
                return self.do_elsewhere(move, moves[at + 1 :])
            if event := getattr(self, f"do_{move.what.replace(' ', '_')}", None):
                event(move)
            else:
                self.store.commit(self.lease, self.truth.follow(move))
        return None

    def rest(self) -> None:
        """Give the run up."""
        self.store.commit(self.lease, PAUSED)

    def go_on(self) -> None:
        """Take it up again."""
        self.lease = self.store.claim("r", a_resumption()).lease

    def do_claim(self, _: Move) -> None:
        """What was at hand is forgotten."""
        self.rest()
        self.go_on()

    def do_close(self, _: Move) -> None:
        """The connection is another one from now on."""
        self.store.close()

    def do_anew(self, _: Move) -> None:
        """The run is another one from now on."""
        self.rest()
        self.store.delete(["r"])
        self.seed += 1
        self.begin()

    def do_look(self, move: Move) -> None:
        """Some states are looked at meanwhile."""
        chance = random.Random(move.seed)
        for step_n in chance.choices(list(self.truth.texts), k=5):
            assert self.read(self.store, step_n) == self.truth.texts[step_n]

    def do_drop_at_rest(self, move: Move) -> None:
        """States are dropped while nobody works on the run."""
        self.rest()
        self.store.drop_states("r", self.truth.drop(random.Random(move.seed), self.truth.newest))
        self.go_on()

    def do_elsewhere(self, move: Move, moves: Sequence[Move]) -> None:
        """Another process goes on with the next ones, to its end or until it is killed; and this one after it."""
        self.rest()
        count = random.Random(move.seed).randrange(1, 12)
        steps = [step for step in moves[:count] if step.what in CHANGES or step.what in {"fail", "drop"}]
        if move.what == "elsewhere":
            assert live(self.live, steps) == 0
            done = len(steps)
        else:
            before = self.store.get_run("r").steps
            life = FORK.Process(target=self.live, args=(steps,), daemon=True)
            life.start()
            time.sleep(random.Random(move.seed).uniform(0, 0.02))
            life.kill()
            life.join()
            done = self.store.get_run("r").steps - before
        for step in steps[:done]:
            self.truth.follow(step)
        self.go_on()
        self.do(moves[count:])

    def live(self, steps: Sequence[Move]) -> None:
        """What the other process does."""
        self.go_on()
        self.do(steps)
        self.rest()

    def check(self) -> None:
        """A fresh reader finds every state, and the rows are as few hops and bytes as is promised."""
        with closing(SQLite(self.path, read_only=True)) as reader:
            for step_n, text in self.truth.texts.items():
                assert self.read(reader, step_n) == text, step_n
            assert reader.get_run("r").steps == len(self.truth.texts) - 1
        with closing(sqlite3.connect(self.path)) as db:
            rows = {n: row for n, *row in db.execute("SELECT step_n, base_n, encoding, state_blob FROM steps")}
        hops, fails = {None: -1}, sum(encoding == "same" for _, encoding, _ in rows.values())
        for step_n in sorted(rows):
            base_n, encoding, _ = rows[step_n]
            assert base_n is None or base_n < step_n
            hops[step_n] = hops[base_n] + 1
            assert hops[step_n] <= chains.MOST_HOPS + fails
            assert (encoding == "dropped") == (self.truth.texts[step_n] is None)
        for step_n, (_, _, blob) in rows.items() if chains.MOST_HOPS == MOST_HOPS else ():
            text = self.truth.texts[step_n] or ""
            little = room(blob or "") if blob and len(blob) <= min(LONG, LITTLE * len(text)) else 0
            assert room(blob or "") <= max(little, room(whole(text).blob or "") * 1.05 + A_LITTLE)

    @staticmethod
    def read(store: SQLite, step_n: int) -> str | None:
        """A state as a store gives it."""
        try:
            return store.state("r", step_n)
        except StateDropped:
            return None


def room(blob: str | bytes) -> int:
    """Bytes that something stored takes."""
    return len(blob.encode() if isinstance(blob, str) else blob)


@contextmanager
def a_path() -> Iterator[Path]:
    """A place for a database, in memory where there is room, since no power fails here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name) / "runs.db"


steps = st.builds(
    Move,
    what=st.sampled_from([*CHANGES, *["grown"] * 8]),
    seed=st.integers(0, 10**6),
    back=st.sampled_from([0] * 6 + [1, 3, 9, 1000]),
)
events = st.builds(Move, what=st.sampled_from(EVENTS), seed=st.integers(0, 10**6), back=st.sampled_from([0, 0, 0, 5]))
sequences = st.lists(st.one_of(steps, steps, steps, steps, events), min_size=1, max_size=40)


@pytest.mark.slow
@pytest.mark.timeout(120 + SEQUENCES)
@settings(max_examples=SEQUENCES, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=sequences, seed=st.integers(0, 100))
def test_every_state_is_read_back(moves: list[Move], seed: int) -> None:
    """Whatever the states are and whatever happens between: byte for byte, by a store that knows nothing of it."""
    do_all(moves, seed)


TINY: dict[Any, dict[str, Any]] = {
    difference: {
        "LEAST": 2,
        "AHEAD": (1, 3, 7),
        "REACH": 20,
        "MOST_PIECES": 6,
        "FIRST_STEP": 2,
        "LONGEST_STEP": 8,
    },
    chains: {
        "SMALL": 9,
        "SPREAD": 2,
        "MOST_HOPS": 6,
        "MOST_PATCHES": 2,
        "CHEAP": 3,
        "WORTH_IT": 30,
        "LONGEST_PAUSE": 2,
    },
    states: {"LONG": 12, "MOST_NEW": 3.0},
}
"""Limits that are met in every sequence."""


@pytest.mark.slow
@pytest.mark.timeout(120 + SEQUENCES)
@settings(max_examples=SEQUENCES, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=sequences, seed=st.integers(0, 100))
def test_every_state_is_read_back_at_each_limit(moves: list[Move], seed: int) -> None:
    """So it is where pieces, hops, patches and looks ahead come to their ends again and again."""
    with pytest.MonkeyPatch.context() as patched:
        for module, limits in TINY.items():
            for name, limit in limits.items():
                patched.setattr(module, name, limit)
        do_all(moves, seed)


def do_all(moves: list[Move], seed: int) -> None:
    """Do what a sequence says, and look at what is left."""
    with a_path() as path:
        work = Work(path, seed)
        with closing(work.store):
            work.do(moves)
            work.rest()
            work.check()
