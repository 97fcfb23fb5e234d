"""From one step to the next: run it, decide, commit; and the hop that repeats this until the run stops."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from loom import tailrec, tailstream

from loomc_runner.backtrack import Strategy
from loomc_runner.budget import Ledger, OpenStep
from loomc_runner.context import Scope, entered
from loomc_runner.converge import first_reason
from loomc_runner.errors import BudgetExhausted, LoomcError, LoomcWarning, SpecError, StallError
from loomc_runner.history import History
from loomc_runner.records import INITIAL, Attempt, Lease, RunStatus, StepRecord, Transition
from loomc_runner.scores import gain
from loomc_runner.spec import LoopSpec
from loomc_runner.state import Codec
from loomc_runner.step import Outcome, limit_in, perform
from loomc_runner.store import Store, block, finish, patiently

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])

BREATH = 0.005
"""Seconds after which an async loop gives the event loop a turn, also when its steps never wait."""

UNPRICED = "unpriced steps: a dollar budget holds, but nobody recorded a cost for some of them"

log = logging.getLogger("loomc_runner")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a step: `status` and `reason` of the run, and `next_n`, the step to go on from."""

    status: RunStatus = RunStatus.RUNNING
    reason: str | None = None
    decision: str | None = None
    next_n: int | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class Cursor(Generic[S]):
    """A run under way: where it stands, and what it needs to take the next step.

    `account` is the open account of the next step, None when none may start. `parent_n` is the step that `state`
    belongs to. `verdict` is how the run ended, None while it goes on. `unstored` is the commit that is under way.
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
    record: StepRecord[S] | None = field(default=None)
    unstored: Transition | None = None

    @property
    def stopped(self) -> bool:
        """Whether there is nothing more to do."""
        return self.verdict is not None

    @property
    def step_n(self) -> int:
        """The number of the next step."""
        return self.ledger.steps


async def advance(cursor: Cursor[S]) -> Cursor[S]:
    """Take one step: run it, decide what follows, and commit all of it at once."""
    if cursor.account is None:
        raise RuntimeError(f"run {cursor.lease.run_id} has no open step")
    cursor.ledger.start_clock()
    cursor.record, outcome = None, None
    scope = Scope(cursor.store, cursor.lease, cursor.account, cursor.step_n, cursor.spec.clock)
    try:
        await _take_turn(cursor)
        outcome = await perform(cursor.spec, scope, cursor.codec, cursor.state, _escalation(cursor))
        with entered(scope):
            step, verdict = await _conclude(cursor, scope, outcome)
        await _commit(cursor, scope, outcome, step, verdict)
    except BaseException as error:
        if isinstance(error, LoomcError) and outcome is not None:
            error.state = outcome.state  # could not be stored, but is paid for
        await _cut_off(cursor, scope, error)
        raise
    finally:
        cursor.ledger.stop_clock()
    return cursor


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
        await end(cursor, Verdict(RunStatus.PAUSED, f"paused: {_in_words(error)}", error=error))
    except LoomcError as second:
        log.warning("run %s could not be marked as paused: %s", cursor.lease.run_id, second)


def exhausted(run_id: str, error: BudgetExhausted) -> Verdict:
    """The verdict for a limit, of this run or of an enclosing one."""
    where = "" if error.run_id in {None, run_id} else f" of the enclosing run {error.run_id}"
    return Verdict(RunStatus.BUDGET_EXHAUSTED, f"budget{where}: {error.reason}", "stop", error=error)


async def _conclude(cursor: Cursor[S], scope: Scope, outcome: Outcome[S]) -> tuple[StepRecord[S] | None, Verdict]:
    """The record of the step, if it leaves one, and what follows from it."""
    if outcome.text is None and outcome.exhausted is not None:
        return None, exhausted(cursor.lease.run_id, outcome.exhausted)
    failure = outcome.error or outcome.flaw
    step = _record(cursor, scope, outcome, failure)
    cursor.history.append(step, outcome.text)
    if outcome.text is None and failure is not None:
        return await _absorb(cursor, step, failure)
    if failure is None:
        try:
            return step, await _decide(cursor, scope, outcome, step)
        except Exception as error:  # noqa: BLE001 - a judge that fails must not lose the step it judged
            if limit := limit_in(error, cursor.ledger):
                return step, exhausted(cursor.lease.run_id, limit)
            failure = error
            step = dataclasses.replace(step, error=_in_words(error))
    return step, Verdict(RunStatus.FAILED, f"failed: {_in_words(failure)}", "stop", error=failure)


async def _absorb(cursor: Cursor[S], step: StepRecord[S], error: Exception) -> tuple[StepRecord[S] | None, Verdict]:
    """A step that failed is committed if a strategy says where to go on, else the run has failed."""
    try:
        target = chosen(cursor.spec.strategies, cursor.history)
    except Exception as second:  # noqa: BLE001 - a strategy that fails absorbs nothing
        second.__context__ = second.__context__ or error
        target, error = None, second
    if target is None:
        cursor.history.drop_newest()
        return None, Verdict(RunStatus.FAILED, f"failed: {_in_words(error)}", error=error)
    return step, Verdict(decision=f"restore {target}", next_n=target)


async def _decide(cursor: Cursor[S], scope: Scope, outcome: Outcome[S], step: StepRecord[S]) -> Verdict:
    """What follows from a good step: stop, go back, change something, or simply go on."""
    spec, history = cursor.spec, cursor.history
    if outcome.exhausted is not None:
        raise outcome.exhausted
    if outcome.done is not None:
        return Verdict(RunStatus.COMPLETED, "done: the step said so", "stop")
    scope.account.ledger.check_claims()  # a charge that crossed a cap, though the step returned all the same
    if spec.detectors:
        asking = first_reason(spec.detectors, history)
        reason = await asking if spec.is_async else finish(asking)
        if reason is not None:
            return Verdict(RunStatus.COMPLETED, f"converged: {reason}", "stop")
    target = chosen(spec.strategies, history)
    if spec.on_stall is not None and spec.on_stall(history):
        if spec.on_stall.handler is None:
            error = StallError(spec.on_stall.after)
            return Verdict(RunStatus.STALLED, f"stalled: {error}", "stalled", error=error)
        return Verdict(decision="escalate", next_n=step.step_n if target is None else target)
    if target is None:
        return Verdict(next_n=step.step_n)
    return Verdict(decision=f"restore {target}", next_n=target)


async def _commit(
    cursor: Cursor[S], scope: Scope, outcome: Outcome[S], step: StepRecord[S] | None, verdict: Verdict
) -> None:
    """Settle the step's account, reserve the next one, and store everything in one transaction."""
    cost, pending, ledger = scope.account.settle(), tuple(scope.pending), cursor.ledger
    cursor.account = None
    if step is not None:
        ledger.steps += 1
    if verdict.status is RunStatus.RUNNING:
        try:
            cursor.account = ledger.open_step()
        except BudgetExhausted as error:
            verdict = dataclasses.replace(exhausted(ledger.run_id, error), decision=verdict.decision)
    if step is not None:
        priced = scope.account.priced
        known = (cost if priced else None, scope.account.tokens, verdict.decision)
        if known != (step.nano_usd, step.tokens, step.decision):
            step = dataclasses.replace(step, nano_usd=known[0], tokens=known[1], decision=known[2])
            cursor.history.replace_newest(step)
    elapsed = ledger.elapsed
    change = Transition(
        at=cursor.spec.clock.now() if step is None else step.timestamp,
        step=step,
        state=outcome.text,
        charges=pending,
        attempt=_attempt(scope, outcome, cost) if step is None else None,
        status=verdict.status,
        stop_reason=verdict.reason,
        in_flight=cursor.step_n if cursor.account else None,
        reserved_nano=cursor.account.reserved if cursor.account else 0,
        worked=elapsed - cursor.worked,
        best_step=step.best_n if step else None,
        dearest_nano=ledger.dearest,
        result=outcome.result,
        notes=_unpriced_note(cursor, scope, outcome),
    )
    cursor.unstored = change
    await patiently(cursor.sleep, cursor.store.commit, cursor.lease, change)
    del scope.pending[: len(pending)]
    cursor.worked, cursor.record, cursor.unstored = elapsed, step, None
    _move(cursor, outcome, verdict)
    if change.notes is not None:
        message = f"run {cursor.lease.run_id}: {UNPRICED}; call spend(usd=...) or add cost_fn="
        warnings.warn(message, LoomcWarning, stacklevel=2)


def _move(cursor: Cursor[S], outcome: Outcome[S], verdict: Verdict) -> None:
    """Put the cursor where the next step starts, or at its end."""
    step = cursor.record
    if step is not None and outcome.text is not None:
        cursor.state, cursor.parent_n = cast("S", outcome.state), step.step_n
    else:  # whatever the failed step did to the state it was given
        cursor.state = cursor.history.state(cursor.parent_n)
    if verdict.status is not RunStatus.RUNNING:
        cursor.verdict = verdict
    elif verdict.next_n is not None and (verdict.decision or verdict.next_n != cursor.parent_n):
        # From the stored bytes, so that nothing done to the old object since can spoil it.
        cursor.state, cursor.parent_n = cursor.history.state(verdict.next_n), verdict.next_n


async def _cut_off(cursor: Cursor[S], scope: Scope, error: BaseException) -> None:
    """Leave the run resumable when something tears the step apart: Ctrl-C, a cancelled task, a full disk."""
    for account in {scope.account, cursor.account or scope.account}:
        account.settle()
    if cursor.verdict is not None:  # the run has ended, and all of it is stored
        return
    cursor.verdict = Verdict(RunStatus.PAUSED, f"paused: {_in_words(error)}", error=error)
    sleep = block if isinstance(error, GeneratorExit) else cursor.sleep
    try:
        run = cursor.store.get_run(cursor.lease.run_id)
        if run.status is RunStatus.RUNNING:
            change = _torn(cursor, scope, run.steps)
            await patiently(sleep, cursor.store.commit, cursor.lease, change)
            cursor.verdict = Verdict(change.status, change.stop_reason, error=error)
        else:  # a signal came right after the commit that ended it
            cursor.verdict = Verdict(run.status, run.stop_reason, error=error)
        cursor.state = cursor.history.state(cursor.parent_n)
    except LoomcError as second:
        cursor.verdict = Verdict(RunStatus.INTERRUPTED, f"interrupted: {_in_words(error)}", error=error)
        log.warning("run %s could not be marked as paused: %s", cursor.lease.run_id, second)


def _torn(cursor: Cursor[S], scope: Scope, committed: int) -> Transition:
    """What is stored of a step that was torn apart, when so many steps are committed."""
    verdict = cursor.verdict or Verdict()
    paused = Transition(cursor.spec.clock.now(), status=RunStatus.PAUSED, stop_reason=verdict.reason)
    if committed > scope.step_n:  # a signal, or a warning that is an error, came right after the commit
        return paused
    change = cursor.unstored
    if change is None or isinstance(verdict.error, LoomcError):
        worked = max(cursor.ledger.elapsed - cursor.worked, 0.0)
        return dataclasses.replace(paused, charges=tuple(scope.pending), keep_in_flight=True, worked=worked)
    if change.status is not RunStatus.RUNNING:
        return change
    # It has returned, and waits for the store: it is paid for, and kept.
    return dataclasses.replace(change, status=RunStatus.PAUSED, stop_reason=verdict.reason, in_flight=None)


def _record(cursor: Cursor[S], scope: Scope, outcome: Outcome[S], failure: Exception | None) -> StepRecord[S]:
    best_n = _best_so_far(cursor, outcome.score)
    return StepRecord(
        step_n=scope.step_n,
        parent_n=cursor.parent_n,
        score=outcome.score,
        nano_usd=scope.account.total if scope.account.priced else None,
        tokens=scope.account.tokens,
        timestamp=cursor.spec.clock.now(),
        duration=outcome.duration,
        error=None if failure is None else _in_words(failure),
        best_n=best_n,
        read_state=cursor.history.state,
    )


def _best_so_far(cursor: Cursor[S], score: float | None) -> int | None:
    best_n = cursor.history[-1].best_n if len(cursor.history) else None
    if score is None:
        return best_n
    best = None if best_n is None else cursor.history[best_n].score
    return cursor.step_n if best is None or gain(score, best, cursor.spec.direction) > 0 else best_n


def chosen(strategies: Iterable[Strategy], history: History[Any]) -> int | None:
    """The step to go on from that the first strategy names, or None.

    Raises:
        SpecError: When it is none of the steps there are.
    """
    for strategy in strategies:
        if (target := strategy(history)) is not None:
            if isinstance(target, bool) or not isinstance(target, int) or not INITIAL <= target < len(history):
                raise SpecError(f"{strategy} must return the number of a step (-1: the initial state), not {target!r}")
            return target
    return None


def _escalation(cursor: Cursor[S]) -> Callable[[S], Any] | None:
    """What changes the state before the next step, when the newest step ended in an escalation."""
    stall, history = cursor.spec.on_stall, cursor.history
    if stall is None or stall.handler is None or not len(history) or history[-1].decision != "escalate":
        return None
    handler = stall.handler
    return lambda state: handler(state, history)


def _attempt(scope: Scope, outcome: Outcome[Any], cost: int) -> Attempt:
    error = outcome.error or outcome.exhausted
    words = "unknown" if error is None else _in_words(error)
    started_at = scope.clock.now() - timedelta(seconds=outcome.duration)
    return Attempt(scope.step_n, 0, words, "unknown", cost, started_at, outcome.duration)


def _unpriced_note(cursor: Cursor[S], scope: Scope, outcome: Outcome[S]) -> tuple[str, ...] | None:
    ledger = cursor.ledger
    known = scope.account.priced or outcome.text is None or not ledger.dollar_capped or ledger.strict
    if known or UNPRICED in cursor.notes:
        return None
    cursor.notes = (*cursor.notes, UNPRICED)
    return cursor.notes


async def _take_turn(cursor: Cursor[S]) -> None:
    if cursor.spec.is_async and (now := cursor.spec.clock.monotonic()) - cursor.turned > BREATH:
        cursor.turned = now
        await cursor.sleep(0)


def _in_words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken error is still the error of the step
        text = "its message cannot be shown"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
    if cursor.stopped:
        return cursor
    cursor = await advance(cursor)
    return await drive(cursor)


@_typed(tailstream)
async def flow(cursor: Cursor[S]) -> AsyncGenerator[StepRecord[S]]:
    """Advance until the run stops, giving each committed step as it happens."""
    if cursor.stopped:
        return
    cursor = await advance(cursor)
    if cursor.record is not None:
        yield cursor.record
    async for record in flow(cursor):
        yield record
    return
