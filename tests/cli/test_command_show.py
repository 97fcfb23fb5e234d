"""`loomc show`: every step, why it stopped, what is left, and how to go on."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"

OLD = {run["name"]: run for run in json.loads((GOLDEN / "loomc-0.3.0.json").read_text())["runs"]}


def line(text: str, beginning: str) -> str:
    """The first line that begins so, its spaces made single."""
    return next(" ".join(row.split()) for row in text.splitlines() if row.strip().startswith(beginning))


def test_every_step_has_its_cost_total_score_and_time(here, workshop):
    """The steps stand in order, and the total grows with them."""
    text = here(workshop, "show", "climb").out
    assert "step     cost    total  score  time" in text
    for n, score in enumerate((-1, 0, -1, -2, -3)):
        pattern = rf"^ +{n}  \$0\.0500  \$0\.{5 * (n + 1):02}00 +{score}  0\.0s"
        assert re.search(pattern, text, re.MULTILINE), text


def test_a_restart_from_an_earlier_step_is_marked(here, workshop):
    """After a regression the story shows where it went on, and which step was the best."""
    text = here(workshop, "show", "zigzag").out
    assert [row.split()[0] for row in text.splitlines() if "↩ from step 1" in row] == ["3", "4"]
    assert line(text, "6 ").endswith("↩ from step 4 ★ best ✔ converged")
    assert "stopped     converged: target(5) reached with 6" in text


def test_what_is_left_of_every_limit_is_said(here, workshop):
    """Money, iterations and time are told as used, allowed and left."""
    text = here(workshop, "show", "climb").out
    assert "budget      $0.25 of $2.00, $1.75 left\n            5 of 15 iterations, 10 left\n" in text
    assert re.search(r"0\.\ds of 10m00s, 10m00s left", text)


@pytest.mark.parametrize(
    ("run", "command"),
    [
        ("fragile", "loomc resume fragile"),
        ("mortal", "loomc resume mortal"),
        ("stubborn", "loomc resume stubborn --force"),
        ("poor", "loomc resume poor --usd 0.18"),
        ("named", "loomc resume named --iterations 5"),
        ("master", "loomc resume master --iterations 3"),
        ("climb", None),
        ("master-0", None),
    ],
)
def test_the_command_to_go_on_is_given(here, workshop, run, command):
    """It is the command that works: forced where force is needed, with more budget where that ended it."""
    assert json.loads(here(workshop, "show", run, "--json").out)["run"]["go_on"] == command
    text = here(workshop, "show", run).out
    assert (f"go on       {command}\n" in text) == (command is not None)


def test_a_loop_without_a_budget_shows_its_safety_cap(here, workshop):
    """Nobody set the limit of 1,000 steps, so it is explained."""
    text = here(workshop, "show", "stubborn").out
    assert "budget      3 of 1000 iterations, 997 left (the safety cap: this loop has no budget)\n" in text


def test_a_step_without_a_recorded_cost_is_marked_under_a_dollar_budget(here, workshop):
    """A cap that cannot hold is never silent; without a dollar budget an unknown cost is no flaw."""
    capped, free = here(workshop, "show", "forgiving").out, here(workshop, "show", "stubborn").out
    assert capped.count("⚠ no cost recorded") == 5
    assert "note        unpriced steps: a dollar budget holds" in capped
    assert "no cost recorded" not in free
    assert "?" not in free


def test_failed_tries_and_their_errors_stand_between_the_steps(here, workshop):
    """A try that was paid for counts in the total, and an error that was survived is shown with its step."""
    assert line(here(workshop, "show", "fragile").out, "2 ").startswith("2 $0.0300 $0.0900 0.0s ✘ ValueError: [bold]no")
    assert "✘ RuntimeError: the model is overloaded" in line(here(workshop, "show", "forgiving").out, "2 ")


def test_a_step_that_was_cut_off_shows_what_it_had_spent(here, workshop):
    """The totals of a killed run add up to what it spent."""
    text = here(workshop, "show", "mortal").out
    assert line(text, "3 ") == "3 $0.0200 $0.0800 ✂ cut off"
    assert "stopped     interrupted: its process died\nspent       $0.08" in text


def test_nothing_stored_can_steer_the_terminal(here, workshop):
    """Markup is shown as it is; control characters, line ends and bidirectional overrides are written out."""
    for args in (("show", "fragile"), ("runs",), ("show", "fragile", "--json"), ("export", "fragile")):
        text = here(workshop, *args).out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
        assert "[bold]no[/bold]" in text
    assert (
        r"[bold]no[/bold] \x1b[31mred\x1b[0m \x9b31m\nline two \u202egnp.exe \x07" in here(workshop, "show", "fra").out
    )


def test_a_run_and_its_child_runs_name_each_other(here, workshop):
    """The parent's cost includes its children, who tell which step they belong to."""
    parent, child = here(workshop, "show", "master").out, here(workshop, "show", "master-1").out
    assert line(parent, "└ master-0").split()[2:5] == ["completed", "1", "$0.0100"]
    assert parent.index("└ master-0") < parent.index("└ master-1")
    assert line(parent, "1 ").startswith("1 $0.1100 $0.2200")
    assert "child of    master, step 1\n" in child


def test_a_run_without_steps_can_be_shown(here, workshop):
    """A fork that was not begun has no steps, but an origin, a reason and a command."""
    new = json.loads(here(workshop, "fork", "climb", "--step", "2", "--json").out)["run_id"]
    text = here(workshop, "show", new).out
    assert "no step was taken yet" in text
    assert "forked from climb, step 2\n" in text
    assert f"go on       loomc resume {new}\n" in text


def test_a_result_that_is_not_the_state_is_shown(here, workshop):
    """What a step gave as Done(..., result=...) is what the run was for."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("""UPDATE runs SET result = '{"found": 7}' WHERE id = 'climb'""")
        db.commit()
    assert 'result      {"found": 7}\n' in here(workshop, "show", "climb").out


def test_a_long_run_is_shown_whole(here, workshop):
    """Five thousand steps are read in windows, and none is lost between two of them."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 5 UNION ALL SELECT i + 1 FROM n WHERE i < 4999) "
            "INSERT INTO steps (run_id, step_n, parent_n, nano_usd, score, timestamp) "
            "SELECT 'climb', i, i - 1, 1000000, i, '2026-01-01T00:00:00+00:00' FROM n"
        )
        db.execute("UPDATE runs SET steps = 5000 WHERE id = 'climb'")
        db.commit()
    text = here(workshop, "show", "climb").out
    numbers = [int(row.split()[0]) for row in text.splitlines() if re.match(r" *\d+ +\$", row)]
    assert numbers == list(range(5000))
    assert len(json.loads(here(workshop, "show", "climb", "--json").out)["steps"]) == 5000


def test_show_as_json_has_stable_keys(here, workshop):
    """`--json` is the run with its limits and the command, its steps, its failed tries and its children."""
    shown = json.loads(here(workshop, "show", "master", "--json").out)
    assert list(shown) == ["run", "steps", "attempts", "calls", "questions", "charges", "breakers", "children"]
    assert list(shown["run"])[-2:] == ["limits", "go_on"]
    assert shown["run"]["limits"][1] == {"name": "iterations", "used": 2.0, "limit": 2.0, "left": 0.0}
    keys = "step_n parent_n score cost_usd tokens timestamp duration error decision best_n scores state_dropped"
    assert list(shown["steps"][0]) == keys.split()
    assert shown["children"] == ["master-1", "master-0"]
    failed = json.loads(here(workshop, "show", "fragile", "--json").out)["attempts"][0]
    assert list(failed) == ["step_n", "attempt", "error", "category", "cost_usd", "started_at", "duration"]


@pytest.mark.parametrize("name", OLD)
def test_every_run_of_loomc_0_3_0_can_be_shown(here, tmp_path, name):
    """Its steps, costs and errors are there, and what it did not keep is not made up."""
    shutil.copy(GOLDEN / "loomc-0.3.0.db", tmp_path / "old.db")
    old = OLD[name]
    text = here(tmp_path, "show", old["id"], "--db", "old.db").out
    assert "loop        not named by loomc 0.3.0\n" in text
    assert sum(bool(re.match(r" *\d+ +\$", row)) for row in text.splitlines()) == old["steps"]
    assert all(error in text for error in old["errors"] if error)
    assert "budget " not in text
    resumable = old["status"] != "completed" and old["steps"] > 0
    assert (f"go on       loomc resume {old['id']} module:loop --db old.db\n" in text) == resumable


def test_a_unique_beginning_of_an_id_is_enough(here, workshop):
    """An id that is also the beginning of others means itself."""
    assert here(workshop, "show", "zig").out.startswith("run zigzag  completed\n")
    assert here(workshop, "show", "master").out.startswith("run master  ")


def test_a_beginning_of_several_ids_is_refused_with_their_names(here, workshop):
    """The message names the runs that may be meant."""
    status, out, err = here(workshop, "show", "m")
    assert (status, out) == (1, "")
    assert err.startswith("loomc: m is the beginning of several runs: ")
    assert "master-0" in err


def test_a_part_of_a_long_run_can_be_shown(here, workshop):
    """Some steps from the middle with what happened in them, and with the totals they had."""
    part = ("--offset", "2", "--limit", "2")
    text = here(workshop, "show", "fragile", *part).out
    assert re.search(r"^ +2  \$0\.0300  \$0\.0900 .*✘ ValueError", text, re.MULTILINE)
    assert not re.search(r"^ +1  ", text, re.MULTILINE)
    told = json.loads(here(workshop, "show", "fragile", *part, "--json").out)
    assert (told["steps"], [each["step_n"] for each in told["attempts"]]) == ([], [2])
    assert {charge["step_n"] for charge in told["charges"]} == {2}
    assert [step["step_n"] for step in json.loads(here(workshop, "show", "climb", *part, "--json").out)["steps"]] == [
        2,
        3,
    ]


@pytest.mark.parametrize("command", ["show", "explain", "history", "verify"])
def test_a_child_whose_parent_is_gone_can_be_looked_at(here, workshop, command):
    """There is nothing to go on with; verify says what is missing."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("DELETE FROM runs WHERE id = 'master'")
        db.commit()
    outcome = here(workshop, command, "master-0")
    assert outcome.status == (command == "verify")
    assert "go on" not in outcome.out
    assert command != "verify" or "is a child of run master, which is not there" in outcome.out
