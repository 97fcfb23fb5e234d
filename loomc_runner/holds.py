"""Calls that are paid for when they are over: what each may cost is on record before it is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from loomc_runner.context import Meter, Scope, enclosing_calls, record_charge
from loomc_runner.errors import BudgetExhausted, LoomcError, StoreBusy, StoreError
from loomc_runner.records import Charge, Transition
from loomc_runner.store import block, finish, in_event_loop, patiently


@dataclass(eq=False, slots=True)
class Hold:
    """A paid call under way in a step.

    `charge` is what it may cost at most, as it is on record while nobody knows better. `is_over` says whether the call
    has ended, and `assume` what it is charged when it has and nobody said what it cost. `meters` are the durable calls
    that it is made in, wherever it is settled. Only the hold itself puts its `charge` on record, and not once it is
    settled: nothing that is stored late takes the place of what the call has cost.
    """

    scope: Scope
    charge: Charge
    is_over: Callable[[], bool]
    assume: Callable[[], Charge]
    meters: tuple[Meter, ...] = field(default_factory=enclosing_calls)
    is_recorded: bool = False

    def record(self) -> None:
        """Put on record what the call may cost, if that is not there yet; a store that is busy is waited for."""
        if not self.is_recorded:
            finish(patiently(block, self.try_to_record))

    async def record_async(self) -> None:
        """The same for async code."""
        import asyncio

        if not self.is_recorded:
            await patiently(asyncio.sleep, self.try_to_record)

    def try_to_record(self) -> None:
        """Put on record what the call may cost, unless it is settled.

        Raises:
            StoreBusy: When the store cannot take it now.
        """
        with self.scope.lock:
            if self in self.scope.holds:
                change = Transition(self.charge.at, charges=(self.charge,), keep_in_flight=True)
                self.scope.store.commit(self.scope.lease, change)
                self.is_recorded = True

    def settle(self, charge: Charge) -> None:
        """Record what the call has cost, in the place of what it might; once, whoever comes first.

        Raises:
            BudgetExhausted: When that crosses a cap; it is recorded all the same.
        """
        if self._settle(charge) and not charge.is_nothing:
            self.scope.account.ledger.check_limits()

    def settle_as_assumed(self) -> None:
        """Record what the call is taken to have cost; where that cannot be told, what it might have."""
        try:
            charge = self.assume()
        except LoomcError:
            charge = self.charge
        self._settle(charge._replace(estimated=True))

    def _settle(self, charge: Charge) -> bool:
        scope, held = self.scope, self.charge
        with scope.lock:
            if self not in scope.holds:
                return False
            scope.holds.discard(self)
        known = charge._replace(key=held.key)
        record_charge(scope, known, lambda: self._count(known))
        return True

    def _count(self, known: Charge) -> None:
        """Count what the call has cost in place of what was held for it, in one move."""
        with self.scope.account.ledger.lock:
            self.scope.account.release(self.charge.nano_usd, self.charge.tokens)
            self.scope.charge(known, self.meters)


def hold(scope: Scope, charge: Charge, is_over: Callable[[], bool], assume: Callable[[], Charge]) -> Hold:
    """Reserve what a call may cost at most, and put that on record, before it is made.

    Where an event loop would have to wait for the store, it is not there yet: `record` it before the call is made.

    Raises:
        BudgetExhausted: When it does not fit what is left, here or in an enclosing run; the call must not be made.
    """
    settle_all(scope, only_over=True)
    held = Hold(scope, charge._replace(estimated=True, key=os.urandom(16).hex()), is_over, assume)
    scope.account.hold(charge.nano_usd, charge.tokens)
    with scope.lock:
        scope.holds.add(held)
    try:
        if in_event_loop():
            with suppress(StoreBusy):
                held.try_to_record()
        else:
            held.record()
    except BaseException:
        with scope.lock:
            is_ours = held in scope.holds
            scope.holds.discard(held)
        if is_ours:
            scope.account.release(charge.nano_usd, charge.tokens)
        raise
    return held


def settle_all(scope: Scope, *, only_over: bool = False, within: Meter | None = None) -> None:
    """Settle the calls that nobody has settled: those that are over, or all once their step, or a call, has ended.

    Limits that are crossed by it are met where the step is looked at next; what cannot be stored now is stored with it.
    """
    with scope.lock:
        inside = [each for each in scope.holds if within is None or any(meter is within for meter in each.meters)]
        held = [each for each in inside if not only_over or each.is_over()]
    for each in held:
        with suppress(BudgetExhausted, StoreError):
            each.settle_as_assumed()
