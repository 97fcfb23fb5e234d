"""`keep=` says which states stay: what it takes, what it never drops, and that it looks at a handful of steps."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from driving import Draft, Maker, go, size

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    Keep,
    LastGood,
    LoomcError,
    SpecError,
    StateDropped,
    call,
    loop,
    semantic_delta,
)
from loomc_runner.history import History
from loomc_runner.keep import Keeper
from loomc_runner.records import StepRecord, Transition
from loomc_runner.state import Codec
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.store.upkeep import damage, measure
from loomc_runner.testing import AT


def kept(store: Store, run_id: str = "r") -> set[int]:
    """The steps whose states are kept."""
    return {step.step_n for step in store.steps(run_id) if not step.state_dropped}


def run(make: Maker, fn: Any, steps: int, **options: Any) -> Any:
    """So many steps of a loop; its handle."""
    handle = make(fn, budget=Budget(iterations=steps), **options)
    assert go(handle.run(Draft(), run_id="r")).status == "budget_exhausted"
    return handle


@pytest.fixture
def make() -> Maker:
    """Makes sync loops in memory."""
    return Maker(MemoryStore(), is_async=False)


def grow(draft: Draft) -> Draft:
    """The plainest step."""
    return Draft(draft.n + 1, draft.words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"Keep\(\): say what is kept"),
        ({"every": 0}, r"Keep\(every=0\): give a whole number, at least 1"),
        ({"best": -1}, r"Keep\(best=-1\)"),
        ({"last": 2.5}, r"Keep\(last=2\.5\)"),
        ({"results": True}, r"Keep\(results=True\)"),
        ({"every": 10, "last": 0}, r"Keep\(last=0\)"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    """When it is made, naming the value."""
    with pytest.raises(SpecError, match=message):
        Keep(**values)


def test_what_is_no_policy_is_refused() -> None:
    """`keep=` takes a Keep, and keeps the best only where there are scores."""
    with pytest.raises(SpecError, match=r"keep=10: give Keep"):
        loop(keep=10)(grow)  # type: ignore[call-overload]
    with pytest.raises(SpecError, match=r"Keep\(best=3\): add scorer="):
        loop(keep=Keep(best=3))(grow)


@pytest.mark.parametrize(
    ("keep", "stays"),
    [
        (Keep(every=10), {0, 10, 20, 30, 40, *range(47, 80)}),
        (Keep(last=5), {*range(63, 80)}),
        (Keep(every=1), {*range(80)}),
        (Keep(results=1), {*range(80)}),
        (Keep(last=80), {*range(80)}),
    ],
)
def test_states_are_dropped_in_batches(make: Maker, keep: Keep, stays: set[int]) -> None:
    """What is older than the newest ones goes, up to a place that is a multiple of the batch; the rows stay."""
    run(make, grow, 80, keep=keep)
    assert kept(make.store) == stays
    assert len(make.store.steps("r")) == 80
    assert make.store.state("r", -1) == '{"n":0,"words":[]}'


def test_the_best_steps_stay(make: Maker) -> None:
    """Those with the best scores there were, the earlier of equal ones; the best step stays in any case."""
    scores = [n % 10 if n < 50 else 0 for n in range(100)]
    run(make, grow, 100, keep=Keep(best=3, last=1), scorer=lambda draft: scores[draft.n - 1])
    assert kept(make.store) & set(range(80)) == {8, 9, 19, 29}  # the best step with the one it came from
    assert make.store.get_run("r").best_step == 9


def test_lower_is_better_where_the_loop_says_so(make: Maker) -> None:
    """The direction of the loop's parts counts."""
    options = {"scorer": lambda draft: abs(draft.n - 31), "backtrack": BestScore(tolerance=1_000, direction="minimize")}
    run(make, grow, 100, keep=Keep(best=2, last=1), **options)
    assert kept(make.store) & set(range(80)) == {29, 30}


def test_a_loop_may_go_back_to_its_best_step_at_any_time(make: Maker) -> None:
    """`BestScore` finds it, however long ago it was."""
    run(make, lambda draft: Draft(draft.n + 1, [*draft.words, "x"]), 90, keep=Keep(last=1), scorer=lambda d: -d.n,
        backtrack=BestScore())  # fmt: skip
    steps = make.store.steps("r")
    assert {step.parent_n for step in steps[1:]} == {0}
    assert 0 in kept(make.store)
    assert len(kept(make.store)) < 20


def test_a_loop_may_fail_where_its_last_good_step_is_old(make: Maker) -> None:
    """What a run goes on from stays as long as it does."""

    def fails(draft: Draft) -> Draft:
        if draft.n == 3:
            raise RuntimeError("no")
        return grow(draft)

    run(make, fails, 70, keep=Keep(last=1), backtrack=LastGood(1_000))
    assert {step.parent_n for step in make.store.steps("r")[3:]} == {2}
    assert 2 in kept(make.store)


def test_a_strategy_that_goes_back_too_far_is_refused(make: Maker) -> None:
    """The run fails and says why; its newest state is kept, so that it can be resumed with another strategy."""
    handle = make(grow, keep=Keep(last=2), backtrack=lambda history: 5 if len(history) == 40 else None)
    with pytest.raises(SpecError, match=r"goes back to step 5, whose state keep= or a prune has dropped"):
        go(handle.run(Draft(), run_id="r"))
    assert make.store.get_run("r").status == "failed"
    other = make(grow, keep=Keep(last=2), budget=Budget(iterations=60))
    with pytest.raises(BudgetExhausted):
        go(other.resume("r", budget=Budget(iterations=60)))


def test_a_detector_that_looks_too_far_back_is_told_what_is_kept(make: Maker) -> None:
    """It gets `StateDropped`, which names the nearest states that are there."""
    handle = make(grow, keep=Keep(last=3), converge_on=lambda history: len(history) == 60 and history[20].state.n < 0)
    with pytest.raises(StateDropped, match=r"step 20 of run r was dropped.*that of step \d+") as caught:
        go(handle.run(Draft(), run_id="r"))
    assert (caught.value.step_n, caught.value.nearest) == (20, (-1, 47))


def test_the_newest_states_can_be_looked_at(make: Maker) -> None:
    """As many as are kept, at any step."""

    def looks(history: Any) -> bool:
        return bool([step.state for step in history[-7:]] and False)

    run(make, grow, 90, keep=Keep(last=7), converge_on=looks)


def test_semantic_delta_finds_what_it_compares(make: Maker) -> None:
    """Along the way the newest step came, however old the steps on it are."""
    texts = iter(range(1_000))

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [f"text {next(texts)}"])

    def apart(some: list[str]) -> list[list[float]]:
        return [[1.0, float(int(text.split()[-1]) % 2 * 2 - 1)] for text in some]

    options = {"scorer": lambda draft: 9 - abs(draft.n - 9), "backtrack": BestScore()}
    run(make, step, 90, keep=Keep(last=1), converge_on=semantic_delta(patience=6, embed=apart), **options)
    assert {2, 3, 4, 5, 6, 7, 8} <= kept(make.store)


def test_a_run_is_forked_at_a_kept_step_only(make: Maker) -> None:
    """Where the state was dropped the nearest ones are named."""
    handle = run(make, grow, 60, keep=Keep(every=10, last=2))
    assert make.store.get_run(handle.fork("r", step=10)).forked_from == "r:10"
    with pytest.raises(StateDropped, match="that of step 10 or that of step 20"):
        handle.fork("r", step=13)


def test_a_run_that_is_there_can_be_called_again(make: Maker) -> None:
    """The initial state, with which a call is compared, is always kept."""
    handle = run(make, grow, 60, keep=Keep(last=1))
    assert go(handle.run(Draft(), run_id="r")).status == "budget_exhausted"


def test_long_results_of_committed_steps_are_dropped(make: Maker) -> None:
    """A step that is tried again is replayed from all it has; once it is committed, hash and size are left."""
    made, tries = Counter[int](), Counter[int]()

    def tool(n: int) -> str:
        made[n] += 1
        return "x" * 50

    def step(draft: Draft) -> Draft:
        tries[draft.n] += 1
        words = call(tool, draft.n)
        if draft.n == 2 and tries[2] == 1:
            raise RuntimeError("cut off")
        return Draft(draft.n + 1, [words])

    handle = make(step, keep=Keep(results=20), budget=Budget(iterations=4))
    with pytest.raises(RuntimeError):
        go(handle.run(Draft(), run_id="r"))
    assert [found.result is None for found in make.store.calls("r")] == [True, True, False]
    with pytest.raises(BudgetExhausted):
        go(handle.resume("r"))
    assert (set(made.values()), tries[2]) == ({1}, 2)
    assert [(found.result, found.result_size) for found in make.store.calls("r")] == [(None, 52)] * 4


def test_a_child_loop_has_its_own_policy(make: Maker) -> None:
    """What its parent keeps says nothing about its states."""
    child = loop(name="child", budget=Budget(iterations=50), converge_on=lambda history: len(history) == 50)(grow)

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, child(Draft()).words)

    step.__annotations__ = {"draft": Draft}
    child.spec.fn.__annotations__ = {"draft": Draft}
    run(make, step, 30, keep=Keep(last=1))
    (first, *_) = make.store.list_runs(parent="r")
    assert (len(kept(make.store, first.id)), len(kept(make.store))) == (50, 30 - 14)


class Counted(MemoryStore):
    """A store that counts the rows it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def steps(self, run_id: str, start: int = 0, stop: int | None = None) -> Any:
        """Those of the store."""
        found = super().steps(run_id, start, stop)
        self.read += len(found)
        return found


def test_a_long_run_is_not_gone_through_again() -> None:
    """Neither at a batch nor at a resume more rows are read than at the beginning, and what is at hand stays small."""
    store = Counted()
    make = Maker(store, is_async=False)
    options: dict[str, Any] = {"keep": Keep(every=50, best=5, last=30), "scorer": size}
    read, length = [], 0
    for length in (1_000, 2_000, 3_000):
        before = store.read
        handle = make(grow, budget=Budget(iterations=length), **options)
        with suppress(BudgetExhausted):
            go(handle.run(Draft(), run_id="r") if length == 1_000 else handle.resume("r", budget=handle.spec.budget))
        read.append(store.read - before)
    assert read[2] <= read[1] + 200
    assert len(kept(store)) < length / 50 + 100


def test_a_dropped_state_takes_no_room(tmp_path: Path) -> None:
    """The pages of states that are gone are used again, those of their rows too: the file grows by rows alone."""
    chance, pages = random.Random(3), {}
    for name, keep in (("all", None), ("few", Keep(last=4))):
        store = SQLite(tmp_path / f"{name}.db", durability="process")
        make = Maker(store, is_async=False)
        run(make, lambda draft: Draft(draft.n + 1, [chance.randbytes(3_000).hex()]), 400, keep=keep)
        store.close()
        pages[name] = measure(tmp_path / f"{name}.db").size // 4096
        assert damage(tmp_path / f"{name}.db") == []
    assert pages["few"] < pages["all"] / 6
    assert pages["few"] < 110


def rows(scores: list[float]) -> list[StepRecord[Any]]:
    """Steps one after the other, with these scores."""
    found, best = list[StepRecord[Any]](), None
    for n, score in enumerate(scores):
        best = n if best is None or score > scores[best] else best
        found.append(StepRecord(n, n - 1, score, None, 0, AT, 0.0, best_n=best))
    return found


@pytest.mark.parametrize("cut", range(20, 48))
def test_a_resume_does_not_forget_a_good_step_that_no_batch_has_seen(cut: int) -> None:
    """The second best has left the newest ones, and was never the best: it is kept wherever the run is cut."""
    steps = rows([9.0, *[0.0] * 17, 5.0, *[0.0] * 60])
    store, dropped = MemoryStore(), set[int]()
    history: Any = steps[:cut]
    for begin, end in ((0, cut), (cut, len(steps))):
        history = steps[:begin]
        keeper = Keeper(Keep(best=2, last=1), history, "maximize")
        for step in steps[begin:end]:
            history.append(step)
            dropped |= set(keeper.thinned(Transition(AT, step), step.step_n).dropped)
    assert {0, 18} & dropped == set()
    assert len(dropped) > 50
    store.close()


def test_the_step_that_was_decided_to_be_gone_back_to_stays() -> None:
    """Also where the run ends with that decision, and a resume begins with it."""
    history = rows([0.0] * 18)
    history[15] = history[15]._replace(decision="restore 7")
    so_far = history[:15]
    keeper = Keeper(Keep(last=1), so_far, "maximize")
    so_far.append(history[15])
    assert keeper.thinned(Transition(AT, history[15]), None).dropped == (*range(1, 6), *range(8, 14))


def test_a_history_knows_what_was_dropped() -> None:
    """What is kept in any case is not looked up."""
    history: History[Any] = History(MemoryStore(), "r", Codec(int), 0)
    for step in rows([1.0, 0.0]):
        history.append(step, "1")
    assert [history.is_dropped(n) for n in (-1, 0, 1)] == [False] * 3


def test_a_try_that_becomes_no_step_drops_nothing() -> None:
    """Only a committed step does."""
    change = Transition(AT)
    assert Keeper(Keep(last=1), [], "maximize").thinned(change, None) is change


def test_the_error_is_one_of_ours() -> None:
    """It can be caught as any other, and as a LookupError."""
    assert issubclass(StateDropped, LoomcError)
    assert issubclass(StateDropped, LookupError)
    assert str(StateDropped("r", 3)) == "the state of step 3 of run r was dropped to save room; none is kept"
