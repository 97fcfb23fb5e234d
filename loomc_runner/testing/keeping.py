"""What every store must do with the runs it keeps: tag them, and delete them without a trace, as tests."""

from __future__ import annotations

import dataclasses

import pytest

from loomc_runner.errors import RunLocked, RunLost, RunMismatch, RunNotFound
from loomc_runner.records import INITIAL, Attempt, BreakerChange, RunStatus, Transition
from loomc_runner.store import Store
from loomc_runner.testing.doubles import AT
from loomc_runner.testing.samples import (
    LATER,
    PAUSED,
    a_call,
    a_charge,
    a_question,
    a_resumption,
    a_run,
    a_step,
    advance,
    everything,
    inside,
)


def fill(store: Store, run_id: str, parent: str | None = None) -> None:
    """Leave a run in which something of every kind has happened."""
    lease = store.create_run(a_run(run_id, parent_run_id=parent, parent_step=0 if parent else None), "0")
    change = BreakerChange(0, "m.f", "open", 3, 1, AT, LATER)
    store.commit(lease, inside(call=a_call(0), question=a_question(run_id), breaker=change))
    tried = Attempt(0, 0, "E: x", "unknown", 0, AT, 0.0)
    store.commit(lease, Transition(AT, a_step(0), "[0]", (a_charge(5, 1),), tried))
    store.commit(lease, PAUSED)


def traces(store: Store, run_id: str) -> list[object]:
    """All that is left of a run in any part of the record."""
    listed = [run.id for run in store.list_runs() if run_id in {run.id, run.parent_run_id}]
    asked = [question for question in store.questions() if question.run_id == run_id]
    inner = (store.attempts, store.charges, store.calls, store.breakers, store.questions)
    found = [*listed, *asked, *store.steps(run_id), *(record for read in inner for record in read(run_id))]
    return [*found, *(total for total in store.subtree(run_id) if total)]


class KeepingContract:
    """Tags, and runs that are deleted."""

    def test_tags_are_added_and_taken_away(self, store: Store) -> None:
        """On runs at work and on ended ones; they stay when the run goes on, and nothing else is changed."""
        lease = store.create_run(a_run(tags=("old",)), "0")
        before = store.get_run("r")
        assert store.tag("r", ["a", "ü b", "a"], ["old"]) == ("a", "ü b")
        assert store.get_run("r") == dataclasses.replace(before, tags=("a", "ü b"))
        advance(store, lease, 1)
        store.commit(lease, PAUSED)
        assert store.get_run("r").tags == ("a", "ü b")
        assert store.tag("r", [], ["a", "ü b", "never"]) == ()
        assert (store.get_run("r").tags, store.get_run("r").updated_at) == ((), LATER)
        with pytest.raises(RunNotFound, match="no"):
            store.tag("no", ["a"])

    def test_a_deleted_run_leaves_no_trace(self, store: Store) -> None:
        """It goes with its child runs and all that is in them; other runs, and forks of it, keep everything."""
        for run_id, parent in (
            ("r", None),
            ("child", "r"),
            ("grandchild", "child"),
            ("other", None),
            ("inner", "other"),
        ):
            fill(store, run_id, parent)
        store.commit(store.create_run(a_run("fork", forked_from="r:0"), "[0]"), PAUSED)
        kept = {name: everything(store, name) for name in ("other", "inner", "fork")}
        store.delete(["r"])
        assert [trace for name in ("r", "child", "grandchild") for trace in traces(store, name)] == []
        assert {name: everything(store, name) for name in kept} == kept
        assert {question.run_id for question in store.questions()} == {"other", "inner"}
        assert (len(store.calls("other")), len(store.breakers("other"))) == (1, 2)
        for missing in (lambda: store.get_run("r"), lambda: store.state("r", INITIAL), lambda: store.delete(["r"])):
            with pytest.raises(RunNotFound, match="r"):
                missing()

    def test_an_id_that_is_free_again_is_given_to_a_new_run(self, store: Store) -> None:
        """Nothing of the deleted run shows in it."""
        fill(store, "r")
        store.delete(["r"])
        advance(store, store.create_run(a_run(), '"new"'), 1)
        assert (store.state("r", INITIAL), store.get_run("r").nano_usd, store.calls("r")) == ('"new"', 0, [])

    def test_several_runs_are_deleted_or_none(self, store: Store) -> None:
        """One that is not there, or is at work, keeps the others too."""
        fill(store, "a")
        fill(store, "b")
        store.create_run(a_run("works"), "0")
        before = everything(store, "a")
        for named, refusal in ((["a", "no"], RunNotFound), (["a", "works"], RunLocked)):
            with pytest.raises(refusal, match=named[1]):
                store.delete(named)
        assert everything(store, "a") == before
        store.delete(["a", "b", "a"])
        store.delete([])
        assert [run.id for run in store.list_runs()] == ["works"]

    def test_a_run_at_work_is_not_deleted(self, store: Store) -> None:
        """Neither it, nor one whose child run is at work; the refusal names the run that can be ended."""
        lease = store.create_run(a_run(), "0")
        child = store.create_run(a_run("child", parent_run_id="r"), "0")
        store.commit(lease, PAUSED)
        with pytest.raises(RunLocked, match=r"run child, a child of run r, is being worked on.*loomc pause r"):
            store.delete(["r"])
        advance(store, child, 1)
        store.commit(child, PAUSED)
        store.delete(["r"])
        assert store.list_runs() == []

    def test_a_child_run_is_deleted_with_its_parent_only(self, store: Store) -> None:
        """Its parent, which pays for it and would make it again, is named; together with that it goes."""
        fill(store, "r")
        fill(store, "child", "r")
        with pytest.raises(RunMismatch, match="loomc delete r"):
            store.delete(["child"])
        fill(store, "orphan", "gone")
        store.delete(["child", "r", "orphan"])
        assert store.list_runs() == []

    def test_who_had_the_run_can_no_longer_write_to_it(self, store: Store) -> None:
        """A commit, also one of money that comes late, and a claim are refused, and nothing is left of them."""
        lease = store.create_run(a_run(), "0")
        store.commit(lease, PAUSED)
        store.delete(["r"])
        for change in (PAUSED, Transition(AT, a_step(0), "[]"), inside(charges=(a_charge(5),))):
            with pytest.raises(RunLost, match="r"):
                store.commit(lease, change)
        with pytest.raises(RunNotFound, match="r"):
            store.claim("r", a_resumption())
        assert traces(store, "r") == []

    def test_what_a_step_has_paid_is_known_after_others_are_deleted(self, store: Store) -> None:
        """A step that began after charges which are gone is closed with its own, not with its reservation."""
        fill(store, "old")
        lease = store.create_run(a_run(), "0")
        store.commit(lease, Transition(AT, in_flight=0, reserved_nano=9))
        store.delete(["old"])
        store.commit(lease, inside(charges=(a_charge(7),)))
        store.commit(lease, dataclasses.replace(PAUSED, keep_in_flight=True, status=RunStatus.FAILED))
        assert store.claim("r", a_resumption()).subtree_nano == 7
        assert [charge.estimated for charge in store.charges("r")] == [False]
