"""Adapters price answers and make a model a judge, whose every answer is on record and paid once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from asking import Run
from killing import KILLED
from lives import Death, judged, live_apart, refining
from loomc_runner import (
    AnthropicAdapter,
    Budget,
    CostError,
    JudgeError,
    OpenAIAdapter,
    Price,
    SpecError,
    loop,
    spend,
    track,
)
from loomc_runner.providers.adapters import Adapter
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from vendor import RATE_LIMITED, Reply, Script

ADAPTERS = {"anthropic": AnthropicAdapter("claude-sonnet-5-5"), "openai": OpenAIAdapter("gpt-5.5")}
BILLS = {"anthropic": 1200 * 2 + 300 * 10, "openai": 900 * 5 + 250 * 30}
"""Micro-dollars of the recorded answers."""


@pytest.fixture(params=["anthropic", "openai"])
def vendor_name(request: pytest.FixtureRequest) -> str:
    """Each vendor in turn."""
    return str(request.param)


@pytest.fixture
def adapter(vendor_name: str) -> Adapter:
    """Its adapter."""
    return ADAPTERS[vendor_name]


@pytest.fixture
def client(request: pytest.FixtureRequest, vendor_name: str, script: Script) -> Any:
    """A client of it, not tracked."""
    return request.getfixturevalue(f"{vendor_name}_client")(script, max_retries=0)


@pytest.fixture
def async_client(request: pytest.FixtureRequest, vendor_name: str, script: Script) -> Any:
    """An async client of it, not tracked."""
    return request.getfixturevalue(f"async_{vendor_name}_client")(script, max_retries=0)


def a_response(adapter: Adapter, client: Any) -> Any:
    """An answer of the vendor, as its SDK gives it."""
    return adapter.ask(client, "Be brief.", "When does the harbour open?", 100)


def test_an_answer_costs_what_the_vendor_bills(adapter: Adapter, client: Any, vendor_name: str) -> None:
    """As the SDK gives it and as plain JSON."""
    response = a_response(adapter, client)
    for form in (response, response.model_dump(mode="json")):
        assert round(adapter.cost_from_response(form) * 1e6) == BILLS[vendor_name]


def test_a_state_may_carry_its_answer(adapter: Adapter, client: Any, vendor_name: str) -> None:
    """`cost_fn` prices `_response` of a dict or a dataclass, and `response` of a Pydantic model."""

    @dataclass
    class Page:
        n: int = 0
        _response: dict[str, Any] | None = None

    class Draft(BaseModel):
        n: int = 0
        response: dict[str, Any] | None = None

    def answered() -> dict[str, Any]:
        plain: dict[str, Any] = a_response(adapter, client).model_dump(mode="json")
        return plain

    options: dict[str, Any] = {"cost_fn": adapter.cost_fn, "budget": Budget(usd=1, iterations=2)}

    @loop(checkpoint="memory", **options)
    def in_a_dict(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"] + 1, "_response": answered()}

    @loop(checkpoint="memory", **options)
    def in_a_dataclass(state: Page) -> Page:
        return Page(state.n + 1, answered())

    @loop(checkpoint="memory", **options)
    def in_a_model(state: Draft) -> Draft:
        return Draft(n=state.n + 1, response=answered())

    for result in (in_a_dict.run({"n": 0}), in_a_dataclass.run(Page()), in_a_model.run(Draft())):
        assert (round(result.cost_usd * 1e6), result.steps) == (2 * BILLS[vendor_name], 2)


@pytest.mark.parametrize("state", [{"n": 1}, {"_response": None}, {"_response": {"model": "gpt-5.5"}}, 5])
def test_a_state_without_an_answer_is_an_error(adapter: Adapter, state: Any) -> None:
    """It is not taken to be free."""
    with pytest.raises(CostError):
        adapter.cost_fn(state)


def test_prices_of_ones_own_hold(client: Any, vendor_name: str, adapter: Adapter) -> None:
    """The adapter prices what it is told to."""
    own = type(adapter)(adapter.model, prices={adapter.model: Price(1000, 0)})
    tokens = {"anthropic": 1200, "openai": 900}[vendor_name]
    assert own.cost_from_response(a_response(adapter, client)) == pytest.approx(tokens / 1000)


@pytest.mark.parametrize("model", ["", "  ", None, 5])
def test_a_model_has_a_name(vendor_name: str, model: Any) -> None:
    """What cannot be one is refused when the adapter is made."""
    with pytest.raises(SpecError, match="give the name of a model"):
        type(ADAPTERS[vendor_name])(model)


@pytest.mark.parametrize("tracked", [False, True])
def test_a_judge_ends_the_run_with_its_reason(
    adapter: Adapter, client: Any, script: Script, vendor_name: str, tracked: bool
) -> None:
    """It is charged to the step it judges, whether or not the client is tracked for other calls."""
    script.next(Reply(text="NO, it lacks a number."), Reply(text="**Yes** - it has all."))
    judge = adapter.judge(track(client) if tracked else client, "Is it complete?", str.upper)
    result = refining(judge).run("so")
    assert (result.steps, result.stop_reason) == (2, f"converged: judge({adapter.model}): it has all.")
    assert round(result.cost_usd * 1e6) == 20_000 + 2 * BILLS[vendor_name]
    assert "SO MORE" in str(script.seen[0].body)
    assert "Is it complete?" in str(script.seen[0].body)


def test_an_async_judge_works_in_async_loops(adapter: Adapter, async_client: Any, script: Script, run: Run) -> None:
    """The same with a client that is awaited."""
    script.next(Reply(text="no"), Reply(text="yes"))

    @loop(checkpoint="memory", budget=Budget(usd=1, iterations=5), converge_on=adapter.judge(async_client))
    async def refining(text: str) -> str:
        spend(usd=0.01)
        return f"{text} more"

    result = run(refining.run("so"))
    assert (result.steps, result.stop_reason) == (2, f"converged: judge({adapter.model})")


def test_an_async_judge_is_refused_in_a_sync_loop(adapter: Adapter, async_client: Any) -> None:
    """Nobody could wait for its answer."""
    with pytest.raises(SpecError, match="is async, but the loop"):
        refining(adapter.judge(async_client))


@pytest.mark.parametrize("said", ["maybe", "", "I cannot tell: yes and no", "Note that it is done"])
def test_an_answer_that_is_neither_yes_nor_no_is_an_error(
    adapter: Adapter, client: Any, script: Script, said: str
) -> None:
    """It is no silent no: the run fails with what was said, which is on record and paid for."""
    script.always(Reply(text=said))
    store = MemoryStore()
    loop_of = refining(adapter.judge(client)).with_options(checkpoint=store)
    with pytest.raises(JudgeError, match="neither yes nor no"):
        loop_of.run("so", run_id="r")
    (call,) = store.calls("r")
    assert (store.get_run("r").steps, call.status, call.nano_usd > 0) == (1, "failed", True)


def test_what_a_judge_said_is_on_record(adapter: Adapter, client: Any, script: Script) -> None:
    """Each answer is a durable call with the answer and the reason, and the label of a judge."""
    script.next(Reply(text="No: too short."), Reply(text="Yes."))
    store = MemoryStore()
    refining(adapter.judge(client)).with_options(checkpoint=store).run("so", run_id="r")
    assert [call.name for call in store.calls("r")] == [f"judge {adapter.model}"] * 2
    assert [call.result for call in store.calls("r")] == [
        '{"yes":false,"reason":"too short."}',
        '{"yes":true,"reason":""}',
    ]
    assert {charge.label for charge in store.charges("r") if charge.model is not None} == {"judge"}


def test_a_judge_may_have_to_agree_with_itself(adapter: Adapter, client: Any, script: Script) -> None:
    """With `agree=2` it is asked until two answers are the same; `every=2` spares it each other step."""
    script.next(*(Reply(text=said) for said in ("yes", "no", "no", "yes", "yes")))
    store = MemoryStore()
    judge = adapter.judge(client, agree=2, every=2)
    result = refining(judge).with_options(checkpoint=store).run("so", run_id="r")
    assert (result.status, result.steps, len(script.seen)) == ("completed", 4, 5)
    assert [call.step_n for call in store.calls("r")] == [1, 1, 1, 3, 3]


def test_a_judge_that_does_not_fit_the_budget_is_not_asked(adapter: Adapter, client: Any, script: Script) -> None:
    """The step it would have judged is committed, and the run ends."""
    result = refining(adapter.judge(client)).with_options(budget=Budget(usd=0.012)).run("so")
    assert (result.status, result.steps, script.seen) == ("budget_exhausted", 1, [])
    assert f"{adapter.model} was not asked" in (result.stop_reason or "")


def test_a_judge_whose_vendor_is_away_fails_the_run_and_keeps_the_step(
    adapter: Adapter, client: Any, script: Script
) -> None:
    """What was paid for is not lost."""
    script.always(RATE_LIMITED)
    store = MemoryStore()
    with pytest.raises(Exception, match="429"):
        refining(adapter.judge(client)).with_options(checkpoint=store).run("so", run_id="r")
    assert (store.get_run("r").steps, store.get_run("r").status, store.state("r", 0)) == (1, "failed", '"so more"')


def test_a_judge_asks_only_a_client_of_its_vendor(adapter: Adapter, vendor_name: str) -> None:
    """The error names the vendor."""
    with pytest.raises(SpecError, match=f"give a client of {vendor_name}"):
        adapter.judge(object())


@pytest.mark.parametrize(("option", "value"), [("every", 0), ("agree", 0), ("prompt", " "), ("agree", True)])
def test_a_judge_refuses_what_cannot_work(adapter: Adapter, client: Any, option: str, value: Any) -> None:
    """Options are checked when the judge is made."""
    with pytest.raises(SpecError, match=option):
        adapter.judge(client, **{option: value})


def test_a_text_of_a_state_is_a_text(adapter: Adapter, client: Any) -> None:
    """A `text_fn` that gives something else is an error that names the judge."""
    with pytest.raises(SpecError, match=f"text_fn of the judge {adapter.model} gave 5"):
        refining(adapter.judge(client, text_fn=lambda _: 5)).run("so")  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("number", range(2, 8))
def test_a_judge_is_not_asked_again_after_a_death(script: Script, tmp_path: Path, number: int) -> None:
    """Killed after any write, the resumed run asks only for what has no recorded answer, and ends the same."""
    script.always(lambda seen: Reply(text="Yes, long." if "so more more" in str(seen.body) else "No, short."))
    path, key = str(tmp_path / "runs.db"), script.key
    assert live_apart(judged, path, key, script.url, Death("after", number)) == KILLED
    store = SQLite(path)
    answered = sum(call.status == "done" for call in store.calls(key))
    asked = len(script.seen)
    assert live_apart(judged, path, key, script.url, Death()) == 0
    run = store.get_run(key)
    assert (run.status, run.steps, run.stop_reason) == ("completed", 2, "converged: judge(gpt-5.5): long.")
    assert len(script.seen) == asked + 2 - answered
    store.close()
