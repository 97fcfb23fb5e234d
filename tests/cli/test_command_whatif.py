"""`loomc what-if` asks other stopping rules about recorded runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from rich.cells import cell_len

OLD = Path(__file__).parents[1] / "golden/loomc-0.3.0.db"

KEYS = [
    *("run_id", "steps", "cost_usd", "score", "stop_step", "stop_reason"),
    *("would_cost_usd", "would_score", "saved_usd", "score_lost", "unknown"),
]


def test_a_table_tells_where_each_run_would_have_stopped_and_the_total(here, workshop):
    """One line a run, and below several of them what they would have saved together; ids may be cut short."""
    lines = here(workshop, "what-if", "cli", "zigzag", "forg", "--patience", "1", "--usd", "0.3").out.splitlines()
    assert [line.split()[:6] for line in lines[1:4]] == [
        ["climb", "5", "step", "2", "$0.1000", "0"],
        ["zigzag", "7", "step", "2", "$0.2000", "3"],
        ["forgiving", "5", "-", "$0.0000", "0", "$0.0000"],
    ]
    assert lines[1].endswith("converged: score_plateau(patience=1)")
    assert lines[3].endswith("would not have stopped earlier")
    assert re.fullmatch(r"total +17 +\$0.3000 +\$0.3000 +2 of 3 runs would have stopped", lines[4])


@pytest.mark.parametrize(
    ("rule", "run", "stop_step", "reason"),
    [
        (["--target", "0"], "climb", 1, "converged: target(0) reached with 0"),
        (["--patience", "1", "--min-delta", "1"], "zigzag", 2, "converged: score_plateau(patience=1)"),
        (["--usd", "0.04"], "poor", 0, "budget: usd 0.06 of 0.04 ($0.03 spent, the rest expected)"),
        (["--iterations", "2"], "undeclared", 1, "budget: iterations 2 of 2"),
        (["--usd", "0.01"], "climb", -1, "budget: usd 0.05 of 0.01"),
        (["--usd", "5"], "mortal", None, None),
        (["--iterations", "9"], "stubborn", None, None),
        (["--iterations", "3"], "fragile", None, None),
    ],
)
def test_each_rule_stops_a_run_as_it_does_in_a_loop(here, workshop, rule, run, stop_step, reason):
    """As JSON each run is an object with the same keys."""
    (asked,) = json.loads(here(workshop, "what-if", run, *rule, "--json").out)
    assert list(asked) == KEYS
    assert (asked["run_id"], asked["stop_step"], asked["stop_reason"]) == (run, stop_step, reason)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_table_fits_the_terminal(on_terminal, workshop, columns):
    """What was saved and lost is there at any width; the reason goes first."""
    lines = on_terminal(workshop, columns, "what-if", "climb", "forgiving", "--target", "0", NO_COLOR="1").splitlines()
    assert max(map(cell_len, lines)) <= columns
    assert lines[1].split()[:6] == ["climb", "5", "step", "1", "$0.1500", "0"]
    assert lines[-1].startswith("total")


def test_what_is_not_known_stands_below_the_table(here, workshop):
    """A doubt names its run."""
    out = here(workshop, "what-if", "master", "--usd", "0.05").out
    assert "not known   run master: inside a step, child runs may have stopped at the cap" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["climb"], "name a rule: --patience N, --target SCORE, --usd DOLLARS or --iterations N"),
        (["climb", "--min-delta", "0.1"], "--min-delta 0.1 says what counts as better: add --patience N"),
        (["named", "--target", "1"], "target(score=1.0, direction='maximize') compares scores, and run named has none"),
        (["climb", "--patience", "0"], "score_plateau(patience=0): give a whole number, at least 1"),
        (["climb", "--usd", "nan"], "Budget(usd=nan): give dollars, zero or more"),
        (["nobody", "--usd", "1"], "there is no run nobody"),
    ],
)
def test_what_cannot_be_asked_ends_in_one_line(here, workshop, args, words):
    """The line says what is wrong, and nothing else is written."""
    ended = here(workshop, "what-if", *args)
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert words in ended.err


def test_runs_of_loomc_0_3_0_are_asked_too(here, tmp_path):
    """They have scores and costs, though no reason: what they spent was known when a step had returned."""
    shutil.copy(OLD, tmp_path / "old.db")
    out = here(tmp_path, "what-if", "06adf41b4d38", "--usd", "0.05", "--db", "old.db", "--json").out
    (asked,) = json.loads(out)
    assert (asked["stop_step"], asked["stop_reason"], asked["unknown"]) == (2, "budget: usd 0.06 of 0.05", [])
    assert (asked["would_cost_usd"], asked["would_score"]) == (0.06, 0.6)


def test_asking_creates_nothing(loomc, tmp_path):
    """Without a database there is one line, and no folder afterwards."""
    ended = loomc(tmp_path, "what-if", "r", "--usd", "1")
    assert ended.status == 1
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
