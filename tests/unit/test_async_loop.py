"""An async loop is awaited, waits where its function waits, and lets others work meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from driving import Draft, grow, size, until

from loomc_runner import (
    AsyncLoop,
    Budget,
    BudgetExhausted,
    Done,
    RunStatus,
    judge,
    loop,
    predicate,
    spend,
    target,
)
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import FakeClock


async def grow_async(draft: Draft) -> Draft:
    """The plainest async step."""
    await asyncio.sleep(0)
    return grow(draft)


def test_loops_of_one_event_loop_take_turns(memory: MemoryStore) -> None:
    """While one async loop waits in its step, the others go on."""
    order: list[int] = []

    @loop(checkpoint=memory, converge_on=until(3))
    async def refine(draft: Draft) -> Draft:
        order.append(int(draft.words[0]))
        return await grow_async(draft)

    async def main() -> list[Draft]:
        return await asyncio.gather(*(refine(Draft(0, [str(n)])) for n in range(3)))

    assert [draft.n for draft in asyncio.run(main())] == [3, 3, 3]
    assert set(order[:3]) == {0, 1, 2}


def test_steps_that_never_wait_still_let_others_work(memory: MemoryStore) -> None:
    """A loop whose steps do not wait gives the event loop a turn whenever 5 ms have passed."""
    clock, ticks = FakeClock(), [0]

    async def step(draft: Draft) -> Draft:
        clock.advance(0.006)
        return Draft(draft.n + 1, [*draft.words, str(ticks[0])])

    async def tick() -> None:
        while True:
            ticks[0] += 1
            await asyncio.sleep(0)

    async def main() -> Draft:
        refine = loop(checkpoint=memory, converge_on=until(20))(step)
        ticker = asyncio.create_task(tick())
        try:
            return await AsyncLoop(replace(refine.spec, clock=clock))(Draft())
        finally:
            ticker.cancel()

    seen = asyncio.run(main()).words
    assert len(set(seen[1:])) == 19


def test_money_goes_to_the_run_that_spends_it(memory: MemoryStore) -> None:
    """Runs that take turns in one thread each pay for themselves, also from tasks and threads of their own."""

    @loop(checkpoint=memory, budget=Budget(usd=50), converge_on=until(3))
    async def refine(draft: Draft) -> Draft:
        usd = float(draft.words[0])
        await asyncio.gather(asyncio.to_thread(spend, usd=usd), asyncio.create_task(pay(usd)))
        return await grow_async(draft)

    async def pay(usd: float) -> None:
        await asyncio.sleep(0)
        spend(usd=usd)

    async def main() -> list[Any]:
        return await asyncio.gather(*(refine.run(Draft(0, [f"{usd}"])) for usd in (0.5, 1, 2)))

    assert [result.cost_usd for result in asyncio.run(main())] == [3, 6, 12]


def test_everything_an_async_loop_asks_may_be_async(memory: MemoryStore) -> None:
    """Scorer, cost function, detectors and judges are awaited where they give something to await."""

    async def is_big(value: Any) -> bool:
        await asyncio.sleep(0)
        return getattr(value, "n", 0) > 3

    async def measure(draft: Draft) -> float:
        await asyncio.sleep(0)
        return draft.n / 8

    options: dict[str, Any] = {"scorer": measure, "cost_fn": measure, "converge_on": [predicate(is_big), judge(is_big)]}
    result = asyncio.run(loop(checkpoint=memory, budget=Budget(usd=9), **options)(grow_async).run(Draft()))
    assert (result.state.n, result.best_score, result.cost_usd) == (4, 0.5, 1.25)


def test_an_object_with_an_async_call_is_an_async_judge(memory: MemoryStore) -> None:
    """What matters is what calling it gives."""

    class Big:
        async def __call__(self, draft: Draft) -> str:
            await asyncio.sleep(0)
            return "yes, big enough" if draft.n > 2 else "no"

    result = asyncio.run(loop(checkpoint=memory, converge_on=judge(Big()))(grow_async).run(Draft()))
    assert (result.state.n, result.stop_reason) == (3, "converged: judge(Big): big enough")


@pytest.mark.parametrize("option", ["scorer", "cost_fn", "converge_on"])
def test_a_sync_loop_cannot_wait_for_an_answer(memory: MemoryStore, option: str) -> None:
    """A plain function that gives a coroutine fails the run, which keeps the step and can go on."""

    async def answer(_: Any) -> float:
        await asyncio.sleep(0)
        return 1.0

    refine = loop(checkpoint=memory, **{option: lambda value: answer(value)})(grow)  # type: ignore[call-overload]
    with pytest.raises((ValueError, RuntimeError), match="async def"):
        refine(Draft(), run_id="r1")
    run = memory.get_run("r1")
    assert (run.status, run.steps, memory.state("r1", 0)) == (RunStatus.FAILED, 1, '{"n":1,"words":[]}')
    assert refine.with_options(**{option: None}, budget=Budget()).spec.owns(run)


def test_a_cap_that_is_crossed_in_a_task_group_ends_the_run(memory: MemoryStore) -> None:
    """The limit counts also when it comes out of the step as part of an exception group."""

    async def pay(usd: float) -> None:
        await asyncio.sleep(0)
        spend(usd=usd)

    @loop(checkpoint=memory, budget=Budget(usd=2))
    async def refine(draft: Draft) -> Draft:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(pay(0.75))
        return draft

    with pytest.raises(BudgetExhausted, match=r"usd 2\.25 of 2\.00"):
        asyncio.run(refine(Draft()))


def test_every_verb_of_an_async_loop_is_awaited(memory: MemoryStore) -> None:
    """Calling, `run` and `resume` give coroutines, `stream` an async iterator, `fork` the id of a new run."""

    async def step(draft: Draft) -> Draft | Done[Draft, str]:
        return Done(grow(draft), result="done") if draft.n > 1 else grow(draft)

    async def main() -> list[Any]:
        refine = loop(checkpoint=memory, scorer=size, converge_on=target(9))(step)
        called = await refine(Draft(), run_id="r1")
        ran = await refine.run(Draft(), run_id="r1")
        other = refine.fork("r1", step=0)
        return [called.n, ran.result, (await refine.resume(other)).n, [s.step_n async for s in refine.stream(Draft())]]

    assert asyncio.run(main()) == [3, "done", 3, [0, 1, 2]]
