"""How values are said to a person."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from loomc_runner.records import INITIAL


def printable(text: str) -> str:
    """The text with control characters written out, so that it is one line and nothing in it steers a terminal.

    Control, format (bidirectional ones too), private and unassigned characters and line separators become
    escapes as Python writes them; what can be seen, and any kind of space, stays.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else ascii(char)[1:-1] for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def size(count: int) -> str:
    """Bytes as a person reads them: `812 B`, `4.1 kB`, `37 MB`."""
    amount, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while amount >= (1000 if unit == "B" else 999.5) and unit != "GB":
        amount, unit = amount / 1000, next(units)
    return f"{amount:.1f} {unit}" if unit != "B" and amount < 9.95 else f"{amount:.0f} {unit}"


def dollars(usd: float) -> str:
    """Money as a person reads it: two decimals, or up to four where they say something."""
    if 0 < usd < 0.0001:
        return "<$0.0001"
    whole, _, cents = f"{usd:.4f}".partition(".")
    return f"${whole}.{cents[:2]}{cents[2:].rstrip('0')}"


def score_words(score: float | None, scores: Sequence[float] = ()) -> str:
    """A score as a person reads it; of several answers their mean, how far they scatter and how many there are.

    Such as `0.81 ±0.03 (3)`, where 0.03 is the standard deviation. Nothing for no score.
    """
    if score is None or len(scores) < 2:
        return "" if score is None else f"{score:.6g}"
    deviation = math.hypot(*(each - score for each in scores)) / math.sqrt(len(scores) - 1)
    decimals = 2 if not deviation else min(max(1 - math.floor(math.log10(deviation)), 0), 12)
    return f"{score:.{decimals}f} ±{deviation:.2g} ({len(scores)})"


def counted(number: int, name: str) -> str:
    """So many of something: `1 step`, `2 steps`."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def place(step_n: int) -> str:
    """A step, or what was before the first one."""
    return "the initial state" if step_n == INITIAL else f"step {step_n}"
