"""Bybit's JSON to our records (pure).

Every function takes the venue's parsed JSON and returns one record of a topic, or a plain value object. It raises ``MappingError``, which
names the field. Fields that we do not use are ignored: the venue adds some without notice. Sources: the venue's v5 documents
(websocket/public/*, market/*) and the payloads of tests/data/venues/bybit.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from producers.venue.adapter import klines, records
from producers.venue.adapter.base import BookDiff, BookSnapshot, MappingError, Market
from producers.venue.adapter.json_values import (
    array,
    decimal,
    get,
    integer,
    levels,
    number,
    one_of,
    optional,
    positive,
    quantity,
    step,
    text,
    time_ms,
)
from schemas.codec.avro import Record

VENUE = "BYBIT"
QUOTE_ASSETS = ("USDT", "USDC")
SIDES = ("Buy", "Sell")


def check_symbol(data: Any, field: str, symbol: str, record: str) -> None:
    """Raise MappingError unless the message is about ``symbol``."""
    found = get(data, field, record)
    if found != symbol:
        raise MappingError(record, field, f"expected {symbol}, got {found!r}")


# --- streams ---------------------------------------------------------------------------------------------------------


def trade(data: Any, instrument: str, symbol: str, received: int) -> Record:
    """Return the ``agg_trades`` record of an element of a publicTrade message; ``S`` is the taker's side.

    The venue's ids (uuids; on spot numbers over all symbols) only identify a trade, so the producer assigns ascending ones. Block trades
    (``BT``) and trades against retail price improvement orders (``RPI``) count as trades. REST includes them, too.
    """
    check_symbol(data, "s", symbol, "publicTrade")
    return records.trade(
        instrument, time_ms(data, "T", "publicTrade", received), received, price=positive(data, "p", "publicTrade"),
        quantity=positive(data, "v", "publicTrade"), maker=one_of(data, "S", "publicTrade", SIDES) == "Sell", backfilled=False,
        venue_id=text(data, "i", "publicTrade"),
    )  # fmt: skip


def recent_trade(data: Any, instrument: str, symbol: str, received: int) -> Record:
    """Return the ``agg_trades`` record of an element of ``/v5/market/recent-trade``; ``execId`` is the stream's ``i``."""
    check_symbol(data, "symbol", symbol, "recent-trade")
    return records.trade(
        instrument, time_ms(data, "time", "recent-trade", received), received, price=positive(data, "price", "recent-trade"),
        quantity=positive(data, "size", "recent-trade"), maker=one_of(data, "side", "recent-trade", SIDES) == "Sell", backfilled=True,
        venue_id=text(data, "execId", "recent-trade"),
    )  # fmt: skip


def book(message: dict[str, Any], symbol: str, received: int) -> BookDiff | BookSnapshot:
    """Return the content of an orderbook.50 message. Update ids grow by one. ``u`` = 1 is a whole book after a restart of the service.

    The time is ``cts`` of the matching engine, comparable with trades; ``ts`` if it is missing.
    """
    record = "orderbook"
    kind = one_of(message, "type", record, ("snapshot", "delta"))
    data = get(message, "data", record)
    check_symbol(data, "s", symbol, record)
    update = integer(data, "u", record)
    time = time_ms(message, "cts" if "cts" in message else "ts", record, received)
    bids, asks = levels(data, "b", record), levels(data, "a", record)
    if kind == "snapshot" or update == 1:
        return BookSnapshot(update, bids, asks, time)
    return BookDiff(time, update, update, update - 1, bids, asks)


def quote(message: dict[str, Any], instrument: str, symbol: str, received: int, memory: dict[str, Any]) -> Record | None:
    """Return the ``quotes`` record of an orderbook.1 message, or None while a side is unknown or empty.

    The venue sends whole snapshots, and repeats one after 3 s without change (same ``u``). A repeat confirms the quote, so it has the time
    of sending (``ts``). A delta with one side only does not change the other (the market's memory, ``quote``).
    """
    record = "orderbook"
    kind = one_of(message, "type", record, ("snapshot", "delta"))
    data = get(message, "data", record)
    check_symbol(data, "s", symbol, record)
    update = integer(data, "u", record)
    sent = time_ms(message, "ts", record, received)
    made = time_ms(message, "cts", record, received) if "cts" in message else sent
    known = memory.get("quote", {})
    if sent < known.get("sent", 0):
        return None  # older than the other connection's, during a rotation
    whole = kind == "snapshot" or update == 1
    state: dict[str, Any] = {"u": update, "sent": sent}
    for side in ("b", "a"):
        state[side] = None if whole else known.get(side)
        for price, size in levels(data, side, record):
            if size > 0.0:
                state[side] = (price, size)
            elif state[side] is not None and state[side][0] == price:
                state[side] = None
    memory["quote"] = state
    if state["b"] is None or state["a"] is None:
        return None
    return records.quote(instrument, max(made, sent) if known.get("u") == update else made, received, update, state["b"], state["a"])


def liquidation(data: Any, instrument: str, symbol: str, received: int) -> Record:
    """Return the ``liquidations`` record of an element of an allLiquidation message: all of them, pushed every 500 ms.

    ``S`` is the side of the position: Buy means that a long was liquidated. ``p`` is the bankruptcy price.
    """
    record = "allLiquidation"
    check_symbol(data, "s", symbol, record)
    side = one_of(data, "S", record, SIDES)
    return records.liquidation(
        instrument, time_ms(data, "T", record, received), received, long=side == "Buy", price=positive(data, "p", record),
        quantity=positive(data, "v", record),
    )  # fmt: skip


# --- tickers, over both ----------------------------------------------------------------------------------------------


def ticker(data: Any) -> dict[str, Any]:
    """Return the used fields of a ticker. Absent or empty ones are left out.

    Keys: ``mark_price``, ``index_price``, ``estimated_rate``, ``next_funding_time``, ``interval_hours`` (of ``funding``), ``open_interest``
    and ``volume_24h`` (both in quote units).
    """
    record = "tickers"
    fields: dict[str, Any] = {}
    for name, field in (("mark_price", "markPrice"), ("index_price", "indexPrice")):
        if data.get(field) not in (None, ""):
            fields[name] = positive(data, field, record)
    if (rate := optional(data, "fundingRate", record)) is not None:
        fields["estimated_rate"] = rate
    for name, field in (("next_funding_time", "nextFundingTime"), ("interval_hours", "fundingIntervalHour")):
        # "0": not funded (a contract before or after its continuous trading).
        if data.get(field) not in (None, "") and (value := integer(data, field, record)) > 0:
            fields[name] = value
    if fields.get("interval_hours", 1) > 24 * 7:
        raise MappingError(record, "fundingIntervalHour", f"expected hours, got {fields['interval_hours']}")
    for name, field in (("open_interest", "openInterestValue"), ("volume_24h", "turnover24h")):
        if data.get(field) not in (None, ""):
            fields[name] = quantity(data, field, record)
    return fields


FUNDING_FIELDS = ("mark_price", "index_price", "estimated_rate", "next_funding_time", "interval_hours")
INDICATORS = ("open_interest", "volume_24h")


def funding(fields: dict[str, Any], time: int, received: int) -> Record:
    """Return the ``funding`` record (without ``instrument``) of ticker fields; ``fundingRate`` is the estimate of the running interval."""
    return records.funding(
        time, received, mark=fields.get("mark_price"), index=fields.get("index_price"), estimated=fields.get("estimated_rate"),
        next_time=fields.get("next_funding_time"), hours=fields.get("interval_hours"),
    )  # fmt: skip


def rows(answer: Any, record: str) -> list[Any]:
    """Return the list of a response."""
    return array(get(answer, "result", record), "list", record)


def linear_facts(entry: Any, author: str) -> Record | None:
    """Return the ``instruments`` record of a contract, without its times. None unless it is a perpetual against USDT or USDC."""
    record = "instruments-info"
    if get(entry, "contractType", record) != "LinearPerpetual" or entry.get("quoteCoin") not in QUOTE_ASSETS:
        return None
    lots = get(entry, "lotSizeFilter", record)
    minutes = integer(entry, "fundingInterval", record)
    if minutes == 0 or minutes % 60:
        raise MappingError(record, "fundingInterval", f"expected whole hours in minutes, got {minutes}")
    return _facts(entry, author, "perp", step(lots, "qtyStep", record), optional(lots, "minNotionalValue", record), minutes // 60)


def spot_facts(entry: Any, author: str) -> Record | None:
    """Return the ``instruments`` record of a spot pair, without its times; None for quotes other than USDT and USDC."""
    record = "instruments-info"
    if get(entry, "quoteCoin", record) not in QUOTE_ASSETS:
        return None
    lots = get(entry, "lotSizeFilter", record)
    return _facts(entry, author, "spot", step(lots, "basePrecision", record), optional(lots, "minOrderAmt", record), None)


def _facts(entry: Any, author: str, kind: str, lot: tuple[float, int], min_notional: float | None, hours: int | None) -> Record:
    record = "instruments-info"
    return records.contract(
        VENUE, text(entry, "symbol", record), kind, author, entry, base=text(entry, "baseCoin", record),
        quote=text(entry, "quoteCoin", record), trading=get(entry, "status", record) == "Trading",
        tick=step(get(entry, "priceFilter", record), "tickSize", record), lot=lot, min_notional=min_notional, hours=hours,
    )  # fmt: skip


def volume(entry: Any) -> tuple[str, float] | None:
    """Return (symbol, 24 h volume in quote units) of a ticker. None without a volume."""
    symbol, fields = text(entry, "symbol", "tickers"), optional(entry, "turnover24h", "tickers")
    if fields is not None and fields < 0.0:
        raise MappingError("tickers", "turnover24h", f"expected a number >= 0, got {fields}")
    return None if fields is None else (symbol, fields)


def settled(entry: Any, symbol: str, received: int) -> Record:
    """Return the ``funding`` record (without ``instrument``) of a settlement: the rate charged at ``fundingRateTimestamp``."""
    record = "funding/history"
    check_symbol(entry, "symbol", symbol, record)
    time = time_ms(entry, "fundingRateTimestamp", record, received)
    return records.funding(time, received, settled=number(get(entry, "fundingRate", record), "fundingRate", record))


def account_ratio(entry: Any, symbol: str, received: int) -> Record | None:
    """Return long accounts divided by short ones (``long_short_ratio``, without ``instrument``). None without short accounts."""
    record = "account-ratio"
    check_symbol(entry, "symbol", symbol, record)
    shares = []
    for field in ("buyRatio", "sellRatio"):
        share = decimal(get(entry, field, record), field, record)
        if not 0 <= share <= 1 or (share and share.adjusted() < -20):
            raise MappingError(record, field, f"expected a share, got {share}")
        shares.append(share)
    time = time_ms(entry, "timestamp", record, received)
    long, short = shares
    return records.indicator("long_short_ratio", float(Fraction(long) / Fraction(short)), time, received) if short else None


def open_interest(entry: Any, received: int) -> tuple[int, str]:
    """Return (time, base quantity as decimal text) of an element of ``/v5/market/open-interest``."""
    quantity(entry, "openInterest", "open-interest")
    return time_ms(entry, "timestamp", "open-interest", received), entry["openInterest"]


KLINE = ("start", "open", "high", "low", "close", "volume")


def bar(row: Any, market: Market, received: int) -> Record:
    """Return the ``klines`` record of a candle of ``/v5/market/kline``; the taker buy volume is not given."""
    fields = klines.cells(row, KLINE, "kline")
    return klines.kline(market, integer(fields, "start", "kline"), fields, received, "kline")


def mark_at(entry: Any) -> tuple[int, str]:
    """Return (time, mark price at that time as decimal text) of a candle of ``/v5/market/mark-price-kline``: its start and open."""
    record = "mark-price-kline"
    if type(entry) is not list or len(entry) < 2:
        raise MappingError(record, "list", f"expected [start, open, ...], got {entry!r}")
    fields = {"start": entry[0], "open": entry[1]}
    positive(fields, "open", record)
    return integer(fields, "start", record), entry[1]
