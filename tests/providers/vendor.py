"""A server on this machine that the real SDKs of Anthropic and OpenAI take for their vendors.

A test has a script under a key of its own, which is the API key that its clients send; so tests and threads do not
disturb each other. `script.next(Reply(...), ...)` says what the next requests are answered, `script.always(...)` what
all others are, and `script.seen` tells what was asked.

Run as a program it prints its address, and serves until its standard input ends; `Elsewhere` is that.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import socket
import subprocess
import sys
import threading
import urllib.request
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from recordings import (
    Alterations,
    Endpoint,
    Event,
    Json,
    Moment,
    Usage,
    body_of,
    embed,
    error_event,
    error_of,
    events_of,
    place_of,
    within,
)

PATIENCE = 30
PATHS: dict[str, Endpoint] = {
    "/v1/messages": "messages",
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}
Ending = Literal["answered", "cut", "left"]


class Gate:
    """Where answers wait under way until a test lets them go on."""

    def __init__(self) -> None:
        self._opened: Future[None] = Future()
        self._arrived = 0
        self._changed = threading.Condition()

    def open(self) -> None:
        """Let everybody through, also who comes later."""
        if not self._opened.done():
            self._opened.set_result(None)

    def await_requests(self, number: int = 1) -> None:
        """Wait until so many requests stand before the gate."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrived >= number, PATIENCE), f"{self._arrived} of {number}"

    async def passes(self, receive: Receive) -> bool:
        """Stand before the gate until it opens, or until the client leaves: then False."""
        with self._changed:
            self._arrived += 1
            self._changed.notify_all()
        opened: asyncio.Future[Any] = asyncio.wrap_future(self._opened)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(receive())
        await asyncio.wait([opened, leaving], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        return opened.done()


@dataclass(frozen=True)
class Reply:
    """What one request is answered. Whether it is a stream says the request.

    Args:
        recorded: The name of a file in `recorded/`, in the folder of the endpoint that is asked.
        text: Says this instead of the recorded first text.
        usage: Counts that differ from the recorded ones; None sends `null`, "absent" leaves usage out.
        model: The model that is said to have answered; the one that was asked for unless given.
        fields: Other fields of the answer that differ, as `{"service_tier": "flex"}`.
        status: Another status than 200 sends the vendor's error.
        headers: Headers besides the usual ones.
        cut_after: The connection is cut then.
        error_after: The stream tells of an error then, and ends.
        end_after: The stream ends then as if it were whole.
        hold: A gate that the answer stops at.
        hold_after: When it stops there.
        gzip: Whether the answer is compressed.
    """

    recorded: str = "plain"
    text: str | None = None
    usage: Usage = field(default_factory=dict)
    model: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: Moment | None = None
    error_after: Moment | None = None
    end_after: Moment | None = None
    hold: Gate | None = None
    hold_after: Moment = "request"
    gzip: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if sum(moment is not None for moment in (self.cut_after, self.error_after, self.end_after)) > 1:
            raise ValueError("an answer ends in one way: give cut_after, error_after or end_after")


SOON = {"retry-after": "1", "retry-after-ms": "5"}
RATE_LIMITED = Reply(status=429, headers=SOON)
OVERLOADED = Reply(status=529, headers=SOON)
BROKEN = Reply(status=500, headers=SOON)
INVALID = Reply(status=400)


@dataclass(frozen=True)
class Seen:
    """A request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: Json
    ended: Future[Ending] = field(default_factory=Future, compare=False)

    @property
    def retry(self) -> int:
        """Which repetition of a request this is, as the SDK counts them; 0 is the first time."""
        return int(self.headers.get("x-stainless-retry-count", 0))

    def await_end(self) -> Ending:
        """Wait until the server is done with it: it was answered, or cut off, or the client has left."""
        return self.ended.result(PATIENCE)


Answering = Reply | Callable[[Seen], Reply]


class Script:
    """What the requests with one API key are answered, and what they were."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self.in_background: dict[str, Json] = {}
        self._queue: deque[Answering] = deque()
        self._always: Answering = Reply()
        self._gates: list[Gate] = []
        self._under_way: set[int] = set()
        self._lock = threading.Lock()

    def next(self, *replies: Answering) -> None:
        """Answer the next requests with these, one each."""
        self._queue.extend(replies)

    def always(self, reply: Answering) -> None:
        """Answer with this whenever nothing is said about the next request; a function gets the request."""
        self._always = reply

    def close(self) -> None:
        """Open all gates, and wait until the server is done with every request."""
        for gate in self._gates:
            gate.open()
        for seen in self.seen:
            seen.ended.exception(PATIENCE)

    def receive(self, seen: Seen) -> Reply:
        """Note a request, and say how it is answered."""
        with self._lock:
            self.seen.append(seen)
            self._under_way.add(id(seen))
            self.most_at_once = max(self.most_at_once, len(self._under_way))
            answering = self._queue.popleft() if self._queue else self._always
        reply = answering if isinstance(answering, Reply) else answering(seen)
        if reply.hold:
            self._gates.append(reply.hold)
        return reply

    def release(self, seen: Seen) -> None:
        """A request is no longer under way."""
        with self._lock:
            self._under_way.discard(id(seen))


class Answer:
    """An answer on its way, in pieces between which something may happen to it."""

    def __init__(self, script: Script, seen: Seen, reply: Reply, number: int) -> None:
        self._script, self._seen, self._reply = script, seen, reply
        self._headers = {"request-id": f"req_{number}", "x-request-id": f"req_{number}", **reply.headers}
        self._pieces: list[bytes] = []
        self._hold_at: int | None = None
        self._cut_at: int | None = None

    def say(self, body: Json | str) -> Self:
        """Send a body whose length is told beforehand."""
        if self._reply.error_after is not None or self._reply.end_after is not None:
            raise ValueError("only a stream can tell of an error, or end early")
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        content = gzip.compress(content) if self._reply.gzip else content
        self._headers["content-type"] = "text/html" if isinstance(body, str) else "application/json"
        self._headers["content-length"] = str(len(content))
        hold, cut = self._moments
        marks = sorted({-1, 0, len(content), *(offset_of(content, moment) for moment in (hold, cut))})
        self._pieces = [content[start:end] for start, end in itertools.pairwise(marks[1:])]
        self._place(lambda moment: marks.index(offset_of(content, moment)) - 1)
        return self

    def stream(self, endpoint: Endpoint, events: list[Event]) -> Self:
        """Send events."""
        reply = self._reply
        self._headers |= {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        self._place(partial(place_of, events))
        if reply.error_after is not None:
            place = place_of(events, reply.error_after)
            events = [*events[:place], error_event(endpoint, place)]
        elif reply.end_after is not None:
            events = events[: place_of(events, reply.end_after)]
        self._pieces = [event.encode() for event in events]
        if reply.gzip:
            squeeze = zlib.compressobj(wbits=31)
            self._pieces = [squeeze.compress(piece) + squeeze.flush(zlib.Z_SYNC_FLUSH) for piece in self._pieces]
            self._pieces.append(squeeze.flush())
        return self

    @property
    def _moments(self) -> tuple[Moment, Moment]:
        """When it is held, and when it is cut; what does not happen, happens at the request."""
        reply = self._reply
        return reply.hold_after if reply.hold else "request", "request" if reply.cut_after is None else reply.cut_after

    def _place(self, place_of: Callable[[Moment], int]) -> None:
        hold, cut = self._moments
        self._hold_at = place_of(hold) if self._reply.hold else None
        self._cut_at = place_of(cut) if self._reply.cut_after is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or as much as is meant to arrive."""
        try:
            ending = await self._send(scope["line"], receive, send)
        except BaseException as error:
            self._seen.ended.set_exception(error)
            raise
        finally:
            self._script.release(self._seen)
        self._seen.ended.set_result(ending)

    async def _send(self, line: asyncio.Transport, receive: Receive, send: Send) -> Ending:
        last = len(self._pieces)
        for sent in range(-1, last + 1):
            if self._reply.hold and sent == self._hold_at and not await self._reply.hold.passes(receive):
                return "left"
            if sent == self._cut_at:
                return await self._cut(line, receive)
            if sent >= last - 1 and self._hold_at != last:
                self._script.release(self._seen)  # before the client knows: its next request is not at the same time
            if sent < 0:
                await self._start(send)
            else:
                piece = self._pieces[sent] if sent < last else b""
                await send({"type": "http.response.body", "body": piece, "more_body": sent < last})
        return "answered"

    async def _start(self, send: Send) -> None:
        headers = self._headers | ({"content-encoding": "gzip"} if self._reply.gzip else {})
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self._reply.status, "headers": raw})

    async def _cut(self, line: asyncio.Transport, receive: Receive) -> Ending:
        self._script.release(self._seen)
        line.write_eof()  # arrives even where a forked process still has the connection open
        line.close()
        while (await receive())["type"] != "http.disconnect":
            pass
        return "cut"


def offset_of(content: bytes, moment: Moment) -> int:
    """How many bytes of a body have been sent at a moment; -1 is before the headers."""
    if isinstance(moment, int):
        return within(moment, len(content))
    known = {"request": -1, "headers": 0, "text": len(content) // 2}
    if moment not in known:
        raise ValueError(f"only a stream has the moment {moment!r}")
    return known[moment]


class Vendor:
    """The server, in a thread of this process."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self._scripts: dict[str, Script] = {}
        self._numbers = itertools.count(1)
        self._socket = socket.create_server(("127.0.0.1", 0))  # listens already: nobody has to wait for the thread
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each event goes out by itself, at once
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = [Route(path, partial(self._answer, endpoint), methods=["POST"]) for path, endpoint in PATHS.items()]
        routes.append(Route("/v1/responses/{id}", self._fetch, methods=["GET"]))
        routes.append(Route("/scripts/{key}", self._control, methods=["GET", "POST"]))
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._with_line(Starlette(routes=routes)),
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                proxy_headers=False,
                log_config=None,
                log_level="critical",
                access_log=False,
                timeout_keep_alive=600,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="vendor", daemon=True)

    def script(self, key: str) -> Script:
        """The script under a key; the same one each time."""
        return self._scripts.setdefault(key, Script(self.url, key))

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, when every request has ended."""
        for script in self._scripts.values():
            script.close()
        self._server.should_exit = True
        self._thread.join()

    def _with_line(self, app: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            scope["line"] = send.__self__.transport  # type: ignore[attr-defined] # uvicorn's way to the connection
            try:
                await app(scope, receive, send)
            except Exception as error:
                self.failures.append(error)
                raise

        return serve

    async def _answer(self, endpoint: Endpoint, request: Request) -> Answer:
        script, seen = await self._note(request)
        reply = script.receive(seen)
        try:
            return self._prepare(endpoint, script, seen, reply)
        except Exception as error:
            script.release(seen)
            seen.ended.set_exception(error)
            raise

    def _prepare(self, endpoint: Endpoint, script: Script, seen: Seen, reply: Reply) -> Answer:
        asked, number = seen.body, next(self._numbers)
        answer = Answer(script, seen, reply, number)
        if reply.status != HTTPStatus.OK:
            return answer.say(error_of(endpoint, reply.status) or f"<html>{reply.status}</html>")
        model = reply.model or asked.get("model", "")
        altered = Alterations(reply.text, reply.usage, model, reply.fields, number)
        if asked.get("stream"):
            told = bool((asked.get("stream_options") or {}).get("include_usage"))
            return answer.stream(endpoint, events_of(endpoint, reply.recorded, altered, tells_usage=told))
        body = body_of(endpoint, reply.recorded, altered)
        if endpoint == "embeddings":
            body["data"] = embed(asked)
        if endpoint == "responses" and asked.get("background"):
            queued = body_of(endpoint, "queued", altered._replace(text=None))
            script.in_background[queued["id"]] = body | {"id": queued["id"], "background": True}
            body = queued
        return answer.say(body)

    async def _fetch(self, request: Request) -> Answer:
        script, seen = await self._note(request)
        reply = script.receive(seen)
        return Answer(script, seen, reply, next(self._numbers)).say(script.in_background[request.path_params["id"]])

    async def _note(self, request: Request) -> tuple[Script, Seen]:
        headers = dict(request.headers)
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        body = await request.body()
        return self.script(key), Seen(request.url.path, headers, json.loads(body) if body else {})

    async def _control(self, request: Request) -> JSONResponse:
        script = self.script(request.path_params["key"])
        if request.method == "POST":
            said = await request.json()
            script.next(*(Reply(**reply) for reply in said["next"]))
            if said["always"]:
                script.always(Reply(**said["always"]))
        seen = [{"path": seen.path, "headers": seen.headers, "body": seen.body} for seen in script.seen]
        return JSONResponse({"seen": seen, "most_at_once": script.most_at_once})


class FarScript:
    """A script of a server in another process: the same, without gates and functions."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    def next(self, *replies: Reply) -> None:
        """Answer the next requests with these, one each."""
        self._say(next=[asdict(reply) for reply in replies], always=None)

    def always(self, reply: Reply) -> None:
        """Answer with this whenever nothing is said about the next request."""
        self._say(next=[], always=asdict(reply))

    @property
    def seen(self) -> list[Seen]:
        """The requests as they came in."""
        return [Seen(**seen) for seen in self._say()["seen"]]

    @property
    def most_at_once(self) -> int:
        """How many requests were under way at once."""
        most: int = self._say()["most_at_once"]
        return most

    def _say(self, **what: object) -> Json:
        data = json.dumps(what).encode() if what else None
        with urllib.request.urlopen(f"{self.url}/scripts/{self.key}", data, timeout=PATIENCE) as answer:
            told: Json = json.load(answer)
        return told


class Elsewhere:
    """The server in a process of its own, which outlives whatever is killed here but not this process."""

    def __enter__(self) -> Self:
        """Start."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._process.communicate()

    def script(self, key: str) -> FarScript:
        """The script under a key."""
        return FarScript(self.url, key)


if __name__ == "__main__":
    with Vendor() as vendor:
        print(vendor.url, flush=True)
        sys.stdin.read()
