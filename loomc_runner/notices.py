"""What is told of a budget while it is used up: at half of it, at four fifths, and at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from loomc_runner.errors import BudgetExhausted
from loomc_runner.ledger import Ledger
from loomc_runner.records import NANO

PERCENTS: Final = (50, 80, 100)


@dataclass(frozen=True, slots=True)
class BudgetNotice:
    """A part of a limit is used up; what `@loop(on_budget=...)` is called with.

    Attributes:
        run_id: The run.
        limit: `usd`, `tokens`, `iterations` or `wall_clock`.
        percent: 50, 80 or 100: how much of it is used, at least. 100 is also told when the run ends because the next
            step or call does not fit what is left.
        used: What was used, in dollars, tokens, iterations or seconds, over all resumes.
        max_val: The limit, in the same unit.
    """

    run_id: str
    limit: str
    percent: int
    used: float
    max_val: float


def fractions(ledger: Ledger) -> Iterator[tuple[str, float, float]]:
    """Each limit of a run's own budget, with what is used of it and how much there is."""
    budget = ledger.budget
    used = {
        "usd": (ledger.spent / NANO, budget.usd),
        "tokens": (ledger.tokens, budget.tokens),
        "iterations": (ledger.steps, budget.iterations),
        "wall_clock": (ledger.elapsed, budget.wall_clock_seconds),
    }
    for name, (amount, most) in used.items():
        if most is not None:
            yield name, float(amount), float(most)


def notices(ledger: Ledger, told: dict[str, int], limit: BudgetExhausted | None = None) -> list[BudgetNotice]:
    """What is to be told now that was not yet; `told` keeps, by limit, the highest percentage that was.

    A limit that ended the run is told as used up.
    """
    found = []
    for name, used, most in fractions(ledger):
        ended = limit is not None and limit.limit == name and limit.run_id == ledger.run_id
        reached = 100 * used / most + 1e-9 if most else 100
        for percent in PERCENTS:
            if told.get(name, 0) < percent and (percent <= reached or (ended and percent == PERCENTS[-1])):
                told[name] = percent
                found.append(BudgetNotice(ledger.run_id, name, percent, used, most))
    return found
