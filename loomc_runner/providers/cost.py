"""What a single answer has cost, for those who keep the account themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from loomc_runner.errors import CostError
from loomc_runner.providers.prices import Price, PriceList
from loomc_runner.providers.usage import usage_of
from loomc_runner.records import NANO


def cost_of(
    response: Any,
    *,
    model: str | None = None,
    prices: Mapping[str, Price] | None = None,
    unknown_price: Price | None = None,
) -> float:
    """What an answer has cost in dollars, as in `spend(usd=cost_of(response))`.

    It is worked out from the counts in the answer; a cost that the answer names itself, as those of LiteLLM do, is not
    taken over.

    Args:
        response: An object of the `anthropic` or `openai` SDK, an answer of LiteLLM or LangChain, or a plain dict of
            the same JSON.
        model: The model that was asked. Name it when the answer does not, or calls it by another name than `prices`.
        prices: Prices of your own by the name of the model. They come before those of `genai-prices`.
        unknown_price: The price of models that no price is known for, which are an error otherwise.

    Raises:
        CostError: When the answer holds no usage or impossible counts, names no model, or its price is not known.
    """
    usage = usage_of(response)
    if usage is None:
        raise CostError(
            f"there is no usage in a {type(response).__name__}: give the answer itself, not its text; of a stream, its"
            ' last answer, and for Chat Completions ask with stream_options={"include_usage": True}'
        )
    listed = PriceList(prices or {}, unknown_price)
    priced_as = replace(usage, model=listed.name_for(model, usage.model))
    return listed.nano_usd(priced_as, datetime.now(UTC)) / NANO
