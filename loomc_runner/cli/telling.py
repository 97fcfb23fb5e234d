"""Why a run is where it is, in words and figures, and whether its record is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from loomc_runner.cli import render
from loomc_runner.cli.app import AsJson, Database, RunId, app
from loomc_runner.cli.database import next_command, path_of
from loomc_runner.clock import format_duration
from loomc_runner.errors import LoomcError, StoreError
from loomc_runner.export import plain, run_json
from loomc_runner.records import Question, RunStatus
from loomc_runner.report import counted, dollars, find_run, place
from loomc_runner.store import open_reader

if TYPE_CHECKING:
    from loomc_runner.report.explain import Explanation, ModelShare, Share

MOST = 8
"""Lines for one kind of thing; `--json` has all of them."""


@app.command(name="explain")
def explain_run(run: RunId, as_json: AsJson = False, db: Database = None) -> None:
    """Tell the story of a run: why it stopped, where its money went, what was tried again and gone back from."""
    from loomc_runner.report.explain import explain

    store = open_reader(db)
    found = find_run(store, run)
    try:
        told = explain(store, found)
    except (StoreError, ValueError, TypeError) as error:
        raise StoreError(f"run {found.id} cannot be explained: {error}; loomc verify {found.id} tells more") from error
    command = next_command(store, found, db)
    if as_json:
        parts: dict[str, Any] = {**plain(told), "run": run_json(store, found), "go_on": command}
        print(json.dumps(parts))
        return
    facts = [*_beginning(told), *_money(told), *_detours(told), *_people(told), *_record(told)]
    render.show_facts(render.Screen.of_stdout(), [*facts, ("go on", command or "")])


@app.command(name="verify")
def verify_run(run: RunId, as_json: AsJson = False, db: Database = None) -> None:
    """Read the whole record of a run; exit status 1 when something is missing in it or contradicts itself."""
    from loomc_runner.report.verify import verify
    from loomc_runner.store.upkeep import damage

    store = open_reader(db)
    found = find_run(store, run)
    findings = [*verify(store, found)]
    problems = [*damage(path_of(db)), *map(str, findings)]
    if as_json:
        whole = {"run_id": found.id, "whole": not problems, "file": problems[: len(problems) - len(findings)]}
        print(json.dumps({**whole, "findings": plain(findings)}))
    else:
        render.show_facts(render.Screen.of_stdout(), _several("finding", problems))
    if problems:
        raise LoomcError(f"the record of run {found.id} is not whole: {len(problems)} findings")
    if not as_json:
        print(f"the record of run {found.id} is whole: {found.steps} steps")


def _beginning(told: Explanation) -> Iterator[tuple[str, str]]:
    """What it is, why it stopped, and how good it got."""
    run = told.run
    yield "run", f"{run.id} of {run.loop or 'a loop of loomc 0.3.0'}: {run.status.value}"
    resumed = f", resumed {counted(run.resumes, 'time')}" if run.resumes else ""
    yield "", f"{counted(run.steps, 'step')} in {format_duration(run.worked)} of work{resumed}"
    yield "why", _why(told)
    if (best := told.best) is not None:
        since = f", up or down from {best.first_score:g} in step {best.first_step}"
        newest = f"; the newest scored {best.newest_score:g} in step {best.newest_step}"
        first, last = best.step_n == best.first_step, best.step_n == best.newest_step
        since = since.replace("up or down", "up" if best.score > best.first_score else "down")
        yield "best", f"step {best.step_n} with {best.score:g}{'' if first else since}{'' if last else newest}"


def _why(told: Explanation) -> str:
    if told.run.status is RunStatus.RUNNING:
        return "it is being worked on"
    if told.run.status is RunStatus.INTERRUPTED:
        return f"its process died in step {told.run.in_flight}; what was committed is kept"
    return told.reason or told.run.status.value


def _money(told: Explanation) -> Iterator[tuple[str, str]]:
    """What was spent, and on what."""
    estimated = f", of it {dollars(told.estimated_usd)} estimated" if told.estimated_usd else ""
    yield "spent", dollars(told.spent_usd) + estimated
    for share in told.spent_on:
        yield "", f"{dollars(share.usd)} in {_shared(share)}"
    yield from _several("budget", [*map(str, told.limits)])
    sources = sorted(told.sources, key=lambda share: -share.usd)
    yield from _several("spent by", [f"{dollars(share.usd)} {_shared(share)}" for share in sources])
    yield from _several("models", [_asked(share) for share in sorted(told.models, key=lambda share: -share.usd)])


def _asked(share: ModelShare) -> str:
    """What was asked of a model, in words."""
    parts = {"read from the cache": share.cached, "written to it": share.written, "of reasoning": share.reasoning}
    told = "".join(f", {count:,} {what}" for what, count in parts.items() if count)
    assumed = f" ({share.estimated} estimated)" if share.estimated else ""
    requests = f"{counted(share.requests, 'request')}{assumed}"
    tokens = f"{share.tokens_in:,} tokens in, {share.tokens_out:,} out{told}"
    return f"{dollars(share.usd)} {share.model}: {requests}, {tokens}"


def _shared(share: Share) -> str:
    failed = f", {share.failed} without a result" if share.failed else ""
    return f"{share.name} ({share.count}{failed})"


def _detours(told: Explanation) -> Iterator[tuple[str, str]]:
    """What did not go straight on."""
    retried = [f"step {each.step_n} failed {counted(each.tries, 'time')}: {each.error}" for each in told.retried]
    yield from _several("retries", retried)
    back = [f"after step {step} to {place(target)}" for step, target in told.restores]
    yield from _several("went back", back)
    yield from _several("absorbed", [f"the failure of step {step}" for step in told.absorbed])
    yield from _several("escalated", [f"after step {step}" for step in told.escalations])
    yield from _several("left", [f"step {each.step_n}: {each.error}" for each in told.left])
    for change in told.breakers[-MOST:]:
        yield "breaker", f"{change.name} {change.state} in step {change.step_n} after {change.failures} failures"


def _people(told: Explanation) -> Iterator[tuple[str, str]]:
    """What people were asked, and what became of other runs."""
    yield from _several("asked", [_answered(question) for question in told.questions])
    if told.children:
        yield "children", f"{counted(told.children, 'child run')} (loomc runs --tree)"
    if told.run.origin is not None:
        yield "forked", f"from {place(told.run.origin[1])} of run {told.run.origin[0]}"
    if told.run.parent_run_id:
        yield "child of", f"step {told.run.parent_step} of run {told.run.parent_run_id}"


def _answered(question: Question) -> str:
    if question.answer is None:
        return f"{question.prompt} (step {question.step_n}, {'open' if question.is_open else 'withdrawn'})"
    return f"{question.prompt} (step {question.step_n}): {question.answer} by {question.answered_by}"


def _record(told: Explanation) -> Iterator[tuple[str, str]]:
    """What there is to say about the record itself."""
    yield from _several("note", list(told.run.notes))
    yield from _several("gap", [str(finding) for finding in told.findings])


def _several(name: str, values: list[str]) -> Iterator[tuple[str, str]]:
    """Values of one kind below each other; of very many the first, and how many more there are."""
    rest = [f"... and {len(values) - MOST} more (--json: all)"] if len(values) > MOST else []
    for index, value in enumerate([*values[:MOST], *rest]):
        yield "" if index else name, value
