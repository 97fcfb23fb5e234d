"""What code below a step may ask for: `spend`, and which run and step it is in."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol

from loomc_runner.budget import to_nano
from loomc_runner.clock import Clock
from loomc_runner.errors import CostError, NotInStep, StoreBusy, StoreError
from loomc_runner.journal import Journal
from loomc_runner.ledger import OpenStep
from loomc_runner.records import Charge, Control, Lease, RunStatus, Transition
from loomc_runner.sigterm import termination_asked
from loomc_runner.store import Store, block, finish, in_event_loop, patiently


class Leaving(BaseException):
    """Unwinds a step that cannot go on now: it waits for an answer, or somebody asked its run to stop.

    Private to the library, and a BaseException so that `except Exception` in user code does not swallow it.
    """


@dataclass(frozen=True, slots=True)
class Leave:
    """Why a step was left: the status its run gets, the reason, and the question it waits for.

    It was `halted` when a run beside it, or beside an enclosing one, had failed.
    """

    status: RunStatus
    reason: str
    prompt: str | None = None
    halted: bool = False


LOOK: Final = 0.5
"""Seconds between two looks whether somebody asks for something, while a step runs or is waited for."""

PAUSED: Final = Leave(RunStatus.PAUSED, "paused: by request")
CANCELLED: Final = Leave(RunStatus.CANCELLED, "cancelled: by request")
TERMINATED: Final = Leave(RunStatus.PAUSED, "paused: SIGTERM")
HALTED: Final = Leave(RunStatus.PAUSED, "paused: a run beside it failed", halted=True)


def asked_to_leave(control: Control | None, halt: Halt | None) -> Leave | None:
    """How a run is to end now, as somebody outside wants it; None when nobody does."""
    if control is not None:
        return CANCELLED if control is Control.CANCEL else PAUSED
    if termination_asked():
        return TERMINATED
    return HALTED if halt is not None and halt.asked() else None


@dataclass(slots=True)
class Meter:
    """What is spent while a durable call of a run runs; `seq` and `key` are those of the call."""

    run_id: str
    seq: int
    key: str
    once: bool = False
    nano_usd: int = 0
    closed: bool = False


@dataclass(eq=False, slots=True)
class Work:
    """A durable call or a child run under way, and its task, where it has one.

    `within` is the key of the call that it is part of, `inner` how many works are part of it.
    """

    account: OpenStep
    task: Any = None
    within: str = ""
    inner: int = 0


class Settling(Protocol):
    """A paid call under way, for which something is held: whether it has ended, and how it is settled then."""

    @property
    def is_over(self) -> Callable[[], bool]:
        """Whether it has ended."""

    @property
    def meters(self) -> tuple[Meter, ...]:
        """The durable calls it is made in."""

    def settle_as_assumed(self) -> None:
        """Record what the call is taken to have cost."""


class Scope:
    """One try of a step: where its charges go, and what is known of its inside.

    `pending` are charges that are not stored yet; the next commit takes them along. `holds` are paid calls under way,
    which are settled before the step is committed. `left` says that the step cannot
    go on now: whatever its function returns or swallows, it is not committed. `works` is what is under way in it; once
    it is `closed`, since its function ended without a state, nothing more begins in it. `purpose` is what is paid for
    where nobody says so: the scorer or the judge, after the function has returned.
    """

    __slots__ = (
        *("account", "clock", "closed", "holds", "journal", "lease", "left", "lock", "pending", "purpose", "step_n"),
        *("store", "works"),
    )

    def __init__(
        self,
        store: Store,
        lease: Lease,
        account: OpenStep,
        step_n: int,
        clock: Clock,
        lock: threading.RLock,
        journal: Journal | None,
    ) -> None:
        self.store = store
        self.lease = lease
        self.account = account
        self.step_n = step_n
        self.clock = clock
        self.lock = lock
        self.journal = journal
        self.left: Leave | None = None
        self.closed = False
        self.purpose: str | None = None
        self.works: set[Work] = set()
        self.pending: list[Charge] = []
        self.holds: set[Settling] = set()

    @property
    def record(self) -> Journal:
        """What is on record of the inside of the step; begun when first needed."""
        with self.lock:
            if self.journal is None:
                self.journal = Journal(self.store, self.lease.run_id, self.step_n, tried=False)
            return self.journal

    def key_of(self, *parts: str) -> str:
        """What the next call, question or child run is known by; inside of a durable call they are counted apart.

        So it makes no difference whether that call is executed or gives its recorded result.
        """
        call = self.enclosing_call()
        return self.record.key_of(*parts, within="" if call is None else call.key)

    def enclosing_call(self) -> Meter | None:
        """The durable call of this step that this code runs in, or None; for whatever is to begin in it.

        Raises:
            Leaving: When the try of the step or of the call has ended: what it has left behind gets no further.
        """
        call = enclosing_call(self.lease.run_id)
        if self.closed or (call is not None and call.closed):
            raise Leaving("the try that this belongs to has ended")
        return call

    def charge(self, charge: Charge, meters: tuple[Meter, ...] | None = None) -> None:
        """Count a charge, here and for the calls it is made in: those that this code runs in, unless they are named."""
        self.account.charge(charge.nano_usd, charge.tokens)
        for meter in _meters.get() if meters is None else meters:
            with self.lock:
                meter.nano_usd += charge.nano_usd

    def charge_later(self, charge: Charge) -> None:
        """Count a charge now and store it with the next commit."""
        with self.lock:
            self.pending.append(charge)
        self.charge(charge)

    def leave(self, leave: Leave) -> Leaving:
        """Note that the step cannot go on, and give what unwinds it; to be stopped counts for more than to wait."""
        with self.lock:
            if self.left is None or self.left.status is RunStatus.WAITING:
                self.left = self.left if self.left and leave.status is RunStatus.WAITING else leave
        return Leaving(leave.reason)


scope_here: ContextVar[Scope | None] = ContextVar("loomc_runner_step", default=None)
"""The step that code runs in; the driver sets it around what it calls of the user's."""


@dataclass(eq=False)
class Halt:
    """Runs side by side: once one of them has `failed` the others stop after their steps, and all below them.

    `owner` is the step that runs them, None outside of one; only there it is told that they stopped for this.
    """

    owner: Scope | None
    outer: Halt | None
    failed: bool = False

    def asked(self) -> bool:
        """Whether a run is to stop."""
        return self.failed or (self.outer is not None and self.outer.asked())


halting: ContextVar[Halt | None] = ContextVar("loomc_runner_halting", default=None)
"""The runs side by side that this code belongs to."""

_meters: ContextVar[tuple[Meter, ...]] = ContextVar("loomc_runner_meters", default=())


current_scope: Callable[[], Scope | None] = scope_here.get
"""The step this code runs in, or None."""


class outside_of_steps:  # noqa: N801 - used as `with outside_of_steps():`
    """Let code see no step, so that what it spends, asks and starts is no part of one."""

    __slots__ = ("_tokens",)

    def __enter__(self) -> None:
        self._tokens = scope_here.set(None), _meters.set(())

    def __exit__(self, *_: object) -> None:
        scope, meters = self._tokens
        scope_here.reset(scope)
        _meters.reset(meters)


class metered:  # noqa: N801 - used as `with metered(meter):`
    """Measure what is spent inside of a durable call."""

    __slots__ = ("_meter", "_token")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> Meter:
        self._token = _meters.set((*_meters.get(), self._meter))
        return self._meter

    def __exit__(self, *_: object) -> None:
        self._meter.closed = True
        _meters.reset(self._token)


def enclosing_calls() -> tuple[Meter, ...]:
    """The durable calls that this code runs in, of this run and of enclosing ones, outermost first."""
    return _meters.get()


def enclosing_call(run_id: str) -> Meter | None:
    """The durable call of this run that this code runs in, or None."""
    meters = _meters.get()
    return meters[-1] if meters and meters[-1].run_id == run_id else None


def write(scope: Scope, **changes: Any) -> None:
    """Store at once what happens inside a step; a database that is locked is waited for."""
    change = _with_pending(scope, changes)
    try:
        finish(patiently(block, scope.store.commit, scope.lease, change))
    except StoreError:
        _put_back(scope, change)
        raise


async def write_async(scope: Scope, **changes: Any) -> None:
    """The same for async code; once begun it is done, also when the task is cancelled meanwhile."""
    import asyncio

    change = _with_pending(scope, changes)
    try:
        try:
            await patiently(asyncio.sleep, scope.store.commit, scope.lease, change)
        except asyncio.CancelledError:
            finish(patiently(block, scope.store.commit, scope.lease, change))
            raise
    except StoreError:
        _put_back(scope, change)
        raise


def _with_pending(scope: Scope, changes: dict[str, Any]) -> Transition:
    """A change inside a step, with the charges that are not stored yet."""
    with scope.lock:
        charges, scope.pending[:] = tuple(scope.pending), ()
    return Transition(scope.clock.now(), charges=charges, keep_in_flight=True, **changes)


def _put_back(scope: Scope, change: Transition) -> None:
    """The charges could not be stored: the next commit takes them along."""
    with scope.lock:
        scope.pending[:0] = change.charges


def step_here(what: str) -> Scope:
    """The step this code runs in.

    Raises:
        NotInStep: When there is none.
    """
    if (scope := current_scope()) is None:
        raise NotInStep(
            f"{what} was called where no step is running; in a thread of your own, "
            "start it with contextvars.copy_context().run(fn, ...)"
        )
    return scope


def spend(*, usd: float = 0.0, tokens: int = 0, label: str | None = None) -> None:
    """Record money or tokens that the running step has spent, at once and durably.

    Call it right after each paid call, from anywhere below the step: the charge survives a crash, counts for this
    run and every enclosing one, and is never undone.

    Args:
        usd: Dollars, zero or more.
        tokens: Tokens, zero or more.
        label: What it was for, shown by `loomc explain`; in a scorer or a judge it is that when you say nothing.

    Raises:
        BudgetExhausted: When this crosses a cap; it is recorded all the same.
        CostError: When an amount is negative, not finite or not a number; nothing is recorded then.
        NotInStep: When no step is running here. A new thread has no step: start it with
            `contextvars.copy_context().run(fn, ...)`.
    """
    nano = to_nano(usd)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise CostError(f"tokens must be a whole number, zero or more, not {tokens!r}")
    scope = step_here(f"spend(usd={usd!r})")
    charge = Charge(scope.step_n, nano, tokens, label or scope.purpose, scope.clock.now())
    record_charge(scope, charge, lambda: scope.charge(charge))
    scope.account.ledger.check_limits()


def record_charge(scope: Scope, charge: Charge, count: Callable[[], None]) -> None:
    """Store a charge at once and count it; what cannot be stored now is stored with the next commit."""
    try:
        store_charge(scope, charge)
    except StoreError:
        with scope.lock:
            scope.pending.append(charge)
        raise
    finally:
        count()


def store_charge(scope: Scope, charge: Charge) -> None:
    """Store a charge at once; with the next commit where an event loop would have to wait for the store."""
    change = Transition(charge.at, charges=(charge,), keep_in_flight=True)
    try:
        if in_event_loop():
            scope.store.commit(scope.lease, change)
        else:
            finish(patiently(block, scope.store.commit, scope.lease, change))
    except StoreBusy:  # an event loop must not be blocked: the step's commit waits for the database instead
        with scope.lock:
            scope.pending.append(charge)


async def rest(account: OpenStep, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Wait, for a quota or for another try; where nothing else is at work in the step that is not working time."""
    account.rest(1)
    try:
        await sleep(seconds)
    finally:
        account.rest(-1)
