"""Readers of the CSV recordings: plain trades, depth-and-trade captures with one row a price level, and the venue's bulk dumps.

Rows become the venue's messages. Numbers keep their text.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from producers.simulated.recording.events import AGG, DEPTH, SNAPSHOT, TRADE, Event, Events, FormatError

TRADES_HEADER = ["timestamp", "price", "quantity", "side", "tradeId"]
AGG_HEADER = ["agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker"]
CAPTURE_FIRST_COLUMNS = ("TimestampOfReceive", "TimestampOfReceiveUS")
KNOWN = (",".join(TRADES_HEADER), ",".join(AGG_HEADER) + " (header optional)", "TimestampOfReceive[US],Stream,EventType,...")

Reader = Callable[[str, Iterable[str], int, str], Events]

# Dumps of spot have microseconds since 2025. No time in ms has 16 digits before the year 33658.
_MICROSECONDS_FROM = 10**15


def reader_for(first_line: str) -> Reader | None:
    """Return the reader for a CSV with the first data line ``first_line``, None for an unknown format."""
    cells = [cell.strip() for cell in first_line.split(",")]
    if cells == TRADES_HEADER:
        return read_trades
    if cells[0] in CAPTURE_FIRST_COLUMNS:
        return read_capture
    if cells[:7] == AGG_HEADER:
        return read_agg_dump
    if len(cells) in (7, 8) and cells[0].isdigit() and cells[6].lower() in ("true", "false"):
        return read_agg_dump
    return None


class _Rows:
    """Rows of a CSV with their line numbers. Errors of field access name file, line and field."""

    def __init__(self, name: str, lines: Iterable[str], first_number: int, header: list[str] | None) -> None:
        self.name = name
        self.line = first_number
        self._reader = csv.reader(self._counted(lines, first_number))
        self.columns = {column: at for at, column in enumerate(header or ())}

    def _counted(self, lines: Iterable[str], number: int) -> Iterator[str]:
        for self.line, line in enumerate(lines, number):
            if not line.startswith("#"):
                yield line

    def read_header(self) -> None:
        self.columns = {column.strip(): at for at, column in enumerate(next(self._reader))}

    def require(self, *columns: str) -> None:
        for column in columns:
            if column not in self.columns:
                raise FormatError(self.name, self.line, column, "the header has no such column")

    def __iter__(self) -> Iterator[list[str]]:
        for row in self._reader:
            if row:
                yield row

    def text(self, row: list[str], column: str) -> str:
        try:
            return row[self.columns[column]].strip()
        except IndexError:
            raise FormatError(self.name, self.line, column, f"the row has only {len(row)} fields") from None

    def whole(self, row: list[str], column: str) -> int:
        value = self.text(row, column)
        try:
            return int(value)
        except ValueError:
            raise FormatError(self.name, self.line, column, f"expected an integer, got {value!r}") from None

    def number(self, row: list[str], column: str) -> str:
        """Return a decimal's text unchanged, after a check."""
        value = self.text(row, column)
        try:
            finite = Decimal(value).is_finite()
        except InvalidOperation:
            finite = False
        if not finite:
            raise FormatError(self.name, self.line, column, f"expected a decimal number, got {value!r}")
        return value

    def choice(self, row: list[str], column: str, choices: dict[str, bool]) -> bool:
        value = self.text(row, column).lower()
        if value not in choices:
            raise FormatError(self.name, self.line, column, f"expected {' or '.join(choices)}, got {value!r}")
        return choices[value]


def _milliseconds(stamp: int) -> int:
    return stamp // 1000 if stamp >= _MICROSECONDS_FROM else stamp


def _event(kind: str, clock: int, stream: str, body: dict[str, Any]) -> Event:
    return Event(kind, clock, stream, orjson.dumps(body), body)


def _trade(symbol: str, event_time: int, trade_time: int, trade_id: int, price: str, quantity: str, maker: bool, cause: str) -> Event:
    body = {
        "e": "trade",
        "E": event_time,
        "T": trade_time,
        "s": symbol,
        "t": trade_id,
        "p": price,
        "q": quantity,
        "X": cause,
        "m": maker,
    }
    return _event(TRADE, event_time, "trade", body)


def read_trades(name: str, lines: Iterable[str], number: int, symbol: str) -> Events:
    """Read ``timestamp,price,quantity,side,tradeId``: every trade, ``side`` is the taker's, times in ms UTC."""
    rows = _Rows(name, lines, number, None)
    rows.read_header()
    for row in rows:
        at = _milliseconds(rows.whole(row, "timestamp"))
        maker = rows.choice(row, "side", {"buy": False, "sell": True})
        yield _trade(symbol, at, at, rows.whole(row, "tradeId"), rows.number(row, "price"), rows.number(row, "quantity"), maker, "MARKET")


def read_agg_dump(name: str, lines: Iterable[str], number: int, symbol: str) -> Events:
    """Read the venue's bulk files of aggTrades, with or without a header. Further columns are ignored."""
    rows = _Rows(name, lines, number, AGG_HEADER)
    for row in rows:
        if row[0].strip() == AGG_HEADER[0]:
            continue
        at = _milliseconds(rows.whole(row, "transact_time"))
        body = {
            "e": "aggTrade",
            "E": at,
            "s": symbol,
            "a": rows.whole(row, "agg_trade_id"),
            "p": rows.number(row, "price"),
            "q": rows.number(row, "quantity"),
            "f": rows.whole(row, "first_trade_id"),
            "l": rows.whole(row, "last_trade_id"),
            "T": at,
            "m": rows.choice(row, "is_buyer_maker", {"true": True, "false": False}),
        }
        yield _event(AGG, at, "aggTrade", body)


def read_capture(name: str, lines: Iterable[str], number: int, symbol: str) -> Events:
    """Read the capture family: difference depth, trades, or both with snapshots, one row a price level or trade.

    Consecutive depth rows of one ``FinalUpdateId`` are one event. A ``FINAL_DEPTH_SNAPSHOT`` block is the recorder's carried-over book,
    each level with the id of its event. The newest id is the book's.
    """
    rows = _Rows(name, lines, number, None)
    rows.read_header()
    rows.require("TransactionTime", "Symbol", "Price", "Quantity")
    has = rows.columns.__contains__
    merged = has("StreamType")
    if has("FinalUpdateId"):
        rows.require("EventTime", "FirstUpdateId", "FinalUpdateIdInLastStream", "IsAsk", "Stream")
    if has("TradeId"):
        rows.require("EventTime", "IsBuyerMarketMaker")
    if not (has("FinalUpdateId") or has("TradeId")):
        raise FormatError(name, rows.line, "header", "the header has neither FinalUpdateId nor TradeId")
    group: _Group | None = None
    for row in rows:
        if rows.text(row, "Symbol") != symbol:
            continue
        if merged:
            kind = rows.text(row, "StreamType")
        else:
            kind = "DIFFERENCE_DEPTH_STREAM" if has("FinalUpdateId") else "TRADE_STREAM"
        if kind == "TRADE_STREAM":
            if group is not None:
                yield group.event()
                group = None
            cause = rows.text(row, "XUnknownParameter") if has("XUnknownParameter") else "MARKET"
            yield _trade(
                symbol,
                rows.whole(row, "EventTime"),
                rows.whole(row, "TransactionTime"),
                rows.whole(row, "TradeId"),
                rows.number(row, "Price"),
                rows.number(row, "Quantity"),
                rows.choice(row, "IsBuyerMarketMaker", {"0": False, "1": True, "false": False, "true": True}),
                cause or "MARKET",
            )
            continue
        key = _group_key(rows, row, kind)
        if group is None or group.key != key:
            if group is not None:
                yield group.event()
            group = _Group(key, rows, row, symbol)
        group.add(rows, row)
    if group is not None:
        yield group.event()


def _group_key(rows: _Rows, row: list[str], kind: str) -> tuple[str, int]:
    if kind == "DIFFERENCE_DEPTH_STREAM":
        return kind, rows.whole(row, "FinalUpdateId")
    if kind == "DEPTH_SNAPSHOT":
        return kind, rows.whole(row, "LastUpdateId")
    if kind == "FINAL_DEPTH_SNAPSHOT":
        return kind, 0
    raise FormatError(rows.name, rows.line, "StreamType", f"unknown value {kind!r}")


class _Group:
    """The rows of one depth message."""

    def __init__(self, key: tuple[str, int], rows: _Rows, row: list[str], symbol: str) -> None:
        self.key = key
        self.symbol = symbol
        self.levels: tuple[list[list[str]], list[list[str]]] = ([], [])
        self.transaction_time = rows.whole(row, "TransactionTime")
        self.last_id = key[1]
        self.stream = ""
        if key[0] == "DEPTH_SNAPSHOT":
            self.event_time = rows.whole(row, "MessageOutputTime")
        else:
            self.event_time = rows.whole(row, "EventTime")
            self.first_id = rows.whole(row, "FirstUpdateId")
            self.previous_id = rows.whole(row, "FinalUpdateIdInLastStream")
            self.stream = rows.text(row, "Stream").partition("@")[2]
            if not self.stream.startswith(DEPTH):
                raise FormatError(rows.name, rows.line, "Stream", f"expected <symbol>@depth..., got {rows.text(row, 'Stream')!r}")

    def add(self, rows: _Rows, row: list[str]) -> None:
        asks = rows.choice(row, "IsAsk", {"0": False, "1": True})
        self.levels[asks].append([rows.number(row, "Price"), rows.number(row, "Quantity")])
        if self.key[0] == "FINAL_DEPTH_SNAPSHOT":
            self.last_id = max(self.last_id, rows.whole(row, "FinalUpdateId"))
            self.event_time = max(self.event_time, rows.whole(row, "EventTime"))
            self.transaction_time = max(self.transaction_time, rows.whole(row, "TransactionTime"))

    def event(self) -> Event:
        bids, asks = self.levels
        if self.key[0] != "DIFFERENCE_DEPTH_STREAM":
            book = {"lastUpdateId": self.last_id, "E": self.event_time, "T": self.transaction_time, "bids": bids, "asks": asks}
            return _event(SNAPSHOT, self.event_time, "", book)
        body = {
            "e": "depthUpdate",
            "E": self.event_time,
            "T": self.transaction_time,
            "s": self.symbol,
            "U": self.first_id,
            "u": self.last_id,
            "pu": self.previous_id,
            "b": bids,
            "a": asks,
        }
        return _event(DEPTH, self.event_time, self.stream, body)
