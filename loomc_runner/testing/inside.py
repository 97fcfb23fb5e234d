"""What every store must do with what happens inside of a step, as tests."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from loomc_runner.errors import AnswerRefused, RunLost, RunNotFound
from loomc_runner.records import BreakerChange, CallStatus, Control, RunStatus, Transition
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
    inside,
)

WAITING = Transition(LATER, status=RunStatus.WAITING, stop_reason="waiting: Really?")


class InsideContract:
    """Calls, questions, circuit breakers, requests from outside and runs that get no further."""

    def test_calls_are_stored_with_what_became_of_them(self, store: Store) -> None:
        """A call that is put again with its number takes the place of what was there; they come in order."""
        lease = store.create_run(a_run(in_flight=0), "0")
        first, second = a_call(0, outer=None), a_call(1, outer=0)
        done = first._replace(status=CallStatus.DONE, result="[1]", nano_usd=7, duration=0.5)
        failed = second._replace(status=CallStatus.FAILED, error="E: x", category="transient")
        later = a_call(0, step_n=3)
        for call in (second, first, later, done, failed):
            store.commit(lease, inside(call=call))
        assert store.calls("r") == [done, failed, later]
        assert (store.calls("r", 0, 1), store.calls("r", 3), store.calls("r", 1, 3)) == ([done, failed], [later], [])
        assert (store.calls("no"), store.get_run("r").in_flight) == ([], 0)
        windows = [store.calls("r", 0, seq=1), store.calls("r", limit=1), store.calls("r", 0, 1, seq=1, limit=5)]
        assert windows == [[failed, later], [done], [failed]]

    def test_a_call_and_its_charges_are_stored_together(self, store: Store) -> None:
        """Money that waited for the database comes with the next call, or neither does."""
        lease = store.create_run(a_run(), "0")
        store.commit(lease, inside(call=a_call(0), charges=(a_charge(5, 1),)))
        assert (store.get_run("r").nano_usd, len(store.calls("r")), len(store.charges("r"))) == (5, 1, 1)
        store.commit(lease, PAUSED)
        store.commit(store.claim("r", a_resumption()).lease, PAUSED)
        with pytest.raises(RunLost):
            store.commit(lease, inside(call=a_call(1), charges=(a_charge(5, 1),)))
        assert (store.get_run("r").nano_usd, len(store.calls("r"))) == (5, 1)

    @pytest.mark.parametrize("text", ['"é \\u0000 \N{ROCKET}"', f'"{"漢" * 700_000}"'], ids=["odd", "2 MB"])
    def test_results_come_back_whole(self, store: Store, text: str) -> None:
        """However long a result is, and whatever is in it, it is not cut."""
        lease = store.create_run(a_run(), "0")
        store.commit(lease, inside(call=a_call(0, status=CallStatus.DONE, result=text)))
        assert store.calls("r")[0].result == text

    def test_questions_are_stored_and_found(self, store: Store) -> None:
        """Every field comes back; those of child runs are found with their parents, the open ones of all by none."""
        lease = store.create_run(a_run(), "0")
        child = store.create_run(a_run("child", parent_run_id="r", parent_step=0), "0")
        other = store.create_run(a_run("other"), "0")
        full = a_question(expires_at=LATER, default="true", schema={"type": "object", "é": [1]})
        theirs, elsewhere = a_question("child", asked_at=LATER), a_question("other", step_n=4)
        for owner, question in ((lease, full), (child, theirs), (other, elsewhere)):
            store.commit(owner, inside(question=question))
        assert store.questions("r") == [full, theirs]
        assert (store.questions("child"), store.questions("no")) == ([theirs], [])
        assert {question.run_id for question in store.questions()} == {"r", "child", "other"}

    def test_an_answer_is_stored_once(self, store: Store) -> None:
        """With who and when; a second one is refused, whoever gives it, and a question that is put again keeps it."""
        lease = store.create_run(a_run(), "0")
        question = a_question()
        store.commit(lease, inside(question=question))
        store.commit(lease, WAITING)
        store.answer(question, "true", "anna", LATER)
        answered = dataclasses.replace(question, answer="true", answered_by="anna", answered_at=LATER)
        with pytest.raises(AnswerRefused, match="r"):
            store.answer(question, "false", "bob", LATER)
        lease = store.claim("r", a_resumption()).lease
        store.commit(lease, inside(question=dataclasses.replace(question, answer="false", answered_by="default")))
        assert (store.questions("r"), store.questions()) == ([answered], [])

    def test_of_many_answers_at_once_one_counts(self, store: Store) -> None:
        """Eight threads answer the same question: one is told that it has, the others that they have not."""
        store.commit(store.create_run(a_run(), "0"), inside(question=a_question()))
        with ThreadPoolExecutor(8) as pool:
            jobs = {n: pool.submit(store.answer, a_question(), f"{n}", f"p{n}", LATER) for n in range(8)}
        (winner,) = [n for n, job in jobs.items() if job.exception() is None]
        assert {type(job.exception()) for n, job in jobs.items() if n != winner} == {AnswerRefused}
        assert [(q.answer, q.answered_by) for q in store.questions("r")] == [(f"{winner}", f"p{winner}")]

    def test_a_question_that_is_withdrawn_cannot_be_answered(self, store: Store) -> None:
        """Not before it is asked again; one that has its answer keeps it."""
        lease = store.create_run(a_run(), "0")
        for question in (a_question(), a_question(seq=1)):
            store.commit(lease, inside(question=question))
        store.answer(a_question(seq=1), "true", "anna", LATER)
        store.commit(lease, inside(withdrawn=((0, 0), (0, 1))))
        assert [(q.withdrawn, q.answer) for q in store.questions("r")] == [(True, None), (False, "true")]
        with pytest.raises(AnswerRefused):
            store.answer(a_question(), "true", "anna", LATER)
        store.commit(lease, inside(question=a_question()))
        store.answer(a_question(), "false", "anna", LATER)
        assert [q.answer for q in store.questions("r")] == ["false", "true"]

    def test_breakers_are_on_record_for_the_whole_tree(self, store: Store) -> None:
        """Their changes come in order, those of child runs too."""
        lease = store.create_run(a_run(), "0")
        child = store.create_run(a_run("child", parent_run_id="r"), "0")
        opened = BreakerChange(0, "m.f", "open", 3, 1, AT, LATER)
        closed = BreakerChange(1, "m.f", "closed", 0, 0, LATER)
        store.commit(child, inside(breaker=opened))
        store.commit(lease, inside(breaker=closed))
        assert (store.breakers("r"), store.breakers("child"), store.breakers("no")) == ([opened, closed], [opened], [])

    @pytest.mark.parametrize("control", list(Control))
    def test_a_request_is_seen_at_the_next_commit(self, store: Store, control: Control) -> None:
        """Every commit tells it, child runs that are begun meanwhile are asked too, and the end forgets it."""
        lease = store.create_run(a_run(), "0")
        assert store.commit(lease, Transition(AT, a_step(0), "1")) is None
        assert store.request("r", control, LATER).control is control
        child = store.create_run(a_run("child", parent_run_id="r"), "0")
        assert store.commit(lease, Transition(AT, a_step(1), "2")) is control
        assert store.commit(child, Transition(AT, a_step(0), "1")) is control
        store.commit(lease, PAUSED)
        assert store.get_run("r").control is None
        assert store.commit(store.claim("r", a_resumption()).lease, PAUSED) is None

    def test_a_request_reaches_all_that_has_not_ended(self, store: Store) -> None:
        """Runs at work are asked; those that wait are cancelled at once; ended child runs stay as they are."""
        lease = store.create_run(a_run(), "0")
        ends = {"waits": WAITING, "paused": PAUSED}
        ends["done"] = dataclasses.replace(PAUSED, status=RunStatus.COMPLETED)
        ends["failed"] = dataclasses.replace(PAUSED, status=RunStatus.FAILED)
        for name, end in ends.items():
            store.commit(store.create_run(a_run(name, parent_run_id="r"), "0"), end)
        store.create_run(a_run("works", parent_run_id="r"), "0")
        store.request("r", Control.CANCEL, LATER)
        now = {run.id: (run.status.value, run.control) for run in store.list_runs()}
        assert now == {
            "r": ("running", Control.CANCEL),
            "works": ("running", Control.CANCEL),
            "waits": ("cancelled", None),
            "paused": ("cancelled", None),
            "done": ("completed", None),
            "failed": ("failed", None),
        }
        store.commit(lease, PAUSED)
        with pytest.raises(RunNotFound, match="no"):
            store.request("no", Control.PAUSE, LATER)

    @pytest.mark.parametrize(
        ("status", "control", "after"),
        [
            (RunStatus.WAITING, Control.PAUSE, RunStatus.WAITING),
            (RunStatus.FAILED, Control.CANCEL, RunStatus.CANCELLED),
            (RunStatus.COMPLETED, Control.CANCEL, RunStatus.COMPLETED),
        ],
    )
    def test_a_request_to_a_run_that_stopped(
        self, store: Store, status: RunStatus, control: Control, after: RunStatus
    ) -> None:
        """Any but a completed one can be cancelled; there is nothing to pause."""
        store.commit(store.create_run(a_run(), "0"), dataclasses.replace(PAUSED, status=status))
        run = store.request("r", control, LATER)
        assert (run.status, run.control) == (after, None)

    def test_superseded_child_runs_are_cancelled_with_their_own(self, store: Store) -> None:
        """Those that have not ended, down to the last, with their questions; the reason says so, the money stays."""
        lease = store.create_run(a_run(), "0")
        for name, parent in (("child", "r"), ("grandchild", "child"), ("other", "r")):
            child = store.create_run(a_run(name, parent_run_id=parent), "0")
            store.commit(child, inside(question=a_question(name)))
            store.commit(child, dataclasses.replace(PAUSED, charges=(a_charge(5),)))
        store.commit(lease, Transition(AT, a_step(0), "1", superseded=("child",)))
        now = {run.id: run.status.value for run in store.list_runs()}
        assert now == {"r": "running", "child": "cancelled", "grandchild": "cancelled", "other": "paused"}
        assert "no longer asks for it" in str(store.get_run("child").stop_reason)
        assert store.subtree("r")[0] == 15
        assert [question.run_id for question in store.questions()] == ["other"]

    @pytest.mark.parametrize(
        ("calls", "charged", "by_child", "closed_with"),
        [
            ((CallStatus.DONE,), 7, 0, 0),
            ((CallStatus.STARTED, CallStatus.DONE), 7, 0, 0),
            ((CallStatus.DONE, CallStatus.STARTED), 7, 0, 9),
            ((CallStatus.DONE,), 8, 0, 9),
            ((CallStatus.FAILED,), 7, 0, 9),
            ((), 0, 5, 0),
            ((), 0, 0, 9),
        ],
    )
    def test_a_step_that_only_replays_is_not_charged_again(
        self, store: Store, calls: tuple[CallStatus, ...], charged: int, by_child: int, closed_with: int
    ) -> None:
        """A try that was cut off and recorded nothing costs nothing where calls and children account for all before."""
        lease = store.create_run(a_run(in_flight=0), "0")
        for seq, status in enumerate(calls):
            store.commit(lease, inside(call=a_call(seq, key="k", status=status, nano_usd=7)))
        child = store.create_run(a_run("child", parent_run_id="r", parent_step=0), "0")
        store.commit(child, dataclasses.replace(PAUSED, charges=(a_charge(by_child),) if by_child else ()))
        store.commit(lease, inside(charges=(a_charge(charged),) if charged else ()))
        store.commit(lease, Transition(AT, in_flight=0, reserved_nano=9))
        store.commit(lease, dataclasses.replace(PAUSED, keep_in_flight=True))
        store.claim("r", a_resumption())
        assert sum(charge.nano_usd for charge in store.charges("r") if charge.estimated) == closed_with

    def test_children_of_a_step_are_listed(self, store: Store) -> None:
        """By their parent and its step."""
        for name, step in (("a", 0), ("b", 1), ("c", 1)):
            store.create_run(a_run(name, parent_run_id="r", parent_step=step, child_key=f"k{name}"), "0")
        found = store.list_runs(parent="r", parent_step=1)
        assert {run.id: run.child_key for run in found} == {"b": "kb", "c": "kc"}

    @pytest.mark.parametrize("progress", ["step", "call", "answer", "step of a child"])
    def test_claims_without_progress_are_counted(self, store: Store, progress: str) -> None:
        """After a failure each claim counts, until something has been completed; `afresh` begins anew."""
        store.commit(store.create_run(a_run(in_flight=0), "0"), inside(question=a_question()))
        child = store.create_run(a_run("child", parent_run_id="r"), "0")
        failed = dataclasses.replace(PAUSED, status=RunStatus.FAILED)
        lease = dataclasses.replace(child, run_id="r")

        def claimed(**fields: Any) -> int:
            nonlocal lease
            store.commit(lease, failed)
            claim = store.claim("r", a_resumption(**fields))
            lease = claim.lease
            return claim.run.stuck

        assert [claimed() for _ in range(3)] == [1, 2, 3]
        assert (claimed(afresh=True), claimed()) == (0, 1)
        if progress == "step":
            advance(store, lease, 1)
        elif progress == "call":
            store.commit(lease, inside(call=a_call(0, status=CallStatus.DONE, result="1")))
        elif progress == "answer":
            store.answer(a_question(), "true", "anna", LATER)
        else:
            advance(store, child, 1)
        assert [claimed(), claimed()] == [1, 2]

    def test_a_pause_is_no_sign_of_being_stuck(self, store: Store) -> None:
        """Who pauses and resumes a run, or gives it more budget, is not counted."""
        store.commit(store.create_run(a_run(), "0"), PAUSED)
        for status in (RunStatus.PAUSED, RunStatus.BUDGET_EXHAUSTED, RunStatus.WAITING) * 2:
            claim = store.claim("r", a_resumption())
            store.commit(claim.lease, dataclasses.replace(PAUSED, status=status))
            assert claim.run.stuck == 0
