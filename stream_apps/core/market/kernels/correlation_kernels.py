"""How two instruments move together: the correlation of the log returns of their bar prices, from the kept panes.

    r = cov(x, y) / (sd(x) sd(y)),    x_j = ln(p_j / p_{j-1}),  y likewise

p_j is the VWAP of bar j, an exact quotient of integer sums. A close would carry the noise of one trade, and closes of two instruments are
not of one moment, which lowers a correlation of short bars (Epps 1979). A bar without trades repeats the price before it (D4). The bars
end at the last whole bar at or before T. The result is NaN while one of the two lacks the history, and when one did not move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market.columns import BUY, CLOSED, FIRST_PANE, PRICE_VOLUME, SELL


@njit(cache=True, nogil=True)
def _lacks(i: int, first: int, end: int, meta: Any, ring: int) -> Any:
    """Return whether the sums of an instrument do not cover the panes (first, end]."""
    return meta[i, FIRST_PANE] < 0 or first < meta[i, FIRST_PANE] - 1 or meta[i, CLOSED] < end or meta[i, CLOSED] - first >= ring


@njit(cache=True, nogil=True)
def correlation(a: int, b: int, pane: int, length: int, bars: int, meta: Any, cumulative: Any) -> Any:
    """Return the correlation of two instruments over ``bars`` returns of bars of ``length`` panes; NaN when it is not defined.

    Args:
        a, b: Rows of the instruments; -1: unknown.
        pane: Pane that ends at T.
        length: Panes of a bar.
        bars: Number of returns.
        meta, cumulative: Arrays of the market state.
    """
    ring = cumulative.shape[1]
    end = pane // length * length
    first = end - (bars + 1) * length
    if a < 0 or b < 0 or _lacks(a, first, end, meta, ring) or _lacks(b, first, end, meta, ring):
        return np.nan
    prices, rows = np.zeros(2), (a, b)
    returns = np.zeros(2)
    sums, products = np.zeros(2), np.zeros(3)
    for bar in range(bars + 1):
        then, now = (first + bar * length) % ring, (first + (bar + 1) * length) % ring
        for n in range(2):
            i = rows[n]
            lots = cumulative[i, now, BUY] - cumulative[i, then, BUY] + cumulative[i, now, SELL] - cumulative[i, then, SELL]
            price = prices[n]
            if lots > 0:
                price = (cumulative[i, now, PRICE_VOLUME] - cumulative[i, then, PRICE_VOLUME]) / lots
            if price == 0.0:
                return np.nan  # nothing traded in the first bar
            returns[n] = np.log(price / prices[n]) if bar else 0.0
            prices[n] = price
        sums += returns
        products[0] += returns[0] * returns[0]
        products[1] += returns[1] * returns[1]
        products[2] += returns[0] * returns[1]
    spread_a, spread_b = bars * products[0] - sums[0] * sums[0], bars * products[1] - sums[1] * sums[1]
    if not (spread_a > 0.0 and spread_b > 0.0):
        return np.nan
    return (bars * products[2] - sums[0] * sums[1]) / np.sqrt(spread_a * spread_b)


@njit(cache=True, nogil=True)
def correlations(
    asked: Any, chosen: Any, firsts: Any, counts: Any, rows: Any, pane: int, length: int, bars: int, meta: Any, cumulative: Any, out: Any
) -> None:
    """Write the correlations of each evaluation's instrument with its pairs.

    Args:
        asked: (strategy, index into ``chosen``) of each evaluation.
        chosen: Rows of the instruments that fire.
        firsts, counts: By strategy: its first pair and its number of pairs.
        rows: Row of each pair's instrument; -1: unknown.
        pane, length, bars, meta, cumulative: As for ``correlation``.
        out: Receives the correlations, a row an evaluation.
    """
    for e in range(len(asked)):
        s = asked[e, 0]
        for k in range(counts[s]):
            out[e, k] = correlation(chosen[asked[e, 1]], rows[firsts[s] + k], pane, length, bars, meta, cumulative)
