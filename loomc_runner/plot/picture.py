"""Curves as a picture in a file: described in Vega-Lite, drawn by vl-convert."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from loomc_runner.errors import SpecError
from loomc_runner.plot.curve import Curve
from loomc_runner.plot.extra import need
from loomc_runner.plot.limits import reached_by, summary_of
from loomc_runner.report import dollars, printable

SUFFIXES = (".png", ".svg", ".html")

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#7a4fbf", "#444444")
"""Told apart also by those who do not see all colours (after Okabe and Ito), and on white paper."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")

STAR = "M0,-1L0.29,-0.4L0.95,-0.31L0.48,0.15L0.59,0.81L0,0.5L-0.59,0.81L-0.48,0.15L-0.95,-0.31L-0.29,-0.4Z"

KINDS = {"score": [1, 0], "went back": [1, 3], "cumulative cost": [3, 3], "budget": [10, 4]}
"""The lines of a picture, each with its dashes."""

MOST_MARKS = 40
"""Points of a curve that are marked; on a longer one marks at equal distances."""

BOW = 0.07
"""How far the way back of a restore bows below its curve, as a part of the range of scores."""

MOST_SUMMARIES = 8
"""Runs of which a line above the picture tells how they stand."""

LONGEST_LINE = 140
"""Characters of such a line."""

LONGEST = 70
"""Characters of a name in a title."""

CONFIG = {
    "font": "sans-serif",
    "title": {"fontSize": 16, "subtitleFontSize": 12, "subtitleColor": "#555", "subtitlePadding": 5},
    "axis": {"labelFontSize": 12, "titleFontSize": 13, "gridColor": "#eee", "titlePadding": 10},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "labelLimit": 260, "symbolStrokeWidth": 1.5},
}

TOOLTIP = {
    "tooltip": [
        {"field": "run", "type": "nominal"},
        {"field": "step", "type": "quantitative"},
        {"field": "score", "type": "quantitative"},
        {"field": "usd", "type": "quantitative", "title": "cost so far", "format": "$.4f"},
    ]
}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; \
style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ margin: 1.5rem; font-family: sans-serif; }}</style>
</head>
<body>
<div id="plot"></div>
<script>{library}</script>
<script>vegaEmbed("#plot", {spec}, {{renderer: "svg", actions: false, ast: false}});</script>
</body>
</html>
"""


def check_path(path: Path) -> None:
    """Raise `SpecError` unless the file's name says which kind of picture it is."""
    if path.suffix.lower() not in SUFFIXES:
        raise SpecError(f"-o {path}: name a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def write_picture(curves: Sequence[Curve], path: Path) -> None:
    """Draw the curves into a file; its suffix says how: `.png`, `.svg`, or `.html`, which loads nothing from outside.

    Raises:
        SpecError: For another suffix.
        LoomcError: When the extra `plot` is not installed.
    """
    check_path(path)
    library, spec = need("vl_convert"), picture_of(curves)
    suffix = path.suffix.lower()
    if suffix == ".png":
        path.write_bytes(library.vegalite_to_png(spec, scale=2))
    elif suffix == ".svg":
        path.write_text(library.vegalite_to_svg(spec), encoding="utf-8")
    else:
        path.write_text(_page(library.javascript_bundle(), spec), encoding="utf-8")


def _page(library: str, spec: dict[str, Any]) -> str:
    """A page with all it needs; nothing in a name can end the script it stands in."""
    data = json.dumps(spec).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    safe = library.replace("</script", "<\\/script")
    return PAGE.format(title=html.escape(spec["title"]["text"]), library=safe, spec=data)


def picture_of(curves: Sequence[Curve]) -> dict[str, Any]:
    """The picture in Vega-Lite: scores on the left axis, dollars on the right one, steps below."""
    rows = [*_rows(curves)]
    names = [printable(curve.run_id) for curve in curves]
    scored = any(curve.scores for curve in curves)
    legend = {"title": "run"} if len(names) > 1 else None
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(names))]
    shapes = [SHAPES[(n + n // len(COLOURS)) % len(SHAPES)] for n in range(len(names))]  # no pair comes twice soon
    shape = {"field": "run", "type": "nominal", "scale": {"domain": names, "range": shapes}, "legend": legend}
    colour = {"field": "run", "type": "nominal", "scale": {"domain": names, "range": colours}, "legend": legend}
    parts = {row["part"] for row in rows}
    shown = {"score": scored, "went back": "back" in parts, "cumulative cost": True, "budget": parts & {"usd", "last"}}
    scale = {"domain": [*KINDS], "range": [*KINDS.values()]}
    lines = {"title": "line", "values": [kind for kind in KINDS if shown[kind]], "symbolSize": 500}
    dashes = {"type": "nominal", "scale": scale, "legend": lines}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": {"text": _title(curves), "subtitle": _subtitle(curves), "anchor": "start", "offset": 14},
        "width": 760,
        "height": 380,
        "padding": 14,
        "background": "white",
        "data": {"values": rows},
        "encoding": {"color": colour, "x": _steps(curves)},
        "layer": [_costs(curves, shape, dashes, scored=scored), *([_scores(shape, dashes)] if scored else [])],
        "resolve": {"scale": {"y": "independent"}},
        "config": CONFIG,
    }


def _scores(shape: dict[str, Any], dashes: dict[str, Any]) -> dict[str, Any]:
    y = {"field": "score", "type": "quantitative", "scale": {"zero": False, "padding": 24}, "axis": {"title": "score"}}
    back = {"detail": {"field": "restore"}, "order": {"field": "order"}}
    cross = {"type": "point", "shape": "M-1,-1L1,1M-1,1L1,-1", "size": 40, "strokeWidth": 2}
    star = {"type": "point", "shape": STAR, "size": 190, "filled": True, "stroke": "black", "opacity": 1}
    words = {"type": "text", "dy": -16, "fontSize": 12, "fontWeight": "bold", "align": {"expr": "datum.align"}}
    label = {"text": {"field": "label"}}
    return {
        "encoding": {"y": y},
        "layer": [
            _line("went back", "back", dashes, back, interpolate="cardinal", opacity=0.9),
            _marks("arrow", {"type": "point", "shape": "triangle-left", "size": 60, "filled": True, "opacity": 1}),
            _line("score", "score", dashes, {}, strokeWidth=2),
            _marks("marked", {"type": "point", "filled": True, "size": 48, "opacity": 1}, {"shape": shape, **TOOLTIP}),
            _marks("failed", cross, TOOLTIP),
            _marks("best", {**words, "stroke": "white", "strokeWidth": 4}, label),
            _marks("best", star, TOOLTIP),
            _marks("best", words, label),
        ],
    }


def _costs(curves: Sequence[Curve], shape: dict[str, Any], dashes: dict[str, Any], *, scored: bool) -> dict[str, Any]:
    most = max(curve.cost_usd for curve in curves)
    axis = {
        "title": "cumulative cost in dollars",
        "format": "$.2f" if most >= 0.05 or not most else "$~f",
        "grid": not scored,
    }
    axis["orient"] = "right" if scored else "left"
    scale = {"domainMin": 0, "padding": 14} if most else {"domain": [0, 1]}
    y = {"field": "usd", "type": "quantitative", "scale": scale, "axis": axis}
    words = {"type": "text", "align": "left", "dx": 4, "dy": -8, "fontSize": 11}
    label = {"field": "label"}
    end = {"type": "point", "filled": False, "size": 48, "opacity": 1}
    return {
        "encoding": {"y": y},
        "layer": [
            _line("cumulative cost", "cost", dashes, {}, opacity=0.7),
            _marks("end", end, {"shape": shape, **TOOLTIP}),
            _line("budget", "usd", dashes, {"x": None}, type="rule"),
            _marks("usd", words, {"x": {"value": 0}, "text": label}),
            _line("budget", "last", dashes, {"y": None}, type="rule"),
            _marks("last", {**words, "align": "right", "dx": -5, "dy": 9}, {"y": {"value": 0}, "text": label}),
        ],
    }


def _line(kind: str, part: str, dashes: dict[str, Any], more: dict[str, Any], **style: Any) -> dict[str, Any]:
    """Lines through the rows of a part, with the dashes of their kind."""
    mark = {"type": "line", "strokeWidth": 1.5, **style}
    return _marks(part, mark, {"strokeDash": {"datum": kind, **dashes}, **more})


def _marks(part: str, mark: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Marks at the rows of a part."""
    return {"transform": [{"filter": {"field": "part", "equal": part}}], "mark": mark, "encoding": more or {}}


def _steps(curves: Sequence[Curve]) -> dict[str, Any]:
    last = _last_step(curves)
    few = last <= MOST_MARKS // 2
    domain = [-0.5, last + 0.5] if few else [-0.02 * last, last * 1.02]
    axis = {"title": "step", "format": ",d", "grid": False, "labelOverlap": True, "labelSeparation": 12}
    axis |= {"values": [*range(last + 1)]} if few else {"tickMinStep": 1}
    return {"field": "step", "type": "quantitative", "scale": {"domain": domain, "nice": False}, "axis": axis}


def _last_step(curves: Sequence[Curve]) -> int:
    return max(curve.points[-1].step_n for curve in curves)


def _rows(curves: Sequence[Curve]) -> Iterator[dict[str, Any]]:
    """All that is drawn, as one table: its `part` tells what a row is."""
    scores = [score for curve in curves for score in curve.scores.values()]
    bow = (max(scores) - min(scores)) * BOW if scores else 0.0
    for curve in curves:
        drawn = chain(_points(curve), _restores(curve, bow), _best(curve, _last_step(curves)), _limits(curve, curves))
        yield from ({"run": printable(curve.run_id), **row} for row in drawn)


def _points(curve: Curve) -> Iterator[dict[str, Any]]:
    every, before = -(-len(curve.points) // MOST_MARKS), None
    for index, point in enumerate(curve.points):
        row = {"step": point.step_n, "score": point.score, "usd": point.cost_usd}
        yield {"part": "cost", **row}
        if point.score is not None:
            yield {"part": "score", **row}
            yield from [{"part": "marked", **row}] if index % every == 0 else []
        if point.failed and point.score is None and before is not None:
            yield {"part": "failed", **row, "score": before}  # it has no score; it stands where the run stood
        if index == len(curve.points) - 1:
            yield {"part": "end", **row}
        before = before if point.score is None else point.score


def _restores(curve: Curve, bow: float) -> Iterator[dict[str, Any]]:
    """Bows below the curve, so that a return to the step before is seen beside it."""
    scores = curve.scores
    for restore in curve.restores:
        after, to = scores.get(restore.after), scores.get(restore.to)
        if after is not None and to is not None:
            middle = {"step": (restore.after + restore.to) / 2, "score": (after + to) / 2 - bow}
            ends = {"step": restore.after, "score": after}, middle, {"step": restore.to, "score": to}
            yield from ({"part": "back", "restore": restore.after, "order": n, **end} for n, end in enumerate(ends))
            yield {"part": "arrow", **middle}


def _best(curve: Curve, last: int) -> Iterator[dict[str, Any]]:
    for point in curve.points:
        if point.step_n == curve.best and point.score is not None:
            align = "left" if point.step_n < last * 0.05 else "right" if point.step_n > last * 0.95 else "center"
            named = {"label": f"best {point.score:.4g}", "align": align}
            yield {"part": "best", "step": point.step_n, "score": point.score, "usd": point.cost_usd, **named}


def _limits(curve: Curve, curves: Sequence[Curve]) -> Iterator[dict[str, Any]]:
    usd, last = reached_by(curve, curves)
    if usd is not None:
        yield {"part": "usd", "usd": usd, "label": f"budget {dollars(usd)}"}
    if last is not None:
        yield {"part": "last", "step": last, "label": f"iterations {curve.iterations}"}


def _title(curves: Sequence[Curve]) -> str:
    loops = [*dict.fromkeys(printable(curve.loop or "a loop of loomc 0.3.0") for curve in curves)]
    loop = _cut(loops[0]) + (f" and {len(loops) - 1} more" if len(loops) > 1 else "")
    return f"{loop}: " + (f"run {_cut(printable(curves[0].run_id))}" if len(curves) == 1 else f"{len(curves)} runs")


def _subtitle(curves: Sequence[Curve]) -> list[str]:
    """How each run stands, and its limits, drawn or not."""
    if len(curves) == 1:
        return [_cut(summary_of(curves[0]), LONGEST_LINE)]
    lines = [_cut(f"{printable(curve.run_id)}: {summary_of(curve)}", LONGEST_LINE) for curve in curves[:MOST_SUMMARIES]]
    return [*lines, *(["…"] if len(curves) > MOST_SUMMARIES else [])]


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
