"""What an answer says it used is read the same from SDK objects, plain JSON, LiteLLM and LangChain."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types import Message
from anthropic.types.beta import BetaMessage
from anthropic.types.parsed_message import ParsedMessage
from genai_prices import extract_usage
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ParsedChatCompletion
from openai.types.responses import ParsedResponse, Response

from loomc_runner.errors import CostError
from loomc_runner.providers.usage import Usage, usage_of

CACHED = {
    "input_tokens": 40,
    "cache_creation_input_tokens": 1500,
    "cache_read_input_tokens": 20000,
    "cache_creation": {"ephemeral_5m_input_tokens": 900, "ephemeral_1h_input_tokens": 600},
    "output_tokens": 210,
    "output_tokens_details": {"thinking_tokens": 150},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
    "service_tier": "standard",
}

CACHED_COUNTS = {
    "input_tokens": 21540,  # 40 + 1500 + 20000
    "output_tokens": 210,
    "cache_read_tokens": 20000,
    "cache_write_tokens": 1500,
    "cache_write_5m_tokens": 900,
    "cache_write_1h_tokens": 600,
    "output_reasoning_tokens": 150,
    "web_searches": 2,
}


def a_message(usage: dict[str, Any], model: str = "claude-sonnet-4-5-20250929") -> dict[str, Any]:
    """The JSON of an answer of Anthropic's Messages API."""
    text = {"type": "text", "text": "Shorter by a third.", "citations": None}
    head = {"id": "msg_01", "type": "message", "role": "assistant", "stop_reason": "end_turn", "stop_sequence": None}
    return {**head, "model": model, "content": [text], "usage": usage}


def a_completion(usage: dict[str, Any] | None, model: str = "gpt-5-2025-08-07", **more: Any) -> dict[str, Any]:
    """The JSON of an answer of Chat Completions."""
    message = {"role": "assistant", "content": "Shorter by a third.", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1790000000, "choices": [choice]}
    return {**head, "model": model, "usage": usage, **more}


def a_response(usage: dict[str, Any] | None, model: str = "gpt-5-2025-08-07", **more: Any) -> dict[str, Any]:
    """The JSON of an answer of the Responses API."""
    text = {"type": "output_text", "text": "Shorter by a third.", "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    head = {"id": "resp_1", "object": "response", "created_at": 1790000000, "status": "completed", "tools": []}
    rest = {"output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "error": None, "metadata": {}}
    return {**head, **rest, "model": model, "usage": usage, **more}


def chat_usage(**more: Any) -> dict[str, Any]:
    """The usage of a Chat Completion, of which some was cached and some was reasoning."""
    return {
        "prompt_tokens": 3000,
        "completion_tokens": 120,
        "total_tokens": 3120,
        "prompt_tokens_details": {"cached_tokens": 2048, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
        **more,
    }


CHAT_COUNTS = {
    "input_tokens": 3000,
    "output_tokens": 120,
    "cache_read_tokens": 2048,
    "output_reasoning_tokens": 64,
}


def responses_usage(**more: Any) -> dict[str, Any]:
    """The usage of a response, of which some was cached, some written to the cache, and some reasoning."""
    return {
        "input_tokens": 6000,
        "input_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 4096},
        "output_tokens": 110,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 6110,
        **more,
    }


RESPONSES_COUNTS = {
    "input_tokens": 6000,
    "output_tokens": 110,
    "cache_read_tokens": 1024,
    "cache_write_tokens": 4096,
    "output_reasoning_tokens": 64,
}


def as_object(value: Any) -> Any:
    """The same JSON as plain objects with attributes, as classes of libraries are that are not installed here."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(inner) for name, inner in value.items()})
    return [as_object(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", [dict, Message.model_validate, BetaMessage.model_validate, as_object])
def test_a_message_counts_what_was_cached_as_input(kind: Any) -> None:
    """Anthropic's `input_tokens` leave out what was read from and written to the cache; ours are all."""
    usage = usage_of(kind(a_message(CACHED)))
    assert usage == Usage("claude-sonnet-4-5-20250929", CACHED_COUNTS, "standard")
    assert usage.tokens == 21750


@pytest.mark.parametrize(
    ("kind", "json", "counts"),
    [
        (ParsedMessage[None], a_message(CACHED), CACHED_COUNTS),
        (ChatCompletion, a_completion(chat_usage()), CHAT_COUNTS),
        (ParsedChatCompletion[None], a_completion(chat_usage()), CHAT_COUNTS),
        (Response, a_response(responses_usage()), RESPONSES_COUNTS),
        (ParsedResponse[None], a_response(responses_usage()), RESPONSES_COUNTS),
    ],
)
def test_objects_of_the_sdks_and_their_json_say_the_same(kind: Any, json: Any, counts: dict[str, int]) -> None:
    """An answer may be the object of the SDK, parsed or not, or its JSON; reading it gives no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = usage_of(kind.model_validate(json))
    assert read == usage_of(json)
    assert read is not None
    assert (read.model, read.counts) == (json["model"], counts)


def test_an_embedding_has_no_output() -> None:
    """Embeddings count what was put in, and nothing that came out."""
    json = {
        "object": "list",
        "model": "text-embedding-3-small",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    usage = usage_of(CreateEmbeddingResponse.model_validate(json))
    assert usage == Usage("text-embedding-3-small", {"input_tokens": 8, "output_tokens": 0})


@pytest.mark.parametrize(
    ("json", "vendor", "flavor"),
    [
        (a_message(CACHED), "anthropic", "default"),
        (a_completion(chat_usage()), "openai", "chat"),
        (a_response(responses_usage()), "openai", "responses"),
    ],
)
def test_counts_are_those_that_genai_prices_reads(json: Any, vendor: str, flavor: str) -> None:
    """What the extractors of `genai-prices` can read, they read as we do."""
    theirs = extract_usage(json, provider_id=vendor, api_flavor=flavor).usage
    ours = usage_of(json)
    assert ours is not None
    assert {name: theirs.reported_value(name) for name in ours.counts} == ours.counts


@pytest.mark.parametrize(
    ("json", "tier", "geo"),
    [
        (a_message({**CACHED, "service_tier": "priority"}), "priority", None),
        (a_message({**CACHED, "service_tier": "batch", "inference_geo": "us"}), "batch", "us"),
        (a_message({**CACHED, "speed": "fast"}), "fast", None),
        (a_message({**CACHED, "speed": "standard", "service_tier": None}), None, None),
        (a_completion(chat_usage(), service_tier="flex"), "flex", None),
        (a_response(responses_usage(), service_tier="priority"), "priority", None),
        (a_completion(chat_usage(service_tier="batch")), "batch", None),
    ],
)
def test_the_tier_and_the_place_are_read(json: Any, tier: str | None, geo: str | None) -> None:
    """Tiers stand in the answer or in its usage; Anthropic's fast mode counts as one."""
    usage = usage_of(json)
    assert usage is not None
    assert (usage.tier, usage.geo) == (tier, geo)


def test_what_summing_up_used_is_added_and_what_advised_stands_beside() -> None:
    """A compaction is billed on top of the counts above it, an advisor at its own model; declined attempts are not."""
    part = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation": None}
    iterations = [
        {**part, "type": "message", "input_tokens": 100, "output_tokens": 20, "model": "claude-opus-5"},
        {**part, "type": "compaction", "input_tokens": 5000, "output_tokens": 300, "cache_read_input_tokens": 40000},
        {**part, "type": "advisor_message", "input_tokens": 800, "output_tokens": 500, "model": "claude-opus-5-5"},
        {**part, "type": "fallback_message", "input_tokens": 100, "output_tokens": 20, "model": "claude-sonnet-5"},
    ]
    top = {"input_tokens": 100, "output_tokens": 20, "iterations": iterations}
    json = a_message(top, "claude-sonnet-5")
    for answer in (json, BetaMessage.model_validate(json)):
        usage = usage_of(answer)
        assert usage is not None
        assert usage.counts == {"input_tokens": 45100, "output_tokens": 320, "cache_read_tokens": 40000}
        assert usage.beside == (Usage("claude-opus-5-5", {"input_tokens": 800, "output_tokens": 500}),)
        assert usage.tokens == 45100 + 320 + 800 + 500


SEARCH = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
OPENED = {"id": "ws_2", "type": "web_search_call", "status": "completed", "action": {"type": "open_page", "url": "u"}}
FILES = {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["q"]}
IMAGES = {
    "input_tokens": 30,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 30},
    "output_tokens": 1000,
    "total_tokens": 1030,
}


def test_searches_of_a_response_are_counted() -> None:
    """The vendor says how many searches it bills; where it does not, those in the output count, and no opened pages."""
    told = a_response(
        responses_usage(),
        output=[SEARCH, SEARCH, OPENED, FILES],
        tool_usage={"image_gen": {**IMAGES, "input_tokens": 0, "output_tokens": 0}, "web_search": {"num_requests": 1}},
    )
    for answer, searches in ((told, 1), ({**told, "tool_usage": None}, 2)):
        for shape in (answer, Response.model_validate(answer)):
            usage = usage_of(shape)
            assert usage is not None
            assert usage.counts == {**RESPONSES_COUNTS, "web_searches": searches, "storage_searches": 1}
            assert usage.beside == ()


@pytest.mark.parametrize(("tool", "model"), [({"model": "gpt-image-1"}, "gpt-image-1"), ({}, "image_generation")])
def test_images_made_on_the_way_stand_beside(tool: Any, model: str) -> None:
    """The image tool is another model; when nobody names it, it is priced under the name of the tool."""
    tools = [{"type": "image_generation", **tool}]
    used = {"image_gen": IMAGES, "web_search": {"num_requests": 0}}
    usage = usage_of(Response.model_validate(a_response(responses_usage(), tools=tools, tool_usage=used)))
    assert usage is not None
    assert usage.beside == (Usage(model, {"input_tokens": 30, "output_tokens": 1000}),)


LITELLM = a_completion(
    {
        "prompt_tokens": 21540,
        "completion_tokens": 210,
        "total_tokens": 21750,
        "completion_tokens_details": {"reasoning_tokens": 150, "text_tokens": 60},
        "prompt_tokens_details": {
            "cached_tokens": 20000,
            "cache_write_tokens": 1500,
            "cache_creation_tokens": 1500,
            "cache_creation_token_details": {"ephemeral_5m_input_tokens": 900, "ephemeral_1h_input_tokens": 600},
            "text_tokens": 40,
            "audio_tokens": None,
        },
        "cache_creation_input_tokens": 1500,
        "cache_read_input_tokens": 20000,
        "server_tool_use": {"web_search_requests": 2},
        "service_tier": "standard",
    },
    "claude-sonnet-4-5-20250929",
)
"""What LiteLLM 1.110 makes of the answer above."""


@pytest.mark.parametrize("shape", [dict, as_object])
def test_litellm_counts_what_was_cached_once(shape: Any) -> None:
    """The same cached tokens stand in several places of a LiteLLM answer, and are in its `prompt_tokens` already."""
    assert usage_of(shape(LITELLM)) == Usage("claude-sonnet-4-5-20250929", CACHED_COUNTS, "standard")


def an_ai_message(**more: Any) -> dict[str, Any]:
    """What LangChain makes of the answer above, without the searches it does not carry over."""
    return {
        "content": "Shorter by a third.",
        "usage_metadata": {
            "input_tokens": 21540,
            "output_tokens": 210,
            "total_tokens": 21750,
            "input_token_details": {
                "cache_read": 20000,
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 900,
                "ephemeral_1h_input_tokens": 600,
            },
            "output_token_details": {"reasoning": 150},
        },
        "response_metadata": {"model_name": "claude-sonnet-4-5-20250929", "usage": {"service_tier": "standard"}},
        **more,
    }


def as_message(json: dict[str, Any]) -> Any:
    """LangChain's message: an object whose fields are dicts."""
    return SimpleNamespace(**json)


@pytest.mark.parametrize("shape", [dict, as_message])
def test_a_langchain_message_is_read(shape: Any) -> None:
    """Writes to the cache may stand there by their lifetime only."""
    without = {name: count for name, count in CACHED_COUNTS.items() if name != "web_searches"}
    assert usage_of(shape(an_ai_message())) == Usage("claude-sonnet-4-5-20250929", without, "standard")


def test_langchain_puts_the_tier_before_the_name() -> None:
    """Of OpenAI's dearer and cheaper tiers LangChain counts what was cached under names of their own."""
    message = {
        "usage_metadata": {
            "input_tokens": 3000,
            "output_tokens": 120,
            "input_token_details": {"flex_cache_read": 2048, "flex": 952, "audio": 0},
            "output_token_details": {"flex_reasoning": 64, "flex": 56},
        },
        "response_metadata": {"model_name": "gpt-5-2025-08-07", "service_tier": "flex"},
    }
    assert usage_of(message) == Usage("gpt-5-2025-08-07", CHAT_COUNTS, "flex")


def test_a_langchain_result_is_read() -> None:
    """A result of several prompts has the sum of its usage; one of a single prompt has its message."""
    summed = SimpleNamespace(llm_output={"token_usage": chat_usage(), "model_name": "gpt-5"}, generations=[[], []])
    assert usage_of(summed) == Usage("gpt-5", CHAT_COUNTS)
    single = SimpleNamespace(llm_output=None, generations=[[SimpleNamespace(message=as_message(an_ai_message()))]])
    assert usage_of(single) == usage_of(an_ai_message())
    assert usage_of(SimpleNamespace(llm_output={}, generations=[[], []])) is None


def test_a_server_that_leaves_reasoning_out_is_corrected() -> None:
    """Some compatible servers do not count reasoning as output; it is paid for as such, and the total shows it."""
    details = {"reasoning_tokens": 700}
    told = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 740, "completion_tokens_details": details}
    usage = usage_of(a_completion(told, "grok-4"))
    assert usage is not None
    assert usage.counts == {"input_tokens": 30, "output_tokens": 710, "output_reasoning_tokens": 700}


@pytest.mark.parametrize(
    "response",
    [
        None,
        "Shorter by a third.",
        {},
        {"usage": None},
        {"usage": {}},
        a_completion(None),
        ChatCompletion.model_validate(a_completion(None)),
        Response.model_validate(a_response(None)),
        SimpleNamespace(usage_metadata=None, response_metadata={}),
    ],
)
def test_no_usage_is_none(response: Any) -> None:
    """An answer that does not say what it used is no error here."""
    assert usage_of(response) is None


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": float("nan"), "completion_tokens": 1},
        {"prompt_tokens": float("inf"), "completion_tokens": 1},
        {"prompt_tokens": "12", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 11}},
        {"input_tokens": 10, "output_tokens": 1, "server_tool_use": {"web_search_requests": -1}},
        {"seconds": 12},
        {"promptTokenCount": 12},
        "12 tokens",
    ],
)
def test_impossible_counts_are_an_error(usage: Any) -> None:
    """Counts below zero, halves of tokens, texts, parts above their whole, and usage in nobody's shape are refused."""
    with pytest.raises(CostError):
        usage_of({"model": "gpt-5", "usage": usage})


def test_a_whole_float_is_a_count() -> None:
    """JSON of some servers writes counts with a point."""
    usage = usage_of({"model": "m", "usage": {"prompt_tokens": 12.0, "completion_tokens": 1}})
    assert usage is not None
    assert usage.counts == {"input_tokens": 12, "output_tokens": 1}


@given(fresh=st.integers(0, 10**6), read=st.integers(0, 10**6), short=st.integers(0, 10**6), long=st.integers(0, 10**6))
def test_all_shapes_agree(fresh: int, read: int, short: int, long: int) -> None:
    """The same call gives the same counts whoever tells of it."""
    whole, written = fresh + read + short + long, short + long
    lifetimes = {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}
    anthropic = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": lifetimes,
        "output_tokens": 7,
    }
    details = {"cached_tokens": read, "cache_creation_tokens": written, "cache_creation_token_details": lifetimes}
    litellm = {"prompt_tokens": whole, "completion_tokens": 7, "prompt_tokens_details": details}
    langchain = {
        "input_tokens": whole,
        "output_tokens": 7,
        "input_token_details": {"cache_read": read, "cache_creation": 0 if written else written, **lifetimes},
    }
    read_from = [usage_of({"usage": anthropic}), usage_of({"usage": litellm}), usage_of({"usage_metadata": langchain})]
    assert read_from[0] == read_from[1] == read_from[2]
    assert read_from[0] is not None
    assert read_from[0].counts["input_tokens"] == whole
