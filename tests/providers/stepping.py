"""A step that asks the local vendor, sync or async, in each of the ways in which the SDKs let one ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from asking import FINAL, REQUESTS, AsyncSdk, Sdk, resource_of
from loomc_runner import Budget, RunResult, loop
from loomc_runner.records import Charge
from loomc_runner.store.memory import MemoryStore
from recordings import Endpoint

Way = Literal["plain", "stream", "raw", "raw stream", "streaming", "helper"]
"""As a whole, event by event, with the HTTP response, with it event by event, as bytes, by the SDK's own helper."""


def ask(client: Any, endpoint: Endpoint, way: Way = "plain", **more: Any) -> Any:
    """Ask, and read the answer to its end."""
    resource, request = resource_of(client, endpoint), REQUESTS[endpoint] | more
    if way == "plain":
        return resource.create(**request)
    if way == "stream":
        return list(resource.create(**request, stream=True))
    if way == "raw":
        return resource.with_raw_response.create(**request).parse()
    if way == "raw stream":
        return list(resource.with_raw_response.create(**request, stream=True).parse())
    if way == "streaming":
        with resource.with_streaming_response.create(**request) as response:
            return b"".join(response.iter_bytes())
    with resource.stream(**request) as stream:
        return getattr(stream, FINAL[endpoint])()


async def ask_async(client: Any, endpoint: Endpoint, way: Way = "plain", **more: Any) -> Any:
    """The same with an async client."""
    resource, request = resource_of(client, endpoint), REQUESTS[endpoint] | more
    if way == "plain":
        return await resource.create(**request)
    if way == "stream":
        return [event async for event in await resource.create(**request, stream=True)]
    if way in {"raw", "raw stream"}:
        options = {"stream": True} if way == "raw stream" else {}
        parsed = (await resource.with_raw_response.create(**request, **options)).parse()
        answer = await parsed if isinstance(parsed, Awaitable) else parsed
        return [event async for event in answer] if options else answer
    if way == "streaming":
        async with resource.with_streaming_response.create(**request) as response:
            return b"".join([piece async for piece in response.iter_bytes()])
    async with resource.stream(**request) as stream:
        return await getattr(stream, FINAL[endpoint])()


@dataclass
class Steps:
    """Loops of steps that ask through a client, and what was charged for them."""

    sdk: Sdk
    store: MemoryStore

    @property
    def is_async(self) -> bool:
        """Whether the SDK is used async."""
        return isinstance(self.sdk, AsyncSdk)

    def run(self, client: Any, *asked: tuple[Any, ...], more: dict[str, Any] | None = None, **options: Any) -> Any:
        """Run a loop whose step asks for all of these, each an endpoint and a way; how it ended."""
        return self.run_each(lambda ask: [ask(client, *one, **(more or {})) for one in asked], **options)

    def run_each(self, work: Callable[[Callable[..., Any]], list[Any]], **options: Any) -> RunResult[int]:
        """Run a loop whose step calls `work(ask)`; in async loops `ask` gives something to await, all at once."""
        options = {"checkpoint": self.store, "budget": Budget(usd=1, iterations=1), "name": "tests:asking"} | options
        if isinstance(self.sdk, AsyncSdk):

            @loop(**options)
            async def asking_async(n: int) -> int:
                import asyncio

                await asyncio.gather(*work(ask_async))
                return n + 1

            result: RunResult[int] = self.sdk._run(asking_async.run(0))
            return result

        @loop(**options)
        def asking(n: int) -> int:
            work(ask)
            return n + 1

        return asking.run(0)

    def charges(self, result: RunResult[int]) -> list[Charge]:
        """What was charged in a run."""
        return list(self.store.charges(result.run_id))
