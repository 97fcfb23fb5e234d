"""Report data as text: tables that fit a terminal, written page by page; into a pipe, nothing is cut off."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from loomc_runner.clock import format_duration
from loomc_runner.records import INITIAL, NANO, Question, Run, RunStatus
from loomc_runner.report import Branch, Limit, Line, dollars, printable, reason, score_words

PAGE = 200
INDENT = 12
LONGEST = 8
"""Lines of a terminal that one fact may take."""

CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "magenta": 35, "cyan": 36}

COLOURS = {
    RunStatus.COMPLETED: "green",
    RunStatus.RUNNING: "cyan",
    RunStatus.WAITING: "yellow",
    RunStatus.PAUSED: "yellow",
    RunStatus.INTERRUPTED: "yellow",
    RunStatus.FAILED: "red",
    RunStatus.BUDGET_EXHAUSTED: "magenta",
    RunStatus.STALLED: "magenta",
    RunStatus.CANCELLED: "dim",
}


@dataclass(frozen=True, slots=True)
class Screen:
    """Where the text goes: how wide that is, None in a pipe, and whether it shows colours."""

    width: int | None
    coloured: bool

    @classmethod
    def of_stdout(cls) -> Screen:
        """Standard output as it is; `NO_COLOR` is obeyed."""
        is_terminal = sys.stdout.isatty()
        coloured = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return cls(shutil.get_terminal_size().columns if is_terminal else None, coloured)

    def paint(self, text: str, style: str) -> str:
        """The text in a style, where there are colours."""
        return f"\x1b[{CODES[style]}m{text}\x1b[0m" if style and text and self.coloured else text


class Column(NamedTuple):
    """One column of a table.

    With `least` it is cut where there is so much room at least, else it is left out; `tail` keeps the end of a text.
    """

    name: str
    right: bool = False
    least: int | None = None
    tail: bool = False


class Cell(NamedTuple):
    """One field of a table."""

    text: str
    style: str = ""


RUNS = (
    *(Column("run"), Column("status"), Column("steps", right=True), Column("cost", right=True), Column("created")),
    *(Column("loop", least=10, tail=True), Column("stopped", least=20)),
)
CHILDREN = (Column("child run"), *RUNS[1:])
QUESTIONS = (
    *(Column("run"), Column("question", right=True), Column("asked"), Column("until"), Column("prompt", least=20)),
)
MOST_BRANCHES = 30
"""Child runs that are shown of one run."""

STORY = (
    *(Column("step", right=True), Column("cost", right=True), Column("total", right=True)),
    *(Column("score", right=True), Column("time", right=True), Column("", least=10)),
)


def show_runs(screen: Screen, runs: Iterable[tuple[Branch, int]]) -> int:
    """A table of runs, each with its nano-dollars; the number of rows."""
    return table(screen, RUNS, (_run_row(branch, nano) for branch, nano in runs))


def show_family(screen: Screen, runs: Iterable[tuple[Branch, int]]) -> None:
    """A table of the child runs of a run, down to the last; of very many the first."""
    rows = [_run_row(branch, nano) for branch, nano in runs]
    if table(screen, CHILDREN, iter(rows[:MOST_BRANCHES])):
        write([*(["... (loomc runs --tree shows all)"] if len(rows) > MOST_BRANCHES else []), ""])


def show_questions(screen: Screen, questions: Iterable[Question]) -> int:
    """A table of open questions; the number of rows."""
    return table(screen, QUESTIONS, map(_question_row, questions))


def show_head(screen: Screen, run: Run) -> None:
    """What a run is, above its steps."""
    status = screen.paint(run.status.value, COLOURS[run.status])
    write([f"run {screen.paint(printable(run.id), 'bold')}  {status}"])
    origin, step = run.origin or ("", 0)
    facts = {
        "loop": (run.loop or "not named by loomc 0.3.0") + (f" in {run.source}" if run.source else ""),
        "created": moment(run.created_at),
        "updated": moment(run.updated_at) + (f", resumed {_times(run.resumes)}" if run.resumes else ""),
        "child of": f"{run.parent_run_id}, step {run.parent_step}" if run.parent_run_id else "",
        "forked from": f"{origin}, " + ("its initial state" if step == INITIAL else f"step {step}") if origin else "",
        "tags": ", ".join(run.tags),
    }
    show_facts(screen, facts.items())


def show_story(screen: Screen, lines: Iterable[Line]) -> None:
    """A table of the steps and failed tries of a run."""
    write([""])
    if not table(screen, STORY, map(_story_row, lines)):
        write(["no step was taken yet"])
    write([""])


def show_end(
    screen: Screen, run: Run, limits: list[Limit], spent: int, insides: list[tuple[str, str]], command: str | None
) -> None:
    """Why a run stopped, what is left, and how to go on, below its steps."""
    if run.loop is None:  # loomc 0.3.0 kept no budget
        budget = []
    elif run.budget is None:
        budget = [f"{limit} (the safety cap: this loop has no budget)" for limit in limits]
    else:
        budget = [str(limit) for limit in limits] or ["no limit"]
    facts = [
        ("stopped", reason(run)),
        ("result", run.result or ""),
        ("spent", dollars(spent / NANO) + (f" in {format_duration(run.worked)}" if run.worked else "")),
        *(("" if index else "budget", line) for index, line in enumerate(budget)),
        *insides,
        *(("note", note) for note in run.notes),
        ("go on", command or ""),
    ]
    show_facts(screen, facts)


def _run_row(branch: Branch, nano: int) -> tuple[Cell, ...]:
    run, indent = branch.run, f"{'  ' * (branch.depth - 1)}└ " if branch.depth else ""
    return (
        Cell(indent + printable(run.id)),
        Cell(run.status.value, COLOURS[run.status]),
        Cell(str(run.steps)),
        Cell(money(nano / NANO)),
        Cell(when(run.created_at)),
        Cell(printable(run.loop or "(loomc 0.3.0)")),
        Cell(printable(reason(run))),
    )


def _question_row(question: Question) -> tuple[Cell, ...]:
    until = "" if question.expires_at is None else when(question.expires_at)
    return (
        Cell(printable(question.run_id)),
        Cell(question.number),
        Cell(when(question.asked_at)),
        Cell(until),
        Cell(printable(question.prompt)),
    )


def _story_row(line: Line) -> tuple[Cell, ...]:
    words = [*line.marks, *([f"✘ {line.error}"] if line.error else [])]
    return (
        Cell(str(line.step_n)),
        Cell("" if line.cost_usd is None else money(line.cost_usd)),
        Cell(money(line.total_usd)),
        Cell(score_words(line.score, line.scores)),
        Cell("" if line.duration is None else format_duration(line.duration)),
        Cell(printable("  ".join(words)), "red" if line.error else ""),
    )


def money(usd: float) -> str:
    """Money for a column, where the points stand below each other."""
    return dollars(usd) if 0 < usd < 0.0001 else f"${usd:.4f}"


def when(at: datetime) -> str:
    """A local time as `ls` writes it."""
    local = at.astimezone()
    return f"{local:%b %d %H:%M}" if local.year == time.localtime().tm_year else f"{local:%Y-%m-%d}"


def moment(at: datetime) -> str:
    """A local time to the second, with its zone."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def table(screen: Screen, columns: Sequence[Column], rows: Iterable[tuple[Cell, ...]]) -> int:
    """Write rows under their columns; each page is as wide as it needs to be, and never less than the one before."""
    widths, count = [len(column.name) for column in columns], 0
    source = iter(rows)
    while page := list(islice(source, PAGE)):
        widths = [max(old, *(_width(row[i].text) for row in page)) for i, old in enumerate(widths)]
        shown = _fit(columns, widths, screen.width)
        header = [tuple(Cell(column.name, "bold") for column in columns)] if not count else []
        write(_row(screen, columns, shown, row) for row in (*header, *page))
        count += len(page)
    return count


def _fit(columns: Sequence[Column], widths: Sequence[int], room: int | None) -> list[int]:
    """The widths of the columns that fit, the first one in any case."""
    shown: list[int] = []
    for column, width in zip(columns, widths, strict=True):
        left = width if room is None else room - sum(shown) - 2 * len(shown)
        if shown and left < (width if column.least is None else min(width, column.least)):
            break
        shown.append(min(width, left) if shown else width)
    return shown


def _row(screen: Screen, columns: Sequence[Column], widths: Sequence[int], row: tuple[Cell, ...]) -> str:
    fields = []
    for column, width, cell in zip(columns, widths, row, strict=False):
        text = _cut(cell.text, width, tail=column.tail)
        space = " " * (width - _width(text))
        painted = screen.paint(text, cell.style)
        fields.append(space + painted if column.right else painted + space)
    return "  ".join(fields).rstrip()


def show_facts(screen: Screen, facts: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; a long value is wrapped, and a very long one ends early."""
    for name, value in facts:
        if value:
            first, *others = _wrapped(screen, printable(value))
            write([screen.paint(f"{name:<{INDENT}}", "dim") + first, *(" " * INDENT + line for line in others)])


def _wrapped(screen: Screen, text: str) -> list[str]:
    if screen.width is None:
        return [text]
    lines = textwrap.wrap(
        text, max(screen.width - INDENT, 20), max_lines=LONGEST, placeholder=" ... (--json: all of it)"
    )
    return lines or [text]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cut(text: str, width: int, *, tail: bool) -> str:
    if _width(text) <= width:
        return text
    text = text[-4 * width :] if tail else text[: 4 * width]  # it may be a megabyte
    while _width(text) > width - 1:
        text = text[1:] if tail else text[:-1]
    return f"…{text}" if tail else f"{text}…"


def write(lines: Iterable[str]) -> None:
    """Print lines, and let them be seen at once."""
    print("\n".join(lines), flush=True)
