"""The forms in which a state is stored: read back as it was, or told to be damaged, and never something else."""

from __future__ import annotations

import json
import random
import sqlite3
import string
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import StateDropped, StoreError
from loomc_runner.records import INITIAL, Transition
from loomc_runner.report.verify import verify
from loomc_runner.store.packing import packed, patch
from loomc_runner.store.sqlite import SQLite
from loomc_runner.store.states import LITTLE, LONG, Written, built_on, patched_on, put_together, size, whole
from loomc_runner.testing import AT, PAUSED, a_run, a_step

CHANCE = random.Random(1)
TEXT = json.dumps("".join(CHANCE.choices(string.ascii_letters, k=9000)))
MIXED = json.dumps("".join(TEXT[at : at + 50] for at in range(8900, 0, -50)))
WORDS = json.dumps(" ".join(CHANCE.choices(["the", "harbour", "opens", "at", "nine"], k=2000)))


# --- forms


@pytest.mark.parametrize(("length", "kind"), [(LONG - 1, str), (LONG, bytes), (LONG + 1, bytes)])
def test_a_long_text_is_compressed(length: int, kind: type) -> None:
    """From so many characters on, be they of one byte or of four; what does not get shorter stays readable."""
    for letter in "xé😀":
        text = letter * length
        assert type(whole(text).blob) is kind
        assert put_together([whole(text)]).text == text
    noise = "".join(CHANCE.choices(string.ascii_letters + string.digits + "+-*/()", k=length))
    assert type(whole(noise).blob) in {kind, str}
    assert size(whole(noise)) <= length


def test_a_difference_is_stored_where_it_is_much_less() -> None:
    """The same text takes nothing, half of it is the most that may be new, and escapes count as what they take."""
    assert built_on(3, TEXT, TEXT) == Written("same", 3, None)
    assert built_on(3, TEXT, TEXT + "new") == Written("cut", 3, f'[{len(TEXT)},[0,{len(TEXT)}],"new"]')
    assert built_on(3, TEXT, TEXT[:1000] + "x" * 1100) is None
    assert built_on(3, TEXT, TEXT[:1000] + "x" * 900) is not None
    assert built_on(3, TEXT, TEXT[:1000] + '"' * 900) is None  # each is \" in a JSON string


def test_a_long_difference_is_compressed() -> None:
    """Where it is long, and where it is much of the text, since all of it would be compressed too."""
    for new, kind in (("x" * 100, str), ("x" * int(LITTLE * 9000), str), ("x" * 3900, bytes)):
        written = built_on(0, TEXT, TEXT + new)
        assert written is not None
        assert type(written.blob) is kind
        assert put_together([written, whole(TEXT)]).text == TEXT + new


FORMS = st.sampled_from(["cut", "patch", "same"])
LETTERS = st.text(st.characters(codec="utf-8"), max_size=30)


@given(first=LETTERS, changes=st.lists(st.tuples(FORMS, st.integers(0, 9000), LETTERS), max_size=12))
def test_states_built_on_each_other_are_put_together(first: str, changes: list[tuple[str, int, str]]) -> None:
    """In whichever forms: the text is the last one, and its hops and patches are counted."""
    texts, chain = [TEXT + first], [whole(TEXT + first)]
    for form, at, new in changes:
        text = texts[-1] if form == "same" else texts[-1][:at] + new + texts[-1][at:]
        written = patched_on(0, texts[-1], text) if form == "patch" else built_on(0, texts[-1], text)
        chain.insert(0, written or Written("same", 0, None))
        texts.append(text)
    known = put_together(chain)
    assert known.text == texts[-1]
    assert (known.hops, known.patches) == (len(changes), sum(form == "patch" for form, *_ in changes))


# --- damage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run with a state in each form: -1 and 0 whole, 1 and 2 differences, 3 a patch on 2, 4 the same as 3."""
    store = SQLite(tmp_path / "runs.db", durability="process")
    lease = store.create_run(a_run(), "0")
    for n, text in enumerate((TEXT, TEXT[:-1] + 'a"', TEXT[:4000] + "b" + TEXT[4000:], MIXED, None)):
        store.commit(lease, Transition(AT, a_step(n), text))
    store.commit(lease, PAUSED)
    store.close()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        made = patch(store.state("r", 2), MIXED)
        db.execute("UPDATE steps SET encoding = 'patch', base_n = 2, state_blob = ? WHERE step_n = 3", (made,))
    store.close()
    return store.path


class Bad(bytes):
    """Bytes that are to be stored as text, and are none."""


def bomb(zeros: int) -> bytes:
    """A frame of a few bytes that says it is very long."""
    return bytes.fromhex("28b52ffde0") + zeros.to_bytes(8, "little") + bytes(3)


def with_pieces(*pieces: Any) -> str:
    """A difference as it is told, from the text of step 0."""
    return json.dumps([len(TEXT), *pieces])


DAMAGES: dict[str, tuple[int, dict[str, Any]]] = {
    "built on nothing": (1, {"base_n": None}),
    "built on a step that is not there": (1, {"base_n": -7}),
    "built on another one": (1, {"base_n": -1}),
    "built on itself": (1, {"base_n": 1}),
    "built on a later one": (1, {"base_n": 2}),
    "in a circle": (0, {"encoding": "same", "base_n": 2}),
    "a whole one that is built on another": (1, {"encoding": "json"}),
    "an unknown form": (1, {"encoding": "delta"}),
    "the same as nothing": (1, {"encoding": "same", "base_n": None}),
    "nothing at all": (0, {"state_blob": None}),
    "no UTF-8": (0, {"state_blob": Bad(b'"\xff"')}),
    "no difference": (1, {"state_blob": None}),
    "a difference that is no JSON": (1, {"state_blob": "[9002,[0,"}),
    "a number": (1, {"state_blob": "7"}),
    "a text": (1, {"state_blob": '"abc"'}),
    "an object": (1, {"state_blob": '{"9002": [0, 1]}'}),
    "an empty list": (1, {"state_blob": "[]"}),
    "made for a text of another length": (1, {"state_blob": '[9001,[0,9001],"x"]'}),
    "a part beyond the end": (1, {"state_blob": with_pieces([0, 9003])}),
    "a part that begins beyond the end": (1, {"state_blob": with_pieces([9005, 9007])}),
    "a huge part": (1, {"state_blob": with_pieces([0, 10**30])}),
    "a part counted from the end": (1, {"state_blob": with_pieces([-5, -1])}),
    "a part that is turned around": (1, {"state_blob": with_pieces([10, 5])}),
    "a part of three numbers": (1, {"state_blob": with_pieces([0, 5, 7])}),
    "a part with a fraction": (1, {"state_blob": with_pieces([0.0, 5.5])}),
    "a part of texts": (1, {"state_blob": with_pieces(["0", "5"])}),
    "a part of truths": (1, {"state_blob": with_pieces([False, True])}),
    "a piece that is nothing": (1, {"state_blob": with_pieces(None)}),
    "a piece that is a number": (1, {"state_blob": with_pieces(5)}),
    "lists in lists without end": (1, {"state_blob": "[" * 100_000}),
    "a difference that is no frame": (1, {"state_blob": b"[1]"}),
    "a difference in a frame that was cut short": (1, {"state_blob": (packed("x" * 9000) or b"")[:-3]}),
    "a frame that says it is huge": (0, {"state_blob": bomb(2**60)}),
    "a difference that says it is huge": (1, {"state_blob": bomb(2**31)}),
    "a patch that says it is huge": (3, {"state_blob": bomb(2**62)}),
    "a whole one in a frame that is no text": (0, {"state_blob": bytes(100)}),
    "a patch as text": (3, {"state_blob": "text"}),
    "no patch": (3, {"state_blob": None}),
    "a patch that was cut short": (3, {"state_blob": patch(TEXT, WORDS)[:-5]}),
    "a patch on another one": (3, {"base_n": 0}),
    "a patch made for another text": (3, {"state_blob": patch(TEXT[::-1], MIXED[::-1])}),
}
"""The first step that is concerned, and what is written into its row; the later ones are built on it."""


def damage(path: Path, step_n: int, changes: dict[str, Any]) -> None:
    """Write something else into the row of a step."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for column, value in changes.items():
            written = "CAST(? AS TEXT)" if isinstance(value, Bad) else "?"
            db.execute(f"UPDATE steps SET {column} = {written} WHERE step_n = ?", (value, step_n))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_told_with_its_run_and_step(path: Path, kind: str) -> None:
    """So are those that are built on it; the others are read, and `loomc verify` finds the same."""
    with closing(SQLite(path)) as store:
        before = {n: store.state("r", n) for n in range(INITIAL, 5)}
    step_n, changes = DAMAGES[kind]
    damage(path, step_n, changes)
    with closing(SQLite(path, read_only=True)) as store:
        for n in range(step_n):
            assert store.state("r", n) == before[n]
        for n in range(step_n, 5):
            with pytest.raises(StoreError, match=rf"the state of step {n} of run r is damaged: .*; loomc verify r"):
                store.state("r", n)
        found = {finding.step_n for finding in verify(store, store.get_run("r")) if "no readable" in str(finding)}
    assert found == set(range(step_n, 5))


def test_any_change_in_a_compressed_state_is_noticed(path: Path) -> None:
    """A byte that was turned over anywhere in a patch, or in a compressed text, gives no other state."""
    good = patch(TEXT, WORDS)
    chain = [Written("patch", 0, good), whole(TEXT)]
    assert put_together(chain).text == WORDS
    for blob, rest in ((good, [whole(TEXT)]), (packed(WORDS), [])):
        assert isinstance(blob, bytes)
        for at in range(len(blob)):
            broken = blob[:at] + bytes([blob[at] ^ (1 << at % 8)]) + blob[at + 1 :]
            written = Written("patch" if rest else "json", 0 if rest else None, broken)
            try:
                text = put_together([written, *rest]).text
            except Exception:
                continue
            assert text == WORDS  # where the bit says nothing of the text


def test_a_step_without_a_state_is_dropped_with_its_parent(path: Path) -> None:
    """One that was committed after the state of its parent was dropped says so, as that does."""
    with closing(SQLite(path)) as store:
        lease = store.create_run(a_run("s"), TEXT)
        store.commit(lease, Transition(AT, a_step(0), TEXT + " ", dropped=(INITIAL,)))
        store.commit(lease, Transition(AT, a_step(1, parent_n=INITIAL)))
        store.commit(lease, Transition(AT, a_step(2, parent_n=1), TEXT + "  "))
        store.commit(lease, PAUSED)
        for n in (INITIAL, 1):
            with pytest.raises(StateDropped, match=f"the state of step {n} of run s was dropped"):
                store.state("s", n)
        assert [store.state("s", n) for n in (0, 2)] == [TEXT + " ", TEXT + "  "]


def test_long_chains_of_damaged_rows_end(path: Path) -> None:
    """Also where thousands of rows are built on each other."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        row = "SELECT 'r', ?, ?, 'same', ?, timestamp FROM steps WHERE step_n = 0"
        db.execute("BEGIN")
        for n in range(5, 2000):
            db.execute(
                f"INSERT INTO steps (run_id, step_n, parent_n, encoding, base_n, timestamp) {row}", (n, n - 1, n - 1)
            )
        db.execute("COMMIT")
    with closing(SQLite(path)) as store:
        assert store.state("r", 1999) == store.state("r", 4)
