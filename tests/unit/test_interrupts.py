"""What tears a step apart leaves a paused run with the reason, and goes on its way."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from driving import Draft, Maker, columns, doing, go, grow, pull, size, timed, until

from loomc_runner import Budget, Escalate, RunStatus, StoreBusy, judge, loop, spend
from loomc_runner.sigterm import orderly_termination
from loomc_runner.state import Codec
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FakeClock, FaultyStore

TORN: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit: 3": lambda: SystemExit(3),
    "CancelledError": asyncio.CancelledError,
    "CancelledError: by a timeout": lambda: asyncio.CancelledError("by a timeout"),
}


def torn_at(n: int, error: BaseException) -> Callable[[Draft], Draft]:
    """A step that pays half a dollar and spoils its state, and is torn apart when it gets there the first time."""
    errors = [error]

    def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        draft.words.append("spoiled" if draft.n == n and errors else "good")
        if draft.n == n and errors:
            raise errors.pop()
        return grow(draft)

    return step


# --- whatever it is


@pytest.mark.parametrize("reason", TORN)
@pytest.mark.parametrize("n", [0, 2])
def test_a_torn_step_leaves_a_paused_run(make: Maker, reason: str, n: int) -> None:
    """The reason is stored, the exception comes out with its run, and the run goes on from the step before."""
    refine = make(torn_at(n, TORN[reason]()), budget=Budget(usd=9), converge_on=until(3))
    with pytest.raises(type(TORN[reason]())) as caught:
        go(refine(Draft(), run_id="r1"))
    error: Any = caught.value
    run = make.store.get_run("r1")
    assert (run.status, run.stop_reason, run.steps) == (RunStatus.PAUSED, f"paused: {reason}", n)
    if not reason.startswith("Cancelled") or not make.is_async:  # asyncio makes a new one of those
        assert (error.run_id, error.state, "resume r1" in error.__notes__[0]) == ("r1", Draft(n, ["good"] * n), True)
    assert go(refine.resume("r1")) == Draft(3, ["good"] * 3)


def test_a_torn_step_is_on_record(make: Maker) -> None:
    """What it had spent stays spent, and the next resume notes it as an attempt."""
    clock = FakeClock()
    step = doing(lambda: clock.advance(3), torn_at(1, KeyboardInterrupt()))
    refine = timed(make(step, budget=Budget(usd=9, step_usd=1), converge_on=until(3)), clock)
    with pytest.raises(KeyboardInterrupt):
        go(refine(Draft(), run_id="r1"))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.cost_usd, result.elapsed) == (2.0, 12.0)
    assert columns(make.store.attempts("r1"), "step_n", "error", "category", "nano_usd") == [
        (1, "paused: KeyboardInterrupt", "interrupted", 500_000_000)
    ]


@pytest.mark.parametrize("option", ["scorer", "cost_fn", "converge_on", "on_stall"])
def test_every_question_may_be_torn(make: Maker, option: str) -> None:
    """Ctrl-C while somebody judges a step is Ctrl-C in the step."""
    armed = [True]

    def torn(*_: Any) -> Any:
        if armed and armed.pop():
            raise KeyboardInterrupt
        return Draft(9) if option == "on_stall" else 1

    options: dict[str, Any] = {option: Escalate(1, torn) if option == "on_stall" else torn}
    options = {"budget": Budget(iterations=4), "scorer": lambda _: 1, **options}
    refine = make(grow, **options)
    with pytest.raises(KeyboardInterrupt):
        go(refine(Draft(), run_id="r1"))
    assert make.store.get_run("r1").stop_reason == "paused: KeyboardInterrupt"
    assert go(refine.run(Draft(), run_id="r1")).status in {"budget_exhausted", "completed"}


@pytest.mark.parametrize("option", ["scorer", "cost_fn"])
def test_a_step_that_is_torn_from_its_scorer_is_kept(make: Maker, option: str) -> None:
    """It had returned, so it is paid for: its state is committed with the reason, and the run goes on from there."""

    def torn(_: Draft) -> float:
        raise KeyboardInterrupt

    refine = make(torn_at(9, KeyboardInterrupt()), converge_on=until(2), budget=Budget(usd=9))
    with pytest.raises(KeyboardInterrupt):
        go(refine.with_options(**{option: torn})(Draft(), run_id="r1"))
    assert columns(make.store.steps("r1"), "error", "score") == [("KeyboardInterrupt", None)]
    assert make.store.get_run("r1").stop_reason == "paused: KeyboardInterrupt"
    assert go(refine.resume("r1")) == Draft(2, ["good"] * 2)
    assert (make.store.get_run("r1").cost_usd, make.store.attempts("r1")) == (1.0, [])


def test_a_stream_may_be_torn(make: Maker) -> None:
    """The exception comes out of the stream, which is over then; the run is paused."""
    refine = make(torn_at(1, KeyboardInterrupt()), converge_on=until(2))
    steps = refine.stream(Draft(), run_id="r1")
    with pytest.raises(KeyboardInterrupt):
        go(steps)
    assert make.store.get_run("r1").stop_reason == "paused: KeyboardInterrupt"
    assert (go(steps), steps.result.status) == ([], "paused")
    assert go(refine.resume("r1")).n == 2


def test_every_run_around_a_torn_step_is_paused(make: Maker) -> None:
    """Parents are torn with their children, which go on with them: only the steps in flight are paid twice."""
    child = loop(name="child", checkpoint=make.store, converge_on=until(2))(torn_at(1, KeyboardInterrupt()))
    refine = make(lambda draft: child(draft), budget=Budget(usd=9), converge_on=until(2))
    with pytest.raises(KeyboardInterrupt):
        go(refine(Draft(), run_id="r1"))
    assert columns(make.store.list_runs(), "status", "stop_reason") == [("paused", "paused: KeyboardInterrupt")] * 2
    assert go(refine.run(Draft(), run_id="r1")).cost_usd == 1.5


# --- at the worst moments


@pytest.mark.parametrize("at", [2, 3, 4])
@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_in_a_commit_costs_nothing_twice(make: Maker, at: int, when: Any) -> None:
    """A step that has returned is paid for: right before its commit and right after it, it is kept, and paid once."""
    faulty = FaultyStore(make.store, at=at, when=when, act=KeyboardInterrupt())
    options: dict[str, Any] = {"cost_fn": lambda _: 0.5, "budget": Budget(usd=9), "scorer": size}
    refine = make(grow, checkpoint=faulty, converge_on=until(3), **options)
    with pytest.raises(KeyboardInterrupt):
        go(refine(Draft(), run_id="r1"))
    assert make.store.get_run("r1").steps == at - 1
    assert make.store.get_run("r1").status == ("completed" if at == 4 else "paused")
    assert go(refine(Draft(), run_id="r1")) == Draft(3)
    assert columns(make.store.charges("r1"), "nano_usd") == [(500_000_000,)] * 3
    assert make.store.attempts("r1") == []


def test_ctrl_c_right_after_the_last_commit_leaves_a_complete_run(make: Maker) -> None:
    """The exception comes out, and the stream knows that the run has ended well."""
    faulty = FaultyStore(make.store, at=2, when="after", act=KeyboardInterrupt())
    steps = make(grow, checkpoint=faulty, converge_on=until(1)).stream(Draft())
    with pytest.raises(KeyboardInterrupt):
        go(steps)
    assert (go(steps), steps.result.status, steps.result.stop_reason) == ([], "completed", "converged: enough")


def test_ctrl_c_in_the_commit_of_a_failed_try_keeps_its_record(make: Maker) -> None:
    """The run has failed, and says so."""
    faulty = FaultyStore(make.store, at=2, act=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        go(make(lambda draft: Draft(0 // 0), checkpoint=faulty)(Draft(), run_id="r1"))
    assert (make.store.get_run("r1").status, len(make.store.attempts("r1"))) == ("failed", 1)


def test_a_step_that_waits_for_the_store_survives_a_cancellation(disk: SQLite) -> None:
    """A task that is cancelled while the database is locked has its step committed before it ends."""
    other = sqlite3.connect(disk.path, isolation_level=None)

    async def step(draft: Draft) -> Draft:
        other.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(0.1, other.execute, "COMMIT")
        return grow(draft)

    async def main() -> None:
        async with asyncio.timeout(0.03):
            await loop(checkpoint=disk)(step)(Draft(), run_id="r1")

    with closing(other), pytest.raises(TimeoutError):
        asyncio.run(main())
    assert (disk.get_run("r1").status, disk.state("r1", 0)) == ("paused", '{"n":1,"words":[]}')


def test_ctrl_c_between_two_steps_pauses_the_run(make: Maker) -> None:
    """Also where none of the steps is running the run is not left behind as if somebody worked on it."""

    class Interrupting(FakeClock):
        armed = False

        def monotonic(self) -> float:
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return 0.0

    clock = Interrupting()
    faulty = FaultyStore(make.store, at=3, when="after", act=lambda: setattr(clock, "armed", True))
    refine = make(grow, checkpoint=faulty, converge_on=until(4))
    refine = timed(refine, clock)
    with pytest.raises(KeyboardInterrupt):
        go(refine(Draft(), run_id="r1"))
    assert (make.store.get_run("r1").status, make.store.get_run("r1").steps) == ("paused", 2)
    assert go(refine.resume("r1")) == Draft(4)


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_while_a_run_begins_leaves_it_free(disk: SQLite, when: Any) -> None:
    """If it was stored it can be resumed, in this process too; else it never was."""
    refine = Maker(disk, is_async=False)(grow, converge_on=until(2))
    faulty = refine.with_options(checkpoint=FaultyStore(disk, at=1, when=when, act=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        faulty(Draft(), run_id="r1")
    if when == "before":
        assert refine(Draft(), run_id="r1") == Draft(2)


# --- asyncio


def test_a_cancelled_task_pauses_its_run(memory: MemoryStore) -> None:
    """Cancelling the task of a loop leaves its run paused, and the cancellation goes on its way."""

    async def step(draft: Draft) -> Draft:
        if draft.n == 2 and not resumed:
            waiting.set()
            await asyncio.sleep(30)
        return grow(draft)

    waiting, resumed = asyncio.Event(), list[bool]()
    refine = loop(checkpoint=memory, converge_on=until(4))(step)

    async def main() -> None:
        task = asyncio.create_task(refine(Draft(), run_id="r1"))
        await waiting.wait()
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert memory.get_run("r1").stop_reason == "paused: CancelledError: enough"
        resumed.append(True)
        assert await refine.resume("r1") == Draft(4)

    asyncio.run(main())


def test_a_timeout_around_a_loop_pauses_its_run(memory: MemoryStore) -> None:
    """`asyncio.timeout` is the caller's limit, and works as for any coroutine."""

    async def step(draft: Draft) -> Draft:
        await asyncio.sleep(0 if draft.n < 2 else 30)
        return grow(draft)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await loop(checkpoint=memory, budget=Budget(wall_clock="20s"))(step)(Draft(), run_id="r1")

    asyncio.run(main())
    assert (memory.get_run("r1").status, memory.get_run("r1").steps) == ("paused", 2)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_abandoned_coroutine_pauses_its_run(memory: MemoryStore, streamed: bool) -> None:
    """A coroutine that is closed in a step, as when its event loop has gone, gives its run back, waiting if need be."""

    class Pending:
        def __await__(self) -> Any:
            yield

    async def step(draft: Draft) -> Draft:
        if draft.n == 1:
            await Pending()
        return grow(draft)

    async def main() -> None:
        refine = loop(checkpoint=FaultyStore(memory, at=3, act=StoreBusy("busy")))(step)
        steps = refine.stream(Draft(), run_id="r1")
        while streamed:
            await pull(steps)
        await refine(Draft(), run_id="r1")

    coroutine = main()
    for _ in range(2):  # the turn that is given before the first step, and the step that waits
        coroutine.send(None)
    coroutine.close()
    run = memory.get_run("r1")
    assert (run.status, run.stop_reason, run.steps) == ("paused", "paused: GeneratorExit", 1)


# --- real signals, in a process of their own


def signalled(number: int, fn: Callable[[Callable[[], None]], None]) -> int:
    """What a process ends with that is sent a signal once it says that it is ready; minus the signal it died of."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            fn(lambda: os.write(writer, b"."))  # type: ignore[arg-type]
        except KeyboardInterrupt:
            os._exit(130)
        except SystemExit as error:
            os._exit(int(error.code or 0))
        os._exit(1)
    os.read(reader, 1)
    os.kill(process, number)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGINT, 130, "KeyboardInterrupt"), (signal.SIGTERM, 143, "SystemExit: 143")],
)
def test_a_signal_pauses_the_run(disk: SQLite, number: int, code: int, reason: str, is_async: bool) -> None:
    """Ctrl-C, or a second SIGTERM, tears the step, ends the process as it should, and the run waits to be resumed."""

    def die_in_step(ready: Callable[[], None]) -> None:
        def hang(draft: Draft) -> Draft:
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)  # the first one asks
            ready()
            for _ in range(3000):  # one long wait misses a signal that comes just before it
                time.sleep(0.01)
            return draft

        async def hang_async(draft: Draft) -> Draft:
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)
            ready()
            await asyncio.sleep(30)
            return draft

        go(loop(name="tests:draft", checkpoint=disk)(hang_async if is_async else hang)(Draft(), run_id="r1"))

    assert signalled(number, die_in_step) == code
    run = disk.get_run("r1")
    assert (run.status, run.stop_reason in {f"paused: {reason}", "paused: CancelledError"}) == ("paused", True)
    assert go(Maker(disk, is_async=is_async)(grow, converge_on=until(2)).resume("r1")) == Draft(2)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_sigterm_lets_the_step_finish(disk: SQLite, is_async: bool) -> None:
    """The step that runs is finished and committed, no other one starts, and the process ends with 143."""

    def work(ready: Callable[[], None]) -> None:
        def step(draft: Draft) -> Draft:
            ready()
            time.sleep(0.2)
            return grow(draft)

        go(Maker(disk, is_async=is_async)(step)(Draft(), run_id="r1"))

    assert signalled(signal.SIGTERM, work) == 143
    run = disk.get_run("r1")
    assert (run.status, run.stop_reason, run.steps, run.in_flight) == ("paused", "paused: SIGTERM", 1, None)
    assert disk.attempts("r1") == []


# --- the disposition of SIGTERM


def test_sigterm_is_as_it_was_after_a_loop(make: Maker) -> None:
    """While a loop runs on the main thread SIGTERM is ours; before and after it is not."""
    seen: list[Any] = []
    go(make(doing(lambda: seen.append(signal.getsignal(signal.SIGTERM))), converge_on=until(1))(Draft()))
    assert seen != [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda *_: None])
def test_a_programs_own_handler_is_left_alone(make: Maker, theirs: Any) -> None:
    """Who handles SIGTERM goes on handling it, inside a loop and after it."""
    seen: list[Any] = []
    before = signal.signal(signal.SIGTERM, theirs)
    try:
        refine = make(doing(lambda: seen.append(signal.getsignal(signal.SIGTERM))))
        go(refine.with_options(converge_on=until(1))(Draft()))
        seen.append(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [theirs, theirs]


def test_a_handler_that_a_step_installs_stays() -> None:
    """What user code has set inside is not undone."""
    try:
        with orderly_termination():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_of_several_loops_the_last_one_gives_sigterm_back() -> None:
    """Async loops end in any order; as long as one of them runs, SIGTERM pauses it."""
    first, second = orderly_termination(), orderly_termination()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    second.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_loop_in_a_thread_does_not_touch_signals(make: Maker) -> None:
    """Python's signals belong to the main thread."""
    seen: list[Any] = []
    refine = make(doing(lambda: seen.append(signal.getsignal(signal.SIGTERM))), converge_on=until(1))
    thread = threading.Thread(target=lambda: go(refine(Draft())))
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


@pytest.mark.parametrize("place", ["scorer", "judge"])
def test_a_step_torn_from_what_looks_at_it_is_kept(place: str, memory: MemoryStore) -> None:
    """Ctrl-C in a scorer or a judge comes after the step was paid for: its state is committed, and the run paused."""

    def torn(_: Draft) -> float:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"scorer": torn} if place == "scorer" else {"converge_on": judge(torn)}
    refine = loop(checkpoint=memory, **options)(grow)
    with pytest.raises(KeyboardInterrupt):
        refine(Draft(), run_id="r1")
    run = memory.get_run("r1")
    assert (run.status, run.steps, run.in_flight) == (RunStatus.PAUSED, 1, None)
    assert memory.state("r1", 0) == Codec[Draft](Draft).encode(grow(Draft()))
