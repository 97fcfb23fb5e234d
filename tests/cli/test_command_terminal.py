"""On a terminal tables fit, colours can be turned off, and progress moves and is gone at the end."""

from __future__ import annotations

import re
import signal
import sys
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
from live import await_death, await_steps, living
from rich.cells import cell_len

LOOMC = str(Path(sys.executable).with_name("loomc"))
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_tables_fit_the_terminal_and_keep_the_run_id(on_terminal, workshop, columns):
    """No line is wider than the terminal, where some characters take two columns; every id is whole."""
    with closing(connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("UPDATE runs SET loop = '部屋の模様替え:' || loop, stop_reason = '🙂' || stop_reason")
        db.commit()
    lines = COLOUR.sub("", on_terminal(workshop, columns, "runs")).splitlines()
    assert max(map(cell_len, lines)) <= columns
    assert {"undeclared", "master-1", "climb"} <= {line.split()[0] for line in lines}
    shown = COLOUR.sub("", on_terminal(workshop, columns, "show", "fragile")).splitlines()
    assert max(cell_len(line) for line in shown if line.startswith(" ")) <= columns


def test_narrow_columns_keep_what_matters(on_terminal, workshop):
    """A loop's name loses its beginning, an error its end; the reason goes first."""
    lines = COLOUR.sub("", on_terminal(workshop, 80, "runs")).splitlines()
    assert "stopped" not in lines[0]
    inner = next(line for line in lines if line.startswith("inner"))
    assert re.search(r"  ….*<locals>\.inner$", inner)
    shown = COLOUR.sub("", on_terminal(workshop, 80, "show", "fragile")).splitlines()
    assert next(line for line in shown if "✘" in line).endswith("…")


def test_a_terminal_gets_a_screenful_of_runs_and_is_told_of_the_rest(on_terminal, workshop):
    """Without a limit a terminal shows fifty; the last line says how to see more."""
    with closing(connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
            "INSERT INTO runs (id, status, created_at, updated_at) "
            "SELECT i, 'paused', '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00' FROM n"
        )
        db.commit()
    lines = COLOUR.sub("", on_terminal(workshop, 80, "runs")).splitlines()
    assert len(lines) == 52
    assert lines[-1] == "these are 50 of more: --offset 50 shows the next, --limit 0 all"
    assert len(on_terminal(workshop, 80, "runs", "--limit", "0").splitlines()) == 57


def test_colours_are_for_terminals_that_want_them(on_terminal, loomc, workshop):
    """NO_COLOR is obeyed, a pipe gets none, and a terminal does."""
    assert "\x1b[32mcompleted\x1b[0m" in on_terminal(workshop, 80, "runs")
    assert "\x1b" not in on_terminal(workshop, 80, "runs", NO_COLOR="1")
    assert "\x1b" not in on_terminal(workshop, 80, "runs", TERM="dumb")
    assert "\x1b" not in loomc(workshop, "runs", FORCE_COLOR="1").out


def test_a_long_error_does_not_fill_the_terminal(on_terminal, here, workshop):
    """It is wrapped under its name and ends early; into a pipe it is whole."""
    with closing(connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("UPDATE runs SET stop_reason = ? WHERE id = 'fragile'", ("failed: " + "word " * 2000,))
        db.commit()
    lines = on_terminal(workshop, 80, "show", "fragile", NO_COLOR="1").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("stopped"))
    last = next(number for number, line in enumerate(lines) if line.startswith("spent"))
    assert last - first == 8
    assert lines[last - 1].endswith("... (--json: all of it)")
    assert here(workshop, "show", "fragile").out.count("word ") == 2000


def test_progress_moves_and_is_gone_at_the_end(tmp_path):
    """While it works there are step, score, best, and steps, money and time against their limits."""
    with living(tmp_path) as start:
        start(sys.executable, "longer.py", "long", BROKEN="1")
        await_steps(tmp_path, "long", 31)
        for file in ("looked-up-31", "die"):
            (tmp_path / file).touch()
        (tmp_path / "helped").touch()
        await_steps(tmp_path, "long", 33)
        await_death(tmp_path, "long")
        (tmp_path / "die").unlink()
        resumed = start(LOOMC, "resume", "long", columns=100, BROKEN="1")
        resumed.await_text(r"run long long · step 33 · score 1 [▁█]{20} · best 1 \(step 0\) · 33/400 steps")
        resumed.await_text(r"  \$0\.\d+ of \$2\.00 · [\d.]+s of 1h00m")
        resumed.process.send_signal(signal.SIGINT)
        status, text, _ = resumed.end()
    assert status == 130
    end = re.sub(r"\x1b\[\?25.|\r", "", text[text.rindex("\x1b[J") + 3 :])
    assert end == "loomc: run long paused: KeyboardInterrupt; to go on: loomc resume long\n"


def test_what_a_step_prints_stands_above_the_progress(on_terminal, workshop):
    """Each line is whole, in the order in which they were printed."""
    text = COLOUR.sub("", on_terminal(workshop, 80, "resume", "mortal", CHATTY="1"))
    lines = re.split(r"\n|\x1b\[\d*[AJ]|\x1b\[\?25.|\r", text)
    assert lines.count("working") == 2


def test_progress_is_one_plain_line_a_step_off_a_terminal(started, workshop):
    """Nothing moves in a file or a pipe, and standard output is left to the result."""
    process = started(workshop, "resume", "mortal")
    out, err = process.communicate(timeout=30)
    assert [line.split(" · ")[:2] for line in err.splitlines()] == [["run mortal", f"step {n}"] for n in (3, 4, 5)]
    assert out.startswith("run mortal completed after 6 steps")
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    "words", ["loomc show cli", "loomc compare cli", "loomc compare climb cli", "loomc delete cli", "loomc plot cli"]
)
def test_a_shell_completes_the_beginning_of_an_id(loomc, workshop, words):
    """Wherever a run is to be named."""
    count = str(len(words.split()) - 1)
    found = loomc(workshop, _LOOMC_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert found.out.split() == ["climb"]


def test_where_there_is_no_database_a_shell_completes_nothing(loomc, tmp_path):
    """Silently, and nothing is made."""
    found = loomc(tmp_path, _LOOMC_COMPLETE="complete_bash", COMP_WORDS="loomc show x", COMP_CWORD="2")
    assert (found.out.strip(), found.err, list(tmp_path.iterdir())) == ("", "", [])


UNCLOSED = """
from loomc_runner import Budget, loop
@loop(checkpoint="memory", budget=Budget(iterations=9), progress=True)
def step(n: int) -> int:
    return n + 1
stream = step.stream(0)
next(stream)
print("THE LAST WORD", end="")
"""


@pytest.mark.parametrize("end", ["", "raise ValueError", "raise KeyboardInterrupt"])
def test_a_program_that_never_closes_its_stream_leaves_the_terminal_in_order(on_terminal, tmp_path, end):
    """The cursor is to be seen, and nothing that was printed is lost."""
    text = on_terminal(tmp_path, 80, "-c", UNCLOSED + end, program=sys.executable)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "THE LAST WORD" in text.rpartition("\x1b[J")[2]
