"""`loomc prune --states` drops old states of runs that are kept, and what reads states says which are gone."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing

import pytest

from loomc_runner import Budget, WaitingForAnswer, ask, call, loop
from loomc_runner.report.verify import verify
from loomc_runner.store import open_reader
from loomc_runner.store.sqlite import SQLite
from loomc_runner.store.upkeep import damage, largest

DATABASE = ".loomc/checkpoints.db"
LENGTH = 40


def tool(n: int) -> str:
    """A call with a long result in every step but the first."""
    return "x" * (500 if n else 5)


def child(n: int) -> int:
    """A loop in a step."""
    return n + 1


def waits(n: int) -> int:
    """A loop that asks somebody in its 36th step."""
    return n + 1 if n != 35 or ask("Really?") else n


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A database with a long run that has a child run, one that waits, and a short one."""
    folder = tmp_path_factory.mktemp("states")
    store = SQLite(folder / DATABASE)
    inner = loop(name="tests:inner", checkpoint=store, budget=Budget(iterations=45))(child)

    def step(words: list[str]) -> list[str]:
        if len(words) == 4:
            inner.run(0)
        call(tool, len(words) - 1)
        return [*words, f"{len(words)} " * 100]

    scores = [n if n < 9 else 0 for n in range(LENGTH)]
    options = {"checkpoint": store, "budget": Budget(iterations=LENGTH)}
    loop(name="tests:long", scorer=lambda words: scores[len(words) - 2], **options)(step).run(["begin"], run_id="long")
    with pytest.raises(WaitingForAnswer):
        loop(name="tests:waits", checkpoint=store)(waits)(0, run_id="waits")
    loop(name="tests:short", checkpoint=store, budget=Budget(iterations=3))(child).run(0, run_id="short")
    store.close()
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it."""
    (tmp_path / DATABASE).parent.mkdir()
    with closing(sqlite3.connect(made / DATABASE)) as source, closing(sqlite3.connect(tmp_path / DATABASE)) as copy:
        source.backup(copy)
    return tmp_path


@pytest.fixture
def loomc_there(here, folder):
    """The command on that database."""
    return lambda *args: here(folder, *args)


def kept(folder, run_id):
    """The steps of a run whose states are there."""
    store = open_reader(folder / DATABASE)
    return [step.step_n for step in store.steps(run_id) if not step.state_dropped]


def test_named_runs_are_thinned_with_their_child_runs(loomc_there, folder):
    """What was said to go goes, every step stays, others are left alone, and the record is whole."""
    shown = loomc_there("prune", "--states", "long", "--every", "20", "--best", "2", "--last", "3", "--dry-run")
    assert "68 states of 87 in 2 runs" in shown.out
    assert len(kept(folder, "long")) == LENGTH
    told = loomc_there("prune", "--states", "long", "--every", "20", "--best", "2", "--last", "3", "--yes")
    assert told.out.startswith("dropped     68 states of 87 in 2 runs\nsize        ")
    assert kept(folder, "long") == [0, 5, 6, 7, 8, 20, 36, 37, 38, 39]
    store = open_reader(folder / DATABASE)
    assert [len(store.steps(run.id)) for run in store.list_runs(prefix="long")] == [45, LENGTH]
    assert [list(verify(store, run)) for run in store.list_runs()] == [[], [], [], []]
    assert damage(folder / DATABASE) == []
    assert len(kept(folder, "waits")) == 35
    again = loomc_there("prune", "--states", "long", "--every", "20", "--best", "2", "--last", "3", "--yes")
    assert again.out.startswith("dropped     nothing\n")


def test_old_runs_are_thinned_whatever_their_status(loomc_there, folder):
    """Without a policy the newest 20 states stay; a run of which nothing goes is not told."""
    found = json.loads(loomc_there("prune", "--states", "--older-than", "1ms", "--json", "--yes").out)
    assert [run["run_id"].partition("-")[0] for run in found["runs"]][:2] == ["waits", "long"]
    assert found["runs"][0] == {
        "run_id": "waits",
        "loop": "tests:waits",
        "status": "waiting",
        "updated_at": found["runs"][0]["updated_at"],
        "steps": 35,
        "states_dropped": 14,
        "states_kept": 22,
        "results_dropped": 0,
    }
    assert found.keys() == {
        *("database", "dry_run", "runs", "thinned", "skipped", "not_freed", "bytes_before", "bytes_after"),
    }
    assert found["thinned"] == [run["run_id"] for run in found["runs"]]
    assert (len(kept(folder, "short")), len(kept(folder, "waits"))) == (3, 21)


def test_a_thinned_run_goes_on(loomc_there, folder):
    """One that waited for an answer goes on where it was."""
    loomc_there("prune", "--states", "waits", "--last", "1", "--yes")
    assert kept(folder, "waits") == [33, 34]
    assert loomc_there("answer", "waits", "true", "--by", "anna").status == 0
    store = SQLite(folder / DATABASE)
    handle = loop(name="tests:waits", checkpoint=store, converge_on=lambda history: len(history) == 40)(waits)
    assert handle.resume("waits") == 40
    store.close()


def test_long_results_are_dropped(loomc_there, folder):
    """Alone `--results` drops no state; what is left is shown as hash and size, in every place."""
    told = loomc_there("prune", "--states", "long", "--results", "100", "--yes")
    assert told.out.startswith("dropped     39 results of calls in 1 run\n")
    assert len(kept(folder, "long")) == LENGTH
    assert "dropped: 502 characters, SHA-256 " in loomc_there("calls", "long").out
    first, second, *_ = json.loads(loomc_there("calls", "long", "--json").out)
    assert (first["result"], first["result_size"]) == ("xxxxx", None)
    assert (second["result"], second["result_size"], len(second["result_hash"])) == (None, 502, 64)
    assert loomc_there("verify", "long").status == 0
    assert loomc_there("trace", "long", "-o", "page.html").status == 0
    assert "dropped: 502 characters" in (folder / "page.html").read_text(encoding="utf-8")


def test_what_reads_states_says_which_are_gone(loomc_there, folder):
    """It names the nearest that are there, or goes on without."""
    before = loomc_there("export", "long", "--json").out
    loomc_there("prune", "--states", "long", "--every", "20", "--best", "2", "--last", "3", "--yes")
    gone = "was dropped to save room; the nearest kept is that of step 8 or that of step 20"
    for args in (["state", "long", "--step", "11"], ["diff", "long", "10", "11"], ["fork", "long", "--step", "11"]):
        refused = loomc_there(*args)
        assert refused.status == 1
        assert gone in refused.err
    tree = loomc_there("history", "long").out
    assert "● 8 " in tree
    assert "○ 11 " in tree
    exported = json.loads(loomc_there("export", "long", "--json").out)
    was = {step["step_n"]: step["state"] for step in json.loads(before)["steps"]}
    for step in exported["steps"]:
        dropped = step["step_n"] not in {0, 5, 6, 7, 8, 20, 36, 37, 38, 39}
        assert (step["state_dropped"], step["state"]) == (dropped, None if dropped else was[step["step_n"]])
    rows = [*csv.DictReader(io.StringIO(loomc_there("export", "long", "--csv").out))]
    assert (rows[11]["state"], rows[11]["state_dropped"]) == ("", "True")
    others = (["show"], ["explain"], ["plot"], ["verify"], ["trace", "-o", "page.html"], ["what-if", "--patience", "3"])
    assert [loomc_there(command, "long", *options).status for command, *options in others] == [0] * len(others)


def test_two_runs_of_which_states_are_gone_are_compared(loomc_there, folder):
    """As far as is known: after which step they part, and where that cannot be told."""
    with closing(SQLite(folder / DATABASE)) as store:
        for name, parts in (("other", 30), ("same", LENGTH)):

            def step(words: list[str], parts: int = parts) -> list[str]:
                return [*words, "else" if len(words) > parts else f"{len(words)} " * 100]

            handle = loop(name="tests:long", checkpoint=store, budget=Budget(iterations=LENGTH))(step)
            handle.run(["begin"], run_id=name)
    assert "part at     step 30\n" in loomc_there("compare", "long", "other").out
    loomc_there("prune", "--states", "long", "--every", "20", "--last", "3", "--yes")
    parted = "part at     step 36 or before: of the steps after step 20 not both states are kept\n"
    assert parted in loomc_there("compare", "long", "other").out
    told = json.loads(loomc_there("compare", "long", "other", "--json").out)
    assert (told["parts_at"], told["same_until"]) == (36, 20)
    assert "part at     nowhere\n" in loomc_there("compare", "long", "same").out
    with closing(SQLite(folder / DATABASE)) as store:
        store.drop_states("same", [38, 39])
    assert "nowhere that is known: of the steps after step 37 not" in loomc_there("compare", "long", "same").out


def test_the_doctor_tells_what_takes_most(loomc_there, folder):
    """The largest runs first, with their states by kind."""
    loomc_there("prune", "--states", "long", "--every", "20", "--best", "2", "--last", "3", "--yes")
    assert "largest     run long: states " in loomc_there("doctor").out
    uses = json.loads(loomc_there("doctor", "--json").out)["largest"]
    first = uses[0]
    assert (first["run_id"], first["states_dropped"]) == ("long", 30)
    assert first["states_whole"] + first["states_built_on"] == 11
    assert first["bytes"] == first["state_bytes"] + first["result_bytes"] > 0
    (by_hand,) = [use for use in largest(folder / DATABASE, 9) if use.run_id == "long"]
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        query = "SELECT sum(length(CAST({0} AS BLOB))) FROM {1} WHERE run_id = 'long'"
        columns = (("state_blob", "steps"), ("result", "calls"))
        sums = tuple(db.execute(query.format(*names)).fetchone()[0] for names in columns)
    assert (by_hand.state_bytes, by_hand.result_bytes) == sums


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--states"], "say which runs: name them, or give --older-than AGE"),
        (["--states", "long", "--older-than", "1d"], "but not both"),
        (["--states", "long", "--every", "0", "--yes"], "Keep(every=0): give a whole number, at least 1"),
        (["--states", "nobody"], "there is no run nobody"),
        (["--states", "long"], "nobody can be asked here: loomc prune --states --yes drops 34 states of 87 in 2 runs"),
        (["--states", "--older-than", "1d", "--status", "running"], "dropped by keep= of its loop"),
        (["--states", "long", "--keep-best"], "--best N keeps the states of best steps"),
        (["long"], "for --states; loomc delete RUN deletes a run"),
        (["--older-than", "1d", "--last", "3"], "for --states; loomc delete RUN deletes a run"),
    ],
)
def test_what_cannot_be_is_refused(loomc_there, folder, args, message):
    """In one line that says what to do; nothing is changed."""
    refused = loomc_there("prune", *args)
    assert (refused.status, refused.out, len(refused.err.splitlines())) == (1, "", 1)
    assert message in refused.err
    assert len(kept(folder, "long")) == LENGTH


def test_a_run_at_work_is_left_alone(loomc_there, folder):
    """Named it is refused; with others it is kept without a word."""
    store = SQLite(folder / DATABASE)
    handle = loop(name="tests:short", checkpoint=store)(child)
    with handle.stream(0, run_id="busy") as steps:
        next(steps)
        refused = loomc_there("prune", "--states", "busy", "--last", "1", "--yes")
        assert "run busy is being worked on; keep= of its loop drops states meanwhile" in refused.err
        found = json.loads(loomc_there("prune", "--states", "--older-than", "1ms", "--json", "--dry-run").out)
        assert "busy" not in {run["run_id"] for run in found["runs"]}
    store.close()
