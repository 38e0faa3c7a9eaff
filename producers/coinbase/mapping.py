"""Coinbase Exchange's JSON to our records (pure).

Fields that we do not use are ignored: the venue adds some without notice. Prices and sizes come as decimal text, times as ISO 8601 text.
Sources: the venue's documents (exchange/websocket-feed/channels, exchange/rest-api/products) and the payloads of tests/data/venues/coinbase.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from producers.venue.adapter import klines, records
from producers.venue.adapter.base import Event, MappingError, Market
from producers.venue.adapter.json_values import MAX_AHEAD_MS, get, integer, one_of, optional, positive, product, quantity, step, text
from schemas.codec.avro import Record

VENUE = "COINBASE"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def iso_ms(data: Any, field: str, record: str) -> int:
    """Return an ISO 8601 time with its zone as ms UTC, truncated to the millisecond."""
    value = text(data, field, record)
    try:
        time = datetime.fromisoformat(value)
        found = (time - _EPOCH) // _MS
    except (ValueError, TypeError, OverflowError):  # no time; without zone; beyond the calendar
        raise MappingError(record, field, f"expected an ISO 8601 time with its zone, got {value!r}") from None
    if found < 0:
        raise MappingError(record, field, f"expected a time after 1970, got {value!r}")
    return found


def event_ms(data: Any, field: str, record: str, received: int) -> int:
    """Return a time that is not in the future, ms UTC."""
    value = iso_ms(data, field, record)
    if value > received + MAX_AHEAD_MS:
        raise MappingError(record, field, f"{value} lies {value - received} ms ahead of our clock")
    return value


CANDLE = ("time", "low", "high", "open", "close", "volume")


def bar(row: Any, market: Market, received: int) -> Record:
    """Return the ``klines`` record of a row of candles: numbers, not texts; their shortest text is the venue's decimal."""
    fields = klines.cells(row, CANDLE, "candles")
    for name in CANDLE[1:]:
        if type(fields[name]) in (int, float):
            fields[name] = repr(fields[name])
    return klines.kline(market, integer(fields, "time", "candles") * 1000, fields, received, "candles")


# --- streams ---------------------------------------------------------------------------------------------------------


def trade(row: Any, instrument: str, received: int, *, backfilled: bool = False) -> Record:
    """Return the ``agg_trades`` record of a match, of last_match, or of a row of ``/products/ID/trades`` (same fields).

    ``side`` is the **maker's**: ``buy`` means that a resting bid was hit, so the taker sold. Ids are consecutive in a product.
    """
    side = one_of(row, "side", "match", ("buy", "sell"))
    return records.trade(
        instrument, event_ms(row, "time", "match", received), received, price=positive(row, "price", "match"),
        quantity=positive(row, "size", "match"), maker=side == "buy", backfilled=backfilled, number=integer(row, "trade_id", "match"),
    )  # fmt: skip


def ticker(row: Any, instrument: str, received: int) -> list[Event]:
    """Return the content of a ticker message: best bid and ask, and the 24 h volume in quote units. An empty side (``0``) gives no quote.

    The venue sends it at each match, not at each change of the book. The venue's volume is in coins and is valued at the last price,
    exactly.
    """
    time = event_ms(row, "time", "ticker", received)
    events: list[Event] = []
    bid, ask = quantity(row, "best_bid", "ticker"), quantity(row, "best_ask", "ticker")
    if bid > 0.0 and ask > 0.0:
        best = (bid, quantity(row, "best_bid_size", "ticker")), (ask, quantity(row, "best_ask_size", "ticker"))
        events.append(("quotes", records.quote(instrument, time, received, integer(row, "sequence", "ticker"), *best)))
    if row.get("volume_24h") not in (None, ""):
        quantity(row, "volume_24h", "ticker")
        positive(row, "price", "ticker")
        value = product(row, "volume_24h", "price", "ticker")
        events.append(("market_indicators", records.indicator("volume_24h", value, time, received, instrument)))
    return events


# --- REST ------------------------------------------------------------------------------------------------------------


def server_time(answer: Any) -> int:
    """Return the clock of ``/time``."""
    return iso_ms(answer, "iso", "time")


def volume(entry: tuple[str, Any]) -> tuple[str, float] | None:
    """Return product and 24 h volume in quote units of an entry of ``/products/stats``: coins at the last price. None without trades."""
    symbol, row = entry
    stats = get(row, "stats_24hour", "stats")
    if get(stats, "last", "stats") in (None, "") or get(stats, "volume", "stats") in (None, ""):
        return None
    quantity(stats, "volume", "stats")
    quantity(stats, "last", "stats")
    return symbol, product(stats, "volume", "last", "stats")


def instrument_facts(row: Any, author: str) -> Record:
    """Return the ``instruments`` record of an element of ``/products`` without its times."""
    symbol = text(row, "id", "products")
    return records.contract(
        VENUE, symbol, "spot", author, row, base=text(row, "base_currency", "products"), quote=text(row, "quote_currency", "products"),
        trading=text(row, "status", "products") == "online" and row.get("trading_disabled") is not True,
        tick=step(row, "quote_increment", "products"), lot=step(row, "base_increment", "products"),
        min_notional=optional(row, "min_market_funds", "products"),
    )  # fmt: skip
