"""Whether a database is in order: its file, its tables, who works on its runs, and what was left behind."""

from __future__ import annotations

import platform
import shlex
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loomc_runner import __version__
from loomc_runner.errors import LoomcError, RunNotFound
from loomc_runner.records import NANO, Run, RunStatus
from loomc_runner.report.runs import command_to_go_on
from loomc_runner.store import Store, open_reader, owners
from loomc_runner.store.schema import VERSION
from loomc_runner.store.upkeep import Measure, Use, copies_of, damage, largest, measure

PACKAGES = ("loom-tailcalls", "flow-xray", "pydantic", "rich", "typer")

NAMED = 5
"""Runs that are named in one problem."""


LARGEST = 5
"""Runs that are named as those that take most of the file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not in order, and the command that mends it; a warning is no fault of the database."""

    text: str
    command: str | None = None
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that has a name to own runs under, and those that carry it."""

    token: str
    pid: int
    alive: bool
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a database; `measure` is None where there is none, or it cannot be read."""

    path: Path
    exists: bool
    versions: dict[str, str]
    tables_known: int = VERSION
    measure: Measure | None = None
    copies: tuple[Path, ...] = ()
    runs: dict[str, int] = field(default_factory=dict)
    cost_usd: float | None = None
    owners: tuple[Owner, ...] = ()
    largest: tuple[Use, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; there may be warnings."""
        return all(problem.is_warning for problem in self.problems)


def examine(path: Path, now: datetime) -> Health:
    """Look at all of a database; nothing is written or made."""
    versions, folder = _versions(), path.resolve().parent
    try:
        measured = measure(path)
    except RunNotFound as error:
        return Health(path, path.exists(), versions, problems=(Problem(str(error)),))
    except LoomcError:
        measured = None  # the same is found as damage
    problems = [Problem(line, _mend(path, line)) for line in damage(path)]
    found: Sequence[Run] = ()
    most = list[Use]()
    try:
        store = open_reader(path)
        found = store.list_runs()
        problems += _left_behind(store, found, now)
        most = largest(path, LARGEST)
    except LoomcError as error:
        if str(error) not in {problem.text for problem in problems}:
            problems.append(Problem(str(error)))
    return Health(
        path,
        exists=True,
        versions=versions,
        measure=measured,
        copies=tuple(copies_of(path)),
        runs=dict(Counter(run.status.value for run in found)),
        cost_usd=sum(run.nano_usd for run in found) / NANO,
        owners=tuple(_owners(folder, found)),
        largest=tuple(most),
        problems=tuple(problems),
    )


def _versions() -> dict[str, str]:
    """What is installed; a package that is not is left out."""
    found = {"loomc_runner": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _mend(path: Path, line: str) -> str | None:
    """What removes rows that belong to no run."""
    _, _, rest = line.partition(" rows of ")
    table = rest.removesuffix(" belong to nothing in runs")
    if not rest or table == rest:
        return None
    return f"sqlite3 {shlex.quote(str(path))} 'DELETE FROM {table} WHERE run_id NOT IN (SELECT id FROM runs)'"


def _owners(folder: Path, runs: Sequence[Run]) -> Iterator[Owner]:
    """Every name that is registered or stands in a run at work."""
    held: dict[str, list[str]] = {token: [] for token in owners.registered(folder)}
    for run in runs:
        if run.owner is not None:
            held.setdefault(run.owner, []).append(run.id)
    for token, names in held.items():
        pid = token.partition("-")[0]
        yield Owner(token, int(pid) if pid.isdecimal() else 0, owners.is_alive(folder, token), tuple(names))


def _left_behind(store: Store, runs: Sequence[Run], now: datetime) -> Iterator[Problem]:
    """Runs that were cut off, wait in vain, or have lost their parent."""
    known = {run.id: run for run in runs}
    interrupted = [run.id for run in runs if run.status is RunStatus.INTERRUPTED and run.parent_run_id is None]
    if interrupted:
        what = "run was" if len(interrupted) == 1 else "runs were"
        yield Problem(f"{len(interrupted)} {what} cut off: {_named(interrupted)}", "loomc recover", is_warning=True)
    for question in store.questions():
        run = known.get(question.run_id)
        if run is not None and run.status is RunStatus.WAITING and question.has_expired(now):
            text = f"run {run.id} waits for an answer that came too late: {question.prompt}"
            yield Problem(text, _go_on(store, run), is_warning=True)
    for run in runs:
        if run.parent_run_id is not None and run.parent_run_id not in known:
            yield Problem(f"run {run.id} is a child of {run.parent_run_id}, which is gone", f"loomc delete {run.id}")


def _go_on(store: Store, run: Run) -> str | None:
    try:
        return command_to_go_on(store, run)
    except RunNotFound:  # its parent is gone, which is a problem of its own
        return None


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
