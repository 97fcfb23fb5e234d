"""Old states of runs that are dropped at will: `loomc prune --states`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loomc_runner.cli import render
from loomc_runner.cli.app import known_runs
from loomc_runner.cli.database import path_of, url_of
from loomc_runner.cli.paging import A_SCREENFUL
from loomc_runner.cli.room import agreed, bytes_of, give_back
from loomc_runner.errors import RunLocked, RunNotFound, SpecError
from loomc_runner.records import Run, RunStatus
from loomc_runner.report import counted, family, find_run, printable
from loomc_runner.report.words import size
from loomc_runner.store import Store, block, finish, open_reader, open_store, patiently

if TYPE_CHECKING:
    from loomc_runner.report.thinning import Thinning

AT_ONCE = 500
"""States that are dropped in one transaction, so that nobody waits long for the database."""

SomeRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Run ids, or their unique beginnings; with --states only.",
        show_default=False,
        autocompletion=known_runs,
    ),
]
Every = Annotated[
    int | None, typer.Option(help="With --states: keep the state of each so many-th step.", show_default=False)
]
Best = Annotated[
    int | None, typer.Option(help="With --states: keep those of so many best-scored steps.", show_default=False)
]
Last = Annotated[
    int | None, typer.Option(help="With --states: keep so many of the newest. [default: 20]", show_default=False)
]
Results = Annotated[
    int | None,
    typer.Option(help="With --states: drop results of calls of more characters; alone no state.", show_default=False),
]

Policy = tuple[int | None, int | None, int | None, int | None]
"""What is kept: --every, --best, --last and --results."""

THINNED = (
    *(render.Column("run"), render.Column("status"), render.Column("states", right=True)),
    *(render.Column("dropped", right=True), render.Column("results", right=True), render.Column("updated")),
    render.Column("loop", least=10, tail=True),
)


def moment(older_than: str) -> datetime:
    """When a run must have been worked on last, to be that old."""
    from loomc_runner.clock import SystemClock, parse_duration

    return SystemClock().now() - timedelta(seconds=parse_duration(older_than))


def prune_states(
    db: str | None,
    names: Sequence[str],
    older_than: str | None,
    loop: str | None,
    status: RunStatus | None,
    policy: Policy,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Drop old states of runs, and give their room back to the disk."""
    from loomc_runner.keep import NEWEST, Keep
    from loomc_runner.report.thinning import thinning

    keep = Keep(last=NEWEST) if policy == (None,) * len(policy) else Keep(*policy)
    store = open_reader(db)
    runs = _chosen(store, names, older_than, loop, status)
    found = [thin for thin in (thinning(store, run, keep) for run in runs) if not thin.is_nothing]
    told = _told(db, found, dry_run=dry_run)
    show, what = partial(_show, found), _count(found)
    goes = not dry_run and (not found or agreed("drop", what, "loomc prune --states", show, yes=yes, as_json=as_json))
    if goes:
        told["thinned"], told["skipped"] = _drop_each(db, found, keep.results)
        told["not_freed"] = give_back(db, some=bool(told["thinned"]), as_json=as_json)
    told["bytes_after"] = bytes_of(path_of(db))
    if as_json:
        print(json.dumps(told))
    elif dry_run:
        _show(found)
    elif goes:
        render.show_facts(render.Screen.of_stdout(), _outcome(db, found, told))


def _chosen(
    store: Store, names: Sequence[str], older_than: str | None, loop: str | None, status: RunStatus | None
) -> list[Run]:
    """The runs, child runs too: those that are named, or are old enough; none that somebody works on."""
    from loomc_runner.report.pruning import old_runs

    if status is RunStatus.RUNNING:
        raise SpecError("--status running: states of a run that somebody works on are dropped by keep= of its loop")
    if not names and older_than is None:
        raise SpecError("say which runs: name them, or give --older-than AGE, such as 30d")
    if not names:
        return old_runs(store, moment(older_than or ""), loop=loop, status=status)
    if older_than is not None or loop is not None or status is not None:
        raise SpecError("name runs, or choose them by --older-than, --loop and --status, but not both")
    named = {branch.run.id: branch.run for name in names for branch in family(store, find_run(store, name))}
    for run in named.values():
        if run.status is RunStatus.RUNNING:
            raise RunLocked(f"run {run.id} is being worked on; keep= of its loop drops states meanwhile")
    return [*named.values()]


def _told(db: str | None, found: Sequence[Thinning], *, dry_run: bool) -> dict[str, Any]:
    """What is to be dropped, as JSON with stable keys."""
    runs = [
        {
            "run_id": thin.run.id,
            "loop": thin.run.loop,
            "status": thin.run.status.value,
            "updated_at": thin.run.updated_at.isoformat(),
            "steps": thin.run.steps,
            "states_dropped": len(thin.dropped),
            "states_kept": thin.kept,
            "results_dropped": thin.results,
        }
        for thin in found
    ]
    head = {"database": path_of(db), "dry_run": dry_run, "runs": runs, "thinned": [], "skipped": [], "not_freed": None}
    return {**head, "bytes_before": bytes_of(path_of(db))}


def _drop_each(
    db: str | None, found: Sequence[Thinning], longest: int | None
) -> tuple[list[str], list[dict[str, str]]]:
    """Drop what is to go run by run, some states at once; those it was done for, and those that somebody took up."""
    thinned, skipped = [], []
    for thin in found:
        store, name = open_store(url_of(db)), thin.run.id
        try:
            if store.get_run(name).updated_at != thin.run.updated_at:
                raise RunLocked(f"run {name} was worked on meanwhile")
            for begin in range(0, len(thin.dropped) or 1, AT_ONCE):  # also once where only results go
                is_last = begin + AT_ONCE >= len(thin.dropped)
                drop = partial(store.drop_states, longest_result=longest if is_last else None)
                finish(patiently(block, drop, name, thin.dropped[begin : begin + AT_ONCE]))
        except (RunLocked, RunNotFound) as error:
            skipped.append({"run_id": name, "why": str(error)})
        else:
            thinned.append(name)
    return thinned, skipped


def _show(found: Sequence[Thinning]) -> None:
    screen = render.Screen.of_stdout()
    most = None if screen.width is None else A_SCREENFUL
    render.table(screen, THINNED, map(_row, found[:most]))
    if most is not None and len(found) > most:
        print(f"... and {len(found) - most} more (--dry-run --json lists all)")
    print(_count(found) if found else "nothing to drop")


def _row(thin: Thinning) -> tuple[render.Cell, ...]:
    run = thin.run
    return (
        render.Cell(printable(run.id)),
        render.Cell(run.status.value, render.COLOURS[run.status]),
        render.Cell(str(thin.kept + len(thin.dropped))),
        render.Cell(str(len(thin.dropped))),
        render.Cell(str(thin.results) if thin.results else ""),
        render.Cell(render.when(run.updated_at)),
        render.Cell(printable(run.loop or "(loomc 0.3.0)")),
    )


def _count(found: Sequence[Thinning]) -> str:
    states, results = sum(len(thin.dropped) for thin in found), sum(thin.results for thin in found)
    kept = sum(thin.kept for thin in found)
    parts = [f"{counted(states, 'state')} of {states + kept}"] if states or not results else []
    parts += [counted(results, "result") + (" of calls" if results > 1 else " of a call")] if results else []
    return f"{' and '.join(parts)} in {counted(len(found), 'run')}"


def _outcome(db: str | None, found: Sequence[Thinning], told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What became of it."""
    for skipped in told["skipped"]:
        yield "kept", f"run {skipped['run_id']}: {skipped['why']}"
    gone = [thin for thin in found if thin.run.id in set(told["thinned"])]
    yield "dropped", _count(gone) if gone else "nothing"
    yield "size", f"{path_of(db)} takes {size(told['bytes_after'])}, before {size(told['bytes_before'])}"
    if told["not_freed"]:
        yield "not freed", f"{told['not_freed']}; new runs use the room, or prune again later"
