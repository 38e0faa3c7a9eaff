"""Reads the capture family of CSV files line by line, for checks. ``csv_formats`` reads it for playback.

Nothing is corrected or refused. ``unreadable`` names an unreadable field of a line.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from producers.simulated.recording.csv_formats import CAPTURE_FIRST_COLUMNS
from producers.simulated.recording.events import FormatError

_KINDS = {
    "TRADE_STREAM": "trade",
    "DIFFERENCE_DEPTH_STREAM": "change",
    "DEPTH_SNAPSHOT": "snapshot",
    "FINAL_DEPTH_SNAPSHOT": "carried",
}


class CaptureLine(NamedTuple):
    """One line: a trade, or a level of a book message. Times in ms UTC (``received_us``: microseconds); None: missing or unreadable.

    ``message``: lines of one message are adjacent and have the same number; each trade is one message. ``ends``: the file's mark of a
    message's last line. ``void``: an empty trade, which Binance sends with X other than MARKET (``NA``, here empty) for an id without a
    trade.
    """

    line: int
    kind: str
    message: int
    received_us: int | None
    received: int | None
    event_time: int | None
    time: int | None
    first_id: int | None
    last_id: int | None
    previous_id: int | None
    ask: bool
    price: float
    quantity: float
    maker: bool
    ends: bool | None
    void: bool
    unreadable: tuple[str, ...]


def capture_lines(path: str | Path) -> Iterator[CaptureLine]:
    """Yield the lines of a capture file, plain or gzipped; ``#`` lines and the header are skipped but counted.

    Raises:
        FormatError: the file is not of the family.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        yield from _lines(str(path), file)


def _lines(name: str, file: Iterable[str]) -> Iterator[CaptureLine]:
    columns: dict[str, int] = {}
    message, key = 0, None
    for number, text in enumerate(file, 1):
        if text.startswith("#") or not text.strip():
            continue
        row = [cell.strip() for cell in next(csv.reader([text]))]
        if not columns:
            if row[0] not in CAPTURE_FIRST_COLUMNS:
                raise FormatError(name, number, "header", f"expected it to begin with {' or '.join(CAPTURE_FIRST_COLUMNS)}, got {row[0]!r}")
            columns = {column: at for at, column in enumerate(row)}
            continue
        line = _line(number, message, row, columns)
        now = (line.kind, line.last_id)
        if line.kind == "trade" or now != key:
            message += 1
        key = now
        yield line._replace(message=message)
    if not columns:
        raise FormatError(name, 1, "header", "there is none")


def _line(number: int, message: int, row: list[str], columns: dict[str, int]) -> CaptureLine:
    unreadable: list[str] = []

    def text(column: str) -> str:
        at = columns.get(column)
        return row[at] if at is not None and at < len(row) else ""

    def whole(column: str) -> int | None:
        if column not in columns:
            return None
        try:
            return int(text(column))
        except ValueError:
            unreadable.append(column)
            return None

    def number_of(column: str) -> float:
        try:
            return float(text(column))
        except ValueError:
            unreadable.append(column)
            return float("nan")

    def flag(column: str) -> bool:
        if text(column) not in ("0", "1"):
            unreadable.append(column)
        return text(column) == "1"

    named = text("StreamType") if "StreamType" in columns else "TRADE_STREAM" if "TradeId" in columns else "DIFFERENCE_DEPTH_STREAM"
    kind = _KINDS.get(named, "")
    if not kind:
        unreadable.append("StreamType")
    change = kind in ("change", "carried")
    snapshot = kind == "snapshot"
    last = "TradeId" if kind == "trade" else "LastUpdateId" if snapshot else "FinalUpdateId"
    last_id = whole(last)
    price, quantity = number_of("Price"), number_of("Quantity")
    return CaptureLine(
        line=number,
        kind=kind,
        message=message,
        received_us=whole("TimestampOfReceiveUS"),
        received=whole("TimestampOfReceive"),
        event_time=whole("MessageOutputTime" if snapshot else "EventTime"),
        time=whole("TransactionTime"),
        first_id=whole("FirstUpdateId") if change else None,
        # The recorder's carried-over book is one message, although each level has the id of its own change.
        last_id=0 if kind == "carried" else last_id,
        previous_id=whole("FinalUpdateIdInLastStream") if change else None,
        ask=flag("IsAsk") if kind != "trade" else False,
        price=price,
        quantity=quantity,
        maker=flag("IsBuyerMarketMaker") if kind == "trade" else False,
        ends=flag("IsLast") if "IsLast" in columns else None,
        void=kind == "trade" and price == quantity == 0 and "XUnknownParameter" in columns and text("XUnknownParameter") != "MARKET",
        unreadable=tuple(unreadable),
    )
