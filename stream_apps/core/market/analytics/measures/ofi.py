"""Order-flow imbalance of the best quotes, base units: quantity added at the bid minus quantity added at the ask.

    e_n = [Pb_n >= Pb_(n-1)] qb_n - [Pb_n <= Pb_(n-1)] qb_(n-1) - [Pa_n <= Pa_(n-1)] qa_n + [Pa_n >= Pa_(n-1)] qa_(n-1)
    OFI(w) = sum of e_n over the quotes in (T - w, T]

Cont, Kukanov and Stoikov, "The Price Impact of Order Book Events", Journal of Financial Econometrics 12 (2014), eq. (4) and (6).

Quotes are taken by (event time, update id) when their pane closes. A repeated quote adds nothing. A late quote that is newer than the last
taken one comes next. An older one is left out, because the sum already holds the changes on both its sides. Silence is no gap: no quote
means no change. Prices and quantities are integer ticks and lots, so sums are exact.

Undefined while no quote lies before the window, and while the quote is stale (D9).
"""

from __future__ import annotations

from typing import Any

from numba import njit

FEATURES = ("ofi_1m", "ofi_5m")
WINDOWS_MS = (60_000, 300_000)


@njit(cache=True, nogil=True)
def event(bid0: Any, bid_lots0: Any, ask0: Any, ask_lots0: Any, bid: Any, bid_lots: Any, ask: Any, ask_lots: Any) -> Any:
    """Return e_n in lots, from the quote before and this one. Prices in ticks, quantities in lots."""
    flow = 0
    if bid >= bid0:
        flow += bid_lots
    if bid <= bid0:
        flow -= bid_lots0
    if ask <= ask0:
        flow -= ask_lots
    if ask >= ask0:
        flow += ask_lots0
    return flow
