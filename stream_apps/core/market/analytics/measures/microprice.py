"""Expected price of the next trade between bid and ask, price units.

    microprice   = (Pb qa + Pa qb) / (qa + qb)          quantities of the best quotes
    weighted_mid = (Pb Qa + Pa Qb) / (Qa + Qb)          quantities summed over the top 10 levels of the book (the levels of OBI, D7)

Cartea, Jaimungal and Penalva, "Algorithmic and High-Frequency Trading" (2015), section 3.1 (microprice). Stoikov, "The Micro-Price", Quantitative Finance
18 (2018) calls the same formula weighted mid and keeps "micro-price" for an estimate fitted to history, which this is not.

Undefined while the quote (the book) is stale (D9), while the book is not live, and where a side has no quantity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FEATURES = ("microprice", "weighted_mid")


@njit(cache=True, nogil=True)
def value(bid: Any, bid_quantity: Any, ask: Any, ask_quantity: Any) -> Any:
    """Return the mid weighted by the other side's quantity; NaN if a side has no quantity."""
    if not (bid_quantity > 0 and ask_quantity > 0):
        return np.nan
    return bid + (ask - bid) * (bid_quantity / (bid_quantity + ask_quantity))
