"""What a run has used of each limit of its budget."""

from __future__ import annotations

from dataclasses import dataclass

from loomc_runner.budget import SAFETY_CAP, Budget
from loomc_runner.clock import format_duration
from loomc_runner.records import NANO, Run
from loomc_runner.report.words import dollars
from loomc_runner.store import Store


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a budget: what was used, and how much there is; printed as it is said."""

    name: str
    used: float
    limit: float

    @property
    def left(self) -> float:
        """What is left of it; below zero when more was used than allowed."""
        return self.limit - self.used

    def __str__(self) -> str:
        """The limit in words, such as `$0.32 of $2.00, $1.68 left` or `4 of 15 iterations, 11 left`."""
        unit = f" {self.name}" if self.name in {"iterations", "tokens"} else ""
        over = f"{self._amount(-self.left)} over" if self.left < 0 else "nothing left"
        rest = f"{self._amount(self.left)} left" if self.left > 0 else over
        return f"{self._amount(self.used)} of {self._amount(self.limit)}{unit}, {rest}"

    def _amount(self, value: float) -> str:
        if self.name == "usd":
            return dollars(value)
        return format_duration(value) if self.name == "wall_clock" else f"{value:.0f}"


def limits(store: Store, run: Run, budget: Budget | None = None) -> list[Limit]:
    """Every limit of the run's budget, or of another one, with what is used of it; else that of the safety cap."""
    if budget is None:
        budget = SAFETY_CAP if run.budget is None and run.loop is not None else Budget(**(run.budget or {}))
    spent, tokens = store.subtree(run.id)
    pairs = (
        ("usd", spent / NANO, budget.usd),
        ("tokens", float(tokens), budget.tokens),
        ("iterations", float(run.steps), budget.iterations),
        ("wall_clock", run.worked, budget.wall_clock_seconds),
    )
    return [Limit(name, used, float(limit)) for name, used, limit in pairs if limit is not None]
