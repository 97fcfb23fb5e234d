"""How much scores scatter that were asked for more than once, and which gain is too small to tell from that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from loomc_runner.records import StepRecord
from loomc_runner.scores import History

WINDOW = 128
"""The newest steps whose repeated scores are looked at, so that a long run costs no more than a short one."""


def smallest_gain(history: History, first: StepRecord[Any], second: StepRecord[Any]) -> float:
    """One standard error of the difference between the scores of two steps: a gain below it says nothing.

    With the pooled standard deviation s of all repeated scores that is `s * sqrt(1 / n + 1 / m)`, where n and m are
    how often the two steps were scored: the denominator of the two-sample t-test with equal variances. That a
    difference within one standard error is none is the rule of Breiman and others for choosing among models
    (Classification and Regression Trees, 1984). Zero where no score was repeated.
    """
    times = (max(len(step.scores), 1) for step in (first, second))
    repeated = {step.step_n: step for step in (first, second, *islice(reversed(history), WINDOW))}
    return pooled_deviation(repeated.values()) * math.sqrt(sum(1 / n for n in times))


def pooled_deviation(steps: Iterable[StepRecord[Any]]) -> float:
    """The standard deviation within the repeated scores of each step, over all of them together; 0 without any.

    That is the root of the pooled variance: the squared distances of all scores from the mean of their own step,
    divided by the number of scores less one for each step.
    """
    away, free = list[float](), 0
    for step in steps:
        if len(step.scores) > 1:
            away += _distances(step)
            free += len(step.scores) - 1
    return math.hypot(*away) / math.sqrt(free) if free else 0.0


def _distances(step: StepRecord[Any]) -> Iterator[float]:
    """How far each score of a step lies from their mean, which is the step's own unless its scoring broke off."""
    from statistics import mean

    centre = mean(step.scores) if step.score is None else step.score
    return (score - centre for score in step.scores)
