"""The command `loomc`: the one place where errors become exit codes."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, TextIO

import typer

from loomc_runner.cli.index import all_commands
from loomc_runner.errors import LoomcError, LoomcWarning

LONGEST = 1000
"""Characters of a message that are shown; `loomc show RUN --json` has all of an error."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; whatever goes wrong ends in one clean line on standard error and a non-zero status."""
    warnings.showwarning = _show_warning
    sys.exit(_status(args))


def _status(args: Sequence[str] | None) -> int:
    try:
        status = _command()(args, standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0  # `loomc runs | head`: the reader has what it wanted; typer makes a SystemExit of it
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        message, status = _in_words(error)
        _complain(message)
    return status or 0


@cache
def _command() -> Any:
    """The command with all its parts; made once."""
    command = all_commands()
    gc.freeze()  # what was imported for it stays: Python need not look through it again, least of all when it ends
    return command


def _in_words(error: Exception) -> tuple[str, int]:
    """The message for an error, and the status to leave with."""
    if hasattr(error, "format_message"):  # a usage error; its class depends on the version of typer
        return f"{error.format_message()} (loomc --help tells more)", 2
    if isinstance(error, LoomcError):
        return str(error), 1
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}", 1
    return f"{type(error).__name__}: {error} (PYTHONDEVMODE=1 shows where it came from)", 1


def _complain(message: str) -> None:
    from loomc_runner.report.words import printable

    line = printable(message)
    if len(line) > LONGEST:  # what to do next stands at the end
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"loomc: {line}", file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours in one line; anybody else's as Python shows it."""
    from loomc_runner.report.words import printable

    foreign = warnings.formatwarning(message, category, filename, lineno, line)
    text = f"loomc: {printable(str(message))}\n" if issubclass(category, LoomcWarning) else foreign
    (file or sys.stderr).write(text)
