"""A run under way: where it stands, what it needs for its next step, and how it ended."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from loomc_runner.context import Halt
from loomc_runner.history import History
from loomc_runner.interrupt import Watch
from loomc_runner.journal import Journal
from loomc_runner.keep import Keeper
from loomc_runner.ledger import Ledger, OpenStep
from loomc_runner.records import Lease, RunStatus, StepRecord, Transition
from loomc_runner.spec import LoopSpec
from loomc_runner.state import Codec
from loomc_runner.store import Store

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a step: `status` and `reason` of the run, and `next_n`, the step to go on from.

    With a `delay` the step is tried again after so many seconds. With `wraps_up` the next try is one for wrapping up.
    """

    status: RunStatus = RunStatus.RUNNING
    reason: str | None = None
    decision: str | None = None
    next_n: int | None = None
    error: BaseException | None = None
    delay: float | None = None
    wraps_up: bool = False


GO_ON: Final = Verdict()
"""Simply go on, as after most steps."""


@dataclass(slots=True)
class Cursor(Generic[S]):
    """A run under way: where it stands, and what it needs to take the next step.

    `account` is the open account of the next step, None when none may start. `parent_n` is the step that `state`
    belongs to. `verdict` is how the run ended, None while it goes on. `unstored` is the commit that is under way.
    `journal` is what is on record of the next step, when that was tried before; `tried` how often it failed here,
    `delay` after how many seconds it is tried again.
    `told` keeps how much of each limit was said to be used up.
    `keeper` says which states are not kept any more; None keeps them all.
    `halt` tells whether a run beside it has failed, so that it is to stop;
    `watch` looks whether an async run is to pause now; `lock` is what threads share the scope of a step by.
    """

    spec: LoopSpec[S]
    store: Store
    lease: Lease
    ledger: Ledger
    codec: Codec[S]
    history: History[S]
    sleep: Callable[[float], Awaitable[None]]
    state: S
    parent_n: int
    account: OpenStep | None = None
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    worked: float = 0.0
    turned: float = 0.0
    record: StepRecord[S] | None = None
    unstored: Transition | None = None
    journal: Journal | None = None
    tried: int = 0
    delay: float | None = None
    keeper: Keeper | None = None
    halt: Halt | None = None
    told: dict[str, int] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        if self.spec.keep is not None:
            self.keeper = Keeper(self.spec.keep, self.history, self.spec.direction, self.spec.looks_back)

    @property
    def stopped(self) -> bool:
        """Whether there is nothing more to do."""
        return self.verdict is not None

    @property
    def step_n(self) -> int:
        """The number of the next step."""
        return self.ledger.steps
