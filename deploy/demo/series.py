"""Read the data of charts and lists from the database.

Long lines are thinned to the resolution of a screen; signals, trades and states are not. Times are ms UTC as numbers. Prices and
quantities are doubles for drawing; exact sums are in ``facts``. NULL in the database is NaN in a series and interrupts a line.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from psycopg import sql

from deploy.demo.collect import Connection, ms
from deploy.demo.outcome import InstrumentFacts
from deploy.report.series import BUCKETS, FEATURES, LARGEST_PRINTS, MOST_CANDLES, MOST_POINTS, TIMEFRAMES, Array, Row, Scores, Series


def read_series(connection: Connection, facts: InstrumentFacts) -> Series:
    """Return the chart data of an instrument. ``connection`` is one of ``collect.snapshot``."""
    name = facts.instrument
    times = [time for time in (facts.first_time, facts.last_time, facts.first_instant, facts.last_instant) if time is not None]
    span = max(times) - min(times) if times else 0
    bucket = next((step for step in BUCKETS if span <= step * MOST_POINTS), BUCKETS[-1])
    trade_time, trade_price, trade_cvd = _trades(connection, name, bucket)
    timeframe, bars = _bars(connection, name, span)
    return Series(
        instrument=name,
        bucket_ms=bucket,
        trade_time=trade_time,
        trade_price=trade_price,
        trade_cvd=trade_cvd,
        timeframe=timeframe,
        bars=bars,
        features=_features(connection, name, facts.features),
        scores=_scores(connection, name),
        prints=_prints(connection, name),
        gaps=rows(connection, "gaps", "instrument = %s", name),
        fills=rows(connection, "fills", "instrument = %s AND mode = 'paper'", name),
        closed=rows(connection, "trades_closed", "instrument = %s AND mode = 'paper'", name),
    )


def rows(connection: Connection, table: str, condition: str = "true", *parameters: Any) -> list[Row]:
    """Return the rows of a small table in order of event time, times as ms."""
    columns = connection.execute(
        "SELECT attname AS name, atttypid = 'timestamptz'::regtype AS is_time FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (table,),
    ).fetchall()
    chosen = [
        sql.SQL("(extract(epoch FROM {0}) * 1000)::bigint AS {0}" if row["is_time"] else "{0}").format(sql.Identifier(row["name"]))
        for row in columns
    ]
    order = sql.SQL("{0}.event_time, {0}.kafka_partition, {0}.kafka_offset").format(sql.Identifier(table))
    query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}").format(
        sql.SQL(", ").join(chosen),
        sql.Identifier(table),
        sql.SQL(condition),  # type: ignore[arg-type]
        order,
    )
    return connection.execute(query, parameters).fetchall()


def _columns(found: list[Row], names: tuple[str, ...]) -> dict[str, Array]:
    return {name: np.array([np.nan if row[name] is None else row[name] for row in found], dtype=np.float64) for name in names}


def _trades(connection: Connection, name: str, bucket: int) -> tuple[Array, Array, Array]:
    query = sql.SQL("""
        SELECT ({time} + {bucket} - 1) / {bucket} * {bucket} AS time, (array_agg(price ORDER BY event_time DESC, agg_id DESC))[1] AS price,
               sum(CASE WHEN buyer_is_maker THEN -quantity::text::numeric ELSE quantity::text::numeric END) AS flow
        FROM agg_trades WHERE instrument = %s GROUP BY 1 ORDER BY 1""").format(time=ms("event_time"), bucket=sql.Literal(bucket))
    found = connection.execute(query, (name,)).fetchall()
    # The sums are decimals, so the line ends at the exact CVD.
    running = [float(total) for total in accumulate(row["flow"] for row in found)]
    return (
        np.array([float(row["time"]) for row in found]),
        np.array([row["price"] for row in found], dtype=np.float64),
        np.array(running, dtype=np.float64),
    )


def _bars(connection: Connection, name: str, span: int) -> tuple[str, dict[str, Array]]:
    names = ("time", "open", "high", "low", "close", "volume")
    timeframe = next((one for one, step in TIMEFRAMES if span <= step * MOST_CANDLES), TIMEFRAMES[-1][0])
    query = sql.SQL(
        "SELECT {} AS time, open, high, low, close, volume FROM bars WHERE instrument = %s AND timeframe = %s AND source = 'trades'"
        " ORDER BY bars.event_time"
    )
    found = connection.execute(query.format(ms("event_time")), (name, timeframe)).fetchall()
    return (timeframe if found else ""), _columns(found, names)


def _features(connection: Connection, name: str, count: int) -> dict[str, Array]:
    query = sql.SQL(
        "SELECT * FROM (SELECT {} AS time, {}, row_number() OVER (ORDER BY event_time) - 1 AS place FROM features WHERE instrument = %s)"
        " AS numbered WHERE place %% %s = 0 OR place = %s - 1 ORDER BY time"
    ).format(ms("event_time"), sql.SQL(", ").join(map(sql.Identifier, FEATURES)))
    stride = max(1, -(-count // MOST_POINTS))
    return _columns(connection.execute(query, (name, stride, count)).fetchall(), ("time", *FEATURES))


_STATE = """
    CASE WHEN NOT warm THEN 'not warm' WHEN gate_block IS NOT NULL THEN regexp_replace(gate_block, '\\(.*\\)$', '')
         WHEN signalled AND cooldown THEN 'flip signal' WHEN signalled THEN 'signal' WHEN cooldown THEN 'cooldown'
         WHEN tier IS NULL THEN 'below entry' ELSE 'no signal' END"""


def _scores(connection: Connection, name: str) -> list[Scores]:
    query = sql.SQL(
        "SELECT strategy_id, {} AS time, score, " + _STATE + " AS state, direction FROM scores WHERE instrument = %s ORDER BY 1, 2"
    )
    groups: dict[str, list[Row]] = {}
    for row in connection.execute(query.format(ms("event_time")), (name,)):
        groups.setdefault(row["strategy_id"], []).append(row)
    return [
        Scores(
            strategy_id,
            time=np.array([row["time"] for row in found], dtype=np.float64),
            score=np.array([np.nan if row["score"] is None else row["score"] for row in found], dtype=np.float64),
            state=[row["state"] for row in found],
            direction=[row["direction"] for row in found],
        )
        for strategy_id, found in groups.items()
    ]


def _prints(connection: Connection, name: str) -> dict[str, Array]:
    query = sql.SQL(
        "SELECT * FROM (SELECT {} AS time, price, quantity, (NOT buyer_is_maker)::int AS buy FROM agg_trades WHERE instrument = %s"
        " ORDER BY quantity DESC, agg_id LIMIT %s) AS largest ORDER BY time"
    )
    found = connection.execute(query.format(ms("event_time")), (name, LARGEST_PRINTS)).fetchall()
    return _columns(found, ("time", "price", "quantity", "buy"))
