"""Bitget's JSON to our records (pure).

Fields that we do not use are ignored: the venue adds some without notice. Numbers come as decimal text, times as number or text of digits.
Sources: the venue's v2 documents, contract/websocket/public (trade, books, ticker) and contract/market (REST), and the payloads of
tests/data/venues/bitget.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from producers.venue.adapter import klines, records
from producers.venue.adapter.base import BookDiff, BookSnapshot, Event, Level, MappingError, Market
from producers.venue.adapter.json_values import (
    array,
    decimal,
    exact_step,
    get,
    integer,
    interval_hours,
    levels,
    one_of,
    optional,
    optional_integer,
    optional_price,
    places,
    positive,
    product,
    quantity,
    text,
    time_ms,
)
from schemas.codec.avro import Record

VENUE = "BITGET"
# Of ``symbolStatus``; ``maintain`` is a pause. The others are ``array`` (not yet) and ``off`` (no longer).
TRADING = ("normal", "maintain", "limit_open", "restrictedAPI")


def clock(message: dict[str, Any], received: int) -> int:
    """Return the venue's clock of a push: its ``ts``, else the newest of its rows (some channels have no outer one)."""
    if "ts" in message:
        return time_ms(message, "ts", "push", received)
    return max((time_ms(row, "ts", "push", received) for row in array(message, "data", "push")), default=0)


# --- trades ----------------------------------------------------------------------------------------------------------


def trade(row: Any, instrument: str, received: int, *, backfilled: bool = False) -> Record:
    """Return the ``agg_trades`` record of a row of the trade channel, of fills or of fills-history (there ``Buy`` and ``Sell``).

    ``side`` is the taker's. Ids ascend but have gaps. So our id is 0 and the venue's is a field of its own.
    """
    side = one_of(row, "side", "trade", ("buy", "sell", "Buy", "Sell"))
    return records.trade(
        instrument, time_ms(row, "ts", "trade", received), received, price=positive(row, "price", "trade"),
        quantity=positive(row, "size", "trade"), maker=side in ("sell", "Sell"), backfilled=backfilled,
        venue_id=str(integer(row, "tradeId", "trade")),
    )  # fmt: skip


def age(record: Record) -> tuple[int, int]:
    """Return the sort key of a trade: its time, then its id (the venue's ids ascend)."""
    return record["event_time"], int(record["venue_trade_id"])


def trades(message: dict[str, Any], instrument: str, received: int) -> list[Record]:
    """Return the records of a trade push, ascending. The venue sends the newest first."""
    return sorted((trade(row, instrument, received) for row in array(message, "data", "trade")), key=age)


# --- books -----------------------------------------------------------------------------------------------------------


def quotes(message: dict[str, Any], instrument: str, received: int) -> list[Record]:
    """Return the ``quotes`` records of a books1 push; a book with an empty side has no quote."""
    found = []
    for row in array(message, "data", "books1"):
        bids, asks = levels(row, "bids", "books1"), levels(row, "asks", "books1")
        time, update = time_ms(row, "ts", "books1", received), integer(row, "seq", "books1")
        if bids and asks:
            found.append(records.quote(instrument, time, received, update, bids[0], asks[0]))
    return found


def books(message: dict[str, Any], market: Market, received: int) -> list[BookDiff | BookSnapshot]:
    """Return the content of a books push.

    ``seq`` ascends with gaps. ``previous`` is the push's ``pseq`` if it has one, else the last seen ``seq``. In the latter case only the
    checksum shows a lost push. A lower number at a later time means that the venue restarted its count ("except during symbol
    maintenance"). It is reported as a gap, so the book is rebuilt.

    The market's memory has (seq, time) of the newest push under ``books``.
    """
    whole = one_of(message, "action", "books", ("snapshot", "update")) == "snapshot"
    found: list[BookDiff | BookSnapshot] = []
    for row in array(message, "data", "books"):
        seq, time = integer(row, "seq", "books"), time_ms(row, "ts", "books", received)
        bids, asks = levels(row, "bids", "books"), levels(row, "asks", "books")
        texts = _texts(row, bids, asks)
        known: tuple[int, int] | None = market.memory.get("books")
        if whole:
            found.append(BookSnapshot(seq, bids, asks, time, _checksum(row), texts))
        elif known is not None and seq < known[0] and time > known[1]:
            found.append(BookDiff(time, known[0] + 1, known[0] + 1, seq, bids, asks, None, texts))
            continue
        else:
            found.append(BookDiff(time, seq, seq, _previous(row, seq, known), bids, asks, _checksum(row), texts))
        if known is None or seq > known[0] or time > known[1]:
            market.memory["books"] = (seq, time)
    return found


def _previous(row: dict[str, Any], seq: int, known: tuple[int, int] | None) -> int:
    if row.get("pseq") not in (None, "", 0, "0"):
        previous = integer(row, "pseq", "books")
        if previous >= seq:
            raise MappingError("books", "pseq", f"{previous} is not below seq {seq}")
        return previous
    return known[0] if known is not None and known[0] < seq else seq - 1


def _checksum(row: dict[str, Any]) -> int | None:
    """Return the checksum. 0 means that the venue computed none."""
    value = row.get("checksum")
    if value is not None and type(value) is not int:
        raise MappingError("books", "checksum", f"expected a whole number, got {value!r}")
    return value or None


def _texts(row: dict[str, Any], bids: Sequence[Level], asks: Sequence[Level]) -> dict[float, str]:
    """Return price -> ``price:amount`` in the venue's text, because the checksum covers ``0.5000``, not 0.5. Removed levels have none."""
    return {
        price: f"{written[0]}:{written[1]}"
        for found, field in ((bids, "bids"), (asks, "asks"))
        for (price, size), written in zip(found, row[field], strict=True)
        if size > 0.0
    }


# --- ticker ----------------------------------------------------------------------------------------------------------


def ticker(message: dict[str, Any], instrument: str, received: int) -> list[Event]:
    """Return the content of a ticker push: mark, index and funding; open interest and 24 h volume in quote units.

    ``fundingRate`` is the estimate of the running interval. Absent fields change nothing. ``holdingAmount`` is in coins and is valued at
    the mark price of the same push, exactly.
    """
    events: list[Event] = []
    for row in array(message, "data", "ticker"):
        time = time_ms(row, "ts", "ticker", received)
        mark, index = optional_price(row, "markPrice", "ticker"), optional_price(row, "indexPrice", "ticker")
        rate, next_time = optional(row, "fundingRate", "ticker"), optional_integer(row, "nextFundingTime", "ticker")
        if any(value is not None for value in (mark, index, rate, next_time)):
            funding = records.funding(time, received, instrument, mark=mark, index=index, estimated=rate, next_time=next_time)
            events.append(("funding", funding))
        if mark is not None and row.get("holdingAmount") not in (None, ""):
            quantity(row, "holdingAmount", "ticker")
            value = product(row, "holdingAmount", "markPrice", "ticker")
            events.append(("market_indicators", records.indicator("open_interest", value, time, received, instrument)))
        if row.get("quoteVolume") not in (None, ""):
            volume = quantity(row, "quoteVolume", "ticker")
            events.append(("market_indicators", records.indicator("volume_24h", volume, time, received, instrument)))
    return events


# --- REST ------------------------------------------------------------------------------------------------------------


def server_time(answer: Any) -> int:
    """Return the clock of ``/api/v2/public/time``."""
    return integer(get(answer, "data", "time"), "serverTime", "time")


def schedule(row: Any, time: int, received: int) -> tuple[str, str, Record]:
    """Return symbol, topic and record of a row of current-fund-rate: the estimate, the interval and the next settlement, published at
    ``time``.
    """
    symbol = text(row, "symbol", "current-fund-rate")
    record = records.funding(
        time, received, estimated=optional(row, "fundingRate", "current-fund-rate"),
        next_time=optional_integer(row, "nextUpdate", "current-fund-rate"),
        hours=interval_hours(row, "fundingRateInterval", "current-fund-rate"),
    )  # fmt: skip
    return symbol, "funding", record


def settled(answer: Any, after: int, received: int) -> list[Record]:
    """Return the settlements of history-fund-rate after a time, ascending."""
    found = []
    for row in array(answer, "data", "history-fund-rate"):
        time = time_ms(row, "fundingTime", "history-fund-rate", received)
        rate = optional(row, "fundingRate", "history-fund-rate")
        if rate is None:
            raise MappingError("history-fund-rate", "fundingRate", "is missing")
        if time > after:
            found.append(records.funding(time, received, settled=rate))
    return sorted(found, key=lambda record: record["event_time"])


def account_ratios(answer: Any, received: int) -> list[Record]:
    """Return the observations of account-long-short, ascending: long accounts divided by short accounts."""
    record = "account-long-short"
    found = [
        records.indicator(
            "long_short_ratio", quantity(row, "longShortAccountRatio", record), time_ms(row, "ts", record, received), received
        )
        for row in array(answer, "data", record)
    ]
    return sorted(found, key=lambda row: int(row["event_time"]))


CANDLE = ("ts", "open", "high", "low", "close", "volume")


def bar(row: Any, market: Market, received: int) -> Record:
    """Return the ``klines`` record of a row of candles; the taker buy volume is not given."""
    fields = klines.cells(row, CANDLE, "candles")
    return klines.kline(market, integer(fields, "ts", "candles"), fields, received, "candles")


def volume(row: Any) -> tuple[str, float]:
    """Return symbol and 24 h volume in quote units of one of the whole market's tickers."""
    return text(row, "symbol", "tickers"), quantity(row, "quoteVolume", "tickers")


def instrument_facts(row: Any, author: str) -> Record | None:
    """Return the ``instruments`` record of a contract without its times; None for a delivery contract.

    The price step is ``priceEndStep`` units of the last of ``pricePlace`` decimals.
    """
    record = "contracts"
    symbol = text(row, "symbol", record)
    if text(row, "symbolType", record) != "perpetual":
        return None
    price_decimals, quantity_decimals = places(row, "pricePlace", record), places(row, "volumePlace", record)
    tick, _ = exact_step(decimal(get(row, "priceEndStep", record), "priceEndStep", record).scaleb(-price_decimals), "priceEndStep", record)
    return records.contract(
        VENUE, symbol, "perp", author, row, base=text(row, "baseCoin", record), quote=text(row, "quoteCoin", record),
        trading=text(row, "symbolStatus", record) in TRADING, tick=(tick, price_decimals),
        lot=(positive(row, "sizeMultiplier", record), quantity_decimals), min_notional=optional(row, "minTradeUSDT", record),
        hours=interval_hours(row, "fundInterval", record),
    )  # fmt: skip
