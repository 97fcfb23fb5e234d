"""A durable call under way: its recorded result, or an execution that is put on record."""

from __future__ import annotations

import functools
import inspect
import json
import time
from typing import Any

from loomc_runner import deadline
from loomc_runner.calls.spec import ToolSpec
from loomc_runner.clock import format_duration
from loomc_runner.context import (
    LOOK,
    Meter,
    Scope,
    asked_to_leave,
    enclosing_call,
    halting,
    metered,
    rest,
    write,
    write_async,
)
from loomc_runner.errors import BudgetExhausted, CallError, SpecError, StateError, in_words
from loomc_runner.holds import settle_all
from loomc_runner.questions import answer_to
from loomc_runner.records import Call, CallStatus
from loomc_runner.retry import category_of, parts_of_error
from loomc_runner.state import Codec
from loomc_runner.store import patiently, sleep_of
from loomc_runner.watching import around, tell
from loomc_runner.works import end_works, under_way


class Made:
    """A call that is made inside a step; what it is known by is settled when it is made, not when it is awaited."""

    def __init__(
        self, spec: ToolSpec, scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None
    ) -> None:
        self.spec, self.scope, self.record = spec, scope, scope.record
        self.run = functools.partial(spec.fn, *args, **kwargs)
        if key is None and spec.key is not None:
            key = spec.key(*args, **kwargs)
        if key is None:
            text = spec.as_json(args, kwargs)
            self.shown = f"{spec.name}({_short(text)})"
            self.key: str = scope.key_of("call", spec.name, text)
        elif isinstance(key, str):
            self.shown, self.key = f"{spec.name}(key={key!r})", f"{spec.name}:{key}"
        else:
            raise SpecError(f"key={key!r} of a call of {spec.name}: give a text")

    async def result(self) -> Any:
        """The recorded result, else that of an execution, which is recorded."""
        if not self.record.begin(self.key):
            raise SpecError(f"{self.shown} is running already; calls made at the same time need keys of their own")
        try:
            known, value = self._look_up()
            if known:
                return value
            with under_way(self.scope):
                return await self._until_done()
        finally:
            self.record.end(self.key)

    async def _until_done(self) -> Any:
        """Execute the function, as often as it may be tried."""
        tried = 0
        while True:
            try:
                return await self._execute()
            except Exception as error:
                tried += 1
                delay = None if self.spec.retry is None else self.spec.retry.delay(error, tried)
                if delay is None:
                    raise
                await end_works(self.scope, is_async=self.spec.is_async, within=self.key)
                await self._wait(delay)

    async def _wait(self, delay: float) -> None:
        """Wait before another try; the step is left meanwhile when somebody wants its run to stop."""
        scope, until = self.scope, time.monotonic() + delay
        sleep = sleep_of(is_async=True) if self.spec.is_async else _sleep_as_user_code
        while (left := until - time.monotonic()) > 0:
            await rest(scope.account, min(left, LOOK), sleep)
            run = await patiently(sleep, scope.store.get_run, scope.lease.run_id)
            if leave := asked_to_leave(run.control, halting.get()):
                raise scope.leave(leave)

    def _look_up(self) -> tuple[bool, Any]:
        """Whether there is a recorded result, and the result."""
        known = self.record.call(self.key)
        if known is not None and known.status is CallStatus.DONE:
            return True, self._replayed(known)
        if known is None or not self.spec.once:
            return False, None
        if known.status is CallStatus.FAILED:
            raise CallError(f"{self.shown} failed before, and is not to run twice: {known.error}")
        return self._decided(known)

    def _decided(self, known: Call) -> tuple[bool, Any]:
        """What a person says about a call that was started and has no result."""
        prompt = (
            f"{self.shown} was started {known.started_at:%Y-%m-%d %H:%M:%S} UTC, its result is unknown: "
            'run it again ({"run_again": true}), or give its result ({"result": ...})?'
        )
        answer = json.loads(answer_to(self.scope, prompt, _in_doubt(self.spec.codec), about=f"call {known.seq}"))
        if "result" not in answer:
            return False, None
        done = known._replace(status=CallStatus.DONE, result=json.dumps(answer["result"]))
        value = self._replayed(done)
        write(self.scope, call=done)
        self.record.note_call(done)
        return True, value

    async def _execute(self) -> Any:
        """Execute the function once; that it began is on record first."""
        self.record.begin_call_again(self.key)
        outer = enclosing_call(self.scope.lease.run_id)
        names = (self.scope.step_n, self.record.next_number("call"), self.spec.name, self.key, CallStatus.STARTED)
        entry = Call(*names, self.scope.clock.now(), outer=None if outer is None else outer.seq)
        await self._put(entry)
        return await self._recorded(entry)

    async def _recorded(self, entry: Call) -> Any:
        """Execute the function, and put on record what came of it."""
        clock, value, text, error = self.scope.clock, None, None, None
        begun = clock.monotonic()
        run_id = self.scope.lease.run_id
        with metered(Meter(run_id, entry.seq, entry.key, self.spec.once)) as meter:
            try:
                try:
                    with around(run_id, entry.step_n, entry.seq):
                        value = await self._within_its_time()
                    text = self._as_text(value)
                finally:  # what it has asked for and left open belongs to it
                    settle_all(self.scope, within=meter)
            except Exception as caught:
                if self._is_cut_off(caught):  # in the middle: what it has done is not known, but what it has cost
                    await self._put(entry._replace(nano_usd=meter.nano_usd))
                    raise
                error = caught
            except BaseException as torn:  # Ctrl-C, a question, a deadline: no result, but what it has cost is known
                if meter.nano_usd and not isinstance(torn, GeneratorExit):
                    write(self.scope, call=entry._replace(nano_usd=meter.nano_usd))
                raise
        ended = Call(
            entry.step_n,
            entry.seq,
            entry.name,
            entry.key,
            CallStatus.DONE if error is None else CallStatus.FAILED,
            entry.started_at,
            text,
            None if error is None else in_words(error),
            None if error is None else category_of(error),
            meter.nano_usd,
            clock.monotonic() - begun,
            entry.outer,
        )
        await self._put(ended)
        if error is not None:
            raise error
        return value

    async def _within_its_time(self) -> Any:
        limit = self.spec.timeout
        due = None if limit is None else time.monotonic() + limit
        try:
            if self.spec.is_async:
                return await deadline.call_async(self.run, deadline=due)
            return deadline.call(self.run, deadline=due)
        except deadline.DeadlineReached:
            left = self.scope.account.ledger.seconds_left()
            if limit is None or due is None or time.monotonic() < due or (left is not None and left <= 0):
                raise
            raise TimeoutError(f"{self.shown} took longer than {_in_words(limit)}") from None

    def _is_cut_off(self, error: Exception) -> bool:
        """Whether a limit of this run or an enclosing one ended it in the middle; that of a child is an ordinary error.

        So is a paid call that did not fit and was not made, unless this must not run twice: what it did before that is
        not known.
        """
        runs = {ledger.run_id for ledger in self.scope.account.ledger.lineage}
        parts = [part for part in parts_of_error(error) if isinstance(part, BudgetExhausted) and part.run_id in runs]
        return any(part.would_cost_usd is None or self.spec.once for part in parts)

    def _replayed(self, known: Call) -> Any:
        self.scope.account.priced |= known.nano_usd > 0  # its cost was recorded in an earlier try
        try:
            return self.spec.codec.decode(known.result or "null")
        except StateError as error:
            reason = str(error).partition("; bring it over")[0].replace("the stored state", "it")
            raise StateError(
                f"the recorded result of {self.shown} cannot be read: {reason}; annotate the function as before, "
                "or have it called again under another name or key"
            ) from error

    def _as_text(self, value: Any) -> str:
        if inspect.isawaitable(value) or inspect.isgenerator(value) or inspect.isasyncgen(value):
            if not inspect.isasyncgen(value) and hasattr(value, "close"):
                value.close()
            raise StateError(f"{self.shown} gave a {type(value).__name__}, which cannot be recorded; return its result")
        try:
            return self.spec.codec.encode(value)
        except StateError as error:
            hint = "; annotate what the function returns" if self.spec.codec.annotation is Any else ""
            raise StateError(f"the result of {self.shown} cannot be recorded: {error}{hint}") from error

    async def _put(self, entry: Call) -> None:
        if self.spec.is_async:
            await write_async(self.scope, call=entry)
        else:
            write(self.scope, call=entry)
        self.record.note_call(entry)
        tell("called", self.scope.lease.run_id, entry)


async def _sleep_as_user_code(seconds: float) -> None:
    deadline.call(time.sleep, seconds, deadline=None)  # so that the timeout of an enclosing call ends it


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _in_words(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 10 else f"{seconds:.3g}s"


def _in_doubt(codec: Codec[Any]) -> dict[str, Any]:
    """The JSON schema of what a person can say about a call in doubt."""
    result = dict(codec.adapter.json_schema())
    shared = {"$defs": result.pop("$defs")} if "$defs" in result else {}
    again = {"properties": {"run_again": {"const": True}}, "required": ["run_again"]}
    given = {"properties": {"result": result}, "required": ["result"]}
    return {"anyOf": [{"type": "object", "additionalProperties": False, **part} for part in (again, given)], **shared}
