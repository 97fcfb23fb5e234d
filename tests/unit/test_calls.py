"""Durable calls: what a step has done through `@tool` and `call` is recorded, and not done a second time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from driving import Draft, Maker, columns, dying, go, grow, until, wait_for
from pydantic import BaseModel

from loomc_runner import (
    AnswerRefused,
    Budget,
    BudgetExhausted,
    CallError,
    CircuitOpenError,
    Done,
    Retry,
    RunStatus,
    SpecError,
    StateError,
    WaitingForAnswer,
    call,
    circuit_breaker,
    loop,
    spend,
    tool,
)
from loomc_runner.records import CallStatus
from loomc_runner.store import Store, finish
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite

CENT = 10_000_000
DONE, FAILED, STARTED = CallStatus.DONE, CallStatus.FAILED, CallStatus.STARTED
QUICK = Retry(attempts=3, wait=0)


class Report(BaseModel):
    """A result with fields."""

    title: str
    when: datetime | None = None


@dataclass
class Point:
    """A result, or an argument."""

    x: int
    y: int = 0


class Tally:
    """Counts executions in a file, which no death undoes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def __call__(self, word: object = "x") -> None:
        """Note an execution."""
        with self.path.open("a") as file:
            file.write(f"{word}\n")

    @property
    def words(self) -> list[str]:
        """What was executed, in order."""
        return self.path.read_text().split()


class Kit:
    """Makes tools and loops that are all sync or all async; a step is written once, as `async def`."""

    def __init__(self, store: Store, *, is_async: bool) -> None:
        self.store, self.is_async = store, is_async

    def tool(self, fn: Callable[..., Any], **options: Any) -> Any:
        """A function whose calls are durable."""
        return tool(**options)(as_async(fn) if self.is_async else fn)

    def plain(self, fn: Callable[..., Any]) -> Any:
        """A function, for `call`."""
        return as_async(fn) if self.is_async else fn

    def loop(self, step: Callable[[Draft], Awaitable[Any]], **options: Any) -> Any:
        """A loop that takes one step, unless told otherwise."""

        async def waiting(draft: Draft) -> Any:
            return await step(draft)

        def plain(draft: Draft) -> Any:
            return finish(step(draft))

        options = {"checkpoint": self.store, "name": "tests:calls", "converge_on": until(1), **options}
        return loop(**options)(waiting if self.is_async else plain)

    def calls(self, *names: str) -> list[tuple[Any, ...]]:
        """What is on record of the calls of run r1."""
        return columns(self.store.calls("r1"), *names)


def as_async(fn: Callable[..., Any]) -> Any:
    """The same function as an `async def`, whatever it takes."""

    @functools.wraps(fn)
    async def waiting(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return fn(*args, **kwargs)

    return waiting


def failing(times: int, error: Exception, step: Callable[[Draft], Awaitable[Any]]) -> Callable[[Draft], Awaitable[Any]]:
    """A step that fails at its end, as often as it is told."""
    left = [error] * times

    async def failing_step(draft: Draft) -> Any:
        state = await step(draft)
        if left:
            raise left.pop()
        return state

    return failing_step


def keep(word: Any) -> Callable[[Draft], Draft]:
    """What a step leaves that has learned a word."""
    return lambda draft: Draft(draft.n + 1, [*draft.words, str(word)])


@pytest.fixture
def kit(make: Maker) -> Kit:
    """Tools and loops of both kinds, over stores of both kinds."""
    return Kit(make.store, is_async=make.is_async)


@pytest.fixture(params=["sync", "async"])
def fast(request: pytest.FixtureRequest, memory: MemoryStore) -> Kit:
    """Tools and loops of both kinds, where the store makes no difference."""
    return Kit(memory, is_async=request.param == "async")


@pytest.fixture(params=["sync", "async"])
def mortal(request: pytest.FixtureRequest, disk: SQLite) -> Kit:
    """Tools and loops of both kinds whose runs outlive their process."""
    return Kit(disk, is_async=request.param == "async")


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    """A count of executions."""
    return Tally(tmp_path / "tally")


def twice(kit: Kit, body: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What the body of a step gives when its step is tried twice, and a third time by a resume."""
    seen: list[Any] = []

    async def step(draft: Draft) -> Draft:
        seen.append(await body())
        if len(seen) < 3:
            raise ConnectionError("gone" if len(seen) == 1 else "still gone")
        return grow(draft)

    refine = kit.loop(step, retry=Retry(attempts=2, wait=0))
    with pytest.raises(ConnectionError, match="still gone"):
        go(refine(Draft(), run_id="r1"))
    go(refine.resume("r1"))
    return seen


# --- outside of a loop


def test_outside_of_a_loop_it_is_the_plain_function() -> None:
    """Nothing is recorded or required: arguments and results may be anything, and the function looks like itself."""

    @tool(once=True, retry=None)
    def both(a: object, b: object = 2) -> Any:
        """Give both."""
        return a, b

    marker = object()
    assert both(marker, b=marker) == (marker, marker)
    assert call(both.__wrapped__, marker) == (marker, 2)  # type: ignore[attr-defined]
    assert (both.__name__, both.__doc__) == ("both", "Give both.")


async def _later(n: int) -> int:
    return n + 1


def test_outside_of_a_loop_async_functions_and_methods_are_plain_too() -> None:
    """They are awaited, and called through their instances, as ever."""

    class Client:
        def __init__(self, n: int) -> None:
            self.n = n

        @tool
        def add(self, n: int) -> int:
            return self.n + n

    assert asyncio.iscoroutinefunction(tool(_later))
    assert asyncio.run(tool(_later)(1)) == asyncio.run(call(_later, 1)) == 2
    assert Client(3).add(4) == call(Client(3).add, 4) == 7


# --- what is recorded


def test_a_call_leaves_a_row(kit: Kit) -> None:
    """Its name, number, status, result, duration and what was spent inside it; numbered in the order of the calls."""

    def paid(n: int) -> int:
        spend(usd=n / 100)
        time.sleep(0.002)
        return n * 2

    paying = kit.tool(paid)

    async def step(draft: Draft) -> Draft:
        spend(usd=1)
        assert await wait_for(paying(1)) == 2
        assert await wait_for(paying(2)) == 4
        return grow(draft)

    began = datetime.now(UTC)
    go(kit.loop(step)(Draft(), run_id="r1"))
    name = "test_calls.test_a_call_leaves_a_row.<locals>.paid"
    assert kit.calls("step_n", "seq", "name", "status", "result", "nano_usd", "error", "outer") == [
        (0, 0, name, DONE, "2", CENT, None, None),
        (0, 1, name, DONE, "4", 2 * CENT, None, None),
    ]
    for row in kit.store.calls("r1"):
        assert 0.002 <= row.duration < 1
        assert began <= row.started_at <= datetime.now(UTC)


def test_an_error_is_recorded_with_its_category(kit: Kit) -> None:
    """And with what was spent before; it reaches the step as it is."""
    gone = ConnectionError("gone")

    def fail() -> None:
        spend(usd=0.01)
        raise gone

    failing_tool = kit.tool(fail, name="lookup")

    async def step(draft: Draft) -> Draft:
        with pytest.raises(ConnectionError) as caught:
            await wait_for(failing_tool())
        assert caught.value is gone
        return grow(draft)

    go(kit.loop(step)(Draft(), run_id="r1"))
    assert kit.calls("name", "status", "result", "error", "category", "nano_usd") == [
        ("lookup", FAILED, None, "ConnectionError: gone", "transient", CENT)
    ]


def test_a_call_is_on_record_while_it_runs(kit: Kit) -> None:
    """That it began is stored before the function is called."""
    watching = kit.tool(lambda: kit.calls("seq", "status"))

    async def step(draft: Draft) -> Draft:
        assert await wait_for(watching()) == [(0, STARTED)]
        return grow(draft)

    with pytest.raises(StateError, match="annotate what the function returns"):  # tuples are not JSON
        go(kit.loop(step)(Draft(), run_id="r1"))


def test_a_call_inside_a_call_names_the_outer_one(kit: Kit) -> None:
    """What is spent inside counts for both."""
    inner = tool(name="inner")(lambda: spend(usd=0.01))
    outer = kit.tool(lambda: inner(), name="outer")

    async def step(draft: Draft) -> Draft:
        await wait_for(outer())
        inner()
        return grow(draft)

    go(kit.loop(step)(Draft(), run_id="r1"))
    assert kit.calls("name", "outer", "nano_usd") == [
        ("outer", None, CENT),
        ("inner", 0, CENT),
        ("inner", None, CENT),
    ]


def test_the_steps_own_calls_are_recorded_by_step(fast: Kit) -> None:
    """The same call in another step is another call."""
    counting = fast.tool(lambda: 1, name="count")

    async def step(draft: Draft) -> Draft:
        await wait_for(counting())
        return grow(draft)

    go(fast.loop(step, converge_on=until(3))(Draft(), run_id="r1"))
    assert fast.calls("step_n", "seq") == [(0, 0), (1, 0), (2, 0)]


def test_a_scorer_may_make_calls(kit: Kit, tally: Tally) -> None:
    """They belong to the step that is scored."""

    @tool(name="grade")
    def grade(n: int) -> float:
        tally()
        return n / 2

    async def step(draft: Draft) -> Draft:
        return grow(draft)

    result = go(kit.loop(step, scorer=lambda draft: grade(draft.n)).run(Draft(), run_id="r1"))
    assert (result.best_score, kit.calls("step_n", "name", "result")) == (0.5, [(0, "grade", "0.5")])
    assert len(tally.words) == 1


# --- replay


def give_model() -> Report:
    """A model."""
    return Report(title="t", when=datetime(2026, 1, 2, tzinfo=UTC))


def give_point() -> Point:
    """A dataclass."""
    return Point(1, 2)


def give_models() -> list[Report]:
    """Several models."""
    return [Report(title="a"), Report(title="b")]


def give_time() -> datetime:
    """A moment."""
    return datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def give_nothing() -> None:
    """Nothing."""


def give_json() -> Any:
    """Plain JSON, declared as anything."""
    return {"a": [1, 2.5, None, "ü\ud83d\ude00"[:1]]}


def give_tuple() -> tuple[int, str]:
    """What JSON has no word for."""
    return 1, "a"


@pytest.mark.parametrize("give", [give_model, give_point, give_models, give_time, give_nothing, give_json, give_tuple])
def test_a_result_comes_back_as_its_type(kit: Kit, tally: Tally, give: Callable[[], Any]) -> None:
    """On a retried step and after a resume the call gives what it gave, of the declared type, and is not executed."""

    def counted() -> Any:
        tally()
        return give()

    counted.__annotations__ = give.__annotations__
    giving = kit.tool(counted, name="give")
    seen = twice(kit, lambda: wait_for(giving()))
    assert seen == [give()] * 3
    assert [type(value) for value in seen] == [type(give())] * 3
    assert len(tally.words) == 1
    assert kit.calls("status") == [(DONE,)]


def test_call_replays_functions_of_others(kit: Kit, tally: Tally) -> None:
    """`call` does the same for a function without a decorator, by its annotations."""

    def counted(x: int) -> Point:
        tally()
        return Point(x)

    fn = kit.plain(counted)
    assert twice(kit, lambda: wait_for(call(fn, 3))) == [Point(3)] * 3
    assert len(tally.words) == 1


def test_a_completed_call_survives_a_death(mortal: Kit, tally: Tally) -> None:
    """`kill -9` after a call: the resumed step has its result, and it was executed once."""

    def counted(word: str) -> str:
        tally(word)
        return word.upper()

    shout = mortal.tool(counted)

    async def step(draft: Draft) -> Draft:
        first = await wait_for(shout("a"))
        tally("try")
        if tally.words.count("try") < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return keep(first + await wait_for(shout("b")))(draft)

    refine = mortal.loop(step)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    assert dying(lambda: go(refine.resume("r1"))) == signal.SIGKILL
    assert go(refine.resume("r1")).words == ["AB"]
    assert tally.words == ["a", "try", "try", "try", "b"]


def test_a_call_that_was_cut_off_runs_again(mortal: Kit, tally: Tally) -> None:
    """Its money stays spent, its first row stays `started`, and the second one has the result."""

    def counted() -> int:
        tally()
        spend(usd=0.01)
        if len(tally.words) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(tally.words)

    counting = mortal.tool(counted)

    async def step(draft: Draft) -> Draft:
        return keep(await wait_for(counting()))(draft)

    refine = mortal.loop(step)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    assert go(refine.resume("r1")).words == ["2"]
    assert mortal.calls("seq", "status", "result") == [(0, STARTED, None), (1, DONE, "2")]
    assert mortal.store.get_run("r1").cost_usd == 0.02


def test_a_failed_call_runs_again_when_the_step_is_tried_again(kit: Kit, tally: Tally) -> None:
    """Recorded errors are not replayed."""

    def counted() -> int:
        tally()
        if len(tally.words) == 1:
            raise ConnectionError("gone")
        return len(tally.words)

    counting = kit.tool(counted)

    async def step(draft: Draft) -> Draft:
        return keep(await wait_for(counting()))(draft)

    assert go(kit.loop(step, retry=QUICK)(Draft(), run_id="r1")).words == ["2"]
    assert kit.calls("seq", "status") == [(0, FAILED), (1, DONE)]


def test_the_result_of_an_outer_call_stands_for_the_inner_ones(kit: Kit, tally: Tally) -> None:
    """A replayed call does not make the calls inside it, and nobody misses them."""

    @tool
    def inner(n: int) -> int:
        tally(f"inner{n}")
        return n

    def counted() -> int:
        tally("outer")
        return inner(1) + inner(2)

    outer = kit.tool(counted)
    assert twice(kit, lambda: wait_for(outer())) == [3, 3, 3]
    assert tally.words == ["outer", "inner1", "inner2"]
    assert kit.store.get_run("r1").notes == ()


def test_calls_inside_of_a_call_are_counted_by_themselves(kit: Kit, tally: Tally) -> None:
    """A call of the step keeps its own result, also when an equal one inside a replayed call is not made again."""

    @tool
    def number() -> int:
        tally()
        return len(tally.words)

    outer = kit.tool(lambda: number(), name="outer")

    async def body() -> Any:
        return await wait_for(outer()), number(), number()

    assert twice(kit, body) == [(1, 2, 3)] * 3
    assert kit.store.get_run("r1").notes == ()


def test_an_outer_call_that_was_cut_off_replays_the_inner_ones(mortal: Kit, tally: Tally) -> None:
    """What was completed inside it is not executed again."""

    @tool
    def inner() -> int:
        tally("inner")
        return 7

    def outer_body() -> int:
        n = inner()
        tally("outer")
        if tally.words.count("outer") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    outer = mortal.tool(outer_body)

    async def step(draft: Draft) -> Draft:
        return keep(await wait_for(outer()))(draft)

    refine = mortal.loop(step)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    assert go(refine.resume("r1")).words == ["7"]
    assert tally.words == ["inner", "outer", "outer"]


def test_a_child_loop_inside_a_tool_runs_once(kit: Kit, tally: Tally) -> None:
    """Its result is that of the tool; its money is the run's."""

    def child_step(draft: Draft) -> Draft:
        tally()
        spend(usd=0.5)
        return grow(draft)

    child = loop(name="child", checkpoint=kit.store, converge_on=until(2))(child_step)

    def run_child() -> Draft:
        result: Draft = child(Draft())
        return result

    running = kit.tool(run_child)
    assert twice(kit, lambda: wait_for(running())) == [Draft(2)] * 3
    assert len(tally.words) == 2
    assert kit.store.subtree("r1")[0] == 100 * CENT
    assert kit.calls("nano_usd", "status") == [(100 * CENT, DONE)]
    assert [run.status for run in kit.store.list_runs(parent="r1")] == [RunStatus.COMPLETED]


def test_a_childs_own_limit_is_an_ordinary_error_of_a_call(kit: Kit) -> None:
    """The call has failed, and is not in doubt."""
    child = loop(name="child", checkpoint=kit.store, budget=Budget(iterations=1))(grow)
    running = kit.tool(lambda: child(Draft()), once=True)

    async def step(draft: Draft) -> Draft:
        await wait_for(running())
        return draft

    with pytest.raises(BudgetExhausted):
        go(kit.loop(step)(Draft(), run_id="r1"))
    assert (kit.store.get_run("r1").status, kit.calls("status")) == (RunStatus.FAILED, [(FAILED,)])


def test_a_step_that_goes_another_way_is_noted(kit: Kit) -> None:
    """Results that nobody asked for on replay are named in a note of the run."""
    find = kit.tool(lambda n: n, name="find")
    ways = [1, 2]

    async def step(draft: Draft) -> Draft:
        way = ways.pop(0)
        await wait_for(find(way))
        if way == 1:
            raise ConnectionError
        return grow(draft)

    go(kit.loop(step, retry=QUICK)(Draft(), run_id="r1"))
    assert kit.store.get_run("r1").notes == ("step 0 went another way: recorded results of find were not asked for",)


def test_the_cost_of_a_replayed_call_counts_as_known(kit: Kit) -> None:
    """A step whose money was spent by an earlier try is not called unpriced, also under a strict budget."""
    paid = kit.tool(lambda: spend(usd=0.01), name="pay")
    seen: list[int] = []

    async def step(draft: Draft) -> Draft:
        await wait_for(paid())
        seen.append(1)
        if len(seen) == 1:
            raise ConnectionError
        return grow(draft)

    result = go(kit.loop(step, retry=QUICK, budget=Budget(usd=1, strict=True)).run(Draft(), run_id="r1"))
    assert (result.status, result.cost_usd) == (RunStatus.COMPLETED, 0.01)


# --- what a call is known by


def test_equal_calls_are_told_apart_by_their_occurrence(kit: Kit, tally: Tally) -> None:
    """Three equal calls are three executions, and each gets its own result again."""

    def counted() -> int:
        tally()
        return len(tally.words)

    counting = kit.tool(counted)

    async def body() -> list[int]:
        return [await wait_for(counting()) for _ in range(3)]

    assert twice(kit, body) == [[1, 2, 3]] * 3
    assert len(tally.words) == 3


def test_the_same_arguments_however_they_are_given(kit: Kit) -> None:
    """By position, by name or by default: it is the same call."""
    ways: Iterator[Callable[[], Any]] = iter(
        [
            lambda: add(1, 2),
            lambda: add(b=2, a=1),
            lambda: add(1),
        ]
    )
    add = kit.tool(lambda a, b=2: a + b, name="add")
    assert twice(kit, lambda: wait_for(next(ways)())) == [3, 3, 3]
    assert kit.calls("seq") == [(0,)]


def test_other_arguments_are_another_call(fast: Kit) -> None:
    """Also where they are only of another type."""
    values = [1, 1.0, True, "1", None, [1], {"a": 1}]
    show = fast.tool(lambda value: repr(value), name="show")

    async def body() -> list[str]:
        shown = [await wait_for(show(value)) for value in values]
        random.shuffle(values)
        return sorted(shown)

    assert twice(fast, body) == [sorted(map(repr, values))] * 3
    assert len(fast.calls("seq")) == len(values)


def test_a_key_of_call_stands_for_the_arguments(kit: Kit, tally: Tally) -> None:
    """It is known by the key once in a step, whatever its arguments are."""

    def counted(thing: object) -> int:
        tally()
        return len(tally.words)

    fn = kit.plain(counted)

    async def body() -> tuple[int, ...]:
        return (
            await wait_for(call(fn, object(), key="a")),
            await wait_for(call(fn, object(), key="b")),
            await wait_for(call(fn, object(), key="a")),
        )

    assert twice(kit, body) == [(1, 2, 1)] * 3


def test_a_key_of_tool_is_a_function_of_the_arguments(kit: Kit, tally: Tally) -> None:
    """It gets them as the function does."""

    def counted(thing: object, *, name: str) -> int:
        tally()
        return len(tally.words)

    counting = kit.tool(counted, key=lambda thing, name: name)

    async def body() -> tuple[int, ...]:
        return await wait_for(counting(object(), name="a")), await wait_for(counting(object(), name="b"))

    assert twice(kit, body) == [(1, 2)] * 3


@pytest.mark.parametrize("key", [1, b"a", None])
def test_a_key_is_a_text(memory: MemoryStore, key: Any) -> None:
    """A key function that gives something else is told so."""
    keyed = tool(key=lambda: key)(lambda: 1)
    if key is None:  # it knows no better: by the arguments
        assert loop(checkpoint=memory, converge_on=until(1))(_doing(keyed))(Draft()).n == 1
        return
    with pytest.raises(SpecError, match=r"key=.* give a text"):
        loop(checkpoint=memory)(_doing(keyed))(Draft())


def _doing(act: Callable[[], object]) -> Any:
    def step(draft: Draft) -> Draft:
        act()
        return grow(draft)

    return step


def _yields() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "make_value",
    [
        object,
        lambda: max,
        lambda: {1, object()},
        _yields,
        lambda: iter([1]),
        lambda: {object(): 1},
        lambda: {1: 1, "a": 2},
    ],
    ids=["object", "lambda", "set", "generator", "iterator", "key", "keys"],
)
def test_arguments_that_are_not_json_need_a_key(fast: Kit, make_value: Callable[[], Any]) -> None:
    """The error names the function and the way out; nothing is executed, and an iterator is not used up."""
    value, take = make_value(), fast.tool(lambda value: 1, name="app.take")

    async def step(draft: Draft) -> Draft:
        await wait_for(take(value))
        return grow(draft)

    with pytest.raises(SpecError, match=r'arguments of app\.take are not JSON.*call\(take, \.\.\., key="\.\.\."\)'):
        go(fast.loop(step)(Draft(), run_id="r1"))
    assert fast.calls("seq") == []
    if isinstance(value, Iterator):
        assert list(value) == [1]


def test_a_first_argument_that_happens_to_be_called_cls_counts(kit: Kit) -> None:
    """Only methods have a first argument that is none."""

    def predict(cls: str) -> str:
        return cls

    predicting, words = kit.tool(predict), ["a", "b"]

    async def body() -> set[str]:
        found = {word: await wait_for(predicting(word)) for word in words}
        words.reverse()
        assert all(word == answer for word, answer in found.items())
        return set(found)

    assert twice(kit, body) == [{"a", "b"}] * 3


SCRIPT = """
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta, UTC
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID
from pydantic import BaseModel
from loomc_runner import loop, tool, call, Budget
from loomc_runner.store.sqlite import SQLite

class Kind(Enum):
    A = "a"

class Model(BaseModel):
    names: set[str]
    inner: "Model | None" = None

@dataclass(frozen=True)
class Data:
    names: frozenset[str]

WORDS = set("the quick brown fox jumps over the lazy dog".split())

@tool
def take(*args, **kwargs) -> int:
    print("executed")
    return 1

def other(data: Data) -> int:
    print("executed")
    return 2

@loop(checkpoint=SQLite(sys.argv[1]), budget=Budget(iterations=1))
def main(state: int) -> int:
    take(WORDS, frozenset(WORDS), {"b": WORDS, "a": [WORDS]}, z=1, a=2)
    take(Model(names=WORDS, inner=Model(names=WORDS)), Data(frozenset(WORDS)), {Data(frozenset(WORDS))})
    take(date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), timedelta(1), Decimal("1.10"), Kind.A, Path("x"), b"\\xff")
    take(UUID(int=7), {1: 2}, (1, (2, 3)), range(3).start)
    call(other, Data(frozenset(WORDS)))
    if "fail" in sys.argv:
        raise OSError("gone")
    return state + 1

def run():
    if "fail" in sys.argv:
        main.run(0, run_id="r1")
    else:
        main.resume("r1") if "resume" in sys.argv else None

if __name__ == "__main__":
    run()
"""


def test_arguments_are_the_same_in_every_process(tmp_path: Path, folder: Path) -> None:
    """Sets, models, dataclasses and dates: with other hashes, and run as a script or imported, they are equal calls."""
    (tmp_path / "script.py").write_text(SCRIPT)
    database = str(folder / f"{tmp_path.name}-script.db")

    def life(seed: str, *command: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(__file__).parents[2])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
        command = (sys.executable, *command)
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)

    first = life("1", "script.py", database, "fail")
    assert first.stdout.count("executed") == 5, first.stderr
    assert "OSError: gone" in first.stderr
    second = life("2", "-c", "import script; script.run()", database, "resume")
    assert (second.returncode, second.stdout) == (1, ""), second.stderr
    assert "BudgetExhausted" in second.stderr  # after its one step
    store = SQLite(database)
    assert columns(store.calls("r1"), "name") == [("script.take",)] * 4 + [("script.other",)]
    assert (store.get_run("r1").steps, store.get_run("r1").notes) == (1, ())
    store.close()


# --- methods, and what else can be called


class Client:
    """A client of some service."""

    def __init__(self, name: str) -> None:
        self.name = name

    @tool
    def get(self, path: str) -> str:
        """A method."""
        return f"{self.name}/{path}"

    @classmethod
    @tool
    def build(cls, path: str) -> str:
        """A method of the class."""
        return f"{cls.__name__}:{path}"

    @staticmethod
    @tool
    def clean(path: str) -> str:
        """A function of the class."""
        return path.strip()

    def plain(self, path: str) -> str:
        """A method without a decorator."""
        return self.name + path

    @classmethod
    def make(cls, path: str) -> str:
        """A method of the class without one."""
        return cls.__name__ + path

    @tool
    async def fetch(self, path: str) -> str:
        """An async method."""
        await asyncio.sleep(0)
        return f"{self.name}/{path}"


METHODS: list[tuple[Callable[[], Any], str]] = [
    (lambda: Client("a").get("x"), "a/x"),
    (lambda: Client.get(Client("a"), "x"), "a/x"),
    (lambda: Client.build("x"), "Client:x"),
    (lambda: Client("a").build("x"), "Client:x"),
    (lambda: Client.clean(" x "), "x"),
    (lambda: Client("a").clean(" x "), "x"),
    (lambda: call(Client("a").get, "x"), "a/x"),
    (lambda: call(Client("a").plain, "x"), "ax"),
    (lambda: call(Client("a").plain, path="x"), "ax"),
    (lambda: call(Client.plain, Client("a"), "x"), "ax"),
    (lambda: call(Client.make, "x"), "Clientx"),
    (lambda: call(functools.partial(Client("a").plain, "x")), "ax"),
    (lambda: call(functools.partial(functools.partial(max, 3), 2), 1), 3),
    (lambda: call(functools.partial(int, base=2).func.from_bytes, [1]), 1),
    (lambda: call(len, [1, 2]), 2),
    (lambda: call(str.upper, "x"), "X"),
]


@pytest.mark.parametrize("number", range(len(METHODS)))
def test_methods_and_partials_are_functions_too(memory: MemoryStore, number: int) -> None:
    """Whatever is called through its instance or its class, `self` is no argument, and the result is replayed."""
    make_call, expected = METHODS[number]
    kit = Kit(memory, is_async=False)

    async def body() -> Any:
        return make_call()

    assert twice(kit, body) == [expected] * 3
    assert kit.calls("seq", "status") == [(0, DONE)]


def test_async_methods_are_durable(memory: MemoryStore) -> None:
    """They are awaited, with `call` too."""
    kit = Kit(memory, is_async=True)

    async def body() -> Any:
        return await Client("a").fetch("x"), await call(Client("a").fetch, "y")

    assert twice(kit, body) == [("a/x", "a/y")] * 3
    assert kit.calls("name") == [("test_calls.Client.fetch",)] * 2


@dataclass
class Scale:
    """A function with parameters of its own, which cannot be hashed."""

    by: int

    def __call__(self, n: int) -> Point:
        """Make a point."""
        return Point(n * self.by)


def test_objects_can_be_called(memory: MemoryStore) -> None:
    """By the annotation of their `__call__`; two equal ones are two objects."""
    kit = Kit(memory, is_async=False)

    async def body() -> Any:
        return call(Scale(2), 3), tool(Scale(5))(3)

    assert twice(kit, body) == [(Point(6), Point(15))] * 3
    assert kit.calls("name") == [("test_calls.Scale",)] * 2


def test_a_call_of_a_tool_keeps_its_options(memory: MemoryStore, tally: Tally) -> None:
    """`call(fn)` of a function with `@tool` is a call of that tool."""

    @tool(name="mine", once=True)
    def fail() -> None:
        tally()
        raise ConnectionError("gone")

    step = _doing(lambda: call(fail))
    with pytest.raises(CallError, match=r"mine\(\{\}\) failed before"):
        loop(checkpoint=memory, retry=QUICK)(step)(Draft(), run_id="r1")
    assert len(tally.words) == 1


async def _yields_async() -> Any:
    yield 1


@pytest.mark.parametrize("declare", [tool, call])
@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (_yields, "it yields"),
        (_yields_async, "it yields"),
        (Point, "one of a function"),
        (7, "one of a function"),
        (None, "one of a function"),
        ("text", "one of a function"),
    ],
)
def test_what_is_no_function_with_one_result_is_refused(memory: MemoryStore, declare: Any, fn: Any, words: str) -> None:
    """Generators, classes and values that cannot be called; by `@tool` where they are declared."""
    act = (lambda: tool()(fn)) if declare is tool else lambda: call(fn)
    with pytest.raises(SpecError, match=words):
        loop(checkpoint=memory)(_doing(act))(Draft())


def test_tool_takes_no_partial() -> None:
    """What that holds would be lost on what its calls are known by."""
    with pytest.raises(SpecError, match=r"give the function itself; call\(\.\.\.\) takes a partial"):
        tool(functools.partial(_later, 1))


@pytest.mark.parametrize("wrap", [staticmethod, classmethod])
def test_tool_belongs_below_the_kind_of_method(wrap: Any) -> None:
    """Above it, it would get `self`; the error says where to put it."""
    with pytest.raises(SpecError, match="put @tool below @staticmethod or @classmethod"):
        tool(wrap(lambda *args: 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"once": True, "retry": QUICK}, "once=True forbids"),
        ({"once": 1}, "once=1: give True or False"),
        ({"retry": 3}, r"retry=3: give Retry\(\.\.\.\)"),
        ({"timeout": "soon"}, "not a duration: 'soon'"),
        ({"timeout": 0}, "not 0"),
        ({"key": "k"}, "give a function of the arguments"),
        ({"name": ""}, "give a name of printable characters"),
        ({"name": "a\nb"}, "give a name of printable characters"),
        ({"breaker": 3}, r"breaker=3 .* give circuit_breaker\(\.\.\.\)"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    """Where the function is decorated, with the value."""
    with pytest.raises(SpecError, match=words):
        tool(**options)(grow)


# --- results


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda: object(), "is not JSON"),
        (lambda: {1, 2}, "would not come back"),
        (lambda: float("nan"), "finite"),
        (lambda: Point(1), "would not come back|not JSON"),
        (lambda: (1, 2), "would not come back"),
    ],
)
def test_a_result_that_is_not_json_is_refused(fast: Kit, fn: Callable[[], Any], words: str) -> None:
    """The error names the call and the part, and says what would help; it is the call's recorded error."""
    giving = fast.tool(fn, name="app.give")

    async def step(draft: Draft) -> Draft:
        await wait_for(giving())
        return grow(draft)

    pattern = rf"the result of app\.give\(\{{\}}\) cannot be recorded: .*({words}).*annotate what the function returns"
    with pytest.raises(StateError, match=pattern):
        go(fast.loop(step)(Draft(), run_id="r1"))
    ((status, error),) = fast.calls("status", "error")
    assert (status, "StateError" in error) == (FAILED, True)


def test_a_result_of_another_type_than_declared_is_refused(fast: Kit) -> None:
    """There the annotation is the mistake, and none is asked for."""

    def wrong() -> int:
        return "one"  # type: ignore[return-value]

    giving = fast.tool(wrong)

    async def step(draft: Draft) -> Draft:
        await wait_for(giving())
        return grow(draft)

    with pytest.raises(StateError, match="cannot be recorded") as caught:
        go(fast.loop(step)(Draft()))
    assert "annotate" not in str(caught.value)


def test_an_annotation_that_cannot_be_resolved_spares_the_others(fast: Kit) -> None:
    """The type of a result is known although that of an argument is not."""

    def point(x: Unknown = 1) -> Point:  # type: ignore[name-defined] # noqa: F821
        return Point(x)

    giving = fast.tool(point)
    assert twice(fast, lambda: wait_for(giving())) == [Point(1)] * 3


def test_a_result_annotation_that_cannot_be_resolved_counts_as_none(fast: Kit) -> None:
    """What is JSON by itself is recorded all the same."""

    def number() -> Unknown:  # type: ignore[name-defined] # noqa: F821
        return 1

    giving = fast.tool(number)
    assert twice(fast, lambda: wait_for(giving())) == [1] * 3


def test_a_class_of_the_same_function_may_annotate_a_result(fast: Kit) -> None:
    """Names that are local to where the tool is declared are known."""

    class Local(BaseModel):
        x: int

    @tool
    def local() -> Local:
        return Local(x=1)

    async def body() -> Any:
        return local()

    assert twice(fast, body) == [Local(x=1)] * 3


@pytest.mark.parametrize("fn", [lambda: _yields(), lambda: _later(1), lambda: _yields_async()])
def test_a_function_that_gives_something_unfinished_is_refused(memory: MemoryStore, fn: Callable[[], Any]) -> None:
    """A generator or a coroutine is not a result; it is closed, so that Python does not warn of it."""
    step = _doing(tool(name="app.give")(fn))
    with pytest.raises(StateError, match=r"app\.give\(\{\}\) gave a \w+, which cannot be recorded"):
        loop(checkpoint=memory)(step)(Draft())


def test_a_huge_result_comes_back_whole(kit: Kit) -> None:
    """Five megabytes are not cut, and a file keeps them compressed."""
    text = "".join(random.Random(1).choices("abcdefgh ü", k=1_000_000)) + "x" * 4_000_000
    huge = kit.tool(lambda: text, name="read")
    seen = twice(kit, lambda: wait_for(huge()))
    assert all(value == text for value in seen)
    if isinstance(kit.store, SQLite):
        assert Path(kit.store.path).stat().st_size < 2_000_000


def test_a_changed_annotation_that_no_longer_fits_is_an_error(kit: Kit, tally: Tally) -> None:
    """What was recorded is not executed again for that; the error names the call and the part."""

    async def old(draft: Draft) -> Draft:
        await wait_for(kit.tool(give_point, name="give")())
        raise ValueError("stop")

    def give() -> Report:
        tally()
        return Report(title="t")

    async def new(draft: Draft) -> Draft:
        await wait_for(kit.tool(give, name="give")())
        return grow(draft)

    with pytest.raises(ValueError, match="stop"):
        go(kit.loop(old)(Draft(), run_id="r1"))
    with pytest.raises(
        StateError, match=r"recorded result of give\(\{\}\).*does not fit Report: state\.title"
    ) as caught:
        go(kit.loop(new).resume("r1"))
    assert "migrate" not in str(caught.value)
    assert tally.words == []


# --- threads and tasks


@pytest.mark.parametrize("seed", range(5))
def test_calls_from_threads_get_their_own_results(store: Store, tally: Tally, seed: int) -> None:
    """Threads that carry the context along may come in any order, then and on replay."""
    chance, kit = random.Random(seed), Kit(store, is_async=False)

    @tool
    def square(n: int) -> int:
        tally(n)
        return n * n

    numbers = list(range(12))

    async def body() -> dict[int, int]:
        chance.shuffle(numbers)
        with ThreadPoolExecutor(4) as pool:
            jobs = {n: pool.submit(copy_context().run, square, n) for n in numbers}
        return {n: job.result() for n, job in jobs.items()}

    assert twice(kit, body) == [{n: n * n for n in range(12)}] * 3
    assert sorted(map(int, tally.words)) == list(range(12))
    assert sorted(kit.calls("seq")) == [(n,) for n in range(12)]


@pytest.mark.parametrize("seed", range(5))
def test_calls_from_gather_get_their_own_results(store: Store, tally: Tally, seed: int) -> None:
    """Tasks may be made and may end in any order, then and on replay."""
    chance, kit = random.Random(seed), Kit(store, is_async=True)

    @tool
    async def square(n: int) -> int:
        await asyncio.sleep(chance.random() / 1000)
        tally(n)
        return n * n

    numbers = list(range(12))

    async def body() -> dict[int, int]:
        chance.shuffle(numbers)
        return dict(zip(numbers, await asyncio.gather(*map(square, numbers)), strict=True))

    assert twice(kit, body) == [{n: n * n for n in range(12)}] * 3
    assert sorted(map(int, tally.words)) == list(range(12))


def test_equal_calls_of_gather_get_their_results_by_order(store: Store, tally: Tally) -> None:
    """Whichever ends first, the first of equal ones is the first again."""
    kit = Kit(store, is_async=True)
    waits = [0.01, 0.0, 0.005]

    @tool
    async def number() -> int:
        wait = waits.pop(0)
        await asyncio.sleep(wait)
        tally()
        return int(wait * 1000)

    assert twice(kit, lambda: asyncio.gather(number(), number(), number())) == [[10, 0, 5]] * 3
    assert len(tally.words) == 3


def test_a_key_that_is_running_already_is_refused(memory: MemoryStore) -> None:
    """Two calls at the same time under one key have no result of their own."""
    kit = Kit(memory, is_async=True)

    async def step(draft: Draft) -> Draft:
        await asyncio.gather(call(_slow, 1, key="k"), call(_slow, 2, key="k"))
        return draft

    with pytest.raises(SpecError, match=r"running already; .* keys of their own"):
        go(kit.loop(step)(Draft()))


async def _slow(n: int) -> int:
    await asyncio.sleep(0.01)
    return n


def test_an_async_tool_in_a_sync_step_has_an_event_loop_of_its_own(memory: MemoryStore) -> None:
    """`asyncio.run` takes the step along."""
    kit = Kit(memory, is_async=False)
    later = tool(_later)

    async def body() -> int:
        return 0

    def step(draft: Draft) -> Draft:
        return keep(asyncio.run(later(1)))(draft)

    assert loop(checkpoint=memory, converge_on=until(1))(step)(Draft(), run_id="r1").words == ["2"]
    assert kit.calls("status", "result") == [(DONE, "2")]


def test_an_async_call_that_is_cancelled_runs_again(memory: MemoryStore, tally: Tally) -> None:
    """It has no result, and is executed anew."""
    kit = Kit(memory, is_async=True)

    @tool
    async def slow() -> int:
        tally()
        await asyncio.sleep(9 if len(tally.words) == 1 else 0)
        return len(tally.words)

    async def step(draft: Draft) -> Draft:
        with contextlib.suppress(TimeoutError):
            return keep(await asyncio.wait_for(slow(), 0.02))(draft)
        raise ConnectionError

    assert go(kit.loop(step, retry=QUICK)(Draft(), run_id="r1")).words == ["2"]
    assert kit.calls("status") == [(STARTED,), (DONE,)]


# --- once


def once_step(kit: Kit, tally: Tally, deaths: int) -> Any:
    """A loop whose tool pays once, and whose process dies in the middle of that, as often as it is told."""

    def pay(amount: int) -> Point:
        tally()
        if len(tally.words) <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return Point(amount, len(tally.words))

    paying = kit.tool(pay, once=True, name="pay")

    async def step(draft: Draft) -> Draft:
        return keep(await wait_for(paying(5)))(draft)

    return kit.loop(step)


def test_a_call_in_doubt_waits_for_a_person(mortal: Kit, tally: Tally) -> None:
    """`once=True`, started, no result: the run waits, however often it is resumed, and nothing is executed."""
    refine = once_step(mortal, tally, 1)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    for _ in range(2):
        with pytest.raises(WaitingForAnswer, match=r'pay\(\{"amount": 5\}\).* was started .* result is unknown'):
            go(refine.resume("r1"))
        assert mortal.store.get_run("r1").status is RunStatus.WAITING
    assert len(tally.words) == 1
    assert len(mortal.store.questions("r1")) == 1


def test_a_person_may_have_it_run_again(mortal: Kit, tally: Tally) -> None:
    """Then it is executed once more."""
    refine = once_step(mortal, tally, 1)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))
    refine.answer("r1", {"run_again": True}, by="anna")
    assert go(refine.resume("r1")).words == ["Point(x=5, y=2)"]
    assert mortal.calls("seq", "status") == [(0, STARTED), (1, DONE)]


def test_a_person_may_give_the_result(mortal: Kit, tally: Tally) -> None:
    """It is decoded like any other, kept with the call, and nothing is executed."""
    refine = once_step(mortal, tally, 1)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))
    refine.answer("r1", {"result": {"x": 8, "y": 9}}, by="anna")
    assert go(refine.resume("r1")).words == ["Point(x=8, y=9)"]
    assert len(tally.words) == 1
    ((seq, status, result),) = mortal.calls("seq", "status", "result")
    assert (seq, status, json.loads(result)) == (0, DONE, {"x": 8, "y": 9})


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"run_again": False},
        {"result": {"x": "eight"}},
        {"result": 1},
        True,
        "yes",
        {"run_again": True, "result": 1},
    ],
)
def test_a_wrong_answer_is_refused(disk: SQLite, tally: Tally, answer: Any) -> None:
    """What is no result of the declared type, or says nothing, is no answer; the question stays open."""
    refine = once_step(Kit(disk, is_async=False), tally, 1)
    assert dying(lambda: refine(Draft(), run_id="r1")) == signal.SIGKILL
    with pytest.raises(WaitingForAnswer):
        refine.resume("r1")
    with pytest.raises(AnswerRefused):
        refine.answer("r1", answer, by="anna")
    assert disk.questions("r1")[0].is_open


def test_killed_again_it_asks_again(mortal: Kit, tally: Tally) -> None:
    """A yes is for one execution; the next doubt is another question, also within the same second."""
    refine = once_step(mortal, tally, 2)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    for executed in (1, 2):
        with pytest.raises(WaitingForAnswer):
            go(refine.resume("r1"))
        assert len(tally.words) == executed
        refine.answer("r1", {"run_again": True}, by="anna")
        if executed == 1:
            assert dying(lambda: go(refine.resume("r1"))) == signal.SIGKILL
    assert go(refine.resume("r1")).words == ["Point(x=5, y=3)"]
    assert len(mortal.store.questions("r1")) == 2


def test_equal_calls_in_doubt_are_asked_about_one_by_one(disk: SQLite, tally: Tally) -> None:
    """What was said of one is not said of the next, though both read the same."""
    store = disk

    @tool(once=True, name="pay")
    async def pay() -> int:
        tally()
        if len(tally.words) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.05 if len(tally.words) == 1 else 0)
        return len(tally.words)

    async def step(draft: Draft) -> Draft:
        return keep([await each for each in [asyncio.ensure_future(pay()), asyncio.ensure_future(pay())]])(draft)

    refine = Kit(store, is_async=True).loop(step)
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))
    for question in [q for q in store.questions("r1") if q.is_open][:1]:
        refine.answer("r1", {"run_again": True}, by="anna", question=f"{question.step_n}.{question.seq}")
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))
    assert len(tally.words) == 2 + sum(call.status is DONE for call in store.calls("r1"))
    assert len(tally.words) <= 3


def test_an_error_of_a_once_call_is_final(kit: Kit, tally: Tally) -> None:
    """It is not executed again, not on a retry and not on a resume; what it failed with is told."""

    def fail() -> None:
        tally()
        raise ConnectionError("gone")

    failing_tool = kit.tool(fail, once=True, name="pay")

    async def step(draft: Draft) -> Draft:
        await wait_for(failing_tool())
        return grow(draft)

    refine = kit.loop(step, retry=QUICK)
    for act in (lambda: refine(Draft(), run_id="r1"), lambda: refine.resume("r1")):
        with pytest.raises(CallError, match=r"pay\(\{\}\) failed before, .* ConnectionError: gone"):
            go(act())
    assert len(tally.words) == 1
    assert kit.calls("seq", "status") == [(0, FAILED)]


def test_ctrl_c_in_a_once_call_leaves_it_in_doubt(kit: Kit, tally: Tally) -> None:
    """The run is paused; resumed, it asks, and the answer is for this call only."""

    def pay() -> int:
        tally()
        if len(tally.words) == 1:
            raise KeyboardInterrupt
        return len(tally.words)

    paying = kit.tool(pay, once=True)

    async def step(draft: Draft) -> Draft:
        return keep(f"{await wait_for(paying())}{await wait_for(paying())}")(draft)

    refine = kit.loop(step)
    with pytest.raises(KeyboardInterrupt):
        go(refine(Draft(), run_id="r1"))
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))
    refine.answer("r1", {"result": 7}, by="anna")
    assert go(refine.resume("r1")).words == ["72"]
    assert len(tally.words) == 2


# --- retry, timeout and breaker of a call


def test_a_call_is_tried_again(kit: Kit, tally: Tally) -> None:
    """Transient errors are, one row a try; the step sees the result only, and is not tried again itself."""

    def flaky() -> int:
        tally()
        if len(tally.words) < 3:
            raise ConnectionError(f"try {len(tally.words)}")
        return 7

    trying = kit.tool(flaky, retry=QUICK)

    async def step(draft: Draft) -> Draft:
        return keep(await wait_for(trying()))(draft)

    assert go(kit.loop(step)(Draft(), run_id="r1")).words == ["7"]
    assert kit.calls("seq", "status", "error") == [
        (0, FAILED, "ConnectionError: try 1"),
        (1, FAILED, "ConnectionError: try 2"),
        (2, DONE, None),
    ]
    assert len({key for (key,) in kit.calls("key")}) == 1
    assert kit.store.attempts("r1") == []


@pytest.mark.parametrize(("error", "tries"), [(ConnectionError("gone"), 3), (ValueError("bad"), 1)])
def test_only_what_may_pass_is_tried_again(fast: Kit, tally: Tally, error: Exception, tries: int) -> None:
    """Up to the number of attempts; then the error is the step's."""

    def fail() -> None:
        tally()
        raise error

    trying = fast.tool(fail, retry=QUICK)

    async def step(draft: Draft) -> Draft:
        await wait_for(trying())
        return draft

    with pytest.raises(type(error)) as caught:
        go(fast.loop(step)(Draft(), run_id="r1"))
    assert caught.value is error
    assert (len(tally.words), fast.calls("status")) == (tries, [(FAILED,)] * tries)


def test_waiting_before_another_try_is_no_working_time(fast: Kit, tally: Tally) -> None:
    """A wall clock shorter than the wait does not end the run."""

    def flaky() -> int:
        tally()
        if len(tally.words) < 2:
            raise ConnectionError
        return 1

    trying = fast.tool(flaky, retry=Retry(wait="250ms", jitter=False))

    async def step(draft: Draft) -> Draft:
        await wait_for(trying())
        return grow(draft)

    began = time.monotonic()
    result = go(fast.loop(step, budget=Budget(wall_clock="200ms")).run(Draft(), run_id="r1"))
    assert time.monotonic() - began >= 0.25
    assert (result.status, result.elapsed < 0.2) == (RunStatus.COMPLETED, True)


def test_a_call_that_takes_too_long_is_interrupted(fast: Kit) -> None:
    """Sync on the main thread, and async: a `TimeoutError` that is recorded, and is transient."""

    def hang() -> None:
        time.sleep(9)

    async def hang_async() -> None:
        await asyncio.sleep(9)

    slow = tool(timeout="30ms", name="slow")(hang_async if fast.is_async else hang)

    async def step(draft: Draft) -> Draft:
        with pytest.raises(TimeoutError, match=r"slow\(\{\}\) took longer than 0\.03s"):
            await wait_for(slow())
        return grow(draft)

    began = time.monotonic()
    go(fast.loop(step)(Draft(), run_id="r1"))
    assert time.monotonic() - began < 2
    assert fast.calls("status", "category") == [(FAILED, "transient")]


def test_a_timeout_is_of_one_try(fast: Kit, tally: Tally) -> None:
    """What timed out is tried again with a timeout of its own."""

    def hang() -> int:
        tally()
        time.sleep(9 if len(tally.words) < 3 else 0)
        return 1

    async def hang_async() -> int:
        tally()
        await asyncio.sleep(9 if len(tally.words) < 3 else 0)
        return 1

    slow = tool(timeout="100ms", retry=QUICK)(hang_async if fast.is_async else hang)

    async def step(draft: Draft) -> Draft:
        return keep(await wait_for(slow()))(draft)

    assert go(fast.loop(step)(Draft(), run_id="r1")).words == ["1"]
    assert fast.calls("status") == [(FAILED,), (FAILED,), (DONE,)]


@pytest.mark.parametrize("timeout", [None, "5s", "30ms"])
def test_the_wall_clock_of_the_run_ends_a_call(fast: Kit, timeout: str | None) -> None:
    """The run has no time left, whatever the call still had; the call is cut off."""

    def hang() -> None:
        time.sleep(9)

    async def hang_async() -> None:
        await asyncio.sleep(9)

    slow = tool(timeout=timeout, retry=Retry(attempts=99, wait=0))(hang_async if fast.is_async else hang)

    async def step(draft: Draft) -> Draft:
        await wait_for(slow())
        return grow(draft)

    began = time.monotonic()
    result = go(fast.loop(step, budget=Budget(wall_clock="100ms")).run(Draft(), run_id="r1"))
    assert time.monotonic() - began < 5
    assert (result.status, result.steps) == (RunStatus.BUDGET_EXHAUSTED, 0)
    if timeout != "30ms":  # the wall clock may come while a try that timed out is recorded
        assert fast.calls("status") == [(STARTED,)]


def test_a_breaker_opens_for_a_tool(fast: Kit, tally: Tally) -> None:
    """Each try passes through it; when it is open the function is not called."""

    def fail() -> None:
        tally()
        raise ConnectionError("gone")

    guarded = fast.tool(fail, name="lookup", breaker=circuit_breaker(fail_threshold=2, cooldown="1h"))

    async def step(draft: Draft) -> Draft:
        for error in (ConnectionError, ConnectionError, CircuitOpenError):
            with pytest.raises(error):
                await wait_for(guarded())
        return grow(draft)

    go(fast.loop(step)(Draft(), run_id="r1"))
    assert len(tally.words) == 2
    assert [error.partition(":")[0] for (error,) in fast.calls("error")] == [
        "ConnectionError",
        "ConnectionError",
        "CircuitOpenError",
    ]


def test_a_breaker_leaves_a_good_tool_alone(fast: Kit) -> None:
    """Results, their types and methods are as without it."""

    class Service:
        @tool(breaker=circuit_breaker(fail_threshold=2))
        def get(self, x: int) -> Point:
            """A method."""
            return Point(x)

    async def body() -> Any:
        return Service().get(3)

    assert twice(fast, body) == [Point(3)] * 3


# --- money


def test_a_charge_that_crosses_the_cap_inside_a_tool_ends_the_run(kit: Kit, tally: Tally) -> None:
    """The money is recorded; the call has no result, and runs again once there is more."""

    def pay() -> int:
        tally()
        spend(usd=0.6)
        spend(usd=0.6)
        return len(tally.words)

    paying = kit.tool(pay)

    async def step(draft: Draft) -> Draft:
        return keep(await wait_for(paying()))(draft)

    refine = kit.loop(step, budget=Budget(usd=1))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.status, result.cost_usd, result.steps) == (RunStatus.BUDGET_EXHAUSTED, 1.2, 0)
    assert kit.calls("status") == [(STARTED,)]
    assert go(refine.resume("r1", budget=Budget(usd=9))).words == ["2"]
    assert kit.store.get_run("r1").cost_usd == 2.4


def test_a_charge_that_crosses_the_cap_in_a_once_call_leaves_it_in_doubt(kit: Kit, tally: Tally) -> None:
    """It was in the middle: a person says what came of it, also where a group carried the limit out."""

    def pay() -> None:
        tally()
        try:
            spend(usd=1.2)
        except BudgetExhausted as error:
            raise ExceptionGroup("several", [error]) from None

    paying = kit.tool(pay, once=True)

    async def step(draft: Draft) -> Draft:
        await wait_for(paying())
        return grow(draft)

    refine = kit.loop(step, budget=Budget(usd=1))
    assert go(refine.run(Draft(), run_id="r1")).status is RunStatus.BUDGET_EXHAUSTED
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1", budget=Budget(usd=9)))
    refine.answer("r1", {"result": None}, by="anna")
    assert go(refine.resume("r1")).n == 1
    assert len(tally.words) == 1


def test_done_may_follow_calls(kit: Kit) -> None:
    """A step that ends its run well has its calls on record like any other."""
    find = kit.tool(lambda: date(2026, 1, 1).isoformat() + str(timedelta(0)), name="find")

    async def step(draft: Draft) -> Any:
        return Done(keep(await wait_for(find()))(draft))

    assert go(kit.loop(step, converge_on=None).run(Draft(), run_id="r1")).status is RunStatus.COMPLETED
    assert kit.calls("status") == [(DONE,)]
