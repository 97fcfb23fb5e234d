"""A stream gives the committed steps of a run as they happen, and leaving it early pauses the run."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from driving import Draft, Maker, close, columns, doing, go, grow, pull, size, timed, until, wait_for

from loomc_runner import Budget, NotInStep, NotResumable, RunNotFound, RunStatus, SpecError, spend
from loomc_runner.context import current_scope
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import FakeClock

PAUSED = ("paused", "paused: the consumer of the stream stopped reading")


def standing(make: Maker, run_id: str) -> tuple[str, str | None]:
    """The stored status of a run, and why."""
    run = make.store.get_run(run_id)
    return run.status.value, run.stop_reason


def test_a_step_is_committed_before_it_is_given(make: Maker) -> None:
    """What the consumer has seen is stored already, and nothing beyond it."""
    steps = make(grow, converge_on=until(3)).stream(Draft())

    async def main() -> list[int]:
        stored = []
        for _ in range(3):
            step = await pull(steps)
            assert make.store.steps(steps.run_id)[-1] == step
            stored.append(make.store.get_run(steps.run_id).steps)
        await close(steps)
        return stored

    assert asyncio.run(main()) == [1, 2, 3]


def test_a_stream_gives_every_step_and_then_the_result(make: Maker) -> None:
    """The steps come in order with their states; the result is there when there are no more."""
    steps = make(grow, scorer=size, converge_on=until(3)).stream(Draft())
    assert not steps.result
    assert [(step.step_n, step.parent_n, step.score, step.state) for step in go(steps)] == [
        (0, -1, 1.0, Draft(1)),
        (1, 0, 2.0, Draft(2)),
        (2, 1, 3.0, Draft(3)),
    ]
    assert (steps.result.status, steps.result.state, steps.result.run_id) == ("completed", Draft(3), steps.run_id)


def test_the_id_is_known_before_the_first_step(make: Maker) -> None:
    """A stream has its id from the beginning; its run exists from the first step on."""
    steps = make(grow, converge_on=until(1)).stream(Draft())
    assert make.store.list_runs() == []
    go(steps)
    assert [run.id for run in make.store.list_runs()] == [steps.run_id]


def test_how_a_run_stands_can_be_asked_while_it_works(make: Maker) -> None:
    """`standing` tells steps and money so far; before the first step there is nothing to tell."""

    def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        return grow(draft)

    async def main() -> tuple[int, int]:
        steps = make(step, budget=Budget(usd=9)).stream(Draft())
        assert steps.standing() is None
        await pull(steps)
        ledger = steps.standing()
        await close(steps)
        return ledger.steps, ledger.spent

    assert asyncio.run(main()) == (1, 500_000_000)


# --- leaving it early


async def leave_by_break(stream: Callable[[], Any]) -> None:
    """Break out of the loop over it."""
    if hasattr(steps := stream(), "aclose"):
        async for _ in steps:
            break
    else:
        for _ in steps:
            break


async def leave_by_close(stream: Callable[[], Any]) -> None:
    """Close it, twice."""
    steps = stream()
    await pull(steps)
    await close(steps)
    await close(steps)


async def leave_by_with(stream: Callable[[], Any]) -> None:
    """Leave its `with` block."""
    if hasattr(steps := stream(), "aclose"):
        async with steps:
            await pull(steps)
    else:
        with steps:
            await pull(steps)


async def leave_by_error(stream: Callable[[], Any]) -> None:
    """Leave its `with` block by an error."""
    with suppress(ZeroDivisionError):
        if hasattr(steps := stream(), "aclose"):
            async with steps:
                raise ZeroDivisionError(await pull(steps))
        with steps:
            raise ZeroDivisionError(await pull(steps))


async def leave_in_a_cycle(stream: Callable[[], Any]) -> None:
    """Leave it to the garbage collector."""
    cycle = [stream()]
    await pull(cycle[0])
    cycle.append(cycle)
    del cycle
    gc.collect()


LEAVE = [leave_by_break, leave_by_close, leave_by_with, leave_by_error, leave_in_a_cycle]


@pytest.mark.parametrize("leave", LEAVE)
def test_leaving_early_pauses_the_run(make: Maker, leave: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """However a stream is left, its run is paused at once with the reason, and can be resumed."""
    refine = make(grow, converge_on=until(3))

    async def main() -> None:
        await leave(lambda: refine.stream(Draft(), run_id="r1"))
        assert standing(make, "r1") == PAUSED

    asyncio.run(main())
    assert [step.state.n for step in go(refine.stream(run_id="r1"))] == [2, 3]
    assert make.store.attempts("r1") == []


def test_a_stream_that_was_closed_before_its_first_step_never_began(make: Maker) -> None:
    """Nothing is stored for it, and it does not begin afterwards."""
    steps = make(grow).stream(Draft())
    asyncio.run(close(steps))
    assert go(steps) == []
    assert (make.store.list_runs(), steps.result) == ([], None)


def test_a_closed_stream_has_a_result_and_no_more_steps(make: Maker) -> None:
    """The result says that the run is paused, and where."""

    async def main() -> Any:
        steps = make(grow).stream(Draft())
        await pull(steps)
        await close(steps)
        with pytest.raises(StopAsyncIteration):
            await pull(steps)
        return steps.result

    result = asyncio.run(main())
    assert (result.status, result.stop_reason, result.state, result.steps) == (*PAUSED, Draft(1), 1)


def test_closing_a_stream_that_ended_changes_nothing(make: Maker) -> None:
    """A run that is complete stays complete."""
    steps = make(grow, converge_on=until(1)).stream(Draft(), run_id="r1")
    go(steps)
    before = make.store.get_run("r1")
    asyncio.run(close(steps))
    assert (make.store.get_run("r1"), steps.result.status) == (before, "completed")


def test_a_stream_cannot_be_closed_inside_its_own_step(make: Maker) -> None:
    """It is refused there, as for any generator, and the run goes on."""
    streams: list[Any] = []

    def step(draft: Draft) -> Draft:
        if make.is_async:
            with pytest.raises(RuntimeError, match="already running"):
                streams[0].aclose().send(None)
        else:
            with pytest.raises(RuntimeError, match="already running"):
                streams[0].close()
        return grow(draft)

    streams.append(make(step, converge_on=until(2)).stream(Draft()))
    assert len(go(streams[0])) == 2


def test_a_paused_step_is_not_charged(make: Maker) -> None:
    """The step that was reserved but never began costs nothing when the run goes on."""

    def step(draft: Draft) -> Draft:
        spend(usd=0.25)
        return grow(draft)

    refine = make(step, budget=Budget(usd=9, step_usd=1), converge_on=until(2))
    asyncio.run(leave_by_break(lambda: refine.stream(Draft(), run_id="r1")))
    assert go(refine.stream(run_id="r1"))
    assert [(charge.nano_usd, charge.estimated) for charge in make.store.charges("r1")] == [(250_000_000, False)] * 2


# --- limits and errors


def test_a_limit_ends_the_stream_quietly(make: Maker) -> None:
    """Limits do not raise here; the result tells of them."""
    steps = make(grow, budget=Budget(iterations=2)).stream(Draft())
    assert [step.step_n for step in go(steps)] == [0, 1]
    assert (steps.result.status, steps.result.stop_reason) == ("budget_exhausted", "budget: iterations 2 of 2")


def test_the_steps_own_error_comes_out(make: Maker) -> None:
    """The steps before it have been given; then the error is raised, with its run, and the stream is over."""

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1 + 0 // (1 - draft.n))

    steps, seen = make(step).stream(Draft(), run_id="r1"), []

    async def main() -> None:
        seen.append(await pull(steps))
        with pytest.raises(ZeroDivisionError) as caught:
            await pull(steps)
        assert (caught.value.run_id, caught.value.state) == ("r1", Draft(1))  # type: ignore[attr-defined]
        assert caught.value.__context__ is None

    asyncio.run(main())
    assert (len(seen), go(steps), steps.result.status) == (1, [], "failed")


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration])
def test_an_error_that_ends_iterators_does_not_end_the_stream(make: Maker, error: type[Exception]) -> None:
    """A step that takes one too many from an iterator of its own has failed, and the consumer is told."""

    def step(draft: Draft) -> Draft:
        raise error

    with pytest.raises(RuntimeError, match=error.__name__) as caught:
        go(make(step).stream(Draft(), run_id="r1"))
    assert isinstance(caught.value.__cause__, error)
    assert make.store.get_run("r1").status == "failed"


def test_a_bad_beginning_is_an_error_of_the_first_step(make: Maker) -> None:
    """What cannot begin raises when it should, and leaves nothing behind."""
    with pytest.raises(TypeError, match="Draft"):
        go(make(grow).stream("text"))
    with pytest.raises(RunNotFound, match="r9"):
        go(make(grow).stream(run_id="r9"))
    assert make.store.list_runs() == []


def test_a_stream_needs_a_state_or_an_id(make: Maker) -> None:
    """With neither there is nothing to run, and what changes a run is refused where there is none yet."""
    refine = make(grow)
    with pytest.raises(SpecError, match="nothing to run"):
        refine.stream()
    for options in ({"budget": Budget(usd=1)}, {"force": True}):
        with pytest.raises(SpecError, match="a run that exists"):
            refine.stream(Draft(), **options)


# --- resuming in a stream


def test_a_completed_run_has_no_more_steps(make: Maker) -> None:
    """Its stream is empty, and the result is the stored one."""
    refine = make(grow, converge_on=until(2))
    go(refine(Draft(), run_id="r1"))
    for steps in (refine.stream(run_id="r1"), refine.stream(Draft(), run_id="r1")):
        assert (go(steps), steps.result.state) == ([], Draft(2))


def test_a_stream_resumes_with_more_budget(make: Maker) -> None:
    """`budget=` gives new totals, as in `resume`."""
    refine = make(grow, budget=Budget(iterations=1))
    go(refine.run(Draft(), run_id="r1"))
    steps = refine.stream(run_id="r1", budget=Budget(iterations=3))
    assert columns(go(steps), "step_n", "parent_n") == [(1, 0), (2, 1)]
    assert steps.result.status is RunStatus.BUDGET_EXHAUSTED


def test_a_stream_can_be_forced(make: Maker) -> None:
    """`force=` goes on with a run that stalled."""
    from loomc_runner import Escalate

    refine = make(grow, scorer=lambda _: 1.0, on_stall=Escalate(after=1))
    go(refine.run(Draft(), run_id="r1"))
    with pytest.raises(NotResumable):
        go(refine.stream(run_id="r1"))
    assert columns(go(refine.stream(run_id="r1", force=True)), "step_n") == [(2,)]


# --- what is not the run's


def test_the_consumers_time_is_not_working_time(make: Maker) -> None:
    """A wall clock counts what the steps take, not what happens between them."""
    clock = FakeClock()
    refine = make(doing(lambda: clock.advance(1)), budget=Budget(wall_clock="3s"))

    async def main() -> Any:
        steps = timed(refine, clock).stream(Draft())
        for _ in range(3):
            await pull(steps)
            clock.advance(1000)
        await close(steps)
        return steps.result

    result = asyncio.run(main())
    assert (result.steps, result.elapsed, result.stop_reason) == (3, 3.0, "budget: wall_clock 3 of 3")


def test_the_consumer_is_not_in_a_step(make: Maker) -> None:
    """Between two steps no step is running: money is refused, and a loop that is called is no child."""
    refine = make(grow, converge_on=until(2))

    async def main() -> list[Any]:
        seen, steps = [], refine.stream(Draft())
        for _ in range(2):
            await pull(steps)
            with pytest.raises(NotInStep):
                spend(usd=1)
            result = await wait_for(refine.run(Draft()))
            seen.append((current_scope(), make.store.get_run(result.run_id).parent_run_id))
        await close(steps)
        return seen

    assert asyncio.run(main()) == [(None, None)] * 2


def test_streams_take_turns(make: Maker) -> None:
    """Two streams that are read in turn are two runs, each with its own state and money."""

    def step(draft: Draft) -> Draft:
        spend(usd=draft.n)
        return grow(draft)

    async def main() -> list[Any]:
        refine = make(step, budget=Budget(usd=99))
        streams = [refine.stream(Draft(1)), refine.stream(Draft(10))]
        for _ in range(2):
            for steps in streams:
                await pull(steps)
        for steps in streams:
            await close(steps)
        return [(steps.result.state.n, steps.result.cost_usd) for steps in streams]

    assert asyncio.run(main()) == [(3, 3.0), (12, 21.0)]


def test_a_sync_stream_leaves_nothing_to_the_event_loop(memory: MemoryStore) -> None:
    """A sync stream that is left inside a running event loop leaves no task and no generator behind."""
    refine = Maker(memory, is_async=False)(grow)

    async def main() -> list[Any]:
        for _ in refine.stream(Draft()):
            break
        gc.collect()
        await asyncio.sleep(0)
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert asyncio.run(main(), debug=True) == []
