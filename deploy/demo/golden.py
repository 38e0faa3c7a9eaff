"""Expected figures of a recording, computed from its files, and their comparison with the database.

Separate code reads the files a second time, with exact decimals. So an error in the pipeline's reading, grouping, transport or storage
cannot hide in the expected figures. Only the function that finds the files is shared.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from deploy.demo.outcome import Check, DemoFacts, InstrumentFacts, Top, decimal_text
from deploy.report.formatting import utc
from producers.simulated.recording.formats import recording_files
from schemas.partition import instrument_id

VENUE = "BINANCE"


@dataclass(frozen=True)
class SourceFile:
    """One file of a recording: its name, size, and the sha256 of its bytes on disk."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Published:
    """Published figures of a recording: see deploy/demo/data/PROVENANCE.md."""

    name: str
    trades: int
    buy: Decimal
    sell: Decimal
    book: tuple[Decimal, Decimal, Decimal, Decimal] | None = None
    gap_rows: int | None = None

    @property
    def cvd(self) -> Decimal:
        """Taker buy minus taker sell quantity."""
        return self.buy - self.sell


# By sha256 of the unpacked content: a renamed file is recognised, an altered one is not.
PUBLISHED = {
    "9a0505c20c5a6a013cfe0d4e341a53f600266ca314623bc73a29e43d05693ded": Published(
        "btcusdt_20240808",
        21_313,
        Decimal("1251.576"),
        Decimal("1177.790"),
        book=(Decimal("61659.70"), Decimal("1.486"), Decimal("61659.80"), Decimal("0.981")),
        gap_rows=0,
    ),
    "4671e774589d6de9b0d79c83b593244b546062e3de4752505c4532de11c47033": Published(
        "ltcusdt_spot_trades", 125_293, Decimal("246934.874"), Decimal("274116.917"), gap_rows=0
    ),
}


@dataclass(frozen=True)
class Golden:
    """Content of a recording.

    Attributes:
        content_sha256: Of the unpacked content of all files in order.
        trades: Single trades that join aggregate trades (market trades with price and quantity above zero).
        other_trades: Prints of another kind (insurance fund, ADL); they are in no aggregate trade.
        refused: Invalid rows: price or quantity not above zero.
        buy, sell: Taker quantity.
        first_time .. last_price: By (trade time, id); None without trades.
        gaps: Gaps in the update ids of depth diffs and in the ids of recorded aggregate trades.
        quote: Last bookTicker.
        book: Best prices of the book after the first snapshot and all diffs; None without a snapshot or after a gap.
        published: Published figures.
    """

    instrument: str
    files: tuple[SourceFile, ...] = ()
    content_sha256: str = ""
    trades: int = 0
    other_trades: int = 0
    refused: int = 0
    buy: Decimal = Decimal(0)
    sell: Decimal = Decimal(0)
    first_time: int | None = None
    last_time: int | None = None
    first_price: Decimal | None = None
    last_price: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    gaps: int = 0
    quote: Top | None = None
    book: Top | None = None
    published: Published | None = None

    @property
    def cvd(self) -> Decimal:
        """Taker buy minus taker sell quantity."""
        return self.buy - self.sell


def golden_of_recording(path: str | Path, symbol: str, kind: str = "perp") -> Golden:
    """Return the content of the recording of ``symbol`` at ``path``. Reads line by line, in constant memory.

    Args:
        path: File, folder, glob or comma-separated list, as the recorded venue takes it.
        symbol: The venue's symbol; files that do not name a symbol belong to it.
        kind: ``perp`` or ``spot``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file has an unknown format or an unreadable line. The message names file and line.
    """
    reading = _Reading(symbol)
    content = hashlib.sha256()
    sources = []
    for file in recording_files(path):
        with file.open("rb") as stored:
            sources.append(SourceFile(file.name, file.stat().st_size, hashlib.file_digest(stored, "sha256").hexdigest()))
        with _unpacked(file) as streams:
            for stream in streams:
                reading.read(file.name, stream, content.update)
    counted = reading.single if reading.single.rows else reading.aggregate
    digest = content.hexdigest()
    return Golden(
        instrument=instrument_id(VENUE, symbol, kind),
        files=tuple(sources),
        content_sha256=digest,
        trades=counted.trades,
        other_trades=counted.other,
        refused=counted.refused,
        buy=counted.buy,
        sell=counted.sell,
        first_time=counted.first[0] if counted.first else None,
        first_price=counted.first[2] if counted.first else None,
        last_time=counted.last[0] if counted.last else None,
        last_price=counted.last[2] if counted.last else None,
        low=counted.low,
        high=counted.high,
        gaps=reading.gaps + counted.gaps,
        quote=reading.quote,
        book=reading.book.top() if not reading.gaps else None,
        published=PUBLISHED.get(digest),
    )


@contextmanager
def _unpacked(file: Path) -> Iterator[list[BinaryIO]]:
    """Open a plain, gzip or zip file. Its first bytes tell the format."""
    with file.open("rb") as stored:
        start = stored.read(4)
        stored.seek(0)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(stored) as stream:
                yield [cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 18))]
        elif start == b"PK\x03\x04":
            with zipfile.ZipFile(stored) as archive:
                names = sorted(name for name in archive.namelist() if not name.endswith("/"))
                yield [cast(BinaryIO, archive.open(name)) for name in names]
        else:
            yield [stored]


@dataclass
class _Tally:
    """Sums over the trades of a recording; a row is one trade or one aggregate of several."""

    rows: int = 0
    trades: int = 0
    other: int = 0
    refused: int = 0
    gaps: int = 0
    buy: Decimal = Decimal(0)
    sell: Decimal = Decimal(0)
    low: Decimal | None = None
    high: Decimal | None = None
    first: tuple[int, int, Decimal] | None = None
    last: tuple[int, int, Decimal] | None = None

    def add(self, time: int, number: int, price: Decimal, quantity: Decimal, maker: bool, trades: int = 1) -> None:
        self.rows += 1
        if price <= 0 or quantity <= 0:
            self.refused += trades
            return
        self.trades += trades
        if maker:
            self.sell += quantity
        else:
            self.buy += quantity
        time = _milliseconds(time)
        if self.first is None or (time, number) < self.first[:2]:
            self.first = (time, number, price)
        if self.last is None or (time, number) >= self.last[:2]:
            self.last = (time, number, price)
        self.low = price if self.low is None else min(self.low, price)
        self.high = price if self.high is None else max(self.high, price)


class _Reading:
    """Reads files in order, line by line, and sums up their content."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.single = _Tally()
        self.aggregate = _Tally()
        self.quote: Top | None = None
        self.book = _Book()
        self.gaps = 0
        self._update_id: int | None = None
        self._aggregate_id: int | None = None

    def read(self, name: str, stream: BinaryIO, digest: Callable[[bytes], None]) -> None:
        """Read one file and add every byte to ``digest``. Raises ValueError with file and line."""
        take: Callable[[str], None] | None = None
        number = 0
        try:
            for line in stream:
                number += 1
                digest(line)
                text = line.decode("utf-8", "replace").strip()
                if not text or text.startswith("#"):
                    continue
                if take is None:
                    take, is_header = self._taker(text)
                    if is_header:
                        continue
                take(text)
        except (KeyError, TypeError, ValueError, InvalidOperation) as error:
            raise ValueError(f"{name}:{number}: {type(error).__name__}: {error}") from error
        if take is None:
            raise ValueError(f"{name}:{number}: the file has no data lines")

    def _taker(self, text: str) -> tuple[Callable[[str], None], bool]:
        """Return the reader for a file whose first line is ``text``, and whether that line is a header."""
        stamp, _, rest = text.partition(" ")
        cells = text.split(",")
        if stamp.isdigit() and rest.startswith("{"):
            return self._message, False
        if cells[0] == "timestamp":
            return self._rows(cells, self._trade_row), True
        if cells[0].startswith("TimestampOfReceive"):
            return self._rows(cells, self._capture_row), True
        if cells[0] == "agg_trade_id" or (len(cells) in (7, 8) and cells[0].isdigit()):
            return self._rows(["a", "p", "q", "f", "l", "T", "m"], self._dump_row), cells[0] == "agg_trade_id"
        raise ValueError(f"not a known recording format: {text[:80]!r}")

    def _rows(self, columns: list[str], take: Callable[[dict[str, str]], None]) -> Callable[[str], None]:
        # No format quotes its cells.
        return lambda text: take(dict(zip(columns, text.split(","), strict=False)))

    def _trade_row(self, row: dict[str, str]) -> None:
        maker = {"buy": False, "sell": True}[row["side"]]
        self.single.add(int(row["timestamp"]), int(row["tradeId"]), Decimal(row["price"]), Decimal(row["quantity"]), maker)

    def _dump_row(self, row: dict[str, str]) -> None:
        self._aggregate({**row, "m": {"true": True, "false": False}[row["m"].lower()]})

    def _capture_row(self, row: dict[str, str]) -> None:
        if row["Symbol"] != self.symbol:
            return
        if row.get("TradeId"):
            if (row.get("XUnknownParameter") or "MARKET") != "MARKET":
                self.single.other += 1
                return
            maker = {"1": True, "0": False, "true": True, "false": False}[row["IsBuyerMarketMaker"].lower()]
            self.single.add(int(row["TransactionTime"]), int(row["TradeId"]), Decimal(row["Price"]), Decimal(row["Quantity"]), maker)
        elif row.get("StreamType", "DIFFERENCE_DEPTH_STREAM") == "DIFFERENCE_DEPTH_STREAM":
            final = int(row["FinalUpdateId"])
            if final != self._update_id:  # one row per level: the first row of a message decides
                self._chain(final, int(row["FinalUpdateIdInLastStream"]))

    def _message(self, text: str) -> None:
        message = orjson.loads(text.partition(" ")[2])
        if "stream" not in message:
            self.book.offer(message)
            return
        body = message["data"]
        if message["stream"].partition("@")[0] != self.symbol.lower():
            return
        kind = body.get("e")
        if kind == "trade":
            if body.get("X", "MARKET") != "MARKET":
                self.single.other += 1
            else:
                self.single.add(body["T"], body["t"], Decimal(body["p"]), Decimal(body["q"]), body["m"])
        elif kind == "aggTrade":
            self._aggregate(body)
        elif kind == "bookTicker":
            self.quote = Top(body["T"], *(Decimal(body[name]) for name in "bBaA"))
        elif kind == "depthUpdate":
            self._chain(body["u"], body["pu"])
            self.book.apply(body)

    def _aggregate(self, body: dict[str, Any]) -> None:
        number, trades = int(body["a"]), int(body["l"]) - int(body["f"]) + 1
        self.aggregate.gaps += self._aggregate_id is not None and number != self._aggregate_id + 1
        self._aggregate_id = number
        self.aggregate.add(int(body["T"]), number, Decimal(body["p"]), Decimal(body["q"]), body["m"], trades)

    def _chain(self, final: int, previous: int) -> None:
        self.gaps += self._update_id is not None and previous != self._update_id
        self._update_id = final


class _Book:
    """The book of the first snapshot and the diffs. The recorder may have received the snapshot after its following diffs."""

    # Diffs to keep until a snapshot arrives: minutes of the fastest stream. A snapshot older than all of them gives no book.
    EARLY = 50_000

    def __init__(self) -> None:
        self._early: deque[dict[str, Any]] = deque(maxlen=self.EARLY)
        self._last_id: int | None = None
        self._sound = True
        self._time = 0
        self._bids: dict[Decimal, Decimal] = {}
        self._asks: dict[Decimal, Decimal] = {}

    def offer(self, snapshot: dict[str, Any]) -> None:
        if self._last_id is not None:
            return
        self._last_id = snapshot["lastUpdateId"]
        self._time = snapshot.get("T", snapshot.get("E", 0))
        self._sound = not self._early or self._early[0]["pu"] <= self._last_id
        self._set(snapshot["bids"], snapshot["asks"])
        for diff in self._early:
            self.apply(diff)
        self._early.clear()

    def apply(self, diff: dict[str, Any]) -> None:
        if self._last_id is None:
            self._early.append(diff)
        elif diff["u"] >= self._last_id:
            self._time = diff["T"]
            self._set(diff["b"], diff["a"])

    def _set(self, bids: list[list[str]], asks: list[list[str]]) -> None:
        for side, levels in ((self._bids, bids), (self._asks, asks)):
            for level in levels:
                price, quantity = Decimal(level[0]), Decimal(level[1])
                if quantity:
                    side[price] = quantity
                else:
                    side.pop(price, None)

    def top(self) -> Top | None:
        """Return the best prices. None if no book is known."""
        if not self._bids or not self._asks or not self._sound:
            return None
        bid, ask = max(self._bids), min(self._asks)
        return Top(self._time, bid, self._bids[bid], ask, self._asks[ask])


def _milliseconds(stamp: int) -> int:
    # Spot bulk files have microseconds since 2025. 16 digits of milliseconds would be the year 33658.
    return stamp // 1000 if stamp >= 10**15 else stamp


def golden_checks(facts: DemoFacts, goldens: Sequence[Golden] = ()) -> list[Check]:
    """Compare a run with its recordings.

    Args:
        facts: Results in the database.
        goldens: Content of each played recording (``golden_of_recording``). Other instruments are only checked for duplicate rows.
    """
    checks = [_check(one.instrument, "repeated agg_trades rows", 0, one.repeated_trades, "ids are unique") for one in facts.instruments]
    for golden in goldens:
        found = facts.instrument(golden.instrument) or InstrumentFacts(golden.instrument)
        checks += _recording_checks(golden, found)
    return checks


def _recording_checks(golden: Golden, found: InstrumentFacts) -> Iterator[Check]:
    name, known = golden.instrument, golden.published
    published: dict[str, Value] = {}
    if known is not None:
        published = {
            "trades (by id range)": known.trades,
            "taker buy quantity": known.buy,
            "taker sell quantity": known.sell,
            "CVD": known.cvd,
            "last book, best prices": None if known.book is None else Top(0, *known.book),
            "gap rows": known.gap_rows,
        }

    def both(what: str, counted: Value, value: Value, source: str = "the recording") -> Iterator[Check]:
        """Return one check if the computed and the published figure agree, else two."""
        other = published.get(what)
        if other is not None and _same(counted, other):
            source, other = f"{source}; published figures", None
        if counted is not None:
            yield _check(name, what, counted, value, source)
        if other is not None:
            yield _check(name, what, other, value, "published figures")

    if golden.trades or known is not None:
        yield from both("trades (by id range)", golden.trades, found.trades)
        yield from both("taker buy quantity", golden.buy, found.buy)
        yield from both("taker sell quantity", golden.sell, found.sell)
        yield from both("CVD", golden.cvd, found.cvd)
        yield from both("first price", golden.first_price, found.first_price)
        yield from both("last price", golden.last_price, found.last_price)
        yield from both("lowest price", golden.low, found.low)
        yield from both("highest price", golden.high, found.high)
        yield from both("first trade, UTC", _time(golden.first_time), _time(found.first_time))
        yield from both("last trade, UTC", _time(golden.last_time), _time(found.last_time))
    yield from both("last quote", golden.quote, found.quote)
    yield from both("last book, best prices", golden.book, found.book, "its snapshot and diffs")
    if golden.quote is not None and golden.book is not None and _same(golden.quote, golden.book):
        yield _check(name, "last book equals last quote", found.quote, found.book, "equal in the recording")
    whole = not golden.gaps and not golden.refused
    yield from both("gap rows", 0 if whole else None, found.gap_rows, "it has no gap")


def _time(value: int | None) -> str | None:
    return None if value is None else utc(value)


Value = int | str | Decimal | Top | None


def _same(one: Value, other: Value) -> bool:
    if isinstance(one, Top) and isinstance(other, Top):
        return one.values == other.values  # a merged diff has a different time and the same book
    return one == other


def _check(instrument: str, name: str, expected: Value, found: Value, source: str) -> Check:
    ok = expected is not None and _same(expected, found)
    return Check(name, value_text(expected), value_text(found), ok, instrument, source)


def value_text(value: Value) -> str:
    """Return a figure as text: ``21,313``, ``73.786``, ``61659.7 x 1.486 / 61659.8 x 0.981``, or ``none``."""
    if value is None:
        return "none"
    if isinstance(value, Top):
        bid, bid_quantity, ask, ask_quantity = (decimal_text(one) for one in value.values)
        return f"{bid} x {bid_quantity} / {ask} x {ask_quantity}"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else decimal_text(value)
