"""Numbers of the market state. All are settings; the defaults are DECISIONS D3-D11."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.partition import AssetGroups
from schemas.settings import Settings
from stream_apps.core.market.analytics.config import AnalyticsConfig

MINUTE_MS = 60_000
DAY_MS = 86_400_000

TIMEFRAMES: tuple[str, ...] = ("1m", "5m", "15m", "1h", "4h", "1d")
TIMEFRAME_MS: dict[str, int] = {"1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000}
ATR_TIMEFRAME = "5m"  # D4
# Upper bounds of the staleness limits and of the horizon. A checkpoint keeps slow inputs for these times, so that a limit may be raised
# after a restart.
MOST_BOOK_MS, MOST_FUNDING_MS, MOST_INDICATOR_MS, MOST_HORIZON_MS = 60_000, 1_800_000, 1_800_000, 1_800_000


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one engine. Times in ms of event time.

    Attributes:
        grid_ms: Step of the evaluation grid and length of a pane; divides a minute.
        lateness_ms: Instant T fires at the first mark with t >= T + lateness_ms.
        stale_book_ms: Limit for quotes, depth and mark price (D9).
        stale_funding_ms: Limit for the funding rate (D9).
        stale_indicator_ms: Limit for open interest, ratios and premium (D9).
        oi_horizon_ms: Horizon of the open-interest change (D8).
        print_window_ms: How long large trades and whale prints are kept (D5, D6).
        print_floor: Smallest notional of a kept print, quote units. It is the smallest whale_usd that a strategy may ask for (S1 7.1).
        whale_usd: Notional threshold of the whale_flow feature (D6); strategies use their own.
        p99_floors: Base asset -> smallest P99 of trade quantity, base units (D5). P95 has half of it (S1 2.4 has 5 and 10, 50 and 100).
        obi_levels: Levels of each side of the book in the imbalance (D7).
        regime_crash, regime_high_vol: ATR / price from which the regime is crash, or high_vol (D15).
        regime_trend: The regime is trend when |acceleration| of the fast CVD exceeds this share of the quantity traded in its window (D15).
            The default means: the net flow of a grid step exceeds that of the step before by 2 % of the window's volume.
        atr_length: Wilder length (D4).
        atr_history: ATR values that the percentile ranks against (D4).
        atr_percentile_min: With fewer values the percentile is undefined (S1 2.3).
        quantile_min_trades: With fewer trades in 24 h the quantiles are undefined (S1 2.4).
        quantile_history_ms: With a shorter trade history the input quantity_p99 counts as missing, so the instrument is not warm (D11).
            The default is the window of the quantiles. P95 and P99 are features all the same.
        quantile_histories_ms: Base asset -> its own such history, in place of quantile_history_ms.
        label_target_atr, label_stop_atr: Distances of target and stop of the binary labels, in ATR (S1 10.4).
        label_cost: Estimated cost of a round trip, fraction of price (S1 10.4): twice the taker fee of D22.
        analytics: Which further measures are kept, and their numbers.
        correlation_bar_ms, correlation_bars: Length of the bars, and number of their returns, of the correlation of two instruments. The
            default covers V5.0's slow window of 4 h (S2 6 has no number).
        groups: Base assets that share the partition, for strategies of several instruments.
    """

    grid_ms: int = 15_000
    lateness_ms: int = 250
    stale_book_ms: int = 5_000
    stale_funding_ms: int = 600_000
    stale_indicator_ms: int = 900_000
    oi_horizon_ms: int = 900_000
    print_window_ms: int = 900_000
    print_floor: float = 1_000.0
    whale_usd: float = 100_000.0
    p99_floors: Mapping[str, float] = field(default_factory=lambda: {"BTC": 10.0, "ETH": 100.0, "SOL": 1_000.0, "XRP": 100_000.0})
    obi_levels: int = 10
    regime_crash: float = 0.012
    regime_high_vol: float = 0.008
    regime_trend: float = 0.02
    atr_length: int = 14
    atr_history: int = 288
    atr_percentile_min: int = 10
    quantile_min_trades: int = 100
    quantile_history_ms: int = DAY_MS
    quantile_histories_ms: Mapping[str, float] = field(default_factory=dict)
    label_target_atr: float = 2.0
    label_stop_atr: float = 1.0
    label_cost: float = 0.001
    analytics: AnalyticsConfig = field(default_factory=AnalyticsConfig)
    correlation_bar_ms: int = 300_000
    correlation_bars: int = 48
    groups: AssetGroups = field(default_factory=AssetGroups)

    def __post_init__(self) -> None:
        if self.grid_ms <= 0 or MINUTE_MS % self.grid_ms:
            raise ValueError(f"grid_ms: must divide 60,000 so that every bar and window is a whole number of panes, got {self.grid_ms}")
        for name in ("oi_horizon_ms", "print_window_ms", "correlation_bar_ms"):
            if getattr(self, name) % self.grid_ms:
                raise ValueError(f"{name}: must be a multiple of grid_ms ({self.grid_ms}), got {getattr(self, name)}")
        if (self.correlation_bars + 1) * self.correlation_bar_ms > DAY_MS:
            most = DAY_MS // self.correlation_bar_ms - 1
            raise ValueError(f"correlation_bars: one bar more must fit into a day, so at most {most}, got {self.correlation_bars}")
        if self.lateness_ms < 0:
            raise ValueError(f"lateness_ms: must not be negative, got {self.lateness_ms}")
        self.analytics.kyle_panes(self.grid_ms)

    @property
    def day_panes(self) -> int:
        """Panes in the longest window."""
        return DAY_MS // self.grid_ms

    @classmethod
    def from_settings(cls, settings: Settings) -> EngineConfig:
        """Take grid, lateness, analytics and asset groups from the environment's settings.

        Raises:
            ValueError: the grid does not divide a minute, or a setting of the analytics names no measure or is no volume.
        """
        analytics = AnalyticsConfig(
            measures=AnalyticsConfig.parse_measures(settings.analytics),
            vpin_bucket={**AnalyticsConfig().vpin_bucket, **AnalyticsConfig.parse_buckets(settings.vpin_buckets)},
            vpin_buckets=settings.vpin_bucket_count,
        )
        return cls(grid_ms=settings.grid_ms, lateness_ms=settings.allowed_lateness_ms, analytics=analytics, groups=settings.groups)
