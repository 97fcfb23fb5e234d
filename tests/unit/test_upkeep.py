"""Database files: what is wrong with them is said, and what was deleted is given back, whatever is killed when."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_lives import Life

from loomc_runner import RunNotFound, StoreError
from loomc_runner.records import RunStatus, Transition
from loomc_runner.store import open_reader, upkeep
from loomc_runner.store.sqlite import SQLite
from loomc_runner.store.upkeep import compact, copies_of, damage, measure, size_of
from loomc_runner.testing import AT, a_charge, a_run, a_step

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parents[1] / "golden"
PAGE = 4096


def big() -> str:
    """A state that takes much room, compressed too, and has nothing in common with another one."""
    return f'"{random.randbytes(20_000).hex()}"'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a database with two runs of twenty big steps."""
    store = SQLite(tmp_path_factory.mktemp("built") / "runs.db")
    for name in ("a", "b"):
        lease = store.create_run(a_run(name), "0")
        for n in range(20):
            store.commit(lease, Transition(AT, a_step(n), big(), (a_charge(1),)))
        store.commit(lease, Transition(AT, status=RunStatus.COMPLETED))
    store.close()
    return store.path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    """Give a copy of it to work on, alone in its folder."""
    return Path(shutil.copy(built, tmp_path / "runs.db"))


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Be another program that has the database open."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def cut(path: Path) -> None:
    """Lose the second half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def tear(path: Path) -> None:
    """Overwrite a page in the middle, as a disk does that lies."""
    with path.open("r+b") as file:
        file.seek(3 * PAGE)
        file.write(b"\xa5" * PAGE)


def tear_an_index(path: Path) -> None:
    """Let an index say less than its table."""
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'charges_by_run'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE + 3)
        file.write(b"\0\1")


def orphan(path: Path) -> None:
    """Take a run away, and leave what is in it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM runs WHERE id = 'a'")
        db.commit()


@pytest.mark.parametrize("name", ["loomc-0.3.0.db", "tables-1.db", "runs.db"])
def test_a_sound_file_of_any_version_has_no_damage(name: str, built: Path, tmp_path: Path) -> None:
    """Nothing is found, and nothing is made beside it."""
    copy = Path(shutil.copy(built if name == "runs.db" else GOLDEN / name, tmp_path / name))
    before = copy.read_bytes()
    assert (damage(copy), copy.read_bytes(), [*tmp_path.iterdir()]) == ([], before, [copy])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "it is damaged; restore a copy"),
        (tear, "it is damaged; restore a copy"),
        (tear_an_index, "charges_by_run"),
        (orphan, "21 rows of steps belong to nothing in runs"),
        (lambda path: path.write_bytes(b"a diary\n" * 999), "it is not an SQLite database"),
        (lambda path: path.unlink(), "there is no database at"),
        (lambda path: (path.unlink(), path.mkdir()), "it cannot be opened"),
    ],
    ids=["cut", "torn", "index", "orphans", "foreign", "missing", "folder"],
)
def test_what_is_wrong_with_a_file_is_said_in_words(path: Path, harm: object, words: str) -> None:
    """However it was harmed there is no error but a line that says what it is; nothing is made beside it."""
    harm(path)  # type: ignore[operator]
    before = sorted(path.parent.iterdir())
    assert any(words in line for line in damage(path))
    assert sorted(path.parent.iterdir()) == before


def test_a_locked_file_is_said_to_be_locked(
    path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the patience of a reader is over."""
    monkeypatch.setattr(upkeep, "READER_S", 0.01)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    assert damage(path) == [f"{path} is locked by another program"]
    with pytest.raises(StoreError, match="locked by another program"):
        measure(path)


def test_a_file_is_measured(path: Path, other: sqlite3.Connection) -> None:
    """Its bytes with those of its log, what is free in it, its journal; of a missing one there is nothing."""
    whole = measure(path)
    assert (whole.size, whole.log, whole.free, whole.journal_mode) == (path.stat().st_size, 0, 0, "wal")
    other.execute("UPDATE runs SET tags = '[1]'")
    assert measure(path).log > 0
    assert size_of(path) == path.stat().st_size + measure(path).log
    assert (size_of(path.with_name("no")), copies_of(path)) == (0, [])
    with pytest.raises(RunNotFound, match="no database"):
        measure(path.with_name("no"))


def test_what_was_deleted_is_given_back(path: Path) -> None:
    """The file shrinks, its log is gone, and what stays is as it was."""
    store = SQLite(path)
    kept = (store.get_run("b"), store.steps("b"), store.state("b", 19), store.charges("b"))
    store.delete(["a"])
    before = measure(path)
    assert before.free > before.size // 3
    assert compact(path) is None
    assert (measure(path).free, measure(path).log, damage(path)) == (0, 0, [])
    assert path.stat().st_size < before.size * 0.6
    assert (store.get_run("b"), store.steps("b"), store.state("b", 19), store.charges("b")) == kept
    store.close()


@pytest.mark.parametrize("holds", ["read", "write"])
def test_what_others_keep_from_being_given_back_is_said(
    path: Path, other: sqlite3.Connection, holds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads an older state, or writes for long, is not disturbed; later it works."""
    monkeypatch.setattr(upkeep, "COMPACT_S", 0.05)
    SQLite(path).delete(["a"])
    other.execute("BEGIN IMMEDIATE" if holds == "write" else "BEGIN")
    seen = other.execute("SELECT count(*) FROM steps").fetchone()
    assert "another program" in str(compact(path))
    assert other.execute("SELECT count(*) FROM steps").fetchone() == seen
    other.execute("ROLLBACK")
    assert (compact(path), measure(path).free, damage(path)) == (None, 0, [])


def test_a_file_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    """No error is raised: what was deleted stays deleted."""
    assert "cannot be opened" in str(compact(tmp_path / "no.db"))


KILLED = """
from loomc_runner.store import upkeep
path, verb, moment = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store, ticks = SQLite(path), iter(range(10**9))

def tick():
    if next(ticks) == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def watched(*place):
    db = connect(*place)
    db.set_progress_handler(tick, 20)
    return db

if verb == "delete":
    store.current(to_write=True).set_progress_handler(tick, 20)
    store.delete(["a"])
else:
    store.delete(["a"])
    store.close()
    connect, upkeep.connect = upkeep.connect, watched
    upkeep.compact(path)
say("done")
"""


@pytest.mark.parametrize(
    ("verb", "moment"),
    [*(("delete", n) for n in (0, 3, 8, 12, 15)), *(("compact", n) for n in (0, 5, 20, 40, 60, 70))],
)
def test_a_kill_leaves_a_good_database(path: Path, verb: str, moment: int) -> None:
    """Wherever in it the process dies: the run is there as a whole or not at all, and it can be done again."""
    with Life(KILLED, path, verb, moment) as life:
        said, _ = life.process.communicate(timeout=30)
    assert (said, life.process.returncode, damage(path)) == ("", -signal.SIGKILL, [])
    left = {run.id: len(open_reader(path).steps(run.id)) for run in open_reader(path).list_runs()}
    assert left in ([{"a": 20, "b": 20}, {"b": 20}] if verb == "delete" else [{"b": 20}])
    store = SQLite(path)
    if "a" in left:
        store.delete(["a"])
    store.close()
    assert (compact(path), measure(path).free, damage(path)) == (None, 0, [])
