"""A step of a long run costs what one of a short run does, with each detector and strategy, counted in calls."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from driving import Draft

from loomc_runner import (
    BestScore,
    Budget,
    Escalate,
    LastGood,
    diminishing_returns,
    judge,
    loop,
    predicate,
    score_plateau,
    semantic_delta,
    target,
)
from loomc_runner.history import WINDOW

EARLY, LATE = 2 * WINDOW, 6 * WINDOW
"""The steps from which on a window of steps is counted: older ones are forgotten once in each."""


def rising(draft: Draft) -> float:
    """A score that is always better."""
    return float(draft.n)


def falling(draft: Draft) -> float:
    """A score that is always worse, so that the best step is ever further away."""
    return -float(draft.n)


def apart(texts: list[str]) -> list[list[float]]:
    """Vectors of texts of which no two in a row are near to each other."""
    return [[1.0, 0.0] if int(text) % 2 else [0.0, 1.0] for text in texts]


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plateau": {"converge_on": score_plateau(patience=20), "scorer": rising},
    "target": {"converge_on": target(1e9), "scorer": rising},
    "judge": {"converge_on": judge(lambda _: False)},
    "predicate": {"converge_on": predicate(lambda history: history[0].step_n < 0)},
    "semantic": {"converge_on": semantic_delta(embed=apart, text_fn=lambda draft: str(draft.n))},
    "returns": {"converge_on": diminishing_returns(1e-9), "scorer": rising, "cost_fn": lambda _: 0.001},
    "best, going back": {"backtrack": BestScore(), "scorer": falling},
    "best, going on": {"backtrack": BestScore(tolerance=1e9), "scorer": falling},
    "last good": {"backtrack": LastGood()},
    "escalate": {"on_stall": Escalate(after=3, handler=lambda draft, _: draft), "scorer": falling},
    "noise": {
        "backtrack": BestScore(resample=3),
        "converge_on": score_plateau(patience=3, min_delta="noise"),
        "scorer": rising,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_late_step_calls_no_more_than_an_early_one(case: str) -> None:
    """However long a run is already, what its next step costs stays the same."""
    calls, counted = 0, dict[int, int]()
    step_n, before = 0, sys.getprofile()

    def note(_: FrameType, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    @loop(checkpoint="memory", budget=Budget(iterations=LATE + WINDOW + 1), **CASES[case])
    def refine(draft: Draft) -> Draft:
        nonlocal calls, step_n
        if step_n in {EARLY, LATE}:
            calls = 0
            sys.setprofile(note)
        elif step_n in {EARLY + WINDOW, LATE + WINDOW}:
            sys.setprofile(before)
            counted[step_n] = calls
        step_n += 1
        if case == "last good" and step_n % 3 == 0:
            raise ValueError("every third step fails")
        return Draft(draft.n + 1)

    try:
        refine.run(Draft())
    finally:
        sys.setprofile(before)
    assert counted[LATE + WINDOW] <= 1.1 * counted[EARLY + WINDOW]
