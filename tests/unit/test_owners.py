"""A process owns runs as long as it lives: not a moment shorter, and not a moment longer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_lives import Life, live

from loomc_runner import RunLocked, RunLost, RunStatus
from loomc_runner.records import Transition
from loomc_runner.store import owners
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, PAUSED, a_resumption, a_run, a_step

if TYPE_CHECKING:
    from collections.abc import Iterator

WORK = """
store = SQLite(sys.argv[1])
lease = store.create_run(a_run(), "0")
store.commit(lease, Transition(AT, a_step(0), "[0]", in_flight=1, reserved_nano=9))
say(lease.owner)
"""
FORK = """
token = owners.own_token(Path(sys.argv[1]))
child = os.fork()
if child:
    os.waitpid(child, 0)
    say(token)
    hear()
    os._exit(0)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLite]:
    """Give a store that another process may use too."""
    made = SQLite(tmp_path / "runs.db")
    yield made
    made.close()


def locks(folder: Path) -> list[str]:
    """Name the owners that have a file."""
    return sorted(path.stem for path in (folder / owners.FOLDER).iterdir())


def test_a_run_of_a_living_process_is_locked(store: SQLite) -> None:
    """While the owner lives its run is shown as running, and a claim is refused with the owner's process id."""
    with Life(WORK + "hear()", store.path) as life:
        life.hear()
        assert store.get_run("r").status is RunStatus.RUNNING
        with pytest.raises(RunLocked, match=f"process {life.process.pid};"):
            store.claim("r", a_resumption())


def test_a_run_of_a_killed_process_is_taken_over(store: SQLite) -> None:
    """When the owner is killed the run is shown as interrupted, and a claim gets it with the next epoch."""
    with Life(WORK + "hear()", store.path) as life:
        life.hear()
        life.kill()
    assert store.get_run("r").status is RunStatus.INTERRUPTED
    claim = store.claim("r", a_resumption())
    assert (claim.lease.epoch, claim.run.status, claim.run.nano_usd) == (2, RunStatus.INTERRUPTED, 9)
    assert [attempt.error for attempt in store.attempts("r")] == ["interrupted: the process ended"]


def test_a_process_that_lost_its_run_writes_no_more(store: SQLite) -> None:
    """A living process whose lock file is gone counts as dead; its next commit raises RunLost."""
    commit = "hear()\ntry: store.commit(lease, PAUSED)\nexcept RunLost: say('lost')"
    with Life(WORK + commit, store.path) as life:
        (store.path.parent / owners.FOLDER / f"{life.hear()}.lock").unlink()
        lease = store.claim("r", a_resumption()).lease
        life.tell()
        assert life.hear() == "lost"
    store.commit(lease, Transition(AT, step=a_step(1), state="[1]"))
    assert store.get_run("r").steps == 2


def test_a_process_whose_lock_file_is_gone_takes_another(tmp_path: Path) -> None:
    """Who finds its own lock file deleted gets a new name, since under the old one everybody takes it for dead."""
    first = owners.own_token(tmp_path)
    assert owners.own_token(tmp_path) == first
    (tmp_path / owners.FOLDER / f"{first}.lock").unlink()
    assert owners.own_token(tmp_path) != first
    assert locks(tmp_path) == [owners.own_token(tmp_path)]


def test_a_process_that_ends_takes_its_lock_file_with_it(store: SQLite) -> None:
    """At a normal exit no file is left, and the run is free."""
    live(WORK, store.path)
    assert locks(store.path.parent) == []
    assert store.claim("r", a_resumption()).lease.epoch == 2


def test_files_of_dead_processes_do_not_pile_up(store: SQLite) -> None:
    """The next process that takes a lock removes the files of the dead, and leaves those of the living."""
    with Life(WORK + "hear()", store.path) as living:
        names = [living.hear()]
        for _ in range(3):
            names.append(live("say(owners.own_token(Path(sys.argv[1])))\nos._exit(0)", store.path.parent))
        assert locks(store.path.parent) == sorted([names[0], names[-1]])
        assert [owners.is_alive(store.path.parent, name) for name in names] == [True, False, False, False]
        mine = owners.own_token(store.path.parent)
        assert locks(store.path.parent) == sorted([names[0], mine])


@pytest.mark.parametrize(
    "end", ["os._exit(0)", "sys.exit(0)", "owners._own.clear(); import gc; gc.collect(); os._exit(0)"]
)
def test_a_forked_child_leaves_its_parents_lock_alone(tmp_path: Path, end: str) -> None:
    """However a forked child ends, its parent stays alive for everybody, and its lock file stays."""
    with Life(FORK + end, tmp_path) as life:
        token = life.hear()
        assert owners.is_alive(tmp_path, token)
        assert locks(tmp_path) == [token]


def test_a_multiprocessing_child_leaves_its_parents_lock_alone(tmp_path: Path) -> None:
    """A child of multiprocessing works under a name of its own, and takes nothing from its parent by ending."""
    script = """
    import multiprocessing
    fork, folder = multiprocessing.get_context("fork"), Path(sys.argv[1])
    token, names = owners.own_token(folder), fork.Queue()
    child = fork.Process(target=lambda: names.put(owners.own_token(folder)))
    child.start()
    say(token, names.get())
    child.join()
    say("joined")
    hear()
    """
    with Life("if True:" + script, tmp_path) as life:
        parent, child = life.hear().split()
        assert life.hear() == "joined"
        assert parent != child
        assert [owners.is_alive(tmp_path, name) for name in (parent, child)] == [True, False]


def test_a_killed_parent_is_dead_though_its_forked_child_lives(tmp_path: Path) -> None:
    """The lock ends with the process that took it, also when a child that it forked lives on."""
    script = "token = owners.own_token(Path(sys.argv[1]))\nif os.fork() == 0: say(token)\nsignal.pause()"
    with Life(script, tmp_path) as life:
        token = life.hear()
        assert owners.is_alive(tmp_path, token)
        life.kill()
        assert not owners.is_alive(tmp_path, token)


def test_a_killed_parent_is_dead_though_a_program_it_started_lives(tmp_path: Path) -> None:
    """A program started with subprocess does not keep the lock of the process that started it."""
    script = """
token = owners.own_token(Path(sys.argv[1]))
subprocess.Popen(["sleep", "20"], close_fds=False)
say(token)
hear()
"""
    with Life(script, tmp_path) as life:
        token = life.hear()
        life.kill()
        assert not owners.is_alive(tmp_path, token)


def test_a_forked_child_cannot_write_to_its_parents_run(store: SQLite) -> None:
    """With the parent's lease a child gets RunLost, and with a claim RunLocked; the parent works on."""
    script = """
if os.fork() == 0:
    for verb in (lambda: store.commit(lease, PAUSED), lambda: store.claim("r", a_resumption())):
        try: verb()
        except (RunLost, RunLocked) as error: say(type(error).__name__)
    os._exit(0)
os.wait()
store.commit(lease, Transition(AT, a_step(1), "[1]"))
"""
    with Life(WORK + script, store.path) as life:
        life.hear()
        assert life.end().split() == ["RunLost", "RunLocked"]
    assert store.get_run("r").steps == 2


def test_a_lease_of_another_process_is_refused(store: SQLite) -> None:
    """A lease carries the process it was given to, so that a copy of it in a forked child is worth nothing."""
    lease = store.create_run(a_run(), "0")
    theirs = type(lease)(lease.run_id, lease.owner, lease.epoch, lease.pid + 1)
    with pytest.raises(RunLost, match="forked"):
        store.commit(theirs, PAUSED)
    store.commit(lease, PAUSED)


def test_two_stores_of_one_file_share_their_runs(tmp_path: Path) -> None:
    """In one process a run is worked on once, also through another store or another name of the file."""
    (tmp_path / "link.db").symlink_to(tmp_path / "runs.db")
    stores = [SQLite(tmp_path / name) for name in ("runs.db", "link.db")]
    lease = stores[0].create_run(a_run(), "0")
    with pytest.raises(RunLocked, match="in this process already"):
        stores[1].claim("r", a_resumption())
    stores[0].commit(lease, PAUSED)
    assert stores[1].claim("r", a_resumption()).lease.epoch == 2
    for store in stores:
        store.close()


def test_a_name_without_a_file_is_dead(tmp_path: Path) -> None:
    """An owner whose file is missing counts as dead, also when the whole folder is missing."""
    assert not owners.is_alive(tmp_path / "nowhere", "1-abc")
    owners.own_token(tmp_path)
    assert not owners.is_alive(tmp_path, "1-abc")
