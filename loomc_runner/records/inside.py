"""What happens inside a step, as it is stored: charges, durable calls, questions and circuit breakers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple


class Charge(NamedTuple):
    """Money or tokens spent in a step.

    Attributes:
        step_n: The step it was spent in.
        nano_usd: Nano-dollars.
        tokens: Tokens.
        label: What it was for, or None.
        at: When (UTC).
        estimated: It was assumed and not reported.
        key: What it is known by in its run, or None. One with a known key takes the place of the one there is: what a
            call came to, that of what it might cost at most. One of nothing takes it away.
        model: The model that was paid for, or None.
        usage: What it used, by the names of genai-prices (`input_tokens`, `cache_read_tokens`, ...), or None.
    """

    step_n: int
    nano_usd: int
    tokens: int
    label: str | None
    at: datetime
    estimated: bool = False
    key: str | None = None
    model: str | None = None
    usage: Mapping[str, int] | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether neither money nor tokens were spent."""
        return not self.nano_usd and not self.tokens


class CallStatus(StrEnum):
    """Where a durable call is."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


class Call(NamedTuple):
    """One try of a durable call inside a step.

    Attributes:
        step_n: The step it was made in.
        seq: Its number among the calls of the step, in the order they were started; for display.
        name: The function, as `module.qualname` or as chosen.
        key: What it is known by: name, arguments and occurrence, or an explicit key.
        status: `started`, `done` or `failed`; one that was cut off stays `started`.
        started_at: When it began (UTC).
        result: Its result as JSON text, once done.
        error: Its error, once failed.
        category: What kind of error that is.
        nano_usd: Nano-dollars recorded while it ran.
        duration: Seconds it took; 0.0 while it runs.
        outer: The `seq` of the call it was made in, or None.
        result_hash, result_size: SHA-256 and characters of a result that was dropped to save room.
    """

    step_n: int
    seq: int
    name: str
    key: str
    status: CallStatus
    started_at: datetime
    result: str | None = None
    error: str | None = None
    category: str | None = None
    nano_usd: int = 0
    duration: float = 0.0
    outer: int | None = None
    result_hash: str | None = None
    result_size: int | None = None

    def without_long_result(self, longest: int) -> Call:
        """The same call; a result of more characters than that is replaced by its hash and its size."""
        if self.result is None or len(self.result) <= longest:
            return self
        digest = hashlib.sha256(self.result.encode("utf-8", "surrogatepass")).hexdigest()
        return self._replace(result=None, result_hash=digest, result_size=len(self.result))


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a person, asked inside a step.

    Attributes:
        run_id: The run that asks.
        step_n, seq: The step, and the number of the question in it.
        key: What it is known by: prompt, schema and occurrence.
        prompt: The question.
        schema: JSON schema of the answer.
        asked_at: When (UTC).
        expires_at: When its default counts (UTC), or None: never.
        default: The answer that counts then, as JSON text; None when there is none.
        answer: The answer as JSON text; None while it is open.
        answered_by, answered_at: Who answered, and when.
        withdrawn: The step was tried again and no longer asks it.
    """

    run_id: str
    step_n: int
    seq: int
    key: str
    prompt: str
    schema: dict[str, Any]
    asked_at: datetime
    expires_at: datetime | None = None
    default: str | None = None
    answer: str | None = None
    answered_by: str | None = None
    answered_at: datetime | None = None
    withdrawn: bool = False

    @property
    def number(self) -> str:
        """How it is named within its run: `STEP.NUMBER`."""
        return f"{self.step_n}.{self.seq}"

    @property
    def is_open(self) -> bool:
        """Whether somebody should answer it."""
        return self.answer is None and not self.withdrawn

    def has_expired(self, now: datetime) -> bool:
        """Whether it is too late to answer it."""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A circuit breaker that changed its state in a run; `retry_at` is when an open one lets a trial through."""

    step_n: int
    name: str
    state: str
    failures: int
    openings: int
    at: datetime
    retry_at: datetime | None = None
