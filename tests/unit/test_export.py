"""Runs as JSON and CSV, written piece by piece."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from driving import Draft, Maker, grow, until

from loomc_runner import spend
from loomc_runner.export import CSV_COLUMNS, WRITERS, run_json, step_json, write_array, write_object
from loomc_runner.store import open_reader
from loomc_runner.store.memory import MemoryStore

GOLDEN = Path(__file__).parents[1] / "golden" / "loomc-0.3.0.db"


class Watched(MemoryStore):
    """A store that remembers how much had been written when a state was read."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.written = io.StringIO(), []

    def state(self, run_id, step_n):
        """A state, and a note of when."""
        self.written.append(self.out.tell())
        return super().state(run_id, step_n)


def a_run(store, steps=3):
    """A run of some steps."""

    def step(draft: Draft) -> Draft:
        spend(usd=0.5, label="model\x7f\x1b")
        return grow(draft)

    Maker(store, is_async=False)(step, converge_on=until(steps), tags=["t"]).run(Draft(), run_id="r")
    return store.get_run("r")


def test_json_holds_no_control_character():
    """Whatever was stored, the text is ASCII, and comes back as it was."""
    value, out = {"text": "\x1b[31m \x7f \x9b \u202e \n \ud800 é"}, io.StringIO()
    write_object(out, value, {})
    assert out.getvalue().isascii()
    assert out.getvalue().strip().isprintable()
    assert json.loads(out.getvalue()) == value


@pytest.mark.parametrize("form", WRITERS)
def test_an_export_is_written_while_it_is_read(form):
    """Each state is read when those before it have been written, so that a long run needs no memory."""
    store = Watched()
    run = a_run(store)
    store.written.clear()
    WRITERS[form](store, run, store.out)
    assert len(store.written) >= 3
    assert sorted(set(store.written)) == store.written


@pytest.mark.parametrize("form", WRITERS)
def test_an_export_holds_every_step(memory, form):
    """All forms have all states; nothing in them steers a terminal."""
    out = io.StringIO()
    WRITERS[form](memory, a_run(memory), out)
    text = out.getvalue()
    assert text.replace("\n", "").isprintable()
    assert text.endswith("\n")
    assert all(f"n{q}: {n}" in text for n in (1, 2, 3) for q in ['""' if form == "csv" else '"'])


def test_the_columns_of_csv_are_the_keys_of_a_step(memory):
    """So that a key cannot be added to one and not to the other."""
    a_run(memory)
    assert (*step_json(memory.steps("r")[0]), "state") == CSV_COLUMNS


def test_an_array_that_fails_at_its_first_item_writes_nothing():
    """An error message is not preceded by half of a bracket."""
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError):
        write_array(out, (1 / number for number in (0, 1)))
    assert out.getvalue() == ""


@pytest.mark.parametrize("items", [[], [1], [1, {"a": None}, "x"]])
def test_arrays_and_objects_are_json(items):
    """None, one and several items."""
    out = io.StringIO()
    write_object(out, {"head": 1}, {"first": iter(items), "second": []})
    assert json.loads(out.getvalue()) == {"head": 1, "first": items, "second": []}


def test_a_run_counts_its_children_and_itself(memory):
    """`cost_usd` is the whole subtree, `own_cost_usd` the run alone; times are in UTC."""
    child = Maker(memory, is_async=False)(lambda draft: (spend(usd=2), grow(draft))[1], converge_on=until(1))
    parent = Maker(memory, is_async=False)(lambda draft: (spend(usd=1), child(draft))[1], converge_on=until(1))
    parent.run(Draft(), run_id="p")
    found = run_json(memory, memory.get_run("p"))
    assert (found["cost_usd"], found["own_cost_usd"]) == (3.0, 1.0)
    assert found["created_at"].endswith("+00:00")


def test_an_unknown_cost_is_null(memory):
    """Nothing was recorded is not the same as nothing was spent."""
    Maker(memory, is_async=False)(grow, converge_on=until(1)).run(Draft(), run_id="r")
    assert step_json(memory.steps("r")[0])["cost_usd"] is None


def test_a_run_of_loomc_0_3_0_has_no_initial_state(tmp_path):
    """It did not keep one: null, not an error."""
    shutil.copy(GOLDEN, tmp_path / "old.db")
    store, out = open_reader(tmp_path / "old.db"), io.StringIO()
    for run in store.list_runs():
        WRITERS["jsonl"](store, run, out)
    heads = [line for line in map(json.loads, out.getvalue().splitlines()) if line["type"] == "run"]
    assert len(heads) == 15
    assert {head["initial_state"] for head in heads} == {None}
    store.close()
