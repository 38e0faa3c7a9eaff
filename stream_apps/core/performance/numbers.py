"""Means, moments and quantiles, correctly rounded sums underneath (pure).

Equal values have no spread: their mean may miss them by the last bit, and a spread of rounding errors would make a ratio of 10^16.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, fsum, sqrt

Values = Sequence[float]


def mean(values: Values) -> float:
    """Return the mean. Raises ZeroDivisionError without values."""
    return fsum(values) / len(values)


def deviation(values: Values) -> float:
    """Return the sample standard deviation (n - 1). Raises ZeroDivisionError below two values."""
    return sqrt(_about_mean(values, 2) / max(len(values) - 1, 0))


def central_moment(values: Values, order: int) -> float:
    """Return the mean of (value - mean) ^ order. Raises ZeroDivisionError without values."""
    return _about_mean(values, order) / len(values)


def skewness(values: Values) -> float:
    """Return the third central moment / population standard deviation ^ 3 (Fisher-Pearson g1, biased). Raises ZeroDivisionError without spread."""
    return central_moment(values, 3) / central_moment(values, 2) ** 1.5


def kurtosis(values: Values) -> float:
    """Return the fourth central moment / variance ^ 2: 3 for a normal distribution; biased. Raises ZeroDivisionError without spread."""
    return central_moment(values, 4) / central_moment(values, 2) ** 2


def quantile(values: Values, share: float) -> float:
    """Return the quantile by linear interpolation between order statistics at (n - 1) x share (Hyndman and Fan 1996, type 7)."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low, high = floor(place), ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _about_mean(values: Values, order: int) -> float:
    if not values or min(values) == max(values):
        return 0.0
    centre = mean(values)
    return fsum((value - centre) ** order for value in values)
