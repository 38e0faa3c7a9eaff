"""Compiled histogram of trade sizes: buckets of lots, entries that enter and leave the 24 h window, upper quantiles (P95, P99).

``state`` owns and explains the arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def bucket_of(lots: Any) -> Any:
    """Return the histogram bucket of a positive lot count: exact below 256, then 128 buckets an octave (integer arithmetic only)."""
    shift = 0
    value = lots
    while value >= 256:
        value >>= 1
        shift += 1
    return shift * 128 + value


@njit(cache=True, nogil=True)
def bucket_middle(bucket: Any) -> Any:
    """Return the middle of a bucket, lots."""
    if bucket < 256:
        return float(bucket)
    shift = bucket // 128 - 1
    low = (bucket - shift * 128) << shift
    return low + ((1 << shift) - 1) / 2.0


@njit(cache=True, nogil=True)
def add_histogram(entries: Any, histogram: Any, totals: Any) -> None:
    """Add packed (instrument << 32 | bucket << 16 | count) entries of a pane."""
    for e in range(len(entries)):
        packed = entries[e]
        i = packed >> 32
        bucket = (packed >> 16) & 0xFFFF
        count = packed & 0xFFFF
        histogram[i, bucket] += count
        totals[i] += count


@njit(cache=True, nogil=True)
def take_due(
    pending: Any, chosen: Any, pane: int, gone: int, is_chosen: Any, entries: Any, panes: Any, histogram: Any, totals: Any, top: Any
) -> Any:  # fmt: skip
    """Move the trades of the chosen instruments' panes up to ``pane`` from ``pending`` to the histograms.

    Trades of panes up to ``gone`` would leave the day's histogram at the same instant, so they are dropped. ``entries`` and ``panes``
    receive what ``take_away`` takes a day later, in order of (pane, instrument, bucket). Returns the number of trades that stay (at the
    front of ``pending``, in order) and the number of entries.
    """
    for c in chosen:
        is_chosen[c] = True
    due = np.empty(len(pending), dtype=np.int64)
    n = stay = 0
    for packed in pending:
        if packed >> 32 <= pane and is_chosen[(packed >> 16) & 0xFFFF]:
            if packed >> 32 > gone:
                due[n] = packed
                n += 1
        else:
            pending[stay] = packed
            stay += 1
    for c in chosen:
        is_chosen[c] = False
    due = np.sort(due[:n])
    found = at = 0
    while at < n:
        packed = due[at]
        stop = at
        while stop < n and due[stop] == packed and stop - at < 0xFFFF:  # a count above 16 bits takes several entries
            stop += 1
        i = (packed >> 16) & 0xFFFF
        entries[found] = (i << 32) | ((packed & 0xFFFF) << 16) | (stop - at)
        panes[found] = packed >> 32
        histogram[i, packed & 0xFFFF] += stop - at
        totals[i] += stop - at
        top[i] = max(top[i], packed & 0xFFFF)
        found += 1
        at = stop
    return stay, found


@njit(cache=True, nogil=True)
def take_away(entries: Any, chosen: Any, is_chosen: Any, histogram: Any, totals: Any) -> None:
    """Take packed entries of the chosen instruments out of the histograms, and overwrite them with -1."""
    for c in chosen:
        is_chosen[c] = True
    for e in range(len(entries)):
        packed = entries[e]
        if packed >= 0 and is_chosen[packed >> 32]:
            histogram[packed >> 32, (packed >> 16) & 0xFFFF] -= packed & 0xFFFF
            totals[packed >> 32] -= packed & 0xFFFF
            entries[e] = -1
    for c in chosen:
        is_chosen[c] = False


@njit(cache=True, nogil=True)
def upper_quantiles(i: int, histogram: Any, totals: Any, top: Any) -> Any:
    """Return the middles of the buckets that hold the floor(0.95 N)-th and floor(0.99 N)-th smallest quantity (0-based), lots (S1 2.4).

    One pass from the largest quantity down finds both. All buckets above ``top`` are empty. ``top`` is lowered here, so that the thousands
    of empty buckets are passed once and not at every instant.
    """
    total = totals[i]
    above_95 = total - 1 - (total * 95) // 100
    above_99 = total - 1 - (total * 99) // 100
    bucket = top[i]
    while bucket > 0 and histogram[i, bucket] == 0:
        bucket -= 1
    top[i] = bucket
    running = 0
    p99 = np.nan
    while bucket >= 0:
        running += histogram[i, bucket]
        if running > above_99 and np.isnan(p99):
            p99 = bucket_middle(bucket)
        if running > above_95:
            return bucket_middle(bucket), p99
        bucket -= 1
    return np.nan, p99
