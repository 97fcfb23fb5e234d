"""What a type checker says about the public names. Read by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, assert_type

from pydantic import BaseModel

from loomc_runner import (
    Approval,
    AsyncLoop,
    AsyncStream,
    BestScore,
    Budget,
    BudgetExhausted,
    BudgetNotice,
    CurrentRun,
    Done,
    Escalate,
    Judgement,
    Keep,
    LastGood,
    LoomcError,
    Loop,
    Retry,
    RunResult,
    RunStatus,
    StepRecord,
    Stream,
    WhatIf,
    all_of,
    ask,
    call,
    circuit_breaker,
    current_run,
    judge,
    loop,
    predicate,
    score_plateau,
    spend,
    target,
    tool,
)


class Draft(BaseModel):
    """A state."""

    text: str = ""


@dataclass
class Report:
    """A result of another type."""

    title: str


def grade(state: Draft) -> float:
    """A score."""
    return float(len(state.text))


def price(state: Draft) -> float:
    """A cost."""
    return 0.01


async def approve(state: Draft) -> bool:
    """A judge that is waited for."""
    return len(state.text) > 10


def change(state: Draft, history: Any) -> Draft:
    """A handler of a stall."""
    return state


# A plain function, bare and with options.


@loop
def bare(state: Draft) -> Draft:
    """One iteration."""
    return state


@loop(
    budget=Budget(usd=2.00, iterations=15, wall_clock=timedelta(minutes=10), tokens=10**6, step_usd=0.1, strict=True),
    checkpoint="memory",
    converge_on=[score_plateau(patience=3), all_of(target(0.9), judge(bool))],
    backtrack=[BestScore(tolerance=0.1), LastGood()],
    on_stall=Escalate(after=5, handler=change),
    scorer=grade,
    cost_fn=price,
    name="refine",
    tags=["draft"],
)
def refine(state: Draft) -> Draft:
    """One iteration with every option."""
    spend(usd=0.01, tokens=10, label="a call")
    return state


assert_type(bare, Loop[Draft])
assert_type(refine, Loop[Draft])
assert_type(refine(Draft()), Draft)
assert_type(refine(Draft(), run_id="mine"), Draft)
assert_type(refine.resume("mine"), Draft)
assert_type(refine.resume("mine", budget=Budget(usd=3), force=True), Draft)
assert_type(refine.run(Draft()), RunResult[Draft])
assert_type(refine.run(Draft()).state, Draft)
assert_type(refine.run(Draft(), progress=True, trace="page.html"), RunResult[Draft])
assert_type(refine.what_if("mine", converge_on=target(0.9)), WhatIf)
assert_type(refine.what_if(["mine", "yours"], budget=Budget(usd=1)), list[WhatIf])
assert_type(refine.run(Draft()).best_state, Draft | None)
assert_type(refine.run(Draft()).status, RunStatus)
assert_type(refine.fork("mine", step=4, update={"text": "x"}), str)
assert_type(refine.with_options(checkpoint="memory"), Loop[Draft])
assert_type(refine.stream(Draft()), Stream[Draft])
assert_type(refine.stream(run_id="mine"), Stream[Draft])
assert_type(refine.stream(Draft()).result, RunResult[Draft] | None)
iterator: Iterator[StepRecord[Draft]] = refine.stream(Draft())
with refine.stream(Draft()) as stream:
    for step in stream:
        assert_type(step, StepRecord[Draft])
        assert_type(step.state, Draft)
        assert_type(step.score, float | None)

refine("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
refine()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
refine(Draft(), "mine")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
refine.run(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
refine.resume()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
refine.stream()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
refine.stream("text")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
refine.stream(Draft(), force=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# An `async def` function.


@loop
async def bare_async(state: Draft) -> Draft:
    """One iteration that may wait."""
    return state


@loop(converge_on=judge(approve), backtrack=BestScore(metric=grade))
async def refine_async(state: Draft) -> Draft:
    """One iteration that may wait, with options."""
    return state


async def use_async() -> None:
    """Await every verb."""
    assert_type(bare_async, AsyncLoop[Draft])
    assert_type(refine_async, AsyncLoop[Draft])
    assert_type(await refine_async(Draft()), Draft)
    assert_type(await refine_async.resume("mine"), Draft)
    assert_type(await refine_async.run(Draft()), RunResult[Draft])
    assert_type(refine_async.stream(Draft()), AsyncStream[Draft])
    iterator: AsyncIterator[StepRecord[Draft]] = refine_async.stream(run_id="mine")
    async with refine_async.stream(Draft()) as stream:
        async for step in stream:
            assert_type(step, StepRecord[Draft])
    await refine_async(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async for step in iterator:
        assert_type(step.state, Draft)


# What a step may do inside.


@tool
def search(pattern: str, limit: int = 10) -> list[str]:
    """A durable call."""
    return [pattern] * limit


@tool(name="fetch", retry=Retry(attempts=5, on=(OSError,), wait="1s"), timeout="30s", key=str)
async def fetch(url: str) -> Report:
    """A durable call that may wait."""
    return Report(url)


@circuit_breaker(fail_threshold=2, backoff="exponential")
def fragile(n: int) -> str:
    """A function that is left alone when it keeps failing."""
    return str(n)


def measure(path: str) -> int:
    """A function that is not ours."""
    return len(path)


@loop(retry=Retry(), migrate=lambda old: {**old, "text": ""})
def agent(state: Draft) -> Draft:
    """One iteration that calls, asks and starts children."""
    assert_type(search("x"), list[str])
    assert_type(call(measure, "x"), int)
    assert_type(call(measure, "x", key="k"), int)
    assert_type(ask("Which?"), str)
    assert_type(ask("Really?", Approval), Approval)
    assert_type(ask("How many?", int, expires="2h", default=3), int)
    assert_type(bare.map([state, state]), list[Draft])
    assert_type(bare.map([state], max_workers=2, return_exceptions=True), list[Draft | BaseException])
    assert_type(fragile(1), str)
    assert_type(fragile.state, Literal["closed", "open", "half_open"])
    search(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fragile("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.map([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    return state


async def use_inside(state: Draft) -> None:
    """The same where it is awaited."""
    assert_type(await fetch("x"), Report)
    assert_type(await call(fetch, "x"), Report)
    assert_type(await bare_async.map([state]), list[Draft])
    assert_type(agent.answer("run", True, by="anna"), None)


# The end of the money, and who judges.


def tell(notice: BudgetNotice) -> None:
    """Be told of what is used up."""
    assert_type(notice.run_id, str)
    assert_type(notice.limit, str)
    assert_type(notice.percent, int)
    assert_type(notice.used, float)
    assert_type(notice.max_val, float)


async def tell_later(notice: BudgetNotice) -> None:
    """Be told of it, and take some time."""


def verdict(state: Draft) -> Judgement:
    """A judge that gives its reason."""
    judgement = Judgement(len(state.text) > 10, "long enough")
    assert_type(judgement.yes, bool)
    assert_type(judgement.reason, str)
    return judgement


async def verdict_later(state: Draft) -> Judgement | str:
    """A judge that is waited for, and answers as a model does."""
    return verdict(state) if state.text else "No, it is empty"


@loop(budget=Budget(usd=2, wrap_up=0.25), on_budget=tell, converge_on=judge(verdict, every=2, agree=2))
def wraps_up(state: Draft) -> Draft | Done[Draft, Report]:
    """End with a result when the money does."""
    here = current_run()
    assert_type(here, CurrentRun)
    assert_type(here.run_id, str)
    assert_type(here.step_n, int)
    assert_type(here.wrap_up, bool)
    assert_type(here.spent_usd, float)
    assert_type(here.left_usd, float | None)
    here.wrap_up = False  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    return Done(state, result=Report(state.text)) if here.wrap_up else state


@loop(budget=Budget(usd=2, wrap_up=0.25), on_budget=[tell, tell_later], converge_on=judge(verdict_later))
async def wraps_up_async(state: Draft) -> Draft:
    """The same, where it is awaited."""
    return state


assert_type(wraps_up, Loop[Draft])
assert_type(wraps_up_async, AsyncLoop[Draft])

loop(on_budget=grade)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
loop(on_budget=0.8)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
loop(keep=Keep(every=10, best=3, last=20, results=100_000))
loop(keep=10)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Budget(usd=2, wrap_up="0.25")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
judge("is it good?")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Judgement("no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Methods.


class Writer:
    """An object with loops on it."""

    @loop
    def bare(self, state: Draft) -> Draft:
        """One iteration of an object."""
        return state

    @loop(budget=Budget(iterations=3))
    def refine(self, state: Draft) -> Draft:
        """One iteration of an object, with options."""
        return state

    @loop
    async def bare_async(self, state: Draft) -> Draft:
        """One iteration of an object that may wait."""
        return state

    @loop(budget=Budget(iterations=3))
    async def refine_async(self, state: Draft) -> Draft:
        """One iteration of an object that may wait, with options."""
        return state


async def use_methods(writer: Writer) -> None:
    """Go through an instance."""
    assert_type(writer.bare, Loop[Draft])
    assert_type(writer.refine, Loop[Draft])
    assert_type(writer.refine(Draft()), Draft)
    assert_type(writer.refine.run(Draft()), RunResult[Draft])
    assert_type(writer.bare_async, AsyncLoop[Draft])
    assert_type(writer.refine_async, AsyncLoop[Draft])
    assert_type(await writer.refine_async(Draft()), Draft)
    writer.refine(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Other states, and `Done`.


@loop
def count(state: int) -> int:
    """A plain state."""
    return state + 1


@loop(budget=Budget(iterations=3))
def collect(state: dict[str, list[int]]) -> dict[str, list[int]]:
    """A state of plain JSON."""
    return state


@loop
def ends(state: Draft) -> Draft | Done[Draft, Report]:
    """End with a result of another type."""
    return Done(state, result=Report("x"))


@loop(budget=Budget(usd=1))
def ends_plainly(state: Draft) -> Draft | Done[Draft, None]:
    """End without a result."""
    return Done(state)


@loop
async def ends_async(state: Draft) -> Draft | Done[Draft, Report]:
    """End with a result of another type, after a while."""
    return Done(state, result=Report("x"))


@loop
def maybe(state: Draft | None) -> Draft | None:
    """A state that may be missing."""
    return state


assert_type(count, Loop[int])
assert_type(collect, Loop[dict[str, list[int]]])
assert_type(ends, Loop[Draft])
assert_type(ends_plainly, Loop[Draft])
assert_type(ends_async, AsyncLoop[Draft])
assert_type(maybe, Loop[Draft | None])
assert_type(ends(Draft()), Draft)


# What cannot be a loop, and options that cannot work.


@loop  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
def turns(state: Draft) -> str:
    """Give something that is not the next state."""
    return state.text


@loop(budget=Budget())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
def turns_with_options(state: Draft) -> str:
    """Give something that is not the next state."""
    return state.text


loop(Budget())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
loop(budget="10x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
loop(on_stall=score_plateau())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
loop(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
score_plateau(direction="up")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Budget(usd="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Detectors and strategies are any callables of the history; errors tell where a run stood.


def twice(history: Any) -> str | None:
    """A detector."""
    return "twice" if len(history) == 2 else None


def back(history: Any) -> int | None:
    """A strategy."""
    return 0 if len(history) > 3 else None


loop(converge_on=twice, backtrack=back)
loop(converge_on=[twice, predicate(twice)], backtrack=(back, LastGood()))

try:
    refine(Draft())
except BudgetExhausted as exhausted:
    assert_type(exhausted.limit, str)
    assert_type(exhausted.used, float)
except LoomcError as error:
    assert_type(error.run_id, str | None)
