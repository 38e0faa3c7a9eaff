"""Hyperliquid's JSON to our records (pure).

Fields that we do not use are ignored: the venue adds some without notice. Prices and sizes come as decimal text, times as numbers.
Sources: the venue's documents (for-developers/api: websocket/subscriptions, info-endpoint/perpetuals, tick-and-lot-size) and the payloads of
tests/data/venues/hyperliquid.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from producers.venue.adapter import klines
from producers.venue.adapter.base import BookSnapshot, Event, Level, MappingError, Market
from producers.venue.adapter.json_values import array, get, integer, number, one_of, optional, positive, product, quantity, text, time_ms
from schemas.codec.avro import Record
from schemas.partition import base_asset, instrument_id

VENUE = "HYPERLIQUID"
# Margin and settlement of all contracts of the main universe.
QUOTE = "USDC"
# "Perps have a maximum of 6 - szDecimals decimal places" (and 5 significant figures, which a step cannot express).
MAX_DECIMALS = 6
# Funding is paid every hour, on the hour; the venue publishes neither the interval nor the next time.
FUNDING_HOURS = 1
# Orders below this value are refused (error "MinTradeNtl").
MIN_NOTIONAL = 10.0


# --- streams ---------------------------------------------------------------------------------------------------------


def trade(row: Any, instrument: str, received: int, *, backfilled: bool = False) -> Record:
    """Return the ``agg_trades`` record of a row of the trades stream or of recentTrades.

    ``side`` is the aggressor's: B bought, A ("ask") sold. ``tid`` is a hash of the two orders: it identifies a trade but does not ascend.
    """
    side = one_of(row, "side", "trades", ("B", "A"))
    return {
        "instrument": instrument,
        "event_time": time_ms(row, "time", "trades", received),
        "receive_time": received,
        "agg_id": 0,
        "first_trade_id": 0,
        "last_trade_id": 0,
        "price": positive(row, "px", "trades"),
        "quantity": positive(row, "sz", "trades"),
        "buyer_is_maker": side == "A",
        "backfilled": backfilled,
        "venue_trade_id": str(integer(row, "tid", "trades")),
    }


def bar(row: Any, market: Market, received: int) -> Record:
    """Return the ``klines`` record of a row of candleSnapshot; the taker buy volume is not given."""
    record = "candleSnapshot"
    fields = {name: get(row, key, record) for name, key in (("open", "o"), ("high", "h"), ("low", "l"), ("close", "c"), ("volume", "v"))}
    return klines.kline(market, integer(row, "t", record), fields, received, record, trades=integer(row, "n", record))


def ascending(records: list[Record]) -> list[Record]:
    """Return trades by time, those of one time (one block) in the venue's order. Lists with the newest first are reversed."""
    if records and records[0]["event_time"] > records[-1]["event_time"]:
        records = records[::-1]
    return sorted(records, key=lambda record: record["event_time"])


def book(data: Any, received: int) -> BookSnapshot:
    """Return an l2Book message: the best 20 levels of both sides. Books have no number, so their time (one a block) is their id."""
    time = time_ms(data, "time", "l2Book", received)
    sides = array(data, "levels", "l2Book")
    if len(sides) != 2:
        raise MappingError("l2Book", "levels", f"expected bids and asks, got {len(sides)} sides")
    return BookSnapshot(time, _side(sides[0]), _side(sides[1]), time)


def _side(rows: Any) -> list[Level]:
    if type(rows) is not list:
        raise MappingError("l2Book", "levels", f"expected a list of levels, got {rows!r}")
    return [(positive(row, "px", "l2Book"), quantity(row, "sz", "l2Book")) for row in rows]


def quote(data: Any, instrument: str, received: int) -> Record | None:
    """Return the ``quotes`` record of a bbo message, with its time as id; None when a side is empty (null)."""
    time = time_ms(data, "time", "bbo", received)
    sides = array(data, "bbo", "bbo")
    if len(sides) != 2:
        raise MappingError("bbo", "bbo", f"expected bid and ask, got {len(sides)} sides")
    bid, ask = sides
    if bid is None or ask is None:
        return None
    return {
        "instrument": instrument,
        "event_time": time,
        "receive_time": received,
        "update_id": time,
        "bid_price": positive(bid, "px", "bbo"),
        "bid_quantity": quantity(bid, "sz", "bbo"),
        "ask_price": positive(ask, "px", "bbo"),
        "ask_quantity": quantity(ask, "sz", "bbo"),
    }


def context(data: Any, instrument: str, time: int, received: int) -> list[Event]:
    """Return the content of an activeAssetCtx message: mark, oracle price as index, estimated hourly rate, and in quote units open interest
    and 24 h volume.

    The message has no time; ``time`` comes from ``estimated_time``. Open interest is in coins and is valued at the message's mark price, exactly.
    """
    ctx = get(data, "ctx", "activeAssetCtx")
    mark = positive(ctx, "markPx", "activeAssetCtx")
    value = product(ctx, "openInterest", "markPx", "activeAssetCtx")
    if value < 0.0:
        raise MappingError("activeAssetCtx", "openInterest", f"expected a number >= 0, got {ctx['openInterest']!r}")
    index = optional(ctx, "oraclePx", "activeAssetCtx")
    funding = _funding(time, received, mark=mark, index=index, rate=optional(ctx, "funding", "activeAssetCtx"))
    volume = quantity(ctx, "dayNtlVlm", "activeAssetCtx")
    stamp = {"instrument": instrument, "event_time": time, "receive_time": received}
    return [
        ("funding", {"instrument": instrument, **funding}),
        ("market_indicators", {**stamp, "indicator": "open_interest", "value": value}),
        ("market_indicators", {**stamp, "indicator": "volume_24h", "value": volume}),
    ]


def _funding(
    time: int,
    received: int,
    *,
    mark: float | None = None,
    index: float | None = None,
    rate: float | None = None,
    settled: float | None = None,
) -> Record:
    """Return a ``funding`` record without instrument. Interval and next time follow from the venue's rule, because no message has them."""
    return {
        "event_time": time,
        "receive_time": received,
        "mark_price": mark,
        "index_price": index,
        "estimated_settle_price": None,
        "estimated_rate": rate,
        "settled_rate": settled,
        "next_funding_time": None,
        "interval_hours": None,
    }


# --- REST ------------------------------------------------------------------------------------------------------------


def server_time(answer: Any) -> int:
    """Return the clock of exchangeStatus: the time of the newest block."""
    return integer(answer, "time", "exchangeStatus")


def settled(answer: Any, received: int) -> list[Record]:
    """Return the settlements of fundingHistory, ascending; their times are the venue's, some ms after the full hour."""
    if type(answer) is not list:
        raise MappingError("fundingHistory", "fundingHistory", f"expected a list, got {type(answer).__name__}")
    found = [
        _funding(
            time_ms(row, "time", "fundingHistory", received),
            received,
            settled=number(get(row, "fundingRate", "fundingHistory"), "fundingRate", "fundingHistory"),
        )
        for row in answer
    ]
    return sorted(found, key=lambda record: record["event_time"])


def contexts(answer: Any) -> list[tuple[Any, Any]]:
    """Return (contract, context) of metaAndAssetCtxs: two lists in one order."""
    if type(answer) is not list or len(answer) != 2 or type(answer[1]) is not list:
        raise MappingError("metaAndAssetCtxs", "assetCtxs", "expected the contracts and their contexts")
    universe = array(answer[0], "universe", "metaAndAssetCtxs")
    if len(universe) != len(answer[1]):
        raise MappingError("metaAndAssetCtxs", "assetCtxs", f"{len(answer[1])} contexts of {len(universe)} contracts")
    return list(zip(universe, answer[1], strict=True))


def volume(pair: tuple[Any, Any]) -> tuple[str, float]:
    """Return coin and 24 h volume in quote units of a contract and its context."""
    return text(pair[0], "name", "metaAndAssetCtxs"), quantity(pair[1], "dayNtlVlm", "metaAndAssetCtxs")


def instrument_facts(row: Any, author: str) -> Record:
    """Return the ``instruments`` record of a contract of meta without its times.

    The price step is that of the most decimals allowed. A price also has at most 5 significant figures, so BTC moves by 1 while its step is
    0.1.
    """
    symbol, places = text(row, "name", "meta"), integer(row, "szDecimals", "meta")
    if places > 18:
        raise MappingError("meta", "szDecimals", f"expected a number of decimal places, got {places}")
    price_decimals = max(0, MAX_DECIMALS - places)
    return {
        "instrument": instrument_id(VENUE, symbol, "perp"),
        "author": author,
        "venue": VENUE,
        "symbol": symbol,
        "base_asset": base_asset(symbol, VENUE),
        "quote_asset": QUOTE,
        "kind": "perp",
        "status": "closed" if row.get("isDelisted") is True else "trading",
        "tick_size": float(Decimal(1).scaleb(-price_decimals)),
        "step_size": float(Decimal(1).scaleb(-places)),
        "min_notional": MIN_NOTIONAL,
        "price_decimals": price_decimals,
        "quantity_decimals": places,
        "funding_interval_hours": FUNDING_HOURS,
        "recorded": row.get("recorded") is True,
    }
