"""From one step to the next: run it, decide, commit; and the hop that repeats this until the run stops."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

from loom import tailrec, tailstream

from loomc_runner.announce import announce
from loomc_runner.context import LOOK, Scope, asked_to_leave, current_scope, rest, scope_here
from loomc_runner.cursor import Cursor, Verdict
from loomc_runner.decide import conclude, escalation, exhausted, left
from loomc_runner.errors import BudgetExhausted, LoomcError, LoomcWarning, in_words
from loomc_runner.holds import settle_all
from loomc_runner.records import RUNNING, Attempt, Charge, Control, RunStatus, StepRecord, Transition
from loomc_runner.retry import category_of
from loomc_runner.step import Outcome, perform
from loomc_runner.store import block, patiently
from loomc_runner.watching import is_watched, note, tell
from loomc_runner.works import end_works

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])

BREATH = 0.005
"""Seconds after which an async loop gives the event loop a turn, also when its steps never wait."""

UNPRICED = "unpriced steps: a dollar budget holds, but nobody recorded a cost for some of them"

WENT = "went another way"


async def advance(cursor: Cursor[S]) -> Cursor[S]:
    """Take one step; stop where somebody asked for it, and wait where the step is to be tried again."""
    control = await _take_step(cursor)
    if cursor.spec.calls_back or is_watched():
        await announce(cursor)
    if cursor.verdict is not None:
        return cursor
    if leave := asked_to_leave(control, cursor.halt):
        await end(cursor, left(cursor.lease.run_id, leave))
    elif cursor.account is None:
        await _wait(cursor)
        if cursor.stopped:  # another try does not fit
            await announce(cursor)
    return cursor


async def _take_step(cursor: Cursor[S]) -> Control | None:
    """Run a step, decide what follows, and commit all of it at once; what somebody asks of the run comes back."""
    spec, ledger, account, outcome = cursor.spec, cursor.ledger, cursor.account, None
    if account is None:
        raise RuntimeError(f"run {cursor.lease.run_id} has no open step")
    cursor.record = None
    scope = Scope(cursor.store, cursor.lease, account, ledger.steps, spec.clock, cursor.lock, cursor.journal)
    try:
        ledger.start_clock()
        if spec.is_async and (now := spec.clock.monotonic()) - cursor.turned > BREATH:
            cursor.turned = now
            await cursor.sleep(0)
        if scope.journal is not None:
            scope.journal.begin_try()
        outside = current_scope()
        try:
            scope_here.set(scope)
            prepare = None if spec.on_stall is None else escalation(cursor)
            work = perform(spec, scope, cursor.codec, cursor.state, cursor.history, prepare)
            outcome = await (cursor.watch.over(work, scope) if spec.is_async else work)
            step, verdict = await conclude(cursor, scope, outcome)
        finally:
            if current_scope() is scope:  # else an abandoned run is closed wherever its last reference goes
                scope_here.set(outside)
        if scope.holds:  # what a scorer or a judge has left open
            settle_all(scope)
        if step is None and scope.works:
            again = verdict.delay is not None or scope.left is not None
            await end_works(scope, is_async=spec.is_async, threads=again)
        control = await _commit(cursor, scope, outcome, step, verdict)
        if outcome.torn is not None:
            raise outcome.torn
    except BaseException as error:
        if isinstance(error, LoomcError) and outcome is not None:
            error.state = outcome.state  # could not be stored, but is paid for
        await _cut_off(cursor, scope, error)
        raise
    finally:
        ledger.stop_clock()
    return control


async def _wait(cursor: Cursor[Any]) -> None:
    """Wait before a step is tried again, and look meanwhile whether somebody wants the run to stop."""
    parent = cursor.ledger.parent
    until, cursor.delay = time.monotonic() + (cursor.delay or 0.0), None
    while (left_over := until - time.monotonic()) > 0:
        if parent is None:
            await cursor.sleep(min(left_over, LOOK))
        else:
            await rest(parent, min(left_over, LOOK), cursor.sleep)
        run = await patiently(cursor.sleep, cursor.store.get_run, cursor.lease.run_id)
        if leave := asked_to_leave(run.control, cursor.halt):
            await end(cursor, left(cursor.lease.run_id, leave))
            return
    await start(cursor)


async def start(cursor: Cursor[Any]) -> None:
    """Reserve the next step of a run that is between two steps and say so in the store, or end the run."""
    run_id = cursor.lease.run_id
    try:
        cursor.account = cursor.ledger.open_step()
    except BudgetExhausted as error:
        await end(cursor, exhausted(run_id, error))
        return
    change = Transition(cursor.spec.clock.now(), in_flight=cursor.step_n, reserved_nano=cursor.account.reserved)
    try:
        control = await patiently(cursor.sleep, cursor.store.commit, cursor.lease, change)
    except BaseException:
        cursor.account.settle()
        raise
    if leave := asked_to_leave(control, cursor.halt):
        await end(cursor, left(run_id, leave))


async def end(cursor: Cursor[S], verdict: Verdict) -> None:
    """End a run between two steps."""
    if cursor.account is not None:
        cursor.account.settle()
        cursor.account = None
    cursor.verdict = verdict
    at = cursor.spec.clock.now()
    change = Transition(at, status=verdict.status, stop_reason=verdict.reason, notes=cursor.notes or None)
    await patiently(cursor.sleep, cursor.store.commit, cursor.lease, change)


async def pause(cursor: Cursor[S], error: BaseException) -> None:
    """Pause a run that something tears away between two steps."""
    try:
        await end(cursor, Verdict(RunStatus.PAUSED, f"paused: {in_words(error)}", error=error))
    except LoomcError as second:
        note("run %s could not be marked as paused: %s", cursor.lease.run_id, second)


async def _commit(
    cursor: Cursor[S], scope: Scope, outcome: Outcome[S], step: StepRecord[S] | None, verdict: Verdict
) -> Control | None:
    """Settle the step's account, reserve the next one, and store everything in one transaction."""
    ledger, account, pending = cursor.ledger, scope.account, tuple(scope.pending)
    cost, cursor.account = account.settle(), None
    if step is not None:
        ledger.steps += 1
    if verdict.wraps_up:
        ledger.wrap_up()
    if verdict.status is RUNNING and verdict.delay is None:
        try:
            cursor.account = ledger.open_step()
        except BudgetExhausted as error:
            verdict = dataclasses.replace(exhausted(ledger.run_id, error), decision=verdict.decision)
    if step is not None:
        nano, tokens, decision = cost if account.priced else None, account.tokens, verdict.decision
        if decision is not None or nano != step.nano_usd or tokens != step.tokens:
            step = step._replace(nano_usd=nano, tokens=tokens, decision=decision)
            cursor.history.replace_newest(step)
    change = cursor.unstored = _change(cursor, scope, outcome, step, verdict, pending, cost)
    control = await patiently(cursor.sleep, cursor.store.commit, cursor.lease, change)
    cursor.worked, cursor.record, cursor.unstored = cursor.worked + change.worked, step, None
    if pending:
        del scope.pending[: len(pending)]
    _move(cursor, scope, outcome, verdict)
    if change.attempt is not None:
        tell("failed", cursor.lease.run_id, change.attempt, verdict.delay)
    if change.notes is not None:
        _note(cursor, change.notes)
    return control


def _note(cursor: Cursor[Any], notes: tuple[str, ...]) -> None:
    """Take over the notes of the run as they are stored, and warn, once, where one tells of a budget that leaks."""
    known, cursor.notes = cursor.notes, notes
    if UNPRICED in notes and UNPRICED not in known:
        message = f"run {cursor.lease.run_id}: {UNPRICED}; call spend(usd=...) or add cost_fn="
        warnings.warn(message, LoomcWarning, stacklevel=3)


def _change(
    cursor: Cursor[S],
    scope: Scope,
    outcome: Outcome[S],
    step: StepRecord[S] | None,
    verdict: Verdict,
    pending: tuple[Charge, ...],
    cost: int,
) -> Transition:
    """All that a try of a step changes in its run."""
    ledger, journal = cursor.ledger, scope.journal
    change = Transition(cursor.spec.clock.now() if step is None else step.timestamp, step, outcome.text, pending)
    change.worked, change.dearest_nano, change.result = ledger.worked - cursor.worked, ledger.dearest, outcome.result
    if cursor.account is not None:
        change.in_flight, change.reserved_nano = ledger.steps, cursor.account.reserved
    if verdict.status is not RUNNING:
        change.status, change.stop_reason = verdict.status, verdict.reason
    if step is None:
        change.attempt = _attempt(scope, outcome, verdict, cost)
    else:
        change.best_step = step.best_n
    if journal is not None:
        change.withdrawn = journal.withdrawn() if step is not None or scope.left is not None else ()
        change.superseded = journal.superseded() if step is not None else ()
    if journal is not None or ledger.dollar_capped:
        change.notes = _notes(cursor, scope, outcome, step)
    return change if cursor.keeper is None else cursor.keeper.thinned(change, verdict.next_n)


def _move(cursor: Cursor[S], scope: Scope, outcome: Outcome[S], verdict: Verdict) -> None:
    """Put the cursor where the next step starts, or the next try of this one, or at its end."""
    step = cursor.record
    if step is not None and outcome.text is not None:
        cursor.state, cursor.parent_n = cast("S", outcome.state), step.step_n
    else:  # whatever the failed step did to the state it was given
        cursor.state = cursor.history.state(cursor.parent_n)
    if verdict.status is not RUNNING:
        cursor.verdict = verdict
    elif verdict.next_n is not None and (verdict.decision or verdict.next_n != cursor.parent_n):
        # From the stored bytes, so that nothing done to the old object since can spoil it.
        cursor.state, cursor.parent_n = cursor.history.state(verdict.next_n), verdict.next_n
    if verdict.delay is None:
        cursor.tried, cursor.journal = 0, None
    else:
        failed = not verdict.wraps_up  # a try that was refused is none of the tries
        cursor.tried, cursor.journal, cursor.delay = cursor.tried + 1 if failed else 0, scope.journal, verdict.delay


async def _cut_off(cursor: Cursor[S], scope: Scope, error: BaseException) -> None:
    """Leave the run resumable when something tears the step apart: Ctrl-C, a cancelled task, a full disk."""
    reserved = scope.account.reserved
    with suppress(LoomcError):  # what stays open is on record as what it may cost
        settle_all(scope)
    for account in {scope.account, cursor.account or scope.account}:
        account.settle()
    if cursor.verdict is not None:  # the run has ended, and all of it is stored
        return
    cursor.verdict = Verdict(RunStatus.PAUSED, f"paused: {in_words(error)}", error=error)
    sleep = block if isinstance(error, GeneratorExit) else cursor.sleep
    try:
        run = await patiently(sleep, cursor.store.get_run, cursor.lease.run_id)
        if run.status is RunStatus.RUNNING:
            change = _torn(cursor, scope, run.steps, reserved)
            await patiently(sleep, cursor.store.commit, cursor.lease, change)
            cursor.verdict = Verdict(change.status, change.stop_reason, error=error)
        else:  # a signal came right after the commit that ended it
            cursor.verdict = Verdict(run.status, run.stop_reason, error=error)
        cursor.state = cursor.history.state(cursor.parent_n)
    except LoomcError as second:
        cursor.verdict = Verdict(RunStatus.INTERRUPTED, f"interrupted: {in_words(error)}", error=error)
        note("run %s could not be marked as paused: %s", cursor.lease.run_id, second)


def _torn(cursor: Cursor[S], scope: Scope, committed: int, reserved: int) -> Transition:
    """What is stored of a step that was torn apart, when so many steps are committed.

    It stays in flight, so that the next resume accounts for it; that of a child run is accounted for at once, since
    its parent goes on counting.
    """
    verdict = cursor.verdict or Verdict()
    paused = Transition(cursor.spec.clock.now(), status=RunStatus.PAUSED, stop_reason=verdict.reason)
    if committed > scope.step_n:  # a signal, or a warning that is an error, came right after the commit
        return paused
    change = cursor.unstored
    if change is None or isinstance(verdict.error, LoomcError):
        worked = max(cursor.ledger.elapsed - cursor.worked, 0.0)
        if cursor.ledger.parent is None:
            return dataclasses.replace(paused, charges=tuple(scope.pending), keep_in_flight=True, worked=worked)
        if not scope.account.priced and reserved:
            label = "the step was cut off"
            scope.charge_later(Charge(scope.step_n, reserved, 0, label, paused.at, estimated=True))
        attempt = _attempt(scope, Outcome(worked), verdict, scope.account.total)
        return dataclasses.replace(paused, charges=tuple(scope.pending), attempt=attempt, worked=worked)
    if change.status is not RunStatus.RUNNING:
        return change
    # It has returned, and waits for the store: it is paid for, and kept.
    return dataclasses.replace(change, status=RunStatus.PAUSED, stop_reason=verdict.reason, in_flight=None)


def _attempt(scope: Scope, outcome: Outcome[Any], verdict: Verdict, cost: int) -> Attempt:
    """What is kept of a try that did not become a step."""
    error = outcome.error or outcome.exhausted
    if scope.left is not None:
        words, category = scope.left.reason, scope.left.status.value
    elif error is None:
        words, category = verdict.reason or "unknown", "interrupted"
    else:
        wraps_up = (
            outcome.exhausted is not None and verdict.delay is not None
        )  # the same step again, with what was kept
        words, category = in_words(error), "wrapping up" if wraps_up else category_of(error)
    started_at = scope.clock.now() - timedelta(seconds=outcome.duration)
    return Attempt(scope.step_n, 0, words, category, cost, started_at, outcome.duration)


def _notes(cursor: Cursor[S], scope: Scope, outcome: Outcome[S], step: StepRecord[S] | None) -> tuple[str, ...] | None:
    """The notes of the run, when the step adds one."""
    ledger = cursor.ledger
    known = scope.account.priced or outcome.text is None or not ledger.dollar_capped or ledger.strict
    if known and scope.journal is None:
        return None
    fresh = []
    if not known and UNPRICED not in cursor.notes:
        fresh.append(UNPRICED)
    notes = cursor.notes
    if step is not None and scope.journal is not None and (unused := scope.journal.unused()):
        names = ", ".join(sorted({call.name for call in unused}))
        notes = tuple(note for note in notes if WENT not in note)  # of many such steps the newest is told
        fresh.append(f"step {step.step_n} {WENT}: recorded results of {names} were not asked for")
    return (*notes, *fresh) if fresh else None


# The hops come last: loom-tailcalls compiles them anew with the names known here, and counts lines from 1.


def _typed(decorate: Any) -> Callable[[F], F]:
    """A decorator of loom-tailcalls, with the types and the line numbers it leaves out."""

    def apply(fn: F) -> F:
        hop = decorate(fn)
        hop.__code__ = hop.__code__.replace(co_firstlineno=fn.__code__.co_firstlineno + 1)
        return cast("F", hop)

    return apply


@_typed(tailrec)
async def drive(cursor: Cursor[S]) -> Cursor[S]:
    """Advance until the run stops."""
    if cursor.verdict is not None:
        return cursor
    cursor = await advance(cursor)
    return await drive(cursor)


@_typed(tailstream)
async def flow(cursor: Cursor[S]) -> AsyncGenerator[StepRecord[S]]:
    """Advance until the run stops, giving each committed step as it happens."""
    if cursor.verdict is not None:
        return
    cursor = await advance(cursor)
    if cursor.record is not None:
        yield cursor.record
    async for record in flow(cursor):
        yield record
    return
