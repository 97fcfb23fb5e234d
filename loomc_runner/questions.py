"""`ask`: a question to a person, asked inside a step; the run waits until it is answered."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, overload

from loomc_runner.clock import parse_duration
from loomc_runner.context import Leave, Scope, enclosing_call, step_here, write
from loomc_runner.errors import AnswerRefused, QuestionExpired, SpecError, StateError
from loomc_runner.records import Question, RunStatus
from loomc_runner.state import Codec

T = TypeVar("T")

BY_DEFAULT = "default"
"""Who answered a question that nobody answered in time."""

VALUES = {"default", "const", "enum", "examples"}
"""What holds values, and no schemas, in a JSON schema."""


@dataclass(frozen=True)
class Approval:
    """A yes or a no, as `loomc approve` and `loomc deny` give it; true in an `if` when it is a yes.

    Attributes:
        approved: Whether it was a yes.
        note: What the person had to say.
        by: Who it was.
    """

    approved: bool
    note: str = ""
    by: str = ""

    def __bool__(self) -> bool:
        return self.approved


@overload
def ask(prompt: str, *, expires: str | float | timedelta | None = None, default: str = ...) -> str: ...
@overload
def ask(prompt: str, schema: type[T], *, expires: str | float | timedelta | None = None, default: T = ...) -> T: ...
def ask(prompt: str, schema: Any = str, *, expires: str | float | timedelta | None = None, default: Any = ...) -> Any:
    """Ask a person, and give the answer.

    The first time the run becomes `waiting`, and the process may end. Once somebody has answered (`loomc questions`
    lists what is open; `loomc answer`, `approve` and `deny`, or `loop.answer(...)`, answer it), a resume executes the
    step again, with the recorded results of its `@tool` calls, and here is the answer. Nothing else gets past it:
    whatever the step swallows or returns, it is not committed while its question is open.

    Args:
        prompt: The question. Another prompt is another question.
        schema: The type of the answer: `str`, `bool`, `Approval`, a Pydantic model, a dataclass.
        expires: How long it may take, such as `"2h"`; then `default` counts, and no answer is accepted any more.
        default: The answer that counts then.

    Raises:
        NotInStep: When no step is running here.
        QuestionExpired: When it was not answered in time, and has no default.
        AnswerRefused: When the answer breaks a rule of the type that no JSON schema tells of.
        SpecError: When the schema, the duration or the default cannot be.
    """
    scope = step_here(f"ask({prompt!r})")
    codec, described = _described(prompt, schema)
    seconds = None if expires is None else parse_duration(expires)
    if default is not ... and seconds is None:
        raise SpecError(f"ask({prompt!r}, default={default!r}): say with expires= when the default counts")
    if (call := enclosing_call(scope.lease.run_id)) is not None and call.once:
        raise SpecError(f"ask({prompt!r}) inside of a call with once=True: it would run twice; ask before the call")
    try:
        fallback = None if default is ... else codec.encode_checked(default)
    except StateError as error:
        raise SpecError(f"ask({prompt!r}, default={default!r}): that is no {codec.name}") from error
    return _read(codec, prompt, answer_to(scope, prompt, described, seconds, fallback))


def answer_to(
    scope: Scope,
    prompt: str,
    schema: dict[str, Any],
    seconds: float | None = None,
    default: str | None = None,
    about: str = "",
) -> str:
    """The answer to a question as JSON text; unwinds the step while there is none. `about` tells equal ones apart."""
    record = scope.record
    key = scope.key_of("question", prompt, json.dumps(schema, sort_keys=True), about)
    question, now = record.question(key), scope.clock.now()
    if question is not None and question.is_open:  # a person may have been faster than this try
        question = next((q for q in scope.store.questions(scope.lease.run_id) if q.key == key), question)
    if question is not None and question.answer is not None:
        record.note_question(question)
        return question.answer
    if question is not None and question.has_expired(now):
        if default is None:
            raise QuestionExpired(f"nobody answered in time: {prompt} (run {scope.lease.run_id})")
        question = dataclasses.replace(question, answer=default, answered_by=BY_DEFAULT, answered_at=now)
        write(scope, question=question)
        record.note_question(question)
        return default
    if question is None or question.withdrawn:
        if question is None:
            place = (scope.lease.run_id, scope.step_n, record.next_number("question"))
            end = None if seconds is None else now + timedelta(seconds=seconds)
            question = Question(*place, key, prompt, schema, now, end, default)
        question = dataclasses.replace(question, withdrawn=False)
        write(scope, question=question)
        record.note_question(question)
    raise scope.leave(Leave(RunStatus.WAITING, f"waiting: {prompt}", prompt))


def _described(prompt: str, schema: Any) -> tuple[Codec[Any], dict[str, Any]]:
    """The codec for the answers, and their JSON schema."""
    from pydantic.errors import PydanticUserError

    if not isinstance(prompt, str) or not prompt.strip():
        raise SpecError(f"ask({prompt!r}): a question is a text")
    codec: Codec[Any] = Codec(schema)
    try:
        return codec, _bare(codec.adapter.json_schema())
    except (PydanticUserError, StateError) as error:  # an arbitrary class
        raise SpecError(f"ask({prompt!r}, schema={codec.name}): {str(error).splitlines()[0]}") from error


def _read(codec: Codec[Any], prompt: str, answer: str) -> Any:
    """An answer as its type; by its aliases, as the schema names them, or by its names, as a default is kept."""
    from pydantic import ValidationError

    try:
        return codec.adapter.validate_json(answer, by_name=True, by_alias=True)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise AnswerRefused(f"{answer} does not answer {prompt!r}: {reason}") from error


def _bare(schema: Any) -> Any:
    """A JSON schema without its prose: another docstring does not make it another question."""
    if isinstance(schema, list):
        return [_bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: part if name in VALUES else _bare(part)
        for name, part in schema.items()
        if not (name in {"title", "description"} and isinstance(part, str))
    }
