"""Which limits of its budget are drawn with a run, and in which words it is summed up."""

from __future__ import annotations

from collections.abc import Sequence

from loomc_runner.plot.curve import Curve
from loomc_runner.report import dollars, printable

FAR = 4
"""A limit that is so many times what was used is not drawn, since it would press the curves flat; it is told."""


def reached_by(curve: Curve, curves: Sequence[Curve]) -> tuple[float | None, int | None]:
    """The dollar limit of a run and the last step it allows, where they are near what is in the picture."""
    most = max(other.cost_usd for other in curves)
    usd = curve.usd if curve.usd is not None and curve.usd <= FAR * most else None
    reached = curve.iterations is not None and curve.iterations <= curve.steps
    return usd, curve.iterations - 1 if reached and curve.iterations is not None else None


def summary_of(curve: Curve) -> str:
    """What a run spent of its budget, and how it stands, in one line."""
    of_usd = "" if curve.usd is None else f" of {dollars(curve.usd)}"
    of_steps = "" if curve.iterations is None else f" of {curve.iterations}"
    best = f"; best {curve.scores[curve.best]:.4g} in step {curve.best}" if curve.best in curve.scores else ""
    words = printable(curve.reason or curve.status)
    return f"{dollars(curve.cost_usd)}{of_usd} in {curve.steps}{of_steps} steps{best}; {words}"
