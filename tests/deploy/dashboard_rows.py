"""A small database of which every panel can show something: one contract and a second one, two strategies, twenty-five days of trades, an hour of market.

Written as the sink writes (its encoder, binary COPY, its registry); scores are the scorer's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from schemas import catalogue
from schemas.codec.avro import Codec, Record
from schemas.codec.recordset import RecordSet
from schemas.partition import AssetGroups
from sinks.timescale import strategy_registry
from sinks.timescale.rows import COPY_HEADER, COPY_TRAILER, encode
from sinks.timescale.tables import table
from stream_apps.core.market.snapshot import Prints, Snapshot
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import StrategyMemory, evaluate
from stream_apps.core.signals.strategy import StrategyConfig, config_hash

CODEC = Codec()
DAY, HOUR, MINUTE, GRID = 86_400_000, 3_600_000, 60_000, 15_000
UNTIL = 1_760_054_400_000  # 2025-10-10 00:00 UTC
SINCE = UNTIL - 25 * DAY  # enough days for daily statistics
OPEN = UNTIL - HOUR  # the hour of market data begins
BTC, ETH = "BINANCE:BTCUSDT-PERP", "BINANCE:ETHUSDT-PERP"
STRATEGIES = [
    StrategyConfig(strategy_id="one", instrument=BTC, display_name="BTC one"),
    StrategyConfig(strategy_id="two", instrument=BTC, display_name="BTC 'two'", entry_score=70.0, gate_obi_enabled=False),
]


def record(topic: str, **values: Any) -> Record:
    """Return a record of the schema: what is not given is null, empty, false or zero."""
    empty = {"string": "", "boolean": False, "array": [], "map": {}, "double": 0.0}
    made: Record = {}
    for field in catalogue.schema(topic)["fields"]:
        kind = field["type"]
        kind = None if isinstance(kind, list) else kind["type"] if isinstance(kind, dict) else kind
        made[field["name"]] = None if kind is None else empty.get(kind, 0)
    assert set(values) <= set(made), set(values) - set(made)
    made |= values
    if "receive_time" in made and not made["receive_time"]:
        made["receive_time"] = made["event_time"] + 40
    return made


def write(connection: psycopg.Connection, topic: str, records: Iterable[Record]) -> None:
    """Write records as the sink does."""
    values = [CODEC.encode(topic, one) for one in records]
    rows = encode(CODEC, topic, RecordSet.from_messages([(n, 0, None, value) for n, value in enumerate(values)]), 0)
    assert not rows.refused
    names = sql.SQL(", ").join(map(sql.Identifier, table(topic).column_names))
    with connection.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(topic), names)) as copy:
        for part in (COPY_HEADER, rows.payload, COPY_TRAILER):
            copy.write(part)


def price(time: int) -> float:
    """A price that swings by 1 % in 20 minutes."""
    return round(60_000 * (1 + 0.01 * math.sin(time / (20 * MINUTE) * 2 * math.pi)), 1)


def market() -> dict[str, list[Record]]:
    """The market data of the hour, the bars of 26 hours, and what the quality monitor and the producers found."""
    steps = range(OPEN, UNTIL, 5_000)
    trades = [
        record("agg_trades", instrument=BTC, event_time=at, agg_id=n, first_trade_id=n, last_trade_id=n, price=price(at),
               quantity=(0.01, 0.1, 0.5, 3.0)[n % 4], buyer_is_maker=n % 3 == 0)
        for n, at in enumerate(steps)
    ]  # fmt: skip
    facts = [
        record("instruments", instrument=name, event_time=SINCE, author="t", venue="BINANCE", symbol=name[8:15], base_asset=name[8:11], quote_asset="USDT",
               kind="perp", status="TRADING", tick_size=0.1, step_size=0.001, price_decimals=1, quantity_decimals=3)
        for name in (BTC, ETH)
    ]  # fmt: skip
    bars = [
        record("bars", instrument=name, event_time=at, timeframe=frame, open=price(at - step), high=price(at) + 9, low=price(at) - 9, close=price(at),
               volume=10.0, cvd=3.0 if at // step % 2 else -2.0, trades=50, source="trades")
        for name in (BTC, ETH)
        for frame, step, length in (("1m", MINUTE, HOUR), ("15m", 15 * MINUTE, 26 * HOUR))
        for at in range(UNTIL - length + step, UNTIL + 1, step)
    ]  # fmt: skip
    features = [
        record("features", instrument=name, event_time=at, price=price(at), cvd_5m=1.0, cvd_30m=2.0, cvd_4h=3.0, cvd_24h=4.0, obi=0.2, best_bid=price(at) - 0.1,
               best_ask=price(at) + 0.1, open_interest=1e9, open_interest_change=0.01, estimated_funding_rate=1e-4, long_short_ratio=1.2,
               top_trader_long_share=0.55, basis=1e-4, spot_basis=2e-4, coinbase_premium=3e-4, realised_volatility_5m=0.4, realised_volatility_1h=0.5,
               realised_volatility_24h=0.6, cvd_divergence_1m=float(n % 3 - 1), cvd_divergence_15m=0.0, missing_inputs=["atr"] if n < 9 else [],
               stale_inputs=["coinbase_premium"] if n % 5 == 0 else [], late_trades=n // 50, large_buys=3, large_sells=2, whale_flow=0.25)
        for name in (BTC, ETH)
        for n, at in enumerate(range(OPEN + GRID, UNTIL + 1, GRID))
    ]  # fmt: skip
    funding = [
        record(
            "funding",
            instrument=name,
            event_time=at,
            mark_price=price(at),
            index_price=price(at),
            estimated_rate=rate,
            next_funding_time=UNTIL,
        )
        for name, rate in ((BTC, 1e-4), (ETH, -5e-5))
        for at in range(OPEN, UNTIL, MINUTE)
    ] + [record("funding", instrument=BTC, event_time=UNTIL - 8 * HOUR * n, settled_rate=1e-4) for n in range(4)]
    indicators = [
        record("market_indicators", instrument=name, event_time=at, indicator=what, value=value)
        for name, volume in ((BTC, 9e9), (ETH, 4e9))
        for what, value in (("open_interest", 1e9), ("volume_24h", volume), ("long_short_ratio", 1.2))
        for at in range(OPEN, UNTIL, 5 * MINUTE)
    ]
    liquidations = [
        record("liquidations", instrument=BTC, event_time=OPEN + n * MINUTE, side="LONG" if n % 3 else "SHORT", price=60_000.0, average_price=60_010.0,
               quantity=0.5, filled_quantity=0.4)
        for n in range(20)
    ]  # fmt: skip
    depth = [
        record("depth", instrument=BTC, event_time=UNTIL - ago, epoch=1, state=state, last_update_id=9 - ago, bid_prices=bids, bid_quantities=[2.0, 3.0],
               ask_prices=asks, ask_quantities=[1.0, 4.0])
        for ago, state, bids, asks in ((1, "live", [100.0, 99.5], [100.5, 101.0]), (2, "live", [90.0, 89.0], [91.0, 92.0]))
    ] + [record("depth", instrument=BTC, event_time=UNTIL, epoch=2, state="invalid")]  # fmt: skip
    reason = {
        "rule": "daily_loss",
        "level": "halted",
        "value": -3.2,
        "limit": -3.0,
        "since": UNTIL - 30_000,
        "until": None,
        "detail": "3.2 R lost today",
    }
    guard = [
        record("risk_state", account="BINANCE-testnet", event_time=UNTIL - 2_000 * ago, sequence=60 - ago, guard="g", state="halted" if ago < 15 else "normal",
               block_entries=ago < 15, allow_maker=True, allow_twap=True, size_multiple=1.0, reasons=[reason] if ago < 15 else [])
        for ago in range(60)
    ]  # fmt: skip
    finding = {
        "kind": "missing_order", "symbol": "BTCUSDT", "subject": "c-1", "journal": "open", "venue": "none", "action": "query", "note": "",
    }  # fmt: skip
    comparisons = [
        record("reconciliations", account="BINANCE-testnet", event_time=OPEN + n * MINUTE, mode="testnet", cause="period", state=state, duration_ms=80 + n,
               orders=2, positions=1, wallet=1_000.0, findings=[finding] if state != "green" else [])
        for n, state in enumerate(("green", "green", "yellow", "green"))
    ]  # fmt: skip
    commands = [record("risk_commands", command_id="c", account="*", event_time=UNTIL - 9, command="halt", by="me@desk", reason="news")]
    quality = [
        record("data_quality", quality_id=f"{name}|{stream}|{at}", instrument=name, event_time=at, stream=stream, kind="score", severity="info", score=score,
               deductions={"delay": 0.5}, findings={"delay": 1}, records=10, rate=2.0, age_ms=300)
        for name, score in ((BTC, 9.5), (ETH, 8.0))
        for stream in ("overall", "agg_trades", "funding")
        for at in range(OPEN, UNTIL, 10 * MINUTE)
    ] + [
        record("data_quality", quality_id="f", instrument=BTC, event_time=OPEN + MINUTE, stream="agg_trades", kind="id_gap", severity="error", value=3.0),
    ]  # fmt: skip
    gaps = [
        record("gaps", instrument=BTC, event_time=OPEN + MINUTE, stream="agg_trades", kind="id_gap", certain=True, from_id=5, to_id=7, from_time=OPEN,
               to_time=OPEN + MINUTE, repaired=True),
        record("gaps", instrument=BTC, event_time=OPEN + 2 * MINUTE, stream="depth", kind="sequence_gap"),
    ]  # fmt: skip
    letters = [
        record(
            "dead_letters",
            event_time=OPEN,
            receive_time=OPEN + 9,
            service="sink",
            source="agg_trades",
            reason="price: nan",
            value=b"\x00\xff",
        )
    ]
    steps_done = [record("worker_progress", author="t", venue="BINANCE", event_time=at) for at in range(OPEN, UNTIL, MINUTE)]
    labels = [
        record("labels", instrument=BTC, event_time=at + HOUR, evaluated_at=at, entry=price(at), atr=100.0, long_binary_60m=n % 2, short_binary_60m=0,
               long_return_60m=0.001, short_return_60m=-0.003, long_mfe_r_60m=2.0, long_mae_r_60m=0.5, short_mfe_r_60m=0.5, short_mae_r_60m=2.0)
        for n, at in enumerate(range(OPEN + GRID, UNTIL + 1, GRID))
    ]  # fmt: skip
    return {
        "labels": labels, "agg_trades": trades, "instruments": facts, "bars": bars, "features": features, "funding": funding, "market_indicators": indicators,
        "liquidations": liquidations, "depth": depth, "risk_state": guard, "risk_commands": commands, "data_quality": quality, "gaps": gaps,
        "dead_letters": letters, "worker_progress": steps_done, "reconciliations": comparisons,
    }  # fmt: skip


def scores() -> list[Record]:
    """Scores of the scorer itself, in markets that it likes, does not like, and cannot judge."""
    found = []
    for config in STRATEGIES:
        memory = StrategyMemory()
        for n, at in enumerate(range(OPEN + GRID, UNTIL + 1, GRID)):
            sign = 1.0 if n // 40 % 2 else -1.0
            shot = Snapshot(
                instrument=BTC,
                time=at,
                decided_at=at + 250,
                price=price(at),
                cvd=dict.fromkeys(WINDOWS, 7.0 * sign),
                volume=dict.fromkeys(WINDOWS, 1000.0),
                slope=dict.fromkeys(FAST_WINDOWS, sign),
                acceleration=dict.fromkeys(FAST_WINDOWS, 0.5 * sign),
                atr=300.0 if n % 7 else 30.0,
                quantity_p99=20.0,
                large_trades=Prints(np.array([60_000.0]), np.array([30.0]), np.array([sign > 0])),
                obi=0.1,
                spot_perp_divergence=0.0001,
                open_interest_change=0.04,
                long_short_ratio=0.4,
                missing_inputs=("coinbase_premium",),
                stale_inputs=("top_trader_long_share",),
            )
            if n < 4:
                shot = replace(shot, atr=None, missing_inputs=("atr", "coinbase_premium"))
            found.append(evaluate(shot, config, config_hash(config), memory).score)
    return found


def account() -> dict[str, list[Record]]:
    """Twenty-five days of signals, orders, fills and closed trades, and a position that is open. Results repeat nothing and sum up to nothing round."""
    made: dict[str, list[Record]] = {
        name: [] for name in ("signals", "orders", "fills", "trades_closed", "positions", "execution_cost_events")
    }
    for config in STRATEGIES:
        for n in range(45):
            at = SINCE + n * 13 * HOUR + (0 if config.strategy_id == "one" else HOUR)
            if at // DAY % 4 == 1:
                continue  # a day without trades
            signal, closed_at = f"{BTC}|{config.strategy_id}|{at}", at + (n % 6 + 1) * 17 * MINUTE
            net = round(math.sin(n * 2.7 + len(config.display_name)) * 1.7 - 0.05, 6)
            long = n % 2 == 0
            whose = {"instrument": BTC, "strategy_id": config.strategy_id, "mode": "paper"}
            named = {
                "strategy_name": config.display_name,
                "direction": "LONG" if long else "SHORT",
                "tier": ("light", "standard", "heavy")[n % 3],
            }
            made["signals"].append(
                record("signals", signal_id=signal, instrument=BTC, strategy_id=config.strategy_id, strategy_version="v54_factory", event_time=at, **named,
                       decided_at=at + 250, score=80.0, entry=True, flip=n % 4 == 0, regime="range", price=60_000.0, atr=300.0, risk_distance=200.0)
            )  # fmt: skip
            ends = [
                ("entry", "MARKET", "filled", None),
                ("tp1", "LIMIT", "filled" if net > 0 else "cancelled", None if net > 0 else "position closed"),
            ]
            if n % 9 == 0:
                ends.append(("entry", "MARKET", "rejected", "position open"))
            for k, (leg, kind, status, reason) in enumerate(ends):
                made["orders"].append(
                    record("orders", order_id=f"{signal}|{leg}|{k}", signal_id=signal, event_time=at + 400 + k, **whose, position_id=signal, leg=leg,
                           side="BUY" if long else "SELL", type=kind, quantity=0.1, status=status, reason=reason)
                )  # fmt: skip
            for leg, liquidity, when, side in (
                ("entry", "taker", at + 400, "BUY" if long else "SELL"),
                ("tp2", "maker", closed_at, "SELL" if long else "BUY"),
            ):
                worse = 12.0 if liquidity == "taker" else 0.0
                made["fills"].append(
                    record("fills", fill_id=f"{signal}|{leg}", order_id=f"{signal}|{leg}|0", event_time=when, **whose, position_id=signal, leg=leg, side=side,
                           price=60_000.0 + (worse if side == "BUY" else -worse), reference_price=60_000.0, quantity=0.1, liquidity=liquidity,
                           fee=3.0 if liquidity == "taker" else 1.2)
                )  # fmt: skip
            made["trades_closed"].append(
                record("trades_closed", trade_id=signal, signal_id=signal, event_time=closed_at, **whose, **named, regime=("range", "trend")[n % 2], score=80.0,
                       signal_time=at, entry_time=at + 400, entry_price=60_012.0 if long else 59_988.0, exit_price=60_100.0,
                       exit_reason=("tp2", "stop", "timeout")[n % 3], quantity=0.1, risk_distance=200.0, risk_amount=200.0, risk_multiple=0.5 + n % 3 / 2,
                       gross_r=net + 0.06, fee_r=0.05, funding_r=0.01, slippage_r=0.02, net_r=net, net_pnl=net * 200.0 * (0.5 + n % 3 / 2), fees=4.2,
                       funding=0.5, mfe_r=abs(net) + 0.2, mae_r=0.4, hold_ms=closed_at - at - 400)
            )  # fmt: skip
        made["execution_cost_events"] += [
            record("execution_cost_events", trade_id=f"live|{config.strategy_id}|{n}", instrument=BTC, event_time=OPEN + n * 9 * MINUTE,
                   strategy_id=config.strategy_id, mode="paper", direction="LONG", exit_reason="stop", notional=6_000.0, maker_ratio_entry=0.25 * n,
                   fees=3.0, slippage=1.5, friction_r=0.04 + 0.01 * n, slippage_bps_entry=2.0 * n, slippage_bps_exit=3.0, entry_fill_ratio=1.0,
                   entry_timeout=n == 2, tp_overshoot=n, signal_to_order_ms=40 + n, order_to_fill_ms=200, protection_gap_ms=150 * n)
            for n in range(4)
        ]  # fmt: skip
        made["positions"].append(
            record("positions", instrument=BTC, event_time=UNTIL - MINUTE, strategy_id=config.strategy_id, position_id=f"open|{config.strategy_id}",
                   mode="paper", status="open", direction="SHORT", tier="standard", quantity=0.1, open_quantity=0.1, entry_price=60_500.0, risk_distance=200.0)
        )  # fmt: skip
    return made


def fill(url: str) -> None:
    """Fill a migrated database."""
    with psycopg.connect(url) as connection:
        for topic, records in (market() | account()).items():
            write(connection, topic, records)
        write(connection, "scores", scores())
        write(connection, "strategies", [{**config.to_record(), "event_time": SINCE, "receive_time": SINCE} for config in STRATEGIES])
        strategy_registry.mirror(connection, [0], AssetGroups())
        connection.execute("INSERT INTO sink_offsets (sink, topic, partition, next_offset) VALUES ('timescale', 'agg_trades', 0, 720)")
