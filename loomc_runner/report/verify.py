"""Whether the record of a run is whole: gaps and contradictions, found by reading all of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, count
from statistics import mean
from typing import Any

from loomc_runner.errors import LoomcError, RunNotFound, StateDropped
from loomc_runner.records import INITIAL, NANO, Attempt, Call, Run, RunStatus, StepRecord
from loomc_runner.report.direction import direction_of
from loomc_runner.report.pages import WINDOW, ancestors, page_attempts, page_calls, page_steps
from loomc_runner.report.words import dollars
from loomc_runner.scores import gain
from loomc_runner.store import ENDED, Store

TOLERANCE = timedelta(seconds=2)
"""How far a clock may jump back, as time servers make it, before a step seems to be of another run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing in a record, or contradicts itself; about the whole run where `step_n` is None."""

    step_n: int | None
    problem: str

    def __str__(self) -> str:
        """The finding in words."""
        where = "" if self.step_n is None else "the initial state" if self.step_n == INITIAL else f"step {self.step_n}"
        return f"{where} {self.problem}".strip()


def verify(store: Store, run: Run) -> Iterator[Finding]:
    """Read everything on record of a run, and give what is missing or contradicts itself; nothing when all is well.

    What cannot be read at all is a finding too, and what comes after it in the same part of the record is not looked
    at. A run that somebody works on may be written to meanwhile: verify it when it has stopped.
    """
    for check in (_steps, _states, _whole, _best, _money, _inside, _relations):
        try:
            yield from check(store, run)
        except (LoomcError, ValueError, TypeError) as error:
            yield Finding(None, f"cannot be read any further: {error}")


def _all_steps(store: Store, run: Run) -> Iterator[StepRecord[Any]]:
    """Every step there is, those that the run does not count too."""
    for start in count(0, WINDOW):
        found = store.steps(run.id, start, start + WINDOW)
        yield from found
        if not found and start >= run.steps:
            yield from store.steps(run.id, start + WINDOW)
            return


def _steps(store: Store, run: Run) -> Iterator[Finding]:
    previous: StepRecord[Any] | None = None
    earlier = run.created_at
    for step in _all_steps(store, run):
        expected = 0 if previous is None else previous.step_n + 1
        if step.step_n > expected:
            yield _missing(expected, step.step_n - 1)
        if step.step_n >= run.steps:
            yield Finding(step.step_n, f"is there, but the run counts {run.steps} steps")
        for problem in _problems(step, previous):
            yield Finding(step.step_n, problem)
        if previous is not None:
            if _is_out_of_time(earlier, previous.timestamp, step.timestamp) and run.loop is not None:
                yield Finding(previous.step_n, "was not committed between its neighbours: it may be of another run")
            earlier = previous.timestamp
        previous = step
    seen = 0 if previous is None else previous.step_n + 1
    if seen < run.steps:
        yield _missing(seen, run.steps - 1)


def _is_out_of_time(before: datetime, at: datetime, after: datetime) -> bool:
    """Whether a moment lies outside of those around it; where those are not in order the clock was set back."""
    return before <= after and not before - TOLERANCE <= at <= after + TOLERANCE


def _missing(first: int, last: int) -> Finding:
    return Finding(first, "is missing" if first == last else f"and those up to step {last} are missing")


def _problems(step: StepRecord[Any], previous: StepRecord[Any] | None) -> Iterator[str]:
    """What is wrong with a step beside the one before it."""
    before = None if previous is None or previous.step_n != step.step_n - 1 else previous
    if not INITIAL <= step.parent_n < step.step_n:
        yield f"grew from step {step.parent_n}, which cannot be"
    elif before is not None and (wanted := _next_of(before)) not in {None, step.parent_n}:
        yield f"grew from step {step.parent_n}, but step {wanted} was to go on"
    if step.restored_n is not None and not INITIAL <= step.restored_n <= step.step_n:
        yield f"went back to step {step.restored_n}, which was not there yet"
    if step.score is not None and not math.isfinite(step.score):
        yield f"has the score {step.score}"
    elif step.score is not None and step.scores and step.score != mean(step.scores):
        yield f"has the score {step.score}, which is not the mean of its {len(step.scores)} scores"
    if before is not None and step.best_n not in {before.best_n, step.step_n}:
        yield f"says that step {step.best_n} is the best, step {before.step_n} said {before.best_n}"
    if step.best_n == step.step_n and step.score is None:
        yield "is called the best and has no score"
    if (step.nano_usd or 0) < 0 or step.tokens < 0:
        yield f"costs {step.cost_usd} dollars and {step.tokens} tokens"


def _next_of(step: StepRecord[Any]) -> int | None:
    """The step that was to go on after this one; None where that was decided later."""
    if step.restored_n is not None:
        return step.restored_n
    return step.step_n if step.decision is None and step.error is None else None


def _states(store: Store, run: Run) -> Iterator[Finding]:
    """Every state that is kept can be read; that others were dropped is no fault."""
    kept = (step.step_n for step in page_steps(store, run) if not step.state_dropped)
    for step_n in chain([INITIAL] if run.loop is not None else [], kept):
        try:
            json.loads(store.state(run.id, step_n))
        except RunNotFound:
            if step_n == INITIAL:
                yield Finding(INITIAL, "is missing")
        except StateDropped:
            continue
        except LoomcError as error:
            yield Finding(step_n, f"has no readable state: {error}")
        except ValueError as error:
            yield Finding(step_n, f"has a state that is no JSON: {error}")


def _whole(store: Store, run: Run) -> Iterator[Finding]:
    newest = store.steps(run.id, run.steps - 1, run.steps) if run.steps else ()
    if newest and newest[-1].best_n != run.best_step:
        yield Finding(None, f"has step {run.best_step} as its best, its newest step says {newest[-1].best_n}")
    if run.in_flight not in {None, run.steps}:
        yield Finding(None, f"has step {run.in_flight} under way, after {run.steps} steps")
    if run.status in ENDED and run.in_flight is not None and run.status is not RunStatus.FAILED:
        yield Finding(None, f"is {run.status}, and has step {run.in_flight} under way")
    if run.status is RunStatus.COMPLETED and not run.steps and run.loop is not None:
        yield Finding(None, "is completed without any step")
    if run.worked < 0:
        yield Finding(None, f"has worked for {run.worked:g} seconds")
    if run.result is not None and not _is_json(run.result):
        yield Finding(None, "has a result that is no JSON")
    if run.forked_from is not None and run.origin is None:
        yield Finding(None, f"was forked from {run.forked_from}, which names no step of a run")


def _best(store: Store, run: Run) -> Iterator[Finding]:
    """No score lies on the better side of the best one."""
    best = store.steps(run.id, run.best_step, run.best_step + 1) if run.best_step is not None else ()
    direction = direction_of(store, run)
    if not best or best[0].score is None or direction is None:
        return
    for step in page_steps(store, run):
        if step.score is not None and math.isfinite(step.score) and gain(step.score, best[0].score, direction) > 0:
            yield Finding(step.step_n, f"has a better score than step {run.best_step}, which is called the best")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _money(store: Store, run: Run) -> Iterator[Finding]:
    by_children, tokens_of = Counter[int](), Counter[int]()
    for child in store.list_runs(parent=run.id):
        spent, used = store.subtree(child.id)
        by_children[child.parent_step or 0] += spent
        tokens_of[child.parent_step or 0] += used
    nano = tokens = 0
    for start in range(0, run.steps + 1, WINDOW):
        paid, counted = Counter(by_children), Counter(tokens_of)
        for charge in store.charges(run.id, start, start + WINDOW):
            nano, tokens = nano + charge.nano_usd, tokens + charge.tokens
            paid[charge.step_n] += charge.nano_usd
            counted[charge.step_n] += charge.tokens
        yield from _overstated(store, run, start, paid, counted)
    if nano != run.nano_usd:
        yield Finding(None, f"counts {dollars(run.cost_usd)}, its charges come to {dollars(nano / NANO)}")
    if tokens != run.tokens:
        yield Finding(None, f"counts {run.tokens} tokens, its charges come to {tokens}")


def _overstated(store: Store, run: Run, start: int, paid: Counter[int], counted: Counter[int]) -> Iterator[Finding]:
    """Steps that cost more than was charged in them; less can be: what came late belongs to no try."""
    told = Counter[int]()
    for attempt in store.attempts(run.id, start, start + WINDOW):
        told[attempt.step_n] += attempt.nano_usd
    for step in store.steps(run.id, start, start + WINDOW):
        told[step.step_n] += step.nano_usd or 0
        if step.tokens > counted[step.step_n]:
            yield Finding(step.step_n, f"counts {step.tokens} tokens, its charges {counted[step.step_n]}")
    for step_n, nano in sorted(told.items()):
        if nano > paid[step_n]:
            words = f"{dollars(nano / NANO)}, but charges of {dollars(paid[step_n] / NANO)} are on record"
            yield Finding(step_n, f"with its failed tries cost {words}")


def _inside(store: Store, run: Run) -> Iterator[Finding]:
    yield from _numbered(page_attempts(store, run), "try")
    yield from _numbered(page_calls(store, run), "call")
    yield from _calls(store, run)
    last = run.steps if run.in_flight is None else max(run.in_flight, run.steps)
    readers: tuple[Callable[[str, int], Sequence[Any]], ...] = (store.attempts, store.calls, store.charges)
    for read in readers:
        for record in read(run.id, last + 1):
            yield Finding(record.step_n, f"has {type(record).__name__.lower()}s on record, and is no step of the run")
    for question in store.questions(run.id):
        if question.run_id == run.id and question.answer is not None and question.answered_at is None:
            yield Finding(question.step_n, f"has an answer that nobody gave: {question.prompt}")


def _numbered(records: Iterator[Attempt] | Iterator[Call], name: str) -> Iterator[Finding]:
    """Tries and calls are counted from 0 in each step."""
    step_n, expected = INITIAL, 0
    for record in records:
        number = record.attempt if isinstance(record, Attempt) else record.seq
        expected = expected + 1 if record.step_n == step_n else 0
        if number != expected:
            yield Finding(record.step_n, f"has {name} {number} on record without {name} {expected}")
        step_n, expected = record.step_n, number


def _calls(store: Store, run: Run) -> Iterator[Finding]:
    """What calls say of themselves: readable results, an enclosing call that is there, money that was charged."""
    paid, seen, step_n = 0, set[int](), INITIAL
    for call in page_calls(store, run):
        if call.step_n != step_n:
            step_n, seen = call.step_n, set()
            charged = sum(charge.nano_usd for charge in store.charges(run.id, step_n, step_n + 1))
            children = store.list_runs(parent=run.id, parent_step=step_n)
            paid = charged + sum(store.subtree(child.id)[0] for child in children)
        seen.add(call.seq)
        if call.result is not None and not _is_json(call.result):
            yield Finding(step_n, f"has a result of {call.name} that is no JSON")
        if call.outer is not None and call.outer not in seen:
            yield Finding(step_n, f"has call {call.seq} inside of call {call.outer}, which is not on record")
        if call.nano_usd > paid:
            words = f"{dollars(call.nano_usd / NANO)}, but charges of {dollars(paid / NANO)} are on record"
            yield Finding(step_n, f"has call {call.seq} at {words}")


def _relations(store: Store, run: Run) -> Iterator[Finding]:
    if run.parent_run_id is None:
        return
    above = list(ancestors(store, run))
    if not above and run.parent_run_id != run.id:
        yield Finding(None, f"is a child of run {run.parent_run_id}, which is not there")
    elif not above or above[-1].parent_run_id in {run.id, *(each.id for each in above)}:
        yield Finding(None, f"is a child of run {run.parent_run_id}, which goes round in a circle")
    elif not 0 <= (run.parent_step or 0) <= above[0].steps:
        words = f"which has {above[0].steps} steps"
        yield Finding(None, f"is a child of step {run.parent_step} of run {above[0].id}, {words}")
