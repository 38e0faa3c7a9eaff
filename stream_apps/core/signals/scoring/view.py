"""One instrument at one instant as a scoring model sees it: the inputs of points and gates."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from schemas.partition import base_of_instrument
from stream_apps.core.market.snapshot import Snapshot, whale_flow

LONG, SHORT, NONE = "LONG", "SHORT", "NONE"
DIRECTION_NAMES = {1: LONG, -1: SHORT, 0: NONE}

# Inputs of the strategy's own window: name -> prefix of the window's name in records.
_OF_FAST = {"cvd_fast": "cvd", "slope_fast": "slope", "acceleration_fast": "acceleration"}
_OF_SLOW = {"cvd_slow": "cvd"}
# V5.0: a minute with more than three times the day's mean minute volume stretches the fast window to an hour (S2 5.2).
STRETCH_VOLUME = 3.0
_MINUTES_A_DAY = 1440.0


class View(NamedTuple):
    """A snapshot through a pair of windows.

    Attributes:
        snapshot: Market state at the instant.
        fast_window, slow_window: The windows.
        fast, slow: Their CVDs, base units; None while undefined.
        slope, acceleration: Of the fast CVD.
        lean: Direction of the fast CVD: 1, -1, or 0 when it is zero or undefined.
        agree: Both CVDs have that sign.
        volatility: ATR/price. None when the ATR is missing or the price is not positive.
        large_buys, large_sells: Number of large trades in 15 minutes.
    """

    snapshot: Snapshot
    fast_window: str
    slow_window: str
    fast: float | None
    slow: float | None
    slope: float | None
    acceleration: float | None
    lean: int
    agree: bool
    volatility: float | None
    large_buys: int
    large_sells: int

    def name_of(self, name: str) -> str:
        """Return an input's name in records: ``cvd_fast`` of a 30m window is ``cvd_30m``."""
        return shown(name, self.fast_window, self.slow_window)


@lru_cache(maxsize=1024)
def shown(name: str, fast_window: str, slow_window: str) -> str:
    """Return an input's name in records under a pair of windows."""
    if name in _OF_FAST:
        return f"{_OF_FAST[name]}_{fast_window}"
    return f"{_OF_SLOW[name]}_{slow_window}" if name in _OF_SLOW else name


def view_of(snapshot: Snapshot, fast_window: str, slow_window: str, stretch: bool) -> View:
    """Return a snapshot's view. With ``stretch`` the fast window is an hour in a minute of heavy trading."""
    slope = snapshot.slope.get(fast_window)
    acceleration = snapshot.acceleration.get(fast_window)
    if stretch and _heavy_minute(snapshot):
        fast_window, slope, acceleration = "1h", snapshot.slope_1h, None
    fast, slow = snapshot.cvd.get(fast_window), snapshot.cvd.get(slow_window)
    lean = 0 if fast is None or fast == 0.0 else 1 if fast > 0.0 else -1
    large = snapshot.large_trades.taker_buy
    buys = int(np.count_nonzero(large))
    return View(
        snapshot,
        fast_window,
        slow_window,
        fast,
        slow,
        slope,
        acceleration,
        lean,
        lean != 0 and slow is not None and slow * lean > 0.0,
        snapshot.atr / snapshot.price if snapshot.atr is not None and snapshot.price > 0.0 else None,
        buys,
        large.shape[0] - buys,
    )


def _heavy_minute(snapshot: Snapshot) -> bool:
    day = snapshot.volume.get("24h")
    return snapshot.volume_1m is not None and day is not None and snapshot.volume_1m > STRETCH_VOLUME * day / _MINUTES_A_DAY


# Input -> its value. None: missing, undefined or stale (D10).
INPUTS: dict[str, Callable[[View], float | None]] = {
    "atr": lambda view: view.snapshot.atr,
    # A quantile of a short history has a value but counts as missing (D11).
    "quantity_p99": lambda view: None if "quantity_p99" in view.snapshot.missing_inputs else view.snapshot.quantity_p99,
    "cvd_fast": lambda view: view.fast,
    "cvd_slow": lambda view: view.slow,
    "slope_fast": lambda view: view.slope,
    "acceleration_fast": lambda view: view.acceleration,
    "large_buys": lambda view: float(view.large_buys),
    "large_sells": lambda view: float(view.large_sells),
    "price": lambda view: view.snapshot.price,
    "vwap_30m": lambda view: view.snapshot.vwap_30m,
    "volume_1m": lambda view: view.snapshot.volume_1m,
    "volume_24h": lambda view: view.snapshot.volume.get("24h"),
    "atr_percentile": lambda view: view.snapshot.atr_percentile,
    "atr_percentile_low": lambda view: view.snapshot.atr_percentile_low,
    "obi": lambda view: view.snapshot.obi,
    "spot_perp_divergence": lambda view: view.snapshot.spot_perp_divergence,
    "estimated_funding_rate": lambda view: view.snapshot.estimated_funding_rate,
    "funding_rate_max": lambda view: view.snapshot.funding_rate_max,
    "liquidated_long_5m": lambda view: view.snapshot.liquidated_long_5m,
    "liquidated_short_5m": lambda view: view.snapshot.liquidated_short_5m,
    "open_interest_change": lambda view: view.snapshot.open_interest_change,
    "long_short_ratio": lambda view: view.snapshot.long_short_ratio,
    "top_trader_long_share": lambda view: view.snapshot.top_trader_long_share,
    "coinbase_premium": lambda view: view.snapshot.coinbase_premium,
}


@lru_cache(maxsize=4096)
def is_btc(instrument: str) -> bool:
    """Return whether the instrument's base asset is BTC."""
    return base_of_instrument(instrument) == "BTC"


def big_money(view: View, whale_usd: float) -> float | None:
    """Return the flow, in [-1, 1], of big trades of at least ``whale_usd`` at their own price. None without such trades.

    For BTC it is the flow of all whale prints (D6). Other instruments have too few of them, so it is that of the large trades (S1 3.6).
    """
    snapshot = view.snapshot
    return whale_flow(snapshot.whale_prints if is_btc(snapshot.instrument) else snapshot.large_trades, whale_usd)
