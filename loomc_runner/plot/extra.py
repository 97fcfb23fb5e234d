"""The libraries that draw, which are installed only by those who want pictures."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from loomc_runner.errors import LoomcError


def need(name: str) -> Any:
    """A module of the extra `plot`.

    Raises:
        LoomcError: When it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise LoomcError(f'plots need {name}, which is not installed: pip install "loomc-runner[plot]"') from None
