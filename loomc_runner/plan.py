"""What a resume would do, told before it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loomc_runner.budget import Budget
from loomc_runner.errors import LoomcError
from loomc_runner.opening import agreed_budget, check_status, stored_type, waits_for
from loomc_runner.records import Call, CallStatus, Question, Run, RunStatus
from loomc_runner.report import Limit, family, limits, page_calls
from loomc_runner.spec import LoopSpec
from loomc_runner.state import Codec
from loomc_runner.store import MOST_TRIES, Store, tries_here


@dataclass(frozen=True, slots=True)
class Plan:
    """What a resume would do.

    Attributes:
        outcome: In words: that it goes on with a step, or why it does not.
        goes_on: Whether a step would be executed.
        limits: The budget that would hold, with what is used of it.
        changes: What has changed since the run was last at work: code, options, the type of the state.
        questions: The open questions.
        replayed: How many recorded results the step would get back.
        in_doubt: Calls of the step that were started and have no result.
    """

    outcome: str
    goes_on: bool
    limits: tuple[Limit, ...]
    changes: tuple[str, ...]
    questions: tuple[Question, ...]
    replayed: int
    in_doubt: tuple[Call, ...]


def make_plan(spec: LoopSpec[Any] | LoomcError, store: Store, run: Run, budget: Budget | None, *, force: bool) -> Plan:
    """Look what a resume would do; `spec` is the loop as it is today, or why it cannot be had."""
    calls = {call.key: call for call in store.calls(run.id, run.steps, run.steps + 1)}.values()
    kept = None if isinstance(spec, LoomcError) else agreed_budget(spec, store, run, budget)
    reached = limits(store, run, kept)
    refusal = next(_refusals(spec, store, run, reached, force=force), None)
    return Plan(
        outcome=refusal or f"goes on with step {run.steps}",
        goes_on=refusal is None,
        limits=tuple(reached),
        changes=tuple(_changes(spec, store, run)),
        questions=tuple(question for question in store.questions(run.id) if question.is_open),
        replayed=sum(call.status is CallStatus.DONE for call in calls),
        in_doubt=tuple(call for call in calls if call.status is CallStatus.STARTED),
    )


def _refusals(
    spec: LoopSpec[Any] | LoomcError, store: Store, run: Run, reached: list[Limit], *, force: bool
) -> Iterator[str]:
    """Why no step would be executed; the first counts."""
    if isinstance(spec, LoomcError):
        yield f"cannot go on: {spec}"
        return
    if run.status is RunStatus.RUNNING:
        yield "cannot go on: it is being worked on"
    if run.status is RunStatus.COMPLETED:
        yield "is complete: its stored result would be given, and nothing executed"
    if question := waits_for(store, run, spec.clock.now()):
        yield f"still waits for an answer: {question.prompt}"
    if not force and run.code_hash in {None, spec.code_hash} and _is_stuck(store, run):
        yield f"would be given up: it was resumed {MOST_TRIES} times without getting past step {run.steps} (--force)"
    if over := next((limit for limit in reached if limit.left <= 0), None):
        yield f"would be exhausted again: {over.name}, {over}"
    try:
        check_status(run, force=force)
        _state(spec, store, run)
    except LoomcError as error:
        yield f"cannot go on: {error}"


def _is_stuck(store: Store, run: Run) -> bool:
    """Whether the next claim counts the run as one that does not get any further."""
    runs = [branch.run for branch in family(store, run)]
    done = sum(call.status is CallStatus.DONE for one in runs for call in page_calls(store, one))
    answered = sum(question.answer is not None for question in store.questions(run.id))
    progress = sum(one.steps for one in runs) + done + answered
    return tries_here(run, progress) > MOST_TRIES


def _changes(spec: LoopSpec[Any] | LoomcError, store: Store, run: Run) -> list[str]:
    if isinstance(spec, LoomcError):
        return []
    changes = []
    if run.code_hash not in {None, spec.code_hash}:
        changes.append("the code of the loop has changed")
    if run.loop is not None and run.spec_hash not in {None, spec.spec_hash}:
        changes.append("the options of the loop have changed")
    try:
        before, after = _state(spec, store, run)
    except LoomcError as error:
        return [*changes, str(error)]
    if isinstance(before, dict) and isinstance(after, dict):
        lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        changes += [f"the type of the state has lost {', '.join(lost)}"] if lost else []
        changes += [f"the type of the state has got {', '.join(new)}"] if new else []
    return changes


def _state(spec: LoopSpec[Any], store: Store, run: Run) -> tuple[Any, Any]:
    """The newest state as it is stored, and as it is read by today's type."""
    codec: Codec[Any] = Codec(stored_type(spec, run), spec.migrate)
    text = store.state(run.id, run.steps - 1)
    return json.loads(text), json.loads(codec.encode(codec.decode(text)))
