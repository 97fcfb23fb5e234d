"""Room on the disk: how much a database takes, whether what is in it shall go, and giving back what is free."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from loomc_runner.cli import render
from loomc_runner.cli.database import path_of, url_of
from loomc_runner.errors import RequestRefused, StoreError
from loomc_runner.records import RunStatus
from loomc_runner.report import counted
from loomc_runner.report.words import size
from loomc_runner.store import open_reader, open_store

WORTH_IT = 4
"""What room can be given back, as one part in so many of what is in use, to write a file anew only for that."""


def bytes_of(path: str) -> int:
    """What a database takes on the disk."""
    from loomc_runner.store.upkeep import size_of

    return size_of(path)


def agreed(verb: str, what: str, command: str, show: Callable[[], None], *, yes: bool, as_json: bool) -> bool:
    """Whether something shall go (`Delete 3 runs?`): a person at a terminal is asked, after it was shown.

    Raises:
        RequestRefused: When there is nobody to ask.
    """
    if yes:
        return True
    past = f"{verb}{'d' if verb.endswith('e') else 'ped'}"
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        ways = f"{command} --yes {verb}s {what}, --dry-run only shows them"
        raise RequestRefused(f"nothing was {past}, since nobody can be asked here: {ways}")
    if not as_json:
        show()
    if typer.confirm(f"{verb.capitalize()} {what}?", err=True):
        return True
    print(f"nothing was {past}", file=sys.stderr)
    return False


def give_back(db: str | None, *, some: bool, as_json: bool) -> str | None:
    """Give room back to the disk where that is worth it; why it could not be done, if so."""
    from loomc_runner.store.upkeep import compact, measure

    path = path_of(db)
    open_store(url_of(db)).close()
    try:
        measured = measure(path)
    except StoreError as error:  # what was deleted stays deleted
        return str(error)
    room = measured.size + measured.log - measured.used
    if not some and room * WORTH_IT < measured.used:
        return None
    at_work = len(open_reader(db).list_runs(status=RunStatus.RUNNING))
    if at_work and not as_json:
        wait = f"{counted(at_work, 'run')} at work may have to wait for that"
        told = f"{size(measured.used)} are written anew; {wait}"
        render.show_facts(render.Screen.of_stdout(), [("size", told)])
    return compact(path)
