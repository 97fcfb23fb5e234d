"""A run and its steps as they are stored, and what one commit changes in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Generic, NamedTuple, TypeVar

from loomc_runner.records.inside import BreakerChange, Call, Charge, Question

S = TypeVar("S")

INITIAL = -1
"""The step number under which a run's initial state is kept."""

NANO = 1_000_000_000
"""Nano-dollars in a dollar: money is counted in integers, so that twenty dimes are two dollars."""


class RunStatus(StrEnum):
    """Where a run is."""

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    BUDGET_EXHAUSTED = "budget_exhausted"
    STALLED = "stalled"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Only ever shown: the row says `running`, but its owner is dead."""


RUNNING: Final = RunStatus.RUNNING
"""The status that every step looks at: the members of an enum are found slowly."""


class Control(StrEnum):
    """What somebody outside asks of a run at work."""

    PAUSE = "pause"
    PAUSE_NOW = "pause now"
    """Also in the middle of an async step."""
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it is stored. Money is in nano-dollars and without child runs, time in seconds.

    `child_key` is what a child run is known by inside its parent's step. `progress` counts what the run and its child
    runs had completed at the last claim, `stuck` the claims since it last changed. `direction` says which scores are
    better, `maximize` or `minimize`; runs of older versions do not.
    """

    id: str
    loop: str | None
    created_at: datetime
    updated_at: datetime
    source: str | None = None
    spec_hash: str | None = None
    code_hash: str | None = None
    state_type: str | None = None
    status: RunStatus = RunStatus.RUNNING
    stop_reason: str | None = None
    parent_run_id: str | None = None
    parent_step: int | None = None
    forked_from: str | None = None
    owner: str | None = None
    epoch: int = 0
    resumes: int = 0
    in_flight: int | None = None
    in_flight_mark: int = 0
    reserved_nano: int = 0
    control: Control | None = None
    child_key: str | None = None
    progress: int = 0
    stuck: int = 0
    budget: dict[str, Any] | None = None
    steps: int = 0
    nano_usd: int = 0
    tokens: int = 0
    dearest_nano: int = 0
    worked: float = 0.0
    best_step: int | None = None
    direction: str | None = None
    result: str | None = None
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cost_usd(self) -> float:
        """What the run itself spent, in dollars."""
        return self.nano_usd / NANO

    @property
    def origin(self) -> tuple[str, int] | None:
        """The run and the step it was forked from; None when it was not."""
        name, _, step = (self.forked_from or "").rpartition(":")
        return (name, int(step)) if name and step.lstrip("-").isdecimal() else None


def no_state(step_n: int) -> Any:
    """Stand in for the reader of a record that is not tied to its run."""
    raise LookupError(f"the record of step {step_n} was read without its run; ask the store for the state")


class StepRecord(NamedTuple, Generic[S]):
    """One committed step, as a named tuple: `step._replace(...)` gives another, `step._asdict()` a dictionary.

    Attributes:
        step_n: Its number, from 0.
        parent_n: The step whose state it started from; -1 is the initial state.
        score: What the scorer said, or None.
        cost_usd: Dollars spent in it, child runs included; 0.0 also when nobody recorded a cost.
        priced: Whether anybody recorded a cost.
        tokens: Tokens recorded in it.
        timestamp: When it was committed (UTC).
        duration: Seconds its function ran.
        error: The error of a step that a strategy absorbed, or of a scorer that failed; else None.
        decision: What the driver decided after it: None (go on), `restore K`, `escalate` or `stop`.
        best_n: The step with the best score up to and including this one, or None.
        scores: Each answer of a scorer that was asked more than once; `score` is their mean, or None where the scoring
            broke off. Empty when it was asked once.
        state_dropped: Whether its state was dropped to save room; `state` raises `StateDropped` then.
        state: Its state, read back from the store each time it is asked for.
    """

    step_n: int
    parent_n: int
    score: float | None
    nano_usd: int | None
    tokens: int
    timestamp: datetime
    duration: float
    error: str | None = None
    decision: str | None = None
    best_n: int | None = None
    scores: tuple[float, ...] = ()
    state_dropped: bool = False
    read_state: Callable[[int], S] = no_state

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StepRecord):  # a tuple of the same is none; others may know better
            return False if isinstance(other, tuple) else NotImplemented
        return self[:-1] == other[:-1]  # where its state is read from is no part of what it says

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:-1])

    def __repr__(self) -> str:
        told = zip(self._fields[:-1], self, strict=False)
        return f"StepRecord({', '.join(f'{name}={value!r}' for name, value in told)})"

    @property
    def cost_usd(self) -> float:
        """Dollars spent in the step, child runs included."""
        return (self.nano_usd or 0) / NANO

    @property
    def priced(self) -> bool:
        """Whether anybody recorded a cost."""
        return self.nano_usd is not None

    @property
    def restored_n(self) -> int | None:
        """The step that was gone back to after this one; None where it simply went on."""
        word, _, number = (self.decision or "").partition(" ")
        return int(number) if word == "restore" else None

    @property
    def state(self) -> S:
        """The state after the step, a fresh copy each time."""
        return self.read_state(self.step_n)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try of a step that did not become a step."""

    step_n: int
    attempt: int
    error: str
    category: str
    nano_usd: int
    started_at: datetime
    duration: float

    @property
    def was_left(self) -> bool:
        """Whether it was left in order: the run waits, was asked to stop, or goes on at once to wrap up."""
        return self.category in {"waiting", "paused", "cancelled", "wrapping up"}


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a run: good for one process until the run is claimed again."""

    run_id: str
    owner: str
    epoch: int
    pid: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed run: the right to write to it, and what it and its child runs have spent."""

    lease: Lease
    run: Run
    subtree_nano: int
    subtree_tokens: int


@dataclass(slots=True)
class Transition:
    """Everything one commit changes in a run. Fields left at their default change nothing.

    Not frozen: every step makes one, and to set what it changes takes a third of the time of naming it in the call.

    Attributes:
        at: When.
        step: The committed step, with its state as JSON text in `state`.
        charges: Money spent that is not stored yet; one whose `key` is stored takes that one's place.
        attempt: A failed try.
        call: A durable call that starts (a new `seq`), or what became of one.
        question: A question that is asked (a new `seq`), or asked anew.
        breaker: A circuit breaker that changed its state.
        withdrawn: Questions that are no longer asked, by step and `seq`.
        superseded: Child runs that the step no longer asks for; they and their own children are cancelled, and their
            questions withdrawn.
        status: The new status; any but `running` also gives up the run.
        in_flight: The step that starts now, with its reservation; None when none does.
        keep_in_flight: Leave the stored in-flight step as it is (for a step that was cut off).
        worked: Seconds of working time to add.
        dropped: Earlier steps whose states are not kept any more, -1 being the initial state.
        longest_result: Characters; longer results of the calls of the committed step are not kept any more, only
            their hash and size. None keeps them all.
        best_step, dearest_nano, result, notes: New values for the run.
    """

    at: datetime
    step: StepRecord[Any] | None = None
    state: str | None = None
    charges: tuple[Charge, ...] = ()
    attempt: Attempt | None = None
    call: Call | None = None
    question: Question | None = None
    breaker: BreakerChange | None = None
    withdrawn: tuple[tuple[int, int], ...] = ()
    superseded: tuple[str, ...] = ()
    status: RunStatus = RunStatus.RUNNING
    stop_reason: str | None = None
    in_flight: int | None = None
    reserved_nano: int = 0
    keep_in_flight: bool = False
    worked: float = 0.0
    best_step: int | None = None
    dearest_nano: int = 0
    result: str | None = None
    notes: tuple[str, ...] | None = None
    dropped: tuple[int, ...] = ()
    longest_result: int | None = None

    @property
    def is_late(self) -> bool:
        """Whether it comes in the middle of a step, or after the run has been given up: of the run only sums change."""
        return self.keep_in_flight and self.status is RUNNING
