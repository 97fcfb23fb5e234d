"""Loops inside the steps of loops: each spends what the outer ones have left, and all of it is known to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from typing import Any

import pytest
from driving import Draft, Maker, columns, go, grow, make_async, until

from loomc_runner import Budget, BudgetExhausted, Done, LastGood, StoreError, loop, spend
from loomc_runner.context import current_scope
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FaultyStore

CENT, DOLLAR = 10_000_000, 1_000_000_000


def pay(draft: Draft) -> Draft:
    """Grow for a dollar."""
    spend(usd=1, tokens=1)
    return grow(draft)


def in_thread(fn: Callable[..., Any], *args: Any) -> Any:
    """What a function gives in a thread of its own, with the context of the caller."""
    results: list[Any] = []
    context = copy_context()
    thread = Thread(target=lambda: results.append(context.run(fn, *args)))
    thread.start()
    thread.join()
    return results[0]


def once(child: Callable[[Draft], Any]) -> Callable[[Draft], Any]:
    """A step that calls a child and is done."""
    return lambda draft: Done(child(draft))


class Family:
    """Makes loops that share a store in memory, named by their depth."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def sync(self, name: str, fn: Callable[[Draft], Any], **options: Any) -> Any:
        """A loop of a plain function."""
        return loop(name=name, checkpoint=self.store, budget=Budget(), **options)(_annotated(fn))

    def asynchronous(self, name: str, fn: Callable[[Draft], Any], **options: Any) -> Any:
        """A loop of the same as an `async def`."""
        return loop(name=name, checkpoint=self.store, budget=Budget(), **options)(make_async(_annotated(fn)))

    def tree(self) -> dict[str, tuple[str | None, int]]:
        """The loop of every run, with that of its parent and the steps it took."""
        runs = {run.id: run for run in self.store.list_runs()}
        names = {run.id: run.loop for run in runs.values()}
        return {str(run.loop): (names.get(str(run.parent_run_id)), run.steps) for run in runs.values()}


def _annotated(fn: Any) -> Any:
    fn.__annotations__ = {"draft": Draft}
    return fn


@pytest.fixture
def family() -> Family:
    """A family without members."""
    return Family()


# --- wherever a loop is called


def test_sync_in_sync_in_sync(family: Family) -> None:
    """Plain calls nest as deep as one likes."""
    inner = family.sync("inner", pay, converge_on=until(3))
    middle = family.sync("middle", once(inner))
    result = family.sync("outer", once(middle)).run(Draft())
    assert (result.state.n, result.cost_usd, result.tokens) == (3, 3.0, 3)
    assert family.tree() == {"inner": ("middle", 3), "middle": ("outer", 1), "outer": (None, 1)}


def test_sync_in_async_in_sync(family: Family) -> None:
    """A sync step may run an event loop of its own, and an async step a sync loop."""
    inner = family.sync("inner", pay, converge_on=until(3))
    middle = family.asynchronous("middle", once(inner))
    result = family.sync("outer", lambda draft: Done(asyncio.run(middle(draft)))).run(Draft())
    assert (result.state.n, result.cost_usd) == (3, 3.0)
    assert family.tree() == {"inner": ("middle", 3), "middle": ("outer", 1), "outer": (None, 1)}


def test_async_in_a_thread_in_sync_in_async(family: Family) -> None:
    """Inside a running event loop a sync step has an async child in a thread with an event loop of its own."""
    inner = family.asynchronous("inner", pay, converge_on=until(3))
    middle = family.sync("middle", lambda draft: Done(in_thread(asyncio.run, inner(draft))))
    outer = family.asynchronous("outer", once(middle))
    result = go(outer.run(Draft()))
    assert (result.state.n, result.cost_usd) == (3, 3.0)
    assert family.tree() == {"inner": ("middle", 3), "middle": ("outer", 1), "outer": (None, 1)}


def test_a_sync_loop_in_a_thread_of_an_async_step(family: Family) -> None:
    """`asyncio.to_thread` takes the context along, so that the loop is a child."""
    inner = family.sync("inner", pay, converge_on=until(3))

    async def step(draft: Draft) -> Any:
        return Done(await asyncio.to_thread(inner, draft))

    outer = loop(name="outer", checkpoint=family.store, budget=Budget())(step)
    assert go(outer.run(Draft())).cost_usd == 3.0
    assert family.tree() == {"inner": ("outer", 3), "outer": (None, 1)}


def test_a_new_thread_has_no_step(family: Family) -> None:
    """A loop in a thread that did not take the context along is nobody's child."""
    inner = family.sync("inner", pay, converge_on=until(1))

    def step(draft: Draft) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return Done(pool.submit(inner, draft).result())

    assert family.sync("outer", step).run(Draft()).cost_usd == 0.0
    assert family.tree() == {"inner": (None, 1), "outer": (None, 1)}


def test_after_a_child_the_step_is_its_parents_again(family: Family) -> None:
    """The step that is running is the innermost one, however its children end."""
    seen: list[Any] = []

    def step(draft: Draft) -> Any:
        before = current_scope()
        for child in (family.sync("good", pay, converge_on=until(1)), family.sync("bad", lambda draft: 0 // 0)):
            with suppress(ZeroDivisionError):
                child(Draft())
            seen.append(current_scope() is before)
        return Done(draft)

    family.sync("outer", step)(Draft())
    assert (seen, current_scope()) == ([True, True], None)


# --- what belongs to whom


def test_a_child_shares_its_parents_store(make: Maker) -> None:
    """Whatever store a loop names, inside a step it keeps its run with the one around it, and says whose step it is."""
    elsewhere = MemoryStore()
    child = loop(name="child", checkpoint=elsewhere, converge_on=until(9))(grow)
    go(make(lambda draft: child(draft), converge_on=until(1)).run(Draft(7), run_id="r1"))
    assert elsewhere.list_runs() == []
    assert columns(make.store.list_runs(parent="r1"), "loop", "parent_step", "steps") == [("child", 0, 2)]


def test_a_childs_money_counts_for_its_parent_once(make: Maker) -> None:
    """A parent's step costs what its children cost; the parent's own money is without them."""
    child = loop(name="child", checkpoint=make.store, converge_on=until(2))(pay)

    def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        child(Draft())
        return grow(draft)

    result = go(make(step, budget=Budget(usd=9), converge_on=until(2)).run(Draft(), run_id="r1"))
    assert (result.cost_usd, make.store.get_run("r1").cost_usd) == (5.0, 1.0)
    assert [step.cost_usd for step in make.store.steps("r1")] == [2.5, 2.5]
    assert make.store.subtree("r1") == (5 * DOLLAR, 4)


def test_a_childs_steps_are_not_its_parents_iterations(make: Maker) -> None:
    """A limit of two iterations is two steps of that loop."""
    child = loop(name="child", checkpoint=make.store, converge_on=until(5))(grow)

    def step(draft: Draft) -> Draft:
        child(Draft())
        return grow(draft)

    assert go(make(step, budget=Budget(iterations=2)).run(Draft())).steps == 2


# --- limits


def test_a_child_spends_at_most_what_its_parent_has_left(make: Maker) -> None:
    """The parent's cap ends both, whatever the child's own would allow, and it is the one that is reported."""
    child = loop(name="child", checkpoint=make.store, budget=Budget(usd=50))(pay)

    def step(draft: Draft) -> Draft:
        spend(usd=1)
        return child(draft)

    with pytest.raises(BudgetExhausted, match=r"in run r1: usd 3\.00 of 3\.00") as caught:
        go(make(step, budget=Budget(usd=3))(Draft(7), run_id="r1"))
    assert (caught.value.run_id, caught.value.state) == ("r1", Draft(7))
    (child_run,) = make.store.list_runs(parent="r1")
    assert (child_run.status, child_run.steps, child_run.cost_usd) == ("budget_exhausted", 2, 2.0)
    assert child_run.stop_reason == "budget of the enclosing run r1: usd 3.00 of 3.00"


def test_where_nothing_is_left_a_child_does_not_begin(make: Maker) -> None:
    """A child that is refused takes no step, and stands in the store with the reason."""

    def step(draft: Draft) -> Draft:
        for _ in range(3):
            child(draft)
        return draft

    child = loop(name="child", checkpoint=make.store, budget=Budget(step_usd=2), converge_on=until(1))(pay)
    result = go(make(step, budget=Budget(usd=3)).run(Draft(), run_id="r1"))
    assert result.stop_reason == "budget: usd 4.00 of 3.00 ($2.00 spent, the rest expected)"
    assert sorted(columns(make.store.list_runs(parent="r1"), "steps", "status")) == [
        (0, "budget_exhausted"),
        (1, "completed"),
        (1, "completed"),
    ]


def test_children_side_by_side_share_what_is_left(family: Family) -> None:
    """Threads that spend at once stop together: no step begins that does not fit."""
    child = family.sync("child", pay).with_options(budget=Budget(step_usd=1))

    def step(draft: Draft) -> Any:
        with ThreadPoolExecutor(4) as pool:
            results = [pool.submit(copy_context().run, child.run, Draft()) for _ in range(4)]
        return Done(Draft(sum(result.result().steps for result in results)))

    result = family.sync("outer", step).with_options(budget=Budget(usd=10)).run(Draft())
    assert (result.cost_usd, result.state.n) == (10.0, 10)


def test_async_children_side_by_side_share_what_is_left(family: Family) -> None:
    """The same for children that take turns in one event loop."""
    child = family.asynchronous("child", pay).with_options(budget=Budget(step_usd=1))

    async def step(draft: Draft) -> Any:
        results = await asyncio.gather(*(child.run(Draft()) for _ in range(4)))
        return Done(Draft(sum(result.steps for result in results)))

    outer = loop(name="outer", checkpoint=family.store, budget=Budget(usd=10))(step)
    result = go(outer.run(Draft()))
    assert (result.cost_usd, result.state.n) == (10.0, 10)


def test_a_childs_own_limit_is_an_ordinary_error_of_its_parent(make: Maker) -> None:
    """The parent's run fails with it; the error tells of the child, and how to go on with either."""
    child = loop(name="child", checkpoint=make.store, budget=Budget(usd=2))(pay)
    with pytest.raises(BudgetExhausted) as caught:
        go(make(lambda draft: child(draft), budget=Budget(usd=50))(Draft(7), run_id="r1"))
    (child_run,) = make.store.list_runs(parent="r1")
    assert make.store.get_run("r1").status == "failed"
    assert (caught.value.run_id, caught.value.state) == (child_run.id, Draft(9))
    assert [note.split()[5] for note in caught.value.__notes__] == [f"{child_run.id}:", "r1:"]


def test_a_childs_own_limit_can_be_absorbed(make: Maker) -> None:
    """`LastGood` goes on after a child that ran out of its own money."""
    child = loop(name="child", checkpoint=make.store, budget=Budget(usd=2))(pay)

    def step(draft: Draft) -> Draft:
        return child(draft) if len(make.store.list_runs()) == 1 else pay(draft)

    refine = make(step, budget=Budget(usd=50), backtrack=LastGood(), converge_on=until(8))
    assert go(refine(Draft(7), run_id="r1")) == Draft(8)
    assert [bool(step.error) for step in make.store.steps("r1")] == [True, False]


def test_the_parents_limit_cannot_be_absorbed(make: Maker) -> None:
    """Neither the child nor the parent goes on, whatever strategies they have."""
    options: dict[str, Any] = {"backtrack": LastGood(max_failures=99)}
    child = loop(name="child", checkpoint=make.store, budget=Budget(usd=50), **options)(pay)
    result = go(make(lambda draft: child(draft), budget=Budget(usd=2), **options).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.cost_usd) == ("budget_exhausted", 0, 2.0)
    assert [run.status for run in make.store.list_runs()] == ["budget_exhausted"] * 2


@pytest.mark.parametrize("option", ["scorer", "cost_fn", "converge_on"])
def test_a_child_that_a_judge_runs_has_a_limit_of_its_own(make: Maker, option: str) -> None:
    """A judge whose loop ran out of its own money has failed; the run it judges has not run out."""
    child = loop(name="child", checkpoint=make.store, budget=Budget(usd=2))(pay)

    def judge(_: object) -> Any:
        return child(Draft())

    with pytest.raises(BudgetExhausted):
        go(make(grow, budget=Budget(usd=50), **{option: judge})(Draft(), run_id="r1"))
    run = make.store.get_run("r1")
    assert (run.status, run.steps, make.store.subtree("r1")[0]) == ("failed", 1, 2 * DOLLAR)


def test_a_judge_that_crosses_the_cap_ends_the_run(make: Maker) -> None:
    """What the judge's loop spends is the run's money, and the step it judged is kept."""
    child = loop(name="child", checkpoint=make.store, budget=Budget())(pay)
    result = go(make(grow, budget=Budget(usd=2), scorer=lambda _: child(Draft()).n).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.cost_usd) == ("budget_exhausted", 1, 2.0)


def test_a_failed_child_fails_its_parent(make: Maker) -> None:
    """An error nobody caught ends every run on its way out, and all of them can be resumed."""

    def step(draft: Draft) -> Draft:
        raise ZeroDivisionError("inner")

    child = loop(name="child", checkpoint=make.store)(step)
    with pytest.raises(ZeroDivisionError, match="inner"):
        go(make(lambda draft: child(draft))(Draft(), run_id="r1"))
    assert (
        columns(make.store.list_runs(), "status", "stop_reason") == [("failed", "failed: ZeroDivisionError: inner")] * 2
    )


def test_a_child_that_could_not_begin_holds_nothing(make: Maker) -> None:
    """What was reserved for it is free again, so that the next try fits."""
    child = loop(name="child", checkpoint=make.store, budget=Budget(step_usd=2), converge_on=until(1))(pay)

    def step(draft: Draft) -> Draft:
        with pytest.raises(StoreError):
            child(draft)
        return child(draft)

    faulty = FaultyStore(make.store, verb="create_run", at=2)
    result = go(make(step, checkpoint=faulty, budget=Budget(usd=3), converge_on=until(1)).run(Draft()))
    assert (result.status, result.cost_usd) == ("completed", 1.0)


def test_a_child_that_could_not_go_on_holds_nothing(make: Maker) -> None:
    """The same for one that is resumed inside a step."""
    child = loop(name="child", checkpoint=make.store, budget=Budget(step_usd=2), converge_on=until(2))(pay)

    def step(draft: Draft) -> Draft:
        with child.stream(draft, run_id="c1") as steps:
            next(steps)
        with pytest.raises(StoreError):
            child.resume("c1")
        return child.resume("c1")

    faulty = FaultyStore(make.store, verb="commit", at=4)  # after spend, step and pause: the start of the resumed step
    result = go(make(step, checkpoint=faulty, budget=Budget(usd=3), converge_on=until(1)).run(Draft()))
    assert (result.status, result.state) == ("completed", Draft(2))


# --- streams


def test_a_childs_stream_can_be_left_inside_a_step(make: Maker) -> None:
    """The child is paused, and its parent goes on; what it spent is its parent's too."""
    child = loop(name="child", checkpoint=make.store)(pay)

    def step(draft: Draft) -> Draft:
        for inner in child.stream(draft):
            if inner.state.n == draft.n + 2:
                return inner.state
        return draft

    result = go(make(step, budget=Budget(usd=9), converge_on=until(4)).run(Draft(), run_id="r1"))
    assert (result.state.n, result.cost_usd) == (4, 4.0)
    assert columns(make.store.list_runs(parent="r1"), "status", "steps") == [("paused", 2)] * 2


def test_a_childs_reservation_is_given_back(disk: SQLite) -> None:
    """A child that was paused before its next step holds nothing of its parent's money."""
    child = loop(name="child", checkpoint=disk, budget=Budget(step_usd=1))(pay)

    def step(draft: Draft) -> Draft:
        with child.stream(draft) as steps:
            return next(steps).state

    refine = loop(checkpoint=disk, budget=Budget(usd=3))(step)
    assert refine.run(Draft()).steps == 3
