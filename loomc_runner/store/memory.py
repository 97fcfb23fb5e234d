"""The store without a file: the shortest correct one, and the reference the others are tested against."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from loomc_runner.errors import AnswerRefused, RunLocked, RunLost, RunNotFound, StoreError
from loomc_runner.records import (
    INITIAL,
    RUNNING,
    Attempt,
    BreakerChange,
    Call,
    CallStatus,
    Charge,
    Claim,
    Control,
    Lease,
    Question,
    Run,
    RunStatus,
    StepRecord,
    Transition,
    no_state,
)
from loomc_runner.store.base import ENDED, SUPERSEDED, Resumption, check_deletable, check_idle, ended_by, tagged
from loomc_runner.store.dropping import States, drop_results, drop_states, kept_state

R = TypeVar("R", Attempt, Call, Charge)

COLUMNS = tuple(item.name for item in dataclasses.fields(Run))
RENEWED = ("loop", "source", "spec_hash", "code_hash", "budget")
NOBODY: dict[str, Any] = {"control": None}
"""The parent of a run without one: what is asked of a parent holds for its children when they begin or go on."""


class MemoryStore:
    """Runs in the memory of this process; they end with it.

    The row of a run is a dict of its fields, which a commit changes in place: a step changes a few of the many.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._rows: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, list[StepRecord[Any]]] = {}
        self._states: dict[str, States] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        self._charges: dict[str, list[tuple[int, Charge]]] = {}
        self._calls: dict[str, dict[tuple[int, int], Call]] = {}
        self._questions: dict[tuple[str, int, int], Question] = {}
        self._breakers: list[tuple[str, BreakerChange]] = []
        self._mark, self._pid = 0, os.getpid()

    def create_run(self, run: Run, state: str) -> Lease:
        """Insert the run with its initial state and own it."""
        with self._lock:
            if run.id in self._rows:
                raise RunLocked(f"run {run.id} has just been started elsewhere; resume it when that has ended")
            control = self._rows.get(run.parent_run_id or "", NOBODY)["control"]
            row = {name: getattr(run, name) for name in COLUMNS}
            self._rows[run.id] = row | {"owner": "memory", "epoch": 1, "in_flight_mark": self._mark, "control": control}
            self._states[run.id] = {INITIAL: state}
            self._steps[run.id], self._attempts[run.id], self._charges[run.id] = [], [], []
        return Lease(run.id, "memory", 1, os.getpid())

    def claim(self, run_id: str, resumption: Resumption) -> Claim:
        """Own an existing run; a step that was in flight is closed and charged."""
        with self._lock:
            run = self.get_run(run_id)
            if run.owner:
                raise RunLocked(f"run {run_id} is being worked on in this process already; wait for it")
            if run.in_flight is not None:
                self._close_in_flight(run, resumption)
            progress = self._progress(run_id)
            self._rows[run_id].update(
                status=RunStatus.RUNNING,
                stop_reason=None,
                owner="memory",
                epoch=run.epoch + 1,
                resumes=run.resumes + 1,
                in_flight=None,
                reserved_nano=0,
                updated_at=resumption.at,
                **{name: getattr(resumption, name) for name in RENEWED},
                direction=resumption.direction or run.direction,
                notes=(*run.notes, *resumption.notes),
                control=self._rows.get(run.parent_run_id or "", NOBODY)["control"],
                progress=progress,
                stuck=resumption.stuck(run, progress),
            )
            run = dataclasses.replace(self.get_run(run_id), status=run.status, stop_reason=run.stop_reason)
            return Claim(Lease(run_id, "memory", run.epoch, os.getpid()), run, *self.subtree(run_id))

    def commit(self, lease: Lease, transition: Transition) -> Control | None:
        """Store one transition of a run, and tell what somebody asks of it."""
        change, run_id = transition, lease.run_id
        with self._lock:
            row = self._rows.get(run_id)
            if row is None or lease.epoch != row["epoch"] or lease.pid != os.getpid():
                raise RunLost(f"run {run_id} was taken over elsewhere; nothing more is written to it here")
            if row["status"] is not RUNNING and not change.is_late:
                raise RunLost(f"run {run_id} has ended; nothing more is written to it here")
            if change.step is not None:
                self._add_step(run_id, change.step, change.state)
            nano_usd = tokens = 0
            for charge in change.charges:
                more, more_tokens = self._charge(run_id, charge)
                nano_usd, tokens = nano_usd + more, tokens + more_tokens
            self._add_insides(run_id, change)
            if change.dropped:
                drop_states(self._states[run_id], self._steps[run_id], change.dropped)
            if change.longest_result is not None and change.step is not None:
                drop_results(self._calls.get(run_id, {}), [change.step.step_n], change.longest_result)
            self._advance(row, change, nano_usd, tokens)
            control: Control | None = row["control"]
            return control

    def _charge(self, run_id: str, charge: Charge) -> tuple[int, int]:
        """Add a charge, or put it in the place of the one with its key; how much more is spent now."""
        kept = self._charges[run_id]
        known_keys = enumerate(known.key for _, known in kept) if charge.key is not None else ()
        if (place := next((n for n, key in known_keys if key == charge.key), None)) is not None:
            mark, known = kept.pop(place)
            if not charge.is_nothing:
                kept.insert(place, (mark, charge))
            return charge.nano_usd - known.nano_usd, charge.tokens - known.tokens
        if charge.key is None or not charge.is_nothing:
            self._mark += 1
            kept.append((self._mark, charge))
        return charge.nano_usd, charge.tokens

    def _add_insides(self, run_id: str, change: Transition) -> None:
        """What happened inside a step."""
        if change.attempt is not None:
            self._add_attempt(run_id, change.attempt)
        if change.call is not None:
            self._calls.setdefault(run_id, {})[change.call.step_n, change.call.seq] = change.call
        if change.question is not None:
            self._put_question(change.question)
        if change.breaker is not None:
            self._breakers.append((run_id, change.breaker))
        for step_n, seq in change.withdrawn:
            question = self._questions[run_id, step_n, seq]
            if question.answer is None:
                self._questions[run_id, step_n, seq] = dataclasses.replace(question, withdrawn=True)
        if change.status is RunStatus.CANCELLED:
            self._withdraw_all(run_id)
        for child_id in change.superseded:
            self._supersede(child_id, change.at)

    def _supersede(self, child_id: str, at: datetime) -> None:
        """A child run that its parent's step no longer asks for; with its own children and all their questions."""
        for run in self._open_family(child_id):
            self._stop(run, RunStatus.CANCELLED, SUPERSEDED, at)
        self._withdraw_all(*self._family(child_id))

    def _withdraw_all(self, *run_ids: str) -> None:
        for key, question in self._questions.items():
            if question.is_open and question.run_id in run_ids:
                self._questions[key] = dataclasses.replace(question, withdrawn=True)

    def _put_question(self, question: Question) -> None:
        key = (question.run_id, question.step_n, question.seq)
        known = self._questions.get(key, question)
        if known.answer is not None:  # a person was faster
            question = dataclasses.replace(known, withdrawn=question.withdrawn)
        self._questions[key] = question

    def answer(self, question: Question, answer: str, by: str, at: datetime) -> None:
        """Answer an open question, once."""
        key = (question.run_id, question.step_n, question.seq)
        with self._lock:
            if key not in self._questions or not self._questions[key].is_open:
                raise AnswerRefused(f"the question {question.prompt!r} of run {question.run_id} is not open any more")
            known = self._questions[key]
            self._questions[key] = dataclasses.replace(known, answer=answer, answered_by=by, answered_at=at)

    def request(self, run_id: str, control: Control, at: datetime) -> Run:
        """Ask something of a run and its child runs."""
        with self._lock:
            for run in {run.id: run for run in (self.get_run(run_id), *self._open_family(run_id))}.values():
                if run.status is RunStatus.RUNNING:
                    self._rows[run.id]["control"] = control
                elif ends := ended_by(control, run):
                    self._stop(run, RunStatus(ends[0]), ends[1], at)
                    self._withdraw_all(*([run.id] if control is Control.CANCEL else []))
            return self.get_run(run_id)

    def tag(self, run_id: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> tuple[str, ...]:
        """Add tags to a run, or take some away."""
        with self._lock:
            tags = self._rows[run_id]["tags"] = tagged(self.get_run(run_id), add, remove)
        return tags

    def delete(self, run_ids: Sequence[str]) -> None:
        """Remove runs with their child runs and all that is on record of them."""
        with self._lock:
            for run_id in run_ids:
                self.get_run(run_id)
            doomed = {name: self.get_run(name) for run_id in run_ids for name in self._family(run_id)}
            check_deletable(doomed, self._rows.__contains__)
            tables: tuple[dict[str, Any], ...] = (self._rows, self._states, self._steps, self._attempts, self._charges)
            for table in (*tables, self._calls):
                for name in doomed:
                    table.pop(name, None)
            self._questions = {key: asked for key, asked in self._questions.items() if key[0] not in doomed}
            self._breakers = [(name, change) for name, change in self._breakers if name not in doomed]

    def drop_states(self, run_id: str, steps: Collection[int], *, longest_result: int | None = None) -> None:
        """Drop the states of some steps of a run that nobody works on, and its long results."""
        with self._lock:
            check_idle(run := self.get_run(run_id))
            drop_states(self._states[run_id], self._steps[run_id], steps)
            drop_results(self._calls.get(run_id, {}), range(run.steps), longest_result)

    def _open_family(self, run_id: str) -> list[Run]:
        """A run and its child runs, those that have not ended."""
        return [run for name in self._family(run_id) if (run := self.get_run(name)).status not in ENDED]

    def _stop(self, run: Run, status: RunStatus, reason: str, at: datetime) -> None:
        self._rows[run.id].update(status=status, stop_reason=reason, owner=None, control=None, updated_at=at)

    def _progress(self, run_id: str) -> int:
        family = self._family(run_id)
        calls = (call for name in family for call in self._calls.get(name, {}).values())
        done = sum(call.status is CallStatus.DONE for call in calls)
        answers = [question for question in self.questions(run_id) if question.answer is not None]
        steps: int = sum(self._rows[name]["steps"] for name in family)
        return steps + done + len(answers)

    def _advance(self, row: dict[str, Any], change: Transition, nano_usd: int, tokens: int) -> None:
        """What a commit changes in the row of its run. Nothing is called here, so a Ctrl-C comes before or after it."""
        row["nano_usd"] += nano_usd
        row["tokens"] += tokens
        if change.notes is not None:
            row["notes"] = change.notes
        if not change.keep_in_flight:
            row["in_flight"], row["reserved_nano"] = change.in_flight, change.reserved_nano
            row["in_flight_mark"] = self._mark
        elif change.status is RUNNING:  # in the middle of a step only sums change
            return
        row["updated_at"] = change.at
        row["worked"] += change.worked
        if change.step is not None:
            row["steps"] += 1
        if change.best_step is not None:
            row["best_step"] = change.best_step
        if change.dearest_nano > row["dearest_nano"]:  # noqa: PLR1730 - max() would be called
            row["dearest_nano"] = change.dearest_nano
        if change.status is not RUNNING:
            row["status"], row["stop_reason"] = change.status, change.stop_reason
            row["owner"] = row["control"] = None
            row["in_flight"] = row["in_flight"] if change.keep_in_flight else None
            row["result"] = row["result"] if change.result is None else change.result

    def _close_in_flight(self, run: Run, resumption: Resumption) -> None:
        """Charge the step that was cut off, after those of the child runs that were cut off with it."""
        for child in self.list_runs(parent=run.id):
            if child.in_flight is not None and child.status is not RunStatus.RUNNING:
                self._close_in_flight(child, resumption)
                self._rows[child.id].update(in_flight=None, reserved_nano=0)
        step_n = run.in_flight or 0
        family = self._family(run.id)
        since = [c for name in family for mark, c in self._charges[name] if mark > run.in_flight_mark]
        nano = sum(charge.nano_usd for charge in since)
        if not since and run.reserved_nano and not self._is_accounted_for(run.id, step_n):
            nano = run.reserved_nano
            charge = Charge(step_n, nano, 0, "the step was cut off", resumption.at, estimated=True)
            self._mark += 1
            self._charges[run.id].append((self._mark, charge))
            self._rows[run.id]["nano_usd"] += nano
        self._rows[run.id]["dearest_nano"] = max(run.dearest_nano, nano)
        reason = "interrupted: the process ended" if run.status is RunStatus.INTERRUPTED else run.stop_reason
        self._add_attempt(run.id, Attempt(step_n, 0, reason or "interrupted", "interrupted", nano, run.updated_at, 0.0))

    def _is_accounted_for(self, run_id: str, step_n: int) -> bool:
        """Whether all that the step ever paid was paid in calls that are done and in child runs, none of it twice."""
        own = sum(charge.nano_usd for charge in self.charges(run_id, step_n, step_n + 1))
        calls = self.calls(run_id, step_n, step_n + 1)
        newest = {call.key: call for call in calls}.values()
        in_calls = sum(call.nano_usd for call in calls if call.status is CallStatus.DONE)
        by_children = sum(self.subtree(run.id)[0] for run in self.list_runs(parent=run_id, parent_step=step_n))
        in_doubt = any(call.status is CallStatus.STARTED for call in newest)
        return not in_doubt and in_calls + by_children > 0 and own <= in_calls

    def _add_step(self, run_id: str, step: StepRecord[Any], state: str | None) -> None:
        states = self._states[run_id]
        if step.step_n in states:
            raise StoreError(f"run {run_id} has a step {step.step_n} already")
        states[step.step_n] = states[step.parent_n] if state is None else state
        self._steps[run_id].append(step)

    def _add_attempt(self, run_id: str, attempt: Attempt) -> None:
        number = sum(1 for other in self._attempts[run_id] if other.step_n == attempt.step_n)
        self._attempts[run_id].append(dataclasses.replace(attempt, attempt=number))

    def _family(self, run_id: str) -> list[str]:
        children = [name for name, row in self._rows.items() if row["parent_run_id"] == run_id]
        return [run_id, *(name for child in children for name in self._family(child))]

    def get_run(self, run_id: str) -> Run:
        """The run."""
        with self._lock:
            if run_id not in self._rows:
                raise RunNotFound(f"there is no run {run_id} in memory; runs in memory end with their process")
            run = Run(**self._rows[run_id])
            orphaned = run.status is RunStatus.RUNNING and (not run.owner or os.getpid() != self._pid)
            return dataclasses.replace(run, status=RunStatus.INTERRUPTED) if orphaned else run

    def list_runs(
        self,
        *,
        prefix: str = "",
        status: RunStatus | None = None,
        loop: str | None = None,
        parent: str | None = None,
        parent_step: int | None = None,
        origin: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Run]:
        """Runs, newest first."""
        with self._lock:
            runs = sorted(map(self.get_run, self._rows), key=lambda run: run.id)
        runs.sort(key=lambda run: run.created_at, reverse=True)
        found = [
            run
            for run in runs
            if run.id.startswith(prefix)
            and (status is None or run.status is status)
            and (loop is None or loop in (run.loop or ""))
            and (parent is None or run.parent_run_id == parent)
            and (parent_step is None or run.parent_step == parent_step)
            and (origin is None or (run.origin or ("",))[0] == origin)
        ]
        return found[offset : None if limit is None else offset + limit]

    def steps(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[StepRecord[Any]]:
        """The committed steps of a window, in order."""
        with self._lock:
            found = self._steps.get(run_id, [])[max(start, 0) : stop]
        return [step._replace(read_state=no_state) for step in found]

    def state(self, run_id: str, step_n: int) -> str:
        """The state after a step as JSON text."""
        with self._lock:
            return kept_state(run_id, self._states.get(run_id, {}), step_n)

    def attempts(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[Attempt]:
        """The failed and cut-off tries of a window of steps, in order."""
        with self._lock:
            found = _within(self._attempts.get(run_id, []), start, stop)
        return sorted(found, key=lambda attempt: (attempt.step_n, attempt.attempt))

    def charges(self, run_id: str, start: int = 0, stop: int | None = None) -> Sequence[Charge]:
        """The charges of a window of steps, in the order in which they were recorded."""
        with self._lock:
            return _within((charge for _, charge in self._charges.get(run_id, [])), start, stop)

    def calls(
        self, run_id: str, start: int = 0, stop: int | None = None, *, seq: int = 0, limit: int | None = None
    ) -> Sequence[Call]:
        """The durable calls of a window of steps, in order."""
        with self._lock:
            found = _within(self._calls.get(run_id, {}).values(), start, stop)
        calls = [call for call in found if (call.step_n, call.seq) >= (start, seq)]
        return sorted(calls, key=lambda call: (call.step_n, call.seq))[:limit]

    def questions(self, run_id: str | None = None) -> Sequence[Question]:
        """The questions of a run and its child runs, or the open ones of all."""
        with self._lock:
            family = None if run_id is None else self._family(run_id)
            found = [q for q in self._questions.values() if (q.is_open if family is None else q.run_id in family)]
        return sorted(found, key=lambda question: (question.asked_at, question.step_n, question.seq))

    def breakers(self, run_id: str) -> Sequence[BreakerChange]:
        """How circuit breakers changed in a run and its child runs, in order."""
        with self._lock:
            family = self._family(run_id)
            return [change for name, change in self._breakers if name in family]

    def subtree(self, run_id: str) -> tuple[int, int]:
        """Nano-dollars and tokens of a run together with all its child runs."""
        with self._lock:
            rows = [self._rows[name] for name in self._family(run_id) if name in self._rows]
            return sum(row["nano_usd"] for row in rows), sum(row["tokens"] for row in rows)

    def close(self) -> None:
        """Nothing is open."""


def _within(records: Iterable[R], start: int, stop: int | None) -> list[R]:
    """The records of a window of steps."""
    return [record for record in records if start <= record.step_n and (stop is None or record.step_n < stop)]
