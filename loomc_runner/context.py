"""What code below a step may ask for: `spend`, and which run and step it is in."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field

from loomc_runner.budget import OpenStep, to_nano
from loomc_runner.clock import Clock
from loomc_runner.errors import CostError, NotInStep, StoreBusy, StoreError
from loomc_runner.records import Charge, Lease, Transition
from loomc_runner.store import Store, block, finish, in_event_loop, patiently


@dataclass(slots=True)
class Scope:
    """The step that is running: where its charges go.

    `pending` are charges that are not stored yet; the step's commit takes them along.
    """

    store: Store
    lease: Lease
    account: OpenStep
    step_n: int
    clock: Clock
    pending: list[Charge] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def charge_later(self, charge: Charge) -> None:
        """Count a charge now and store it with the step's commit."""
        with self.lock:
            self.pending.append(charge)
        self.account.charge(charge.nano_usd, charge.tokens)


_scope: ContextVar[Scope | None] = ContextVar("loomc_runner_step", default=None)


def current_scope() -> Scope | None:
    """The step this code runs in, or None."""
    return _scope.get()


class entered:  # noqa: N801 - used as `with entered(scope):`; a class, since every step enters several times
    """Let user code that is called inside see the step."""

    __slots__ = ("_scope", "_token")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._token = _scope.set(self._scope)

    def __exit__(self, *_: object) -> None:
        _scope.reset(self._token)


def spend(*, usd: float = 0.0, tokens: int = 0, label: str | None = None) -> None:
    """Record money or tokens that the running step has spent, at once and durably.

    Call it right after each paid call, from anywhere below the step: the charge survives a crash, counts for this
    run and every enclosing one, and is never undone.

    Args:
        usd: Dollars, zero or more.
        tokens: Tokens, zero or more.
        label: What it was for, shown by `loomc export`.

    Raises:
        BudgetExhausted: When this crosses a cap; it is recorded all the same.
        CostError: When an amount is negative, not finite or not a number; nothing is recorded then.
        NotInStep: When no step is running here. A new thread has no step: start it with
            `contextvars.copy_context().run(fn, ...)`.
    """
    nano = to_nano(usd)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise CostError(f"tokens must be a whole number, zero or more, not {tokens!r}")
    if (scope := current_scope()) is None:
        raise NotInStep(
            f"spend(usd={usd!r}) was called where no step is running; in a thread of your own, "
            "start it with contextvars.copy_context().run(fn, ...)"
        )
    charge = Charge(scope.step_n, nano, tokens, label, scope.clock.now())
    _store(scope, charge)
    scope.account.ledger.check_limits()


def _store(scope: Scope, charge: Charge) -> None:
    change = Transition(charge.at, charges=(charge,), keep_in_flight=True)
    try:
        if in_event_loop():
            scope.store.commit(scope.lease, change)
        else:
            finish(patiently(block, scope.store.commit, scope.lease, change))
    except StoreBusy:  # an event loop must not be blocked: the step's commit waits for the database instead
        scope.charge_later(charge)
    except StoreError:
        scope.charge_later(charge)
        raise
    else:
        scope.account.charge(charge.nano_usd, charge.tokens)
