"""What users do with a tracked client besides the ordinary: it neither breaks their calls nor loses money."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from asking import REQUESTS, Run, Sdk, resource_of
from loomc_runner import Budget, LoomcWarning, Price, StoreBusy, StoreError, loop, spend, track
from loomc_runner.providers.stream import SMALLEST_FRAME
from loomc_runner.records import Charge
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import FaultyStore
from recordings import Alterations, Endpoint, Event, events_of
from stepping import Steps
from vendor import INVALID, Gate, Reply, Script

BILLED = {"messages": 1200 * 2_000 + 300 * 10_000, "chat": 900 * 5_000 + 250 * 30_000}
"""Nano-dollars of the recorded answers."""


@pytest.fixture
def steps(sdk: Sdk) -> Steps:
    """Loops that ask through the SDKs, sync and async."""
    return Steps(sdk, MemoryStore())


def charged(work: Callable[[], Any], *, usd: float = 1, store: Any = None) -> list[Charge]:
    """What is charged for a step that does some work."""
    memory = MemoryStore() if store is None else store

    @loop(checkpoint=memory, budget=Budget(usd=usd, iterations=1), name="tests:attack")
    def attacked(n: int) -> int:
        work()
        return n + 1

    return list(memory.charges(attacked.run(0).run_id))


def bills(charges: list[Charge]) -> list[tuple[int, bool]]:
    """Nano-dollars, and whether they are estimated."""
    return [(charge.nano_usd, charge.estimated) for charge in charges]


# --- what is asked


def test_what_beta_requests_leave_out_is_not_weighed(anthropic_client: Any, script: Script) -> None:
    """A parameter that was not given refers to nothing: the request is held as what it is."""
    client = track(anthropic_client(script))
    assert bills(charged(lambda: client.beta.messages.create(**REQUESTS["messages"]), usd=0.02)) == [
        (BILLED["messages"], False)
    ]


def test_what_can_be_read_only_once_still_reaches_the_vendor(steps: Steps, script: Script) -> None:
    """The SDK takes iterators of messages and tools; they are weighed, and sent."""
    client = track(steps.sdk.client(script, "messages"))
    tool = {"name": "look", "input_schema": {"type": "object"}}
    more = {"tools": iter([tool]), "messages": iter(REQUESTS["messages"]["messages"])}
    steps.run(client, ("messages", "plain"), more=more)
    assert script.seen[0].body["tools"] == [tool]
    assert script.seen[0].body["messages"] == REQUESTS["messages"]["messages"]
    long = {"messages": iter([{"role": "user", "content": "word " * 20_000}])}
    result = steps.run(client, ("messages", "plain"), more=long, budget=Budget(usd=0.05), name="tests:long")
    assert (result.status, len(script.seen)) == ("budget_exhausted", 1)


def test_a_file_in_a_request_is_weighed_by_its_content(anthropic_client: Any, script: Script, tmp_path: Path) -> None:
    """The SDK reads files by itself: a large document does not pass as a short name."""
    path = tmp_path / "long.pdf"
    path.write_bytes(b"%PDF" * 50_000)
    source = {"type": "base64", "media_type": "application/pdf", "data": path}
    messages = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    client = track(anthropic_client(script))
    assert charged(lambda: client.messages.create(**REQUESTS["messages"] | {"messages": messages}), usd=0.10) == []
    assert script.seen == []


def test_extra_body_does_not_keep_us_from_hearing_the_usage(openai_client: Any, script: Script) -> None:
    """What the user adds there comes last, and is sent too."""
    client, extra = track(openai_client(script)), {"stream_options": {"include_obfuscation": False}}
    ask = lambda: list(client.chat.completions.create(**REQUESTS["chat"], stream=True, extra_body=extra))  # noqa: E731
    assert bills(charged(ask)) == [(BILLED["chat"], False)]
    assert script.seen[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.responses.compact(model="gpt-5.5", input="long"),
        lambda client: client.evals.runs.create("e", data_source={}),
        lambda client: client.completions.create(model="davinci-002", prompt="long"),
        lambda client: client.post("/other/responses", content=b"{}", cast_to=object),
    ],
    ids=["compact", "evals", "completions", "bytes"],
)
def test_what_is_paid_for_and_cannot_be_charged_is_warned_of(openai_client: Any, script: Script, ask: Any) -> None:
    """Wherever a model is asked for money; the fields of an answer that is stored may be changed without a word."""
    client = track(openai_client(script))

    def work() -> None:
        spend(usd=0.01)
        with pytest.raises(Exception, match=r"404|Not Found|405|500"):
            ask(client)

    with pytest.warns(LoomcWarning, match="cannot charge POST"):
        charged(work)

    def update() -> None:
        spend(usd=0.01)
        with pytest.raises(Exception, match=r"404|Not Found"):
            client.chat.completions.update("chatcmpl-1", metadata={})

    charged(update)


@pytest.mark.parametrize("path", ["/messages/batches", "/threads/runs", "/threads/t/runs", "/batches"])
def test_what_only_looks_like_what_is_free_is_warned_of(openai_client: Any, script: Script, path: str) -> None:
    """A batch, or a thread that is made and run at once, costs money, whatever stands around it in the address."""
    client = track(openai_client(script))

    def work() -> None:
        spend(usd=0.01)
        with pytest.raises(Exception, match=r"404|Not Found"):
            client.post(path, cast_to=object, body={})

    with pytest.warns(LoomcWarning, match="cannot charge POST"):
        charged(work)


# --- what is answered


@pytest.mark.parametrize("way", ["plain", "stream", "streaming"])
def test_a_whole_answer_without_usage_is_charged_by_its_length(steps: Steps, script: Script, way: Any) -> None:
    """Nothing more comes of it: it does not cost all the output that it was allowed."""
    script.always(Reply(usage="absent"))
    (charge,) = steps.charges(steps.run(track(steps.sdk.client(script, "chat")), ("chat", way)))
    assert charge.estimated
    assert charge.usage is not None
    assert 0 < charge.usage["output_tokens"] < 500


@pytest.mark.parametrize("budget", [Budget(usd=0.10, iterations=1), Budget(iterations=1)], ids=["capped", "uncapped"])
def test_what_follows_a_known_answer_is_estimated_by_its_length(
    openai_client: Any, script: Script, budget: Budget
) -> None:
    """An answer without usage to a request with `previous_response_id` costs no whole context window."""
    client, memory = track(openai_client(script)), MemoryStore()

    @loop(checkpoint=memory, budget=budget, name="tests:attack")
    def attacked(n: int) -> int:
        script.next(Reply(), Reply(usage="absent"))
        first = client.responses.create(**REQUESTS["responses"])
        client.responses.create(**REQUESTS["responses"], previous_response_id=first.id)
        return n + 1

    _, second = memory.charges(attacked.run(0).run_id)
    assert second.estimated
    assert second.usage is not None
    assert 1_020 < second.usage["input_tokens"] < 2_000


def test_what_has_come_of_an_open_stream_counts_where_nothing_limits_it(openai_client: Any, script: Script) -> None:
    """Without a limit nobody knows what is to come, but what has come is no less than that."""
    gate, kept, memory = Gate(), list[Any](), MemoryStore()
    script.always(Reply(hold=gate, hold_after="usage"))
    client = track(openai_client(script))
    request = {name: value for name, value in REQUESTS["chat"].items() if not name.startswith("max")}

    @loop(checkpoint=memory, budget=Budget(iterations=1), name="tests:attack")
    def attacked(n: int) -> int:
        kept.append(client.chat.completions.create(**request, stream=True))
        pieces = (chunk.choices[0] for chunk in kept[0] if chunk.choices)
        kept.append(next(piece for piece in pieces if piece.finish_reason or piece.delta.content))
        return n + 1

    (charge,) = memory.charges(attacked.run(0).run_id)
    gate.open()
    assert charge.usage is not None
    assert charge.usage["output_tokens"] > 0


def test_a_model_that_stands_in_has_its_own_price(anthropic_client: Any, script: Script) -> None:
    """The price that was given for the model that was asked is not that of one named to serve in its place."""
    script.always(Reply(model="claude-sonnet-5-5"))
    client = track(anthropic_client(script), prices={"claude-haiku-5-5": Price(0, 0)})
    more = {"extra_body": {"fallbacks": [{"model": "claude-sonnet-5-5"}]}}
    ask = lambda: client.messages.create(**REQUESTS["messages"] | {"model": "claude-haiku-5-5"}, **more)  # noqa: E731
    assert bills(charged(ask)) == [(BILLED["messages"], False)]
    assert charged(ask, usd=0.001) == []


@pytest.mark.parametrize("way", ["plain", "stream"])
@pytest.mark.parametrize("counts", [{"prompt_tokens": -1}, {"prompt_tokens_details": {"cached_tokens": 10**6}}])
def test_counts_that_cannot_be_lose_no_answer(steps: Steps, script: Script, way: Any, counts: Any) -> None:
    """The answer is the user's; it is charged by an estimate, with what came of it, and a warning says why."""
    script.always(Reply(usage=counts))
    with pytest.warns(LoomcWarning, match="gpt-5.5 has answered is charged by an estimate"):
        result = steps.run(track(steps.sdk.client(script, "chat")), ("chat", way))
    (charge,) = steps.charges(result)
    assert (result.steps, charge.estimated) == (1, True)
    assert charge.usage is not None
    assert charge.usage["output_tokens"] > 0


def test_a_price_that_is_not_known_loses_no_answer(steps: Steps, script: Script) -> None:
    """The vendor may serve it in a tier that no list knows: it is charged as the most that it was held for."""
    script.always(Reply(fields={"service_tier": "ultrafast"}))
    with pytest.warns(LoomcWarning, match=r"ultrafast tier is not in genai-prices.*prices="):
        result = steps.run(track(steps.sdk.client(script, "chat")), ("chat", "plain"))
    (charge,) = steps.charges(result)
    assert (result.steps, charge.estimated, charge.nano_usd > BILLED["chat"]) == (1, True, True)


def plain_events(**at_the_end: int) -> list[Event]:
    """The recorded stream of Anthropic, with other counts at its end."""
    events = events_of("messages", "plain", Alterations(None, {}, "claude-sonnet-5-5", {}, 1))
    for event in events:
        if event.name == "message_delta":
            event.data["usage"] |= at_the_end
    return events


def heard(kind: str, content: bytes, hear: Callable[[Any], Any]) -> list[Charge]:
    """What is charged for an answer of a server of another make."""
    answer = lambda _: httpx2.Response(200, headers={"content-type": kind}, content=content)  # noqa: E731
    with Anthropic(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))) as anthropic:
        client = track(anthropic)
        return charged(lambda: hear(client))


def test_a_stream_that_forgets_its_input_is_charged_for_it() -> None:
    """Some compatible servers tell at the start how many tokens went in, and at the end that none did."""
    content = b"".join(event.encode() for event in plain_events(input_tokens=0))
    hear = lambda client: list(client.messages.create(**REQUESTS["messages"], stream=True))  # noqa: E731
    assert bills(heard("text/event-stream", content, hear)) == [(BILLED["messages"], False)]


def chunk(**fields: Any) -> bytes:
    """An event of a chat stream."""
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5.5", "choices": []}
    return Event(None, head | fields).encode()


def test_a_chat_stream_is_charged_by_its_last_counts() -> None:
    """Some compatible servers begin with counts of what went in, or tell them all along."""
    said = {"choices": [{"index": 0, "delta": {"content": "At six."}, "finish_reason": None}]}
    counts = [{"prompt_tokens": 900, "completion_tokens": out} for out in (0, 1, 250)]
    events = [chunk(usage=counts[0]), chunk(**said, usage=counts[1]), chunk(**said), chunk(usage=counts[2])]
    content = b"".join([*events, Event(None, "[DONE]").encode()])
    answer = lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=content)  # noqa: E731
    with OpenAI(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))) as openai:
        client = track(openai)
        ask = lambda: list(client.chat.completions.create(**REQUESTS["chat"], stream=True))  # noqa: E731
        assert bills(charged(ask)) == [(BILLED["chat"], False)]


@pytest.mark.parametrize(
    "data",
    [{"type": "message_start"}, {"type": "message_start", "message": "x"}, {"usage": 3}, {"response": 1}, [], "{"],
)
def test_events_of_no_known_form_are_passed_on(data: Any) -> None:
    """Whatever a server sends is the client's to read: nothing of ours stands in its way."""
    content = Event("message_start", data).encode()

    def hear(client: Any) -> None:
        with client.messages.with_streaming_response.create(**REQUESTS["messages"], stream=True) as response:
            assert response.read() == content

    (charge,) = heard("text/event-stream", content, hear)
    assert charge.estimated


def framed(event: Event) -> bytes:
    """An event as Bedrock sends it; nobody here looks at the sums."""
    data = base64.b64encode(json.dumps(event.data).encode()).decode()
    content, headers = json.dumps({"bytes": data}).encode(), b"\x0b:event-type\x07\x00\x05chunk"
    sizes = (SMALLEST_FRAME + len(headers) + len(content)).to_bytes(4) + len(headers).to_bytes(4)
    return sizes + bytes(4) + headers + content + bytes(4)


@pytest.mark.parametrize("size", [7, 100_000])
def test_a_stream_of_bedrock_is_charged_as_reported(size: int) -> None:
    """Its events come in binary frames, cut anywhere; the client gets them as they are."""
    content = b"".join(map(framed, plain_events()))

    def hear(client: Any) -> None:
        with client.messages.with_streaming_response.create(**REQUESTS["messages"], stream=True) as response:
            assert b"".join(response.iter_bytes(size)) == content

    assert bills(heard("application/vnd.amazon.eventstream", content, hear)) == [(BILLED["messages"], False)]


@pytest.mark.parametrize("content", [bytes(100), b"\xff" * 100, b"no frame", framed(plain_events()[0])[:-9]])
def test_what_are_no_frames_is_passed_on_and_estimated(content: bytes) -> None:
    """Whatever it is, it is the user's to read."""

    def hear(client: Any) -> None:
        with client.messages.with_streaming_response.create(**REQUESTS["messages"], stream=True) as response:
            assert response.read() == content

    (charge,) = heard("application/vnd.amazon.eventstream", content, hear)
    assert charge.estimated


class Answer(BaseModel):
    """What a user wants to have an answer parsed as."""

    number: int


@pytest.mark.parametrize("endpoint", ["messages", "chat", "responses"])
def test_an_answer_that_cannot_be_parsed_is_charged_as_reported(
    steps: Steps, script: Script, endpoint: Endpoint
) -> None:
    """The vendor has said what it used, though its answer is not what the user wants."""
    script.always(Reply(text='{"word": 1}'))
    resource = resource_of(track(steps.sdk.client(script, endpoint)), endpoint)
    wanted = {"messages": "output_format", "chat": "response_format", "responses": "text_format"}[endpoint]
    failed: list[Any] = []

    async def parse_async() -> None:
        try:
            await resource.parse(**REQUESTS[endpoint] | {wanted: Answer})
        except ValueError as error:
            failed.append(error)

    def parse() -> None:
        with pytest.raises(ValueError, match="number") as raised:
            resource.parse(**REQUESTS[endpoint] | {wanted: Answer})
        failed.append(raised.value)

    result = steps.run_each(lambda _: [parse_async() if steps.is_async else parse()])
    (charge,) = steps.charges(result)
    assert (len(failed), charge.estimated) == (1, False)


def test_the_http_response_itself_is_charged(openai_client: Any, script: Script) -> None:
    """A request made by hand may ask for it."""
    client = track(openai_client(script))
    ask = lambda: client.post("/chat/completions", body=REQUESTS["chat"], cast_to=httpx2.Response)  # noqa: E731
    assert bills(charged(ask)) == [(BILLED["chat"], False)]


@pytest.mark.parametrize("reads", ["nothing", "a part", "raw"])
def test_an_answer_that_is_not_read_is_paid_for_all_the_same(anthropic_client: Any, script: Script, reads: str) -> None:
    """The vendor has made all of it: as long as nobody knows better, it costs the most that it may."""
    client = track(anthropic_client(script))

    def look() -> None:
        with client.messages.with_streaming_response.create(**REQUESTS["messages"]) as response:
            if reads == "a part":
                next(response.iter_bytes(10))
            elif reads == "raw":
                list(response.http_response.iter_raw())

    (charge,) = charged(look)
    assert charge.estimated
    assert charge.usage is not None
    assert charge.usage["output_tokens"] == 1024


def test_a_call_that_outlives_its_step_is_charged_as_the_most_it_may_cost(openai_client: Any, script: Script) -> None:
    """It gets its answer when the step has been accounted for."""
    gate, threads = Gate(), list[threading.Thread]()
    script.always(Reply(hold=gate))
    client = track(openai_client(script))

    def leave_behind() -> None:
        ask = lambda: client.chat.completions.create(**REQUESTS["chat"])  # noqa: E731
        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(ask,)))
        threads[0].start()
        gate.await_requests()

    (charge,) = charged(leave_behind)
    gate.open()
    threads[0].join()
    assert charge.estimated
    assert charge.usage is not None
    assert charge.usage["output_tokens"] == 1024


# --- who stands between


def test_what_a_middleware_answers_itself_costs_nothing(anthropic_client: Any, script: Script) -> None:
    """A cache, for one: what was not sent is not paid for again."""
    client = track(anthropic_client(script))

    def twice() -> None:
        answer = client.messages.create(**REQUESTS["messages"])
        again = client.with_middleware(lambda request, call_next: answer)
        assert again.messages.create(**REQUESTS["messages"]) is answer

    assert bills(charged(twice)) == [(BILLED["messages"], False)]
    assert len(script.seen) == 1


def test_what_a_middleware_sends_again_is_held_and_charged_again(anthropic_client: Any, script: Script) -> None:
    """Nobody sees what came of the first: it is charged as the most it may cost, and the second must fit the rest."""

    def twice(request: Any, call_next: Any) -> Any:
        call_next(request)
        return call_next(request)

    client = track(anthropic_client(script)).with_middleware(twice)
    ask = lambda: client.messages.create(**REQUESTS["messages"])  # noqa: E731
    first, second = charged(ask)
    assert (first.estimated, bills([second])) == (True, [(BILLED["messages"], False)])
    assert len(script.seen) == 2
    assert [charge.estimated for charge in charged(ask, usd=0.015)] == [True]
    assert len(script.seen) == 3


def test_what_a_middleware_asks_besides_is_another_request(anthropic_client: Any, script: Script) -> None:
    """Through the same client, while the first is under way: neither takes the other for its own."""
    client = track(anthropic_client(script))

    def look_first(request: Any, call_next: Any) -> Any:
        with pytest.raises(Exception, match="Not Found"):
            client.models.list()
        return call_next(request)

    ask = lambda: client.with_middleware(look_first).messages.create(**REQUESTS["messages"])  # noqa: E731
    assert bills(charged(ask)) == [(BILLED["messages"], False)]


def test_a_store_that_fails_hides_no_error_of_the_vendor(openai_client: Any, script: Script) -> None:
    """What cannot be stored now is stored with the step."""
    script.always(INVALID)
    client, memory = track(openai_client(script)), MemoryStore()
    faulty = FaultyStore(memory, at=2, act=StoreError("the disk is full"), verb="commit")

    def ask() -> None:
        with pytest.raises(Exception, match="Error code: 400"):
            client.chat.completions.create(**REQUESTS["chat"])

    assert charged(ask, store=faulty) == []


def test_a_store_that_fails_swallows_no_cancellation(async_openai_client: Any, script: Script, run: Run) -> None:
    """A task that is cancelled in the middle of a request ends, and its time limit is told as one."""
    gate, memory = Gate(), MemoryStore()
    script.always(Reply(hold=gate))
    client = track(async_openai_client(script))
    faulty = FaultyStore(memory, at=2, act=StoreError("the disk is full"), verb="commit")

    @loop(checkpoint=faulty, budget=Budget(usd=1, iterations=1), name="tests:attack")
    async def attacked(n: int) -> int:
        asking = asyncio.create_task(client.chat.completions.create(**REQUESTS["chat"]))
        await asyncio.to_thread(gate.await_requests)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return n + 1

    (charge,) = memory.charges(run(attacked.run(0)).run_id)
    assert charge.estimated


class Slow(FaultyStore):
    """A store that is busy for the first charges it gets."""

    left = 3

    def commit(self, lease: Any, transition: Any) -> Any:
        """Be busy first."""
        if self.left and transition.charges:
            self.left -= 1
            raise StoreBusy("locked by a test")
        return super().commit(lease, transition)


def test_a_late_record_of_what_was_held_replaces_no_charge(
    script: Script, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls side by side record each its own hold: none is sent before, and none is put over what was charged."""
    memory, on_record, doze = MemoryStore(), list[int](), asyncio.sleep
    script.always(lambda _: on_record.append(len(memory.charges("r"))) or Reply())  # type: ignore[func-returns-value]

    async def both() -> None:
        waits, goes_on = asyncio.Event(), asyncio.Event()

        async def sleep(seconds: float) -> None:
            if seconds == 0.001 and not waits.is_set():  # the first wait for the busy store
                waits.set()
                await goes_on.wait()
            else:
                await doze(seconds)

        async def soon() -> str:
            await doze(0)
            return script.key

        async def later() -> str:
            await waits.wait()
            return script.key

        monkeypatch.setattr(asyncio, "sleep", sleep)
        async with (
            AsyncOpenAI(api_key=soon, base_url=f"{script.url}/v1") as one,
            AsyncOpenAI(api_key=later, base_url=f"{script.url}/v1") as other,
        ):
            asking = asyncio.create_task(track(one).chat.completions.create(**REQUESTS["chat"]))
            await track(other).chat.completions.create(**REQUESTS["chat"])
            goes_on.set()
            await asking

    @loop(checkpoint=Slow(memory), budget=Budget(usd=1, iterations=1), name="tests:attack")
    async def attacked(n: int) -> int:
        await both()
        return n + 1

    run(attacked.run(0, run_id="r"))
    assert on_record == [1, 2]
    assert bills(list(memory.charges("r"))) == [(BILLED["chat"], False)] * 2
