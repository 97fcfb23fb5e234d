"""Asking the local vendor through the real SDKs, sync or async, in the same words."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from anthropic.types import Message
from openai.types.responses import Response

from recordings import Endpoint
from vendor import Script

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""What runs a coroutine to its end."""

QUESTION = "When does the harbour open?"
REQUESTS: dict[Endpoint, dict[str, Any]] = {
    "messages": {
        "model": "claude-sonnet-5-5",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": QUESTION}],
    },
    "chat": {
        "model": "gpt-5.5",
        "max_completion_tokens": 1024,
        "messages": [{"role": "user", "content": QUESTION}],
    },
    "responses": {"model": "gpt-5.5", "max_output_tokens": 1024, "input": QUESTION},
    "embeddings": {"model": "text-embedding-3-small", "input": QUESTION},
}
"""The smallest requests; a test changes what it is about."""

TOLD = {"stream_options": {"include_usage": True}}
"""What asks a chat stream for its usage."""

FINAL = {"messages": "get_final_message", "chat": "get_final_completion", "responses": "get_final_response"}


class Heard(NamedTuple):
    """What came of a stream: its events, and the error that ended it."""

    events: list[Any]
    error: Exception | None


class Sdk:
    """The sync SDKs as a test uses them: it asks, and has the answer."""

    def __init__(self, anthropic: Callable[..., Any], openai: Callable[..., Any]) -> None:
        self._anthropic, self._openai = anthropic, openai

    def client(self, script: Script, endpoint: Endpoint, *, max_retries: int = 0, **options: Any) -> Any:
        """A client of the SDK that the endpoint belongs to, which does not ask again unless told to."""
        make = self._anthropic if endpoint == "messages" else self._openai
        return make(script, max_retries=max_retries, **options)

    def await_(self, result: Any) -> Any:
        """What a method of a client gives in the end."""
        return result

    def ask(self, client: Any, endpoint: Endpoint, **more: Any) -> Any:
        """The answer to a request."""
        return self.await_(resource_of(client, endpoint).create(**REQUESTS[endpoint] | more))

    def hear(self, client: Any, endpoint: Endpoint, *, at_most: int | None = None, **more: Any) -> Heard:
        """What comes of a stream, or the first events of one that is closed then."""
        events: list[Any] = []
        try:
            with resource_of(client, endpoint).create(**REQUESTS[endpoint] | more, stream=True) as stream:
                for event in stream:
                    events.append(event)
                    if len(events) == at_most:
                        break
        except Exception as error:
            return Heard(events, error)
        return Heard(events, None)

    def hear_out(self, client: Any, endpoint: Endpoint, **more: Any) -> Any:
        """The answer that the SDK itself puts together from a stream."""
        with resource_of(client, endpoint).stream(**REQUESTS[endpoint] | more) as stream:
            return getattr(stream, FINAL[endpoint])()


class AsyncSdk(Sdk):
    """The async SDKs, used the same way."""

    def __init__(
        self,
        anthropic: Callable[..., Any],
        openai: Callable[..., Any],
        run: Run,
    ) -> None:
        super().__init__(anthropic, openai)
        self._run = run

    def await_(self, result: Any) -> Any:
        """What a method of a client gives in the end."""
        return self._run(result)

    def hear(self, client: Any, endpoint: Endpoint, *, at_most: int | None = None, **more: Any) -> Heard:
        """What comes of a stream, or the first events of one that is closed then."""

        async def listen() -> Heard:
            events: list[Any] = []
            try:
                async with await resource_of(client, endpoint).create(
                    **REQUESTS[endpoint] | more, stream=True
                ) as stream:
                    async for event in stream:
                        events.append(event)
                        if len(events) == at_most:
                            break
            except Exception as error:
                return Heard(events, error)
            return Heard(events, None)

        heard: Heard = self._run(listen())
        return heard

    def hear_out(self, client: Any, endpoint: Endpoint, **more: Any) -> Any:
        """The answer that the SDK itself puts together from a stream."""

        async def listen() -> Any:
            async with resource_of(client, endpoint).stream(**REQUESTS[endpoint] | more) as stream:
                return await getattr(stream, FINAL[endpoint])()

        return self._run(listen())


def resource_of(client: Any, endpoint: Endpoint) -> Any:
    """The part of a client that asks an endpoint."""
    return client.chat.completions if endpoint == "chat" else getattr(client, endpoint)


class Counts(NamedTuple):
    """What an answer used, as its vendor counts.

    The input of Anthropic is without what was read from the cache and written to it, that of OpenAI with it. What was
    thought is part of the output. Anthropic writes for five minutes (`written`) or for an hour.
    """

    input: int = 0
    output: int = 0
    read: int = 0
    written: int = 0
    written_1h: int = 0
    thought: int = 0
    searches: int = 0


def counts_of(answer: Any) -> Counts:
    """What an answer as a whole used, of whichever vendor; its sums are right."""
    if isinstance(answer, Message):
        return counts_of_message(answer)
    usage = answer.usage
    if isinstance(answer, Response):
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        return Counts(
            usage.input_tokens,
            usage.output_tokens,
            read=usage.input_tokens_details.cached_tokens,
            written=usage.input_tokens_details.cache_write_tokens,
            thought=usage.output_tokens_details.reasoning_tokens,
            searches=answer.tool_usage.web_search.num_requests if answer.tool_usage else 0,
        )
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    into, out = usage.prompt_tokens_details, usage.completion_tokens_details
    return Counts(
        usage.prompt_tokens,
        usage.completion_tokens,
        read=into.cached_tokens if into else 0,
        written=into.cache_write_tokens or 0 if into else 0,
        thought=out.reasoning_tokens if out else 0,
    )


def counts_of_message(message: Message) -> Counts:
    """What an answer of Anthropic used."""
    usage: Any = message.usage
    written, thought, tools = usage.cache_creation, usage.output_tokens_details, usage.server_tool_use
    parts = written.ephemeral_5m_input_tokens, written.ephemeral_1h_input_tokens
    assert usage.cache_creation_input_tokens == sum(parts)
    return Counts(
        usage.input_tokens,
        usage.output_tokens,
        read=usage.cache_read_input_tokens,
        written=parts[0],
        written_1h=parts[1],
        thought=thought.thinking_tokens if thought else 0,
        searches=tools.web_search_requests if tools else 0,
    )


def text_of(answer: Any) -> str:
    """What an answer as a whole says, of whichever vendor; of several choices the first."""
    if isinstance(answer, Message):
        return "".join(block.text for block in answer.content if block.type == "text")
    if isinstance(answer, Response):
        return answer.output_text
    return answer.choices[0].message.content or ""


def text_in(events: list[Any]) -> str:
    """What a stream says, of whichever vendor; of several choices the first."""
    return "".join(piece_of(event) for event in events)


def piece_of(event: Any) -> str:
    """What one event of a stream says."""
    if hasattr(event, "choices"):
        return "".join(choice.delta.content or "" for choice in event.choices if choice.index == 0)
    if event.type == "content_block_delta":
        return getattr(event.delta, "text", "")
    return event.delta if event.type == "response.output_text.delta" else ""
