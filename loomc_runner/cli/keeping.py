"""What is kept of runs: their tags, and which of them are deleted, at will or by their age."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loomc_runner.cli import render
from loomc_runner.cli.app import AsJson, Database, RunId, RunIds, app
from loomc_runner.cli.database import option_of, path_of, url_of
from loomc_runner.cli.paging import A_SCREENFUL
from loomc_runner.cli.room import agreed, bytes_of, give_back
from loomc_runner.cli.thinning import Best, Every, Last, Results, SomeRuns, moment, prune_states
from loomc_runner.errors import RequestRefused, RunLocked, RunNotFound, SpecError
from loomc_runner.records import Run, RunStatus
from loomc_runner.report import counted, dollars, find_run, printable
from loomc_runner.report.words import size
from loomc_runner.store import block, finish, open_reader, open_store, patiently

if TYPE_CHECKING:
    from loomc_runner.report.pruning import Bundle, Pruning

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")]

OlderThan = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Only runs not worked on for so long, such as 30d.", show_default=False),
]
OfLoop = Annotated[str | None, typer.Option(help="Only runs whose loop's name contains this.", show_default=False)]

DOOMED = (
    *(render.Column("run"), render.Column("status"), render.Column("steps", right=True)),
    *(render.Column("cost", right=True), render.Column("updated"), render.Column("loop", least=10, tail=True)),
)


@app.command()
def tag(
    run: RunId,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Tags to add.", show_default=False)
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="WORD", help="A tag to take away.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Add tags to a run or take them away; without any, list those it has."""
    found = find_run(open_reader(db), run)
    tags = found.tags
    if words or remove:
        _check_tags(found, words or [], remove or [])
        tags = finish(patiently(block, open_store(url_of(db)).tag, found.id, words or [], remove or []))
    if as_json:
        print(json.dumps({"run_id": found.id, "tags": list(tags)}))
    else:
        render.show_facts(render.Screen.of_stdout(), [("run", found.id), ("tags", ", ".join(tags) or "none")])


def _check_tags(run: Run, words: Sequence[str], gone: Sequence[str]) -> None:
    from loomc_runner.spec import check_tags

    check_tags(words)
    if missing := [word for word in gone if word not in run.tags]:
        raise RequestRefused(f"run {run.id} has no tag {missing[0]!r}; loomc tag {run.id} lists those it has")


@app.command()
def delete(
    runs: RunIds,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Delete runs with their child runs and all that is on record of them; asks first."""
    from loomc_runner.report.pruning import bundle, check_together

    store = open_reader(db)
    found = {run.id: run for run in (find_run(store, name) for name in runs)}
    bundles = [bundle(store, run) for run in found.values()]
    check_together(store, bundles)
    told = _told(db, bundles, dry_run=dry_run)
    goes = not dry_run and _goes(bundles, "loomc delete", yes=yes, as_json=as_json)
    if goes:
        finish(patiently(block, open_store(url_of(db)).delete, list(found)))
        told["deleted"] = list(found)
    if as_json:
        print(json.dumps(told))
    elif dry_run:
        _show(bundles)
    elif goes:
        room = "used by new runs; loomc prune gives it back to the disk"
        render.show_facts(render.Screen.of_stdout(), [("deleted", _count(bundles)), ("its room", room)])


@app.command()
def prune(
    runs: SomeRuns = None,
    older_than: OlderThan = None,
    keep_best: Annotated[bool, typer.Option("--keep-best", help="Keep the best-scored run of each loop.")] = False,
    loop: OfLoop = None,
    status: Annotated[
        RunStatus | None, typer.Option(help="Only runs with this status. [default: those that have ended]")
    ] = None,
    states: Annotated[bool, typer.Option("--states", help="Delete no run: drop old states of runs.")] = False,
    every: Every = None,
    best: Best = None,
    last: Last = None,
    results: Results = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    db: Database = None,
) -> None:
    """Delete old runs that have ended, and give their room back to the disk; asks first.

    Runs that wait for an answer, are paused or were interrupted are kept unless --status names them; runs at work
    are kept in any case.

    With --states no run goes: of runs that nobody works on, named or old, whatever their status, old states are dropped
    as a loop with keep= drops them. The record of each step stays, and every run can be resumed.
    """
    from loomc_runner.report.pruning import choose

    policy = (every, best, last, results)
    if states and keep_best:
        raise SpecError("--keep-best keeps a run, and --states deletes none; --best N keeps the states of best steps")
    if states:
        prune_states(db, runs or [], older_than, loop, status, policy, yes=yes, dry_run=dry_run, as_json=as_json)
        return
    if runs or policy != (None,) * len(policy):
        raise SpecError("runs, and what is kept of them, are for --states; loomc delete RUN deletes a run")
    if older_than is None:
        raise SpecError("Missing option '--older-than': how old the runs are that go, such as 30d")
    before = moment(older_than)
    chosen = choose(open_reader(db), before, keep_best=keep_best, loop=loop, status=status)
    told = {**_told(db, chosen.bundles, dry_run=dry_run), "skipped": [], "not_freed": None}
    told |= {"kept_best": [run.id for run in chosen.kept_best], "kept_open": chosen.kept_open}
    goes = not dry_run and (not chosen.bundles or _goes(chosen.bundles, "loomc prune", yes=yes, as_json=as_json))
    if goes:
        told["deleted"], told["skipped"] = _delete_each(db, chosen.bundles)
        told["not_freed"] = give_back(db, some=bool(told["deleted"]), as_json=as_json)
    told["bytes_after"] = bytes_of(path_of(db))
    if as_json:
        print(json.dumps(told))
        return
    if dry_run:
        _show(chosen.bundles)
    facts = (*_kept(chosen, option_of(db)), *(_outcome(db, chosen, told) if goes else ()))
    render.show_facts(render.Screen.of_stdout(), facts)


def _told(db: str | None, bundles: Sequence[Bundle], *, dry_run: bool) -> dict[str, Any]:
    """What is to be deleted, as JSON with stable keys."""
    runs = [
        {
            "run_id": doomed.run.id,
            "loop": doomed.run.loop,
            "status": doomed.run.status.value,
            "updated_at": doomed.updated_at.isoformat(),
            "child_runs": len(doomed.members) - 1,
            "steps": doomed.steps,
            "cost_usd": doomed.cost_usd,
        }
        for doomed in bundles
    ]
    path = path_of(db)
    return {"database": path, "dry_run": dry_run, "runs": runs, "deleted": [], "bytes_before": bytes_of(path)}


def _goes(bundles: Sequence[Bundle], command: str, *, yes: bool, as_json: bool) -> bool:
    return agreed("delete", _count(bundles), command, partial(_show, bundles), yes=yes, as_json=as_json)


def _show(bundles: Sequence[Bundle]) -> None:
    screen = render.Screen.of_stdout()
    most = None if screen.width is None else A_SCREENFUL
    render.table(screen, DOOMED, map(_row, bundles[:most]))
    if most is not None and len(bundles) > most:
        print(f"... and {len(bundles) - most} more (--dry-run --json lists all)")
    print(_count(bundles) if bundles else "nothing to delete")


def _row(doomed: Bundle) -> tuple[render.Cell, ...]:
    run = doomed.run
    return (
        render.Cell(printable(run.id)),
        render.Cell(run.status.value, render.COLOURS[run.status]),
        render.Cell(str(doomed.steps)),
        render.Cell(render.money(doomed.cost_usd)),
        render.Cell(render.when(doomed.updated_at)),
        render.Cell(printable(run.loop or "(loomc 0.3.0)")),
    )


def _count(bundles: Sequence[Bundle]) -> str:
    children = sum(len(doomed.members) - 1 for doomed in bundles)
    inner = f" with {counted(children, 'child run')}" if children else ""
    steps, spent = sum(doomed.steps for doomed in bundles), sum(doomed.cost_usd for doomed in bundles)
    return f"{counted(len(bundles), 'run')}{inner} and {counted(steps, 'step')}, which cost {dollars(spent)}"


def _delete_each(db: str | None, bundles: Sequence[Bundle]) -> tuple[list[str], list[dict[str, str]]]:
    """Delete runs one after the other, so that nobody waits long for the database; those deleted, those kept."""
    deleted, skipped = [], []
    for doomed in bundles:
        store, name = open_store(url_of(db)), doomed.run.id
        try:
            if store.get_run(name).updated_at != doomed.run.updated_at:
                raise RunLocked(f"run {name} was worked on meanwhile")
            finish(patiently(block, store.delete, [name]))
        except (RunLocked, RunNotFound) as error:
            skipped.append({"run_id": name, "why": str(error)})
        else:
            deleted.append(name)
    return deleted, skipped


def _kept(chosen: Pruning, there: str) -> Iterator[tuple[str, str]]:
    """What is old enough and stays nevertheless."""
    for run in chosen.kept_best:
        yield "kept", f"run {run.id}, which has the best score of {run.loop or 'its loop'}"
    for status, count in chosen.kept_open.items():
        ways = f"loomc resume RUN{there} goes on with one, --status {status.value} deletes them"
        yield "kept", f"{counted(count, f'{status.value} run')}: {ways}"


def _outcome(db: str | None, chosen: Pruning, told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What became of it."""
    for skipped in told["skipped"]:
        yield "kept", f"run {skipped['run_id']}: {skipped['why']}"
    gone = [doomed for doomed in chosen.bundles if doomed.run.id in set(told["deleted"])]
    yield "deleted", _count(gone) if gone else "nothing"
    yield "size", f"{path_of(db)} takes {size(told['bytes_after'])}, before {size(told['bytes_before'])}"
    if told["not_freed"]:
        yield "not freed", f"{told['not_freed']}; new runs use the room, or prune again later"
