"""What would have become of a run under other rules is what becomes of a run under them."""

from __future__ import annotations

from contextlib import suppress
from itertools import count, islice
from typing import Any

import pytest
from driving import Draft, Maker, go, grow, make_async, scripted, size, until
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import (
    BestScore,
    Budget,
    Done,
    Escalate,
    LastGood,
    Retry,
    all_of,
    judge,
    predicate,
    score_plateau,
    spend,
    target,
)
from loomc_runner.errors import LoomcError, RunMismatch, SpecError
from loomc_runner.records import Run
from loomc_runner.store.memory import MemoryStore
from loomc_runner.whatif import WhatIf

LENGTH = 14

WORLDS = st.fixed_dictionaries(
    {
        "scores": st.lists(st.integers(0, 4), min_size=LENGTH, max_size=LENGTH),
        "spent": st.lists(st.integers(0, 4), min_size=LENGTH, max_size=LENGTH),
        "priced": st.lists(st.sampled_from([0, 0, 2]), min_size=LENGTH, max_size=LENGTH),
        "failures": st.sets(st.integers(0, LENGTH - 2), max_size=6),
        "last": st.integers(0, LENGTH - 1),
    }
)
WAYS = st.fixed_dictionaries(
    {
        "backtrack": st.lists(st.sampled_from([BestScore(), LastGood()]), unique_by=type, max_size=2),
        "on_stall": st.sampled_from([None, Escalate(after=4), Escalate(2, lambda draft, _: draft)]),
        "retry": st.sampled_from([None, Retry(attempts=2, wait=0)]),
    }
)
PLATEAUS = st.builds(score_plateau, st.integers(1, 4), st.sampled_from([0.0, 1.0]))
TARGETS = st.builds(target, st.integers(1, 4))
LENGTHS = st.integers(1, LENGTH).map(lambda n: predicate(lambda history: len(history) >= n))
DETECTORS = st.lists(PLATEAUS | TARGETS | LENGTHS | st.builds(all_of, PLATEAUS, TARGETS), max_size=2)
BUDGETS = st.builds(
    Budget,
    usd=st.none() | st.integers(0, 20).map(lambda cents: cents / 100),
    iterations=st.none() | st.integers(1, LENGTH + 1),
    step_usd=st.none() | st.sampled_from([0.01, 0.03]),
)


class World:
    """A loop whose tries have scores, costs and failures as listed, the same whenever it is run."""

    def __init__(self, ways: dict[str, Any], *, scores, spent, priced, failures, last) -> None:
        self.scores, self.spent, self.failures, self.last = scores, spent, failures, last
        self.store, self.tries = MemoryStore(), count()
        self.loop = sync(self.store)(
            lambda draft: self.take(draft),
            scorer=lambda draft: scores[draft.n],
            cost_fn=lambda draft: priced[draft.n] / 100,
            budget=Budget(),
            **ways,
        )

    def take(self, draft: Draft) -> Draft | Done[Draft, None]:
        """The next try, wherever it starts from."""
        here = next(self.tries)
        spend(usd=self.spent[here] / 200)
        spend(usd=self.spent[here] / 200)
        if here in self.failures:
            raise ConnectionError("away")
        return Done(Draft(here)) if here >= self.last else Draft(here)

    def run(self, run_id: str, pause_after: int = LENGTH, **options: Any) -> Run:
        """Run it from the beginning, with a pause after so many steps; an error is an end too."""
        self.tries, loop = count(), self.loop.with_options(**options)
        with suppress(ConnectionError, LoomcError):
            with loop.stream(Draft(), run_id=run_id) as steps:
                list(islice(steps, pause_after))
            loop.resume(run_id)
        return self.store.get_run(run_id)


def sync(store: MemoryStore) -> Maker:
    """What makes sync loops."""
    return Maker(store, is_async=False)


def recorded(*scores: float, usd: float = 0.25, **options: Any) -> Any:
    """A loop with a finished run `r` that has these scores, each of its steps at the same cost."""
    step, left = scripted(*scores), len(scores)
    options = {"scorer": size, "cost_fn": lambda _: usd, **options}
    refine = sync(MemoryStore())(step, budget=Budget(iterations=left), **options)
    refine.run(Draft(), run_id="r")
    return refine


@given(WORLDS, WAYS, DETECTORS, BUDGETS, st.integers(1, LENGTH))
def test_what_if_says_what_a_run_under_the_rules_does(
    world: Any, ways: Any, detectors: Any, budget: Budget, pause_after: int
) -> None:
    """Reason, steps and money are those of a real run under these rules; restores, failures and retries count."""
    made = World(ways, **world)
    before = made.run("before", pause_after)
    after = made.run("after", converge_on=detectors, budget=budget)
    asked = made.loop.what_if("before", converge_on=[*detectors, predicate(lambda _: None)], budget=budget)
    assert (asked.stop_reason or before.stop_reason) == after.stop_reason
    assert (before.steps if asked.stop_step is None else asked.stop_step + 1) == after.steps
    assert asked.would_cost_usd == after.cost_usd
    assert asked.saved_usd == pytest.approx(before.cost_usd - after.cost_usd)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_detector_decides_over_the_record_as_it_decided_in_the_run(direction: Any, patience: int) -> None:
    """Asked with its own rule, a run stops where it stopped; the direction may be either one."""
    detector = score_plateau(patience, direction=direction)
    scores = (3, 2, 4, 4, 2, 1, 1, 1, 1, 1, 5)
    refine = recorded(*scores, converge_on=detector, backtrack=BestScore(direction=direction))
    run = refine.spec.checkpoint.get_run("r")
    asked = refine.what_if("r", converge_on=detector)
    assert (asked.stop_step, asked.stop_reason) == (run.steps - 1, run.stop_reason)
    assert (asked.saved_usd, asked.score_lost) == (0, 0)


def test_what_is_saved_and_lost_is_told() -> None:
    """Money is compared with all that was spent, and the best score by then with the best one in the end."""
    asked = recorded(1, 3, 2, 6).what_if("r", converge_on=score_plateau(patience=1))
    assert asked == WhatIf("r", 4, 1.0, 6.0, 2, "converged: score_plateau(patience=1)", 0.75, 3.0, 0.25, 3.0)
    assert recorded(5, 1, backtrack=BestScore(direction="minimize")).what_if(
        "r", budget=Budget(iterations=1)
    ) == WhatIf("r", 2, 0.5, 1.0, 0, "budget: iterations 1 of 1", 0.25, 5.0, 0.25, 4.0)


def test_a_rule_that_stops_nothing_says_so() -> None:
    """A run that would have gone on longer than its record is no error: nothing is saved or lost."""
    asked = recorded(1, 2).what_if("r", converge_on=target(9), budget=Budget(usd=9, iterations=9))
    assert asked == WhatIf("r", 2, 0.5, 2.0, None, None, 0.5, 2.0, 0.0, 0.0)


def test_a_budget_may_not_let_a_run_begin() -> None:
    """Where not even the first step fits, the run stops before it: after step -1, with nothing spent."""
    asked = recorded(1, 2).what_if("r", budget=Budget(usd=0.1, step_usd=0.2))
    assert (asked.stop_step, asked.would_cost_usd, asked.saved_usd) == (-1, 0.0, 0.5)
    assert (asked.would_score, asked.score_lost) == (None, None)


@pytest.mark.parametrize(
    ("pay", "stop_step", "cost", "doubt"), [("spend", 0, 0.75, "step 1 is cut off"), ("cost_fn", 1, 1.0, "")]
)
def test_a_step_that_crosses_the_cap_is_cut_off_there_unless_it_had_returned(pay, stop_step, cost, doubt) -> None:
    """`spend` stops a step in the middle; what a cost function charges belongs to a state that is kept."""

    def step(draft: Draft) -> Draft:
        for _ in range(2 if pay == "spend" else 0):
            spend(usd=0.25)
        return grow(draft)

    priced = {"cost_fn": lambda _: 0.5} if pay == "cost_fn" else {}
    refine = sync(MemoryStore())(step, budget=Budget(iterations=3), **priced)
    refine.run(Draft(), run_id="r")
    asked = refine.what_if("r", budget=Budget(usd=0.7, step_usd=0.1))
    assert (asked.stop_step, asked.would_cost_usd) == (stop_step, cost)
    assert [words[: len(doubt)] for words in asked.unknown] == ([doubt] if doubt else [])


def test_money_of_failed_tries_counts_towards_the_cap() -> None:
    """The charge that crosses it is found among those of all tries of the step."""
    tries = count()

    def step(draft: Draft) -> Draft:
        if next(tries) == 0:
            spend(usd=0.125)
            raise ConnectionError("away")
        spend(usd=0.25)
        spend(usd=0.5)
        return grow(draft)

    refine = sync(MemoryStore())(step, budget=Budget(iterations=1), retry=Retry(attempts=2, wait=0))
    refine.run(Draft(), run_id="r")
    assert refine.what_if("r", budget=Budget(usd=0.6)).would_cost_usd == 0.875


def test_detectors_are_not_asked_about_a_step_that_failed() -> None:
    """As in a run: a failure that was absorbed is no reason to look whether it is good enough."""
    tries = count()

    def step(draft: Draft) -> Draft:
        if next(tries) == 1:
            raise ConnectionError("away")
        return grow(draft)

    refine = sync(MemoryStore())(step, backtrack=LastGood(), budget=Budget(iterations=4))
    refine.run(Draft(), run_id="r")
    assert refine.what_if("r", converge_on=predicate(lambda history: len(history) >= 2)).stop_step == 2


def test_a_run_that_ended_by_itself_is_not_stopped_after_its_last_step() -> None:
    """A stall and a broken scorer end a run before the budget is looked at."""
    assert recorded(1, 1, 1, 1, on_stall=Escalate(after=2)).what_if("r", budget=Budget(iterations=3)).stop_step is None
    refine = sync(MemoryStore())(grow, scorer=lambda draft: {1: 1.0, 2: 2.0}[draft.n], budget=Budget())
    with pytest.raises(KeyError):
        refine.run(Draft(), run_id="r")
    assert refine.what_if("r", budget=Budget(iterations=3)).stop_step is None
    assert refine.what_if("r", budget=Budget(iterations=2)).stop_step == 1


def test_child_runs_under_a_dollar_cap_are_a_doubt_that_is_told() -> None:
    """Where inside a step the cap would have stopped child runs is not on record: all the step spent is counted."""
    make = sync(MemoryStore())
    child = make(grow, name="child", budget=Budget(iterations=2), cost_fn=lambda _: 0.25)

    def step(draft: Draft) -> Draft:
        child.run(draft)
        return grow(draft)

    parent = make(step, budget=Budget(iterations=2))
    parent.run(Draft(), run_id="r")
    asked = parent.what_if("r", budget=Budget(usd=0.6, step_usd=0.1))
    assert (asked.stop_step, asked.would_cost_usd, len(asked.unknown)) == (0, 1.0, 2)
    assert parent.what_if("r", budget=Budget(iterations=1)).unknown == ()


def test_a_detector_of_ones_own_may_look_at_states_and_at_the_past() -> None:
    """It sees the history as it was then: nothing after the step, and no decision about the step itself."""
    seen: list[Any] = []

    def look(history: Any) -> bool:
        seen.append((len(history), history[0].state.n, [step.decision for step in history[-2:]], history[-1].best_n))
        return False

    recorded(3, 1, 4, backtrack=BestScore()).what_if("r", converge_on=predicate(look))
    assert seen == [(1, 3, [None], 0), (2, 3, [None, None], 0), (3, 3, ["restore 0", None], 2)]
    with pytest.raises(IndexError):
        recorded(1).what_if("r", converge_on=lambda history: history[1])


def test_several_runs_are_asked_at_once() -> None:
    """A list of ids gives a list of answers in its order; a run at work, or one without steps, is no error."""
    refine = recorded(1, 2, 3)
    refine.fork("r", step=0)
    new = next(run.id for run in refine.spec.checkpoint.list_runs() if run.id != "r")
    asked = refine.what_if([new, "r"], converge_on=target(2))
    assert [(one.run_id, one.stop_step) for one in asked] == [(new, None), ("r", 1)]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, "name a rule"),
        ({"budget": Budget()}, "name a rule"),
        ({"backtrack": BestScore()}, "other steps would have been taken"),
        ({"converge_on": judge(bool)}, "judge.*does not tell its answers"),
        ({"converge_on": all_of(target(1), judge(bool))}, "judge.*does not tell its answers"),
        ({"converge_on": make_async(until(2))}, "is async"),
        ({"converge_on": 3}, "give a detector"),
        ({"budget": Budget(wall_clock="1m")}, r"Budget\(wall_clock='60s'\).*record does not tell"),
        ({"budget": Budget(tokens=9, usd=1)}, r"Budget\(tokens=9\).*record does not tell"),
        ({"budget": Budget(strict=True, usd=1)}, r"Budget\(strict=True\).*record does not tell"),
        ({"converge_on": target(1, "minimize")}, "disagree"),
    ],
)
def test_what_the_record_cannot_tell_is_refused(rules: dict[str, Any], words: str) -> None:
    """Every refusal says why."""
    with pytest.raises(SpecError, match=words):
        recorded(1, 2, backtrack=BestScore()).what_if("r", **rules)


def test_async_detectors_of_async_loops_are_refused_too() -> None:
    """Nothing is waited for over a record, and an async loop is asked as a sync one is."""
    refine = Maker(MemoryStore(), is_async=True)(grow, scorer=size, budget=Budget(iterations=3))
    go(refine.run(Draft(), run_id="r"))
    assert refine.what_if("r", converge_on=target(2)).stop_step == 1
    with pytest.raises(SpecError, match="is async"):
        refine.what_if("r", converge_on=make_async(until(2)))


def test_scores_that_are_not_there_are_refused() -> None:
    """A rule about scores says nothing over a run without any; one about money does."""
    store = MemoryStore()
    sync(store)(grow, budget=Budget(iterations=3)).run(Draft(), run_id="r")
    scored = sync(store)(grow, scorer=size)
    with pytest.raises(SpecError, match="compares scores, and run r has none"):
        scored.what_if("r", converge_on=target(2))
    assert scored.what_if("r", budget=Budget(iterations=2)).stop_step == 1


def test_the_other_direction_is_refused_where_the_run_went_back_by_its_own() -> None:
    """To a run that never went back it may be asked; one that did would have taken other steps."""
    straight = recorded(3, 4, 2)
    assert straight.what_if("r", converge_on=target(2, "minimize")).stop_step == 2
    assert straight.what_if("r", converge_on=score_plateau(1, direction="minimize")).stop_step == 1
    store = recorded(3, 2, 4, backtrack=BestScore()).spec.checkpoint
    with pytest.raises(SpecError, match="was to maximize its scores and went back after step 1"):
        sync(store)(grow, scorer=size).what_if("r", converge_on=target(1, "minimize"))


def test_runs_of_other_loops_are_refused() -> None:
    """A loop is asked about its own runs; the command asks about any."""
    refine = recorded(1, 2)
    with pytest.raises(RunMismatch):
        sync(refine.spec.checkpoint)(grow, name="another").what_if("r", budget=Budget(usd=1))


class Reading(MemoryStore):
    """A store that notes how many steps it has given, and the most at once."""

    given = most = 0

    def steps(self, run_id: str, start: int = 0, stop: int | None = None) -> Any:
        """A window of steps."""
        found = super().steps(run_id, start, stop)
        self.given, self.most = self.given + len(found), max(self.most, len(found))
        return found


def test_a_long_run_is_read_in_windows_and_only_a_few_times() -> None:
    """Time grows with the run and memory does not: 3,000 steps are read a bounded number of times, a few at once."""
    store = Reading()
    refine = sync(store)(grow, scorer=lambda draft: -abs(draft.n - 700), budget=Budget(iterations=3000))
    refine.run(Draft(), run_id="r")
    store.given = store.most = 0
    far_back = predicate(lambda history: history[history[-1].best_n].score > 0)
    asked = refine.what_if("r", converge_on=[far_back, target(5)], budget=Budget(usd=3))
    assert asked.stop_step is None
    assert store.given < 6 * 3000
    assert store.most <= 512
