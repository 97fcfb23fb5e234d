"""What several commands take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer

OFFERED = 50
"""Runs that a shell is offered to complete a beginning."""

MANY = 1_000_000_000
"""More than any list is long."""

IN_A_PROCESS = (sys.executable, "-c", "from loomc_runner.cli import main; main()")
"""This command in a process of its own, however this one was started."""

NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer()
"""Where a command is found when its module is imported."""

Database = Annotated[
    str | None,
    typer.Option("--db", help="The database; else LOOMC_DB, else .loomc/checkpoints.db.", show_default=False),
]


def known_runs(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """The newest runs that a shell can complete a beginning to, each with what it is."""
    from loomc_runner.errors import LoomcError
    from loomc_runner.report import printable
    from loomc_runner.store import open_reader

    with suppress(LoomcError):  # no database here: nothing to complete
        for run in open_reader(context.params.get("db")).list_runs(prefix=incomplete, limit=OFFERED):
            yield run.id, printable(f"{run.status.value}, {run.loop or 'loomc 0.3.0'}")


RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run id, or its unique beginning.", show_default=False, autocompletion=known_runs
    ),
]
RunIds = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...", help="Run ids, or their unique beginnings.", show_default=False, autocompletion=known_runs
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
Limit = Annotated[
    int | None, typer.Option(help="At most so many; 0 for all. [default: 50 on a terminal, else all]", min=0, max=MANY)
]
Offset = Annotated[int, typer.Option(help="Leave out so many of the first.", min=0, max=MANY)]
