"""What a strategy would decide on the newest stored market state: a dry run with its reasons. It writes nothing.

The scorer is the readable one (``scoring.evaluate``). It gets what the worker had at the instant: the features record, the large trades and whale prints of
15 minutes, and the strategy's memory after its signals before. Prints are not part of a features record, so they are taken from the stored trades. The
record has their number and flow: an instant whose prints do not match is not judged, because the sink has not written all of its trades yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from schemas.partition import base_of_instrument
from sinks.console.database import Connection, Row
from sinks.console.http.problems import Problem
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.market.snapshot import Prints, Snapshot, whale_flow
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import MODELS, StrategyMemory, evaluate
from stream_apps.core.signals.scoring.model import Judged
from stream_apps.core.signals.strategy import StrategyConfig, config_hash

PRINTS = timedelta(minutes=15)
# Newest instants that are tried. The sink writes a topic within seconds.
MOST_INSTANTS = 8
# Signals from which the memory is built. It is exact from the second entry on that flips.
MOST_SIGNALS = 1_000
# Flows of the record and of the stored trades are sums of the same numbers in another order.
_SAME = 1e-9
_SIGN = {"LONG": 1, "SHORT": -1}
_SAME_NAMES = (
    "vwap_30m", "atr", "atr_percentile", "obi", "spot_perp_divergence", "open_interest_change", "long_short_ratio", "top_trader_long_share",
    "coinbase_premium", "estimated_funding_rate", "volume_1m", "slope_1h", "atr_percentile_low", "funding_rate_max", "liquidated_long_5m",
    "liquidated_short_5m",
)  # fmt: skip
# price, quantity, buyer_is_maker, event time in ms.
Trade = tuple[float, float, bool, int]


def prints_of(trades: Sequence[Trade], quantiles: dict[int, float | None], instant: int, grid_ms: int) -> tuple[Prints, Prints]:
    """Return the large trades and the whale prints of the 15 minutes before ``instant``.

    Args:
        trades: In order of time.
        quantiles: Instant (ms) -> P99 of the trade quantity. A trade of pane k is large by the quantile of instant k - 2.
        instant: The instant, ms UTC.
        grid_ms: Length of a pane.
    """
    floor = EngineConfig().print_floor
    since = instant - int(PRINTS.total_seconds() * 1000)
    inside = [one for one in trades if since < one[3] <= instant]

    def large(one: Trade) -> bool:
        pane_end = -(-one[3] // grid_ms) * grid_ms
        quantile = quantiles.get(pane_end - 2 * grid_ms)
        return quantile is not None and one[1] >= quantile

    return _prints([one for one in inside if large(one)]), _prints([one for one in inside if one[0] * one[1] >= floor])


def _prints(trades: Sequence[Trade]) -> Prints:
    return Prints(
        np.array([one[0] for one in trades], dtype=np.float64),
        np.array([one[1] for one in trades], dtype=np.float64),
        np.array([not one[2] for one in trades], dtype=np.bool_),
    )


def snapshot_of(features: Row, large: Prints, whales: Prints) -> Snapshot:
    """Return the market state at the instant of a features record (times in ms)."""
    return Snapshot(
        instrument=features["instrument"],
        time=features["event_time"],
        decided_at=features["receive_time"],
        price=features["price"],
        cvd={window: features[f"cvd_{window}"] for window in WINDOWS},
        volume={window: features[f"volume_{window}"] for window in WINDOWS},
        slope={window: features[f"slope_{window}"] for window in FAST_WINDOWS},
        acceleration={window: features[f"acceleration_{window}"] for window in FAST_WINDOWS},
        quantity_p95=features["trade_quantity_p95"],
        quantity_p99=features["trade_quantity_p99"],
        large_trades=large,
        whale_prints=whales,
        late_trades=features["late_trades"],
        missing_inputs=tuple(features["missing_inputs"]),
        stale_inputs=tuple(features["stale_inputs"]),
        **{name: features[name] for name in _SAME_NAMES},
    )


def complete(features: Row, large: Prints, whales: Prints) -> bool:
    """Return whether the prints are those that the worker had: number of large trades, and flow of whale prints at the default size."""
    buys = int(np.count_nonzero(large.taker_buy))
    if (buys, large.taker_buy.shape[0] - buys) != (features["large_buys"], features["large_sells"]):
        return False
    flow, known = whale_flow(whales, EngineConfig().whale_usd), features["whale_flow"]
    return flow == known if flow is None or known is None else math.isclose(flow, known, rel_tol=_SAME, abs_tol=_SAME)


def memory_of(signals: Sequence[Row], config: StrategyConfig) -> StrategyMemory:
    """Return a strategy's memory after its signals, oldest first (times in ms)."""
    memory, closes_only = StrategyMemory(), MODELS[config.model].flip_closes_only
    for one in signals:
        memory = memory.after(one["event_time"], _SIGN[one["direction"]], one["entry"], one["flip"], closes_only)
    return memory


async def decide(
    connection: Connection, config: StrategyConfig, at: datetime | None, grid_ms: int, instrument: str | None = None
) -> dict[str, Any]:
    """Return the score record (times in ms) and the signal record, or None, of a strategy at the newest instant that can be judged.

    Args:
        config: Any configuration of an instrument: of a running strategy, of a paused one, or of one that was never written.
        at: No instant after this one; None: the newest.
        grid_ms: Length of a pane.
        instrument: One of the strategy's; None: its main one.

    Raises:
        Problem: 422, the strategy does not trade the instrument, or a gate needs what is not stored; 404, nothing was evaluated of the instrument;
            503, the sink has not written the trades of the newest instants.
    """
    leg = next((one for one in config.legs() if instrument in (None, one.instrument)), None)
    if leg is None:
        reason = f"must be one of {', '.join(config.all_instruments)}"
        raise Problem(422, f"body.instrument: {reason}", errors={"body.instrument": reason})
    if _reads_other_assets(config):
        reason = "its correlation gate reads panes of its other assets, which are not stored; try it with gate_correlation_enabled = false"
        raise Problem(422, f"body.strategy_id: {reason}", errors={"body.strategy_id": reason})
    rows = await _features(connection, leg.instrument, at)
    if not rows:
        raise Problem(404, f"no features of {leg.instrument} are stored; does a worker run, and a sink?")
    newest = rows[0]["event_time"]
    window = {"of": leg.instrument, "since": rows[-1]["event_time"] - PRINTS - timedelta(minutes=3), "until": newest}
    quantiles = {_ms(row["event_time"]): row["trade_quantity_p99"] for row in await _rows(connection, _QUANTILES, window)}
    known = [value for value in quantiles.values() if value is not None]
    least = {"floor": EngineConfig().print_floor, "quantity": min(known) if known else None}
    trades = [
        (row["price"], row["quantity"], row["buyer_is_maker"], _ms(row["event_time"]))
        for row in await _rows(connection, _TRADES, window | least)
    ]
    for row in rows:
        features = {**row, "event_time": _ms(row["event_time"]), "receive_time": _ms(row["receive_time"])}
        large, whales = prints_of(trades, quantiles, features["event_time"], grid_ms)
        if not complete(features, large, whales):
            continue
        signals = await _rows(
            connection,
            _SIGNALS,
            {"of": leg.instrument, "strategy": config.strategy_id, "until": row["event_time"], "limit": MOST_SIGNALS},
        )
        before = [{**one, "event_time": _ms(one["event_time"])} for one in reversed(signals)]
        found = evaluate(snapshot_of(features, large, whales), leg, config_hash(config), memory_of(before, leg))
        return {"score": found.score, "signal": found.signal, "newest_instant_ms": _ms(newest)}
    reason = "the stored trades do not match the newest features: the sink is behind, or trades are missing"
    raise Problem(503, reason, headers={"Retry-After": "2"})


def _reads_other_assets(config: StrategyConfig) -> bool:
    gates = [gate for gate in MODELS[config.model].of(config).gates if gate.judged is Judged.SAME_BET]
    on = any(gate.enabled is None or getattr(config, gate.enabled) for gate in gates)
    return on and len({base_of_instrument(name) for name in config.all_instruments}) > 1


_QUANTILES = (
    "SELECT event_time, trade_quantity_p99 FROM features WHERE instrument = %(of)s AND event_time > %(since)s AND event_time <= %(until)s"
)
# A repeated trade (back-fill) counts once, as in the worker.
_TRADES = """SELECT * FROM (
        SELECT DISTINCT ON (agg_id) agg_id, event_time, price, quantity, buyer_is_maker FROM agg_trades
        WHERE instrument = %(of)s AND event_time > %(since)s AND event_time <= %(until)s
            AND (price * quantity >= %(floor)s OR quantity >= %(quantity)s::double precision)
        ORDER BY agg_id, kafka_partition, kafka_offset) t ORDER BY event_time, agg_id"""
_SIGNALS = """SELECT event_time, direction, entry, flip FROM signals
    WHERE instrument = %(of)s AND strategy_id = %(strategy)s AND event_time < %(until)s ORDER BY event_time DESC LIMIT %(limit)s"""


async def _features(connection: Connection, instrument: str, at: datetime | None) -> list[Row]:
    return await _rows(
        connection,
        "SELECT * FROM features WHERE instrument = %(of)s AND (%(at)s::timestamptz IS NULL OR event_time <= %(at)s)"
        " ORDER BY event_time DESC LIMIT %(limit)s",
        {"of": instrument, "at": at, "limit": MOST_INSTANTS},
    )


async def _rows(connection: Connection, query: str, values: dict[str, Any]) -> list[Row]:
    return await (await connection.execute(query, values)).fetchall()  # type: ignore[arg-type]


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
