"""The command itself, and what several of its parts take."""

from __future__ import annotations

from typing import Annotated

import typer

NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="loomc",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=NAMES,
)

Database = Annotated[
    str | None,
    typer.Option("--db", help="The database; else LOOMC_DB, else .loomc/checkpoints.db.", show_default=False),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or its unique beginning.", show_default=False)]
RunIds = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run ids, or their unique beginnings.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
Limit = Annotated[
    int | None, typer.Option(help="At most so many; 0 for all. [default: 50 on a terminal, else all]", min=0)
]
Offset = Annotated[int, typer.Option(help="Leave out so many of the first.", min=0)]
