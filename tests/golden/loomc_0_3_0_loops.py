"""Put the loops of loomc 0.3.0 over the functions of refinements.py; needs loomc 0.3.0 to be imported."""

from collections.abc import Callable
from typing import Any

from loomc import BestScore, Budget, Escalate, LastGood, judge, loop, predicate, score_plateau
from loomc.checkpoint import SQLiteCheckpointStore

import refinements as work


def good_enough(history: list[Any]) -> bool:
    """Compare the latest score, as users do: a failed step has none, and this raises a TypeError."""
    return bool(history[-1].score >= 0.9)


OPTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    work.polish: {
        "scorer": work.polish_score,
        "backtrack": BestScore(),
        "converge_on": score_plateau(patience=2),
    },
    work.summarize: {},
    work.translate: {"backtrack": LastGood()},
    work.fact_check: {
        "scorer": work.fact_check_score,
        "backtrack": LastGood(),
        "converge_on": predicate(good_enough),
    },
    work.expand: {"budget": Budget(usd=0.05)},
    work.tighten: {"scorer": work.tighten_score, "on_stall": Escalate(after=2)},
    work.outline: {},
    work.research: {},
    work.proofread: {},
    work.review: {"cost_fn": work.review_price, "converge_on": judge(work.reviewed)},
    work.collect: {"cost_fn": None},
    work.draft_section: {},
    work.write_report: {},
}
"""What each loop has of its own; the rest is in make_loops."""


def make_loops(db_path: str) -> dict[str, Any]:
    """Return every loop by the name of its function, all storing into one file."""
    shared = {
        "checkpoint": SQLiteCheckpointStore(db_path=db_path),
        "budget": Budget(iterations=20),
        "cost_fn": work.price,
        "converge_on": judge(work.finished),
    }
    return {fn.__name__: loop(**{**shared, **own})(fn) for fn, own in OPTIONS.items()}
