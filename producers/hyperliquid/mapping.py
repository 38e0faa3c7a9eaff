"""Hyperliquid's JSON to our records (pure).

Fields that we do not use are ignored: the venue adds some without notice. Prices and sizes come as decimal text, times as numbers.
Sources: the venue's documents (for-developers/api: websocket/subscriptions, info-endpoint/perpetuals, tick-and-lot-size) and the payloads of
tests/data/venues/hyperliquid.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from producers.venue.adapter import klines, records
from producers.venue.adapter.base import BookSnapshot, Event, Level, MappingError, Market
from producers.venue.adapter.json_values import (
    array,
    get,
    integer,
    number,
    one_of,
    optional,
    places,
    positive,
    product,
    quantity,
    row_list,
    text,
    time_ms,
)
from schemas.codec.avro import Record

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
    return records.trade(
        instrument, time_ms(row, "time", "trades", received), received, price=positive(row, "px", "trades"),
        quantity=positive(row, "sz", "trades"), maker=side == "A", backfilled=backfilled, venue_id=str(integer(row, "tid", "trades")),
    )  # fmt: skip


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
    best_bid, best_ask = ((positive(side, "px", "bbo"), quantity(side, "sz", "bbo")) for side in (bid, ask))
    return records.quote(instrument, time, received, time, best_bid, best_ask)


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
    index, rate = optional(ctx, "oraclePx", "activeAssetCtx"), optional(ctx, "funding", "activeAssetCtx")
    volume = quantity(ctx, "dayNtlVlm", "activeAssetCtx")
    return [
        # Interval and next time follow from the venue's rule, because no message has them.
        ("funding", records.funding(time, received, instrument, mark=mark, index=index, estimated=rate)),
        ("market_indicators", records.indicator("open_interest", value, time, received, instrument)),
        ("market_indicators", records.indicator("volume_24h", volume, time, received, instrument)),
    ]


# --- REST ------------------------------------------------------------------------------------------------------------


def server_time(answer: Any) -> int:
    """Return the clock of exchangeStatus: the time of the newest block."""
    return integer(answer, "time", "exchangeStatus")


def settled(answer: Any, received: int) -> list[Record]:
    """Return the settlements of fundingHistory, ascending; their times are the venue's, some ms after the full hour."""
    record = "fundingHistory"
    found = [
        records.funding(
            time_ms(row, "time", record, received), received, settled=number(get(row, "fundingRate", record), "fundingRate", record)
        )
        for row in row_list(answer, record)
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
    symbol, lot_decimals = text(row, "name", "meta"), places(row, "szDecimals", "meta")
    price_decimals = max(0, MAX_DECIMALS - lot_decimals)
    return records.contract(
        VENUE, symbol, "perp", author, row, base=symbol, quote=QUOTE, trading=row.get("isDelisted") is not True,
        tick=(float(Decimal(1).scaleb(-price_decimals)), price_decimals), lot=(float(Decimal(1).scaleb(-lot_decimals)), lot_decimals),
        min_notional=MIN_NOTIONAL, hours=FUNDING_HOURS,
    )  # fmt: skip
