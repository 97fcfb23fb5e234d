"""The local vendor, and real clients of the SDKs that ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from asking import AsyncSdk, Run, Sdk
from vendor import Elsewhere, Script


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is made reads all certificates of the system; nobody here needs one."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(Path(__file__).parent))


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    """One server in a process of its own."""
    with Elsewhere() as vendor:
        yield vendor


@pytest.fixture
def run() -> Iterator[Run]:
    """What runs coroutines, all of a test on one event loop, which the connections of its async clients belong to."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def anthropic_client() -> Iterator[Callable[..., Anthropic]]:
    """What makes clients for a script, closed after the test."""
    with ExitStack() as clients:
        yield lambda script, **options: clients.enter_context(
            Anthropic(api_key=script.key, base_url=script.url, **options)
        )


@pytest.fixture
def openai_client() -> Iterator[Callable[..., OpenAI]]:
    """What makes clients for a script, closed after the test."""
    with ExitStack() as clients:
        yield lambda script, **options: clients.enter_context(
            OpenAI(api_key=script.key, base_url=f"{script.url}/v1", **options)
        )


@pytest.fixture
def async_anthropic_client(run: Run) -> Iterator[Callable[..., AsyncAnthropic]]:
    """What makes clients for a script that are used under `run`, closed after the test."""
    with ExitStack() as clients:

        def make(script: Script, **options: Any) -> AsyncAnthropic:
            client = AsyncAnthropic(api_key=script.key, base_url=script.url, **options)
            clients.callback(lambda: run(client.close()))
            return client

        yield make


@pytest.fixture
def async_openai_client(run: Run) -> Iterator[Callable[..., AsyncOpenAI]]:
    """What makes clients for a script that are used under `run`, closed after the test."""
    with ExitStack() as clients:

        def make(script: Script, **options: Any) -> AsyncOpenAI:
            client = AsyncOpenAI(api_key=script.key, base_url=f"{script.url}/v1", **options)
            clients.callback(lambda: run(client.close()))
            return client

        yield make


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """The SDKs, sync and async, used the same way."""
    if request.param == "sync":
        return Sdk(*(request.getfixturevalue(f"{name}_client") for name in ("anthropic", "openai")))
    names = ("async_anthropic_client", "async_openai_client", "run")
    return AsyncSdk(*(request.getfixturevalue(name) for name in names))
