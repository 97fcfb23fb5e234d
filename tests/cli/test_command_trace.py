"""`loomc trace`: an HTML page of a run, from its records."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest


def names_in(page: Path) -> list[str]:
    """The names of the nodes of a page, in order."""
    found = re.search(r"^const TRACE=(.*);$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return re.findall(r'"id": "n\d+", "name": "(.*?)"', found[1])


def test_a_page_is_written_beside_and_its_name_is_printed(loomc, workshop):
    """Without a name for it the page is called after the run."""
    assert loomc(workshop, "trace", "clim") == (0, "trace-climb.html: 6 nodes\n", "")
    assert names_in(workshop / "trace-climb.html") == ["run climb __main__:climb", *(f"step {n}" for n in range(5))]


def test_a_page_is_written_where_it_is_wanted(here, workshop):
    """`-o` names the file, and an old one is replaced; `--json` says the same in stable keys."""
    (workshop / "page.html").write_text("old")
    outcome = here(workshop, "trace", "master", "-o", "page.html", "--json")
    assert json.loads(outcome.out) == {"path": "page.html", "nodes": 7, "folded_steps": 0}
    names = names_in(workshop / "page.html")
    assert names[:3] == ["run master __main__:master", "step 0", "run master-0 __main__:apprentice"]


@pytest.mark.parametrize(("run", "words"), [("mortal", "cut off"), ("fragile", "ValueError"), ("patient", "step")])
def test_a_run_that_did_not_complete_has_its_page(here, workshop, run, words):
    """Runs that crashed, failed or have not begun can be looked at as well."""
    assert here(workshop, "trace", run, "-o", "page.html").status == 0
    assert words in (workshop / "page.html").read_text()


def test_a_page_of_a_very_long_run_is_folded(here, workshop):
    """The middle steps are one node with their count."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 5 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) "
            "INSERT INTO steps (run_id, step_n, parent_n, state_blob, timestamp) "
            "SELECT 'climb', i, i - 1, '{}', '2026-01-01T00:00:00+00:00' FROM n"
        )
        db.execute("UPDATE runs SET steps = 10000 WHERE id = 'climb'")
        db.commit()
    told = json.loads(here(workshop, "trace", "climb", "--json").out)
    assert told["nodes"] <= 2000
    assert 8000 < told["folded_steps"] < 10_000
    assert f"… {told['folded_steps']:,} steps" in names_in(workshop / "trace-climb.html")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nothing",), "nothing"),
        (("climb", "-o", "no/where.html"), "make the folder"),
        (("climb", "-o", "."), "is no file"),
    ],
)
def test_what_cannot_be_is_one_clean_line(here, workshop, args, words):
    """A run that is not there, and a place where no file can be made."""
    before = sorted(workshop.iterdir())
    status, out, err = here(workshop, "trace", *args)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert words in err
    assert sorted(workshop.iterdir()) == before
