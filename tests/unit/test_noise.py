"""How far repeated scores scatter says which gain is none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, variance
from typing import Any

import pytest
from driving import Draft, Maker, columns, go, grow
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import BestScore, Budget, BudgetExhausted, LastGood, SpecError, all_of, score_plateau, target
from loomc_runner.converge.noise import WINDOW, pooled_deviation, smallest_gain
from loomc_runner.records import StepRecord
from loomc_runner.scores import Direction, gain
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import a_step

GUIDE = Path(__file__).parents[2] / "docs/how-to/stop-and-go-back.md"

Answers = Sequence[tuple[float, ...]]


def scored(answers: Answers, direction: Direction = "maximize") -> list[StepRecord[Any]]:
    """The steps of a run whose scorer gave these answers; a step without any has failed."""
    steps: list[StepRecord[Any]] = []
    best: int | None = None
    for n, given_answers in enumerate(answers):
        score = mean(given_answers) if given_answers else None
        if score is not None and (best is None or gain(score, steps[best].score or 0.0, direction) > 0):
            best = n
        scores = given_answers if len(given_answers) > 1 else ()
        steps.append(a_step(n, score=score, scores=scores, best_n=best))
    return steps


def test_the_smallest_gain_is_one_standard_error_of_a_difference():
    """The pooled deviation of what was repeated, times the root of one over each number of answers."""
    steps = scored([(1.0, 3.0), (4.0,), (2.0, 4.0, 6.0), ()])
    pooled = math.sqrt((2.0 + 8.0) / (1 + 2))  # squares around 2 and around 4, by degrees of freedom
    assert pooled_deviation(steps) == pytest.approx(pooled)
    for first, second, n, m in ((0, 2, 2, 3), (0, 1, 2, 1), (1, 1, 1, 1)):
        assert smallest_gain(steps, steps[first], steps[second]) == pytest.approx(pooled * math.sqrt(1 / n + 1 / m))


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=5), min_size=1, max_size=6))
def test_the_pooled_deviation_is_the_weighted_mean_of_the_variances(answers):
    """Each step counts with its degrees of freedom, as in the textbook."""
    free = [len(each) - 1 for each in answers]
    pooled = sum(f * variance(each) for f, each in zip(free, answers, strict=True)) / sum(free)
    assert pooled_deviation(scored([tuple(each) for each in answers])) == pytest.approx(math.sqrt(pooled), abs=1e-9)


@pytest.mark.parametrize(
    ("answers", "deviation"),
    [
        ([(0.1, 0.1, 0.1), (0.3, 0.3, 0.3)], 0.0),  # exactly: their means are the answers
        ([(1.5e308, -1.5e308)], math.inf),
        ([(0.5,), (0.75,)], 0.0),
        ([], 0.0),
    ],
)
def test_a_deviation_is_never_made_up(answers, deviation):
    """A scorer that repeats itself has none; nor has one that was never asked again; the largest scores do no harm."""
    assert pooled_deviation(scored(answers)) == deviation


def test_answers_of_a_scoring_that_broke_off_count():
    """A step without a score may have answers on record all the same."""
    assert pooled_deviation([a_step(0, score=None, scores=(1.0, 3.0))]) == pytest.approx(math.sqrt(2))


FEW = st.integers(0, 8).map(lambda n: n / 8)


@given(
    st.lists(st.lists(FEW, max_size=3).map(tuple), max_size=9),
    st.integers(1, 3),
    st.sampled_from(["maximize", "minimize"]),
)
def test_a_plateau_of_noise_is_that_of_the_computed_number(answers, patience, direction):
    """`"noise"` decides as the number would that is worked out from the same steps, in either direction."""
    steps = scored(answers, direction)
    reason = score_plateau(patience, "noise", direction)(steps)
    known = [step for step in steps if step.score is not None]
    if len(known) <= patience:
        assert reason is None
        return
    best, before = steps[steps[-1].best_n], steps[known[-patience - 1].best_n]
    delta = smallest_gain(steps, best, before)
    assert (reason is None) == (score_plateau(patience, delta, direction)(steps) is None)


@pytest.mark.parametrize(
    ("answers", "stops"),
    [
        ([(0.0, 1.0), (0.5, 1.0)], True),  # 0.25 better, where 0.56 would count
        ([(0.0, 1.0), (1.0, 2.0)], False),
        ([(0.5, 0.5), (0.5625, 0.5625)], False),  # no noise: any gain counts
        ([(0.5, 0.5), (0.5, 0.5)], True),
        ([(0.5,), (0.5625,)], False),  # nothing repeated: any gain counts
        ([(0.5,), (0.5,)], True),
        ([(0.5, 0.75, 0.25), (0.75, 0.5, 1.0)], False),  # between three answers and three, 0.20 counts
        ([(0.5, 0.75, 0.25), (0.75,)], True),  # between three answers and one, 0.29
    ],
)
def test_gains_within_the_noise_are_none(answers, stops):
    """Only what repeated scores cannot explain goes on."""
    assert (score_plateau(1, "noise")(scored(answers)) is not None) is stops


def test_the_reason_tells_the_gain_that_would_have_counted():
    """So that whoever reads it can judge; the detector by name tells how it was declared."""
    reason = score_plateau(1, "noise")(scored([(0.0, 1.0), (0.5, 1.0)]))
    assert reason == 'score_plateau(patience=1, min_delta="noise"): gains below 0.559 are noise'
    assert score_plateau(1)(scored([(0.5,), (0.5,)])) == "score_plateau(patience=1)"


class Counted(list):
    """A history that counts how often one looks at it."""

    looks = 0

    def __getitem__(self, index):
        self.looks += 1
        return super().__getitem__(index)

    def __reversed__(self):
        return (self[n] for n in range(len(self) - 1, -1, -1))


def test_a_long_history_costs_no_more_than_a_short_one():
    """Of 100,000 steps the newest are looked at, and the two that are compared, however old."""
    steps = Counted(scored([(0.0, 8.0), (6.0, 7.0)]))
    for n in range(2, 100_000):
        steps.append(a_step(n, score=1.0, scores=(0.0, 2.0) if n < 90_000 else (), best_n=1))
    assert "gains below 0.707 are noise" in score_plateau(3, "noise")(steps)  # of the best step alone
    assert steps.looks < WINDOW + 20


@pytest.mark.parametrize("min_delta", ["Noise", "", "0.1", None, -1, float("nan"), True])
def test_any_other_delta_is_refused(min_delta):
    """The message names the value and what can be given."""
    with pytest.raises(SpecError, match=r"score_plateau\(min_delta="):
        score_plateau(min_delta=min_delta)


@pytest.mark.parametrize("backtrack", [None, BestScore(), LastGood(), [BestScore(resample=1), LastGood()]])
@pytest.mark.parametrize("detector", [score_plateau(min_delta="noise"), all_of(target(1), score_plateau(2, "noise"))])
def test_noise_cannot_be_learned_from_single_scores(memory, backtrack, detector):
    """A loop that never asks again is refused when it is declared, with what to add."""
    make = Maker(memory, is_async=False)
    with pytest.raises(SpecError, match=r"add backtrack=BestScore\(resample=3\)"):
        make(grow, scorer=lambda draft: 0.5, backtrack=backtrack, converge_on=detector)
    make(grow, scorer=lambda draft: 0.5, backtrack=[LastGood(), BestScore(resample=2)], converge_on=detector)


class Grader:
    """A scorer whose answers scatter around what a state is worth, with a standard deviation of 0.1."""

    def __init__(self, seed: int, worth: Callable[[int], float]) -> None:
        self.chance, self.worth, self.asked = random.Random(seed), worth, 0

    def __call__(self, draft: Draft) -> float:
        """The next answer."""
        self.asked += 1
        return self.worth(draft.n) + self.chance.gauss(0, 0.1)


def steady(n: int) -> float:
    """No state is any better than another."""
    return 0.5


def rising(n: int) -> float:
    """Each state makes up for three tenths of what the one before it lacked."""
    return 1 - 0.7**n


def test_a_run_stops_when_its_gains_are_noise_also_after_a_resume(make):
    """Where it stops, and why, is the same for a run that was cut after each step; what-if agrees with both."""
    options = {"backtrack": BestScore(resample=3), "converge_on": score_plateau(2, "noise")}
    told = []
    for seed in range(8):
        refine = make(grow, scorer=Grader(seed, rising), **options)
        whole = go(refine.run(Draft(), run_id=f"whole-{seed}"))
        pieces = make(grow, scorer=Grader(seed, rising), **options)
        go(pieces.with_options(budget=Budget(iterations=1)).run(Draft(), run_id=f"cut-{seed}"))
        for total in range(2, whole.steps):
            with pytest.raises(BudgetExhausted):
                go(pieces.resume(f"cut-{seed}", budget=Budget(iterations=total)))
        go(pieces.resume(f"cut-{seed}", budget=Budget(iterations=whole.steps)))
        run = make.store.get_run(f"cut-{seed}")
        asked = refine.what_if(f"cut-{seed}", converge_on=score_plateau(2, "noise"))
        told.append((whole.stop_reason, whole.steps))
        assert (run.stop_reason, run.steps) == (asked.stop_reason, asked.stop_step + 1) == told[-1]
    assert len({steps for _, steps in told}) > 2


def figures(worth: Callable[[int], float], resample: int, min_delta: Any) -> tuple[float, ...]:
    """What becomes of 200 loops: new bests after the first, steps, answers, the best score, and what it is worth."""
    sums = [0.0] * 5
    for seed in range(200):
        store, grade = MemoryStore(), Grader(seed, worth)
        options = {"backtrack": BestScore(resample=resample), "converge_on": score_plateau(3, min_delta)}
        refine = Maker(store, is_async=False)(grow, scorer=grade, **options, budget=Budget(iterations=100))
        result = refine.run(Draft(), run_id="r")
        gains = len(set(columns(store.steps("r"), "best_n"))) - 1
        told = (gains, result.steps, grade.asked, result.best_score / 200, worth(result.state.n) / 200)
        sums = [total + more for total, more in zip(sums, told, strict=True)]
    return tuple(round(total, 3) for total in sums)


@pytest.mark.parametrize(
    ("worth", "resample", "min_delta", "expected"),
    [
        (steady, 1, 0.01, (276, 1210, 1210, 0.628, 0.5)),
        (steady, 3, 0.01, (186, 1081, 2105, 0.56, 0.5)),
        (steady, 3, "noise", (156, 901, 1813, 0.555, 0.5)),
        (rising, 1, 0.01, (942, 2001, 2001, 0.977, 0.839)),
        (rising, 3, 0.01, (999, 2072, 4834, 0.939, 0.858)),
        (rising, 3, "noise", (907, 1705, 4171, 0.903, 0.84)),
    ],
)
def test_the_figures_of_the_guide(worth, resample, min_delta, expected):
    """Asking again sees fewer gains where there are none, and says less that is too good; what it costs is told too."""
    assert figures(worth, resample, min_delta) == expected
    gains, steps, asked, best, truth = expected
    row = f"| {gains:,} | {steps:,} | {asked:,} | {best:.3f} | {truth:{'.1f' if worth is steady else '.3f'}} |"
    assert row in GUIDE.read_text(encoding="utf-8")
