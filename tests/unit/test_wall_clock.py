"""A wall clock ends what takes too long, and never costs a result that was returned."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from driving import Draft, Maker, columns, doing, go, grow, make_async, timed, until

from loomc_runner import Budget, BudgetExhausted, LastGood, RunStatus, loop, spend
from loomc_runner.deadline import can_interrupt
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import FakeClock

SOON = Budget(wall_clock="50ms")
LONG = 30.0  # what is never waited for: a test that waits for it fails

main_thread_only = pytest.mark.skipif(not can_interrupt(), reason="no SIGALRM here, or not the main thread")


def hang(draft: Draft) -> Draft:
    """Keep the thread busy, and never return by itself."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pass
    return draft


async def hang_async(draft: Draft) -> Draft:
    """Wait, and never return by itself."""
    await asyncio.sleep(LONG)
    return draft


@contextmanager
def quick() -> Iterator[None]:
    """Fail what waited for something that hangs."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LONG / 3


# --- interrupting


@main_thread_only
@pytest.mark.parametrize("step", [hang, lambda draft: time.sleep(LONG), lambda draft: asyncio.run(hang_async(draft))])
def test_a_sync_step_is_interrupted(memory: MemoryStore, step: Callable[[Draft], Any]) -> None:
    """On the main thread a step is left at the limit, whatever it does; the error says which limit, and of what run."""
    refine = loop(checkpoint=memory, budget=SOON, backtrack=LastGood())(step)
    with quick(), pytest.raises(BudgetExhausted, match=r"in run r1: wall_clock 0\.\d+ of 0\.05") as caught:
        refine(Draft(4), run_id="r1")
    assert (caught.value.limit, caught.value.run_id, caught.value.state) == ("wall_clock", "r1", Draft(4))


@pytest.mark.parametrize("fn", [hang_async, lambda draft: asyncio.gather(*map(hang_async, [draft, draft]))])
def test_an_async_step_is_cancelled(memory: MemoryStore, fn: Any) -> None:
    """An async step is left at the limit, on any thread, and what it had started is cancelled with it."""

    async def step(draft: Draft) -> Draft:
        await fn(draft)
        return draft

    async def main() -> Any:
        result = await loop(checkpoint=memory, budget=SOON)(step).run(Draft(4))
        return result, asyncio.all_tasks() - {asyncio.current_task()}

    with quick(), ThreadPoolExecutor(1) as pool:
        result, tasks = pool.submit(asyncio.run, main()).result()
    assert (result.status, result.state, tasks) == (RunStatus.BUDGET_EXHAUSTED, Draft(4), set())
    assert result.stop_reason.startswith("budget: wall_clock 0.")


@main_thread_only
def test_a_step_that_is_interrupted_cleans_up(make: Maker) -> None:
    """Its `finally` runs, its charges stay, and the try is on record."""
    left: list[int] = []

    async def wait(draft: Draft) -> Draft:
        try:
            spend(usd=0.5)
            return await hang_async(draft)
        finally:
            left.append(draft.n)

    step = wait if make.is_async else lambda draft: asyncio.run(wait(draft))
    budget = Budget(usd=9, wall_clock="50ms")
    with quick():
        result = go(loop(checkpoint=make.store, budget=budget)(step).run(Draft(7), run_id="r1"))
    assert (left, result.cost_usd, result.steps) == ([7], 0.5, 0)
    assert columns(make.store.attempts("r1"), "step_n", "nano_usd") == [(0, 500_000_000)]


def test_a_sync_step_in_a_thread_ends_by_itself(memory: MemoryStore) -> None:
    """Where nothing can interrupt, the clock is looked at after the step, whose state is kept."""

    def step(draft: Draft) -> Draft:
        time.sleep(0.06)
        return grow(draft)

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(loop(checkpoint=memory, budget=SOON)(step).run, Draft()).result()
    assert (result.status, result.steps, result.state) == (RunStatus.BUDGET_EXHAUSTED, 1, Draft(1))


def test_a_charge_looks_at_the_clock(make: Maker) -> None:
    """Where nothing can interrupt, a step that spends is still left at its next charge, which is recorded."""
    clock = FakeClock()

    def step(draft: Draft) -> Draft:
        clock.advance(4)
        spend(usd=0.5)
        return grow(draft)

    result = go(timed(make(step, budget=Budget(usd=9, wall_clock="10s")), clock).run(Draft()))
    assert (result.steps, result.cost_usd, result.stop_reason) == (2, 1.5, "budget: wall_clock 12 of 10")


# --- what was returned is kept


def test_a_result_that_was_returned_wins(make: Maker) -> None:
    """A step that returns after the limit is committed; then the run ends."""
    clock = FakeClock()
    step = doing(lambda: clock.advance(60))
    result = go(timed(make(step, budget=Budget(wall_clock="10s")), clock).run(Draft(), run_id="r1"))
    assert (result.state, result.steps, result.stop_reason) == (Draft(1), 1, "budget: wall_clock 60 of 10")
    assert make.store.attempts("r1") == []


def test_a_late_result_may_be_the_last(make: Maker) -> None:
    """A step that is good enough is good enough, late or not."""
    clock = FakeClock()
    refine = make(doing(lambda: clock.advance(60)), budget=SOON, converge_on=until(1))
    assert go(timed(refine, clock).run(Draft())).status is RunStatus.COMPLETED


@main_thread_only
def test_a_childs_result_is_kept_when_its_scorer_takes_too_long(memory: MemoryStore) -> None:
    """The parent's limit interrupts the child's scorer; the state that it was to score is committed."""
    child = loop(checkpoint=memory, name="child", scorer=lambda draft: hang(draft).n)(grow)
    with quick():
        result = loop(checkpoint=memory, budget=SOON)(lambda draft: child(draft)).run(Draft(), run_id="r1")
    (run,) = memory.list_runs(parent="r1")
    assert (result.status, run.status, run.steps) == ("budget_exhausted", "budget_exhausted", 1)
    assert memory.state(run.id, 0) == '{"n":1,"words":[]}'


# --- over resumes, and nested


def test_working_time_adds_up_over_resumes(make: Maker) -> None:
    """Time between two lives does not count; what is left is left."""
    clock = FakeClock()

    def step(draft: Draft) -> Draft:
        clock.advance(4)
        if draft.n == 1:
            raise OSError
        return grow(draft)

    refine = timed(make(step, budget=Budget(wall_clock="10s")), clock)
    with pytest.raises(OSError):
        go(refine(Draft(), run_id="r1"))
    clock.advance(1000)
    result = go(timed(make(doing(lambda: clock.advance(4))), clock).run(Draft(), run_id="r1"))
    assert (result.steps, result.elapsed, result.stop_reason) == (2, 12.0, "budget: wall_clock 12 of 10")


@main_thread_only
def test_a_resumed_run_has_what_was_left(memory: MemoryStore) -> None:
    """A step that was interrupted at the limit is not begun again without more time, and then gets only that."""
    refine = loop(checkpoint=memory, name="r", budget=SOON)(hang)
    with quick():
        refine.run(Draft(), run_id="r1")
        for budget in (None, Budget(wall_clock="100ms")):
            with pytest.raises(BudgetExhausted, match="wall_clock"):
                refine.resume("r1", budget=budget)
    assert (len(memory.attempts("r1")), memory.get_run("r1").steps) == (2, 0)


def nest(store: MemoryStore, kinds: str, budgets: dict[int, Budget]) -> Any:
    """Loops in each other, of the kinds `s` and `a`, outermost first; the innermost hangs."""
    inner: Any = None
    for depth, kind in reversed(list(enumerate(kinds))):
        step = _calling(inner) if inner else hang_async if kind == "a" else hang
        step = make_async(step) if kind == "a" and inner and inner.spec.is_async is False else step
        inner = loop(checkpoint=store, name=f"{depth}", budget=budgets.get(depth, Budget()))(step)
    return inner


def _calling(inner: Any) -> Callable[[Draft], Any]:
    async def call(draft: Draft) -> Draft:
        result: Draft = await inner(draft)
        return result

    return call if inner.spec.is_async else lambda draft: inner(draft)


@main_thread_only
@pytest.mark.parametrize("kinds", ["ss", "aa", "as", "sss", "aaa", "aas"])
@pytest.mark.parametrize("limited", [0, 1])
def test_the_outermost_limit_ends_what_is_inside(memory: MemoryStore, kinds: str, limited: int) -> None:
    """A hanging step is interrupted by the limit of any loop around it, which is the one that is reported."""
    refine = nest(memory, kinds, {limited: SOON})
    with quick(), pytest.raises(BudgetExhausted, match="wall_clock") as caught:
        go(refine(Draft()))
    runs = {run.loop: run for run in memory.list_runs()}
    assert (len(runs), caught.value.run_id) == (len(kinds), runs[f"{limited}"].id)
    assert [runs[f"{n}"].status for n in range(limited + 1)] == ["failed"] * limited + ["budget_exhausted"]
    assert {runs[f"{n}"].status for n in range(limited + 1, len(kinds))} <= {"budget_exhausted", "paused"}


@main_thread_only
def test_of_two_limits_the_earlier_one_counts(memory: MemoryStore) -> None:
    """A child may have less time than its parent, and never more."""
    later = Budget(wall_clock="20s")
    for budgets, status in (({0: later, 1: SOON}, "failed"), ({0: SOON, 1: later}, "budget_exhausted")):
        refine = nest(memory, "ss", budgets)
        with quick(), pytest.raises(BudgetExhausted):
            refine(Draft(), run_id=status)
        assert memory.get_run(status).status == status


# --- somebody else's timer


@main_thread_only
def test_the_timer_of_a_test_run_survives(memory: MemoryStore) -> None:
    """The alarm that was set before goes on with what it has left, and rings its own handler when it is due."""
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        loop(checkpoint=memory, budget=SOON)(hang).run(Draft())
        left = signal.getitimer(signal.ITIMER_REAL)[0]
        loop(checkpoint=memory, budget=Budget(wall_clock="200ms"))(hang).run(Draft())
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, before)
    assert 0 < left <= 0.1
    assert rung == [signal.SIGALRM]


def test_what_other_tasks_take_between_two_steps_is_working_time() -> None:
    """An async loop gives the event loop a turn now and then; the time that passes there counts, as in a step."""

    @loop(budget=Budget(iterations=1000, wall_clock="300ms"), checkpoint="memory")
    async def count(draft: Draft) -> Draft:
        end = time.monotonic() + 0.006  # longer than an async loop goes on without a turn
        while time.monotonic() < end:
            pass
        return Draft(n=draft.n + 1)

    async def beside() -> RunStatus:
        async def hold() -> None:
            while True:
                end = time.monotonic() + 0.02
                while time.monotonic() < end:
                    pass
                await asyncio.sleep(0)

        task = asyncio.ensure_future(hold())
        try:
            return (await count.run(Draft())).status
        finally:
            task.cancel()

    with quick():
        assert asyncio.run(beside()) is RunStatus.BUDGET_EXHAUSTED
