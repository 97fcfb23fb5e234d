"""A database that is not ours, damaged, read-only, on a full disk or locked: said in words, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from store_lives import live

from loomc_runner import RunNotFound, StoreBusy, StoreError, loop
from loomc_runner.records import Transition
from loomc_runner.store import open_reader
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, PAUSED, a_charge, a_resumption, a_run, a_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
BIG = f'"{"x" * 50_000}"'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a database with a run of three steps in a folder of its own, closed."""
    store = SQLite(tmp_path / "runs.db")
    lease = store.create_run(a_run(), "0")
    for n in range(3):
        store.commit(lease, Transition(AT, a_step(n), BIG, (a_charge(1),)))
    store.commit(lease, PAUSED)
    store.close()
    return store.path


@contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Be another program that is writing to the database."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(f"BEGIN {how}")
        yield other


def error_of(verb: Callable[[], object], kind: type[Exception] = StoreError) -> str:
    """Say with which words a verb fails."""
    with pytest.raises(kind) as caught:
        verb()
    return str(caught.value)


def both_errors(path: Path) -> set[str]:
    """Say with which words reading and writing fail; the file stays as it is, and no other appears."""
    before = path.read_bytes()
    writer, reader = SQLite(path), open_reader(path)
    words = {error_of(reader.list_runs), error_of(lambda: writer.create_run(a_run("new"), "0"))}
    assert (path.read_bytes(), [found.name for found in path.parent.iterdir()]) == (before, [path.name])
    return words


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Some other file raises StoreError that says so, and is left as it is."""
    (tmp_path / "notes.txt").write_text("Dear diary, " * 100)
    words = both_errors(tmp_path / "notes.txt")
    assert words == {f"{tmp_path}/notes.txt: it is not an SQLite database; name the right file with LOOMC_DB or --db"}


@pytest.mark.parametrize("version", [0, 1, 7])
@pytest.mark.parametrize("table", ["songs (id)", "runs (id, distance)", "steps (run_id, step_n)"])
def test_a_database_of_another_program_is_refused(tmp_path: Path, version: int, table: str) -> None:
    """A database with other tables is left as it is, whatever version it gives itself, and its tables are named."""
    with closing(sqlite3.connect(tmp_path / "music.db")) as db:
        db.execute(f"CREATE TABLE {table}")
        db.execute(f"PRAGMA user_version = {version}")
    (words,) = both_errors(tmp_path / "music.db")
    assert "another program" in words
    assert f"(tables: {table.split(maxsplit=1)[0]})" in words


def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    """Tables of a version to come are left as they are, and the words say how to upgrade."""
    shutil.rmtree(path.parent / "owners")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    (words,) = both_errors(path)
    assert "newer loomc_runner (its tables have version 99" in words
    assert "pip install -U loomc-runner" in words


def test_a_damaged_database_is_said_to_be_damaged(path: Path) -> None:
    """A file that was cut short, or written over, raises StoreError that says what to do."""
    whole = path.read_bytes()
    store = SQLite(path)
    for broken in (whole[: len(whole) // 2], whole[:4096] + b"\xff" * 8192 + whole[12288:]):
        path.write_bytes(broken)
        assert "it is damaged; restore a copy" in error_of(lambda: [store.list_runs(), store.state("r", 2)])
        store.close()


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    """An empty file has no runs for a reader, and gets its tables at the first write."""
    path = tmp_path / "runs.db"
    path.touch()
    assert "there are no runs" in error_of(open_reader(path).list_runs, RunNotFound)
    store = SQLite(path)
    store.create_run(a_run(), "0")
    assert open_reader(path).get_run("r").steps == 0
    store.close()


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    """The path of a folder, or one below a file, raises StoreError that names another way."""
    (tmp_path / "file").touch()
    for store in (SQLite(tmp_path), SQLite(tmp_path / "file" / "runs.db")):
        assert "LOOMC_DB" in error_of(partial(store.create_run, a_run(), "0"))


# --- read-only, for a user whom permissions bind


@pytest.fixture
def shut() -> Iterator[Path]:
    """Give a folder with a database that a child process without rights may read, and not write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = SQLite(folder / "runs.db")
        store.commit(store.create_run(a_run(), "0"), PAUSED)
        store.close()
        shutil.rmtree(folder / "owners")
        (folder / "runs.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def live_without_rights(folder: Path, *statements: str) -> list[str]:
    """Run statements as a user who may only read, and say what they said; root becomes one when all is imported."""
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})" if os.getuid() == 0 else "pass"
    guarded = [f"try: {statement}\nexcept StoreError as error: say(error)" for statement in statements]
    return live("\n".join(["path = Path(sys.argv[1])", drop, *guarded]), folder / "runs.db", cwd="/").splitlines()


def test_a_read_only_folder_can_be_read(shut: Path) -> None:
    """Where nothing may be written reading works, and leaves nothing."""
    read = "s = SQLite(path, read_only=True); say(s.get_run('r').status, s.state('r', -1)); s.close()"
    assert live_without_rights(shut, read) == ["paused 0"]
    assert [path.name for path in shut.iterdir()] == ["runs.db"]


def test_a_read_only_file_in_an_open_folder_is_read_without_a_trace(shut: Path) -> None:
    """A file that may not be written is read as it is, without files beside it that would stay."""
    shut.chmod(0o777)
    read = "s = SQLite(path, read_only=True); say(s.get_run('r').status, s.state('r', -1)); s.close()"
    assert live_without_rights(shut, read) == ["paused 0"]
    assert [path.name for path in shut.iterdir()] == ["runs.db"]


def test_a_read_only_database_with_a_log_is_refused(shut: Path) -> None:
    """When the newest steps are in a log that cannot be merged, reading says so instead of leaving them out."""
    (shut / "runs.db-wal").write_bytes(b"steps")
    (words,) = live_without_rights(shut, "SQLite(path, read_only=True).get_run('r')")
    assert "unmerged changes; copy its folder" in words


def test_writing_where_nothing_may_be_written_says_what_to_do(shut: Path) -> None:
    """A claim, or a new database, raises StoreError that names a way out."""
    claim, create = "SQLite(path).claim('r', a_resumption())", ".create_run(a_run(), '0')"
    others = [f"SQLite(path.parent / '{name}'){create}" for name in ("other.db", "new/other.db")]
    words, *other_words = live_without_rights(shut, claim, *others)
    assert words == f"{shut}/runs.db: it is read-only; make it writable, or name another place with LOOMC_DB or --db"
    assert all(line.endswith("or name another place with LOOMC_DB or --db") for line in other_words)
    shut.joinpath("runs.db").chmod(0o666)  # now only its folder may not be written
    assert "LOOMC_DB" in live_without_rights(shut, claim)[0]


# --- a full disk


def test_a_commit_that_has_no_room_stores_nothing(path: Path) -> None:
    """When the file may not grow the commit raises StoreError, nothing of it is there, and with room it works."""
    store = SQLite(path)
    lease = store.claim("r", a_resumption()).lease
    state = f'"{random.Random(1).randbytes(500_000).hex()}"'  # which nothing makes much shorter
    change = Transition(AT, a_step(3), state, (a_charge(5),), notes=("n",))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        assert "check the disk and its quota" in error_of(lambda: store.commit(lease, change))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (store.get_run("r").steps, len(store.steps("r")), store.get_run("r").nano_usd) == (3, 3, 3)
    store.commit(lease, change)
    assert (store.get_run("r").steps, store.state("r", 3)) == (4, state)
    store.close()


FULL = """
folder = Path(sys.argv[1])
store = SQLite(folder / "runs.db")
lease, n = store.create_run(a_run(), "0"), 0
try:
    while True:
        store.commit(lease, Transition(AT, a_step(n), '"' + "x" * 50_000 + '"', (a_charge(1),)))
        n += 1
except StoreError as error:
    say(error)
run = store.get_run("r")
say(n > 2, run.steps == run.nano_usd == len(store.steps("r")) == n, len(store.state("r", n - 1)))
try: SQLite(folder / "second" / "runs.db").create_run(a_run(), "0")
except StoreError as error: say(error)
(folder / "filler").unlink()
store.commit(lease, Transition(AT, a_step(n), '"' + "x" * 50_000 + '"'))
say(store.get_run("r").steps == n + 1)
"""


def test_a_full_disk_is_said_to_be_full() -> None:
    """On a disk that fills up the commit is refused as a whole, the words say so, and with room it goes on."""
    mount = 'mount -t tmpfs -o size=1m none /mnt && head -c 300000 /dev/zero > /mnt/filler && exec "$@"'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk of one's own can be mounted here")
    full, whole, second, again = live(FULL, "/mnt", command=command).splitlines()
    assert full == "/mnt/runs.db: the disk is full; make room, then resume"
    assert (whole, again) == ("True True 50002", "True")
    assert "disk is full" in second


# --- locked by another program


def test_writes_to_a_locked_database_are_refused_at_once(path: Path) -> None:
    """While another program writes, each write raises StoreBusy within a moment, and works when called again."""
    store = SQLite(path)
    writes: list[Callable[[], object]] = [
        lambda: store.create_run(a_run("new"), "0"),
        lambda: store.claim("r", a_resumption()),
        lambda: store.commit(lease, PAUSED),
    ]
    lease = store.create_run(a_run("mine"), "0")
    with locked(path) as other:
        for write in writes:
            begun = time.monotonic()
            error_of(write, StoreBusy)
            assert time.monotonic() - begun < 0.3  # 5 ms, were this machine idle
        other.execute("ROLLBACK")
    for write in writes:
        write()
    assert {run.id: run.epoch for run in store.list_runs()} == {"mine": 1, "new": 1, "r": 2}
    store.close()


def test_reading_does_not_wait_for_a_writer(path: Path) -> None:
    """While another program writes, everything can be read as it was committed last."""
    store, reader = SQLite(path), open_reader(path)
    with locked(path, "EXCLUSIVE") as other:
        other.execute("DELETE FROM steps")
        assert [len(one.steps(one.get_run("r").id)) for one in (store, reader)] == [3, 3]
    store.close()
    reader.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_opening_waits_for_who_is_making_the_database(path: Path, read_only: bool) -> None:
    """While another process makes the tables, or closes the file, nobody can read: that is waited for, not raised."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
    store = SQLite(path, read_only=read_only)
    with locked(path, "EXCLUSIVE") as other:
        threading.Timer(0.05, other.execute, ["ROLLBACK"]).start()
        assert store.get_run("r").steps == 3
    store.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_loop_waits_for_a_locked_database(path: Path, is_async: bool) -> None:
    """A loop that finds the database locked, at its start or at a commit, waits and loses nothing."""
    with locked(path) as other:
        release = threading.Timer(0.1, other.execute, ["ROLLBACK"])

        def grow(state: list[int]) -> list[int]:
            if len(state) == 1:  # in the middle of the run: the next commit meets a lock
                other.execute("BEGIN IMMEDIATE")
                threading.Timer(0.1, other.execute, ["ROLLBACK"]).start()
            return [*state, len(state)]

        async def grow_async(state: list[int]) -> list[int]:
            return grow(state)

        options: Any = {"checkpoint": path, "converge_on": lambda history: "long" if len(history) == 3 else None}
        release.start()
        if is_async:
            result = asyncio.run(loop(**options)(grow_async)([], run_id="new"))
        else:
            result = loop(**options)(grow)([], run_id="new")
    assert result == [0, 1, 2]
    assert [len(open_reader(path).steps(run_id)) for run_id in ("new", "r")] == [3, 3]


def test_processes_that_make_one_database_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """Processes that start on a file that is not there yet all get their runs in, and reading never fails."""
    script = """
start = Path(sys.argv[1]).with_name("start")
while not start.exists(): time.sleep(0.001)
for n in range(10):
    store = SQLite(sys.argv[1])
    try: store.get_run(f"{os.getpid()}-{n}")
    except RunNotFound: pass
    wait(store.create_run, a_run(f"{os.getpid()}-{n}"), "0")
    store.close()
"""
    threads = [threading.Thread(target=live, args=(script, tmp_path / "runs.db")) for _ in range(3)]
    for thread in threads:
        thread.start()
    (tmp_path / "start").touch()
    for thread in threads:
        thread.join()
    assert len(open_reader(tmp_path / "runs.db").list_runs()) == 30
