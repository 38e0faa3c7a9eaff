"""VPIN: the one-sidedness of the volume in the last buckets.

    VPIN = sum over the last n full buckets of |buy - sell|  /  sum of their volumes        0..1

Easley, Lopez de Prado and O'Hara, "Flow Toxicity and Liquidity in a High-frequency World", Review of Financial Studies 25 (2012), eq. (5), where all
buckets have one volume V and the denominator is n V. Volume flows into a bucket until it holds V; a trade that does not fit is split at the edge.

- ``vpin``: buy and sell by the true aggressor, which the venues publish. Trades flow in by (event time, trade id) when their pane closes; a late one
  joins the bucket that is open when it comes.
- ``vpin_bulk``: the paper's bulk classification, for comparison with work that has no aggressor. A pane of volume W and price change d is
  W * Phi(d / s) bought and the rest sold, Phi the normal distribution, s the deviation of the panes' price changes over the last ``kyle_window_ms``
  (this pane included). Rounded to whole lots. A pane is split at an edge in proportion.

Undefined until n buckets are full; bulk classification begins when s is known. Volumes are integer lots: the sums are exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

FEATURES = ("vpin", "vpin_bulk", "vpin_bucket_volume")
TRUE, BULK = 0, 1
# Columns of ``clock`` (int64 per instrument and kind): volume of this bucket and of the next ones, its fill, full buckets so far, sums over
# the ring.
SIZE, NEXT, BUY, SELL, COUNT, IMBALANCE, VOLUME = range(7)
N_CLOCK = 7


@njit(cache=True, nogil=True)
def _share(buy: Any, sell: Any, take: Any) -> Any:
    """Return the bought part of ``take`` lots out of buy + sell, in proportion, in whole lots."""
    if sell == 0:
        return take
    if buy == 0:
        return np.int64(0)
    part = np.int64(np.floor(take * (buy / (buy + sell)) + 0.5))
    return min(max(part, take - sell), min(take, buy))


@njit(cache=True, nogil=True)
def fill_buckets(clock: Any, buckets: Any, i: int, kind: int, buy: Any, sell: Any) -> None:
    """Let volume flow into the buckets.

    ``buckets[i, kind]``: |buy - sell| and volume of the last full ones. Volume without a bucket size is not counted.
    """
    n = buckets.shape[2]
    if clock[i, kind, SIZE] == 0:
        clock[i, kind, SIZE] = clock[i, kind, NEXT]
    if clock[i, kind, SIZE] == 0:
        return
    while buy + sell > 0:
        size = clock[i, kind, SIZE]
        room = size - clock[i, kind, BUY] - clock[i, kind, SELL]
        volume = buy + sell
        if volume < room:
            clock[i, kind, BUY] += buy
            clock[i, kind, SELL] += sell
            return
        if room == size and clock[i, kind, NEXT] == size and volume // size > n:
            # The volume fills more buckets than the ring holds. The first ones are only counted.
            passed = volume // size - n
            part = _share(buy, sell, passed * size)
            buy -= part
            sell -= passed * size - part
            clock[i, kind, COUNT] += passed
            continue
        part = _share(buy, sell, room)
        bought = clock[i, kind, BUY] + part
        buy -= part
        sell -= room - part
        slot = clock[i, kind, COUNT] % n
        clock[i, kind, IMBALANCE] += abs(2 * bought - size) - buckets[i, kind, slot, 0]
        clock[i, kind, VOLUME] += size - buckets[i, kind, slot, 1]
        buckets[i, kind, slot, 0] = abs(2 * bought - size)
        buckets[i, kind, slot, 1] = size
        clock[i, kind, COUNT] += 1
        clock[i, kind, BUY] = 0
        clock[i, kind, SELL] = 0
        clock[i, kind, SIZE] = clock[i, kind, NEXT]


@njit(cache=True, nogil=True)
def bought(volume: Any, change: Any, deviation: Any) -> Any:
    """Return the bought lots of a bar by bulk classification: volume * Phi(change / deviation). Half if the price never moved."""
    share = 0.5
    if deviation > 0.0:
        share = 0.5 * math.erfc(-change / deviation / math.sqrt(2.0))
    return min(np.int64(np.floor(volume * share + 0.5)), volume)


@njit(cache=True, nogil=True)
def value(clock: Any, n: Any) -> Any:
    """Return VPIN, NaN until n buckets are full."""
    if clock[COUNT] < n:
        return np.nan
    return clock[IMBALANCE] / clock[VOLUME]
