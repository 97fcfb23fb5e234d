"""What a store of runs must do: the contract that every back-end keeps and `StoreContract` proves."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from loomc_runner.errors import RunLocked, RunMismatch, StoreBusy
from loomc_runner.records import (
    Attempt,
    BreakerChange,
    Call,
    Charge,
    Claim,
    Control,
    Lease,
    Question,
    Run,
    RunStatus,
    StepRecord,
    Transition,
)

T = TypeVar("T")

PATIENCE = 600.0
"""Seconds to wait for a database that somebody else has locked before giving up."""


ENDED = frozenset(
    (RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.STALLED, RunStatus.BUDGET_EXHAUSTED)
)
"""How a child run may end; what is superseded or cancelled with its parent has not ended yet."""

MOST_TRIES = 5
"""How often a run is resumed at the same step after a crash or a failure."""

SUPERSEDED = "cancelled: its parent's step was tried again and no longer asks for it"


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a resume writes into the run together with its claim; `afresh` forgets how often it was stuck."""

    at: datetime
    loop: str
    source: str | None
    spec_hash: str
    code_hash: str
    budget: dict[str, Any] | None
    notes: tuple[str, ...] = ()
    afresh: bool = False
    direction: str | None = None

    def stuck(self, run: Run, progress: int) -> int:
        """How often the run will have been resumed where it is now.

        Counted after a crash or a failure; `afresh` (it is forced, or its code has changed) begins anew.
        """
        return 0 if self.afresh else tries_here(run, progress)


def tries_here(run: Run, progress: int) -> int:
    """How often a run will have been resumed where it is now, the next time included; a pause is not counted."""
    before = run.stuck if progress == run.progress else 0
    return before + (run.status in {RunStatus.INTERRUPTED, RunStatus.FAILED})


class Store(Protocol):
    """Keeps runs and their steps; one instance serves all threads of a process.

    Every verb is one transaction: after it returned all of it is stored, after it raised nothing is. Each is
    safe to call again after `StoreBusy`, which it raises at once when somebody else holds the store; waiting
    is the caller's business. Writing verbs take a `Lease` and raise `RunLost` when the run has been claimed
    again since, or when the process was forked.
    """

    def create_run(self, run: Run, state: str) -> Lease:
        """Insert the run with its initial state and own it. Raises `RunLocked` when the id is taken."""
        ...

    def claim(self, run_id: str, resumption: Resumption) -> Claim:
        """Own an existing run, with a new epoch, so that every older lease is worth nothing.

        A run is free when it has no owner or its owner is dead. A step that was in flight is closed here: it
        becomes an attempt, charged with what it and its child runs had recorded, else with its reservation as an
        estimated charge, unless all that the step ever paid was paid in calls that are done and in child runs. The
        claim's `run` is the row as it is now, but with the status and the stop reason that
        it had before.

        Raises:
            RunNotFound: When there is no such run.
            RunLocked: When its owner is alive, at once.
        """
        ...

    def commit(self, lease: Lease, transition: Transition) -> Control | None:
        """Store one transition of a run, and tell what somebody asks of it. Any status but `running` gives it up.

        A run that was given up accepts only what comes late: `keep_in_flight` with status `running`.

        Raises:
            RunLost: When the run has been claimed again, or has ended.
            StoreError: When it has such a step already, or nothing can be written.
        """
        ...

    def answer(self, question: Question, answer: str, by: str, at: datetime) -> None:
        """Answer an open question, once.

        Raises:
            AnswerRefused: When it has an answer by now, or is not asked any more.
        """
        ...

    def request(self, run_id: str, control: Control, at: datetime) -> Run:
        """Ask something of a run and its child runs; the run as it is then.

        Those at work see it at their next commit. Those that nobody works on, and that have not ended, are paused
        or cancelled at once; the run itself is cancelled however it ended. Raises `RunNotFound`.
        """
        ...

    def tag(self, run_id: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> tuple[str, ...]:
        """Add tags to a run, or take some away, whoever works on it; those it has then. Raises `RunNotFound`."""
        ...

    def delete(self, run_ids: Sequence[str]) -> None:
        """Remove runs with their child runs and all that is on record of them: all of them, or none.

        Runs that were forked from them stay as they are. Whoever had a lease gets `RunLost` at the next commit, and
        what other runs have recorded since their step began still counts as that.

        Raises:
            RunNotFound: When one of them is not there.
            RunLocked: When somebody works on one of them, or on a child run of it.
            RunMismatch: When one of them is a child run, and its parent is there and stays.
        """
        ...

    def drop_states(self, run_id: str, steps: Collection[int], *, longest_result: int | None = None) -> None:
        """Drop the states of some steps of a run that nobody works on; the rows of the steps stay as they are.

        The states of all other steps can be read as before, also where they were stored as what they differ in. Steps
        that are not there, or whose states were dropped before, are left alone. Which ones can be spared is the
        caller's business. With `longest_result` results of the calls of all committed steps that have more characters
        are replaced by their hash and size (`Call.without_long_result`); those of a step that is still to be
        committed stay.

        Raises:
            RunNotFound: When there is no such run.
            RunLocked: When somebody works on it.
        """
        ...

    def get_run(self, run_id: str) -> Run:
        """The run; `interrupted` when its owner is dead. Raises `RunNotFound`."""
        ...

    def list_runs(
        self,
        *,
        prefix: str = "",
        status: RunStatus | None = None,
        loop: str | None = None,
        parent: str | None = None,
        parent_step: int | None = None,
        origin: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Run]:
        """Runs, newest first, that match.

        That is: id prefix, status, part of the loop's name, parent run and its step, the run they were forked from.
        """
        ...

    def steps(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[StepRecord[Any]]:
        """The committed steps from `start` up to, not including, `stop`, in order and without their states.

        Of a run that does not exist there are none; the same holds for attempts, charges and totals. Those whose
        states were dropped say so in `state_dropped`.
        """
        ...

    def state(self, run_id: str, step_n: int) -> str:
        """The state after a step as JSON text; step -1 is the initial state.

        Raises:
            RunNotFound: When there is no such run or step.
            StateDropped: When it was dropped; it names the nearest steps whose states are kept.
        """
        ...

    def attempts(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[Attempt]:
        """The failed and cut-off tries of a window of steps, in order."""
        ...

    def charges(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[Charge]:
        """The charges of a window of steps, in the order in which they were recorded."""
        ...

    def calls(
        self, run_id: str, start: int = 0, stop: int | None = None, *, seq: int = 0, limit: int | None = None
    ) -> Sequence[Call]:
        """The durable calls of a window of steps, in order, from call `seq` of its first step on; so many at most."""
        ...

    def questions(self, run_id: str | None = None) -> Sequence[Question]:
        """The questions of a run and its child runs, in order; without a run, the open ones of all runs."""
        ...

    def breakers(self, run_id: str) -> Sequence[BreakerChange]:
        """How circuit breakers changed in a run and its child runs, in order."""
        ...

    def subtree(self, run_id: str) -> tuple[int, int]:
        """Nano-dollars and tokens of a run together with all its child runs."""
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...


def ended_by(control: Control, run: Run) -> tuple[str, str] | None:
    """The status and the reason that a request gives at once to a run that nobody works on; None: it stays."""
    if control is Control.CANCEL and run.status not in {RunStatus.COMPLETED, RunStatus.CANCELLED}:
        return RunStatus.CANCELLED.value, "cancelled: by request"
    if control is not Control.CANCEL and run.status is RunStatus.INTERRUPTED:
        return RunStatus.PAUSED.value, "paused: by request"
    return None


def check_idle(run: Run) -> None:
    """Raise `RunLocked` when somebody works on a run, so that its states cannot be dropped from outside."""
    if run.status is RunStatus.RUNNING:
        raise RunLocked(f"run {run.id} is being worked on, and its states cannot be dropped; wait for it")


def tagged(run: Run, add: Sequence[str], remove: Sequence[str]) -> tuple[str, ...]:
    """The tags of a run after some were added and others taken away, in order and each once."""
    return tuple(dict.fromkeys(tag for tag in (*run.tags, *add) if tag not in remove))


def check_deletable(doomed: Mapping[str, Run], is_there: Callable[[str], bool]) -> None:
    """Raise unless runs may be deleted together: a run with all its child runs, and none that somebody works on."""
    for run in doomed.values():
        top, seen = run, {run.id}
        while (
            above := doomed.get(top.parent_run_id or "")
        ) is not None and above.id not in seen:  # or it goes in circles
            top = above
            seen.add(top.id)
        if run.status is RunStatus.RUNNING:
            child = "" if top is run else f", a child of run {top.id},"
            ends = f"wait for it, or end it first: loomc pause {top.id}, or loomc cancel {top.id}"
            raise RunLocked(f"run {run.id}{child} is being worked on and cannot be deleted; {ends}")
        if top.parent_run_id is not None and top.parent_run_id not in doomed and is_there(top.parent_run_id):
            raise RunMismatch(
                f"run {top.id} is a child of run {top.parent_run_id}, which pays for it and would make it again; "
                f"delete that: loomc delete {top.parent_run_id}"
            )


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits for an event loop to its end."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a sync loop awaited something; decorate an `async def` function instead")


async def block(seconds: float) -> None:
    """Sleep by holding the thread, as a sync loop does."""
    time.sleep(seconds)  # noqa: ASYNC251 - that is its purpose: there is no event loop here


def sleep_of(*, is_async: bool) -> Callable[[float], Awaitable[None]]:
    """How sync code waits, or async code."""
    if not is_async:
        return block
    import asyncio

    return asyncio.sleep


async def patiently(sleep: Callable[[float], Awaitable[None]], verb: Callable[..., T], *args: Any) -> T:
    """Call a verb of a store until it is not busy, sleeping in between with the caller's own sleep."""
    try:
        return verb(*args)  # as a rule it is not busy
    except StoreBusy:
        pass
    for delay in _delays():
        await sleep(delay)
        try:
            return verb(*args)
        except StoreBusy:
            continue
    return verb(*args)


def in_event_loop() -> bool:
    """Whether this thread is running an event loop, which must not be blocked."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _delays() -> Iterator[float]:
    # Random, so that writers who collided do not collide again; short, since a commit takes a fraction of a ms.
    yield 0.001
    end, longest = time.monotonic() + PATIENCE, 0.002
    while time.monotonic() < end:
        yield random.uniform(0.0005, longest)
        longest = min(longest * 1.5, 0.05)
