"""Which analytics are kept, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# All measures; each has a file of its name.
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
# Smallest number of panes in a ring of flows. The window of kyle and vpin_bulk needs this much room for late trades.
SHORT_RING = 512
RING_ROOM = 32
DAY_MS = 86_400_000
RATES = 192  # funding rates kept per instrument and kind: 7 days of hourly ones, and 24


@dataclass(frozen=True)
class AnalyticsConfig:
    """Settings of the analytics. Times in ms of event time.

    Attributes:
        measures: Names of the measures that are kept. The fields of the others are null and cost nothing.
        vpin_bucket: Base asset -> volume of a bucket, base units. For other assets the volume is their own 24 h volume /
            ``vpin_buckets_per_day``. It is known after 24 h and set anew with the first pane of a UTC day (Easley, Lopez de Prado and
            O'Hara 2012 take 1/50 of a day's volume).
        vpin_buckets: Buckets that VPIN averages over.
        vpin_buckets_per_day: See ``vpin_bucket``.
        kyle_window_ms: Window of Kyle's lambda, and of the standard deviation of price changes in bulk classification.
        funding_window_ms: History of the funding z-score (S1 4.1: seven days).
        funding_min: With fewer rates in that window the z-score is undefined.
        divergence_bars: Number of closed bars with which the newest bar's close and CVD are compared.
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
            ValueError: it is not a whole number of panes, or fewer than two, or more than a day.
        """
        panes, rest = divmod(self.kyle_window_ms, grid_ms)
        if rest or panes < 2 or self.kyle_window_ms > DAY_MS:
            raise ValueError(f"kyle_window_ms: must be whole panes of {grid_ms} ms, two of them to a day, got {self.kyle_window_ms}")
        return panes

    def on(self, measure: str) -> bool:
        """Return whether a measure is kept."""
        return measure in self.measures

    @staticmethod
    def parse_measures(text: str) -> frozenset[str]:
        """Return the measures that a setting names: ``all``, ``none``, or names separated by commas.

        Raises:
            ValueError: a name is no measure.
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
            ValueError: the text has another form, or a volume is no positive number.
        """
        sizes: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            asset, _, volume = part.partition("=")
            try:
                sizes[asset.strip()] = float(volume)
            except ValueError:
                raise ValueError(f"PERPFLOW_VPIN_BUCKETS: {part!r} is not ASSET=VOLUME") from None
        return sizes
