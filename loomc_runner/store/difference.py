"""What a text is made of when another one is at hand: parts copied from that one, and texts of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

Piece = str | tuple[int, int]
"""A text of its own, or a part of the other text: from where to where, in characters."""

LEAST = 32
"""Characters that two texts must have in common to go on from there; fewer are found by chance."""

AHEAD = (16, 128, 1024, 8192)
"""How far behind the place where two texts part is looked for what they have in common again."""

REACH = 1 << 16
"""Characters within which that is looked for."""

MOST_PIECES = 64
"""A text that is made of more is better told in another way."""

MOST_MISSES = 32
"""Looks ahead that find nothing, in all: each takes some microseconds, and texts that want more are too different."""

FIRST_STEP, LONGEST_STEP = 1 << 6, 1 << 16
"""Characters compared at once, powers of two: a copy of the most stays in the cache of the processor."""


def difference(old: str, new: str) -> list[Piece] | None:
    """The pieces that make the new text of the old one; None when they would be too many.

    Both are compared at the speed of memory as long as they agree. From where they part a short text of the one is
    looked for in the other, further and further on, so that it does not matter how much stands before, between and
    after the changes. Where they have little in common the pieces are long texts of its own, and whoever asks decides
    whether that is worth it.
    """
    at, to, pieces, looks = 0, 0, list[Piece](), MOST_MISSES
    while len(pieces) < MOST_PIECES:
        if run := _common_head(old, at, new, to):
            pieces.append((at, at + run))
            at, to = at + run, to + run
        before, (at, to, looks) = to, _next_meeting(old, at, new, to, looks)
        if not looks:
            break
        if to > before:
            pieces.append(new[before:to])
    else:
        return None
    tail = _common_tail(old, at, len(old), new, to, len(new))
    if len(new) - tail > to:
        pieces.append(new[to : len(new) - tail])
    if tail:
        pieces.append((len(old) - tail, len(old)))
    return pieces


def traced(wanted: Sequence[Piece], pieces: Sequence[Piece]) -> list[Piece]:
    """Parts of a text as parts of the one that it is made of."""
    ends = list(accumulate(len(piece) if isinstance(piece, str) else piece[1] - piece[0] for piece in pieces))
    found = list[Piece]()
    for part in wanted:
        if isinstance(part, str):
            found.append(part)
            continue
        start, stop = part
        place = bisect_right(ends, start)
        while start < stop:
            piece, begin = pieces[place], ends[place - 1] if place else 0
            end = min(stop, ends[place])
            if isinstance(piece, str):
                found.append(piece[start - begin : end - begin])
            else:
                found.append((piece[0] + start - begin, piece[0] + end - begin))
            start, place = end, place + 1
    return found


def joined(pieces: Sequence[Piece], old: str) -> str:
    """The text that pieces make of another one."""
    return "".join(piece if isinstance(piece, str) else old[piece[0] : piece[1]] for piece in pieces)


def _common_head(old: str, at: int, new: str, to: int) -> int:
    """How many characters two texts have in common from a place in each."""
    most, run, step = min(len(old) - at, len(new) - to), 0, FIRST_STEP
    while run < most and new.startswith(old[at + run : at + run + step], to + run):
        run, step = run + step, min(step * 2, LONGEST_STEP)
    while step > 1 and run < most:  # they part within the next step
        step //= 2
        if new.startswith(old[at + run : at + run + step], to + run):
            run += step
    return min(run, most)


def _common_tail(old: str, at: int, old_end: int, new: str, to: int, new_end: int) -> int:
    """How many characters two texts have in common up to a place in each."""
    most, run, step = min(old_end - at, new_end - to), 0, FIRST_STEP
    while run + step <= most and new.endswith(old[old_end - run - step : old_end - run], 0, new_end - run):
        run, step = run + step, min(step * 2, LONGEST_STEP)
    while step > 1:
        step //= 2
        if run + step <= most and new.endswith(old[old_end - run - step : old_end - run], 0, new_end - run):
            run += step
    return run


def _next_meeting(old: str, at: int, new: str, to: int, looks: int) -> tuple[int, int, int]:
    """Where two texts that part here agree again, and how many looks are left; none when they are not seen to.

    Something may lie between in each of them.
    """
    for ahead in AHEAD:
        mark = old[at + ahead : at + ahead + LEAST]
        if len(mark) == LEAST and (found := new.find(mark, to, to + REACH)) >= 0:
            back = _common_tail(old, at, at + ahead, new, to, found)
            return at + ahead - back, found - back, looks
        mark = new[to + ahead : to + ahead + LEAST]
        if len(mark) == LEAST and (found := old.find(mark, at, at + REACH)) >= 0:
            back = _common_tail(old, at, found, new, to, to + ahead)
            return found - back, to + ahead - back, looks
        looks -= 1
        if not looks:
            break
    return at, to, 0
