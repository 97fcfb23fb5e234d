"""What every store must do with states and results that are not kept any more, as tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from loomc_runner.errors import RunLocked, RunLost, RunNotFound, StateDropped
from loomc_runner.records import INITIAL, Call, CallStatus, Lease, Transition
from loomc_runner.store import Store
from loomc_runner.testing.doubles import AT
from loomc_runner.testing.samples import PAUSED, a_call, a_resumption, a_run, a_step, advance, inside


def grow(store: Store, lease: Lease, steps: Iterable[int], dropped: tuple[int, ...] = ()) -> dict[int, str]:
    """Commit steps whose states are big and much alike, the last of them dropping some; the states by step."""
    states, last = dict[int, str](), max(steps)
    for n in steps:
        states[n] = f'["{"a long beginning " * 200}", {n}, "{"and one that grows " * n}"]'
        store.commit(lease, Transition(AT, a_step(n), states[n], dropped=dropped if n == last else ()))
    return states


def found(store: Store, steps: Iterable[int]) -> dict[int, str]:
    """The states of run `r` that are kept."""
    kept = dict[int, str]()
    for n in steps:
        try:
            kept[n] = store.state("r", n)
        except StateDropped:
            continue
    return kept


def a_result(call: Call, result: str) -> Transition:
    """A call that is done."""
    return inside(call=call._replace(status=CallStatus.DONE, result=result))


def without(call: Call) -> Call:
    """What is left of a call whose result was dropped."""
    text = call.result or ""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return call._replace(result=None, result_hash=digest, result_size=len(text))


class DroppingContract:
    """States and results that are dropped, by a commit and from outside."""

    def test_a_commit_drops_states_of_earlier_steps(self, store: Store) -> None:
        """Those alone: the steps stay on record and say so, the states of all others are as they were."""
        states = grow(store, store.create_run(a_run(), "0"), range(70), dropped=(INITIAL, *range(3, 66), 67))
        kept = (0, 1, 2, 66, 68, 69)
        assert found(store, range(INITIAL, 70)) == {n: states[n] for n in kept}
        rows = store.steps("r")
        assert [row.step_n for row in rows if not row.state_dropped] == list(kept)
        assert [row._replace(state_dropped=False) for row in rows] == [a_step(n) for n in range(70)]

    def test_a_dropped_state_names_the_nearest_that_are_kept(self, store: Store) -> None:
        """On both sides, on one, or none."""
        grow(store, store.create_run(a_run(), "0"), range(4), dropped=(1, 2))
        with pytest.raises(StateDropped, match=r"state of step 1 of run r was dropped.*step 0 or that of step 3"):
            store.state("r", 1)
        store.commit(store.create_run(a_run("s"), "0"), PAUSED)
        store.drop_states("s", [INITIAL])
        with pytest.raises(StateDropped, match="none is kept"):
            store.state("s", INITIAL)

    def test_what_is_written_after_a_drop_is_right(self, store: Store) -> None:
        """Also where it would be built on a state that is gone, by the same process and after a claim."""
        lease = store.create_run(a_run(), "0")
        states = grow(store, lease, range(20), dropped=tuple(range(18)))
        states |= grow(store, lease, range(20, 40), dropped=(18, 24, 32))
        store.commit(lease, PAUSED)
        states |= grow(store, store.claim("r", a_resumption()).lease, range(40, 70), dropped=(38, 39, 56))
        gone = {*range(19), 24, 32, 38, 39, 56}
        assert found(store, range(70)) == {n: text for n, text in states.items() if n not in gone}

    def test_a_step_that_shares_a_dropped_state_keeps_it(self, store: Store) -> None:
        """A failure that was absorbed has its parent's state, also when the parent no longer has it."""
        lease = store.create_run(a_run(), "0")
        states = grow(store, lease, range(2))
        store.commit(lease, Transition(AT, a_step(2)))
        store.commit(lease, Transition(AT, a_step(3), "[3]", dropped=(1,)))
        assert found(store, range(4)) == {0: states[0], 2: states[1], 3: "[3]"}

    def test_a_commit_that_is_refused_drops_nothing(self, store: Store) -> None:
        """A run that was given up has all its states."""
        lease = store.create_run(a_run(), "0")
        states = grow(store, lease, range(3))
        store.commit(lease, PAUSED)
        with pytest.raises(RunLost):
            store.commit(lease, Transition(AT, a_step(3), "3", dropped=(0, 1)))
        assert found(store, range(3)) == states

    def test_states_of_a_run_that_nobody_works_on_are_dropped(self, store: Store) -> None:
        """Those that are not there, or are gone already, do not matter; the run itself is not changed."""
        lease = store.create_run(a_run(), "0")
        states = grow(store, lease, range(20), dropped=(1,))
        store.commit(lease, PAUSED)
        before = store.get_run("r")
        store.drop_states("r", [0, 1, 2, 2, 77, *range(5, 19)])
        assert found(store, range(20)) == {n: states[n] for n in (3, 4, 19)}
        assert store.get_run("r") == before

    def test_states_of_a_run_at_work_are_not_dropped_from_outside(self, store: Store) -> None:
        """Its own process drops them; of a run that is not there none are."""
        advance(store, store.create_run(a_run(), "0"), 2)
        with pytest.raises(RunLocked, match="r"):
            store.drop_states("r", [0])
        with pytest.raises(RunNotFound, match="no"):
            store.drop_states("no", [0])
        assert found(store, range(2)) == {0: "[0]", 1: "[1]"}

    def test_a_commit_drops_long_results_of_its_step(self, store: Store) -> None:
        """Their hash and size stay; shorter ones, and those of other steps, are kept."""
        lease = store.create_run(a_run(), "0")
        calls = [a_call(0), a_call(1), a_call(2), a_call(0, step_n=1)]
        results = ["12345", "123456", '"' + "é" * 9_000 + '"', "1234567"]
        for call, result in zip(calls, results, strict=True):
            store.commit(lease, a_result(call, result))
        done = [c._replace(status=CallStatus.DONE, result=r) for c, r in zip(calls, results, strict=True)]
        assert store.calls("r") == done
        store.commit(lease, Transition(AT, a_step(0), "[0]", longest_result=5))
        assert store.calls("r") == [done[0], without(done[1]), without(done[2]), done[3]]

    def test_long_results_are_dropped_from_outside(self, store: Store) -> None:
        """Of all committed steps; what a step that is still to come has recorded is needed when it is tried again."""
        lease = store.create_run(a_run(), "0")
        for n in range(3):
            store.commit(lease, a_result(a_call(0, step_n=n), f"12345{n}"))
            store.commit(lease, a_result(a_call(1, step_n=n), f"{n}"))
            if n < 2:
                store.commit(lease, Transition(AT, a_step(n), f"[{n}]"))
        store.commit(lease, PAUSED)
        before = store.calls("r")
        store.drop_states("r", (), longest_result=5)
        assert store.calls("r") == [without(before[0]), before[1], without(before[2]), before[3], *before[4:]]
        assert found(store, range(2)) == {0: "[0]", 1: "[1]"}
