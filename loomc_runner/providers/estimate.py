"""What a request may cost at most, told from its body before it is sent, and what a broken-off answer likely cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeGuard

from loomc_runner.errors import CostError
from loomc_runner.providers.prices import DEARER_TIERS, PriceList
from loomc_runner.providers.usage import IMAGE_TOOL, Usage
from loomc_runner.providers.weight import BYTES_PER_TOKEN, PART, Weight, tools_of

ROUNDED = 1.05
"""What a context window may be above the figure told: a million is 1,047,576 in truth."""

CALLS = 10
"""How often a tool is taken to be used when the request does not limit it; Anthropic pauses a turn after so many."""

SEARCHES = {"web_search": "web_searches", "file_search": "storage_searches"}
"""How the types of tools begin whose every use is billed, and what they count as."""

LIMITS = {
    "messages": ("max_tokens",),
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "embeddings": (),
}
"""The fields that limit the output, by kind of request."""

Counts = dict[str, int]


def dearest(
    body: Mapping[str, Any], kind: str, prices: PriceList, at: datetime | None = None, *, earlier: int = 0
) -> Usage:
    """A usage that costs at least as much as the answer to a request may cost.

    Args:
        body: The JSON of the request.
        kind: `messages`, `chat`, `responses` or `embeddings`.
        prices: The prices that hold.
        at: When the request is made; now, if left out.
        earlier: Tokens of an earlier conversation that the vendor puts before this, where the body does not have them.

    A vendor that runs tools of its own reads the conversation once for each use; together these are taken to stay below
    one context window. A tier that only the settings of a project choose is not seen: name it in the request.

    Raises:
        CostError: When nothing in the request limits what it may cost, or no price is known; the message names the fix.
    """
    now = at or datetime.now(UTC)
    return _after(earlier, _dearest([_upper(tried, kind, prices, now) for tried in _attempts(body)], prices, now))


def broken_off(
    body: Mapping[str, Any],
    kind: str,
    prices: PriceList,
    reported: Usage | None,
    received_bytes: int,
    at: datetime | None = None,
    *,
    earlier: int = 0,
) -> Usage:
    """What an answer has likely used that broke off on its way: as reported as far as it goes, else estimated upwards.

    Args:
        body: The JSON of the request.
        kind: `messages`, `chat`, `responses` or `embeddings`.
        prices: The prices that hold.
        reported: What the answer had said until then; its input is believed, its output is the least.
        received_bytes: How many bytes of text had come, thinking and calls of tools included. Two make a token; what
            the model thought unseen is not in it.
        at: When the request was made; now, if left out.
        earlier: Tokens of an earlier conversation, as for `dearest`.
    """
    limit, come = _limit(body, kind), math.ceil(received_bytes / BYTES_PER_TOKEN)
    output = come if limit is None else min(come, limit)
    if reported is None:
        return _after(earlier, _upper(body, kind, prices, at or datetime.now(UTC), output))
    output = max(output, reported.counts.get("output_tokens", 0))
    known = replace(reported, model=reported.model or _model(body))
    if not reported.counts.get("input_tokens"):
        upper = _after(earlier, _upper(body, kind, prices, at or datetime.now(UTC), output))
        known = replace(known, counts={**upper.counts, **{name: n for name, n in reported.counts.items() if n}})
    return replace(known, counts={**known.counts, "output_tokens": output})


def _after(earlier: int, usage: Usage) -> Usage:
    """A usage whose input comes after so many tokens of an earlier conversation."""
    more = {
        name: usage.counts[name] + earlier for name in ("input_tokens", "cache_write_tokens") if name in usage.counts
    }
    return replace(usage, counts={**usage.counts, **more})


def _attempts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The request for each model that may serve it; the one that does is paid for."""
    fallbacks = body.get("fallbacks") or ()
    if isinstance(fallbacks, str):
        raise CostError(f"fallbacks={fallbacks!r} may be any model: name the models, as in fallbacks=[{{...}}]")
    yield body
    for entry in fallbacks:
        yield {**body, **{name: value for name, value in entry.items() if value is not None}}


def _upper(body: Mapping[str, Any], kind: str, prices: PriceList, at: datetime, output: int | None = None) -> Usage:
    """The dearest usage of one model; with an output it is too late to refuse, and only what is sure is counted."""
    model = _model(body)
    weight = Weight(0) if kind == "embeddings" else Weight.of(body, kind)
    searches, beside = Counts(), tuple[Usage, ...]()
    if is_request := output is None:
        searches, beside = _searches(body), tuple(_advisors(body, prices))
        output = _required_limit(body, kind)
    if kind == "embeddings":
        read = _embedded(body, prices)
    else:
        read = _input(weight, prices, model, must_be_bounded=is_request)
    counts = {"input_tokens": read, "output_tokens": output, **searches}
    usage = Usage(model, counts, None, body.get("inference_geo"), beside)
    usage = _dearest([replace(usage, tier=tier) for tier in _tiers(body, usage, prices, at)], prices, at)
    ways = [{**counts, **way} for way in _ways_to_read(weight, kind, read)]
    usage = _dearest([replace(usage, counts=way) for way in ways], prices, at)
    if "audio" not in (body.get("modalities") or ()):
        return usage
    spoken = replace(usage, counts={**usage.counts, "output_audio_tokens": output})
    return _dearest([usage, spoken], prices, at)


def _dearest(usages: list[Usage], prices: PriceList, at: datetime) -> Usage:
    """The one that costs most."""
    return usages[0] if len(usages) == 1 else max(usages, key=lambda usage: prices.nano_usd(usage, at))


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str):
        raise CostError(f"a request must name its model, not {model!r}")
    return model


def _required_limit(body: Mapping[str, Any], kind: str) -> int:
    limit = _limit(body, kind)
    if limit is None:
        raise CostError(
            f"nothing limits the output of this request to {_model(body)!r}, so what it may cost cannot be told:"
            f" set {LIMITS[kind][0]}, or give track(client, max_tokens=...)"
        )
    for name, _ in tools_of(body):
        if name == IMAGE_TOOL:
            raise CostError(
                f"what the tool {name} may cost cannot be told beforehand: make the request outside of a dollar budget"
            )
    return limit


def limit_field(kind: str, *, is_official: bool) -> str | None:
    """The field that limits the output; compatible servers know the older name of it, and embeddings have none."""
    names = LIMITS[kind]
    return None if not names else names[0] if is_official else names[-1]


def _limit(body: Mapping[str, Any], kind: str) -> int | None:
    """The most tokens that may come out, or None when the request does not say."""
    if kind == "embeddings":
        return 0
    limit = next((body[name] for name in LIMITS[kind] if body.get(name) is not None), None)
    if not _is_count(limit):
        return None
    weight = Weight(0)
    weight.add(body.get("prediction"))  # what is predicted in vain is paid for
    return limit * (body["n"] if _is_count(body.get("n")) else 1) + (weight.total if body.get("prediction") else 0)


def _is_count(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number, zero or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _input(weight: Weight, prices: PriceList, model: str, *, must_be_bounded: bool) -> int:
    """Tokens in: those of the body, or the whole window when it only refers to some of them."""
    window = prices.context_window(model)
    if window is not None:
        most = math.ceil(window * ROUNDED)
        return most if weight.refers else min(weight.total, most)
    if weight.refers and must_be_bounded:
        raise CostError(
            f"what {weight.refers[0]} adds to this request cannot be told beforehand, and the context window of"
            f" {model!r} is not known: put the content itself into the request, or make it outside of a dollar budget"
        )
    return weight.total


def _embedded(body: Mapping[str, Any], prices: PriceList) -> int:
    """Tokens in of a request for embeddings: each text up to the window, for none is longer."""
    window = prices.context_window(_model(body))
    given = body.get("input")
    texts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    total = 0
    for text in texts:
        weight = Weight(0, tokens=PART)
        if isinstance(text, list):  # tokens already
            weight.tokens += len(text)
        else:
            weight.add(text)
        total += weight.total if window is None else min(weight.total, math.ceil(window * ROUNDED))
    return total


def _tiers(body: Mapping[str, Any], usage: Usage, prices: PriceList, at: datetime) -> list[str | None]:
    """The tiers that a request may be served in, leaving out those that only make it cheaper."""
    asked = body.get("service_tier")
    if body.get("speed") == "fast":
        return ["fast"]
    if asked in DEARER_TIERS:
        return [asked]
    if asked == "auto":
        try:
            prices.nano_usd(replace(usage, tier="priority"), at)
        except CostError:
            return [None]
        return [None, "priority"]
    return [None]


def _ways_to_read(weight: Weight, kind: str, tokens: int) -> Iterator[Counts]:
    """What all of the input may be priced as; with Anthropic it is cached only on request."""
    yield {}
    if weight.lifetimes or kind in {"chat", "responses"}:
        yield {"cache_read_tokens": tokens}
        yield {"cache_write_tokens": tokens}
    if "1h" in weight.lifetimes:
        yield {"cache_write_tokens": tokens, "cache_write_1h_tokens": tokens}
    if weight.sound:
        yield {"input_audio_tokens": min(weight.sound, tokens)}


def _searches(body: Mapping[str, Any]) -> Counts:
    """The searches that the vendor may make and bill."""
    counts = {"web_searches": 1} if body.get("web_search_options") is not None else {}
    for kind, tool in tools_of(body):
        name = next((count for start, count in SEARCHES.items() if kind.startswith(start)), None)
        if name is not None:
            uses = next((n for n in (tool.get("max_uses"), body.get("max_tool_calls")) if _is_count(n)), CALLS)
            counts[name] = counts.get(name, 0) + uses
    return counts


def _advisors(body: Mapping[str, Any], prices: PriceList) -> Iterator[Usage]:
    """What models that advise this one may use: each use reads all that there is."""
    for kind, tool in tools_of(body):
        if not kind.startswith("advisor"):
            continue
        model = _model(tool)
        uses, output, window = tool.get("max_uses"), tool.get("max_tokens"), prices.context_window(model)
        if not _is_count(uses) or not _is_count(output) or window is None:
            raise CostError(
                f"what the advisor {model!r} may cost cannot be told: give its tool max_uses and max_tokens"
            )
        yield Usage(model, {"input_tokens": math.ceil(window * ROUNDED) * uses, "output_tokens": output * uses})
