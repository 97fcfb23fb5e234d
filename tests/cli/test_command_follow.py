"""`loomc show RUN --follow`: live from another process, until the run has ended."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
from live import LOOMC, PATIENCE, Live, await_steps, living
from rich.cells import cell_len

from loomc_runner.cli import following


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Start processes in a folder with the loops."""
    with living(tmp_path) as run:
        yield run


def test_a_run_is_followed_through_death_and_question_to_its_end(start, tmp_path):
    """On a terminal: newest steps, live view with calls and children, who died, the question, the end; status 0."""
    worker = start(sys.executable, "longer.py", "long", BROKEN="1")
    await_steps(tmp_path, "long", 31)
    follower = start(LOOMC, "show", "long", "--follow", columns=100)
    follower.await_text(r"\.\.\. \d+ earlier steps", r"[\nJ]step 30 · .*✘ TimeoutError: \\x1b\[31mslow\\u202e")
    follower.await_text(r"run long long · step 31 · score 1 .*best 1 \(step 0\) · 31/400 steps", r"→ look_up \d")
    (tmp_path / "looked-up-31").touch()
    follower.await_text(r"[\nJ]step 31 · score 0", r"└ long\.32\.0 · step 0", r"└ long\.32\.1 · step 0")
    (tmp_path / "helped").touch()
    follower.await_text(r"[\nJ]step 32 · score 1")
    (tmp_path / "die").touch()
    assert worker.process.wait(PATIENCE) == -signal.SIGKILL
    follower.await_text(r"run long interrupted: its process died; to go on: loomc resume long\n", "nobody works on it")
    subprocess.run([LOOMC, "resume", "long"], cwd=tmp_path, check=False, capture_output=True)
    follower.await_text(
        r"[\nJ]step 33 · score 0", r"run long waiting: go \\x1b\[31mon\?; to go on: loomc answer long ANSWER"
    )
    for args in (["answer", "long", "true", "--by", "me"], ["resume", "long"]):
        subprocess.run([LOOMC, *args], cwd=tmp_path, check=True, capture_output=True)
    status, text, _ = follower.end()
    assert status == 0
    assert re.search(r"[\nJ]step 35 · .*✔ done\n", text)
    end = text[text.rindex("\x1b[?25h") :]
    assert end.splitlines()[1].startswith("stopped     done")
    assert text.count("its process died") == 1
    frames = re.split(r"\x1b\[\d*[AJ]|\r|\n", text)
    assert max(cell_len(line) for line in frames if "└" in line or "→" in line or "run long long" in line) < 100


def test_into_a_pipe_there_are_plain_lines_and_a_run_that_fails_ends_with_1(start, tmp_path):
    """They come as the steps are committed, and nothing in them moves."""
    start(sys.executable, "longer.py", "failing")
    await_steps(tmp_path, "failing", 1)
    follower = start(LOOMC, "show", "failing", "--follow")
    follower.await_text(r"\nstep 0 · [\d.]+s|\nstep 0\b")
    (tmp_path / "fail").touch()
    status, text, err = follower.end()
    assert (status, err) == (1, "")
    assert re.search(r"\nstep 1 · .*✘ ValueError: no way\n", text)
    assert re.search(r"\nstopped     failed: ValueError: no way\n", text)
    assert "go on       loomc resume failing" in text
    assert "\x1b" not in text


def test_as_json_each_step_and_try_is_a_line_and_the_run_the_last(loomc, workshop):
    """A run that has ended is told at once; each line is an object with a type."""
    ended = loomc(workshop, "show", "fragile", "--follow", "--json")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [(line["type"], line.get("step_n")) for line in lines] == [
        ("step", 0),
        ("step", 1),
        ("attempt", 2),
        ("run", None),
    ]
    assert (lines[-1]["status"], lines[-1]["go_on"]) == ("failed", "loomc resume fragile")
    assert ended.status == 1
    assert ended.out.isascii()


@pytest.mark.parametrize(("run", "status"), [("zigzag", 0), ("fragile", 1), ("poor", 1), ("stubborn", 1)])
def test_a_run_that_has_ended_is_told_at_once(here, workshop, run, status):
    """The status says whether it completed; the end is told as `show` tells it."""
    followed, showed = here(workshop, "show", run, "--follow"), here(workshop, "show", run)
    assert followed.status == status
    assert followed.out.splitlines()[-1] == showed.out.splitlines()[-1]
    assert followed.err == ""


@pytest.mark.parametrize("newest", [1, 2, 5])
def test_steps_are_told_the_same_from_any_beginning(here, workshop, monkeypatch, newest):
    """Restores, the best step and the end are marked, also where the steps before them are not told."""
    told = [line for line in here(workshop, "show", "zigzag", "--follow").out.splitlines() if line.startswith("step ")]
    assert re.fullmatch(r"step 3 · score 2\.5 · .*↩ from step 1", told[3])
    assert re.fullmatch(r"step 6 · score 6 · .*★ best · ✔ converged", told[6])
    monkeypatch.setattr(following, "NEWEST", newest)
    out = here(workshop, "show", "zigzag", "--follow").out
    assert [line for line in out.splitlines() if line.startswith("step ")] == told[-newest:]


def test_what_is_stored_does_not_steer_a_terminal(here, workshop):
    """An error is one line, with its control characters written out."""
    out = here(workshop, "show", "fragile", "--follow").out
    assert next(line for line in out.splitlines() if "✘" in line).isprintable()
    assert "\\x1b[31mred\\x1b[0m" in out


def test_ctrl_c_ends_it_with_130(start, workshop, tmp_path):
    """The terminal is as it was; the run does not notice."""
    follower = start(LOOMC, "show", "mortal", "--follow", columns=80)
    follower.await_text("its process died", "nobody works on it")
    follower.process.send_signal(signal.SIGINT)
    status, text, _ = follower.end()
    assert status == 130
    assert text.endswith("\x1b[?25h")


def test_a_database_that_goes_away_ends_it_in_a_clean_line(start, workshop, tmp_path):
    """Deleted meanwhile: one line, and status 1."""
    follower = start(LOOMC, "show", "mortal", "--follow")
    follower.await_text("its process died")
    shutil.rmtree(tmp_path / ".loomc")
    status, _, err = follower.end()
    assert status == 1
    assert re.fullmatch(r"loomc: .*\n", err)


def test_a_locked_database_is_waited_for(here, workshop, monkeypatch):
    """A look that finds it locked is left out; what happened meanwhile is told by the next one."""
    with closing(connect(workshop / ".loomc/checkpoints.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")  # in which readers are kept out, too
        end = "UPDATE runs SET status = 'cancelled', stop_reason = 'cancelled: by request' WHERE id = 'mortal'"
        meanwhile = iter(["BEGIN EXCLUSIVE", end, "COMMIT"])
        monkeypatch.setattr(following.time, "sleep", lambda _: db.execute(next(meanwhile)))
        followed = here(workshop, "show", "mortal", "--follow")
    assert next(meanwhile, None) is None
    assert (followed.status, followed.err) == (1, "")
    assert "stopped     cancelled: by request" in followed.out


def test_a_very_long_run_begins_with_its_newest_steps(here, workshop):
    """Of a hundred thousand steps twenty are told, at once."""
    with closing(connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("DELETE FROM steps WHERE run_id = 'climb'")
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) "
            "INSERT INTO steps (run_id, step_n, parent_n, state_blob, encoding, timestamp, duration, tokens) "
            "SELECT 'climb', i, i - 1, '{}', 'json', '2026-01-01T00:00:00+00:00', 0.1, 0 FROM n"
        )
        db.execute("UPDATE runs SET steps = 100000 WHERE id = 'climb'")
        db.commit()
    out = here(workshop, "show", "climb", "--follow").out
    assert "... 99980 earlier steps" in out
    assert [line.split(" · ")[0] for line in out.splitlines() if line.startswith("step ")] == [
        f"step {n}" for n in range(99980, 100000)
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_follower_that_is_ended_leaves_the_cursor_to_be_seen(start, workshop, number):
    """It goes as it goes at Ctrl-C, with the status that shells know."""
    follower = start(LOOMC, "show", "mortal", "--follow", columns=80)
    follower.await_text("nobody works on it")
    follower.process.send_signal(number)
    assert follower.end()[0] == 128 + number
    assert follower.text.rstrip().endswith("\x1b[?25h")
