"""A database that holds recorded trades, and a market around them."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

import deploy.demo
from schemas import catalogue

# The spot recording of the demo: every trade of LTCUSDT, see its PROVENANCE.md.
RECORDING = Path(next(iter(deploy.demo.__path__))) / "data" / "ltcusdt_spot_trades"
INSTRUMENT = "BINANCE:LTCUSDT"


@dataclass(frozen=True)
class Trade:
    """One recorded trade: time in ms, exact price and quantity, whether the taker sold."""

    time: int
    price: Decimal
    quantity: Decimal
    sold: bool


def recorded(limit: int) -> list[Trade]:
    """Return the first trades of the recording, in order of time."""
    found: list[Trade] = []
    for path in sorted(RECORDING.glob("*.csv.gz")):
        with gzip.open(path, "rt") as file:
            for row in csv.DictReader(file):
                found.append(Trade(int(row["timestamp"]), Decimal(row["price"]), Decimal(row["quantity"]), row["side"].lower() == "sell"))
    return sorted(found, key=lambda trade: trade.time)[:limit]


def store(database_url: str, trades: list[Trade]) -> None:
    """Write an instrument and its trades as the sink does."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO instruments (instrument, event_time, receive_time, author, venue, symbol, base_asset, quote_asset, kind, status, tick_size,"
            " step_size, price_decimals, quantity_decimals, recorded, kafka_partition, kafka_offset) VALUES (%(name)s, %(at)s, %(at)s, 'test', 'BINANCE',"
            " 'LTCUSDT', 'LTC', 'USDT', 'spot', 'trading', 0.01, 0.001, 2, 3, true, 0, 0)",
            {"name": INSTRUMENT, "at": datetime.fromtimestamp(trades[0].time / 1000, UTC)},
        )
        statement = (
            "COPY agg_trades (instrument, event_time, receive_time, agg_id, first_trade_id, last_trade_id, price, quantity, buyer_is_maker,"
            " backfilled, kafka_partition, kafka_offset) FROM STDIN"
        )
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for number, trade in enumerate(trades):
                at = datetime.fromtimestamp(trade.time / 1000, UTC)
                copy.write_row(
                    (INSTRUMENT, at, at, number, number, number, float(trade.price), float(trade.quantity), trade.sold, False, 0, number)
                )


def insert(database_url: str, table: str, *rows: dict[str, Any]) -> None:
    """Write rows of a topic's table; a time of the schema is given in ms, a list of records or a map is stored as jsonb."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for number, row in enumerate(rows):
            values = {**{name: _stored(value) for name, value in row.items()}, "kafka_partition": 0, "kafka_offset": number}
            times = {field["name"] for field in catalogue.schema(table)["fields"] if "timestamp-millis" in str(field["type"])}
            values |= {name: datetime.fromtimestamp(row[name] / 1000, UTC) for name in times if row.get(name) is not None}
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(map(sql.Placeholder, values)),
            )
            connection.execute(statement, values)


def _stored(value: Any) -> Any:
    return Jsonb(value) if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)) else value
