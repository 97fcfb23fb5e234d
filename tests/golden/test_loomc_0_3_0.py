"""A database that loomc 0.3.0 wrote is read as it is, brought up to date by the first claim, and its runs go on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import loomc_runner
import refinements as work
from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    LastGood,
    RunMismatch,
    RunNotFound,
    RunStatus,
    judge,
    loop,
    score_plateau,
)
from loomc_runner.store import Store, open_reader
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import a_resumption

HERE = Path(__file__).parent
EXPECTED = {run["name"]: run for run in json.loads((HERE / "loomc-0.3.0.json").read_text())["runs"]}
IDS = {name: run["id"] for name, run in EXPECTED.items()}
CLAIMED = "killed_before_first_step"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a copy of the golden database, alone in its folder."""
    return Path(shutil.copy(HERE / "loomc-0.3.0.db", tmp_path))


def contents(store: Store, run_id: str) -> dict[str, Any]:
    """Say all that a store knows of a run, but for what a claim changes."""
    run, rows = store.get_run(run_id), store.steps(run_id)
    states = [store.state(run_id, row.step_n) for row in rows]
    return {"run": run, "rows": rows, "states": states, "charges": store.charges(run_id), "all": store.subtree(run_id)}


def everything(path: Path) -> dict[str, Any]:
    """Say all that is known of all runs, as a reader finds it."""
    reader = open_reader(path)
    found = {run.id: contents(reader, run.id) for run in reader.list_runs()}
    reader.close()
    return found


def migrated(path: Path) -> Path:
    """Bring the database up to date, by claiming a run."""
    store = SQLite(path)
    store.claim(IDS[CLAIMED], a_resumption())
    store.close()
    return path


def resume(path: Path, name: str, *, budget: Budget | None = None, **options: Any) -> Any:
    """Put a loop over the function of a run, and resume the run."""
    options = {"converge_on": judge(work.finished), "cost_fn": work.price, **options}
    handle = loop(checkpoint=path, **options)(getattr(work, EXPECTED[name]["function"]))
    result = handle.resume(IDS[name], budget=budget)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def test_reading_changes_nothing(path: Path) -> None:
    """All runs are read, and the file has the same bytes as before, with nothing beside it."""
    before = path.read_bytes()
    assert len(everything(path)) == len(EXPECTED)
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("up_to_date", [False, True])
def test_every_run_is_read_as_it_was_written(path: Path, name: str, up_to_date: bool) -> None:
    """Status, steps, cost, scores, errors and the last state are those that loomc 0.3.0 stored."""
    expected = EXPECTED[name]
    found = everything(migrated(path) if up_to_date else path)[expected["id"]]
    run, rows = found["run"], found["rows"]
    at_work = "running" if up_to_date and name == CLAIMED else "interrupted"
    assert run.status == (at_work if expected["status"] == "running" else expected["status"])
    assert (run.steps, len(rows), run.cost_usd) == (expected["steps"], expected["steps"], expected["cost_usd"])
    assert ([row.score for row in rows], [row.error for row in rows]) == (expected["scores"], expected["errors"])
    assert (json.loads(found["states"][-1]) if rows else None) == expected["final_state"]
    assert run.notes == ("written by loomc 0.3.0",)


def test_the_best_step_is_found(path: Path) -> None:
    """What loomc 0.3.0 did not store, the best step so far, is worked out from the scores."""
    found = everything(path)
    polish, tighten = found[IDS["best_score"]], found[IDS["stalled"]]
    assert (polish["run"].best_step, [row.best_n for row in polish["rows"]]) == (2, [0, 1, 2, 2, 2])
    assert (tighten["run"].best_step, [row.best_n for row in tighten["rows"]]) == (0, [0, 0, 0])


def test_money_is_in_the_charges(path: Path) -> None:
    """Each priced step has its charge, so that totals and charges agree."""
    for found in everything(path).values():
        assert sum(charge.nano_usd for charge in found["charges"]) == found["run"].nano_usd == found["all"][0]
        assert {charge.step_n for charge in found["charges"]} == {row.step_n for row in found["rows"] if row.nano_usd}


def test_the_first_claim_brings_it_up_to_date(path: Path) -> None:
    """After it everything is read as before, and the database as it was is kept beside the file."""
    before, original = everything(path), path.read_bytes()
    after = everything(migrated(path))
    assert (before.pop(IDS[CLAIMED])["run"].epoch, after.pop(IDS[CLAIMED])["run"].epoch) == (0, 1)
    assert after == before
    copy = path.with_name(f"{path.name}.before-migration")
    with closing(sqlite3.connect(copy)) as kept, closing(sqlite3.connect(HERE / "loomc-0.3.0.db")) as golden:
        assert list(kept.iterdump()) == list(golden.iterdump())
    assert original != path.read_bytes()
    assert sorted(found.name for found in path.parent.iterdir()) == sorted([path.name, copy.name, "owners"])


def test_looking_for_a_run_does_not_bring_it_up_to_date(path: Path) -> None:
    """A resume that is refused, or of a complete run, leaves the database as it was."""
    before = path.read_bytes()
    with pytest.raises(RunNotFound):
        loop(checkpoint=path)(work.collect).resume("nobody")
    with pytest.raises(RunMismatch, match=r"loomc 0\.3\.0"):
        loop(checkpoint=path)(work.collect).resume(IDS["failed"])
    assert resume(path, "plain_dict") == EXPECTED["plain_dict"]["final_state"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("killed", {}, 4),
        ("failed", {}, 6),
        ("last_good_failed", {"backtrack": LastGood(), "scorer": work.fact_check_score}, 10),
    ],
)
def test_a_run_that_stopped_goes_on(path: Path, name: str, options: dict[str, Any], steps: int) -> None:
    """An interrupted or failed run is resumed at its next round, and what it spent stays spent."""
    final = resume(path, name, **options)
    function, rounds = EXPECTED[name]["function"], final["rounds"]
    assert final["drafts"] == [f"{function} {n + 1}" for n in range(rounds)]
    run = open_reader(path).get_run(IDS[name])
    assert (run.status, run.steps, run.resumes) == (RunStatus.COMPLETED, steps, 1)
    assert run.cost_usd == pytest.approx(sum(range(rounds + 1)) / 100)
    assert run.loop == f"refinements:{function}"


def test_a_typed_state_comes_back_as_its_type(path: Path) -> None:
    """The JSON of a model is decoded by the annotation of the function, and goes on from there."""
    final = resume(path, "pydantic_failed", converge_on=judge(work.reviewed), cost_fn=work.review_price)
    assert final == work.Review.model_validate(EXPECTED["pydantic"]["final_state"])
    assert open_reader(path).get_run(IDS["pydantic_failed"]).steps == 3


@pytest.mark.parametrize("name", ["last_good_recovered", "async", "pydantic", "plain_dict", "nested_parent", "stalled"])
def test_a_complete_run_gives_its_stored_result(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming it calls no function, and gives the last state."""
    monkeypatch.setattr(work, "call_model", None)
    final = resume(path, name)
    plain = final.model_dump(mode="json") if isinstance(final, work.Review) else final
    assert plain == EXPECTED[name]["final_state"]


def test_a_complete_run_under_best_score_gives_its_best_state(path: Path) -> None:
    """The stored result is the state of the best step, as the caller of loomc 0.3.0 got it."""
    options: dict[str, Any] = {
        "scorer": work.polish_score,
        "backtrack": BestScore(),
        "converge_on": score_plateau(patience=2),
    }
    assert resume(path, "best_score", **options)["round"] == 3


def test_an_exhausted_run_goes_on_with_a_higher_budget(path: Path) -> None:
    """The budget of the loop holds for the old run: exhausted it stays so, and raised it goes on."""
    options: dict[str, Any] = {"converge_on": judge(work.finished), "cost_fn": work.price, "budget": Budget(usd=0.05)}
    expand = loop(checkpoint=path, **options)(work.expand)
    with pytest.raises(BudgetExhausted, match=r"usd 0\.06 of 0\.05"):
        expand.resume(IDS["budget_exhausted"])
    assert expand.resume(IDS["budget_exhausted"], budget=Budget(usd=1.0))["round"] == 6
    assert open_reader(path).get_run(IDS["budget_exhausted"]).cost_usd == 0.21


def test_a_run_that_was_killed_before_its_first_step_says_so(path: Path) -> None:
    """There is no initial state to go on from, and the words say so, and what to do."""
    with pytest.raises(RunNotFound, match=r"no stored initial state, since loomc 0\.3\.0 kept none; start it anew"):
        resume(path, CLAIMED)
    assert open_reader(path).get_run(IDS[CLAIMED]).steps == 0


CLAIM = """
import os, signal, sys, time
from pathlib import Path
from loomc_runner.store import block, finish, patiently, schema
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import a_resumption
path, run_id, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
back_up = schema._back_up
def back_up_and_die(path):
    back_up(path)
    os.kill(os.getpid(), signal.SIGKILL)
if how == "dies":
    schema._back_up = back_up_and_die
while how == "waits" and not path.with_name("start").exists():
    time.sleep(0.0005)
finish(patiently(block, SQLite(path).claim, run_id, a_resumption()))
"""


def claim(path: Path, name: str, how: str) -> subprocess.Popen[bytes]:
    """Let another process claim a run."""
    environment = os.environ | {"PYTHONPATH": str(Path(loomc_runner.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", CLAIM, path, IDS[name], how], env=environment)


def test_a_process_that_dies_while_it_brings_it_up_to_date_leaves_it_whole(path: Path) -> None:
    """A kill in the middle leaves the old database, from which the next claim starts again."""
    before = everything(path)
    assert claim(path, "killed", "dies").wait() == -signal.SIGKILL
    assert everything(path) == before
    assert claim(path, "killed", "works").wait() == 0
    assert everything(path)[IDS["killed"]]["run"].epoch == 1


def test_two_processes_may_bring_it_up_to_date_at_once(path: Path) -> None:
    """Of two that claim at the same moment one does the work, and both get their run."""
    before = everything(path)
    processes = [claim(path, name, "waits") for name in ("killed", "failed")]
    path.with_name("start").touch()
    assert [process.wait() for process in processes] == [0, 0]
    after = everything(path)
    assert [after.pop(IDS[name])["run"].epoch for name in ("killed", "failed")] == [1, 1]
    assert after == {run_id: found for run_id, found in before.items() if run_id in after}
