"""The doctor looks at all of a database, says what is wrong and what mends it, and writes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.cells import cell_len

from loomc_runner.store import open_reader
from loomc_runner.store.schema import VERSION

DATABASE = ".loomc/checkpoints.db"
GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = {
    *("database", "exists", "healthy", "bytes", "log_bytes", "free_bytes", "copies", "tables_version", "tables_known"),
    *("journal_mode", "versions", "runs", "cost_usd", "owners", "largest", "problems"),
}


def told(here, folder, *args):
    """What the doctor says as JSON, and its exit status."""
    outcome = here(folder, "doctor", "--json", *args)
    found = json.loads(outcome.out)
    assert found.keys() == KEYS
    return found, outcome.status


def change(folder, statement, *values):
    """Change the database of a folder by hand."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        db.execute(statement, values)
        db.commit()


def test_a_database_in_order(here, workshop):
    """Its size, tables, versions, runs and money; a run that was cut off is a warning, and the status is 0."""
    outcome = here(workshop, "doctor")
    assert (outcome.status, outcome.err) == (0, "")
    text = outcome.out
    assert f"tables      version {VERSION}, up to date\n" in text
    assert re.search(
        r"^versions    loomc_runner \S+, python 3\.\S+, sqlite 3\.\S+, loom-tailcalls \S+", text, re.MULTILINE
    )
    assert re.search(r"^runs        .*1 interrupted.*2 paused.*, which cost \$\d+\.\d\d", text, re.MULTILINE)
    assert re.search(r"^locks       process \d+ is dead on mortal$", text, re.MULTILINE)
    assert text.endswith("warning     1 run was cut off: mortal: loomc recover\nnothing is wrong\n")


def test_the_same_as_json(here, workshop):
    """Every figure, with the command that mends each problem, for this very database."""
    found, status = told(here, workshop, "--db", DATABASE)
    runs = open_reader(workshop / DATABASE).list_runs()
    assert (status, found["healthy"], found["exists"], found["journal_mode"]) == (0, True, True, "wal")
    assert (sum(found["runs"].values()), found["tables_version"]) == (len(runs), VERSION)
    assert found["cost_usd"] == pytest.approx(sum(run.cost_usd for run in runs))
    assert [(owner["alive"], owner["runs"]) for owner in found["owners"]] == [(False, ["mortal"])]
    assert found["problems"] == [
        {"problem": "1 run was cut off: mortal", "command": f"loomc recover --db {DATABASE}", "warning": True}
    ]


def test_where_there_is_no_database_nothing_is_made(here, tmp_path):
    """It says what makes one, with status 1; `--json` is whole all the same."""
    outcome = here(tmp_path, "doctor")
    assert (outcome.status, "a first run makes it" in outcome.complaint) == (1, True)
    found, status = told(here, tmp_path, "--db", "no/such.db")
    assert (status, found["exists"], found["healthy"], found["bytes"], found["runs"]) == (1, False, False, None, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"), [("loomc-0.3.0.db", "of loomc 0.3.0; read"), ("tables-1.db", "version 1; read")]
)
def test_an_older_database_is_read_as_it_is(here, tmp_path, name, words):
    """It is in order, it says what will become of it, and every byte of it stays."""
    path = Path(shutil.copy(GOLDEN / name, tmp_path))
    before = path.read_bytes()
    outcome = here(tmp_path, "doctor", "--db", name)
    assert (outcome.status, f"tables      {words} as they are" in outcome.out) == (0, True)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


@pytest.mark.parametrize(
    ("statement", "problem", "command"),
    [
        (
            "DELETE FROM runs WHERE id = 'climb'",
            "6 rows of steps belong to nothing in runs",
            f"sqlite3 {DATABASE} 'DELETE FROM steps WHERE run_id NOT IN (SELECT id FROM runs)'",
        ),
        (
            "UPDATE runs SET parent_run_id = 'x' WHERE id = 'climb'",
            "run climb is a child of x, which is gone",
            "loomc delete climb",
        ),
        ("PRAGMA user_version = 99", "was written by a newer loomc_runner", None),
        ("UPDATE runs SET status = 'dancing' WHERE id = 'climb'", "a row of run climb is damaged", None),
    ],
)
def test_what_is_wrong_comes_with_what_mends_it(here, workshop, statement, problem, command):
    """Each problem is a line, the status is 1, and the command does mend it."""
    change(workshop, statement)
    found, status = told(here, workshop)
    (problem_found,) = [each for each in found["problems"] if problem in each["problem"]]
    assert (status, found["healthy"], problem_found["command"], problem_found["warning"]) == (1, False, command, False)
    assert problem in " ".join(here(workshop, "doctor").out.split())


def test_the_commands_that_mend_do(here, workshop):
    """After they were typed all is in order again."""
    change(workshop, "DELETE FROM runs WHERE id = 'climb'")
    change(workshop, "UPDATE runs SET parent_run_id = 'x' WHERE id = 'poor'")
    for problem in told(here, workshop)[0]["problems"]:
        if problem["command"].startswith("sqlite3 "):
            change(workshop, re.search("'(.*)'", problem["command"])[1])
        elif not problem["warning"]:
            assert here(workshop, *problem["command"].split()[1:], "--yes").status == 0
    assert told(here, workshop)[0]["healthy"]


@pytest.mark.parametrize(
    "harm", [lambda path: os.truncate(path, 9000), lambda path: path.write_bytes(b"a diary" * 999)]
)
def test_a_broken_file_is_a_problem_and_no_accident(here, tmp_path, harm):
    """One line for it, once, and all else that can be told."""
    path = Path(shutil.copy(GOLDEN / "tables-1.db", tmp_path))
    harm(path)
    found, status = told(here, tmp_path, "--db", path.name)
    assert (status, found["exists"], len(found["problems"])) == (1, True, 1)
    assert len(here(tmp_path, "doctor", "--db", path.name).err.splitlines()) == 1


def test_a_question_that_nobody_can_answer_any_more_is_a_warning(here, tmp_path, begin):
    """With the command that lets the run go on."""
    folder = begin(tmp_path, "ship")
    change(folder, "UPDATE questions SET expires_at = '2020-01-01T00:00:00+00:00'")
    found, status = told(here, folder)
    assert (status, [each["command"] for each in found["problems"]]) == (0, ["loomc resume ship"])


def test_a_copy_of_an_older_database_is_named(here, tmp_path):
    """With its size, since it takes room."""
    path = Path(shutil.copy(GOLDEN / "tables-1.db", tmp_path))
    here(tmp_path, "prune", "--older-than", "1ms", "--yes", "--db", path.name)
    (copy,) = told(here, tmp_path, "--db", path.name)[0]["copies"]
    assert (copy["path"], copy["bytes"] > 10_000) == ("tables-1.db.before-migration", True)


def test_a_process_at_work_is_named(here, fresh):
    """With its number and its runs; nothing of it is a problem."""
    command = [sys.executable, "lab.py", "leave", "patient"]
    with subprocess.Popen(
        command, cwd=fresh, env={**os.environ, "BROKEN": "1"}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "hanging\n"
        outcome = here(fresh, "doctor")
        process.kill()
    assert f"locks       process {process.pid} is at work on patient\nall is well\n" in outcome.out


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_it_fits_the_terminal(on_terminal, workshop, columns):
    """No line is wider, and nothing that is stored steers it."""
    change(workshop, "UPDATE runs SET parent_run_id = 'x\x1b[31m' WHERE id = 'climb'")
    text = on_terminal(workshop, columns, "doctor", NO_COLOR="1")
    facts = [line for line in text.splitlines() if line and not line.startswith("loomc:")]
    assert len(facts) > 8
    assert max(map(cell_len, facts)) <= columns
    assert "\x1b" not in text


@pytest.mark.parametrize("damage", ["nano_usd = 'abc'", "updated_at = 'once'", "notes = '[1]'", "budget = '[1]'"])
def test_a_row_that_nobody_wrote_is_told_with_its_run(here, workshop, damage):
    """The rest of the database is looked at all the same."""
    change(workshop, f"UPDATE runs SET {damage} WHERE id = 'climb'")
    outcome = here(workshop, "doctor")
    assert outcome.status == 1
    assert "a row of run climb is damaged" in " ".join(outcome.out.split())
    assert "journal" in outcome.out
