"""What a request may cost at most is told before it is sent, and what a broken-off answer likely cost."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.errors import CostError
from loomc_runner.providers.estimate import broken_off, dearest
from loomc_runner.providers.prices import Price, PriceList
from loomc_runner.providers.usage import Usage

AT = datetime(2026, 11, 20, tzinfo=UTC)
ANTHROPIC = PriceList(provider="anthropic", base_url="https://api.anthropic.com")
OPENAI = PriceList(provider="openai", base_url="https://api.openai.com/v1/")
OWN = PriceList({"my-model": Price(1, 2)}, provider="openai", base_url="http://localhost:8000/v1")

TEXT = "The mill stands by the river, and its wheel has not turned in years. " * 20
SCHEMA = {
    "type": "object",
    "properties": {"type": {"type": "string"}, "shelf": {"type": "string", "description": TEXT}},
}


def messages(content: Any = TEXT, **more: Any) -> dict[str, Any]:
    """A request to Anthropic's Messages."""
    body = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": [{"role": "user", "content": content}]}
    return {**body, **more}


def chat(content: Any = TEXT, **more: Any) -> dict[str, Any]:
    """A request to Chat Completions."""
    body = {"model": "gpt-5", "max_completion_tokens": 1000, "messages": [{"role": "user", "content": content}]}
    return {**body, **more}


def responses(content: Any = TEXT, **more: Any) -> dict[str, Any]:
    """A request to the Responses API."""
    return {"model": "gpt-5", "max_output_tokens": 1000, "input": content, **more}


def embeddings(content: Any = TEXT, **more: Any) -> dict[str, Any]:
    """A request for embeddings."""
    return {"model": "text-embedding-3-small", "input": content, **more}


def most(body: dict[str, Any], kind: str, prices: PriceList | None = None) -> dict[str, int]:
    """The counts of the dearest outcome."""
    listed = prices or (ANTHROPIC if kind == "messages" else OPENAI)
    return dict(dearest(body, kind, listed, AT).counts)


def tokens_in(body: dict[str, Any], kind: str, prices: PriceList | None = None) -> int:
    """The input of the dearest outcome."""
    return most(body, kind, prices)["input_tokens"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [(messages(), "messages"), (chat(), "chat"), (responses(), "responses"), (embeddings(), "embeddings")],
)
def test_text_is_a_token_for_two_bytes_and_something_on_top(body: dict[str, Any], kind: str) -> None:
    """The estimate is above two bytes a token, and not by so much that ordinary requests would be refused."""
    half = math.ceil(len(TEXT.encode()) / 2)
    assert half <= tokens_in(body, kind) <= half + 400


@pytest.mark.parametrize("text", ["3.14159,2.71828;", '{"a": [1, 2, 3]}', "8f14e45f-ceea-467f-a9c5-1e2b3c4d5e6f"])
def test_digits_and_punctuation_weigh_a_token_each(text: str) -> None:
    """Tables, JSON and keys take more tokens for their bytes than prose does."""
    marks = sum(not letter.isalpha() and letter != " " for letter in text) * 100
    assert tokens_in(chat(text * 100), "chat") >= marks + (len(text) * 100 - marks) / 2


def test_every_part_of_the_prompt_counts() -> None:
    """System prompts, tools, schemas, earlier calls and their results are paid for as input too."""
    half = len(TEXT) // 2
    plain = tokens_in(messages(), "messages")
    tool = {"name": "find", "description": TEXT, "input_schema": SCHEMA}
    assert tokens_in(messages(system=TEXT), "messages") >= plain + half
    assert tokens_in(messages(system=[{"type": "text", "text": TEXT}]), "messages") >= plain + half
    assert tokens_in(messages(tools=[tool]), "messages") >= plain + 2 * half + 530
    called = {"type": "tool_use", "id": "t", "name": "find", "input": {"shelf": TEXT}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": TEXT}]}
    turns = [{"role": "assistant", "content": [called]}, {"role": "user", "content": [result]}]
    assert tokens_in(messages(messages=turns), "messages") >= plain + half
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert tokens_in(chat(response_format=form), "chat") >= tokens_in(chat(), "chat") + half + 530
    assert tokens_in(responses(instructions=TEXT), "responses") >= tokens_in(responses(), "responses") + half


PICTURE = base64.b64encode(b"\x89PNG" + bytes(300_000)).decode()
LARGE = "A" * 8_000_000


@pytest.mark.parametrize(
    ("body", "kind", "least", "at_most"),
    [
        (messages([{"type": "image", "source": {"type": "base64", "data": PICTURE}}]), "messages", 4784, 6000),
        (messages([{"type": "image", "source": {"type": "url", "url": "https://a.b/c.png"}}]), "messages", 4784, 6000),
        (messages([{"type": "image", "source": {"type": "file", "file_id": "file_1"}}]), "messages", 4784, 6000),
        (messages([{"type": "image", "source": {"type": "base64", "data": LARGE}}]), "messages", 4784, 6000),
        (
            chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + PICTURE}}]),
            "chat",
            14_364,
            18_000,
        ),
        (chat([{"type": "image_url", "image_url": {"url": "https://a.b/c.png", "detail": "low"}}]), "chat", 2833, 4000),
        (chat([{"type": "image_url", "image_url": {"url": PICTURE}}], model="gpt-4o-mini"), "chat", 48_169, 52_000),
        (chat([{"type": "image_url", "image_url": {"url": LARGE}}]), "chat", 28_000, 40_000),
        (
            responses([{"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]}]),
            "responses",
            14_364,
            18_000,
        ),
        (
            responses([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]),
            "responses",
            14_364,
            18_000,
        ),
        (
            responses(
                [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PICTURE}}]
            ),
            "responses",
            14_364,
            18_000,
        ),
        # three seconds of sound at 24 kHz and 16 bit, at ten tokens a second
        (
            chat([{"type": "input_audio", "input_audio": {"data": "A" * 192_000, "format": "wav"}}], model="gpt-audio"),
            "chat",
            30,
            7000,
        ),
    ],
)
def test_pictures_and_sound_do_not_weigh_their_bytes(body: Any, kind: str, least: int, at_most: int) -> None:
    """An image is at most what the vendor scales it down to, wherever it is; sound is by its length."""
    assert least <= tokens_in(body, kind) <= at_most


def test_a_document_weighs_its_letters() -> None:
    """A PDF is read as text and as pictures: each of its base64 letters is taken to be a token, and a page at least."""
    letters = base64.b64encode(bytes(27_000)).decode()
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": letters}}
    assert 36_000 <= tokens_in(messages([pdf]), "messages") <= 36_500
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + letters}}
    assert 36_000 <= tokens_in(chat([file]), "chat") <= 36_500
    text = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": TEXT}}
    assert len(TEXT) / 2 <= tokens_in(messages([text]), "messages") <= len(TEXT) / 2 + 400


FUNCTION = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (responses(previous_response_id="resp_1"), "responses"),
        (responses(conversation="conv_1"), "responses"),
        (responses(prompt={"id": "pmpt_1"}), "responses"),
        (responses([{"type": "item_reference", "id": "msg_1"}]), "responses"),
        (responses([{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]), "responses"),
        (responses(tools=[{"type": "web_search"}]), "responses"),
        (responses(tools=[{"type": "file_search", "vector_store_ids": ["v"]}]), "responses"),
        (responses(tools=[{"type": "mcp", "server_label": "a", "server_url": "https://a.b"}]), "responses"),
        (responses(tools=[{"type": "code_interpreter", "container": {"type": "auto"}}]), "responses"),
        (chat([{"type": "file", "file": {"file_id": "file_1"}}]), "chat"),
        (chat(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}]), "chat"),
        (messages([{"type": "document", "source": {"type": "url", "url": "https://a.b/c.pdf"}}]), "messages"),
        (messages(tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]), "messages"),
        (messages(tools=[{"type": "code_execution_20250825", "name": "code_execution"}]), "messages"),
        (messages(mcp_servers=[{"type": "url", "url": "https://a.b", "name": "a"}]), "messages"),
        (messages(context_management={"edits": [{"type": "compact_20260112"}]}), "messages"),
    ],
)
def test_what_only_refers_may_fill_the_window(body: dict[str, Any], kind: str) -> None:
    """Of what does not stand in the request nobody knows the length: the whole window is taken, or it is refused."""
    window = 200_000 if kind == "messages" else 400_000
    assert tokens_in(body, kind) == window * 1.05
    elsewhere = PriceList({body["model"]: Price(1, 2)}, base_url="https://api.groq.com/openai/v1")
    with pytest.raises(CostError, match="cannot be told beforehand, and the context window"):
        dearest(body, kind, elsewhere, AT)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (chat(tools=[FUNCTION]), "chat"),
        (
            responses(
                tools=[{"type": "function", "name": "find", "parameters": SCHEMA}, {"type": "custom", "name": "x"}]
            ),
            "responses",
        ),
        (responses(previous_response_id=None, conversation=None, tools=[]), "responses"),
        (messages(tools=[{"type": "bash_20250124", "name": "bash"}], mcp_servers=[]), "messages"),
        (
            messages(tools=[{"type": "text_editor_20250728", "name": "e"}, {"type": "memory_20250818", "name": "m"}]),
            "messages",
        ),
        (messages(tools=[{"type": "custom", "name": "find", "input_schema": SCHEMA}]), "messages"),
    ],
)
def test_tools_that_the_program_runs_bring_nothing_in(body: dict[str, Any], kind: str) -> None:
    """Only what the vendor runs may read what nobody sees beforehand."""
    assert tokens_in(body, kind) < 15_000


def test_no_request_reads_more_than_the_window() -> None:
    """A model takes no more than its window, which may be a rounded figure."""
    assert tokens_in(messages("word " * 400_000), "messages") == 210_000
    assert tokens_in(chat("word " * 400_000, model="my-model"), "chat", OWN) >= 1_000_000


@pytest.mark.parametrize(
    ("body", "kind", "output"),
    [
        (messages(), "messages", 1000),
        (messages(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 8000}), "messages", 9000),
        (chat(), "chat", 1000),
        (chat(max_completion_tokens=None, max_tokens=70), "chat", 70),
        (chat(max_tokens=70), "chat", 1000),
        (chat(n=3), "chat", 3000),
        (responses(), "responses", 1000),
        (embeddings(), "embeddings", 0),
    ],
)
def test_the_output_is_all_that_is_allowed(body: dict[str, Any], kind: str, output: int) -> None:
    """Thinking is within the limit; several choices may each reach it."""
    assert most(body, kind)["output_tokens"] == output


def test_what_is_predicted_in_vain_is_paid_for() -> None:
    """Rejected parts of a prediction are billed as output on top of the limit."""
    assert most(chat(prediction={"type": "content", "content": TEXT}), "chat")["output_tokens"] >= 1000 + len(TEXT) / 2


@pytest.mark.parametrize(
    ("body", "kind", "fix"),
    [
        (messages(max_tokens=None), "messages", "set max_tokens, or"),
        (chat(max_completion_tokens=None), "chat", "set max_completion_tokens, or"),
        (chat(max_completion_tokens=-1), "chat", "set max_completion_tokens, or"),
        (responses(max_output_tokens=None), "responses", "set max_output_tokens, or"),
    ],
)
def test_a_request_without_a_limit_is_refused_with_the_fix(body: dict[str, Any], kind: str, fix: str) -> None:
    """An output without an end has no dearest price: the message names the field of that API."""
    with pytest.raises(CostError, match=fix):
        most(body, kind)
    with pytest.raises(CostError, match=r"track\(client, max_tokens=\.\.\.\)"):
        most(body, kind)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (messages(fallbacks="default"), "messages", "name the models"),
        (
            messages(tools=[{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5"}]),
            "messages",
            "max_uses",
        ),
        (responses(tools=[{"type": "image_generation"}]), "responses", "image_generation"),
        (chat(model=None), "chat", "name its model"),
        (chat(model="my-model"), "chat", r"prices=\{'my-model'"),
        (chat(service_tier="ultrafast"), "chat", "ultrafast tier"),
        (chat(model="gpt-4o-search-preview", web_search_options={}), "chat", "web_searches"),
    ],
)
def test_what_cannot_be_bounded_is_refused(body: dict[str, Any], kind: str, message: str) -> None:
    """Under a cap in dollars, a request whose price nobody can tell is an error that says what to do."""
    with pytest.raises(CostError, match=message):
        most(body, kind)


def nano(usage: Usage, prices: PriceList) -> int:
    """The price of a usage."""
    return prices.nano_usd(usage, AT)


@pytest.mark.parametrize(
    ("body", "kind", "prices", "written"),
    [
        (messages(), "messages", ANTHROPIC, {}),
        (
            messages([{"type": "text", "text": TEXT, "cache_control": {"type": "ephemeral"}}]),
            "messages",
            ANTHROPIC,
            {"cache_write_tokens"},
        ),
        (messages(cache_control={"type": "ephemeral", "ttl": "5m"}), "messages", ANTHROPIC, {"cache_write_tokens"}),
        (
            messages(
                cache_control={"type": "ephemeral"},
                system=[{"type": "text", "text": TEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            ),
            "messages",
            ANTHROPIC,
            {"cache_write_tokens", "cache_write_1h_tokens"},
        ),
        (chat(), "chat", OPENAI, {}),  # writing to the cache costs no more there
        (chat(model="gpt-5.6-sol"), "chat", OPENAI, {"cache_write_tokens"}),  # it is cached unasked
        (responses(model="gpt-5.6-sol"), "responses", OPENAI, {"cache_write_tokens"}),
        (chat(model="m"), "chat", PriceList({"m": Price(1, 1, cache_write=0.1)}), {}),
        (chat(model="m"), "chat", PriceList({"m": Price(1, 1, cache_read=2)}), {"cache_read_tokens"}),
    ],
)
def test_input_is_taken_to_be_cached_where_that_is_dearer(
    body: Any, kind: str, prices: PriceList, written: Any
) -> None:
    """All input may be written to the cache for as long as any part of it asks, or unasked where vendors do that."""
    found = most(body, kind, prices)
    parts = {name for name in found if name.startswith("cache_")}
    assert parts == set(written)
    assert all(found[name] == found["input_tokens"] for name in parts)


def test_sound_is_taken_to_be_dearer_than_text() -> None:
    """Where sound costs more, what is heard and what is said is priced as sound."""
    heard = [{"type": "input_audio", "input_audio": {"data": "A" * 640_000, "format": "wav"}}]
    found = most(chat(heard, model="gpt-audio", modalities=["text", "audio"]), "chat")
    assert found["input_audio_tokens"] == 20_001
    assert found["output_audio_tokens"] == found["output_tokens"] == 1000


@pytest.mark.parametrize(
    ("more", "prices", "tier", "factor"),
    [
        ({}, OPENAI, None, 1),
        ({"service_tier": "default"}, OPENAI, None, 1),
        ({"service_tier": "flex"}, OPENAI, None, 1),  # may be served as usual
        ({"service_tier": "auto"}, OPENAI, "priority", 2),  # the project decides
        ({"service_tier": "priority"}, OPENAI, "priority", 2),
        ({"service_tier": "fast"}, OPENAI, "fast", 2),
        ({"service_tier": "auto"}, OWN, None, None),
    ],
)
def test_the_dearest_tier_is_taken(more: Any, prices: PriceList, tier: str | None, factor: int | None) -> None:
    """A tier that the request names or may end up in is priced, unless a cheaper one is only hoped for."""
    model = "my-model" if prices is OWN else "gpt-5"
    usage = dearest(chat(model=model, **more), "chat", prices, AT)
    assert usage.tier == tier
    if factor is not None:
        plain = dearest(chat(), "chat", prices, AT)
        same = Usage(plain.model, {**plain.counts, "input_tokens": usage.counts["input_tokens"]})
        assert nano(usage, prices) == factor * nano(same, prices)


def test_an_auto_tier_without_a_price_is_the_usual_one() -> None:
    """A model that is not sold in a dearer tier is not served in one."""
    assert dearest(chat(model="gpt-5-pro", service_tier="auto"), "chat", OPENAI, AT).tier is None


def test_fast_mode_and_the_place_are_priced() -> None:
    """Anthropic's fast mode costs double, and inference kept in the US a tenth more."""
    fast = dearest(messages(model="claude-opus-5", speed="fast", inference_geo="us"), "messages", ANTHROPIC, AT)
    assert (fast.tier, fast.geo) == ("fast", "us")
    assert nano(fast, ANTHROPIC) == (fast.counts["input_tokens"] * 10 + 1000 * 50) * 1100


@pytest.mark.parametrize(
    ("body", "kind", "searches"),
    [
        (
            messages(tools=[{"type": "web_search_20250305", "name": "w", "max_uses": 3}]),
            "messages",
            {"web_searches": 3},
        ),
        (messages(tools=[{"type": "web_search_20250305", "name": "w"}]), "messages", {"web_searches": 10}),
        (responses(tools=[{"type": "web_search"}], max_tool_calls=4), "responses", {"web_searches": 4}),
        (
            responses(tools=[{"type": "web_search_preview"}, {"type": "file_search"}], max_tool_calls=None),
            "responses",
            {"web_searches": 10, "storage_searches": 10},
        ),
    ],
)
def test_searches_are_counted(body: dict[str, Any], kind: str, searches: dict[str, int]) -> None:
    """Each use of a search is billed: as many as the request allows, else as many as a turn may have."""
    assert {name: count for name, count in most(body, kind).items() if name.endswith("searches")} == searches


def test_an_advisor_may_read_all_of_it_each_time() -> None:
    """What another model is asked on the way is priced as that model, as often and as long as the tool allows."""
    tool = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5", "max_uses": 2, "max_tokens": 500}
    usage = dearest(messages(tools=[tool]), "messages", ANTHROPIC, AT)
    assert usage.beside == (Usage("claude-opus-5", {"input_tokens": 2_100_000, "output_tokens": 1000}),)


def test_the_dearest_of_the_models_that_may_answer_is_taken() -> None:
    """A request that falls back to other models is priced as the dearest of them, with its own limit."""
    body = messages(fallbacks=[{"model": "claude-opus-4-1", "max_tokens": 400}, {"model": "claude-haiku-4-5"}])
    usage = dearest(body, "messages", ANTHROPIC, AT)
    assert (usage.model, usage.counts["output_tokens"]) == ("claude-opus-4-1", 400)


def test_embeddings_are_cut_one_by_one() -> None:
    """Each text has the window of the model to itself; what comes as tokens is counted."""
    assert tokens_in(embeddings(["word " * 40_000] * 3), "embeddings") == 3 * math.ceil(8192 * 1.05)
    assert tokens_in(embeddings([1, 2, 3]), "embeddings") == 3 + 4
    assert tokens_in(embeddings([[1, 2, 3], [4]]), "embeddings") == 4 + 8
    assert tokens_in(embeddings(["a", "b"]), "embeddings") >= 2


def test_what_is_no_text_does_not_break_it() -> None:
    """A schema may have a property called `type`, and a text half of a surrogate pair."""
    body = chat("\ud83d", tools=[FUNCTION], temperature=0.5, stop=None, logprobs=False)
    assert tokens_in(body, "chat") > 0


models = st.sampled_from(
    [
        ("claude-sonnet-4-5", "messages", ANTHROPIC),
        ("claude-haiku-5-5", "messages", ANTHROPIC),
        ("gpt-5", "chat", OPENAI),
        ("gpt-5.6-sol", "chat", OPENAI),
        ("gpt-4.1", "chat", OPENAI),
        ("my-model", "chat", OWN),
    ]
)


@given(
    model=models, text=st.text(max_size=2000), repeat=st.integers(1, 300), limit=st.integers(1, 5000), data=st.data()
)
def test_no_outcome_within_the_limits_costs_more(
    model: tuple[str, str, PriceList], text: str, repeat: int, limit: int, data: st.DataObject
) -> None:
    """Whatever part of the input is read from or written to the cache, and however long the answer: it is held."""
    name, kind, prices = model
    cached = {"cache_control": {"type": "ephemeral", "ttl": data.draw(st.sampled_from(["5m", "1h"]))}}
    part = {"type": "text", "text": text * repeat, **(cached if kind == "messages" else {})}
    field = "max_tokens" if kind == "messages" else "max_completion_tokens"
    body = {"model": name, field: limit, "messages": [{"role": "user", "content": [part]}]}
    window = prices.context_window(name) or 10**9
    whole = data.draw(st.integers(0, min(window, len((text * repeat).encode()) // 2)))
    read = data.draw(st.integers(0, whole))
    written = data.draw(st.integers(0, whole - read))
    long = data.draw(st.integers(0, written)) if cached["cache_control"]["ttl"] == "1h" and kind == "messages" else 0
    counts = {"input_tokens": whole, "output_tokens": data.draw(st.integers(0, limit)), "cache_read_tokens": read}
    counts |= {"cache_write_tokens": written, "cache_write_1h_tokens": long}
    assert nano(dearest(body, kind, prices, AT), prices) >= nano(Usage(name, counts), prices)


def test_a_broken_stream_is_charged_as_reported_and_for_what_came() -> None:
    """The reported input is believed; the output is what was reported or what has come, whichever is more."""
    reported = Usage("claude-sonnet-4-5", {"input_tokens": 40, "output_tokens": 1, "cache_read_tokens": 30}, "standard")
    cut = broken_off(messages(), "messages", ANTHROPIC, reported, 301)
    assert cut == Usage(
        "claude-sonnet-4-5", {"input_tokens": 40, "output_tokens": 151, "cache_read_tokens": 30}, "standard"
    )
    assert broken_off(messages(), "messages", ANTHROPIC, reported, 0) == reported
    late = Usage("claude-sonnet-4-5", {"input_tokens": 40, "output_tokens": 900})
    assert broken_off(messages(), "messages", ANTHROPIC, late, 301) == late


def test_a_broken_stream_is_charged_no_more_than_was_allowed() -> None:
    """What came cannot be more tokens than the request has limited it to."""
    reported = Usage("gpt-5", {"input_tokens": 40, "output_tokens": 0})
    assert broken_off(chat(), "chat", OPENAI, reported, 50_000).counts["output_tokens"] == 1000
    free = chat(max_completion_tokens=None)
    assert broken_off(free, "chat", OPENAI, reported, 50_000).counts["output_tokens"] == 25_000


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"max_completion_tokens": None},
        {"web_search_options": {}},
        {"model": "my-model", "web_search_options": {}},
    ],
)
def test_a_stream_that_reported_nothing_is_charged_as_estimated(more: dict[str, Any]) -> None:
    """Without a report the input is that of the dearest outcome, and nothing is refused: it was sent already."""
    prices = OWN if more.get("model") == "my-model" else OPENAI
    body = chat(**more)
    cut = broken_off(body, "chat", prices, None, 500, AT)
    assert cut.model == body["model"]
    assert cut.counts["output_tokens"] == 250
    assert cut.counts["input_tokens"] >= len(TEXT) / 2
    assert "web_searches" not in cut.counts
    assert nano(cut, prices) > 0


def test_a_report_without_input_or_model_is_completed() -> None:
    """Some servers only tell what came out so far; what went in is estimated."""
    cut = broken_off(chat(), "chat", OPENAI, Usage(None, {"input_tokens": 0, "output_tokens": 7}, "flex"), 8, AT)
    assert (cut.model, cut.tier, cut.counts["output_tokens"]) == ("gpt-5", "flex", 7)
    assert cut.counts["input_tokens"] == tokens_in(chat(), "chat")


def test_tools_whose_price_is_unknown_do_not_stop_a_charge() -> None:
    """What could have been refused before it was sent is charged for what is known."""
    tools = [{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5"}, {"type": "image_generation"}]
    cut = broken_off(messages(tools=tools, fallbacks="default"), "messages", ANTHROPIC, None, 100, AT)
    assert (cut.counts["output_tokens"], cut.beside) == (50, ())


def test_estimating_reads_json_as_it_is_sent() -> None:
    """What the body holds comes to the same after it has been written and read as JSON."""
    body = messages([{"type": "text", "text": "Grüße, 世界 🌍"}], tools=[{"name": "find", "input_schema": SCHEMA}])
    assert most(json.loads(json.dumps(body)), "messages") == most(body, "messages")


def test_an_earlier_conversation_of_known_length_comes_before_the_request() -> None:
    """What the vendor puts before a request is counted with it, at the price of what is read anew."""
    body = {"model": "gpt-5.5", "max_output_tokens": 10, "input": "And on Sundays?"}
    prices = PriceList(provider="openai")
    alone, after = (dearest(body, "responses", prices, earlier=earlier) for earlier in (0, 5000))
    assert after.counts["input_tokens"] - alone.counts["input_tokens"] == 5000
    assert after.counts["output_tokens"] == alone.counts["output_tokens"] == 10


@pytest.mark.parametrize(
    "content",
    [
        {"type": "tool_use", "id": "t", "name": "list", "input": {"entries": [{"type": "file", "name": "a"}]}},
        {"type": "text", "text": "x", "source": {"type": ["x"]}},
    ],
)
def test_what_a_tool_is_given_is_text(content: dict[str, Any]) -> None:
    """Data that looks like a document, in the arguments of a tool, brings nothing in from elsewhere."""
    body = {"model": "claude-sonnet-5-5", "max_tokens": 10, "messages": [{"role": "assistant", "content": [content]}]}
    assert dearest(body, "messages", PriceList(provider="anthropic")).counts["input_tokens"] < 1_000


@pytest.mark.parametrize(("thread", "refers"), [({"type": "create"}, False), ({"type": "continue", "id": "x"}, True)])
def test_a_thread_that_is_begun_brings_nothing_in(thread: dict[str, Any], refers: bool) -> None:
    """One that goes on does: then the whole window may be read."""
    body = {"model": "claude-sonnet-5-5", "max_tokens": 10, "messages": [], "thread": thread}
    assert (dearest(body, "messages", PriceList(provider="anthropic")).counts["input_tokens"] > 900_000) is refers
