"""What happened in a run, and why: the data of its story."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from loomc_runner.records import NANO, Attempt, BreakerChange, CallStatus, Question, Run
from loomc_runner.report.limits import Limit, limits
from loomc_runner.report.pages import page_attempts, page_calls, page_charges, page_steps
from loomc_runner.report.runs import reason
from loomc_runner.report.verify import Finding, verify
from loomc_runner.store import Store

UNLABELLED = "no label"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what was spent: on what, how many of them, and dollars; of it `failed` did not come to a result."""

    name: str
    count: int
    usd: float
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ModelShare:
    """What was asked of a model by tracked clients: requests, dollars, how many of them are `estimated`, and tokens.

    `tokens_in` and `tokens_out` are all of them; of those `cached` were read from the vendor's cache, `written` to it,
    and `reasoning` were thought and not said.
    """

    model: str
    requests: int
    usd: float
    estimated: int
    tokens_in: int
    tokens_out: int
    cached: int
    written: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Best:
    """The step with the best score, beside the first score and the newest."""

    step_n: int
    score: float
    first_step: int
    first_score: float
    newest_step: int
    newest_score: float


@dataclass(frozen=True, slots=True)
class Retried:
    """A step that took more than one try: how many failed, and the error of the last of them."""

    step_n: int
    tries: int
    error: str
    category: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The story of a run as data.

    Attributes:
        run: The run.
        reason: Why it is where it is; empty while it runs.
        limits: What is used of each limit of its budget.
        best: Its best step; None when nothing was scored.
        spent_usd: What it has spent, child runs included.
        spent_on: Where that went: committed steps, failed tries, the step under way, and what came late.
        sources: The same money by what asked for it: calls by name, child runs, charges by label. A charge that was
            made inside of a call counts for both.
        models: What of it was paid to which model, as tracked clients recorded it; child runs have their own.
        estimated_usd: How much of it was assumed and not reported.
        retried: Steps that took more than one try.
        left: Tries that were left, since the run waited, was paused or cancelled, or its process ended.
        restores: Which step each return came after, and the step it went back to.
        escalations: Steps after which something was changed, since scores stood still.
        absorbed: Steps that failed and were gone on from.
        breakers: How circuit breakers changed.
        questions: What was asked, and answered by whom.
        children: How many child runs it has.
        findings: Gaps and contradictions in the record.
    """

    run: Run
    reason: str
    limits: tuple[Limit, ...]
    best: Best | None
    spent_usd: float
    spent_on: tuple[Share, ...]
    sources: tuple[Share, ...]
    models: tuple[ModelShare, ...]
    estimated_usd: float
    retried: tuple[Retried, ...]
    left: tuple[Attempt, ...]
    restores: tuple[tuple[int, int], ...]
    escalations: tuple[int, ...]
    absorbed: tuple[int, ...]
    breakers: tuple[BreakerChange, ...]
    questions: tuple[Question, ...]
    children: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Road:
    """What its steps tell of a run."""

    nano: int = 0
    steps: int = 0
    first: tuple[int, float] | None = None
    best: tuple[int, float] | None = None
    newest: tuple[int, float] | None = None
    restores: list[tuple[int, int]] = field(default_factory=list)
    escalations: list[int] = field(default_factory=list)
    absorbed: list[int] = field(default_factory=list)


def explain(store: Store, run: Run) -> Explanation:
    """Read what happened in a run: where its money went, what was retried and restored, and whether all is on record.

    It reads the whole record, states included, and keeps of it only what it tells.
    """
    road, attempts = _road(store, run), list(page_attempts(store, run))
    failed = [attempt for attempt in attempts if not _is_blameless(attempt)]
    children, spent = store.list_runs(parent=run.id), store.subtree(run.id)[0]
    estimated, labels, models = _charges(store, run)
    return Explanation(
        run=run,
        reason=reason(run),
        limits=tuple(limits(store, run)),
        best=None if not (road.best and road.first and road.newest) else Best(*road.best, *road.first, *road.newest),
        spent_usd=spent / NANO,
        spent_on=tuple(_spent_on(run, road, attempts, spent)),
        sources=(*_calls(store, run), *_children(store, children), *labels),
        models=tuple(models),
        estimated_usd=estimated,
        retried=tuple(_retried(failed)),
        left=tuple(attempt for attempt in attempts if _is_blameless(attempt)),
        restores=tuple(road.restores),
        escalations=tuple(road.escalations),
        absorbed=tuple(road.absorbed),
        breakers=tuple(store.breakers(run.id)),
        questions=tuple(store.questions(run.id)),
        children=len(children),
        findings=tuple(verify(store, run)),
    )


def _is_blameless(attempt: Attempt) -> bool:
    """Whether a try ended by what somebody wanted, or with its process, and not by a failure of its own."""
    return attempt.was_left or attempt.category == "interrupted"


def _road(store: Store, run: Run) -> _Road:
    road = _Road()
    for step in page_steps(store, run):
        road.nano, road.steps = road.nano + (step.nano_usd or 0), road.steps + 1
        if step.score is not None:
            road.newest = (step.step_n, step.score)
            road.first = road.first or road.newest
            road.best = road.newest if step.step_n == run.best_step else road.best
        if step.restored_n is not None:
            road.restores.append((step.step_n, step.restored_n))
        if step.decision == "escalate":
            road.escalations.append(step.step_n)
        if step.error is not None and step.restored_n is not None:
            road.absorbed.append(step.step_n)
    return road


def _spent_on(run: Run, road: _Road, attempts: list[Attempt], spent: int) -> Iterator[Share]:
    """Where the money went; the parts add up to the whole."""
    yield Share("committed steps", road.steps, road.nano / NANO)
    rest = spent - road.nano
    for name, kept in (("failed tries", False), ("tries that were left", True)):
        tries = [attempt.nano_usd for attempt in attempts if _is_blameless(attempt) is kept]
        rest -= sum(tries)
        if tries:
            yield Share(name, len(tries), sum(tries) / NANO)
    if run.in_flight is not None:
        yield Share("the step under way", 1, rest / NANO)
    elif rest:
        yield Share("after their step had ended", 1, rest / NANO)


def _calls(store: Store, run: Run) -> Iterator[Share]:
    """Calls by name; those that were made inside of another one count there."""
    count, failed, nano = Counter[str](), Counter[str](), Counter[str]()
    for call in page_calls(store, run):
        if call.outer is None:
            count[call.name] += 1
            failed[call.name] += call.status is not CallStatus.DONE
            nano[call.name] += call.nano_usd
    for name in count:
        yield Share(f"calls of {name}", count[name], nano[name] / NANO, failed[name])


def _children(store: Store, children: Iterable[Run]) -> Iterator[Share]:
    """Child runs by their loop."""
    count, nano = Counter[str](), Counter[str]()
    for child in children:
        name = child.loop or "?"
        count[name] += 1
        nano[name] += store.subtree(child.id)[0]
    for name in count:
        yield Share(f"child runs of {name}", count[name], nano[name] / NANO)


def _charges(store: Store, run: Run) -> tuple[float, list[Share], list[ModelShare]]:
    """What of the run's own charges was estimated, and the charges by label and by model."""
    count, nano, estimated = Counter[str](), Counter[str](), 0
    by_model: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for charge in page_charges(store, run):
        estimated += charge.nano_usd if charge.estimated else 0
        label = charge.label or UNLABELLED
        count[label] += 1
        nano[label] += charge.nano_usd
        if charge.model is not None:
            used = {"requests": 1, "nano_usd": charge.nano_usd, "estimated": int(charge.estimated)}
            by_model[charge.model].update({**(charge.usage or {}), **used})
    shares = [Share(f"charges: {label}", count[label], nano[label] / NANO) for label in count]
    return estimated / NANO, shares, [_model(name, used) for name, used in by_model.items()]


def _model(name: str, used: Counter[str]) -> ModelShare:
    return ModelShare(
        model=name,
        requests=used["requests"],
        usd=used["nano_usd"] / NANO,
        estimated=used["estimated"],
        tokens_in=used["input_tokens"],
        tokens_out=used["output_tokens"],
        cached=used["cache_read_tokens"],
        written=used["cache_write_tokens"],
        reasoning=used["output_reasoning_tokens"],
    )


def _retried(failed: list[Attempt]) -> Iterator[Retried]:
    by_step: defaultdict[int, list[Attempt]] = defaultdict(list)
    for attempt in failed:
        by_step[attempt.step_n].append(attempt)
    for step_n, tries in by_step.items():
        yield Retried(step_n, len(tries), tries[-1].error, tries[-1].category)
