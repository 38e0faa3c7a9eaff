"""From a row of features to the snapshot that the strategies of an instrument are judged by."""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple

from stream_apps.core.analytics.store import FEATURES as ANALYTICS
from stream_apps.core.prints import Window
from stream_apps.core.snapshot import FAST_WINDOWS, WINDOWS, Snapshot
from stream_apps.core.state import FEATURES

_PLACE = {name: place for place, name in enumerate(FEATURES)}
# The places are looked up once, not for every instant.
_CVD = itemgetter(*(_PLACE[f"cvd_{w}"] for w in WINDOWS))
_VOLUME = itemgetter(*(_PLACE[f"volume_{w}"] for w in WINDOWS))
_SLOPE = itemgetter(*(_PLACE[f"slope_{w}"] for w in FAST_WINDOWS))
_ACCELERATION = itemgetter(*(_PLACE[f"acceleration_{w}"] for w in FAST_WINDOWS))
_MARKET = itemgetter(*(_PLACE[name] for name in ("vwap_30m", "atr", "atr_percentile", "trade_quantity_p95", "trade_quantity_p99")))
# In the order of Snapshot's fields from ``obi`` on.
_INPUTS = itemgetter(*(_PLACE[name] for name in (
    "obi", "spot_perp_divergence", "open_interest_change", "long_short_ratio", "top_trader_long_share", "coinbase_premium",
    "estimated_funding_rate", "volume_1m", "slope_1h", "atr_percentile_low", "funding_rate_max", "liquidated_long_5m", "liquidated_short_5m",
)))  # fmt: skip
_ANALYTICS = itemgetter(*(_PLACE[name] for name in ANALYTICS))


class Absent(NamedTuple):
    """Names of missing and of stale inputs, and both as they end a features record."""

    missing: tuple[str, ...]
    stale: tuple[str, ...]
    encoded: bytes


def snapshot_of(name: str, instant: int, decided_at: int, row: list[float], prints: Window, absent: Absent, late: int) -> Snapshot:
    """Return the snapshot of an instrument at an instant.

    Args:
        name: Instrument.
        instant, decided_at: Instant and time of the mark that fired it, ms UTC.
        row: Columns FEATURES; NaN becomes None.
        prints: Large trades and whale prints of the last quarter of an hour.
        absent: Inputs without a value.
        late: Late trades so far.
    """
    values = [None if value != value else value for value in row]
    vwap, atr, atr_percentile, p95, p99 = _MARKET(values)
    obi, divergence, interest, ratio, top, premium, funding, minute, slope_1h, low, most, longs, shorts = _INPUTS(values)
    return Snapshot(
        name,
        instant,
        decided_at,
        row[0],
        dict(zip(WINDOWS, _CVD(values), strict=True)),
        dict(zip(WINDOWS, _VOLUME(values), strict=True)),
        dict(zip(FAST_WINDOWS, _SLOPE(values), strict=True)),
        dict(zip(FAST_WINDOWS, _ACCELERATION(values), strict=True)),
        vwap,
        atr,
        atr_percentile,
        p95,
        p99,
        prints.large,
        prints.whales,
        obi,
        divergence,
        interest,
        ratio,
        top,
        premium,
        funding,
        minute,
        slope_1h,
        low,
        most,
        longs,
        shorts,
        late,
        dict(zip(ANALYTICS, _ANALYTICS(values), strict=True)),
        absent.missing,
        absent.stale,
    )


assert FEATURES[0] == "price"
