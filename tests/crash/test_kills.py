"""A process is killed with SIGKILL, and the run goes on in another as if nothing had happened."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from killing import FORK, KILLED, Death, assert_records_are_whole, live
from loomc_runner.errors import LoomcError, RunNotFound
from loomc_runner.store.sqlite import SQLite
from refiners import KINDS, UNDISTURBED, Losses, committed, one_life, one_traced_life

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

DEATHS = [
    pytest.param(kind, death, id=f"{kind}-{death.where}-{death.number}")
    for kind in KINDS
    for death in UNDISTURBED[kind].deaths
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """One database for all runs of the module, whole at the end; in memory where there is room: no power fails here."""
    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(dir=shm if shm.is_dir() else None)
    yield f"{folder}/checkpoints.db"
    assert_records_are_whole(f"{folder}/checkpoints.db")
    shutil.rmtree(folder)


def assert_as_undisturbed(kind: str, losses: Losses) -> None:
    """The run has the steps of an undisturbed one, and its money is that one's and the losses."""
    store, calm = SQLite(losses.path, read_only=True), UNDISTURBED[kind]
    charges = store.charges(losses.run_id)
    assert committed(store, losses.run_id) == calm.committed
    assert store.get_run(losses.run_id).nano_usd == calm.nano_usd + losses.nano_usd
    assert sum(charge.nano_usd for charge in charges) == calm.nano_usd + losses.nano_usd
    assert [charge.nano_usd for charge in charges if charge.estimated] == losses.estimates


@pytest.mark.parametrize(("kind", "death"), DEATHS)
def test_a_run_that_was_killed_ends_as_if_nothing_had_happened(kind: str, death: Death, database: str) -> None:
    """Wherever a run is killed, its steps are those of an undisturbed one; only what was in flight is paid twice."""
    losses = Losses(database, f"{kind}-{death.where}-{death.number}")
    assert live(one_life, kind, database, losses.run_id, death) == KILLED
    try:
        losses.note()
    except RunNotFound:
        assert death == Death("before", 1)
    assert live(one_life, kind, database, losses.run_id) == 0
    assert_as_undisturbed(kind, losses)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_again_and_again_completes(kind: str, database: str) -> None:
    """However often a run is killed, each time a write later, its steps stay the same and each loss is paid once."""
    losses = Losses(database, f"{kind}-again")
    deaths = (Death("after", number) for number in itertools.count(2))
    killed = list(itertools.takewhile(lambda death: dies(kind, losses, death), deaths))
    assert len(killed) > 3
    assert_as_undisturbed(kind, losses)


def dies(kind: str, losses: Losses, death: Death) -> bool:
    """Whether a life ends before the run does."""
    ending = live(one_life, kind, losses.path, losses.run_id, death)
    losses.note()
    return ending == KILLED


@pytest.mark.parametrize("at_resume", [Death("before", 1), Death("after", 1), Death("before", 2), Death("after", 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_that_is_killed_can_be_resumed(kind: str, at_resume: Death, database: str) -> None:
    """A kill around the claim or the first commit of a resume loses nothing and charges nothing twice."""
    middle = UNDISTURBED[kind].writes // 2
    for write in (middle, middle + 1):
        losses = Losses(database, f"{kind}-{write}-{at_resume.where}-{at_resume.number}")
        assert dies(kind, losses, Death("after", write))
        assert dies(kind, losses, at_resume)
        assert not dies(kind, losses, Death())
        assert_as_undisturbed(kind, losses)


def test_a_run_that_was_killed_inside_a_transaction_goes_on(database: str) -> None:
    """Wherever inside a transaction a run is killed, all of that transaction is stored, or nothing."""
    for statement in itertools.count(1):
        losses = Losses(database, f"traced-{statement}")
        if live(one_traced_life, database, losses.run_id, Death("inside", statement)) == 0:
            break
        with suppress(RunNotFound):
            losses.note()
        assert not dies("spender-sync", losses, Death())
        assert_as_undisturbed("spender-sync", losses)
    assert statement > 50


def test_a_run_that_was_killed_at_any_instant_goes_on(database: str) -> None:
    """From the creation of its database to its last commit, there is no instant at which a kill does harm."""
    chance, killed = random.Random(4), 0
    for number in range(40):
        losses = Losses(f"{database}-{number}", "run")
        life = FORK.Process(target=one_life, args=("spender-sync", losses.path, "run"))
        life.start()
        life.join(chance.uniform(0, 0.04))
        life.kill()
        life.join()
        killed += life.exitcode == KILLED
        with suppress(LoomcError):  # no database, no tables or no run yet
            losses.note()
        assert not dies("spender-sync", losses, Death())
        assert_as_undisturbed("spender-sync", losses)
    assert killed > 10


@pytest.mark.parametrize("kind", ["spender-sync", "climber-sync", "spender-async"])
def test_a_run_that_is_terminated_finishes_its_step(kind: str, database: str) -> None:
    """SIGTERM, whenever it comes, ends the process after the step, with nothing in flight and nothing paid twice."""
    for write in range(1, UNDISTURBED[kind].writes + 1):
        losses = Losses(database, f"{kind}-{write}-drained")
        assert live(one_life, kind, database, losses.run_id, Death("after", write, signal.SIGTERM)) == 128 + 15
        losses.note()
        run = losses.store.get_run(losses.run_id)
        paused = (run.status, run.stop_reason) == ("paused", "paused: SIGTERM")
        assert paused or (run.status == "completed" and write >= UNDISTURBED[kind].writes - 2)
        assert (run.in_flight, losses.nano_usd, losses.store.attempts(run.id)) == (None, 0, [])
        assert not dies(kind, losses, Death())
        assert_as_undisturbed(kind, losses)


@pytest.mark.parametrize("kind", ["spender-sync", "climber-sync"])
def test_a_run_that_was_asked_to_stop_is_paused_and_paid_once(kind: str, database: str) -> None:
    """Ctrl-C right after a write, while that is taken note of, charges nothing a second time."""
    for write in range(1, UNDISTURBED[kind].writes + 1):
        losses = Losses(database, f"{kind}-{write}-interrupted")
        assert live(one_life, kind, database, losses.run_id, Death("after", write, signal.SIGINT)) in {1, 130}
        losses.note()
        left_as = {1: "interrupted", UNDISTURBED[kind].writes: "completed"}  # with 1 nobody holds the lease yet
        assert losses.store.get_run(losses.run_id).status == left_as.get(write, "paused")
        assert not dies(kind, losses, Death())
        assert_as_undisturbed(kind, losses)
