"""Strategies say from which step to go on, from the history alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.backtrack import BestScore, LastGood
from loomc_runner.records import INITIAL, StepRecord
from loomc_runner.scores import Direction, gain
from loomc_runner.testing import a_step

FAILED = "ValueError: failed"


def scored(scores: Sequence[float | None], direction: Direction = "maximize") -> list[StepRecord[Any]]:
    """The steps of a run with these scores."""
    steps: list[StepRecord[Any]] = []
    best: int | None = None
    for n, score in enumerate(scores):
        before = None if best is None else scores[best]
        if score is not None and (before is None or gain(score, before, direction) > 0):
            best = n
        steps.append(a_step(n, score=score, best_n=best))
    return steps


def run_with(outcomes: str, strategy: LastGood) -> tuple[list[StepRecord[Any]], int | None]:
    """The steps of a run (`.` good, `x` failed) that goes on where the strategy says, and the last thing it said."""
    steps: list[StepRecord[Any]] = []
    parent, said = INITIAL, None
    for n, outcome in enumerate(outcomes):
        steps.append(a_step(n, parent_n=parent, error=FAILED if outcome == "x" else None))
        said = strategy(steps)
        parent = n if said is None else said
    return steps, said


@pytest.mark.parametrize(
    ("strategy", "scores", "restored"),
    [
        (BestScore(), [0.5], None),
        (BestScore(), [0.5, 0.6], None),
        (BestScore(), [0.5, 0.4], 0),
        (BestScore(), [0.5, 0.5], None),
        (BestScore(), [0.4, 0.5, 0.3, 0.45], 1),
        (BestScore(), [0.5, None], None),
        (BestScore(), [None, 0.5], None),
        (BestScore(), [None], None),
        (BestScore(tolerance=0.1), [0.5, 0.45], None),
        (BestScore(tolerance=0.1), [0.5, 0.45, 0.42, 0.39], 0),
        (BestScore(tolerance=1), [5, 4], None),
        (BestScore(direction="minimize"), [0.5, 0.4], None),
        (BestScore(direction="minimize"), [0.5, 0.4, 0.6], 1),
    ],
)
def test_a_regression_goes_back_to_the_best_step(
    strategy: BestScore, scores: Sequence[float | None], restored: int | None
) -> None:
    """A score worse than the best by more than the tolerance restores the best step; an equal one does not."""
    assert strategy(scored(scores, strategy.direction)) == restored


@given(st.lists(st.none() | st.floats(-1e9, 1e9), min_size=1, max_size=20), st.sampled_from(["maximize", "minimize"]))
def test_the_restored_step_is_the_first_with_the_best_score(scores: list[float | None], direction: Direction) -> None:
    """Whatever the scores: no step scored better than the one restored, nor as well before it."""
    target = BestScore(direction=direction)(scored(scores, direction))
    known = [score for score in scores if score is not None]
    best = (max if direction == "maximize" else min)(known) if known else None
    worse = scores[-1] is not None and scores[-1] != best
    assert target == (scores.index(best) if worse else None)


@pytest.mark.parametrize(
    ("outcomes", "restored"),
    [
        (".", None),
        ("x", INITIAL),
        ("xx", INITIAL),
        ("xxx", None),
        ("..x", 1),
        ("..xx", 1),
        ("..xxx", None),
        ("..xx.", None),
        ("..xx.x", 4),
        ("..xx.xx", 4),
        ("x.x.x.x.x", 7),
    ],
)
def test_a_failure_goes_on_from_the_last_good_step(outcomes: str, restored: int | None) -> None:
    """Failures in a row all go back to the same good step, the initial state too, until there are too many."""
    steps, said = run_with(outcomes, LastGood(max_failures=2))
    assert said == restored
    good = [step.step_n for step in steps if step.error is None]
    assert said in {None, *good, INITIAL}


def test_good_steps_in_between_begin_the_count_anew() -> None:
    """Only failures in a row count against `max_failures`, in a run of any length."""
    _, said = run_with("x." * 50 + "xxx", LastGood(max_failures=3))
    assert said == 99


@pytest.mark.parametrize("strategy", [BestScore(), LastGood()])
def test_a_strategy_keeps_nothing_between_questions(strategy: Any) -> None:
    """Strategies are functions of the history: asked again, and by another instance, they answer the same."""
    steps = [*scored([0.5, 0.4]), a_step(2, parent_n=1, best_n=0, error=FAILED)]
    answers = [strategy(steps[:n]) for n in (1, 2, 3)]
    assert [type(strategy)()(steps[:n]) for n in (3, 2, 1)] == answers[::-1]
