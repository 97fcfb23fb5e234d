"""Curves as text for a terminal, drawn by plotext."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from loomc_runner.errors import LoomcError
from loomc_runner.plot.curve import Curve
from loomc_runner.plot.extra import need
from loomc_runner.plot.limits import reached_by, summary_of
from loomc_runner.report import dollars, printable

HEIGHT = 22

SYMBOLS = ("●", "■", "▲", "◆", "✚", "▼", "▶", "◀")
"""What the steps of each run are marked with; the end of its cost has it too."""

COLOURS = ("cyan+", "orange", "green+", "magenta+", "blue+", "yellow", "red+", "gray")


def draw(curves: Sequence[Curve], width: int, *, coloured: bool) -> str:
    """The curves as lines of text, no wider than the width; scores on the left, dollars on the right.

    Raises:
        LoomcError: When the extra `plot` is not installed.
    """
    plotext = need("plotext")
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, HEIGHT)
    scored = any(curve.scores for curve in curves)
    side = "right" if scored else "left"
    for index, curve in enumerate(curves):
        pen = _Pen(plotext, figure, COLOURS[index % len(COLOURS)], _symbol(index))
        pen.draw_costs(curve, side)
        pen.draw_scores(curve, most=width // 3)
    _draw_limits(figure, curves, side)
    _draw_rulers(figure, curves, side, width)
    text = str(figure.build().string(colorless=not coloured))
    return "\n".join(line.rstrip() for line in text.splitlines())


class _Pen:
    """Draws the curves of one run, in its colour and with its symbol."""

    def __init__(self, plotext: Any, figure: Any, colour: str, symbol: str) -> None:
        self.plotext, self.figure, self.colour, self.symbol = plotext, figure, colour, symbol

    def draw_scores(self, curve: Curve, most: int) -> None:
        """The line of the scores; its steps, when they are not too many; returns, and the best."""
        scores = curve.scores
        if not scores:
            return
        self._signal(scores, "braille", lines=True)
        every = -(-len(scores) // most)
        self._signal(dict([*scores.items()][::every]), self.symbol)
        self._signal({r.after: scores[r.after] for r in curve.restores if r.after in scores}, "↩")
        if curve.best in scores:
            self._signal({curve.best: scores[curve.best]}, "★")

    def draw_costs(self, curve: Curve, side: str) -> None:
        """The line of the money; the run's symbol stands at its end."""
        costs = {point.step_n: point.cost_usd for point in curve.points}
        self._signal(costs, "·", side, lines=True)
        self._signal(dict([*costs.items()][-1:]), self.symbol, side)

    def _signal(self, values: dict[int, float], symbol: str, side: str = "left", *, lines: bool = False) -> None:
        marker = self.plotext.marker(symbol, self.colour)
        signal = self.figure.signal([*values], [*values.values()], marker=marker, yside=side)
        self.figure.draw(signal.lines() if lines else signal)


def _symbol(index: int) -> str:
    return SYMBOLS[(index + index // len(COLOURS)) % len(SYMBOLS)]


def _draw_limits(figure: Any, curves: Sequence[Curve], side: str) -> None:
    for curve in curves:
        usd, last = reached_by(curve, curves)
        if usd is not None:
            figure.line(usd, "horizontal", yside=side, style="dotted")
        if last is not None:
            figure.line(last, "vertical", style="dotted")


def _draw_rulers(figure: Any, curves: Sequence[Curve], side: str, width: int) -> None:
    last = max(curve.points[-1].step_n for curve in curves)
    figure.ruler("x").lim(-0.5, last + 0.5)
    every = -(-(last + 1) * (len(str(last)) + 3) // max(width - 24, 1))
    steps = [*range(0, last + 1, every)]
    figure.ruler("x").ticks(steps, [str(step) for step in steps])
    figure.label("step", axis="x")
    highest = max([usd for curve in curves if (usd := reached_by(curve, curves)[0])] + [c.cost_usd for c in curves])
    money = [highest * n / 4 for n in range(5)] if highest else [0.0]
    figure.ruler("y", side).lim(0, highest or 1)
    figure.ruler("y", side).ticks(money, [dollars(usd) for usd in money])
    figure.label("spent", axis="y", side=side)
    if side == "right":
        scores = [score for curve in curves for score in curve.scores.values()]
        low, high = min(scores), max(scores)
        if not math.isfinite(high - low):
            raise LoomcError(
                f"scores from {low:g} to {high:g} do not fit a terminal; -o run.png makes a picture of them"
            )
        levels = [low + (high - low) * n / 4 for n in range(5)] if high > low else [low]
        figure.ruler("y", "left").ticks(levels, [f"{level:.4g}" for level in levels])
        figure.label("score", axis="y", side="left")


def legend(curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """What stands below the picture: each run with its symbol and how it stands, and what the marks say."""
    facts = [
        (f"{_symbol(index)} run", f"{printable(curve.run_id)}: {summary_of(curve)}")
        for index, curve in enumerate(curves)
    ]
    went_back = ", ↩ went back after it" if any(curve.restores for curve in curves) else ""
    best = f"★ best step{went_back}; " if any(curve.scores for curve in curves) else ""
    budget = ", ┈ budget" if any(limit is not None for curve in curves for limit in reached_by(curve, curves)) else ""
    return [*facts, ("marks", f"{best}··· spent{budget}")]
