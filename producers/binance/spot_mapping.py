"""Binance spot's JSON to our records where it differs from USD-M (pure); the rest is ``producers.binance.mapping``.

Source: the venue's spot documents (web-socket-streams, rest-api). Spot has no ``T`` and no ``pu`` on depth diffs, and no time at all on bookTicker.
"""

from __future__ import annotations

from typing import Any

from producers.binance.mapping import VENUE, checked_quote, event_clock
from producers.venue.adapter import records
from producers.venue.adapter.base import BookDiff, MappingError, Market
from producers.venue.adapter.json_values import array, get, integer, levels, optional, step, text
from producers.venue.adapter.message_time import estimated_time
from schemas.codec.avro import Record


def depth_diff(data: dict[str, Any], received: int) -> BookDiff:
    """Return a depthUpdate message as value object. Ids grow by one a change, so a diff applies to the id before its first."""
    first, last = integer(data, "U", "depthUpdate"), integer(data, "u", "depthUpdate")
    if last < first:
        raise MappingError("depthUpdate", "u", f"last update id {last} is below the first, {first}")
    bids, asks = levels(data, "b", "depthUpdate"), levels(data, "a", "depthUpdate")
    return BookDiff(event_clock(data, received), first, last, first - 1, bids, asks)


def quote(data: dict[str, Any], market: Market, received: int) -> Record:
    """Return the ``quotes`` record of a bookTicker message."""
    return checked_quote(data, market.instrument, estimated_time(market, received), received)


# --- REST ------------------------------------------------------------------------------------------------------------


def instrument_facts(row: Any, author: str) -> Record:
    """Return the ``instruments`` record of a symbol of exchangeInfo, without its times."""
    record = "exchangeInfo"
    symbol = text(row, "symbol", record)
    filters = {}
    for item in array(row, "filters", record):
        filters[text(item, "filterType", record)] = item
    return records.contract(
        VENUE, symbol, "spot", author, row, base=text(row, "baseAsset", record), quote=text(row, "quoteAsset", record),
        trading=text(row, "status", record) == "TRADING", tick=step(get(filters, "PRICE_FILTER", record), "tickSize", record),
        lot=step(get(filters, "LOT_SIZE", record), "stepSize", record),
        min_notional=optional(filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {}, "minNotional", record),
    )  # fmt: skip
