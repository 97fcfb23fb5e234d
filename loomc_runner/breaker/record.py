"""A circuit breaker in a run: its changes are on record, and one that was open is open after a resume."""

from __future__ import annotations

from datetime import timedelta

from loomc_runner.breaker.circuit import CircuitBreaker, State
from loomc_runner.context import current_scope, write
from loomc_runner.records import BreakerChange


def recall(breaker: CircuitBreaker) -> None:
    """Open a breaker that was open when the run was last at work; looked up once in a life of the outermost run."""
    scope = current_scope()
    if scope is None:
        return
    root = scope.account.ledger.lineage[0]
    if breaker.name in root.recalled:
        return
    root.recalled.add(breaker.name)
    changes = [change for change in scope.store.breakers(root.run_id) if change.name == breaker.name]
    if changes and changes[-1].state != "closed":
        newest = changes[-1]
        left = 0.0 if newest.retry_at is None else (newest.retry_at - scope.clock.now()).total_seconds()
        breaker.restore(max(left, 0.0), newest.failures, newest.openings)


def note(breaker: CircuitBreaker, state: State) -> None:
    """Put a change on record in the run that it happened in."""
    scope = current_scope()
    if scope is None:
        return
    now, known = scope.clock.now(), breaker.snapshot()
    retry_at = now + timedelta(seconds=known.retry_after) if state == "open" else None
    change = BreakerChange(scope.step_n, breaker.name, state, known.failures, known.openings, now, retry_at)
    write(scope, breaker=change)
