"""A record that is whole is called so, and damage is told with the step it is in."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress

import pytest
from driving import Draft, Maker, doing, grow, size

from loomc_runner import BestScore, Budget, LastGood, Retry, ask, spend, tool
from loomc_runner.report.verify import verify
from loomc_runner.store import open_reader, open_store


@tool
def ping(n: int) -> int:
    """A call that costs something."""
    spend(usd=0.001, tokens=3)
    return n


def step(draft: Draft) -> Draft:
    """A step that calls, spends, and scores worse in its third try."""
    ping(draft.n)
    spend(usd=0.01, tokens=10, label="model")
    return grow(draft)


@pytest.fixture
def path(tmp_path):
    """A database with a run of five steps, which went back once, and another run."""
    place = tmp_path / "runs.db"
    make = Maker(open_store(place), is_async=False)
    for run_id in ("r", "other"):
        make(step, scorer=lambda d: -abs(d.n - 3), backtrack=BestScore(), budget=Budget(iterations=5)).run(
            Draft(), run_id=run_id
        )
    open_store(place).close()
    return place


def damaged(path, *statements) -> list[str]:
    """The findings after somebody has changed the file by hand."""
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    with closing(open_reader(path)) as store:
        return [str(finding) for finding in verify(store, store.get_run("r"))]


def test_a_run_that_ended_well_is_whole(path):
    """Nothing is found where nothing is wrong."""
    assert damaged(path) == []


def failing_at(n: int):
    """A step that fails there for good, and once in passing at the beginning."""
    left = [TimeoutError("slow")]

    def fragile(draft: Draft) -> Draft:
        ping(draft.n)
        spend(usd=0.02)
        if left:
            raise left.pop()
        if draft.n == n:
            raise ValueError("no")
        return grow(draft)

    return fragile


def asking(draft: Draft) -> Draft:
    """A step that pays, and then asks."""
    spend(usd=0.02)
    ask("go on?", bool)
    return draft


@pytest.mark.parametrize(
    ("fn", "options", "status"),
    [
        (failing_at(1), {"retry": Retry(attempts=2)}, "failed"),
        (failing_at(1), {"retry": Retry(attempts=2), "backtrack": LastGood(2)}, "failed"),
        (failing_at(9), {"retry": Retry(attempts=2), "budget": Budget(usd=0.05)}, "budget_exhausted"),
        (asking, {}, "waiting"),
    ],
)
def test_a_run_that_stopped_in_the_middle_is_whole(memory, fn, options, status):
    """Failed tries, retries, absorbed failures and open questions are no damage."""
    with suppress(ValueError):
        Maker(memory, is_async=False)(fn, **options).run(Draft(), run_id="r")
    run = memory.get_run("r")
    assert (run.status.value, [str(finding) for finding in verify(memory, run)]) == (status, [])


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM steps WHERE run_id = 'r' AND step_n = 2", ["step 2 is missing"]),
        ("DELETE FROM steps WHERE run_id = 'r' AND step_n IN (2, 3)", ["step 2 and those up to step 3 are missing"]),
        ("DELETE FROM steps WHERE run_id = 'r' AND step_n = 4", ["step 4 is missing"]),
        ("DELETE FROM steps WHERE run_id = 'r' AND step_n = -1", ["the initial state is missing"]),
        ("UPDATE steps SET parent_n = 4 WHERE run_id = 'r' AND step_n = 2", ["step 2 grew from step 4"]),
        ("UPDATE steps SET parent_n = 0 WHERE run_id = 'r' AND step_n = 2", ["step 2 grew from step 0, but step 1"]),
        ("UPDATE steps SET score = 9e999 WHERE run_id = 'r' AND step_n = 1", ["step 1 has the score inf"]),
        ("UPDATE steps SET best_n = 0 WHERE run_id = 'r' AND step_n = 3", ["step 3 says that step 0 is the best"]),
        ("UPDATE runs SET best_step = 0 WHERE id = 'r'", ["has step 0 as its best, its newest step says 2"]),
        ("UPDATE runs SET steps = 4 WHERE id = 'r'", ["step 4 is there, but the run counts 4 steps"]),
        ("UPDATE steps SET state_blob = '{' WHERE run_id = 'r' AND step_n = 1", ["step 1 has a state that is no JSON"]),
        (
            "UPDATE steps SET encoding = 'same', base_n = 3 WHERE run_id = 'r' AND step_n = 3",
            ["step 3 has no readable state"],
        ),
        ("UPDATE charges SET nano_usd = 0 WHERE run_id = 'r' AND step_n = 1", ["step 1 with its failed tries cost"]),
        ("DELETE FROM charges WHERE run_id = 'r' AND step_n = 0", ["counts $0.055, its charges come to $0.044"]),
        ("UPDATE runs SET tokens = 1 WHERE id = 'r'", ["counts 1 tokens, its charges come to 65"]),
        ("UPDATE calls SET result = 'x' WHERE run_id = 'r' AND step_n = 0", ["step 0 has a result of"]),
        ("UPDATE calls SET outer = 7 WHERE run_id = 'r' AND step_n = 0", ["inside of call 7, which is not on record"]),
        ("UPDATE calls SET seq = 1 WHERE run_id = 'r' AND step_n = 0", ["step 0 has call 1 on record without call 0"]),
        (
            "UPDATE calls SET nano_usd = 5000000000 WHERE run_id = 'r'",
            ["step 0 has call 0 at $5.00, but charges of $0.011"],
        ),
        ("UPDATE steps SET tokens = 99 WHERE run_id = 'r' AND step_n = 1", ["step 1 counts 99 tokens, its charges 13"]),
        ("UPDATE steps SET score = 99 WHERE run_id = 'r' AND step_n = 1", ["step 1 has a better score than step 2"]),
        ("UPDATE steps SET decision = 'restore 77' WHERE run_id = 'r' AND step_n = 4", ["step 4 went back to step 77"]),
        ("UPDATE runs SET result = '{' WHERE id = 'r'", ["has a result that is no JSON"]),
        ("UPDATE runs SET worked = -5 WHERE id = 'r'", ["has worked for -5 seconds"]),
        ("UPDATE runs SET forked_from = 'x' WHERE id = 'r'", ["was forked from x, which names no step"]),
        ("UPDATE runs SET parent_run_id = 'r', parent_step = 0 WHERE id = 'r'", ["goes round in a circle"]),
        ("UPDATE calls SET step_n = 9 WHERE run_id = 'r' AND step_n = 0", ["step 9 has calls on record"]),
        ("UPDATE runs SET parent_run_id = 'gone', parent_step = 0 WHERE id = 'r'", ["is a child of run gone"]),
        ("UPDATE steps SET timestamp = 'yesterday' WHERE run_id = 'r'", ["cannot be read any further"]),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_found(path, statement, found):
    """Each kind of damage is told in words, with the step it is in."""
    told = damaged(path, statement)
    for words in found:
        assert any(words in finding for finding in told), told


def test_a_step_from_another_run_is_found(path):
    """A step that was moved over from another run, an hour later, was not committed between its neighbours."""
    moved = (
        "UPDATE steps SET run_id = 'r', timestamp = '2100-01-01T00:00:00+00:00' WHERE run_id = 'other' AND step_n = 2"
    )
    told = damaged(path, "DELETE FROM steps WHERE run_id = 'r' AND step_n = 2", moved)
    assert told == ["step 2 was not committed between its neighbours: it may be of another run"]


def test_a_clock_that_was_set_back_is_no_damage(path):
    """Neither once nor again and again: only a step beside neighbours that are in order is of another run."""
    at = "'2020-01-01T00:00:0' || (9 - step_n) || '+00:00'"
    back = f"UPDATE steps SET timestamp = {at} WHERE run_id = 'r' AND step_n > {{}}"
    assert damaged(path, back.format(2)) == []
    assert damaged(path, back.format(-1)) == []


def test_a_run_of_the_other_side_of_a_damage_is_whole(path):
    """Only the run that is damaged is called so."""
    damaged(path, "DELETE FROM steps WHERE run_id = 'r' AND step_n = 2")
    with closing(open_reader(path)) as store:
        assert [*verify(store, store.get_run("other"))] == []


def test_children_count_for_their_parent(memory):
    """What child runs spend is part of what their parent's steps say they cost."""
    make = Maker(memory, is_async=False)
    child = make(step, budget=Budget(iterations=2), name="child")
    parent = make(doing(lambda: child.run(Draft())), budget=Budget(iterations=2), scorer=size)
    parent.run(Draft(), run_id="r")
    found = [str(finding) for run in memory.list_runs() for finding in verify(memory, run)]
    assert (len(memory.list_runs()), found) == (3, [])
