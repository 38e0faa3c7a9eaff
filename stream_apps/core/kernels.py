"""Compiled inner loops of the market state. Each works on plain arrays of one partition; ``state.py`` owns and explains the arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core import atr
from stream_apps.core.analytics.stamp import stamp
from stream_apps.core.atr import follow, own_bar
from stream_apps.core.meta import (
    AHEAD,
    APPLIED,
    ATR_COUNT,
    BAD_PRICE,
    BAD_QUANTITY,
    BAD_SIDE,
    CLOSED,
    DUPLICATE,
    DUPLICATES,
    FIRST_PANE,
    HAS_PRICE,
    LAST_AGG_ID,
    LAST_PRICE,
    LATE,
    LATE_ROW,
    N_HOLES,
    NO_INSTRUMENT,
    OFF_PRICE_GRID,
    OFF_QUANTITY_GRID,
    TOO_FAR,
    UNDECODED,
)

# Columns of sums (cumulative and open panes).
BUY, SELL, PRICE_VOLUME, COUNT = range(4)
# Print flags.
WHALE, LARGE = 1, 2
LIQUIDATIONS_KEPT = 64  # newest liquidations of an instrument that a row is compared with
HOLES = 64  # id ranges per instrument that may still be filled by a back-fill; the oldest is forgotten beyond
SUB_BITS = 7  # quantile buckets have 128 steps an octave: half a bucket is 0.39 % of the quantity
SLOTS = 512  # panes of slow inputs: more than the longest look-back (30 min) plus AHEAD
# Kinds of slow inputs.
QUOTE, OBI, MARK, INDEX, FUNDING, OPEN_INTEREST, LONG_SHORT, TOP_TRADER, PREMIUM = range(9)
N_KINDS = 9


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


N_BUCKETS = 128 * 40 + 256  # quantities up to 2^47 lots


@njit(cache=True, nogil=True)
def _seen(i: int, agg_id: int, meta: Any, holes: Any) -> Any:
    """Tell whether a trade id was applied before, and remember it. Ids are consecutive from 0; what is skipped stays open as a hole."""
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


@njit(cache=True, nogil=True)
def apply_trades(
    instrument: Any, good: Any, times: Any, offsets: Any, ids: Any, prices: Any, quantities: Any, makers: Any, grid: int, print_floor: float,
    meta: Any, scale: Any, holes: Any, p99_lots: Any, p99_before: Any, open_sum: Any, open_price: Any, open_at: Any,
    pending: Any, n_pending: int, status: Any, kept: Any,
) -> Any:  # fmt: skip
    """Add trades to their open panes; large trades and whales go to ``kept`` as well (dtype prints.PRINT).

    Returns the new length of ``pending`` (packed pane-instrument-bucket of each trade) and the numbers of kept, late, repeated and refused rows.
    Sums are integers, open and close are chosen by (event time, offset): the result does not depend on the order of the rows. A trade of pane k is large
    by the quantile of instant k - 2: that of k - 1 may fire before or after the trade arrives, within the allowed lateness.
    """
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


@njit(cache=True, nogil=True)
def add_late(i: int, pane: int, price: float, quantity: float, maker: bool, meta: Any, scale: Any, cumulative: Any) -> Any:
    """Let a late trade join its closed pane: every cumulative sum from there on grows. Returns False when the pane is out of the ring."""
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


close_panes = _make_close_panes(stamp(atr))


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
    """Take the trades of the chosen instruments' panes up to ``pane`` out of ``pending`` and add them to the histograms.

    Those of panes up to ``gone`` would leave the day's histogram with the same instant: they are dropped. ``entries`` and ``panes`` receive, in order of
    (pane, instrument, bucket), what ``take_away`` takes a day later. Returns the number of trades that stay (at the front of ``pending``, in order) and
    the number of entries.
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
    """Take packed entries of the chosen instruments out of the histograms, and write -1 over them."""
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
def first_open(instruments: Any, pane: int, meta: Any) -> Any:
    """Return the first pane that is open of any of the instruments that have begun, at most ``pane``."""
    first = pane
    for i in instruments:
        if meta[i, CLOSED] > 0:
            first = min(first, meta[i, CLOSED] + 1)
    return first


@njit(cache=True, nogil=True)
def due(chosen: Any, pane: int, meta: Any, out: Any) -> Any:
    """Write to ``out`` which of the chosen instruments have begun and have not closed ``pane``; returns their number and the first open pane of any."""
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
    """Write to ``out`` which of the chosen instruments have a price; returns their number."""
    found = 0
    for i in chosen:
        if meta[i, HAS_PRICE] == 1:
            out[found] = i
            found += 1
    return found


@njit(cache=True, nogil=True)
def unstarted(instrument: Any, good: Any, meta: Any) -> Any:
    """Tell whether any of the rows belongs to an instrument whose panes have not begun."""
    found = False
    for row in range(len(instrument)):
        if good[row] and instrument[row] >= 0 and meta[instrument[row], CLOSED] == 0:
            found = True
            break
    return found


@njit(cache=True, nogil=True)
def upper_quantiles(i: int, histogram: Any, totals: Any, top: Any) -> Any:
    """Return the middles of the buckets that hold the floor(0.95 N)-th and floor(0.99 N)-th smallest quantity (0-based), lots (S1 2.4).

    Both in one pass from the largest quantity down. ``top`` says above which bucket an instrument has nothing, or more; it is brought down here,
    so that the thousands of buckets that no quantity reaches are passed over once and not at every instant.
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


@njit(cache=True, nogil=True)
def put_inputs(
    instrument: Any, kind: int, times: Any, offsets: Any, first: Any, second: Any, use: Any, grid: int,
    meta: Any, in_pane: Any, in_at: Any, in_value: Any, first_seen: Any, status: Any,
) -> None:  # fmt: skip
    """Keep the newest value (by event time, then offset) of each pane. Rows with ``use`` False are passed over."""
    for row in range(len(times)):
        if not use[row]:
            continue
        i = instrument[row]
        if i < 0:
            status[row] = NO_INSTRUMENT
            continue
        time = times[row]
        pane = (time + grid - 1) // grid
        if pane > meta[i, CLOSED] + AHEAD:
            status[row] = TOO_FAR
            continue
        status[row] = APPLIED
        if time < first_seen[i, kind]:
            first_seen[i, kind] = time
        s = pane % SLOTS
        if in_pane[i, kind, s] > pane:
            continue
        if in_pane[i, kind, s] == pane and (
            time < in_at[i, kind, s, 0] or (time == in_at[i, kind, s, 0] and offsets[row] <= in_at[i, kind, s, 1])
        ):
            continue
        in_pane[i, kind, s] = pane
        in_at[i, kind, s, 0] = time
        in_at[i, kind, s, 1] = offsets[row]
        in_value[i, kind, s, 0] = first[row]
        in_value[i, kind, s, 1] = second[row]


@njit(cache=True, nogil=True)
def _mixed(state: Any, number: Any) -> Any:
    """Mix a number into a 64-bit fingerprint (the finaliser of splitmix64)."""
    scratch = np.empty(1, dtype=np.float64)
    scratch[0] = number
    z = np.uint64(state) ^ scratch.view(np.uint64)[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(z ^ (z >> np.uint64(31)))


@njit(cache=True, nogil=True)
def put_liquidations(
    instrument: Any, times: Any, sides: Any, prices: Any, quantities: Any, good: Any, grid: int,
    meta: Any, pane_of: Any, cents: Any, first_seen: Any, seen: Any, seen_at: Any, status: Any,
) -> None:  # fmt: skip
    """Add what was liquidated to its pane: column 0 for LONG positions (side 1), column 1 for SHORT ones (side -1).

    Notional is kept in hundredths of a quote unit, so that sums are integers and do not depend on the order of the rows. Liquidations have no id,
    and their producer writes equal ones once: a row that equals one of the newest ``LIQUIDATIONS_KEPT`` is a batch that a dying broker took twice.
    """
    for row in range(len(times)):
        i = instrument[row]
        if not good[row]:
            status[row] = UNDECODED
            continue
        if i < 0:
            status[row] = NO_INSTRUMENT
            continue
        if sides[row] == 0:
            status[row] = BAD_SIDE
            continue
        if not (prices[row] > 0.0) or prices[row] == np.inf:
            status[row] = BAD_PRICE
            continue
        if not (quantities[row] > 0.0) or prices[row] * quantities[row] > 1e14:
            status[row] = BAD_QUANTITY
            continue
        pane = (times[row] + grid - 1) // grid
        if pane > meta[i, CLOSED] + AHEAD:
            status[row] = TOO_FAR
            continue
        what = _mixed(_mixed(_mixed(np.int64(times[row]) * 4 + sides[row], prices[row]), quantities[row]), 1.0)
        repeat = False
        for at in range(LIQUIDATIONS_KEPT):
            if seen[i, at] == what:
                repeat = True
                break
        if repeat:
            continue
        seen[i, seen_at[i] % LIQUIDATIONS_KEPT] = what
        seen_at[i] += 1
        if times[row] < first_seen[i]:
            first_seen[i] = times[row]
        s = pane % SLOTS
        if pane_of[i, s] > pane:
            continue
        if pane_of[i, s] < pane:
            pane_of[i, s] = pane
            cents[i, s, 0] = 0
            cents[i, s, 1] = 0
        cents[i, s, 0 if sides[row] > 0 else 1] += np.int64(np.floor(prices[row] * quantities[row] * 100.0 + 0.5))


@njit(cache=True, nogil=True)
def track_funding(chosen: Any, pane: int, meta: Any, in_pane: Any, in_value: Any, most: Any) -> None:
    """Let the funding rates of the panes that are about to close, up to ``pane``, into the largest |rate| so far."""
    for i in chosen:
        for k in range(max(meta[i, CLOSED], pane - SLOTS) + 1, pane + 1):
            s = k % SLOTS
            if in_pane[i, FUNDING, s] == k and abs(in_value[i, FUNDING, s, 0]) > most[i]:
                most[i] = abs(in_value[i, FUNDING, s, 0])


@njit(cache=True, nogil=True)
def _look_up(i: int, kind: int, instant: int, limit: int, grid: int, in_pane: Any, in_at: Any) -> Any:
    """Return the slot of the newest value with event time <= instant and not older than limit, or -1."""
    pane = instant // grid
    for k in range(pane, pane - limit // grid - 2, -1):
        s = k % SLOTS
        if in_pane[i, kind, s] == k:
            return s if instant - in_at[i, kind, s, 0] <= limit else -1
    return -1


# Codes of ``states``.
PRESENT, MISSING, STALE = 0, 1, 2


@njit(cache=True, nogil=True)
def _input(i: int, kind: int, instant: int, limit: int, grid: int, in_pane: Any, in_at: Any, in_value: Any, first_seen: Any) -> Any:
    """Return (state, first value, second value) of an input at an instant."""
    if i < 0:
        return MISSING, np.nan, np.nan
    s = _look_up(i, kind, instant, limit, grid, in_pane, in_at)
    if s < 0:
        return (STALE if first_seen[i, kind] <= instant else MISSING), np.nan, np.nan
    if np.isnan(in_value[i, kind, s, 0]):
        return MISSING, np.nan, np.nan
    return PRESENT, in_value[i, kind, s, 0], in_value[i, kind, s, 1]


MINUTE_MS, FIVE_MINUTES_MS, HOUR_MS = 60_000, 300_000, 3_600_000
ATR_LOW_BARS = 12  # an hour of 5m bars


@njit(cache=True, nogil=True)
def _rank_atr(i: int, percentile_min: int, meta: Any, atr_history: Any, ranks: Any) -> None:
    """Write the percentile of the newest ATR among those that the history holds (S1 2.3), and the least percentile of the last 12 closed-bar ATRs, each
    ranked among those up to it that the history still holds (S2 6, 7); NaN where they are too few."""
    ranks[i, 0] = np.nan
    ranks[i, 1] = np.nan
    length = atr_history.shape[1]
    count = meta[i, ATR_COUNT]
    oldest = max(0, count - length)
    for newest in range(count - 1, max(count - 1 - ATR_LOW_BARS, -1), -1):
        known = newest - oldest + 1
        if known < percentile_min:
            break
        value = atr_history[i, newest % length]
        below = 0
        for h in range(oldest, newest + 1):
            if atr_history[i, h % length] <= value:
                below += 1
        percentile = 100.0 * below / known
        if newest == count - 1:
            ranks[i, 0] = percentile
        if np.isnan(ranks[i, 1]) or percentile < ranks[i, 1]:
            ranks[i, 1] = percentile


@njit(cache=True, nogil=True)
def _fill_model_features(
    i: int, pane: int, grid: int, history: int, base: int, scale: Any, cumulative: Any, funding_most: Any, liquidated_pane: Any, liquidated: Any,
    liquidated_first: Any, out: Any,
) -> None:  # fmt: skip
    """Fill what only the older scoring models read (S2 6, 7): columns from ``base`` on, NaN where undefined.

    volume_1m; slope_1h; behind atr_percentile_low: funding_rate_max: the largest |rate| so far; notional of liquidated LONG and SHORT positions in
    (T - 5 min, T].
    """
    ring = cumulative.shape[1]
    now = pane % ring
    minute = MINUTE_MS // grid
    if history >= minute:
        then = (pane - minute) % ring
        out[base] = (cumulative[i, now, BUY] - cumulative[i, then, BUY] + cumulative[i, now, SELL] - cumulative[i, then, SELL]) / scale[
            i, 1
        ]
    hour = HOUR_MS // grid
    if history >= hour + 1:
        lots = 0
        for back in range(2):
            newer = (pane - back) % ring
            older = (pane - back - hour) % ring
            cvd = (cumulative[i, newer, BUY] - cumulative[i, older, BUY]) - (cumulative[i, newer, SELL] - cumulative[i, older, SELL])
            lots += cvd if back == 0 else -cvd
        out[base + 1] = lots / scale[i, 1]
    if funding_most[i] > 0.0:
        out[base + 3] = funding_most[i]
    if liquidated_first[i] <= pane * grid:
        longs = 0
        shorts = 0
        for k in range(pane - FIVE_MINUTES_MS // grid + 1, pane + 1):
            if liquidated_pane[i, k % SLOTS] == k:
                longs += liquidated[i, k % SLOTS, 0]
                shorts += liquidated[i, k % SLOTS, 1]
        out[base + 4] = longs / 100.0
        out[base + 5] = shorts / 100.0


@njit(cache=True, nogil=True)
def fill_features(
    chosen: Any, spot: Any, pane: int, grid: int, window_panes: Any, fast_windows: int, vwap_panes: int, atr_length: int, percentile_min: int,
    quantile_min: int, stale_book: int, stale_funding: int, stale_indicator: int, oi_horizon: int, p99_floor: Any,
    meta: Any, scale: Any, cumulative: Any, atr: Any, atr_history: Any, atr_reached: Any, ranked_at: Any, ranks: Any,
    histogram: Any, totals: Any, top: Any, p99_lots: Any, p99_before: Any,
    in_pane: Any, in_at: Any, in_value: Any, first_seen: Any, funding_most: Any, liquidated_pane: Any, liquidated: Any, liquidated_first: Any,
    out: Any, states: Any, counts: Any,
) -> None:  # fmt: skip
    """Fill one row of features per chosen instrument at instant ``pane * grid``; NaN where undefined. Column order: ``state.FEATURES``.

    ``counts`` receives the trades of the pane and the late trades so far.
    """
    ring = cumulative.shape[1]
    instant = pane * grid
    windows = len(window_panes)
    for c in range(len(chosen)):
        i = chosen[c]
        for j in range(out.shape[1]):
            out[c, j] = np.nan
        for j in range(states.shape[1]):
            states[c, j] = PRESENT
        out[c, 0] = meta[i, LAST_PRICE] / scale[i, 0]
        history = pane - meta[i, FIRST_PANE] + 1  # whole panes known, this one included
        now = pane % ring
        counts[c, 0] = cumulative[i, now, COUNT] - cumulative[i, (pane - 1) % ring, COUNT]
        counts[c, 1] = meta[i, LATE]
        for w in range(windows):
            length = window_panes[w]
            if history < length:
                states[c, w] = MISSING
                continue
            then = (pane - length) % ring
            buys = cumulative[i, now, BUY] - cumulative[i, then, BUY]
            sells = cumulative[i, now, SELL] - cumulative[i, then, SELL]
            out[c, 1 + w] = (buys - sells) / scale[i, 1]
            out[c, 1 + windows + w] = (buys + sells) / scale[i, 1]
        base = 1 + 2 * windows
        for w in range(fast_windows):
            length = window_panes[w]
            lots = np.zeros(3, dtype=np.int64)
            for back in range(3):
                newer = (pane - back) % ring
                older = (pane - back - length) % ring
                lots[back] = (cumulative[i, newer, BUY] - cumulative[i, older, BUY]) - (
                    cumulative[i, newer, SELL] - cumulative[i, older, SELL]
                )
            if history >= length + 1:
                out[c, base + 2 * w] = (lots[0] - lots[1]) / scale[i, 1]
            if history >= length + 2:
                out[c, base + 2 * w + 1] = (lots[0] - 2 * lots[1] + lots[2]) / scale[i, 1]
        base += 2 * fast_windows
        if history >= vwap_panes:
            then = (pane - vwap_panes) % ring
            volume = cumulative[i, now, BUY] - cumulative[i, then, BUY] + cumulative[i, now, SELL] - cumulative[i, then, SELL]
            if volume > 0:
                out[c, base] = (cumulative[i, now, PRICE_VOLUME] - cumulative[i, then, PRICE_VOLUME]) / volume / scale[i, 0]
        state = windows
        if atr[i, 2] >= atr_length:
            out[c, base + 1] = atr[i, 3]
            if ranked_at[i] != atr_reached[i]:  # they change with a bar, not with an instant
                _rank_atr(i, percentile_min, meta, atr_history, ranks)
                ranked_at[i] = atr_reached[i]
            out[c, base + 2] = ranks[i, 0]
            out[c, base + 19] = ranks[i, 1]
        else:
            states[c, state] = MISSING
        state += 1
        p99_before[i] = p99_lots[i]
        if totals[i] >= quantile_min:
            p95, p99 = upper_quantiles(i, histogram, totals, top)
            p95 = max(p95, p99_floor[i] / 2.0 * scale[i, 1])
            p99 = max(p99, p99_floor[i] * scale[i, 1])
            p99_lots[i] = p99
            out[c, base + 3] = p95 / scale[i, 1]
            out[c, base + 4] = p99 / scale[i, 1]
        else:
            p99_lots[i] = 0.0
            states[c, state] = MISSING
        state += 1
        obi_state, obi, _ = _input(i, OBI, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
        out[c, base + 5] = obi
        states[c, state] = obi_state
        state += 1
        quote_state, bid, ask = _input(i, QUOTE, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
        out[c, base + 6] = bid
        out[c, base + 7] = ask
        states[c, state] = quote_state
        state += 1
        mark_state, mark, _ = _input(i, MARK, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
        out[c, base + 8] = mark
        states[c, state] = mark_state
        state += 1
        _, out[c, base + 9], _ = _input(i, INDEX, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
        funding_state, out[c, base + 10], _ = _input(i, FUNDING, instant, stale_funding, grid, in_pane, in_at, in_value, first_seen)
        states[c, state] = funding_state
        state += 1
        spot_state, spot_bid, spot_ask = _input(spot[c], QUOTE, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
        if spot_state == PRESENT and mark_state == PRESENT and mark > 0.0:
            out[c, base + 11] = ((spot_bid + spot_ask) / 2.0 - mark) / mark
        else:
            states[c, state] = MISSING if spot_state == MISSING or mark_state == MISSING else STALE
        state += 1
        oi_state, oi, _ = _input(i, OPEN_INTEREST, instant, stale_indicator, grid, in_pane, in_at, in_value, first_seen)
        out[c, base + 12] = oi
        if oi_state == PRESENT:
            before_state, before, _ = _input(
                i, OPEN_INTEREST, instant - oi_horizon, stale_indicator, grid, in_pane, in_at, in_value, first_seen
            )
            if before_state == PRESENT and before > 0.0:
                out[c, base + 13] = (oi - before) / before
            else:
                oi_state = before_state if before_state != PRESENT else MISSING
        states[c, state] = oi_state
        state += 1
        for kind in (LONG_SHORT, TOP_TRADER, PREMIUM):
            found, value, _ = _input(i, kind, instant, stale_indicator, grid, in_pane, in_at, in_value, first_seen)
            out[c, base + 14 + kind - LONG_SHORT] = value
            states[c, state] = found
            state += 1
        _fill_model_features(
            i, pane, grid, history, base + 17, scale, cumulative, funding_most, liquidated_pane, liquidated, liquidated_first, out[c]
        )  # fmt: skip
