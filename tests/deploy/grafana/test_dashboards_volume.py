"""Dashboards on thirty days of four contracts: no query of a chart takes a second (long: the rows are made first)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from deploy.grafana.preview.query import expanded
from tests.deploy.dashboard_queries import sql_queries
from tests.deploy.databases import migrated

SINCE, UNTIL = "2026-10-01T00:00:00+00:00", "2026-10-31T00:00:00+00:00"
CONTRACTS = "(VALUES ('BINANCE:BTCUSDT-PERP', 0), ('BINANCE:ETHUSDT-PERP', 1), ('BINANCE:SOLUSDT-PERP', 2), ('BINANCE:XRPUSDT-PERP', 3)) i (name, k)"
PRICE = "60000 + sin(extract(epoch FROM t) / 5000) * 500"
RANDOM = dict.fromkeys(
    (
        "cvd_5m",
        "cvd_30m",
        "cvd_4h",
        "cvd_24h",
        "obi",
        "long_short_ratio",
        "basis",
        "spot_basis",
        "coinbase_premium",
        "realised_volatility_5m",
    ),
    "random()",
)
LAYERS = ",".join(
    f'{{"name": "{name}", "raw": 1, "raw_max": 55, "score": 20, "max": 55, "parts": {{"a": 1, "b": 2}}}}'
    for name in ("direction", "crowding", "environment", "auxiliary")
)
WHOSE = {"strategy_id": "'s' || k", "strategy_name": "'S' || k", "direction": "'LONG'", "tier": "'heavy'", "mode": "'paper'"}

# Table, step of its rows, expressions of its columns (others are empty), more to join.
VOLUME: list[tuple[str, str, dict[str, str], str]] = [
    ("instruments", "30 days", {"venue": "'BINANCE'", "kind": "'perp'"}, ""),
    ("features", "15 seconds", {"price": PRICE, "best_bid": PRICE, "best_ask": PRICE, "cvd_divergence_1m": "floor(random() * 3) - 1", **RANDOM}, ""),
    ("scores", "15 seconds", {
        **WHOSE, "score_id": "name || '|s' || k || '|' || t", "score": "random() * 100", "ungated_score": "random() * 100", "warm": "true",
        "gate_passed": "random() < 0.5", "gate_block": "'low_vol(1)'", "verdict": "'blocked'", "regime": "'range'", "entry_score": "75", "gates": "'[]'",
        "layers": f"'[{LAYERS}]'",
    }, ""),
    ("bars", "1 minute", {"timeframe": "'1m'", "close": PRICE, "volume": "10", "cvd": "random() - 0.5", "source": "'trades'"}, ""),
    ("bars", "15 minutes", {"timeframe": "'15m'", "close": PRICE, "volume": "10", "source": "'trades'"}, ""),
    ("funding", "5 seconds", {"estimated_rate": "random() / 10000"}, ""),
    ("market_indicators", "1 minute", {"indicator": "what", "value": "1e9"}, "CROSS JOIN unnest(ARRAY['open_interest', 'volume_24h']) what"),
    ("data_quality", "1 minute", {
        "quality_id": "name || stream || t", "stream": "stream", "kind": "'score'", "severity": "'info'", "score": "9", "records": "10", "age_ms": "4",
    }, "CROSS JOIN unnest(ARRAY['overall', 'agg_trades', 'depth', 'quotes', 'funding', 'liquidations', 'market_indicators']) stream"),
    ("liquidations", "20 seconds", {"side": "'LONG'", "price": "60000", "quantity": "random()"}, ""),
    ("agg_trades", "1 second", {"agg_id": "extract(epoch FROM t)", "price": PRICE, "quantity": "random()", "buyer_is_maker": "random() < 0.5"}, ""),
    ("signals", "10 minutes", {**WHOSE, "signal_id": "name || t", "price": PRICE}, ""),
    ("trades_closed", "30 minutes", {
        **WHOSE, "trade_id": "name || t", "signal_id": "name || t", "exit_reason": "'stop'", "entry_price": PRICE, "net_r": "random() - 0.5",
        "net_pnl": "random() - 0.5",
    }, ""),
    ("fills", "15 minutes", {
        **WHOSE, "fill_id": "name || t", "leg": "'entry'", "side": "'BUY'", "price": "60001", "reference_price": "60000", "quantity": "1",
        "liquidity": "'taker'",
    }, ""),
    ("execution_cost_events", "30 minutes", {**WHOSE, "trade_id": "name || t", "friction_r": "random()", "slippage_bps_entry": "random()"}, ""),
    ("reconciliations", "1 minute", {"account": "name", "state": "'green'", "cause": "'period'", "findings": "'[]'"}, ""),
    ("orders", "10 minutes", {**WHOSE, "order_id": "name || t", "leg": "'entry'", "side": "'BUY'", "status": "'filled'"}, ""),
]  # fmt: skip
EMPTY = {"ARRAY": "'{}'", "jsonb": "'{}'", "boolean": "false", "text": "''", "timestamp with time zone": "t"}


def fill(connection: psycopg.Connection) -> None:
    for name, step, given, more in VOLUME:
        columns = connection.execute(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'",
            [name],
        ).fetchall()
        values = {"instrument": "name", **given}
        made = [values.get(column, "NULL" if nullable == "YES" else EMPTY.get(kind, "0")) for column, kind, nullable in columns]
        connection.execute(
            f"INSERT INTO {name} ({', '.join(column for column, *_ in columns)}) SELECT {', '.join(made)}"
            f" FROM generate_series(timestamptz '{SINCE}', timestamptz '{UNTIL}', interval '{step}') t CROSS JOIN {CONTRACTS} {more}".encode()
        )
    connection.execute(
        "INSERT INTO strategy_registry (strategy_id, revision, instrument, display_name, status, model, config_hash, config, created_at, updated_at, edited_by,"
        f" kafka_partition, kafka_offset) SELECT 's' || k, 1, name, 'S' || k, 'running', 'm', '', '{{}}', now(), now(), '', 0, 0 FROM {CONTRACTS}".encode()
    )
    connection.execute("VACUUM ANALYZE")


@pytest.fixture(scope="module")
def month(database_url: str) -> Iterator[psycopg.Connection]:
    with (
        migrated(database_url) as url,
        psycopg.connect(url, autocommit=True, options="-c timezone=UTC -c synchronous_commit=off") as connection,
    ):
        fill(connection)
        yield connection


@pytest.mark.long
@pytest.mark.stack
@pytest.mark.timeout(900)
def test_no_query_takes_a_second(month: psycopg.Connection) -> None:
    strategies = [f"s{k}" for k in range(4)]
    variables = {
        "instrument": ["BINANCE:BTCUSDT-PERP"], "timeframe": ["1m"], "mode": ["paper"], "strategy": strategies, "score": [""], "a": ["s0"], "b": ["s1"],
    }  # fmt: skip
    slow = {}
    for name, query in sql_queries():
        text = expanded(query, SINCE, UNTIL, variables, 30 * 86_400_000 // 1_000).encode()
        best = float("inf")
        for _ in range(3):  # the machine has other work: the fastest is the query's own time
            started = time.perf_counter()
            month.execute(text).fetchall()
            best = min(best, time.perf_counter() - started)
            if best <= 1.0:
                break
        if best > 1.0:
            slow[name] = round(best, 2)
    assert not slow, slow
