"""Checks of a recorded capture, line by line: raw trades, raw book changes with the venue's sequence numbers, and snapshots.

The topics hold finished books, so the venue's sequence (U, u, pu of Binance USD-M) is visible only here. Trades go through the kernel that
checks them in the topics; the line number takes the place of the offset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from stream_apps.core.quality import columns as col
from stream_apps.core.quality import kernels
from stream_apps.core.quality.memory import Memory
from stream_apps.core.quality.rules import KINDS, QualityRules

TRADE, CHANGE, SNAPSHOT, CARRIED = "trade", "change", "snapshot", "carried"


class CaptureLine(Protocol):
    """One line of a capture: a trade, or one level of a book message.

    Times in ms UTC. None: the file lacks the value, or it cannot be read.

    Attributes:
        line: Line number in the file, from 1.
        kind: ``trade``, ``change`` (of a book), ``snapshot``, or ``carried`` (a book that the recorder carried over).
        message: Number of the message. Its lines are consecutive.
        received_us: The recorder's clock in microseconds. received: in ms.
        event_time: Time of the message. time: time of the transaction.
        first_id, last_id, previous_id: Update ids of a change; ``last_id`` is also a trade's id.
        ask: Side of a level. price, quantity: NaN when they cannot be read. maker: the buyer was the maker.
        ends: The file says that this is the message's last line.
        void: A trade of price and quantity 0, which the venue itself does not call a market trade. It only consumes an id.
        unreadable: Names of the fields that cannot be read.
    """

    @property
    def line(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def message(self) -> int: ...
    @property
    def received_us(self) -> int | None: ...
    @property
    def received(self) -> int | None: ...
    @property
    def event_time(self) -> int | None: ...
    @property
    def time(self) -> int | None: ...
    @property
    def first_id(self) -> int | None: ...
    @property
    def last_id(self) -> int | None: ...
    @property
    def previous_id(self) -> int | None: ...
    @property
    def ask(self) -> bool: ...
    @property
    def price(self) -> float: ...
    @property
    def quantity(self) -> float: ...
    @property
    def maker(self) -> bool: ...
    @property
    def ends(self) -> bool | None: ...
    @property
    def void(self) -> bool: ...
    @property
    def unreadable(self) -> tuple[str, ...]: ...


class LineFinding(NamedTuple):
    """A fault and its lines ``first`` to ``last``. Value and limit as its kind says (``rules.KINDS``)."""

    first: int
    last: int
    stream: str
    kind: str
    value: float
    limit: float
    detail: str


class _Message(NamedTuple):
    kind: str
    lines: list[CaptureLine]

    @property
    def head(self) -> CaptureLine:
        return self.lines[0]


def check_capture(lines: Iterable[CaptureLine], rules: QualityRules | None = None) -> list[LineFinding]:
    """Return the faults of a capture, in order of its lines."""
    rules = rules or QualityRules()
    found: list[LineFinding] = []
    messages: list[_Message] = []
    for (kind, _), group in groupby(lines, key=lambda line: (line.kind, line.message)):
        messages.append(_Message(kind, list(group)))
    _check_clocks([line for message in messages for line in message.lines], rules, found)
    for message in messages:
        _check_lines(message, found)
    _check_changes([message for message in messages if message.kind == CHANGE], found)
    trades = [line for message in messages if message.kind == TRADE for line in message.lines]
    if trades:
        _check_trades(trades, rules, found)
    return sorted(found)


def _stream(kind: str) -> str:
    return "agg_trades" if kind == TRADE else "depth"


def _one(line: CaptureLine, kind: str, value: float, limit: float, detail: str) -> LineFinding:
    return LineFinding(line.line, line.line, _stream(line.kind), kind, value, limit, detail)


def _check_clocks(lines: Sequence[CaptureLine], rules: QualityRules, found: list[LineFinding]) -> None:
    """Check the recorder's clocks: lines are in order of time, the clocks agree, and neither is before the venue's.

    A merged file is in order of its microseconds. A snapshot stands before its changes, so its microseconds may be later than its
    milliseconds, never earlier.
    """
    newest: tuple[int, int] | None = None
    for line in lines:
        if line.unreadable:
            found.append(_one(line, "undecodable", math.nan, math.nan, f"cannot be read: {', '.join(line.unreadable)}"))
        if line.received is None:
            continue
        placed = line.received if line.received_us is None else line.received_us // 1000
        if line.received - placed > 1:
            behind = line.received - placed
            found.append(_one(line, "time_backwards", float(behind), 0.0, f"its microseconds are {behind} ms behind its milliseconds"))
        elif newest is not None and placed < newest[0]:
            back = newest[0] - placed
            found.append(_one(line, "time_backwards", float(back), 0.0, f"received {back} ms before line {newest[1]}"))
        else:
            newest = placed, line.line
            if line.kind != TRADE and line.event_time is not None and line.received - line.event_time < -rules.skew_ms:
                skew = float(line.received - line.event_time)
                found.append(_one(line, "clock_skew", skew, float(-rules.skew_ms), "received before it happened"))


def _check_lines(message: _Message, found: list[LineFinding]) -> None:
    for line in message.lines:
        if message.kind == TRADE or line.unreadable:
            continue  # the trade kernel checks these
        removes = message.kind == CHANGE and line.quantity == 0
        for name, value, good in (
            ("price", line.price, 0 < line.price < math.inf),
            ("quantity", line.quantity, removes or 0 < line.quantity < math.inf),
        ):
            if not good:
                found.append(_one(line, "invalid_value", value, 0.0, name))
    if message.kind == TRADE:
        return
    for line in message.lines[:-1]:
        if line.ends:
            found.append(
                _one(
                    line,
                    "split_message",
                    math.nan,
                    math.nan,
                    f"marked as the last line of a message that goes on to {message.lines[-1].line}",
                )
            )
    if message.lines[-1].ends is False:
        found.append(_one(message.lines[-1], "split_message", math.nan, math.nan, "the message's last line is not marked so"))
    if message.kind in (SNAPSHOT, CARRIED):
        bid = max((line.price for line in message.lines if not line.ask), default=math.nan)
        ask = min((line.price for line in message.lines if line.ask), default=math.nan)
        if bid >= ask:
            kind = "crossed_book" if bid > ask else "locked_book"
            found.append(
                LineFinding(message.head.line, message.lines[-1].line, "depth", kind, bid, ask, "best bid and ask of the snapshot")
            )


def _check_changes(messages: Sequence[_Message], found: list[LineFinding]) -> None:
    """Check the sequence of Binance USD-M: the pu of each change is the u of the one before.

    If pu lies inside the change before, that change's u was altered.
    """

    def add(message: _Message, kind: str, value: int, limit: int, detail: str) -> None:
        found.append(LineFinding(message.head.line, message.lines[-1].line, "depth", kind, float(value), float(limit), detail))

    for message in messages:
        head = message.head
        if head.first_id is not None and head.last_id is not None and head.first_id > head.last_id:
            add(message, "altered_id", head.last_id, head.first_id, "the last id lies before the first")
    for before, message in pairwise(messages):
        a, b = before.head, message.head
        for name, earlier, later in (("event", a.event_time, b.event_time), ("transaction", a.time, b.time)):
            if earlier is not None and later is not None and later < earlier:
                add(message, "time_backwards", earlier - later, 0, f"{name} time runs back")
        if a.last_id is None or b.previous_id is None or a.first_id is None or b.previous_id == a.last_id:
            continue
        if a.first_id <= b.previous_id < a.last_id:
            add(before, "altered_id", a.last_id, b.previous_id, f"line {b.line} follows on {b.previous_id}")
        elif b.previous_id > a.last_id:
            add(message, "sequence_gap", b.previous_id, a.last_id, f"changes after {a.last_id} (line {before.lines[-1].line}) are missing")
        else:
            add(message, "altered_id", b.previous_id, a.last_id, f"follows on an id before that of line {before.lines[-1].line}")


def _check_trades(lines: Sequence[CaptureLine], rules: QualityRules, found: list[LineFinding]) -> None:
    readable = [line for line in lines if line.last_id is not None and line.time is not None and not line.unreadable]
    count = len(readable)
    memory = Memory(rules, "agg_trades")
    memory.grow(1)
    memory.clocked[0] = True
    memory.reserve(count)

    def column(name: str, kind: Any) -> Any:
        return np.array([getattr(line, name) for line in readable], dtype=kind)

    time = column("time", np.int64)
    received = np.array([line.time if line.received is None else line.received for line in readable], dtype=np.int64)
    zeros, usable = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_)
    written = kernels.trades(
        zeros, np.ones(count, dtype=np.bool_), time, received, column("line", np.int64), column("last_id", np.int64), column("price", np.float64),
        column("quantity", np.float64), column("maker", np.int64), zeros, memory.clocked, memory.limits, memory.L, memory.D, memory.ids, memory.contents,
        memory.gaps, memory.prices, memory.pending, memory.pending_prices, memory.counts, usable, memory.found, memory.numbers, count, rules.skew_ms,
        rules.delay_ms, rules.outlier_band, rules.outlier_mads, rules.side_run, rules.side_run_ms,
    )  # fmt: skip
    void = {line.line for line in readable if line.void}
    _take(memory, written, void, found)
    end = np.iinfo(np.int64).max // 2
    written = kernels.settle_waiting(
        np.zeros(1, dtype=np.int64), end, 0, memory.L, memory.D, memory.gaps, memory.pending, memory.pending_prices, memory.counts, count,
        memory.found, memory.numbers,
    )  # fmt: skip
    _take(memory, written, void, found)


def _take(memory: Memory, written: int, void: set[int], found: list[LineFinding]) -> None:
    for row in range(written):
        kind, _, line, _ = (int(value) for value in memory.found[row])
        if kind == col.INVALID_VALUE and line in void:
            continue
        value, limit = (float(number) for number in memory.numbers[row])
        found.append(LineFinding(line, line, "agg_trades", KINDS[kind].name, value, limit, KINDS[kind].meaning.partition(".")[0]))
