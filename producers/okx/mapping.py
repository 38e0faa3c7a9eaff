"""OKX's JSON to our records (pure).

Every function takes the venue's parsed JSON and returns one record of a topic, or a plain value object. It raises ``MappingError``, which
names the field. Fields that we do not use are ignored: the venue adds some without notice. Sources: the venue's v5 documents (WS /
channels, market data, public data, trading statistics) and the payloads of tests/data/venues/okx.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC. Numbers and times come as text.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from producers.okx.contracts import Contract
from producers.venue.adapter import klines, records
from producers.venue.adapter.base import BookDiff, BookSnapshot, MappingError, Market
from producers.venue.adapter.json_values import (
    array,
    decimal,
    exact_step,
    get,
    integer,
    number,
    one_of,
    optional,
    positive,
    product,
    quantity,
    step,
    text,
    time_ms,
)
from schemas.codec.avro import Record

VENUE = "OKX"
SETTLED_IN = ("USDT", "USDC")
# "At most one a second a contract": the stream is a sample.
LIQUIDATION_CAP_MS = 1000
HOUR_MS = 3_600_000
# Replaces our clock where a venue time is not checked against it.
ANY_TIME = 2**62


def index_of(symbol: str) -> str:
    """Return the index of a swap's pair."""
    return symbol.removesuffix("-SWAP")


def check_symbol(data: Any, symbol: str, record: str) -> None:
    """Raise MappingError unless the message is about ``symbol``."""
    found = get(data, "instId", record)
    if found != symbol:
        raise MappingError(record, "instId", f"expected {symbol}, got {found!r}")


# --- streams ---------------------------------------------------------------------------------------------------------


def trade(data: Any, instrument: str, symbol: str, contract: Contract, received: int, *, backfilled: bool = False) -> Record:
    """Return the ``agg_trades`` record of an element of trades-all or of ``/market/history-trades`` (same field names).

    One record is one fill; ids grow by one. ``side`` is the taker's, ``sz`` counts contracts.
    """
    record = "trades-all"
    check_symbol(data, symbol, record)
    return records.trade(
        instrument, time_ms(data, "ts", record, received), received, number=integer(data, "tradeId", record),
        price=positive(data, "px", record), quantity=contract.quantity(data, "sz", record),
        maker=one_of(data, "side", record, ("buy", "sell")) == "sell", backfilled=backfilled,
    )  # fmt: skip


def book(action: Any, data: Any, contract: Contract, received: int) -> BookDiff | BookSnapshot:
    """Return the content of a books message.

    ``prevSeqId`` -1 is a whole book. Otherwise it is the book's required id. ``seqId`` may be equal (no change for a minute) or smaller
    (the sequence was reset). ``checksum`` is always 0.
    """
    record = "books"
    if action not in ("snapshot", "update"):
        raise MappingError(record, "action", f"expected snapshot or update, got {action!r}")
    last, time = integer(data, "seqId", record), time_ms(data, "ts", record, received)
    whole = get(data, "prevSeqId", record) in (-1, "-1")
    previous = -1 if whole else integer(data, "prevSeqId", record)
    bids, asks = contract.levels(data, "bids", record), contract.levels(data, "asks", record)
    if whole or action == "snapshot":
        return BookSnapshot(last, bids, asks, time)
    return BookDiff(time, min(previous + 1, last), last, previous, bids, asks)


def quote(data: Any, instrument: str, contract: Contract, received: int) -> Record | None:
    """Return the ``quotes`` record of a bbo-tbt message; None while a side is empty."""
    record = "bbo-tbt"
    time, update = time_ms(data, "ts", record, received), integer(data, "seqId", record)
    bids, asks = contract.levels(data, "bids", record), contract.levels(data, "asks", record)
    if not bids or not asks:
        return None
    return records.quote(instrument, time, received, update, bids[0], asks[0])


def mark_price(data: Any, symbol: str, received: int) -> Record:
    """Return the ``funding`` record (without ``instrument``) of a mark-price message."""
    check_symbol(data, symbol, "mark-price")
    return records.funding(time_ms(data, "ts", "mark-price", received), received, mark=positive(data, "markPx", "mark-price"))


def index_price(data: Any, symbol: str, received: int) -> Record:
    """Return the ``funding`` record (without ``instrument``) of an index-tickers message about the swap's index."""
    check_symbol(data, index_of(symbol), "index-tickers")
    return records.funding(time_ms(data, "ts", "index-tickers", received), received, index=positive(data, "idxPx", "index-tickers"))


def funding_rate(data: Any, received: int) -> Record:
    """Return the ``funding`` record (without ``instrument``) of a funding-rate message or response.

    ``fundingTime`` is the coming settlement and ``fundingRate`` its estimate; the interval is ``nextFundingTime - fundingTime``, as
    documented. Empty fields change nothing.
    """
    record = "funding-rate"
    next_time = _time_or_none(data, "fundingTime", record)
    after = _time_or_none(data, "nextFundingTime", record)
    hours = None
    if next_time is not None and after is not None:
        hours, rest = divmod(after - next_time, HOUR_MS)
        if rest or not 0 < hours <= 24 * 7:
            raise MappingError(record, "nextFundingTime", f"{after} is not whole hours after fundingTime {next_time}")
    rate = optional(data, "fundingRate", record)
    return records.funding(time_ms(data, "ts", record, received), received, estimated=rate, next_time=next_time, hours=hours)


def _time_or_none(data: Any, field: str, record: str) -> int | None:
    value = get(data, field, record)
    return None if value in ("", None) else integer(data, field, record) or None


def liquidations(data: Any, instrument: str, symbol: str, contract: Contract, received: int) -> list[Record]:
    """Return the ``liquidations`` records of a contract's entry of a liquidation-orders message.

    In hedge mode ``posSide`` is the position; in net mode a sell order closed a long. ``bkPx`` is the price of the deal with the venue's
    liquidation account.
    """
    record = "liquidation-orders"
    check_symbol(data, symbol, record)
    found = []
    for detail in array(data, "details", record):
        side = one_of(detail, "side", record, ("buy", "sell"))
        position = one_of(detail, "posSide", record, ("long", "short", "net", ""))
        long = position == "long" if position in ("long", "short") else side == "sell"
        entry = records.liquidation(
            instrument, time_ms(detail, "ts", record, received), received, long=long, price=positive(detail, "bkPx", record),
            quantity=contract.quantity(detail, "sz", record), cap_ms=LIQUIDATION_CAP_MS,
        )  # fmt: skip
        found.append(entry)
    return found


def open_interest(data: Any, received: int) -> Record:
    """Return the ``market_indicators`` record (without ``instrument``) of an open-interest message or response: ``oiUsd``, the quote value."""
    record = "open-interest"
    return records.indicator("open_interest", quantity(data, "oiUsd", record), time_ms(data, "ts", record, received), received)


# --- REST ------------------------------------------------------------------------------------------------------------


def instrument_facts(entry: Any, author: str, hours: dict[str, int]) -> tuple[Record, str] | None:
    """Return the ``instruments`` record of a swap, without its times, and the base units of one contract as text.

    None for inverse swaps and those not settled in USDT or USDC. Prices are as the venue quotes them; the quantity step is ``lotSz`` contracts.

    Args:
        entry: Element of ``/public/instruments``.
        author: Producer whose progress marks cover it.
        hours: Known funding interval of each symbol.
    """
    record = "instruments"
    symbol = text(entry, "instId", record)
    if (
        get(entry, "ctType", record) != "linear"
        or get(entry, "settleCcy", record) not in SETTLED_IN
        or symbol != f"{entry.get('uly')}-SWAP"
    ):
        return None
    units = decimal(get(entry, "ctVal", record), "ctVal", record)
    if (multiplier := entry.get("ctMult")) not in (None, ""):
        units *= decimal(multiplier, "ctMult", record)
    exact_step(units, "ctVal", record)
    lot = exact_step(decimal(get(entry, "lotSz", record), "lotSz", record) * units, "lotSz", record)
    facts = records.contract(
        VENUE, symbol, "perp", author, entry, base=text(entry, "ctValCcy", record), quote=entry["settleCcy"],
        trading=get(entry, "state", record) == "live", tick=step(entry, "tickSz", record), lot=lot, min_notional=None, hours=hours.get(symbol),
    )  # fmt: skip
    return facts, f"{units.normalize():f}"


def funding_hours(entry: Any, received: int) -> tuple[str, int] | None:
    """Return (symbol, funding interval) of an element of ``/public/funding-rate``. None without an interval."""
    hours = funding_rate(entry, received)["interval_hours"]
    return None if hours is None else (text(entry, "instId", "funding-rate"), hours)


def volume(entry: Any) -> tuple[str, float] | None:
    """Return (symbol, 24 h volume in quote units) of a ticker: base volume at the last price, because swaps have no quote volume."""
    record = "tickers"
    symbol = text(entry, "instId", record)
    if entry.get("volCcy24h") in (None, "") or entry.get("last") in (None, ""):
        return None
    value = product(entry, "volCcy24h", "last", record)
    if value < 0.0:
        raise MappingError(record, "volCcy24h", f"expected a number >= 0, got {value}")
    return symbol, value


def settled(entry: Any, symbol: str, received: int) -> Record:
    """Return the ``funding`` record (without ``instrument``) of a settlement: the rate charged at ``fundingTime`` (``realizedRate``)."""
    record = "funding-rate-history"
    check_symbol(entry, symbol, record)
    time = time_ms(entry, "fundingTime", record, received)
    return records.funding(time, received, settled=number(get(entry, "realizedRate", record), "realizedRate", record))


def ratio(entry: Any, name: str, received: int) -> tuple[int, Fraction]:
    """Return (time, longs over shorts) of a row ``[ts, ratio]`` of the trading statistics."""
    if type(entry) is not list or len(entry) < 2:
        raise MappingError(name, "data", f"expected [ts, ratio], got {entry!r}")
    row = {"ts": entry[0], "ratio": entry[1]}
    value = decimal(row["ratio"], "ratio", name)
    if value < 0 or (value and abs(value.adjusted()) > 20):
        raise MappingError(name, "ratio", f"expected a ratio, got {value}")
    return time_ms(row, "ts", name, received), Fraction(value)


CANDLE = ("ts", "open", "high", "low", "close", "contracts", "volume")


def bar(row: Any, market: Market, received: int) -> Record:
    """Return the ``klines`` record of a row of candles; the seventh field of a swap's is base quantity."""
    fields = klines.cells(row, CANDLE, "candles")
    return klines.kline(market, integer(fields, "ts", "candles"), fields, received, "candles")


def open_interest_at(entry: Any, received: int) -> Record:
    """Return the ``market_indicators`` record of a row ``[ts, oi, oiCcy, oiUsd]`` of open-interest-history."""
    if type(entry) is not list or len(entry) < 4:
        raise MappingError("open-interest-history", "data", f"expected [ts, oi, oiCcy, oiUsd], got {entry!r}")
    return open_interest({"ts": entry[0], "oiUsd": entry[3]}, received)
