"""GRVT's JSON to our records (pure).

Sources: the venue's market-data documents (full names), its public SDK's types, and recorded frames. Times are nanoseconds, rates are percentage
points, quantities are base units.
"""

from __future__ import annotations

from typing import Any

from producers.venue.adapter import records
from producers.venue.adapter.base import Event, MappingError
from producers.venue.adapter.json_values import (
    MAX_AHEAD_MS,
    array,
    decimal,
    get,
    integer,
    interval_hours,
    optional,
    optional_price,
    percent,
    positive,
    product,
    quantity,
    step,
    text,
)
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.state.funding_schedule import Rule
from schemas.codec.avro import Record

VENUE = "GRVT"
# Settlements at 00, 08 and 16 UTC, for tickers without a settlement time (specification W R001-228).
RULE = Rule(8)
NS_PER_MS = 1_000_000


def time_of(row: Any, field: str, record: str, received: int | None = None) -> int:
    """Return a time given in nanoseconds as ms UTC. With ``received`` it must not be in the future."""
    value = integer(row, field, record) // NS_PER_MS
    if received is not None and value > received + MAX_AHEAD_MS:
        raise MappingError(record, field, f"{value} is {value - received} ms ahead of our clock")
    return value


def ticker(feed: Any, instrument: str, received: int) -> list[Event]:
    """Return the content of a ticker: mark, index, funding; open interest, 24 h volume and the ratio of accounts.

    ``funding_rate`` is the estimate of the running interval; older pushes have only ``funding_rate_8h_curr``. Open interest is in base units and is valued
    at the mark price of the same push, exactly. Absent fields change nothing.
    """
    record = "ticker"
    time = time_of(feed, "event_time", record, received)
    mark, index = optional_price(feed, "mark_price", record), optional_price(feed, "index_price", record)
    rate = percent(feed, "funding_rate", record)
    if rate is None:
        rate = percent(feed, "funding_rate_8h_curr", record)
    next_time = time_of(feed, "next_funding_time", record) if feed.get("next_funding_time") not in (None, "") else 0
    hours = interval_hours(feed, "funding_interval_hours", record)
    events: list[Event] = []
    if any(value is not None for value in (mark, index, rate, hours)) or next_time:
        funding = records.funding(
            time, received, instrument, mark=mark, index=index, estimated=rate, next_time=next_time or None, hours=hours
        )
        events.append(("funding", funding))
    if mark is not None and feed.get("open_interest") not in (None, ""):
        quantity(feed, "open_interest", record)
        value = product(feed, "open_interest", "mark_price", record)
        events.append(("market_indicators", records.indicator("open_interest", value, time, received, instrument)))
    if feed.get("buy_volume_24h_q") not in (None, "") and feed.get("sell_volume_24h_q") not in (None, ""):
        events.append(("market_indicators", records.indicator("volume_24h", volume(feed), time, received, instrument)))
    if feed.get("long_short_ratio") not in (None, ""):
        ratio = quantity(feed, "long_short_ratio", record)
        events.append(("market_indicators", records.indicator("long_short_ratio", ratio, time, received, instrument)))
    return events


def volume(feed: Any) -> float:
    """Return the 24 h volume in quote units: the exact sum of taker buys and sells."""
    for field in ("buy_volume_24h_q", "sell_volume_24h_q"):
        quantity(feed, field, "ticker")
    total = decimal(feed["buy_volume_24h_q"], "buy_volume_24h_q", "ticker") + decimal(
        feed["sell_volume_24h_q"], "sell_volume_24h_q", "ticker"
    )
    value = float(total)
    if value > 1e300:
        raise MappingError("ticker", "buy_volume_24h_q", f"{total} is no volume")
    return value


# --- REST ------------------------------------------------------------------------------------------------------------


def server_time(answer: Any) -> int:
    """Return the clock of ``/time``, ms UTC."""
    return integer(answer, "server_time", "time")


def perpetuals(answer: Any) -> list[Any]:
    """Return the perpetuals of all_instruments."""
    rows = array(answer, "result", "all_instruments")
    return [row for row in rows if type(row) is dict and row.get("kind") == "PERPETUAL"]


def instrument_facts(row: Any, author: str) -> Record:
    """Return the ``instruments`` record of a row of all_instruments without its times. ``min_size`` is the step of quantities too."""
    record = "all_instruments"
    symbol = text(row, "instrument", record)
    return records.contract(
        VENUE, symbol, "perp", author, row, base=text(row, "base", record), quote=text(row, "quote", record),
        trading=True,  # the request was for active ones
        tick=step(row, "tick_size", record), lot=step(row, "min_size", record), min_notional=optional(row, "min_notional", record),
        hours=interval_hours(row, "funding_interval_hours", record) or RULE.interval_hours,
    )  # fmt: skip


def settled(answer: Any, received: int) -> list[Record]:
    """Return the settlements of a ``funding`` response, ascending. Unusable rows are skipped."""

    def one(row: Any) -> Record:
        get(row, "funding_rate", "funding")  # it refuses a row that is not an object
        rate = percent(row, "funding_rate", "funding")
        if rate is None:
            raise MappingError("funding", "funding_rate", "is missing")
        mark = positive(row, "mark_price", "funding") if row.get("mark_price") else None
        return records.funding(time_of(row, "funding_time", "funding"), received, mark=mark, settled=rate)

    return sorted(valid_rows(VENUE, "funding", array(answer, "result", "funding"), one), key=lambda record: record["event_time"])
