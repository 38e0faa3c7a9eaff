"""GRVT's JSON to our records (pure).

Sources: the venue's market-data documents (full names), its public SDK's types, and recorded frames. Times are nanoseconds, rates are percentage
points, quantities are base units.
"""

from __future__ import annotations

from typing import Any

from producers.venue.adapter.base import Event, MappingError
from producers.venue.adapter.json_values import (
    MAX_AHEAD_MS,
    array,
    decimal,
    get,
    integer,
    optional,
    positive,
    product,
    quantity,
    step,
    text,
)
from producers.venue.adapter.rest_rows import valid_rows
from producers.venue.state.funding_schedule import Rule
from schemas.codec.avro import Record
from schemas.partition import base_asset, instrument_id

VENUE = "GRVT"
# Settlements at 00, 08 and 16 UTC, for tickers without a settlement time (specification W R001-228).
RULE = Rule(8)
NS_PER_MS = 1_000_000


def time_of(row: Any, field: str, record: str, received: int | None = None) -> int:
    """Return a time given in nanoseconds as ms UTC. With ``received`` it must not be in the future."""
    value = integer(row, field, record) // NS_PER_MS
    if received is not None and value > received + MAX_AHEAD_MS:
        raise MappingError(record, field, f"{value} lies {value - received} ms ahead of our clock")
    return value


def ticker(feed: Any, instrument: str, received: int) -> list[Event]:
    """Return the content of a ticker: mark, index, funding; open interest, 24 h volume and the ratio of accounts.

    ``funding_rate`` is the estimate of the running interval; older pushes have only ``funding_rate_8h_curr``. Open interest is in base units and is valued
    at the mark price of the same push, exactly. Absent fields change nothing.
    """
    record = "ticker"
    time = time_of(feed, "event_time", record, received)
    mark, index = _price(feed, "mark_price"), _price(feed, "index_price")
    rate = percent(feed, "funding_rate", record)
    if rate is None:
        rate = percent(feed, "funding_rate_8h_curr", record)
    next_time = time_of(feed, "next_funding_time", record) if feed.get("next_funding_time") not in (None, "") else 0
    hours = _hours(feed, record)
    events: list[Event] = []
    if any(value is not None for value in (mark, index, rate, hours)) or next_time:
        funding = funding_record(time, received, mark=mark, index=index, estimated=rate, next_time=next_time or None, hours=hours)
        events.append(("funding", {"instrument": instrument, **funding}))
    if mark is not None and feed.get("open_interest") not in (None, ""):
        quantity(feed, "open_interest", record)
        events.append(
            (
                "market_indicators",
                _indicator(instrument, time, received, "open_interest", product(feed, "open_interest", "mark_price", record)),
            )
        )
    if feed.get("buy_volume_24h_q") not in (None, "") and feed.get("sell_volume_24h_q") not in (None, ""):
        events.append(("market_indicators", _indicator(instrument, time, received, "volume_24h", volume(feed))))
    if feed.get("long_short_ratio") not in (None, ""):
        events.append(
            ("market_indicators", _indicator(instrument, time, received, "long_short_ratio", quantity(feed, "long_short_ratio", record)))
        )
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


def percent(row: Any, field: str, record: str) -> float | None:
    """Return decimal text of percentage points as a fraction, exactly; None when absent."""
    if optional(row, field, record) is None:
        return None
    return float(decimal(row[field], field, record).scaleb(-2))


def _price(feed: Any, field: str) -> float | None:
    """Return a price, None when absent or 0."""
    value = optional(feed, field, "ticker")
    if value is not None and value < 0.0:
        raise MappingError("ticker", field, f"expected a number >= 0, got {feed[field]!r}")
    return value or None


def _hours(row: Any, record: str) -> int | None:
    """Return the interval that the venue publishes, None when absent or 0."""
    if row.get("funding_interval_hours") in (None, ""):
        return None
    hours = integer(row, "funding_interval_hours", record)
    if hours > 24:
        raise MappingError(record, "funding_interval_hours", f"expected hours of a day, got {hours}")
    return hours or None


def _indicator(instrument: str, time: int, received: int, name: str, value: float) -> Record:
    return {"instrument": instrument, "event_time": time, "receive_time": received, "indicator": name, "value": value}


def funding_record(
    time: int, received: int, *, mark: float | None = None, index: float | None = None, estimated: float | None = None,
    settled: float | None = None, next_time: int | None = None, hours: int | None = None,
) -> Record:  # fmt: skip
    """Return a ``funding`` record without its instrument."""
    return {
        "event_time": time,
        "receive_time": received,
        "mark_price": mark,
        "index_price": index,
        "estimated_settle_price": None,
        "estimated_rate": estimated,
        "settled_rate": settled,
        "next_funding_time": next_time,
        "interval_hours": hours,
    }


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
    tick, price_decimals = step(row, "tick_size", record)
    size, quantity_decimals = step(row, "min_size", record)
    return {
        "instrument": instrument_id(VENUE, symbol, "perp"),
        "author": author,
        "venue": VENUE,
        "symbol": symbol,
        "base_asset": base_asset(text(row, "base", record), VENUE),
        "quote_asset": text(row, "quote", record),
        "kind": "perp",
        "status": "trading",  # the request was for active ones
        "tick_size": tick,
        "step_size": size,
        "min_notional": optional(row, "min_notional", record),
        "price_decimals": price_decimals,
        "quantity_decimals": quantity_decimals,
        "funding_interval_hours": _hours(row, record) or RULE.interval_hours,
        "recorded": row.get("recorded") is True,
    }


def settled(answer: Any, received: int) -> list[Record]:
    """Return the settlements of a ``funding`` response, ascending. Unusable rows are skipped."""

    def one(row: Any) -> Record:
        get(row, "funding_rate", "funding")  # it refuses a row that is not an object
        rate = percent(row, "funding_rate", "funding")
        if rate is None:
            raise MappingError("funding", "funding_rate", "is missing")
        mark = positive(row, "mark_price", "funding") if row.get("mark_price") else None
        return funding_record(time_of(row, "funding_time", "funding"), received, mark=mark, settled=rate)

    rows = get(answer, "result", "funding")
    if type(rows) is not list:
        raise MappingError("funding", "result", f"expected a list, got {rows!r}")
    return sorted(valid_rows(VENUE, "funding", rows, one), key=lambda record: record["event_time"])
