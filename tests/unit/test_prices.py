"""What a usage costs, to the nano-dollar, by prices of one's own and by those of genai-prices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.errors import CostError, SpecError
from loomc_runner.providers.cost import cost_of
from loomc_runner.providers.prices import Price, PriceList
from loomc_runner.providers.usage import Usage

AT = datetime(2026, 11, 20, tzinfo=UTC)
ANTHROPIC = PriceList(provider="anthropic", base_url="https://api.anthropic.com")
OPENAI = PriceList(provider="openai", base_url="https://api.openai.com/v1/")


def counts(tokens_in: int, out: int, **parts: int) -> dict[str, int]:
    """Counts, of which the parts are already in the whole."""
    return {"input_tokens": tokens_in, "output_tokens": out, **parts}


CACHED = counts(21540, 210, cache_read_tokens=20000, cache_write_tokens=1500, cache_write_1h_tokens=600, web_searches=2)
LONG = counts(200_000, 1000)
CHAT = counts(3000, 120, cache_read_tokens=2048, output_reasoning_tokens=64)
WRITTEN = counts(6000, 110, cache_read_tokens=1024, cache_write_tokens=4096)


@pytest.mark.parametrize(
    ("prices", "usage", "nano"),
    [
        # dollars for a million tokens times tokens are micro-dollars; times 1000 they are nano-dollars
        (ANTHROPIC, Usage("claude-sonnet-4-5", counts(1200, 300)), (1200 * 3 + 300 * 15) * 1000),
        (ANTHROPIC, Usage("claude-sonnet-4-5-20250929", counts(1200, 300), "standard"), (3600 + 4500) * 1000),
        # 40 fresh at $3, 20,000 read at $0.30, 900 written for 5 minutes at $3.75 and 600 for an hour at $6,
        # 210 out at $15, and two searches at $0.01 each: 120 + 6000 + 3375 + 3600 + 3150 = 16,245; 20,000
        (ANTHROPIC, Usage("claude-sonnet-4-5", CACHED), (16_245 + 20_000) * 1000),
        # half the price in a batch, but not for searches: 60 + 3000 + 1687.5 + 1800 + 1575 = 8122.5; 20,000
        (ANTHROPIC, Usage("claude-sonnet-4-5", CACHED, "batch"), 8_122_500 + 20_000_000),
        # priority is bought beforehand and costs the same by the token
        (ANTHROPIC, Usage("claude-sonnet-4-5", CACHED, "priority"), 36_245_000),
        # fast mode doubles: 1200 at $10 and 300 at $50
        (ANTHROPIC, Usage("claude-opus-5", counts(1200, 300), "fast"), (12_000 + 15_000) * 1000),
        # kept in the US, tokens cost 1.1 times as much, searches the same: 1.1 * (1200 * 5 + 300 * 25) + 10,000
        (ANTHROPIC, Usage("claude-opus-5", counts(1200, 300, web_searches=1), None, "us"), (14_850 + 10_000) * 1000),
        (ANTHROPIC, Usage("claude-opus-5", counts(1200, 300), None, "global"), (6000 + 7500) * 1000),
        # all tokens cost five times as much when more than 100,000 are put in: 200,000 at $0.50 and 1000 at $2.50
        (ANTHROPIC, Usage("claude-haiku-5-5", counts(100_000, 1000)), (10_000 + 500) * 1000),
        (ANTHROPIC, Usage("claude-haiku-5-5", LONG), (100_000 + 2500) * 1000),
        # 952 fresh at $1.25, 2048 read at $0.125, 120 out at $10: 1190 + 256 + 1200
        (OPENAI, Usage("gpt-5-2025-08-07", CHAT, "default"), 2_646_000),
        (OPENAI, Usage("gpt-5-2025-08-07", CHAT, "flex"), 1_323_000),
        (OPENAI, Usage("gpt-5-2025-08-07", CHAT, "priority"), 5_292_000),
        (OPENAI, Usage("gpt-5-2025-08-07", CHAT, "batch"), 1_323_000),
        # 880 fresh at $4, 1024 read at $0.40, 4096 written at $5, 110 out at $20: 3520 + 409.6 + 20,480 + 2200
        (OPENAI, Usage("gpt-5.6-sol", WRITTEN), 26_609_600),
        # no price for writes: 4976 at $1.25, 1024 at $0.125, 110 at $10: 6220 + 128 + 1100
        (OPENAI, Usage("gpt-5", WRITTEN), 7_448_000),
        # 60 in as text at $2.50 and 40 as sound at $32, 10 out as text at $10 and 90 as sound at $64
        (
            OPENAI,
            Usage("gpt-audio", counts(100, 100, input_audio_tokens=40, output_audio_tokens=90)),
            (150 + 1280 + 100 + 5760) * 1000,
        ),
        (
            OPENAI,
            Usage("gpt-5", counts(8100, 430, web_searches=2, storage_searches=1)),
            10_125_000 + 4_300_000 + 22_500_000,
        ),
        (OPENAI, Usage("text-embedding-3-small", counts(8, 0)), 160),
        # an advisor is priced by its own model: 1200 at $3, 300 at $15; 800 at $5, 500 at $25
        (
            ANTHROPIC,
            Usage("claude-sonnet-4-5", counts(1200, 300), beside=(Usage("claude-opus-5", counts(800, 500)),)),
            (8100 + 16_500) * 1000,
        ),
    ],
)
def test_the_price_of_a_usage(prices: PriceList, usage: Usage, nano: int) -> None:
    """Every kind of token costs what it costs with the vendor, in the tier and at the place it was served from."""
    assert prices.nano_usd(usage, AT) == nano


@pytest.mark.parametrize(
    ("price", "used", "nano"),
    [
        (Price(3, 15), counts(1200, 300), 8_100_000),
        (Price(3, 15), CACHED, (21540 * 3 + 210 * 15) * 1000),  # cached as other input; searches are not in it
        (Price(3, 15, cache_read=0.3), CACHED, (1540 * 3 + 6000 + 3150) * 1000),
        (Price(3, 15, cache_read=0.3, cache_write=3.75), CACHED, (120 + 6000 + 5625 + 3150) * 1000),
        (Price(0, 0, request=0.025), counts(1200, 300), 25_000_000),
        (Price(0, 0), counts(1200, 300), 0),
        (Price(0.0005, 0), counts(1, 0), 1),  # half a nano-dollar
        (Price(0.0005, 0), counts(5, 0), 3),  # two and a half
        (Price(0.0004, 0), counts(1, 0), 0),
        (Price(0.1, 0), counts(3, 0), 300),  # in binary, 0.1 * 3 is more than 0.3
    ],
)
def test_prices_of_ones_own(price: Price, used: dict[str, int], nano: int) -> None:
    """They hold for the whole call, in whatever tier; halves of a nano-dollar are rounded up."""
    prices = PriceList({"my-model": price}, provider="openai")
    assert prices.nano_usd(Usage("my-model", used), AT) == nano
    assert prices.nano_usd(Usage("my-model", used, "priority", "us"), AT) == nano


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("gpt-4o", 7),
        ("GPT-4o", 7),
        ("gpt-4o-2024-08-06", 7),
        ("claude-sonnet-4-5@20250929", 9),
        ("Claude-Sonnet-4-5-20250929", 9),
        ("gpt-4o-mini", 0.15),  # another model
        ("gpt-4o-2024-05-13", 8),
    ],
)
def test_ones_own_price_is_found_by_the_name(model: str, dollars: float) -> None:
    """The very name comes first, then other letters, then the name without its date; never just its beginning."""
    own = {"gpt-4o": Price(7, 7), "CLAUDE-sonnet-4-5": Price(9, 9), "gpt-4o-2024-05-13": Price(8, 8)}
    assert PriceList(own).nano_usd(Usage(model, counts(1_000_000, 0)), AT) == dollars * 10**9


OPEN_ROUTER = "https://openrouter.ai/api/v1"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com"
VERTEX = "https://us-east5-aiplatform.googleapis.com/v1"
PROXY = "http://localhost:4000/v1"
AZURE = "https://ours.openai.azure.com/openai/"


@pytest.mark.parametrize(
    ("model", "vendor", "base_url", "dollars"),
    [
        ("claude-sonnet-4-5", "anthropic", "https://api.anthropic.com", 3),
        ("claude-3-5-sonnet-latest", "anthropic", None, 3),
        ("claude-opus-4-20250514", "anthropic", PROXY, 15),
        ("claude-sonnet-4-5@20250929", "anthropic", VERTEX, 3),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic", BEDROCK, 3.3),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic", None, 3.3),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", None, None, 3),
        ("gpt-4o", "openai", "https://api.openai.com/v1/", 2.5),
        ("gpt-4o", "openai", "https://eu.api.openai.com/v1", 2.5),
        ("gpt-4o-2024-08-06", "openai", AZURE, 2.5),
        ("openai/gpt-4o", "openai", OPEN_ROUTER, 2.5),
        ("text-embedding-3-large", None, None, 0.13),
        ("anthropic/claude-sonnet-4-5", None, None, 3),  # as LiteLLM names them
        ("bedrock/anthropic.claude-3-5-sonnet-20241022-v2:0", None, None, 3),
        ("gemini/gemini-2.5-pro", None, None, 1.25),
    ],
)
def test_the_server_decides_before_the_sdk(
    model: str, vendor: str | None, base_url: str | None, dollars: float
) -> None:
    """A known address names the vendor, else the SDK does, else the name of the model."""
    prices = PriceList(provider=vendor, base_url=base_url)
    assert prices.nano_usd(Usage(model, counts(10_000, 0)), AT) == dollars * 10**7


@pytest.mark.parametrize(
    ("usage", "prices", "missing"),
    [
        (Usage("my-model", counts(1, 1)), OPENAI, "not in genai-prices"),
        (Usage("claude-sonnet-4-5", counts(1, 1)), OPENAI, "not in genai-prices"),  # not sold there
        (Usage("moderation", counts(1, 0)), OPENAI, "input_tokens"),
        (Usage("whisper-1", counts(1, 0)), OPENAI, "input_tokens"),
        (Usage("text-embedding-3-small", counts(1, 1)), OPENAI, "output_tokens"),
        (Usage("gpt-4o-search-preview", counts(1, 1, web_searches=1)), OPENAI, "web_searches"),
        (Usage("gpt-5-pro", counts(1, 1), "priority"), OPENAI, "priority tier"),
        (Usage("gpt-5.6-sol", counts(1, 1), "ultrafast"), OPENAI, "ultrafast tier"),
        (Usage("gpt-4o", counts(1, 1), "priority"), PriceList(base_url=AZURE), "priority tier"),
    ],
)
def test_an_unknown_price_is_an_error_that_names_the_fix(usage: Usage, prices: PriceList, missing: str) -> None:
    """What no price is known for is never free by itself: a model, a kind of token, a search, a dearer tier."""
    with pytest.raises(CostError) as error:
        prices.nano_usd(usage, AT)
    assert missing in str(error.value)
    assert f"prices={{{usage.model!r}: Price(input=..., output=...)}}" in str(error.value)
    assert "unknown_price=Price(...)" in str(error.value)
    chosen = PriceList(prices.prices, Price(2, 3), prices.provider, prices.base_url)
    assert chosen.nano_usd(usage, AT) == sum(
        usage.counts[f"{side}_tokens"] * n for side, n in (("input", 2000), ("output", 3000))
    )


def test_an_answer_without_a_model_is_an_error() -> None:
    """Without a name there is no price, whatever is said of unknown models."""
    with pytest.raises(CostError, match="names no model"):
        PriceList(unknown=Price(0, 0)).nano_usd(Usage(None, counts(1, 1)), AT)


@pytest.mark.parametrize(
    "used", [counts(1, 1, cache_read_tokens=2), counts(10**30, 1), counts(1, 1, output_audio_tokens=2)]
)
def test_a_usage_that_cannot_be_is_an_error(used: dict[str, int]) -> None:
    """Parts above their whole and billions of dollars are no charge."""
    with pytest.raises(CostError):
        OPENAI.nano_usd(Usage("gpt-audio" if "output_audio_tokens" in used else "gpt-5", used), AT)


def test_no_counts_are_no_call() -> None:
    """A request that was refused or never sent has used nothing, and is not charged by the call either."""
    assert PriceList({"m": Price(1, 2, request=0.025)}).nano_usd(Usage("m", {}), AT) == 0
    assert PriceList({"m": Price(1, 2, request=0.025)}).nano_usd(Usage("m", counts(0, 0)), AT) == 25_000_000


def test_prices_are_those_of_the_day() -> None:
    """A price that has changed holds from its date on."""
    usage = Usage("o3", counts(1_000_000, 0))
    assert OPENAI.nano_usd(usage, datetime(2025, 6, 9, tzinfo=UTC)) == 10 * 10**9
    assert OPENAI.nano_usd(usage, datetime(2025, 6, 10, tzinfo=UTC)) == 2 * 10**9


@pytest.mark.parametrize(
    ("model", "window"),
    [("gpt-5", 400_000), ("text-embedding-3-small", 8192), ("my-model", None), ("ft:gpt-4o:us", None)],
)
def test_the_context_window(model: str, window: int | None) -> None:
    """What is known of the size of a model, whether or not it is priced otherwise."""
    assert PriceList({model: Price(1, 2)}, provider="openai").context_window(model) == window


@pytest.mark.parametrize("name", ["input", "output", "cache_read", "cache_write", "request"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "3", 10**400])
def test_a_price_must_be_dollars(name: str, value: Any) -> None:
    """A price that cannot be is refused where it is made, by its name and value."""
    with pytest.raises(SpecError, match=rf"Price\({name}="):
        Price(**{"input": 1, "output": 1, name: value})


@pytest.mark.parametrize("prices", [{"m": (1, 2)}, {"m": 3}, {1: Price(1, 2)}, [Price(1, 2)]])
def test_prices_must_be_by_model(prices: Any) -> None:
    """A list of prices that is none is refused with how to write one."""
    with pytest.raises(SpecError, match=r"Price\(input=\.\.\., output=\.\.\.\)"):
        PriceList(prices)


def test_the_price_of_unknown_models_must_be_a_price() -> None:
    """`unknown_price=0` is no price: say `Price(0, 0)`."""
    with pytest.raises(SpecError, match="unknown_price=0"):
        PriceList(unknown=0)  # type: ignore[arg-type]


@given(
    price=st.builds(
        Price,
        *[st.decimals(0, 1000, places=4).map(float)] * 2,
        cache_read=st.none() | st.decimals(0, 1000, places=4).map(float),
        cache_write=st.none() | st.decimals(0, 1000, places=4).map(float),
    ),
    fresh=st.integers(0, 10**7),
    read=st.integers(0, 10**7),
    written=st.integers(0, 10**7),
    out=st.integers(0, 10**7),
)
def test_own_prices_are_exact(price: Price, fresh: int, read: int, written: int, out: int) -> None:
    """The sum is that of exact fractions, whatever the size: no float is added up."""
    used = counts(fresh + read + written, out, cache_read_tokens=read, cache_write_tokens=written)
    reading = price.input if price.cache_read is None else price.cache_read
    writing = price.input if price.cache_write is None else price.cache_write
    parts = ((fresh, price.input), (read, reading), (written, writing), (out, price.output))
    exact = sum((count * Fraction(str(dollars)) * 1000 for count, dollars in parts), Fraction())
    assert PriceList({"m": price}).nano_usd(Usage("m", used), AT) == int(exact + Fraction(1, 2))


def an_answer(model: str | None = "gpt-4o-2024-08-06", **usage: Any) -> dict[str, Any]:
    """The JSON of a Chat Completion, as far as it is read."""
    told = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, **usage}
    return {"model": model, "choices": [], "usage": told}


@pytest.mark.parametrize(
    ("response", "options", "usd"),
    [
        (an_answer(), {}, 0.0035),  # 1000 at $2.50 and 100 at $10
        (an_answer(), {"prices": {"gpt-4o": Price(1, 1)}}, 0.0011),
        (an_answer("my-model"), {"prices": {"my-model": Price(2, 3)}}, 0.0023),
        (an_answer("my-model"), {"unknown_price": Price(0, 0)}, 0.0),
        (an_answer("my-model"), {"model": "gpt-4o"}, 0.0035),
        (an_answer(None), {"model": "gpt-4o"}, 0.0035),
        (an_answer("anthropic/claude-sonnet-4-5", cost=99.0), {}, 0.0045),
        ({"model": "claude-sonnet-4-5", "usage": {"input_tokens": 1000, "output_tokens": 100}}, {}, 0.0045),
    ],
)
def test_cost_of_an_answer(response: Any, options: Mapping[str, Any], usd: float) -> None:
    """Dollars of an answer, by its own counts and model or by those that are given; a cost in it is not taken over."""
    assert cost_of(response, **options) == usd


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ("Shorter by a third.", "no usage in a str"),
        ({"model": "gpt-4o", "usage": None}, "include_usage"),
        (an_answer(None), "names no model"),
        (an_answer("my-model"), r"prices=\{'my-model'"),
        (an_answer(prompt_tokens=-1), "whole number"),
    ],
)
def test_cost_of_something_else_is_an_error(response: Any, message: str) -> None:
    """What has no usage, no model, no price or impossible counts has no cost: an error, and no zero."""
    with pytest.raises(CostError, match=message):
        cost_of(response)


def test_genai_prices_is_imported_when_a_price_is_looked_up() -> None:
    """Whoever brings prices of their own never waits for the list of `genai-prices`."""
    code = (
        "import sys; from loomc_runner.providers.cost import cost_of; from loomc_runner.providers.prices import Price; "
        "cost_of({'model': 'm', 'usage': {'prompt_tokens': 1}}, prices={'m': Price(1, 1)}); "
        "print('genai_prices' in sys.modules); "
        "cost_of({'model': 'gpt-5', 'usage': {'prompt_tokens': 1}}); print('genai_prices' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
