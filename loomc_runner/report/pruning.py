"""Which runs may be deleted to save room: old ones that have ended, each with its child runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from loomc_runner.errors import RunNotFound, SpecError
from loomc_runner.records import NANO, Run, RunStatus
from loomc_runner.report.direction import direction_of
from loomc_runner.report.runs import family
from loomc_runner.store import ENDED, Store
from loomc_runner.store.base import check_deletable

LoopKey = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A run with its child runs, which are deleted together."""

    run: Run
    members: tuple[Run, ...]

    @property
    def steps(self) -> int:
        """The committed steps of all of them."""
        return sum(member.steps for member in self.members)

    @property
    def cost_usd(self) -> float:
        """What all of them have spent, in dollars."""
        return sum(member.nano_usd for member in self.members) / NANO

    @property
    def updated_at(self) -> datetime:
        """When the last of them was worked on."""
        return max(member.updated_at for member in self.members)

    @property
    def at_work(self) -> bool:
        """Whether somebody works on one of them."""
        return any(member.status is RunStatus.RUNNING for member in self.members)


@dataclass(frozen=True, slots=True)
class Pruning:
    """What a prune deletes, and which old runs it keeps: the best ones, and so many of each status that can go on."""

    bundles: tuple[Bundle, ...]
    kept_best: tuple[Run, ...]
    kept_open: dict[RunStatus, int]


def bundle(store: Store, run: Run) -> Bundle:
    """A run as it would be deleted."""
    return Bundle(run, tuple(branch.run for branch in family(store, run)))


def check_together(store: Store, bundles: Iterable[Bundle]) -> None:
    """Raise what deleting them would raise: `RunLocked` for a run at work, `RunMismatch` for a child run alone."""
    check_deletable({run.id: run for found in bundles for run in found.members}, partial(_is_there, store))


def _is_there(store: Store, run_id: str) -> bool:
    try:
        store.get_run(run_id)
    except RunNotFound:
        return False
    return True


def choose(
    store: Store,
    before: datetime,
    *,
    keep_best: bool = False,
    loop: str | None = None,
    status: RunStatus | None = None,
) -> Pruning:
    """The runs that have not been worked on since a moment, without those that are kept.

    Only outermost runs are chosen, and of those the ended ones, unless a status is named. Runs at work are never
    chosen. `keep_best` keeps the run with the best score of each loop, among all its runs, also the newer ones; of
    equally good ones the newest.

    Raises:
        SpecError: When the status is `running`.
    """
    if status is RunStatus.RUNNING:
        raise SpecError("--status running: a run that somebody works on is not deleted; loomc cancel RUN ends it")
    bundles = _bundles(store, loop)
    old = _old(bundles, before)
    wanted = ENDED if status is None else {status}
    chosen = [found for found in old if found.run.status in wanted]
    best = set(_best(store, bundles, {_loop_of(found.run) for found in chosen})) if keep_best else set()
    return Pruning(
        tuple(found for found in chosen if found.run.id not in best),
        tuple(found.run for found in chosen if found.run.id in best),
        dict(Counter(found.run.status for found in old if found.run.status not in ENDED | wanted)),
    )


def old_runs(store: Store, before: datetime, *, loop: str | None = None, status: RunStatus | None = None) -> list[Run]:
    """All runs, child runs too, that have not been worked on since a moment, and are not at work now."""
    old = _old(_bundles(store, loop), before)
    return [run for found in old if status in {None, found.run.status} for run in found.members]


def _old(bundles: Iterable[Bundle], before: datetime) -> list[Bundle]:
    return [found for found in bundles if found.updated_at < before and not found.at_work]


def _bundles(store: Store, loop: str | None) -> list[Bundle]:
    """All outermost runs with their child runs, newest first, from one look at the store; those of some loops."""
    runs, children = store.list_runs(), defaultdict[str, list[Run]](list)
    for run in runs:
        if run.parent_run_id is not None:
            children[run.parent_run_id].append(run)

    def members(run: Run) -> Iterator[Run]:
        yield run
        for child in children[run.id]:
            yield from members(child)

    outermost = (run for run in runs if run.parent_run_id is None and (loop is None or loop in (run.loop or "")))
    return [Bundle(run, tuple(members(run))) for run in outermost]


def _loop_of(run: Run) -> LoopKey:
    """What the runs of one loop have in common: its name, in a script with the file; loomc 0.3.0 kept only a hash."""
    name = run.loop or run.spec_hash
    return name, run.source if (name or "").startswith("__main__:") else None


def _best(store: Store, bundles: Iterable[Bundle], loops: set[LoopKey]) -> Iterator[str]:
    """The ids of the runs with the best scores, one for each of some loops."""
    scored = defaultdict[LoopKey, list[tuple[float, Run]]](list)
    for found in bundles:
        run = found.run
        if run.best_step is not None and _loop_of(run) in loops:
            (step,) = store.steps(run.id, run.best_step, run.best_step + 1) or (None,)
            if step is not None and step.score is not None:
                scored[_loop_of(run)].append((step.score, run))
    for runs in scored.values():
        lower = any(direction_of(store, run) == "minimize" for _, run in runs)  # a run of one score does not tell
        _, best = max(runs, key=lambda pair: -pair[0] if lower else pair[0])  # the first of equals is the newest
        yield best.id
