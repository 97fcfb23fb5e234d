"""What every store must do, as tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from loomc_runner.errors import RunLocked, RunLost, RunNotFound, StoreError
from loomc_runner.records import INITIAL, Attempt, RunStatus, Transition
from loomc_runner.store import Store
from loomc_runner.testing.doubles import AT
from loomc_runner.testing.dropping import DroppingContract
from loomc_runner.testing.inside import InsideContract
from loomc_runner.testing.keeping import KeepingContract
from loomc_runner.testing.samples import LATER, PAUSED, a_charge, a_resumption, a_run, a_step, advance, everything

ENDS = sorted(set(RunStatus) - {RunStatus.RUNNING, RunStatus.INTERRUPTED})


class StoreContract(InsideContract, KeepingContract, DroppingContract):
    """What every store must do, as tests: subclass it with a fixture `store` that gives a new, empty store."""

    def test_a_new_run_is_stored_with_its_initial_state(self, store: Store) -> None:
        """Every field of a new run comes back, and its initial state is step -1."""
        names = {"source": "a.py", "spec_hash": "s", "code_hash": "c", "state_type": "a:B", "forked_from": "q:3"}
        run = a_run(**names, budget={"usd": 2.5}, tags=("x", "ü"), in_flight=0, parent_run_id="p", parent_step=4)
        lease = store.create_run(run, '{"a": 1}')
        mark = store.get_run("r").in_flight_mark  # what it is, is the store's business
        assert store.get_run("r") == dataclasses.replace(run, owner=lease.owner, epoch=lease.epoch, in_flight_mark=mark)
        assert (store.state("r", INITIAL), store.steps("r")) == ('{"a": 1}', [])

    def test_an_id_is_given_once(self, store: Store) -> None:
        """A second run with the same id is refused, and the first is left as it is."""
        store.commit(store.create_run(a_run(), "1"), PAUSED)
        before = everything(store, "r")
        with pytest.raises(RunLocked, match="r"):
            store.create_run(a_run(), "2")
        assert everything(store, "r") == before

    def test_a_commit_stores_all_of_a_transition(self, store: Store) -> None:
        """The step, its state, the charges, the totals, the notes and the next step in flight come back."""
        lease = store.create_run(a_run(), "0")
        step = a_step(0, score=0.5, nano_usd=30, tokens=3, duration=1.5, error="E: x", decision="restore -1", best_n=0)
        values: dict[str, Any] = {"best_step": 0, "dearest_nano": 30, "worked": 1.5, "notes": ("n",), "in_flight": 1}
        charges = [a_charge(10, 1), a_charge(20, 2)]
        store.commit(lease, Transition(LATER, step, "[0]", (*charges,), reserved_nano=30, **values))
        run = store.get_run("r")
        assert {name: getattr(run, name) for name in values} == values
        assert (run.steps, run.nano_usd, run.tokens, run.reserved_nano, run.updated_at) == (1, 30, 3, 30, LATER)
        assert (store.steps("r"), store.state("r", 0), store.charges("r")) == ([step], "[0]", charges)

    def test_a_step_keeps_each_answer_of_its_scorer(self, store: Store) -> None:
        """The answers of a scorer that was asked more than once come back in order."""
        lease = store.create_run(a_run(), "0")
        step = a_step(0, score=0.5, scores=(0.25, 0.75))
        store.commit(lease, Transition(AT, step, "[]"))
        assert store.steps("r") == [step]

    def test_a_charge_with_a_known_key_takes_the_place_of_that_one(self, store: Store) -> None:
        """What a call came to replaces what it might cost, in its place, and the totals follow; nothing removes it."""
        lease = store.create_run(a_run(in_flight=0), "0")
        held = a_charge(90, 9)._replace(key="k", estimated=True)
        known = held._replace(nano_usd=30, tokens=3, estimated=False, model="m", usage={"input_tokens": 3})
        store.commit(lease, Transition(AT, charges=(held, a_charge(5, 1)), keep_in_flight=True))
        assert (store.get_run("r").nano_usd, store.get_run("r").tokens) == (95, 10)
        store.commit(lease, Transition(AT, charges=(known,), keep_in_flight=True))
        assert (store.charges("r"), store.subtree("r")) == ([known, a_charge(5, 1)], (35, 4))
        nothing = held._replace(nano_usd=0, tokens=0)
        store.commit(lease, Transition(AT, charges=(nothing, nothing._replace(key="new")), in_flight=0))
        assert (store.charges("r"), store.subtree("r")) == ([a_charge(5, 1)], (5, 1))

    def test_a_key_is_one_of_its_run(self, store: Store) -> None:
        """The same key in another run is another charge."""
        for name in ("r", "s"):
            lease = store.create_run(a_run(name), "0")
            store.commit(lease, Transition(AT, charges=(a_charge(7)._replace(key="k"),)))
        assert [store.subtree(name)[0] for name in ("r", "s")] == [7, 7]

    def test_a_step_that_began_after_a_charge_that_is_gone_is_closed_with_its_own(self, store: Store) -> None:
        """A call that came to nothing leaves no trace in what is counted as recorded since."""
        lease = store.create_run(a_run(), "0")
        held = a_charge(9)._replace(key="k")
        store.commit(lease, Transition(AT, charges=(held,), keep_in_flight=True))
        other = store.create_run(a_run("s", in_flight=0, reserved_nano=50), "0")
        store.commit(lease, Transition(AT, charges=(held._replace(nano_usd=0),), keep_in_flight=True))
        store.commit(other, Transition(AT, charges=(a_charge(3),), keep_in_flight=True))
        store.commit(other, dataclasses.replace(PAUSED, keep_in_flight=True))
        assert store.claim("s", a_resumption()).subtree_nano == 3

    def test_totals_add_up(self, store: Store) -> None:
        """Steps, money, tokens and time add up; the dearest step and what a commit does not name stay."""
        lease = store.create_run(a_run(), "0")
        for n, nano in enumerate((5, 9, 7)):
            change = Transition(AT, a_step(n), "[]", (a_charge(nano, 2),), worked=0.5, dearest_nano=nano)
            store.commit(lease, dataclasses.replace(change, best_step=1 if n == 1 else None))
        run = store.get_run("r")
        assert (run.steps, run.nano_usd, run.tokens, run.worked) == (3, 21, 6, 1.5)
        assert (run.dearest_nano, run.best_step) == (9, 1)

    def test_failed_tries_are_numbered_in_their_step(self, store: Store) -> None:
        """Each step counts its attempts from 0, whatever number they are given with."""
        lease = store.create_run(a_run(), "0")
        tried = [Attempt(n, 99, f"E: {n}", "unknown", n, AT, 0.5) for n in (0, 0, 1)]
        for attempt in tried:
            store.commit(lease, Transition(AT, attempt=attempt))
        numbered = zip(tried, (0, 1, 0), strict=True)
        assert store.attempts("r") == [dataclasses.replace(attempt, attempt=number) for attempt, number in numbered]

    @pytest.mark.parametrize("status", ENDS)
    def test_an_end_gives_the_run_up(self, store: Store, status: RunStatus) -> None:
        """Any status but `running` is stored with its reason and result, and frees the run."""
        lease = store.create_run(a_run(in_flight=0), "0")
        store.commit(lease, Transition(LATER, status=status, stop_reason="because", result="[1]"))
        run = store.get_run("r")
        assert (run.status, run.stop_reason, run.result) == (status, "because", "[1]")
        assert (run.owner, run.in_flight, run.updated_at) == (None, None, LATER)
        assert store.claim("r", a_resumption()).run.status is status

    def test_an_ended_run_accepts_late_charges_and_nothing_else(self, store: Store) -> None:
        """Money that comes after the end is counted; a step, or another end, is refused."""
        lease = store.create_run(a_run(), "0")
        store.commit(lease, PAUSED)
        for change in (PAUSED, Transition(AT, step=a_step(0), state="[]")):
            with pytest.raises(RunLost, match="r"):
                store.commit(lease, change)
        store.commit(lease, Transition(AT, charges=(a_charge(5, 1),), keep_in_flight=True))
        run = store.get_run("r")
        assert (run.status, run.steps, run.nano_usd, run.tokens) == (RunStatus.PAUSED, 0, 5, 1)

    def test_a_charge_inside_a_step_leaves_it_in_flight(self, store: Store) -> None:
        """`keep_in_flight` adds the money and changes nothing else."""
        lease = store.create_run(a_run(in_flight=0, reserved_nano=9), "0")
        before = store.get_run("r")
        store.commit(lease, Transition(LATER, charges=(a_charge(5, 1),), keep_in_flight=True))
        assert store.get_run("r") == dataclasses.replace(before, nano_usd=5, tokens=1)

    def test_a_claim_writes_who_goes_on(self, store: Store) -> None:
        """The claim raises the epoch, writes the resumption, and tells how the run had stopped."""
        store.commit(store.create_run(a_run(notes=("old",)), "0"), PAUSED)
        names = {"loop": "b:loop", "source": "b.py", "spec_hash": "s2", "code_hash": "c2", "budget": {"tokens": 5}}
        claim = store.claim("r", a_resumption(**names, notes=("new",), direction="minimize"))
        run = store.get_run("r")
        assert run.direction == "minimize"
        assert {name: getattr(run, name) for name in names} == names
        assert (run.status, run.stop_reason, run.resumes) == (RunStatus.RUNNING, None, 1)
        assert (run.epoch, run.notes, run.updated_at) == (claim.lease.epoch, ("old", "new"), LATER)
        assert claim.run == dataclasses.replace(run, status=RunStatus.PAUSED, stop_reason=PAUSED.stop_reason)

    def test_an_older_lease_writes_nothing(self, store: Store) -> None:
        """After another claim every commit under the older lease raises RunLost, and not a part of it is stored."""
        lease = store.create_run(a_run(), "0")
        store.commit(lease, PAUSED)
        advance(store, store.claim("r", a_resumption()).lease, 1)
        before = everything(store, "r")
        all_of_it = Transition(AT, a_step(0), "[9]", (a_charge(5),), Attempt(0, 0, "E", "u", 0, AT, 0.0), notes=("n",))
        for change in (all_of_it, PAUSED, Transition(AT, charges=(a_charge(5),), keep_in_flight=True)):
            with pytest.raises(RunLost, match="r"):
                store.commit(lease, change)
        assert everything(store, "r") == before

    def test_a_step_is_committed_once(self, store: Store) -> None:
        """A commit with the number of a stored step is refused as a whole."""
        lease = store.create_run(a_run(), "0")
        advance(store, lease, 2)
        before = everything(store, "r")
        with pytest.raises(StoreError):
            store.commit(lease, Transition(AT, a_step(1), "[9]", (a_charge(5),), notes=("n",)))
        assert everything(store, "r") == before

    def test_a_run_at_work_is_locked(self, store: Store) -> None:
        """A run with a living owner cannot be claimed, and its lease stays good."""
        lease = store.create_run(a_run(), "0")
        with pytest.raises(RunLocked, match="r"):
            store.claim("r", a_resumption())
        advance(store, lease, 1)

    @pytest.mark.parametrize(
        ("recorded", "by_child", "closed_with"), [((3, 4), 0, 7), ((), 5, 5), ((), 0, 9), ((0,), 0, 0)]
    )
    def test_a_claim_closes_the_step_in_flight(
        self, store: Store, recorded: tuple[int, ...], by_child: int, closed_with: int
    ) -> None:
        """It is charged with what it or its child runs recorded, else with its reservation, marked as estimated."""
        lease = store.create_run(a_run(), "0")
        store.commit(lease, Transition(AT, a_step(0), "[]", (a_charge(100),), in_flight=1, reserved_nano=9))
        if by_child:
            child = store.create_run(a_run("child", parent_run_id="r", parent_step=1), "0")
            store.commit(child, Transition(AT, charges=(a_charge(by_child),)))
        charges = tuple(a_charge(nano, step_n=1) for nano in recorded)
        store.commit(lease, dataclasses.replace(PAUSED, charges=charges, keep_in_flight=True))
        claim = store.claim("r", a_resumption())
        assert claim.subtree_nano == 100 + closed_with
        assert claim.run.nano_usd == store.get_run("r").nano_usd == 100 + closed_with - by_child
        assert [charge.nano_usd for charge in store.charges("r") if charge.estimated] == [9] * (closed_with == 9)
        closed = Attempt(1, 0, "paused: by a test", "interrupted", closed_with, LATER, 0.0)
        assert (store.attempts("r"), claim.run.in_flight) == ([closed], None)

    @pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 2), (1, 3), (3, 9), (5, None), (2, 2)])
    def test_steps_are_read_in_windows(self, store: Store, start: int, stop: int | None) -> None:
        """A window gives the steps from `start` up to, not including, `stop`, in order."""
        advance(store, store.create_run(a_run(), "0"), 5)
        assert store.steps("r", start, stop) == [a_step(n) for n in range(5)][start:stop]

    def test_a_failure_that_was_absorbed_has_its_parents_state(self, store: Store) -> None:
        """A step without a state of its own has that of the step it started from, through any number of them."""
        lease = store.create_run(a_run(), "[-1]")
        for n, parent_n, state in ((0, -1, None), (1, 0, "[1]"), (2, 1, None), (3, 2, None)):
            store.commit(lease, Transition(AT, a_step(n, parent_n=parent_n), state))
        assert [store.state("r", n) for n in range(4)] == ["[-1]", "[1]", "[1]", "[1]"]

    def test_what_does_not_exist_is_not_found(self, store: Store) -> None:
        """An unknown run or step raises RunNotFound that names it; of an unknown run there are no records."""
        store.create_run(a_run(), "0")
        verbs: list[Callable[[], object]] = [lambda: store.get_run("no"), lambda: store.claim("no", a_resumption())]
        verbs += [lambda: store.state("no", INITIAL), lambda: store.state("r", 0), lambda: store.state("r", -2)]
        for verb, named in zip(verbs, ("no", "no", "no", "r", "r"), strict=True):
            with pytest.raises(RunNotFound, match=named):
                verb()
        assert [*store.steps("no"), *store.attempts("no"), *store.charges("no"), *store.subtree("no")] == [0, 0]

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({}, "dcba"),
            ({"limit": 2, "offset": 1}, "cb"),
            ({"limit": 0}, ""),
            ({"status": RunStatus.RUNNING}, "dca"),
            ({"status": RunStatus.RUNNING, "limit": 1, "offset": 1}, "c"),
            ({"loop": "refine"}, "dba"),
            ({"parent": "a-1"}, "d"),
            ({"origin": "a-1"}, "c"),
            ({"origin": "a"}, ""),
            ({"prefix": "-1"}, ""),
            ({"prefix": "%"}, ""),
            ({"prefix": "b", "status": RunStatus.PAUSED, "loop": "refine", "limit": 5}, "b"),
        ],
    )
    def test_runs_are_listed_newest_first(self, store: Store, wanted: dict[str, Any], found: str) -> None:
        """What is asked for narrows the list, and the window is taken of what is left."""
        for n, name in enumerate("abcd"):
            fields = {"c": {"loop": "x:other", "forked_from": "a-1:-1"}, "d": {"parent_run_id": "a-1"}}.get(name, {})
            lease = store.create_run(a_run(f"{name}-1", created_at=AT + timedelta(seconds=n), **fields), "0")
            if name == "b":
                store.commit(lease, PAUSED)
        assert "".join(run.id[0] for run in store.list_runs(**wanted)) == found

    def test_totals_of_a_tree_reach_every_descendant(self, store: Store) -> None:
        """Money and tokens of all child runs count for a run; those of its siblings and forks do not."""
        tree: dict[str, dict[str, Any]] = {"r": {}, "child": {"parent_run_id": "r"}, "fork": {"forked_from": "r:0"}}
        tree |= {"grandchild": {"parent_run_id": "child"}, "sibling": {"parent_run_id": "r"}}
        for n, (run_id, fields) in enumerate(tree.items()):
            lease = store.create_run(a_run(run_id, **fields), "0")
            store.commit(lease, Transition(AT, charges=(a_charge(10**n, n),)))
        assert [store.subtree(run_id) for run_id in ("r", "child", "grandchild")] == [(11011, 8), (1010, 4), (1000, 3)]

    @pytest.mark.parametrize("text", ["é \N{ROCKET} \x00 \\u0000 '; --", "漢" * 700_000], ids=["odd", "2 MB"])
    def test_text_comes_back_as_it_was(self, store: Store, text: str) -> None:
        """States, errors and notes may hold any characters, and be large."""
        lease = store.create_run(a_run(), text)
        tried = Attempt(0, 0, text, "unknown", 0, AT, 0.0)
        store.commit(lease, Transition(AT, a_step(0, error=text), text, attempt=tried, notes=(text,)))
        assert (store.state("r", INITIAL), store.state("r", 0)) == (text, text)
        assert (store.steps("r")[0].error, store.get_run("r").notes, store.attempts("r")) == (text, (text,), [tried])

    def test_threads_share_one_store(self, store: Store) -> None:
        """Eight threads that commit at once lose nothing, each in its own run and all in a shared one."""
        shared = store.create_run(a_run("shared"), "0")

        def work(name: str) -> None:
            lease = store.create_run(a_run(name), "0")
            for n in range(20):
                store.commit(shared, Transition(AT, charges=(a_charge(1),), keep_in_flight=True))
                store.commit(lease, Transition(AT, a_step(n), f"[{n}]"))
                assert store.state(name, n) == f"[{n}]"

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, "abcdefgh"))
        assert [store.get_run(name).steps for name in "abcdefgh"] == [20] * 8
        assert (store.get_run("shared").nano_usd, len(store.charges("shared"))) == (160, 160)

    def test_one_thread_gets_the_run(self, store: Store) -> None:
        """Of eight threads that claim a run at once one gets it, and the others RunLocked."""
        store.commit(store.create_run(a_run(), "0"), PAUSED)
        with ThreadPoolExecutor(8) as pool:
            claims = [pool.submit(store.claim, "r", a_resumption()) for _ in range(8)]
        refused = [type(claim.exception()) for claim in claims if claim.exception()]
        assert (refused, store.get_run("r").resumes) == ([RunLocked] * 7, 1)

    def test_a_closed_store_opens_again(self, store: Store) -> None:
        """Closing gives back what is open, and takes nothing from a run: its lease stays good."""
        lease = store.create_run(a_run(), "0")
        store.close()
        advance(store, lease, 1)
        store.close()
        assert store.state("r", 0) == "[0]"
