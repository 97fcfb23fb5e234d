"""Any sequence of runs, failures, kills, resumes and forks, against a model that knows only the rules."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from killing import NEVER, Death, live
from loomc_runner import BestScore, Budget, Done, SpecError, loop, spend
from loomc_runner.records import NANO
from loomc_runner.store import Store
from loomc_runner.store.sqlite import SQLite

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""pytest-xdist has a thread of its own; the lives that are forked here do not need it."""

CENT = NANO // 100
STEP = 5
"""Cents that each step says it costs at most; none lies."""


@dataclasses.dataclass
class Draft:
    """A state that tells the way it came."""

    path: list[int]
    score: int


class Act(NamedTuple):
    """What one step does: its payments in cents, how it ends, and the score of its state."""

    cents: tuple[int, ...]
    ending: str
    score: int


def loop_of(store: Store, script: Iterator[Act], cap: int) -> Any:
    """The loop under test, which does as it is told."""

    def step(draft: Draft) -> Draft | Done[Draft, None]:
        act = next(script)
        if act.ending == "die at once":
            Death().come()
        for cents in act.cents:
            spend(usd=cents / 100)
        if act.ending == "fail":
            raise RuntimeError("as it was told")
        if act.ending == "die":
            Death().come()
        after = Draft([*draft.path, act.score], act.score)
        return Done(after) if act.ending == "done" else after

    budget = Budget(usd=cap / 100, step_usd=STEP / 100)
    options: dict[str, Any] = {"scorer": lambda draft: draft.score, "backtrack": BestScore(), "checkpoint": store}
    return loop(name="machine", budget=budget, **options)(step)


def one_life(path: str, run_id: str, script: Sequence[Act], death: Death, cap: int, how: dict[str, Any]) -> None:
    """What a process does: take as many steps as the script has, unless the run or the process ends before."""
    handle = loop_of(death.around(SQLite(path)), iter(script), cap)
    with suppress(RuntimeError, SpecError), handle.stream(run_id=run_id, **how) as steps:
        for _ in script:
            next(steps, None)


class Died(Exception):
    """The model's process has been killed."""


@dataclasses.dataclass
class Model:
    """A run as the rules make it. Money is in cents."""

    cap: int
    status: str = "running"
    highest: int = 0
    epoch: int = 1
    reserved: int | None = None
    fresh: list[int] = dataclasses.field(default_factory=list)
    charges: list[tuple[int, bool]] = dataclasses.field(default_factory=list)
    steps: list[tuple[int, int, int, str | None]] = dataclasses.field(default_factory=list)
    paths: dict[int, list[int]] = dataclasses.field(default_factory=lambda: {-1: []})
    failed: int = 0
    parent: int = -1

    @property
    def spent(self) -> int:
        """All charges."""
        return sum(cents for cents, _ in self.charges)

    @property
    def best(self) -> int | None:
        """The first of the steps with the highest score."""
        return max(range(len(self.steps)), key=lambda n: (self.steps[n][1], -n), default=None)

    @property
    def fits(self) -> bool:
        """Whether the next step does."""
        return self.spent + STEP <= self.cap

    def create(self) -> None:
        """The run is stored, and its first step is in flight if it fits."""
        self.fresh, self.reserved = [], STEP if self.fits else None

    def start(self) -> None:
        """The next step is in flight if it fits, else the run has ended."""
        self.fresh = []
        self.reserved, self.status = (STEP, "running") if self.fits else (None, "budget_exhausted")

    def claim(self, cap: int) -> None:
        """Another process goes on; the step in flight costs what it had recorded, else its reservation."""
        if self.reserved is not None:
            self.failed += 1
            self.charges += [] if self.fresh else [(self.reserved, True)]
        self.epoch, self.status, self.reserved = self.epoch + 1, "running", None
        self.cap, self.highest = cap, max(cap, self.highest)  # lowered, it may be below what the step in flight cost

    def pay(self, cents: int) -> None:
        """A charge is stored the moment it is known."""
        self.charges.append((cents, False))
        self.fresh.append(cents)

    def fail(self) -> None:
        """A failed try is stored, and the run is."""
        self.failed += 1
        self.end("failed")

    def commit(self, act: Act) -> None:
        """A step is stored, with what follows from it: the end, a restore, or the next step."""
        n, best = len(self.steps), self.best
        worse = best is not None and act.score < self.steps[best][1]
        decision = "stop" if act.ending == "done" else f"restore {best}" if worse else None
        self.paths[n] = [*self.paths[self.parent], act.score]
        self.steps.append((self.parent, act.score, sum(self.fresh), decision))
        self.parent = best if worse and best is not None else n
        self.start()
        if act.ending == "done":
            self.end("completed")

    def end(self, status: str) -> None:
        """The run is left."""
        self.status, self.reserved = status, None


class Life:
    """What a process does to a run, write by write, until it is killed."""

    def __init__(self, model: Model, death: Death) -> None:
        self.model, self.death, self.writes = model, death, 0

    def write(self, change: Callable[..., None], *args: Any) -> None:
        """Change what is stored, unless death comes first."""
        self.writes += 1
        if self.death[:2] == ("before", self.writes):
            raise Died
        change(*args)
        if self.death[:2] == ("after", self.writes):
            raise Died

    def run(self, script: Sequence[Act], opening: Callable[[], None]) -> None:
        """Open the run, take the steps of the script, and leave it paused if it has not ended."""
        self.write(opening)
        if self.model.reserved is None:
            self.write(self.model.start)
        for act in script:
            if self.model.status == "running":
                self.take(act)
        if self.model.status == "running":
            self.write(self.model.end, "paused")

    def take(self, act: Act) -> None:
        """Take one step."""
        if act.ending == "die at once":
            raise Died
        for cents in act.cents:
            self.write(self.model.pay, cents)
        if act.ending == "die":
            raise Died
        if act.ending == "fail":
            self.write(self.model.fail)
        else:
            self.write(self.model.commit, act)


acts = st.builds(
    Act,
    cents=st.sampled_from([(0,), (1,), (5,), (2, 3), (4, 1), (1, 1, 1)]),
    ending=st.sampled_from(["go on"] * 6 + ["fail", "die", "die at once", "done"]),
    score=st.integers(0, 3),
)
scripts = st.lists(acts, min_size=1, max_size=5)
deaths = st.just(NEVER) | st.builds(Death, st.sampled_from(["before", "after"]), st.integers(1, 8), st.just(SIGKILL))
caps = st.sampled_from([0, 8, 20, 40, 60])


class RunMachine(RuleBasedStateMachine):
    """Runs in a file, each beside its model."""

    runs: Bundle[str] = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.path = f"{self.folder}/checkpoints.db"
        self.store = SQLite(self.path, read_only=True)

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize(target=runs, script=scripts, death=deaths, cap=caps)
    def begin_the_first(self, script: list[Act], death: Death, cap: int) -> str:
        """There is a run to go on with from the start."""
        return self.begin_one(script, death, cap)

    @precondition(lambda self: len(self.models) < 3)
    @rule(target=runs, script=scripts, death=deaths, cap=caps)
    def begin(self, script: list[Act], death: Death, cap: int) -> str:
        """There are more beside it."""
        return self.begin_one(script, death, cap)

    def begin_one(self, script: list[Act], death: Death, cap: int) -> str:
        """A process begins a run; if it dies before that is stored, nothing is, and another begins it."""
        run_id, model = f"run-{len(self.models)}", Model(cap, highest=cap)
        for life in (death, NEVER):
            live(one_life, self.path, run_id, script, life, cap, {"state": Draft([], 0)})
            with suppress(Died):
                Life(model, life).run(script, model.create)
            if life[:2] != ("before", 1):
                break
        self.models[run_id] = model
        return run_id

    @rule(run_id=runs, script=scripts, death=deaths)
    def go_on(self, run_id: str, script: list[Act], death: Death) -> None:
        """Another process resumes the run."""
        self.resume(run_id, script, death, None)

    @rule(run_id=runs, script=scripts, death=deaths, cap=caps)
    def go_on_with_another_budget(self, run_id: str, script: list[Act], death: Death, cap: int) -> None:
        """Another process resumes the run with another cap, which is refused when more is spent already."""
        self.resume(run_id, script, death, cap)

    def resume(self, run_id: str, script: list[Act], death: Death, cap: int | None) -> None:
        """Let the run and its model go on; a completed run, or a cap below what is spent, stays as it is."""
        model = self.models[run_id]
        live(one_life, self.path, run_id, script, death, 99, {"budget": None if cap is None else Budget(usd=cap / 100)})
        if model.status != "completed" and (cap is None or cap >= model.spent):
            with suppress(Died):
                Life(model, death).run(script, lambda: model.claim(model.cap if cap is None else cap))

    @precondition(lambda self: len(self.models) < 4)
    @rule(target=runs, run_id=runs, back=st.integers(0, 3))
    def branch_off(self, run_id: str, back: int) -> str:
        """A new run begins with an old state, and owes nothing."""
        origin = self.models[run_id]
        step = max(len(origin.steps) - 1 - back, -1)
        forked = loop_of(SQLite(self.path), iter(()), 99).fork(run_id, step=step)
        self.models[forked] = Model(origin.cap, "paused", origin.cap, paths={-1: origin.paths[step]})
        return str(forked)

    @invariant()
    def every_run_is_as_its_model(self) -> None:
        """What is stored is what the rules say, to the last charge."""
        for run_id, model in self.models.items():
            run, rows = self.store.get_run(run_id), self.store.steps(run_id)
            charges = [(charge.nano_usd // CENT, charge.estimated) for charge in self.store.charges(run_id)]
            assert [(row.parent_n, row.score, row.nano_usd // CENT, row.decision) for row in rows] == model.steps
            assert charges == model.charges
            assert (run.status, run.epoch) == ({"running": "interrupted"}.get(model.status, model.status), model.epoch)
            assert len(self.store.attempts(run_id)) == model.failed

    @invariant()
    def every_run_is_sound(self) -> None:
        """Steps are numbered without a gap, states follow from their parents, totals add up, no cap is crossed."""
        for run_id, model in self.models.items():
            run, rows = self.store.get_run(run_id), self.store.steps(run_id)
            paths = {n: json.loads(self.store.state(run_id, n))["path"] for n in range(-1, len(rows))}
            scores = [row.score for row in rows]
            assert [row.step_n for row in rows] == list(range(run.steps))
            assert [paths[n] for n in range(len(rows))] == [[*paths[row.parent_n], row.score] for row in rows]
            assert run.best_step == (scores.index(max(scores)) if scores else None)
            assert run.nano_usd == sum(charge.nano_usd for charge in self.store.charges(run_id)) <= model.highest * CENT


RunMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)


@pytest.mark.slow
class TestRuns(RunMachine.TestCase):
    """Whatever happens to runs, and in whichever order, what is stored follows the rules."""
