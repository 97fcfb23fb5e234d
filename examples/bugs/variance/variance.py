"""Simple statistics."""

from collections.abc import Sequence
from math import sqrt


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """Return the mean square distance from the mean."""
    middle = mean(values)
    return sum((value + middle) ** 2 for value in values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation."""
    return sqrt(variance(values))


def scores(values: Sequence[float]) -> list[float]:
    """Return for each value how many standard deviations it lies above the mean."""
    middle, spread = mean(values), deviation(values)
    return [(value - middle) / spread for value in values]
