"""Z-score of the estimated funding rate against the instrument's own history.

    z = (f - mean(h)) / std(h)        f: estimated rate of the running interval, known at T and not stale (D9: 10 min); std with n - 1
    funding_zscore:            h = rates settled in (T - w, T]
    funding_zscore_estimated:  h = the estimate as it stood at each full hour in (T - w, T]

w is ``funding_window_ms`` (default 7 days: S1 4.1, watchlist R001-139 ``funding_zscore_7d``). The second measure is for venues without
settled rates, and for the first days. The two are never mixed. A repeated settlement counts once: the first value holds. Event time
decides, not arrival.

Undefined with fewer than ``funding_min`` rates, when all are equal, and while the estimate is missing or stale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market import columns as col

FEATURES = ("funding_zscore", "funding_zscore_estimated")
SETTLED, ESTIMATED = 0, 1
SAMPLE_MS = 3_600_000
# Columns of ``stats`` (float64 per instrument and kind): mean and standard deviation of the rates in the window. Columns of ``stats_of``
# (int64): which rates these are.
FIRST, LAST, VERSION = range(3)


@njit(cache=True, nogil=True)
def put(times: Any, rates: Any, counts: Any, kind: int, time: Any, rate: Any) -> None:
    """Keep a rate, in order of time.

    Of two rates of one time the first stays. Without room the oldest is dropped. ``counts``: [kept, version].
    """
    n = counts[kind, 0]
    at = n
    while at > 0 and times[kind, at - 1] > time:
        at -= 1
    if at > 0 and times[kind, at - 1] == time:
        return
    if n == times.shape[1]:
        if at == 0:
            return
        for j in range(1, at):
            times[kind, j - 1] = times[kind, j]
            rates[kind, j - 1] = rates[kind, j]
        at -= 1
    else:
        for j in range(n, at, -1):
            times[kind, j] = times[kind, j - 1]
            rates[kind, j] = rates[kind, j - 1]
        counts[kind, 0] = n + 1
    times[kind, at] = time
    rates[kind, at] = rate
    counts[kind, 1] += 1


@njit(cache=True, nogil=True)
def put_settled(instrument: Any, use: Any, status: Any, at: Any, values: Any, times: Any, rates: Any, counts: Any) -> None:
    """Keep the settled rates of the used rows that were not refused."""
    for e in range(len(at)):
        if use[e] and status[e] == col.APPLIED:
            i = instrument[e]
            put(times[i], rates[i], counts[i], SETTLED, at[e], values[e])


@njit(cache=True, nogil=True)
def zscore(
    rate: Any, times: Any, rates: Any, counts: Any, stats: Any, stats_of: Any, kind: int, instant: Any, window: Any, least: Any
) -> Any:
    """Return z. Mean and deviation are computed again only when a rate entered or left the window."""
    last = counts[kind, 0]
    while last > 0 and times[kind, last - 1] > instant:
        last -= 1
    first = stats_of[kind, FIRST] if stats_of[kind, VERSION] == counts[kind, 1] else 0
    while first < last and times[kind, first] <= instant - window:
        first += 1
    while first > 0 and times[kind, first - 1] > instant - window:
        first -= 1
    n = last - first
    if n < least:
        return np.nan
    if stats_of[kind, VERSION] != counts[kind, 1] or stats_of[kind, FIRST] != first or stats_of[kind, LAST] != last:
        total = 0.0
        for j in range(first, last):
            total += rates[kind, j]
        mean = total / n
        squares = 0.0
        for j in range(first, last):
            squares += (rates[kind, j] - mean) ** 2
        stats[kind, 0] = mean
        stats[kind, 1] = np.sqrt(squares / (n - 1))
        stats_of[kind, FIRST] = first
        stats_of[kind, LAST] = last
        stats_of[kind, VERSION] = counts[kind, 1]
    # With equal rates the computed deviation is a rounding error only.
    if not stats[kind, 1] > 1e-12 * abs(stats[kind, 0]):
        return np.nan
    return (rate - stats[kind, 0]) / stats[kind, 1]
