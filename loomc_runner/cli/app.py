"""The command itself, and what several of its parts take."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="loomc",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Database = Annotated[
    str | None,
    typer.Option("--db", help="The database; else LOOMC_DB, else .loomc/checkpoints.db.", show_default=False),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or its unique beginning.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
