"""Report data as rich tables, page by page, so that the first rows of ten thousand are there at once."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loomc_runner.clock import format_duration
from loomc_runner.records import NANO, Attempt, Run, RunStatus
from loomc_runner.report import Limit, Line

T = TypeVar("T")

PAGE = 200
PIPE_WIDTH = 240

COLOURS = {
    RunStatus.COMPLETED: "green",
    RunStatus.RUNNING: "cyan",
    RunStatus.WAITING: "yellow",
    RunStatus.PAUSED: "yellow",
    RunStatus.INTERRUPTED: "yellow",
    RunStatus.FAILED: "red",
    RunStatus.BUDGET_EXHAUSTED: "magenta",
    RunStatus.STALLED: "magenta",
    RunStatus.CANCELLED: "bright_black",
}


def console() -> Console:
    """The terminal, or a pipe: as wide as it is, or wide enough that nothing is cut off."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def clean(text: str) -> str:
    """The text with control characters made visible, so that nothing stored can steer the terminal."""
    return "".join(char if unicodedata.category(char)[0] != "C" else ascii(char)[1:-1] for char in text)


def plain(text: str | None, style: str = "") -> Text:
    """Stored text for a table: no markup, no control characters, one line."""
    return Text(clean(text or ""), style=style, no_wrap=True, overflow="ellipsis")


def show_runs(out: Console, runs: Iterable[tuple[Run, float]]) -> int:
    """A table of runs, each with its cost; the number of rows."""
    columns = (("run", 12), ("status", 16), ("steps", 5), ("cost", 9), ("created", 16), ("loop", 30))
    count = 0
    for page, first in _pages(runs):
        table = _table(columns, header=first)
        for run, cost in page:
            created = run.created_at.strftime("%Y-%m-%d %H:%M")
            status = Text(run.status.value, style=COLOURS[run.status])
            row = (plain(run.id), status, plain(str(run.steps)), plain(f"${cost:.4f}"), plain(created))
            table.add_row(*row, plain(run.loop or "(loomc 0.3.0)"))
            count += 1
        out.print(table)
    return count


def show_head(out: Console, run: Run) -> None:
    """What a run is, above its steps."""
    out.print(Text.assemble("run ", (clean(run.id), "bold"), "  ", (run.status.value, COLOURS[run.status])))
    lines = {
        "loop": run.loop or "(of loomc 0.3.0)",
        "created": f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC"
        + (f", resumed {run.resumes} times" if run.resumes else ""),
        "child of": f"{run.parent_run_id}, step {run.parent_step}" if run.parent_run_id else None,
        "forked from": run.forked_from,
        "tags": ", ".join(run.tags) or None,
    }
    _facts(out, lines)


def show_story(out: Console, lines: Iterable[Line]) -> None:
    """A table of the steps and failed tries of a run."""
    columns = (("step", 5), ("cost", 9), ("total", 9), ("score", 9), ("time", 6), ("", 40))
    for page, first in _pages(lines):
        table = _table(columns, header=first)
        for line in page:
            table.add_row(*_story_row(line))
        out.print(table)


def show_end(out: Console, run: Run, limits: list[Limit], spent: float, command: str | None) -> None:
    """Why a run stopped, what is left, and how to go on, below its steps."""
    notes = "; ".join(run.notes) or None
    left = ", ".join(map(str, limits)) or "no limit"
    _facts(
        out,
        {
            "stopped": run.stop_reason or ("its process died" if run.status is RunStatus.INTERRUPTED else None),
            "spent": f"${spent:.4f} in {format_duration(run.worked)}",
            "budget": left,
            "note": notes,
            "go on": command,
        },
    )


def _story_row(line: Line) -> tuple[Text, ...]:
    record = line.record
    if isinstance(record, Attempt):
        money, score, marks = f"${record.nano_usd / NANO:.4f}", None, ["✘"]
    else:
        money = f"${record.cost_usd:.4f}" if record.priced else "?"
        score, marks = record.score, [*line.marks, *(["✘"] if record.error else [])]
    words = Text.assemble("  ".join(marks), " ", (clean(record.error or ""), "red"), no_wrap=True, overflow="ellipsis")
    return (
        plain(str(record.step_n)),
        plain(money),
        plain(f"${line.total_usd:.4f}"),
        plain("" if score is None else f"{score:.6g}"),
        plain(format_duration(record.duration)),
        words,
    )


def _facts(out: Console, facts: dict[str, str | None]) -> None:
    for name, value in facts.items():
        if value is not None:
            out.print(Text.assemble((f"{name:<12}", "dim"), clean(value)), soft_wrap=True)


def _table(columns: Iterable[tuple[str, int]], *, header: bool) -> Table:
    table = Table(box=None, show_header=header, padding=(0, 2, 0, 0), header_style="bold")
    *fixed, last = columns
    for name, width in fixed:
        right = name in {"steps", "cost", "total", "score", "time", "step"}
        table.add_column(name, min_width=width, no_wrap=True, justify="right" if right else "left")
    table.add_column(last[0], min_width=10, no_wrap=True, overflow="ellipsis")
    return table


def _pages(items: Iterable[T]) -> Iterator[tuple[list[T], bool]]:
    source, first = iter(items), True
    while page := list(islice(source, PAGE)):
        yield page, first
        first = False
