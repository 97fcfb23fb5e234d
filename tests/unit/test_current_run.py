"""`current_run()` tells which run and step code is in, and what a call there may still cost."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from driving import Draft, Maker, doing, go, grow, until

from loomc_runner import (
    Budget,
    BudgetExhausted,
    CurrentRun,
    Done,
    Escalate,
    NotInStep,
    call,
    current_run,
    judge,
    loop,
    predicate,
    spend,
)
from loomc_runner.budget import to_nano
from loomc_runner.context import step_here
from loomc_runner.holds import Hold, hold
from loomc_runner.records import Charge
from loomc_runner.store.memory import MemoryStore


def reserve(usd: float) -> Hold:
    """Hold what a call may cost in the step that is running here."""
    scope = step_here("reserve")
    charge = Charge(scope.step_n, to_nano(usd), 0, "call", scope.clock.now())
    return hold(scope, charge, lambda: False, lambda: charge)


def give_back(held: Hold) -> None:
    """The call cost nothing."""
    held.settle(held.charge._replace(nano_usd=0))


def assert_exact() -> float | None:
    """What is said to be left can be held, and not a nano-dollar more."""
    left = current_run().left_usd
    held = reserve(1e6 if left is None else left)
    assert current_run().left_usd in {None, 0.0}
    give_back(held)
    if left is not None:
        with pytest.raises(BudgetExhausted):
            reserve(left + 1e-9)
    assert current_run().left_usd == left
    return left


class Seen:
    """A place to keep what code was told, by its name."""

    def __init__(self) -> None:
        self.told: dict[str, list[CurrentRun]] = {}

    def __call__(self, name: str, value: Any = None) -> Callable[..., Any]:
        """A function of anything that keeps where it is, and gives that value, or what it was given."""

        def look(given: Any, *_: Any) -> Any:
            self.told.setdefault(name, []).append(current_run())
            return given if value is None else value

        look.__annotations__ = {"given": Draft}
        return look

    def places(self, name: str) -> list[tuple[str, int]]:
        """The runs and steps it was in."""
        return [(here.run_id, here.step_n) for here in self.told.get(name, [])]


# --- where it is


def test_all_that_is_asked_of_a_step_is_in_that_step(make: Maker) -> None:
    """Its function, what prices and scores it, what judges it, what goes back from it, and what changes it."""
    seen = Seen()
    options: dict[str, Any] = {
        "scorer": seen("scorer", 1.0),
        "cost_fn": seen("cost_fn", 0.01),
        "converge_on": [predicate(seen("predicate", False)), judge(seen("judge", False))],
        "backtrack": lambda history: seen("strategy", -2)(history) and None,
        "on_stall": Escalate(1, seen("handler")),
    }
    go(make(doing(lambda: seen("step")(None)), budget=Budget(iterations=3), **options).run(Draft(), run_id="r1"))
    for name in ("step", "scorer", "cost_fn", "predicate", "judge", "strategy"):
        assert seen.places(name) == [("r1", 0), ("r1", 1), ("r1", 2)], name
    assert seen.places("handler") == [("r1", 2)]


def test_a_call_and_what_comes_below_it_is_in_the_step_that_makes_it(make: Maker) -> None:
    """However deep."""
    seen = Seen()
    step = doing(lambda: call(lambda n: seen("call")(n), 1, key="a"))
    go(make(step, converge_on=until(2)).run(Draft(), run_id="r1"))
    assert seen.places("call") == [("r1", 0), ("r1", 1)]


def test_a_child_run_is_a_run_of_its_own(make: Maker) -> None:
    """And after it the code is in its parent's step again."""
    seen = Seen()
    child = Maker(make.store, is_async=False)(doing(lambda: seen("child")(None)), name="child", converge_on=until(2))
    step = doing(lambda: (child(Draft()), seen("parent")(None)))
    go(make(step, converge_on=until(1)).run(Draft(), run_id="r1"))
    assert seen.places("child") == [("r1.0.0", 0), ("r1.0.0", 1)]
    assert seen.places("parent") == [("r1", 0)]


def test_a_thread_with_the_context_is_in_the_step_and_one_without_is_not(make: Maker) -> None:
    """As with `spend`; the error says how to take the context along."""
    seen = Seen()

    def step(draft: Draft) -> Draft:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, seen("thread"), None).result()
            with pytest.raises(NotInStep, match=r"current_run\(\) was called where no step is running.*copy_context"):
                pool.submit(current_run).result()
        return grow(draft)

    go(make(step, converge_on=until(1)).run(Draft(), run_id="r1"))
    assert seen.places("thread") == [("r1", 0)]


def test_tasks_are_in_the_step_that_makes_them(memory: MemoryStore) -> None:
    """Also where they go on in a thread."""

    async def step(draft: Draft) -> Draft:
        here = await asyncio.gather(asyncio.to_thread(current_run), asyncio.create_task(soon()))
        assert [(each.run_id, each.step_n) for each in here] == [("r1", draft.n)] * 2
        return grow(draft)

    async def soon() -> CurrentRun:
        await asyncio.sleep(0)
        return current_run()

    asyncio.run(loop(checkpoint=memory, converge_on=until(2))(step).run(Draft(), run_id="r1"))


def test_runs_that_take_turns_in_one_thread_are_each_in_their_own(memory: MemoryStore) -> None:
    """The context of a step is set while its function runs, and never longer."""

    @loop(checkpoint=memory, converge_on=until(3))
    async def refine(draft: Draft) -> Draft:
        here = current_run().run_id
        await asyncio.sleep(0)
        assert current_run().run_id == here == draft.words[0]
        return grow(draft)

    async def main() -> None:
        await asyncio.gather(*(refine.run(Draft(0, [name]), run_id=name) for name in "abc"))

    asyncio.run(main())


def test_outside_of_a_step_there_is_none(make: Maker) -> None:
    """Before, after, between the steps of a stream, and in a callback that only looks on."""
    refused: list[type[BaseException]] = []

    def look(_: Any) -> None:
        with pytest.raises(NotInStep) as caught:
            current_run()
        refused.append(caught.type)

    look(None)
    refine = make(grow, converge_on=until(2), budget=Budget(iterations=2), on_step=look, on_budget=look)
    go(refine.run(Draft()))
    for step in Maker(make.store, is_async=False)(grow, converge_on=until(2)).stream(Draft()):
        look(step)
    assert len(refused) == 1 + 2 + 3 + 2


# --- what is left


def test_it_tells_what_was_spent_over_all_resumes_and_by_children(make: Maker) -> None:
    """As the run is charged for it."""
    told: list[float] = []
    child = Maker(make.store, is_async=False)(doing(lambda: spend(usd=0.2)), name="child", converge_on=until(1))

    def step(draft: Draft) -> Draft:
        told.append(current_run().spent_usd)
        spend(usd=0.1)
        child(Draft())
        told.append(current_run().spent_usd)
        return grow(draft)

    refine = make(step, budget=Budget(iterations=1))
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(BudgetExhausted):
        go(refine.resume("r1", budget=Budget(iterations=2)))
    assert told == pytest.approx([0.0, 0.3, 0.3, 0.6])


@pytest.mark.parametrize(
    ("budget", "lefts"),
    [
        (Budget(iterations=3), [None, None, None]),
        (Budget(usd=1, iterations=3), [1.0, 0.9, 0.8]),
        (Budget(usd=1, iterations=3, step_usd=0.3), [1.0, 0.9, 0.8]),
        (Budget(usd=1, iterations=3, wrap_up=0.25), [0.75, 0.65, 0.55]),
        (Budget(usd=0.3, iterations=3, wrap_up=0.1), [0.2, 0.1, 0.1]),
    ],
    ids=["no cap", "a cap", "reserved", "kept", "wraps up"],
)
def test_what_is_left_is_what_a_call_may_cost(make: Maker, budget: Budget, lefts: list[float | None]) -> None:
    """To the nano-dollar: what is reserved for the step is for its calls, what is kept to wrap up is not."""
    told: list[float | None] = []

    def step(draft: Draft) -> Draft:
        told.append(assert_exact())
        spend(usd=0.1)
        if told[-1] is not None and told[-1] > 0.1:
            assert assert_exact() == pytest.approx(told[-1] - 0.1)
        return grow(draft)

    go(make(step, budget=budget).run(Draft()))
    assert told == pytest.approx(lefts)


def test_in_the_step_that_wraps_up_all_of_the_rest_is_left(make: Maker) -> None:
    """What was kept, and what the other steps have left over."""
    told: list[tuple[bool, float | None]] = []

    def step(draft: Draft) -> Draft:
        told.append((current_run().wrap_up, assert_exact()))
        spend(usd=0.3)
        return grow(draft)

    go(make(step, budget=Budget(usd=1, wrap_up=0.25, step_usd=0.3)).run(Draft()))
    assert told == [(False, 0.75), (False, 0.45), (True, 0.4)]


def test_what_comes_after_a_step_is_not_told_that_it_wraps_up_when_the_next_one_does(make: Maker) -> None:
    """A strategy is asked by the step that went before."""
    told: list[tuple[int, bool]] = []

    def stay(history: Any) -> None:
        told.append((current_run().step_n, current_run().wrap_up))

    def judged(draft: Draft) -> bool:
        spend(usd=0.0 if current_run().wrap_up else 0.6)
        return False

    options: dict[str, Any] = {"budget": Budget(usd=1, wrap_up=0.25), "backtrack": stay, "converge_on": judge(judged)}
    go(make(doing(lambda: spend(usd=0.2)), **options).run(Draft()))
    assert told == [(0, False), (1, True)]


def test_an_enclosing_cap_counts_where_it_leaves_less(make: Maker) -> None:
    """With what its own step has spent and holds, and with its children's reservations."""
    told: list[float | None] = []

    def work(draft: Draft) -> Done[Draft, None]:
        told.append(assert_exact())
        return Done(draft)

    make_child = Maker(make.store, is_async=False)
    children = [
        make_child(work, name=f"child{number}", budget=budget)
        for number, budget in enumerate((Budget(), Budget(usd=0.2), Budget(usd=9), Budget(usd=9, step_usd=0.4)))
    ]

    def step(draft: Draft) -> Draft:
        spend(usd=0.1)
        held = reserve(0.4)
        for child in children:
            child.run(draft)
        give_back(held)
        told.append(assert_exact())
        return grow(draft)

    go(make(step, budget=Budget(usd=1, step_usd=0.3), converge_on=until(1)).run(Draft()))
    assert told == pytest.approx([0.5, 0.2, 0.5, 0.5, 0.9])


def test_what_the_calls_beside_it_hold_is_not_left(make: Maker) -> None:
    """Until they are over."""
    told: list[float | None] = []

    def step(draft: Draft) -> Draft:
        held = [reserve(0.2), reserve(0.3)]
        told.append(assert_exact())
        held[0].settle(held[0].charge._replace(nano_usd=to_nano(0.05)))
        told.append(assert_exact())
        give_back(held[1])
        told.append(assert_exact())
        return grow(draft)

    go(make(step, budget=Budget(usd=1), converge_on=until(1)).run(Draft()))
    assert told == pytest.approx([0.5, 0.65, 0.95])


def test_less_than_nothing_is_nothing(make: Maker) -> None:
    """Where more was spent than there is nothing is left, also for a run beside it that has something reserved."""
    told: list[float | None] = []
    make_child = Maker(make.store, is_async=False)

    def overspend(draft: Draft) -> Draft:
        spend(usd=2)
        return draft

    beside = make_child(overspend, name="beside", budget=Budget())

    def step(draft: Draft) -> Draft:
        context = copy_context()

        def work(draft: Draft) -> Draft:
            spend(usd=0)
            context.run(beside.run, draft)
            told.append(current_run().left_usd)
            with pytest.raises(BudgetExhausted):
                reserve(0.0)
            return draft

        make_child(work, name="child", budget=Budget(step_usd=0.9)).run(draft)
        told.append(current_run().left_usd)
        return draft

    go(make(step, budget=Budget(usd=1)).run(Draft()))
    assert told == [0.0, 0.0]


def test_it_cannot_be_changed(make_in_memory: Maker) -> None:
    """It tells how things stand, and is no way to change them."""
    seen = Seen()
    go(make_in_memory(doing(lambda: seen("step")(None)), converge_on=until(1)).run(Draft()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.told["step"][0].left_usd = 9.0  # type: ignore[misc]
