"""Liquidation pressure over five minutes (S1 4.5), quote units.

    liquidation_pressure = liquidated_long_5m - liquidated_short_5m        positive: longs are being closed, by selling

The market state keeps the two sums, in whole hundredths (``input_kernels.put_liquidations``). Venues sample these streams (Binance: at most
one order a second and instrument). So the sums are lower bounds, and the pressure is that of a sample. ``liquidation_cap_ms`` is the newest
liquidation's ``sampling_cap_ms``, null where the venue sends all.

Silence is normal (D9). After an instrument's first liquidation, an empty window is a measured 0. Before it, silence and a missing stream
look the same, so both values are null.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FEATURES = ("liquidation_pressure", "liquidation_cap_ms")
NO_CAP = -1


@njit(cache=True, nogil=True)
def value(longs: Any, shorts: Any) -> Any:
    """Return the difference of two sums of hundredths, without their rounding errors; NaN if one is NaN."""
    return np.floor((longs - shorts) * 100.0 + 0.5) / 100.0
