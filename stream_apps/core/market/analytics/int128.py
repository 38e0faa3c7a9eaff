"""Exact sums of products: signed 128-bit integers as two unsigned words (low, high), two's complement.

A product of two 64-bit integers needs 128 bits. A window's sum of squares must be the same whether it was updated pane by pane or computed
anew after a restart; floats do not ensure that. An element leaves a sum by adding its negative, so a window costs the same whatever its
length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_SIGN = np.uint64(63)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)


@njit(cache=True, nogil=True)
def product(a: Any, b: Any) -> Any:
    """Return (low, high) of a * b for signed 64-bit integers."""
    ua = np.uint64(-a) if a < 0 else np.uint64(a)
    ub = np.uint64(-b) if b < 0 else np.uint64(b)
    a0, a1, b0, b1 = ua & _LOW, ua >> _HALF, ub & _LOW, ub >> _HALF
    low, cross, other = a0 * b0, a0 * b1, a1 * b0
    middle = (low >> _HALF) + (cross & _LOW) + (other & _LOW)
    lo = (low & _LOW) | (middle << _HALF)
    hi = a1 * b1 + (cross >> _HALF) + (other >> _HALF) + (middle >> _HALF)
    if (a < 0) != (b < 0):
        lo = ~lo + _ONE
        hi = ~hi + (_ONE if lo == _ZERO else _ZERO)
    return lo, hi


@njit(cache=True, nogil=True)
def add(total: Any, a: Any, b: Any) -> None:
    """Add a * b to ``total``, uint64 of shape (2,): low, high."""
    lo, hi = product(a, b)
    before = total[0]
    total[0] = before + lo
    total[1] = total[1] + hi + (_ONE if total[0] < before else _ZERO)


@njit(cache=True, nogil=True)
def as_float(lo: Any, hi: Any) -> Any:
    """Return the double next to a 128-bit integer (within one unit in the last place)."""
    if hi >> _SIGN:
        lo = ~lo + _ONE
        hi = ~hi + (_ONE if lo == _ZERO else _ZERO)
        return -(np.float64(hi) * 18446744073709551616.0 + np.float64(lo))
    return np.float64(hi) * 18446744073709551616.0 + np.float64(lo)


@njit(cache=True, nogil=True)
def spread(n: Any, total: Any, a: Any, b: Any) -> Any:
    """Return n * total - a * b: n^2 times the covariance of n pairs, from the sum of products and the sums of both factors.

    Only the last rounding is inexact.

    n is below 2^32. The difference is computed in integers: floats would lose it to cancellation where the mean is large.
    """
    count = np.uint64(n)
    first = (total[0] & _LOW) * count
    second = (total[0] >> _HALF) * count + (first >> _HALF)
    lo = (first & _LOW) | (second << _HALF)
    hi = total[1] * count + (second >> _HALF)
    minus_lo, minus_hi = product(a, b)
    borrow = _ONE if lo < minus_lo else _ZERO
    return as_float(lo - minus_lo, hi - minus_hi - borrow)
