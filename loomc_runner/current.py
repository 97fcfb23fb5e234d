"""`current_run`: which run and step this code is in, and what may still be spent there."""

from __future__ import annotations

from dataclasses import dataclass

from loomc_runner.context import step_here
from loomc_runner.records import NANO


@dataclass(frozen=True, slots=True)
class CurrentRun:
    """The run and the step that code runs in.

    Attributes:
        run_id: The run.
        step_n: The number of the step, from 0.
        wrap_up: Whether this is the last step, which spends what `Budget(wrap_up=...)` has kept: time to turn what is
            there into a result.
        spent_usd: Dollars the run has spent so far, child runs included.
        left_usd: Dollars that a call in this step may still cost, here and in every enclosing run, calls under way
            counted with what they may cost; None without a cap.
    """

    run_id: str
    step_n: int
    wrap_up: bool
    spent_usd: float
    left_usd: float | None


def current_run() -> CurrentRun:
    """Which run and step this code is in, and what it may still spend, as it is right now.

    Raises:
        NotInStep: When no step is running here.
    """
    scope = step_here("current_run()")
    ledger, room = scope.account.ledger, scope.account.room()
    return CurrentRun(
        run_id=scope.lease.run_id,
        step_n=scope.step_n,
        wrap_up=ledger.wrap_step == scope.step_n,
        spent_usd=ledger.spent / NANO,
        left_usd=None if room is None else room / NANO,
    )
