"""Lighter's JSON to our records (pure).

Sources: the venue's websocket reference (channel ``market_stats``), its REST models (orderBookDetails, fundings), and recorded frames.
Units differ: on the stream, rates are per cent of one hour and open interest is in quote units. orderBookDetails has open interest in base
units. funding-rates (not used) has fractions of eight hours.
"""

from __future__ import annotations

from decimal import Decimal
from math import inf
from typing import Any

from producers.venue.adapter import records
from producers.venue.adapter.base import Event, MappingError
from producers.venue.adapter.json_values import (
    array,
    get,
    integer,
    one_of,
    optional,
    optional_price,
    percent,
    places,
    quantity,
    text,
    time_ms,
)
from producers.venue.state.funding_schedule import HOUR_MS, FundingSchedule, Rule
from schemas.codec.avro import Record

VENUE = "LIGHTER"
# "Funding payments occur at each hour mark" (the venue's documentation of funding).
RULE = Rule(1)
# funding_timestamp is the last settlement, some milliseconds late, or the next one: its meaning varies.
RAW_RULE = Rule(1, raw_time=True)
QUOTE = "USDC"


def clock(message: dict[str, Any], received: int) -> int:
    """Return the time of a frame, 0 without one."""
    return time_ms(message, "timestamp", "market_stats", received) if message.get("timestamp") is not None else 0


def stats(row: Any, instrument: str, clock_ms: int, received: int) -> list[Event]:
    """Return the content of a market's stats: mark, index and the running hour's estimate; open interest and 24 h volume in quote units.

    ``current_funding_rate`` is the estimate, ``funding_rate`` the last charged rate. ``funding_timestamp`` alone is never the next
    settlement: a passed time is advanced by the hour, and the record says that a rule made it. Absent fields change nothing.
    """
    record = "market_stats"
    time = clock_ms or received
    if type(row) is not dict:
        raise MappingError(record, "mark_price", f"expected an object, got {type(row).__name__}")
    mark, index = optional_price(row, "mark_price", record), optional_price(row, "index_price", record)
    rate = percent(row, "current_funding_rate", record)
    raw = integer(row, "funding_timestamp", record) if row.get("funding_timestamp") is not None else None
    events: list[Event] = []
    if any(value is not None for value in (mark, index, rate, raw)):
        funding = records.funding(time, received, instrument, mark=mark, index=index, estimated=rate, next_time=raw)
        events.append(("funding", FundingSchedule(RAW_RULE).apply(funding)))
    if row.get("open_interest") not in (None, ""):
        value = quantity(row, "open_interest", record)
        events.append(("market_indicators", records.indicator("open_interest", value, time, received, instrument)))
    if row.get("daily_quote_token_volume") is not None:
        volume = json_number(row, "daily_quote_token_volume", record)
        events.append(("market_indicators", records.indicator("volume_24h", volume, time, received, instrument)))
    return events


def json_number(row: Any, field: str, record: str) -> float:
    """Return a JSON number >= 0."""
    value = get(row, field, record)
    if type(value) not in (int, float) or not 0 <= value < inf or value > 1e300:
        raise MappingError(record, field, f"expected a number >= 0, got {value!r}")
    return float(value)


# --- REST ------------------------------------------------------------------------------------------------------------


def server_time(answer: Any) -> int:
    """Return the clock of ``/``, which has seconds, as ms UTC."""
    seconds = integer(answer, "timestamp", "status")
    if seconds > 10**12:
        raise MappingError("status", "timestamp", f"expected seconds, got {seconds}")
    return seconds * 1000


def details(answer: Any) -> list[Any]:
    """Return the perpetuals of orderBookDetails."""
    return array(answer, "order_book_details", "orderBookDetails")


def volume(row: Any) -> tuple[str, float]:
    """Return symbol and 24 h volume in quote units of a row of orderBookDetails."""
    return text(row, "symbol", "orderBookDetails"), json_number(row, "daily_quote_token_volume", "orderBookDetails")


def instrument_facts(row: Any, author: str) -> tuple[Record, int]:
    """Return the ``instruments`` record of a row of orderBookDetails without its times, and the venue's number of the market."""
    record = "orderBookDetails"
    symbol = text(row, "symbol", record)
    price_decimals, quantity_decimals = (places(row, f"supported_{kind}_decimals", record) for kind in ("price", "size"))
    facts = records.contract(
        VENUE, symbol, "perp", author, row, base=symbol, quote=QUOTE, trading=text(row, "status", record) == "active",
        tick=(float(Decimal(1).scaleb(-price_decimals)), price_decimals),
        lot=(float(Decimal(1).scaleb(-quantity_decimals)), quantity_decimals), min_notional=optional(row, "min_quote_amount", record),
        hours=RULE.interval_hours,
    )  # fmt: skip
    return facts, integer(row, "market_id", record)


def settled(row: Any, received: int) -> Record:
    """Return a row of fundings as settled rate: per cent, positive when longs paid; its time is in seconds."""
    record = "fundings"
    seconds = integer(row, "timestamp", record)
    if seconds > 10**12:
        raise MappingError(record, "timestamp", f"expected seconds, got {seconds}")
    rate = percent(row, "rate", record)
    if rate is None:
        raise MappingError(record, "rate", "is missing")
    payer = one_of(row, "direction", record, ("long", "short"))
    return records.funding(seconds * 1000, received, settled=abs(rate) if payer == "long" else -abs(rate))


def history(answer: Any, since: int, until: int) -> list[Record]:
    """Return the settlements of a fundings response within [since, until], ascending."""
    rows = [settled(row, until) for row in array(answer, "fundings", "fundings")]
    return sorted((row for row in rows if since <= row["event_time"] <= until), key=lambda row: row["event_time"])


def hours_between(since: int, until: int) -> int:
    """Return the number of settlements in [since, until]."""
    return until // HOUR_MS - (since - 1) // HOUR_MS
