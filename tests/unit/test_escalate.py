"""A loop that does not get better stops, or is changed and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from driving import Draft, Maker, columns, die, dying, go, grow, make_async, scripted, size, until

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    Escalate,
    NotResumable,
    RunStatus,
    StallError,
    StepError,
    spend,
)
from loomc_runner.store.sqlite import SQLite


def decisions(make: Maker) -> list[str | None]:
    """What was decided after each step."""
    return [step.decision for step in make.store.steps("r1")]


def flat(draft: Draft) -> Draft:
    """A step that never gets better by itself."""
    return Draft(draft.n, [*draft.words, "step"])


def test_without_a_handler_a_stall_ends_the_run(make: Maker) -> None:
    """The call raises StallError, `run` tells of it, and the run waits to be forced."""
    refine = make(scripted(1, 3, 2, 3), scorer=size, on_stall=Escalate(after=2))
    with pytest.raises(StallError, match="no better score for 2 steps") as caught:
        go(refine(Draft(), run_id="r1"))
    assert (caught.value.run_id, caught.value.state, caught.value.best_state) == ("r1", Draft(3), Draft(3))
    run = make.store.get_run("r1")
    assert (run.status, run.stop_reason) == ("stalled", "stalled: no better score for 2 steps")
    assert decisions(make) == [None, None, None, "stalled"]
    with pytest.raises(NotResumable):
        go(refine.resume("r1"))


def test_run_tells_of_a_stall(make: Maker) -> None:
    """`run` does not raise for it."""
    result = go(make(flat, scorer=size, on_stall=Escalate(after=1)).run(Draft(4), run_id="r1"))
    assert (result.status, result.steps, result.best_step) == (RunStatus.STALLED, 2, 0)


def test_a_handler_changes_the_state_and_the_loop_goes_on(make: Maker) -> None:
    """The state it returns is what the next step starts from."""

    def another_model(draft: Draft, history: Any) -> Draft:
        return Draft(draft.n + 5, [f"changed after {len(history)}"])

    refine = make(flat, scorer=size, on_stall=Escalate(2, another_model), converge_on=until(6))
    assert go(refine(Draft(1), run_id="r1")) == Draft(6, ["changed after 3", "step"])
    assert decisions(make) == [None, None, "escalate", "stop"]
    assert columns(make.store.steps("r1"), "parent_n") == [(-1,), (0,), (1,), (2,)]


def test_a_handler_may_be_async(disk: SQLite) -> None:
    """In an async loop it is awaited."""

    @make_async
    def another_model(draft: Draft, history: Any) -> Draft:
        return grow(draft)

    refine = Maker(disk, is_async=True)(flat, scorer=size, on_stall=Escalate(1, another_model), converge_on=until(3))
    assert go(refine(Draft())).n == 3


def test_after_a_handler_the_count_begins_anew(make: Maker) -> None:
    """One stall calls it once; only as many steps without a gain again call it again."""
    calls: list[int] = []

    def note(draft: Draft, history: Any) -> Draft:
        calls.append(len(history))
        return draft

    go(make(flat, scorer=size, on_stall=Escalate(2, note), budget=Budget(iterations=8)).run(Draft()))
    assert calls == [3, 5, 7]


def test_what_a_handler_spends_is_the_next_steps(make: Maker) -> None:
    """It works inside the step that it prepares."""

    def ask_around(draft: Draft, history: Any) -> Draft:
        spend(usd=0.25)
        return draft

    options: dict[str, Any] = {"scorer": size, "on_stall": Escalate(1, ask_around), "cost_fn": lambda _: 1}
    go(make(flat, budget=Budget(usd=9, iterations=3), **options).run(Draft(), run_id="r1"))
    assert columns(make.store.steps("r1"), "cost_usd") == [(1.0,), (1.0,), (1.25,)]


@pytest.mark.parametrize("lives", [(6,), (1, 2, 3, 4, 5, 6)])
def test_a_handler_is_called_once_for_a_stall_over_resumes(make: Maker, lives: tuple[int, ...]) -> None:
    """A run that stopped between the stall and the next step calls it when it goes on, and not again."""
    calls: list[int] = []

    def note(draft: Draft, history: Any) -> Draft:
        calls.append(len(history))
        return grow(draft)

    refine = make(flat, scorer=lambda _: 1, on_stall=Escalate(2, note), budget=Budget(iterations=lives[0]))
    go(refine.run(Draft(), run_id="r1"))
    for total in lives[1:]:
        with pytest.raises(BudgetExhausted):
            go(refine.resume("r1", budget=Budget(iterations=total)))
    assert (calls, decisions(make)) == ([3, 5], [None, None, "escalate", None, "escalate", None])
    assert make.store.state("r1", 5).startswith('{"n":2,')


def test_a_stall_survives_a_kill(disk: SQLite) -> None:
    """A run that died after the stall, in the handler, calls it when it goes on."""
    make = Maker(disk, is_async=False)
    options: dict[str, Any] = {"scorer": size, "converge_on": until(1)}
    assert dying(lambda: make(flat, on_stall=Escalate(1, lambda d, _: die(d)), **options)(Draft(), run_id="r1")) == 9
    assert decisions(make) == [None, "escalate"]
    calm = make(flat, on_stall=Escalate(1, lambda draft, _: grow(draft)), **options)
    assert go(calm.resume("r1")) == Draft(1, ["step"] * 3)


@pytest.mark.parametrize("lives", [(4,), (3, 4)])
def test_a_handler_gets_the_restored_state(make: Maker, lives: tuple[int, ...]) -> None:
    """Where a strategy goes back as well, what is changed is the best state and not the newest."""
    got: list[Draft] = []

    def note(draft: Draft, history: Any) -> Draft:
        got.append(draft)
        return draft

    options: dict[str, Any] = {"backtrack": BestScore(), "on_stall": Escalate(2, note)}
    refine = make(scripted(3, 1, 2, 4), scorer=size, **options, budget=Budget(iterations=lives[0]))
    go(refine.run(Draft(), run_id="r1"))
    for total in lives[1:]:
        with pytest.raises(BudgetExhausted):
            go(refine.resume("r1", budget=Budget(iterations=total)))
    assert got == [Draft(3)]
    assert columns(make.store.steps("r1"), "parent_n", "decision")[2:] == [(0, "escalate"), (0, None)]


@pytest.mark.parametrize(("answer", "error"), [(None, StepError), (ZeroDivisionError(), ZeroDivisionError)])
def test_a_handler_that_goes_wrong_fails_the_run(make: Maker, answer: Any, error: type[Exception]) -> None:
    """It must give a state; the run that failed can go on, and asks again."""
    answers = [answer]

    def handle(draft: Draft, history: Any) -> Any:
        if not answers:
            return grow(draft)
        if isinstance(found := answers.pop(), Exception):
            raise found
        return found

    refine = make(flat, scorer=size, on_stall=Escalate(1, handle), converge_on=until(1))
    with pytest.raises(error):
        go(refine(Draft(), run_id="r1"))
    assert columns(make.store.attempts("r1"), "step_n") == [(2,)]
    assert go(refine.resume("r1")).n == 1
