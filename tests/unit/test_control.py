"""Requests from outside: a run is paused or cancelled from another thread or process, and goes on when resumed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from driving import Draft, Maker, columns, die, doing, dying, go, grow, until

from loomc_runner import (
    Budget,
    BudgetExhausted,
    Escalate,
    LastGood,
    LoomcError,
    NotResumable,
    RequestRefused,
    Retry,
    RunNotFound,
    RunStatus,
    RunStopped,
    WaitingForAnswer,
    ask,
    loop,
    spend,
)
from loomc_runner.outside import ask_to_stop
from loomc_runner.records import Control, Run
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the processes that are forked here do not need it."""

SOON = 0.6
"""Seconds within which a look from inside a wait must have come."""

ENDS = {
    Control.PAUSE: (RunStatus.PAUSED, "paused: by request"),
    Control.PAUSE_NOW: (RunStatus.PAUSED, "paused: by request"),
    Control.CANCEL: (RunStatus.CANCELLED, "cancelled: by request"),
}


def request(store: Store, control: Control, run_id: str = "r1") -> Run:
    """Ask a run to stop, as `loomc pause` and `loomc cancel` do."""
    return ask_to_stop(store, store.get_run(run_id), control, AT)


def in_thread(act: Callable[[], object]) -> None:
    """Do something in another thread, and wait for it."""
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def requesting_at(n: int, store: Store, control: Control, seen: list[int] | None = None) -> Callable[[Draft], Draft]:
    """A step during which, the first time it gets to a number, somebody in another thread asks the run to stop."""
    asked: list[bool] = []

    def step(draft: Draft) -> Draft:
        if draft.n == n and not asked:
            asked.append(True)
            in_thread(lambda: request(store, control))
        if seen is not None:
            seen.append(draft.n)
        return grow(draft)

    return step


def standing(store: Store, run_id: str = "r1") -> tuple[RunStatus, str | None, int]:
    """Where a run is."""
    run = store.get_run(run_id)
    return run.status, run.stop_reason, run.steps


# --- a run at work


@pytest.mark.parametrize("control", Control)
@pytest.mark.parametrize("n", [0, 2])
def test_a_run_at_work_stops_at_its_next_commit(make: Maker, control: Control, n: int) -> None:
    """The step in which the request came is finished and committed; the run then stops, free and with the reason."""
    refine = make(requesting_at(n, make.store, control), converge_on=until(5))
    with pytest.raises(RunStopped) as caught:
        go(refine(Draft(), run_id="r1"))
    assert standing(make.store) == (*ENDS[control], n + 1)
    run = make.store.get_run("r1")
    assert (run.owner, run.in_flight, run.control) == (None, None, None)
    assert (caught.value.run_id, caught.value.state) == ("r1", Draft(n + 1))
    assert go(refine.resume("r1", force=control is Control.CANCEL)) == Draft(5)


@pytest.mark.parametrize("control", Control)
def test_a_run_that_was_stopped_gives_a_normal_result(make: Maker, control: Control) -> None:
    """`run` raises nothing: it tells how the run stands."""
    result = go(make(requesting_at(1, make.store, control), converge_on=until(5)).run(Draft(), run_id="r1"))
    assert (result.status, result.stop_reason, result.steps) == (*ENDS[control], 2)
    assert result.state == Draft(2)


def test_a_stream_ends_where_it_was_stopped(make: Maker) -> None:
    """The step that was finished is still given."""
    stream = make(requesting_at(1, make.store, Control.PAUSE), converge_on=until(5)).stream(Draft(), run_id="r1")
    assert columns(go(stream), "step_n") == [(0,), (1,)]
    assert stream.result.status is RunStatus.PAUSED


@pytest.mark.parametrize("control", Control)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_request_comes_from_another_process(disk: SQLite, control: Control, is_async: bool) -> None:
    """It goes through the database, and is seen at the next commit as well."""
    path, asked = disk.path, []

    def elsewhere() -> None:
        request(SQLite(path), control)
        os.kill(os.getpid(), 9)

    def step(draft: Draft) -> Draft:
        if draft.n == 1 and not asked:
            asked.append(dying(elsewhere))
        return grow(draft)

    refine = Maker(disk, is_async=is_async)(step, converge_on=until(5))
    with pytest.raises(RunStopped):
        go(refine(Draft(), run_id="r1"))
    assert (asked, standing(disk)) == ([9], (*ENDS[control], 2))


def test_the_request_tells_how_the_run_stands(make: Maker) -> None:
    """A run at work is still at work when it is asked; what is asked of it stands in its row."""
    seen: list[Run] = []

    def act() -> None:
        seen.append(request(make.store, Control.PAUSE))

    go(make(doing(lambda: in_thread(act)), converge_on=until(5)).run(Draft(), run_id="r1"))
    assert [(run.status, run.control) for run in seen] == [(RunStatus.RUNNING, Control.PAUSE)]


def test_of_two_requests_the_newer_counts(make: Maker) -> None:
    """To cancel after a request to pause cancels."""

    def act() -> None:
        request(make.store, Control.PAUSE)
        request(make.store, Control.CANCEL)

    go(make(doing(lambda: in_thread(act)), converge_on=until(5)).run(Draft(), run_id="r1"))
    assert standing(make.store) == (*ENDS[Control.CANCEL], 1)


@pytest.mark.parametrize("control", Control)
def test_a_request_in_the_last_step_comes_too_late(make: Maker, control: Control) -> None:
    """The step ends the run, which is complete then; what was asked of it is forgotten."""
    refine = make(requesting_at(1, make.store, control), converge_on=until(2))
    assert go(refine(Draft(), run_id="r1")) == Draft(2)
    assert make.store.get_run("r1").status is RunStatus.COMPLETED
    assert make.store.get_run("r1").control is None


def test_a_request_to_a_step_that_fails(make: Maker) -> None:
    """The failure is what the run tells; the request does not hide it."""

    def act() -> None:
        in_thread(lambda: request(make.store, Control.PAUSE))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(make(doing(act))(Draft(), run_id="r1"))
    assert make.store.get_run("r1").status is RunStatus.FAILED


def test_a_strategy_does_not_absorb_a_request(make: Maker) -> None:
    """`LastGood` and escalations have nothing to say about it."""
    options: dict[str, Any] = {"backtrack": LastGood(), "scorer": lambda _: 1, "on_stall": Escalate(9, lambda s, _: s)}
    go(make(requesting_at(1, make.store, Control.PAUSE), **options).run(Draft(), run_id="r1"))
    assert standing(make.store) == (*ENDS[Control.PAUSE], 2)


def test_a_request_after_a_step_that_was_absorbed(make: Maker) -> None:
    """A failed step that a strategy absorbs is committed, and so the request is seen there."""

    def step(draft: Draft) -> Draft:
        if draft.n == 1:
            in_thread(lambda: request(make.store, Control.PAUSE))
            raise ConnectionError
        return grow(draft)

    go(make(step, backtrack=LastGood()).run(Draft(), run_id="r1"))
    assert standing(make.store) == (*ENDS[Control.PAUSE], 2)


# --- what it costs


class Counting:
    """A store that counts which verbs are called."""

    def __init__(self, store: Store) -> None:
        self._store, self.verbs = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.verbs[name] += 1
            return verb(*args, **kwargs)

        return counted


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_request_is_seen_without_a_query(store: Store, is_async: bool) -> None:
    """Each step calls the store once, to commit; ten more steps are ten more commits and nothing else."""
    counted: list[Counter[str]] = []
    for length in (3, 13):
        counting: Any = Counting(store)
        go(Maker(counting, is_async=is_async)(grow, converge_on=lambda h, n=length: len(h) == n)(Draft()))
        counted.append(counting.verbs)
    assert counted[1] - counted[0] == Counter(commit=10)


def test_a_commit_makes_no_statement_more(disk: SQLite) -> None:
    """In SQLite too the request comes with the statements that a commit makes anyway: no SELECT among them."""
    statements: list[str] = []

    def step(draft: Draft) -> Draft:
        assert disk._connection is not None
        disk._connection.set_trace_callback(statements.append if draft.n in {2, 3} else None)
        if draft.n == 3:
            statements.append("--")
        return grow(draft)

    Maker(disk, is_async=False)(step, converge_on=until(6))(Draft())
    first, second = ("\n".join(statements)).split("--")
    assert first.rstrip().endswith("COMMIT")
    assert not [line for line in first.splitlines() if line.startswith("SELECT")]
    assert first.count("\n") == second.count("\n")


# --- a pause at once


def test_an_async_step_is_cancelled_in_the_middle(store: Store) -> None:
    """It gets a CancelledError where it awaits, may clean up, and is not committed; what it spent stays spent."""
    cleaned: list[str] = []

    async def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        try:
            if draft.n == 1 and not cleaned:
                threading.Timer(0.05, request, (store, Control.PAUSE_NOW)).start()
                await asyncio.sleep(20)
        except asyncio.CancelledError:
            cleaned.append("cancelled")
            raise
        return grow(draft)

    refine = loop(checkpoint=store, budget=Budget(usd=9), converge_on=until(2))(step)
    begun = time.monotonic()
    with pytest.raises(RunStopped, match="paused: by request"):
        go(refine(Draft(), run_id="r1"))
    assert (time.monotonic() - begun < 2, cleaned) == (True, ["cancelled"])
    assert (*standing(store), store.get_run("r1").cost_usd) == (*ENDS[Control.PAUSE_NOW], 1, 1.0)
    assert columns(store.attempts("r1"), "step_n", "category", "nano_usd") == [(1, "paused", 500_000_000)]
    assert go(refine.resume("r1")).n == 2


@pytest.mark.parametrize("control", [Control.PAUSE, Control.CANCEL])
def test_an_async_step_is_left_alone_by_the_other_requests(memory: MemoryStore, control: Control) -> None:
    """Only a pause at once cancels a step; the others wait for its commit."""

    async def step(draft: Draft) -> Draft:
        request(memory, control)
        await asyncio.sleep(SOON)
        return grow(draft)

    go(loop(checkpoint=memory, converge_on=until(3))(step).run(Draft(), run_id="r1"))
    assert standing(memory) == (*ENDS[control], 1)


def test_an_async_step_that_ignores_its_cancellation_is_kept(memory: MemoryStore) -> None:
    """It has returned, so it is paid for and committed; then the run is paused."""

    async def step(draft: Draft) -> Draft:
        request(memory, Control.PAUSE_NOW)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(20)
        return grow(draft)

    go(loop(checkpoint=memory, converge_on=until(3))(step).run(Draft(), run_id="r1"))
    assert standing(memory) == (*ENDS[Control.PAUSE_NOW], 1)


def test_the_task_that_ran_the_step_is_not_left_cancelled(memory: MemoryStore) -> None:
    """Who awaited the run goes on as usual, and can await other things."""

    async def step(draft: Draft) -> Draft:
        request(memory, Control.PAUSE_NOW)
        await asyncio.sleep(20)
        return grow(draft)

    async def main() -> int:
        result = await loop(checkpoint=memory)(step).run(Draft(), run_id="r1")
        assert result.status is RunStatus.PAUSED
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(main()) == 0


def test_somebody_elses_cancellation_is_no_request(memory: MemoryStore) -> None:
    """A task that is cancelled from inside the program gets its CancelledError, with its own reason in the run."""

    async def step(draft: Draft) -> Draft:
        await asyncio.sleep(20)
        return grow(draft)

    async def main() -> None:
        task = asyncio.create_task(loop(checkpoint=memory)(step)(Draft(), run_id="r1"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert standing(memory) == (RunStatus.PAUSED, "paused: CancelledError", 0)


# --- a tree


class Tree:
    """A parent whose step maps two children of four steps; somebody makes a request in the second step of one."""

    def __init__(self, store: Store, control: Control, *, is_async: bool) -> None:
        self.store, self.made, self.parents, asked = store, list[tuple[str, int]](), [0], list[bool]()
        both = threading.Barrier(2, timeout=5)

        def step(draft: Draft) -> Draft:
            if draft.n == 1 and not asked:
                if not is_async:
                    both.wait()  # the other one is at work as well
                if draft.words == ["a"]:
                    request(store, control)
                    asked.append(True)
                if not is_async:
                    both.wait()
            self.made.append((draft.words[0], draft.n))
            return grow(draft)

        self.child = Maker(store, is_async=is_async)(step, name="child", converge_on=until(4))
        states = [Draft(0, ["a"]), Draft(0, ["b"])]

        def sync_step(draft: Draft) -> Draft:
            self.parents[0] += 1
            return Draft(sum(each.n for each in self.child.map(states)))

        async def async_step(draft: Draft) -> Draft:
            self.parents[0] += 1
            return Draft(sum(each.n for each in await self.child.map(states)))

        fn: Any = async_step if is_async else sync_step
        fn.__annotations__ = {"draft": Draft}
        self.parent = loop(name="parent", checkpoint=store, converge_on=until(1))(fn)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("control", Control)
def test_a_tree_stops_together(store: Store, control: Control, is_async: bool) -> None:
    """Children stop after their step, the parent's step is left, and all of it goes on where it was."""
    tree = Tree(store, control, is_async=is_async)
    with pytest.raises(RunStopped) as caught:
        go(tree.parent(Draft(), run_id="r1"))
    assert caught.value.run_id == "r1"
    assert standing(store) == (*ENDS[control], 0)
    for run in store.list_runs(parent="r1"):
        assert (run.status, run.stop_reason) == ENDS[control]
        assert 0 < run.steps < 4
    done = len(tree.made)
    assert go(tree.parent.resume("r1", force=control is Control.CANCEL)) == Draft(8)
    assert (tree.parents, len(tree.made), done < 8) == ([2], 8, True)
    assert sorted(tree.made) == [(word, n) for word in "ab" for n in range(4)]


def test_a_parent_that_swallows_the_stop_of_its_child_is_stopped_all_the_same(memory: MemoryStore) -> None:
    """Its step is not committed, and goes on when the run is resumed."""
    make = Maker(memory, is_async=False)
    child = make(requesting_at(1, memory, Control.PAUSE), name="child", converge_on=until(3))

    def step(draft: Draft) -> Draft:
        with suppress(BaseException):
            return child(Draft())
        return Draft(99)

    parent = make(step, name="parent", converge_on=until(1))
    with pytest.raises(RunStopped):
        parent(Draft(), run_id="r1")
    assert standing(memory) == (*ENDS[Control.PAUSE], 0)
    assert parent.resume("r1") == Draft(3)


def test_a_child_that_begins_after_the_request_stops_too(memory: MemoryStore) -> None:
    """The parent has been asked before it calls its child: that makes one step at most."""
    make = Maker(memory, is_async=False)
    child = make(grow, name="child", converge_on=until(5))

    def step(draft: Draft) -> Draft:
        if not memory.get_run("r1").resumes:
            request(memory, Control.PAUSE)
        return child(Draft())

    parent = make(step, name="parent", converge_on=until(1))
    with pytest.raises(RunStopped):
        parent(Draft(), run_id="r1")
    assert (standing(memory)[::2], standing(memory, "r1.0.0")[::2]) == ((RunStatus.PAUSED, 0), (RunStatus.PAUSED, 1))
    assert parent.resume("r1") == Draft(5)


def test_a_pause_at_once_cancels_the_innermost_step(memory: MemoryStore) -> None:
    """An async child in the middle of its step is cancelled, and the parent with it; both go on."""
    naps = [20.0]

    async def inner(draft: Draft) -> Draft:
        if draft.n == 1 and naps:
            request(memory, Control.PAUSE_NOW)
            await asyncio.sleep(naps.pop())
        return grow(draft)

    child = loop(name="child", checkpoint=memory, converge_on=until(3))(inner)

    async def outer(draft: Draft) -> Draft:
        return await child(Draft())

    parent = loop(name="parent", checkpoint=memory, converge_on=until(1))(outer)
    with pytest.raises(RunStopped):
        go(parent(Draft(), run_id="r1"))
    assert standing(memory) == (*ENDS[Control.PAUSE_NOW], 0)
    assert standing(memory, "r1.0.0")[::2] == (RunStatus.PAUSED, 1)
    assert go(parent.resume("r1")) == Draft(3)


@pytest.mark.parametrize("control", Control)
def test_a_child_is_not_stopped_alone(memory: MemoryStore, control: Control) -> None:
    """The refusal names the run that it is part of, at work and afterwards."""
    refused: list[str] = []
    make = Maker(memory, is_async=False)

    def act() -> None:
        try:
            request(memory, control, "r1.0.0")
        except RequestRefused as error:
            refused.append(str(error))

    child = make(doing(act), name="child", converge_on=until(1))
    make(lambda draft: child(Draft()), name="parent", converge_on=until(1))(Draft(), run_id="r1")
    act()
    assert len(refused) == 2
    assert all("run r1.0.0 is part of run r1" in words for words in refused)


# --- a run that nobody works on


def waiting(make: Maker) -> Any:
    """A run that waits for an answer."""
    refine = make(lambda draft: Draft(1, [ask("Go on?")]), converge_on=until(1))
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    return refine


def paused(make: Maker) -> Any:
    """A run that was paused."""
    refine = make(requesting_at(0, make.store, Control.PAUSE), converge_on=until(2))
    go(refine.run(Draft(), run_id="r1"))
    return refine


def failed(make: Maker) -> Any:
    """A run that has failed."""
    failures = [ConnectionError()]
    refine = make(doing(lambda: failures and _raise(failures.pop())), converge_on=until(2))
    with pytest.raises(ConnectionError):
        go(refine(Draft(), run_id="r1"))
    return refine


def _raise(error: Exception) -> None:
    raise error


def exhausted(make: Maker) -> Any:
    """A run that is at its limit."""
    refine = make(grow, budget=Budget(iterations=1), converge_on=until(2))
    with pytest.raises(BudgetExhausted):
        go(refine(Draft(), run_id="r1"))
    return refine


@pytest.mark.parametrize("ended", [waiting, paused, failed, exhausted])
def test_a_run_that_nobody_works_on_is_cancelled_at_once(make: Maker, ended: Callable[[Maker], Any]) -> None:
    """Its row says so right away; it goes on only with `force`."""
    refine = ended(make)
    run = request(make.store, Control.CANCEL)
    assert (run.status, run.stop_reason, run.control) == (*ENDS[Control.CANCEL], None)
    with pytest.raises(NotResumable, match="cancelled"):
        go(refine.resume("r1"))
    with suppress(WaitingForAnswer, BudgetExhausted):
        go(refine.resume("r1", force=True))
    assert make.store.get_run("r1").status is not RunStatus.CANCELLED


@pytest.mark.parametrize("ended", [waiting, paused, failed, exhausted])
@pytest.mark.parametrize("control", [Control.PAUSE, Control.PAUSE_NOW])
def test_a_run_that_nobody_works_on_is_not_paused(make: Maker, ended: Callable[[Maker], Any], control: Control) -> None:
    """The refusal says where it is, and nothing changes."""
    ended(make)
    before = make.store.get_run("r1")
    with pytest.raises(RequestRefused, match=f"run r1 is {before.status.value} .*cannot be paused"):
        request(make.store, control)
    assert make.store.get_run("r1") == before


def test_the_children_of_a_cancelled_run_are_cancelled(memory: MemoryStore) -> None:
    """Those that have not ended; a finished one stays as it is."""
    make = Maker(memory, is_async=False)
    asks = make(lambda draft: Draft(1, [ask("Go on?")]), name="asks", converge_on=until(1))
    grows = make(grow, name="grows", converge_on=until(1))
    parent = make(lambda draft: Draft(grows(draft).n + asks(draft).n), name="parent")
    with pytest.raises(WaitingForAnswer):
        parent(Draft(), run_id="r1")
    request(memory, Control.CANCEL)
    statuses = {run.loop: run.status.value for run in memory.list_runs()}
    assert statuses == {"parent": "cancelled", "asks": "cancelled", "grows": "completed"}


def _dead(path: Any, is_async: bool) -> None:
    def step(draft: Draft) -> Draft:
        return grow(draft) if draft.n == 0 else die(draft)

    go(Maker(SQLite(path), is_async=is_async)(step)(Draft(), run_id="r1"))


@pytest.mark.parametrize("control", Control)
def test_a_run_whose_process_died_is_stopped_at_once(disk: SQLite, control: Control) -> None:
    """Nobody would see a request: the row is changed right away, and the run goes on from its last step."""
    assert dying(_dead, disk.path, False) == 9
    assert disk.get_run("r1").status is RunStatus.INTERRUPTED
    run = request(disk, control)
    assert (run.status, run.stop_reason, run.owner) == (*ENDS[control], None)
    refine = Maker(disk, is_async=False)(grow, converge_on=until(3))
    assert refine.resume("r1", force=control is Control.CANCEL) == Draft(3)


@pytest.mark.parametrize("control", Control)
@pytest.mark.parametrize("already", ["completed", "cancelled"])
def test_what_is_over_cannot_be_stopped(make: Maker, control: Control, already: str) -> None:
    """A completed run, and one that is cancelled already: the refusal says so, and nothing changes."""
    step = grow if already == "completed" else requesting_at(0, make.store, Control.CANCEL)
    go(make(step, converge_on=until(2)).run(Draft(), run_id="r1"))
    before = make.store.get_run("r1")
    with pytest.raises(RequestRefused, match=f"run r1 is {already}"):
        request(make.store, control)
    assert make.store.get_run("r1") == before


def test_a_run_that_does_not_exist_cannot_be_stopped(make: Maker) -> None:
    """The error is that of every look for a run."""
    with pytest.raises(RunNotFound, match="nobody"):
        request(make.store, Control.CANCEL, "nobody")


def test_an_old_request_is_forgotten_by_the_resume(disk: SQLite) -> None:
    """The process died before it saw the request; who resumes the run wants it to go on."""
    path = disk.path

    def life() -> None:
        store = SQLite(path)

        def act() -> None:
            in_thread(lambda: request(store, Control.CANCEL))
            os.kill(os.getpid(), 9)

        Maker(store, is_async=False)(doing(act))(Draft(), run_id="r1")

    assert dying(life) == 9
    assert disk.get_run("r1").control is Control.CANCEL
    assert Maker(disk, is_async=False)(grow, converge_on=until(3)).resume("r1") == Draft(3)
    assert disk.get_run("r1").control is None


# --- while a retry waits


@pytest.mark.parametrize("control", Control)
def test_a_request_is_seen_while_a_retry_waits(make: Maker, control: Control) -> None:
    """The wait of many seconds is left soon, the attempt stays on record, and the step runs again when resumed."""
    failures = [ConnectionError("gone")]

    def step(draft: Draft) -> Draft:
        if draft.n == 1 and failures:
            threading.Timer(0.05, request, (make.store, control)).start()
            raise failures.pop()
        return grow(draft)

    refine = make(step, retry=Retry(wait="20s", jitter=False), converge_on=until(2))
    begun = time.monotonic()
    with pytest.raises(RunStopped):
        go(refine(Draft(), run_id="r1"))
    assert time.monotonic() - begun < 3
    assert standing(make.store) == (*ENDS[control], 1)
    assert columns(make.store.attempts("r1"), "step_n", "error") == [(1, "ConnectionError: gone")]
    assert go(refine.resume("r1", force=control is Control.CANCEL)) == Draft(2)


def test_a_request_in_a_step_that_is_to_be_tried_again(make: Maker) -> None:
    """It came before the failure was stored: the run stops without waiting at all."""

    def act() -> None:
        in_thread(lambda: request(make.store, Control.PAUSE))
        raise ConnectionError

    refine = make(doing(act), retry=Retry(wait="20s"))
    begun = time.monotonic()
    with pytest.raises(RunStopped):
        go(refine(Draft(), run_id="r1"))
    assert (time.monotonic() - begun < 2, standing(make.store)) == (True, (*ENDS[Control.PAUSE], 0))


def test_errors_of_requests_are_of_the_library() -> None:
    """One `except LoomcError` catches them."""
    assert issubclass(RequestRefused, LoomcError)
    assert issubclass(RunStopped, LoomcError)
