"""Compiled loops over slow inputs: quotes, imbalance, mark, index, funding, open interest, ratios, premium, liquidations.

``state`` owns and explains the arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market.columns import (
    AHEAD,
    APPLIED,
    BAD_PRICE,
    BAD_QUANTITY,
    BAD_SIDE,
    CLOSED,
    FUNDING,
    LIQUIDATIONS_KEPT,
    MISSING,
    NO_INSTRUMENT,
    PRESENT,
    SLOTS,
    STALE,
    TOO_FAR,
    UNDECODED,
)


@njit(cache=True, nogil=True)
def put_inputs(
    instrument: Any, kind: int, times: Any, offsets: Any, first: Any, second: Any, use: Any, grid: int,
    meta: Any, in_pane: Any, in_at: Any, in_value: Any, first_seen: Any, status: Any,
) -> None:  # fmt: skip
    """Keep the newest value (by event time, then offset) of each pane. Rows with ``use`` False are skipped."""
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
    """Add liquidations to their pane: column 0 for LONG positions (side 1), column 1 for SHORT ones (side -1).

    Notional is in hundredths of a quote unit, so that sums are integers and do not depend on the order of rows. Liquidations have no id,
    and a producer writes equal ones once. So a row that equals one of the newest ``LIQUIDATIONS_KEPT`` is a repeat: a dying broker stored a
    batch twice.
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
    """Include the funding rates of the panes up to ``pane``, which are about to close, in the largest |rate| so far."""
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


@njit(cache=True, nogil=True)
def newest_input(i: int, kind: int, instant: int, limit: int, grid: int, in_pane: Any, in_at: Any, in_value: Any, first_seen: Any) -> Any:
    """Return (state, first value, second value) of an input at an instant."""
    if i < 0:
        return MISSING, np.nan, np.nan
    s = _look_up(i, kind, instant, limit, grid, in_pane, in_at)
    if s < 0:
        return (STALE if first_seen[i, kind] <= instant else MISSING), np.nan, np.nan
    if np.isnan(in_value[i, kind, s, 0]):
        return MISSING, np.nan, np.nan
    return PRESENT, in_value[i, kind, s, 0], in_value[i, kind, s, 1]
