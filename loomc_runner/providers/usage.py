"""What the answer of a model says it used, in one vocabulary for all vendors and in each shape that users hold it in.

The extractors of `genai-prices` read the plain JSON of a vendor. They know neither the shapes of LiteLLM and LangChain,
nor the tier, the place or the searches of an answer, nor what other models did for it, and they pass over a count that
is no number. Hence the tables here; for what both read, a test holds that both read the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from loomc_runner.errors import CostError

Paths: TypeAlias = Mapping[str, tuple[str, ...]]
"""Where each count may stand; when several places name it, the largest is it, since the others are left at zero."""

CHAT: Paths = {  # Chat Completions, embeddings, compatible servers, LiteLLM: the input includes what was cached
    "input_tokens": ("prompt_tokens",),
    "output_tokens": ("completion_tokens",),
    "cache_read_tokens": (
        "prompt_tokens_details.cached_tokens",
        "cache_read_input_tokens",
        "prompt_cache_hit_tokens",
        "cached_tokens",
    ),
    "cache_write_tokens": (
        "prompt_tokens_details.cache_write_tokens",
        "prompt_tokens_details.cache_creation_tokens",
        "cache_creation_input_tokens",
    ),
    "cache_write_5m_tokens": ("prompt_tokens_details.cache_creation_token_details.ephemeral_5m_input_tokens",),
    "cache_write_1h_tokens": ("prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens",),
    "input_audio_tokens": ("prompt_tokens_details.audio_tokens",),
    "output_audio_tokens": ("completion_tokens_details.audio_tokens",),
    "output_reasoning_tokens": ("completion_tokens_details.reasoning_tokens",),
    "web_searches": ("server_tool_use.web_search_requests", "prompt_tokens_details.web_search_requests"),
}

RESPONSES: Paths = {  # the Responses API and the image tool inside it: the input includes what was cached
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cache_read_tokens": ("input_tokens_details.cached_tokens", "cached_tokens"),
    "cache_write_tokens": ("input_tokens_details.cache_write_tokens",),
    "cache_image_read_tokens": ("cached_tokens_details.cached_image_tokens",),
    "input_image_tokens": ("input_tokens_details.image_tokens",),
    "output_image_tokens": ("output_tokens_details.image_tokens",),
    "output_reasoning_tokens": ("output_tokens_details.reasoning_tokens",),
}

ANTHROPIC: Paths = {  # Messages: what was cached comes on top of the input
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cache_read_tokens": ("cache_read_input_tokens",),
    "cache_write_tokens": ("cache_creation_input_tokens",),
    "cache_write_5m_tokens": ("cache_creation.ephemeral_5m_input_tokens",),
    "cache_write_1h_tokens": ("cache_creation.ephemeral_1h_input_tokens",),
    "output_reasoning_tokens": ("output_tokens_details.thinking_tokens",),
    "web_searches": ("server_tool_use.web_search_requests",),
}

LANGCHAIN: Paths = {  # `usage_metadata`: the input includes what was cached
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cache_read_tokens": tuple(f"input_token_details.{tier}cache_read" for tier in ("", "flex_", "priority_")),
    "cache_write_tokens": tuple(f"input_token_details.{tier}cache_creation" for tier in ("", "flex_", "priority_")),
    "cache_write_5m_tokens": ("input_token_details.ephemeral_5m_input_tokens",),
    "cache_write_1h_tokens": ("input_token_details.ephemeral_1h_input_tokens",),
    "input_audio_tokens": ("input_token_details.audio",),
    "output_audio_tokens": ("output_token_details.audio",),
    "output_reasoning_tokens": tuple(f"output_token_details.{tier}reasoning" for tier in ("", "flex_", "priority_")),
}

MOST = 10**12
"""A count that no answer has; larger numbers are mistakes, and more than a database can hold."""

ONLY_ANTHROPIC = ("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "server_tool_use")

IMAGE_TOOL = "image_generation"
"""What the model of OpenAI's image tool is called in `prices` when neither the request nor the answer names it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer used.

    Attributes:
        model: The model as the answer names it, or None.
        counts: The counts under the names of `genai-prices`. `input_tokens` is all input and `output_tokens` all
            output, whether cached or not, reasoning or not; the others say how much of it was what. Zeros are left out,
            but for these two.
        tier: The service tier that the answer names, such as `flex`, `priority`, `batch` or `fast`.
        geo: Where the answer was made, if it says so, such as `us`.
        beside: What other models used for the same answer, such as an advisor: not part of `counts`.
    """

    model: str | None
    counts: Mapping[str, int]
    tier: str | None = None
    geo: str | None = None
    beside: tuple[Usage, ...] = ()

    @property
    def tokens(self) -> int:
        """All tokens, in and out, of all models."""
        own = self.counts.get("input_tokens", 0) + self.counts.get("output_tokens", 0)
        return own + sum(other.tokens for other in self.beside)


def usage_of(response: Any) -> Usage | None:
    """What an answer says it used, or None when it says nothing about it.

    Args:
        response: An object of the `anthropic` or `openai` SDK, an answer of LiteLLM or LangChain, or a plain dict of
            the same JSON. Which it is, is seen from the names of its counts.

    Raises:
        CostError: When it names counts that cannot be: negative, no whole numbers, or parts above their whole.
    """
    usage = _read(response, "usage")
    if _is_there(usage):
        return _usage_of_vendor(response, usage)
    usage, about = _read(response, "usage_metadata"), _read(response, "response_metadata")
    if _is_there(usage):
        model = _text(about, "model_name") or _text(about, "model")
        return Usage(model, _counted(usage, LANGCHAIN), *_served(about, _read(about, "usage")))
    return _usage_of_generations(response)


def _usage_of_vendor(response: Any, usage: Any) -> Usage:
    """The usage of an SDK's object, a LiteLLM answer or their JSON."""
    model, beside, paths = _text(response, "model"), list[Usage](), _paths_for(usage)
    counts = _counted(usage, paths)
    if paths is ANTHROPIC:
        beside = list(_advice(usage))
        counts = _sum(counts, *_compactions(usage))
    elif paths is RESPONSES:
        counts |= _searches(response)
        beside = list(_images(response))
    return Usage(model, counts, *_served(response, usage), beside=tuple(beside))


def _usage_of_generations(response: Any) -> Usage | None:
    """The usage of LangChain's `LLMResult`: that of its one prompt, or the sum the vendor's adapter made."""
    output = _read(response, "llm_output")
    if _is_there(usage := _read(output, "token_usage")):
        return _usage_of_vendor({"model": _text(output, "model_name")}, usage)
    prompts = _read(response, "generations")
    if isinstance(prompts, list) and len(prompts) == 1 and prompts[0]:
        return usage_of(_read(prompts[0][0], "message"))
    return None


def _paths_for(usage: Any) -> Paths:
    """The table for a usage, told by the names in it."""
    if _read(usage, "prompt_tokens") is not None:
        return CHAT
    if _read(usage, "iterations") is not None or any(_read(usage, name) is not None for name in ONLY_ANTHROPIC):
        return ANTHROPIC
    if _read(usage, "input_tokens") is None and _read(usage, "output_tokens") is None:
        raise CostError(f"no counts of tokens are known in the usage {usage!r}: give the cost with spend(usd=...)")
    return RESPONSES


def _counted(usage: Any, paths: Paths) -> dict[str, int]:
    """The counts of a usage as they are told, in the common vocabulary and checked."""
    counts = {name: max(_numbers(usage, places), default=0) for name, places in paths.items()}
    written = counts.get("cache_write_5m_tokens", 0) + counts.get("cache_write_1h_tokens", 0)
    if written:  # some say it by lifetime only
        counts["cache_write_tokens"] = max(counts["cache_write_tokens"], written)
    cached = counts["cache_read_tokens"] + counts["cache_write_tokens"]
    if paths is ANTHROPIC:
        counts["input_tokens"] += cached
    elif paths is CHAT:
        counts["output_tokens"] += _uncounted_reasoning(usage, counts)
    if cached > counts["input_tokens"]:
        raise CostError(
            f"the usage {usage!r} names more cached tokens than input: {cached} of {counts['input_tokens']}"
        )
    whole = ("input_tokens", "output_tokens")
    return {name: count for name, count in counts.items() if count or name in whole}


def _uncounted_reasoning(usage: Any, counts: Mapping[str, int]) -> int:
    """Reasoning that some compatible servers leave out of `completion_tokens`; the total tells."""
    total, reasoning = max(_numbers(usage, ("total_tokens",)), default=0), counts["output_reasoning_tokens"]
    left_out = total - counts["input_tokens"] - counts["output_tokens"]
    return reasoning if left_out == reasoning else 0


def _compactions(usage: Any) -> Iterator[dict[str, int]]:
    """What summing up the conversation used: the same model, and not in the counts above it."""
    for part in _read(usage, "iterations") or ():
        if _read(part, "type") == "compaction":
            yield _counted(part, ANTHROPIC)


def _advice(usage: Any) -> Iterator[Usage]:
    """What advising models used; of other models, those that declined are not billed and those that served counted."""
    for part in _read(usage, "iterations") or ():
        if _read(part, "type") == "advisor_message":
            yield Usage(_text(part, "model"), _counted(part, ANTHROPIC))


def _searches(response: Any) -> dict[str, int]:
    """The searches of a Responses answer: as the vendor counts them, else the calls in its output."""
    calls = [(_read(item, "type"), _read(_read(item, "action"), "type")) for item in _read(response, "output") or ()]
    billed = _read(_read(_read(response, "tool_usage"), "web_search"), "num_requests")
    found = {
        "web_searches": calls.count(("web_search_call", "search")) if billed is None else _number(billed),
        "storage_searches": sum(kind == "file_search_call" for kind, _ in calls),
    }
    return {name: count for name, count in found.items() if count}


def _images(response: Any) -> Iterator[Usage]:
    """What the image tool of a Responses answer used: the tokens of another model."""
    usage = _read(_read(response, "tool_usage"), "image_gen")
    if _is_there(usage) and any((counts := _counted(usage, RESPONSES)).values()):
        tools = [tool for tool in _read(response, "tools") or () if _read(tool, "type") == IMAGE_TOOL]
        yield Usage(next((name for tool in tools if (name := _text(tool, "model"))), IMAGE_TOOL), counts)


def _served(response: Any, usage: Any) -> tuple[str | None, str | None]:
    """The tier and the place that an answer was served from; fast mode is a tier to us."""
    fast = "fast" if _read(usage, "speed") == "fast" else None
    tier = fast or _text(response, "service_tier") or _text(usage, "service_tier")
    return tier, _text(usage, "inference_geo")


def _sum(*several: Mapping[str, int]) -> dict[str, int]:
    """Counts added up."""
    names = dict.fromkeys(name for counts in several for name in counts)
    return {name: sum(counts.get(name, 0) for counts in several) for name in names}


def _numbers(usage: Any, places: tuple[str, ...]) -> list[int]:
    """The numbers found at these places."""
    found = []
    for place in places:
        value = usage
        for name in place.split("."):
            value = _read(value, name)
        if value is not None:
            found.append(_number(value))
    return found


def _number(value: Any) -> int:
    """A count, checked."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not whole or isinstance(value, bool) or not 0 <= value <= MOST:
        raise CostError(f"a count in a usage must be a whole number, zero or more, not {value!r}")
    return int(value)


def _text(thing: Any, name: str) -> str | None:
    """A text of an object or a mapping, if there is one."""
    value = _read(thing, name)
    return value if isinstance(value, str) and value else None


def _read(thing: Any, name: str) -> Any:
    """A value of an object or a mapping, or None."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _is_there(usage: Any) -> bool:
    """Whether a usage is given at all; an empty one says nothing."""
    return usage is not None and usage != {}
