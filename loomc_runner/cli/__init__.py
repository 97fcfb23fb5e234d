"""The command `loomc`: the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys

from loomc_runner.cli.commands import app
from loomc_runner.cli.render import clean
from loomc_runner.errors import LoomcError


def main() -> None:
    """Run the command; whatever goes wrong ends in one clean line on standard error and a non-zero status."""
    try:
        app()
        sys.stdout.flush()
    except LoomcError as error:
        print(f"loomc: {clean(str(error))}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `loomc runs | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
