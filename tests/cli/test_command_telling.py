"""`loomc explain` and `loomc verify`: the story of a run, and whether its record is whole."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest


def rows(text: str) -> list[str]:
    """The lines of a text, their spaces made single."""
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("run", "lines"),
    [
        (
            "zigzag",
            [
                "why converged: target(5) reached with 6",
                "best step 6 with 6, up from 1 in step 0",
                "$0.35 in committed steps (7)",
                "went back after step 2 to step 1",
                "after step 5 to step 4",
            ],
        ),
        ("climb", ["best step 1 with 0, up from -1 in step 0; the newest scored -3 in step 4"]),
        ("fragile", ["$0.03 in failed tries (1)", "go on loomc resume fragile"]),
        ("mortal", ["why its process died in step 3; what was committed is kept", "$0.02 in the step under way (1)"]),
        ("forgiving", ["absorbed the failure of step 2", "went back after step 2 to step 1"]),
        ("master", ["$0.02 child runs of __main__:apprentice (2)", "children 2 child runs (loomc runs --tree)"]),
        ("master-0", ["child of step 0 of run master"]),
        ("poor", ["why budget: usd 0.12 of 0.10 ($0.09 spent, the rest expected)"]),
    ],
)
def test_explain_tells_why_and_where_the_money_went(here, workshop, run, lines):
    """Each run in words and figures, with the command that goes on."""
    told = rows(here(workshop, "explain", run).out)
    assert [line for line in lines if line not in told] == [], told


def test_explain_tells_of_questions_and_retries(here, begin, tmp_path):
    """Who was asked, and what they said."""
    folder = begin(tmp_path, "ship")
    here(folder, "deny", "ship", "--by", "anna", "--note", "not on Friday")
    here(folder, "resume", "ship")
    told = rows(here(folder, "explain", "ship").out)
    assert any(line.startswith('asked Deploy version 3? (step 0): {"approved": false') for line in told), told
    assert any(line.endswith("by anna") for line in told)
    assert "left step 0: waiting: Deploy version 3?" in told


KEYS = {
    *("run", "reason", "limits", "best", "spent_usd", "spent_on", "sources", "models", "estimated_usd", "retried"),
    *("left", "restores", "escalations", "absorbed", "breakers", "questions", "children", "findings", "go_on"),
}


def test_explain_as_json_has_everything(here, workshop):
    """Stable keys, and lists that are not cut off."""
    told = json.loads(here(workshop, "explain", "zigzag", "--json").out)
    assert {*told} == KEYS
    assert (told["restores"], told["run"]["id"], told["go_on"]) == ([[2, 1], [3, 1], [5, 4]], "zigzag", None)


def test_a_long_list_ends_early_on_a_terminal_and_says_so(here, workshop):
    """Of many of one kind the first eight are told."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.executemany(
            "INSERT INTO attempts (run_id, step_n, attempt, error, category, started_at) "
            "VALUES ('climb', ?, 0, 'no', 'x', '2026-01-01T00:00:00Z')",
            [(n,) for n in range(5)],
        )
        db.executemany(
            "INSERT INTO charges (run_id, step_n, nano_usd, label, at) "
            "VALUES ('climb', 0, 0, ?, '2026-01-01T00:00:00Z')",
            [(f"label {n}",) for n in range(12)],
        )
        db.commit()
    told = rows(here(workshop, "explain", "climb").out)
    assert "... and 5 more (--json: all)" in told
    assert sum(line.endswith("failed 1 time: no") for line in told) == 5


@pytest.mark.parametrize("run", ["climb", "zigzag", "fragile", "mortal", "forgiving", "master", "gentle", "stubborn"])
def test_verify_finds_nothing_in_what_the_library_wrote(here, workshop, run):
    """However a run stopped, its record is whole; nothing is written by looking."""
    outcome = here(workshop, "verify", run)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"the record of run {run} is whole: ")


DAMAGE = {
    "DELETE FROM steps WHERE run_id = 'climb' AND step_n = 2": "step 2 is missing",
    "UPDATE steps SET step_n = 9 WHERE run_id = 'climb' AND step_n = 2": "step 9 is there, but the run counts 5 steps",
    "UPDATE steps SET state_blob = 'x' WHERE run_id = 'climb' AND step_n = 1": "step 1 has a state that is no JSON",
    "UPDATE runs SET budget = '{' WHERE id = 'climb'": "a row of run climb is damaged",
    "UPDATE steps SET decision = 'restore home' WHERE run_id = 'climb' AND step_n = 1": "cannot be read any further",
    "INSERT INTO steps SELECT 'nobody', step_n, parent_n, state_blob, base_n, encoding, nano_usd, tokens, score, "
    "timestamp, duration, error, decision, best_n, scores FROM steps WHERE run_id = 'climb' AND step_n = 0": (
        "rows of steps"
    ),
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_is_told_and_ends_in_no_traceback(here, workshop, statement):
    """`verify` says what is wrong and leaves with 1; `explain` tells what it can, or why it cannot."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(statement)
        db.commit()
    outcome = here(workshop, "verify", "climb")
    assert outcome.status == 1
    assert DAMAGE[statement] in outcome.out + outcome.err
    assert len(outcome.err.splitlines()) == 1
    explained = here(workshop, "explain", "climb")
    assert "Traceback" not in explained.out + explained.err
    assert explained.status == 0 or len(explained.err.splitlines()) == 1


def test_a_cut_page_is_told_by_every_command(here, workshop):
    """A torn file is a line that says so, not a traceback."""
    file = workshop / ".loomc/checkpoints.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'steps'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    data = bytearray(file.read_bytes())
    data[(root - 1) * size : root * size] = b"\xff" * size
    file.write_bytes(data)
    for command in ("verify", "explain", "show", "history", "state"):
        outcome = here(workshop, command, "climb")
        assert (outcome.status, "Traceback" in outcome.err) == (1, False), command
        assert "damaged" in outcome.out + outcome.err or "malformed" in outcome.out + outcome.err, outcome


def test_verify_as_json_has_every_finding(here, workshop):
    """With the step of each, and the file's own troubles apart."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("DELETE FROM steps WHERE run_id = 'climb' AND step_n = 2")
        db.commit()
    told = json.loads(here(workshop, "verify", "climb", "--json").out)
    assert (told["run_id"], told["whole"], told["file"]) == ("climb", False, [])
    assert {"step_n": 2, "problem": "is missing"} in told["findings"]
