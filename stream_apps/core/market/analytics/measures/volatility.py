"""Realised volatility of pane closes, annualised, as a fraction (0.5: 50 % a year).

    r_k = ln(C_k / C_(k-1))        C_k: last trade price at the end of pane k
    RV(w) = sqrt(panes of a year) * std(r over the panes in (T - w, T])        year: 365 days of 24 h; std with n - 1

This is the specification's rv_m = sqrt(252) std(r) (platform-services R002-26) per pane instead of per day, for a market that trades all
day and all year.

Returns are integers of 2^-50, so that sums are exact in any order. This changes a return by less than 5e-16. A pane without trades has the
return 0. Undefined until the window is full.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market.analytics import int128

FEATURES = ("realised_volatility_5m", "realised_volatility_1h", "realised_volatility_24h")
WINDOWS_MS = (300_000, 3_600_000, 86_400_000)
YEAR_MS = 365 * 86_400_000
_UNIT = 2.0**50


@njit(cache=True, nogil=True)
def log_return(now: Any, before: Any) -> Any:
    """Return ln(now / before) in units of 2^-50, a whole number. Both positive."""
    return np.int64(np.floor(math.log(now / before) * _UNIT + 0.5))


@njit(cache=True, nogil=True)
def value(n: Any, sum_r: Any, sum_rr: Any, panes_a_year: Any) -> Any:
    """Return the annualised standard deviation of n returns, from their sum and sum of squares."""
    variance = max(int128.spread(n, sum_rr, sum_r, sum_r), 0.0) / (n * (n - 1.0))
    return math.sqrt(variance * panes_a_year) / _UNIT
