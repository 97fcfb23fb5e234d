"""A circuit breaker inside of a run: its changes are on record, and one that was open is open after a resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from driving import Draft, Maker, columns, die, dying, go, grow, timed

from loomc_runner import Budget, CircuitOpenError, Done, Retry, circuit_breaker, loop, tool
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FakeClock


def failing(cooldown: str = "30s", **options: Any) -> Any:
    """A function that fails as often as it is called, with a breaker around it, as every process makes it anew."""

    @circuit_breaker(fail_threshold=2, cooldown=cooldown, name="vendor", **options)
    def ask_vendor(error: str | None = "down") -> str:
        if error:
            raise OSError(error)
        return "ok"

    return ask_vendor


def trying(vendor: Any, times: int, then: Callable[[Draft], Any] = grow) -> Callable[[Draft], Any]:
    """A step that calls it so often, whatever comes of that."""

    def step(draft: Draft) -> Any:
        for _ in range(times):
            try:
                vendor()
            except (OSError, CircuitOpenError) as error:
                draft.words.append(type(error).__name__)
        return then(draft)

    return step


def test_changes_are_on_record(make: Maker) -> None:
    """Each with its step, the failures in a row, and when a trial is let through."""
    clock, vendor = FakeClock(), failing()
    vendor.breaker.clock = clock
    refine = timed(make(trying(vendor, 3), budget=Budget(iterations=2)), clock)
    result = go(refine.run(Draft(), run_id="r1"))
    assert result.state.words == ["OSError", "OSError", *["CircuitOpenError"] * 4]
    (opened,) = make.store.breakers("r1")
    assert (opened.step_n, opened.name, opened.state, opened.failures, opened.openings) == (0, "vendor", "open", 2, 1)
    assert opened.retry_at is not None
    assert (opened.retry_at - opened.at).total_seconds() == 30
    assert vendor.state == "open"


def test_an_open_breaker_is_open_after_a_resume(make: Maker) -> None:
    """In another process, where nothing is known of it; when its cooldown is over one call tries again."""
    clock, before, after = FakeClock(), failing(backoff="exponential"), failing(backoff="exponential")
    before.breaker.clock = after.breaker.clock = clock
    one = timed(make(trying(before, 2), budget=Budget(iterations=1)), clock)
    go(one.run(Draft(), run_id="r1"))
    other = timed(make(trying(after, 1), budget=Budget(iterations=1)), clock)
    clock.advance(10)
    result = go(other.stream(run_id="r1", budget=Budget(iterations=2)))
    assert result[-1].state.words[-1] == "CircuitOpenError"
    assert after.breaker.snapshot()[:3] == ("open", 2, 1)
    assert after.breaker.snapshot().retry_after == 20
    clock.advance(20)
    assert after.state == "half_open"
    go(other.stream(run_id="r1", budget=Budget(iterations=3)))
    assert after.breaker.snapshot() == ("open", 3, 2, 60.0)
    assert columns(make.store.breakers("r1"), "state") == [("open",), ("half_open",), ("open",)]


def test_an_open_breaker_survives_a_kill(disk: SQLite) -> None:
    """The change is on record at once: the process that goes on does not call the function."""
    calls: list[int] = []

    def one_life() -> None:
        vendor = failing()

        @loop(name="tests:draft", checkpoint=disk)
        def step(draft: Draft) -> Draft:
            trying(vendor, 2)(draft)
            return die(draft)

        step.run(Draft(), run_id="r1")

    assert dying(one_life) == 9
    vendor = failing()
    vendor.fn = lambda: calls.append(1)

    @loop(name="tests:draft", checkpoint=disk)
    def step(draft: Draft) -> Done[Draft, None]:
        return Done(trying(vendor, 3)(draft))

    assert step.resume("r1").words == ["CircuitOpenError"] * 3
    assert calls == []


def test_a_breaker_that_closed_again_stays_closed(make: Maker) -> None:
    """The newest change counts."""
    clock, vendor = FakeClock(), failing()
    vendor.breaker.clock = clock

    def step(draft: Draft) -> Draft:
        trying(vendor, 2)(draft)
        clock.advance(31)
        vendor(None)
        return grow(draft)

    refine = timed(make(step, budget=Budget(iterations=1)), clock)
    go(refine.run(Draft(), run_id="r1"))
    assert columns(make.store.breakers("r1"), "state") == [("open",), ("half_open",), ("closed",)]
    after = failing()
    refine = timed(make(lambda draft: Done(Draft(words=[after(None)]))), clock)
    assert go(refine.stream(run_id="r1", budget=Budget(iterations=2)))[-1].state.words == ["ok"]


def test_a_child_finds_the_breaker_as_the_tree_left_it(memory: MemoryStore) -> None:
    """What a child run has put on record holds for the whole tree after a resume."""
    before, after, make = failing(), failing(), Maker(memory, is_async=False)
    child = make(trying(before, 2), name="child", budget=Budget(iterations=1))
    parent = make(lambda draft: child.run(draft).state, budget=Budget(iterations=1))
    parent.run(Draft(), run_id="r1")
    other = make(trying(after, 1), budget=Budget(iterations=1))
    steps = list(other.stream(run_id="r1", budget=Budget(iterations=2)))
    assert steps[-1].state.words[-1] == "CircuitOpenError"


def test_a_retry_waits_until_the_breaker_lets_a_trial_through(make: Maker) -> None:
    """An open breaker is a transient error that says how long it lasts."""
    errors = ["down", "down"]
    vendor = failing(cooldown="50ms")
    waits: list[float] = []

    @tool(retry=Retry(attempts=4, wait="1ms", on=(OSError, CircuitOpenError)))
    def ask_vendor() -> str:
        try:
            return str(vendor(errors.pop() if errors else None))
        except CircuitOpenError as error:
            waits.append(error.retry_after)
            raise

    refine = make(lambda draft: Done(Draft(words=[ask_vendor()])))
    assert go(refine(Draft(), run_id="r1")).words == ["ok"]
    assert (len(waits), vendor.state) == (1, "closed")
    assert columns(make.store.calls("r1"), "status", "category") == [
        *[("failed", "unknown")] * 2,
        ("failed", "transient"),
        ("done", None),
    ]


def test_outside_of_a_run_nothing_is_on_record(make: Maker) -> None:
    """It works like anywhere, and a run that begins later finds it as it is."""
    vendor = failing()
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            vendor()
    refine = make(trying(vendor, 1), budget=Budget(iterations=1))
    assert go(refine.run(Draft(), run_id="r1")).state.words == ["CircuitOpenError"]
    assert make.store.breakers("r1") == []
