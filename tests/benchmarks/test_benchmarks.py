"""The benchmarks run: with tiny sizes, each prints a row for everything that it measures."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from gauge import Memory, words  # noqa: E402
from growing import LOOP, STORES, cut  # noqa: E402
from peers import PACKAGES, ROOT, peers  # noqa: E402
from states import CASES  # noqa: E402


def printed(folder: Path, script: str, *options: str) -> list[str]:
    """The lines that a benchmark prints; it works in the folder, and leaves nothing there."""
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout.splitlines()


def rows(lines: list[str]) -> list[list[str]]:
    """The cells of all tables, without their heads and rules."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [cells for cells in found if not cells[1].startswith(("-", "store", "version", "steps/s"))]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["list in the middle", "restored"])
def test_growing_measures_a_case_with_the_loop_and_both_floors(case, tmp_path):
    """Each store has a row, and only the loop's tells of reading and resuming."""
    table = rows(printed(tmp_path, "growing.py", "--steps", "5", "--rounds", "1", "--cases", case))
    assert table[0][0] == case
    assert [cells[1] for cells in table] == list(STORES)
    assert [all(cells[7:]) for cells in table] == [store == LOOP for store in STORES]


@pytest.mark.parametrize("name", CASES)
def test_the_steps_of_a_case_give_states_of_its_type(name):
    """A step makes another state of the same type, which is not the one that it was given."""
    case, chance = CASES[name], random.Random(1)
    state = case.begin(random.Random(0), 3)
    after = case.step(state, chance)
    assert type(after) is type(state) is case.kind
    assert (state.n, after.n) == (0, 1)
    assert after != state
    assert case.step(after, chance).n == 2


@pytest.mark.slow
def test_peers_measures_this_library_and_the_floors_without_an_environment(tmp_path):
    """`--here` takes the interpreter that runs it; every row has all its figures, for both kinds of work."""
    options = ["--only", "bare,loomc_runner", "--here", "--steps", "20", "--growing", "20", "--rounds", "1"]
    lines = printed(tmp_path, "peers.py", *options)
    wanted = [
        (peer.name, work)
        for work in ("tiny", "growing")
        for peer in peers()
        if peer.env in {"bare", "loomc_runner"} and work in peer.works
    ]
    table = rows(lines)
    assert [cells[0] for cells in table] == [name for name, _ in wanted]
    assert all(all(cells[1:]) and "failed" not in cells for cells in table)
    assert {cells[0]: cells[2] for cells in table} == {
        "bare, WAL FULL": "wal FULL",
        "bare, WAL NORMAL": "wal NORMAL",
        "bare, rollback journal FULL": "delete FULL",
        "bare, WAL FULL, new item only": "wal FULL",
        "loomc_runner": "wal FULL",
        'loomc_runner, durability="process"': "wal NORMAL",
    }


def test_peers_shows_a_library_that_does_not_run_with_the_reason(tmp_path):
    """A row that could not be measured stays, and what happened stands below the table."""
    options = ["--only", "bare,burr", "--here", "--steps", "20", "--rounds", "1", "--works", "tiny"]
    lines = printed(tmp_path, "peers.py", *options)
    assert ["Burr", "?", "? ?", "failed"] in [cells[:4] for cells in rows(lines)]
    assert "- Burr: failed: ModuleNotFoundError: No module named 'burr'" in lines


def test_every_peer_has_an_environment_and_a_file():
    """A row names a file of `peers/` and the packages that it needs."""
    for peer in peers():
        assert peer.env in PACKAGES
        assert (ROOT / "benchmarks" / "peers" / f"with_{peer.env}.py").exists()


@pytest.mark.slow
def test_parallel_measures_one_process_and_several(tmp_path):
    """The loop and the floor have a row for one process and one for all of them."""
    lines = printed(tmp_path, "parallel.py", "--processes", "3", "--steps", "20", "--rounds", "1")
    assert [cells[0] for cells in rows(lines)] == ["bare, 1", "bare, 3", "loomc_runner, 1", "loomc_runner, 3"]
    assert lines[-1].startswith("3 processes reach ")


@pytest.mark.slow
def test_step_overhead_measures_its_cases(tmp_path):
    """Every case that is asked for has a line, and so has the floor of each."""
    lines = printed(tmp_path, "step_overhead.py", "--steps", "20", "--rounds", "1", "--cases", "sync", "memory")
    assert [line.split()[0] for line in lines[1:]] == ["bare", "sync", "while", "memory"]


@pytest.mark.slow
def test_tracked_call_measures_its_cases(tmp_path):
    """The SDK alone, tracked in memory and on disk, and the bare commits."""
    lines = printed(tmp_path, "tracked_call.py", "--calls", "5", "--rounds", "1")
    assert {line.split()[0] for line in lines} >= {"sdk", "memory", "disk", "commits"}


@pytest.mark.slow
def test_reading_measures_the_commands(tmp_path):
    """Every command has a line."""
    lines = printed(tmp_path, "reading.py", "--runs", "20", "--steps", "20", "--rounds", "1")
    assert {"loomc runs", "loomc show long", "loomc export long"} <= {line[:24].strip() for line in lines}


def test_the_floor_of_a_changed_middle_can_be_put_together_again():
    """The head and the tail of the text before, with what is stored between them, are the text."""
    texts = ["", "abc", "abc", "abXc", "ab", "abab", "ababab", "bab", '{"items": ["a"]}', '{"items": ["a", "b"]}']
    for before, text in pairwise(texts):
        head, tail, between = cut(before, text, whole=False)
        assert before[:head] + between + before[len(before) - tail :] == text


def test_texts_are_as_long_as_asked_and_repeat_words():
    """What stands for a transcript has its size to the byte, and can be compressed as prose can."""
    text = words(10_000, random.Random(1))
    assert len(text.encode()) == len(json.dumps(text)) - 2 == 10_000
    assert 2 < len(text) / len(zlib.compress(text.encode())) < 4


def test_memory_is_the_peak_above_the_start():
    """What was given back by then still counts; what was there before does not."""
    before = b"1" * 50_000_000
    memory = Memory()
    during = b"1" * 20_000_000
    del during
    assert len(before) / 2**20 > memory.above() > 15
