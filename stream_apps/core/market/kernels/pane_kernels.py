"""Compiled loops over panes: trades into open panes, closed panes into cumulative sums and bars, which instruments are due.

``state`` owns and explains the arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.kernel_fingerprint import stamp
from stream_apps.core.market import atr
from stream_apps.core.market.atr import follow, own_bar
from stream_apps.core.market.columns import (
    AHEAD,
    APPLIED,
    BAD_PRICE,
    BAD_QUANTITY,
    BUY,
    CLOSED,
    COUNT,
    DUPLICATE,
    DUPLICATES,
    FIRST_PANE,
    HAS_PRICE,
    HOLES,
    LARGE,
    LAST_AGG_ID,
    LAST_PRICE,
    LATE,
    LATE_ROW,
    N_HOLES,
    NO_INSTRUMENT,
    OFF_PRICE_GRID,
    OFF_QUANTITY_GRID,
    PRICE_VOLUME,
    SELL,
    TOO_FAR,
    UNDECODED,
    WHALE,
)
from stream_apps.core.market.kernels import quantile_kernels
from stream_apps.core.market.kernels.quantile_kernels import bucket_of


@njit(cache=True, nogil=True)
def _seen(i: int, agg_id: int, meta: Any, holes: Any) -> Any:
    """Return whether a trade id was applied before, and remember it. Ids are consecutive from 0. Skipped ids stay open as a hole."""
    last = meta[i, LAST_AGG_ID]
    if agg_id == last + 1:
        meta[i, LAST_AGG_ID] = agg_id
        return False
    n = meta[i, N_HOLES]
    if agg_id > last:
        if n == HOLES:
            for h in range(1, HOLES):
                holes[i, h - 1, 0] = holes[i, h, 0]
                holes[i, h - 1, 1] = holes[i, h, 1]
            n -= 1
        holes[i, n, 0] = last + 1
        holes[i, n, 1] = agg_id - 1
        meta[i, N_HOLES] = n + 1
        meta[i, LAST_AGG_ID] = agg_id
        return False
    for h in range(n):
        low = holes[i, h, 0]
        high = holes[i, h, 1]
        if low <= agg_id <= high:
            if low == high:
                for g in range(h + 1, n):
                    holes[i, g - 1, 0] = holes[i, g, 0]
                    holes[i, g - 1, 1] = holes[i, g, 1]
                meta[i, N_HOLES] = n - 1
            elif agg_id == low:
                holes[i, h, 0] = low + 1
            elif agg_id == high:
                holes[i, h, 1] = high - 1
            elif n < HOLES:
                holes[i, n, 0] = agg_id + 1
                holes[i, n, 1] = high
                holes[i, h, 1] = agg_id - 1
                meta[i, N_HOLES] = n + 1
            else:
                holes[i, h, 0] = agg_id + 1
            return False
    return True


def _make_apply_trades(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def apply_trades(
        instrument: Any, good: Any, times: Any, offsets: Any, ids: Any, prices: Any, quantities: Any, makers: Any, grid: int, print_floor: float,
        meta: Any, scale: Any, holes: Any, p99_lots: Any, p99_before: Any, open_sum: Any, open_price: Any, open_at: Any,
        pending: Any, n_pending: int, status: Any, kept: Any,
    ) -> Any:  # fmt: skip
        """Add trades to their open panes. Large trades and whale prints also go to ``kept`` (dtype prints.PRINT).

        Returns the new length of ``pending`` (packed pane-instrument-bucket of each trade) and the numbers of kept, late, repeated and
        refused rows. Sums are integers; open and close are chosen by (event time, offset). So the result does not depend on the order of
        rows. A trade of pane k is large by the quantile of instant k - 2. The instant k - 1 may fire before or after the trade arrives,
        within the allowed lateness.
        """
        stamp  # noqa: B018 - see analytics/compose: the compiled code is kept by what it closes over
        n_kept = n_late = n_repeated = n_refused = 0
        for row in range(len(times)):
            i = instrument[row]
            if not good[row]:
                status[row] = UNDECODED
                n_refused += 1
                continue
            if i < 0 or scale[i, 0] == 0.0:
                status[row] = NO_INSTRUMENT
                n_refused += 1
                continue
            price = prices[row]
            quantity = quantities[row]
            if not (price > 0.0) or price == np.inf:
                status[row] = BAD_PRICE
                n_refused += 1
                continue
            if not (quantity > 0.0) or quantity == np.inf:
                status[row] = BAD_QUANTITY
                n_refused += 1
                continue
            exact_ticks = price * scale[i, 0]
            ticks = np.int64(np.floor(exact_ticks + 0.5))
            if abs(exact_ticks - ticks) > 1e-9 * exact_ticks + 1e-6:
                status[row] = OFF_PRICE_GRID
                n_refused += 1
                continue
            exact_lots = quantity * scale[i, 1]
            lots = np.int64(np.floor(exact_lots + 0.5))
            if lots == 0 or abs(exact_lots - lots) > 1e-9 * exact_lots + 1e-6:
                status[row] = OFF_QUANTITY_GRID
                n_refused += 1
                continue
            time = times[row]
            pane = (time + grid - 1) // grid
            if pane > meta[i, CLOSED] + AHEAD:
                status[row] = TOO_FAR
                n_refused += 1
                continue
            if _seen(i, ids[row], meta, holes):
                meta[i, DUPLICATES] += 1
                status[row] = DUPLICATE
                n_repeated += 1
                continue
            flags = 0
            if price * quantity >= print_floor:
                flags |= WHALE
            p99 = p99_before[i] if pane <= meta[i, CLOSED] + 1 else p99_lots[i]
            if p99 > 0.0 and lots >= p99:
                flags |= LARGE
            if flags:
                kept[n_kept].time = time
                kept[n_kept].offset = offsets[row]
                kept[n_kept].instrument = i
                kept[n_kept].price = price
                kept[n_kept].quantity = quantity
                kept[n_kept].buy = makers[row] == 0
                kept[n_kept].flags = flags
                n_kept += 1
            if pane <= meta[i, CLOSED]:
                meta[i, LATE] += 1
                status[row] = LATE_ROW
                n_late += 1
                continue
            status[row] = APPLIED
            if meta[i, FIRST_PANE] < 0 or pane < meta[i, FIRST_PANE]:
                meta[i, FIRST_PANE] = pane
            s = pane % AHEAD
            if makers[row]:
                open_sum[i, s, SELL] += lots
            else:
                open_sum[i, s, BUY] += lots
            open_sum[i, s, PRICE_VOLUME] += ticks * lots
            offset = offsets[row]
            if open_sum[i, s, COUNT] == 0:
                open_price[i, s, 0] = ticks
                open_price[i, s, 1] = ticks
                open_price[i, s, 2] = ticks
                open_price[i, s, 3] = ticks
                open_at[i, s, 0] = time
                open_at[i, s, 1] = offset
                open_at[i, s, 2] = time
                open_at[i, s, 3] = offset
            else:
                if ticks > open_price[i, s, 1]:
                    open_price[i, s, 1] = ticks
                if ticks < open_price[i, s, 2]:
                    open_price[i, s, 2] = ticks
                if time < open_at[i, s, 0] or (time == open_at[i, s, 0] and offset < open_at[i, s, 1]):
                    open_price[i, s, 0] = ticks
                    open_at[i, s, 0] = time
                    open_at[i, s, 1] = offset
                if time > open_at[i, s, 2] or (time == open_at[i, s, 2] and offset > open_at[i, s, 3]):
                    open_price[i, s, 3] = ticks
                    open_at[i, s, 2] = time
                    open_at[i, s, 3] = offset
            open_sum[i, s, COUNT] += 1
            pending[n_pending] = (pane << 32) | (i << 16) | bucket_of(lots)
            n_pending += 1
        return n_pending, n_kept, n_late, n_repeated, n_refused

    return apply_trades


apply_trades = _make_apply_trades(stamp(quantile_kernels))


@njit(cache=True, nogil=True)
def add_late(i: int, pane: int, price: float, quantity: float, maker: bool, meta: Any, scale: Any, cumulative: Any) -> Any:
    """Add a late trade to its closed pane: every cumulative sum from there on grows. Returns False when the pane left the ring."""
    ring = cumulative.shape[1]
    closed = meta[i, CLOSED]
    if pane <= closed - ring + 1 or meta[i, FIRST_PANE] < 0 or pane < meta[i, FIRST_PANE]:
        return False
    ticks = np.int64(np.floor(price * scale[i, 0] + 0.5))
    lots = np.int64(np.floor(quantity * scale[i, 1] + 0.5))
    for k in range(pane, closed + 1):
        s = k % ring
        if maker:
            cumulative[i, s, SELL] += lots
        else:
            cumulative[i, s, BUY] += lots
        cumulative[i, s, PRICE_VOLUME] += ticks * lots
        cumulative[i, s, COUNT] += 1
    return True


def _make_close_panes(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def close_panes(
        chosen: Any, pane: int, panes_a_bar: Any, atr_frame: int, atr_length: int, meta: Any, scale: Any, cumulative: Any, open_sum: Any, open_price: Any,
        bars: Any, reached: Any, waiting: Any, atr_values: Any, atr_history: Any, out: Any,
    ) -> Any:  # fmt: skip
        """Close every pane up to ``pane`` of the chosen instruments; returns the number of closed bars written to ``out``.

        ``out`` rows: instrument, timeframe, bar end pane, open, high, low, close (ticks), volume, CVD (lots), trades.
        """
        stamp  # noqa: B018 - see analytics/compose: the compiled code is kept by what it closes over
        n = 0
        ring = cumulative.shape[1]
        for c in range(len(chosen)):
            i = chosen[c]
            while meta[i, CLOSED] < pane:
                k = meta[i, CLOSED] + 1
                s = k % AHEAD
                before = (k - 1) % ring
                now = k % ring
                for j in range(4):
                    cumulative[i, now, j] = cumulative[i, before, j] + open_sum[i, s, j]
                trades = open_sum[i, s, COUNT]
                for f in range(len(panes_a_bar)):
                    if trades > 0:
                        if bars[i, f, 6] == 0:
                            for j in range(4):
                                bars[i, f, j] = open_price[i, s, j]
                        else:
                            bars[i, f, 1] = max(bars[i, f, 1], open_price[i, s, 1])
                            bars[i, f, 2] = min(bars[i, f, 2], open_price[i, s, 2])
                            bars[i, f, 3] = open_price[i, s, 3]
                        bars[i, f, 4] += open_sum[i, s, BUY] + open_sum[i, s, SELL]
                        bars[i, f, 5] += open_sum[i, s, BUY] - open_sum[i, s, SELL]
                        bars[i, f, 6] += trades
                    if k % panes_a_bar[f] == 0 and (bars[i, f, 6] > 0 or meta[i, HAS_PRICE] == 1):
                        if bars[i, f, 6] == 0:
                            for j in range(4):
                                bars[i, f, j] = meta[i, LAST_PRICE]
                        if n < out.shape[0]:
                            out[n, 0] = i
                            out[n, 1] = f
                            out[n, 2] = k
                            for j in range(7):
                                out[n, 3 + j] = bars[i, f, j]
                            n += 1
                        if f == atr_frame:
                            own_bar(i, k, panes_a_bar[f], bars[i, f, 1], bars[i, f, 2], bars[i, f, 3], meta, reached, waiting)
                        for j in range(7):
                            bars[i, f, j] = 0
                    if f == atr_frame and k % panes_a_bar[f] == 0:
                        follow(i, k // panes_a_bar[f], atr_length, meta, scale, reached, waiting, atr_values, atr_history)
                if trades > 0:
                    meta[i, LAST_PRICE] = open_price[i, s, 3]
                    meta[i, HAS_PRICE] = 1
                    for j in range(4):
                        open_sum[i, s, j] = 0
                meta[i, CLOSED] = k
        return n

    return close_panes


@njit(cache=True, nogil=True)
def first_open(instruments: Any, pane: int, meta: Any) -> Any:
    """Return the first open pane of any of the instruments that have begun, at most ``pane``."""
    first = pane
    for i in instruments:
        if meta[i, CLOSED] > 0:
            first = min(first, meta[i, CLOSED] + 1)
    return first


@njit(cache=True, nogil=True)
def due(chosen: Any, pane: int, meta: Any, out: Any) -> Any:
    """Write to ``out`` the chosen instruments that have begun and have not closed ``pane``.

    Return their number and the first open pane of any.
    """
    found, first = 0, pane
    for i in chosen:
        closed = meta[i, CLOSED]
        if 0 < closed < pane:
            out[found] = i
            found += 1
            first = min(first, closed + 1)
    return found, first


@njit(cache=True, nogil=True)
def priced(chosen: Any, meta: Any, out: Any) -> Any:
    """Write to ``out`` the chosen instruments that have a price; return their number."""
    found = 0
    for i in chosen:
        if meta[i, HAS_PRICE] == 1:
            out[found] = i
            found += 1
    return found


@njit(cache=True, nogil=True)
def unstarted(instrument: Any, good: Any, meta: Any) -> Any:
    """Return whether any row belongs to an instrument whose panes have not begun."""
    found = False
    for row in range(len(instrument)):
        if good[row] and instrument[row] >= 0 and meta[instrument[row], CLOSED] == 0:
            found = True
            break
    return found


close_panes = _make_close_panes(stamp(atr))
