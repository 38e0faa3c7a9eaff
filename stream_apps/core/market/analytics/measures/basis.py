"""Premium of the perpetual over its index and over spot, as a fraction.

    basis      = (mark - index) / index
    spot_basis = (mark - spot mid) / spot mid        the instrument of the same venue and symbol without -PERP

The venue publishes mark and index; see watchlist-arbitrage R001-123 (``spread_rel``) and R001-142 (``index_mark_divergence``).
``spot_perp_divergence`` (D7) is the second measure with the other sign, divided by the mark.

Undefined while either price is missing or stale (D9: 5 s).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FEATURES = ("basis", "spot_basis")


@njit(cache=True, nogil=True)
def value(mark: Any, other: Any) -> Any:
    """Return (mark - other) / other; NaN where either is NaN."""
    if not (mark > 0.0 and other > 0.0):
        return np.nan
    return (mark - other) / other
