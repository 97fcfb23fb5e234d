"""A tracked client charges the step it is used in, to the nano-dollar, whichever way it is asked."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asking import REQUESTS, Run, Sdk, resource_of
from loomc_runner import Budget, LoomcWarning, Price, SpecError, loop, spend, tool, track
from loomc_runner.errors import StoreBusy
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FaultyStore
from recordings import Endpoint
from stepping import Steps, Way, ask, ask_async
from vendor import BROKEN, INVALID, OVERLOADED, RATE_LIMITED, Gate, Reply, Script

# By hand, in micro-dollars, tokens times dollars for a million: claude-sonnet-5-5 costs 2 in, 10 out, 0.10 from the
# cache, 2.50 and 4 into it for five minutes and an hour, 10,000 for each search; gpt-5.5 costs 5 in, 30 out, 0.50 from
# the cache, 10,000 for each search; text-embedding-3-small costs 0.02.
TABLE: dict[tuple[Endpoint, str], float] = {
    ("messages", "plain"): 1200 * 2 + 300 * 10,
    ("messages", "cached"): 40 * 2 + 900 * 2.5 + 600 * 4 + 20_000 * 0.1 + 210 * 10,
    ("messages", "thinking"): 350 * 2 + 1800 * 10,
    ("messages", "search"): 9400 * 2 + 520 * 10 + 2 * 10_000,
    ("messages", "tool"): 620 * 2 + 85 * 10,
    ("chat", "plain"): 900 * 5 + 250 * 30,
    ("chat", "cached"): 952 * 5 + 2048 * 0.5 + 120 * 30,
    ("chat", "reasoning"): 500 * 5 + 2300 * 30,
    ("chat", "tool"): 700 * 5 + 60 * 30,
    ("chat", "two"): 400 * 5 + 180 * 30,
    ("chat", "written"): 904 * 5 + 1024 * 0.5 + 3072 * 5 + 140 * 30,
    ("responses", "plain"): 800 * 5 + 220 * 30,
    ("responses", "cached"): 416 * 5 + 3584 * 0.5 + 90 * 30,
    ("responses", "reasoning"): 450 * 5 + 1500 * 30,
    ("responses", "search"): 8100 * 5 + 430 * 30 + 2 * 10_000,
    ("responses", "tool"): 640 * 5 + 48 * 30,
    ("responses", "incomplete"): 300 * 5 + 64 * 30,
    ("responses", "written"): 880 * 5 + 1024 * 0.5 + 4096 * 5 + 110 * 30,
    ("embeddings", "plain"): 8 * 0.02,
}
WAYS: list[Way] = ["plain", "stream", "raw", "raw stream", "streaming", "helper"]
KINDS = [(*case, way) for case in TABLE for way in WAYS if way == "plain" or case[0] != "embeddings"]
KINDS.remove(("responses", "incomplete", "helper"))  # the SDK's own helper raises for it


@pytest.fixture
def steps(sdk: Sdk) -> Steps:
    """Loops that ask through the SDKs, sync and async."""
    return Steps(sdk, MemoryStore())


def nano(micro: float) -> int:
    """Micro-dollars as nano-dollars."""
    return round(micro * 1000)


@pytest.mark.parametrize(("endpoint", "recorded", "way"), KINDS)
def test_an_answer_is_charged_as_the_vendor_bills_it(
    steps: Steps, script: Script, endpoint: Endpoint, recorded: str, way: Way
) -> None:
    """Plain or in pieces, parsed or raw: the charge is the bill, reported and not estimated."""
    script.always(Reply(recorded))
    result = steps.run(track(steps.sdk.client(script, endpoint)), (endpoint, way))
    (charge,) = steps.charges(result)
    assert (charge.nano_usd, charge.estimated, result.steps) == (nano(TABLE[endpoint, recorded]), False, 1)
    assert charge.model is not None
    assert charge.model.startswith(REQUESTS[endpoint]["model"])
    assert charge.usage is not None
    assert charge.tokens == charge.usage["input_tokens"] + charge.usage["output_tokens"]


def test_the_user_sees_what_would_come_without_us(sdk: Sdk, script: Script, run: Run) -> None:
    """The usage that a stream tells since we asked for it is kept from who did not ask."""
    client = sdk.client(script, "chat")
    before = sdk.hear(client, "chat").events
    seen: list[Any] = []

    def work(ask: Any) -> list[Any]:
        seen.append(ask(track(client), "chat", "stream"))
        return seen

    result = Steps(sdk, MemoryStore()).run_each(work)
    assert result.cost_usd > 0
    if isinstance(seen[0], list):
        assert [type(event) for event in seen[0]] == [type(event) for event in before]
        assert [event.choices[0].delta.content for event in seen[0]] == [e.choices[0].delta.content for e in before]
    assert script.seen[-1].body["stream_options"] == {"include_usage": True}


def test_who_asks_for_the_usage_gets_it(steps: Steps, script: Script) -> None:
    """Of a stream whose user wants the usage nothing is held back."""
    heard: list[Any] = []

    def work(ask: Any) -> list[Any]:
        options = {"stream_options": {"include_usage": True}}
        heard.append(ask(track(steps.sdk.client(script, "chat")), "chat", "stream", **options))
        return heard

    steps.run_each(work)
    if isinstance(heard[0], list):
        assert heard[0][-1].usage.total_tokens == 1150


def test_a_server_that_refuses_to_be_asked_is_not_asked(steps: Steps, script: Script) -> None:
    """With `stream_usage=False` a streamed chat is sent as it is; what it does not tell is estimated."""
    client = track(steps.sdk.client(script, "chat"), stream_usage=False)
    (charge,) = steps.charges(steps.run(client, ("chat", "stream")))
    assert charge.estimated
    assert "stream_options" not in script.seen[0].body


def test_it_is_the_same_client(anthropic_client: Any, script: Script) -> None:
    """`track` gives back what it was given, of the same type, and may be called again with other prices."""
    client = anthropic_client(script)
    kind = type(client)
    assert track(client) is client
    assert track(client, prices={"m": Price(1, 1)}) is client
    assert type(client) is kind


def test_copies_are_tracked_with_it(steps: Steps, script: Script) -> None:
    """What `with_options` gives charges too, at the same prices."""
    client = track(steps.sdk.client(script, "messages"), prices={"claude-sonnet-5-5": Price(100, 100)})
    result = steps.run(client.with_options(timeout=30), ("messages", "plain"))
    assert [charge.nano_usd for charge in steps.charges(result)] == [nano(1500 * 100)]


def test_outside_of_a_step_nothing_changes(sdk: Sdk, script: Script) -> None:
    """A tracked client that no step uses sends what it is told, and nobody is charged."""
    client = track(sdk.client(script, "chat"), max_tokens=5)
    request = {name: value for name, value in REQUESTS["chat"].items() if name != "max_completion_tokens"}
    sdk.hear(client, "chat", max_completion_tokens=None)
    assert {name: script.seen[-1].body.get(name) for name in request} == request
    assert "stream_options" not in script.seen[-1].body


PRICES = {"local-model": Price(input=1, output=2)}


@pytest.mark.parametrize("way", ["plain", "stream"])
def test_a_compatible_server_is_charged_at_prices_of_ones_own(steps: Steps, script: Script, way: Way) -> None:
    """`base_url` points anywhere; a model of another name has the price it was given."""
    script.always(Reply("compatible", usage={}))
    client = track(steps.sdk.client(script, "chat"), prices=PRICES)
    result = steps.run(client, ("chat", way), more={"model": "local-model"})
    assert [charge.nano_usd for charge in steps.charges(result)] == [nano(110 * 1 + 42 * 2)]


@pytest.mark.parametrize("way", ["plain", "stream"])
def test_an_answer_without_usage_is_estimated_and_marked(steps: Steps, script: Script, way: Way) -> None:
    """A server that does not say what it used is charged by what was sent and received."""
    script.always(Reply("compatible", usage="absent"))
    client = track(steps.sdk.client(script, "chat"), prices=PRICES)
    result = steps.run(client, ("chat", way), more={"model": "local-model"})
    (charge,) = steps.charges(result)
    assert charge.estimated
    assert charge.usage is not None
    assert charge.usage["output_tokens"] > 0


def test_a_response_in_the_background_is_charged_as_what_it_may_cost(steps: Steps, script: Script) -> None:
    """It is not done when the call returns, and nobody will tell what it comes to."""
    script.always(Reply("queued"))
    result = steps.run(track(steps.sdk.client(script, "responses")), ("responses", "plain"), more={"background": True})
    (charge,) = steps.charges(result)
    assert charge.estimated
    assert charge.usage is not None
    assert charge.usage["output_tokens"] == 1024


@pytest.mark.parametrize("name", ["my-model", "claude-of-the-future"])
def test_an_unknown_model_is_refused_before_it_is_asked(steps: Steps, script: Script, name: str) -> None:
    """Its price is never taken to be zero: the error names the model and what to write."""
    client = track(steps.sdk.client(script, "messages"))
    with pytest.raises(Exception, match=f"price of '{name}' is not known.*prices=.*unknown_price"):
        steps.run(client, ("messages", "plain"), more={"model": name})
    assert script.seen == []


def test_an_unknown_model_may_have_a_price_that_was_chosen(steps: Steps, script: Script) -> None:
    """`unknown_price` is an explicit choice, also of nothing."""
    client = track(steps.sdk.client(script, "messages"), unknown_price=Price(0, 0))
    result = steps.run(client, ("messages", "plain"), more={"model": "my-model"})
    (charge,) = steps.charges(result)
    assert (charge.nano_usd, charge.tokens, charge.model) == (0, 1500, "my-model")


TROUBLES = [
    ((RATE_LIMITED,), [TABLE["messages", "plain"]], []),
    ((OVERLOADED, OVERLOADED), [TABLE["messages", "plain"]], []),
    ((BROKEN,), [TABLE["messages", "plain"]], []),
    ((Reply(cut_after="request"),), [TABLE["messages", "plain"]], [True]),
    ((Reply(cut_after="text"),), [TABLE["messages", "plain"]], [True]),
]


@pytest.mark.parametrize(("before", "billed", "lost"), TROUBLES)
def test_what_the_client_tries_again_by_itself_is_charged_once(
    steps: Steps, script: Script, before: tuple[Reply, ...], billed: list[float], lost: list[bool]
) -> None:
    """An error costs nothing; a try that was cut off may have been billed, and is charged as what it may cost."""
    script.next(*before)
    result = steps.run(track(steps.sdk.client(script, "messages", max_retries=3)), ("messages", "plain"))
    charges = steps.charges(result)
    assert [charge.nano_usd for charge in charges if not charge.estimated] == [nano(micro) for micro in billed]
    assert [charge.estimated for charge in charges if charge.estimated] == lost
    assert len(script.seen) == len(before) + 1


@pytest.mark.parametrize("reply", [RATE_LIMITED, OVERLOADED, INVALID])
@pytest.mark.parametrize("endpoint", ["messages", "chat", "responses"])
def test_an_error_costs_nothing(steps: Steps, script: Script, endpoint: Endpoint, reply: Reply) -> None:
    """A request that the vendor refuses leaves no charge, and what was held for it is free again."""
    script.always(reply)
    with pytest.raises(Exception, match=r"Error code|overloaded|Overloaded"):
        steps.run(track(steps.sdk.client(script, endpoint)), (endpoint, "plain"))
    (run,) = steps.store.list_runs()
    assert (run.nano_usd, steps.store.charges(run.id)) == (0, [])


def test_a_server_that_is_not_there_costs_nothing(steps: Steps, script: Script) -> None:
    """A request that reached nobody is not charged, however often it was tried."""
    client = track(steps.sdk.client(script, "messages", max_retries=1)).with_options(base_url="http://127.0.0.1:9")
    with pytest.raises(Exception, match=r"Connection error"):
        steps.run(client, ("messages", "plain"))
    assert steps.store.list_runs()[0].nano_usd == 0


CUTS = [
    ("messages", "text", 1200 * 2),  # the input is reported at the start
    ("messages", "headers", None),
    ("chat", "text", None),
    ("responses", "text", None),
]


@pytest.mark.parametrize(("endpoint", "moment", "reported"), CUTS)
@pytest.mark.parametrize("ending", ["cut_after", "error_after"])
def test_a_stream_that_is_cut_off_is_charged_as_reported_else_estimated(
    steps: Steps, script: Script, endpoint: Endpoint, moment: Any, reported: float | None, ending: str
) -> None:
    """What the server had said counts as it was said; the rest is estimated from what came, and marked."""
    script.always(Reply(**{ending: moment}))
    with pytest.raises(Exception):  # noqa: B017 - the SDKs raise errors of several kinds
        steps.run(track(steps.sdk.client(script, endpoint)), (endpoint, "stream"))
    (run,) = steps.store.list_runs()
    (charge,) = steps.store.charges(run.id)
    assert charge.estimated
    assert charge.usage is not None
    assert charge.nano_usd == run.nano_usd
    if reported is not None:
        assert charge.usage["input_tokens"] == 1200
    assert 0 < charge.nano_usd <= nano(TABLE[endpoint, "plain"]) * 3


@pytest.mark.parametrize("endpoint", ["messages", "chat", "responses"])
def test_a_stream_that_just_ends_is_not_taken_to_be_whole(steps: Steps, script: Script, endpoint: Endpoint) -> None:
    """A server that stops in the middle without a word has not said what it used."""
    script.always(Reply(end_after="text"))
    result = steps.run(track(steps.sdk.client(script, endpoint)), (endpoint, "stream"))
    (charge,) = steps.charges(result)
    assert (charge.estimated, charge.nano_usd > 0) == (True, True)


@pytest.mark.parametrize("way", ["plain", "stream", "streaming"])
@pytest.mark.parametrize("endpoint", ["messages", "chat", "responses"])
def test_an_answer_may_be_compressed(steps: Steps, script: Script, endpoint: Endpoint, way: Way) -> None:
    """What is read along is what the user reads, and not the bytes on the line."""
    script.always(Reply(gzip=True))
    result = steps.run(track(steps.sdk.client(script, endpoint)), (endpoint, way))
    (charge,) = steps.charges(result)
    assert (charge.nano_usd, charge.estimated) == (nano(TABLE[endpoint, "plain"]), False)


def test_a_stream_that_its_user_leaves_is_charged_with_the_step(sdk: Sdk, script: Script, run: Run) -> None:
    """Whoever breaks out of a stream has paid for what came until then; it is on record with the step's commit."""
    client, store = track(sdk.client(script, "messages")), MemoryStore()
    if Steps(sdk, store).is_async:

        @loop(checkpoint=store, budget=Budget(usd=1, iterations=1))
        async def leave_async(n: int) -> int:
            async for _ in await resource_of(client, "messages").create(**REQUESTS["messages"], stream=True):
                break
            return n

        result = run(leave_async.run(0))
    else:

        @loop(checkpoint=store, budget=Budget(usd=1, iterations=1))
        def leave(n: int) -> int:
            for _ in resource_of(client, "messages").create(**REQUESTS["messages"], stream=True):
                break
            return n

        result = leave.run(0)
    (charge,) = store.charges(result.run_id)
    assert charge.estimated
    assert charge.usage is not None
    assert charge.usage["input_tokens"] == 1200
    assert (result.steps, store.steps(result.run_id)[0].nano_usd) == (1, charge.nano_usd)


def test_a_conversation_that_was_heard_is_weighed_by_its_length(steps: Steps, script: Script) -> None:
    """`previous_response_id` of this client's own answer fits a small budget; of an unknown one it may be anything."""
    client = track(steps.sdk.client(script, "responses"))

    def go_on(ask: Any) -> list[Any]:
        return [ask(client, "responses", previous_response_id=name) for name in names]

    names: list[str | None] = [None]
    assert steps.run_each(go_on, name="tests:first", budget=Budget(usd=0.10, iterations=1)).steps == 1
    names = [*client.request.loomc_terms.earlier]
    assert len(names) == 1
    assert steps.run_each(go_on, name="tests:second", budget=Budget(usd=0.10, iterations=1)).steps == 1
    names = ["resp_unknown"]
    assert steps.run_each(go_on, name="tests:third", budget=Budget(usd=0.10, iterations=1)).steps == 0


def test_a_stream_that_is_still_open_may_bring_all_it_allows(steps: Steps, script: Script) -> None:
    """Who keeps a stream for later pays for it in the step that opened it."""
    gate, kept = Gate(), list[Any]()
    script.always(Reply(hold=gate, hold_after="text"))
    client = track(steps.sdk.client(script, "messages"))
    if steps.is_async:

        async def open_async() -> None:
            stream = await resource_of(client, "messages").create(**REQUESTS["messages"], stream=True)
            kept.append(stream)
            await anext(aiter(stream))

        result = steps.run_each(lambda _: [open_async()])
    else:

        def begin(_: Any) -> list[Any]:
            stream = resource_of(client, "messages").create(**REQUESTS["messages"], stream=True)
            kept.extend([stream, next(iter(stream))])
            return []

        result = steps.run_each(begin)
    gate.open()
    (charge,) = steps.charges(result)
    assert charge.usage is not None
    assert (charge.estimated, charge.usage["input_tokens"], charge.usage["output_tokens"]) == (True, 1200, 1024)


@pytest.mark.parametrize("fails", [False, True])
def test_a_stream_that_a_tool_leaves_open_is_part_of_what_the_tool_cost(
    anthropic_client: Any, script: Script, fails: bool
) -> None:
    """It is settled when the call ends, also by an error, and stands with it on record."""
    client, store, kept = track(anthropic_client(script)), MemoryStore(), list[Any]()

    @tool
    def listen() -> str:
        stream = resource_of(client, "messages").create(**REQUESTS["messages"], stream=True)
        kept.extend([stream, next(iter(stream))])
        if fails:
            raise ValueError("enough")
        return "heard"

    @loop(checkpoint=store, budget=Budget(usd=1, iterations=1))
    def use(n: int) -> int:
        with suppress(ValueError):
            listen()
        return n

    result = use.run(0)
    (call,), (charge,) = store.calls(result.run_id), store.charges(result.run_id)
    assert (call.status, call.nano_usd) == ("failed" if fails else "done", charge.nano_usd)
    assert charge.nano_usd > 0


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_request_is_on_record_before_it_is_sent_also_when_the_database_is_busy(
    anthropic_client: Any, async_anthropic_client: Any, script: Script, run: Run, tmp_path: Path, is_async: bool
) -> None:
    """A locked database is waited for: when the vendor hears of the request, what it may cost is stored."""
    store, stored = SQLite(tmp_path / "runs.db"), list[int]()
    busy = Busy(store)

    def look(_: Any) -> Reply:
        stored.extend(charge.nano_usd for charge in store.charges("r"))
        return Reply()

    script.always(look)
    options: dict[str, Any] = {"checkpoint": busy, "budget": Budget(usd=1, iterations=1), "name": "tests:busy"}
    if is_async:
        client = track(async_anthropic_client(script))

        @loop(**options)
        async def asking_async(n: int) -> int:
            busy.left = 3
            await ask_async(client, "messages")
            return n

        run(asking_async.run(0, run_id="r"))
    else:
        client = track(anthropic_client(script))

        @loop(**options)
        def asking(n: int) -> int:
            busy.left = 3
            ask(client, "messages")
            return n

        asking.run(0, run_id="r")
    assert len(stored) == 1
    store.close()


class Busy(FaultyStore):
    """A store that is busy for so many commits."""

    left = 0

    def commit(self, lease: Any, transition: Any) -> Any:
        """Be busy first."""
        if self.left:
            self.left -= 1
            raise StoreBusy("locked by a test")
        return super().commit(lease, transition)


def test_an_sdk_without_what_track_stands_on_is_refused(anthropic_client: Any, script: Script) -> None:
    """A version that would let requests pass uncharged is named, with the command that mends it."""
    client = anthropic_client(script)
    client._sleep_for_retry = None
    with pytest.raises(SpecError, match=r"no _sleep_for_retry.*pip install -U anthropic"):
        track(client)


@pytest.mark.parametrize("path", ["/files", "/moderations", "/conversations", "/threads", "/responses/x/cancel"])
def test_what_is_free_is_not_warned_of(openai_client: Any, script: Script, path: str) -> None:
    """Requests that nobody pays for pass without a word."""
    client = track(openai_client(script, max_retries=0))

    @loop(checkpoint="memory", budget=Budget(usd=1, iterations=1))
    def other(n: int) -> int:
        spend(usd=0)
        with pytest.raises(Exception, match=r"404|405|Not Found|Not Allowed"):
            client.post(path, cast_to=object, body={})
        return n

    assert other.run(0).steps == 1


def test_what_cannot_be_charged_is_warned_of(openai_client: Any, script: Script) -> None:
    """A paid endpoint that is none of ours would make the cap silently leak."""
    client = track(openai_client(script, max_retries=0))

    @loop(checkpoint="memory", budget=Budget(usd=1, iterations=1))
    def draw(n: int) -> int:
        with pytest.raises(Exception, match=r"404|Not Found"):
            client.images.generate(prompt="a harbour", model="gpt-image-1")
        spend(usd=0.04)
        return n

    with pytest.warns(LoomcWarning, match=r"cannot charge POST /images/generations: .*spend\(usd"):
        draw.run(0)


@pytest.mark.parametrize("thing", [object(), None, "client", dict])
def test_only_a_client_of_theirs_can_be_tracked(thing: Any) -> None:
    """The error says what to do for others."""
    with pytest.raises(SpecError, match=r"client of anthropic or openai.*cost_of"):
        track(thing)


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "10"])
def test_a_limit_of_the_output_is_a_whole_number(anthropic_client: Any, script: Script, most: Any) -> None:
    """What cannot be a limit is refused when it is given."""
    with pytest.raises(SpecError, match=r"max_tokens="):
        track(anthropic_client(script), max_tokens=most)


@pytest.mark.parametrize("way", ["plain", "stream"])
def test_a_time_limit_ends_a_call(steps: Steps, script: Script, way: Way) -> None:
    """What stands between the user and his client does not keep the clock from ending it; the call is charged."""
    gate = Gate()
    script.always(Reply(hold=gate, hold_after="usage" if way == "stream" else "request"))
    client = track(steps.sdk.client(script, "messages", timeout=60))
    result = steps.run(client, ("messages", way), budget=Budget(usd=1, wall_clock="2s"))
    gate.open()
    (charge,) = steps.charges(result)
    assert (result.steps, charge.estimated, charge.nano_usd > 0) == (0, True, True)
    assert (result.stop_reason or "").startswith("budget: wall_clock")


def test_to_wait_for_a_quota_is_no_working_time(steps: Steps, script: Script) -> None:
    """While the SDK waits to send a request again, as it was told to, the clock of the run stands still."""
    script.next(Reply(status=429, headers={"retry-after-ms": "1500"}))
    result = steps.run(track(steps.sdk.client(script, "messages", max_retries=2)), ("messages", "plain"))
    assert (result.steps, result.elapsed < 1.4, len(script.seen)) == (1, True, 2)


def test_calls_under_way_hold_what_they_may_cost(openai_client: Any, script: Script) -> None:
    """While a request is under way what it may cost is on record, estimated; then what it has cost."""
    gate, store = Gate(), MemoryStore()
    script.always(Reply(hold=gate))
    client, seen = track(openai_client(script)), []

    @loop(checkpoint=store, budget=Budget(usd=1, iterations=1))
    def ask_slowly(n: int) -> int:
        import contextvars
        import threading

        request = lambda: resource_of(client, "chat").create(**REQUESTS["chat"])  # noqa: E731
        thread = threading.Thread(target=contextvars.copy_context().run, args=(request,))
        thread.start()
        gate.await_requests()
        seen.extend(store.charges(store.list_runs()[0].id))
        gate.open()
        thread.join()
        return n

    result = ask_slowly.run(0)
    (held,), (known,) = seen, store.charges(result.run_id)
    assert (held.estimated, held.usage["output_tokens"], known.estimated) == (True, 1024, False)
    assert (held.key, known.nano_usd) == (known.key, nano(TABLE["chat", "plain"]))
    assert held.nano_usd >= known.nano_usd
