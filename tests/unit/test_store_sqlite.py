"""What only the store in a file promises: durability, a tidy folder, reading without a trace, and forks."""

from __future__ import annotations

import gc
import random
import shutil
import signal
import sqlite3
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from store_lives import Life, live

from loomc_runner import RunNotFound, RunStatus, SpecError, StoreError, loop
from loomc_runner.errors import StoreBusy
from loomc_runner.records import Transition
from loomc_runner.store import open_reader
from loomc_runner.store.connection import WRITES
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, PAUSED, a_resumption, a_run, a_step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLite]:
    """Give a store in a folder that does not exist yet."""
    made = SQLite(tmp_path / "new" / "runs.db")
    yield made
    made.close()


def filled(path: Path, steps: int = 3) -> Path:
    """Write a run and close the file."""
    store = SQLite(path)
    lease = store.create_run(a_run(), "0")
    for n in range(steps):
        store.commit(lease, Transition(AT, a_step(n), f"[{n}]"))
    store.commit(lease, PAUSED)
    store.close()
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Say what is in a folder, by file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "synchronous"), [({}, 2), ({"durability": "power"}, 2), ({"durability": "process"}, 1)]
)
def test_a_commit_survives_what_the_store_says(tmp_path: Path, options: dict[str, Any], synchronous: int) -> None:
    """There is a log; a power cut is survived where commits wait for the disk, as they do unless told otherwise."""
    with closing(SQLite(tmp_path / "runs.db", **options)) as store:
        store.create_run(a_run(), "0")
        db = store._connection
        assert db is not None
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert found == ["wal", synchronous]


def test_a_durability_that_there_is_not_is_refused(tmp_path: Path) -> None:
    """The error names the value and those there are; nothing is made."""
    with pytest.raises(SpecError, match=r"durability='disk': give \"power\".* or \"process\""):
        SQLite(tmp_path / "runs.db", durability="disk")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_survives_its_process_loses_no_commit_to_a_kill(tmp_path: Path) -> None:
    """What was committed without waiting for the disk is there after a SIGKILL."""
    script = """
store = SQLite(sys.argv[1], durability="process")
lease = store.create_run(a_run(), "0")
for n in range(50):
    store.commit(lease, Transition(AT, a_step(n), f"[{n}]"))
say("written")
hear()
"""
    with Life(script, tmp_path / "runs.db") as life:
        life.hear()
    with closing(SQLite(tmp_path / "runs.db")) as store:
        assert store.claim("r", a_resumption()).run.steps == 50
        assert store.state("r", 49) == "[49]"


def log_of(store: SQLite) -> Path:
    """Give the log beside the file."""
    return store.path.with_name(f"{store.path.name}-wal")


@pytest.mark.parametrize(
    ("durability", "grows_to"), [("power", range(4_000_000, 5_000_000)), ("process", range(10**6))]
)
def test_many_commits_find_a_log_that_need_not_grow(tmp_path: Path, durability: Any, grows_to: range) -> None:
    """Where commits wait for the disk the log is made as long as it gets, after a few; nothing else changes."""
    with closing(SQLite(tmp_path / "runs.db", durability=durability)) as store:
        lease = store.create_run(a_run(), "0")
        sizes = []
        for n in range(WRITES + 10):
            store.commit(lease, Transition(AT, a_step(n), f"[{n}]"))
            sizes.append(log_of(store).stat().st_size)
        assert sizes[WRITES - 5] < 1_000_000
        assert sizes[-1] in grows_to
        assert sizes[-1] == sizes[WRITES] or durability == "process"
        with closing(sqlite3.connect(store.path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert db.execute("SELECT count(*) FROM charges").fetchone() == (0,)
        cache = store._connection and store._connection.execute("PRAGMA cache_size").fetchone()
        assert (cache, store.get_run("r").steps) == ((-2000,), WRITES + 10)
    assert store.path.stat().st_size < 1_000_000


def test_a_long_log_loses_no_commit_to_a_kill(tmp_path: Path) -> None:
    """What stands in the log behind the last commit is no part of the file after a SIGKILL."""
    script = f"""
store = SQLite(sys.argv[1])
lease = store.create_run(a_run(), "0")
for n in range({WRITES + 10}):
    store.commit(lease, Transition(AT, a_step(n), f"[{{n}}]"))
say("written")
hear()
"""
    with Life(script, tmp_path / "runs.db") as life:
        life.hear()
    with closing(SQLite(tmp_path / "runs.db")) as store:
        assert log_of(store).stat().st_size > 4_000_000
        assert store.claim("r", a_resumption()).run.steps == WRITES + 10
        assert store.state("r", WRITES + 9) == f"[{WRITES + 9}]"
        assert store.charges("r") == []


def test_a_log_that_cannot_be_made_longer_grows_by_itself(tmp_path: Path) -> None:
    """When another program writes just then, or there is no room, the commit itself is as before."""
    with closing(SQLite(tmp_path / "runs.db")) as store:
        lease = store.create_run(a_run(), "0")
        store.writes = WRITES - 1
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                store.commit(lease, Transition(AT, a_step(0), "[0]"))
            other.execute("ROLLBACK")
        store.commit(lease, Transition(AT, a_step(0), "[0]"))
        assert log_of(store).stat().st_size < 1_000_000
        assert store.state("r", 0) == "[0]"


def test_nothing_is_made_before_the_first_write(tmp_path: Path, store: SQLite) -> None:
    """A look into a store that is not there finds nothing and makes nothing, and sees at once what another makes."""
    with pytest.raises(RunNotFound, match="no run r in"):
        store.get_run("r")
    assert (store.list_runs(), list(tmp_path.iterdir())) == ([], [])
    filled(store.path)
    assert store.get_run("r").steps == 3


def test_a_new_folder_is_private_and_ignored_by_git(store: SQLite) -> None:
    """The folder is made for its owner alone, and git is told to leave it."""
    store.create_run(a_run(), "0")
    for folder in (store.path.parent, store.path.parent / "owners"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (store.path.parent / ".gitignore").read_text() == "*\n"


def test_a_folder_that_was_there_is_left_as_it_is(tmp_path: Path) -> None:
    """In a folder of the user's neither the mode changes nor does a .gitignore appear."""
    mode = tmp_path.stat().st_mode
    filled(tmp_path / "runs.db")
    assert tmp_path.stat().st_mode == mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owners", "runs.db"]


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?mode=ro.db", "#1.db", "é漢.db", "no suffix"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Names that mean something in a URL name a file like all others."""
    filled(tmp_path / name)
    assert (tmp_path / name).exists()
    assert open_reader(tmp_path / name).get_run("r").steps == 3


def test_reading_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    """A reader of a missing database says so, and creates neither file nor folder."""
    reader = open_reader(tmp_path / "new" / "runs.db")
    for verb in (reader.list_runs, lambda: reader.get_run("r")):
        with pytest.raises(RunNotFound, match="LOOMC_DB"):
            verb()
    assert list(tmp_path.iterdir()) == []


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    """After a reader is closed the folder holds the same files with the same bytes."""
    path = filled(tmp_path / "runs.db")
    before = contents(tmp_path)
    reader = open_reader(path)
    assert (reader.get_run("r").steps, reader.state("r", 2), len(reader.list_runs())) == (3, "[2]", 1)
    reader.close()
    assert contents(tmp_path) == before


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """A store that was opened for reading refuses every write, and the file stays as it is."""
    path = filled(tmp_path / "runs.db")
    reader = SQLite(path, read_only=True)
    with pytest.raises(StoreError, match="read-only"):
        reader.claim("r", a_resumption())
    reader.close()
    assert open_reader(path).get_run("r").epoch == 1


def test_a_reader_sees_a_run_at_work_and_leaves_it_alone(store: SQLite) -> None:
    """While one process writes a reader in another sees each step that is committed."""
    lease = store.create_run(a_run(), "0")
    script = "reader = SQLite(sys.argv[1], read_only=True)\nwhile True: say(reader.get_run('r').steps); hear()"
    with Life(script, store.path) as life:
        assert life.hear() == "0"
        for n in range(3):
            store.commit(lease, Transition(AT, a_step(n), "[]"))
            life.tell()
            assert life.hear() == str(n + 1)
    store.commit(lease, PAUSED)
    assert store.get_run("r").status is RunStatus.PAUSED


def test_the_log_of_a_killed_process_is_read(tmp_path: Path) -> None:
    """What a process had committed when it was killed is there for a reader, and nothing else is left afterwards."""
    script = """
store = SQLite(sys.argv[1])
lease = store.create_run(a_run(), "0")
for n in range(9): store.commit(lease, Transition(AT, a_step(n), "[]"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    with Life(script, tmp_path / "runs.db") as life:
        life.process.wait(30)
    assert (tmp_path / "runs.db-wal").stat().st_size
    reader = open_reader(tmp_path / "runs.db")
    assert (reader.get_run("r").steps, reader.get_run("r").status) == (9, RunStatus.INTERRUPTED)
    reader.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owners", "runs.db"]


FORKED = """
store = SQLite(sys.argv[1])
store.create_run(a_run("parent"), "0")
(hears_parent, tells_child), (hears_child, tells_parent) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    lease = store.create_run(a_run("child"), "0")
    for n in range(10):
        store.commit(lease, Transition(AT, a_step(n), "[]"))
        if n in (4, 9):
            os.write(tells_parent, b".")
            os.read(hears_parent, 1)
    sys.exit()
os.read(hears_child, 1)
"""


def test_a_forked_worker_loses_nothing_when_its_parent_closes(tmp_path: Path) -> None:
    """Parent and forked child use one file safely: what the child commits survives the parent's close and a kill."""
    script = """
store.close()
os.write(tells_child, b".")
os.read(hears_child, 1)
os.kill(child, signal.SIGKILL)
os.wait()
say(len(SQLite(sys.argv[1]).steps("child")))
"""
    assert live(FORKED + script, tmp_path / "runs.db") == "10"


def test_a_parent_loses_nothing_when_its_forked_worker_ends(tmp_path: Path) -> None:
    """What the parent commits after its child has closed the same file survives a kill, too."""
    script = """
lease = store.create_run(a_run("later"), "0")
os.write(tells_child, b".")
os.read(hears_child, 1)
os.write(tells_child, b".")
os.wait()
store.commit(lease, Transition(AT, a_step(0), "[]"))
say("committed")
hear()
"""
    with Life(FORKED + script, tmp_path / "runs.db") as life:
        assert life.hear() == "committed"
        life.kill()
    store = open_reader(tmp_path / "runs.db")
    assert (len(store.steps("child")), len(store.steps("later"))) == (10, 1)
    store.close()


def test_a_fork_waits_for_the_transaction_of_another_thread(tmp_path: Path) -> None:
    """Forks in the middle of other threads' commits leave parent and children with a whole database."""
    script = """
import threading
store = SQLite(sys.argv[1])
def work():
    lease = wait(store.create_run, a_run(), "0")
    for n in range(60):
        wait(store.commit, lease, Transition(AT, a_step(n), '"' + "x" * 100_000 + '"'))
thread = threading.Thread(target=work)
thread.start()
while thread.is_alive():
    if os.fork() == 0:
        wait(store.create_run, a_run(f"child-{os.getpid()}"), "0")
        os._exit(0)
    assert os.wait()[1] == 0
thread.join()
say(len(store.steps("r")), store.get_run("r").steps)
"""
    assert live(script, tmp_path / "runs.db") == "60 60"
    with closing(sqlite3.connect(tmp_path / "runs.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("anew", [False, True])
def test_a_database_that_was_deleted_is_noticed(store: SQLite, anew: bool) -> None:
    """After the folder was deleted, or replaced by another, new runs go to the file that has the name now."""
    store.create_run(a_run("old"), "0")
    shutil.rmtree(store.path.parent)
    if anew:
        filled(store.path)
    store.create_run(a_run("new"), "0")
    assert {run.id for run in store.list_runs()} == ({"r", "new"} if anew else {"new"})
    script = "say(*[run.id for run in SQLite(sys.argv[1]).list_runs(status=RunStatus.RUNNING)])"
    assert live(script, store.path) == "new"


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """Interrupt the test at random moments while the list is not empty, as Ctrl-C does; each takes one number off."""
    wanted: list[int] = []
    over, chance, main = threading.Event(), random.Random(1), threading.main_thread().ident or 0

    def interrupt(_: int, __: FrameType | None) -> None:
        if wanted:
            wanted.pop()
            raise KeyboardInterrupt

    def work() -> None:
        while not over.wait(chance.uniform(0, 0.001)):
            signal.pthread_kill(main, signal.SIGUSR1)

    handler = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=work)
    gc.disable()  # what others have hooked into it, as Hypothesis does, cannot hand an interrupt on
    thread.start()
    yield wanted
    over.set()
    thread.join()
    gc.enable()
    signal.signal(signal.SIGUSR1, handler)


def test_ctrl_c_at_any_moment_leaves_the_store_usable(store: SQLite, interrupts: list[int]) -> None:
    """An interrupt in the middle of a commit leaves all of it or nothing, and the next commit works."""
    lease = store.create_run(a_run(), "0")
    for _ in range(200):
        with suppress(KeyboardInterrupt):
            interrupts.append(1)
            while interrupts:
                store.commit(lease, Transition(AT, a_step(len(store.steps("r"))), "[]"))
        assert store.get_run("r").steps == len(store.steps("r"))
    store.commit(lease, PAUSED)
    assert live("say(SQLite(sys.argv[1]).get_run('r').status)", store.path) == "paused"


def test_an_error_with_characters_that_no_text_holds_is_stored(store: SQLite) -> None:
    """A step may fail with the name of a file that is not UTF-8: that error is raised, and stored with escapes."""

    @loop(checkpoint=store)
    def read(state: int) -> int:
        raise FileNotFoundError("no file caf\udce9.txt")

    with pytest.raises(FileNotFoundError):
        read(1, run_id="r")
    assert store.get_run("r").stop_reason == r"failed: FileNotFoundError: no file caf\udce9.txt"
    assert store.attempts("r")[0].error.endswith(r"caf\udce9.txt")


def test_a_loop_keeps_its_runs_in_the_file_that_is_named(tmp_path: Path) -> None:
    """With a path as `checkpoint` another process finds the run, and resumes it to its stored result."""

    @loop(checkpoint=tmp_path / "runs.db", converge_on=lambda history: "once")
    def grow(state: list[int]) -> list[int]:
        return [*state, len(state)]

    assert grow([], run_id="r") == [0]
    script = "s = SQLite(sys.argv[1], read_only=True); say(s.get_run('r').status, s.state('r', 0))"
    assert live(script, tmp_path / "runs.db") == "completed [0]"
