"""Confidence of a mean: the stationary bootstrap, studentised (pure).

Blocks of geometric length are drawn with replacement and wrap round (Politis and Romano, The Stationary Bootstrap, JASA 89 (1994)). So
consecutive results keep their dependence. Interval and p-value come from the t statistics of the resamples (bootstrap-t, Efron and
Tibshirani 1993, chapter 12). This handles skewed results, which stops and targets produce. The seed is fixed: the same trades give the same
figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 5_000
SEED = 20_260_302
# Number drawn at once, so that memory does not grow with the sample.
_DRAWS = 1_000_000
# The statistic of a resample whose values are all equal. A bound that it would decide is undefined.
_NO_BOUND = 1e9


@dataclass(frozen=True)
class Mean:
    """A mean and its confidence.

    Attributes:
        count: Number of values. mean: Their mean.
        low, high: Two-sided interval of ``confidence``. None below two values, without spread, or with so few values that resamples do not
            bound it.
        p: One-sided: the chance of a mean at least this high if the true mean were zero. None likewise.
    """

    count: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    confidence: float


def mean_of(
    values: Sequence[float] | Floats, confidence: float = 0.95, *, block: float | None = None, seed: int = SEED, resamples: int = RESAMPLES
) -> Mean | None:
    """Return the mean of values with its interval and p-value; None without values.

    Args:
        values: In order of time.
        confidence: Confidence of the interval.
        block: Mean length of a block, at least 1 (independent values); None: the cube root of the number of values, the order that is optimal
            for a mean (Hall, Horowitz and Jing 1995).
        seed, resamples: Settings of the bootstrap.

    Raises:
        ValueError: a confidence outside (0, 1), or a block below 1.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: must be within 0 and 1, got {confidence}")
    if block is not None and block < 1:
        raise ValueError(f"block: must be at least 1, got {block}")
    count = len(sample)
    if count == 0:
        return None
    mean = float(sample.mean())
    if count < 2 or float(np.ptp(sample)) == 0:
        return Mean(count, mean, None, None, None, confidence)
    error = float(sample.std(ddof=1)) / np.sqrt(count)
    ratios = _t_statistics(sample, mean, count ** (1 / 3) if block is None else block, seed, resamples)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    bounded = max(-low, high) < _NO_BOUND
    p = (1 + int((ratios >= mean / error).sum())) / (1 + resamples)
    return Mean(count, mean, float(mean - high * error) if bounded else None, float(mean - low * error) if bounded else None, p, confidence)


def _t_statistics(sample: Floats, centre: float, block: float, seed: int, resamples: int) -> Floats:
    """Return (mean - centre) / standard error of each resample. A resample whose values are all equal counts as extreme."""
    source = np.random.default_rng(seed)
    count = len(sample)
    rows = max(1, _DRAWS // count)
    parts = []
    for done in range(0, resamples, rows):
        shape = (min(rows, resamples - done), count)
        drawn = sample[_places(source, shape, block)]
        shift = drawn.mean(axis=1) - centre
        error = drawn.std(axis=1, ddof=1) / np.sqrt(count)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.where(error > 0, shift / error, np.sign(shift) * np.inf))
    found = np.concatenate(parts)
    return np.nan_to_num(found, nan=0.0, posinf=_NO_BOUND, neginf=-_NO_BOUND)


def _places(source: np.random.Generator, shape: tuple[int, int], block: float) -> npt.NDArray[np.int64]:
    """Return the drawn indices. A block begins anywhere, wraps round the end, and ends with probability 1 / block after each value."""
    at = np.arange(shape[1])
    begins = source.random(shape) < 1 / block
    begins[:, 0] = True
    begun = np.maximum.accumulate(np.where(begins, at, 0), axis=1)
    starts = np.take_along_axis(source.integers(0, shape[1], shape), begun, axis=1)
    places: npt.NDArray[np.int64] = (starts + at - begun) % shape[1]
    return places
