"""What people do to a run from outside: answer its questions, and ask it to pause or to stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from loomc_runner.errors import AnswerRefused, RequestRefused
from loomc_runner.records import Control, Question, Run, RunStatus
from loomc_runner.store import Store, block, finish, patiently


def find_question(store: Store, run_id: str, which: str | None = None) -> Question:
    """The open question of a run or of its child runs; `which` names one of several as `STEP.NUMBER`.

    Raises:
        AnswerRefused: When there is none, or more than one that fits.
    """
    known = store.questions(run_id)
    fitting = [q for q in known if q.is_open and which in {None, q.number}]
    own = [question for question in fitting if question.run_id == run_id]
    if len(own) == 1 and which is not None:
        return own[0]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = "; ".join(f"run {q.run_id} --question {q.number} ({q.prompt})" for q in fitting)
        raise AnswerRefused(f"run {run_id} asks more than one thing, name one: {names}")
    answered = [q for q in known if q.answer is not None and which in {None, q.number}]
    hint = f"; {answered[-1].prompt!r} was answered by {answered[-1].answered_by}" if answered else ""
    raise AnswerRefused(f"run {run_id} has no open question{f' {which}' if which else ''}{hint}")


def verdicts(by: str, note: str = "", *, approved: bool) -> list[Any]:
    """A yes or a no as an `Approval`, or where that does not fit as a plain true or false, which has no note."""
    return [{"approved": approved, "note": note, "by": by}, *([] if note else [approved])]


def give_answer(store: Store, question: Question, values: Sequence[Any], by: str, now: datetime) -> None:
    """Answer a question with the first of some values that fits its schema.

    Raises:
        AnswerRefused: When none fits, it is too late, or somebody else was faster.
    """
    if not isinstance(by, str) or not by.strip():
        raise AnswerRefused(f"by={by!r}: say who answers")
    if question.has_expired(now):
        raise AnswerRefused(f"the question {question.prompt!r} of run {question.run_id} expired {question.expires_at}")
    text = _fitting(question, values)
    finish(patiently(block, store.answer, question, text, by, now))


def _fitting(question: Question, values: Sequence[Any]) -> str:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    check, refusals = Draft202012Validator(question.schema, format_checker=_formats()), []
    for value in values:
        if (refusal := best_match(check.iter_errors(value))) is None:
            return _written(question, value)
        refusals.append(f"answer{refusal.json_path[1:]}: {refusal.message}; ")
    where = refusals[0] if refusals else ""
    raise AnswerRefused(
        f"this does not answer {question.prompt!r} of run {question.run_id}: {where}"
        f"its schema is {json.dumps(question.schema)}"
    )


def _written(question: Question, value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError as error:  # NaN, half a character, a number with too many digits
        raise AnswerRefused(
            f"this does not answer {question.prompt!r} of run {question.run_id}: it is not JSON: {error}"
        ) from error
    return text


def _formats() -> Any:
    """Checks dates, times and the like as `ask` will read them: an answer that is stored must be readable."""
    from uuid import UUID

    from jsonschema import FormatChecker
    from pydantic import TypeAdapter

    checker = FormatChecker(())
    kinds = {"date-time": datetime, "date": date, "time": time, "duration": timedelta, "uuid": UUID}
    for name, kind in kinds.items():
        checker.checks(name, raises=ValueError)(TypeAdapter(kind).validate_python)
    return checker


def ask_to_stop(store: Store, run: Run, control: Control, now: datetime) -> Run:
    """Ask a run to pause or to be cancelled; the run as it is then.

    Raises:
        RequestRefused: When it is a child run, or there is nothing to pause or to cancel.
    """
    verb = "cancelled" if control is Control.CANCEL else "paused"
    if run.parent_run_id is not None:
        raise RequestRefused(f"run {run.id} is part of run {run.parent_run_id}; only the outermost run can be {verb}")
    at_work = run.status in {RunStatus.RUNNING, RunStatus.INTERRUPTED}
    if not at_work and (control is not Control.CANCEL or run.status in {RunStatus.COMPLETED, RunStatus.CANCELLED}):
        raise RequestRefused(f"run {run.id} is {run.status.value} ({run.stop_reason}) and cannot be {verb}")
    return finish(patiently(block, _request, store, run, control, now))


def _request(store: Store, run: Run, control: Control, now: datetime) -> Run:
    return store.request(run.id, control, now)
