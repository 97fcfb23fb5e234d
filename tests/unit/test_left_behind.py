"""What a step leaves behind when it is torn, stopped or tried again: nothing lost, nothing twice, nothing mixed up."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import multiprocessing
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from driving import Draft, Maker, columns, doing, go, grow, until
from pydantic import BaseModel, SecretStr

from loomc_runner import (
    Budget,
    Done,
    LoomcError,
    Retry,
    RunMismatch,
    RunStopped,
    SpecError,
    ask,
    call,
    loop,
    spend,
    tool,
)
from loomc_runner.outside import ask_to_stop
from loomc_runner.records import Control
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT

SOON = Retry(attempts=3, wait=0)


class Counted:
    """How often each thing was done."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def __call__(self, what: str) -> str:
        """Count it, and give it back."""
        self.counts[what] += 1
        return what


def failing_once(counted: Counted, name: str = "fails") -> Callable[[], None]:
    """Raises an error that may pass, the first time."""

    def fail() -> None:
        if counted.counts[counted(name)] == 1:
            raise ConnectionError("once")

    return fail


# --- a tool that is tried again


def test_a_tool_that_is_tried_again_finds_what_is_inside_of_it(make: Maker) -> None:
    """A completed call, a child and an answer inside of it are not made again, `once=True` least of all."""
    counted = Counted()
    fail = failing_once(counted)
    child = Maker(make.store, is_async=False)(doing(lambda: counted("child")), name="child", converge_on=until(1))

    @tool(once=True)
    def pay(what: str) -> str:
        return counted(f"pay {what}")

    @tool(retry=SOON)
    def outer() -> str:
        paid = pay("a") + pay("a")
        child(Draft())
        answer = ask("Really?")
        fail()
        return paid + answer

    refine = make(lambda draft: Done(Draft(words=[outer()])))
    assert go(refine.run(Draft(), run_id="r1")).status == "waiting"
    refine.answer("r1", "yes", by="anna")
    assert go(refine(Draft(), run_id="r1")).words == ["pay apay ayes"]
    assert counted.counts == {"pay a": 2, "child": 1, "fails": 2}
    assert len(make.store.questions("r1")) == 1


# --- tasks and threads of a step that failed


@pytest.mark.parametrize("inner", ["call", "child"])
def test_a_step_is_not_tried_again_beside_what_it_has_left_behind(store: Store, inner: str) -> None:
    """Tasks of the failed try are ended first, so that the next one finds nobody in its way."""
    counted, make = Counted(), Maker(store, is_async=True)
    fail, at_once = failing_once(counted), Counter[str]()

    @tool
    async def work(what: str) -> str:
        at_once["now"] += 1
        at_once["most"] = max(at_once["most"], at_once["now"])
        try:
            await asyncio.sleep(0.05)
        finally:
            at_once["now"] -= 1
        return counted(what)

    async def child_step(draft: Draft) -> Any:
        return Done(Draft(words=[await work("b")]))

    child_step.__annotations__ = {"draft": Draft}
    child = loop(name="child", checkpoint=store)(child_step)

    @tool
    async def shaky() -> None:
        await asyncio.sleep(0.01)
        fail()

    async def step(draft: Draft) -> Any:
        await asyncio.gather(shaky(), work("b") if inner == "call" else child(Draft()))
        return Done(grow(draft))

    step.__annotations__ = {"draft": Draft}
    refine = loop(name="tests:draft", checkpoint=store, retry=SOON)(step)
    assert go(refine.run(Draft(), run_id="r1")).status == "completed"
    assert (counted.counts["b"], at_once["most"]) == (1, 1)
    assert make.store.get_run("r1").steps == 1


def test_what_was_paid_beside_a_question_is_kept(store: Store) -> None:
    """A call that runs beside one that asks is let end, and not paid a second time after the answer."""
    counted = Counted()

    @tool
    async def expensive() -> str:
        await asyncio.sleep(0.05)
        spend(usd=1)
        return counted("paid")

    async def gate() -> str:
        return ask("Go on?")

    async def step(draft: Draft) -> Any:
        words = await asyncio.gather(expensive(), gate())
        return Done(Draft(words=list(words)))

    step.__annotations__ = {"draft": Draft}
    refine = loop(name="tests:draft", checkpoint=store, budget=Budget(usd=5))(step)
    assert go(refine.run(Draft(), run_id="r1")).status == "waiting"
    refine.answer("r1", "yes", by="anna")
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.state.words, result.cost_usd, counted.counts["paid"]) == (["paid", "yes"], 1.0, 1)


def test_one_key_is_used_by_one_call_at_a_time(memory: MemoryStore) -> None:
    """Of four threads that give the same key one makes the call, however they meet; the others are told."""
    counted = Counted()

    @tool(once=True)
    def pay() -> str:
        time.sleep(0.001)
        return counted("paid")

    def attempt() -> str:
        try:
            return str(call(pay, key="k"))
        except SpecError:
            return "told"

    def step(draft: Draft) -> Draft:
        with ThreadPoolExecutor(4) as pool:
            said = [job.result() for job in [pool.submit(copy_context().run, attempt) for _ in range(4)]]
        return Draft(draft.n + 1, [*draft.words, *said])

    result = Maker(memory, is_async=False)(step, budget=Budget(iterations=50)).run(Draft())
    assert counted.counts["paid"] == 50
    assert set(result.state.words) <= {"paid", "told"}


# --- money of what was torn


@pytest.mark.parametrize("again", ["tried again", "resumed"])
def test_a_torn_child_is_paid_for_at_once(store: Store, again: str) -> None:
    """What it may have cost counts for its parent from then on: the cap holds, and what is told is what is stored."""
    counted = Counted()

    async def child_step(draft: Draft) -> Any:
        if draft.words == ["fails"] and counted.counts[counted("fails")] < 3:
            raise ConnectionError("for now")
        await asyncio.sleep(0.05)
        spend(usd=0.3)
        return Done(draft)

    child_step.__annotations__ = {"draft": Draft}
    child = loop(name="child", checkpoint=store, budget=Budget(step_usd=0.3))(child_step)

    async def step(draft: Draft) -> Any:
        await asyncio.gather(*(child(Draft(words=[word])) for word in ("a", "b", "fails")))
        return Done(grow(draft))

    step.__annotations__ = {"draft": Draft}
    options: dict[str, Any] = {"retry": SOON} if again == "tried again" else {}
    refine = loop(name="tests:draft", checkpoint=store, budget=Budget(usd=2.0), **options)(step)
    for _ in range(4):
        with suppress(ConnectionError):
            result = go(refine.run(Draft(), run_id="r1"))
    spent = store.subtree("r1")[0]
    assert round(result.cost_usd * 1e9) == spent <= 2 * 10**9


# --- stopping beside each other


@pytest.mark.parametrize("swallow", ["map", "try"])
def test_a_run_that_was_stopped_from_above_does_not_end_well(memory: MemoryStore, swallow: str) -> None:
    """Children that stop since a run beside their parent failed are not taken for results, whatever that swallows."""
    counted, make, begun = Counted(), Maker(memory, is_async=False), threading.Event()
    fail = failing_once(counted)

    def leaf_step(draft: Draft) -> Draft:
        begun.set()
        time.sleep(0.03)
        return grow(draft)

    leaf = make(leaf_step, name="leaf", converge_on=until(3))

    def middle_step(draft: Draft) -> Any:
        if draft.words == ["fails"]:
            begun.wait(5)
            fail()
            return Done(draft)
        if swallow == "map":
            ends = leaf.map([Draft(), Draft(words=["x"])], return_exceptions=True)
            return Done(Draft(sum(end.n for end in ends if isinstance(end, Draft))))
        total = 0
        for word in "ab":
            with suppress(LoomcError):
                total += leaf(Draft(words=[word])).n
        return Done(Draft(total))

    middle = make(middle_step, name="middle")
    refine = make(
        lambda _: Done(Draft(sum(end.n for end in middle.map([Draft(), Draft(words=["fails"])])))), retry=SOON
    )
    assert refine.run(Draft(), run_id="r1").state == Draft(6)
    assert {run.status.value for run in memory.list_runs()} == {"completed"}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("control", [Control.PAUSE, Control.CANCEL])
def test_nothing_more_begins_once_the_whole_is_to_stop(memory: MemoryStore, control: Control, is_async: bool) -> None:
    """Of many children side by side those at work finish their step, and no other one begins."""
    make, counted = Maker(memory, is_async=is_async), Counted()

    def step(draft: Draft) -> Draft:
        if counted.counts[counted("steps")] == 3:
            ask_to_stop(memory, memory.get_run("r1"), control, AT)
        return grow(draft)

    child = make(step, name="child", converge_on=until(3))
    states = [Draft(words=[str(n)]) for n in range(20)]

    async def parent_step(draft: Draft) -> Any:
        ends = child.map(states, max_workers=2, return_exceptions=True)
        return Draft(len(await ends if is_async else ends))

    def sync_step(draft: Draft) -> Any:
        return Draft(len(child.map(states, max_workers=2, return_exceptions=True)))

    parent = parent_step if is_async else sync_step
    parent.__annotations__ = {"draft": Draft}
    refine = loop(name="tests:draft", checkpoint=memory)(parent)
    with pytest.raises(RunStopped):
        go(refine(Draft(), run_id="r1"))
    assert counted.counts["steps"] <= 6


def test_a_child_that_goes_on_knows_what_is_asked_of_its_parent(make: Maker) -> None:
    """A request that came while the parent was at work stops the child at its first commit, resumed or new."""
    counted, sync = Counted(), Maker(make.store, is_async=False)
    fail = failing_once(counted)

    def child_step(draft: Draft) -> Draft:
        counted("steps")
        if draft.n == 1:
            fail()
        return grow(draft)

    child = sync(child_step, name="child", converge_on=until(9))

    def step(draft: Draft) -> Draft:
        if counted.counts["fails"]:
            ask_to_stop(make.store, make.store.get_run("r1"), Control.PAUSE, AT)
        return child(Draft())

    refine = sync(step, retry=SOON)
    with pytest.raises(RunStopped):
        refine(Draft(), run_id="r1")
    assert make.store.get_run("r1.0.0").steps <= 2
    assert {run.status.value for run in make.store.list_runs()} == {"paused"}


# --- time


def test_a_child_that_waits_moves_the_deadline_of_its_parent(memory: MemoryStore) -> None:
    """A wait in a thread is no working time, and the alarm of the main thread keeps to that."""
    counted, make = Counted(), Maker(memory, is_async=False)
    fail = failing_once(counted)
    child = make(doing(fail), name="child", retry=Retry(wait="600ms", jitter=False), converge_on=until(1))

    def step(draft: Draft) -> Any:
        child.map([draft])
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
        return Done(draft)

    result = make(step, budget=Budget(wall_clock="400ms")).run(Draft())
    assert result.status == "completed"
    assert 0.05 < result.elapsed < 0.4


def test_the_clock_runs_on_while_somebody_works(memory: MemoryStore) -> None:
    """A wait beside a call that works is working time: a cap on it is not silently off."""
    counted = Counted()
    fail = failing_once(counted)

    @tool(retry=Retry(wait="5s", jitter=False))
    async def waiting() -> None:
        fail()

    @tool
    async def working() -> None:
        await asyncio.sleep(5)

    async def step(draft: Draft) -> Draft:
        await asyncio.gather(waiting(), working())
        return grow(draft)

    step.__annotations__ = {"draft": Draft}
    refine = loop(name="tests:draft", checkpoint=memory, budget=Budget(wall_clock="200ms"))(step)
    result = go(refine.run(Draft()))
    assert (result.status, str(result.stop_reason).split()[1]) == ("budget_exhausted", "wall_clock")
    assert result.elapsed < 2


def test_a_process_that_a_step_forks_ends_when_it_is_told(disk: SQLite) -> None:
    """SIGTERM drains loops, and nothing else: a forked process has its default disposition."""
    ends: list[int | None] = []

    def step(draft: Draft) -> Any:
        life = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        life.start()
        time.sleep(0.1)
        life.terminate()
        life.join(5)
        ends.append(life.exitcode)
        return Done(draft)

    Maker(disk, is_async=False)(step)(Draft())
    assert ends == [-signal.SIGTERM]


# --- names


def _module(name: str, answer: str) -> Any:
    module = ModuleType(name)
    exec(f"def search(text: str) -> str:\n    return {answer!r} + text\n", module.__dict__)
    module.search.__module__ = name
    return module


class Deposit(BaseModel):
    """Money in."""

    amount: int


class Withdraw(BaseModel):
    """Money out."""

    amount: int


def tell(what: Any) -> str:
    """Say what it is."""
    return f"{type(what).__name__} {what.get_secret_value() if isinstance(what, SecretStr) else what}"


def test_calls_that_only_look_alike_are_not_mixed_up(make: Maker) -> None:
    """Functions of the same name in other modules, other models with the same fields, and secrets are told apart."""
    counted = Counted()
    one, two, fail = _module("one.tools", "1"), _module("two.tools", "2"), failing_once(counted)
    calls: list[Callable[[], str]] = [
        lambda: call(one.search, "x"),
        lambda: call(two.search, "x"),
        lambda: call(tell, Deposit(amount=5)),
        lambda: call(tell, Withdraw(amount=5)),
        lambda: call(tell, SecretStr("a")),
        lambda: call(tell, SecretStr("b")),
    ]

    def step(draft: Draft) -> Any:
        order = calls if not counted.counts["fails"] else calls[::-1]
        said = [each() for each in order]
        fail()
        return Done(Draft(words=said[::-1]))

    words = go(make(step, retry=SOON)(Draft())).words
    assert words == ["1x", "2x", "Deposit amount=5", "Withdraw amount=5", "SecretStr a", "SecretStr b"]


def test_a_lambda_needs_a_key(make: Maker) -> None:
    """It has no name that says what it does."""
    with pytest.raises(SpecError, match="key="):
        go(make(lambda draft: Done(call(lambda: draft)))(Draft()))
    assert go(make(lambda draft: Done(Draft(call(lambda: 3, key="three"))))(Draft())) == Draft(3)


def test_a_script_owns_its_own_runs(disk: SQLite) -> None:
    """Two scripts that call their loop the same do not go on with each other's runs."""

    def of(source: str) -> Any:
        refine = Maker(disk, is_async=False)(grow, budget=Budget(iterations=1), name="__main__:refine")
        return type(refine)(dataclasses.replace(refine.spec, source=source))

    of("/a.py").run(Draft(), run_id="r1")
    with pytest.raises(RunMismatch, match=r"r1 belongs to __main__:refine in /a\.py"):
        of("/b.py").resume("r1", budget=Budget(iterations=2))
    assert of("/a.py").stream(run_id="r1", budget=Budget(iterations=2)).run_id == "r1"


# --- questions and notes


def test_a_run_goes_on_with_the_answer_to_what_it_asked_last(store: Store) -> None:
    """A question of a child that the step no longer asks for does not hold it."""
    sync, other_way = Maker(store, is_async=False), [False]
    child = sync(lambda _: Draft(2, [ask("Kid?")]), name="child", converge_on=until(2))

    def step(draft: Draft) -> Any:
        if not other_way[0]:
            child(Draft())
        return Done(Draft(words=[ask("Own?")]))

    refine = sync(step)
    assert refine.run(Draft(), run_id="r1").stop_reason == "waiting: Kid?"
    ask_to_stop(store, store.get_run("r1"), Control.CANCEL, AT)
    other_way[0] = True
    assert list(refine.stream(run_id="r1", force=True)) == []
    refine.answer("r1", "yes", by="anna")
    assert refine.resume("r1").words == ["yes"]
    assert store.questions() == []


def test_a_cancelled_run_asks_nothing(make: Maker) -> None:
    """Its questions are withdrawn with it; who forces it is asked again."""
    refine = make(lambda draft: Done(Draft(words=[ask("Really?")])))
    go(refine.run(Draft(), run_id="r1"))
    ask_to_stop(make.store, make.store.get_run("r1"), Control.CANCEL, AT)
    assert make.store.questions() == []
    assert go(refine.stream(run_id="r1", force=True)) == []
    assert [question.prompt for question in make.store.questions()] == ["Really?"]


def test_notes_do_not_grow_with_the_steps(make: Maker) -> None:
    """Of many steps that went another way the newest is told."""
    counted = Counted()

    def step(draft: Draft) -> Draft:
        call(tell, f"{draft.n} {counted.counts[counted('tries')]}", key=f"{counted.counts['tries']}")
        if counted.counts["tries"] % 2:
            raise ConnectionError("every other time")
        return grow(draft)

    go(make(step, retry=SOON, budget=Budget(iterations=5)).run(Draft(), run_id="r1"))
    (note,) = make.store.get_run("r1").notes
    assert note.startswith("step 4 went another way: recorded results of test_left_behind.tell")


def test_the_next_command_names_the_database(tmp_path: Path) -> None:
    """A run that is not in the default place is found by what its error says to type."""
    refine = Maker(SQLite(tmp_path / "my runs.db"), is_async=False)(doing(lambda: Path("/nowhere").stat()))
    with pytest.raises(FileNotFoundError) as caught:
        refine(Draft(), run_id="r1")
    assert caught.value.__notes__[0].endswith(f"loomc resume r1 --db '{tmp_path}/my runs.db'")
    assert columns(refine.spec.checkpoint.list_runs(), "status") == [("failed",)]


def test_a_step_that_waits_to_try_a_call_again_is_left_when_it_is_to_stop(make: Maker) -> None:
    """A rate limit may take hours: the run is paused meanwhile, and what the step had done is not done again."""
    counted = Counted()
    fail = failing_once(counted)

    @tool
    def done(what: str) -> str:
        return counted(what)

    @tool(retry=Retry(wait="10m", max_wait="10m"))
    def limited() -> str:
        ask_to_stop(make.store, make.store.get_run("r1"), Control.PAUSE, AT)
        fail()
        return "at last"

    refine = make(lambda draft: Done(Draft(words=[done("a"), limited()])))
    with pytest.raises(RunStopped):
        go(refine(Draft(), run_id="r1"))
    assert columns(make.store.attempts("r1"), "error", "category") == [("paused: by request", "paused")]
    assert go(refine.run(Draft(), run_id="r1")).state.words == ["a", "at last"]
    assert counted.counts["a"] == 1


def async_loop(store: Store, step: Callable[..., Any], **options: Any) -> Any:
    """A loop of an `async def` function."""
    step.__annotations__ = {"draft": Draft}
    return loop(name="tests:draft", checkpoint=store, **options)(step)


def test_what_is_between_two_calls_when_its_try_ends_makes_no_other(store: Store) -> None:
    """A branch of a failed try that goes on gets no further than its next call: the next try makes that."""
    counted = Counted()
    fail = failing_once(counted)

    @tool(once=True)
    async def pay(what: str) -> str:
        await asyncio.sleep(0.03)
        return counted(what)

    async def shaky() -> None:
        await asyncio.sleep(0.01)
        fail()

    async def branch() -> str:
        await asyncio.sleep(0.03)
        return await pay("paid")

    async def step(draft: Draft) -> Any:
        await asyncio.gather(shaky(), branch())
        return Done(draft)

    assert go(async_loop(store, step, retry=SOON).run(Draft(), run_id="r1")).status == "completed"
    assert counted.counts["paid"] == 1


def test_a_tool_is_not_tried_again_beside_what_it_has_left_behind(store: Store) -> None:
    """Tasks of its failed try are ended first, as those of a step are."""
    counted = Counted()
    fail = failing_once(counted)

    @tool
    async def work(what: str) -> str:
        await asyncio.sleep(0.03)
        return counted(what)

    @tool
    async def shaky() -> None:
        await asyncio.sleep(0.01)
        fail()

    @tool(retry=SOON)
    async def outer() -> list[str | None]:
        return list(await asyncio.gather(work("b"), shaky()))

    async def step(draft: Draft) -> Any:
        await outer()
        return Done(draft)

    assert go(async_loop(store, step).run(Draft(), run_id="r1")).status == "completed"
    assert counted.counts["b"] == 1


@pytest.mark.parametrize("how", ["by its retry", "by the step"])
def test_what_is_inside_of_a_call_with_a_key_is_found_again(make: Maker, how: str) -> None:
    """Each execution counts what is inside of it anew, whatever the call is known by."""
    counted = Counted()
    fail = failing_once(counted)

    @tool(once=True)
    def pay() -> str:
        return counted("paid")

    @tool(key=lambda: "k", retry=SOON if how == "by its retry" else None)
    def middle() -> str:
        paid = pay()
        fail()
        return paid

    def step(draft: Draft) -> Any:
        try:
            return Done(Draft(words=[middle()]))
        except ConnectionError:
            return Done(Draft(words=[middle()]))

    assert go(make(step)(Draft())).words == ["paid"]
    assert counted.counts["paid"] == 1


@pytest.mark.parametrize("inner", ["tool", "child"])
def test_a_wait_inside_of_a_call_is_no_working_time(memory: MemoryStore, inner: str) -> None:
    """A call that only waits for one inside of it, or for a child run, does nothing itself."""
    counted, make = Counted(), Maker(memory, is_async=False)
    fail, patient = failing_once(counted), Retry(wait="400ms", jitter=False)

    @tool(retry=patient)
    def waiting() -> None:
        fail()

    child = make(doing(fail), name="child", retry=patient, converge_on=until(1))

    @tool
    def outer() -> None:
        if inner == "tool":
            waiting()
        else:
            child(Draft())

    result = make(lambda draft: outer() or Done(draft), budget=Budget(wall_clock="250ms")).run(Draft())
    assert (result.status, result.elapsed < 0.2) == ("completed", True)


def test_what_an_earlier_step_has_left_behind_does_not_stop_the_clock(memory: MemoryStore) -> None:
    """A call nobody waits for may rest: the next step's time runs all the same."""

    @tool(retry=Retry(wait="20s", max_wait="20s", jitter=False))
    async def waiting() -> None:
        raise ConnectionError

    @tool
    async def quick() -> None:
        await asyncio.sleep(0)

    left: list[Any] = []

    async def step(draft: Draft) -> Draft:
        if not left:
            left.append(asyncio.create_task(waiting()))
            await asyncio.sleep(0.02)
            return grow(draft)
        await quick()
        await asyncio.sleep(5)
        return grow(draft)

    result = go(async_loop(memory, step, budget=Budget(wall_clock="200ms")).run(Draft()))
    assert (result.status, result.steps) == ("budget_exhausted", 1)
    assert result.elapsed < 2


def test_the_timeout_of_a_call_holds_while_one_inside_of_it_waits(memory: MemoryStore) -> None:
    """It is the time the whole takes, waits included."""

    @tool(retry=Retry(wait="20s", max_wait="20s", jitter=False))
    def waiting() -> None:
        raise ConnectionError

    @tool(timeout="100ms")
    def outer() -> None:
        waiting()

    def step(draft: Draft) -> Any:
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match="longer than"):
            outer()
        return Done(Draft(int(time.monotonic() - begun)))

    assert Maker(memory, is_async=False)(step)(Draft()) == Draft(0)


def test_a_call_with_a_key_is_not_made_by_what_a_failed_try_has_left_behind(store: Store) -> None:
    """A key of its own does not let it begin when the try of the tool that it belongs to has ended."""
    counted = Counted()
    fail = failing_once(counted)

    @tool(once=True)
    async def pay() -> str:
        await asyncio.sleep(0.02)
        return counted("paid")

    async def shaky() -> None:
        await asyncio.sleep(0.01)
        fail()

    async def branch() -> None:
        await asyncio.sleep(0.03)
        await call(pay, key="k")

    @tool(retry=Retry(wait="100ms", jitter=False))
    async def outer() -> None:
        counted("outer")
        if counted.counts["outer"] == 1:
            await asyncio.gather(shaky(), branch())

    async def step(draft: Draft) -> Any:
        await outer()
        return Done(draft)

    assert go(async_loop(store, step).run(Draft(), run_id="r1")).status == "completed"
    assert (counted.counts["outer"], counted.counts["paid"]) == (2, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_abandoned_run_that_is_collected_in_a_step_of_another_leaves_that_alone() -> None:
    """An async run whose event loop is gone is closed where its last reference goes; the step there stays the step."""

    @loop(budget=Budget(iterations=3), checkpoint="memory")
    async def waits(n: int) -> int:
        await asyncio.get_running_loop().create_future()
        return n

    abandoned: list[Any] = []

    async def begin() -> None:
        abandoned.append(asyncio.ensure_future(waits.run(0)))
        abandoned[0]._log_destroy_pending = False
        await asyncio.sleep(0.05)

    events = asyncio.new_event_loop()
    events.run_until_complete(begin())
    events.close()
    del events

    @loop(budget=Budget(iterations=2), checkpoint="memory")
    def other(n: int) -> int:
        abandoned.clear()
        gc.collect()
        spend(usd=0.01)
        return n + 1

    result = other.run(0)
    assert (result.steps, result.cost_usd) == (2, 0.02)
