"""Turns a symbol's dump files into ordered records. It drops duplicates, reports gaps, groups fills and names bad rows. It is pure except
for file reads.

The same files always give the same events. The resumption of an import depends on it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from producers.importer.files import ImportFailed, Source, lines, verified
from producers.importer.layouts import BadRow, Cells, Fill, Layout, Other, Parsed, layout_of
from producers.importer.report import FileReport
from producers.venue.state.trade_ids import RecentIds, TradeIds, Verdict
from schemas.codec.avro import Record

DAY_MS = 86_400_000
# Longest time between two rows of a file (weekly bars have a week). A longer one means a broken digit.
JUMP_MS = 10 * DAY_MS


class Event(NamedTuple):
    """A record to write: its venue time, and the topic's record without instrument and receive_time. For a bad row: ``dead_letters``, line
    and reason.
    """

    time: int
    topic: str
    record: Record


@dataclass
class Decimals:
    """Most decimals of prices and quantities, without trailing zeros."""

    price: int = 0
    quantity: int = 0

    def see(self, prices: tuple[str, ...], quantity: str | None = None) -> None:
        """Take the texts of a row."""
        for text in prices:
            self.price = max(self.price, places(text))
        if quantity is not None:
            self.quantity = max(self.quantity, places(quantity))


def places(text: str) -> int:
    """Return the decimals of a number's text, without trailing zeros."""
    if "e" in text or "E" in text:
        exponent = Decimal(text).normalize().as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0
    return len(text.partition(".")[2].rstrip("0"))


@dataclass
class DumpFile:
    """A file with its layout, found from its first row."""

    source: Source
    layout: Layout
    cells: Cells
    header: bool
    report: FileReport

    @classmethod
    def open(cls, source: Source, venue: str) -> DumpFile:
        """Open and identify a file. Raises ImportFailed: unknown, empty, broken, or not matching its checksum."""
        checksum = verified(source.path)
        for _, text in lines(source.path):
            if not text.startswith("#"):
                layout, cells, header = layout_of(venue, source.path.name, next(csv.reader([text])))
                return cls(source, layout, cells, header, FileReport(source.path.name, source.symbol, layout.name, checksum))
        raise ImportFailed(f"import: {source.path.name}: the file has no line of data")

    def rows(self) -> Iterator[tuple[int, str, Parsed | BadRow]]:
        """Yield line number, text and content of each row. A file with the newest row first is read backwards."""
        found = self._rows()
        return iter(list(found)[::-1]) if self.report.descending else found

    def _rows(self) -> Iterator[tuple[int, str, Parsed | BadRow]]:
        cells, read = self.cells, self.layout.read
        named = self.layout.named if self.layout.named in self.cells.at else None
        first = self.header
        for number, text in lines(self.source.path):
            if text.startswith("#"):
                continue
            if first:
                first = False
                continue
            cells.row = text.split(",") if '"' not in text else next(csv.reader([text]))
            try:
                if self.header and cells.row[0].strip() == self.layout.columns[0]:
                    continue  # the header of the next file of an archive
                if named is not None and cells.text(named) != self.source.symbol:
                    raise BadRow(named, f"expected {self.source.symbol}, got {cells.text(named)!r}")
                yield number, text, read(cells)
            except BadRow as error:
                yield number, text, error


@dataclass
class Stream:
    """The files of one symbol and kind, oldest first.

    Attributes:
        symbol, instrument, partition: Its symbol, our id and its partition. files: In order of their first row. contract_value: Base units
        of a contract, if quantities count contracts.
        last_id: Newest fill or trade id of the earlier import that this one continues.
        last_number: Newest id assigned by an earlier import.
        decimals, fills: Found by reading.
    """

    symbol: str
    instrument: str
    partition: int
    files: list[DumpFile]
    contract_value: Decimal | None = None
    last_id: int | None = None
    last_number: int = 0
    decimals: Decimals = field(default_factory=Decimals)
    fills: int = 0

    def events(self, report: bool) -> Iterator[Event]:
        """Yield the records to write, in order. With ``report`` the files' reports are filled, too; use it once."""
        trades = _Trades(self, report)
        before: int | None = None
        waiting: list[Event] = []  # bad rows before the first good one have no time yet
        for file in self.files:
            at: int | None = None
            for number, text, row in file.rows():
                file.report.rows += report
                if not isinstance(row, BadRow) and at is not None and row.time > at + JUMP_MS:
                    row = BadRow("time", f"is {(row.time - at) // DAY_MS} days after the row before it")
                if isinstance(row, BadRow):
                    if report:
                        file.report.refuse(number, row.field, row.reason)
                    where = f"{file.source.path.name}:{number}"
                    bad = Event(before or 0, "dead_letters", {"where": where, "field": row.field, "reason": str(row), "text": text})
                    if before is None:
                        waiting.append(bad)
                    else:
                        yield bad
                    continue
                if waiting:
                    yield from (event._replace(time=row.time) for event in waiting)
                    waiting = []
                if report:
                    file.report.see(row.time, before)
                before = at = row.time
                if isinstance(row, Fill):
                    yield from trades.take(row, file)
                else:
                    yield from self._other(row)
        yield from trades.flush()

    def _other(self, row: Other) -> Iterator[Event]:
        self.decimals.see(row.prices)
        yield Event(row.time, row.topic, row.record)


class _Trades:
    """Trades of one symbol, each once. Single fills of one order are grouped, and gaps in the ids are reported.

    The venue's rule of aggregate trades: consecutive fills of the same time, price and side with consecutive ids. A group's id is that of
    its first fill, so it does not depend on the start of an import. Ids of aggregate trades therefore ascend with gaps.
    """

    def __init__(self, stream: Stream, report: bool) -> None:
        self._stream = stream
        self._report = report
        self._ids = TradeIds(stream.last_id)
        self._recent = RecentIds(stream.last_number)
        self._group: list[Fill] = []
        self._last_time: int | None = None

    def take(self, fill: Fill, file: DumpFile) -> Iterator[Event]:
        if fill.number is None:
            assigned = self._recent.offer(fill.venue_id or "", fill.time)
            if assigned is None:
                file.report.duplicates += self._report
                return
            fill = fill._replace(number=assigned, first=assigned, last=assigned)
        else:
            verdict = self._ids.offer(fill.number)
            if verdict is Verdict.DUPLICATE:
                file.report.duplicates += self._report
                return
            if verdict is Verdict.GAP:
                yield from self.flush()
                yield self._gap(fill, file)
        self._stream.fills += fill.last - fill.first + 1 if self._report else 0
        if file.layout.contracts:
            assert self._stream.contract_value is not None
            fill = fill._replace(quantity=format(Decimal(fill.quantity) * self._stream.contract_value, "f"))
        self._stream.decimals.see((fill.price,), fill.quantity)
        self._last_time = fill.time
        if file.layout.grouped:
            yield from self.flush()
            yield self._trade([fill])
            return
        if self._group and not self._joins(fill):
            yield from self.flush()
        self._group.append(fill)

    def _joins(self, fill: Fill) -> bool:
        last = self._group[-1]
        return fill.first == last.last + 1 and (fill.time, fill.price, fill.maker) == (last.time, last.price, last.maker)

    def flush(self) -> Iterator[Event]:
        """Yield the open group."""
        if self._group:
            group, self._group = self._group, []
            yield self._trade(group)

    def _gap(self, fill: Fill, file: DumpFile) -> Event:
        assert self._ids.last is not None and fill.number is not None
        first, last = self._ids.last + 1, fill.number - 1
        self._ids.skip(fill.number)
        self._ids.offer(fill.number)
        if self._report:
            file.report.gaps += 1
            file.report.missing += last - first + 1
        record = {
            "event_time": fill.time, "stream": "agg_trades", "kind": "id_gap", "certain": True, "from_id": first, "to_id": last,
            "from_time": self._last_time, "to_time": fill.time, "repaired": False, "detail": "missing in the dump files",
        }  # fmt: skip
        return Event(fill.time, "gaps", record)

    def _trade(self, group: list[Fill]) -> Event:
        first, last = group[0], group[-1]
        if len(group) == 1:
            quantity = float(first.quantity)
        else:
            quantity = float(sum((Decimal(fill.quantity) for fill in group), Decimal(0)))
        record: Record = {
            "event_time": first.time, "agg_id": first.number, "first_trade_id": first.first, "last_trade_id": last.last, "price": float(first.price),
            "quantity": quantity, "buyer_is_maker": first.maker, "backfilled": False, "venue_trade_id": first.venue_id,
        }  # fmt: skip
        return Event(first.time, "agg_trades", record)


def look(source: Source, venue: str) -> DumpFile:
    """Open a file and detect whether it begins with its newest row, as Bybit's early files do. Raises ImportFailed."""
    file = DumpFile.open(source, venue)
    first = last = None
    up = down = 0
    for index, (_, _, row) in enumerate(file.rows()):
        if isinstance(row, BadRow):
            continue
        if last is not None:
            up, down = up + (row.time > last), down + (row.time < last)
        first, last = row.time if first is None else first, row.time
        if index >= 5_000:
            break
    file.report.descending = down > up
    return file


def first_time(file: DumpFile) -> int:
    """Return the time of the file's first good row in reading order; 0 without one."""
    return next((row.time for _, _, row in file.rows() if not isinstance(row, BadRow)), 0)


def ordered(files: list[DumpFile]) -> list[DumpFile]:
    """Return files by their first row, then by name."""
    return sorted(files, key=lambda file: (first_time(file), str(Path(file.source.path).name)))
