"""Compile the kernels before their first use.

The first call of a compiled function on a new machine takes seconds. A service compiles before it joins its consumer group. The demo
compiles once before it starts several services that need the same code. It uses two processes, because one process compiles on one core
only.
"""

from __future__ import annotations

import numpy as np

from schemas.catalogue import schema
from schemas.codec.avro import Codec, Record
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.market.state import MarketState
from stream_apps.core.paper.market_rows import trade_block
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.scoring.batch import Batch, Market
from stream_apps.core.signals.strategy import StrategyConfig

_INSTRUMENT = "WARMUP:BTCUSDT-PERP"
_STRATEGY = StrategyConfig(strategy_id="warm-up", instrument=_INSTRUMENT, display_name="warm-up")
_START = 1_500_001_200_000 - 30_000  # its instants include a full hour


def _record(topic: str, **values: object) -> Record:
    """Return a record of a topic, with plain values for missing fields."""
    plain: dict[str, object] = {"string": "", "long": 0, "int": 0, "double": 1.0, "boolean": False}
    record: Record = {}
    for field in schema(topic)["fields"]:
        kind = field["type"]
        if isinstance(kind, dict):
            record[field["name"]] = [1.0] if kind["type"] == "array" else {} if kind["type"] == "map" else plain[kind["type"]]
        else:
            record[field["name"]] = None if isinstance(kind, list) else plain[kind]
    return {**record, "event_time": _START + 1, **values}


def compile_decisions(codec: Codec) -> None:
    """Evaluate an instrument without data.

    This compiles about half of what ``compile_kernels`` needs; the other process then finds it compiled.
    """
    config = EngineConfig()
    state = MarketState(config)
    pane = _START // config.grid_ms
    chosen = np.array([state.set_facts(_INSTRUMENT, "warm-up", 1, 1)], dtype=np.int64)
    state.start(int(chosen[0]), pane - 1)
    state.kept.advance(chosen, pane)
    rows, states, counts = state.features(chosen, pane)
    market = Market(rows, states, counts, state.kept.counts.take(chosen, 0), state.kept, chosen, _START, _START)
    Batch([(_STRATEGY, "")], codec, {}).evaluate([(0, 0)], market)


def compile_kernels(codec: Codec) -> None:
    """Run one tiny log through an engine, its checkpoint and a restored engine, and through the paper model's decoder."""
    config = EngineConfig()
    engine = SignalsEngine(0, config, codec)
    engine.take_strategy(_STRATEGY)
    due = _START + config.grid_ms + config.lateness_ms
    trades = [
        _record(
            "agg_trades",
            instrument=_INSTRUMENT,
            event_time=_START + 1 + n,
            agg_id=n,
            price=1_000.0,
            quantity=2.0,
            buyer_is_maker=n % 2 == 0,
        )
        for n in range(200)
    ]
    trades.append(_record("agg_trades", instrument=_INSTRUMENT, event_time=_START + 2 * config.grid_ms, agg_id=200))
    topics = {
        "instruments": [_record("instruments", instrument=_INSTRUMENT, author="warm-up", price_decimals=1, quantity_decimals=1)],
        "agg_trades": trades,
        "klines": [_record("klines", instrument=_INSTRUMENT, event_time=_START // 300_000 * 300_000, timeframe="5m")],
        "liquidations": [_record("liquidations", instrument=_INSTRUMENT, side="LONG")],
        "quotes": [_record("quotes", instrument=_INSTRUMENT)],
        "depth": [_record("depth", instrument=_INSTRUMENT, state="live")],
        "funding": [_record("funding", instrument=_INSTRUMENT, mark_price=1.0, estimated_rate=1e-4, settled_rate=1e-4)],
    }
    cut = {topic: len(records) for topic, records in topics.items()}
    for topic, records in topics.items():
        fed = RecordSet.from_messages(
            [(n, record["event_time"], _INSTRUMENT.encode(), codec.encode(topic, record)) for n, record in enumerate(records)]
        )
        engine.feed(topic, fed)
        if topic == "agg_trades":
            trade_block(codec, fed, KeyTable())
    marks = [_record("progress", author="warm-up", venue="WARMUP", event_time=due + n * config.grid_ms, cut=cut) for n in range(3)]
    engine.feed("progress", RecordSet.from_messages([(n, due, b"warm-up", codec.encode("progress", mark)) for n, mark in enumerate(marks)]))
    engine.advance()
    late = RecordSet.from_messages([(201, _START, _INSTRUMENT.encode(), codec.encode("agg_trades", {**trades[0], "agg_id": 201}))])
    engine.feed("agg_trades", late)
    mark = {**marks[-1], "event_time": due + 3 * config.grid_ms, "cut": {"agg_trades": 202}}
    engine.feed("progress", RecordSet.from_messages([(3, due, b"warm-up", codec.encode("progress", mark))]))
    engine.advance()
    entries = [(key, value) for key, value in engine.checkpoint() if value is not None]
    SignalsEngine.restore(0, config, codec, entries)
