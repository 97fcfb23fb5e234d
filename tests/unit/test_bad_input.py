"""What goes wrong is said by name, costs no step that was paid for, and leaves a run that can go on."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from driving import Draft, Maker, columns, doing, go, grow, size, until

from loomc_runner import (
    BestScore,
    Budget,
    CostError,
    Done,
    LastGood,
    LoomcWarning,
    NotInStep,
    RunLost,
    RunStatus,
    ScoreError,
    StateError,
    StepError,
    StoreBusy,
    StoreError,
    judge,
    loop,
    spend,
)
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FaultyStore

NAN, INF = float("nan"), float("inf")


def steady(value: object) -> str:
    """A value as the name of a test: the same in every process, so without addresses."""
    return re.sub(r" at 0x\w+", "", str(value))


def pay(draft: Draft) -> Draft:
    """Grow for half a dollar."""
    spend(usd=0.5)
    return grow(draft)


# --- states


@pytest.mark.parametrize("state", [None, 5, "text", {"n": 1, "words": []}, [Draft()], Draft, Draft("x")], ids=steady)  # type: ignore[arg-type]
def test_a_state_of_another_type_does_not_begin(make_in_memory: Maker, state: Any) -> None:
    """The first state must be of the declared type, down to its fields; nothing is stored otherwise."""
    called: list[int] = []
    refine = make_in_memory(doing(lambda: called.append(1)))
    for verb in (refine, refine.run, refine.stream):
        with pytest.raises(StateError):
            go(verb(state, run_id="r1"))
    assert (called, make_in_memory.store.list_runs()) == ([], [])


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), r"state\.a\[0\]"),
        (NAN, r"state\.a\[0\] is nan"),
        ({1, 2}, r"state\.a\[0\]"),
        ((1, 2), r"state\.a\[0\]"),
        ({1: "x"}, r"state\.a\[0\]"),
        (b"\xff", "state"),
    ],
    ids=steady,
)
def test_what_would_not_come_back_is_refused(make_in_memory: Maker, value: Any, path: str) -> None:
    """Before the first step nothing is stored; after it the run fails; the path inside the state is named."""

    def step(state: dict[str, Any]) -> dict[str, Any]:
        return {"a": [value]}

    refine = make_in_memory(step)
    with pytest.raises(StateError, match=path):
        go(refine({"a": [value]}, run_id="r1"))
    with pytest.raises(StateError, match=path):
        go(refine({"a": []}, run_id="r1"))
    assert columns(make_in_memory.store.list_runs(), "status", "steps") == [("failed", 0)]


@pytest.mark.parametrize("bad", [0, 2])
def test_a_bad_state_in_a_later_step_fails_the_run(make: Maker, bad: int) -> None:
    """Its charges stay, it leaves an attempt, and the run goes on from the state before it."""
    mended: list[bool] = []

    def step(draft: Draft) -> Draft:
        after = pay(draft)
        return Draft(after.n, [object()]) if draft.n == bad and not mended else after  # type: ignore[list-item]

    refine = make(step, budget=Budget(usd=9), converge_on=until(3))
    with pytest.raises(StateError, match="words") as caught:
        go(refine(Draft(), run_id="r1"))
    run = make.store.get_run("r1")
    assert (run.status, run.steps, run.cost_usd, caught.value.state) == ("failed", bad, (bad + 1) / 2, Draft(bad))
    assert columns(make.store.attempts("r1"), "step_n", "nano_usd") == [(bad, 500_000_000)]
    mended.append(True)
    assert go(refine.resume("r1")) == Draft(3)


async def _later() -> None: ...


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (lambda: None, StepError),
        (lambda: Done(None), StepError),
        (lambda: "text", StateError),
        (lambda: {"n": 1, "words": []}, StateError),
        (lambda: Done(Done(Draft())), StateError),
        (lambda: Draft, StateError),
    ],
)
def test_a_step_that_returns_no_state_fails_the_run(make_in_memory: Maker, value: Any, error: type[Exception]) -> None:
    """A forgotten return, or a value of another type, is an error that can be mended and gone on from."""
    refine = make_in_memory(lambda draft: value())
    with pytest.raises(error):
        go(refine(Draft(), run_id="r1"))
    run = make_in_memory.store.get_run("r1")
    assert (run.status, run.steps, len(make_in_memory.store.attempts("r1"))) == ("failed", 0, 1)
    assert go(make_in_memory(grow, converge_on=until(1)).resume("r1")) == Draft(1)


def test_a_plain_function_that_returns_a_coroutine_fails_the_run(memory: MemoryStore) -> None:
    """It is told to become an `async def`."""
    with pytest.raises(StepError, match="make it an `async def`"):
        Maker(memory, is_async=False)(lambda draft: _later())(Draft())


def test_none_may_be_a_state_where_it_is_declared(memory: MemoryStore) -> None:
    """A loop whose state is optional may return None."""

    @loop(checkpoint=memory, converge_on=lambda history: True)
    def refine(state: int | None) -> int | None:
        return None

    assert refine(1) is None


# --- scorers, prices, detectors


class Raise(Exception):
    """What a broken function raises."""


def answering(answer: Any) -> Any:
    """A function that gives the answer, or raises it."""

    def answer_with(_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return answer_with


def assert_the_step_is_kept(make: Maker, refine: Any, error: type[Exception]) -> None:
    """A run of `pay` failed after its first step, which is committed, and goes on from there."""
    with pytest.raises(error):
        go(refine(Draft(), run_id="r1"))
    run, (step,) = make.store.get_run("r1"), make.store.steps("r1")
    assert (run.status, run.cost_usd >= 0.5, make.store.state("r1", 0)) == ("failed", True, '{"n":1,"words":[]}')
    assert (run.stop_reason, step.decision) == (f"failed: {step.error}", "stop")
    mended: dict[str, Any] = {"scorer": size, "cost_fn": None, "converge_on": until(2)}
    assert go(refine.with_options(**mended).resume("r1")) == Draft(2)
    assert columns(make.store.steps("r1"), "step_n", "parent_n") == [(0, -1), (1, 0)]
    assert make.store.attempts("r1") == []


@pytest.mark.parametrize("score", [None, "0.5", b"1", NAN, INF, -INF, [], object(), Raise("x")], ids=steady)
def test_a_bad_score_keeps_the_step(make_in_memory: Maker, score: Any) -> None:
    """A step that was paid for is not lost to its scorer."""
    refine = make_in_memory(pay, scorer=answering(score), budget=Budget(usd=9))
    assert_the_step_is_kept(make_in_memory, refine, Raise if isinstance(score, Raise) else ScoreError)


@pytest.mark.parametrize("cost", [None, "1", b"1", NAN, INF, -0.01, True, 1e12, [], Raise("x")], ids=steady)
def test_a_bad_price_keeps_the_step(make_in_memory: Maker, cost: Any) -> None:
    """A step that was paid for is not lost to its cost function, and what is known of its cost stays."""
    refine = make_in_memory(pay, cost_fn=answering(cost), scorer=size, budget=Budget(usd=9))
    assert_the_step_is_kept(make_in_memory, refine, Raise if isinstance(cost, Raise) else CostError)


def test_a_step_without_a_price_costs_what_was_expected(make: Maker) -> None:
    """Where the cost function fails and nobody else recorded a cost, the reservation is charged, as an estimate."""
    refine = make(grow, cost_fn=answering(Raise("x")), budget=Budget(usd=9, step_usd=2))
    with pytest.raises(Raise):
        go(refine(Draft(), run_id="r1"))
    assert columns(make.store.charges("r1"), "nano_usd", "estimated", "label") == [(2 * 10**9, True, "cost_fn failed")]


@pytest.mark.parametrize("option", ["converge_on", "backtrack", "judge"])
def test_a_detector_that_raises_keeps_the_step(make: Maker, option: str) -> None:
    """A step that was paid for is not lost to a detector, a judge or a strategy."""
    broken = answering(Raise("x"))
    options = {"converge_on": judge(broken)} if option == "judge" else {option: broken}
    refine = make(pay, scorer=size, budget=Budget(usd=9), **options)
    assert_the_step_is_kept(make, refine.with_options(), Raise) if option != "backtrack" else None
    if option == "backtrack":
        with pytest.raises(Raise):
            go(refine(Draft(), run_id="r1"))
        assert go(refine.with_options(backtrack=None, converge_on=until(2)).resume("r1")) == Draft(2)


@pytest.mark.parametrize("strategies", [[LastGood()], [BestScore(), LastGood()]], ids=steady)
def test_a_scorers_error_is_not_absorbed(make: Maker, strategies: list[Any]) -> None:
    """`LastGood` goes back after steps that fail; a state that was paid for is no failure, also not at the resume."""
    refine = make(pay, scorer=answering(Raise("x")), budget=Budget(usd=9), backtrack=strategies)
    assert_the_step_is_kept(make, refine, Raise)


# --- money


@pytest.mark.parametrize("usd", [-1, -0.01, NAN, INF, "1", None, True, 1e12, 1j, [1]], ids=steady)
def test_a_bad_amount_is_refused(make_in_memory: Maker, usd: Any) -> None:
    """Dollars are finite, zero or more; nothing is recorded otherwise, and a step that catches it goes on."""

    def step(draft: Draft) -> Draft:
        with pytest.raises(CostError, match="finite number of dollars"):
            spend(usd=usd)
        return pay(draft)

    result = go(make_in_memory(step, budget=Budget(usd=9), converge_on=until(1)).run(Draft(), run_id="r1"))
    assert (result.cost_usd, len(make_in_memory.store.charges("r1"))) == (0.5, 1)


@pytest.mark.parametrize("tokens", [-1, 1.5, NAN, "1", None, True], ids=steady)
def test_a_bad_number_of_tokens_is_refused(make_in_memory: Maker, tokens: Any) -> None:
    """Tokens are whole; nothing is recorded otherwise, and a step that lets it out fails."""
    with pytest.raises(CostError, match="tokens must be a whole number"):
        go(make_in_memory(lambda draft: spend(usd=1, tokens=tokens) or draft)(Draft(), run_id="r1"))  # type: ignore[func-returns-value]
    assert (make_in_memory.store.get_run("r1").status, make_in_memory.store.charges("r1")) == ("failed", [])


@pytest.mark.parametrize("usd", [Decimal("0.5"), 0, 0.0, 1])
def test_any_kind_of_number_is_an_amount(make_in_memory: Maker, usd: Any) -> None:
    """What can be read as a number of dollars is one; zero is a cost, too, and known."""
    refine = make_in_memory(lambda draft: spend(usd=usd) or grow(draft), budget=Budget(usd=9), converge_on=until(1))  # type: ignore[func-returns-value]
    assert go(refine.run(Draft(), run_id="r1")).cost_usd == float(usd)
    assert columns(make_in_memory.store.steps("r1"), "priced") == [(True,)]


def test_money_outside_a_step_is_refused(make: Maker) -> None:
    """Nobody would pay for it: not outside a loop, and not in a thread that left its context behind."""
    refused: list[NotInStep] = []

    def spend_alone() -> None:
        with pytest.raises(NotInStep, match=r"copy_context\(\)\.run") as caught:
            spend(usd=1)
        refused.append(caught.value)

    def step(draft: Draft) -> Draft:
        thread = threading.Thread(target=spend_alone)
        thread.start()
        thread.join()
        return grow(draft)

    spend_alone()
    assert go(make(step, converge_on=until(1)).run(Draft())).cost_usd == 0
    assert len(refused) == 2


# --- a budget that nobody counts for


@contextlib.contextmanager
def noted() -> Iterator[list[Any]]:
    """The warnings of ours inside, which are errors otherwise."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LoomcWarning)
        yield caught


def test_a_cap_that_nobody_counts_for_warns_once(make: Maker) -> None:
    """Steps without a recorded cost are marked, and one warning a run says so, over all resumes."""
    refine = make(grow, budget=Budget(usd=9, iterations=2))
    with noted() as caught:
        go(refine.run(Draft(), run_id="r1"))
        go(refine.stream(run_id="r1", budget=Budget(iterations=4)))
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("run r1: unpriced steps: a dollar budget holds, but nobody recorded a cost")
    assert message.endswith("call spend(usd=...) or add cost_fn=")
    assert columns(make.store.steps("r1"), "priced", "nano_usd", "cost_usd") == [(False, None, 0.0)] * 4
    assert make.store.get_run("r1").notes[0].startswith("unpriced steps")


def test_each_run_warns_for_itself(make: Maker) -> None:
    """A second run that nobody counts for is told of, too."""
    refine = make(grow, budget=Budget(usd=9), converge_on=until(1))
    with noted() as caught:
        go(refine(Draft()))
        go(refine(Draft()))
    assert len(caught) == 2


def test_without_a_dollar_cap_no_cost_is_missed(make: Maker) -> None:
    """Other limits need no prices."""
    with noted() as caught:
        go(make(grow, budget=Budget(iterations=5, tokens=9), converge_on=until(2))(Draft(), run_id="r1"))
    assert (caught, make.store.get_run("r1").notes) == ([], ())


def test_a_failed_try_is_not_called_unpriced(make: Maker) -> None:
    """A step that raised before it paid is told of by its own error."""
    with pytest.raises(ZeroDivisionError):
        go(make(lambda draft: Draft(0 // 0), budget=Budget(usd=9))(Draft(), run_id="r1"))
    assert make.store.get_run("r1").notes == ()


def test_a_strict_budget_makes_it_an_error(make: Maker) -> None:
    """With `strict=True` the run fails at the first step without a cost, which is kept."""
    refine = make(grow, budget=Budget(usd=9, strict=True), converge_on=until(2))
    with pytest.raises(CostError, match="nobody recorded what this step cost"):
        go(refine(Draft(), run_id="r1"))
    assert columns(make.store.steps("r1"), "priced", "decision") == [(False, "stop")]
    assert go(make(pay, converge_on=until(2)).resume("r1")) == Draft(2)


def test_a_strict_parent_counts_for_its_children(make: Maker) -> None:
    """The cap of an enclosing loop is no more to be passed by than one's own."""
    child = loop(name="child", checkpoint=make.store, converge_on=until(1))(grow)
    with pytest.raises(CostError):
        go(make(lambda draft: child(draft), budget=Budget(usd=9, strict=True))(Draft()))


def test_a_warning_that_is_an_error_costs_nothing(make: Maker) -> None:
    """Where warnings are errors it comes out, and the run is paused behind the step it was about."""
    refine = make(grow, budget=Budget(usd=9, step_usd=1), converge_on=until(2))
    with pytest.raises(LoomcWarning) as caught:
        go(refine(Draft(), run_id="r1"))
    run = make.store.get_run("r1")
    assert (run.status, run.steps, caught.value.run_id) == ("paused", 1, "r1")  # type: ignore[attr-defined]
    assert go(refine.resume("r1")) == Draft(2)
    assert (make.store.charges("r1"), make.store.attempts("r1")) == ([], [])


# --- a store that fails


@pytest.mark.parametrize("error", [StoreError, RunLost])
def test_a_lost_run_gives_the_state_to_the_caller(make: Maker, error: type[StoreError | RunLost]) -> None:
    """What was paid for and cannot be committed any more is in the error."""
    faulty = FaultyStore(make.store, at=2, act=error("gone"))
    with pytest.raises(error, match="gone") as caught:
        go(make(grow, checkpoint=faulty)(Draft(), run_id="r1"))
    assert (caught.value.state, caught.value.run_id) == (Draft(1), "r1")


@pytest.mark.parametrize("at", [2, 3])
def test_a_full_disk_gives_the_state_to_the_caller(make: Maker, at: int) -> None:
    """The error carries the state that could not be stored; then the run goes on in the same process."""
    faulty = FaultyStore(make.store, at=at, act=StoreError("the disk is full"))
    refine = make(grow, budget=Budget(usd=9), cost_fn=lambda _: 1, converge_on=until(3), checkpoint=faulty)
    with pytest.raises(StoreError, match="full") as caught:
        go(refine(Draft(), run_id="r1"))
    assert (caught.value.state, caught.value.run_id) == (Draft(at - 1), "r1")
    run = make.store.get_run("r1")
    assert (run.status, run.stop_reason, run.steps) == ("paused", "paused: StoreError: the disk is full", at - 2)
    assert go(refine.resume("r1")) == Draft(3)
    assert make.store.get_run("r1").cost_usd == 4.0  # what the lost step had cost was known


def test_a_charge_that_cannot_be_stored_is_not_forgotten(make: Maker) -> None:
    """`spend` raises in the step; what it could not store is stored with the step's end."""
    faulty = FaultyStore(make.store, at=2, act=StoreError("hiccup"))
    with pytest.raises(StoreError, match="hiccup"):
        go(make(pay, budget=Budget(usd=9), checkpoint=faulty)(Draft(), run_id="r1"))
    assert (make.store.get_run("r1").status, make.store.get_run("r1").cost_usd) == ("failed", 0.5)


@pytest.mark.parametrize("at", range(1, 6))
def test_a_busy_store_is_waited_for(make: Maker, at: int) -> None:
    """Whichever write meets it, the loop comes again, and nothing is stored twice."""
    busy = FaultyStore(make.store, at=at, act=StoreBusy("busy"))
    result = go(make(pay, budget=Budget(usd=9), converge_on=until(2), checkpoint=busy).run(Draft()))
    assert (result.state, result.steps, result.cost_usd) == (Draft(2), 2, 1.0)


class Lock:
    """Another program that writes to the database."""

    def __init__(self, store: SQLite) -> None:
        self.connection = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)

    def take(self) -> None:
        """Hold the database from now on."""
        self.connection.execute("BEGIN IMMEDIATE")

    def free(self) -> None:
        """Let the others write."""
        self.connection.execute("COMMIT")
        self.connection.close()


def test_a_locked_database_is_waited_for(disk: SQLite) -> None:
    """A sync loop waits, in `spend` and in its commit, until the other program is done."""

    def step(draft: Draft) -> Draft:
        lock = Lock(disk)
        lock.take()
        threading.Timer(0.3, lock.free).start()
        return pay(draft)

    result = Maker(disk, is_async=False)(step, budget=Budget(usd=9), converge_on=until(2)).run(Draft())
    assert (result.state, result.cost_usd) == (Draft(2), 1.0)


def test_a_locked_database_does_not_stop_the_event_loop(disk: SQLite) -> None:
    """An async step goes on spending, and others work meanwhile: here it is they who free the database."""
    ticks: list[float] = []

    async def step(draft: Draft) -> Draft:
        lock, clock = Lock(disk), asyncio.get_running_loop()
        lock.take()
        clock.call_later(0.5, lock.free)
        for _ in range(10):
            spend(usd=0.25)
            await asyncio.sleep(0.001)
        assert disk.charges("r1") == []
        return grow(draft)

    async def tick() -> None:
        while True:
            ticks.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.001)

    async def main() -> Any:
        ticking = asyncio.create_task(tick())
        try:
            refine = loop(checkpoint=disk, budget=Budget(usd=9), converge_on=until(1))(step)
            return await refine.run(Draft(), run_id="r1")
        finally:
            ticking.cancel()

    result = asyncio.run(main())
    assert (result.status, result.cost_usd, len(disk.charges("r1"))) == (RunStatus.COMPLETED, 2.5, 10)
    assert max(after - before for before, after in pairwise(ticks)) < 0.25
