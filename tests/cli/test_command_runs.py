"""`loomc runs`: which runs there are, and how each stands."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "loomc-0.3.0.db"

RUN_KEYS = (
    "id, loop, source, status, stop_reason, created_at, updated_at, parent_run_id, parent_step, forked_from, resumes, "
    "in_flight, control, budget, steps, cost_usd, own_cost_usd, tokens, worked_seconds, best_step, result, tags, notes"
)

MANY = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
INSERT INTO runs (id, loop, status, updated_at, created_at)
SELECT printf('run-%05d', i), 'm:f', 'completed', '2026-01-01T00:00:00+00:00',
    strftime('%Y-%m-%dT%H:%M:%S+00:00', i, 'unixepoch')
FROM n
"""


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a table by their first word, without the header."""
    return {line.split()[0]: line.split() for line in text.splitlines()[1:]}


@pytest.fixture(scope="session")
def crowd(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of ten thousand runs."""
    folder = tmp_path_factory.mktemp("crowd")
    shutil.copytree(finished / ".loomc", folder / ".loomc")
    with closing(sqlite3.connect(folder / ".loomc" / "checkpoints.db")) as db:
        for table in ("charges", "attempts", "steps", "runs"):
            db.execute(f"DELETE FROM {table}")
        db.execute(MANY)
        db.commit()
    return folder


def test_runs_are_listed_newest_first_with_what_they_cost(here, workshop):
    """A row has id, status, steps, cost with child runs, time, loop and the reason in words."""
    text = here(workshop, "runs").out
    assert text.splitlines()[0].split() == ["run", "status", "steps", "cost", "created", "loop", "stopped"]
    listed = rows(text)
    names = list(listed)
    assert (names[0], names[-1]) == ("mortal", "patient")
    assert listed["climb"][1:4] == ["completed", "5", "$0.2500"]
    assert listed["poor"][1:4] == ["budget_exhausted", "3", "$0.0900"]
    assert listed["stubborn"][1] == "stalled"
    assert listed["mortal"][1:4] == ["interrupted", "3", "$0.0800"]
    assert listed["master"][1:4] == ["budget_exhausted", "2", "$0.2200"]
    assert "interrupted: its process died" in text
    assert listed["zigzag"][7:] == ["__main__:zigzag", "converged:", "target(5)", "reached", "with", "6"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--status", "stalled"], ["stubborn"]),
        (["--status", "interrupted"], ["mortal"]),
        (["--loop", "ig"], ["zigzag"]),
        (["--loop", "paint", "--status", "budget_exhausted"], ["method"]),
        (["--status", "running"], []),
    ],
)
def test_runs_can_be_chosen_by_status_and_loop(here, workshop, options, found):
    """`--status` takes one status, `--loop` a part of the loop's name; both must hold."""
    assert [run["id"] for run in json.loads(here(workshop, "runs", "--json", *options).out)] == found


def test_no_run_that_matches_is_said_and_is_no_failure(here, workshop):
    """An empty list is one line, with the place that was looked in."""
    assert here(workshop, "runs", "--loop", "nobody") == (0, "no runs that match in .loomc/checkpoints.db\n", "")


def test_runs_as_json_have_stable_keys(here, workshop):
    """`--json` is one array of objects with the keys of the reference."""
    found = json.loads(here(workshop, "runs", "--json").out)
    assert all(", ".join(run) == RUN_KEYS for run in found)
    assert {run["id"]: run["status"] for run in found}["fragile"] == "failed"


def test_runs_of_loomc_0_3_0_are_listed(here, tmp_path):
    """Its database is read as it is."""
    shutil.copy(GOLDEN, tmp_path / "old.db")
    text = here(tmp_path, "runs", "--db", "old.db").out
    assert len(rows(text)) == 15
    assert text.count("(loomc 0.3.0)") == 15


def test_limit_and_offset_take_a_part_of_the_runs(here, crowd):
    """`--offset` leaves out the newest, `--limit` the oldest, and 0 is no limit."""
    part = here(crowd, "runs", "--offset", "3", "--limit", "2").out
    assert list(rows(part)) == ["run-09997", "run-09996"]
    assert len(rows(here(crowd, "runs", "--limit", "0", "--offset", "9000").out)) == 1000


def test_into_a_pipe_all_runs_are_written(here, crowd):
    """Only a terminal gets a screenful when no limit is named."""
    assert len(rows(here(crowd, "runs").out)) == 10_000


@pytest.fixture
def work(here, monkeypatch):
    """What SQLite does for a command: its statements, and its own operations, counted in hundreds."""

    def run(folder: Path, *args: str) -> tuple[int, int]:
        statements, operations, connect = [], [], sqlite3.connect

        def watched(*values, **named) -> sqlite3.Connection:
            db = connect(*values, **named)
            db.set_trace_callback(statements.append)
            db.set_progress_handler(lambda: operations.append(1), 100)
            return db

        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", watched)
            assert here(folder, *args).status == 0
        return len(statements), len(operations)

    return run


@pytest.mark.parametrize("options", [[], ["--tree"], ["--json"], ["--status", "completed"], ["--loop", "f"]])
def test_the_first_screen_is_as_much_work_among_ten_thousand_runs(work, crowd, tmp_path, options):
    """It takes the newest from an index: how many older ones there are costs no statement and no operation."""
    shutil.copytree(crowd / ".loomc", tmp_path / ".loomc")
    with closing(sqlite3.connect(tmp_path / ".loomc" / "checkpoints.db")) as db:
        db.execute("DELETE FROM runs WHERE id <= 'run-09500'")
        db.commit()
    few, many = (work(folder, "runs", "--limit", "50", *options) for folder in (tmp_path, crowd))
    assert few[0] == many[0]
    assert abs(few[1] - many[1]) <= 2


def test_the_reader_of_ten_thousand_runs_may_leave_after_the_first(crowd, loomc):
    """`loomc runs | head -1` ends well and in silence, and so do the other long texts."""
    loomc = Path(sys.executable).with_name("loomc")
    for options in ("runs", "runs --json"):
        pipe = f"{loomc} {options} | head -1; echo ${{PIPESTATUS[0]}}"
        ended = subprocess.run(["bash", "-c", pipe], cwd=crowd, capture_output=True, text=True, check=True)
        assert ended.stdout.splitlines()[-1] == "0"
        assert len(ended.stdout.splitlines()) == 2
        assert ended.stderr == ""


def test_reading_loads_nothing_that_runs_loops(run_python, workshop):
    """The list is there at once: what imports and drives loops is left out."""
    code = "import atexit, sys; from loomc_runner.cli import main"
    code += "; atexit.register(lambda: print(*sys.modules)); main(['runs'])"
    loaded = run_python(workshop, "-c", code).stdout.splitlines()[-1].split()
    assert {"loomc_runner.report", "sqlite3"} <= set(loaded)
    assert not {"loomc_runner.locate", "loomc_runner.progress", "rich.live", "filelock"} & set(loaded)


def test_an_unknown_status_is_refused_with_those_there_are(here, workshop):
    """A wrong value is a usage error that names the right ones."""
    status, out, err = here(workshop, "runs", "--status", "sleeping")
    assert (status, out) == (2, "")
    assert "'sleeping' is not one of 'running', 'waiting', 'paused'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("option", ["--limit", "--offset"])
def test_a_negative_number_of_runs_is_refused(here, workshop, option):
    """There is no window of less than nothing."""
    status, _, err = here(workshop, "runs", option, "-1")
    assert status == 2
    assert option in err
