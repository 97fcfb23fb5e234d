"""Databases with the second, third and fourth version of our own tables.

In the second runs do not say yet which scores are better, in the third charges do not name the model that was paid,
and up to the fourth each state is stored whole.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from loomc_runner import Approval, BestScore, Budget, Done, ask, loop, spend, tool
from loomc_runner.cli import main
from loomc_runner.report import direction_of
from loomc_runner.report.verify import verify
from loomc_runner.store import open_reader
from loomc_runner.store.schema import VERSION
from loomc_runner.store.sqlite import SQLite

DIRECTIONS = {2: None, 3: "maximize", 4: "maximize"}


@pytest.fixture(params=DIRECTIONS)
def version(request: pytest.FixtureRequest) -> int:
    """Each version in turn."""
    return int(request.param)


@pytest.fixture
def database(tmp_path: Path, version: int) -> Path:
    """A copy of it to work on."""
    return Path(shutil.copy(Path(__file__).with_name(f"tables-{version}.db"), tmp_path / "runs.db"))


@pytest.mark.parametrize("command", ["show", "explain", "history", "calls", "attempts", "verify", "export"])
def test_it_is_read_as_it_is(database: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What only reads shows its runs, and leaves every byte of it."""
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    with pytest.raises(SystemExit) as ended:
        main([command, "exhausted", "--db", str(database)])
    assert (ended.value.code, hashlib.sha256(database.read_bytes()).hexdigest()) == (0, before)
    assert capsys.readouterr().out


def test_its_direction_is_read_from_its_scores(database: Path, version: int) -> None:
    """Where its runs do not say it, and there is more than one score, the best one does."""
    store = open_reader(database)
    run, waiting = store.get_run("exhausted"), store.get_run("waiting")
    assert (run.direction, direction_of(store, run)) == (DIRECTIONS[version], "maximize")
    assert direction_of(store, waiting) is None
    assert {(charge.key, charge.model, charge.usage) for charge in store.charges("exhausted")} == {(None, None, None)}
    assert {step.scores for step in store.steps("exhausted")} == {()}
    assert [*verify(store, run), *verify(store, waiting)] == []


def test_its_runs_go_on_and_say_it_then(database: Path) -> None:
    """A resume keeps a copy and brings it over; recorded calls and questions are as they were."""

    @tool(name="lookup")
    def lookup(n: int) -> str:
        spend(usd=0.05)
        return f"found {n}"

    @loop(name="golden:climb", checkpoint=str(database), scorer=float, backtrack=BestScore())
    def climb(n: int) -> int:
        lookup(n)
        return n + 1

    @loop(name="golden:gate", checkpoint=str(database))
    def gate(n: int) -> Done[int, str]:
        spend(usd=0.5)
        return Done(n, result="yes" if ask("Go?", Approval) else "no")

    list(climb.stream(run_id="exhausted", budget=Budget(iterations=4)))
    gate.answer("waiting", True, by="anna")
    assert gate.run(7, run_id="waiting").result == "yes"
    store = SQLite(database)
    run = store.get_run("exhausted")
    assert (run.steps, run.direction, len(store.calls("exhausted"))) == (4, "maximize", 4)
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    store.close()
