"""Compile the kernels before their first use: the first call on a new machine takes seconds."""

from __future__ import annotations

from typing import Any

from schemas.codec.avro import Codec
from schemas.codec.recordset import RecordSet
from stream_apps.core.quality.monitor import PartitionMonitor
from stream_apps.core.quality.rules import QualityRules

_NAME = "WARMUP:BTCUSDT-PERP"
_START = 1_500_000_000_000


def compile_quality_kernels(codec: Codec) -> None:
    """Run one record of each kind through a monitor."""
    head = {"instrument": _NAME, "event_time": _START, "receive_time": _START}
    level = [1.0]
    records: dict[str, dict[str, Any]] = {
        "agg_trades": {"agg_id": 1, "first_trade_id": 1, "last_trade_id": 1, "price": 1.0, "quantity": 1.0, "buyer_is_maker": True},
        "quotes": {"update_id": 1, "bid_price": 1.0, "bid_quantity": 1.0, "ask_price": 2.0, "ask_quantity": 1.0},
        "depth": {"epoch": 1, "state": "live", "last_update_id": 1, "bid_prices": level, "bid_quantities": level, "ask_prices": [2.0],
                  "ask_quantities": level},
        "funding": {"mark_price": 1.0},
        "instruments": {"author": "warm-up", "venue": "WARMUP", "symbol": "BTCUSDT", "base_asset": "BTC", "quote_asset": "USDT", "kind": "perp",
                        "status": "trading", "tick_size": 0.1, "step_size": 0.1, "price_decimals": 1, "quantity_decimals": 1},
    }  # fmt: skip
    monitor = PartitionMonitor(QualityRules(), codec)
    for topic, record in records.items():
        monitor.feed(topic, RecordSet.from_messages([(0, _START, _NAME.encode(), codec.encode(topic, head | record))]))
    step = monitor.rules.window_ms
    mark = {"author": "warm-up", "venue": "WARMUP", "receive_time": _START, "cut": dict.fromkeys(records, 1)}
    marks = [codec.encode("progress", mark | {"event_time": _START + n * step}) for n in range(1, 4)]
    monitor.feed("progress", RecordSet.from_messages([(n, _START, b"warm-up", value) for n, value in enumerate(marks)]))
    monitor.advance()
