"""Gains are weighed against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from driving import Draft, Maker, columns, go, grow, scripted, size
from hypothesis import given
from hypothesis import strategies as st
from test_noise import Counted

from loomc_runner import BestScore, Budget, BudgetExhausted, CostError, LastGood, SpecError, diminishing_returns, spend
from loomc_runner.converge import all_of, target
from loomc_runner.records import NANO, StepRecord
from loomc_runner.scores import Direction, gain
from loomc_runner.testing import a_step


def steps_of(
    scores: Sequence[float | None], costs: Sequence[float | None], direction: Direction = "maximize"
) -> list[StepRecord[Any]]:
    """The steps of a run with these scores and dollars; None where a step failed, or nobody recorded a cost."""
    steps: list[StepRecord[Any]] = []
    best: int | None = None
    for n, (score, usd) in enumerate(zip(scores, costs, strict=True)):
        if score is not None and (best is None or gain(score, scores[best] or 0.0, direction) > 0):
            best = n
        error = "OSError: away" if score is None else None
        nano = None if usd is None else round(usd * NANO)
        steps.append(a_step(n, score=score, nano_usd=nano, best_n=best, error=error))
    return steps


RISING = [0.0, 0.5, 0.75, 0.875, 0.9375]


@pytest.mark.parametrize(
    ("least", "window", "scores", "costs", "stops"),
    [
        (0.1, 2, [], [], False),
        (0.1, 2, [0.5, 0.5], [1, 1], False),  # too few to tell
        (0.1, 2, [0.5, 0.5, 0.5], [1, 1, 1], True),
        (0.1, 2, RISING, [1] * 5, True),  # 0.1875 for two dollars
        (0.09, 2, RISING, [1] * 5, False),
        (0.1, 2, RISING, [1, 1, 1, 0.5, 0.5], False),
        (0.3, 1, [0.1, 0.4], [1, 1], False),  # 0.4 - 0.1 is 0.3000000...4; exactly as much is enough
        (0.1, 1, [0.2, 0.3], [1, 1], False),  # and so is 0.0999...
        (0.1, 2, [0.5, 0.9, 0.4, 0.4], [1, 1, 1, 1], True),  # the best is kept: nothing gained since
        (0.1, 3, [0.5, 0.9, 0.4, 0.4], [1, 1, 1, 1], False),
        (0.1, 2, [0.5, None, 0.6, None, 0.7], [1, 1, 0.1, 1, 0.1], True),  # failures have cost 2 dollars of 2.2
        (0.1, 2, [0.5, None, 0.6, None, 0.7], [1, None, 0.1, None, 0.1], False),
        (0.1, 2, [0.5, None, 0.5, None, None], [1, 1, 1, 1, 1], False),
        (0.1, 2, [0.5, 0.5, 0.5], [1, 0, 0], False),  # steps that cost nothing are worth it
        (0.1, 2, [0.5, 0.5, 0.5], [1, None, 0], False),
        (0.1, 1, [0.5, 0.5], [None, 1], True),
    ],
)
def test_a_loop_stops_when_a_dollar_gains_too_little(least, window, scores, costs, stops):
    """The best score's gain over the last scored steps, by the dollars of all steps since the one before them."""
    assert (diminishing_returns(least, window)(steps_of(scores, costs)) is not None) is stops
    turned = steps_of([None if score is None else -score for score in scores], costs, "minimize")
    assert (diminishing_returns(least, window, "minimize")(turned) is not None) is stops


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 8), st.none() | st.integers(0, 4)), max_size=12),
    st.integers(1, 4),
    st.sampled_from([0.25, 1.0, 3.0]),
    st.sampled_from(["maximize", "minimize"]),
)
def test_the_answer_is_that_of_the_whole_history(told, window, least, direction):
    """However few records are read, the rule is the one that is documented."""
    scores, costs = [score for score, _ in told], [usd for _, usd in told]
    scored = [n for n, score in enumerate(scores) if score is not None]
    steps, detect = steps_of(scores, costs, direction), diminishing_returns(least, window, direction)
    if len(scored) <= window:
        assert detect(steps) is None
        return
    base = scored[-window - 1]
    paid = [usd for usd in costs[base + 1 :] if usd is not None]
    if not paid:
        with pytest.raises(CostError):
            detect(steps)
        return
    better = max if direction == "maximize" else min
    now, then = (better(score for score in part if score is not None) for part in (scores, scores[: base + 1]))
    assert (detect(steps) is not None) is (gain(now, then, direction) < least * sum(paid) and sum(paid) > 0)


@pytest.mark.parametrize(
    ("least", "scores", "reason"),
    [
        (0.01, [0.5, 0.504], "diminishing_returns: a gain of 0.004 a dollar, less than 0.01"),
        (0.01, [0.5, 0.4], "diminishing_returns: a gain of 0 a dollar, less than 0.01"),
        (0.01, [0.5, 0.509999], "diminishing_returns: a gain of 0.009999 a dollar, less than 0.01"),
    ],
)
def test_the_reason_tells_both_figures(least, scores, reason):
    """They are told apart also when they are nearly the same."""
    assert diminishing_returns(least, 1)(steps_of(scores, [1, 1])) == reason
    assert str(diminishing_returns(least)) == "diminishing_returns(min_gain_per_usd=0.01)"


def test_where_nobody_recorded_a_cost_it_is_an_error_with_its_fix():
    """The rule is never silently off; a step that costs nothing says so."""
    steps = steps_of([0.5, 0.6, None, 0.7], [1, None, None, None])
    with pytest.raises(CostError, match=r"steps 1 to 3 cost; call spend\(usd=\.\.\.\).*cost_fn= or track\(client\)"):
        diminishing_returns(0.1, 2)(steps)
    assert diminishing_returns(0.1, 3)(steps) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_gain_per_usd": 0}, "above zero"),
        ({"min_gain_per_usd": -0.1}, r"min_gain_per_usd=-0\.1"),
        ({"min_gain_per_usd": float("nan")}, "min_gain_per_usd=nan"),
        ({"min_gain_per_usd": float("inf")}, "min_gain_per_usd=inf"),
        ({"min_gain_per_usd": "0.1"}, "min_gain_per_usd='0.1'"),
        ({"min_gain_per_usd": True}, "min_gain_per_usd=True"),
        ({"min_gain_per_usd": 0.1, "window": 0}, "window=0"),
        ({"min_gain_per_usd": 0.1, "window": 2.0}, r"window=2\.0"),
        ({"min_gain_per_usd": 0.1, "direction": "up"}, "direction='up'"),
    ],
)
def test_values_that_cannot_work_are_refused(options, words):
    """Each is named with its value when it is declared."""
    with pytest.raises(SpecError, match=rf"diminishing_returns\(.*{words}"):
        diminishing_returns(**options)


def test_it_needs_scores(memory):
    """A loop without a scorer is refused; so is one that looks the other way."""
    make = Maker(memory, is_async=False)
    with pytest.raises(SpecError, match=r"diminishing_returns\(min_gain_per_usd=0\.1\) compares scores; add scorer="):
        make(grow, converge_on=diminishing_returns(0.1))
    with pytest.raises(SpecError, match="disagree"):
        make(grow, scorer=size, converge_on=[diminishing_returns(0.1), target(1, "minimize")])


def paying(usd: float, *scores: float) -> Any:
    """A step at that price, with these scores one after the other."""
    step = scripted(*scores)

    def paid(draft: Draft) -> Draft:
        spend(usd=usd)
        after = step(draft)
        return after if after.n >= 0 else Draft(0 // 0)

    return paid


SCORES = (2, 4, 1, 6, -1, 7, 7, 7, 9)


def test_a_run_stops_where_its_money_gains_too_little_also_after_a_resume(make):
    """Regressions and failures have cost money; a run that is cut after each step stops at the same one."""
    options = {
        "scorer": size,
        "backtrack": [BestScore(), LastGood()],
        "converge_on": diminishing_returns(2.0, window=3),
    }
    whole = go(make(paying(0.25, *SCORES), **options).run(Draft(), run_id="whole"))
    assert whole.stop_reason == "converged: diminishing_returns: a gain of 1 a dollar, less than 2"
    assert columns(make.store.steps("whole"), "step_n")[-1] == (7,)
    pieces = make(paying(0.25, *SCORES), **options)
    go(pieces.with_options(budget=Budget(iterations=1)).run(Draft(), run_id="cut"))
    for total in range(2, whole.steps):
        with pytest.raises(BudgetExhausted):
            go(pieces.resume("cut", budget=Budget(iterations=total)))
    go(pieces.resume("cut", budget=Budget(iterations=20)))
    assert [make.store.get_run(name).stop_reason for name in ("cut", "whole")] == [whole.stop_reason] * 2
    assert make.store.get_run("cut").steps == whole.steps


def test_what_if_weighs_recorded_money(memory):
    """Over a record the rule stops where it would have stopped the run, and tells what that would have saved."""
    refine = Maker(memory, is_async=False)(paying(0.25, 1, 3, 4, 4, 4, 4), scorer=size, budget=Budget(iterations=6))
    refine.run(Draft(), run_id="r")
    asked = refine.what_if("r", converge_on=diminishing_returns(2.5, window=2))
    assert (asked.stop_step, asked.saved_usd, asked.score_lost) == (3, 0.5, 0)
    assert refine.what_if("r", converge_on=all_of(diminishing_returns(2.5, 2), target(5))).stop_step is None


def test_a_run_without_costs_keeps_the_step_that_it_could_not_weigh(make):
    """The run fails with the fix in words, its steps are there, and with another rule it goes on."""
    refine = make(grow, scorer=size, converge_on=diminishing_returns(0.1, window=2))
    with pytest.raises(CostError, match="nobody recorded what steps 1 to 2 cost"):
        go(refine.run(Draft(), run_id="r"))
    assert (make.store.get_run("r").status, len(make.store.steps("r"))) == ("failed", 3)
    assert go(refine.with_options(converge_on=target(5)).resume("r")) == Draft(5)


def test_a_long_history_costs_no_more_than_a_short_one():
    """Of 100,000 steps only those of the window are looked at."""
    steps = Counted(a_step(n, score=1.0, nano_usd=NANO, best_n=0) for n in range(100_000))
    assert diminishing_returns(0.1)(steps) is not None
    assert steps.looks < 20
