"""The detector that weighs gains against money."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from loomc_runner.errors import CostError, SpecError
from loomc_runner.records import NANO, StepRecord
from loomc_runner.scores import Direction, History, check_count, check_direction, check_number, gain


@dataclass(frozen=True)
class diminishing_returns:  # noqa: N801 - called like a function, as its neighbours are
    """Stop when another dollar can be expected to gain less than `min_gain_per_usd`.

    What the next dollar gains is expected to be what a dollar gained of late: by how much the best score rose over the
    last `window` scored steps, divided by the dollars of all steps since the scored one before them. Steps that were
    gone back from and failures that a strategy absorbed have cost money and count. Tries that did not become a step do
    not, nor does what a judge spends on the newest step. There is no answer before `window + 1` scored steps, and none
    while the steps are known to cost nothing.

    Args:
        min_gain_per_usd: The gain in score that is worth a dollar to you, above zero. A loop whose steps cost $0.05
            and are to gain 0.01 each has 0.2.
        window: Over how many scored steps gain and cost are taken. Raise it where gains are rare and large, or where
            scores are noisy.
        direction: `"maximize"`, or `"minimize"` when a lower score is better.

    Raises:
        SpecError: For a value that cannot work.
        CostError: In a run, when nobody recorded what any of those steps cost.
    """

    min_gain_per_usd: float
    window: int = 5
    direction: Direction = "maximize"
    needs_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("diminishing_returns(min_gain_per_usd", self.min_gain_per_usd)
        if self.min_gain_per_usd <= 0:
            raise SpecError(
                f"diminishing_returns(min_gain_per_usd={self.min_gain_per_usd!r}): give a number above zero; "
                "no loop gains less than nothing, since the best score is kept"
            )
        check_count("diminishing_returns(window", self.window)
        check_direction("diminishing_returns", self.direction)

    def __call__(self, history: History, /) -> str | None:
        """The reason to stop, or None."""
        earlier, steps = self._lately(history)
        if earlier is None:
            return None
        usd = _dollars(steps)
        if not usd:
            return None
        rate = _best_gain(history, earlier, self.direction) / usd
        if rate >= self.min_gain_per_usd or math.isclose(rate, self.min_gain_per_usd):
            return None
        shown, least = f"{rate:.3g}", f"{self.min_gain_per_usd:g}"
        shown = f"{rate:.12g}" if shown == least else shown
        return f"diminishing_returns: a gain of {shown} a dollar, less than {least}"

    def __str__(self) -> str:
        return f"diminishing_returns(min_gain_per_usd={self.min_gain_per_usd:g})"

    def _lately(self, history: History) -> tuple[StepRecord[Any] | None, list[StepRecord[Any]]]:
        """The scored step before the last `window` ones, if there is one, and all steps after it, newest first."""
        steps: list[StepRecord[Any]] = []
        scored = 0
        for step in reversed(history):
            if step.score is not None:
                if scored == self.window:
                    return step, steps
                scored += 1
            steps.append(step)
        return None, steps


def _dollars(steps: list[StepRecord[Any]]) -> float:
    """What the steps cost together.

    Raises:
        CostError: When nobody recorded it for any of them.
    """
    if not any(step.priced for step in steps):
        raise CostError(
            f"diminishing_returns: nobody recorded what steps {steps[-1].step_n} to {steps[0].step_n} cost; "
            "call spend(usd=...) in the step, also when that is 0, or add cost_fn= or track(client)"
        )
    return sum(step.nano_usd or 0 for step in steps) / NANO


def _best_gain(history: History, earlier: StepRecord[Any], direction: Direction) -> float:
    """By how much the best score is better than it was at the earlier step."""
    bests = (step.best_n for step in (history[-1], earlier))
    now, then = (None if best_n is None else history[best_n].score for best_n in bests)
    return 0.0 if now is None or then is None else gain(now, then, direction)
