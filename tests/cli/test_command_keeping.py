"""Runs are tagged, deleted and pruned: what goes is shown first, goes as a whole, and makes room on the disk."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

import pytest
from rich.cells import cell_len

from loomc_runner.store import open_reader
from loomc_runner.store.upkeep import damage

LOOMC = str(Path(sys.executable).with_name("loomc"))
DATABASE = ".loomc/checkpoints.db"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def ids(folder):
    """The runs in the database of a folder."""
    return {run.id for run in open_reader(folder / DATABASE).list_runs()}


def content(path):
    """All that is in a database, wherever in the file and its log it lies."""
    with closing(sqlite3.connect(path)) as db:
        return [*db.iterdump()]


def change(folder, statement, *values):
    """Change the database of a folder by hand."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        db.execute(statement, values)
        db.commit()


def on_terminal(folder, columns, typed, *args):
    """Run the command on a terminal, on which somebody types when asked; status and what is seen."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"LOOMC_DB", "NO_COLOR", "COLUMNS"}}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": {**environment, "TERM": "xterm"}}
    process = subprocess.Popen([LOOMC, *args], cwd=folder, **streams)
    os.close(theirs)
    text = b""
    while True:
        try:
            text += os.read(ours, 65536)
        except OSError:
            break
        if typed and text.rstrip().endswith(b"[y/N]:"):
            os.write(ours, typed.encode())
            typed = ""
    os.close(ours)
    return process.wait(timeout=30), COLOUR.sub("", text.decode().replace("\r\n", "\n"))


def test_tags_are_added_taken_away_and_listed(here, workshop):
    """Each once, in the order in which they came; `--json` has them as a list; `show` shows them."""
    assert here(workshop, "tag", "climb").out == "run         climb\ntags        none\n"
    assert here(workshop, "tag", "climb", "good", "très bon", "good").out.endswith("\ntags        good, très bon\n")
    assert "tags        good, très bon\n" in here(workshop, "show", "climb").out
    changed = here(workshop, "tag", "clim", "new", "--remove", "good", "--json")
    assert json.loads(changed.out) == {"run_id": "climb", "tags": ["très bon", "new"]}
    assert here(workshop, "tag", "climb").out == "run         climb\ntags        très bon, new\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tag", "climb", ""], "tags=['']: give a list of printable strings"),
        (["tag", "climb", "\x1b[31m"], "give a list of printable strings"),
        (["tag", "climb", "--remove", "no"], "run climb has no tag 'no'; loomc tag climb lists those it has"),
        (["tag", "nobody", "x"], "there is no run nobody in"),
        (["delete", "climb", "nobody", "--yes"], "there is no run nobody in"),
        (["delete", "master-0", "--yes"], "run master-0 is a child of run master, which pays for it"),
        (["delete", "climb"], "nobody can be asked here: loomc delete --yes deletes 1 run and 5 steps"),
        (["delete"], "Missing argument 'RUN...'"),
        (["prune"], "Missing option '--older-than'"),
        (["prune", "--older-than", "soon"], "not a duration: 'soon'"),
        (["prune", "--older-than", "1d", "--status", "running"], "a run that somebody works on is not deleted"),
        (["prune", "--older-than", "1ms"], "nobody can be asked here: loomc prune --yes deletes"),
        (["prune", "--older-than", "1d", "--db", "no.db"], "there is no database at"),
    ],
)
def test_what_cannot_be_is_refused(here, workshop, args, message):
    """In one line that says what to do; nothing is changed, and nothing is made."""
    before, files = content(workshop / DATABASE), sorted(workshop.iterdir())
    refused = here(workshop, *args)
    assert (refused.status > 0, refused.out, len(refused.err.splitlines())) == (True, "", 1)
    assert message in refused.err
    assert (content(workshop / DATABASE), sorted(workshop.iterdir())) == (before, files)


def test_runs_are_deleted_with_their_child_runs(loomc, workshop):
    """What was said to go goes, others and forks stay, and what is left is whole."""
    change(workshop, "UPDATE runs SET forked_from = 'master:1' WHERE id = 'climb'")
    before = ids(workshop)
    told = loomc(workshop, "delete", "master", "poo", "--yes")
    assert told.out == (
        "deleted     2 runs with 2 child runs and 7 steps, which cost $0.31\n"
        "its room    used by new runs; loomc prune gives it back to the disk\n"
    )
    assert before - ids(workshop) == {"master", "master-0", "master-1", "poor"}
    assert damage(workshop / DATABASE) == []
    for command in (["show", "climb"], ["export", "climb"], ["runs", "--tree"]):
        assert loomc(workshop, *command).status == 0


def test_a_dry_run_deletes_nothing(here, workshop):
    """It shows every run with its steps and money, and the totals; `--json` has the same keys as a real one."""
    before = content(workshop / DATABASE)
    text = here(workshop, "delete", "master", "climb", "--dry-run").out
    assert [line.split()[:3] for line in text.splitlines()[1:3]] == [
        ["master", "budget_exhausted", "4"],
        ["climb", "completed", "5"],
    ]
    assert text.splitlines()[-1] == "2 runs with 2 child runs and 9 steps, which cost $0.47"
    told = json.loads(here(workshop, "delete", "master", "--dry-run", "--json").out)
    assert (told["dry_run"], told["deleted"], content(workshop / DATABASE)) == (True, [], before)
    (run,) = told["runs"]
    assert (run["run_id"], run["child_runs"], run["steps"], run["cost_usd"]) == ("master", 2, 4, 0.22)
    done = json.loads(here(workshop, "delete", "master", "--yes", "--json").out)
    assert (done.keys(), done["runs"], done["deleted"]) == (told.keys(), told["runs"], ["master"])


@pytest.mark.parametrize(("typed", "left"), [("y\n", False), ("n\n", True), ("\n", True), ("\x04", True)])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_person_is_asked_first(workshop, columns, typed, left):
    """On a terminal, after what goes was shown in lines that fit; only a yes deletes."""
    _, seen = on_terminal(workshop, columns, typed, "delete", "master", "climb")
    assert "Delete 2 runs with 2 child runs and 9 steps, which cost $0.47? [y/N]:" in seen
    assert max(cell_len(line) for line in seen.splitlines()[:3]) <= columns
    assert ({"master", "climb"} <= ids(workshop), "deleted     2 runs" in seen) == (left, not left)


@pytest.fixture
def at_work(fresh):
    """A folder in which a process works on the run `patient`; the process."""
    command = [sys.executable, "lab.py", "leave", "patient"]
    process = subprocess.Popen(command, cwd=fresh, env={**os.environ, "BROKEN": "1"}, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "hanging\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_at_work_is_not_deleted(here, fresh, at_work):
    """The refusal names it and how to end it, a prune passes it by; when its process is gone it can go."""
    refused = here(fresh, "delete", "patient", "--yes")
    assert refused.complaint == (
        "loomc: run patient is being worked on and cannot be deleted; "
        "wait for it, or end it first: loomc pause patient, or loomc cancel patient"
    )
    assert "deleted     nothing\n" in here(fresh, "prune", "--older-than", "1ms", "--yes").out
    assert ids(fresh) == {"patient"}
    at_work.kill()
    at_work.wait()
    assert here(fresh, "delete", "patient", "--yes").status == 0
    assert ids(fresh) == set()


def test_a_prune_beside_a_run_at_work_says_that_it_may_wait(here, fresh, at_work):
    """And the room is given back nevertheless."""
    with closing(sqlite3.connect(fresh / DATABASE)) as db:
        db.execute("INSERT INTO runs (id, status, created_at, updated_at) VALUES ('old', 'failed', '2020', '2020')")
        db.execute(
            "UPDATE runs SET created_at = ?, updated_at = ? WHERE id = 'old'", ("2020-01-01T00:00:00+00:00",) * 2
        )
        db.commit()
    out = here(fresh, "prune", "--older-than", "30d", "--yes").out
    assert re.match(
        r"size        \d+ kB are written anew; 1 run at work may have to wait for that\ndeleted     1 run", out
    )
    assert (ids(fresh), damage(fresh / DATABASE)) == ({"patient"}, [])


@pytest.mark.parametrize("options", [["--keep-best"], []])
def test_old_runs_are_pruned(loomc, workshop, options):
    """Those that ended go, the best of each loop stays if that is wanted, and so do those that can go on."""
    best = {"climb", "zigzag", "stubborn", "forgiving"}
    open_ones = {"patient", "gentle", "mortal"}
    told = loomc(workshop, "prune", "--older-than", "1ms", "--yes", *options)
    assert ids(workshop) == open_ones | (best if options else set())
    lines = told.out.splitlines()
    assert [line for line in lines if "the best score" in line] == [
        f"kept        run {name}, which has the best score of __main__:{name}"
        for name in ("forgiving", "stubborn", "zigzag", "climb")
        if options
    ]
    assert "kept        2 paused runs: loomc resume RUN goes on with one, --status paused deletes them" in lines
    assert re.fullmatch(r"deleted     \d+ runs with 2 child runs and \d+ steps, which cost \$\d\.\d+", lines[-2])
    assert re.fullmatch(rf"size        {DATABASE} takes \d+ kB, before \d+ kB", lines[-1])
    assert damage(workshop / DATABASE) == []


def test_a_prune_makes_the_file_smaller(loomc, workshop):
    """The room of what was deleted is given back, and `--json` tells both sizes; later there is nothing to do."""
    change(workshop, "UPDATE steps SET state_blob = ? WHERE run_id = 'climb'", f'"{"x" * 400_000}"')
    size = (workshop / DATABASE).stat().st_size
    told = json.loads(loomc(workshop, "prune", "--older-than", "1ms", "--loop", "climb", "--yes", "--json").out)
    assert (told["deleted"], told["skipped"], told["not_freed"]) == (["climb"], [], None)
    assert (told["bytes_before"], told["bytes_after"]) == (size, (workshop / DATABASE).stat().st_size)
    assert told["bytes_after"] < size - 2_000_000
    again = loomc(workshop, "prune", "--older-than", "1ms", "--loop", "climb")
    assert (again.status, again.out.startswith("deleted     nothing\n")) == (0, True)


def test_room_that_was_left_is_given_back_later(loomc, workshop):
    """Also when there is nothing more to delete, as after `loomc delete`."""
    change(workshop, "UPDATE steps SET state_blob = ? WHERE run_id = 'climb'", f'"{"x" * 400_000}"')
    size = (workshop / DATABASE).stat().st_size
    assert loomc(workshop, "delete", "climb", "--yes").status == 0
    assert (workshop / DATABASE).stat().st_size == size
    loomc(workshop, "prune", "--older-than", "30d")
    assert (workshop / DATABASE).stat().st_size < size - 2_000_000


def test_young_runs_and_named_statuses(here, workshop):
    """`--older-than` counts from the last work on a run; `--status` names what goes, also what could go on."""
    change(workshop, "UPDATE runs SET updated_at = '2020-01-01T00:00:00+00:00' WHERE id IN ('poor', 'patient')")
    told = json.loads(here(workshop, "prune", "--older-than", "30d", "--dry-run", "--json").out)
    assert ([run["run_id"] for run in told["runs"]], told["kept_open"]) == (["poor"], {"paused": 1})
    told = json.loads(here(workshop, "prune", "--older-than", "30d", "--status", "paused", "--yes", "--json").out)
    assert (told["deleted"], told["kept_open"]) == (["patient"], {})
    assert "poor" in ids(workshop)


@pytest.mark.parametrize("name", ["loomc-0.3.0.db", "tables-1.db"])
def test_an_older_database_is_read_as_it_is_and_brought_up_to_date_to_delete(here, tmp_path, name):
    """A dry run leaves every byte; a delete keeps a copy of it first, as every write does."""
    path = Path(shutil.copy(Path(__file__).parents[1] / "golden" / name, tmp_path))
    before, runs = path.read_bytes(), {run.id for run in open_reader(path).list_runs()}
    there = ["--older-than", "1ms", "--db", str(path)]
    gone = {run["run_id"] for run in json.loads(here(tmp_path, "prune", *there, "--dry-run", "--json").out)["runs"]}
    assert (path.read_bytes(), list(tmp_path.iterdir()), bool(gone)) == (before, [path], True)
    assert here(tmp_path, "prune", *there, "--yes").status == 0
    assert {run.id for run in open_reader(path).list_runs()} == runs - gone
    assert content(path.with_name(f"{name}.before-migration")) == content(Path(__file__).parents[1] / "golden" / name)


def test_nothing_stored_steers_the_terminal(here, workshop):
    """Names of runs, loops and tags are written out, wherever they are shown."""
    change(
        workshop, "UPDATE runs SET id = 'n\x1b[31m', loop = 'l\x1b\u202e', tags = '[\"t\\u001b\"]' WHERE id = 'poor'"
    )
    for command in (["tag", "n"], ["delete", "n", "--dry-run"], ["prune", "--older-than", "1ms", "--dry-run"]):
        assert not {"\x1b", "\u202e"} & set("".join(here(workshop, *command)[1:]))


def test_tags_that_are_given_at_the_same_time_are_all_kept(started, here, workshop):
    """Each is added to what is there by then."""
    commands = [started(workshop, "tag", "climb", f"t{n}") for n in range(6)]
    assert [command.wait(timeout=60) for command in commands] == [0] * 6
    for command in commands:
        command.communicate()
    assert sorted(json.loads(here(workshop, "tag", "climb", "--json").out)["tags"]) == [f"t{n}" for n in range(6)]
