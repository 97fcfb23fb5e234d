"""Two runs side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driving import Draft, Maker, scripted, size

from loomc_runner import BestScore, Budget, spend
from loomc_runner.report.compare import Level, Pair, compare, page_pairs
from loomc_runner.store.memory import MemoryStore


def ran(*runs: tuple[float, ...], cost: float = 0.1, direction="maximize") -> tuple[MemoryStore, list]:
    """Runs with these scores, a dime a step; their ids are r0, r1, ..."""
    store = MemoryStore()
    for number, scores in enumerate(runs):
        step = scripted(*scores)

        def paid(draft: Draft, step=step) -> Draft:
            spend(usd=cost)
            return step(draft)

        paid.__annotations__ = {"draft": Draft}
        options = {
            "scorer": size,
            "backtrack": BestScore(direction=direction),
            "budget": Budget(iterations=len(scores)),
        }
        Maker(store, is_async=False)(paid, **options).run(Draft(), run_id=f"r{number}")
    return store, [store.get_run(f"r{number}") for number in range(len(runs))]


@pytest.mark.parametrize(
    ("first", "second", "parts_at", "gain"),
    [
        ((1, 2, 3), (1, 2, 5), 2, 2),
        ((1, 2, 3), (0, 2, 1), 0, -1),
        ((1, 2), (1, 2, 3), None, 1),
        ((1, 2), (1, 2), None, 0),
    ],
)
def test_two_runs_part_where_their_states_first_differ(first, second, parts_at, gain):
    """The first step with another state, and by how much the best score of the second is better."""
    store, runs = ran(first, second)
    told = compare(store, *runs)
    assert (told.parts_at, told.gain, told.direction) == (parts_at, gain, "maximize")


def test_lower_is_better_where_the_record_says_so():
    """The direction is read from the record: the best step is the lowest one."""
    store, runs = ran((5, 3), (5, 2), direction="minimize")
    told = compare(store, *runs)
    assert (told.direction, told.gain, told.second.best_score) == ("minimize", 1, 2)


def test_scores_stand_beside_each_other_step_by_step():
    """As long as one of them has a step."""
    store, runs = ran((1, 2), (4, 5, 6))
    assert list(page_pairs(store, *runs)) == [Pair(0, 1, 4), Pair(1, 2, 5), Pair(2, None, 6)]


def test_scores_stand_beside_each_other_for_the_same_money():
    """At ten amounts up to what the dearer one spent: the best that each had by then."""
    store, runs = ran((1, 3), (2, 1, 4, 4, 4))
    levels = compare(store, *runs).levels
    assert levels[0] == Level(0.05, None, None)
    assert [(round(level.usd, 2), level.first, level.second) for level in levels[1::2]] == [
        *((0.1, 1, 2), (0.2, 3, 2), (0.3, 3, 4), (0.4, 3, 4), (0.5, 3, 4)),
    ]


def test_runs_without_scores_or_costs_can_be_compared():
    """There is no gain then, and no money to compare at."""
    store = MemoryStore()
    for name in ("a", "b"):
        Maker(store, is_async=False)(scripted(1, 2), budget=Budget(iterations=2)).run(Draft(), run_id=name)
    told = compare(store, store.get_run("a"), store.get_run("b"))
    assert (told.gain, told.levels, told.parts_at) == (None, (), None)


def test_the_direction_is_on_record_also_of_a_run_of_one_step():
    """A single score tells nothing by itself; the loop says which scores are better."""
    store, runs = ran((10,), (10, 5), (7,), direction="minimize")
    assert [run.direction for run in runs] == ["minimize"] * 3
    assert [compare(store, runs[0], other).gain for other in runs] == [0, 5, 3]
    assert compare(store, runs[1], runs[0]).gain == -5


@pytest.mark.parametrize(("first", "second"), [(None, None), ("minimize", "maximize")])
def test_where_the_direction_is_not_known_there_is_no_gain(first, second):
    """Runs of older versions with one score each, and runs that do not agree, are not called better or worse."""
    store, runs = ran((10,), (7,))
    told = compare(store, *(replace(run, direction=said) for run, said in zip(runs, (first, second), strict=True)))
    assert (told.gain, told.direction) == (None, None)
