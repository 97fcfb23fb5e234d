"""What follows from a step: to go on, to go back, to change something, or to stop. Decides, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from loomc_runner.backtrack import Strategy, is_new_best
from loomc_runner.context import Leave, Scope
from loomc_runner.converge import first_reason
from loomc_runner.cursor import GO_ON, Cursor, Verdict
from loomc_runner.errors import (
    BudgetExhausted,
    LoomcError,
    RunHalted,
    RunStopped,
    SpecError,
    StallError,
    WaitingForAnswer,
    in_words,
)
from loomc_runner.history import History
from loomc_runner.records import INITIAL, RunStatus, StepRecord
from loomc_runner.step import Outcome, is_leaving, limit_in
from loomc_runner.store import finish

S = TypeVar("S")


def exhausted(run_id: str, error: BudgetExhausted) -> Verdict:
    """The verdict for a limit, of this run or of an enclosing one."""
    where = "" if error.run_id in {None, run_id} else f" of the enclosing run {error.run_id}"
    return Verdict(RunStatus.BUDGET_EXHAUSTED, f"budget{where}: {error.reason}", "stop", error=error)


def left(run_id: str, leave: Leave) -> Verdict:
    """The verdict for a step that was left: the run waits for an answer, or was asked to stop."""
    error: LoomcError = (RunHalted if leave.halted else RunStopped)(f"run {run_id} {leave.reason}")
    if leave.status is RunStatus.WAITING:
        error = WaitingForAnswer(run_id, leave.prompt or "")
    return Verdict(leave.status, leave.reason, error=error)


async def conclude(cursor: Cursor[S], scope: Scope, outcome: Outcome[S]) -> tuple[StepRecord[S] | None, Verdict]:
    """The record of the step, if it leaves one, and what follows from it; a step that was left leaves none."""
    step: StepRecord[S] | None
    if scope.left is None:
        if outcome.text is None:
            step, verdict = await _without_state(cursor, scope, outcome)
        elif (failure := outcome.error or outcome.flaw or outcome.torn) is not None:
            step = _record(cursor, scope, outcome, failure)
            cursor.history.append(step, outcome.text)
            verdict = _failed(outcome, failure)
        else:
            step = _record(cursor, scope, outcome, None)
            cursor.history.append(step, outcome.text)
            try:
                verdict = await _decide(cursor, scope, outcome, step)
            except BaseException as error:  # noqa: BLE001 - whatever befalls a judge must not lose the step it judged
                step, verdict = _unjudged(cursor, outcome, step, error)
        if scope.left is None:
            return step, verdict
        if step is not None:
            cursor.history.drop_newest()
    torn = outcome.torn
    outcome.text = outcome.result = None
    if torn is not None and not is_leaving(torn, scope):
        return None, Verdict(RunStatus.PAUSED, f"paused: {in_words(torn)}", error=torn)
    outcome.torn = None
    return None, left(cursor.lease.run_id, scope.left)


def _unjudged(
    cursor: Cursor[S], outcome: Outcome[S], step: StepRecord[S], error: BaseException
) -> tuple[StepRecord[S], Verdict]:
    """A step whose judge has failed, or met a limit: it is committed, and the run ends."""
    if limit := limit_in(error, cursor.ledger):
        if cursor.ledger.can_wrap_up(limit):
            return step, Verdict(wraps_up=True)
        return step, exhausted(cursor.lease.run_id, limit)
    outcome.torn = None if isinstance(error, Exception) else error
    return step._replace(error=in_words(error)), _failed(outcome, error)


def _failed(outcome: Outcome[Any], failure: BaseException) -> Verdict:
    """The verdict for a step whose state is kept, though something went wrong after it, or tore it away."""
    if outcome.torn is not None:
        return Verdict(RunStatus.PAUSED, f"paused: {in_words(outcome.torn)}", error=outcome.torn)
    return Verdict(RunStatus.FAILED, f"failed: {in_words(failure)}", "stop", error=failure)


def _delay(cursor: Cursor[S], outcome: Outcome[S]) -> float | None:
    """Seconds after which a step that failed is tried again, or None."""
    if outcome.error is None or cursor.spec.retry is None:
        return None
    try:
        return cursor.spec.retry.delay(outcome.error, cursor.tried + 1)
    except Exception as second:  # noqa: BLE001 - a predicate that fails retries nothing
        second.__context__ = second.__context__ or outcome.error
        outcome.error = second
        return None


async def _without_state(cursor: Cursor[S], scope: Scope, outcome: Outcome[S]) -> tuple[StepRecord[S] | None, Verdict]:
    """A step that failed is tried again, or committed if a strategy says where to go on, else the run has failed."""
    if outcome.exhausted is not None:
        if cursor.ledger.can_wrap_up(outcome.exhausted):
            return None, Verdict(delay=0.0, wraps_up=True)  # the step again, at once, with what was kept
        return None, exhausted(cursor.lease.run_id, outcome.exhausted)
    if (delay := _delay(cursor, outcome)) is not None:
        return None, Verdict(delay=delay)
    error = cast("BaseException", outcome.error or outcome.torn)
    step = _record(cursor, scope, outcome, error)
    cursor.history.append(step, None)
    try:
        target = chosen(cursor.spec.strategies, cursor.history)
    except Exception as second:  # noqa: BLE001 - a strategy that fails absorbs nothing
        second.__context__ = second.__context__ or error
        target, error = None, second
    if target is None:
        cursor.history.drop_newest()
        return None, Verdict(RunStatus.FAILED, f"failed: {in_words(error)}", error=error)
    return step, Verdict(decision=f"restore {target}", next_n=target)


async def _decide(cursor: Cursor[S], scope: Scope, outcome: Outcome[S], step: StepRecord[S]) -> Verdict:
    """What follows from a good step: stop, go back, change something, or simply go on."""
    spec, history, limit = cursor.spec, cursor.history, outcome.exhausted
    if outcome.done is not None and (limit is None or cursor.ledger.can_wrap_up(limit)):
        how = " (wrapped up)" if cursor.ledger.wrap_step == cursor.step_n else ""
        return Verdict(RunStatus.COMPLETED, f"done: the step said so{how}", "stop")
    reason, wraps_up = None, bool(limit or cursor.ledger.limited) and _wraps_up(cursor, limit)
    if spec.detectors and not wraps_up:
        reason, wraps_up = await _asked(cursor, scope)
    if reason is not None:
        return Verdict(RunStatus.COMPLETED, f"converged: {reason}", "stop")
    if spec.on_stall is not None and spec.on_stall(history):
        if spec.on_stall.handler is None:
            error = StallError(spec.on_stall.after)
            return Verdict(RunStatus.STALLED, f"stalled: {error}", "stalled", error=error)
        target = chosen(spec.strategies, history)
        next_n = step.step_n if target is None else target
        return Verdict(decision="escalate", next_n=next_n, wraps_up=wraps_up)
    target = chosen(spec.strategies, history) if spec.strategies else None
    if target is None:
        return Verdict(wraps_up=True) if wraps_up else GO_ON
    return Verdict(decision=f"restore {target}", next_n=target, wraps_up=wraps_up)


async def _asked(cursor: Cursor[Any], scope: Scope) -> tuple[str | None, bool]:
    """Why a detector stops the run, or None; and whether the next step wraps up, since one has run into the cap.

    Raises:
        BudgetExhausted: When it has run into a cap, and nothing is kept for that.
    """
    scope.purpose = "judge"
    try:
        asking = first_reason(cursor.spec.detectors, cursor.history)
        return await asking if cursor.spec.is_async else finish(asking), False
    except Exception as error:
        if (limit := limit_in(error, cursor.ledger)) is None:
            raise
        return None, _wraps_up(cursor, limit)


def _wraps_up(cursor: Cursor[Any], limit: BudgetExhausted | None) -> bool:
    """Whether the next step is one for wrapping up, since a limit was met in this one, or crossed by a charge.

    Raises:
        BudgetExhausted: When nothing is kept for that; the run ends then, though the step has returned.
    """
    try:
        if limit is not None:
            raise limit
        cursor.ledger.check_claims()
    except BudgetExhausted as error:
        if not cursor.ledger.can_wrap_up(error):
            raise
        return True
    return False


def _record(cursor: Cursor[S], scope: Scope, outcome: Outcome[S], failure: BaseException | None) -> StepRecord[S]:
    account, history, step_n = scope.account, cursor.history, scope.step_n
    if outcome.score is not None and is_new_best(outcome.score, history, cursor.spec.direction):
        best_n: int | None = step_n
    else:
        best_n = None if (newest := history.newest) is None else newest.best_n
    return StepRecord(
        step_n,
        cursor.parent_n,
        outcome.score,
        account.total if account.priced else None,
        account.tokens,
        scope.clock.now(),
        outcome.duration,
        None if failure is None else in_words(failure),
        None,
        best_n,
        outcome.scores,
        False,  # noqa: FBT003 - by place, as names take as long again, and every step makes one
        history.state,
    )


def chosen(strategies: Iterable[Strategy], history: History[Any]) -> int | None:
    """The step to go on from that the first strategy names, or None.

    Raises:
        SpecError: When it is none of the steps there are, or its state was dropped.
    """
    for strategy in strategies:
        if (target := strategy(history)) is not None:
            if isinstance(target, bool) or not isinstance(target, int) or not INITIAL <= target < len(history):
                raise SpecError(f"{strategy} must return the number of a step (-1: the initial state), not {target!r}")
            if history.is_dropped(target):
                raise SpecError(f"{strategy} goes back to step {target}, whose state keep= or a prune has dropped")
            return target
    return None


def escalation(cursor: Cursor[S]) -> Callable[[S], Any] | None:
    """What changes the state before the next step, when the newest step ended in an escalation."""
    stall, history = cursor.spec.on_stall, cursor.history
    if stall is None or stall.handler is None or not len(history) or history[-1].decision != "escalate":
        return None
    handler = stall.handler
    return lambda state: handler(state, history)
