"""How two states differ, as JSON: what changed where, with lists matched item by item."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MOST_PAIRS = 1_000_000
"""How many items of two lists are matched with each other; `difflib` takes a second for so many."""

MISSING: Any = object()
"""Stands for a value that is only in the other state."""


@dataclass(frozen=True, slots=True)
class Change:
    """One place where two states differ.

    Attributes:
        path: Where, such as `state.items[2].when`; of an item that moved, where it is in the newer state.
        kind: `changed`, `added` or `removed`.
        before: The value in the first state; None when it was added.
        after: The value in the second state; None when it was removed.
    """

    path: str
    kind: str
    before: Any = None
    after: Any = None

    @property
    def unified(self) -> list[str]:
        """The lines of a unified diff, where both are texts of more than a line; else none."""
        texts = (self.before, self.after)
        if not all(isinstance(text, str) for text in texts) or not any("\n" in text for text in texts):
            return []
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), "before", "after", lineterm="")
        return list(lines)


def differences(before: Any, after: Any, path: str = "state") -> Iterator[Change]:
    """What differs between two JSON values, from the top down; nothing when they are equal.

    An object is compared name by name. A list is matched as `difflib` matches lines, so that one item more at its
    beginning is one change and not one for every item.
    """
    if _text(before) == _text(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _one(before.get(name, MISSING), after.get(name, MISSING), f"{path}{_step_into(name)}")
    elif isinstance(before, list) and isinstance(after, list):
        yield from _items(before, after, path)
    else:
        yield Change(path, "changed", before, after)


def _one(before: Any, after: Any, path: str) -> Iterator[Change]:
    if before is MISSING:
        yield Change(path, "added", after=after)
    elif after is MISSING:
        yield Change(path, "removed", before=before)
    else:
        yield from differences(before, after, path)


def _items(before: list[Any], after: list[Any], path: str) -> Iterator[Change]:
    old, new = [*map(_text, before)], [*map(_text, after)]
    start, end = _in_common(old, new), 0
    end = _in_common(old[start:][::-1], new[start:][::-1])
    i, j, k, n = start, len(old) - end, start, len(new) - end
    for kind, a, b, c, d in _matched(old[i:j], new[k:n]):
        for offset in range(max(b - a, d - c) if kind != "equal" else 0):
            one = before[i + a + offset] if a + offset < b else MISSING
            other = after[k + c + offset] if c + offset < d else MISSING
            place = i + a + offset if other is MISSING else k + c + offset
            yield from _one(one, other, f"{path}[{place}]")


def _in_common(old: list[str], new: list[str]) -> int:
    """How many items are the same from the beginning on."""
    return next(
        (n for n, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), min(len(old), len(new))
    )


def _matched(old: list[str], new: list[str]) -> Sequence[tuple[str, int, int, int, int]]:
    """Which items became which; in very long lists those at the same place."""
    if len(old) * len(new) > MOST_PAIRS:
        return [("replace", 0, len(old), 0, len(new))]
    return difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()


def _text(value: Any) -> str:
    """A value as a text that is equal for equal JSON: 1 is not true, and 1.0 is not 1."""
    return json.dumps(value, sort_keys=True)


def _step_into(name: str) -> str:
    return f".{name}" if name.isidentifier() else f"[{json.dumps(name, ensure_ascii=False)}]"
