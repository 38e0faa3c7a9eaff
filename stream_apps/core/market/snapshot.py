"""The input of the scorers: the market state of one instrument at one evaluation instant (S1 2.10, DECISIONS D3-D11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_NO_FLOATS: FloatArray = np.empty(0, dtype=np.float64)
_NO_BOOLS: BoolArray = np.empty(0, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Prints:
    """Single trades kept for 15 minutes with their own price, size and side.

    Attributes:
        price: Trade prices, shape (n,).
        quantity: Base quantities, shape (n,).
        taker_buy: True where the aggressor bought, shape (n,).
    """

    price: FloatArray = field(default_factory=lambda: _NO_FLOATS)
    quantity: FloatArray = field(default_factory=lambda: _NO_FLOATS)
    taker_buy: BoolArray = field(default_factory=lambda: _NO_BOOLS)

    def notional(self) -> FloatArray:
        """Return price x quantity of each print at its own price, quote units, shape (n,)."""
        return self.price * self.quantity


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Market state at instant ``time``. A value that is missing, undefined or stale is None, never zero.

    Attributes:
        instrument: Instrument id.
        time: Instant T, ms UTC.
        decided_at: Time of the mark that fired it, ms UTC.
        price: Last trade price at or before T.
        cvd: Window name -> taker-buy minus taker-sell base quantity in (T - w, T]. None until the history covers w.
        volume: Window name -> base quantity traded, likewise.
        slope: Fast window name -> CVD(T) - CVD(T - step).
        acceleration: Fast window name -> slope(T) - slope(T - step).
        atr: Wilder ATR(14) of closed 5m bars, price units.
        atr_percentile: Rank of the newest closed-bar ATR among the last 288, per cent.
        quantity_p95, quantity_p99: Quantiles of trade quantity over 24 h, floored, base units. While the trade history is shorter than
            quantile_history_ms, they have a value but quantity_p99 is among the missing inputs.
        large_trades: Trades in (T - 15 min, T] of at least the quantity_p99 that held one grid step before their own pane began.
        whale_prints: Trades in (T - 15 min, T] of at least the engine's print floor: 1,000 quote units, the smallest whale_usd that a
            strategy may ask for.
        obi: Order-book imbalance of the top 10 levels.
        spot_perp_divergence: (spot mid - mark)/mark, fraction.
        open_interest_change: Relative change over the horizon, fraction.
        long_short_ratio, top_trader_long_share, coinbase_premium: Newest observations.
        estimated_funding_rate: Newest estimate, fraction an interval.
        volume_1m: Base quantity traded in (T - 1 min, T].
        slope_1h: Slope of the 1h CVD.
        atr_percentile_low: Smallest ATR percentile of the last 12 closed 5m bars, per cent.
        funding_rate_max: Largest |estimated funding rate| so far.
        liquidated_long_5m, liquidated_short_5m: Notional of liquidated positions of a side in (T - 5 min, T], quote units. None before the
            first liquidation.
        late_trades: Late trades so far.
        bets: (side, correlation or None) for each other asset of the evaluated strategy on which it may hold a position: side 1 LONG, -1
            SHORT, and how that instrument moves with this one.
        analytics: Field of the features topic -> value, for the measures in core/market/analytics. None for measures that are switched off.
        missing_inputs: Names of inputs never seen or undefined: any of atr, quantity_p99, cvd_<w>, obi, spot_perp_divergence,
            open_interest_change, long_short_ratio, top_trader_long_share, coinbase_premium.
        stale_inputs: Names of inputs that exist but are older than their limit (their value here is None).
    """

    instrument: str
    time: int
    decided_at: int
    price: float
    cvd: dict[str, float | None]
    volume: dict[str, float | None]
    slope: dict[str, float | None]
    acceleration: dict[str, float | None]
    vwap_30m: float | None = None
    atr: float | None = None
    atr_percentile: float | None = None
    quantity_p95: float | None = None
    quantity_p99: float | None = None
    large_trades: Prints = field(default_factory=Prints)
    whale_prints: Prints = field(default_factory=Prints)
    obi: float | None = None
    spot_perp_divergence: float | None = None
    open_interest_change: float | None = None
    long_short_ratio: float | None = None
    top_trader_long_share: float | None = None
    coinbase_premium: float | None = None
    estimated_funding_rate: float | None = None
    volume_1m: float | None = None
    slope_1h: float | None = None
    atr_percentile_low: float | None = None
    funding_rate_max: float | None = None
    liquidated_long_5m: float | None = None
    liquidated_short_5m: float | None = None
    late_trades: int = 0
    bets: tuple[tuple[int, float | None], ...] = ()
    analytics: Mapping[str, float | None] = field(default_factory=dict)
    missing_inputs: tuple[str, ...] = ()
    stale_inputs: tuple[str, ...] = ()


def whale_flow(prints: Prints, whale_usd: float) -> float | None:
    """Return (buyUSD - sellUSD)/(buyUSD + sellUSD) of prints of at least ``whale_usd``; None when there were none (D6)."""
    notional = prints.notional()
    chosen = notional >= whale_usd
    total = float(notional[chosen].sum())
    if total <= 0.0:
        return None
    buys = float(notional[chosen & prints.taker_buy].sum())
    return (2.0 * buys - total) / total
