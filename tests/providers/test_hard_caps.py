"""What does not fit the budget is not sent: the cap holds before the call, side by side, and over a death."""

from __future__ import annotations

import contextvars
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asking import REQUESTS, Run, Sdk, resource_of
from killing import KILLED, assert_records_are_whole
from lives import Death, live_apart, paying_async, paying_sync
from loomc_runner import Budget, BudgetExhausted, CostError, Done, current_run, loop, spend, track
from loomc_runner.records import NANO
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from recordings import Endpoint
from stepping import Steps, ask
from vendor import Gate, Reply, Script

PLAIN = 900 * 5_000 + 250 * 30_000
"""Nano-dollars of the recorded answer of gpt-5.5."""

ENDPOINTS: list[Endpoint] = ["messages", "chat", "responses"]


@pytest.fixture
def steps(sdk: Sdk) -> Steps:
    """Loops that ask through the SDKs, sync and async."""
    return Steps(sdk, MemoryStore())


@pytest.mark.parametrize("way", ["plain", "stream"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_request_that_does_not_fit_is_not_sent(steps: Steps, script: Script, endpoint: Endpoint, way: Any) -> None:
    """The run ends with what the request would have cost, and the vendor has not heard of it."""
    result = steps.run(track(steps.sdk.client(script, endpoint)), (endpoint, way), budget=Budget(usd=0.002))
    assert (result.status, result.cost_usd, script.seen) == ("budget_exhausted", 0, [])
    assert result.stop_reason is not None
    assert f"({REQUESTS[endpoint]['model']} was not asked: it may cost $0.0" in result.stop_reason
    assert "1024 out)" in result.stop_reason


def test_the_error_carries_what_it_would_have_cost(anthropic_client: Any, script: Script) -> None:
    """Whoever catches it in the step can choose something cheaper, which is sent then."""
    client, refused = track(anthropic_client(script)), []

    @loop(checkpoint="memory", budget=Budget(usd=0.009, iterations=1))
    def choose(n: int) -> int:
        try:
            ask(client, "messages")
        except BudgetExhausted as error:
            refused.append(error.would_cost_usd)
            ask(client, "messages", max_tokens=300)
        return n + 1

    result = choose.run(0)
    assert (result.steps, result.cost_usd, len(script.seen)) == (1, 0.0054, 1)
    assert 1024 * 10e-6 < refused[0] < 0.02


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_twenty_calls_side_by_side_stay_below_the_cap(
    openai_client: Any, async_openai_client: Any, script: Script, run: Run, kind: str
) -> None:
    """Under $0.10, of calls that may cost about 1.3 cents, as many are sent as fit if all of them come to that."""
    gate, store, refused = Gate(), MemoryStore(), threading.Semaphore(0)
    script.always(Reply(hold=gate))
    options: dict[str, Any] = {"checkpoint": store, "budget": Budget(usd=0.10, iterations=1), "name": "tests:twenty"}
    request = {**REQUESTS["chat"], "max_completion_tokens": 400}
    room: list[float | None] = []
    fits = 7  # 400 tokens out for 1.2 cents, and a little for what is sent

    def look_and_open() -> None:
        """All that fit are with the vendor, all others were refused."""
        try:
            gate.await_requests(fits)
            for _ in range(20 - fits):
                assert refused.acquire(timeout=30)
            room.append(current_run().left_usd)
        finally:
            gate.open()

    @loop(**options)
    def twenty(n: int) -> int:
        client = track(openai_client(script))

        def one(_: int) -> None:
            try:
                resource_of(client, "chat").create(**request)
            except BudgetExhausted:
                refused.release()

        with ThreadPoolExecutor(20) as pool:
            calls = [pool.submit(contextvars.copy_context().run, one, k) for k in range(20)]
            look_and_open()
            for each in calls:
                each.result()
        return n + 1

    @loop(**options)
    async def twenty_async(n: int) -> int:
        import asyncio

        client = track(async_openai_client(script))

        async def one() -> None:
            try:
                await resource_of(client, "chat").create(**request)
            except BudgetExhausted:
                refused.release()

        await asyncio.gather(asyncio.to_thread(look_and_open), *(one() for _ in range(20)))
        return n + 1

    result = twenty.run(0) if kind == "threads" else run(twenty_async.run(0))
    assert len(script.seen) == script.most_at_once == fits
    assert store.get_run(result.run_id).nano_usd == fits * PLAIN
    assert 0 <= (room[0] or 0) < 0.0135  # what is left does not hold another one


def test_a_parent_holds_for_the_calls_of_its_children(openai_client: Any, script: Script) -> None:
    """Children side by side, each with a budget of its own, send together what their parent can pay."""
    client = track(openai_client(script))
    lock, refused = threading.Lock(), []

    @loop(name="tests:child", budget=Budget(usd=1))
    def child(n: int) -> Done[int, None]:
        try:
            ask(client, "chat", max_completion_tokens=400)
        except BudgetExhausted as error:
            with lock:
                refused.append(error.run_id)
        return Done(n)

    @loop(name="tests:parent", checkpoint="memory", budget=Budget(usd=0.05, iterations=1))
    def parent(n: int) -> int:
        for k in range(8):
            child(k)
        return n

    result = parent.run(0)
    assert result.cost_usd <= 0.05
    assert len(script.seen) + len(refused) == 8
    assert set(refused) == {result.run_id}


def test_tokens_are_held_too(openai_client: Any, script: Script) -> None:
    """A cap in tokens refuses what may use more of them."""
    result = Steps(Sdk(openai_client, openai_client), MemoryStore()).run(
        track(openai_client(script)), ("chat", "plain"), budget=Budget(tokens=1000)
    )
    assert (result.status, script.seen) == ("budget_exhausted", [])
    assert "tokens" in (result.stop_reason or "")


UNLIMITED = [
    ("chat", "max_completion_tokens", "max_tokens"),
    ("responses", "max_output_tokens", "max_output_tokens"),
]


@pytest.mark.parametrize(("endpoint", "field", "sent"), UNLIMITED)
def test_under_a_cap_a_request_needs_a_limit(
    steps: Steps, script: Script, endpoint: Endpoint, field: str, sent: str
) -> None:
    """Without one nobody knows what it may cost; the error names the field and the option that sets it for all."""
    client, unlimited = track(steps.sdk.client(script, endpoint)), {field: None}
    with pytest.raises(CostError, match=rf"{field}.*max_tokens="):
        steps.run(client, (endpoint, "plain"), more=unlimited)
    assert script.seen == []
    limited = track(steps.sdk.client(script, endpoint), max_tokens=333)
    assert steps.run(limited, (endpoint, "plain"), more=unlimited, name="tests:limited").steps == 1
    assert script.seen[0].body[sent] == 333


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_without_a_cap_nothing_needs_a_limit(steps: Steps, script: Script, endpoint: Endpoint) -> None:
    """Who has no budget in dollars or tokens sends what he likes, and it is charged."""
    unlimited = {"max_completion_tokens": None} if endpoint == "chat" else {"max_output_tokens": None}
    client = track(steps.sdk.client(script, endpoint))
    result = steps.run(client, (endpoint, "plain"), more=unlimited, budget=Budget(iterations=1))
    assert (result.steps, result.cost_usd > 0) == (1, True)


def test_a_step_that_is_refused_is_tried_again_for_wrapping_up(openai_client: Any, script: Script) -> None:
    """The last step runs on what was kept, and knows it."""
    client, wrapped = track(openai_client(script)), []

    @loop(checkpoint="memory", budget=Budget(usd=0.06, wrap_up=0.02))
    def write(n: int) -> int | Done[int, str]:
        wrapped.append(current_run().wrap_up)
        ask(client, "chat", max_completion_tokens=300 if wrapped[-1] else 900)
        return Done(n, result="what is there") if wrapped[-1] else n + 1

    result = write.run(0)
    assert (result.status, result.result, wrapped) == ("completed", "what is there", [False, False, True])
    assert (result.steps, len(script.seen)) == (2, 2)
    assert result.cost_usd <= 0.06


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the databases of killed runs lie."""
    place = Path(tempfile.mkdtemp())
    yield place
    shutil.rmtree(place)


WRITES = 9
"""The run; for each of two steps two calls that are held and settled, and its commit."""


@pytest.mark.parametrize("work", [paying_sync, paying_async])
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("number", range(1, WRITES + 3))
def test_a_death_between_answer_and_commit_loses_no_charge(
    script: Script, folder: Path, work: Any, where: Any, number: int
) -> None:
    """Whatever the vendor has answered is charged, with what it cost or with what it might have, marked."""
    path, key = str(folder / f"{script.key}.db"), script.key
    first = live_apart(work, path, key, script.url, Death(where, number))
    again = live_apart(work, path, key, script.url, Death())
    store = SQLite(path)
    run, charges = store.get_run(key), store.charges(key)
    estimated = [charge for charge in charges if charge.estimated]
    assert (run.status, run.steps, again, first in {0, KILLED}) == ("completed", 2, 0, True)
    assert len(charges) >= len(script.seen)
    assert len(estimated) <= (first == KILLED)
    assert [charge.nano_usd for charge in charges if not charge.estimated] == [PLAIN] * (len(charges) - len(estimated))
    assert sum(charge.nano_usd for charge in charges) == run.nano_usd >= PLAIN * len(script.seen)
    store.close()
    assert_records_are_whole(path)


def test_a_charge_that_crosses_the_cap_all_the_same_is_recorded_and_ends_the_run(
    openai_client: Any, script: Script
) -> None:
    """When a vendor bills more than anybody could expect, what it says counts."""
    script.always(Reply(usage={"prompt_tokens": 90_000}))
    steps = Steps(Sdk(openai_client, openai_client), MemoryStore())
    result = steps.run(track(openai_client(script)), ("chat", "plain"), budget=Budget(usd=0.10))
    assert (result.status, round(result.cost_usd * NANO)) == ("budget_exhausted", 90_000 * 5_000 + 250 * 30_000)


def test_money_spent_by_hand_and_by_calls_is_one_account(openai_client: Any, script: Script) -> None:
    """`spend` leaves less for the calls, and the calls less for `spend`."""
    client = track(openai_client(script))

    @loop(checkpoint="memory", budget=Budget(usd=0.05, iterations=1))
    def both(n: int) -> int:
        spend(usd=0.02)
        ask(client, "chat", max_completion_tokens=500)
        with pytest.raises(BudgetExhausted):
            ask(client, "chat", max_completion_tokens=900)
        return n + 1

    result = both.run(0)
    assert (result.steps, round(result.cost_usd * NANO)) == (1, NANO // 50 + PLAIN)
