"""A loop is called like its function, and its runs have ids that can be used again."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from driving import Draft, Maker, go, grow, size, timed, until

from loomc_runner import (
    AsyncLoop,
    Budget,
    BudgetExhausted,
    Done,
    Escalate,
    Loop,
    RunLocked,
    RunMismatch,
    RunStatus,
    SpecError,
    StallError,
    loop,
)
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import FakeClock, FaultyStore

# --- the handle


def test_a_loop_is_called_like_its_function(make: Maker) -> None:
    """The initial state goes in, the final state comes out, of the declared type."""
    assert go(make(grow, converge_on=until(3))(Draft(0, ["a"]))) == Draft(3, ["a"])


def test_the_bare_decorator_makes_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`@loop` needs no options; a sync function gives a Loop, an async one an AsyncLoop, and nothing is written."""
    monkeypatch.chdir(tmp_path)

    @loop
    def refine(draft: Draft) -> Draft:
        return draft

    @loop
    async def refine_async(draft: Draft) -> Draft:
        return draft

    assert (type(refine), type(refine_async)) == (Loop, AsyncLoop)
    assert not list(tmp_path.iterdir())


def test_a_handle_looks_like_its_function() -> None:
    """Name, docstring and the function itself are where tools look for them."""

    def fn(draft: Draft) -> Draft:
        """Make it better."""
        return draft

    refine: Any = loop(tags=["x"])(fn)
    assert (refine.__name__, refine.__doc__, refine.__module__) == ("fn", "Make it better.", __name__)
    assert refine.__wrapped__ is fn
    assert repr(refine) == f"<loop {__name__}:test_a_handle_looks_like_its_function.<locals>.fn>"


def test_attributes_of_a_function_do_not_replace_the_options(memory: MemoryStore) -> None:
    """A function that is a loop already, or has an attribute `spec`, still gets the options it is decorated with."""
    inner: Any = loop(checkpoint=memory, budget=Budget(iterations=2))(grow)
    outer = loop(checkpoint=memory, budget=Budget(iterations=3), name="outer")(inner)
    assert (outer.spec.name, outer.spec.budget) == ("outer", Budget(iterations=3))


def test_with_options_gives_another_loop(make: Maker) -> None:
    """The options that are named change, all others and the loop itself stay."""
    refine = make(grow, converge_on=until(5), tags=["x"])
    other = refine.with_options(converge_on=until(2))
    assert go(other(Draft())).n == 2
    assert go(refine(Draft())).n == 5
    assert (other.spec.tags, other.spec.name, type(other)) == (("x",), "tests:draft", type(refine))


def test_with_options_keeps_the_clock(make: Maker) -> None:
    """A clock that was put into a loop stays in it."""
    clock, refine = FakeClock(), make(grow)
    assert timed(refine, clock).with_options(tags=["x"]).spec.clock is clock


def test_with_options_refuses_what_is_no_option() -> None:
    """A misspelt option is named, together with those there are."""
    with pytest.raises(TypeError, match=r"no option buget; it has budget, "):
        loop(grow).with_options(buget=None)


# --- how it ends


def halting(draft: Draft) -> Draft:
    """Grow to 2 and no further."""
    return Draft(min(draft.n + 1, 2))


def breaking(draft: Draft) -> Draft:
    """Grow to 2, then fail."""
    return Draft(draft.n + 1 + 0 // (2 - draft.n))


ENDS: dict[str, tuple[Any, dict[str, Any], type[Exception]]] = {
    "limit": (grow, {"budget": Budget(iterations=2)}, BudgetExhausted),
    "stall": (halting, {"on_stall": Escalate(after=1)}, StallError),
    "error": (breaking, {}, ZeroDivisionError),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_error_tells_of_its_run(make: Maker, end: str) -> None:
    """What a loop raises carries the run's id, its state and its best state, and says how to go on."""
    step, options, kind = ENDS[end]
    with pytest.raises(kind) as caught:
        go(make(step, scorer=size, **options)(Draft(), run_id="r1"))
    error: Any = caught.value
    assert (error.run_id, error.state, error.best_state) == ("r1", Draft(2), Draft(2))
    there = f" --db {path}" if (path := getattr(make.store, "path", None)) else ""
    assert error.__notes__ == [f'to go on with run r1: resume("r1"), or in the terminal: loomc resume r1{there}']


@pytest.mark.parametrize("end", ENDS)
def test_run_raises_only_the_steps_own_error(make: Maker, end: str) -> None:
    """Limits and stalls are results for `run`; what the step raised is raised."""
    step, options, kind = ENDS[end]
    refine = make(step, scorer=size, **options)
    if end == "error":
        with pytest.raises(kind):
            go(refine.run(Draft(), run_id="r1"))
    else:
        assert go(refine.run(Draft(), run_id="r1")).state == Draft(2)
    assert make.store.get_run("r1").status in {"budget_exhausted", "stalled", "failed"}


class ClosedError(Exception):
    """An error that takes no attributes and no notes."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        if name != "__traceback__":
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_an_error_that_cannot_carry_anything_is_still_raised(make: Maker) -> None:
    """The step's own error comes out, whatever class it is of."""

    def step(draft: Draft) -> Draft:
        raise ClosedError

    with pytest.raises(ClosedError) as caught:
        go(make(step)(Draft(), run_id="r1"))
    assert not hasattr(caught.value, "run_id")
    assert make.store.get_run("r1").stop_reason == "failed: ClosedError"


def test_an_error_whose_message_is_broken_is_still_recorded(make: Maker) -> None:
    """An error that cannot be shown as text fails the run like any other."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def step(draft: Draft) -> Draft:
        raise BrokenError

    with pytest.raises(BrokenError):
        go(make(step)(Draft(), run_id="r1"))
    assert make.store.get_run("r1").stop_reason == "failed: BrokenError: its message cannot be shown"


def test_without_a_budget_a_safety_cap_holds(memory: MemoryStore) -> None:
    """A loop that nobody limits ends after 1,000 iterations, and the reason says why."""
    result = Maker(memory, is_async=False)(grow).run(Draft())
    assert (result.status, result.state.n) == (RunStatus.BUDGET_EXHAUSTED, 1000)
    assert result.stop_reason == "budget: iterations 1000 of 1000 (the safety cap: this loop has no budget)"


def test_an_empty_budget_is_no_limit(memory: MemoryStore) -> None:
    """`Budget()` lifts the safety cap."""
    assert Maker(memory, is_async=False)(grow, budget=Budget(), converge_on=until(1001))(Draft()).n == 1001


# --- a run that exists


def test_a_completed_run_gives_its_result_again(make: Maker) -> None:
    """The stored result comes back and nothing is executed."""
    calls: list[int] = []

    def step(draft: Draft) -> Draft | Done[Draft, Any]:
        calls.append(draft.n)
        return Done(grow(draft), result={"good": True}) if draft.n == 2 else grow(draft)

    refine = make(step, scorer=size)
    first = go(refine.run(Draft(), run_id="r1"))
    assert replace(go(refine.run(Draft(), run_id="r1")), elapsed=first.elapsed) == first
    assert go(refine(Draft(), run_id="r1")) == Draft(3)
    assert calls == [0, 1, 2]


def test_a_failed_run_goes_on(make: Maker) -> None:
    """The same id with the same state goes on from the last committed step."""
    broken = [True]

    def step(draft: Draft) -> Draft:
        if draft.n == 2 and broken:
            broken.clear()
            raise ConnectionError
        return grow(draft)

    refine = make(step, converge_on=until(4))
    with pytest.raises(ConnectionError):
        go(refine(Draft(), run_id="r1"))
    assert go(refine(Draft(), run_id="r1")) == Draft(4)
    assert (make.store.get_run("r1").steps, make.store.get_run("r1").resumes) == (4, 1)


def test_a_run_at_work_is_locked(make: Maker) -> None:
    """A run that is under way, here from inside its own step, is not begun a second time."""
    refused: list[str] = []

    def step(draft: Draft) -> Draft:
        for verb, argument in ((partial(again, run_id="r1"), draft), (again.resume, "r1")):
            with pytest.raises(RunLocked, match="r1") as caught:
                verb(argument)
            refused.append(str(caught.value))
        return grow(draft)

    again = Maker(make.store, is_async=False)(step)
    refine = again.with_options(converge_on=until(1))
    assert refine(Draft(), run_id="r1") == Draft(1)
    assert len(refused) == 2


def test_an_id_that_is_taken_meanwhile_is_refused(make: Maker) -> None:
    """Of two that begin a run under one id at once, the second is told, and overwrites nothing."""
    refine = make(grow, converge_on=until(2))
    first = Maker(make.store, is_async=False)(grow, converge_on=until(2))
    meanwhile = FaultyStore(make.store, at=1, act=lambda: first(Draft(1), run_id="r1"))
    with pytest.raises(RunLocked, match="r1"):
        go(refine.with_options(checkpoint=meanwhile)(Draft(), run_id="r1"))
    assert make.store.state("r1", -1) == '{"n":1,"words":[]}'


def test_another_initial_state_is_refused(make: Maker) -> None:
    """An id that stands for another beginning is not silently resumed, and the run is left as it is."""
    refine = make(grow, converge_on=until(2))
    go(refine(Draft(), run_id="r1"))
    before = make.store.get_run("r1")
    with pytest.raises(RunMismatch, match="another state"):
        go(refine(Draft(1), run_id="r1"))
    assert make.store.get_run("r1") == before


def test_another_loop_is_refused(make: Maker) -> None:
    """A run is resumed by its own loop only, also when it is complete."""
    go(make(grow, converge_on=until(2), name="theirs")(Draft(), run_id="r1"))
    refine = make(grow, name="ours")
    for verb in (partial(refine, Draft()), refine.resume, refine.stream):
        with pytest.raises(RunMismatch, match="belongs to theirs, not to ours"):
            go(verb(run_id="r1"))


@pytest.mark.parametrize("run_id", ["", "a b", "-x", "../x", "é", "x" * 129, "a\n", 7, b"r1", Path("r1")])
def test_a_bad_id_is_refused(make_in_memory: Maker, run_id: Any) -> None:
    """What cannot be typed in a terminal or stand in a path is no id, and nothing is stored under it."""
    refine = make_in_memory(grow)
    for verb in (refine, refine.run, refine.stream):
        with pytest.raises(SpecError, match="run_id="):
            go(verb(Draft(), run_id=run_id))
    assert not make_in_memory.store.list_runs()


@pytest.mark.parametrize("run_id", ["r", "A-1_b.c", "7", "x" * 128])
def test_a_good_id_is_taken_as_it_is(make_in_memory: Maker, run_id: str) -> None:
    """Letters, digits, dots, dashes and underscores make an id."""
    assert go(make_in_memory(grow, converge_on=until(1)).run(Draft(), run_id=run_id)).run_id == run_id


def test_ids_are_made_where_none_is_given(make: Maker) -> None:
    """Every call begins a run of its own, with 12 hexadecimal digits."""
    refine = make(grow, converge_on=until(1))
    ids = {go(refine.run(Draft())).run_id for _ in range(3)}
    assert len(ids) == 3
    assert {len(run_id) for run_id in ids if int(run_id, 16) >= 0} == {12}


# --- where a sync loop works


def test_a_sync_loop_works_inside_a_running_event_loop(make: Maker) -> None:
    """A sync loop needs no event loop, and is not disturbed by one; its stream is neither."""
    refine = Maker(make.store, is_async=False)(grow, converge_on=until(3))

    async def main() -> tuple[int, int]:
        return refine(Draft()).n, [step.state.n for step in refine.stream(Draft())][-1]

    assert asyncio.run(main()) == (3, 3)


def test_loops_run_side_by_side_in_threads(make: Maker) -> None:
    """Threads run the same loop at once, each its own run."""
    refine = make(grow, converge_on=until(3))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: go(refine.run(Draft(n))), (0, 1, 2) * 3))
    assert [(result.state.n, result.steps) for result in results] == [(3, 3), (3, 2), (3, 1)] * 3
    assert len({result.run_id for result in results}) == 9
