"""A cap holds: in one run, in runs inside runs, side by side, and over resumes after kills and failures."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from killing import KILLED, NEVER, Death, Fuse, live
from loomc_runner import Budget, BudgetExhausted, Done, RunMismatch, loop, spend
from loomc_runner.records import NANO, Run
from loomc_runner.store import Store
from loomc_runner.store.sqlite import SQLite

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

PRICE = 0.05
CHILDREN = 16


class Till:
    """Where the money goes: every payment is written down here first, as the vendor does, and then recorded."""

    def __init__(self, folder: Path, death: Death = NEVER) -> None:
        self.path, self.fuse = folder / "till", Fuse(death)
        self.store = death.around(SQLite(folder / "checkpoints.db"))

    def pay(self, usd: float = PRICE) -> None:
        """Pay, and say so."""
        with self.path.open("a") as file:
            file.write(f"{usd}\n")
        self.fuse()
        spend(usd=usd)

    @property
    def total(self) -> float:
        """All that was ever paid, recorded or not."""
        return sum(map(float, self.path.read_text().split())) if self.path.exists() else 0.0

    def child(self, budget: Budget, steps: int = 2, usd: float = PRICE) -> Any:
        """A loop that pays in each of its steps."""

        def step(number: int) -> int | Done[int, None]:
            self.pay(usd)
            return Done(number + 1) if number + 1 == steps else number + 1

        return loop(name="child", budget=budget, checkpoint=self.store)(step)

    def async_child(self, budget: Budget, steps: int = 2) -> Any:
        """The same, with other tasks getting a turn before and after each payment."""

        async def step(number: int) -> int | Done[int, None]:
            await asyncio.sleep(0)
            self.pay()
            await asyncio.sleep(0)
            return Done(number + 1) if number + 1 == steps else number + 1

        return loop(name="child", budget=budget, checkpoint=self.store)(step)


Outer = Callable[[Till, Budget, Budget], Callable[[], Any]]


def alone(till: Till, budget: Budget, _: Budget) -> Callable[[], Any]:
    """One run, one step after the other; every fifth call fails."""
    calls = iter(range(1, 10_000))

    @loop(name="outer", budget=budget, checkpoint=till.store)
    def outer(number: int) -> int:
        till.pay()
        if next(calls) % 5 == 0:
            raise RuntimeError("a step that fails")
        return number + 1

    return lambda: outer.run(0, run_id="root")


def nested(till: Till, budget: Budget, childs: Budget) -> Callable[[], Any]:
    """Runs inside runs, three deep."""
    inner = till.child(childs)

    @loop(name="middle", budget=Budget(usd=99), checkpoint=till.store)
    def middle(number: int) -> int | Done[int, None]:
        inner.run(0)
        return Done(number) if number == 1 else number + 1

    @loop(name="outer", budget=budget, checkpoint=till.store)
    def outer(number: int) -> int:
        middle(0)
        return number + 1

    return lambda: outer.run(0, run_id="root")


def in_threads(till: Till, budget: Budget, childs: Budget) -> Callable[[], Any]:
    """Sixteen runs at once, in threads of one step."""
    child = till.child(childs)

    @loop(name="outer", budget=budget, checkpoint=till.store)
    def outer(number: int) -> int:
        with ThreadPoolExecutor(CHILDREN) as pool:
            jobs = [pool.submit(contextvars.copy_context().run, child, 0) for _ in range(CHILDREN)]
        for job in jobs:
            job.result()
        return number + 1

    return lambda: outer.run(0, run_id="root")


def in_tasks(till: Till, budget: Budget, childs: Budget) -> Callable[[], Any]:
    """Sixteen runs at once, in tasks of one step."""
    child = till.async_child(childs)

    @loop(name="outer", budget=budget, checkpoint=till.store)
    async def outer(number: int) -> int:
        await asyncio.gather(*(child(0) for _ in range(CHILDREN)))
        return number + 1

    return lambda: asyncio.run(outer.run(0, run_id="root"))


COST = {alone: PRICE, nested: 4 * PRICE, in_threads: 2 * CHILDREN * PRICE, in_tasks: 2 * CHILDREN * PRICE}
CAP = {alone: 40.3 * PRICE, nested: 60.3 * PRICE, in_threads: 200.3 * PRICE, in_tasks: 200.3 * PRICE}
SHAPES = list(COST)


def one_life(folder: Path, shape: Outer, budget: Budget, childs: Budget, death: Death) -> None:
    """Go on with the root run, also after failures, until death comes or the run stops."""
    go_on = shape(Till(folder, death), budget, childs)
    while True:
        with suppress(RuntimeError):
            go_on()
            return


def family(store: Store, run: Run) -> list[Run]:
    """A run and all that ran inside it."""
    return [run, *(member for child in store.list_runs(parent=run.id) for member in family(store, child))]


def spent_over_six_lives(folder: Path, shape: Outer, budget: Budget, childs: Budget) -> float:
    """Five lives that are killed at some moment, and one that goes on until the budget ends it; the dollars spent."""
    store = SQLite(folder / "checkpoints.db", read_only=True)
    deaths = [Death("after", 9), Death("inside", 5), Death("before", 11), Death("inside", 13), Death("after", 8)]
    assert [live(one_life, folder, shape, budget, childs, death) for death in deaths] == [KILLED] * 5
    assert live(one_life, folder, shape, budget, childs, NEVER) == 0
    root = store.get_run("root")
    assert (root.status, root.resumes >= 5) == ("budget_exhausted", True)
    spent = store.subtree("root")[0]
    assert spent == sum(charge.nano_usd for run in family(store, root) for charge in store.charges(run.id))
    return spent / NANO


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_cap_is_never_crossed_when_steps_cost_what_they_say(shape: Outer, declared: bool, tmp_path: Path) -> None:
    """With an honest `step_usd` where the money goes, no cap is crossed, over five kills and any failures."""
    budget = Budget(usd=CAP[shape], step_usd=COST[shape] if declared or shape is alone else None)
    spent = spent_over_six_lives(tmp_path, shape, budget, Budget(step_usd=PRICE))
    assert round(Till(tmp_path).total, 6) <= spent <= CAP[shape]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cap_is_crossed_by_no_more_than_the_steps_in_flight(shape: Outer, tmp_path: Path) -> None:
    """Where nobody says what a step costs, the cap is crossed by the steps that were under way at most."""
    in_flight = PRICE * (CHILDREN if shape in {in_threads, in_tasks} else 1)
    assert spent_over_six_lives(tmp_path, shape, Budget(usd=CAP[shape]), Budget()) <= CAP[shape] + in_flight


@pytest.mark.parametrize("shape", [alone, nested])
def test_a_payment_that_a_kill_kept_from_being_recorded_is_counted(shape: Outer, tmp_path: Path) -> None:
    """What was paid and not recorded is covered by the reservation of its step, in runs inside runs too."""
    budget = Budget(usd=CAP[shape], step_usd=COST[shape])
    assert live(one_life, tmp_path, shape, budget, Budget(step_usd=PRICE), Death("inside", 2)) == KILLED
    assert live(one_life, tmp_path, shape, budget, Budget(step_usd=PRICE), NEVER) == 0
    recorded, _ = SQLite(tmp_path / "checkpoints.db", read_only=True).subtree("root")
    assert recorded >= round(Till(tmp_path).total * NANO)


@pytest.mark.parametrize("shape", [in_threads, in_tasks])
def test_children_side_by_side_are_not_refused_what_their_parent_has_left(shape: Outer, tmp_path: Path) -> None:
    """What a parent has reserved for its step is there for its children, down to the last cent."""
    till, cost = Till(tmp_path), COST[shape]
    shape(till, Budget(usd=cost, step_usd=cost), Budget(usd=PRICE * 2, step_usd=PRICE))()
    children = till.store.list_runs(parent="root")
    assert [(run.status, run.nano_usd) for run in children] == [("completed", round(PRICE * 2 * NANO))] * CHILDREN
    assert till.store.subtree("root")[0] == round(cost * NANO)


@pytest.mark.parametrize(
    ("outer", "middle", "inner", "guilty"), [(3, 9, 9, 0), (9, 3, 9, 1), (9, 9, 3, 2), (3, 3, 3, 0), (9, 3, 3, 1)]
)
def test_the_outermost_exhausted_limit_is_reported(
    outer: int, middle: int, inner: int, guilty: int, tmp_path: Path
) -> None:
    """Of all the caps that a step would cross, the one of the outermost run is named, there and in the error."""
    till = Till(tmp_path)
    innermost = till.child(Budget(usd=inner * PRICE, step_usd=PRICE), steps=9)

    @loop(budget=Budget(usd=middle * PRICE), checkpoint=till.store)
    def between(number: int) -> int:
        return innermost(number)

    @loop(budget=Budget(usd=outer * PRICE), checkpoint=till.store)
    def outermost(number: int) -> int:
        return between(number)

    with pytest.raises(BudgetExhausted) as caught:
        outermost(0)
    runs = sorted(till.store.list_runs(), key=lambda run: run.created_at)
    assert caught.value.run_id == runs[guilty].id
    exhausted = ["budget_exhausted" if number >= guilty else "failed" for number in range(3)]
    assert [run.status for run in runs] == exhausted


def test_all_spending_reaches_every_ancestor(tmp_path: Path) -> None:
    """A run's total, and what it may still spend, take in all that runs inside it spent, however deep."""
    till = Till(tmp_path)
    innermost = till.child(Budget(step_usd=PRICE), steps=2)

    @loop(name="middle", checkpoint=till.store)
    def middle(number: int) -> Done[int, None]:
        till.pay()
        return Done(innermost(number))

    @loop(name="outer", budget=Budget(usd=1), checkpoint=till.store)
    def outer(number: int) -> Done[int, None]:
        till.pay()
        return Done(middle(number))

    result = outer.run(0, run_id="root")
    totals = {run.loop: till.store.subtree(run.id)[0] / NANO for run in family(till.store, till.store.get_run("root"))}
    assert totals == {"outer": pytest.approx(0.20), "middle": pytest.approx(0.15), "child": pytest.approx(0.10)}
    assert result.cost_usd == pytest.approx(0.20)
    assert till.store.steps("root")[0].cost_usd == pytest.approx(0.20)


def test_a_step_costs_what_was_spent_in_it_though_a_child_goes_on(tmp_path: Path) -> None:
    """What a child has only reserved when its parent's step ends is no cost of that step."""
    till = Till(tmp_path)
    child = till.async_child(Budget(step_usd=PRICE))

    @loop(name="outer", checkpoint=till.store)
    async def outer(number: int) -> Done[int, None]:
        till.pay(0.01)
        tasks.append(asyncio.create_task(child(0)))
        await asyncio.sleep(0)
        return Done(number)

    tasks: list[asyncio.Task[int]] = []
    asyncio.run(outer.run(0, run_id="root"))
    assert till.store.steps("root")[0].cost_usd == pytest.approx(0.01)


def test_a_step_that_was_cut_off_counts_for_what_the_next_is_expected_to_cost(tmp_path: Path) -> None:
    """A step that paid and was killed is one of the dearest so far, and none starts that would not fit."""

    def one_dear_life(death: Death) -> None:
        till = Till(tmp_path, death)

        @loop(name="outer", budget=Budget(usd=1.5), checkpoint=till.store)
        def outer(number: int) -> int:
            spend(usd=PRICE if number == 0 else 1.0)
            return number + 1

        outer.run(0, run_id="root")

    assert live(one_dear_life, Death("before", 5)) == KILLED  # the commit of the second step
    assert live(one_dear_life, NEVER) == 0
    root = SQLite(tmp_path / "checkpoints.db", read_only=True).get_run("root")
    assert (root.status, root.steps, root.nano_usd) == ("budget_exhausted", 1, round((PRICE + 1.0) * NANO))


def test_a_run_that_began_elsewhere_is_not_resumed_inside_a_step(tmp_path: Path) -> None:
    """The step could not account for it: it is refused, and nothing of it is spent."""
    till = Till(tmp_path)
    child = till.child(Budget(usd=1), steps=1)
    begun = child.run(0, run_id="begun").run_id
    forked = child.fork(begun, step=-1)

    @loop(name="outer", checkpoint=till.store)
    def outer(number: int) -> Done[int, None]:
        return Done(child.resume(forked))

    with pytest.raises(RunMismatch, match="began outside of run root"):
        outer.run(0, run_id="root")
    assert till.store.subtree(forked)[0] == 0
