"""Bars of every timeframe equal a plain recomputation in exact decimals, whatever was built when, in which order rows came, and who interfered."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pytest

from deploy.database import migrate as database
from schemas.settings import Settings
from sinks.timescale import changes
from stream_apps.core.market.config import TIMEFRAME_MS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = 1_723_075_200_000  # 2024-08-08 00:00 UTC
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def at(ms: int) -> datetime:
    """Return a time."""
    return EPOCH + timedelta(milliseconds=ms)


def ms(time: datetime) -> int:
    """Return milliseconds."""
    return (time - EPOCH) // timedelta(milliseconds=1)


@dataclass
class Trade:
    """What a bar is made of."""

    instrument: str
    time: int
    agg_id: int
    price: str
    quantity: str
    sell: bool


@dataclass
class Bar:
    """A bar, recomputed."""

    trades: list[Trade] = field(default_factory=list)

    def figures(self) -> tuple[Any, ...]:
        ordered = sorted(self.trades, key=lambda trade: (trade.time, trade.agg_id))
        prices = [float(trade.price) for trade in ordered]
        return (
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum(Decimal(trade.quantity) for trade in ordered),
            sum(Decimal(trade.price) * Decimal(trade.quantity) for trade in ordered),
            sum((-1 if trade.sell else 1) * Decimal(trade.quantity) for trade in ordered),
            len(ordered),
        )


def oracle(trades: Iterable[Trade], width: int) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return the bars of trades by instrument and end: (end - width, end]."""
    bars: dict[tuple[str, int], Bar] = defaultdict(Bar)
    for trade in trades:
        bars[trade.instrument, -(-trade.time // width) * width].trades.append(trade)
    return {key: bar.figures() for key, bar in bars.items()}


def make(rng: random.Random, count: int, since: int, until: int, first: int = 0) -> list[Trade]:
    """Return random trades, many of one millisecond, many exactly on a bar's end."""
    made = []
    for n in range(count):
        time = rng.randint(since, until)
        if rng.random() < 0.2:
            time = -(-time // (5 * MINUTE)) * 5 * MINUTE
        instrument = rng.choice(("BINANCE:BTCUSDT-PERP", "BYBIT:ETHUSDT-PERP"))
        price, quantity = Decimal(rng.randint(5_000_000, 7_000_000)) / 100, Decimal(rng.randint(1, 10**6)) / 1000
        made.append(Trade(instrument, time, first + n, str(price), str(quantity), rng.random() < 0.5))
    return made


def insert(connection: psycopg.Connection, trades: list[Trade], noted: bool = True) -> None:
    """Write trades as the sink does: rows and the note of their change in one transaction."""
    rows = [(one.instrument, at(one.time), one.agg_id, float(one.price), float(one.quantity), one.sell) for one in trades]
    with connection.transaction():
        connection.execute(
            "INSERT INTO agg_trades (instrument, event_time, receive_time, agg_id, first_trade_id, last_trade_id, price, quantity, buyer_is_maker,"
            " backfilled, kafka_partition, kafka_offset) SELECT i, t, t, n, 0, 0, p, q, s, false, 0, n FROM unnest(%s::text[], %s::timestamptz[],"
            " %s::bigint[], %s::float8[], %s::float8[], %s::bool[]) AS u(i, t, n, p, q, s)",
            tuple(map(list, zip(*rows, strict=True))),
        )
        if noted:
            changes.note(connection, changes.sources(connection), [("agg_trades", np.array([one.time for one in trades]))])


def read(connection: psycopg.Connection, timeframe: str) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return what the database has of a timeframe."""
    rows = connection.execute(
        f"SELECT instrument, event_time, open, high, low, close, volume, turnover, cvd, trades FROM market_cvd_{timeframe}"  # type: ignore[arg-type]
    ).fetchall()
    found = {(row[0], ms(row[1])): tuple(row[2:]) for row in rows}
    assert len(found) == len(rows)
    return found


def assert_bars(connection: psycopg.Connection, trades: list[Trade]) -> None:
    """Assert that every timeframe holds exactly the bars of these trades."""
    for timeframe, width in TIMEFRAME_MS.items():
        assert read(connection, timeframe) == oracle(trades, width), timeframe


def refresh(connection: psycopg.Connection, most: int = 2016) -> tuple[int, int]:
    """Build once; return how many slots were built and how many are left."""
    row = connection.execute("SELECT built, remaining FROM perpflow_refresh_bars('agg_trades', %s)", (most,)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@pytest.fixture
def connection(environment: Settings) -> Any:
    database.migrate(environment.database_url)
    with psycopg.connect(environment.database_url, autocommit=True) as opened:
        if opened.execute("SELECT perpflow_has_continuous_aggregates()").fetchone() == (True,):
            pytest.skip("continuous aggregates do it here")
        yield opened


@pytest.mark.stack
def test_bars_are_exact_before_between_and_after_building(connection: psycopg.Connection) -> None:
    rng = random.Random(1)
    trades = make(rng, 400, START + 1, START + 30 * HOUR)
    insert(connection, trades[:100], noted=False)  # rows of before anyone noted changes
    assert_bars(connection, trades[:100])
    built, left = refresh(connection, 20)
    assert (built, left > 0) == (20, True)
    assert_bars(connection, trades[:100])
    insert(connection, trades[100:300])  # into spans that are built and spans that are not
    while left:
        _, left = refresh(connection, 50)
    assert_bars(connection, trades[:300])
    more = make(rng, 100, START + 30 * HOUR, START + 31 * HOUR, first=1000)
    insert(connection, more)
    assert set(read(connection, "1m")) >= set(oracle(more, MINUTE))  # seen at once, unbuilt
    insert(connection, trades[300:])
    refresh(connection)
    assert_bars(connection, trades + more)
    assert refresh(connection)[0] == 0


@pytest.mark.stack
def test_a_time_in_the_future_holds_nothing_up(connection: psycopg.Connection) -> None:
    rng = random.Random(2)
    trades = make(rng, 50, START + 1, START + HOUR)
    garbage = make(rng, 2, 4_000_000_000_000, 4_000_000_000_100, first=90)
    insert(connection, trades + garbage)
    refresh(connection)
    assert_bars(connection, trades + garbage)
    reached = connection.execute("SELECT built_until < now() FROM bar_sources WHERE source = 'agg_trades'").fetchone()
    assert reached == (True,)


@pytest.mark.stack
def test_rows_that_are_committed_after_a_refresh_began_are_not_lost(environment: Settings, connection: psycopg.Connection) -> None:
    """Two writers: one commits only when the span that it wrote to has been built."""
    rng = random.Random(3)
    early, late, newest = (make(rng, 30, START + 1, START + HOUR, first=n * 100) for n in range(3))
    newest = make(rng, 5, START + 2 * HOUR, START + 3 * HOUR, first=900)
    insert(connection, early + newest)
    with psycopg.connect(environment.database_url) as slow:
        slow.execute("SELECT")  # opens the transaction that insert's own is inside of
        insert(slow, late)
        refresh(connection)
        assert_bars(connection, early + newest)
    refresh(connection)
    assert_bars(connection, early + late + newest)


@pytest.mark.stack
def test_only_names_of_the_table_are_timeframes(connection: psycopg.Connection) -> None:
    """15m is fifteen minutes; PostgreSQL's own reading of such names is never asked."""
    for name, width in TIMEFRAME_MS.items():
        assert connection.execute("SELECT bar_interval(%s)", (name,)).fetchone() == (timedelta(milliseconds=width),)
    assert connection.execute("SELECT count(*) FROM bar_intervals").fetchone() == (len(TIMEFRAME_MS),)
    for name in ("15mon", "15M", "1M", "15", "15 m", "15min", "", "1h ", "60m", "-5m"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="is not one of 1m 5m 15m 1h 4h 1d"):
            connection.execute("SELECT bar_interval(%s)", (name,))
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            connection.execute("SELECT * FROM candles('X', %s, '2024-08-08', '2024-08-09')", (name,))
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("INSERT INTO bar_intervals VALUES ('15x', '15 mon')")


def _bar(connection: psycopg.Connection, timeframe: str, end: int, close: float, source: str = "venue") -> None:
    connection.execute(
        "INSERT INTO bars (instrument, event_time, receive_time, timeframe, open, high, low, close, volume, cvd, trades, kafka_partition,"
        " kafka_offset, source) VALUES ('BINANCE:BTCUSDT-PERP', %s, %s, %s, %s, %s, %s, %s, 7, 1, 3, 0, 0, %s)",
        (at(end), at(end), timeframe, close, close, close, close, source),
    )


@pytest.mark.stack
def test_sparse_native_candles_are_built_from_minutes(connection: psycopg.Connection) -> None:
    """The acceptance of K-lines: every timeframe is continuous, native where it is, from minutes where not, quiet or a hole told apart."""
    instrument = "BINANCE:BTCUSDT-PERP"
    rng = random.Random(4)
    trades = [one for one in make(rng, 600, START + 1, START + 20 * HOUR) if one.instrument == instrument]
    trades = [one for one in trades if not START + 6 * HOUR < one.time <= START + 12 * HOUR]
    insert(connection, trades)
    _bar(connection, "1h", START + 3 * HOUR, 111.0)
    _bar(connection, "1h", START + 3 * HOUR, 222.0, "trades")  # our own goes first
    _bar(connection, "1h", START + 5 * HOUR, 333.0)
    for n in range(60):
        _bar(connection, "1m", START + 6 * HOUR + (n + 1) * MINUTE, 444.0)  # minutes of the venue where the trades are missing
    connection.execute(
        "INSERT INTO gaps (instrument, event_time, receive_time, stream, kind, certain, from_time, to_time, repaired, kafka_partition, kafka_offset)"
        " VALUES (%s, now(), now(), 'agg_trades', 'ids', true, %s, %s, false, 0, 0)",
        (instrument, at(START + 10 * HOUR), at(START + 11 * HOUR)),
    )
    for refreshed in (False, True):
        if refreshed:
            refresh(connection)
        for timeframe, width in TIMEFRAME_MS.items():
            rows = connection.execute(
                "SELECT * FROM candles(%s, %s, %s, %s)", (instrument, timeframe, at(START), at(START + DAY))
            ).fetchall()
            ends = [ms(row[0]) for row in rows]
            first = min(-(-one.time // width) * width for one in trades)
            assert ends == list(range(first, START + DAY + 1, width)), timeframe
        hours = {
            (ms(row[0]) - START) // HOUR: row[1:]
            for row in connection.execute("SELECT * FROM candles(%s, '1h', %s, %s)", (instrument, at(START), at(START + 20 * HOUR)))
        }
        expected = {(end - START) // HOUR: figures for (_, end), figures in oracle(trades, HOUR).items()}
        for hour, (open_, high, low, close, volume, cvd, count, source) in hours.items():
            if hour in (3, 5):
                assert (close, source) == ((222.0, "trades") if hour == 3 else (333.0, "venue"))
            elif hour == 7:
                assert (open_, close, volume, cvd, count, source) == (444.0, 444.0, 420.0, 60.0, 180, "1m")
            elif hour in (8, 9, 10, 12):
                assert (open_, high, low, close, volume, cvd, count, source) == (444.0, 444.0, 444.0, 444.0, 0.0, 0.0, 0, "quiet")
            elif hour == 11:
                assert (open_, close, volume, count, source) == (None, None, None, None, "hole")
            else:
                want = expected[hour]
                assert (open_, high, low, close, count, source) == (*want[:4], want[7], "1m")
                assert (Decimal(str(volume)), Decimal(str(cvd))) == (want[4], want[6])
    assert connection.execute("SELECT count(*) FROM candles('NONE', '1h', '2024-08-08', '2024-08-09')").fetchone() == (0,)
