"""A noisy scorer is asked again before a new best replaces the old one."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from statistics import mean
from typing import Any

import pytest
from driving import Draft, Maker, columns, dying, go, grow, make_async, scripted, timed, until
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import BestScore, Budget, BudgetExhausted, LastGood, ScoreError, SpecError, call, loop, spend, target
from loomc_runner.cli import main
from loomc_runner.export import write_csv
from loomc_runner.report.verify import verify
from loomc_runner.scores import Direction, gain
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FakeClock

SCORED = ("score", "scores", "best_n", "decision")


def answering(*answers: Any) -> Callable[[Draft], Any]:
    """A scorer that gives the answers as they are listed, one an asking; an error is raised, a function called."""
    left = iter(answers)

    def score(draft: Draft) -> Any:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    return score


def resampled(make: Maker, *answers: Any, steps: int = 9, resample: int = 3, **options: Any) -> Any:
    """A loop of so many steps with such a scorer, which is async where the loop is."""
    scorer = answering(*answers)
    options = {"backtrack": BestScore(resample=resample), "budget": Budget(iterations=steps), **options}
    return make(grow, scorer=make_async(scorer) if make.is_async else scorer, **options)


def scores_of(make: Maker, run_id: str = "r") -> list[tuple[Any, ...]]:
    """How each step was scored, and what followed."""
    return columns(make.store.steps(run_id), *SCORED)


def test_a_new_best_is_scored_again_and_the_mean_decides(make: Maker) -> None:
    """The first score and each that beats the best are asked for again; what does not beat it is asked for once."""
    refine = resampled(make, 0.5, 0.75, 0.25, 0.75, 0.25, 0.0, 0.5, 1.0, 0.5, 0.75, steps=4)
    result = go(refine.run(Draft(), run_id="r"))
    assert scores_of(make) == [
        (0.5, (0.5, 0.75, 0.25), 0, None),
        (1 / 3, (0.75, 0.25, 0.0), 0, "restore 0"),  # lucky at first
        (0.5, (), 0, None),
        (0.75, (1.0, 0.5, 0.75), 3, None),
    ]
    assert (result.best_score, result.best_step) == (0.75, 3)


def test_lower_scores_are_resampled_where_lower_is_better(make: Maker) -> None:
    """Then a score below the best is asked for again."""
    down = BestScore(direction="minimize", resample=2)
    go(resampled(make, 0.5, 0.5, 0.75, 0.25, 0.5, backtrack=down, steps=3).run(Draft(), run_id="r"))
    assert columns(make.store.steps("r"), "score", "scores", "best_n") == [
        (0.5, (0.5, 0.5), 0),
        (0.75, (), 0),
        (0.375, (0.25, 0.5), 2),
    ]


@pytest.mark.parametrize(
    ("backtrack", "times"),
    [
        (None, 1),
        (LastGood(), 1),
        (BestScore(), 1),
        (BestScore(resample=1), 1),
        ([LastGood(), BestScore(resample=4)], 4),
        ([BestScore(resample=2), BestScore(resample=5), BestScore()], 5),
    ],
)
def test_of_several_strategies_the_one_that_wants_most_answers_counts(
    make_in_memory: Maker, backtrack: Any, times: int
) -> None:
    """Without one that wants several the scorer is asked once, and there is only the score."""
    asked: list[int] = []
    refine = make_in_memory(grow, scorer=lambda draft: asked.append(draft.n) or 0.1, backtrack=backtrack)
    go(refine.with_options(budget=Budget(iterations=2)).run(Draft(), run_id="r"))
    assert asked == [1] * times + [2]
    recorded = columns(make_in_memory.store.steps("r"), "score", "scores")
    assert recorded == [(0.1, (0.1,) * times if times > 1 else ()), (0.1, ())]  # three times 0.1 is 0.1 on average


def test_a_metric_is_resampled_too(make: Maker) -> None:
    """The score of a loop without a scorer comes from the strategy."""
    refine = make(grow, backtrack=BestScore(answering(1.0, 2.0), resample=2), budget=Budget(iterations=1))
    go(refine.run(Draft(), run_id="r"))
    assert columns(make.store.steps("r"), "score", "scores") == [(1.5, (1.0, 2.0))]


@pytest.mark.parametrize("times", [0, -1, True, 2.0, "3", None])
def test_the_number_of_answers_is_a_whole_one(times: Any) -> None:
    """Anything else fails where it is declared, with its value."""
    with pytest.raises(SpecError, match=r"BestScore\(resample=.*whole number, at least 1"):
        BestScore(resample=times)


def test_each_answer_is_charged(make: Maker) -> None:
    """What the scorer spends each time it is asked is a charge of the step, as that of the first time is."""

    def paid() -> float:
        spend(usd=0.25, tokens=10)
        return 1.0

    result = go(resampled(make, *[paid] * 4, steps=2).run(Draft(), run_id="r"))
    charges = columns(make.store.charges("r"), "step_n", "label", "tokens")
    assert charges == [(0, "scorer", 10)] * 3 + [(1, "scorer", 10)]
    assert (result.cost_usd, columns(make.store.steps("r"), "cost_usd")) == (1.0, [(0.75,), (0.25,)])


def test_a_durable_call_in_a_scorer_is_made_each_time(make: Maker) -> None:
    """Equal calls of one step are told apart by their number: a recorded answer is not taken for another one."""
    left = [3.0, 1.0]

    def model(prompt: str) -> float:
        return left.pop()

    go(resampled(make, *[lambda: call(model, "how good?")] * 2, steps=1, resample=2).run(Draft(), run_id="r"))
    assert columns(make.store.steps("r"), "scores") == [((1.0, 3.0),)]


@pytest.mark.parametrize(
    ("flaw", "error", "words"),
    [
        (ConnectionError("away"), ConnectionError, "ConnectionError: away"),
        (float("nan"), ScoreError, "gave nan"),
        ("good", ScoreError, "gave 'good'"),
    ],
)
def test_a_scorer_that_fails_on_the_way_leaves_a_step_without_a_score(make: Maker, flaw, error, words) -> None:
    """The step is kept with its error and the answers so far, but one lucky answer does not make it the best."""
    refine = resampled(make, 1.0, 1.0, 1.0, 5.0, flaw, 2.0, 2.0, 2.0, converge_on=until(3))
    with pytest.raises(error) as caught:
        go(refine.run(Draft(), run_id="r"))
    assert (caught.value.state, caught.value.best_state) == (Draft(2), Draft(1))
    assert scores_of(make)[1] == (None, (5.0,), 0, "stop")
    assert words in make.store.steps("r")[1].error
    assert go(refine.resume("r")) == Draft(3)
    assert scores_of(make)[2][:3] == (2.0, (2.0, 2.0, 2.0), 2)


def test_a_first_score_that_breaks_off_is_no_best_to_beat(make: Maker) -> None:
    """The next score is then the first, and is asked for as often."""
    refine = resampled(make, 5.0, OSError("away"), 1.0, 1.0, 1.0, converge_on=until(2))
    with pytest.raises(OSError, match="away"):
        go(refine.run(Draft(), run_id="r"))
    assert go(refine.resume("r")) == Draft(2)
    assert columns(make.store.steps("r"), "score", "best_n") == [(None, None), (1.0, 1)]


def test_a_cap_that_is_crossed_on_the_way_ends_the_run_and_keeps_the_step(make: Maker) -> None:
    """The money and the answers so far are on record; with a higher cap the run goes on from that step."""

    def paid(score: float) -> Callable[[], float]:
        return lambda: spend(usd=1.0) or score

    answers = map(paid, [1.0] * 3 + [5.0] * 2 + [2.0] * 3)
    refine = resampled(make, *answers, budget=Budget(usd=4.5, step_usd=0.5), converge_on=until(3))
    result = go(refine.run(Draft(), run_id="r"))
    assert (result.stop_reason, result.cost_usd) == ("budget: usd 5.00 of 4.50", 5.0)
    assert (result.state, result.best_step) == (Draft(1), 0)
    assert scores_of(make)[1] == (None, (5.0,), 0, "stop")
    assert go(refine.resume("r", budget=Budget(usd=9))) == Draft(3)
    assert columns(make.store.steps("r"), "parent_n", "score") == [(-1, 1.0), (0, None), (1, 2.0)]


def test_working_time_that_ends_on_the_way_ends_the_run_and_keeps_the_step(make: Maker) -> None:
    """Where a scorer looks at the clock by spending, the answers so far are kept."""
    clock = FakeClock()

    def slow() -> float:
        clock.advance(40)
        spend(usd=0.01)
        return 5.0

    refine = timed(resampled(make, slow, slow, budget=Budget(wall_clock="1m")), clock)
    result = go(refine.run(Draft(), run_id="r"))
    assert (result.stop_reason, result.state) == ("budget: wall_clock 80 of 60", Draft(1))
    assert columns(make.store.steps("r"), "score", "scores", "error") == [(None, (5.0,), None)]


def test_a_deadline_around_a_scorer_keeps_the_answers_so_far(memory: MemoryStore) -> None:
    """A child run whose scorer waits when its parent's time is up keeps its step, and what was answered."""
    make, waits = Maker(memory, is_async=True), iter([0, 3600])

    async def score(draft: Draft) -> float:
        await asyncio.sleep(next(waits))
        return 1.0

    child = make(grow, scorer=score, backtrack=BestScore(resample=2), name="child", budget=Budget(iterations=1))

    async def step(draft: Draft) -> Draft:
        return await child(draft)

    outer = loop(name="outer", checkpoint=memory, budget=Budget(wall_clock="0.05s"))(step)
    assert go(outer.run(Draft(), run_id="r")).status == "budget_exhausted"
    (inner,) = memory.list_runs(parent="r")
    assert columns(memory.steps(inner.id), "score", "scores") == [(None, (1.0,))]


def noisy(chance: Any, asked: list[int]) -> Callable[[Draft], float]:
    """A scorer whose answers depend on the state and on how often it was asked about it, and on nothing else."""

    def score(draft: Draft) -> float:
        asked.append(draft.n)
        return draft.n * 0.125 + chance[(draft.n * 7 + asked.count(draft.n)) % len(chance)]

    return score


def test_a_run_that_is_cut_up_is_scored_as_a_whole_one(make: Maker) -> None:
    """What is asked again depends on the record alone, whoever drives the run."""
    chance = [0.0, 0.75, 0.25, 0.5, 1.0]

    def scored(run_id: str, *lives: int) -> list[Any]:
        options = {"scorer": noisy(chance, []), "backtrack": BestScore(resample=3)}
        go(make(grow, **options, budget=Budget(iterations=lives[0])).run(Draft(), run_id=run_id))
        for total in lives[1:]:  # each life has a loop of its own, as each process has
            with pytest.raises(BudgetExhausted):
                go(make(grow, **options).resume(run_id, budget=Budget(iterations=total)))
        return columns(make.store.steps(run_id), *SCORED, "parent_n")

    whole = scored("whole", 8)
    assert scored("cut", 1, 2, 3, 4, 5, 6, 7, 8) == whole
    assert {len(scores) for _, scores, *_ in whole} == {0, 3}


def test_a_kill_between_two_answers_loses_no_charge_and_changes_no_step(disk: SQLite) -> None:
    """The step runs again and is scored anew; what the dead process had paid stays on record."""
    make = Maker(disk, is_async=False)

    def paid(draft: Draft) -> float:
        spend(usd=0.5)
        return draft.n / 4

    def refine(scorer: Callable[[Draft], float]) -> Any:
        options = {"backtrack": BestScore(resample=3), "converge_on": target(0.75)}
        return make(grow, scorer=scorer, budget=Budget(usd=99, step_usd=2), **options)

    refine(paid)(Draft(), run_id="calm")
    asked: list[int] = []

    def mortal(draft: Draft) -> float:
        asked.append(draft.n)
        if asked == [1, 1, 1, 2, 2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return paid(draft)

    assert dying(lambda: refine(mortal)(Draft(), run_id="r")) == 9
    assert len(disk.steps("r")) == 1
    assert refine(paid)(Draft(), run_id="r") == Draft(3)
    assert scores_of(make) == scores_of(make, "calm")
    assert disk.get_run("r").nano_usd == disk.get_run("calm").nano_usd + 500_000_000
    assert [str(finding) for finding in verify(disk, disk.get_run("r"))] == []


QUARTERS = st.integers(-8, 8).map(lambda n: n / 4)


@given(
    st.lists(st.lists(QUARTERS, min_size=4, max_size=4), min_size=1, max_size=8),
    st.integers(1, 4),
    st.sampled_from(["maximize", "minimize"]),
)
def test_the_best_step_is_the_first_with_the_best_mean(
    answers: list[list[float]], resample: int, direction: Direction
) -> None:
    """Whatever a scorer says: a score is the mean of its answers, and the best was asked for as often as it must be."""
    store, left = MemoryStore(), {}

    def score(draft: Draft) -> float:
        left[draft.n] = left.get(draft.n, 0) + 1
        return answers[draft.n - 1][left[draft.n] - 1]

    count = scripted(*range(1, len(answers) + 1))
    options = {"backtrack": BestScore(direction=direction, resample=resample), "scorer": score}
    make = Maker(store, is_async=False)
    make(count, budget=Budget(iterations=len(answers)), **options).run(Draft(), run_id="r")
    steps, best = store.steps("r"), None
    for step, given_answers in zip(steps, answers, strict=True):
        beats = best is None or gain(given_answers[0], best.score, direction) > 0
        asked = tuple(given_answers[: resample if beats else 1])
        assert (step.score, step.scores) == (mean(asked), asked if len(asked) > 1 else ())
        best = step if best is None or gain(step.score, best.score, direction) > 0 else best
        assert step.best_n == best.step_n
        assert max(len(best.scores), 1) == resample
    assert [str(finding) for finding in verify(store, store.get_run("r"))] == []


# --- how it is told


def recorded(store: Any) -> Maker:
    """What has made a run `r` with a first score from three answers, and a second one from a single one."""
    make = Maker(store, is_async=False)
    resampled(make, 0.75, 1.0, 0.5, 0.25, steps=2).run(Draft(), run_id="r")
    return make


def test_other_rules_are_asked_over_the_scores_as_recorded(memory: MemoryStore) -> None:
    """Over a run with repeated scores the means count, and nothing is asked again."""
    refine = resampled(recorded(memory), steps=2)
    asked = refine.what_if("r", converge_on=target(0.7))
    assert (asked.stop_step, asked.stop_reason) == (0, "converged: target(0.7) reached with 0.75")


def test_a_score_that_is_not_the_mean_of_its_answers_is_found(disk: SQLite) -> None:
    """Whoever changes one of them by hand leaves a trace."""
    recorded(disk)
    with closing(sqlite3.connect(disk.path)) as db, db:
        db.execute("UPDATE steps SET scores = '[0.75, 1.0, 0.75]' WHERE step_n = 0")
    found = [str(finding) for finding in verify(disk, disk.get_run("r"))]
    assert found == ["step 0 has the score 0.75, which is not the mean of its 3 scores"]


def test_an_export_has_each_answer(memory: MemoryStore) -> None:
    """A table has them as JSON in one field, which is empty where the scorer was asked once."""
    recorded(memory)
    out = io.StringIO()
    write_csv(memory, memory.get_run("r"), out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert [(row["score"], row["scores"]) for row in rows] == [("0.75", "[0.75, 1.0, 0.5]"), ("0.25", "")]


def test_the_terminal_shows_the_mean_its_spread_and_the_number_of_answers(disk: SQLite, capsys) -> None:
    """`loomc show` says of a score that it is one of several."""
    recorded(disk)
    with pytest.raises(SystemExit):
        main(["show", "r", "--db", str(disk.path)])
    shown = capsys.readouterr().out
    assert " 0.75 ±0.25 (3) " in shown
    assert " 0.25 " in shown
