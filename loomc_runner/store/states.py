"""How a state is stored: as it is, compressed, or as what it differs in from that of an earlier step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from loomc_runner.store.difference import Piece, difference, joined, traced

LONG = 4096
"""Characters; longer texts are stored compressed, where that makes them shorter."""

MOST_NEW = 0.5
"""A difference is stored when no more than so much of the text is new in it, and it is told in no more."""

LITTLE = 0.25
"""A short difference that is more of the text than that is compressed too: all of the text would be."""

DROPPED = "dropped"
"""What stands in the place of a form where the state is not kept any more."""


class Known(NamedTuple):
    """A state at hand; how many steps it is built on, one on the other, and how many of them as patches."""

    text: str
    hops: int = 0
    patches: int = 0


class Written(NamedTuple):
    """A state as its row holds it: in which form, built on which step, in which words.

    The forms: `json` is the whole text, `same` the very text of the step `base_n`, `cut` a JSON list: how
    long that text is, and the pieces that make it of that (`[from, to]` copies characters, a string is new), `patch` a
    Zstandard frame with that text as its prefix. Where `json` and `cut` are bytes they are compressed.
    """

    encoding: str
    base_n: int | None
    blob: str | bytes | None


def whole(text: str) -> Written:
    """The state as it is, readable where it is short."""
    return Written("json", None, _shortened(text))


def built_on(base_n: int, base: str, text: str) -> Written | None:
    """The state as what it differs in; None where that is not much less than all of it."""
    if base == text:
        return Written("same", base_n, None)
    pieces = difference(base, text)
    if pieces is None or sum(len(piece) for piece in pieces if isinstance(piece, str)) > MOST_NEW * len(text):
        return None
    told = json.dumps([len(base), *pieces], ensure_ascii=False, separators=(",", ":"))
    if len(told) > MOST_NEW * len(text):  # many pieces, or quotes that are escaped once more
        return None
    return Written("cut", base_n, _shortened(told, min(LONG, LITTLE * len(text))))


def patched_on(base_n: int, base: str, text: str) -> Written:
    """The state as a patch: smaller than a whole one where anything is alike, but slower to make and to read."""
    from loomc_runner.store.packing import patch

    return Written("patch", base_n, patch(base, text))


def size(written: Written) -> int:
    """Characters or bytes that are stored."""
    return len(written.blob or "")


def put_together(chain: Sequence[Written]) -> Known:
    """The state that is built on others: itself first, and the one that is whole last.

    A difference is not applied to all of a text: the parts that are wanted of it are looked for in the one before, so
    that a long chain copies each character once.

    Raises:
        ValueError: When it leads nowhere, or holds what is not written here.
    """
    layers, last = chain[:-1], chain[-1]
    if last.encoding == DROPPED:
        raise ValueError(f"it is built on step {layers[-1].base_n}, whose state was dropped")
    if last.encoding != "json" or last.blob is None:
        raise ValueError(f"it is built on step {last.base_n}, which is not there")
    text = _full(last.blob)
    for form, group in groupby(reversed(layers), key=lambda layer: layer.encoding):
        if form == "cut":
            text = _with_cuts(text, group)
        elif form == "patch":
            text = _with_patches(text, group)
        elif form != "same":
            raise ValueError(f"there is no form {form!r}")
    return Known(text, len(layers), sum(layer.encoding == "patch" for layer in layers))


def _with_cuts(text: str, layers: Iterable[Written]) -> str:
    """The text after several differences, oldest first."""
    cuts, length = list[list[Piece]](), len(text)
    for layer in layers:
        cuts.append(_pieces(layer.blob, length))
        length = sum(len(piece) if isinstance(piece, str) else piece[1] - piece[0] for piece in cuts[-1])
    *older, wanted = cuts
    for pieces in reversed(older):
        wanted = traced(wanted, pieces)
    return joined(wanted, text)


def _with_patches(text: str, layers: Iterable[Written]) -> str:
    """The text after several patches, oldest first."""
    from loomc_runner.store.packing import patched

    return patched(text, map(_frame, layers))


def _frame(layer: Written) -> bytes:
    if not isinstance(layer.blob, bytes):
        raise ValueError(f"a patch is no {type(layer.blob).__name__}")  # noqa: TRY004 - a row, not a call, is wrong
    return layer.blob


def _pieces(blob: str | bytes | None, length: int) -> list[Piece]:
    told = json.loads(_full(blob or ""))
    if not isinstance(told, list) or told[:1] != [length]:
        raise ValueError(f"it was not built on this text of {length} characters")
    return [piece if isinstance(piece, str) else _part(length, *piece) for piece in told[1:]]


def _part(length: int, start: int, stop: int) -> tuple[int, int]:
    if not (type(start) is type(stop) is int and 0 <= start < stop <= length):
        raise ValueError(f"there is no part from {start} to {stop} in {length} characters")
    return start, stop


def _shortened(text: str, long: float = LONG) -> str | bytes:
    if len(text) < long:
        return text
    from loomc_runner.store.packing import packed

    return packed(text)


def _full(blob: str | bytes) -> str:
    if isinstance(blob, str):
        return blob
    from loomc_runner.store.packing import unpacked

    return unpacked(blob)
