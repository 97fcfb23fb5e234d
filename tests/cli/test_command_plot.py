"""`loomc plot` draws runs into a file, or here."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from contextlib import closing

import pytest
from rich.cells import cell_len

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_picture_is_as_wide_as_the_terminal(on_terminal, workshop, columns):
    """No line is wider, the picture takes all there is, and how each run stands is told below it."""
    lines = COLOUR.sub("", on_terminal(workshop, columns, "plot", "climb", "zigzag")).splitlines()
    assert columns - 8 <= max(map(cell_len, lines)) <= columns
    assert any(line.startswith("■ run       zigzag: $0.35") for line in lines)
    assert {"★", "↩", "·", "●", "■"} <= set("".join(lines))


def test_a_pipe_gets_80_columns_and_no_colours(loomc, workshop):
    """Nobody knows how wide the reader is, so that a line of the picture takes 80 columns at most."""
    out = loomc(workshop, "plot", "climb", COLUMNS="200").out
    picture = out.split("\n\n")[0].splitlines()
    assert 72 <= max(map(cell_len, picture)) <= 80
    assert "\x1b" not in out
    assert (
        "● run       climb: $0.25 of $2.00 in 5 of 15 steps; best 0 in step 1; converged: score_plateau(patience=3)"
        in out
    )


def test_colours_are_for_terminals_that_want_them(on_terminal, workshop):
    """NO_COLOR is obeyed, and a dumb terminal gets none."""
    assert COLOUR.search(on_terminal(workshop, 80, "plot", "climb"))
    assert "\x1b" not in on_terminal(workshop, 80, "plot", "climb", NO_COLOR="1")
    assert "\x1b" not in on_terminal(workshop, 80, "plot", "climb", TERM="dumb")


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<svg"), ("a.html", b"<!DOCTYPE html>")]
)
def test_a_file_is_written_as_its_name_says(here, workshop, name, begins):
    """Several runs stand in one picture; nothing is printed."""
    assert here(workshop, "plot", "climb", "zigzag", "master", "-o", name) == (0, "", "")
    assert (workshop / name).read_bytes().startswith(begins)


def test_the_points_are_there_as_json(here, workshop):
    """One object a run, with stable keys."""
    found = json.loads(here(workshop, "plot", "zigzag", "named", "--json").out)
    keys = ["run_id", "loop", "status", "reason", "steps", "best", "usd", "iterations", "points", "restores"]
    assert [list(curve) for curve in found] == [keys, keys]
    assert found[0]["points"][1] == {"step_n": 1, "score": 3.0, "cost_usd": 0.1, "failed": False}
    assert found[0]["restores"] == [{"after": 2, "to": 1}, {"after": 3, "to": 1}, {"after": 5, "to": 4}]
    assert [point["score"] for point in found[1]["points"]] == [None, None, None]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["climb", "-o", "a.gif"], "-o a.gif: name a file that ends in .png, .svg or .html"),
        (["climb", "-o", "picture"], "-o picture: name a file that ends in .png, .svg or .html"),
        (["climb", "-o", "nowhere/a.png"], "nowhere/a.png: No such file or directory"),
        (["nobody"], "there is no run nobody"),
    ],
)
def test_what_cannot_be_drawn_ends_in_one_line(here, workshop, args, words):
    """The line says what is wrong, and no file is made."""
    ended = here(workshop, "plot", *args)
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert words in ended.err
    assert [path.name for path in workshop.iterdir()] == [".loomc"]


def test_a_run_without_steps_has_nothing_to_draw(here, workshop):
    """Alone it is an error; beside others it is left out."""
    new = json.loads(here(workshop, "fork", "climb", "--step", "2", "--json").out)["run_id"]
    ended = here(workshop, "plot", new)
    assert (ended.status, ended.err) == (1, f"loomc: run {new} has taken no step yet: there is nothing to draw\n")
    assert "● run       climb" in here(workshop, "plot", new, "climb").out


@pytest.mark.parametrize(("library", "args"), [("plotext", []), ("vl_convert", ["-o", "a.png"])])
def test_without_the_extra_one_line_says_what_to_install(here, workshop, monkeypatch, library, args):
    """The points are to be had without it."""
    monkeypatch.setitem(sys.modules, library, None)
    ended = here(workshop, "plot", "climb", *args)
    line = f'loomc: plots need {library}, which is not installed: pip install "loomc-runner[plot]"\n'
    assert ended == (1, "", line)
    assert here(workshop, "plot", "climb", "--json").status == 0


def test_hostile_names_steer_no_terminal(loomc, workshop):
    """Control characters of names and reasons are written out."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("UPDATE runs SET loop = ?, stop_reason = ? WHERE id = 'climb'", ("\x1b[31m", "a\x07\x9b31m\nb"))
        db.commit()
    out = loomc(workshop, "plot", "climb").out
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out) is None
    assert r"a\x07\x9b31m\nb" in out


def test_plotting_creates_nothing_but_the_picture(loomc, tmp_path):
    """Without a database there is one line, and no folder afterwards."""
    ended = loomc(tmp_path, "plot", "r", "-o", "a.png")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert list(tmp_path.iterdir()) == []
