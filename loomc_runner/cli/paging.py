"""A part of a long list: a screenful on a terminal, all of it elsewhere, or what is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

from loomc_runner.cli import render
from loomc_runner.export import write_array

A_SCREENFUL = 50


def show_page(
    columns: tuple[render.Column, ...], rows: Iterable[tuple[render.Cell, ...]], limit: int | None, offset: int
) -> int:
    """Write a part of the rows as a table, and say how to see more; the number of rows written."""
    screen, source = render.Screen.of_stdout(), iter(rows)
    wanted = A_SCREENFUL if limit is None and screen.width is not None else limit or None
    count = render.table(screen, columns, islice(source, offset, None if wanted is None else offset + wanted))
    if screen.width is not None and wanted is not None and next(source, None) is not None:
        say_more(wanted, offset)
    return count


def say_more(shown: int, offset: int) -> None:
    """Say how to see what comes after a part."""
    print(f"these are {shown} of more: --offset {offset + shown} shows the next, --limit 0 all")


def write_page(items: Iterable[Any], limit: int | None, offset: int) -> None:
    """Write a part of the items as a JSON array."""
    write_array(sys.stdout, islice(items, offset, None if not limit else offset + limit))
    print()
