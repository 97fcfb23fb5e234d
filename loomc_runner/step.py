"""One iteration: call the function under its deadline, then price and score what it returned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isawaitable, iscoroutine
from typing import Any, Generic, TypeVar, get_args

from loomc_runner import deadline
from loomc_runner.backtrack import askings, is_new_best
from loomc_runner.budget import to_nano
from loomc_runner.context import Leaving, Scope
from loomc_runner.errors import BudgetExhausted, CostError, ScoreError, SpecError, StepError
from loomc_runner.holds import settle_all
from loomc_runner.ledger import Ledger
from loomc_runner.records import Charge, Done
from loomc_runner.scores import History
from loomc_runner.spec import LoopSpec
from loomc_runner.state import Codec, state_codec
from loomc_runner.watching import current_tracer

S = TypeVar("S")

NUMBERS = (float, int)
"""What scorers and cost functions give; to ask whether something can be awaited takes ten times as long."""


@dataclass(slots=True)
class Outcome(Generic[S]):
    """What one try of a step came to.

    Either there is a `state` with its `text`, or an `error`, or the step was `exhausted` in the middle. A `flaw`
    is an error of the scorer or the cost function: the state is there, and paid for, and is kept. So it is when
    Ctrl-C or a cancellation has `torn` it from its scorer.
    """

    duration: float = 0.0
    state: S | None = None
    text: str | None = None
    done: Done[S, Any] | None = None
    result: str | None = None
    score: float | None = None
    scores: tuple[float, ...] = ()
    error: Exception | None = None
    flaw: Exception | None = None
    exhausted: BudgetExhausted | None = None
    torn: BaseException | None = None


async def perform(
    spec: LoopSpec[S], scope: Scope, codec: Codec[S], state: S, history: History, prepare: Callable[[S], Any] | None
) -> Outcome[S]:
    """Run one iteration from a state. `prepare` changes the state first (what `Escalate` was given).

    What it calls sees the step: it runs where `scope_here` is the scope, and so does what follows from it.
    """
    monotonic, ledger = spec.clock.monotonic, scope.account.ledger
    outcome: Outcome[S] = Outcome()
    begun = monotonic()
    try:
        if prepare is not None:
            state = _next_state(spec, await ask(spec, prepare, state), "the handler of on_stall")
        if (tracer := current_tracer()) is None:
            value = await _iterate(spec, ledger, state)
        else:
            value = None
            with tracer(scope.lease.run_id, scope.step_n, None):
                value = await _iterate(spec, ledger, state)
        if type(value) is not type(state) or value is None:  # else it can be a state: one like it was
            value = _checked(spec, outcome, value)
        outcome.state = value
        outcome.text = codec.encode(value) if scope.step_n else codec.encode_checked(value)
        if outcome.done is not None:
            _keep_result(spec, outcome.done, outcome)
    except (Exception, deadline.DeadlineReached) as error:  # noqa: BLE001 - recorded, and raised again by the driver
        _keep_error(outcome, error, ledger)
    except BaseException as error:
        if not is_leaving(error, scope):
            scope.closed = True
            raise
    if scope.holds:
        settle_all(scope)
    scope.closed = outcome.text is None
    outcome.duration = monotonic() - begun
    if outcome.text is not None and (spec.cost_fn is not None or spec.scorer is not None or ledger.strict):
        await _appraise(spec, scope, outcome, history)
    return outcome


def is_leaving(error: BaseException, scope: Scope) -> bool:
    """Whether an error only says that the step was left, since it waits or was asked to stop."""
    inside = error.subgroup(Leaving) is not None if isinstance(error, BaseExceptionGroup) else False
    return scope.left is not None and (inside or isinstance(error, Leaving))


def limit_in(error: BaseException, ledger: Ledger) -> BudgetExhausted | None:
    """The limit of this run or an enclosing one that an error tells of, also as part of a group.

    A child's own budget is none: it is an ordinary error for its parent.
    """
    if isinstance(error, BudgetExhausted):
        return error if any(error.run_id == enclosing.run_id for enclosing in ledger.lineage) else None
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((limit for part in parts if (limit := limit_in(part, ledger))), None)


async def ask(spec: LoopSpec[S], fn: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user's that may be sync or async; only async loops can wait for an answer."""
    answer = deadline.call(fn, *args, deadline=None)
    if isinstance(answer, NUMBERS) or not isawaitable(answer):
        return answer
    if not spec.is_async:
        _drop(answer)
        raise SpecError(f"{fn!r} gave something to await; only an `async def` loop can wait for it")
    return await answer


async def _iterate(spec: LoopSpec[S], ledger: Ledger, state: S) -> Any:
    """Call the function of the user's, under the deadline that the wall clocks set."""
    limit = time.monotonic() + left if ledger.timed and (left := ledger.seconds_left()) is not None else None
    try:
        if spec.is_async:
            return await deadline.call_async(spec.fn, state, deadline=limit, left=ledger.seconds_left)
        return deadline.call(spec.fn, state, deadline=limit, left=ledger.seconds_left)
    except StopAsyncIteration as error:  # it would end a stream as if all were well; StopIteration is like that
        raise RuntimeError(f"{spec.fn.__qualname__} raised StopAsyncIteration") from error


def _checked(spec: LoopSpec[S], outcome: Outcome[S], value: Any) -> Any:
    """The state that the function gave; what else it gave in a `Done` is noted."""
    if isinstance(value, Done):
        outcome.done, value = value, value.state
    return _next_state(spec, value, spec.fn.__qualname__)


def _next_state(spec: LoopSpec[S], value: Any, giver: str) -> Any:
    declared = spec.annotations[0]
    if value is None and type(None) not in (declared, *get_args(declared)):
        raise StepError(f"{giver} returned None; it must return the next state (a step may return Done(state))")
    if isawaitable(value):
        _drop(value)
        raise StepError(f"{giver} returned something to await; make it an `async def`")
    return value


def _drop(awaitable: Any) -> None:
    """Close a coroutine that nobody will await, so that Python does not warn of it besides."""
    if iscoroutine(awaitable):
        awaitable.close()


def _keep_result(spec: LoopSpec[S], done: Done[S, Any], outcome: Outcome[S]) -> None:
    if done.result is None:
        return
    try:
        outcome.result = result_codec(spec, done.result).encode(done.result)
    except Exception as error:  # noqa: BLE001 - recorded with the step, and raised again by the driver
        outcome.flaw = error


def result_codec(spec: LoopSpec[Any], result: Any = None) -> Codec[Any]:
    """The codec of what a step gives with `Done(..., result=...)`: by the declared type, else as plain JSON."""
    return state_codec(spec.annotations[1], result)


async def _appraise(spec: LoopSpec[S], scope: Scope, outcome: Outcome[S], history: History) -> None:
    """Price and score a state; what tears it away from that is noted."""
    try:
        await _price_and_score(spec, scope, outcome, history)
    except BaseException as error:  # noqa: BLE001 - raised again by the driver, once the step is committed
        outcome.torn = error


async def _price_and_score(spec: LoopSpec[S], scope: Scope, outcome: Outcome[S], history: History) -> None:
    """Price and score a state; a scorer is asked even when the cost function failed, so that nothing paid is lost."""
    try:
        if spec.cost_fn is not None:
            usd = await ask(spec, spec.cost_fn, outcome.state)
            scope.charge_later(Charge(scope.step_n, _cost(spec.cost_fn, usd), 0, "cost_fn", spec.clock.now()))
    except (Exception, deadline.DeadlineReached) as error:  # noqa: BLE001 - as below
        _keep_error(outcome, error, scope.account.ledger)
        _charge_expected(spec, scope)
    try:
        if spec.scorer is not None:
            scope.purpose = "scorer"
            await _keep_score(spec, outcome, spec.scorer, history)
    except (Exception, deadline.DeadlineReached) as error:  # noqa: BLE001 - recorded, and raised again by the driver
        _keep_error(outcome, error, scope.account.ledger)
    if not scope.account.priced and scope.account.ledger.strict and scope.account.ledger.dollar_capped:
        message = "nobody recorded what this step cost, and its budget is strict; call spend(usd=...) or add cost_fn="
        outcome.flaw = outcome.flaw or CostError(message)


async def _keep_score(spec: LoopSpec[S], outcome: Outcome[S], scorer: Callable[..., Any], history: History) -> None:
    """Score the state; what would be the new best is scored as often as a strategy wants, and the mean counts.

    Where that breaks off the answers so far are kept, and there is no score: one lucky answer is not to be the best.
    """
    score, times = _score(scorer, await ask(spec, scorer, outcome.state)), askings(spec.strategies)
    if times > 1 and is_new_best(score, history, spec.direction):
        from statistics import mean

        outcome.scores = (score,)
        while len(outcome.scores) < times:
            outcome.scores += (_score(scorer, await ask(spec, scorer, outcome.state)),)
        score = mean(outcome.scores)  # exact: that of equal answers is the answer
    outcome.score = score


def _keep_error(outcome: Outcome[Any], error: Exception | deadline.DeadlineReached, ledger: Ledger) -> None:
    """Note what went wrong: instead of a state, or after it was given, which stays then, whatever it was."""
    if isinstance(error, deadline.DeadlineReached):
        outcome.exhausted = _overdue(ledger)
    elif limit := limit_in(error, ledger):
        outcome.exhausted = limit
    elif outcome.text is None:
        outcome.error = error
    else:
        outcome.flaw = outcome.flaw or error


def _charge_expected(spec: LoopSpec[S], scope: Scope) -> None:
    """Where the cost function failed, the step counts with what it was expected to cost."""
    if not scope.account.priced and scope.account.reserved:
        label = "cost_fn failed"
        scope.charge_later(Charge(scope.step_n, scope.account.reserved, 0, label, spec.clock.now(), estimated=True))


def _cost(fn: Callable[..., Any], value: Any) -> int:
    try:
        return to_nano(value)
    except CostError:
        name = getattr(fn, "__qualname__", fn)
        raise CostError(f"cost_fn {name} gave {value!r}; it must give dollars, finite, zero or more") from None


def _score(fn: Callable[..., Any], value: Any) -> float:
    if not isinstance(value, str | bytes) and hasattr(value, "__float__"):
        score = float(value)
        if math.isfinite(score):
            return score
    raise ScoreError(f"scorer {getattr(fn, '__qualname__', fn)} gave {value!r}; it must give a finite number")


def _overdue(ledger: Ledger) -> BudgetExhausted:
    try:
        ledger.check_time()
    except BudgetExhausted as error:
        return error
    # The timer and the clock are two clocks: the timer may be a moment ahead.
    limit = ledger.budget.wall_clock_seconds or ledger.elapsed
    return BudgetExhausted("wall_clock", max(ledger.elapsed, limit), limit, run_id=ledger.run_id)
