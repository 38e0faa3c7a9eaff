"""Binance's JSON to our records (pure).

Every function takes the venue's object as parsed JSON and returns one record of a topic (or a plain value object), or raises ``MappingError``
that names the field. Fields that we do not use are ignored: the venue adds some without notice. Numbers come as decimal text and become the
double whose shortest text is that decimal. Sources: the venue's USD-M market stream documents and the recorded payloads of tests/data.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from math import inf
from typing import Any, NamedTuple

from schemas.codec import Record
from schemas.partition import base_asset, instrument_id

VENUE = "BINANCE"
# The venue sends only the newest liquidation of a symbol in each second.
LIQUIDATION_CAP_MS = 1000
# A symbol that fundingInfo leaves out is funded every 8 h (venue's document of that endpoint).
DEFAULT_FUNDING_HOURS = 8
# A venue time this far ahead of our clock is no skew but a broken frame; taken as a clock it would stop the merge of connections.
MAX_AHEAD_MS = 60_000

Level = tuple[float, float]


class MappingError(ValueError):
    """A message that does not have the documented shape.

    Attributes:
        record: What was being read, e.g. ``aggTrade``.
        field: The venue's name of the field at fault.
        reason: What is wrong with it.
    """

    def __init__(self, record: str, field: str, reason: str) -> None:
        super().__init__(f"{record}.{field}: {reason}")
        self.record = record
        self.field = field
        self.reason = reason


class DepthDiff(NamedTuple):
    """One depth diff: update ids ``first``..``last`` after ``previous``; levels (price, quantity), quantity 0 removes."""

    time: int
    first: int
    last: int
    previous: int
    bids: list[Level]
    asks: list[Level]


class DepthSnapshot(NamedTuple):
    """A REST depth snapshot at update id ``last``."""

    last: int
    bids: list[Level]
    asks: list[Level]


def _get(data: dict[str, Any], field: str, record: str) -> Any:
    try:
        return data[field]
    except KeyError:
        raise MappingError(record, field, "is missing") from None
    except TypeError:
        raise MappingError(record, field, f"the message is no object but {type(data).__name__}") from None


def _integer(data: dict[str, Any], field: str, record: str) -> int:
    try:
        value = data[field]
        if type(value) is int and value >= 0:
            return value
    except (KeyError, TypeError):
        value = _get(data, field, record)  # says what is wrong
    raise MappingError(record, field, f"expected a whole number >= 0, got {value!r}")


def _number(value: Any, field: str, record: str) -> float:
    if type(value) is not str:
        raise MappingError(record, field, f"expected decimal text, got {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise MappingError(record, field, f"expected decimal text, got {value!r}") from None
    if not -inf < number < inf or "_" in value:
        raise MappingError(record, field, f"expected a finite decimal, got {value!r}")
    return number


def _positive(data: dict[str, Any], field: str, record: str) -> float:
    value = _get(data, field, record)
    number = _number(value, field, record)
    if number <= 0.0:
        raise MappingError(record, field, f"expected a number > 0, got {value!r}")
    return number


def _quantity(data: dict[str, Any], field: str, record: str) -> float:
    value = _get(data, field, record)
    number = _number(value, field, record)
    if number < 0.0:
        raise MappingError(record, field, f"expected a number >= 0, got {value!r}")
    return number


def _optional(data: dict[str, Any], field: str, record: str) -> float | None:
    value = data.get(field)
    return None if value is None or value == "" else _number(value, field, record)


def _levels(data: dict[str, Any], field: str, record: str) -> list[Level]:
    rows = _get(data, field, record)
    try:
        # A busy depth stream has a million levels a minute: one pass over good ones, and a second look only at bad ones.
        levels = [(float(price), float(quantity)) for price, quantity in rows if type(price) is str is type(quantity)]
        if (
            len(levels) == len(rows)
            and set(map(type, rows)) <= {list}
            and all([0.0 < price < inf and 0.0 <= quantity < inf for price, quantity in levels])
        ):
            return levels
    except (TypeError, ValueError):
        pass  # the second look names the level
    return _checked_levels(rows, field, record)


def _checked_levels(rows: Any, field: str, record: str) -> list[Level]:
    if type(rows) is not list:
        raise MappingError(record, field, f"expected a list of levels, got {rows!r}")
    levels = []
    for row in rows:
        if type(row) is not list or len(row) < 2:
            raise MappingError(record, field, f"expected [price, quantity], got {row!r}")
        price, quantity = _number(row[0], field, record), _number(row[1], field, record)
        if price <= 0.0 or quantity < 0.0:
            raise MappingError(record, field, f"expected price > 0 and quantity >= 0, got {row!r}")
        levels.append((price, quantity))
    return levels


def event_clock(data: Any, received: int) -> int:
    """Return the venue's event time ``E`` of a stream message.

    Raises:
        MappingError: it is missing, no time, or lies so far ahead of ``received`` that it cannot be one.
    """
    clock = _integer(data, "E", "frame")
    if clock > received + MAX_AHEAD_MS:
        raise MappingError("frame", "E", f"{clock} lies {clock - received} ms ahead of our clock")
    return clock


def check_symbol(data: dict[str, Any], symbol: str, record: str) -> None:
    """Raise MappingError unless the message is about ``symbol``."""
    if _get(data, "s", record) != symbol:
        raise MappingError(record, "s", f"expected {symbol}, got {data['s']!r}")


def agg_trade(data: dict[str, Any], instrument: str, received: int, *, backfilled: bool = False) -> Record:
    """Return the ``agg_trades`` record of a stream aggTrade or of an element of ``/fapi/v1/aggTrades`` (same field names)."""
    time = _integer(data, "T", "aggTrade")
    if time > received + MAX_AHEAD_MS:
        raise MappingError("aggTrade", "T", f"{time} lies {time - received} ms ahead of our clock")
    first, last = _integer(data, "f", "aggTrade"), _integer(data, "l", "aggTrade")
    if last < first:
        raise MappingError("aggTrade", "l", f"last trade id {last} is below the first, {first}")
    maker = _get(data, "m", "aggTrade")
    if type(maker) is not bool:
        raise MappingError("aggTrade", "m", f"expected true or false, got {maker!r}")
    return {
        "instrument": instrument,
        "event_time": time,
        "receive_time": received,
        "agg_id": _integer(data, "a", "aggTrade"),
        "first_trade_id": first,
        "last_trade_id": last,
        "price": _positive(data, "p", "aggTrade"),
        "quantity": _positive(data, "q", "aggTrade"),
        "buyer_is_maker": maker,
        "backfilled": backfilled,
    }


def quote(data: dict[str, Any], instrument: str, received: int) -> Record:
    """Return the ``quotes`` record of a bookTicker message."""
    return {
        "instrument": instrument,
        "event_time": _integer(data, "T", "bookTicker"),
        "receive_time": received,
        "update_id": _integer(data, "u", "bookTicker"),
        "bid_price": _positive(data, "b", "bookTicker"),
        "bid_quantity": _quantity(data, "B", "bookTicker"),
        "ask_price": _positive(data, "a", "bookTicker"),
        "ask_quantity": _quantity(data, "A", "bookTicker"),
    }


def depth_diff(data: dict[str, Any]) -> DepthDiff:
    """Return a depthUpdate message as value object."""
    first, last = _integer(data, "U", "depthUpdate"), _integer(data, "u", "depthUpdate")
    if last < first:
        raise MappingError("depthUpdate", "u", f"last update id {last} is below the first, {first}")
    return DepthDiff(
        _integer(data, "T", "depthUpdate"),
        first,
        last,
        _integer(data, "pu", "depthUpdate"),
        _levels(data, "b", "depthUpdate"),
        _levels(data, "a", "depthUpdate"),
    )


def depth_snapshot(data: dict[str, Any]) -> DepthSnapshot:
    """Return the answer of ``/fapi/v1/depth`` as value object."""
    return DepthSnapshot(_integer(data, "lastUpdateId", "depth"), _levels(data, "bids", "depth"), _levels(data, "asks", "depth"))


def mark_price(data: dict[str, Any], instrument: str, received: int, interval_hours: int | None) -> Record:
    """Return the ``funding`` record of a markPriceUpdate. ``r`` is the estimate of the running interval, not what is charged.

    Args:
        data: The message.
        instrument: Instrument id.
        received: Our clock.
        interval_hours: Funding interval as the venue publishes it in fundingInfo.
    """
    next_time = _integer(data, "T", "markPriceUpdate")
    return {
        "instrument": instrument,
        "event_time": _integer(data, "E", "markPriceUpdate"),
        "receive_time": received,
        "mark_price": _positive(data, "p", "markPriceUpdate"),
        "index_price": _optional(data, "i", "markPriceUpdate"),
        "estimated_settle_price": _optional(data, "P", "markPriceUpdate"),
        "estimated_rate": _optional(data, "r", "markPriceUpdate"),
        "settled_rate": None,
        "next_funding_time": next_time or None,  # 0: the contract is not funded
        "interval_hours": interval_hours,
    }


def liquidation(data: dict[str, Any], instrument: str, symbol: str, received: int) -> Record:
    """Return the ``liquidations`` record of a forceOrder message. A SELL order liquidates a long."""
    order = _get(data, "o", "forceOrder")
    if type(order) is not dict:
        raise MappingError("forceOrder", "o", f"expected an object, got {order!r}")
    check_symbol(order, symbol, "forceOrder")
    side = _get(order, "S", "forceOrder")
    if side not in ("SELL", "BUY"):
        raise MappingError("forceOrder", "S", f"expected SELL or BUY, got {side!r}")
    return {
        "instrument": instrument,
        "event_time": _integer(order, "T", "forceOrder"),
        "receive_time": received,
        "side": "LONG" if side == "SELL" else "SHORT",
        "price": _positive(order, "p", "forceOrder"),
        "average_price": _optional(order, "ap", "forceOrder"),
        "quantity": _positive(order, "q", "forceOrder"),
        "filled_quantity": _optional(order, "z", "forceOrder"),
        "sampling_cap_ms": LIQUIDATION_CAP_MS,
    }


def instrument_facts(entry: dict[str, Any], author: str, funding_hours: int | None) -> Record:
    """Return the ``instruments`` record of a symbol of exchangeInfo, without its times (``event_time``, ``receive_time``).

    The price step is the filter's tickSize: the entry's pricePrecision is finer than what trades.

    Args:
        entry: Element of ``symbols``.
        author: Producer whose progress marks cover it.
        funding_hours: What fundingInfo says of the symbol; None when it leaves it out, which means 8 h for a perpetual.
    """
    record = "exchangeInfo"
    symbol = _get(entry, "symbol", record)
    contract = entry.get("contractType") or "SPOT"
    if "PERPETUAL" in contract:
        kind = "perp"
    elif contract == "SPOT":
        kind = "spot"
    else:
        raise MappingError(record, "contractType", f"{symbol}: {contract!r} is neither a perpetual nor spot")
    filters = {item.get("filterType"): item for item in _get(entry, "filters", record)}
    tick, price_decimals = _step(filters, "PRICE_FILTER", "tickSize", symbol)
    step, quantity_decimals = _step(filters, "LOT_SIZE", "stepSize", symbol)
    notional = filters.get("MIN_NOTIONAL") or filters.get("NOTIONAL") or {}
    base = base_asset(_get(entry, "baseAsset", record))
    return {
        "instrument": instrument_id(VENUE, symbol, kind),
        "author": author,
        "venue": VENUE,
        "symbol": symbol,
        "base_asset": base,
        "quote_asset": _get(entry, "quoteAsset", record),
        "kind": kind,
        "status": "trading" if entry.get("status", entry.get("contractStatus")) == "TRADING" else "closed",
        "tick_size": tick,
        "step_size": step,
        "min_notional": _optional(notional, "notional" if "notional" in notional else "minNotional", record),
        "price_decimals": price_decimals,
        "quantity_decimals": quantity_decimals,
        "funding_interval_hours": (funding_hours or DEFAULT_FUNDING_HOURS) if kind == "perp" else None,
        "recorded": entry.get("recorded") is True,
    }


def _step(filters: dict[str, dict[str, Any]], name: str, field: str, symbol: str) -> tuple[float, int]:
    """Return a filter's step and its number of decimals."""
    text = filters.get(name, {}).get(field)
    try:
        value = Decimal(text) if isinstance(text, str) else Decimal(0)
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or value <= 0:
        raise MappingError("exchangeInfo", f"{name}.{field}", f"{symbol}: expected decimal text > 0, got {text!r}")
    exponent = value.normalize().as_tuple().exponent
    return float(value), max(0, -int(exponent))


def funding_hours(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return symbol -> funding interval in hours of the answer of fundingInfo."""
    found = {}
    for row in rows:
        hours = _integer(row, "fundingIntervalHours", "fundingInfo")
        if hours == 0:
            raise MappingError("fundingInfo", "fundingIntervalHours", "expected a number > 0, got 0")
        found[_get(row, "symbol", "fundingInfo")] = hours
    return found
