"""Binance's JSON to our records (pure).

Every function takes the venue's parsed JSON and returns one record of a topic, or a plain value object. It raises ``MappingError``, which
names the field. Fields that we do not use are ignored: the venue adds some without notice. Numbers come as decimal text and become the
double whose shortest text is that decimal. Sources: the venue's USD-M market stream documents and the recorded payloads of tests/data.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

from math import inf
from typing import Any

from producers.venue.adapter import klines, records
from producers.venue.adapter.base import BookDiff, BookSnapshot, MappingError, Market
from producers.venue.adapter.json_values import (
    MAX_AHEAD_MS,
    MAX_LONG,
    array,
    get,
    integer,
    levels,
    one_of,
    optional,
    positive,
    quantity,
    step,
    text,
    time_ms,
)
from schemas.codec.avro import Record

VENUE = "BINANCE"
# The venue sends only the newest liquidation of a symbol in each second.
LIQUIDATION_CAP_MS = 1000
# A symbol that fundingInfo leaves out is funded every 8 h (venue's document of that endpoint).
DEFAULT_FUNDING_HOURS = 8


def event_clock(data: Any, received: int) -> int:
    """Return the venue's event time ``E`` of a stream message.

    Raises:
        MappingError: it is missing, not a time, or too far ahead of ``received``.
    """
    try:
        # This runs for every frame. Good frames take one pass.
        value = data["E"]
        if type(value) is int and 0 <= value <= received + MAX_AHEAD_MS:
            return value
    except (KeyError, TypeError):
        pass  # the second pass names the field
    return time_ms(data, "E", "frame", received)


def check_symbol(data: dict[str, Any], symbol: str, record: str) -> None:
    """Raise MappingError unless the message is about ``symbol``."""
    if type(data) is dict and data.get("s") == symbol:
        return
    if get(data, "s", record) != symbol:
        raise MappingError(record, "s", f"expected {symbol}, got {data['s']!r}")


def agg_trade(data: dict[str, Any], instrument: str, received: int, *, backfilled: bool = False) -> Record:
    """Return the ``agg_trades`` record of a stream aggTrade or of an element of ``/fapi/v1/aggTrades`` (same field names)."""
    try:
        # This is the hottest path. Good messages take one pass; only bad ones take a second.
        time, first, last, number, maker = data["T"], data["f"], data["l"], data["a"], data["m"]
        price_text, quantity_text = data["p"], data["q"]
        price, size = float(price_text), float(quantity_text)
        if (
            type(time) is type(first) is type(last) is type(number) is int
            and type(price_text) is type(quantity_text) is str
            and type(maker) is bool
            and 0 <= time <= received + MAX_AHEAD_MS
            and 0 <= first <= last <= MAX_LONG
            and 0 <= number <= MAX_LONG
            and 0.0 < price < inf
            and 0.0 < size < inf
            and "_" not in price_text
            and "_" not in quantity_text
        ):
            return {
                "instrument": instrument, "event_time": time, "receive_time": received, "agg_id": number, "first_trade_id": first,
                "last_trade_id": last, "price": price, "quantity": size, "buyer_is_maker": maker, "backfilled": backfilled,
            }  # fmt: skip
    except (KeyError, TypeError, ValueError):
        pass  # the second pass names the field
    return _checked_trade(data, instrument, received, backfilled)


def _checked_trade(data: Any, instrument: str, received: int, backfilled: bool) -> Record:
    time = time_ms(data, "T", "aggTrade", received)
    first, last = integer(data, "f", "aggTrade"), integer(data, "l", "aggTrade")
    if last < first:
        raise MappingError("aggTrade", "l", f"last trade id {last} is below the first, {first}")
    maker = get(data, "m", "aggTrade")
    if type(maker) is not bool:
        raise MappingError("aggTrade", "m", f"expected true or false, got {maker!r}")
    return records.trade(
        instrument, time, received, number=integer(data, "a", "aggTrade"), first=first, last=last, price=positive(data, "p", "aggTrade"),
        quantity=positive(data, "q", "aggTrade"), maker=maker, backfilled=backfilled,
    )  # fmt: skip


def quote(data: dict[str, Any], instrument: str, received: int) -> Record:
    """Return the ``quotes`` record of a bookTicker message."""
    try:
        # As above: most messages are of this kind.
        time, update = data["T"], data["u"]
        texts = bid_text, bid_size_text, ask_text, ask_size_text = data["b"], data["B"], data["a"], data["A"]
        bid, bid_size, ask, ask_size = map(float, texts)
        if (
            type(time) is type(update) is int
            and type(bid_text) is type(bid_size_text) is type(ask_text) is type(ask_size_text) is str
            and 0 <= time <= MAX_LONG
            and 0 <= update <= MAX_LONG
            and 0.0 < bid < inf
            and 0.0 < ask < inf
            and 0.0 <= bid_size < inf
            and 0.0 <= ask_size < inf
            and "_" not in "".join(texts)
        ):
            return {
                "instrument": instrument, "event_time": time, "receive_time": received, "update_id": update,
                "bid_price": bid, "bid_quantity": bid_size, "ask_price": ask, "ask_quantity": ask_size,
            }  # fmt: skip
    except (KeyError, TypeError, ValueError):
        pass  # the second pass names the field
    return checked_quote(data, instrument, integer(data, "T", "bookTicker"), received)


def checked_quote(data: dict[str, Any], instrument: str, time: int, received: int) -> Record:
    """Return the ``quotes`` record of a bookTicker message at a time. Errors name the field."""
    bid = positive(data, "b", "bookTicker"), quantity(data, "B", "bookTicker")
    ask = positive(data, "a", "bookTicker"), quantity(data, "A", "bookTicker")
    return records.quote(instrument, time, received, integer(data, "u", "bookTicker"), bid, ask)


def depth_diff(data: dict[str, Any]) -> BookDiff:
    """Return a depthUpdate message as value object."""
    try:
        # As above.
        time, first, last, previous = data["T"], data["U"], data["u"], data["pu"]
        if (
            type(time) is type(first) is type(last) is type(previous) is int
            and 0 <= time <= MAX_LONG
            and 0 <= first <= last <= MAX_LONG
            and 0 <= previous <= MAX_LONG
        ):
            return BookDiff(time, first, last, previous, levels(data, "b", "depthUpdate"), levels(data, "a", "depthUpdate"))
    except (KeyError, TypeError):
        pass  # the second pass names the field
    first, last = integer(data, "U", "depthUpdate"), integer(data, "u", "depthUpdate")
    if last < first:
        raise MappingError("depthUpdate", "u", f"last update id {last} is below the first, {first}")
    return BookDiff(
        integer(data, "T", "depthUpdate"),
        first,
        last,
        integer(data, "pu", "depthUpdate"),
        levels(data, "b", "depthUpdate"),
        levels(data, "a", "depthUpdate"),
    )


def depth_snapshot(data: dict[str, Any]) -> BookSnapshot:
    """Return the response of ``/fapi/v1/depth`` as a value object."""
    return BookSnapshot(integer(data, "lastUpdateId", "depth"), levels(data, "bids", "depth"), levels(data, "asks", "depth"))


def mark_price(data: dict[str, Any], instrument: str, received: int, interval_hours: int | None) -> Record:
    """Return the ``funding`` record of a markPriceUpdate. ``r`` is the estimate of the running interval, not the charged rate.

    Args:
        data: The message.
        instrument: Instrument id.
        received: Our clock.
        interval_hours: Funding interval as the venue publishes it in fundingInfo.
    """
    next_time = integer(data, "T", "markPriceUpdate")
    return records.funding(
        integer(data, "E", "markPriceUpdate"), received, instrument, mark=positive(data, "p", "markPriceUpdate"),
        index=optional(data, "i", "markPriceUpdate"), settle=optional(data, "P", "markPriceUpdate"),
        estimated=optional(data, "r", "markPriceUpdate"), hours=interval_hours,
        next_time=next_time or None,  # 0: the contract is not funded
    )  # fmt: skip


def liquidation(data: dict[str, Any], instrument: str, symbol: str, received: int) -> Record:
    """Return the ``liquidations`` record of a forceOrder message. A SELL order liquidates a long."""
    order = get(data, "o", "forceOrder")
    if type(order) is not dict:
        raise MappingError("forceOrder", "o", f"expected an object, got {order!r}")
    check_symbol(order, symbol, "forceOrder")
    side = one_of(order, "S", "forceOrder", ("SELL", "BUY"))
    return records.liquidation(
        instrument, integer(order, "T", "forceOrder"), received, long=side == "SELL", price=positive(order, "p", "forceOrder"),
        average_price=optional(order, "ap", "forceOrder"), quantity=positive(order, "q", "forceOrder"),
        filled=optional(order, "z", "forceOrder"), cap_ms=LIQUIDATION_CAP_MS,
    )  # fmt: skip


def instrument_facts(entry: dict[str, Any], author: str, funding_hours: int | None) -> Record:
    """Return the ``instruments`` record of a symbol of exchangeInfo, without its times (``event_time``, ``receive_time``).

    The price step is the filter's tickSize, because the entry's pricePrecision is finer than traded prices.

    Args:
        entry: Element of ``symbols``.
        author: Producer whose progress marks cover it.
        funding_hours: The symbol's interval in fundingInfo. None if it is missing there, which means 8 h for a perpetual.
    """
    record = "exchangeInfo"
    symbol = text(entry, "symbol", record)
    contract = str(entry.get("contractType") or "SPOT")
    if "PERPETUAL" in contract:
        kind = "perp"
    elif contract == "SPOT":
        kind = "spot"
    else:
        raise MappingError(record, "contractType", f"{symbol}: {contract!r} is neither a perpetual nor spot")
    filters = {text(item, "filterType", record): item for item in array(entry, "filters", record)}
    notional = filters.get("MIN_NOTIONAL") or filters.get("NOTIONAL") or {}
    return records.contract(
        VENUE, symbol, kind, author, entry, base=text(entry, "baseAsset", record), quote=text(entry, "quoteAsset", record),
        trading=entry.get("status", entry.get("contractStatus")) == "TRADING", tick=_step(filters, "PRICE_FILTER", "tickSize", symbol),
        lot=_step(filters, "LOT_SIZE", "stepSize", symbol),
        min_notional=optional(notional, "notional" if "notional" in notional else "minNotional", record),
        hours=(funding_hours or DEFAULT_FUNDING_HOURS) if kind == "perp" else None,
    )  # fmt: skip


def _step(filters: dict[str, dict[str, Any]], name: str, field: str, symbol: str) -> tuple[float, int]:
    """Return a filter's step and its number of decimals."""
    try:
        return step(filters.get(name, {}), field, "exchangeInfo")
    except MappingError as error:
        raise MappingError("exchangeInfo", f"{name}.{field}", f"{symbol}: {error.reason}") from None


def server_time(answer: Any) -> int:
    """Return the venue's clock from the response of ``time``, ms UTC."""
    return integer(answer, "serverTime", "time")


KLINE = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count", "taker_buy_volume")


def bar(row: Any, market: Market, received: int) -> Record:
    """Return the ``klines`` record of a row of ``klines``."""
    fields = klines.cells(row, KLINE, "klines")
    start = integer(fields, "open_time", "klines")
    return klines.kline(market, start, fields, received, "klines", trades=integer(fields, "count", "klines"))


def contracts(answer: Any) -> list[dict[str, Any]]:
    """Return the symbols of exchangeInfo that are objects with a name."""
    rows = array(answer, "symbols", "exchangeInfo")
    return [row for row in rows if type(row) is dict and type(row.get("symbol")) is str]


def volume(row: Any) -> tuple[str, float]:
    """Return symbol and 24 h volume in quote units of a row of ticker/24hr."""
    return text(row, "symbol", "ticker/24hr"), quantity(row, "quoteVolume", "ticker/24hr")


def volume_record(row: Any, received: int) -> tuple[str, str, Record] | None:
    """Return symbol, topic and ``market_indicators`` record of a row of ticker/24hr; None for a symbol that has never traded."""
    symbol, value = volume(row)
    time = integer(row, "closeTime", "ticker/24hr")
    return (symbol, "market_indicators", records.indicator("volume_24h", value, time, received)) if time else None


def funding_hours(row: Any) -> tuple[str, int]:
    """Return symbol and funding interval in hours of a row of fundingInfo."""
    hours = integer(row, "fundingIntervalHours", "fundingInfo")
    if not 0 < hours <= 24:
        raise MappingError("fundingInfo", "fundingIntervalHours", f"expected hours of a day, got {hours}")
    return text(row, "symbol", "fundingInfo"), hours
