"""A function that keeps failing is left alone for a while, and then tried by one call."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import BudgetExhausted, LoomcError, SpecError, breaker
from loomc_runner.breaker import CircuitBreaker, Guarded, circuit_breaker
from loomc_runner.breaker.circuit import Snapshot
from loomc_runner.errors import CircuitOpenError
from loomc_runner.retry import Retry, category_of, retry_after_of
from loomc_runner.testing import FakeClock

SPENT = BudgetExhausted("usd", 2, 1)


class Service:
    """Something to call that does what it was last told to."""

    def __init__(self, **options: Any) -> None:
        self.answer: Any = "ok"
        self.calls = 0
        self.clock = FakeClock()
        self.ask = circuit_breaker(**{"name": "service", **options})(self._ask)
        self.ask.breaker.clock = self.clock

    def _ask(self) -> Any:
        self.calls += 1
        answer = self.answer() if inspect.isfunction(self.answer) else self.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def try_with(self, answer: Any, times: int = 1) -> Any:
        """Call it so often, and return what came of the last call."""
        self.answer, outcome = answer, None
        for _ in range(times):
            try:
                outcome = self.ask()
            except BaseException as error:
                outcome = error
        return outcome

    @property
    def snapshot(self) -> Snapshot:
        """What its breaker knows."""
        return self.ask.breaker.snapshot()


def opened(**options: Any) -> Service:
    """A service whose breaker has just opened."""
    service = Service(**options)
    service.try_with(OSError(), service.ask.breaker.fail_threshold)
    assert service.ask.state == "open"
    return service


def half_opened(**options: Any) -> Service:
    """A service that may be tried again."""
    service = opened(**options)
    service.clock.advance(30)
    return service


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What every breaker tells of its changes."""
    seen: list[str] = []

    def see(changed: CircuitBreaker, state: str) -> None:
        assert changed.state == state  # outside of the lock: it can be asked
        seen.append(state)

    monkeypatch.setattr(breaker, "note", see)
    return seen


@pytest.mark.parametrize("threshold", [1, 3, 10])
def test_so_many_failures_in_a_row_open_it(threshold: int) -> None:
    """One failure fewer changes nothing, and the caller sees every error as it was raised."""
    service, error = Service(fail_threshold=threshold), OSError("down")
    for _ in range(threshold):
        assert service.ask.state == "closed"
        assert service.try_with(error) is error
    assert service.snapshot == Snapshot("open", threshold, 1, 30.0)


def test_a_success_in_between_begins_the_count_anew() -> None:
    """Only failures in a row count."""
    service = Service()
    for _ in range(5):
        service.try_with(OSError(), 2)
        assert service.try_with("ok") == "ok"
    assert service.snapshot == Snapshot("closed", 0, 0, 0.0)


def test_an_open_breaker_refuses_without_calling() -> None:
    """The error names the function and when to come again, and can be stored and sent."""
    service = opened()
    service.clock.advance(18)
    error = service.try_with("ok")
    assert isinstance(error, CircuitOpenError)
    assert (service.calls, error.name, error.retry_after) == (3, "service", 12.0)
    assert str(error) == "service has failed too often and is not called; come again in 12s"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_open_breaker_is_worth_another_try_when_it_says() -> None:
    """A retry waits for the cooldown."""
    service = opened()
    error = service.try_with("ok")
    assert isinstance(error, LoomcError)
    assert (category_of(error), retry_after_of(error), Retry(wait=0).delay(error, 1)) == ("transient", 30.0, 30.0)


def test_it_is_half_open_when_the_cooldown_is_over() -> None:
    """Not a moment before."""
    service = opened(cooldown="8s")
    for step, state in ((7.75, "open"), (0.25, "half_open"), (99, "half_open")):
        service.clock.advance(step)
        assert service.ask.state == state
    assert service.snapshot == Snapshot("half_open", 3, 1, 0.0)


def test_a_trial_that_succeeds_closes_it() -> None:
    """Everything is as at first then: failures are counted from none."""
    service = half_opened()
    assert service.try_with("ok") == "ok"
    assert service.snapshot == Snapshot("closed", 0, 0, 0.0)
    service.try_with(OSError(), 2)
    assert service.ask.state == "closed"


def test_a_trial_that_fails_opens_it_again() -> None:
    """One failure is enough, and a fixed cooldown stays as it is."""
    service = half_opened()
    for openings in (2, 3, 4):
        error = OSError()
        assert service.try_with(error) is error
        assert service.snapshot == Snapshot("open", 2 + openings, openings, 30.0)
        service.clock.advance(30)


@pytest.mark.parametrize(
    ("max_cooldown", "waits"),
    [(None, [30, 60, 120, 240, 300, 300]), ("100s", [30, 60, 100, 100]), ("30s", [30, 30])],
)
def test_an_exponential_cooldown_doubles_up_to_its_limit(max_cooldown: str | None, waits: list[float]) -> None:
    """Each trial that fails doubles it; a success sets it back to its start."""
    service = Service(backoff="exponential", max_cooldown=max_cooldown)
    for _ in range(2):
        service.try_with(OSError(), 3)
        for wait in waits:
            assert service.snapshot.retry_after == wait
            service.clock.advance(wait)
            service.try_with(OSError())
        service.clock.advance(1000)
        assert service.try_with("ok") == "ok"


def test_a_cooldown_does_not_grow_beyond_all_numbers() -> None:
    """After ever so many openings it is still the longest there is."""
    guard = CircuitBreaker("x", fail_threshold=1, backoff="exponential", clock=FakeClock())
    guard.restore(0, 5, 10**6)
    with pytest.raises(OSError, match="down"):
        Guarded(fail, guard)()
    assert guard.snapshot() == Snapshot("open", 6, 10**6 + 1, 300.0)


def fail() -> None:
    """Fail."""
    raise OSError("down")


@given(st.lists(st.sampled_from(["ok", "fail", "wait", "interrupt"]), max_size=60), st.integers(1, 4))
def test_it_does_what_a_simple_model_does(events: list[str], threshold: int) -> None:
    """Whatever comes in whatever order: calls are refused exactly when the rules say so."""
    service = Service(fail_threshold=threshold, cooldown="3s")
    failures, until, now = 0, None, 0.0
    answers = {"ok": "ok", "fail": OSError(), "interrupt": KeyboardInterrupt()}
    for event in events:
        if event == "wait":
            now += 1
            service.clock.advance(1)
            continue
        outcome = service.try_with(answers[event])
        if until is not None and now < until:
            assert isinstance(outcome, CircuitOpenError)
            continue
        assert outcome is answers[event]
        if event == "ok":
            failures, until = 0, None
        elif event == "fail":
            failures += 1
            until = now + 3 if until is not None or failures >= threshold else None
    assert service.snapshot.failures == failures
    assert service.ask.state == ("closed" if until is None else "open" if now < until else "half_open")


@pytest.mark.parametrize("turn", range(20))
def test_fifty_threads_make_one_trial(turn: int) -> None:
    """Of all threads that call at once, one is let through; the others are refused, and it decides."""
    service = half_opened()
    service.calls = 0
    barrier, refused_all = threading.Barrier(50), threading.Event()
    refused: list[float] = []
    lock = threading.Lock()

    def answer() -> Any:
        assert refused_all.wait(30)
        return "ok" if turn % 2 else OSError()

    service.answer = answer

    def call() -> None:
        barrier.wait(30)
        try:
            service.ask()
        except CircuitOpenError as error:
            with lock:
                refused.append(error.retry_after)
                if len(refused) == 49:
                    refused_all.set()
        except OSError:
            pass

    with ThreadPoolExecutor(50) as pool:
        for done in [pool.submit(call) for _ in range(50)]:
            done.result()
    assert (service.calls, refused) == (1, [0.0] * 49)
    assert service.ask.state == ("closed" if turn % 2 else "open")


def test_fifty_threads_that_fail_open_it_once(changes: list[str]) -> None:
    """Failures that come at once are counted one by one, and those after the opening are late."""
    service, barrier = Service(fail_threshold=40), threading.Barrier(50)

    def answer() -> OSError:
        barrier.wait(30)
        return OSError()

    service.answer = answer
    with ThreadPoolExecutor(50) as pool:
        errors = [pool.submit(service.ask) for _ in range(50)]
    assert {type(done.exception()) for done in errors} == {OSError}
    assert (service.snapshot, changes) == (Snapshot("open", 40, 1, 30.0), ["open"])


@pytest.mark.parametrize("answer", ["ok", OSError("down")])
def test_fifty_tasks_make_one_trial(answer: Any) -> None:
    """While the trial waits, all other tasks of the event loop are refused."""
    clock, calls = FakeClock(), 0

    @circuit_breaker(name="service")
    async def ask() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async def main() -> list[Any]:
        ask.breaker.restore(5, 3, 1)
        clock.advance(5)
        return await asyncio.gather(*(ask() for _ in range(50)), return_exceptions=True)

    ask.breaker.clock = clock
    outcomes = asyncio.run(main())
    refused = [error for error in outcomes if isinstance(error, CircuitOpenError)]
    assert (calls, len(refused), outcomes[0]) == (1, 49, answer)
    assert str(refused[0]) == (
        "service has failed too often, and one call is trying it now; come again when that is over"
    )
    assert ask.state == ("closed" if answer == "ok" else "open")


@pytest.mark.parametrize(
    "torn", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError(), GeneratorExit()], ids=repr
)
def test_a_trial_that_is_torn_away_is_given_back(torn: BaseException) -> None:
    """It is neither success nor failure: the next call is the trial."""
    service = half_opened()
    assert service.try_with(torn) is torn
    assert service.snapshot == Snapshot("half_open", 3, 1, 0.0)
    assert service.try_with("ok") == "ok"
    assert service.ask.state == "closed"


def test_what_tears_calls_away_is_no_failure() -> None:
    """However many in a row, and it does not begin the count anew either."""
    service = Service()
    service.try_with(OSError(), 2)
    service.try_with(KeyboardInterrupt(), 5)
    assert service.snapshot == Snapshot("closed", 2, 0, 0.0)


def test_a_cancelled_task_gives_the_trial_back() -> None:
    """Cancelled while it waits, or never finished at all."""

    @circuit_breaker(cooldown="1ms")
    async def ask(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "ok"

    async def main() -> str:
        ask.breaker.clock = FakeClock()
        ask.breaker.restore(0, 3, 1)
        task = asyncio.create_task(ask(60))
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpenError):
            await ask(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        abandoned = ask(60)
        abandoned.send(None)
        abandoned.close()
        return await ask(0)

    assert (asyncio.run(main()), ask.state) == ("ok", "closed")


@pytest.mark.parametrize("late", ["ok", OSError("late"), KeyboardInterrupt("late")], ids=repr)
@pytest.mark.parametrize("meanwhile", ["open", "trial", "closed again", "reset"])
def test_a_result_from_before_a_change_counts_no_more(late: Any, meanwhile: str) -> None:
    """A call that began earlier neither closes nor opens the breaker, nor does it use the trial up."""
    service = Service()
    then: dict[str, Callable[[], object]] = {
        "open": lambda: service.try_with(OSError(), 3),
        "trial": lambda: (service.try_with(OSError(), 3), service.clock.advance(30)),
        "closed again": lambda: (service.try_with(OSError(), 3), service.clock.advance(30), service.try_with("ok")),
        "reset": lambda: (service.ask.reset(), service.try_with(OSError(), 2)),
    }
    seen: list[Snapshot] = []

    def slowly() -> Any:
        then[meanwhile]()
        seen.append(service.snapshot)
        return late

    assert service.try_with(slowly) is late
    assert service.snapshot == seen[0]
    if meanwhile == "trial":
        assert service.try_with("ok") == "ok"
        assert service.ask.state == "closed"


@pytest.mark.parametrize("late", ["ok", OSError("late"), KeyboardInterrupt("late")], ids=repr)
def test_a_late_result_leaves_the_trial_under_way(late: Any) -> None:
    """While the trial runs, an earlier call that ends does not let a second trial in."""
    service = Service()
    trial = breaker.Call(service.ask.breaker)

    def slowly() -> Any:
        service.try_with(OSError(), 3)
        service.clock.advance(30)
        trial.__enter__()
        return late

    assert service.try_with(slowly) is late
    assert isinstance(service.try_with("ok"), CircuitOpenError)
    trial.__exit__(None, None, None)
    assert service.ask.state == "closed"


def test_a_trial_from_before_a_reset_counts_no_more() -> None:
    """Its failure does not open the breaker that was closed by hand."""
    service = half_opened()

    def slowly() -> OSError:
        service.ask.reset()
        return OSError()

    service.try_with(slowly)
    assert service.snapshot == Snapshot("closed", 0, 0, 0.0)


@pytest.mark.parametrize("prepare", [Service, opened, half_opened])
def test_a_reset_closes_it_from_any_state(prepare: Callable[[], Service]) -> None:
    """And all failures are forgotten."""
    service = prepare()
    service.ask.reset()
    assert service.snapshot == Snapshot("closed", 0, 0, 0.0)
    assert service.try_with("ok") == "ok"


@pytest.mark.parametrize(
    ("is_failure", "error", "counts"),
    [
        (None, OSError(), "failure"),
        (None, LoomcError("x"), "failure"),
        (None, CircuitOpenError("inner", 3), "neither"),
        (None, SPENT, "neither"),
        (None, ExceptionGroup("several", [SPENT, CircuitOpenError("inner", 3)]), "neither"),
        (None, ExceptionGroup("several", [SPENT, OSError()]), "failure"),
        (None, BaseExceptionGroup("several", [KeyboardInterrupt(), OSError()]), "neither"),
        (OSError, ConnectionError(), "failure"),
        (OSError, ValueError(), "success"),
        (OSError, SPENT, "neither"),
        ((OSError, KeyError), KeyError(), "failure"),
        ((OSError, KeyError), ValueError(), "success"),
        (OSError, ExceptionGroup("several", [ValueError(), OSError()]), "failure"),
        (OSError, ExceptionGroup("several", [ValueError()]), "success"),
        (Exception, CircuitOpenError("inner", 3), "failure"),
        (lambda error: "busy" in str(error), OSError("busy"), "failure"),
        (lambda error: "busy" in str(error), OSError("gone"), "success"),
        (lambda _: True, KeyboardInterrupt(), "neither"),
    ],
)
def test_what_counts_as_a_failure(is_failure: Any, error: BaseException, counts: str) -> None:
    """Every error, or what `is_failure` says; the rest is success, and what says nothing is neither."""
    service = Service(is_failure=is_failure, fail_threshold=2)
    service.ask.breaker.restore(0, 2, 1)
    assert service.try_with(error) is error
    assert service.ask.state == {"failure": "open", "success": "closed", "neither": "half_open"}[counts]


def test_a_judge_that_fails_gives_the_trial_back() -> None:
    """Its error comes out with the function's as context, and the next call is the trial."""
    first = OSError("down")

    def is_failure(error: Exception) -> bool:
        raise KeyError(str(error))

    service = Service(is_failure=is_failure)
    service.ask.breaker.restore(0, 3, 1)
    second = service.try_with(first)
    assert isinstance(second, KeyError)
    assert second.__context__ is first
    assert service.ask.state == "half_open"
    assert service.try_with("ok") == "ok"


def test_a_breaker_inside_another_does_not_open_it() -> None:
    """The outer function is refused by the inner one, and that does not count against it."""
    inner = opened()
    outer = Service()
    for _ in range(5):
        assert isinstance(outer.try_with(lambda: inner.ask()), CircuitOpenError)
    assert outer.snapshot == Snapshot("closed", 0, 0, 0.0)


class Client:
    """An object whose methods are guarded."""

    def __init__(self, down: bool = False) -> None:
        self.down = down

    @circuit_breaker(fail_threshold=2)
    def ask(self, question: str, *, loud: bool = False) -> str:
        """Answer."""
        if self.down:
            raise OSError("down")
        return question.upper() if loud else question

    @circuit_breaker(fail_threshold=2)
    async def ask_async(self, question: str) -> str:
        """Answer later."""
        await asyncio.sleep(0)
        return question

    @staticmethod
    @circuit_breaker
    def plain(question: str) -> str:
        """Have no instance."""
        return question

    @classmethod
    @circuit_breaker
    def of_class(cls, question: str) -> str:
        """Have a class."""
        return f"{cls.__name__}: {question}"


class LoudClient(Client):
    """A subclass that uses the method of its base."""

    def ask(self, question: str, *, loud: bool = True) -> str:  # type: ignore[override]
        """Answer."""
        return super().ask(question, loud=loud)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for guarded in (Client.ask, Client.ask_async, Client.plain):
        guarded.reset()


def test_methods_are_bound_to_their_instance() -> None:
    """Through an instance, the class, a subclass, and as class and static methods."""
    assert (Client().ask("a", loud=True), Client.ask(Client(), "a"), LoudClient().ask("a")) == ("A", "a", "A")
    of_class: Any = Client.of_class
    assert (Client.plain("a"), Client().plain("a"), of_class("a")) == ("a", "a", "Client: a")
    assert asyncio.run(Client().ask_async("a")) == "a"


def test_all_instances_share_one_breaker() -> None:
    """What fails through one object is refused through another; other methods have their own."""
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            Client(down=True).ask("a")
    with pytest.raises(CircuitOpenError, match=r"test_breaker\.Client\.ask has failed"):
        Client().ask("a")
    assert (Client().ask.state, Client.ask.state, Client().ask_async.state) == ("open", "open", "closed")
    assert Client().ask.breaker is Client.ask.breaker
    Client().ask.reset()
    assert Client().ask("a") == "a"


def test_a_guarded_function_looks_like_itself() -> None:
    """Its name, docstring and signature are kept, bound or not, and an async one is still seen as async."""
    bound = Client().ask
    assert (Client.ask.__name__, Client.ask.__doc__, bound.__doc__) == ("ask", "Answer.", "Answer.")  # type: ignore[attr-defined]
    assert list(inspect.signature(Client.ask).parameters) == ["self", "question", "loud"]
    assert list(inspect.signature(bound).parameters) == ["question", "loud"]
    for guarded, is_async in ((Client.ask_async, True), (Client().ask_async, True), (Client.ask, False)):
        assert inspect.iscoroutinefunction(type(guarded).__call__) is is_async
    assert repr(Client.ask) == f"<guarded {__name__}.Client.ask: closed>"
    assert repr(bound.breaker) == f"<circuit breaker {__name__}.Client.ask: closed>"


def test_each_function_has_its_own_breaker() -> None:
    """Also when one decorator is used twice, and with the same name."""
    guard = circuit_breaker(name="same")
    one, other = guard(fail), guard(fail)
    assert one.breaker is not other.breaker
    assert (one.breaker.name, circuit_breaker(fail).breaker.name) == ("same", f"{__name__}.fail")


def test_async_functions_are_guarded_while_they_are_awaited() -> None:
    """Their errors count when they are raised, not when the call is made."""

    @circuit_breaker(fail_threshold=1)
    async def ask() -> None:
        await asyncio.sleep(0)
        raise OSError("down")

    never_awaited = ask()
    never_awaited.close()
    assert ask.state == "closed"
    with pytest.raises(OSError, match="down"):
        asyncio.run(ask())
    with pytest.raises(CircuitOpenError):
        asyncio.run(ask())


def test_whatever_can_be_called_can_be_guarded() -> None:
    """Partials, objects that are called, functions in C, and guarded functions."""

    class Doubler:
        def __call__(self, n: int) -> int:
            return 2 * n

    class Holder:
        double = circuit_breaker(Doubler())
        hexed = circuit_breaker(functools.partial(int, base=16))

    assert (circuit_breaker(len)("abc"), Holder().double(4), Holder().hexed("ff")) == (3, 8, 255)
    assert Holder.double.breaker.name.endswith("Doubler")
    twice = circuit_breaker(circuit_breaker(fail_threshold=1)(fail))
    for error in (OSError, CircuitOpenError, CircuitOpenError, CircuitOpenError):
        with pytest.raises(error):
            twice()
    assert twice.breaker.snapshot().failures == 1


def numbers() -> Iterator[int]:
    """A generator."""
    yield 1


async def numbers_async() -> AsyncIterator[int]:
    """An async generator."""
    yield 1


@pytest.mark.parametrize(
    "fn",
    [numbers, numbers_async, functools.partial(numbers), 3, "ask", Client, staticmethod(fail), classmethod(fail)],  # type: ignore[arg-type]
    ids=["generator", "async generator", "partial", "number", "text", "class", "static", "classmethod"],
)
def test_what_cannot_be_guarded_is_refused(fn: Any) -> None:
    """Generators fail while they are read, and the rest is no function."""
    for decorate in (circuit_breaker, circuit_breaker(cooldown="1s")):
        with pytest.raises(SpecError, match="@circuit_breaker"):
            decorate(fn)


@pytest.mark.parametrize(
    "options",
    [
        {"fail_threshold": 0},
        {"fail_threshold": True},
        {"fail_threshold": 2.0},
        {"cooldown": 0},
        {"cooldown": "soon"},
        {"cooldown": math.inf},
        {"backoff": "linear"},
        {"backoff": None},
        {"backoff": []},
        {"max_cooldown": "60s"},
        {"max_cooldown": "60s", "backoff": "fixed"},
        {"max_cooldown": "10s", "backoff": "exponential"},
        {"max_cooldown": 0, "backoff": "exponential"},
        {"is_failure": "OSError"},
        {"is_failure": ()},
        {"is_failure": KeyboardInterrupt},
        {"is_failure": int},
        {"is_failure": asyncio.sleep},
        {"name": ""},
        {"name": 3},
    ],
)
def test_options_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    """At once, before there is a function."""
    option, value = next(iter(options.items()))
    with pytest.raises(SpecError) as caught:
        circuit_breaker(**options)
    assert str(caught.value).startswith(f"circuit_breaker({option}={value!r})")


def test_durations_are_written_as_everywhere() -> None:
    """Words, numbers of seconds, and timedeltas."""
    given: list[Any] = ["1m30s", 90, timedelta(seconds=90)]
    assert {CircuitBreaker("x", cooldown=cooldown).cooldown for cooldown in given} == {90.0}


def test_changes_are_told_outside_the_lock(changes: list[str]) -> None:
    """Each change is told once, with the new state; what changes nothing, or is restored, is not told."""
    service = half_opened()
    service.try_with(OSError())
    service.clock.advance(30)
    service.try_with(KeyboardInterrupt())
    service.try_with("ok", 2)
    service.ask.reset()
    service.try_with(OSError(), 3)
    service.ask.reset()
    service.ask.breaker.restore(5, 3, 1)
    closed_again = ["half_open", "closed", "open", "closed"]
    assert changes == ["open", "half_open", "open", *closed_again]


def test_a_hook_that_fails_gives_the_trial_back() -> None:
    """Its error reaches the caller, and the breaker is as it would be without it."""
    service = half_opened()

    def fails(changed: CircuitBreaker, state: str) -> None:
        raise ZeroDivisionError

    service.ask.breaker.on_change = fails
    assert isinstance(service.try_with("ok"), ZeroDivisionError)
    assert (service.ask.state, service.calls) == ("half_open", 3)
    service.ask.breaker.on_change = None
    assert service.try_with("ok") == "ok"


def test_a_breaker_can_be_restored_before_a_call() -> None:
    """What is asked before each call may open the breaker as it once was, and the call is refused then."""
    service = Service(backoff="exponential")
    asked: list[CircuitBreaker] = []

    def restore(about: CircuitBreaker) -> None:
        if not asked:
            about.restore(7, 4, 2)
        asked.append(about)

    service.ask.breaker.before_call = restore
    error = service.try_with("ok")
    assert isinstance(error, CircuitOpenError)
    assert (error.retry_after, service.snapshot) == (7.0, Snapshot("open", 4, 2, 7.0))
    service.clock.advance(7)
    service.try_with(OSError())
    assert (service.snapshot, asked) == (Snapshot("open", 5, 3, 120.0), [service.ask.breaker] * 2)


@pytest.mark.parametrize("prepare", [opened, half_opened])
def test_only_a_closed_breaker_is_restored(prepare: Callable[[], Service]) -> None:
    """What is known now is newer."""
    service = prepare()
    before = service.snapshot
    service.ask.breaker.restore(99, 9, 9)
    assert service.snapshot == before


def test_a_check_before_a_call_may_refuse_it() -> None:
    """Its error goes to the caller, and counts neither for nor against the function."""
    service = half_opened()

    def refuse(about: CircuitBreaker) -> None:
        raise ZeroDivisionError

    service.ask.breaker.before_call = refuse
    assert isinstance(service.try_with("ok"), ZeroDivisionError)
    assert (service.ask.state, service.calls) == ("half_open", 3)


def test_it_keeps_time_by_itself() -> None:
    """Without a clock of the test's own, the machine's is used."""

    @circuit_breaker(fail_threshold=1, cooldown="1ms")
    def ask() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        ask()
    with pytest.raises(OSError, match="down"):  # noqa: PT012 - refused until the millisecond is over
        while True:
            try:
                ask()
            except CircuitOpenError:
                continue
    assert ask.breaker.snapshot().openings == 2
