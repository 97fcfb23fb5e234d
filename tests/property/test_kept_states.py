"""Any policy of what is kept, over any way a run goes and any number of resumes, against the rule written out."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loomc_runner import BestScore, Budget, BudgetExhausted, Keep, LastGood, StateDropped, loop
from loomc_runner.context import current_scope
from loomc_runner.records import StepRecord
from loomc_runner.report.verify import verify
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite

FAILS = -1
"""In the place of a score: the step fails."""


@dataclasses.dataclass
class Draft:
    """A state of some size that tells the way it came."""

    score: int
    trail: list[str]

    def then(self, step_n: int, score: int) -> Draft:
        """The next one; the older half of it stays as it was."""
        new = hashlib.sha256(f"{step_n} {self.trail[-1]}".encode()).hexdigest()
        return Draft(score, [*self.trail[-24:], new])


def back(by: Sequence[int]) -> Callable[[Any], int | None]:
    """A strategy that goes back so many steps after each step, as it is told."""
    return lambda history: history[-1].step_n - by[history[-1].step_n % len(by)] if len(history) > max(by) else None


def life(store: Store, acts: Sequence[int], strategies: list[Any], keep: Keep | None, cuts: Sequence[int]) -> None:
    """A run in several lives: each but the last ends where its iterations are used up."""

    def step(draft: Draft) -> Draft:
        scope = current_scope()
        assert scope is not None
        if acts[scope.step_n] == FAILS:
            raise RuntimeError("as it was told")
        return draft.then(scope.step_n, acts[scope.step_n])

    handle = loop(
        name="kept",
        checkpoint=store,
        backtrack=strategies,
        scorer=lambda draft: draft.score,
        keep=keep,
        budget=Budget(iterations=cuts[0]),
    )(step)
    with suppress(BudgetExhausted):
        handle.run(Draft(0, ["begin " * 40]), run_id="r")
    for cut in cuts[1:]:
        with suppress(BudgetExhausted):
            handle.resume("r", budget=Budget(iterations=cut))


def states(store: Store, steps: int) -> dict[int, str]:
    """Those that are kept."""
    found = dict[int, str]()
    for n in range(-1, steps):
        with suppress(StateDropped):
            found[n] = store.state("r", n)
    return found


def row_of(step: StepRecord[Any]) -> tuple[Any, ...]:
    """A step without its times."""
    return (step.step_n, step.parent_n, step.score, step.decision, step.best_n, step.error)


def chain(rows: Sequence[StepRecord[Any]], n: int) -> Iterator[int]:
    """A step and the one it came from; one that failed counts for nothing."""
    left = 2
    while n >= 0 and left:
        yield n
        left -= rows[n].error is None
        n = rows[n].parent_n


def wanted(keep: Keep, rows: Sequence[StepRecord[Any]]) -> set[int]:
    """The steps whose states must be there after these steps, as the documentation says it."""
    scored = [row for row in rows if row.score is not None]
    best = sorted(scored, key=lambda row: (-(row.score or 0), row.step_n))[: keep.best or 0]
    newest = rows[-1]
    places = {row.step_n for row in rows if keep.every and row.step_n % keep.every == 0}
    last = {row.step_n for row in rows[-keep.newest :]}
    goes_on = {newest.step_n, newest.restored_n, newest.best_n} - {None}
    return {-1, *places, *last, *(row.step_n for row in best), *(k for n in goes_on for k in chain(rows, n or 0))}


def dropped(keep: Keep, rows: Sequence[StepRecord[Any]]) -> set[int]:
    """The steps whose states are gone after a run in one life."""
    gone = set[int]()
    for count in range(1, len(rows) + 1):
        end = count - keep.newest
        if end > 0 and (end + 1) % keep.batch == 0:
            gone |= set(range(end)) - wanted(keep, rows[:count])
    return gone


policies = st.builds(
    Keep,
    every=st.none() | st.integers(1, 25),
    best=st.none() | st.integers(1, 5),
    last=st.integers(1, 40),
)
ways: st.SearchStrategy[list[Any]] = st.sampled_from([[], [BestScore()], [BestScore(), LastGood(1_000)]])


@settings(deadline=None)
@given(
    keep=policies,
    length=st.integers(1, 150),
    most=st.sampled_from([3, 40, 1_000]),
    failing=st.sampled_from([0.0, 0.2]),
    chance=st.randoms(use_true_random=False),
    strategies=ways,
    lives=st.integers(1, 5),
    on_disk=st.booleans(),
)
def test_what_is_to_be_kept_is_kept_and_right(
    tmp_path_factory: pytest.TempPathFactory,
    keep: Keep,
    length: int,
    most: int,
    failing: float,
    chance: random.Random,
    strategies: list[Any],
    lives: int,
    on_disk: bool,
) -> None:
    """The run goes its way as without it; each kept state is that of an undisturbed run, the others are dropped."""
    acts = [chance.randint(0, most) for _ in range(length)]
    if len(strategies) == 2:
        acts = [FAILS if chance.random() < failing else act for act in acts]
    cuts = [*sorted(chance.sample(range(1, length), min(lives, length) - 1)), length]
    plain = MemoryStore()
    life(plain, acts, strategies, None, [length])
    store: Store = SQLite(tmp_path_factory.mktemp("keep") / "k.db", durability="process") if on_disk else MemoryStore()
    life(store, acts, strategies, keep, cuts)
    rows, expected = plain.steps("r"), states(plain, length)
    assert [row_of(row) for row in store.steps("r")] == [row_of(row) for row in rows]
    kept = states(store, length)
    assert kept == {n: expected[n] for n in kept}
    assert wanted(keep, rows) <= kept.keys()
    assert [row.step_n for row in store.steps("r") if not row.state_dropped] == sorted(kept.keys() - {-1})
    gone, must_go = expected.keys() - kept.keys(), dropped(keep, rows)
    assert gone <= must_go
    assert len(must_go - gone) <= (len(cuts) - 1) * ((keep.best or 0) + 8)
    if len(cuts) == 1:
        assert gone == must_go
    assert list(verify(store, store.get_run("r"))) == []
    store.close()


@settings(deadline=None, max_examples=50)
@given(
    last=st.integers(2, 30),
    by=st.lists(st.integers(0, 29), min_size=2, max_size=7),
    cuts=st.sets(st.integers(1, 150), max_size=3),
)
def test_a_strategy_may_go_back_as_far_as_states_are_kept(last: int, by: list[int], cuts: set[int]) -> None:
    """Any of the newest steps is there to go back to, and the way from there is as without it."""
    shorter = [n % last for n in by]
    lives, acts = [*sorted(cuts), 151], [7] * 151
    plain, store = MemoryStore(), MemoryStore()
    life(plain, acts, [back(shorter)], None, [151])
    life(store, acts, [back(shorter)], Keep(last=last), lives)
    assert [row_of(row) for row in store.steps("r")] == [row_of(row) for row in plain.steps("r")]
    kept, expected = states(store, 151), states(plain, 151)
    assert kept.items() <= expected.items()
    assert len(kept) <= last + Keep(last=last).batch + 8 * len(lives)
