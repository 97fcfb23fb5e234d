"""The local vendor answers as the real ones do: the real SDKs take it for them, sync and async."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from asking import QUESTION, REQUESTS, TOLD, Counts, Sdk, counts_of, text_in, text_of
from recordings import RECORDED, Alterations, Endpoint, Moment, events_of
from vendor import BROKEN, INVALID, OVERLOADED, RATE_LIMITED, Elsewhere, Gate, Reply, Script, Vendor

FORK = multiprocessing.get_context("fork")

TALKING: list[Endpoint] = ["messages", "chat", "responses"]

USED: dict[tuple[Endpoint, str], Counts] = {
    ("messages", "plain"): Counts(1200, 300),
    ("messages", "cached"): Counts(40, 210, read=20000, written=900, written_1h=600),
    ("messages", "thinking"): Counts(350, 1800, thought=1500),
    ("messages", "search"): Counts(9400, 520, searches=2),
    ("messages", "tool"): Counts(620, 85),
    ("chat", "plain"): Counts(900, 250),
    ("chat", "cached"): Counts(3000, 120, read=2048),
    ("chat", "written"): Counts(5000, 140, read=1024, written=3072),
    ("chat", "reasoning"): Counts(500, 2300, thought=2048),
    ("chat", "tool"): Counts(700, 60),
    ("chat", "two"): Counts(400, 180),
    ("chat", "compatible"): Counts(110, 42),
    ("responses", "plain"): Counts(800, 220),
    ("responses", "cached"): Counts(4000, 90, read=3584),
    ("responses", "written"): Counts(6000, 110, read=1024, written=4096),
    ("responses", "reasoning"): Counts(450, 1500, thought=1216),
    ("responses", "search"): Counts(8100, 430, searches=2),
    ("responses", "tool"): Counts(640, 48),
}
"""What the recorded answers used."""

FORMS: dict[str, tuple[TypeAdapter[Any], TypeAdapter[Any] | None]] = {
    "messages": (TypeAdapter(Message), TypeAdapter(RawMessageStreamEvent)),
    "chat": (TypeAdapter(ChatCompletion), TypeAdapter(ChatCompletionChunk)),
    "responses": (TypeAdapter(Response), TypeAdapter(ResponseStreamEvent)),
    "embeddings": (TypeAdapter(CreateEmbeddingResponse), None),
}
RECORDINGS = [path for path in sorted(RECORDED.glob("*/*.json")) if path.parent.name in FORMS]


@pytest.mark.parametrize("path", RECORDINGS, ids=[f"{path.parent.name}-{path.stem}" for path in RECORDINGS])
def test_a_recording_has_every_field_that_the_sdk_declares(path: Path) -> None:
    """The types of the SDKs, taken strictly, accept each recorded answer and each recorded event."""
    endpoint: Any = path.parent.name
    whole, event_of = FORMS[endpoint]
    whole.validate_json(path.read_text())
    if event_of and path.with_suffix(".sse").exists():
        for event in events_of(endpoint, path.stem, Alterations(None, {}, "my-model", {}, 1)):
            if event.name != "ping" and event.data != "[DONE]":
                event_of.validate_python(event.data)


@pytest.mark.parametrize(("endpoint", "recorded"), USED)
def test_an_answer_reports_what_it_used(endpoint: Endpoint, recorded: str, sdk: Sdk, script: Script) -> None:
    """Plain or as a stream, read event by event or put together by the SDK: the counts are those of the table."""
    client, told = sdk.client(script, endpoint), TOLD if endpoint == "chat" else {}
    script.always(Reply(recorded))
    whole, together = sdk.ask(client, endpoint), sdk.hear_out(client, endpoint, **told)
    assert counts_of(whole) == counts_of(together) == USED[endpoint, recorded]
    heard = sdk.hear(client, endpoint, **told)
    assert heard.error is None
    assert text_of(whole) == text_of(together) == text_in(heard.events)
    for answer in (whole, together, *heard.events):
        answer.model_dump()  # this would warn of a field that is of another type than declared


def test_every_answer_has_an_id_of_its_own(sdk: Sdk, script: Script) -> None:
    """It is the same in all events of a stream; and so has every request."""
    client = sdk.client(script, "chat")
    assert len({sdk.ask(client, "chat").id, *(event.id for event in sdk.hear(client, "chat").events)}) == 2
    assert sdk.ask(client, "chat")._request_id != sdk.ask(client, "chat")._request_id


def test_a_stream_of_anthropic_tells_its_usage_in_two_parts(sdk: Sdk, script: Script) -> None:
    """The start knows the input so far and hardly any output; the end tells both anew, and what tools did."""
    script.next(Reply("search"))
    events = sdk.hear(sdk.client(script, "messages"), "messages").events
    start, end = events[0].message.usage, events[-2].usage
    assert (start.input_tokens, start.output_tokens, start.server_tool_use) == (2100, 3, None)
    assert (end.input_tokens, end.output_tokens, end.server_tool_use.web_search_requests) == (9400, 520, 2)


@pytest.mark.parametrize("told", [True, False])
def test_a_chat_stream_tells_its_usage_if_it_is_asked_to(told: bool, sdk: Sdk, script: Script) -> None:
    """Then all pieces have a usage, which is null, and one more without choices has the counts; else none has it."""
    heard = sdk.hear(sdk.client(script, "chat"), "chat", **(TOLD if told else {}))
    assert text_in(heard.events) == "Fog lifts before noon on most days."
    assert ["usage" in event.model_fields_set for event in heard.events] == [told] * len(heard.events)
    assert [event.usage.total_tokens for event in heard.events if not event.choices] == [1150] * told


def test_a_compatible_server_tells_its_usage_unasked(sdk: Sdk, script: Script) -> None:
    """Its last piece has both a choice and the counts."""
    script.next(Reply("compatible"))
    last = sdk.hear(sdk.client(script, "chat"), "chat").events[-1]
    assert (last.choices[0].finish_reason, last.usage.total_tokens) == ("stop", 152)


@pytest.mark.parametrize("usage", [None, "absent"])
@pytest.mark.parametrize("endpoint", TALKING)
def test_an_answer_may_be_without_usage(endpoint: Endpoint, usage: Any, sdk: Sdk, script: Script) -> None:
    """Whether it says null or nothing, the SDKs give None, also all through a stream."""
    client = sdk.client(script, endpoint)
    script.always(Reply(usage=usage))
    assert sdk.ask(client, endpoint).usage is None
    heard = sdk.hear(client, endpoint, **(TOLD if endpoint == "chat" else {}))
    assert heard.error is None
    heads = [getattr(event, "message", None) or getattr(event, "response", None) or event for event in heard.events]
    assert not any(getattr(head, "usage", None) for head in heads)


def test_counts_models_and_fields_are_as_a_test_wants(sdk: Sdk, script: Script) -> None:
    """What is not altered stays as recorded, sums are right, and the model is the one that was asked for."""
    script.next(
        Reply("cached", usage={"input_tokens": 7, "output_tokens": 9, "service_tier": "priority"}),
        Reply(
            usage={"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, fields={"service_tier": "flex"}
        ),
        Reply(model="gpt-5.5-2026-04-23", fields={"service_tier": "priority"}),
    )
    message = sdk.ask(sdk.client(script, "messages"), "messages")
    assert counts_of(message) == USED["messages", "cached"]._replace(input=7, output=9)
    assert (message.usage.service_tier, message.model) == ("priority", "claude-sonnet-5-5")
    chat = sdk.ask(sdk.client(script, "chat"), "chat", model="my-model")
    assert counts_of(chat) == Counts(5, 250, read=4)
    assert (chat.service_tier, chat.model) == ("flex", "my-model")
    response = sdk.ask(sdk.client(script, "responses"), "responses")
    assert (response.service_tier, response.model) == ("priority", "gpt-5.5-2026-04-23")


def test_a_stream_is_altered_like_an_answer(sdk: Sdk, script: Script) -> None:
    """Counts, model and fields are those that a test wants, at the start and at the end."""
    script.always(Reply(usage={"input_tokens": 7, "output_tokens": 9}, fields={"stop_reason": "max_tokens"}))
    message = sdk.hear_out(sdk.client(script, "messages"), "messages", model="my-model")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 9)
    assert (message.stop_reason, message.model) == ("max_tokens", "my-model")
    script.always(Reply(usage={"input_tokens": 7, "output_tokens": 9}, fields={"service_tier": "flex"}))
    response = sdk.hear_out(sdk.client(script, "responses"), "responses", model="my-model")
    assert (response.usage.total_tokens, response.service_tier, response.model) == (16, "flex", "my-model")


@pytest.mark.parametrize("endpoint", TALKING)
def test_an_answer_says_what_a_test_wants(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """So judges can be asked, plainly or in a stream."""
    client = sdk.client(script, endpoint)
    for says in ["YES", "NO, the second claim has no source.", "maybe", ""]:
        script.always(Reply(text=says))
        assert text_of(sdk.ask(client, endpoint)) == says
        assert text_in(sdk.hear(client, endpoint).events) == says
        assert text_of(sdk.hear_out(client, endpoint)) == says


def test_an_answer_may_depend_on_the_question(sdk: Sdk, script: Script) -> None:
    """A function of the request says what it is answered."""
    script.always(lambda seen: Reply(text=seen.body["input"].upper()))
    assert text_of(sdk.ask(sdk.client(script, "responses"), "responses")) == QUESTION.upper()


@pytest.mark.parametrize("endpoint", TALKING)
def test_a_tool_is_called_in_a_stream(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """The pieces of its arguments make up what the answer as a whole says."""
    client = sdk.client(script, endpoint)
    script.always(Reply("tool"))
    for answer in (sdk.ask(client, endpoint), sdk.hear_out(client, endpoint)):
        if endpoint == "messages":
            assert (answer.stop_reason, answer.content[-1].input) == ("tool_use", {"shelf": "B2"})
        elif endpoint == "chat":
            assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"shelf": "B2"}
        else:
            assert json.loads(answer.output[0].arguments) == {"shelf": "B2"}


def test_two_choices_come_in_one_stream(sdk: Sdk, script: Script) -> None:
    """Their pieces alternate."""
    script.always(Reply("two"))
    client = sdk.client(script, "chat")
    assert [event.choices[0].index for event in sdk.hear(client, "chat", n=2).events][:4] == [0, 1, 0, 1]
    for answer in (sdk.ask(client, "chat", n=2), sdk.hear_out(client, "chat", n=2)):
        assert [choice.message.content for choice in answer.choices] == ["A quiet title.", "A loud title."]


def test_a_response_in_background_is_fetched_later(sdk: Sdk, script: Script) -> None:
    """It is queued, without usage; who asks for it by its id has it whole."""
    client = sdk.client(script, "responses")
    script.next(Reply("reasoning", text="Knight to f3."))
    queued = sdk.ask(client, "responses", background=True)
    assert (queued.status, queued.usage, queued.output) == ("queued", None, [])
    fetched = sdk.await_(client.responses.retrieve(queued.id))
    assert (fetched.status, fetched.id, text_of(fetched)) == ("completed", queued.id, "Knight to f3.")
    assert counts_of(fetched) == USED["responses", "reasoning"]


def test_a_response_that_grew_too_long_has_its_usage(sdk: Sdk, script: Script) -> None:
    """It ends with another event, of which the SDK's own reading makes an error."""
    client = sdk.client(script, "responses")
    script.always(Reply("incomplete"))
    last = sdk.hear(client, "responses").events[-1]
    assert last.type == "response.incomplete"
    assert counts_of(last.response) == counts_of(sdk.ask(client, "responses")) == Counts(300, 64)
    with pytest.raises(RuntimeError, match=r"Didn't receive a `response.completed` event"):
        sdk.hear_out(client, "responses")


def test_a_response_that_failed_has_no_usage(sdk: Sdk, script: Script) -> None:
    """It is an answer like any other: the SDK raises nothing."""
    client = sdk.client(script, "responses")
    script.always(Reply("failed"))
    heard = sdk.hear(client, "responses")
    assert (heard.error, heard.events[-1].type, heard.events[-1].response.usage) == (None, "response.failed", None)
    assert sdk.ask(client, "responses").error.code == "server_error"


@pytest.mark.parametrize("more", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_texts_become_vectors(more: dict[str, Any], sdk: Sdk, script: Script) -> None:
    """In either encoding, as many as texts; like texts are near each other and others are not."""
    texts = ["the fog lifts before noon", "before noon the fog lifts", "nine crates of apples"]
    answer = sdk.ask(sdk.client(script, "embeddings"), "embeddings", input=texts, dimensions=256, **more)
    first, same, other = (item.embedding for item in answer.data)
    assert (len(first), math.hypot(*first)) == (256, pytest.approx(1))
    assert math.dist(first, same) < 0.1 < math.dist(first, other)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (8, 8, "text-embedding-3-small")


def error_class(endpoint: Endpoint, name: str) -> type[Exception]:
    """An error of the SDK that the endpoint belongs to; OpenAI's has none of its own for an overloaded server."""
    if endpoint == "messages":
        found: type[Exception] = getattr(anthropic, name)
    else:
        found = getattr(openai, name.replace("OverloadedError", "InternalServerError"))
    return found


REFUSALS = [
    (RATE_LIMITED, "RateLimitError"),
    (OVERLOADED, "OverloadedError"),
    (BROKEN, "InternalServerError"),
    (INVALID, "BadRequestError"),
    (Reply(status=502), "InternalServerError"),
]


@pytest.mark.parametrize(("reply", "name"), REFUSALS, ids=[str(reply.status) for reply, _ in REFUSALS])
@pytest.mark.parametrize("endpoint", TALKING)
def test_a_refusal_is_the_error_that_the_sdk_has_for_it(
    endpoint: Endpoint, reply: Reply, name: str, sdk: Sdk, script: Script
) -> None:
    """With or without a stream: it has the status, no cause, and the words of the vendor, if it had any."""
    client = sdk.client(script, endpoint)
    script.always(reply)
    for stream in (False, True):
        with pytest.raises(error_class(endpoint, name)) as raised:
            sdk.ask(client, endpoint, stream=stream)
        error: Any = raised.value
        assert type(error) is error_class(endpoint, name)
        assert (error.status_code, error.__cause__) == (reply.status, None)
        assert isinstance(error.body, dict) == (reply.status != 502)
    assert len(script.seen) == 2


@pytest.mark.parametrize("endpoint", TALKING)
def test_the_sdk_asks_again_what_was_refused_for_now(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """As soon as the vendor says, and counts its requests; then the answer is as if nothing had been."""
    script.next(RATE_LIMITED, OVERLOADED, BROKEN)
    assert counts_of(sdk.ask(sdk.client(script, endpoint, max_retries=3), endpoint)) == USED[endpoint, "plain"]
    assert [seen.retry for seen in script.seen] == [0, 1, 2, 3]


@pytest.mark.parametrize("endpoint", TALKING)
def test_the_sdk_does_not_ask_again_what_is_wrong(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """A request that cannot be answered is sent once."""
    script.next(INVALID)
    with pytest.raises(error_class(endpoint, "BadRequestError")):
        sdk.ask(sdk.client(script, endpoint, max_retries=2), endpoint)
    assert len(script.seen) == 1


@pytest.mark.parametrize(("endpoint", "moment"), [("messages", "text"), ("responses", "request")])
def test_the_sdk_asks_again_when_the_connection_was_cut(
    endpoint: Endpoint, moment: Moment, sdk: Sdk, script: Script
) -> None:
    """Also in the middle of an answer, which the vendor may have counted already."""
    script.next(Reply(cut_after=moment))
    assert counts_of(sdk.ask(sdk.client(script, endpoint, max_retries=1), endpoint)) == USED[endpoint, "plain"]
    assert [seen.await_end() for seen in script.seen] == ["cut", "answered"]


@pytest.mark.parametrize("endpoint", TALKING)
def test_a_cut_connection_is_an_error_of_the_sdk(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """Before the first byte and in the middle of a plain answer it is the same one, caused by the error of httpx2."""
    client = sdk.client(script, endpoint)
    cuts: list[Moment] = ["request", "headers", "text", 100]
    for moment in cuts:
        script.next(Reply(cut_after=moment))
        with pytest.raises(error_class(endpoint, "APIConnectionError")) as raised:
            sdk.ask(client, endpoint)
        assert type(raised.value.__cause__) is httpx2.RemoteProtocolError
    assert [seen.await_end() for seen in script.seen] == ["cut"] * 4


CUTS: dict[Endpoint, dict[Moment, int]] = {
    "messages": {"headers": 0, "usage": 1, "text": 3, 5: 4, "final usage": 7},  # the SDK keeps a ping for itself
    "chat": {"headers": 0, "text": 2, 4: 4, "usage": 6},
    "responses": {"headers": 0, "text": 5, 7: 7, "usage": 11},
}
"""How many events of a plain stream arrive when it is cut then."""


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("endpoint", TALKING)
def test_a_stream_that_is_cut_gives_what_came_before(endpoint: Endpoint, gzip: bool, sdk: Sdk, script: Script) -> None:
    """Nobody asks again; OpenAI's SDK raises an error of its own then, and Anthropic's lets that of httpx2 through."""
    client = sdk.client(script, endpoint, max_retries=2)
    script.next(*(Reply(cut_after=moment, gzip=gzip) for moment in CUTS[endpoint]))
    heard = [sdk.hear(client, endpoint, **(TOLD if endpoint == "chat" else {})) for _ in CUTS[endpoint]]
    assert [len(stream.events) for stream in heard] == list(CUTS[endpoint].values())
    assert [seen.await_end() for seen in script.seen] == ["cut"] * len(heard)
    if endpoint == "messages":
        assert {type(stream.error) for stream in heard} == {httpx2.RemoteProtocolError}
    else:
        assert {type(stream.error) for stream in heard} == {openai.APIConnectionError}
        assert {type(stream.error.__cause__) for stream in heard if stream.error} == {httpx2.RemoteProtocolError}


@pytest.mark.parametrize(("endpoint", "arrived"), [("messages", 3), ("chat", 2), ("responses", 5)])
def test_a_stream_may_tell_of_an_error(endpoint: Endpoint, arrived: int, sdk: Sdk, script: Script) -> None:
    """The SDK raises it after what came before, without the status of a refusal."""
    script.next(Reply(error_after="text"))
    heard = sdk.hear(sdk.client(script, endpoint, max_retries=2), endpoint)
    assert (len(heard.events), len(script.seen)) == (arrived, 1)
    error: Any = heard.error
    assert type(error) is (anthropic.APIStatusError if endpoint == "messages" else openai.APIError)
    assert (error.type, error.__cause__) == ("overloaded_error" if endpoint == "messages" else "server_error", None)
    assert getattr(error, "status_code", 200) == 200


@pytest.mark.parametrize(("endpoint", "arrived"), [("messages", 3), ("chat", 2), ("responses", 5)])
def test_a_stream_may_end_early(endpoint: Endpoint, arrived: int, sdk: Sdk, script: Script) -> None:
    """Its last events are missing, and the SDKs say nothing of it."""
    script.next(Reply(end_after="text"))
    heard = sdk.hear(sdk.client(script, endpoint), endpoint)
    assert (len(heard.events), heard.error) == (arrived, None)


@pytest.mark.parametrize("endpoint", TALKING)
def test_the_vendor_notices_when_a_client_leaves_a_stream(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """Whether it waits at a gate then or has said all; the client can ask on."""
    client = sdk.client(script, endpoint)
    script.next(Reply(hold=Gate(), hold_after="text"))
    assert len(sdk.hear(client, endpoint, at_most=1).events) == 1
    assert script.seen[0].await_end() == "left"
    assert len(sdk.hear(client, endpoint, at_most=1).events) == 1
    assert text_of(sdk.ask(client, endpoint))


def ask_once(url: str, key: str) -> None:
    """What a process does that is killed over it."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client:
        client.responses.create(**REQUESTS["responses"])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_vendor_notices_when_a_client_is_killed(script: Script) -> None:
    """A forked process reaches the vendor of this one, which outlives it."""
    gate, life = Gate(), FORK.Process(target=ask_once, args=(script.url, script.key), daemon=True)
    script.next(Reply(hold=gate))
    life.start()
    gate.await_requests()
    life.kill()
    life.join()
    assert script.seen[0].await_end() == "left"


@pytest.mark.parametrize("endpoint", TALKING)
def test_an_answer_may_come_too_late(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """The SDK gives up, and the vendor notices."""
    script.next(Reply(hold=Gate()))
    with pytest.raises(error_class(endpoint, "APITimeoutError")) as raised:
        sdk.ask(sdk.client(script, endpoint, timeout=httpx2.Timeout(20, read=0.05)), endpoint)
    assert type(raised.value.__cause__) is httpx2.ReadTimeout
    assert script.seen[0].await_end() == "left"


@pytest.mark.parametrize(("endpoint", "arrived"), [("messages", 3), ("chat", 2)])
def test_the_rest_of_a_stream_may_come_too_late(endpoint: Endpoint, arrived: int, sdk: Sdk, script: Script) -> None:
    """Then, too, Anthropic's SDK lets the error of httpx2 through."""
    script.next(Reply(hold=Gate(), hold_after="text"))
    heard = sdk.hear(sdk.client(script, endpoint, timeout=httpx2.Timeout(20, read=0.4)), endpoint)
    assert len(heard.events) == arrived
    assert type(heard.error) is (httpx2.ReadTimeout if endpoint == "messages" else openai.APITimeoutError)
    assert script.seen[0].await_end() == "left"


@pytest.mark.parametrize("moment", ["request", "headers", "text", 100])
def test_an_answer_waits_at_a_gate(moment: Moment, openai_client: Callable[..., openai.OpenAI], script: Script) -> None:
    """A test can hold requests under way, as many as it wants, and let them go."""
    gate, client = Gate(), openai_client(script)
    script.always(Reply(hold=gate, hold_after=moment))
    with ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(client.responses.create, **REQUESTS["responses"]) for _ in range(20)]
        gate.await_requests(20)
        assert not any(answer.done() for answer in asked)
        gate.open()
        assert {text_of(answer.result()) for answer in asked} == {"The ferry takes forty minutes."}
    assert script.most_at_once == 20


def test_async_requests_wait_at_a_gate(
    async_anthropic_client: Callable[..., anthropic.AsyncAnthropic], run: Callable[..., Any], script: Script
) -> None:
    """They are all under way at once, too."""
    gate, client = Gate(), async_anthropic_client(script)
    script.always(Reply(hold=gate))

    async def ask_all() -> list[Message]:
        asked = [asyncio.ensure_future(client.messages.create(**REQUESTS["messages"])) for _ in range(20)]
        await asyncio.to_thread(gate.await_requests, 20)
        gate.open()
        return await asyncio.gather(*asked)

    assert len({message.id for message in run(ask_all())}) == 20
    assert script.most_at_once == 20


def test_requests_after_each_other_are_never_at_once(sdk: Sdk, script: Script) -> None:
    """An answer is no longer under way when the client has it, whatever it was."""
    for endpoint in TALKING:
        client = sdk.client(script, endpoint)
        for reply in [Reply(), Reply(gzip=True), Reply(cut_after="text"), Reply(error_after="text"), Reply()] * 4:
            script.next(reply)
            sdk.hear(client, endpoint)
            sdk.ask(client, endpoint)
    assert (script.most_at_once, len(script.seen)) == (1, 120)


@pytest.mark.parametrize("endpoint", TALKING)
def test_an_answer_may_be_compressed(endpoint: Endpoint, sdk: Sdk, script: Script) -> None:
    """The SDKs ask for it, and read it as any other."""
    client = sdk.client(script, endpoint)
    plain = text_of(sdk.ask(client, endpoint))
    script.always(Reply(gzip=True))
    assert text_of(sdk.ask(client, endpoint)) == text_in(sdk.hear(client, endpoint).events) == plain
    headers = {"x-api-key": script.key}
    answer = httpx2.post(f"{script.url}/v1/messages", headers=headers, json=REQUESTS["messages"])
    assert answer.headers["content-encoding"] == "gzip"


def test_what_was_asked_is_seen(sdk: Sdk, script: Script) -> None:
    """The path, the body and the headers, as they came in."""
    sdk.ask(sdk.client(script, "messages"), "messages", extra_headers={"x-mine": "1"})
    sdk.hear(sdk.client(script, "chat"), "chat", temperature=0.5)
    message, chat = script.seen
    assert (message.path, message.body, message.headers["x-mine"]) == ("/v1/messages", REQUESTS["messages"], "1")
    assert chat.path == "/v1/chat/completions"
    assert chat.body == REQUESTS["chat"] | {"temperature": 0.5, "stream": True}


def test_scripts_do_not_disturb_each_other(sdk: Sdk, script: Script, vendor: Vendor) -> None:
    """Each has its own answers and sees its own requests."""
    other = vendor.script(f"{script.key}-other")
    script.next(Reply(text="first"))
    other.next(Reply(text="second"))
    assert text_of(sdk.ask(sdk.client(other, "chat"), "chat")) == "second"
    assert text_of(sdk.ask(sdk.client(script, "chat"), "chat")) == "first"
    assert (len(script.seen), len(other.seen)) == (1, 1)


def test_a_vendor_in_a_process_of_its_own_is_the_same(sdk: Sdk, script: Script, elsewhere: Elsewhere) -> None:
    """It is told what to answer, and tells what was asked, from afar."""
    far = elsewhere.script(script.key)
    far.next(RATE_LIMITED, Reply("cached", usage={"output_tokens": 5}))
    far.always(Reply(text="YES"))
    client = sdk.client(far, "messages", max_retries=1)
    assert counts_of(sdk.ask(client, "messages")) == USED["messages", "cached"]._replace(output=5)
    assert text_of(sdk.ask(client, "messages")) == "YES"
    assert [(seen.retry, seen.body) for seen in far.seen] == [(n, REQUESTS["messages"]) for n in (0, 1, 0)]
    assert (far.most_at_once, script.seen) == (1, [])


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (Reply("nonsense"), r"there is no recording messages/nonsense.json; here are: .*'cached.json'"),
        (Reply("tool", text="x", end_after="text"), "only a stream can tell of an error, or end early"),
        (Reply(cut_after="usage"), "only a stream has the moment 'usage'"),
        (Reply(cut_after=9999), r"nothing happens after 9999: there are \d+"),
    ],
)
def test_what_a_reply_cannot_mean_is_a_failure_of_the_vendor(
    reply: Reply, complaint: str, anthropic_client: Callable[..., anthropic.Anthropic]
) -> None:
    """The client has a server error, and the test that asked for it does not pass."""
    with Vendor() as vendor:
        vendor.script("k").next(reply)
        with pytest.raises(anthropic.InternalServerError):
            anthropic_client(vendor.script("k"), max_retries=0).messages.create(**REQUESTS["messages"])
    with pytest.raises(ValueError, match=complaint):
        raise vendor.failures[0]


def test_a_reply_ends_in_one_way() -> None:
    """It cannot be cut and end early as well."""
    with pytest.raises(ValueError, match="give cut_after, error_after or end_after"):
        Reply(cut_after="text", end_after="text")
