"""What a step may give to end its run, and what its user gets of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from loomc_runner.records.run import RunStatus

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[S, R]):
    """Return it from a step to end the run well: `return Done(state)` or `return Done(state, result=report)`.

    Args:
        state: The last state; it is committed like any other.
        result: What the run was for, when that is something else; stored as JSON and given back in
            `RunResult.result`. Annotate the step `-> Draft | Done[Draft, Report]` to get it back as a `Report`.
    """

    state: S
    result: R | None = None


@dataclass(frozen=True)
class RunResult(Generic[S]):
    """How a run stands when it stops.

    Attributes:
        run_id: Its id, as `loomc show` takes it.
        status: Why it is where it is, as one word.
        stop_reason: The same in words, such as `converged: score_plateau(patience=3)`.
        state: The final state: the best one under `BestScore`, else the newest.
        result: What a step gave with `Done(..., result=...)`.
        best_state, best_score, best_step: The step with the best score; None when nothing was scored.
        steps: Committed steps, over all resumes.
        cost_usd, tokens: What was spent, over all resumes, child runs included.
        elapsed: Seconds of working time, over all resumes.
    """

    run_id: str
    status: RunStatus
    stop_reason: str | None
    state: S
    result: Any
    best_state: S | None
    best_score: float | None
    best_step: int | None
    steps: int
    cost_usd: float
    tokens: int
    elapsed: float
