"""Wilder's ATR on 5-minute bars (D4): our own bars, and the venue's (topic ``klines``) where our own are incomplete.

The recursion needs every bar in turn. Our own bar is complete when its trades are known from before its begin. The first bar of an
instrument is therefore incomplete.

For each bar the recursion takes our own if it is complete, else the venue's. If it has neither, it waits for the venue's bar for
``PATIENCE`` bars; a producer fetches that bar seconds after its end. After that it starts again behind the missing bar. Without any bar of
the venue, our first incomplete bar still gives the close for the first true range.

Published values never change: a bar that arrives behind the recursion is skipped. A bar's number is its end, in bar lengths since 1970.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market.columns import (
    AHEAD,
    APPLIED,
    ATR_COUNT,
    BAD_PRICE,
    CLOSED,
    FIRST_PANE,
    NO_INSTRUMENT,
    OFF_PRICE_GRID,
    TOO_FAR,
    UNDECODED,
)

RING = 512  # bars that may wait: more than the venue's bars of a day and a quarter
PATIENCE = 3  # the staleness limit of the venue's indicators, 15 min (D9), in bars
# Columns of ``waiting``: bar, high, low, close (ticks).
BAR, HIGH, LOW, CLOSE = range(4)


@njit(cache=True, nogil=True)
def _step(i: int, high: float, low: float, close: float, length: int, meta: Any, atr: Any, history: Any) -> None:
    """Take the next bar. The seed is the mean of the first true ranges; then the running recursion holds (equals TA-Lib)."""
    if atr[i, 0] > 0.0:
        previous = atr[i, 1]
        true_range = max(high - low, max(abs(high - previous), abs(low - previous)))
        atr[i, 2] += 1.0
        if atr[i, 2] < length:
            atr[i, 3] += true_range
        elif atr[i, 2] == length:
            atr[i, 3] = (atr[i, 3] + true_range) / length
        else:
            atr[i, 3] = (atr[i, 3] * (length - 1) + true_range) / length
        if atr[i, 2] >= length:
            history[i, meta[i, ATR_COUNT] % history.shape[1]] = atr[i, 3]
            meta[i, ATR_COUNT] += 1
    atr[i, 0] += 1.0
    atr[i, 1] = close


@njit(cache=True, nogil=True)
def _first(i: int, after: int, last: int, waiting: Any) -> Any:
    """Return the earliest waiting bar in (after, last], or -1."""
    found = -1
    for s in range(waiting.shape[1]):
        bar = waiting[i, s, BAR]
        if after < bar <= last and (found < 0 or bar < found):
            found = bar
    return found


@njit(cache=True, nogil=True)
def follow(i: int, last: int, length: int, meta: Any, scale: Any, reached: Any, waiting: Any, atr: Any, history: Any) -> None:
    """Take the waiting bars up to the closed bar ``last``, as long as none is missing."""
    if reached[i] < 0:
        first = _first(i, -1, last, waiting)
        if first < 0:
            return
        reached[i] = first - 1
    while reached[i] < last:
        bar = reached[i] + 1
        s = bar % waiting.shape[1]
        if waiting[i, s, BAR] == bar:
            price = scale[i, 0]
            _step(i, waiting[i, s, HIGH] / price, waiting[i, s, LOW] / price, waiting[i, s, CLOSE] / price, length, meta, atr, history)
            reached[i] = bar
            continue
        if last - reached[i] <= PATIENCE:
            return
        first = _first(i, bar, last, waiting)
        if first < 0:
            return
        reached[i] = first - 1
        meta[i, ATR_COUNT] = 0
        for j in range(4):
            atr[i, j] = 0.0


@njit(cache=True, nogil=True)
def own_bar(i: int, pane: int, panes: int, high: int, low: int, close: int, meta: Any, reached: Any, waiting: Any) -> None:
    """Let our own closed bar wait for its turn if it is complete, or if no other bar is known.

    Args:
        i: The instrument. pane: last pane of the bar. panes: panes a bar. high, low, close: ticks.
    """
    bar = pane // panes
    s = bar % waiting.shape[1]
    whole = 0 <= meta[i, FIRST_PANE] <= pane - panes
    if whole or (reached[i] < 0 and waiting[i, s, BAR] != bar):
        waiting[i, s, BAR] = bar
        waiting[i, s, HIGH] = high
        waiting[i, s, LOW] = low
        waiting[i, s, CLOSE] = close


@njit(cache=True, nogil=True)
def put_klines(
    instrument: Any, good: Any, use: Any, times: Any, highs: Any, lows: Any, closes: Any, grid: int, panes: int, length: int,
    meta: Any, scale: Any, reached: Any, waiting: Any, atr: Any, history: Any, status: Any,
) -> None:  # fmt: skip
    """Take bars of the venue. ``use`` marks the bars of the ATR's length. ``status`` of refused rows is set."""
    for row in range(len(times)):
        i = instrument[row]
        if not good[row]:
            status[row] = UNDECODED
            continue
        if i < 0 or scale[i, 0] == 0.0:
            status[row] = NO_INSTRUMENT
            continue
        if not use[row]:
            continue
        if not (0.0 < lows[row] <= closes[row] <= highs[row] < np.inf):
            status[row] = BAD_PRICE
            continue
        pane = times[row] // grid
        if pane > meta[i, CLOSED] + AHEAD:
            status[row] = TOO_FAR
            continue
        bar = pane // panes
        s = bar % waiting.shape[1]
        if bar <= reached[i] or waiting[i, s, BAR] == bar:
            continue
        refused = False
        for j in range(3):
            exact = (highs[row] if j == 0 else lows[row] if j == 1 else closes[row]) * scale[i, 0]
            ticks = np.int64(np.floor(exact + 0.5))
            if abs(exact - ticks) > 1e-9 * exact + 1e-6:
                refused = True
                break
            waiting[i, s, HIGH + j] = ticks
        if refused:
            waiting[i, s, BAR] = -1
            status[row] = OFF_PRICE_GRID
            continue
        status[row] = APPLIED
        waiting[i, s, BAR] = bar
        follow(i, meta[i, CLOSED] // panes, length, meta, scale, reached, waiting, atr, history)
