"""What a text is made of when another one is at hand."""

from __future__ import annotations

import random
import string
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.store.difference import AHEAD, LEAST, MOST_PIECES, REACH, Piece, difference, joined, traced

CHANCE = random.Random(1)
TEXT = "".join(CHANCE.choices(string.ascii_letters, k=50_000))


def new_in(pieces: list[Piece] | None) -> int:
    """Characters that are told, and not copied."""
    assert pieces is not None
    return sum(len(piece) for piece in pieces if isinstance(piece, str))


class Looked(str):
    """A text that counts how many characters of it are taken to be compared."""

    __slots__ = ("count",)

    def __new__(cls, text: str) -> Self:
        """Begin at 0."""
        self = super().__new__(cls, text)
        self.count = 0
        return self

    def __getitem__(self, place: Any) -> str:
        """A part of it, which is counted."""
        part = super().__getitem__(place)
        self.count += len(part)
        return part


NEW = "<" + "n" * 98 + ">"
CASES = [
    ("the same", TEXT, 0, 1),
    ("at the end", TEXT + NEW, 100, 2),
    ("at the beginning", NEW + TEXT, 100, 2),
    ("in the middle", TEXT[:20_000] + NEW + TEXT[20_000:], 100, 3),
    ("counters around", "7" + TEXT[1:40_000] + NEW + TEXT[40_000:-1] + "7", 102, 5),
    ("a window that slides", TEXT[1000:] + NEW, 100, 2),
    ("something taken out", TEXT[:10_000] + TEXT[15_000:], 0, 2),
    ("less at the end", TEXT[:10_000], 0, 1),
    ("less at the beginning", TEXT[8000:], 0, 1),
    ("twenty small changes", "".join(TEXT[at : at + 2499] + "!" for at in range(0, 50_000, 2500)), 20, 40),
    ("another order", TEXT[25_000:] + TEXT[:25_000], 25_000, 2),
]


@pytest.mark.parametrize(("new", "told", "most"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_only_what_is_new_is_told(new: str, told: int, most: int) -> None:
    """Wherever a text has changed, its pieces make it, and hold little more than what was not there before."""
    pieces = difference(TEXT, new)
    assert pieces is not None
    assert joined(pieces, TEXT) == new
    assert new_in(pieces) <= told + 10  # where both begin alike by chance
    assert len(pieces) <= most


def test_what_is_new_is_found_behind_more_than_the_nearest_look() -> None:
    """As far as the farthest look ahead goes a long text may have come in, or gone."""
    for long in AHEAD:
        new = TEXT[:100] + "".join(CHANCE.choices(string.digits, k=long)) + TEXT[100:]
        assert new_in(difference(TEXT, new)) <= long + 10
        assert new_in(difference(new, TEXT)) <= 10


def test_texts_without_anything_in_common_are_told_whole() -> None:
    """It is one piece of its own."""
    assert difference(TEXT, "1" * 5000) == ["1" * 5000]
    assert difference("", "new") == ["new"]
    assert difference("old", "") == []


def test_too_many_changes_are_no_difference() -> None:
    """None is given instead of a list that is longer than so many pieces."""
    assert difference(TEXT, "".join(TEXT[at : at + 199] + "!" for at in range(0, 50_000, 200))) is None
    few = difference(TEXT, "".join(TEXT[at : at + 1999] + "!" for at in range(0, 50_000, 2000)))
    assert few is not None
    assert len(few) <= MOST_PIECES


@pytest.mark.parametrize(("new", "told", "most"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_character_is_looked_at_once_or_twice(new: str, told: int, most: int) -> None:
    """What agrees is compared once, in steps that grow; a place where texts part costs some hundred looks."""
    mine, theirs = Looked(TEXT), Looked(new)
    difference(mine, theirs)
    assert mine.count + theirs.count <= 2.5 * (len(TEXT) + len(new)) + (most + 1) * 4 * AHEAD[-1]


def test_the_looks_ahead_are_bounded() -> None:
    """A place where two texts part costs no more looks in a long text than in one that is as long as the reach."""
    counts = []
    for size in (2 * REACH, 20 * REACH):
        old = Looked("".join(CHANCE.choices("ab", k=size)))
        difference(old, Looked("".join(CHANCE.choices("cd", k=size))))
        counts.append(old.count)
    assert counts[0] == counts[1] <= 2 * len(AHEAD) * LEAST + 128


ALIKE = st.lists(st.sampled_from(["a" * 40, "b" * 33, "ab" * 20, "😀" * 40, "é" * 32, "x", "yz", TEXT[:3000]]))


@given(old=ALIKE.map("".join), new=ALIKE.map("".join), newer=ALIKE.map("".join))
def test_pieces_make_the_text_directly_and_through_others(old: str, new: str, newer: str) -> None:
    """Whatever two texts are; and parts of a text are the same when they are traced to the one before."""
    first, second = difference(old, new), difference(new, newer)
    if first is not None:
        assert joined(first, old) == new
    if second is not None:
        assert joined(second, new) == newer
    if first is not None and second is not None:
        assert joined(traced(second, first), old) == newer
