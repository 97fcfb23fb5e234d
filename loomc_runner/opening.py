"""How a run begins, goes on and branches off: everything before its first step here, and its result at the end."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from loomc_runner.announce import announce
from loomc_runner.budget import SAFETY_CAP, Budget
from loomc_runner.context import current_scope, halting
from loomc_runner.cursor import Cursor, Verdict
from loomc_runner.decide import chosen, exhausted
from loomc_runner.driver import end, start
from loomc_runner.errors import (
    BudgetExhausted,
    LoomcError,
    NotResumable,
    RunMismatch,
    SpecError,
)
from loomc_runner.history import History
from loomc_runner.journal import Journal
from loomc_runner.ledger import Ledger
from loomc_runner.notices import notices
from loomc_runner.records import INITIAL, NANO, Claim, Question, Run, RunResult, RunStatus, StepRecord, Transition
from loomc_runner.spec import LoopSpec
from loomc_runner.state import Codec, state_codec, type_name, type_named
from loomc_runner.step import result_codec
from loomc_runner.store import MOST_TRIES, Resumption, Store, block, default_path, open_store, patiently, sleep_of

S = TypeVar("S")

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

NEEDS_FORCE = {RunStatus.STALLED, RunStatus.CANCELLED}


def new_run_id() -> str:
    """A fresh id: 12 hexadecimal digits."""
    return os.urandom(6).hex()


def check_run_id(run_id: str) -> None:
    """Raise `SpecError` unless the text can be the id of a run."""
    if not RUN_ID.fullmatch(run_id):
        raise SpecError(f"run_id={run_id!r}: give letters, digits, dots, dashes and underscores, 128 at most")


def store_of(spec: LoopSpec[Any]) -> Store:
    """Where a run of this loop is kept: a loop called inside a step shares the store of the enclosing run."""
    scope = current_scope()
    return open_store(spec.checkpoint) if scope is None else scope.store


async def look_up(spec: LoopSpec[Any], store: Store, run_id: str) -> Run:
    """The run with this id, as it stands now."""
    return await patiently(sleep_of(is_async=spec.is_async), store.get_run, run_id)


async def begin(spec: LoopSpec[S], state: S, run_id: str, child_key: str | None = None) -> Cursor[S]:
    """Start a new run: its initial state is stored before its first step."""
    if child_key is None:
        check_run_id(run_id)
    codec, scope, store, at = state_codec(spec.annotations[0], state), current_scope(), store_of(spec), spec.clock.now()
    text = codec.encode_checked(state)
    ledger = Ledger(run_id, spec.budget, spec.clock, scope.account if scope else None)
    refused = None
    try:
        account = ledger.open_step()
    except BudgetExhausted as error:
        account, refused = None, error
    run = Run(
        id=run_id,
        loop=spec.name,
        source=spec.source,
        spec_hash=spec.spec_hash,
        code_hash=spec.code_hash,
        state_type=None if spec.annotations[0] is not None else type_name(state),
        created_at=at,
        updated_at=at,
        parent_run_id=scope.lease.run_id if scope else None,
        parent_step=scope.step_n if scope else None,
        child_key=child_key,
        in_flight=None if account is None else 0,
        reserved_nano=0 if account is None else account.reserved,
        budget=None if spec.budget is None else spec.budget.to_json(),
        direction=spec.stated_direction,
        tags=spec.tags,
    )
    try:
        lease = await patiently(sleep_of(is_async=spec.is_async), store.create_run, run, text)
    except BaseException:
        if account is not None:
            account.settle()
        raise
    try:
        history, sleep = History(store, run_id, codec, 0), sleep_of(is_async=spec.is_async)
        cursor = Cursor(spec, store, lease, ledger, codec, history, sleep, state, INITIAL, account)
        cursor.halt = halting.get()
        if refused is not None:
            await end(cursor, exhausted(run_id, refused))
            await announce(cursor)
    except BaseException:  # Ctrl-C, before anybody holds the run
        with suppress(LoomcError):
            paused = Transition(spec.clock.now(), status=RunStatus.PAUSED, stop_reason="paused: before its first step")
            await patiently(block, store.commit, lease, paused)
        raise
    return cursor


async def resume(spec: LoopSpec[S], run_id: str, budget: Budget | None, *, force: bool) -> Cursor[S] | RunResult[S]:
    """Take an existing run over and put it where its next step starts; its result, if it is complete by now."""
    store = store_of(spec)
    run = await look_up(spec, store, run_id)
    check_owner(spec, run)
    check_parent(run)
    check_status(run, force=force)
    kept = agreed_budget(spec, store, run, budget)
    changed = run.code_hash not in {None, spec.code_hash}
    notes = ("the code of the loop has changed",) if changed else ()
    resumption = Resumption(
        spec.clock.now(),
        spec.name,
        spec.source,
        spec.spec_hash,
        spec.code_hash,
        kept.to_json() if kept else None,
        notes,
        direction=spec.stated_direction,
        afresh=force or changed or run.parent_run_id is not None,  # a child's tries are counted with its parent's
    )
    claim = await patiently(sleep_of(is_async=spec.is_async), store.claim, run_id, resumption)
    try:
        check_status(claim.run, force=force)  # it may have ended between the look and the claim
        if claim.run.status is not RunStatus.COMPLETED:
            await _check_stuck(spec, store, claim)
            cursor = _place(spec, store, claim, kept)
            if _has_wrapped_up(claim.run, Budget(**(run.budget or {})), kept or Budget()):
                cursor.ledger.may_wrap_up = False
            await start(cursor)
            if cursor.stopped and claim.run.status is not RunStatus.BUDGET_EXHAUSTED:  # else its end was told
                await announce(cursor)
            return cursor
    except BaseException as error:
        with suppress(LoomcError):  # the first error tells more
            await _give_back(spec, store, claim, f"paused: {error}")
        raise
    await _give_back(spec, store, claim, "")
    return stored_result(spec, store, claim.run)


def _has_wrapped_up(run: Run, before: Budget, now: Budget) -> bool:
    """Whether a run has come to the end of its own dollars, and of what it kept to wrap up, and there are no more."""
    ended = run.status is RunStatus.BUDGET_EXHAUSTED and (run.stop_reason or "").startswith("budget: usd")
    more = (now.nano_usd or 0) > (before.nano_usd or 0) or now.nano_kept < before.nano_kept
    return ended and before.wrap_up is not None and not more


async def _check_stuck(spec: LoopSpec[Any], store: Store, claim: Claim) -> None:
    """Give up a run that does not get past its next step, however often it is resumed.

    Raises:
        NotResumable: It has failed.
    """
    run = claim.run
    if run.stuck <= MOST_TRIES:
        return
    reason = f"failed: resumed {MOST_TRIES} times without getting past step {run.steps}"
    change = Transition(spec.clock.now(), status=RunStatus.FAILED, stop_reason=reason)
    await patiently(sleep_of(is_async=spec.is_async), store.commit, claim.lease, change)
    error = NotResumable(f"run {run.id} {reason}; to try again all the same: {_forced(run)}")
    error.run_id = run.id
    raise error


async def _give_back(spec: LoopSpec[Any], store: Store, claim: Claim, reason: str) -> None:
    """Leave a claimed run as it was; one that was cut off is paused."""
    if store.get_run(claim.run.id).status is not RunStatus.RUNNING:  # it was given up already
        return
    stopped = claim.run.status not in {RunStatus.RUNNING, RunStatus.INTERRUPTED}
    status = claim.run.status if stopped else RunStatus.PAUSED
    change = Transition(spec.clock.now(), status=status, stop_reason=claim.run.stop_reason or reason)
    await patiently(sleep_of(is_async=spec.is_async), store.commit, claim.lease, change)


def _place(spec: LoopSpec[S], store: Store, claim: Claim, budget: Budget | None) -> Cursor[S]:
    run, scope = claim.run, current_scope()
    codec: Codec[S] = Codec(stored_type(spec, run), spec.migrate)
    ledger = Ledger(run.id, budget, spec.clock, scope.account if scope else None)
    ledger.restore(
        spent=claim.subtree_nano,
        tokens=claim.subtree_tokens,
        steps=run.steps,
        dearest=run.dearest_nano,
        worked=run.worked,
    )
    history = History(store, run.id, codec, run.steps)
    parent_n = _next_parent(spec, history)
    state = history.state(parent_n)
    cursor = Cursor(spec, store, claim.lease, ledger, codec, history, sleep_of(is_async=spec.is_async), state, parent_n)
    cursor.notes, cursor.worked, cursor.halt = run.notes, ledger.worked, halting.get()
    notices(ledger, cursor.told)  # told by whoever drove it before
    cursor.journal = Journal(store, run.id, run.steps, tried=True)
    return cursor


def _next_parent(spec: LoopSpec[Any], history: History[Any]) -> int:
    """The step to go on from: as was decided after the newest one, else as is decided now by the same rule."""
    if not len(history):
        return INITIAL
    newest = history[-1]
    if newest.decision and newest.decision.startswith("restore "):
        return int(newest.decision.removeprefix("restore "))
    if newest.error is not None:  # of a scorer or a detector: the state is there, and paid for
        return newest.step_n
    target = chosen(spec.strategies, history)
    return newest.step_n if target is None else target


def check_owner(spec: LoopSpec[Any], run: Run) -> None:
    """Raise `RunMismatch` unless the run belongs to this loop."""
    if not spec.owns(run):
        theirs = run.loop or f"a function of loomc 0.3.0 with the hash {run.spec_hash}"
        if run.loop == spec.name:  # two scripts may call their loops the same
            theirs = f"{run.loop} in {run.source}"
        raise RunMismatch(f"run {run.id} belongs to {theirs}, not to {spec.name}; resume it with its own loop")


def check_parent(run: Run) -> None:
    """Raise `RunMismatch` unless the run goes on where it began: a parent's budget holds for its own children."""
    scope = current_scope()
    here = None if scope is None else scope.lease.run_id
    if run.parent_run_id not in {None, here}:
        raise RunMismatch(
            f"run {run.id} is a child of run {run.parent_run_id}, which pays for it; resume that one, "
            f"or branch off: loomc fork {run.id} --step N"
        )
    if here is not None and run.parent_run_id is None and run.status is not RunStatus.RUNNING:  # that one is locked
        raise RunMismatch(
            f"run {run.id} began outside of run {here}, which could not account for it; "
            "resume it outside of a step, or begin another run here"
        )


def check_status(run: Run, *, force: bool) -> None:
    """Raise `NotResumable` for a run that was ended on purpose, or stalled, unless forced."""
    if run.status in NEEDS_FORCE and not force:
        raise NotResumable(f"run {run.id} is {run.status} ({run.stop_reason}); to go on all the same: {_forced(run)}")


def _forced(run: Run) -> str:
    return f'resume("{run.id}", force=True), or loomc resume {run.id} --force'


def waits_for(store: Store, run: Run, now: datetime) -> Question | None:
    """The question that keeps a waiting run from going on; None when an answer, or a default, lets it.

    A run goes on when none of its own questions is open, and one of them was answered since it waits, or one of its
    waiting child runs, if any, may go on.
    """
    if run.status is not RunStatus.WAITING:
        return None
    own = [question for question in store.questions(run.id) if question.run_id == run.id]
    if unanswered := next((q for q in own if q.is_open and not q.has_expired(now)), None):
        return unanswered
    if any(q.answered_at is not None and q.answered_at >= run.updated_at for q in own):
        return None
    children = store.list_runs(parent=run.id, parent_step=run.steps, status=RunStatus.WAITING)
    kept = [waits_for(store, child, now) for child in children]
    return kept[0] if kept and all(kept) else None


def check_initial(spec: LoopSpec[S], store: Store, run: Run, state: S) -> None:
    """Raise `RunMismatch` when a run that exists began with another state."""
    codec, stored = state_codec(spec.annotations[0], state), store.state(run.id, INITIAL)
    if spec.migrate is not None:
        stored = codec.encode(Codec(stored_type(spec, run), spec.migrate).decode(stored))
    if json.loads(stored) != json.loads(codec.encode(state)):
        raise RunMismatch(
            f"run {run.id} exists and began with another state; "
            f'resume("{run.id}") goes on with it, another run_id begins anew'
        )


def stored_type(spec: LoopSpec[Any], run: Run) -> Any:
    """The type of a stored run's state: the declared one, else the one that the run names."""
    declared = spec.annotations[0]
    return type_named(run.state_type) if declared is None else declared


def agreed_budget(spec: LoopSpec[Any], store: Store, run: Run, newer: Budget | None) -> Budget | None:
    """What holds from now on: the stored budget with the limits named anew, none of them below what is used."""
    if newer is not None and not isinstance(newer, Budget):
        raise SpecError(f"budget={newer!r}: give a Budget, such as Budget(usd=3.00)")
    stored = spec.budget if run.loop is None else None if run.budget is None else Budget(**run.budget)
    if newer is None:
        return stored
    spent, tokens = store.subtree(run.id)
    used = {"usd": spent / NANO, "tokens": tokens, "iterations": run.steps, "wall_clock": run.worked}
    named = {"usd": newer.usd, "tokens": newer.tokens, "iterations": newer.iterations}
    for name, limit in {**named, "wall_clock": newer.wall_clock_seconds}.items():
        if limit is not None and limit < used[name]:
            raise SpecError(f"Budget({name}={getattr(newer, name)!r}): run {run.id} has used {used[name]:g} already")
    return (SAFETY_CAP if stored is None else stored).replaced_by(newer)


def result_of(cursor: Cursor[S]) -> RunResult[S]:
    """How a run stands that was driven here."""
    verdict = cursor.verdict or Verdict()
    ledger = cursor.ledger
    newest: StepRecord[S] | None = cursor.history[-1] if len(cursor.history) else None
    return _result(
        cursor.spec,
        cursor.store.get_run(cursor.lease.run_id),
        best=_best(cursor, newest),
        newest=lambda: cursor.state,
        spent=(ledger.spent, ledger.tokens),
        elapsed=ledger.elapsed,
        verdict=verdict,
    )


def stored_result(spec: LoopSpec[S], store: Store, run: Run) -> RunResult[S]:
    """How a run stands that nothing is executed for."""
    codec: Codec[S] = Codec(stored_type(spec, run), spec.migrate)
    history = History(store, run.id, codec, run.steps)
    best = history[run.best_step] if run.best_step is not None else None
    return _result(
        spec,
        run,
        best=None if best is None else (best.step_n, best.score, best.state),
        newest=lambda: history.state(run.steps - 1),
        spent=store.subtree(run.id),
        elapsed=run.worked,
        verdict=Verdict(run.status, run.stop_reason),
    )


def _best(cursor: Cursor[S], newest: StepRecord[S] | None) -> tuple[int, float | None, S] | None:
    if newest is None or newest.best_n is None:
        return None
    at_hand = newest.best_n == cursor.parent_n
    state = cursor.state if at_hand else cursor.history.state(newest.best_n)
    return newest.best_n, cursor.history[newest.best_n].score, state


def _result(
    spec: LoopSpec[S],
    run: Run,
    *,
    best: tuple[int, float | None, S] | None,
    newest: Callable[[], S],
    spent: tuple[int, int],
    elapsed: float,
    verdict: Verdict,
) -> RunResult[S]:
    best_step, best_score, best_state = best or (None, None, None)
    return RunResult(
        run_id=run.id,
        status=verdict.status,
        stop_reason=verdict.reason,
        state=best_state if spec.returns_best and best_state is not None else newest(),
        result=None if run.result is None else result_codec(spec).decode(run.result),
        best_state=best_state,
        best_score=best_score,
        best_step=best_step,
        steps=run.steps,
        cost_usd=spent[0] / NANO,
        tokens=spent[1],
        elapsed=elapsed,
    )


def describe_resumption(store: Store, run_id: str) -> str:
    """How to go on with a run, in words; the terminal is told of a database that is not the default one."""
    path = getattr(store, "path", None)
    there = "" if path is None or path == default_path().resolve() else f" --db {shlex.quote(str(path))}"
    return f'to go on with run {run_id}: resume("{run_id}"), or in the terminal: loomc resume {run_id}{there}'
