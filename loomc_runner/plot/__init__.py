"""Runs as pictures: points out of the record, drawn as PNG, SVG or a page, or in the terminal."""

from loomc_runner.plot.curve import Curve, Point, Restore, curve_of
from loomc_runner.plot.picture import check_path, write_picture
from loomc_runner.plot.terminal import draw, legend

__all__ = ["Curve", "Point", "Restore", "check_path", "curve_of", "draw", "legend", "write_picture"]
