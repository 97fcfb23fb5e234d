"""What a paid call may cost is held, and on record, before it is made; what it has cost takes the place of that."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import Any

import pytest
from driving import Draft, Maker, columns, doing, dying, go, grow, make_async, until

from loomc_runner import (
    Budget,
    BudgetExhausted,
    Done,
    Retry,
    RunStatus,
    StoreBusy,
    StoreError,
    call,
    current_run,
    judge,
    loop,
    spend,
)
from loomc_runner.budget import to_nano
from loomc_runner.context import step_here
from loomc_runner.holds import Hold, hold
from loomc_runner.records import NANO, Charge, Lease, Transition
from loomc_runner.report.verify import verify
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FaultyStore

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

CENT = NANO // 100


def cost(usd: float, tokens: int = 0) -> Charge:
    """A charge of the step that is running here."""
    scope = step_here("a call")
    return Charge(scope.step_n, to_nano(usd), tokens, "call", scope.clock.now())


def reserve(
    usd: float, tokens: int = 0, *, is_over: Callable[[], bool] = lambda: False, assumed: float | None = None
) -> Hold:
    """Hold what a call may cost; it is taken to have cost that, or what is assumed."""
    most = cost(usd, tokens)
    likely = most if assumed is None else cost(assumed)
    return hold(step_here("a call"), most, is_over, lambda: likely)


def money(store: Store, run_id: str = "r1") -> list[tuple[float, bool]]:
    """The charges on record, and whether they are estimated."""
    return [(charge.nano_usd / NANO, charge.estimated) for charge in store.charges(run_id)]


def assert_adds_up(store: Store, run_id: str = "r1") -> None:
    """The totals of the run are the sums of its charges, and nothing contradicts anything else."""
    run, charges = store.get_run(run_id), store.charges(run_id)
    assert (run.nano_usd, run.tokens) == (sum(c.nano_usd for c in charges), sum(c.tokens for c in charges))
    assert list(verify(store, run)) == []


# --- against the cap


def all_at_once(count: int, act: Callable[[], object]) -> list[object]:
    """What so many threads get that act at the same time, with the context of the step: a value or an error."""
    start = threading.Barrier(count)

    def one() -> object:
        start.wait(10)
        try:
            return act()
        except BudgetExhausted as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [job.result() for job in [pool.submit(copy_context().run, one) for _ in range(count)]]


def test_of_twenty_calls_at_once_as_many_pass_as_the_cap_can_pay(make: Maker) -> None:
    """Each holds what it may cost, so that they cannot overshoot together; nobody waits."""
    got: list[object] = []

    def step(draft: Draft) -> Draft:
        got[:] = all_at_once(20, lambda: reserve(0.01))
        assert current_run().left_usd == 0.0
        for held in got:
            if isinstance(held, Hold):
                held.settle(cost(0.01))
        return grow(draft)

    result = go(make(step, budget=Budget(usd=0.10), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert [type(each) for each in got].count(Hold) == 10
    assert {each.limit for each in got if isinstance(each, BudgetExhausted)} == {"usd"}
    assert (result.cost_usd, money(make.store)) == (0.10, [(0.01, False)] * 10)
    assert_adds_up(make.store)


def test_of_twenty_calls_in_tasks_and_threads_as_many_pass(memory: MemoryStore) -> None:
    """An async step holds from its tasks, and from the threads that they wait for."""

    @loop(checkpoint=memory, budget=Budget(usd=0.10), converge_on=until(1))
    async def refine(draft: Draft) -> Draft:
        in_threads = (asyncio.to_thread(reserve, 0.01) for _ in range(10))
        got = await asyncio.gather(*in_threads, *(soon() for _ in range(10)), return_exceptions=True)
        assert [type(each) for each in got].count(Hold) == 10
        return grow(draft)

    async def soon() -> Hold:
        await asyncio.sleep(0)
        return reserve(0.01)

    assert asyncio.run(refine.run(Draft())).cost_usd == 0.10


def test_of_the_calls_of_children_side_by_side_as_many_pass(memory: MemoryStore) -> None:
    """Their holds are their parent's too; the outermost run that has no more is the one that refuses."""
    got: list[object] = []
    together = threading.Barrier(4)

    def work(draft: Draft) -> Done[Draft, None]:
        spend(usd=0)
        together.wait(10)
        got.extend(all_at_once(5, lambda: reserve(0.01)))
        together.wait(10)
        return Done(draft)

    make = Maker(memory, is_async=False)
    child = make(work, name="child", budget=Budget(usd=0.04))
    parent = make(doing(lambda: child.map([Draft(n) for n in range(4)])), name="parent", budget=Budget(usd=0.10))
    parent.run(Draft(), run_id="r1")
    assert [type(each) for each in got].count(Hold) == 10
    assert {each.run_id for each in got if isinstance(each, BudgetExhausted)} >= {"r1"}
    assert memory.subtree("r1")[0] == 10 * CENT


def test_a_hold_that_does_not_fit_leaves_nothing_behind(make: Maker) -> None:
    """Neither in the ledger nor on record, and a smaller one fits where it did not."""

    def step(draft: Draft) -> Draft:
        with pytest.raises(BudgetExhausted, match=r"usd 0\.11 of 0\.10 \(\$0\.00 spent, the rest expected\)"):
            reserve(0.11)
        assert (money(make.store), current_run().left_usd) == ([], 0.10)
        reserve(0.10).settle(cost(0.02))
        return grow(draft)

    go(make(step, budget=Budget(usd=0.10), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert money(make.store) == [(0.02, False)]


def test_what_a_call_did_not_cost_is_free_again(make: Maker) -> None:
    """At once, for the calls after it and beside it, in all runs that enclose it."""

    def work(draft: Draft) -> Done[Draft, None]:
        for _ in range(10):
            reserve(0.09).settle(cost(0.001))
        return Done(draft)

    child = Maker(make.store, is_async=False)(work, name="child", budget=Budget(usd=0.10))
    step = doing(lambda: (child.run(Draft()), child.run(Draft(1))))
    result = go(make(step, budget=Budget(usd=0.11), converge_on=until(1)).run(Draft()))
    assert result.cost_usd == pytest.approx(0.02)


def test_what_is_reserved_for_the_step_is_held_first(make: Maker) -> None:
    """A call in it takes nothing from others that its step had not taken already."""

    def step(draft: Draft) -> Draft:
        held = [reserve(0.3), reserve(0.2)]
        assert current_run().left_usd == 0.5
        for each in held:
            each.settle(cost(0.1))
        return grow(draft)

    go(make(step, budget=Budget(usd=1, step_usd=0.5), converge_on=until(1)).run(Draft()))


def test_tokens_are_held_too(make: Maker) -> None:
    """Against every limit of tokens there is; what a call did not use is free again."""

    def step(draft: Draft) -> Draft:
        first = reserve(0, 60)
        with pytest.raises(BudgetExhausted, match="tokens 110 of 100"):
            reserve(0, 50)
        first.settle(cost(0, 10))
        reserve(0, 90).settle(cost(0, 5))
        return grow(draft)

    result = go(make(step, budget=Budget(tokens=100), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert (result.tokens, make.store.get_run("r1").tokens) == (15, 15)


# --- on record


def test_a_call_under_way_is_on_record_as_what_it_may_cost(make: Maker) -> None:
    """One row, marked as estimated; what it has cost takes its place, with its number among the others."""

    def step(draft: Draft) -> Draft:
        spend(usd=0.01)
        held = reserve(0.50, 100)
        spend(usd=0.02)
        assert money(make.store) == [(0.01, False), (0.50, True), (0.02, False)]
        assert make.store.get_run("r1").nano_usd == to_nano(0.53)
        held.settle(cost(0.20, 40)._replace(model="m", usage={"input_tokens": 40}))
        assert money(make.store) == [(0.01, False), (0.20, False), (0.02, False)]
        return grow(draft)

    go(make(step, budget=Budget(usd=1), converge_on=until(1)).run(Draft(), run_id="r1"))
    charge = make.store.charges("r1")[1]
    assert (charge.tokens, charge.model, charge.usage) == (40, "m", {"input_tokens": 40})
    assert charge.key
    assert_adds_up(make.store)


def test_a_call_that_cost_nothing_is_on_no_record(make: Maker) -> None:
    """A request that was refused, or never sent, is no charge; and raises no limit, whoever else has crossed one."""

    def step(draft: Draft) -> Draft:
        held = reserve(0.50, 7)
        with pytest.raises(BudgetExhausted):
            spend(usd=2)
        held.settle(cost(0))
        return Done(grow(draft))

    result = go(make(step, budget=Budget(usd=1)).run(Draft(), run_id="r1"))
    assert (result.status, money(make.store)) == (RunStatus.COMPLETED, [(2.0, False)])
    assert_adds_up(make.store)


def test_a_call_is_settled_once(make: Maker) -> None:
    """Whoever comes first: the rest is not counted and not recorded, also when they come at the same time."""

    def step(draft: Draft) -> Draft:
        held = reserve(0.50)
        all_at_once(8, lambda: held.settle(cost(0.10)))
        held.settle(cost(0.40))
        held.settle_as_assumed()
        assert current_run().left_usd == 0.90
        return grow(draft)

    go(make(step, budget=Budget(usd=1), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert money(make.store) == [(0.10, False)]
    assert_adds_up(make.store)


def test_a_call_that_cost_more_than_it_held_is_charged_all_of_it(make: Maker) -> None:
    """And is refused after that, as every charge that crosses a cap."""

    def step(draft: Draft) -> Draft:
        reserve(0.50).settle(cost(1.50))
        return grow(draft)

    result = go(make(step, budget=Budget(usd=1)).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.cost_usd) == (RunStatus.BUDGET_EXHAUSTED, 0, 1.5)
    assert money(make.store) == [(1.5, False)]


def test_in_a_durable_call_it_is_paid_by_that_and_not_again(make: Maker) -> None:
    """The call's record says what it has cost; a replay holds and charges nothing."""
    tries: list[int] = []

    def ask(n: int) -> int:
        reserve(0.50).settle(cost(0.20))
        return n

    def step(draft: Draft) -> Draft:
        value = call(ask, 7)
        tries.append(value)
        if len(tries) == 1:
            raise ConnectionError
        return grow(draft)

    options: dict[str, Any] = {"budget": Budget(usd=1), "retry": Retry(2, wait=0), "converge_on": until(1)}
    result = go(make(step, **options).run(Draft(), run_id="r1"))
    assert (tries, result.cost_usd, money(make.store)) == ([7, 7], 0.2, [(0.20, False)])
    assert [known.nano_usd for known in make.store.calls("r1")] == [to_nano(0.20)]


# --- what nobody has settled


def test_what_a_step_leaves_open_is_charged_as_assumed(make: Maker) -> None:
    """When it has returned: once, marked as estimated, and counted in the step."""
    step = doing(lambda: [reserve(0.50, assumed=0.10), reserve(0.20)])
    result = go(make(step, budget=Budget(usd=1, step_usd=0), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert (result.cost_usd, sorted(money(make.store))) == (pytest.approx(0.30), [(0.10, True), (0.20, True)])
    assert [step.cost_usd for step in make.store.steps("r1")] == [pytest.approx(0.30)]
    assert_adds_up(make.store)


def test_what_a_failed_try_leaves_open_is_charged_as_assumed(make: Maker) -> None:
    """To that try; the next one has the rest."""
    lefts: list[float | None] = []

    def step(draft: Draft) -> Draft:
        lefts.append(current_run().left_usd)
        reserve(0.50, assumed=0.10)
        if len(lefts) == 1:
            raise ConnectionError
        return grow(draft)

    options: dict[str, Any] = {"retry": Retry(2, wait=0), "converge_on": until(1)}
    go(make(step, budget=Budget(usd=1), **options).run(Draft(), run_id="r1"))
    assert lefts == [1.0, 0.9]
    assert columns(make.store.attempts("r1"), "nano_usd") == [(10 * CENT,)]
    assert money(make.store) == [(0.10, True)] * 2


@pytest.mark.parametrize("asks", ["scorer", "converge_on", "cost_fn"])
def test_what_a_scorer_or_a_judge_leaves_open_is_charged_as_assumed(make: Maker, asks: str) -> None:
    """To the step that they were asked about."""

    def ask(draft: Draft) -> float:
        reserve(0.50, assumed=0.10)
        return 0.0

    asked: Any = judge(lambda draft: bool(ask(draft))) if asks == "converge_on" else ask
    go(make(grow, budget=Budget(usd=1, iterations=2), **{asks: asked}).run(Draft(), run_id="r1"))
    assert [charge for charge in money(make.store) if charge[0]] == [(0.10, True)] * 2
    assert [step.cost_usd for step in make.store.steps("r1")] == [0.10] * 2
    assert_adds_up(make.store)


def test_what_is_assumed_may_cross_the_cap(make: Maker) -> None:
    """The state is kept, and the run ends there, as with every charge that crosses it after a step has returned."""
    step = doing(lambda: reserve(0.50, assumed=1.50))
    result = go(make(step, budget=Budget(usd=1)).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.cost_usd) == (RunStatus.BUDGET_EXHAUSTED, 1, 1.5)


def test_a_call_that_is_over_makes_room_for_the_next_one(make: Maker) -> None:
    """Where nobody said what it has cost it is charged as assumed, as soon as another one begins."""
    over: list[bool] = []

    def step(draft: Draft) -> Draft:
        reserve(0.80, is_over=lambda: bool(over), assumed=0.10)
        with pytest.raises(BudgetExhausted):
            reserve(0.80)
        over.append(True)
        reserve(0.80).settle(cost(0.30))
        return grow(draft)

    go(make(step, budget=Budget(usd=1), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert money(make.store) == [(0.10, True), (0.30, False)]
    assert_adds_up(make.store)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError], ids=["Ctrl-C", "cancelled"])
def test_what_is_open_when_a_step_is_torn_apart_is_charged_as_assumed(make: Maker, error: type[BaseException]) -> None:
    """And stays spent after the resume."""

    def tear(draft: Draft) -> Draft:
        reserve(0.50, assumed=0.10)
        raise error

    with pytest.raises(error):
        go(make(tear, budget=Budget(usd=1)).run(Draft(), run_id="r1"))
    assert money(make.store) == [(0.10, True)]
    result = go(make(doing(lambda: spend(usd=0.2)), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert (result.cost_usd, money(make.store)) == (pytest.approx(0.30), [(0.10, True), (0.20, False)])


# --- when the process dies


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_call_under_way_at_a_kill_is_charged_once_with_what_it_might_have_cost(disk: SQLite, is_async: bool) -> None:
    """It is on record by then, and marked; what was settled is not, and no reservation is charged besides."""
    make = Maker(disk, is_async=is_async)

    def die(draft: Draft) -> Draft:
        reserve(0.40).settle(cost(0.05))
        reserve(0.30)
        os.kill(os.getpid(), signal.SIGKILL)
        return draft

    options: dict[str, Any] = {"budget": Budget(usd=1, step_usd=0.60), "converge_on": until(1)}
    assert dying(lambda: go(make(die, **options).run(Draft(), run_id="r1"))) == signal.SIGKILL
    assert money(disk) == [(0.05, False), (0.30, True)]
    lefts: list[float | None] = []
    step = doing(lambda: (lefts.append(current_run().left_usd), reserve(0.60).settle(cost(0.10))))
    result = go(make(step, **options).run(Draft(), run_id="r1"))
    assert (lefts, result.cost_usd) == ([0.65], pytest.approx(0.45))
    assert money(disk) == [(0.05, False), (0.30, True), (0.10, False)]
    assert [attempt.nano_usd for attempt in disk.attempts("r1")] == [35 * CENT]
    assert_adds_up(disk)


@pytest.mark.parametrize("number", range(2, 5))
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_around_a_call_its_charge_is_on_record_once_or_not_yet(
    disk: SQLite, when: Any, number: int
) -> None:
    """Not before it may be made, then as what it might cost, then as what it did; and so it is after the resume."""

    def step(draft: Draft) -> Draft:
        reserve(0.40).settle(cost(0.05))
        return grow(draft)

    def life(store: Any) -> None:
        Maker(store, is_async=False)(step, budget=Budget(usd=9), converge_on=until(1)).run(Draft(), run_id="r1")

    dying_store = FaultyStore(disk, at=number, when=when, act=lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert dying(lambda: life(dying_store)) == signal.SIGKILL
    writes_done = number if when == "after" else number - 1  # the run, the hold, what it cost, the step
    expected = {1: [], 2: [(0.40, True)], 3: [(0.05, False)], 4: [(0.05, False)]}[writes_done]
    assert money(disk) == expected
    life(disk)
    assert money(disk) == [*expected, *([(0.05, False)] if writes_done < 4 else [])]
    assert_adds_up(disk)


# --- when the store makes trouble


class BusyStore(FaultyStore):
    """A store that is busy for a while."""

    is_busy = False

    def commit(self, lease: Lease, transition: Transition) -> Any:
        """Commit, unless it is busy: but what is to end a step waits until it is not."""
        if self.is_busy and transition.keep_in_flight:
            raise StoreBusy("somebody else writes")
        return super().commit(lease, transition)


@pytest.mark.parametrize("at_hold", [False, True], ids=["free", "busy"])
@pytest.mark.parametrize("at_settle", [False, True], ids=["free", "busy"])
def test_in_an_event_loop_a_busy_store_is_not_waited_for(memory: MemoryStore, at_hold: bool, at_settle: bool) -> None:
    """What cannot be stored now is stored with the step; the newer of the two counts, whenever it was stored."""
    store = BusyStore(memory)

    @loop(checkpoint=store, budget=Budget(usd=1), converge_on=until(1))
    async def refine(draft: Draft) -> Draft:
        store.is_busy = at_hold
        held = reserve(0.50)
        assert current_run().left_usd == 0.50
        store.is_busy = at_settle
        held.settle(cost(0.10, 7))
        store.is_busy = False
        assert current_run().left_usd == 0.90
        return grow(draft)

    result = asyncio.run(refine.run(Draft(), run_id="r1"))
    assert (result.cost_usd, result.tokens, money(memory)) == (0.10, 7, [(0.10, False)])
    assert_adds_up(memory)


def test_in_an_event_loop_a_locked_database_is_not_waited_for(disk: SQLite) -> None:
    """Another program writes while the call is made, and no more when it is over; its charge is on record once."""

    @loop(checkpoint=disk, budget=Budget(usd=1), converge_on=until(1))
    async def refine(draft: Draft) -> Draft:
        with closing(sqlite3.connect(disk.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            held = reserve(0.50)
            other.execute("ROLLBACK")
        held.settle(cost(0.10))
        return grow(draft)

    result = asyncio.run(refine.run(Draft(), run_id="r1"))
    assert (result.cost_usd, money(disk)) == (0.10, [(0.10, False)])


def test_elsewhere_a_locked_database_is_waited_for(disk: SQLite) -> None:
    """What a call may cost is on record before it is made."""

    def step(draft: Draft) -> Draft:
        with closing(sqlite3.connect(disk.path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(0.05, other.execute, ["ROLLBACK"])
            release.start()
            held = reserve(0.50)
            release.join()
        assert money(disk) == [(0.50, True)]
        held.settle(cost(0.10))
        return grow(draft)

    Maker(disk, is_async=False)(step, budget=Budget(usd=1), converge_on=until(1)).run(Draft(), run_id="r1")
    assert money(disk) == [(0.10, False)]


def failing(store: Store, number: int, *, is_async: bool, act: Callable[[Draft], Draft]) -> Any:
    """A loop whose store fails at one of its commits, counted from 1."""
    faulty = FaultyStore(store, at=number, act=StoreError("the disk is full"), verb="commit")
    act.__annotations__ = {"draft": Draft}
    options: dict[str, Any] = {
        "checkpoint": faulty,
        "budget": Budget(usd=1),
        "converge_on": until(1),
        "name": "failing",
    }
    return loop(**options)(make_async(act) if is_async else act)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_call_that_cannot_be_put_on_record_is_not_to_be_made(store: Store, is_async: bool) -> None:
    """Nothing is held, and nothing is on record; the error is the caller's to deal with."""

    def step(draft: Draft) -> Draft:
        with pytest.raises(StoreError, match="the disk is full"):
            reserve(0.50)
        assert (current_run().left_usd, money(store)) == (1.0, [])
        reserve(0.50).settle(cost(0.10))
        return grow(draft)

    assert go(failing(store, 1, is_async=is_async, act=step).run(Draft(), run_id="r1")).cost_usd == 0.10
    assert money(store) == [(0.10, False)]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_a_call_has_cost_is_not_lost_when_it_cannot_be_put_on_record(store: Store, is_async: bool) -> None:
    """It counts, and is stored with the step; until then what it might have cost is on record."""

    def step(draft: Draft) -> Draft:
        held = reserve(0.50)
        with pytest.raises(StoreError, match="the disk is full"):
            held.settle(cost(0.10))
        assert (current_run().left_usd, money(store)) == (0.90, [(0.50, True)])
        return grow(draft)

    assert go(failing(store, 2, is_async=is_async, act=step).run(Draft(), run_id="r1")).cost_usd == 0.10
    assert money(store) == [(0.10, False)]
    assert_adds_up(store)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_state_that_was_paid_for_is_kept_when_what_its_step_left_open_cannot_be_stored(
    store: Store, is_async: bool
) -> None:
    """The commit of the step takes it along, when that works."""
    refine = failing(store, 2, is_async=is_async, act=doing(lambda: reserve(0.50, assumed=0.10)))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.status, result.state, result.cost_usd) == (RunStatus.COMPLETED, Draft(1), 0.10)
    assert money(store) == [(0.10, True)]
    assert_adds_up(store)
