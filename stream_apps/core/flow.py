"""The flow of big trades, compiled: ``snapshot.whale_flow`` says the same in plain words, and both give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def pairwise_sum(values: Any) -> Any:
    """Return the sum as ``numpy.sum`` adds a contiguous array up, so that both give the same bits: in eights, and halves beyond 128."""
    n = len(values)
    if n < 8:
        total = 0.0
        for v in values:
            total += v
        return total
    if n <= 128:
        a, b, c, d, e, f, g, h = values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7]
        i = 8
        while i < n - n % 8:
            a += values[i]
            b += values[i + 1]
            c += values[i + 2]
            d += values[i + 3]
            e += values[i + 4]
            f += values[i + 5]
            g += values[i + 6]
            h += values[i + 7]
            i += 8
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
        while i < n:
            total += values[i]
            i += 1
        return total
    half = n // 2
    half -= half % 8
    return pairwise_sum(values[:half]) + pairwise_sum(values[half:])


@njit(cache=True, nogil=True)
def flow_of(prices: Any, quantities: Any, buys: Any, least: float) -> Any:
    """Return (buys - sells)/(buys + sells) of prints of at least a notional, quote units; NaN when there were none (``snapshot.whale_flow``)."""
    n = len(prices)
    chosen, bought = np.empty(n), np.empty(n)
    found = found_bought = 0
    for i in range(n):
        notional = prices[i] * quantities[i]
        if notional >= least:
            chosen[found] = notional
            found += 1
            if buys[i]:
                bought[found_bought] = notional
                found_bought += 1
    total = pairwise_sum(chosen[:found])
    if total <= 0.0:
        return np.nan
    return (2.0 * pairwise_sum(bought[:found_bought]) - total) / total
