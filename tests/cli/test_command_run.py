"""`loomc run`: begin a run from the terminal, here or in the background."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

LINE = re.compile(r"run (\w+) completed after 5 steps, \$0\.25, best score 0 at step 1: converged: .*\n")


def test_a_run_begins_from_a_state_on_the_command_line(here, fresh):
    """It is worked on to its end, kept in the database of the command, and its result is one line."""
    outcome = here(fresh, "run", "lab.py:climb", "--state", '{"n": 0}')
    assert outcome.status == 0
    (run_id,) = LINE.fullmatch(outcome.out).groups()
    assert json.loads(here(fresh, "show", run_id, "--json").out)["run"]["status"] == "completed"
    assert [line.split(" · ")[1] for line in outcome.err.splitlines()] == [f"step {n}" for n in range(5)]


def test_a_state_can_come_from_a_file_and_limits_from_options(here, fresh):
    """What is named holds instead of what the loop says; the rest of its budget stays."""
    (fresh / "state.json").write_text('{"n": 0, "text": "from a file"}')
    options = ("--iterations", "2", "--run-id", "mine", "--json")
    outcome = here(fresh, "run", "lab:climb", "--state", "@state.json", *options)
    told = json.loads(outcome.out)
    assert (outcome.status, told["run_id"], told["status"]) == (1, "mine", "budget_exhausted")
    assert (told["state"], told["steps"]) == ({"n": 2, "text": "from a file"}, 2)
    kept = json.loads(here(fresh, "show", "mine", "--json").out)["run"]["budget"]
    assert kept == {"iterations": 2, "usd": 2.0, "wall_clock": "600s"}


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("lab.py:climb", "--state", "{n"), 1, "--state '{n' is not JSON"),
        (("lab.py:climb", "--state", '{"n": "x"}'), 1, "this is no Draft: state.n: Input should be a valid integer"),
        (("lab.py:climb", "--state", "@missing.json"), 1, "missing.json: No such file"),
        (("lab.py:nothing", "--state", "1"), 1, "lab has no loop nothing; its loops: climb"),
        (("missing.py:climb", "--state", "1"), 1, "there is no file"),
        (("climb", "--state", "1"), 1, "'climb' names no loop; write module:loop or file.py:loop"),
        (("lab.py:climb",), 2, "Missing option '--state'"),
        (("lab.py:climb", "--state", "{}", "--usd", "-1"), 1, "usd"),
        (("lab.py:climb", "--state", "{}", "--run-id", "a b"), 1, "run_id='a b'"),
        (("lab.py:Painter.paint", "--state", "{}"), 1, "is a method"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_nothing(here, fresh, args, status, words):
    """The value that is wrong is named, and no run is made."""
    outcome = here(fresh, "run", *args)
    assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (status, "", 1)
    assert words in outcome.err
    assert not (fresh / ".loomc/checkpoints.db").exists() or json.loads(here(fresh, "runs", "--json").out) == []


def test_a_step_that_fails_says_how_to_go_on(here, fresh):
    """As `loomc resume` does; with --traceback the error shows where it came from."""
    outcome = here(fresh, "run", "lab.py:fragile", "--state", "{}", "--run-id", "f", "--traceback", BROKEN="1")
    assert outcome.status == 1
    assert "Traceback" in outcome.err
    assert "to go on: loomc resume f" in outcome.complaint


def test_a_run_with_a_trace_leaves_its_page(here, fresh):
    """Also when it fails, which it still does."""
    outcome = here(fresh, "run", "lab.py:fragile", "--state", "{}", "--trace", "page.html", BROKEN="1")
    assert outcome.status == 1
    assert "<html" in (fresh / "page.html").read_text()
    assert here(fresh, "run", "lab.py:climb", "--state", "{}", "--trace", "no/page.html").status == 1


@pytest.fixture
def reaped():
    """Process ids that are ended at the end of a test."""
    started: list[int] = []
    yield started
    for pid in started:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def ended(here, folder, run_id: str) -> dict:
    """The run, once it has ended."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        run = json.loads(here(folder, "show", run_id, "--json").out)["run"]
        if run["status"] != "running":
            return run
    raise AssertionError(run)


def test_a_detached_run_goes_on_by_itself(loomc, here, fresh, reaped):
    """The id comes back at once; the run is worked on in a session of its own, and what it prints is kept."""
    outcome = loomc(fresh, "run", "lab.py:mortal", "--state", "{}", "--detach", "--json", CHATTY="1")
    told = json.loads(outcome.out)
    reaped.append(told["pid"])
    assert (outcome.status, Path(told["log"]).parent) == (0, fresh / ".loomc/logs")
    assert ended(here, fresh, told["run_id"])["status"] == "completed"
    assert (fresh / ".loomc/.gitignore").read_text() == "*\n"
    assert "working" in (fresh / f".loomc/logs/{told['run_id']}.log").read_text()


def test_a_detached_run_takes_a_state_of_any_size(loomc, here, fresh, reaped):
    """Larger than an argument of a process may be; nobody sees it among the arguments."""
    (fresh / "big.json").write_text(json.dumps({"n": 0, "text": "x" * 1_000_000}))
    told = json.loads(loomc(fresh, "run", "lab.py:mortal", "--state", "@big.json", "--detach", "--json").out)
    reaped.append(told["pid"])
    assert ended(here, fresh, told["run_id"])["status"] == "completed"
    assert len(json.loads(here(fresh, "state", told["run_id"], "--json").out)["state"]["text"]) == 1_000_000


@pytest.mark.parametrize("run_id", ["../../esc", "", "a/b", "-x", "x" * 300])
def test_an_id_that_none_can_be_is_refused_before_anything_is_made(here, fresh, run_id):
    """It names a file, among other things."""
    before = sorted(fresh.parent.rglob("*"))
    outcome = here(fresh, "run", "lab.py:climb", "--state", "{}", "--detach", f"--run-id={run_id}")
    assert (outcome.status, "give letters, digits, dots" in outcome.err) == (1, True)
    assert sorted(fresh.parent.rglob("*")) == before


def test_a_detached_run_outlives_the_command_and_can_be_paused(loomc, here, fresh, reaped):
    """Nobody waits for it, and it is asked to stop like any other."""
    told = json.loads(loomc(fresh, "run", "lab.py:patient", "--state", "{}", "--detach", "--json", BROKEN="1").out)
    reaped.append(told["pid"])
    assert here(fresh, "pause", told["run_id"]).status == 0
    os.kill(told["pid"], signal.SIGKILL)
    assert ended(here, fresh, told["run_id"])["status"] in {"interrupted", "paused"}


def test_a_detached_run_that_cannot_begin_says_why(loomc, here, fresh):
    """The error of the background process is the error of the command."""
    outcome = loomc(fresh, "run", "lab.py:nothing", "--state", "{}", "--detach")
    assert (outcome.status, outcome.out) == (1, "")
    assert "lab has no loop nothing" in outcome.err
    assert here(fresh, "run", "lab.py:climb", "--state", "{}", "--run-id", "twice").status == 0
    again = loomc(fresh, "run", "lab.py:climb", "--state", "{}", "--run-id", "twice", "--detach")
    assert "run twice exists already; loomc resume twice" in again.err
