"""The default store: one SQLite file, readable with any SQLite tool."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from loomc_runner.clock import in_iso
from loomc_runner.errors import AnswerRefused, RunLocked, RunLost, RunNotFound, StateDropped, StoreBusy
from loomc_runner.records import (
    INITIAL,
    RUNNING,
    Attempt,
    Charge,
    Claim,
    Control,
    Lease,
    Question,
    Run,
    RunStatus,
    StepRecord,
    Transition,
)
from loomc_runner.store import owners, rows, sql
from loomc_runner.store.base import SUPERSEDED, Resumption, check_deletable, check_idle, ended_by, tagged
from loomc_runner.store.chains import is_small
from loomc_runner.store.reading import SQLiteReader
from loomc_runner.store.states import Known, Written, whole
from loomc_runner.store.thinning import drop_results, drop_states

WINDOW = 64
"""Steps whose calls are looked at together when long results are dropped."""


class SQLite(SQLiteReader):
    """Runs in one SQLite file; give one as `checkpoint=` to choose how durable it is, else a path is enough.

    Args:
        path: The file; it and its folder are made at the first write.
        durability: What a commit survives, once it has returned. `"power"`, the default, is a power cut: each commit
            waits for the disk (WAL, `synchronous=FULL`). `"process"` is the death of the process, by a `kill -9` too,
            but a power cut may cost the newest steps (`synchronous=NORMAL`; the file stays sound): a commit takes a
            fraction of the time. Choose it for loops of very short steps whose last seconds are cheap to repeat.
        read_only: Read an existing file and create nothing; older tables are read as they are.

    Raises:
        SpecError: For another durability.
    """

    def __repr__(self) -> str:
        how = "" if self.durability == "power" else f", durability={self.durability!r}"
        return f"SQLite({str(self.path)!r}{how})"

    # --- writing

    def create_run(self, run: Run, state: str) -> Lease:
        """Insert the run with its initial state and own it."""
        owners.hold(str(self.path), run.id)
        self.look_again()
        try:
            with self._writing() as db:
                if db.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone():
                    raise RunLocked(f"run {run.id} has just been started elsewhere; resume it when that has ended")
                owner = owners.own_token(self.path.parent)
                mark = db.execute("SELECT coalesce(max(id), 0) FROM charges").fetchone()[0]
                asked = db.execute(sql.ASKED, (run.parent_run_id,)).fetchone() if run.parent_run_id else None
                control = rows.control_from(asked[0]) if asked else None  # what is asked of its parent
                run = dataclasses.replace(run, owner=owner, epoch=1, in_flight_mark=mark, control=control)
                sql.put(db, sql.INSERT_RUN, rows.run_values(run))
                first: StepRecord[Any] = StepRecord(INITIAL, INITIAL, None, None, 0, run.created_at, 0.0)
                self._chains.forget(run.id)
                written = self._written(db, run.id, first, state)
                sql.put(db, sql.INSERT_STEP, rows.step_values(run.id, first, run.created_at.isoformat(), written))
        except BaseException:
            owners.let_go(str(self.path), run.id)
            raise
        return Lease(run.id, owner, 1, os.getpid())

    def claim(self, run_id: str, resumption: Resumption) -> Claim:
        """Own an existing run; a step that was in flight is closed and charged."""
        owners.hold(str(self.path), run_id)
        self.look_again()
        try:
            with self._writing() as db:
                run = self._row(db, run_id)
                mine = owners.own_token(self.path.parent)
                if run.owner and run.owner != mine and owners.is_alive(self.path.parent, run.owner):
                    pid = run.owner.partition("-")[0]
                    raise RunLocked(f"run {run_id} is being worked on by process {pid}; wait for it, or end it first")
                self._chains.forget(run_id)
                if run.in_flight is not None:
                    self._close_in_flight(db, run, resumption)
                (progress,) = db.execute(sql.PROGRESS, (run_id,)).fetchone()
                sql.put(db, sql.CLAIM, (mine, *rows.resumption_values(run, resumption, progress), run_id))
                run = dataclasses.replace(self._row(db, run_id), status=run.status, stop_reason=run.stop_reason)
                spent, tokens = db.execute(sql.SUBTREE, (run_id,)).fetchone()
        except BaseException:
            owners.let_go(str(self.path), run_id)
            raise
        return Claim(Lease(run_id, mine, run.epoch, os.getpid()), run, spent, tokens)

    def commit(self, lease: Lease, transition: Transition) -> Control | None:
        """Store one transition of a run in one transaction, and tell what somebody asks of it."""
        try:
            if lease.pid != os.getpid():
                raise RunLost(f"run {lease.run_id} belongs to the process that was forked; only that may write to it")
            with self._writing() as db:
                control = self._write(db, lease, transition)
        except StoreBusy:  # the caller comes again
            raise
        except BaseException:
            self._forget(lease.run_id)  # what is at hand of it may never have been stored
            if transition.status is not RunStatus.RUNNING:
                self._let_go(lease)
            raise
        if transition.status is not RUNNING:
            self._let_go(lease)
        return control

    def _forget(self, run_id: str) -> None:
        with self.lock:  # another thread may be writing
            self._chains.forget(run_id)

    def _let_go(self, lease: Lease) -> None:
        owners.let_go(str(self.path), lease.run_id)
        self._forget(lease.run_id)

    def _write(self, db: sqlite3.Connection, lease: Lease, change: Transition) -> Control | None:
        run_id, step = lease.run_id, change.step
        spent = self._charge(db, run_id, change.charges) if change.charges else (0, 0)
        at, control = in_iso(change.at), None
        # Looked at before the step, which somebody else may have written.
        if not self._update(db, lease, change, at, spent, None):
            control = rows.control_from((db.execute(sql.ASKED, (run_id,)).fetchone() or (None,))[0])
            if control is None or not self._update(db, lease, change, at, spent, control):
                raise RunLost(
                    f"run {run_id} has ended, was taken over by another process or is no longer in {self.path}; "
                    "nothing more is written to it here"
                )
        if change.dropped:
            drop_states(db, run_id, change.dropped, partial(self._known, db, run_id))
            self._chains.drop(run_id, change.dropped)
        if step is not None:
            state = self._written(db, run_id, step, change.state)
            moment = at if step.timestamp is change.at else in_iso(step.timestamp)
            sql.put(db, sql.INSERT_STEP, rows.step_values(run_id, step, moment, state))
        self._write_inside(db, run_id, change)
        if step is not None and change.longest_result is not None:
            self._drop_results(db, run_id, step.step_n, step.step_n + 1, change.longest_result)
        if change.status is RunStatus.CANCELLED:
            db.execute(sql.WITHDRAW_ALL, (run_id,))
        return control

    def _written(self, db: sqlite3.Connection, run_id: str, step: StepRecord[Any], state: str | None) -> Written:
        """How the state of a step is stored; one without a state has its parent's."""
        if state is None:
            return Written("same", step.parent_n, None)
        if is_small(state):
            return whole(state)
        read = partial(self._known_or_none, db, run_id)
        return self._chains.write(run_id, step.step_n, step.parent_n, state, read)

    def _known_or_none(self, db: sqlite3.Connection, run_id: str, step_n: int) -> Known | None:
        try:
            return self._known(db, run_id, step_n)
        except (RunNotFound, StateDropped):
            return None

    @staticmethod
    def _charge(db: sqlite3.Connection, run_id: str, charges: Sequence[Charge]) -> tuple[int, int]:
        """Write charges, and give how many more nano-dollars and tokens are spent now."""
        nano = tokens = 0
        for charge in charges:
            nano, tokens = nano + charge.nano_usd, tokens + charge.tokens
            known = None if charge.key is None else db.execute(sql.KEYED_CHARGE, (run_id, charge.key)).fetchone()
            if known is not None:
                row_id, before, tokens_before = known
                nano, tokens = nano - before, tokens - tokens_before
                if charge.is_nothing:
                    db.execute(sql.DELETE_CHARGE, (row_id,))
                    db.execute(sql.LOWER_MARKS)
                else:
                    sql.put(db, sql.REPLACE_CHARGE, (*rows.charge_values(charge), row_id))
            elif charge.key is None or not charge.is_nothing:
                sql.put(db, sql.INSERT_CHARGE, (run_id, *rows.charge_values(charge)))
        return nano, tokens

    @staticmethod
    def _update(
        db: sqlite3.Connection,
        lease: Lease,
        change: Transition,
        at: str,
        spent: tuple[int, int],
        control: Control | None,
    ) -> bool:
        """Change the row of the run, if it is ours and this is what is asked of it: as a rule nothing."""
        if change.keep_in_flight and change.is_late:
            if spent == (0, 0):  # a row that is only read is no page to write
                return db.execute(sql.OWNED, (lease.run_id, lease.epoch)).fetchone() is not None
            return db.execute(sql.SPEND, (*spent, lease.run_id, lease.epoch)).rowcount == 1
        totals = (0 if change.step is None else 1, *spent, change.worked, change.best_step, change.dearest_nano)
        owned = (lease.run_id, lease.epoch, control)
        if change.status is not RUNNING:
            ended = (change.status.value, change.stop_reason, change.result, at)
            written = sql.put(db, sql.END, (*ended, *totals, change.keep_in_flight, *owned))
        else:
            written = sql.put(db, sql.ADVANCE, (at, *totals, change.in_flight, change.reserved_nano, *owned))
        return written.rowcount == 1

    @staticmethod
    def _write_inside(db: sqlite3.Connection, run_id: str, change: Transition) -> None:
        """What happened inside a step."""
        if change.attempt is not None:
            sql.put(db, sql.INSERT_ATTEMPT, rows.attempt_values(run_id, change.attempt))
        if change.call is not None:
            sql.put(db, sql.PUT_CALL, rows.call_values(run_id, change.call))
        if change.question is not None:
            sql.put(db, sql.PUT_QUESTION, rows.question_values(change.question))
        if change.breaker is not None:
            sql.put(db, sql.INSERT_BREAKER, rows.breaker_values(run_id, change.breaker))
        for step_n, seq in change.withdrawn:
            db.execute(sql.WITHDRAW, (run_id, step_n, seq))
        for child_id in change.superseded:
            for (name,) in db.execute(sql.OPEN_CHILDREN, (child_id,)).fetchall():
                db.execute(sql.SET_STATUS, (RunStatus.CANCELLED.value, SUPERSEDED, change.at.isoformat(), name))
            for (name,) in db.execute(sql.MEMBERS, (child_id,)).fetchall():
                db.execute(sql.WITHDRAW_ALL, (name,))
        if change.notes is not None:
            db.execute(sql.NOTE, (json.dumps(change.notes), run_id))

    def drop_states(self, run_id: str, steps: Collection[int], *, longest_result: int | None = None) -> None:
        """Drop the states of some steps of a run that nobody works on, and its long results; the rest stays."""
        self.look_again()
        with self._writing() as db:
            run = self._row(db, run_id)
            check_idle(run)
            self._chains.forget(run_id)
            drop_states(db, run_id, steps, partial(self._known, db, run_id))
            if longest_result is not None:
                for start in range(0, run.steps, WINDOW):
                    stop = min(start + WINDOW, run.steps)
                    self._drop_results(db, run_id, start, stop, longest_result)

    @staticmethod
    def _drop_results(db: sqlite3.Connection, run_id: str, start: int, stop: int, longest: int) -> None:
        calls = db.execute(sql.CALLS, (run_id, start, 0, stop, -1)).fetchall()
        drop_results(db, run_id, map(rows.call_from, calls), longest)

    def answer(self, question: Question, answer: str, by: str, at: datetime) -> None:
        """Answer an open question, once."""
        place = (question.run_id, question.step_n, question.seq)
        with self._writing() as db:
            if sql.put(db, sql.ANSWER, (answer, by, at.isoformat(), *place)).rowcount != 1:
                raise AnswerRefused(f"the question {question.prompt!r} of run {question.run_id} is not open any more")

    def request(self, run_id: str, control: Control, at: datetime) -> Run:
        """Ask something of a run and its child runs."""
        with self._writing() as db:
            self._row(db, run_id)
            found = {run_id} | {name for (name,) in db.execute(sql.OPEN_CHILDREN, (run_id,)).fetchall()}
            for run in [self._row(db, name) for name in found]:
                if run.status is RunStatus.RUNNING:
                    db.execute(sql.ASK_FOR, (control.value, run.id))
                elif ends := ended_by(control, run):
                    db.execute(sql.SET_STATUS, (*ends, at.isoformat(), run.id))
                    if control is Control.CANCEL:
                        db.execute(sql.WITHDRAW_ALL, (run.id,))
            return self._row(db, run_id)

    def tag(self, run_id: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> tuple[str, ...]:
        """Add tags to a run, or take some away."""
        with self._writing() as db:
            tags = tagged(self._row(db, run_id), add, remove)
            sql.put(db, sql.TAG, (json.dumps(tags), run_id))
        return tags

    def delete(self, run_ids: Sequence[str]) -> None:
        """Remove runs with their child runs and all that is on record of them."""
        self.look_again()
        with self._writing() as db:
            for run_id in run_ids:
                self._row(db, run_id)
            names = {name for run_id in run_ids for (name,) in db.execute(sql.MEMBERS, (run_id,)).fetchall()}
            doomed = {name: self._row(db, name) for name in names}
            check_deletable(doomed, lambda parent: db.execute(sql.GET_RUN, (parent,)).fetchone() is not None)
            for name in names:
                for statement in sql.DELETE:
                    db.execute(statement, (name,))
            db.execute(sql.LOWER_MARKS)

    def _close_in_flight(self, db: sqlite3.Connection, run: Run, resumption: Resumption) -> None:
        """Charge the step that was cut off, after those of the child runs that were cut off with it."""
        for (child_id,) in db.execute(sql.CHILDREN_IN_FLIGHT, (run.id,)).fetchall():
            if (child := self._row(db, child_id)).status is not RunStatus.RUNNING:  # else another process has it
                self._close_in_flight(db, child, resumption)
                db.execute(sql.LAND, (child_id,))
        step_n = run.in_flight or 0
        recorded, nano = db.execute(sql.SINCE_MARK, (run.id, run.in_flight_mark)).fetchone()
        if not recorded and run.reserved_nano and not self._is_accounted_for(db, run.id, step_n):
            nano = run.reserved_nano
            charge = Charge(step_n, nano, 0, "the step was cut off", resumption.at, estimated=True)
            sql.put(db, sql.INSERT_CHARGE, (run.id, *rows.charge_values(charge)))
            db.execute(sql.SPEND, (nano, 0, run.id, run.epoch))
        db.execute(sql.DEAREST, (nano, run.id))
        reason = "interrupted: the process ended" if run.status is RunStatus.INTERRUPTED else run.stop_reason
        attempt = Attempt(step_n, 0, reason or "interrupted", "interrupted", nano, run.updated_at, 0.0)
        sql.put(db, sql.INSERT_ATTEMPT, rows.attempt_values(run.id, attempt))

    @staticmethod
    def _is_accounted_for(db: sqlite3.Connection, run_id: str, step_n: int) -> bool:
        """Whether all that the step ever paid was paid in calls that are done and in child runs, none of it twice."""
        (own,) = db.execute(sql.IN_STEP, (run_id, step_n)).fetchone()
        in_calls, in_doubt = db.execute(sql.IN_CALLS, (run_id, step_n)).fetchone()
        children = db.execute(sql.CHILDREN_OF, (run_id, step_n)).fetchall()
        by_children = sum(db.execute(sql.SUBTREE, child).fetchone()[0] for child in children)
        return not in_doubt and in_calls + by_children > 0 and own <= in_calls
