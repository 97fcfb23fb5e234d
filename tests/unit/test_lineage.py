"""The tree of a run's steps."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest
from driving import Draft, Maker, scripted, size
from hypothesis import given, settings
from hypothesis import strategies as st

from loomc_runner import BestScore, Budget
from loomc_runner.records import INITIAL, Run, StepRecord, Transition
from loomc_runner.report.lineage import Node, lineage
from loomc_runner.store.memory import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def grown(parents: list[int]) -> tuple[MemoryStore, Run]:
    """A run whose steps grew from these."""
    store = MemoryStore()
    lease = store.create_run(Run("r", "m:f", NOW, NOW), "{}")
    for step_n, parent_n in enumerate(parents):
        step = StepRecord(step_n, parent_n, None, None, 0, NOW, 0.0)
        store.commit(lease, Transition(NOW, step=step, state="{}"))
    return store, store.get_run("r")


def drawn(parents: list[int]) -> list[tuple[int, int, bool]]:
    """Step, depth, and whether a way that was left begins there."""
    return [(node.step_n, node.depth, node.begins) for node in lineage(*grown(parents))]


def test_a_straight_run_is_one_line():
    """Every step below the one before it, with no indent."""
    assert drawn([-1, 0, 1]) == [(-1, 0, False), (0, 0, False), (1, 0, False), (2, 0, False)]


def test_ways_that_were_left_stand_beside_the_one_that_was_gone():
    """They come before the step that went on, one deeper, and their own sides one deeper still."""
    # 0 - 1 - 4 - 5, with 2 - 3 left from 1, where 3 had a sibling of its own
    assert drawn([-1, 0, 1, 2, 1, 4]) == [
        *((-1, 0, False), (0, 0, False), (1, 0, False)),
        *((2, 1, True), (3, 1, False), (4, 0, False), (5, 0, False)),
    ]
    assert drawn([-1, 0, 1, 1, -1]) == [
        *((-1, 0, False), (0, 1, True), (1, 1, False), (2, 2, True), (3, 1, False), (4, 0, False)),
    ]


def test_a_run_without_steps_is_its_initial_state():
    """There is always where it began."""
    assert list(lineage(*grown([]))) == [Node(INITIAL, None, 0, begins=False)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60))
def test_every_step_stands_once_and_below_its_parent(choices):
    """Whatever grew from what, each step is given once, after the step it grew from, and the newest is not indented."""
    parents = [INITIAL + choice % (step_n + 1) for step_n, choice in enumerate(choices)]
    nodes = list(lineage(*grown(parents)))
    place = {node.step_n: index for index, node in enumerate(nodes)}
    assert sorted(place) == list(range(INITIAL, len(parents)))
    assert all(place[parent] < place[step_n] for step_n, parent in enumerate(parents))
    assert next(node.depth for node in nodes if node.step_n == len(parents) - 1) == 0


def test_a_very_long_run_needs_no_deep_recursion():
    """Five thousand steps below each other are one line each."""
    assert len(drawn([*range(-1, 4999)])) == 5001


def test_a_node_tells_what_is_on_record_of_its_step():
    """Scores, the best step, and what was decided after a step."""
    store = MemoryStore()
    make = Maker(store, is_async=False)
    make(scripted(1, 3, 2, 5), scorer=size, backtrack=BestScore(), budget=Budget(iterations=4)).run(Draft(), run_id="r")
    nodes = {node.step_n: node for node in lineage(store, store.get_run("r"))}
    assert [nodes[n].score for n in range(4)] == [1, 3, 2, 5]
    assert (nodes[2].decision, nodes[2].begins, nodes[3].parent_n, nodes[3].best) == ("restore 1", True, 1, True)


@pytest.mark.parametrize("damaged", [[-1, 5, 0], [-1, 0, 2]])
def test_a_lineage_that_cannot_be_is_shown_from_the_initial_state(damaged):
    """A step that claims to grow from itself or a later one ends no tree, and loops nowhere."""
    assert sorted(step for step, _, _ in drawn(damaged)) == [-1, 0, 1, 2]


def test_what_grew_from_a_missing_step_is_shown_all_the_same(disk):
    """The step is named as missing where it must have been, and nothing behind it is lost."""
    Maker(disk, is_async=False)(scripted(1, 2, 3, 4), budget=Budget(iterations=4)).run(Draft(), run_id="r")
    disk.close()
    with closing(sqlite3.connect(disk.path)) as db:
        db.execute("DELETE FROM steps WHERE run_id = 'r' AND step_n = 1")
        db.commit()
    nodes = list(lineage(disk, disk.get_run("r")))
    assert [(node.step_n, node.depth, node.missing) for node in nodes] == [
        *((-1, 0, False), (0, 0, False), (1, 0, True), (2, 0, False), (3, 0, False)),
    ]
