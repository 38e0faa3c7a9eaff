"""Binance spot's JSON to our records where it differs from USD-M (pure); the rest is ``producers.binance.mapping``.

Source: the venue's spot documents (web-socket-streams, rest-api). Spot has no ``T`` and no ``pu`` on depth diffs, and no time at all on bookTicker.
"""

from __future__ import annotations

from typing import Any

from producers.binance.mapping import VENUE, event_clock
from producers.venue.adapter.base import BookDiff, MappingError, Market
from producers.venue.adapter.json_values import array, get, integer, levels, optional, positive, quantity, step, text
from producers.venue.adapter.message_time import estimated_time
from schemas.codec.avro import Record
from schemas.partition import base_asset, instrument_id


def depth_diff(data: dict[str, Any], received: int) -> BookDiff:
    """Return a depthUpdate message as value object. Ids grow by one a change, so a diff applies to the id before its first."""
    first, last = integer(data, "U", "depthUpdate"), integer(data, "u", "depthUpdate")
    if last < first:
        raise MappingError("depthUpdate", "u", f"last update id {last} is below the first, {first}")
    bids, asks = levels(data, "b", "depthUpdate"), levels(data, "a", "depthUpdate")
    return BookDiff(event_clock(data, received), first, last, first - 1, bids, asks)


def quote(data: dict[str, Any], market: Market, received: int) -> Record:
    """Return the ``quotes`` record of a bookTicker message."""
    record = "bookTicker"
    return {
        "instrument": market.instrument,
        "event_time": estimated_time(market, received),
        "receive_time": received,
        "update_id": integer(data, "u", record),
        "bid_price": positive(data, "b", record),
        "bid_quantity": quantity(data, "B", record),
        "ask_price": positive(data, "a", record),
        "ask_quantity": quantity(data, "A", record),
    }


# --- REST ------------------------------------------------------------------------------------------------------------


def instrument_facts(row: Any, author: str) -> Record:
    """Return the ``instruments`` record of a symbol of exchangeInfo, without its times."""
    record = "exchangeInfo"
    symbol = text(row, "symbol", record)
    filters = {}
    for item in array(row, "filters", record):
        filters[text(item, "filterType", record)] = item
    tick, price_decimals = step(get(filters, "PRICE_FILTER", record), "tickSize", record)
    size, quantity_decimals = step(get(filters, "LOT_SIZE", record), "stepSize", record)
    return {
        "instrument": instrument_id(VENUE, symbol, "spot"),
        "author": author,
        "venue": VENUE,
        "symbol": symbol,
        "base_asset": base_asset(text(row, "baseAsset", record), VENUE),
        "quote_asset": text(row, "quoteAsset", record),
        "kind": "spot",
        "status": "trading" if text(row, "status", record) == "TRADING" else "closed",
        "tick_size": tick,
        "step_size": size,
        "min_notional": optional(filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {}, "minNotional", record),
        "price_decimals": price_decimals,
        "quantity_decimals": quantity_decimals,
        "funding_interval_hours": None,
        "recorded": row.get("recorded") is True,
    }
