"""A run at work as a plain value, and that value as lines that fit a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from loomc_runner.clock import format_duration
from loomc_runner.records import INITIAL
from loomc_runner.report import Limit, dollars, printable

if TYPE_CHECKING:
    from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"

RECENT = 20
"""Scores in a sparkline."""

LONGEST = 500
"""Characters of a name or an error that are looked at; one may have a megabyte."""

FEW = 3
"""Runs side by side that are told of in more than one line each."""

MOST_CALLS = 3
MOST_CHILDREN = 30
"""Calls, and child runs of one run, that are shown; the others are counted."""


@dataclass(frozen=True, slots=True)
class CallAtWork:
    """A durable call under way, and for how many seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RunAtWork:
    """A run at work, as it is shown.

    Attributes:
        run_id, loop: Which run of which loop; the loop may be unknown.
        step_n: The step under way.
        score, scores: The newest score, and the recent ones, oldest first; None where a step has none.
        best_step, best_score: The best step so far; None when nothing was scored, or when its score is not known here.
        limits: What was used of money, steps, tokens and time; the limit is infinite where there is none.
        calls: The calls under way, oldest first.
        failure: The error of the newest try of the step under way, when that failed.
        note: Why nobody works on it, when nobody does.
        children: The child runs at work.
        others, ended: How many more are at work, and how many have ended.
    """

    run_id: str
    loop: str | None
    step_n: int
    score: float | None
    scores: tuple[float | None, ...]
    best_step: int | None
    best_score: float | None
    limits: tuple[Limit, ...]
    calls: tuple[CallAtWork, ...] = ()
    failure: str | None = None
    note: str | None = None
    children: tuple[RunAtWork, ...] = ()
    others: int = 0
    ended: int = 0


class _Block(NamedTuple):
    """Lines that belong together, and how many runs they tell of."""

    lines: list[Text]
    runs: int


def sparkline(scores: Sequence[float | None]) -> str:
    """Scores as small bars between the lowest and the highest of them; a space where there is none."""
    known = [score for score in scores if score is not None and math.isfinite(score)]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    return "".join(_bar(score, low, high) for score in scores)


def _bar(score: float | None, low: float, high: float) -> str:
    if score is None or not math.isfinite(score):
        return " "
    half = high / 2 - low / 2  # the difference of the largest floats is no float
    share = 0.5 if half == 0 else (score / 2 - low / 2) / half
    return BARS[min(int(share * len(BARS)), len(BARS) - 1)]


def parts(view: RunAtWork, *, bars: bool) -> Iterator[str]:
    """What there is to say about a run, short things one after the other."""
    yield f"step {view.step_n}"
    if view.score is not None:
        line = sparkline(view.scores) if bars else ""
        yield f"score {view.score:.4g}" + (f" {line}" if line else "")
    if view.best_step is not None and view.best_step != INITIAL:
        known = view.best_score is not None
        yield f"best {view.best_score:.4g} (step {view.best_step})" if known else f"best: step {view.best_step}"
    yield from map(_used, view.limits)


def shortened(text: str) -> str:
    """A stored text as it may be shown: printable, and of a length that can be looked at."""
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def as_text(views: Sequence[RunAtWork], others: int, width: int, height: int) -> Text:
    """Runs at work as lines that fit a terminal of this size; what there is no room for is counted.

    Args:
        views: The runs, each with its child runs.
        others: How many more there are.
        width: Columns of the terminal.
        height: Its lines.
    """
    from rich.text import Text

    blocks = list(_blocks(views, others, width))
    room, shown = max(height - 1, 2), list[Text]()
    for number, block in enumerate(blocks):
        is_last = number == len(blocks) - 1
        if shown and len(shown) + len(block.lines) > room - (not is_last):  # one line is kept for what follows
            hidden = sum(left.runs for left in blocks[number:])
            shown.append(Text(f"  … and {hidden} more at work" if hidden else "  …", style="dim"))
            break
        shown += block.lines
    for line in shown:
        line.truncate(width - 1, overflow="ellipsis")  # in the last column some terminals begin a new line
    return Text("\n").join(shown[:room])


def _blocks(views: Sequence[RunAtWork], others: int, width: int) -> Iterator[_Block]:
    """What belongs together: the lines about a run, then those of its child runs."""
    from rich.text import Text

    for view in views:
        lines = list(_about(view, width)) if len(views) <= FEW else [_in_one_line(view, "run ")]
        yield _Block(lines, 1)
        yield from _nested(view, 1)
    if others:
        yield _Block([Text(f"… and {others} more at work", style="dim")], others)


def _about(view: RunAtWork, width: int) -> Iterator[Text]:
    from rich.text import Text

    loop = f" {shortened(_short(view.loop))}" if view.loop else ""
    head = Text.assemble("run ", (shortened(view.run_id), "bold"), (loop, "cyan"))
    for part in parts(view, bars=True):
        if head.cell_len + len(part) + 4 > width:
            yield head
            head = Text(f"  {part}")
        else:
            head.append(f" · {part}")
    yield head
    if view.calls:
        yield Text(f"  → {_calls(view)}", style="blue")
    if view.failure:
        yield Text(f"  ✘ {shortened(view.failure)}", style="red")
    if view.note:
        yield Text(f"  {shortened(view.note)}", style="yellow")


def _in_one_line(view: RunAtWork, start: str) -> Text:
    from rich.text import Text

    line = Text.assemble(start, (shortened(view.run_id), "bold"), " · ", " · ".join(parts(view, bars=True)))
    if view.failure:
        line.append(f" ✘ {shortened(view.failure)}", style="red")
    elif view.calls:
        line.append(f" → {_calls(view)}", style="blue")
    return line


def _nested(view: RunAtWork, depth: int) -> Iterator[_Block]:
    """A line for each child run at work, under its parent."""
    from rich.text import Text

    indent = "  " * depth + "└ "
    for child in view.children:
        yield _Block([_in_one_line(child, indent)], 1)
        yield from _nested(child, depth + 1)
    counts = [f"{view.others} more at work"] if view.others else []
    counts += [f"{view.ended} ended"] if view.ended else []
    if counts:
        yield _Block([Text(f"{indent}{', '.join(counts)}", style="dim")], view.others)


def _calls(view: RunAtWork) -> str:
    said = [f"{shortened(call.name)} {format_duration(call.seconds)}" for call in islice(view.calls, MOST_CALLS)]
    rest = len(view.calls) - len(said)
    return ", ".join(said) + (f" and {rest} more" if rest else "")


def _short(loop: str) -> str:
    """The name of a loop without its module; one that was chosen stays as it is."""
    return loop if " " in loop else loop.partition(":")[2] or loop


def _used(limit: Limit) -> str:
    """What was used of a limit, as short as it can be said."""
    ends = math.isfinite(limit.limit)
    if limit.name == "usd":
        return dollars(limit.used) + (f" of {dollars(limit.limit)}" if ends else "")
    if limit.name == "wall_clock":
        return format_duration(limit.used) + (f" of {format_duration(limit.limit)}" if ends else "")
    unit = "steps" if limit.name == "iterations" else limit.name
    return f"{limit.used:.0f}" + (f"/{limit.limit:.0f}" if ends else "") + f" {unit}"
