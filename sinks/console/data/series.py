"""Single values over time, for the panes below the candles: the last value of each step, at most as many steps as a chart has pixels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg import sql

from sinks.console.data.records import ms_of, times
from sinks.console.database import Connection


@dataclass(frozen=True)
class Series:
    """Where a value is.

    Attributes:
        table: Table of the topic.
        column: Column of the value.
        unit: Unit, for the axis.
        meaning: What it is.
        longest: Longest range that is read from this table.
        indicator: For ``market_indicators``: which one.
    """

    table: str
    column: str
    unit: str
    meaning: str
    longest: timedelta
    indicator: str | None = None


_YEARS, _MONTH = timedelta(days=3 * 366), timedelta(days=31)
SeriesName = Literal["open_interest", "long_short_ratio", "funding_estimated", "funding_settled", "obi", "atr", "whale_flow"]
SERIES: dict[SeriesName, Series] = {
    "open_interest": Series("market_indicators", "value", "base units", "Open interest", _YEARS, "open_interest"),
    "long_short_ratio": Series("market_indicators", "value", "ratio", "Accounts long to accounts short", _YEARS, "long_short_ratio"),
    "funding_estimated": Series("funding", "estimated_rate", "rate per interval", "Predicted funding rate", _MONTH),
    "funding_settled": Series("funding", "settled_rate", "rate per interval", "Settled funding rate", _YEARS),
    "obi": Series("features", "obi", "-1 to 1", "Order-book imbalance at the evaluation instants", _MONTH),
    "atr": Series("features", "atr", "quote units", "Average true range, 5 min bars", _MONTH),
    "whale_flow": Series("features", "whale_flow", "share", "Net flow of large trades", _MONTH),
}


async def series(connection: Connection, instrument: str, name: SeriesName, start: datetime, end: datetime, points: int) -> dict[str, Any]:
    """Return the last value of each step in [start, end) as columns. Steps without a value are left out, never filled."""
    one = SERIES[name]
    step = max(timedelta(seconds=1), (end - start) / points)
    conditions = sql.SQL(" AND indicator = {}").format(sql.Literal(one.indicator)) if one.indicator else sql.SQL("")
    rows = await (
        await connection.execute(
            sql.SQL(
                "SELECT max(event_time) AS event_time, (array_agg({column} ORDER BY event_time DESC))[1] AS value FROM {table}"
                " WHERE instrument = %(of)s AND event_time >= %(since)s AND event_time < %(until)s AND {column} IS NOT NULL{conditions}"
                " GROUP BY date_bin(%(step)s, event_time, %(since)s) ORDER BY 1"
            ).format(column=sql.Identifier(one.column), table=sql.Identifier(one.table), conditions=conditions),
            {"of": instrument, "since": start, "until": end, "step": step},
        )
    ).fetchall()
    return {
        "instrument": instrument,
        "name": name,
        "unit": one.unit,
        "meaning": one.meaning,
        **times(start=start, end=end),
        "time_ms": [ms_of(row["event_time"]) for row in rows],
        "value": [row["value"] for row in rows],
    }
