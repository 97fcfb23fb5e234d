"""What the benchmarks share: memory, sizes, texts and tables. Standard library only: every peer imports it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import random
import resource
import sqlite3
import statistics
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

STATUS = Path("/proc/self/status")

WORDS = """
the of and to in a is that for it as was with be by on not he his but at are this have had from they which one
you were all her she there would their we him been has when who will no more if out so up said what its about
than into them can only other time new some could these two may first then do any like my now over such our man
me even most made after also well did many must before back see through way where get much go good day down year
should because each just those people how too little state very make world still own work long here between both
life being under never same another know while last might us great old off come since against right came take
three himself few use during without again place around however home small found thought went say part once
general high upon school every does got united left number course war until always away something fact water
less public put think almost hand enough far took head yet government system better set told nothing night end
why called find going look asked later point next program city business group days room young order within draft
paragraph argument evidence section review critique revise conclusion example reader sentence improve clarify
""".split()  # noqa: SIM905 - a list of them would take a line each


def words(size: int, chance: random.Random) -> str:
    """An English-like text of exactly so many characters; the common words of the list are common in it."""
    parts: list[str] = []
    length = 0
    while length <= size:
        word = WORDS[min(int(chance.expovariate(0.022)), len(WORDS) - 1)]
        parts.append(word)
        length += len(word) + 1
    return " ".join(parts)[:size]


class Memory:
    """The peak of this process's memory above what it is now, in MB.

    Linux resets the peak on demand. Elsewhere it can only be compared, so that what an import took for a moment hides
    as much of what comes after it.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.start = _kilobytes("VmRSS")

    def above(self) -> float:
        """How far the peak rose since."""
        return max(_kilobytes("VmHWM") - self.start, 0) / 1024


def _kilobytes(field: str) -> int:
    if STATUS.exists():
        found = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
        return int(found.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def size_mb(path: Path) -> float:
    """The size of a database in MB once its log is merged into it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1e6


def middle(values: Iterable[float], digits: int = 0) -> str:
    """The median with its spread."""
    found = sorted(values)
    return f"{statistics.median(found):,.{digits}f} ({found[0]:,.{digits}f}-{found[-1]:,.{digits}f})"


def spread(values: Iterable[float], digits: int = 0) -> str:
    """The least, the median and the greatest."""
    found = sorted(values)
    return " / ".join(f"{value:,.{digits}f}" for value in (found[0], statistics.median(found), found[-1]))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; the first is of words, the others are of numbers."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    text = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in text)


def place() -> str:
    """Where and when something was measured."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        model = next(names, model)
    today = dt.datetime.now(dt.UTC).date()
    return (
        f"{platform.system()} {platform.release()}, {model}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; {today}"
    )
