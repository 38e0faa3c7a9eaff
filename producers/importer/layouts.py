"""The columns of the venues' public dump files (pure).

Sources: the README of Binance's public data, and the first lines of the files themselves; Bybit's public trading files; OKX's historical
trades. A file is identified by its header, or without one by the shape of its first row. Times are milliseconds, microseconds (Binance spot
since 2025) or seconds with decimals (Bybit). Numbers keep their text until they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from producers.importer.files import ImportFailed
from schemas.codec.avro import Record

# No time in ms has 16 digits before the year 33658.
_MICROSECONDS_FROM = 10**15
# Earlier than all venues. An earlier number is not a time.
_EARLIEST_MS = 1_230_768_000_000
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_SIDES = {"buy": False, "sell": True}  # the taker's -> the buyer is the maker
TIMEFRAMES = {
    60: "1m", 180: "3m", 300: "5m", 900: "15m", 1800: "30m", 3600: "1h", 7200: "2h", 14400: "4h", 21600: "6h", 28800: "8h", 43200: "12h",
    86400: "1d", 604800: "1w",
}  # fmt: skip


class BadRow(ValueError):
    """An unreadable row: the invalid column and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Fill(NamedTuple):
    """A trade or aggregate trade of a file.

    Attributes:
        time: Trade time, ms UTC.
        number: Its id, if ids are numbers. first, last: Ids of its fills. venue_id: Its id, if it is not a number.
        price, quantity: The venue's decimals.
        maker: The buyer was the maker.
    """

    time: int
    number: int | None
    first: int
    last: int
    price: str
    quantity: str
    maker: bool
    venue_id: str | None = None


# A row as the record of a topic, without instrument and receive_time. Its price and quantity texts show the contract's decimals.
class Other(NamedTuple):
    """A row that is not a trade: time, topic, record, and the decimals that it shows."""

    time: int
    topic: str
    record: Record
    prices: tuple[str, ...] = ()


Parsed = Fill | Other


class Cells:
    """A row's cells by column name."""

    __slots__ = ("at", "row")

    def __init__(self, at: dict[str, int]) -> None:
        self.at = at
        self.row: list[str] = []

    def text(self, column: str) -> str:
        try:
            return self.row[self.at[column]].strip()
        except IndexError:
            raise BadRow(column, f"the row has only {len(self.row)} fields") from None

    def whole(self, column: str) -> int:
        value = self.text(column)
        if not (value.isascii() and value.isdigit()) or len(value) > 18:
            raise BadRow(column, f"expected a whole number, got {value!r}")
        return int(value)

    def stamp(self, column: str) -> int:
        """Return a time, ms UTC."""
        value = self.whole(column)
        return self._time(column, value // 1000 if value >= _MICROSECONDS_FROM else value)

    def seconds(self, column: str) -> int:
        """Return a time given in seconds with decimals, as ms UTC; finer digits are truncated."""
        return self._time(column, int(Decimal(self.decimal(column)).scaleb(3)))

    def _time(self, column: str, value: int) -> int:
        if not _EARLIEST_MS <= value < _MICROSECONDS_FROM:
            raise BadRow(column, f"{self.text(column)!r} is no time of a trade")
        return value

    def decimal(self, column: str) -> str:
        """Return a finite decimal's text."""
        value = self.text(column)
        try:
            if Decimal(value).is_finite() and abs(float(value)) < 1e300:
                return value
        except InvalidOperation:
            pass
        raise BadRow(column, f"expected a decimal number, got {value!r}")

    def positive(self, column: str) -> str:
        value = self.decimal(column)
        if float(value) <= 0.0:
            raise BadRow(column, f"expected a number > 0, got {value!r}")
        return value

    def amount(self, column: str) -> str:
        value = self.decimal(column)
        if float(value) < 0.0:
            raise BadRow(column, f"expected a number >= 0, got {value!r}")
        return value

    def choice(self, column: str, choices: dict[str, bool]) -> bool:
        value = self.text(column).lower()
        if value not in choices:
            raise BadRow(column, f"expected {' or '.join(choices)}, got {value!r}")
        return choices[value]


class Layout(NamedTuple):
    """One kind of file.

    Attributes:
        name: For reports. kind: trades, klines, depth or funding. topics: Its topics. columns: Order in files without a header; further
        ones are ignored. shape: Whether a first row without header is of this kind; None: such files always have a header. read: Reads a
        row. grouped: Rows are aggregate trades, or the venue writes single fills; else fills of one order are grouped.
        contracts: Quantities count contracts.
        named: Column that must hold the symbol, if any.
    """

    name: str
    kind: str
    topics: tuple[str, ...]
    columns: tuple[str, ...]
    shape: Callable[[Sequence[str]], bool] | None
    read: Callable[[Cells], Parsed]
    grouped: bool = True
    contracts: bool = False
    named: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, because its functions cannot be pickled."""
        venue, place = next((venue, known.index(self)) for venue, known in LAYOUTS.items() if self in known)
        return _known, (venue, place)


def _known(venue: str, place: int) -> Layout:
    return LAYOUTS[venue][place]


def _is_bool(cell: str) -> bool:
    return cell.strip().lower() in ("true", "false")


# --- Binance ---------------------------------------------------------------------------------------------------------


def _binance_agg(cells: Cells) -> Fill:
    number, first, last = cells.whole("agg_trade_id"), cells.whole("first_trade_id"), cells.whole("last_trade_id")
    if last < first:
        raise BadRow("last_trade_id", f"{last} is below the first, {first}")
    return Fill(
        cells.stamp("transact_time"), number, first, last, cells.positive("price"), cells.positive("quantity"),
        cells.choice("is_buyer_maker", _BOOLEANS),
    )  # fmt: skip


def _binance_trade(cells: Cells) -> Fill:
    number = cells.whole("id")
    return Fill(
        cells.stamp("time"),
        number,
        number,
        number,
        cells.positive("price"),
        cells.positive("qty"),
        cells.choice("is_buyer_maker", _BOOLEANS),
    )


def _recorded_trade(cells: Cells) -> Fill:
    number = cells.whole("tradeId")
    return Fill(
        cells.stamp("timestamp"), number, number, number, cells.positive("price"), cells.positive("quantity"), cells.choice("side", _SIDES)
    )


def _binance_kline(cells: Cells) -> Other:
    start, end = cells.stamp("open_time"), cells.stamp("close_time") + 1
    timeframe = TIMEFRAMES.get((end - start) // 1000) if (end - start) % 1000 == 0 else None
    if timeframe is None:
        raise BadRow("close_time", f"a bar of {end - start} ms is of no known length")
    prices = tuple(cells.positive(name) for name in ("open", "high", "low", "close"))
    volume, bought = cells.amount("volume"), cells.amount("taker_buy_volume")
    open_, high, low, close = (float(price) for price in prices)
    if not low <= min(open_, close) <= max(open_, close) <= high:
        raise BadRow("high", f"open {open_}, high {high}, low {low} and close {close} do not form a bar")
    if float(bought) > float(volume) * (1 + 1e-9):
        raise BadRow("taker_buy_volume", f"{bought} is more than the volume {volume}")
    record = {
        "event_time": end, "timeframe": timeframe, "open": open_, "high": high, "low": low, "close": close, "volume": float(volume),
        "taker_buy_volume": float(bought), "trades": cells.whole("count"), "backfilled": False,
    }  # fmt: skip
    return Other(end, "klines", record, prices)


def _binance_funding(cells: Cells) -> Other:
    time, hours = cells.stamp("calc_time"), cells.whole("funding_interval_hours")
    if not 0 < hours <= 24:
        raise BadRow("funding_interval_hours", f"expected hours of a day, got {hours}")
    record = {
        "event_time": time, "mark_price": None, "index_price": None, "estimated_settle_price": None, "estimated_rate": None,
        "settled_rate": float(cells.decimal("last_funding_rate")), "next_funding_time": None, "interval_hours": hours, "schedule_source": None,
    }  # fmt: skip
    return Other(time, "funding", record)


def _binance_quote(cells: Cells) -> Other:
    time = cells.stamp("transaction_time")
    bid, ask = cells.positive("best_bid_price"), cells.positive("best_ask_price")
    record = {
        "event_time": time, "update_id": cells.whole("update_id"), "bid_price": float(bid), "bid_quantity": float(cells.amount("best_bid_qty")),
        "ask_price": float(ask), "ask_quantity": float(cells.amount("best_ask_qty")),
    }  # fmt: skip
    return Other(time, "quotes", record, (bid, ask))


def _binance_book_depth(cells: Cells) -> Other:
    """A band of the book: the notional between the mid and a percentage below (negative) or above it. It gives no order book."""
    text = cells.text("timestamp")
    try:
        time = int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        raise BadRow("timestamp", f"expected YYYY-MM-DD hh:mm:ss, got {text!r}") from None
    percent = Decimal(cells.decimal("percentage"))
    name = f"book_notional_{'bid' if percent < 0 else 'ask'}_{abs(percent).normalize():f}pct"
    return Other(time, "market_indicators", {"event_time": time, "indicator": name, "value": float(cells.amount("notional"))})


# --- Bybit and OKX ---------------------------------------------------------------------------------------------------


def _bybit_trade(cells: Cells) -> Fill:
    venue_id = cells.text("trdMatchID")
    if not venue_id:
        raise BadRow("trdMatchID", "is empty")
    return Fill(
        cells.seconds("timestamp"), None, 0, 0, cells.positive("price"), cells.positive("size"), cells.choice("side", _SIDES), venue_id
    )


def _bybit_spot_trade(cells: Cells) -> Fill:
    return Fill(
        cells.stamp("timestamp"), None, 0, 0, cells.positive("price"), cells.positive("volume"), cells.choice("side", _SIDES),
        f"{cells.stamp('timestamp')}-{cells.whole('id')}",  # its ids begin again every day
    )  # fmt: skip


def _okx_trade(cells: Cells) -> Fill:
    number = cells.whole("trade_id")
    return Fill(
        cells.stamp("created_time"), number, number, number, cells.positive("price"), cells.positive("size"), cells.choice("side", _SIDES)
    )


_BINANCE = (
    Layout(
        "aggTrades", "trades", ("agg_trades",),
        ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker"),
        lambda row: len(row) in (7, 8) and _is_bool(row[6]) and not _is_bool(row[5]), _binance_agg,
    ),
    Layout(
        "trades", "trades", ("agg_trades",), ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker"),
        lambda row: len(row) in (6, 7) and _is_bool(row[5]), _binance_trade, grouped=False,
    ),
    Layout("single trades", "trades", ("agg_trades",), ("timestamp", "price", "quantity", "side", "tradeId"), None,
           _recorded_trade, grouped=False),
    Layout(
        "klines", "klines", ("klines",),
        ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count", "taker_buy_volume"),
        lambda row: len(row) == 12 and row[0].isdigit() and row[6].isdigit(), _binance_kline,
    ),
    Layout("fundingRate", "funding", ("funding",), ("calc_time", "funding_interval_hours", "last_funding_rate"),
           lambda row: len(row) == 3 and row[0].isdigit(), _binance_funding),
    Layout(
        "bookTicker", "depth", ("quotes",),
        ("update_id", "best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty", "transaction_time", "event_time"),
        lambda row: len(row) == 7 and row[0].isdigit() and row[5].isdigit() and row[6].isdigit(), _binance_quote,
    ),
    Layout("bookDepth", "depth", ("market_indicators",), ("timestamp", "percentage", "depth", "notional"),
           lambda row: len(row) == 4 and row[0][:2] == "20" and " " in row[0], _binance_book_depth),
)  # fmt: skip
_BYBIT = (
    Layout("public trading", "trades", ("agg_trades",), ("timestamp", "symbol", "side", "size", "price", "tickDirection", "trdMatchID"),
           lambda row: len(row) in (10, 11) and row[2] in ("Buy", "Sell"), _bybit_trade, named="symbol"),
    Layout("spot public trading", "trades", ("agg_trades",), ("id", "timestamp", "price", "volume", "side"),
           lambda row: len(row) in (5, 6) and row[4].lower() in ("buy", "sell"), _bybit_spot_trade),
)  # fmt: skip
_OKX = (
    Layout("trades", "trades", ("agg_trades",), ("instrument_name", "trade_id", "side", "price", "size", "created_time"),
           lambda row: len(row) == 6 and row[2].lower() in ("buy", "sell"), _okx_trade, contracts=True, named="instrument_name"),
    Layout("trades (older)", "trades", ("agg_trades",), ("trade_id", "side", "size", "price", "created_time"),
           lambda row: len(row) == 5 and row[1].lower() in ("buy", "sell"), _okx_trade, contracts=True),
)  # fmt: skip
LAYOUTS: dict[str, tuple[Layout, ...]] = {"BINANCE": _BINANCE, "BYBIT": _BYBIT, "OKX": _OKX}

# Other names of a column in some files -> the name above.
_SYNONYMS = {
    "quoteqty": "quote_qty", "isbuyermaker": "is_buyer_maker", "takerbuyvolume": "taker_buy_volume", "trades": "count", "tradeid": "tradeId",
    "trdmatchid": "trdMatchID", "tickdirection": "tickDirection", "aggregate_tradeid": "agg_trade_id", "taker_buy_base_volume": "taker_buy_volume",
    "taker_buy_base_asset_volume": "taker_buy_volume", "number_of_trades": "count",
}  # fmt: skip


def layout_of(venue: str, name: str, first: Sequence[str]) -> tuple[Layout, Cells, bool]:
    """Return the layout of a file from its first row, the reader of its cells, and whether that row is a header.

    Args:
        venue: ``Adapter.venue``.
        name: The file's, for errors.
        first: Cells of the first line.

    Raises:
        ImportFailed: no layout of the venue fits.
    """
    known = LAYOUTS.get(venue, ())
    # OKX writes names in two languages: trade_id/...
    heads = [cell.partition("/")[0].strip() for cell in first]
    heads = [_SYNONYMS.get(head.lower(), head) for head in heads]
    for layout in known:
        if set(layout.columns) <= set(heads):
            return layout, Cells({column: heads.index(column) for column in layout.columns}), True
    for layout in known:
        if layout.shape is not None and layout.shape(first):
            return layout, Cells({column: at for at, column in enumerate(layout.columns)}), False
    described = "; ".join(f"{layout.name} ({','.join(layout.columns)})" for layout in known) or "none"
    raise ImportFailed(f"import: {name}: no known dump file of {venue}; its first row is {','.join(first)[:120]!r}; known: {described}")
