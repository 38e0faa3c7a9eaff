"""Which analytics are kept, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Every measure there is; each has a file of its name.
MEASURES: tuple[str, ...] = (
    "microprice",
    "ofi",
    "vpin",
    "vpin_bulk",
    "kyle",
    "volatility",
    "liquidation",
    "funding",
    "basis",
    "divergence",
)
# Panes that a ring of flows holds: at least so many, and the window of kyle and vpin_bulk with so much room for what comes late.
SHORT_RING = 512
RING_ROOM = 32
DAY_MS = 86_400_000
RATES = 192  # funding rates kept per instrument and kind: 7 days of hourly ones, and 24


@dataclass(frozen=True)
class AnalyticsConfig:
    """Settings of the analytics. Times in ms of event time.

    Attributes:
        measures: Names of the measures that are kept; the fields of the others are null and cost nothing.
        vpin_bucket: Base asset -> volume of a bucket, base units. An asset that is not named has a bucket of its own 24 h volume / ``vpin_buckets_per_day``,
            known once 24 h are known and set anew with the first pane of a UTC day (Easley, Lopez de Prado and O'Hara 2012 take 1/50 of a day's volume).
        vpin_buckets: Buckets that VPIN averages over.
        vpin_buckets_per_day: See ``vpin_bucket``.
        kyle_window_ms: Window of Kyle's lambda, and of the price changes' deviation that bulk classification measures by.
        funding_window_ms: History of the funding z-score (S1 4.1: seven days).
        funding_min: Fewer rates in that window give no z-score.
        divergence_bars: Closed bars before the newest one that its close and CVD are compared with.
    """

    measures: frozenset[str] = frozenset(MEASURES)
    vpin_bucket: Mapping[str, float] = field(default_factory=lambda: {"BTC": 100.0, "ETH": 1_000.0, "SOL": 10_000.0, "XRP": 1_000_000.0})
    vpin_buckets: int = 50
    vpin_buckets_per_day: int = 50
    kyle_window_ms: int = 3_600_000
    funding_window_ms: int = 604_800_000
    funding_min: int = 10
    divergence_bars: int = 20

    def __post_init__(self) -> None:
        unknown = sorted(set(self.measures) - set(MEASURES))
        if unknown:
            raise ValueError(f"measures: {', '.join(unknown)} not among {', '.join(MEASURES)}")
        for name in ("vpin_buckets", "vpin_buckets_per_day", "divergence_bars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.funding_min < 2:
            raise ValueError(f"funding_min: a deviation needs at least 2 rates, got {self.funding_min}")
        for asset, volume in self.vpin_bucket.items():
            if not 0 < volume < float("inf"):
                raise ValueError(f"vpin_bucket: {asset} has {volume}, must be positive and finite")

    def kyle_panes(self, grid_ms: int) -> int:
        """Return the length of ``kyle_window_ms`` in panes.

        Raises:
            ValueError: it is no whole number of panes, fewer than two, or more than a day.
        """
        panes, rest = divmod(self.kyle_window_ms, grid_ms)
        if rest or panes < 2 or self.kyle_window_ms > DAY_MS:
            raise ValueError(f"kyle_window_ms: must be whole panes of {grid_ms} ms, two of them to a day, got {self.kyle_window_ms}")
        return panes

    def on(self, measure: str) -> bool:
        """Tell whether a measure is kept."""
        return measure in self.measures

    @staticmethod
    def parse_measures(text: str) -> frozenset[str]:
        """Return the measures that a setting names: ``all``, ``none``, or names with commas.

        Raises:
            ValueError: a name that is no measure.
        """
        names = {part.strip() for part in text.split(",") if part.strip()}
        if names == {"all"}:
            return frozenset(MEASURES)
        if names == {"none"} or not names:
            return frozenset()
        unknown = sorted(names - set(MEASURES))
        if unknown:
            raise ValueError(f"PERPFLOW_ANALYTICS: {', '.join(unknown)} not among all, none, {', '.join(MEASURES)}")
        return frozenset(names)

    @staticmethod
    def parse_buckets(text: str) -> dict[str, float]:
        """Return base asset -> bucket volume of ``BTC=100,ETH=1000``.

        Raises:
            ValueError: not of that form, or a volume that is no positive number.
        """
        sizes: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            asset, _, volume = part.partition("=")
            try:
                sizes[asset.strip()] = float(volume)
            except ValueError:
                raise ValueError(f"PERPFLOW_VPIN_BUCKETS: {part!r} is not ASSET=VOLUME") from None
        return sizes
