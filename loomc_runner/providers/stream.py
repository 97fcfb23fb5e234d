"""Responses that come in pieces: what they report is read as it passes by, as bytes, whoever reads them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing, suppress
from typing import Any

from loomc_runner import deadline
from loomc_runner.providers.meter import Metered

TEXTS = {"text", "thinking", "partial_json", "content", "refusal", "arguments", "reasoning_content", "delta"}
"""Where the pieces of an output stand in an event; what is counted when nobody says how many tokens they were."""

LAST = {"message_stop", "response.completed", "response.incomplete", "response.failed"}
"""The events after which nothing is to come; the streams of chats end with a word of their own."""

BLANK_LINE = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
"""Where an event ends."""

SMALLEST_FRAME = 16
"""Bytes of a frame with neither headers nor content."""


class Reader:
    """Reads the events of one response, and settles its request when they say what it has used.

    With `hides_usage` the event that the vendor only sends because we asked for it is kept from the user.
    """

    def __init__(self, call: Metered, *, is_events: bool, hides_usage: bool) -> None:
        self._call, self._is_events, self._hides = call, is_events, hides_usage
        self._rest = b""
        self._seen: dict[str, Any] = {}
        self._settled = False

    def along(self, chunks: Generator[bytes]) -> Iterator[bytes]:
        """What is passed on of a response that is read sync."""
        self._call.is_read_along = self._is_events
        try:
            with closing(chunks):
                while chunk := deadline.call(next, chunks, b"", deadline=None):  # a time limit may end the wait for it
                    if passed := self.passed_on(chunk):
                        yield passed
        except Exception:
            self.cut()
            raise
        if left := self.end():
            yield left

    async def along_async(self, chunks: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        """What is passed on of a response that is read async."""
        self._call.is_read_along = self._is_events
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if passed := self.passed_on(chunk):
                        yield passed
        except Exception:
            self.cut()
            raise
        if left := self.end():
            yield left

    def passed_on(self, chunk: bytes) -> bytes:
        """The part of a chunk that is passed on: whole events; the rest waits for its end."""
        if not self._is_events:
            self._rest += chunk
            return chunk
        *events, self._rest = BLANK_LINE.split(self._rest + chunk)
        return b"".join(event for event in events if not self._is_hidden(event))

    def end(self) -> bytes:
        """What is left over when the response has ended by itself."""
        left, self._rest = self._rest, b""
        if self._is_events:
            left = b"" if left.strip() and self._is_hidden(left) else left
            self.cut()  # without its last event, though nobody raised an error
            return left
        self._settled = True
        try:
            self._call.answered(json.loads(left))
        except ValueError:
            self._call.ended(None, len(left))
        return b""

    def cut(self) -> None:
        """The response was cut off; what it has reported until then is charged, and the rest estimated."""
        if not self._settled:
            self._settled = True
            self._call.left()

    def _is_hidden(self, event: bytes) -> bool:
        """Read an event; whether the user did not ask for it."""
        data = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        if data == b"[DONE]":
            self._finish()
            return False
        try:
            value = json.loads(data)
        except ValueError:
            return False
        return isinstance(value, dict) and self._read(value)

    def _read(self, event: dict[str, Any]) -> bool:
        """Take from an event what it reports; whether it says only that, and the user did not ask for it."""
        kind = event.get("type")
        if isinstance(whole := event.get("response"), dict):  # the answer so far, whole at the end
            self._call.reported = self._call.usage_of(whole) or self._call.reported
        elif isinstance(part := event.get("message") if kind == "message_start" else event, dict):
            self._merge(part)
        if kind is None or str(kind).endswith("delta"):  # others repeat what came in pieces
            self._call.received += sum(map(len, _texts(event)))
        is_only_usage = isinstance(event.get("usage"), dict) and event.get("choices") == []
        is_told = self._call.reported is not None and self._call.reported.counts["output_tokens"] > 0
        if kind in LAST or (is_only_usage and is_told):  # some servers begin with one
            self._finish()
        return self._hides and is_only_usage

    def _merge(self, source: dict[str, Any]) -> None:
        """Put together what is told bit by bit: by Anthropic the input at the start, and the output as it grows."""
        told = {name: source[name] for name in ("model", "service_tier") if source.get(name)}
        if isinstance(usage := source.get("usage"), dict):
            before = self._seen.get("usage", {})  # what has grown is not zero again, whatever some servers say
            known = {name: value for name, value in usage.items() if value or not (value is None or name in before)}
            told["usage"] = {**before, **known}
        self._seen |= told
        if "usage" in told:
            self._call.reported = self._call.usage_of(self._seen)

    def _finish(self) -> None:
        if not self._settled:
            self._settled = True
            self._call.ended(self._call.reported, self._call.received)


class FrameReader(Reader):
    """Reads the events that Amazon puts into frames: their size, that of their headers, a sum, headers, JSON, a sum."""

    def passed_on(self, chunk: bytes) -> bytes:
        """All of it; what is whole of it is read."""
        self._rest += chunk
        while len(self._rest) >= max(SMALLEST_FRAME, size := int.from_bytes(self._rest[:4], "big")):
            frame, self._rest = self._rest[: max(size, SMALLEST_FRAME)], self._rest[max(size, SMALLEST_FRAME) :]
            with suppress(ValueError, LookupError, TypeError):  # one of another kind
                content = json.loads(frame[12 + int.from_bytes(frame[4:8], "big") : -4])["bytes"]
                self._read(json.loads(base64.b64decode(content)))
        return chunk

    def end(self) -> bytes:
        """Nothing is held back."""
        self.cut()
        return b""


def watch(response: Any, call: Metered, *, hides_usage: bool = False) -> None:
    """Read along while somebody reads an HTTP response, sync or async."""
    kind = response.headers.get("content-type", "")
    has_frames = "application/vnd.amazon.eventstream" in kind
    is_events = has_frames or "text/event-stream" in kind
    reader = (FrameReader if has_frames else Reader)(call, is_events=is_events, hides_usage=hides_usage)
    whole, whole_async = response.iter_bytes, response.aiter_bytes
    call.is_over = lambda: response.is_closed
    response.iter_bytes = lambda *args, **kwargs: reader.along(whole(*args, **kwargs))
    response.aiter_bytes = lambda *args, **kwargs: reader.along_async(whole_async(*args, **kwargs))


def _texts(value: Any, name: str = "") -> Iterator[bytes]:
    """The texts of an output in an event, as bytes."""
    if isinstance(value, str):
        if name in TEXTS:
            yield value.encode("utf-8", "replace")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)
