"""A process is killed inside of a step, and what the step had done by then is not done again."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from killing import KILLED, Death, Fuse, assert_records_are_whole, live
from loomc_runner.errors import RunNotFound
from loomc_runner.outside import find_question, give_answer
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, FaultyStore
from toolers import Ledge, a_tree, go_on, grow_on, on_record, through_the_gate, workers

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

KINDS = {"sync": False, "async": True}


class Undisturbed:
    """A run that nothing happens to, in memory: how it ends, what it does, and all moments at which it could die."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp())
        store, fuse, ledge = FaultyStore(MemoryStore()), Fuse(), Ledge(folder / "calm")
        self.state = workers(store, ledge, fuse, is_async=False).run("begin", run_id="calm").state
        self.nano_usd, self.done, self.counts = store.subtree("calm")[0], on_record(store, "calm"), ledge.counts
        self.deaths = [
            *(Death(where, number) for where in ("before", "after") for number in range(1, store.writes.total() + 1)),
            *(Death("inside", number) for number in range(1, fuse.passed + 1)),
        ]
        shutil.rmtree(folder)


CALM = Undisturbed()

DEATHS = [
    pytest.param(is_async, death, id=f"{kind}-{death.where}-{death.number}")
    for kind, is_async in KINDS.items()
    for death in CALM.deaths
    if not is_async or death.where != "before"  # that a life ends between two writes is the same either way
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """One database for all runs of the module, whole at the end; in memory where there is room: no power fails here."""
    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(dir=shm if shm.is_dir() else None)
    yield f"{folder}/checkpoints.db"
    assert_records_are_whole(f"{folder}/checkpoints.db")
    shutil.rmtree(folder)


class Witness:
    """Who looks at a run after each death: what is on record as done must never be done again."""

    def __init__(self, path: str, run_id: str) -> None:
        self.run_id, self.store = run_id, SQLite(path)
        self.ledge = Ledge(Path(f"{path}-{run_id}"))
        self.frozen: dict[str, int] = {}
        self.deaths = 0

    def look(self) -> None:
        """A life has ended: what was on record as done before it was not done in it."""
        counts, done = self.ledge.counts, on_record(self.store, self.run_id)
        assert {what: counts[what] for what in self.frozen} == self.frozen
        assert self.frozen.keys() <= done
        self.frozen = {what: counts[what] for what in done}

    def answer(self) -> bool:
        """Say of a call in doubt what really happened, as a person would who has looked; whether one was."""
        if self.store.get_run(self.run_id).status != "waiting":
            return False
        question = find_question(self.store, self.run_id)
        number = question.prompt.partition('"what": "')[2][0]
        published = self.ledge.counts[f"publish-{number}"] == 1
        give_answer(self.store, question, [{"result": number} if published else {"run_again": True}], "a witness", AT)
        return True

    def assert_ends_as_undisturbed(self, deaths: int) -> None:
        """The same last state and the same calls; what was under way at a death was done once more, if it may be."""
        run, counts = self.store.get_run(self.run_id), self.ledge.counts
        assert (run.status, json.loads(self.store.state(run.id, run.steps - 1))) == ("completed", CALM.state)
        assert on_record(self.store, run.id) == CALM.done
        assert counts.keys() == CALM.counts.keys()
        assert sum(count - CALM.counts[what] for what, count in counts.items()) <= deaths
        assert all(count == 1 for what, count in counts.items() if what.startswith("publish"))
        assert self.store.subtree(run.id)[0] >= CALM.nano_usd


@pytest.mark.parametrize(("is_async", "death"), DEATHS)
def test_a_run_that_was_killed_in_a_step_does_nothing_twice(is_async: bool, death: Death, database: str) -> None:
    """Wherever it is killed, a completed call is not executed again, `once=True` never twice; the end is the same."""
    witness = Witness(database, f"{is_async}-{death.where}-{death.number}")
    assert live(go_on, database, witness.run_id, is_async, death) == KILLED
    if death != Death("before", 1):
        witness.look()
    assert live(go_on, database, witness.run_id, is_async) == 0
    witness.look()
    if witness.answer():
        assert live(go_on, database, witness.run_id, is_async) == 0
        witness.look()
    witness.assert_ends_as_undisturbed(1)


@pytest.mark.parametrize("is_async", KINDS.values(), ids=KINDS)
def test_a_run_that_is_killed_again_and_again_in_its_steps_completes(is_async: bool, database: str) -> None:
    """However often it is killed, each time two writes later, every completed call was executed for that once."""
    witness, deaths = Witness(database, f"again-{is_async}"), 0
    for number in itertools.count(4, 2):
        ending = live(go_on, database, witness.run_id, is_async, Death("after", number))
        witness.look()
        if ending == KILLED:
            deaths += 1
        elif not witness.answer():
            break
    assert deaths > 3
    witness.assert_ends_as_undisturbed(deaths)


ANSWERS = {"Release it?": {"approved": True}, "What about it?": "well done"}


@pytest.mark.parametrize("where", ["before", "after", "inside"])
def test_a_gate_holds_over_any_number_of_kills(where: Any, database: str) -> None:
    """Killed at each moment of each life: each question is asked once, answered once, and never passed without."""
    for number in itertools.count(1):
        run_id, kills = f"gate-{where}-{number}", 0
        store, ledge = SQLite(database), Ledge(Path(f"{database}-{run_id}"))
        for later in itertools.count():
            kills += live(through_the_gate, database, run_id, Death(where, number + later)) == KILLED
            assert live(through_the_gate, database, run_id) == 0
            answered = {q.prompt for q in store.questions(run_id) if q.answer is not None}
            assert ledge.counts["deploy-it"] <= ("Release it?" in answered)
            if store.get_run(run_id).status == "completed":
                break
            question = find_question(store, run_id)
            in_doubt = {"result": "it"} if ledge.counts["deploy-it"] else {"run_again": True}
            give_answer(store, question, [ANSWERS.get(question.prompt, in_doubt)], "a person", AT)
        asked = [q for q in store.questions(run_id) if q.prompt in ANSWERS]
        assert [(q.prompt, q.answered_by) for q in asked] == [(prompt, "a person") for prompt in ANSWERS]
        assert json.loads(store.state(run_id, 0)) == "it: well done"
        assert ledge.counts["deploy-it"] == 1
        assert ledge.counts["vendor"] <= 1 + kills
        if not kills:
            break
    assert number > 3


def test_a_tree_that_is_killed_fifty_times_ends_as_if_nothing_had_happened(database: str, tmp_path: Path) -> None:
    """1 + 4 + 16 runs: the same result, the same money but for what was in flight, and no completed call twice."""
    calm_store, calm_ledge = MemoryStore(), Ledge(tmp_path / "calm")
    calm: Any = a_tree(calm_store, calm_ledge)()
    chance, kills, frozen = random.Random(7), 0, Counter[str]()
    path = f"{database}-tree.db"
    ledge, store = Ledge(Path(f"{path}-tree")), SQLite(path)
    while kills < 50:
        death = Death(chance.choice(("before", "after")), chance.randint(2, 22))
        ending = live(grow_on, path, death)
        assert ending in {KILLED, 0}
        if ending == 0:
            break
        kills += 1
        now = ledge.counts
        for what, count in frozen.items():
            assert now[what] == count
        frozen = Counter({what: now[what] for what in completed_work(store)})
    assert kills == 50
    assert live(grow_on, path) == 0
    run = store.get_run("tree")
    assert json.loads(store.state("tree", 0)) == calm
    assert len(store.list_runs()) == len(calm_store.list_runs()) == 21
    spent = [charge for one in store.list_runs() for charge in store.charges(one.id)]
    assert sum(charge.nano_usd for charge in spent if not charge.estimated) == calm_store.subtree("tree")[0]
    assert run.status == "completed"
    assert set(ledge.counts) == set(calm_ledge.counts)
    assert ledge.counts.total() - calm_ledge.counts.total() <= 50 * 4  # only what was under way in the four threads


def completed_work(store: Store) -> set[str]:
    """The calls of the leaves that are on record as done, as the ledge names them."""
    done: set[str] = set()
    with suppress(RunNotFound):
        for run in store.list_runs(loop="leaf"):
            name = json.loads(store.state(run.id, -1))[0]
            done |= {f"{name}:{int(call.result) - 1}" for call in store.calls(run.id) if call.result is not None}
    return done
