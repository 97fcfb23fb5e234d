"""`loomc history`, `attempts`, `calls`, `state`, `diff` and `compare`: a run piece by piece."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing

import pytest


def change(workshop, *statements) -> None:
    """Change the database of a workshop by hand."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def rows(text: str) -> list[str]:
    """The lines of a text, their spaces made single."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_history_shows_which_step_grew_from_which(here, workshop):
    """Returns stand beside the way that was gone, the best step is marked, and a failure that was absorbed too."""
    assert rows(here(workshop, "history", "zigzag").out) == [
        "step score cost",
        "● initial state",
        "● 0 1 $0.0500",
        "● 1 3 $0.0500",
        "├─● 2 2 $0.0500 ↩ back to step 1",
        "├─● 3 2.5 $0.0500 ↩ back to step 1",
        "● 4 4 $0.0500",
        "├─● 5 1 $0.0500 ↩ back to step 4",
        "● 6 6 $0.0500 ★ best",
    ]
    assert "├─● 2 ✘ failed ↩ back to step 1" in rows(here(workshop, "history", "forgiving").out)


def test_history_shows_forks_on_both_sides(here, workshop):
    """Where they left a run, and where a run came from."""
    fork = json.loads(here(workshop, "fork", "zigzag", "--step", "1", "--json").out)["run_id"]
    assert f"● 1 3 $0.0500 ⑂ run {fork}" in rows(here(workshop, "history", "zigzag").out)
    assert here(workshop, "history", fork).out.endswith(f"run {fork} was forked from step 1 of run zigzag\n")
    nodes = json.loads(here(workshop, "history", "zigzag", "--json").out)
    assert [node["forks"] for node in nodes if node["step_n"] == 1] == [[fork]]


def test_history_goes_on_behind_a_step_that_is_missing(here, workshop):
    """It is named, and so is what grew from it."""
    change(workshop, "DELETE FROM steps WHERE run_id = 'climb' AND step_n = 2")
    text = rows(here(workshop, "history", "climb").out)
    assert "● 2 ✘ missing on record" in text
    assert any(line.startswith("● 4 ") for line in text)


@pytest.mark.parametrize("command", ["show", "explain", "runs --tree", "verify", "delete --yes"])
def test_a_record_that_goes_round_in_a_circle_ends_nowhere_else(here, workshop, command):
    """A run that is its own parent is looked at once, and can be deleted."""
    change(workshop, "UPDATE runs SET parent_run_id = 'climb', parent_step = 0 WHERE id = 'climb'")
    outcome = here(workshop, *command.split(), *(["climb"] if "runs" not in command else []))
    assert "Recursion" not in outcome.out + outcome.err
    assert outcome.status == (command == "verify")


def test_history_as_json_has_stable_keys(here, workshop):
    """One object a step, the initial state first."""
    nodes = json.loads(here(workshop, "history", "zigzag", "--json", "--offset", "3", "--limit", "1").out)
    assert nodes == [
        {
            "step_n": 2,
            "parent_n": 1,
            "depth": 1,
            "begins": True,
            "score": 2.0,
            "cost_usd": 0.05,
            "best": False,
            "failed": False,
            "decision": "restore 1",
            "missing": False,
            "state_dropped": False,
            "forks": [],
        }
    ]


def test_attempts_tell_errors_and_costs(here, workshop):
    """What failed, when, why and for how much; a run without failures says so."""
    text = here(workshop, "attempts", "fragile").out
    assert re.search(r"^ +2 +0  \$0\.0300 .* validation +ValueError: \[bold\]no", text, re.MULTILINE)
    (attempt,) = json.loads(here(workshop, "attempts", "fragile", "--json").out)
    assert (attempt["step_n"], attempt["cost_usd"], attempt["category"]) == (2, 0.03, "validation")
    assert here(workshop, "attempts", "climb").out == "no try of a step of run climb has failed\n"


@pytest.fixture
def shipped(begin, here, tmp_path):
    """A run that made two calls, one of them after it was approved."""
    folder = begin(tmp_path, "ship")
    assert here(folder, "approve", "ship", "--by", "anna").status == 0
    assert here(folder, "resume", "ship").status == 0
    return folder


def test_calls_tell_results_and_can_be_picked(here, shipped):
    """Each call with its result, its status and its cost; by status, and a part of many."""
    text = here(shipped, "calls", "ship").out
    assert re.search(r'^ +0 +0  done +\$0\.0000 .* time\.strftime +"2\d\d\d"$', text, re.MULTILINE)
    found = json.loads(here(shipped, "calls", "ship", "--json").out)
    assert [(call["name"], call["status"]) for call in found] == [("time.strftime", "done"), ("gate.deploy", "done")]
    assert json.loads(here(shipped, "calls", "ship", "--json", "--offset", "1", "--limit", "1").out) == found[1:]
    assert here(shipped, "calls", "ship", "--status", "failed").out == "no calls that are failed in run ship\n"
    assert here(shipped, "calls", "ship", "--status", "lost").status == 2


@pytest.mark.parametrize(("step", "n"), [((), 5), (("--step", "2"), 3), (("--step", "-1"), 0)])
def test_state_is_json_that_a_person_reads(here, workshop, step, n):
    """That of the newest step, of another one, or the initial one."""
    assert json.loads(here(workshop, "state", "climb", *step).out) == {"n": n, "text": "x"}
    told = json.loads(here(workshop, "state", "climb", *step, "--json").out)
    assert told == {"run_id": "climb", "step_n": n - 1, "state": {"n": n, "text": "x"}}


@pytest.mark.parametrize("args", [("state", "climb", "--step", "5"), ("diff", "climb", "0", "-2")])
def test_a_step_that_is_not_there_is_refused_with_those_that_are(here, workshop, args):
    """The error names the step and the range."""
    outcome = here(workshop, *args)
    assert (outcome.status, outcome.out) == (1, "")
    assert re.search(r"run climb has no step (5|-2); it has 0 to 4, and -1 for the initial state", outcome.err)


def test_diff_shows_values_side_by_side_and_texts_line_by_line(here, workshop):
    """A path a line; a text of several lines as a unified diff; equal states are said to be equal."""
    change(
        workshop,
        """UPDATE steps SET state_blob = '{"n":3,"text":"a\\nb\\nc"}' WHERE run_id = 'climb' AND step_n = 2""",
        """UPDATE steps SET state_blob = '{"n":2,"text":"a\\nc","new":[1]}' WHERE run_id = 'climb' AND step_n = 1""",
    )
    assert rows(here(workshop, "diff", "climb", "1", "2").out) == [
        *("path step 1 step 2", "state.n 2 3", "state.new [1]"),
        *("state.text", "@@ -1,2 +1,3 @@", "a", "+b", "c"),
    ]
    changes = json.loads(here(workshop, "diff", "climb", "-1", "2", "--json").out)
    assert changes[0] == {"path": "state.n", "kind": "changed", "before": 0, "after": 3}
    assert "are equal" in here(workshop, "diff", "climb", "2", "2").out


def test_compare_shows_scores_against_steps_and_money(here, workshop):
    """Both runs, where they part, the gain, and two tables."""
    text = rows(here(workshop, "compare", "climb", "zigzag").out)
    assert "first run climb completed 5 steps, $0.2500, best score 0 in step 1" in text
    assert {"part at step 3", "gain +6 for the second (maximize the score)", "2 -1 2", "6 6", "$0.3500 0 6"} <= {*text}
    told = json.loads(here(workshop, "compare", "climb", "zigzag", "--json", "--limit", "2").out)
    assert (told["parts_at"], told["gain"], told["direction"], len(told["levels"])) == (3, 6.0, "maximize", 10)
    assert told["scores"] == [{"step_n": 0, "first": -1.0, "second": 1.0}, {"step_n": 1, "first": 0.0, "second": 3.0}]


@pytest.mark.parametrize(
    ("runs", "status", "words"),
    [
        (("climb", "zigzag"), 0, ""),
        (("climb", "climb"), 0, ""),
        (("zigzag", "climb"), 1, "run climb is worse than run zigzag: its best score is 6 behind"),
        (("climb", "poor"), 1, "run climb and run poor cannot be compared: one of them has no score"),
    ],
)
def test_compare_can_fail_a_build(here, workshop, runs, status, words):
    """With --fail-if-worse the status is 1 when the second run is worse, and the line says by how much."""
    outcome = here(workshop, "compare", *runs, "--fail-if-worse")
    assert outcome.status == status
    assert words in outcome.err
    assert here(workshop, "compare", *runs).status == 0
