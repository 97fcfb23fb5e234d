"""`loomc export`: a whole run as JSON, JSON Lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

LOOMC = Path(sys.executable).with_name("loomc")


def test_json_is_one_object_with_everything(here, workshop):
    """The keys are stable; steps have their states, and children their ids."""
    text = here(workshop, "export", "master", "--json").out
    whole = json.loads(text)
    inside = ["attempts", "calls", "questions", "charges", "breakers", "children"]
    assert list(whole) == ["format", "run", "initial_state", "steps", *inside]
    assert whole["format"] == "loomc.run/1"
    assert whole["initial_state"] == {"n": 0, "text": "x"}
    assert [step["state"]["n"] for step in whole["steps"]] == [1, 2]
    assert whole["children"] == ["master-1", "master-0"]
    assert list(whole["charges"][0]) == ["step_n", "usd", "tokens", "label", "at", "estimated", "model", "usage"]
    assert here(workshop, "export", "master").out == text


def test_json_lines_are_one_object_each(here, workshop):
    """The run comes first; every line names its type."""
    lines = [json.loads(line) for line in here(workshop, "export", "master", "--jsonl").out.splitlines()]
    assert [line["type"] for line in lines] == ["run", "step", "step", "charge", "charge", "child", "child"]
    assert lines[0]["format"] == "loomc.run/1"
    assert lines[1]["state"] == {"n": 1, "text": "x"}
    assert lines[-1]["id"] == "master-0"


def test_csv_is_one_row_a_step(here, workshop):
    """The state stands as JSON in the last column, and the absorbed error on one line."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("UPDATE steps SET error = ? WHERE run_id = 'forgiving' AND step_n = 2", ("one\ntwo, \x1b[31m",))
        db.commit()
    found = list(csv.DictReader(io.StringIO(here(workshop, "export", "forgiving", "--csv").out)))
    assert [row["step_n"] for row in found] == ["0", "1", "2", "3", "4"]
    assert [json.loads(row["state"])["n"] for row in found] == [1, 2, 2, 3, 4]
    assert found[2]["error"] == r"one\ntwo, \x1b[31m"
    assert found[0]["cost_usd"] == ""


def test_csv_of_a_run_without_steps_has_its_header(here, workshop):
    """A reader of CSV finds the columns in any case."""
    new = json.loads(here(workshop, "fork", "climb", "--step", "2", "--json").out)["run_id"]
    assert here(workshop, "export", new, "--csv").out.startswith("step_n,parent_n,score,cost_usd,")


@pytest.mark.parametrize("form", ["--json", "--jsonl", "--csv"])
def test_a_file_gets_the_same_text(here, workshop, form):
    """`-o` writes to a file and prints nothing."""
    text = here(workshop, "export", "climb", form).out
    assert here(workshop, "export", "climb", form, "-o", "out.txt") == (0, "", "")
    assert (workshop / "out.txt").read_text() == text


def test_a_file_that_cannot_be_written_is_named(here, workshop):
    """An error of the system is one clean line too."""
    assert here(workshop, "export", "climb", "-o", "no/where.json") == (
        *(1, ""),
        "loomc: no/where.json: No such file or directory\n",
    )


def test_only_one_form_can_be_chosen(here, workshop):
    """Two forms at once are a mistake."""
    assert here(workshop, "export", "climb", "--csv", "--jsonl") == (
        *(1, ""),
        "loomc: --json, --jsonl and --csv: choose one\n",
    )


def test_the_reader_of_a_long_export_may_leave(workshop):
    """A closed pipe ends the export well and in silence, in every form."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 5 UNION ALL SELECT i + 1 FROM n WHERE i < 2999) "
            "INSERT INTO steps (run_id, step_n, parent_n, state_blob, timestamp) "
            "SELECT 'climb', i, i - 1, printf('{\"text\": \"%1000d\"}', i), '2026-01-01T00:00:00+00:00' FROM n"
        )
        db.execute("UPDATE runs SET steps = 3000 WHERE id = 'climb'")
        db.commit()
    for form in ("--json", "--jsonl", "--csv"):
        pipe = f"{LOOMC} export climb {form} | head -c 9; status=${{PIPESTATUS[0]}}; echo; echo $status"
        ended = subprocess.run(["bash", "-c", pipe], cwd=workshop, capture_output=True, text=True, check=True)
        assert ended.stdout.splitlines()[1] == "0"
        assert ended.stderr == ""
