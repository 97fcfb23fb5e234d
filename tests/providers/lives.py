"""Lives that ask the local vendor and may end at a write, forked by a process that has no thread.

The server runs in a thread of the tests: whoever is forked beside it may find a lock taken for ever.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

from openai import AsyncOpenAI, OpenAI

from killing import Death
from loomc_runner import Budget, Done, OpenAIAdapter, loop, spend, track
from loomc_runner.store.sqlite import SQLite
from stepping import ask, ask_async

APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["lives"])


@functools.cache
def start_server() -> None:
    """Start the process that forks, which imports all that lives need once; it does not take over this one's path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def live_apart(fn: Callable[..., object], *args: Any) -> int | None:
    """Call a function in a life of its own; how that ended: 0, 1 for an error, or the number of a signal below zero."""
    start_server()
    life = APART.Process(target=fn, args=args, daemon=True)
    life.start()
    life.join()
    return life.exitcode


def paying(path: str, key: str, url: str, death: Death, *, is_async: bool) -> None:
    """Two steps of two requests each."""
    store = death.around(SQLite(path))
    options: dict[str, Any] = {"name": "tests:paying", "checkpoint": store, "budget": Budget(usd=1)}
    if is_async:

        @loop(**options)
        async def pay_async(n: int) -> int | Done[int, None]:
            async with AsyncOpenAI(api_key=key, base_url=f"{url}/v1") as client:
                for _ in range(2):
                    await ask_async(track(client), "chat")
            return Done(n + 1) if n else n + 1

        asyncio.run(pay_async.run(0, run_id=key))
    else:

        @loop(**options)
        def pay(n: int) -> int | Done[int, None]:
            with OpenAI(api_key=key, base_url=f"{url}/v1") as client:
                for _ in range(2):
                    ask(track(client), "chat")
            return Done(n + 1) if n else n + 1

        pay.run(0, run_id=key)


def paying_async(path: str, key: str, url: str, death: Death) -> None:
    """The same in an async loop."""
    paying(path, key, url, death, is_async=True)


def paying_sync(path: str, key: str, url: str, death: Death) -> None:
    """The same in a sync one."""
    paying(path, key, url, death, is_async=False)


def refining(judge: Any, **options: Any) -> Any:
    """A loop that adds a word a step until the judge is content; a step costs a cent besides."""

    @loop(checkpoint="memory", budget=Budget(usd=1, iterations=5), converge_on=judge, name="tests:refine", **options)
    def refine(text: str) -> str:
        spend(usd=0.01, label="rewrite")
        return f"{text} more"

    return refine


def judged(path: str, key: str, url: str, death: Death) -> None:
    """A run with a judge."""
    with OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0) as client:
        store = death.around(SQLite(path))
        refining(OpenAIAdapter("gpt-5.5").judge(client)).with_options(checkpoint=store).run("so", run_id=key)
