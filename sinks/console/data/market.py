"""Market queries: candles with levels of detail, rates, funding statistics, summaries and the heatmap of trades."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sinks.console.data.records import ms_of, shown, times
from sinks.console.database import Connection
from sinks.console.http.parameters import MINUTES, Timeframe

# Most candles of one answer: wider than any screen, and less than 200 kB of JSON.
MOST_CANDLES = 3_000
# Price levels of the heatmap are this part of the price apart (S2 12.1: 0.1 %).
PRICE_STEP = 0.001
# A heatmap of longer ranges is read from too many trades for one second.
MOST_HEATMAP = timedelta(hours=6)
HOURS_A_YEAR = 24 * 365
# Lower ends of the classes of trade sizes, quote units.
SIZES = (0, 1_000, 10_000, 100_000, 1_000_000)


def timeframe_for(wanted: Timeframe, start: datetime, end: datetime, points: int) -> Timeframe:
    """Return the level of detail: the finest timeframe, ``wanted`` or coarser, with at most ``points`` candles in the range; else the coarsest."""
    minutes = (end - start).total_seconds() / 60
    for name, width in MINUTES.items():
        if width >= MINUTES[wanted] and minutes / width <= points:
            return name
    return "1d"


async def candles(connection: Connection, instrument: str, timeframe: Timeframe, start: datetime, end: datetime) -> dict[str, Any]:
    """Return candles that open in [start, end) as columns. Sparse native candles are built from minutes (source says so).

    ``open_time_ms`` is the start of a candle. A hole in the data has null prices; a quiet candle repeats the last close with volume 0.
    """
    width = timedelta(minutes=MINUTES[timeframe])
    rows = await (
        await connection.execute(
            "SELECT * FROM candles(%s, %s, %s, %s)", (instrument, timeframe, start, end - timedelta(milliseconds=1) + width)
        )
    ).fetchall()
    names = ("open", "high", "low", "close", "volume", "cvd", "trades", "source")
    return {
        "instrument": instrument,
        "timeframe": timeframe,
        **times(start=start, end=end),
        "open_time_ms": [ms_of(row["event_time"] - width) for row in rows],
        **{name: [row[name] for row in rows] for name in names},
    }


async def rates(connection: Connection) -> list[dict[str, Any]]:
    """Return the newest mark price, index price and funding rate of every instrument that trades and has a rate."""
    rows = await (
        await connection.execute(
            "SELECT i.instrument, f.* FROM instruments_current i CROSS JOIN LATERAL ("
            "  SELECT event_time, mark_price, index_price, estimated_rate, next_funding_time, coalesce(interval_hours, i.funding_interval_hours)"
            "    AS interval_hours FROM funding WHERE instrument = i.instrument AND estimated_rate IS NOT NULL ORDER BY event_time DESC LIMIT 1) f"
            " WHERE i.status = 'trading' ORDER BY i.instrument"
        )
    ).fetchall()
    return [{**shown(row), "annualised_pct": annualised(row["estimated_rate"], row["interval_hours"])} for row in rows]


def annualised(rate: float | None, interval_hours: int | None) -> float | None:
    """Return a funding rate per interval as % a year: rate x settlements a year x 100 (S2 11.2: x 3 x 365 x 100 at 8 h); None if unknown."""
    return None if rate is None or not interval_hours else rate * (HOURS_A_YEAR / interval_hours) * 100


async def funding_statistics(connection: Connection, instrument: str, since: datetime, until: datetime) -> dict[str, Any]:
    """Return count, mean and annualised mean of the settled funding rates in [since, until)."""
    row = await (
        await connection.execute(
            "SELECT count(*) AS count, avg(settled_rate) AS mean, max(settled_rate) AS highest, min(settled_rate) AS lowest,"
            " (SELECT coalesce((SELECT interval_hours FROM funding WHERE instrument = %(of)s AND interval_hours IS NOT NULL"
            "    ORDER BY event_time DESC LIMIT 1), (SELECT funding_interval_hours FROM instruments_current WHERE instrument = %(of)s))) AS interval_hours"
            " FROM funding WHERE instrument = %(of)s AND settled_rate IS NOT NULL AND event_time >= %(since)s AND event_time < %(until)s",
            {"of": instrument, "since": since, "until": until},
        )
    ).fetchone()
    assert row is not None
    return {**row, "annualised_pct": annualised(row["mean"], row["interval_hours"]), "instrument": instrument}


async def summary(connection: Connection, instrument: str, start: datetime, end: datetime) -> dict[str, Any]:
    """Return the summary of the trades in [start, end): volumes in base units, shares, delta, largest trade, VWAP, trades a second."""
    row = await (
        await connection.execute(
            "SELECT count(*) AS trades, coalesce(sum(quantity) FILTER (WHERE NOT buyer_is_maker), 0) AS buy_volume,"
            " coalesce(sum(quantity) FILTER (WHERE buyer_is_maker), 0) AS sell_volume, max(quantity) AS largest,"
            " sum(price * quantity) / nullif(sum(quantity), 0) AS vwap, min(price) AS low, max(price) AS high,"
            " (array_agg(price ORDER BY event_time, agg_id))[1] AS open, (array_agg(price ORDER BY event_time DESC, agg_id DESC))[1] AS close"
            " FROM agg_trades WHERE instrument = %s AND event_time >= %s AND event_time < %s",
            (instrument, start, end),
        )
    ).fetchone()
    assert row is not None
    volume = row["buy_volume"] + row["sell_volume"]
    seconds = (end - start).total_seconds()
    return {
        "instrument": instrument,
        **times(start=start, end=end),
        **row,
        "volume": volume,
        "buy_share": row["buy_volume"] / volume if volume else None,
        "delta": row["buy_volume"] - row["sell_volume"],
        "trades_per_second": row["trades"] / seconds if seconds else None,
    }


async def heatmap(
    connection: Connection, instrument: str, start: datetime, end: datetime, columns: int, price_step: float
) -> dict[str, Any]:
    """Return traded volume by time and price: cells [column, level, buy volume, sell volume] in base units (S2 12.1).

    Column ``c`` starts at start + c x step_ms; level ``n`` holds prices in [n x level_size, (n + 1) x level_size).
    """
    row = await (
        await connection.execute(
            "SELECT avg(price) AS price FROM agg_trades WHERE instrument = %s AND event_time >= %s AND event_time < %s",
            (instrument, start, end),
        )
    ).fetchone()
    step_ms = max(1, int((end - start).total_seconds() * 1000) // columns)
    found = {"instrument": instrument, **times(start=start, end=end), "step_ms": step_ms}
    if row is None or row["price"] is None:
        return {**found, "level_size": None, "cells": []}
    level = row["price"] * price_step
    async with connection.cursor() as cursor:
        rows = await (
            await cursor.execute(
                "SELECT floor(extract(epoch FROM event_time - %(since)s) * 1000 / %(step)s)::int AS column, floor(price / %(level)s)::bigint AS level,"
                " coalesce(sum(quantity) FILTER (WHERE NOT buyer_is_maker), 0) AS buy, coalesce(sum(quantity) FILTER (WHERE buyer_is_maker), 0) AS sell"
                " FROM agg_trades WHERE instrument = %(of)s AND event_time >= %(since)s AND event_time < %(until)s GROUP BY 1, 2 ORDER BY 1, 2",
                {"of": instrument, "since": start, "until": end, "step": step_ms, "level": level},
            )
        ).fetchall()
    return {**found, "level_size": level, "cells": [[row["column"], row["level"], row["buy"], row["sell"]] for row in rows]}


async def sizes(connection: Connection, instrument: str, start: datetime, end: datetime) -> dict[str, Any]:
    """Return the taker buys and sells in [start, end) by size: of each class its number of trades and its volume in quote units.

    A class holds trades of at least ``from_notional``, below the next one.
    """
    rows = await (
        await connection.execute(
            "SELECT width_bucket(price * quantity, %(sizes)s::double precision[]) AS class, buyer_is_maker, count(*) AS trades,"
            " sum(price * quantity) AS volume FROM agg_trades WHERE instrument = %(of)s AND event_time >= %(since)s AND event_time < %(until)s"
            " GROUP BY 1, 2",
            {"of": instrument, "since": start, "until": end, "sizes": list(SIZES)},
        )
    ).fetchall()
    found = {(row["class"], row["buyer_is_maker"]): (row["trades"], row["volume"]) for row in rows}
    classes = []
    for number, least in enumerate(SIZES, 1):
        (buys, bought), (sells, sold) = (found.get((number, maker), (0, 0.0)) for maker in (False, True))
        classes.append({"from_notional": least, "buys": buys, "buy_volume": bought, "sells": sells, "sell_volume": sold})
    return {"instrument": instrument, **times(start=start, end=end), "classes": classes}


async def pulse(connection: Connection, now: datetime) -> dict[str, Any]:
    """Return the market of the last 24 h: instruments by quote volume with change, breadth and top gainer, from minute bars."""
    rows = await (
        await connection.execute(
            "SELECT instrument, sum(volume * close) AS quote_volume, sum(trades)::bigint AS trades, sum(cvd * close) AS quote_delta,"
            " (array_agg(open ORDER BY event_time))[1] AS open, (array_agg(close ORDER BY event_time DESC))[1] AS close, max(event_time) AS event_time"
            " FROM market_cvd_1h WHERE event_time > %s GROUP BY instrument ORDER BY 2 DESC NULLS LAST LIMIT 200",
            (now - timedelta(hours=24),),
        )
    ).fetchall()
    listed = [{**shown(row), "change_pct": (row["close"] / row["open"] - 1) * 100 if row["open"] else None} for row in rows]
    known = [one for one in listed if one["change_pct"] is not None]
    return {
        "instruments": listed,
        "advancing": sum(one["change_pct"] > 0 for one in known),
        "declining": sum(one["change_pct"] < 0 for one in known),
        "top_gainer": max(known, key=lambda one: one["change_pct"], default=None),
    }


async def extent(connection: Connection, instrument: str) -> dict[str, Any]:
    """Return the first and the last event time of an instrument's hours with trades; None without any."""
    row = await (
        await connection.execute(
            "SELECT (SELECT event_time FROM market_cvd_1h WHERE instrument = %(of)s ORDER BY event_time LIMIT 1) - interval '1 hour' AS first_time,"
            " (SELECT event_time FROM agg_trades WHERE instrument = %(of)s ORDER BY event_time DESC LIMIT 1) AS last_time",
            {"of": instrument},
        )
    ).fetchone()
    assert row is not None
    return shown(row)
