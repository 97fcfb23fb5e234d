"""Whether the record of a run is whole: gaps and contradictions, found by reading all of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from loomc_runner.errors import LoomcError, RunNotFound
from loomc_runner.records import INITIAL, NANO, Run, RunStatus, StepRecord
from loomc_runner.report.pages import WINDOW
from loomc_runner.report.words import dollars
from loomc_runner.store import ENDED, Store


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
    for check in (_steps, _states, _whole, _money, _inside, _relations):
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
    for step in _all_steps(store, run):
        expected = 0 if previous is None else previous.step_n + 1
        if step.step_n > expected:
            yield _missing(expected, step.step_n - 1)
        if step.step_n >= run.steps:
            yield Finding(step.step_n, f"is there, but the run counts {run.steps} steps")
        for problem in _problems(run, step, previous):
            yield Finding(step.step_n, problem)
        previous = step
    seen = 0 if previous is None else previous.step_n + 1
    if seen < run.steps:
        yield _missing(seen, run.steps - 1)


def _missing(first: int, last: int) -> Finding:
    return Finding(first, "is missing" if first == last else f"and those up to step {last} are missing")


def _problems(run: Run, step: StepRecord[Any], previous: StepRecord[Any] | None) -> Iterator[str]:
    """What is wrong with a step beside the one before it."""
    before = None if previous is None or previous.step_n != step.step_n - 1 else previous
    if not INITIAL <= step.parent_n < step.step_n:
        yield f"grew from step {step.parent_n}, which cannot be"
    elif before is not None and (wanted := _next_of(before)) not in {None, step.parent_n}:
        yield f"grew from step {step.parent_n}, but step {wanted} was to go on"
    earlier = run.created_at if previous is None else previous.timestamp
    if step.timestamp < earlier and run.loop is not None:
        than = "the run began" if previous is None else f"step {previous.step_n}"
        yield f"was committed before {than}: it is of another run, or the clock was set back"
    if step.score is not None and not math.isfinite(step.score):
        yield f"has the score {step.score}"
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
    for step_n in range(INITIAL if run.loop is not None else 0, run.steps):
        try:
            json.loads(store.state(run.id, step_n))
        except RunNotFound:
            if step_n == INITIAL:
                yield Finding(INITIAL, "is missing")
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


def _money(store: Store, run: Run) -> Iterator[Finding]:
    by_children: Counter[int] = Counter()
    for child in store.list_runs(parent=run.id):
        by_children[child.parent_step or 0] += store.subtree(child.id)[0]
    nano = tokens = 0
    for start in range(0, run.steps + 1, WINDOW):
        paid, told = Counter(by_children), Counter[int]()
        for charge in store.charges(run.id, start, start + WINDOW):
            nano, tokens = nano + charge.nano_usd, tokens + charge.tokens
            paid[charge.step_n] += charge.nano_usd
        for attempt in store.attempts(run.id, start, start + WINDOW):
            told[attempt.step_n] += attempt.nano_usd
        for step in store.steps(run.id, start, start + WINDOW):
            told[step.step_n] += step.nano_usd or 0
        for step_n, usd in sorted(told.items()):
            if usd > paid[step_n]:  # less can be: what came late belongs to no try
                words = f"{dollars(usd / NANO)}, but charges of {dollars(paid[step_n] / NANO)} are on record"
                yield Finding(step_n, f"with its failed tries cost {words}")
    if nano != run.nano_usd:
        yield Finding(None, f"counts {dollars(run.cost_usd)}, its charges come to {dollars(nano / NANO)}")
    if tokens != run.tokens:
        yield Finding(None, f"counts {run.tokens} tokens, its charges come to {tokens}")


def _inside(store: Store, run: Run) -> Iterator[Finding]:
    last = run.steps if run.in_flight is None else max(run.in_flight, run.steps)
    readers: tuple[Callable[[str, int, int], Any], ...] = (store.attempts, store.calls, store.charges)
    for read in readers:
        for start in range(0, run.steps + 1, WINDOW):
            for record in read(run.id, start, start + WINDOW):
                if getattr(record, "result", None) is not None:
                    yield from _unreadable(record)
        for record in read(run.id, last + 1, 2**62):
            yield Finding(record.step_n, f"has {type(record).__name__.lower()}s on record, and is no step of the run")
    for question in store.questions(run.id):
        if question.run_id == run.id and question.answer is not None and question.answered_at is None:
            yield Finding(question.step_n, f"has an answer that nobody gave: {question.prompt}")


def _unreadable(call: Any) -> Iterator[Finding]:
    try:
        json.loads(call.result)
    except ValueError as error:
        yield Finding(call.step_n, f"has a result of {call.name} that is no JSON: {error}")


def _relations(store: Store, run: Run) -> Iterator[Finding]:
    if run.parent_run_id is None:
        return
    try:
        parent = store.get_run(run.parent_run_id)
    except RunNotFound:
        yield Finding(None, f"is a child of run {run.parent_run_id}, which is not there")
        return
    if not 0 <= (run.parent_step or 0) <= parent.steps:
        yield Finding(None, f"is a child of step {run.parent_step} of run {parent.id}, which has {parent.steps} steps")
