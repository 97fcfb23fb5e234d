"""What a usage costs: prices of one's own, else those of `genai-prices`, which are looked up without any network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from loomc_runner.budget import LARGEST_USD, to_nano
from loomc_runner.errors import CostError, SpecError
from loomc_runner.providers.usage import Usage
from loomc_runner.records import NANO

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

P = ParamSpec("P")
T = TypeVar("T")

MILLION = 1_000_000

US_ONLY = Decimal("1.1")
"""What tokens of Anthropic cost times their price when inference is kept in the US; `genai-prices` does not know it.
https://platform.claude.com/docs/en/manage-claude/data-residency"""

DEARER_TIERS = {"priority", "fast", "ultrafast"}
"""Tiers that cost more than the standard one wherever tokens are paid singly."""

PRICED = {
    "input_tokens": "input_mtok",
    "output_tokens": "output_mtok",
    "web_searches": "web_searches_kcount",
    "storage_searches": "storage_searches_kcount",
}
"""Counts that must have a price of their own when they are used; parts without one cost what their whole costs."""

DATED = re.compile(r"[-@](?:[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2})$")


@dataclass(frozen=True)
class Price:
    """What a model costs, in dollars for a million tokens; `Price(0, 0)` is free.

    Args:
        input: Tokens in.
        output: Tokens out, reasoning included.
        cache_read: Tokens in that were read from the cache. Without it they cost what other input costs.
        cache_write: Tokens in that were written to the cache, for however long. Without it the same holds.
        request: Dollars for each call, for models that are paid so; nothing unless you say so.

    It holds whatever tier or place an answer was served from, and is all that the call costs: searches that a vendor
    bills apart are not in it. Raises `SpecError` for anything but numbers, zero or more.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    request: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name in {"cache_read", "cache_write"}:
                continue
            try:
                to_nano(value)
            except CostError:
                unit = "for each call" if name == "request" else "for a million tokens"
                raise SpecError(f"Price({name}={value!r}): give dollars {unit}, zero or more") from None

    def usd(self, counts: Mapping[str, int]) -> Decimal:
        """Dollars for these counts."""
        read, written = counts.get("cache_read_tokens", 0), counts.get("cache_write_tokens", 0)
        parts = (
            (counts.get("input_tokens", 0) - read - written, self.input),
            (read, self.input if self.cache_read is None else self.cache_read),
            (written, self.input if self.cache_write is None else self.cache_write),
            (counts.get("output_tokens", 0), self.output),
        )
        tokens = sum((count * Decimal(str(price)) for count, price in parts), Decimal())
        return tokens / MILLION + Decimal(str(self.request))


@dataclass(frozen=True)
class PriceList:
    """The prices that hold for a client.

    Prices of one's own come first. Then `genai-prices` is asked: by the address of the server when it knows the vendor
    there, else by the vendor of the SDK, else by the name of the model alone. Then `unknown` holds.

    Args:
        prices: Prices by the name of the model, as answers or requests have it; case does not matter, and a name
            without a date covers those with one (`gpt-5.5` covers `gpt-5.5-2026-04-23`).
        unknown: The price of every model that no price is known for. Without it such a model is an error.
        provider: The vendor of the SDK in use: `anthropic` or `openai`.
        base_url: The address of the server.
    """

    prices: Mapping[str, Price] = field(default_factory=dict)
    unknown: Price | None = None
    provider: str | None = None
    base_url: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prices, Mapping):
            raise SpecError(f"prices={self.prices!r}: give a dict of model names and Price(input=..., output=...)")
        for model, price in self.prices.items():
            if not isinstance(model, str) or not isinstance(price, Price):
                raise SpecError(f"prices={{{model!r}: {price!r}}}: give a model name and Price(input=..., output=...)")
        if self.unknown is not None and not isinstance(self.unknown, Price):
            raise SpecError(f"unknown_price={self.unknown!r}: give Price(input=..., output=...)")

    def nano_usd(self, usage: Usage, at: datetime) -> int:
        """What a usage costs in whole nano-dollars, halves rounded up; one without any counts was no call and is free.

        Args:
            usage: What was used.
            at: When the call was made; prices change from one day to the next, and some by the hour.

        Raises:
            CostError: When no price is known for it; the message names the model and the fix.
        """
        usd = self._usd(usage, at) if usage.counts else Decimal()
        if usd > LARGEST_USD:
            raise CostError(f"a cost of ${usd:.3g} for {usage!r} cannot be")
        return int((usd * NANO).to_integral_value(ROUND_HALF_UP))

    def name_for(self, asked: str | None, answered: str | None) -> str | None:
        """The name by which an answer is priced: as it was asked for, where that has a price of one's own.

        Else as it was answered, which tells the version; as it was asked for when no price is known for that.
        """
        if answered is None or (asked is not None and self._own(asked) is not None):
            return asked or answered
        is_known = self._own(answered) is not None or self._found(answered) is not None
        return answered if is_known or asked is None else asked

    def context_window(self, model: str) -> int | None:
        """How many tokens of input the model takes, or None when that is not known."""
        found = self._found(model)
        return None if found is None else found[1].context_window

    def _usd(self, usage: Usage, at: datetime) -> Decimal:
        model = usage.model
        if model is None:
            raise CostError('the answer names no model: say which it was, as in model="MODEL"')
        usd: Decimal | str = "the model is not in genai-prices"
        if (own := self._own(model)) is not None:
            usd = own.usd(usage.counts)
        elif (found := self._found(model)) is not None:
            usd = _listed(*found, usage, at)
        if isinstance(usd, str):
            if self.unknown is None:
                raise CostError(_no_price(model, usd))
            usd = self.unknown.usd(usage.counts)
        return sum((self._usd(other, at) for other in usage.beside), usd)

    @cached_property
    def _folded(self) -> dict[str, Price]:
        return {model.casefold(): price for model, price in self.prices.items()}

    def _own(self, model: str) -> Price | None:
        """One's own price: for the very name, for the name in other letters, for the name without its date."""
        folded = model.casefold()
        return self.prices.get(model) or self._folded.get(folded) or self._folded.get(DATED.sub("", folded))

    def _found(self, model: str) -> tuple[Provider, ModelInfo] | None:
        """The vendor and the model in `genai-prices`, which remembers what it has found."""
        from genai_prices.data_snapshot import get_snapshot  # 0.3 s the first time

        snapshot = get_snapshot()
        there = None if self.base_url is None else _or_none(snapshot.find_provider, None, None, self.base_url)
        if there is not None:
            return _or_none(snapshot.find_provider_model, model, there, None, None)
        tried = (_or_none(snapshot.find_provider_model, model, None, vendor, None) for vendor in self._vendors(model))
        return next((found for found in tried if found is not None), None)

    def _vendors(self, model: str) -> list[str]:
        """Which vendors to look at, when the address says nothing, best first."""
        vendors = [self.provider] if self.provider is not None else ["litellm", "openai", "anthropic"]
        return [*vendors, "aws"] if "anthropic." in model.casefold() else vendors  # Bedrock's names for Claude


def _or_none(look_up: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What a look-up finds, or None."""
    try:
        return look_up(*args, **kwargs)
    except LookupError:
        return None


def _listed(provider: Provider, model: ModelInfo, usage: Usage, at: datetime) -> Decimal | str:
    """Dollars by the prices of `genai-prices`, or what is missing there."""
    from genai_prices.types import Usage as Counts

    sold_here = any(model is other for other in provider.models)  # else the prices are those of another vendor
    if usage.tier in DEARER_TIERS and not (sold_here and _has_tier(provider, model, usage.tier)):
        return f"its {usage.tier} tier is not in genai-prices"
    context = dict.fromkeys(("service_tier", "processing", "speed"), usage.tier) if usage.tier and sold_here else None
    prices = model.get_prices(at, context)
    for count, price in PRICED.items():
        if usage.counts.get(count) and getattr(prices, price) is None:
            return f"genai-prices has none for its {count}"
    try:
        cost = prices.calc_price(Counts(**usage.counts))
    except ValueError as error:
        raise CostError(f"the usage of {usage.model!r} cannot be: {error}") from None
    kept_in_us = usage.geo == "us" and provider.id == "anthropic"
    return cost["total_price"] + (cost["input_price"] + cost["output_price"]) * (US_ONLY - 1 if kept_in_us else 0)


def _has_tier(provider: Provider, model: ModelInfo, tier: str) -> bool:
    """Whether the price of a dear tier is known; Anthropic's priority is bought beforehand, at no other price."""
    if tier == "priority" and provider.id == "anthropic":
        return True
    return any(tier in variant.when.values() for variant in model.price_variants or ())


def _no_price(model: str, why: str) -> str:
    """What to say, and to do, when a price is not known."""
    return (
        f"the price of {model!r} is not known ({why}): give prices={{{model!r}: Price(input=..., output=...)}} in"
        " dollars for a million tokens, Price(0, 0) if it is free, or unknown_price=Price(...) for all not known"
    )
