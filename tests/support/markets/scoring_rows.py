"""Between the rows that a batch scores and the snapshots that the plain scorer judges, for the tests and the benchmark that hold one to the other."""

from __future__ import annotations

import numpy as np

from stream_apps.core.market import columns as col
from stream_apps.core.market.analytics.store import FEATURES as ANALYTICS
from stream_apps.core.market.prints import PRINT, PrintStore
from stream_apps.core.market.snapshot import Snapshot
from stream_apps.core.market.state import FEATURES, INPUTS
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring.batch import Market

# Fields of a snapshot that have the name of a feature, and those that have another one.
_OF_FEATURES = {
    name: name
    for name in (
        "vwap_30m", "atr", "atr_percentile", "obi", "spot_perp_divergence", "open_interest_change", "long_short_ratio", "top_trader_long_share",
        "coinbase_premium", "estimated_funding_rate", "volume_1m", "slope_1h", "atr_percentile_low", "funding_rate_max", "liquidated_long_5m",
        "liquidated_short_5m",
    )
} | {"quantity_p95": "trade_quantity_p95", "quantity_p99": "trade_quantity_p99"}  # fmt: skip


def kept_of(shots: list[Snapshot]) -> PrintStore:
    """The prints of snapshots of one instant, those of a snapshot as those of an instrument."""
    store = PrintStore(1, 1_000_000, np.inf)
    store.grow(len(shots))
    for i, shot in enumerate(shots):
        for prints, flag in ((shot.large_trades, col.LARGE), (shot.whale_prints, col.WHALE)):
            rows = np.zeros(len(prints.price), dtype=PRINT)
            rows["time"], rows["offset"], rows["instrument"], rows["flags"] = 1, np.arange(len(rows)), i, flag
            rows["price"], rows["quantity"], rows["buy"] = prints.price, prints.quantity, prints.taker_buy
            store.keep(rows, len(rows))
    store.advance(np.arange(len(shots)), 1)
    return store


def market_of(shots: list[Snapshot]) -> Market:
    """Snapshots of one instant as the rows that a batch scores."""
    features, states = np.full((len(shots), len(FEATURES)), np.nan), np.full((len(shots), len(INPUTS)), col.PRESENT, dtype=np.int8)
    counts, prints = np.zeros((len(shots), 2), dtype=np.int64), np.zeros((len(shots), 2), dtype=np.int64)
    for r, shot in enumerate(shots):
        values = {"price": shot.price, **{feature: getattr(shot, name) for name, feature in _OF_FEATURES.items()}}
        for prefix in ("cvd", "volume", "slope", "acceleration"):
            values |= {f"{prefix}_{window}": value for window, value in getattr(shot, prefix).items()}
        values |= shot.analytics
        for name, value in values.items():
            features[r, FEATURES.index(name)] = np.nan if value is None else value
        for name in shot.missing_inputs:
            states[r, INPUTS.index(name)] = col.MISSING
        for name in shot.stale_inputs:
            states[r, INPUTS.index(name)] = col.STALE
        counts[r, 1] = shot.late_trades
        buys = int(np.count_nonzero(shot.large_trades.taker_buy))
        prints[r] = buys, len(shot.large_trades.taker_buy) - buys
    return Market(features, states, counts, prints, kept_of(shots), np.arange(len(shots)), shots[0].time, shots[0].decided_at)


def snapshot_of(market: Market, row: int, instrument: str) -> Snapshot:
    """A row of a market as a snapshot: the plain way back."""
    values = {name: None if value != value else value for name, value in zip(FEATURES, market.features[row].tolist(), strict=True)}
    states = dict(zip(INPUTS, market.states[row].tolist(), strict=True))
    return Snapshot(
        instrument=instrument,
        time=market.instant,
        decided_at=market.decided_at,
        price=float(market.features[row, 0]),
        cvd={window: values[f"cvd_{window}"] for window in WINDOWS},
        volume={window: values[f"volume_{window}"] for window in WINDOWS},
        slope={window: values[f"slope_{window}"] for window in FAST_WINDOWS},
        acceleration={window: values[f"acceleration_{window}"] for window in FAST_WINDOWS},
        **{name: values[feature] for name, feature in _OF_FEATURES.items()},
        large_trades=market.kept.large(int(market.instruments[row])),
        whale_prints=market.kept.whales(int(market.instruments[row])),
        late_trades=int(market.counts[row, 1]),
        analytics={name: values[name] for name in ANALYTICS},
        missing_inputs=tuple(name for name, state in states.items() if state == col.MISSING),
        stale_inputs=tuple(name for name, state in states.items() if state == col.STALE),
    )
