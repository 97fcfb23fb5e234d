"""A loop on a method belongs to the instance it is called through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from driving import Draft, until

from loomc_runner import AsyncLoop, Budget, Loop, LoopNotFound, RunStatus, loop
from loomc_runner.locate import loop_of
from loomc_runner.store.memory import MemoryStore

STORE = MemoryStore()


class Refiner:
    """An object with loops, each step of which uses the object."""

    def __init__(self, stride: int) -> None:
        self.stride = stride

    @loop(checkpoint=STORE, converge_on=until(6))
    def refine(self, draft: Draft) -> Draft:
        """Grow by the stride."""
        return Draft(draft.n + self.stride)

    @loop(checkpoint=STORE, converge_on=until(6))
    async def refine_async(self, draft: Draft) -> Draft:
        """Grow by the stride, taking a turn."""
        await asyncio.sleep(0)
        return Draft(draft.n + self.stride)

    @loop
    def bare(self, draft: Draft) -> Draft:
        """Have no options."""
        return Draft(draft.n + self.stride)

    @staticmethod
    @loop(checkpoint=STORE, converge_on=until(6))
    def static(draft: Draft) -> Draft:
        """Have no instance."""
        return Draft(draft.n + 4)


class Slower(Refiner):
    """A subclass that changes a loop."""

    @loop(checkpoint=STORE, converge_on=until(6))
    def refine(self, draft: Draft) -> Draft:
        """Grow by one, after what the base class does in a loop of its own."""
        return Draft(min(super().refine(draft).n, draft.n + 1))


def test_a_method_is_bound_to_its_instance() -> None:
    """Each instance runs its own loop."""
    assert [Refiner(stride).refine(Draft()).n for stride in (1, 4, 5)] == [6, 8, 10]
    assert asyncio.run(Refiner(4).refine_async(Draft())).n == 8


def test_a_bound_method_is_a_loop_with_every_verb() -> None:
    """Running, streaming, forking and resuming go through the instance."""
    refine = Refiner(4).refine
    result = refine.run(Draft())
    assert (result.status, [step.state.n for step in refine.stream(Draft())]) == (RunStatus.COMPLETED, [4, 8])
    assert refine.resume(refine.fork(result.run_id, step=0, update={"n": 1})).n == 9
    assert (type(refine), type(Refiner(1).refine_async)) == (Loop, AsyncLoop)


def test_the_bare_decorator_works_on_methods() -> None:
    """Options can be given later, through the instance."""
    assert Refiner(3).bare.with_options(checkpoint=STORE, converge_on=until(2))(Draft()).n == 3


def test_a_run_of_a_method_is_resumed_through_any_instance() -> None:
    """The run names the method; the instance that goes on with it is the caller's choice."""
    short = Refiner(1).refine.with_options(budget=Budget(iterations=1))
    run_id = short.run(Draft()).run_id
    assert Refiner(5).refine.resume(run_id, budget=Budget(iterations=2)).n == 6
    assert STORE.get_run(run_id).loop == f"{__name__}:Refiner.refine"


def test_a_method_of_a_subclass_is_another_loop() -> None:
    """It may use that of its base class, whose runs are then its children."""
    result = Slower(2).refine.run(Draft())
    children = STORE.list_runs(parent=result.run_id)
    assert (result.state.n, len(children)) == (6, 6)
    assert {run.loop for run in children} == {f"{__name__}:Refiner.refine"}


def test_a_static_method_is_a_loop() -> None:
    """Without an instance there is nothing to bind."""
    assert Refiner.static(Draft()).n == Refiner(1).static(Draft()).n == 8


def test_a_method_without_an_instance_cannot_run() -> None:
    """Through the class there is the method's description only, and where a run's loop is looked for it is told how."""
    unbound: Any = Refiner.refine
    assert (unbound.__doc__, callable(unbound)) == ("Grow by the stride.", False)
    run_id = Refiner(4).refine.run(Draft()).run_id
    with pytest.raises(LoopNotFound, match=r"through its instance: obj\.refine\.resume"):
        loop_of(STORE.get_run(run_id))
