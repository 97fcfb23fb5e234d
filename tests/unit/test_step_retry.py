"""`@loop(retry=...)`: a step that failed with what may pass is tried again, at the cost of its money only."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from driving import Draft, Maker, columns, dying, go, grow, until

from loomc_runner import (
    Budget,
    BudgetExhausted,
    LastGood,
    NotResumable,
    Retry,
    RunNotFound,
    RunStatus,
    SpecError,
    loop,
    spend,
    tool,
)
from loomc_runner.records import Attempt
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite

CENT = 10_000_000
AT_ONCE = Retry(attempts=3, wait=0)


class RateLimit(Exception):
    """What a vendor raises that asks for time."""

    category = "transient"

    def __init__(self, retry_after: float) -> None:
        super().__init__("slow down")
        self.retry_after = retry_after


def flaky(*errors: Exception | None, usd: float | None = None) -> Callable[[Draft], Draft]:
    """A step that raises these errors one after the other, None being none; then it works for good."""
    left = list(errors)

    def step(draft: Draft) -> Draft:
        if usd is not None:
            spend(usd=usd, tokens=1)
        if left and (error := left.pop(0)) is not None:
            raise error
        return grow(draft)

    return step


@pytest.fixture(params=["sync", "async"])
def mortal(request: pytest.FixtureRequest, disk: SQLite) -> Maker:
    """What makes loops of both kinds whose runs outlive their process."""
    return Maker(disk, is_async=request.param == "async")


# --- what is tried again


def test_a_transient_error_is_tried_again(make: Maker) -> None:
    """The run goes on as if nothing had happened; what failed is on record, numbered in its step."""
    step = flaky(ConnectionError("one"), TimeoutError("two"), None, ConnectionError("three"))
    result = go(make(step, retry=AT_ONCE, converge_on=until(3)).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.state) == (RunStatus.COMPLETED, 3, Draft(3))
    assert columns(make.store.attempts("r1"), "step_n", "attempt", "error", "category") == [
        (0, 0, "ConnectionError: one", "transient"),
        (0, 1, "TimeoutError: two", "transient"),
        (1, 0, "ConnectionError: three", "transient"),
    ]
    assert [step.error for step in make.store.steps("r1")] == [None] * 3
    assert [step.parent_n for step in make.store.steps("r1")] == [-1, 0, 1]


class Declined(Exception):
    """An error of the business."""

    category = "business"


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (ValueError("bad"), "validation"),
        (PermissionError("no"), "permission"),
        (Declined("no money"), "business"),
        (RuntimeError("who knows"), "unknown"),
    ],
)
def test_other_errors_are_not(make: Maker, error: Exception, category: str) -> None:
    """They end the run at once, with their category on record, and are raised as they are."""
    refine = make(flaky(error), retry=AT_ONCE)
    with pytest.raises(type(error)) as caught:
        go(refine(Draft(), run_id="r1"))
    assert caught.value is error
    assert columns(make.store.attempts("r1"), "attempt", "category") == [(0, category)]
    assert make.store.get_run("r1").status is RunStatus.FAILED


def test_errors_of_ones_choice_are_tried_again(make_in_memory: Maker) -> None:
    """A type, several, or a function of the error."""
    for on in (ValueError, (KeyError, ValueError), lambda error: "bad" in str(error)):
        refine = make_in_memory(flaky(ValueError("bad")), retry=Retry(on=on, wait=0), converge_on=until(1))
        assert go(refine.run(Draft())).status is RunStatus.COMPLETED


def test_without_a_policy_nothing_is_tried_again(make: Maker) -> None:
    """A loop that does not ask for it fails with the first error."""
    with pytest.raises(ConnectionError):
        go(make(flaky(ConnectionError()))(Draft(), run_id="r1"))
    assert len(make.store.attempts("r1")) == 1


def test_what_is_no_policy_is_refused() -> None:
    """Where the loop is declared."""
    with pytest.raises(SpecError, match=r"retry=3: give Retry\(\.\.\.\)"):
        loop(retry=3)(grow)  # type: ignore[call-overload]


def test_after_the_last_attempt_the_error_is_raised(make: Maker) -> None:
    """It is the step's own one, with the run; a resume has all attempts again, and their numbers go on."""
    errors = [ConnectionError(str(n)) for n in range(4)]
    refine = make(flaky(*errors), retry=AT_ONCE, converge_on=until(1))
    with pytest.raises(ConnectionError) as caught:
        go(refine(Draft(), run_id="r1"))
    assert caught.value is errors[2]
    assert (caught.value.run_id, caught.value.state) == ("r1", Draft(0))  # type: ignore[attr-defined]
    run = make.store.get_run("r1")
    assert (run.status, run.stop_reason, run.in_flight) == (RunStatus.FAILED, "failed: ConnectionError: 2", None)
    assert go(refine.resume("r1")) == Draft(1)
    assert columns(make.store.attempts("r1"), "attempt", "error") == [(n, f"ConnectionError: {n}") for n in range(4)]


def test_last_good_absorbs_what_is_left_after_the_last_attempt(make: Maker) -> None:
    """One failed step counts as one iteration, whatever it was tried."""
    errors = [ConnectionError(str(n)) for n in range(3)]
    refine = make(flaky(None, *errors), retry=AT_ONCE, backtrack=LastGood(), budget=Budget(iterations=3))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.steps, result.state) == (3, Draft(2))
    assert [step.error for step in make.store.steps("r1")] == [None, "ConnectionError: 2", None]
    assert columns(make.store.attempts("r1"), "step_n", "attempt") == [(1, 0), (1, 1)]


def test_a_predicate_that_raises_retries_nothing(make: Maker) -> None:
    """Its error is that of the step, with the step's own one behind it."""

    def broken(error: Exception) -> bool:
        raise LookupError("broken")

    first = ConnectionError("gone")
    with pytest.raises(LookupError, match="broken") as caught:
        go(make(flaky(first), retry=Retry(on=broken, wait=0))(Draft(), run_id="r1"))
    assert caught.value.__context__ is first
    assert columns(make.store.attempts("r1"), "error") == [("LookupError: broken",)]
    assert make.store.get_run("r1").status is RunStatus.FAILED


# --- what it starts from


def test_a_retry_starts_from_the_stored_state(make: Maker) -> None:
    """Whatever the failed attempt did to the state it was given."""
    seen: list[list[str]] = []

    def step(draft: Draft) -> Draft:
        seen.append(list(draft.words))
        draft.words.append("spoiled")
        if len(seen) in {1, 3}:
            raise ConnectionError
        return Draft(draft.n + 1, ["good"])

    assert go(make(step, retry=AT_ONCE, converge_on=until(2))(Draft(), run_id="r1")) == Draft(2, ["good"])
    assert seen == [[], [], ["good"], ["good"]]


def test_the_initial_state_of_the_caller_is_left_alone_on_a_retry(make: Maker) -> None:
    """The second attempt works on another object than the first."""
    given, seen = Draft(), []

    def step(draft: Draft) -> Draft:
        seen.append(draft)
        if len(seen) == 1:
            raise ConnectionError
        return grow(draft)

    go(make(step, retry=AT_ONCE, converge_on=until(1))(given))
    assert seen[0] is not seen[1]
    assert seen[1] == given


def test_completed_calls_are_replayed_on_a_retry(make: Maker) -> None:
    """What succeeded is not executed again, what failed is; equal ones are counted anew in each attempt."""
    done: list[str] = []

    @tool
    def act(word: str) -> int:
        done.append(word)
        if len(done) in {3, 4}:
            raise ConnectionError
        return len(done)

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [str(act("a")), str(act("a")), str(act("b"))])

    assert go(make(step, retry=AT_ONCE, converge_on=until(1))(Draft())).words == ["1", "2", "5"]
    assert done == ["a", "a", "b", "b", "b"]


# --- money


def test_the_money_of_failed_attempts_counts(make: Maker) -> None:
    """In the step that follows, in the attempts' rows, and in the total."""
    step = flaky(ConnectionError(), ConnectionError(), None, usd=0.1)
    result = go(make(step, retry=AT_ONCE, budget=Budget(usd=9), converge_on=until(2)).run(Draft(), run_id="r1"))
    assert (result.cost_usd, result.tokens, make.store.get_run("r1").cost_usd) == (0.4, 4, 0.4)
    assert columns(make.store.attempts("r1"), "nano_usd") == [(10 * CENT,)] * 2
    assert len(make.store.charges("r1")) == 4


def test_the_cap_holds_over_attempts(make: Maker) -> None:
    """An attempt that crosses it ends the run, whatever attempts were left; raised, the run goes on."""
    prices = [0.2, 0.2, 0.9, 0.2, 0.2]

    def step(draft: Draft) -> Draft:
        spend(usd=prices.pop(0))
        if prices:
            raise ConnectionError
        return grow(draft)

    refine = make(step, retry=Retry(attempts=9, wait=0), budget=Budget(usd=1), converge_on=until(1))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.status, result.steps, result.cost_usd) == (RunStatus.BUDGET_EXHAUSTED, 0, 1.3)
    assert make.store.get_run("r1").in_flight is None
    assert go(refine.resume("r1", budget=Budget(usd=3))) == Draft(1)
    assert make.store.get_run("r1").cost_usd == 1.7


def test_an_attempt_that_does_not_fit_is_not_made(make: Maker) -> None:
    """The expected cost of the next attempt is reserved like that of a step, before it begins."""
    begun: list[int] = []

    def step(draft: Draft) -> Draft:
        begun.append(1)
        spend(usd=0.4)
        raise ConnectionError

    refine = make(step, retry=Retry(attempts=9, wait=0), budget=Budget(usd=1, step_usd=0.4))
    with pytest.raises(BudgetExhausted, match=r"usd 1\.20 of 1\.00 \(\$0\.80 spent, the rest expected\)"):
        go(refine(Draft(), run_id="r1"))
    run = make.store.get_run("r1")
    assert (len(begun), run.cost_usd, run.status) == (2, 0.8, RunStatus.BUDGET_EXHAUSTED)
    assert len(make.store.attempts("r1")) == 2


def test_tokens_of_failed_attempts_count(make_in_memory: Maker) -> None:
    """The cap on tokens ends the run between two attempts."""
    step = flaky(*[ConnectionError()] * 9, usd=0)
    result = go(make_in_memory(step, retry=Retry(attempts=9, wait=0), budget=Budget(tokens=3)).run(Draft()))
    assert (result.status, result.tokens) == (RunStatus.BUDGET_EXHAUSTED, 3)


def test_a_retry_is_no_iteration(make: Maker) -> None:
    """A limit of two iterations is two committed steps, whatever was tried."""
    step = flaky(ConnectionError(), ConnectionError(), None, ConnectionError(), None)
    result = go(make(step, retry=AT_ONCE, budget=Budget(iterations=2)).run(Draft(), run_id="r1"))
    assert (result.steps, result.state, len(make.store.attempts("r1"))) == (2, Draft(2), 3)


def test_a_used_up_budget_is_never_tried_again(make_in_memory: Maker) -> None:
    """Not even by a policy that tries everything again."""
    begun: list[int] = []

    def step(draft: Draft) -> Draft:
        begun.append(1)
        spend(usd=2)
        return grow(draft)

    retry = Retry(attempts=9, wait=0, on=Exception)
    result = go(make_in_memory(step, retry=retry, budget=Budget(usd=1)).run(Draft()))
    assert (result.status, len(begun)) == (RunStatus.BUDGET_EXHAUSTED, 1)


# --- time


def test_waiting_is_no_working_time(make: Maker) -> None:
    """A wall clock shorter than the wait does not end the run."""
    refine = make(
        flaky(ConnectionError()),
        retry=Retry(wait="250ms", jitter=False),
        budget=Budget(wall_clock="200ms"),
        converge_on=until(1),
    )
    began = time.monotonic()
    result = go(refine.run(Draft(), run_id="r1"))
    assert time.monotonic() - began >= 0.25
    assert (result.status, result.elapsed < 0.2) == (RunStatus.COMPLETED, True)
    assert make.store.get_run("r1").worked < 0.2


def test_the_time_of_failed_attempts_counts(make_in_memory: Maker) -> None:
    """Working time adds up over attempts, and its limit ends the run."""

    def step(draft: Draft) -> Draft:
        time.sleep(0.03)
        raise ConnectionError

    refine = make_in_memory(step, retry=Retry(attempts=99, wait=0), budget=Budget(wall_clock="100ms"))
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.status, result.elapsed >= 0.1) == (RunStatus.BUDGET_EXHAUSTED, True)
    attempts: list[Attempt] = list(make_in_memory.store.attempts("r1"))
    assert 1 <= len(attempts) <= 4
    assert sum(attempt.duration for attempt in attempts) <= result.elapsed


def test_a_rate_limit_is_obeyed(make_in_memory: Maker) -> None:
    """`retry_after` of the error counts where it is longer than the policy's own wait."""
    refine = make_in_memory(flaky(RateLimit(0.15)), retry=AT_ONCE, converge_on=until(1))
    began = time.monotonic()
    go(refine(Draft()))
    assert 0.15 <= time.monotonic() - began < 2


def test_waits_grow(make_in_memory: Maker) -> None:
    """By the factor, from one attempt to the next."""
    moments: list[float] = []

    def step(draft: Draft) -> Draft:
        moments.append(time.monotonic())
        if len(moments) < 4:
            raise ConnectionError
        return grow(draft)

    retry = Retry(attempts=4, wait="20ms", factor=50, max_wait="60ms", jitter=False)
    go(make_in_memory(step, retry=retry, converge_on=until(1))(Draft()))
    waits = [later - sooner for sooner, later in pairwise(moments)]
    assert [wait >= least for wait, least in zip(waits, (0.02, 0.06, 0.06), strict=True)] == [True] * 3
    assert waits[2] < 1


def test_attempts_are_counted_for_each_step(make_in_memory: Maker) -> None:
    """A step that needed two tries leaves the next one all of its own."""
    step = flaky(*[ConnectionError(), ConnectionError(), None] * 3)
    assert go(make_in_memory(step, retry=AT_ONCE, converge_on=until(3)).run(Draft())).steps == 3


# --- torn away while it waits


def signalling(store: Store, signum: int) -> threading.Thread:
    """A thread that sends a signal to its process once an attempt of run r1 has failed."""

    def watch() -> None:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with suppress(RunNotFound):
                if store.attempts("r1"):
                    break
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def interrupted(make: Maker, signum: int, error: type[BaseException]) -> Any:
    """A run that gets a signal while it waits for its second attempt."""
    refine = make(flaky(ConnectionError(), usd=0.1), retry=Retry(wait="20s", max_wait="20s"), converge_on=until(1))
    thread = signalling(make.store, signum)
    began = time.monotonic()
    try:
        with pytest.raises(error):
            go(refine(Draft(), run_id="r1"))
    finally:
        thread.join()
    assert time.monotonic() - began < 5
    return refine


def test_ctrl_c_while_it_waits_pauses_the_run(make: Maker) -> None:
    """Nothing is in flight and nothing is charged beyond what was spent; resumed, it tries again at once."""
    refine = interrupted(make, signal.SIGINT, KeyboardInterrupt)
    run = make.store.get_run("r1")
    assert (run.status, run.in_flight, run.cost_usd) == (RunStatus.PAUSED, None, 0.1)
    assert run.stop_reason in {"paused: KeyboardInterrupt", "paused: CancelledError"}
    assert go(refine.resume("r1")) == Draft(1)
    assert make.store.get_run("r1").cost_usd == 0.2


def test_a_task_that_is_cancelled_while_it_waits_pauses_the_run(memory: MemoryStore) -> None:
    """The same for `task.cancel()`."""
    refine = Maker(memory, is_async=True)(flaky(ConnectionError()), retry=Retry(wait="20s"), converge_on=until(1))

    async def main() -> None:
        task = asyncio.ensure_future(refine(Draft(), run_id="r1"))
        while not (memory.list_runs() and memory.attempts("r1")):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    run = memory.get_run("r1")
    assert (run.status, run.in_flight, len(memory.attempts("r1"))) == (RunStatus.PAUSED, None, 1)
    assert go(refine.resume("r1")) == Draft(1)


def test_a_kill_while_it_waits_charges_nothing(mortal: Maker) -> None:
    """There is no step in flight while it waits, so that no reservation is lost."""

    def step(draft: Draft) -> Draft:
        if mortal.store.attempts("r1"):
            spend(usd=0.2)
            return grow(draft)
        spend(usd=0.1)
        signalling(mortal.store, signal.SIGKILL)
        raise ConnectionError

    refine = mortal(
        step, retry=Retry(wait="20s", max_wait="20s"), budget=Budget(usd=9, step_usd=3), converge_on=until(1)
    )
    assert dying(lambda: go(refine(Draft(), run_id="r1"))) == signal.SIGKILL
    run = mortal.store.get_run("r1")
    assert (run.status, run.in_flight) == (RunStatus.INTERRUPTED, None)
    assert go(refine.resume("r1")) == Draft(1)
    assert columns(mortal.store.charges("r1"), "nano_usd", "estimated") == [(10 * CENT, False), (20 * CENT, False)]


# --- a run that does not get past a step


class Deadly:
    """A loop of which one step kills its process until it is cured; its tries are noted outside of the database."""

    def __init__(
        self, make: Maker, path: Path, *, at: int = 0, within: Callable[[int], object] = lambda _: None
    ) -> None:
        self.path, self.at, self.within, self.store = path, at, within, make.store
        path.touch()
        self.refine = make(lambda draft: self._step(draft), converge_on=until(2), retry=AT_ONCE)

    def _step(self, draft: Draft) -> Draft:
        if draft.n == self.at and not self.path.with_suffix(".cured").exists():
            with self.path.open("a") as file:
                file.write("x")
            self.within(self.tries)
            os.kill(os.getpid(), signal.SIGKILL)
        return grow(draft)

    @property
    def tries(self) -> int:
        """How often the step was begun."""
        return len(self.path.read_text())

    def cure(self) -> None:
        """Let the step work from now on."""
        self.path.with_suffix(".cured").touch()

    def begin(self) -> bool:
        """Whether a run dies in a process of its own."""
        return dying(lambda: go(self.refine(Draft(), run_id="r1"))) == signal.SIGKILL

    def resume(self, **options: Any) -> bool:
        """Whether it does when it is resumed."""
        return dying(lambda: go(self.refine.resume("r1", **options))) == signal.SIGKILL


@pytest.mark.parametrize("at", [0, 1])
def test_a_run_that_dies_in_the_same_step_again_and_again_has_failed(mortal: Maker, tmp_path: Path, at: int) -> None:
    """After five resumes; the reason says so, the error names the way on, and `force` takes it."""
    deadly = Deadly(mortal, tmp_path / "tries", at=at)
    assert deadly.begin()
    assert [deadly.resume() for _ in range(6)] == [True] * 5 + [False]
    run = mortal.store.get_run("r1")
    assert run.status is RunStatus.FAILED
    assert run.stop_reason == f"failed: resumed 5 times without getting past step {at}"
    for _ in range(2):
        with pytest.raises(NotResumable, match=rf"r1 {run.stop_reason}.*force=True.*loomc resume r1 --force") as caught:
            go(deadly.refine.resume("r1"))
    assert (caught.value.run_id, deadly.tries) == ("r1", 6)
    deadly.cure()
    assert go(deadly.refine.resume("r1", force=True)) == Draft(2)
    assert mortal.store.get_run("r1").status is RunStatus.COMPLETED


def test_force_counts_anew(disk: SQLite, tmp_path: Path) -> None:
    """Forced, the run has its five resumes again."""
    deadly = Deadly(Maker(disk, is_async=False), tmp_path / "tries")
    assert deadly.begin()
    assert [deadly.resume() for _ in range(6)] == [True] * 5 + [False]
    assert deadly.resume(force=True)
    assert [deadly.resume() for _ in range(6)] == [True] * 5 + [False]


def test_a_run_that_fails_in_the_same_step_again_and_again_is_given_up(make: Maker) -> None:
    """An error counts like a death."""

    def step(draft: Draft) -> Draft:
        raise ValueError("bad")

    refine = make(step)
    with pytest.raises(ValueError, match="bad"):
        go(refine(Draft(), run_id="r1"))
    for _ in range(5):
        with pytest.raises(ValueError, match="bad"):
            go(refine.resume("r1"))
    with pytest.raises(NotResumable, match="without getting past step 0"):
        go(refine.resume("r1"))
    assert len(make.store.attempts("r1")) == 6


def test_being_paused_is_no_failure(make: Maker) -> None:
    """Ctrl-C as often as one likes does not wear a run out."""
    left = [KeyboardInterrupt()] * 9

    def step(draft: Draft) -> Draft:
        if left:
            raise left.pop()
        return grow(draft)

    refine = make(step, converge_on=until(1))
    with pytest.raises(KeyboardInterrupt):
        go(refine(Draft(), run_id="r1"))
    while left:
        with pytest.raises(KeyboardInterrupt):
            go(refine.resume("r1"))
    assert go(refine.resume("r1")) == Draft(1)


def test_a_completed_call_is_progress(disk: SQLite, tmp_path: Path) -> None:
    """A step that gets a call further each time is not stuck."""
    act = tool(lambda n: n)
    within: Callable[[int], object] = lambda tries: [act(n) for n in range(tries)]  # noqa: E731
    deadly = Deadly(Maker(disk, is_async=False), tmp_path / "tries", within=within)
    assert deadly.begin()
    assert [deadly.resume() for _ in range(7)] == [True] * 7
    deadly.cure()
    assert deadly.refine.resume("r1") == Draft(2)


def test_a_step_of_a_child_is_progress(disk: SQLite, tmp_path: Path) -> None:
    """So is one that gets its child run a step further each time."""

    def child_step(draft: Draft) -> Draft:
        if draft.n == deadly.tries:
            os.kill(os.getpid(), signal.SIGKILL)
        return grow(draft)

    child = loop(name="child", checkpoint=disk)(child_step)
    deadly = Deadly(Maker(disk, is_async=False), tmp_path / "tries", within=lambda _: child(Draft()))
    assert deadly.begin()
    assert [deadly.resume() for _ in range(7)] == [True] * 7
    assert [run.steps for run in disk.list_runs(parent="r1")] == [8]
    deadly.cure()
    assert deadly.refine.resume("r1") == Draft(2)


def test_a_replayed_call_is_no_progress(disk: SQLite, tmp_path: Path) -> None:
    """It does not keep a hopeless run alive."""
    act = tool(lambda: 1)
    deadly = Deadly(Maker(disk, is_async=False), tmp_path / "tries", within=lambda _: act())
    assert deadly.begin()
    assert not all(deadly.resume() for _ in range(7))
    assert disk.get_run("r1").status is RunStatus.FAILED
