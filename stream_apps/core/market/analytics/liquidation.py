"""Liquidation pressure over five minutes (S1 4.5), quote units.

    liquidation_pressure = liquidated_long_5m - liquidated_short_5m        positive: longs are being closed, by selling

The two sums are kept with the market state, in whole hundredths (kernels.put_liquidations). Venues sample these streams (Binance: at most one order a second
and instrument), so sums are lower bounds and the pressure is one of a sample: ``liquidation_cap_ms`` is the newest liquidation's ``sampling_cap_ms``, null
where the venue sends all. Silence is normal (D9): once an instrument's first liquidation has been seen, nothing in the window is a measured 0; before,
there is no telling silence from a stream that is not there, and both are null.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FEATURES = ("liquidation_pressure", "liquidation_cap_ms")
NO_CAP = -1


@njit(cache=True, nogil=True)
def value(longs: Any, shorts: Any) -> Any:
    """Return the difference of two sums of hundredths without their rounding; NaN where they are."""
    return np.floor((longs - shorts) * 100.0 + 0.5) / 100.0
