"""A database with the first version of our own tables, from before there were calls and questions in it."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from loomc_runner import Budget, Done, ask, loop, spend, tool
from loomc_runner.cli import main
from loomc_runner.store import open_reader
from loomc_runner.store.schema import VERSION
from loomc_runner.store.sqlite import SQLite

GOLDEN = Path(__file__).with_name("tables-1.db")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A copy of it to work on."""
    return Path(shutil.copy(GOLDEN, tmp_path / "runs.db"))


def fingerprint(path: Path) -> str:
    """What is in a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def version(path: Path) -> int:
    """The version of the tables in a file."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize(
    "command", [["runs"], ["runs", "--tree"], ["show", "failed"], ["export", "failed"], ["questions"]]
)
def test_it_is_read_as_it_is(database: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What only reads shows its runs, and leaves every byte of it."""
    before = fingerprint(database)
    with pytest.raises(SystemExit) as ended:
        main([*command, "--db", str(database)])
    assert (ended.value.code, fingerprint(database)) == (0, before)
    assert ("failed" in capsys.readouterr().out) == (command != ["questions"])


def test_what_it_lacks_is_empty(database: Path) -> None:
    """There are no calls, questions and circuit breakers in it, and nobody asks anything of its runs."""
    store = open_reader(database)
    run = store.get_run("exhausted")
    assert (run.steps, run.cost_usd, run.control, run.stuck) == (2, 0.5, None, 0)
    assert [*store.calls("exhausted"), *store.questions("exhausted"), *store.breakers("exhausted")] == []
    assert store.questions() == []


def test_its_runs_go_on(database: Path) -> None:
    """A resume keeps a copy, brings it over, and may use all that is new; what was spent stays spent."""

    @tool
    def double(n: int) -> int:
        return 2 * n

    @loop(name="tests:count", checkpoint=str(database))
    def count(n: int) -> Done[int, None]:
        spend(usd=0.125)
        return Done(double(n) + ask("How many?", int))

    assert count.spec.owns(SQLite(database).get_run("exhausted"))
    for _ in range(2):
        result = list(count.stream(run_id="exhausted", budget=Budget(iterations=5)))
        assert result == []
    store = SQLite(database)
    assert store.get_run("exhausted").status == "waiting"
    count.answer("exhausted", 3, by="anna")
    assert count.resume("exhausted") == 7
    run = store.get_run("exhausted")
    assert (run.steps, run.cost_usd, len(store.calls("exhausted"))) == (3, 0.75, 1)
    assert version(database) == VERSION
    assert version(database.with_name("runs.db.before-migration")) == 1
    assert open_reader(database.with_name("runs.db.before-migration")).get_run("exhausted").steps == 2
