"""Mark prices and pending evaluations as arrays, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.kernel_fingerprint import stamp
from stream_apps.core.labels import path_kernel
from stream_apps.core.labels.path_kernel import BLOCK, index_blocks, newest, outcome


@njit(cache=True, nogil=True)
def has_room(instrument: Any, closed: Any, grid: int, kept: int, times: Any, prices: Any, counts: Any, indexed: Any) -> bool:
    """Return whether every path has room for the rows' mark prices. Prices that are too old for any label are dropped for it."""
    room, n = times.shape[1], len(closed)
    added = np.zeros(n, dtype=np.int64)
    for row in range(len(instrument)):
        if instrument[row] >= 0:
            added[instrument[row]] += 1
    for i in range(n):
        if counts[i] + added[i] <= room:
            continue
        gone = newest(times[i], counts[i], (closed[i] - kept) * grid) + 1
        left = counts[i] - gone
        if gone:
            times[i, :left] = times[i, gone : counts[i]].copy()
            prices[i, :left] = prices[i, gone : counts[i]].copy()
            counts[i], indexed[i] = left, 0
        if left + added[i] > room:
            return False
    return True


@njit(cache=True, nogil=True)
def put_marks(
    first: int, last: int, instrument: Any, at: Any, values: Any, use: Any, closed: Any, grid: int, kept: int, ahead: int, times: Any,
    prices: Any, counts: Any, indexed: Any, late: Any, n_late: int,
) -> int:  # fmt: skip
    """Add mark prices in order of event time; of one time the later record comes later. Return the number of entries in ``late``.

    Args:
        first, last: The rows to take.
        instrument, at, values, use: The rows. Those with ``use`` False are skipped.
        closed: Last closed pane of each instrument.
        kept: Closed panes that are kept. ahead: Panes that may be open.
        times, prices, counts: The paths; they have room.
        indexed: Blocks of each path that are indexed.
        late: Takes (instrument, pane) of marks whose pane is closed. n_late: Entries that it holds.
    """
    for row in range(first, last):
        i, time, price = instrument[row], at[row], values[row]
        if i < 0 or not use[row] or not (np.isfinite(price) and price > 0.0):
            continue
        pane = (time + grid - 1) // grid
        if pane > closed[i] + ahead or pane <= closed[i] - kept:
            continue
        place = counts[i]
        while place > 0 and times[i, place - 1] > time:
            times[i, place], prices[i, place] = times[i, place - 1], prices[i, place - 1]
            place -= 1
        times[i, place], prices[i, place] = time, price
        counts[i] += 1
        indexed[i] = min(indexed[i], place // BLOCK)
        if pane <= closed[i]:
            late[n_late] = pane
            n_late += 1
    return n_late


def _make_label(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def label(
        parts: Any, mark_instruments: Any, mark_times: Any, mark_prices: Any, use: Any, closed: Any, panes: Any, ends: Any,
        instruments: Any, scored: Any, atr: Any, grid: int, horizon: int, kept: int, ahead: int, target_atr: float, stop_atr: float,
        return_ms: Any, binary_ms: Any, excursion_ms: int, stale: int, times: Any, prices: Any, counts: Any, blocks: Any, indexed: Any,
        pending: Any, pending_atr: Any, heads: Any, sizes: Any, late: Any, who: Any, moves: Any, binary: Any, excursion: Any, numbers: Any,
    ) -> Any:  # fmt: skip
        """Take mark prices, label what is due at instants, and keep what they evaluated. Return the numbers of labels and of late prices.

        Args:
            parts: (end of its mark prices, end of its instants) of each part of the work; in a part the mark prices come first.
            mark_instruments, mark_times, mark_prices, use: The mark prices, as ``put_marks`` takes them.
            closed: Last closed pane of each instrument, by part.
            panes, ends: Pane of each instant, and the end of its rows.
            instruments, scored, atr: The rows: instrument, whether a strategy was scored, ATR (NaN: not known).
            horizon: Panes from an evaluation to its label.
            blocks, indexed: Index of the paths, and its length.
            pending, pending_atr, heads, sizes: Evaluations that wait: a ring for each instrument.
            late: Takes the panes of late mark prices.
            who: Takes instrument, pane of the evaluation, and number of the instant. numbers: takes price and ATR at the evaluation.
        """
        stamp  # noqa: B018
        made = row = step = mark = n_late = 0
        room = pending.shape[1]
        for part in range(len(parts)):
            n_late = put_marks(
                mark, parts[part, 0], mark_instruments, mark_times, mark_prices, use, closed[part], grid, kept, ahead, times, prices, counts,
                indexed, late, n_late,
            )  # fmt: skip
            mark = parts[part, 0]
            while step < parts[part, 1]:
                pane = panes[step]
                while row < ends[step]:
                    i = instruments[row]
                    while sizes[i] and pending[i, heads[i]] <= pane - horizon:
                        at, value = pending[i, heads[i]], pending_atr[i, heads[i]]
                        heads[i] = (heads[i] + 1) % room
                        sizes[i] -= 1
                        who[made, 0], who[made, 1], who[made, 2] = i, at, step
                        if counts[i] // BLOCK > indexed[i]:
                            indexed[i] = index_blocks(times[i], prices[i], counts[i], indexed[i], blocks[i])
                        numbers[made, 0] = outcome(
                            times[i], prices[i], counts[i], blocks[i], indexed[i], at * grid, target_atr * value, stop_atr * value,
                            return_ms, binary_ms, excursion_ms, stale, moves[made], binary[made], excursion[made],
                        )  # fmt: skip
                        numbers[made, 1] = value
                        made += 1
                    if scored[row]:
                        last = (heads[i] + sizes[i]) % room
                        pending[i, last], pending_atr[i, last] = pane, atr[row]
                        sizes[i] += 1
                    row += 1
                step += 1
        return made, n_late

    return label


label = _make_label(stamp(path_kernel))


@njit(cache=True, nogil=True)
def closed_panes(
    panes: Any, closed: Any, grid: int, kept: int, times: Any, prices: Any, counts: Any, pending: Any, pending_atr: Any, heads: Any,
    sizes: Any, who: Any, atr: Any, mark_rows: Any, mark_times: Any, mark_prices: Any, ends: Any,
) -> None:  # fmt: skip
    """Write what closed panes hold: the evaluations that wait for their label, and the mark prices.

    Args:
        panes: The panes.
        closed: Last closed pane of each instrument. kept: Closed panes that are kept.
        who, atr: Take instrument and ATR of the evaluations, pane after pane.
        mark_rows, mark_times, mark_prices: Take the mark prices, pane after pane.
        ends: Takes, per pane, the ends of its evaluations and of its mark prices.
    """
    evaluations = marks = 0
    room = pending.shape[1]
    for p in range(len(panes)):
        pane = panes[p]
        for i in range(len(closed)):
            if pane > closed[i] or pane <= closed[i] - kept:
                continue
            low, high = 0, sizes[i]
            while low < high:
                middle = (low + high) // 2
                if pending[i, (heads[i] + middle) % room] < pane:
                    low = middle + 1
                else:
                    high = middle
            place = (heads[i] + low) % room
            if low < sizes[i] and pending[i, place] == pane:
                who[evaluations], atr[evaluations] = i, pending_atr[i, place]
                evaluations += 1
            first, last = newest(times[i], counts[i], (pane - 1) * grid) + 1, newest(times[i], counts[i], pane * grid) + 1
            for n in range(first, last):
                mark_rows[marks], mark_times[marks], mark_prices[marks] = i, times[i, n], prices[i, n]
                marks += 1
        ends[p, 0], ends[p, 1] = evaluations, marks


@njit(cache=True, nogil=True)
def open_marks(
    closed: Any, grid: int, kept: int, times: Any, prices: Any, counts: Any, sizes: Any, sums: Any, rows: Any, mark_times: Any,
    mark_prices: Any,
) -> int:  # fmt: skip
    """Write the mark prices of open panes, and how many mark prices and evaluations the closed panes hold. Return the number written."""
    found = 0
    for i in range(len(closed)):
        first = newest(times[i], counts[i], (closed[i] - kept) * grid) + 1
        opened = newest(times[i], counts[i], closed[i] * grid) + 1
        sums[i, 0], sums[i, 1] = max(opened - first, 0), sizes[i]
        for n in range(opened, counts[i]):
            rows[found], mark_times[found], mark_prices[found] = i, times[i, n], prices[i, n]
            found += 1
    return found
