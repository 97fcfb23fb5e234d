"""Many processes and threads work on one file, and each run belongs to one of them at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from killing import FORK, KILLED, live
from loomc_runner import Budget, Done, RunLocked, RunLost, loop, spend
from loomc_runner.store.sqlite import SQLite

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

WORKERS, LOOPS, STEPS = 8, 200, 3


def counter(path: str, fn: Callable[[int], Any]) -> Any:
    """A loop over a number, under one name in all processes."""
    return loop(name="counter", budget=Budget(iterations=1000), checkpoint=path)(fn)


def count(number: int) -> int | Done[int, None]:
    """Pay a cent a step, three times."""
    spend(usd=0.01)
    return Done(number + 1) if number + 1 == STEPS else number + 1


def assert_nothing_lost(path: str) -> None:
    """Every loop is complete, with all its steps and all its money."""
    store = SQLite(path, read_only=True)
    runs = store.list_runs()
    assert len(runs) == LOOPS
    assert {(run.status, run.steps, run.nano_usd) for run in runs} == {("completed", STEPS, STEPS * 10_000_000)}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM steps WHERE step_n >= 0").fetchone()[0] == LOOPS * STEPS
        assert db.execute("SELECT count(*) FROM attempts").fetchone()[0] == 0


def at_once(count: int, work: Callable[[int], object]) -> None:
    """Let so many processes do something at the same time, and see that all of them did."""
    start = FORK.Barrier(count)

    def one(number: int) -> None:
        start.wait(30)
        work(number)

    workers = [FORK.Process(target=one, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * count


def test_eight_processes_lose_nothing_on_one_file(tmp_path: Path) -> None:
    """Processes that write to one new file at once wait for each other, and none meets an error."""
    path = str(tmp_path / "checkpoints.db")

    def work(worker: int) -> None:
        for number in range(LOOPS // WORKERS):
            counter(path, count).run(0, run_id=f"{worker}-{number}")

    at_once(WORKERS, work)
    assert_nothing_lost(path)


def test_eight_threads_lose_nothing_on_one_file(tmp_path: Path) -> None:
    """Threads that write to one new file at once wait for each other, and none meets an error."""
    path = str(tmp_path / "checkpoints.db")

    def work() -> None:
        handle = counter(path, count)
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda number: handle.run(0, run_id=f"{number}"), range(LOOPS)))

    assert live(work) == 0
    assert_nothing_lost(path)


def test_async_loops_of_eight_processes_lose_nothing_on_one_file(tmp_path: Path) -> None:
    """Async loops side by side in processes side by side wait without blocking, and none meets an error."""
    path = str(tmp_path / "checkpoints.db")

    async def count_async(number: int) -> int | Done[int, None]:
        await asyncio.sleep(0)
        return count(number)

    async def gather(worker: int) -> None:
        handle = counter(path, count_async)
        await asyncio.gather(*(handle.run(0, run_id=f"{worker}-{number}") for number in range(LOOPS // WORKERS)))

    at_once(WORKERS, lambda worker: asyncio.run(gather(worker)))
    assert_nothing_lost(path)


def abandon(path: str, rounds: int) -> None:
    """Begin many runs, commit one step of each, and die while the second steps are in flight."""
    streams = [counter(path, count).stream(0, run_id=f"{number}") for number in range(rounds)]
    for stream in streams:
        next(stream)
    os.kill(os.getpid(), signal.SIGKILL)


def test_of_two_processes_that_resume_a_run_one_works_and_the_other_is_told(tmp_path: Path) -> None:
    """Of two processes that resume a run at once, one runs its steps; the other gets RunLocked before those end."""
    path, log, rounds = str(tmp_path / "checkpoints.db"), tmp_path / "steps", 100
    start, refused = FORK.Barrier(2), [FORK.Event() for _ in range(rounds)]
    assert live(abandon, path, rounds) == KILLED

    def work(_: int) -> None:
        lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in range(rounds):

            def step(value: int, number: int = number) -> int | Done[int, None]:
                os.write(lines, f"{number}:{value}\n".encode())
                assert refused[number].wait(10), "the other process waits for the run"
                return count(value)

            start.wait(30)
            try:
                counter(path, step).resume(f"{number}")
            except RunLocked:
                refused[number].set()

    at_once(2, work)
    runs = SQLite(path, read_only=True).list_runs()
    assert sorted(log.read_text().split()) == sorted(f"{run.id}:{value}" for run in runs for value in (1, 2))
    assert [(run.status, run.steps, run.epoch) for run in runs] == [("completed", STEPS, 2)] * rounds


def test_a_process_that_lost_its_run_commits_nothing_more(tmp_path: Path) -> None:
    """Once a run was taken over, the process that had it can neither commit a step nor spend."""
    path = str(tmp_path / "checkpoints.db")
    taken, begun = FORK.Event(), FORK.Event()

    def lose() -> None:
        def step(value: int) -> int:
            begun.set()
            assert taken.wait(10)
            with pytest.raises(RunLost):
                spend(usd=1.0)
            return value + 1

        with pytest.raises(RunLost):
            counter(path, step).run(0, run_id="run")

    loser = FORK.Process(target=lose)
    loser.start()
    assert begun.wait(10)
    for lock in tmp_path.glob("owners/*.lock"):
        lock.unlink()  # as if its machine had gone
    assert live(lambda: counter(path, count).resume("run")) == 0
    taken.set()
    loser.join(30)
    assert loser.exitcode == 0
    run = SQLite(path, read_only=True).get_run("run")
    assert (run.status, run.steps, run.epoch, run.nano_usd) == ("completed", STEPS, 2, STEPS * 10_000_000)


def test_a_dead_owner_is_dead_though_a_process_it_forked_lives_on(tmp_path: Path) -> None:
    """A run whose process was killed is free at once, whatever other processes that one had forked."""
    path, (reader, writer) = str(tmp_path / "checkpoints.db"), os.pipe()

    def fork_and_die(value: int) -> int:
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)  # until the test ends
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        return value

    try:
        assert live(counter(path, fork_and_die).run, 0) == KILLED
        run = SQLite(path, read_only=True).list_runs()[0]
        assert run.status == "interrupted"
        assert live(counter(path, count).resume, run.id) == 0
    finally:
        os.close(writer)


def test_a_forked_process_cannot_write_to_its_parents_run(tmp_path: Path) -> None:
    """A fork inside a step leaves the run to the parent: the child can neither spend nor commit there."""
    path = str(tmp_path / "checkpoints.db")

    def step(value: int) -> int | Done[int, None]:
        if (child := os.fork()) == 0:
            try:
                spend(usd=1.0)
            except RunLost:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        return count(value)

    assert live(counter(path, step).run, 0) == 0
    assert SQLite(path, read_only=True).list_runs()[0].nano_usd == STEPS * 10_000_000


def test_a_fork_of_a_run_waits_for_a_busy_database(tmp_path: Path) -> None:
    """Forking a run waits, like every other verb, while another program writes to the database."""
    path = str(tmp_path / "checkpoints.db")
    handle = counter(path, count)
    assert live(handle.run, 0) == 0
    run = SQLite(path, read_only=True).list_runs()[0]
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.1, writer.execute, ["ROLLBACK"])
        release.start()
        forked = handle.fork(run.id, step=0)
        release.join()
    assert SQLite(path, read_only=True).get_run(forked).forked_from == f"{run.id}:0"
