"""Kyle's lambda: the price change per unit of net taker flow, price units per base unit.

    d_k = a + lambda x_k + e_k        least squares over the panes of the last ``kyle_window_ms`` (default 1 h)
    lambda = (n sum(x d) - sum(x) sum(d)) / (n sum(x^2) - sum(x)^2)

d_k: change of the pane's last trade price since the pane before; x_k: taker-buy minus taker-sell quantity of the pane. A pane without trades counts with
d = x = 0. Kyle, "Continuous Auctions and Insider Trading", Econometrica 53 (1985); estimated by regression on signed volume as in Hasbrouck,
"Trading Costs and Returns for U.S. Equities", Journal of Finance 64 (2009).

Sums are exact integers of ticks and lots. Late trades change no regressor. Undefined until the window is full, and when the net flow never varied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market.analytics import int128

FEATURES = ("kyle_lambda",)


@njit(cache=True, nogil=True)
def value(n: Any, sum_x: Any, sum_d: Any, sum_xx: Any, sum_xd: Any) -> Any:
    """Return the slope in ticks per lot; NaN when x does not vary. The sums of products are 128-bit integers."""
    variation = int128.spread(n, sum_xx, sum_x, sum_x)
    if not variation > 0.0:
        return np.nan
    return int128.spread(n, sum_xd, sum_x, sum_d) / variation


@njit(cache=True, nogil=True)
def deviation(n: Any, sum_d: Any, sum_dd: Any) -> Any:
    """Return the sample standard deviation of the panes' price changes, ticks."""
    return np.sqrt(max(int128.spread(n, sum_dd, sum_d, sum_d), 0.0) / (n * (n - 1.0)))
