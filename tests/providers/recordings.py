"""What the vendors answer, in the form in which they send it: the files in `recorded/`, altered as a test wants.

The texts and numbers are made up; the fields are those of the vendors' answers in autumn 2026. A `.json` file is an
answer as a whole, a `.sse` file of the same name the same answer as a stream.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

RECORDED = Path(__file__).parent / "recorded"
ID = re.compile(r'"id": ?"((?:msg_|chatcmpl-|cmpl-|resp_)\w+)"')
COUNTED = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")

KNOWN_AT_THE_END = {"output_tokens", "output_tokens_details", "server_tool_use"}
"""What Anthropic's `message_start` does not know yet."""

TOLD_AT_THE_START = {"cache_creation", "service_tier", "inference_geo", "speed"}
"""What Anthropic's `message_delta` does not say again."""

Json = dict[str, Any]
Endpoint = Literal["messages", "chat", "responses", "embeddings"]
Usage = Mapping[str, Any] | Literal["absent"] | None
Moment = int | Literal["request", "headers", "text", "usage", "final usage"]
"""When something happens to an answer, always after: the request was read, the headers were sent, the first piece of
text (of a plain body: the first half), the first and the last event with usage, or so many events (of a plain body:
so many bytes)."""


class Alterations(NamedTuple):
    """How an answer differs from the recorded one; see `vendor.Reply`."""

    text: str | None
    usage: Usage
    model: str
    fields: Mapping[str, Any]
    number: int


class Event(NamedTuple):
    """One event of a stream; its data are a dict, or the word at the end of OpenAI's chat streams."""

    name: str | None
    data: Any

    def encode(self) -> bytes:
        """The event as it goes over the line."""
        data = self.data if isinstance(self.data, str) else json.dumps(self.data, ensure_ascii=False)
        return (f"event: {self.name}\n" if self.name else "").encode() + f"data: {data}\n\n".encode()

    @property
    def head(self) -> Json:
        """The part that speaks of the answer as a whole: its model, its usage."""
        if not isinstance(self.data, dict):
            return {}
        head: Json = self.data.get("message") or self.data.get("response") or self.data
        return head

    @property
    def is_text(self) -> bool:
        """Whether this is a piece of what the model says: text, thinking or the arguments of a tool."""
        if not isinstance(self.data, dict):
            return False
        deltas = [choice["delta"] for choice in self.data.get("choices", ())]
        said = any(delta.get("content") or delta.get("tool_calls") for delta in deltas)
        return said or (self.name or "").endswith((".delta", "block_delta"))


@functools.cache
def read(name: str) -> str:
    """The text of a recorded file."""
    path = RECORDED / name
    if not path.exists():
        raise ValueError(f"there is no recording {name}; here are: {sorted(p.name for p in path.parent.iterdir())}")
    return path.read_text()


def body_of(endpoint: Endpoint, recorded: str, altered: Alterations) -> Json:
    """An answer as a whole."""
    body: Json = json.loads(with_own_id(read(f"{endpoint}/{recorded}.json"), altered.number))
    alter(body, altered)
    if altered.text is not None:
        replace(body, first_text(endpoint, body), altered.text)
    return body


def events_of(endpoint: Endpoint, recorded: str, altered: Alterations, *, tells_usage: bool = True) -> list[Event]:
    """An answer as a stream; OpenAI's chat tells the usage only if it is asked to."""
    raw = with_own_id(read(f"{endpoint}/{recorded}.sse"), altered.number)
    events = [parse(part) for part in raw.split("\n\n") if part]
    old = first_text(endpoint, json.loads(read(f"{endpoint}/{recorded}.json"))) if altered.text is not None else ""
    for event in events:
        if isinstance(event.data, dict):
            alter(event.head, altered, of=event.name)
            replace(event.data, old, altered.text or "") if old else None
    if altered.text is not None:
        spread(events, altered.text)
    return list(as_asked(events, told=tells_usage and altered.usage != "absent")) if endpoint == "chat" else events


def parse(part: str) -> Event:
    """One event of a recorded stream."""
    lines = dict(line.split(": ", 1) for line in part.splitlines())
    data = lines["data"]
    return Event(lines.get("event"), json.loads(data) if data.startswith("{") else data)


def with_own_id(raw: str, number: int) -> str:
    """The recording with an id that no other answer has."""
    found = ID.search(raw)
    return raw.replace(found[1], f"{found[1][:-6]}{number:06}") if found else raw


def alter(head: Json, altered: Alterations, *, of: str | None = None) -> None:
    """Change what an answer says of itself: its model, its usage, other fields. `of` is the name of the event."""
    if "model" in head:
        head["model"] = altered.model
        head.update(merged(head, altered.fields))
    elif "delta" in head and of == "message_delta":
        head["delta"].update({name: value for name, value in altered.fields.items() if name in head["delta"]})
    if not head.get("usage"):
        return
    if altered.usage is None:
        head["usage"] = None
    elif altered.usage == "absent":
        del head["usage"]
    else:
        left_out = {"message_start": KNOWN_AT_THE_END, "message_delta": TOLD_AT_THE_START}.get(of or "", set())
        new = {name: value for name, value in altered.usage.items() if name not in left_out}
        head["usage"] = merged(head["usage"], new)
        if "total_tokens" in head["usage"] and "total_tokens" not in new:
            head["usage"]["total_tokens"] = sum(head["usage"].get(name, 0) for name in COUNTED)


def merged(old: Any, new: Mapping[str, Any]) -> Json:
    """A dict with some of its values changed, also inside its dicts."""
    return {
        **(old or {}),
        **{k: merged((old or {}).get(k), v) if isinstance(v, Mapping) else v for k, v in new.items()},
    }


def as_asked(events: list[Event], *, told: bool) -> Iterator[Event]:
    """A chat stream that tells its usage, where it has some, or one that does not speak of it."""
    for event in events:
        if isinstance(event.data, dict):
            usage = event.data.get("usage")
            if not event.data["choices"] and not (told and usage):
                continue
            if not told and not usage:
                event.data.pop("usage", None)
        yield event


def first_text(endpoint: Endpoint, body: Json) -> str:
    """The first text of an answer, which is the one that a test may replace."""
    if endpoint == "messages":
        texts = [block["text"] for block in body["content"] if block["type"] == "text"]
    elif endpoint == "chat":
        texts = [choice["message"]["content"] for choice in body["choices"] if choice["message"]["content"]]
    else:
        texts = [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]
    if not texts:
        raise ValueError("this recording has no text that could be replaced")
    text: str = texts[0]
    return text


def replace(tree: Any, old: str, new: str) -> None:
    """Put a text wherever another one stands as a whole."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if value == old:
            tree[key] = new
        elif isinstance(value, dict | list):
            replace(value, old, new)


def spread(events: list[Event], text: str) -> None:
    """Say a text in as many pieces as the recorded one has."""
    pieces = [piece for event in events for piece in text_pieces(event)]
    first = [(holder, key) for holder, key, place in pieces if place == pieces[0][2]]
    size = math.ceil(len(text) / len(first))
    for n, (holder, key) in enumerate(first):
        holder[key] = text[n * size : (n + 1) * size]


def text_pieces(event: Event) -> Iterator[tuple[Json, str, object]]:
    """Where the pieces of text in an event stand, and of which block, choice or item each is."""
    if not isinstance(event.data, dict):
        return
    if event.name == "content_block_delta" and event.data["delta"]["type"] == "text_delta":
        yield event.data["delta"], "text", event.data["index"]
    elif event.name == "response.output_text.delta":
        yield event.data, "delta", event.data["item_id"]
    for choice in event.data.get("choices", ()):
        if choice["delta"].get("content"):
            yield choice["delta"], "content", choice["index"]


def place_of(events: list[Event], moment: Moment) -> int:
    """How many events have been sent at a moment; -1 is before the headers."""
    if isinstance(moment, int):
        return within(moment, len(events))
    if moment in {"request", "headers"}:
        return -1 if moment == "request" else 0
    found = [n for n, event in enumerate(events) if (event.is_text if moment == "text" else event.head.get("usage"))]
    if not found:
        raise ValueError(f"this stream has no event for the moment {moment!r}")
    return found[-1 if moment == "final usage" else 0] + 1


def within(number: int, size: int) -> int:
    """A number of events or bytes, if there are so many."""
    if not 0 <= number <= size:
        raise ValueError(f"nothing happens after {number}: there are {size}")
    return number


def error_of(endpoint: Endpoint, status: int | Literal["in stream"]) -> Json | None:
    """What the vendor says when it fails; None where it would not be the vendor that answers."""
    errors: dict[str, Json] = json.loads(read(f"errors/{'anthropic' if endpoint == 'messages' else 'openai'}.json"))
    return errors.get(str(status))


def error_event(endpoint: Endpoint, number: int) -> Event:
    """A failure in the middle of a stream, as its event of that number."""
    error = error_of(endpoint, "in stream") or {}
    if endpoint == "responses":
        error |= {"type": "error", "sequence_number": number}
    return Event(None if endpoint == "chat" else "error", error)


def embed(request: Json) -> list[Json]:
    """Vectors for texts: words fall into as many boxes as there are dimensions, so like texts are near each other."""
    given = request["input"]
    texts = given if isinstance(given, list) and not all(isinstance(item, int) for item in given) else [given]
    vectors = [vector_of(str(text), request.get("dimensions") or 1536) for text in texts]
    encode = in_base64 if request.get("encoding_format") == "base64" else list
    return [{"object": "embedding", "index": n, "embedding": encode(vector)} for n, vector in enumerate(vectors)]


def vector_of(text: str, dimensions: int) -> array[float]:
    """A text as a vector of length one."""
    boxes = [0.0] * dimensions
    for word in text.lower().split():
        boxes[zlib.crc32(word.encode()) % dimensions] += 1
    length = math.hypot(*boxes) or 1.0
    return array("f", (box / length for box in boxes))


def in_base64(vector: array[float]) -> str:
    """A vector as the SDKs ask for it."""
    return base64.b64encode(vector.tobytes()).decode()
