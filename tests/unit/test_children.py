"""Loops called inside a step are child runs: found again when the step is tried again, and never paid twice."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from driving import Draft, Maker, columns, die, dying, go, grow, until

from loomc_runner import (
    Budget,
    BudgetExhausted,
    Done,
    Escalate,
    LoomcError,
    Retry,
    RunStatus,
    RunStopped,
    SpecError,
    StallError,
    WaitingForAnswer,
    ask,
    loop,
    spend,
)
from loomc_runner.children import Batch
from loomc_runner.context import halting
from loomc_runner.errors import RunHalted
from loomc_runner.outside import ask_to_stop
from loomc_runner.records import Control
from loomc_runner.running import Request
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

CENT = 10_000_000


class Family:
    """Makes parents and children of one kind; `made` are the steps that children executed, by word and number."""

    def __init__(self, store: Store, *, is_async: bool) -> None:
        self.store, self.is_async, self.made = store, is_async, list[tuple[str, int]]()
        self.make = Maker(store, is_async=is_async)

        def paying(draft: Draft) -> Draft:
            self.made.append((draft.words[0], draft.n))
            spend(usd=0.01)
            return grow(draft)

        self.paying = paying
        self.child = self.having(paying)

    def having(self, step: Callable[[Draft], Any], name: str = "child", **options: Any) -> Any:
        """A child with this step; two steps long, if nothing else is said."""
        return self.make(step, name=name, **{"converge_on": until(2), "budget": Budget(), **options})

    def calling(self, body: Callable[[Draft], Any], **options: Any) -> Any:
        """A parent; its step is a generator that yields what is to be awaited (an async loop) or is there (a sync one).

        What it returns is the next state.
        """

        def sync_step(draft: Draft) -> Any:
            return finished(body(draft))

        async def async_step(draft: Draft) -> Any:
            steps = body(draft)
            try:
                value = next(steps)
                while True:
                    try:
                        value = await value
                    except BaseException as error:
                        value = steps.throw(error)
                    else:
                        value = steps.send(value)
            except StopIteration as end:
                return end.value

        step: Any = async_step if self.is_async else sync_step
        step.__annotations__ = {"draft": Draft}
        options = {"converge_on": until(1), "budget": Budget(), **options}
        return loop(name="parent", checkpoint=self.store, **options)(step)

    def status(self, run_id: str) -> RunStatus:
        """The status of a run."""
        return self.store.get_run(run_id).status

    def statuses(self, parent: str = "r1") -> dict[str, str]:
        """The status of each child."""
        return {run.id: run.status.value for run in self.store.list_runs(parent=parent)}


def finished(steps: Iterator[Any]) -> Any:
    """What a generator returns that is sent back what it yields."""
    try:
        value = next(steps)
        while True:
            value = steps.send(value)  # type: ignore[attr-defined]
    except StopIteration as end:
        return end.value


def named(word: str, n: int = 0) -> Draft:
    """A state with a name."""
    return Draft(n, [word])


@pytest.fixture(params=["sync", "async"])
def family(request: pytest.FixtureRequest, memory: MemoryStore) -> Family:
    """A family in memory."""
    return Family(memory, is_async=request.param == "async")


@pytest.fixture(params=["sync", "async"])
def on_disk(request: pytest.FixtureRequest, disk: SQLite) -> Family:
    """A family on disk."""
    return Family(disk, is_async=request.param == "async")


# --- ids


def test_a_childs_id_tells_its_place(family: Family) -> None:
    """PARENT.STEP.K, with K from 0 in each step; the row names the parent, the step and nothing of a fork."""

    def body(draft: Draft) -> Any:
        for word in "ab":
            yield family.child(named(word))
        return grow(draft)

    go(family.calling(body, converge_on=until(2))(Draft(), run_id="r1"))
    children = family.store.list_runs(parent="r1")
    assert sorted(columns(children, "id", "parent_run_id", "parent_step")) == [
        ("r1.0.0", "r1", 0),
        ("r1.0.1", "r1", 0),
        ("r1.1.0", "r1", 1),
        ("r1.1.1", "r1", 1),
    ]


def test_an_id_is_given_when_the_coroutine_is_made(memory: MemoryStore) -> None:
    """In whatever order they are awaited, K is the order of the calls."""
    family = Family(memory, is_async=True)

    async def step(draft: Draft) -> Draft:
        first, second = family.child(named("a")), family.child(named("b"))
        await second
        await first
        return grow(draft)

    go(loop(checkpoint=memory, converge_on=until(1))(step)(Draft(), run_id="r1"))
    assert [memory.state(f"r1.0.{k}", -1) for k in (0, 1)] == ['{"n":0,"words":["a"]}', '{"n":0,"words":["b"]}']
    assert family.made == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]


def test_a_coroutine_that_is_never_awaited_begins_no_run(memory: MemoryStore) -> None:
    """Its number is used up, and that is all."""
    family = Family(memory, is_async=True)

    async def step(draft: Draft) -> Draft:
        family.child(named("a")).close()
        await family.child(named("b"))
        return grow(draft)

    go(loop(checkpoint=memory, converge_on=until(1))(step)(Draft(), run_id="r1"))
    assert columns(memory.list_runs(parent="r1"), "id") == [("r1.0.1",)]


def test_a_child_that_is_taken_step_by_step_has_its_place(family: Family) -> None:
    """A stream inside a step is a child run as well."""

    async def read(steps: Any) -> list[Any]:
        return [step async for step in steps]

    def body(draft: Draft) -> Any:
        stream = family.child.stream(named("a"))
        steps = yield read(stream) if family.is_async else list(stream)
        return Draft(len(steps), [stream.run_id])

    assert go(family.calling(body)(Draft(), run_id="r1")) == Draft(2, ["r1.0.0"])


# --- tried again


def failing_once(family: Family, calls: Callable[[Draft], Any]) -> Callable[[Draft], Any]:
    """A parent's body that fails after its calls the first time."""
    failures = [ConnectionError("gone")]

    def body(draft: Draft) -> Any:
        result = yield from calls(draft)
        if failures:
            raise failures.pop()
        return result

    return body


@pytest.mark.parametrize("again", ["retry", "resume"])
def test_a_finished_child_gives_its_stored_result(on_disk: Family, again: str) -> None:
    """A parent's step that is tried again executes nothing of a child that has finished, and pays nothing for it."""

    def calls(draft: Draft) -> Any:
        one = yield on_disk.child(named("a"))
        two = yield on_disk.child(named("b"))
        return Draft(one.n + two.n, [*one.words, *two.words])

    options: dict[str, Any] = {"retry": Retry(wait=0)} if again == "retry" else {}
    parent = on_disk.calling(failing_once(on_disk, calls), **options)
    if again == "resume":
        with pytest.raises(ConnectionError):
            go(parent(Draft(), run_id="r1"))
    result = go(parent.run(Draft(), run_id="r1"))
    assert (result.state, result.cost_usd) == (Draft(4, ["a", "b"]), 0.04)
    assert on_disk.made == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert sorted(columns(on_disk.store.list_runs(parent="r1"), "id", "resumes")) == [("r1.0.0", 0), ("r1.0.1", 0)]


def test_a_child_gives_its_done_result_again(family: Family) -> None:
    """`Done(result=...)` of a finished child comes back as well."""

    def step(draft: Draft) -> Any:
        return Done(grow(draft), result={"k": 1})

    child = family.having(step)

    def calls(draft: Draft) -> Any:
        result = yield child.run(named("a"))
        return Draft(1, [repr(result.result), result.status.value])

    parent = family.calling(failing_once(family, calls), retry=Retry(wait=0))
    assert go(parent(Draft(), run_id="r1")).words == ["{'k': 1}", "completed"]


def test_a_half_done_child_goes_on_where_it_was(family: Family) -> None:
    """A child that failed in the middle keeps its steps when its parent is tried again."""
    failures = [ConnectionError("gone")]

    def step(draft: Draft) -> Draft:
        if draft.n == 2 and failures:
            raise failures.pop()
        return family.paying(draft)

    child = family.having(step, converge_on=until(4))

    def body(draft: Draft) -> Any:
        return (yield child(named("a")))

    result = go(family.calling(body, retry=Retry(wait=0)).run(Draft(), run_id="r1"))
    assert family.made == [("a", n) for n in range(4)]
    assert (result.state.n, result.cost_usd, family.statuses()) == (4, 0.04, {"r1.0.0": "completed"})


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_children_of_a_parent_that_was_killed(folder: Path, is_async: bool, at: int) -> None:
    """After `kill -9` in the middle of a child, finished ones are not run again and that one goes on."""
    path, log = folder / f"killed-{is_async}-{at}.db", folder / f"killed-{is_async}-{at}.log"

    def life(lethal: bool) -> Any:
        store = SQLite(path)
        family = Family(store, is_async=is_async)

        def step(draft: Draft) -> Draft:
            if lethal and (draft.words[0], draft.n) == ("b", at):
                die(draft)
            with log.open("a") as lines:
                print(draft.words[0], draft.n, file=lines)
            spend(usd=0.01)
            return grow(draft)

        child = family.having(step, converge_on=until(3))

        def body(draft: Draft) -> Any:
            for word in "abc":
                yield child(named(word))
            return grow(draft)

        try:
            return go(family.calling(body).run(Draft(), run_id="r1"))
        finally:
            store.close()

    assert dying(life, True) == signal.SIGKILL
    result = life(lethal=False)
    estimated = CENT if at else 0  # the step in flight counts with what it was expected to cost
    assert log.read_text().split("\n")[:-1] == [f"{word} {n}" for word in "abc" for n in range(3)]
    assert (result.status, round(result.cost_usd * 1e9)) == (RunStatus.COMPLETED, 9 * CENT + estimated)


# --- which child is which


@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac"])
def test_children_are_known_by_their_state(family: Family, order: str) -> None:
    """A step that calls them in another order the next time finds each again."""
    orders = ["abcd", order]

    def calls(draft: Draft) -> Any:
        words: list[str] = []
        for word in orders.pop(0):
            words += (yield family.child(named(word))).words
        return Draft(1, words)

    parent = family.calling(failing_once(family, calls), retry=Retry(wait=0))
    assert go(parent(Draft(), run_id="r1")).words == list(order)
    assert (len(family.made), len(family.statuses())) == (8, 4)


def test_equal_children_are_known_by_their_occurrence(family: Family) -> None:
    """Three calls with the same state are three runs, the first time and the next."""

    def calls(draft: Draft) -> Any:
        for _ in range(3):
            yield family.child(named("a"))
        return grow(draft)

    go(family.calling(failing_once(family, calls), retry=Retry(wait=0))(Draft(), run_id="r1"))
    assert (len(family.made), family.statuses()) == (6, {f"r1.0.{k}": "completed" for k in range(3)})


def test_children_are_known_by_their_loop(family: Family) -> None:
    """Two loops with the same state do not take each other's results."""
    loops = [family.having(family.paying, "one"), family.having(family.paying, "two")]

    def calls(draft: Draft) -> Any:
        for child in loops:
            yield child(named("a"))
        loops.reverse()
        return grow(draft)

    go(family.calling(failing_once(family, calls), retry=Retry(wait=0))(Draft(), run_id="r1"))
    assert len(family.made) == 4
    assert {run.id: run.loop for run in family.store.list_runs(parent="r1")} == {"r1.0.0": "one", "r1.0.1": "two"}


@pytest.mark.parametrize("seed", range(3))
def test_children_in_threads_are_found_again(memory: MemoryStore, seed: int) -> None:
    """However threads interleave, the retried step executes nothing."""
    family, dice = Family(memory, is_async=False), random.Random(seed)

    def calls(draft: Draft) -> Any:
        words = [str(n % 5) for n in range(10)]
        dice.shuffle(words)
        with ThreadPoolExecutor(5) as pool:
            jobs = [pool.submit(contextvars.copy_context().run, family.child, named(word)) for word in words]
        yield
        return Draft(sum(job.result().n for job in jobs))

    result = go(family.calling(failing_once(family, calls), retry=Retry(wait=0)).run(Draft(), run_id="r1"))
    assert (result.state.n, len(family.made), len(family.statuses())) == (20, 20, 10)
    assert round(result.cost_usd, 6) == 0.2


@pytest.mark.parametrize("seed", range(3))
def test_children_in_tasks_are_found_again(memory: MemoryStore, seed: int) -> None:
    """However tasks are ordered, the retried step executes nothing."""
    family, dice = Family(memory, is_async=True), random.Random(seed)

    def calls(draft: Draft) -> Any:
        words = [str(n % 5) for n in range(10)]
        dice.shuffle(words)
        done = yield asyncio.gather(*(family.child(named(word)) for word in words))
        return Draft(sum(each.n for each in done))

    result = go(family.calling(failing_once(family, calls), retry=Retry(wait=0)).run(Draft(), run_id="r1"))
    assert (result.state.n, len(family.made), len(family.statuses())) == (20, 20, 10)


# --- no longer asked for


def test_a_child_that_is_no_longer_asked_for_is_superseded(on_disk: Family) -> None:
    """It becomes cancelled, with its own children, says why, and its money counts for the parent, what was torn too."""
    tries = [0]
    inner = on_disk.having(_failing_at(1, asyncio.CancelledError), "inner")

    def middle_body(draft: Draft) -> Any:
        spend(usd=0.5)
        return (yield inner(draft))

    middle = on_disk.calling(middle_body).with_options(name="middle")

    def body(draft: Draft) -> Any:
        tries[0] += 1
        spend(usd=1)
        if tries[0] == 1:
            try:
                yield middle(named("a"))
            except asyncio.CancelledError:  # the child was torn, and is paused
                raise ConnectionError from None
        return (yield on_disk.child(named("b")))

    result = go(on_disk.calling(body, retry=Retry(wait=0)).run(Draft(), run_id="r1"))
    assert (result.status, result.cost_usd) == (RunStatus.COMPLETED, 1 + 0.5 + 0.01 + 0.01 + 1 + 0.02)
    assert on_disk.statuses() == {"r1.0.0": "cancelled", "r1.0.1": "completed"}
    reason = "cancelled: its parent's step was tried again and no longer asks for it"
    assert on_disk.store.get_run("r1.0.0").stop_reason == on_disk.store.get_run("r1.0.0.0.0").stop_reason == reason


def test_the_question_of_a_child_that_is_no_longer_asked_for_holds_nobody_up(on_disk: Family) -> None:
    """The parent waits for the child it has now, whose answer is enough."""
    tries = [0]
    inner = on_disk.having(lambda draft: Draft(2, [ask(draft.words[0])]), "inner")

    def body(draft: Draft) -> Any:
        tries[0] += 1
        return (yield inner(named("Old?" if tries[0] == 1 else "New?")))

    parent = on_disk.calling(body)
    with pytest.raises(WaitingForAnswer, match="Old"):
        go(parent(Draft(), run_id="r1"))
    ask_to_stop(on_disk.store, on_disk.store.get_run("r1"), Control.CANCEL, AT)
    with pytest.raises(WaitingForAnswer, match="New"):
        go(parent.resume("r1", force=True))
    with pytest.raises(WaitingForAnswer):
        go(parent.resume("r1"))
    parent.answer("r1.0.1", "yes", by="anna")
    assert go(parent.resume("r1")).words == ["yes"]
    assert on_disk.statuses() == {"r1.0.0": "cancelled", "r1.0.1": "completed"}


def _failing_at(n: int, error: type[BaseException] = ConnectionError) -> Callable[[Draft], Draft]:
    def step(draft: Draft) -> Draft:
        if draft.n == n:
            raise error("gone")
        spend(usd=0.01)
        return grow(draft)

    return step


def test_a_finished_child_that_is_no_longer_asked_for_stays_as_it_is(family: Family) -> None:
    """What has ended is history; only its result is not used."""
    tries = [0]

    def body(draft: Draft) -> Any:
        tries[0] += 1
        if tries[0] == 1:
            yield family.child(named("a"))
            raise ConnectionError("gone")
        return (yield family.child(named("b")))

    result = go(family.calling(body, retry=Retry(wait=0)).run(Draft(), run_id="r1"))
    assert (family.statuses(), result.cost_usd) == ({"r1.0.0": "completed", "r1.0.1": "completed"}, 0.04)


# --- children that did not end well, and a parent that is tried again


def test_a_failed_child_is_tried_again_with_its_parent(family: Family) -> None:
    """More often than a run of its own may be resumed: its tries are counted with its parent's."""
    failures = [ConnectionError(str(n)) for n in range(8)]

    def step(draft: Draft) -> Draft:
        if failures:
            raise failures.pop()
        return grow(draft)

    child = family.having(step)

    def body(draft: Draft) -> Any:
        return (yield child(named("a")))

    assert go(family.calling(body, retry=Retry(attempts=9, wait=0))(Draft(), run_id="r1")).n == 2
    assert family.statuses() == {"r1.0.0": "completed"}


def test_a_stalled_child_is_stalled_again(family: Family) -> None:
    """It executes nothing, and raises the same error, which its parent may handle."""
    executed: list[int] = []

    def step(draft: Draft) -> Draft:
        executed.append(draft.n)
        return grow(draft)

    child = family.having(step, converge_on=until(9), scorer=lambda _: 1, on_stall=Escalate(2))

    def body(draft: Draft) -> Any:
        return (yield child(named("a")))

    parent = family.calling(body, retry=Retry(attempts=3, on=StallError, wait=0))
    with pytest.raises(StallError):
        go(parent(Draft(), run_id="r1"))
    assert executed == [0, 1, 2][: len(executed)]
    assert (family.statuses(), len(family.store.attempts("r1"))) == ({"r1.0.0": "stalled"}, 3)


def test_a_child_over_its_own_budget_stays_so(family: Family) -> None:
    """Its own limit is an ordinary error for its parent; tried again, it is at its limit still and executes nothing."""
    child = family.having(family.paying, budget=Budget(iterations=3), converge_on=until(9))

    def body(draft: Draft) -> Any:
        return (yield child(named("a")))

    parent = family.calling(body, retry=Retry(attempts=3, on=BudgetExhausted, wait=0))
    with pytest.raises(BudgetExhausted) as caught:
        go(parent(Draft(), run_id="r1"))
    assert (caught.value.run_id, caught.value.limit, len(family.made)) == ("r1.0.0", "iterations", 3)
    assert (family.status("r1"), family.statuses()) == (RunStatus.FAILED, {"r1.0.0": "budget_exhausted"})


def test_a_child_over_its_parents_budget_goes_on_when_that_is_raised(family: Family) -> None:
    """The parent is exhausted; resumed with more, the child goes on where it was."""
    child = family.having(family.paying, converge_on=until(4))

    def body(draft: Draft) -> Any:
        return (yield child(named("a")))

    parent = family.calling(body, budget=Budget(usd=0.02))
    with pytest.raises(BudgetExhausted) as caught:
        go(parent(Draft(), run_id="r1"))
    assert caught.value.run_id == "r1"
    assert (family.status("r1"), family.statuses()) == (RunStatus.BUDGET_EXHAUSTED, {"r1.0.0": "budget_exhausted"})
    assert go(parent.resume("r1", budget=Budget(usd=1))).n == 4
    assert [n for _, n in family.made] == [0, 1, 2, 3]


# --- many


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_ten_levels_deep(disk: SQLite, is_async: bool) -> None:
    """Each level calls the next; ids grow by a step and a number a level, and all money reaches the top."""
    make: list[Any] = [Maker(disk, is_async=is_async)(_paid_and_done, name="level 9", budget=Budget(usd=9))]
    for level in range(8, -1, -1):
        make.append(_level(disk, make[-1], level, is_async=is_async))
    result = go(make[-1].run(Draft(), run_id="r1"))
    assert (result.state.n, result.cost_usd) == (10, 0.1)
    deepest = max(disk.list_runs(), key=lambda run: len(run.id))
    assert (deepest.id, disk.subtree("r1.0.0.0.0")[0]) == ("r1" + ".0.0" * 9, 8 * CENT)


def _paid_and_done(draft: Draft) -> Any:
    spend(usd=0.01)
    return Done(grow(draft))


def _level(store: Store, inner: Any, level: int, *, is_async: bool) -> Any:
    def step(draft: Draft) -> Any:
        spend(usd=0.01)
        return Done(grow(inner(draft)))

    async def async_step(draft: Draft) -> Any:
        spend(usd=0.01)
        return Done(grow(await inner(draft)))

    made: Any = async_step if is_async else step
    return loop(name=f"level {level}", checkpoint=store, budget=Budget(usd=9))(made)


def test_two_hundred_children_of_one_step(on_disk: Family) -> None:
    """They run side by side, their results come in order, and the total is the sum of what each paid."""

    def step(draft: Draft) -> Any:
        spend(usd=draft.n / 1000, tokens=draft.n)
        return Done(draft)

    child = on_disk.having(step)

    def body(draft: Draft) -> Any:
        done = yield child.map([Draft(n) for n in range(200)], max_workers=8)
        return Draft(1, [str(each.n) for each in done])

    result = go(on_disk.calling(body).run(Draft(), run_id="r1"))
    assert result.state.words == [str(n) for n in range(200)]
    assert (result.cost_usd, result.tokens) == (sum(range(200)) / 1000, sum(range(200)))
    rows = on_disk.store.list_runs(parent="r1")
    assert sum(run.nano_usd for run in rows) == on_disk.store.subtree("r1")[0] == sum(range(200)) * 1_000_000
    assert {run.id: run.nano_usd for run in rows} == {f"r1.0.{n}": n * 1_000_000 for n in range(200)}


@pytest.mark.parametrize("seed", range(4))
def test_totals_are_those_of_a_naive_sum(memory: MemoryStore, seed: int) -> None:
    """A random tree with failures and retries spends what its steps say they spent, and no more."""
    family, dice, paid, lock = Family(memory, is_async=False), random.Random(seed), [0], threading.Lock()

    def pay() -> None:
        with lock:
            cents = dice.randrange(4)
            paid[0] += cents
        spend(usd=cents / 100)

    def leaf_step(draft: Draft) -> Draft:
        pay()
        if dice.random() < 0.2:
            raise ConnectionError
        return grow(draft)

    leaf = family.having(leaf_step, "leaf", retry=Retry(attempts=9, wait=0), converge_on=until(3))

    def branch_step(draft: Draft) -> Draft:
        pay()
        leaf.map([named(str(n)) for n in range(3)], max_workers=3)
        if dice.random() < 0.2:
            raise ConnectionError
        return grow(draft)

    branch = family.having(branch_step, "branch", retry=Retry(attempts=9, wait=0))

    def body(draft: Draft) -> Any:
        pay()
        yield branch.map([named("x"), named("y")], max_workers=2)
        return grow(draft)

    result = go(family.calling(body).run(Draft(), run_id="r1"))
    assert round(result.cost_usd * 100) == paid[0]
    assert sum(run.nano_usd for run in memory.list_runs()) == memory.subtree("r1")[0] == paid[0] * CENT


# --- map: the results


def test_map_gives_the_results_in_order(family: Family) -> None:
    """Whoever is first, the results stand where their states stood."""
    last = threading.Event()

    def step(draft: Draft) -> Any:
        if not family.is_async and draft.n == 0:
            last.wait(5)
        if draft.n == 3:
            last.set()
        return Done(Draft(draft.n + 10))

    child = family.having(step)

    def body(draft: Draft) -> Any:
        done = yield child.map(Draft(n) for n in range(4))
        return Draft(1, [str(each.n) for each in done])

    assert go(family.calling(body)(Draft(), run_id="r1")).words == ["10", "11", "12", "13"]
    assert sorted(family.statuses()) == [f"r1.0.{n}" for n in range(4)]
    assert [memory_n(family, k) for k in range(4)] == [0, 1, 2, 3]


def memory_n(family: Family, k: int) -> int:
    """The number that the k-th child began with."""
    return int(family.store.state(f"r1.0.{k}", -1).split(":")[1].split(",")[0])


@pytest.mark.parametrize("workers", [1, 3])
def test_map_keeps_to_its_workers(memory: MemoryStore, workers: int) -> None:
    """Never more than so many at the same time, in threads or in tasks; and as many as that."""
    at_work, most, lock = [0], [0], threading.Lock()

    def enter() -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])

    def step(draft: Draft) -> Any:
        enter()
        time.sleep(0.02)
        at_work[0] -= 1
        return Done(draft)

    async def async_step(draft: Draft) -> Any:
        enter()
        await asyncio.sleep(0.02)
        at_work[0] -= 1
        return Done(draft)

    async_step.__annotations__ = step.__annotations__ = {"draft": Draft}
    for fn in (step, async_step):
        most[0] = 0
        go(loop(checkpoint=memory)(fn).map([Draft(n) for n in range(8)], max_workers=workers))
        assert most == [workers]


def test_map_outside_of_a_step_makes_runs_of_their_own(family: Family) -> None:
    """They are nobody's children; each has an id as any run has."""
    done = go(family.child.map([named("a"), named("b")]))
    assert [each.words for each in done] == [["a"], ["b"]]
    runs = family.store.list_runs()
    assert ({run.parent_run_id for run in runs}, {len(run.id) for run in runs}) == ({None}, {12})


def test_map_of_nothing_gives_nothing(family: Family) -> None:
    """Inside of a step and outside, no run begins."""

    def body(draft: Draft) -> Any:
        done = yield family.child.map([])
        return Draft(1, [repr(done)])

    assert go(family.child.map([])) == []
    assert go(family.calling(body)(Draft(), run_id="r1")).words == ["[]"]
    assert columns(family.store.list_runs(), "id") == [("r1",)]


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, None, "4"])
def test_map_refuses_workers_that_are_none(family: Family, workers: Any) -> None:
    """The error names the value, and no run begins."""
    with pytest.raises(SpecError, match=r"map\(max_workers"):
        go(family.child.map([named("a")], max_workers=workers))
    assert list(family.store.list_runs()) == []


def test_map_carries_the_context_along(family: Family) -> None:
    """Each run sees the caller's context variables, and what it sets stays with it."""
    color = contextvars.ContextVar("color", default="none")
    seen: list[str] = []

    def step(draft: Draft) -> Any:
        seen.append(color.get())
        color.set(draft.words[0])
        return Done(draft)

    color.set("red")
    go(family.having(step).map([named(word) for word in "abc"]))
    assert (seen, color.get()) == (["red"] * 3, "red")


def test_equal_states_of_a_map_are_several_runs(family: Family) -> None:
    """Each is found again when the step is retried."""

    def calls(draft: Draft) -> Any:
        done = yield family.child.map([named("a")] * 3)
        return Draft(len(done))

    go(family.calling(failing_once(family, calls), retry=Retry(wait=0))(Draft(), run_id="r1"))
    assert (len(family.made), family.statuses()) == (6, {f"r1.0.{k}": "completed" for k in range(3)})


# --- map: failures


def until_halted() -> None:
    """Wait in a step until its run is to stop, since another one has failed."""
    halt, end = halting.get(), time.monotonic() + 5
    while halt is not None and not halt.asked() and time.monotonic() < end:
        time.sleep(0.005)


class Trouble:
    """A parent that maps children: "bad" fails once the others have begun; those take three steps."""

    def __init__(self, family: Family, **options: Any) -> None:
        self.family, self.begun, self.failing = family, threading.Event(), True
        self.made: list[tuple[str, int]] = []
        meanwhile = until_halted if not options else lambda: None  # nobody is halted where errors are results

        def sync_step(draft: Draft) -> Draft:
            if draft.words[0] == "bad":
                if self.failing:
                    self.begun.wait(5)
                    raise ConnectionError("bad")
                return grow(draft)
            if self.failing and draft.n == 0:
                self.begun.set()
                meanwhile()
            self.made.append((draft.words[0], draft.n))
            return grow(draft)

        async def async_step(draft: Draft) -> Draft:
            if draft.words[0] == "bad":
                if self.failing:
                    await asyncio.sleep(0.02)
                    raise ConnectionError("bad")
                return grow(draft)
            if self.failing and draft.n == 0:
                await asyncio.sleep(0.5)
            self.made.append((draft.words[0], draft.n))
            return grow(draft)

        step: Any = async_step if family.is_async else sync_step
        step.__annotations__ = {"draft": Draft}
        self.child = loop(name="child", checkpoint=family.store, converge_on=until(3))(step)

        def body(draft: Draft) -> Any:
            try:
                done = yield self.child.map([named("good"), named("bad")], max_workers=2, **options)
            finally:
                self.failing = False
            return Draft(1, [f"{each.n}" if isinstance(each, Draft) else type(each).__name__ for each in done])

        self.parent = family.calling(body)


def test_the_first_failure_stops_the_others(on_disk: Family) -> None:
    """The failure comes out; a sync sibling stops after its step, an async one at once. Then both go on."""
    trouble = Trouble(on_disk)
    with pytest.raises(ConnectionError, match="bad"):
        go(trouble.parent(Draft(), run_id="r1"))
    assert on_disk.statuses() == {"r1.0.0": "paused", "r1.0.1": "failed"}
    sibling = on_disk.store.get_run("r1.0.0")
    if on_disk.is_async:
        assert (sibling.steps, sibling.stop_reason) == (0, "paused: CancelledError")
    else:
        assert (sibling.steps, sibling.stop_reason) == (1, "paused: a run beside it failed")
    assert go(trouble.parent.resume("r1")).words == ["3", "3"]
    assert trouble.made == [("good", n) for n in range(3)]
    assert on_disk.statuses() == {"r1.0.0": "completed", "r1.0.1": "completed"}


def test_siblings_go_on_when_the_step_is_retried(family: Family) -> None:
    """A retry of the parent's step finds them where they were."""
    trouble = Trouble(family)
    parent = trouble.parent.with_options(retry=Retry(wait=0))
    assert go(parent(Draft(), run_id="r1")).words == ["3", "3"]
    assert trouble.made == [("good", n) for n in range(3)]


def test_errors_may_be_taken_as_results(family: Family) -> None:
    """With `return_exceptions=True` nobody is stopped, and the error stands in its place."""
    trouble = Trouble(family, return_exceptions=True)
    assert go(trouble.parent(Draft(), run_id="r1")).words == ["3", "ConnectionError"]
    assert family.statuses() == {"r1.0.0": "completed", "r1.0.1": "failed"}


def test_no_further_run_begins_after_a_failure(family: Family) -> None:
    """What had not begun is not begun; it begins when the step is tried again."""
    failing = [True]

    def step(draft: Draft) -> Any:
        family.made.append((draft.words[0], 0))
        if failing and draft.words[0] == "1":
            failing.clear()
            raise ConnectionError
        return Done(draft)

    child = family.having(step)

    def body(draft: Draft) -> Any:
        yield child.map([named(str(n)) for n in range(4)], max_workers=1)
        return grow(draft)

    parent = family.calling(body)
    with pytest.raises(ConnectionError):
        go(parent(Draft(), run_id="r1"))
    assert family.statuses() == {"r1.0.0": "completed", "r1.0.1": "failed"}
    go(parent.resume("r1"))
    assert family.statuses() == {f"r1.0.{n}": "completed" for n in range(4)}
    assert [word for word, _ in family.made] == ["0", "1", "1", "2", "3"]


def test_a_halted_sibling_of_runs_of_their_own_is_paused(memory: MemoryStore) -> None:
    """Outside of a step the others are paused as well, and can be resumed."""
    begun = threading.Event()

    def step(draft: Draft) -> Draft:
        if draft.words[0] == "bad":
            begun.wait(5)
            raise ConnectionError
        begun.set()
        until_halted()
        return grow(draft)

    refine = Maker(memory, is_async=False)(step, converge_on=until(3))
    with pytest.raises(ConnectionError):
        refine.map([named("good"), named("bad")])
    (paused,) = memory.list_runs(status=RunStatus.PAUSED)
    assert (paused.steps, paused.stop_reason) == (1, "paused: a run beside it failed")
    assert refine.resume(paused.id).n == 3


def test_a_sibling_that_waits_for_its_retry_is_stopped_soon(family: Family) -> None:
    """Nobody waits out the twenty seconds after another run has failed."""
    begun = threading.Event()

    def step(draft: Draft) -> Draft:
        if draft.words[0] == "bad":
            if not family.is_async:
                begun.wait(5)
            raise ZeroDivisionError
        begun.set()
        raise ConnectionError

    child = family.having(step, retry=Retry(wait="20s"))
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        go(child.map([named("good"), named("bad")]))
    assert time.monotonic() - start < 3
    assert {run.status.value for run in family.store.list_runs()} == {"paused", "failed"}


def test_a_halted_run_is_no_failure_of_its_own(memory: MemoryStore) -> None:
    """Of a nested map too, the error that comes out is the one that was first."""
    begun = threading.Event()

    def leaf_step(draft: Draft) -> Draft:
        begun.set()
        time.sleep(0.03)
        return grow(draft)

    make = Maker(memory, is_async=False)
    leaf = make(leaf_step, name="leaf", converge_on=until(50))

    def step(draft: Draft) -> Draft:
        if draft.words[0] == "bad":
            begun.wait(5)
            raise ConnectionError("first")
        leaf.map([named("x"), named("y")])
        return grow(draft)

    branch = make(step, name="branch", converge_on=until(1))
    parent = make(lambda draft: Draft(len(branch.map([named("good"), named("bad")]))), name="parent")
    with pytest.raises(ConnectionError, match="first"):
        parent(Draft(), run_id="r1")
    assert {run.status for run in memory.list_runs(loop="leaf")} == {RunStatus.PAUSED}
    assert memory.get_run("r1").status is RunStatus.FAILED
    assert issubclass(RunHalted, RunStopped)


def test_waiting_is_no_failure(family: Family) -> None:
    """The others run to their ends, and only then the parent waits."""

    def step(draft: Draft) -> Draft:
        if draft.words[0] == "asks":
            return Draft(2, [ask("Go on?")])
        return family.paying(draft)

    child = family.having(step)

    def body(draft: Draft) -> Any:
        done = yield child.map([named("asks"), named("b"), named("c")], max_workers=1, return_exceptions=True)
        return Draft(1, [each.words[0] for each in done])

    parent = family.calling(body)
    with pytest.raises(WaitingForAnswer):
        go(parent(Draft(), run_id="r1"))
    assert family.statuses() == {"r1.0.0": "waiting", "r1.0.1": "completed", "r1.0.2": "completed"}
    parent.answer("r1", "yes", by="anna")
    assert go(parent.resume("r1")).words == ["yes", "b", "c"]
    assert len(family.made) == 4


async def _in_gather(*tasks: Any) -> list[Any]:
    return await asyncio.gather(*tasks)


async def _in_group(*tasks: Any) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(task) for task in tasks]
    return [task.result() for task in made]


@pytest.mark.parametrize(("together", "left_as"), [(_in_gather, "completed"), (_in_group, "paused")])
def test_children_without_map_are_left_where_one_waits(store: Store, together: Any, left_as: str) -> None:
    """In a gather the others run to their end; a task group cancels them, and they go on where they were."""
    made: list[int] = []

    async def step(draft: Draft) -> Draft:
        await asyncio.sleep(0.02)
        if draft.words[0] == "asks":
            return Draft(2, [ask("Go on?")])
        if draft.n == 1 and not store.get_run("r1").resumes:
            await asyncio.sleep(0.2)
        made.append(draft.n)
        return grow(draft)

    child = loop(name="child", checkpoint=store, converge_on=until(2))(step)

    async def parent_step(draft: Draft) -> Draft:
        done = await together(child(named("other")), child(named("asks")))
        return Draft(sum(each.n for each in done))

    parent = loop(name="parent", checkpoint=store, converge_on=until(1))(parent_step)
    assert go(parent.run(Draft(), run_id="r1")).status is RunStatus.WAITING
    assert {run.id: run.status.value for run in store.list_runs(parent="r1")} == {
        "r1.0.0": left_as,
        "r1.0.1": "waiting",
    }
    parent.answer("r1", "yes", by="anna")
    assert (go(parent.resume("r1")), made) == (Draft(4), [0, 1])


# --- map: money


def test_a_run_refused_because_of_its_siblings_is_tried_again(family: Family) -> None:
    """Each holds a dollar, and the parent has two and a half: two run at a time, and all three end."""

    def step(draft: Draft) -> Any:
        if not family.is_async:
            time.sleep(0.03)
        spend(usd=0.5)
        return Done(grow(draft))

    child = family.having(step, budget=Budget(usd=5, step_usd=1))

    def body(draft: Draft) -> Any:
        done = yield child.map([named(word) for word in "abcd"], max_workers=4)
        return Draft(sum(each.n for each in done))

    result = go(family.calling(body, budget=Budget(usd=2.5)).run(Draft(), run_id="r1"))
    assert (result.status, result.state.n, result.cost_usd) == (RunStatus.COMPLETED, 4, 2.0)


@pytest.mark.parametrize("settled", ["result", "error"])
def test_a_refusal_that_is_told_after_an_end_is_tried_again(memory: MemoryStore, settled: str) -> None:
    """Runs may end in the same moment, in whatever order that is told: what one gave back, the other may have."""
    seen: list[list[int]] = []

    def step(draft: Draft) -> Draft:
        batch = Batch((Request(refine.spec, Draft(n)) for n in (1, 2)), 2, return_exceptions=True)
        refusal = BudgetExhausted("usd", 2, 1, run_id="r1")
        seen.append(list(batch.starting()))
        batch.ended(0, draft if settled == "result" else ConnectionError())
        batch.ended(1, refusal)  # it was refused while the other one still held something
        seen.append(list(batch.starting()))
        batch.ended(1, refusal)  # and now nobody does
        seen.append(list(batch.starting()))
        assert batch.list()[1] is refusal
        return grow(draft)

    refine = Maker(memory, is_async=False)(step, converge_on=until(1))
    refine(Draft(), run_id="r1")
    assert seen == [[0, 1], [1], []]


def test_money_that_is_really_gone_is_reported(family: Family) -> None:
    """Three dollars do not pay for four: three end, and the parent's limit is what is told."""

    def step(draft: Draft) -> Any:
        spend(usd=1)
        return Done(grow(draft))

    child = family.having(step, budget=Budget(usd=5, step_usd=1))

    def body(draft: Draft) -> Any:
        yield child.map([named(word) for word in "abcd"], max_workers=2)
        return grow(draft)

    parent = family.calling(body, budget=Budget(usd=3))
    with pytest.raises(BudgetExhausted) as caught:
        go(parent(Draft(), run_id="r1"))
    assert (caught.value.run_id, caught.value.limit) == ("r1", "usd")
    assert family.status("r1") is RunStatus.BUDGET_EXHAUSTED
    assert sorted(family.statuses().values()) == ["budget_exhausted", "completed", "completed", "completed"]
    assert family.store.subtree("r1")[0] == 3_000_000_000
    assert go(parent.resume("r1", budget=Budget(usd=6))).n == 1  # the step is expected to cost as much again
    assert family.store.subtree("r1")[0] == 4_000_000_000


def test_money_that_is_gone_may_be_taken_as_a_result(family: Family) -> None:
    """With `return_exceptions=True` the errors stand in their places; the parent's limit ends it all the same."""
    seen: list[Any] = []

    def step(draft: Draft) -> Any:
        spend(usd=1)
        return Done(grow(draft))

    child = family.having(step, budget=Budget(usd=5, step_usd=1))

    def body(draft: Draft) -> Any:
        done = yield child.map([named(word) for word in "abc"], max_workers=3, return_exceptions=True)
        seen.extend(done)
        return grow(draft)

    go(family.calling(body, budget=Budget(usd=2)).run(Draft(), run_id="r1"))
    assert sorted(type(each).__name__ for each in seen) == ["BudgetExhausted", "Draft", "Draft"]
    assert family.store.subtree("r1")[0] == 2_000_000_000


# --- map: Ctrl-C


def _mapping(path: Path, *, is_async: bool, naps: float) -> Any:
    """A parent that maps children of twenty steps; with naps, Ctrl-C comes in the second step of the first."""
    store = SQLite(path)

    def enter(draft: Draft) -> None:
        if naps and (draft.words, draft.n) == (["a"], 1):
            threading.Timer(naps / 2, os.kill, (os.getpid(), signal.SIGINT)).start()

    def step(draft: Draft) -> Draft:
        enter(draft)
        time.sleep(naps)
        return grow(draft)

    async def async_step(draft: Draft) -> Draft:
        enter(draft)
        await asyncio.sleep(naps)
        return grow(draft)

    fn: Any = async_step if is_async else step
    fn.__annotations__ = {"draft": Draft}
    child = loop(name="child", checkpoint=store, converge_on=until(20))(fn)
    states = [named(word) for word in "abc"]

    def sync_body(draft: Draft) -> Draft:
        return Draft(sum(each.n for each in child.map(states, max_workers=2)))

    async def async_body(draft: Draft) -> Draft:
        return Draft(sum(each.n for each in await child.map(states, max_workers=2)))

    body: Any = async_body if is_async else sync_body
    body.__annotations__ = {"draft": Draft}
    return loop(name="parent", checkpoint=store, converge_on=until(1))(body), store


def _interrupted_life(path: Path, is_async: bool) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parent, _ = _mapping(path, is_async=is_async, naps=0.15)
    try:
        go(parent(Draft(), run_id="r1"))
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_ctrl_c_during_a_map_pauses_all(folder: Path, is_async: bool) -> None:
    """KeyboardInterrupt comes out, every run at work is paused with its steps kept, and all of it can go on."""
    path = folder / f"ctrl-c-{is_async}.db"
    assert dying(_interrupted_life, path, is_async) == signal.SIGUSR1
    parent, store = _mapping(path, is_async=is_async, naps=0)
    statuses = {run.id: run.status.value for run in store.list_runs()}
    assert statuses == {"r1": "paused", "r1.0.0": "paused", "r1.0.1": "paused"}
    assert 0 < store.get_run("r1.0.0").steps < 20
    assert go(parent.resume("r1")) == Draft(60)
    assert all(len(store.steps(run.id)) == 20 for run in store.list_runs(parent="r1"))
    store.close()


# --- who may do what


def test_a_child_goes_on_through_its_parent_only(family: Family) -> None:
    """Resumed by itself it is refused, and told whose it is."""
    child = family.having(_failing_at(1))

    def body(draft: Draft) -> Any:
        return (yield child(named("a")))

    with pytest.raises(ConnectionError):
        go(family.calling(body)(Draft(), run_id="r1"))
    with pytest.raises(LoomcError, match=r"r1\.0\.0 is a child of run r1"):
        go(child.resume("r1.0.0"))
