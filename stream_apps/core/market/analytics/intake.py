"""Compiled intake of records that wait for their pane to close.

The measures need trades, quotes and liquidations one by one and in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market import columns as col


@njit(cache=True, nogil=True)
def _falls_behind(waiting: Any, n: int, newest: Any) -> Any:
    """Return whether the n-th entry lies before an earlier one of its instrument by (time, id).

    ``newest``: the newest of each instrument.
    """
    i, time, number = waiting[n, 0], waiting[n, 1], waiting[n, 2]
    if time < newest[i, 0] or (time == newest[i, 0] and number < newest[i, 1]):
        return True
    newest[i, 0] = time
    newest[i, 1] = number
    return False


@njit(cache=True, nogil=True)
def add_trades(
    instrument: Any, status: Any, times: Any, ids: Any, quantities: Any, makers: Any, scale: Any, newest: Any, waiting: Any, n: int
) -> Any:
    """Append the applied trades, late ones too: instrument, time, id, lots (negative where the taker sold).

    Returns how many wait, and whether one came out of order.
    """
    mixed = False
    for e in range(len(times)):
        if status[e] > col.LATE_ROW:
            continue
        i = instrument[e]
        lots = np.int64(np.floor(quantities[e] * scale[i, 1] + 0.5))
        waiting[n, 0] = i
        waiting[n, 1] = times[e]
        waiting[n, 2] = ids[e]
        waiting[n, 3] = -lots if makers[e] else lots
        mixed |= _falls_behind(waiting, n, newest)
        n += 1
    return n, mixed


@njit(cache=True, nogil=True)
def add_quotes(
    instrument: Any, good: Any, status: Any, times: Any, ids: Any, bids: Any, bid_quantities: Any, asks: Any, ask_quantities: Any, scale: Any,
    newest: Any, waiting: Any, n: int,
) -> Any:  # fmt: skip
    """Append quotes with usable prices and quantities: instrument, time, update id, ticks and lots of bid and ask.

    Returns how many wait, and whether one came out of order.
    """
    mixed = False
    for e in range(len(times)):
        i = instrument[e]
        if not good[e] or status[e] != col.APPLIED or i < 0 or scale[i, 0] == 0.0:
            continue
        if not (
            0.0 < bids[e] < np.inf and 0.0 < asks[e] < np.inf and 0.0 <= bid_quantities[e] < np.inf and 0.0 <= ask_quantities[e] < np.inf
        ):
            continue
        waiting[n, 0] = i
        waiting[n, 1] = times[e]
        waiting[n, 2] = ids[e]
        waiting[n, 3] = np.int64(np.floor(bids[e] * scale[i, 0] + 0.5))
        waiting[n, 4] = np.int64(np.floor(bid_quantities[e] * scale[i, 1] + 0.5))
        waiting[n, 5] = np.int64(np.floor(asks[e] * scale[i, 0] + 0.5))
        waiting[n, 6] = np.int64(np.floor(ask_quantities[e] * scale[i, 1] + 0.5))
        mixed |= _falls_behind(waiting, n, newest)
        n += 1
    return n, mixed


@njit(cache=True, nogil=True)
def check(instrument: Any, use: Any, times: Any, status: Any, grid: int, meta: Any) -> None:
    """Set the status of used rows that name no instrument or lie too far ahead."""
    for e in range(len(times)):
        if use[e]:
            if instrument[e] < 0:
                status[e] = col.NO_INSTRUMENT
            elif (times[e] + grid - 1) // grid > meta[instrument[e], col.CLOSED] + col.AHEAD:
                status[e] = col.TOO_FAR


@njit(cache=True, nogil=True)
def pane_rows(pane: int, closed: Any, flows: Any, returns: Any, out: Any) -> Any:
    """Write instrument, flows and return of a pane, for instruments that have closed it and still hold it.

    All-zero rows are omitted. Returns the number of rows.
    """
    short, ring, width = flows.shape[1], returns.shape[1], flows.shape[2]
    n = 0
    for i in range(len(closed)):
        if closed[i] < pane:
            continue
        some = False
        out[n, 0] = i
        for j in range(width):
            out[n, 1 + j] = flows[i, pane % short, j] if closed[i] - short < pane else 0
            some |= out[n, 1 + j] != 0
        out[n, 1 + width] = returns[i, pane % ring] if closed[i] - ring < pane else 0
        if some or out[n, 1 + width] != 0:
            n += 1
    return n
