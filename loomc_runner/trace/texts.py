"""Texts of others made fit for a page: cut at a stated size, with nothing in them that steers a browser."""

from __future__ import annotations

import json
import math
from typing import Any

from loomc_runner.report import printable

LONGEST = 1_000
"""Characters of an input, an output or an error that a page shows."""

LONGEST_NAME = 100
"""Characters of a name that a page shows."""

LOOKALIKES = str.maketrans("<>\"'`&\\", "()'''+/".replace("'", "\u2019"))
"""What stands in a name for the characters that mean something in HTML, in an attribute or in Graphviz."""


def shown(text: str) -> str:
    """A text as a page shows it, line by line; what is cut off is told.

    Control, format (bidirectional ones too) and unassigned characters and lone surrogates are written out.
    """
    head = "\n".join(printable(line.expandtabs(4)) for line in text[:LONGEST].replace("\r\n", "\n").split("\n"))
    if len(text) <= LONGEST and len(head) <= LONGEST:
        return head
    return f"{head[:LONGEST]} … (cut: {LONGEST:,} characters of a value are shown, it has {len(text):,})"


def named(text: str) -> str:
    """A name without quotes, markup and control characters."""
    head = printable(" ".join(text[: 2 * LONGEST_NAME].split())).translate(LOOKALIKES)
    return (head if len(head) <= LONGEST_NAME else f"{head[:LONGEST_NAME]}…") or "unnamed"


def as_text(value: Any) -> str | None:
    """A value of a user's own function as JSON text, as far as it can be said so; None for nothing."""
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except Exception:  # noqa: BLE001 - it is the user's object, and may do anything
        return f"a {type(value).__name__}, which cannot be shown"


def count_of(value: Any) -> int | None:
    """A count that a user's own function has noted, or None where it is no number of that kind."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and math.isfinite(value) and value >= 0 else None
