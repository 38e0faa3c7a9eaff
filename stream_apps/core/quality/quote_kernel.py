"""The compiled comparison of trades with quotes."""

from __future__ import annotations

from typing import Any

from numba import njit

from stream_apps.core.quality.columns import COMPARED, NONE, OUTSIDE, QUOTE_ASK, QUOTE_BID, QUOTE_TIME


@njit(cache=True, nogil=True)
def compare(order: Any, instrument: Any, time: Any, is_trade: Any, a: Any, b: Any, L: Any, D: Any, tolerance: float, age_ms: int) -> None:
    """Walk trades (``a``: price) and quotes (``a``: bid, ``b``: ask) by time.

    Count the trades outside the newest quote. L, D: of the trades.
    """
    for k in order:
        i = instrument[k]
        if not is_trade[k]:
            L[i, QUOTE_TIME] = time[k]
            D[i, QUOTE_BID] = a[k]
            D[i, QUOTE_ASK] = b[k]
        elif L[i, QUOTE_TIME] != NONE and 0 <= time[k] - L[i, QUOTE_TIME] <= age_ms:
            L[i, COMPARED] += 1
            if a[k] > D[i, QUOTE_ASK] * (1.0 + tolerance) or a[k] < D[i, QUOTE_BID] * (1.0 - tolerance):
                L[i, OUTSIDE] += 1
