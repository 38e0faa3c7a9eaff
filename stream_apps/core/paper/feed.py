"""The input of the paper model: one partition's log, step by step (DESIGN 3).

A step (a record of ``worker_progress``) says that an instant of an author's instruments was decided. For each step this class selects the
trades and settlements before the step's cut with event_time <= T that were not taken before. It adds the signals of T. Records beyond the
cut wait. So the model's input depends on the log alone. It does not depend on how far a reader is ahead, or where it started again.

Pure: no clock, no I/O.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from stream_apps.core.paper.book_lookup import WAITS, BookBlock, BookTape
from stream_apps.core.paper.fills import Books, Filters
from stream_apps.core.paper.model import IntArray, Output, PaperBook, TradeColumns

Record = dict[str, Any]
TRADES, FUNDING, SIGNALS, INSTRUMENTS, DEPTH = "agg_trades", "funding", "signals", "instruments", "depth"
INPUTS = (TRADES, FUNDING, SIGNALS, INSTRUMENTS, DEPTH)
_NEVER = -sys.maxsize


@dataclass(frozen=True, slots=True)
class Step:
    """One record of ``worker_progress``.

    Attributes:
        author: Author of the instruments that the step moves.
        time: Instant T, ms UTC.
        decided_at: Time of the mark that fired it, ms UTC.
        reach: Input topic -> offset. All records of the step lie before it.
    """

    author: str
    time: int
    decided_at: int
    reach: Mapping[str, int]

    @classmethod
    def from_record(cls, record: Record) -> Step:
        """Return the step of a ``worker_progress`` record."""
        reach = {topic: record["cut"].get(topic, 0) for topic in INPUTS}
        reach[SIGNALS] = record["signals_offset"]
        return cls(record["author"], record["event_time"], record["receive_time"], reach)


@dataclass(frozen=True, slots=True)
class TradeBlock:
    """Trades of one partition in log order.

    Attributes:
        names: Instrument ids.
        code: Index into ``names``, shape (n,).
        event_time, offset, agg_id, price: As in ``TradeColumns``, but in order of offset, shape (n,).
    """

    names: Sequence[str]
    code: IntArray
    event_time: IntArray
    offset: IntArray
    agg_id: IntArray
    price: npt.NDArray[np.float64]

    def rows(self, chosen: Any) -> TradeBlock:
        """Return some of the rows, by slice, index or mask."""
        return TradeBlock(
            self.names, self.code[chosen], self.event_time[chosen], self.offset[chosen], self.agg_id[chosen], self.price[chosen]
        )

    def __len__(self) -> int:
        return len(self.code)


@dataclass(frozen=True, slots=True)
class StepInput:
    """The arguments of ``PaperBook.step``. Filters are those of the signals' instruments only."""

    time: int
    decided_at: int
    instruments: list[str]
    trades: dict[str, TradeColumns]
    signals: list[Record]
    settlements: list[Record]
    books: dict[str, Books]
    filters: dict[str, Filters]


@dataclass(slots=True)
class _Owned:
    """An instrument's author and steps, and the position up to which its records were taken: all before the cuts with event_time <= time."""

    author: str
    time: int = _NEVER
    trades: int = 0
    funding: int = 0
    filters: Filters | None = None


@dataclass(slots=True)
class _Rows:
    """(offset, record) rows of one topic: those beyond every cut so far, in order of offset, and those before a cut that wait for their step."""

    ahead: deque[tuple[int, Record]] = field(default_factory=deque)
    waiting: list[tuple[int, Record]] = field(default_factory=list)

    def before(self, reach: int) -> list[tuple[int, Record]]:
        """Return the waiting rows, including those that a step's cut newly covers."""
        found = self.waiting
        while self.ahead and self.ahead[0][0] < reach:
            found.append(self.ahead.popleft())
        return found


class PaperFeed:
    """The inputs of one partition. Add records in log order, then ``take`` steps in log order."""

    def __init__(self) -> None:
        self._owned: dict[str, _Owned] = {}
        self._authors: dict[str, int] = {}
        self._reach = dict.fromkeys(INPUTS, 0)
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._ahead: deque[TradeBlock] = deque()
        self._taken = 0  # rows of the first of them
        self._waiting: TradeBlock | None = None
        self._settlements = _Rows()
        self._signals = _Rows()
        self._instruments: deque[tuple[int, Record]] = deque()
        self._books = BookTape()
        self._mine: dict[str, dict[str, _Owned]] = {}  # author -> its instruments; cleared when an instrument changes

    # --- records in -----------------------------------------------------------------------------------------------------

    def add_trades(self, block: TradeBlock) -> None:
        """Add trades in log order. Trades that were taken before the last restart are dropped."""
        recode = np.fromiter((self._code(name) for name in block.names), np.int64, len(block.names))
        block = TradeBlock(self._names, recode[block.code], block.event_time, block.offset, block.agg_id, block.price)
        if len(block) and block.offset[0] < self._reach[TRADES]:
            taken_time, taken_cut = self._taken_arrays()
            block = block.rows((block.offset >= taken_cut[block.code]) | (block.event_time > taken_time[block.code]))
        if len(block):
            self._ahead.append(block)

    def add_books(self, block: BookBlock) -> None:
        """Add order books in log order.

        A book from before the last restart may come again; this is harmless, because a book moves nothing.
        """
        self._books.add(block)

    def add_settlements(self, rows: Iterable[tuple[int, Record]]) -> None:
        """Add (offset, ``funding`` record) in log order. Records without a settled rate are not kept."""
        for offset, record in rows:
            owned = self._owned.get(record["instrument"])
            taken = owned is not None and offset < owned.funding and record["event_time"] <= owned.time
            if record["settled_rate"] is not None and not taken:
                self._settlements.ahead.append((offset, record))

    def add_signals(self, rows: Iterable[tuple[int, Record]]) -> None:
        """Add (offset, ``signals`` record) in log order. Repeats, known by their instant, are dropped when they are due."""
        self._signals.ahead.extend(rows)

    def add_instruments(self, rows: Iterable[tuple[int, Record]]) -> None:
        """Add (offset, ``instruments`` record) in log order. They name the author of an instrument."""
        self._instruments.extend(rows)

    def rows_ahead(self, topic: str = TRADES) -> int:
        """Return the number of records of a topic that were read and not yet taken."""
        if topic in (SIGNALS, FUNDING):
            rows = self._signals if topic == SIGNALS else self._settlements
            return len(rows.ahead) + len(rows.waiting)
        if topic == INSTRUMENTS:
            return len(self._instruments)
        if topic == DEPTH:
            return self._books.ahead
        return sum(map(len, self._ahead)) - self._taken + (len(self._waiting) if self._waiting is not None else 0)

    def _code(self, name: str) -> int:
        code = self._codes.get(name)
        if code is None:
            code = self._codes[name] = len(self._names)
            self._names.append(name)
        return code

    def _taken_arrays(self) -> tuple[IntArray, IntArray]:
        none = _Owned("")
        owned = [self._owned.get(name, none) for name in self._names]
        return np.array([one.time for one in owned], np.int64), np.array([one.trades for one in owned], np.int64)

    # --- steps out ------------------------------------------------------------------------------------------------------

    def is_repeat(self, step: Step) -> bool:
        """Return whether the step was already taken: an author's instants only grow."""
        return step.time <= self._authors.get(step.author, _NEVER)

    def step(self, step: Step, book: PaperBook) -> list[Output]:
        """Take a step, let a book process it, and return what the book writes. The step must be as for ``take``."""
        given = self.take(step, book.active_instruments)
        return book.step(
            time=given.time,
            decided_at=given.decided_at,
            instruments=given.instruments,
            trades=given.trades,
            signals=given.signals,
            settlements=given.settlements,
            books=given.books,
            filters=given.filters,
        )

    def take(self, step: Step, active: Collection[str]) -> StepInput:
        """Return a step's input and advance. All records before ``step.reach`` must have been added; ``is_repeat(step)`` must be False.

        Args:
            step: The step.
            active: Instruments whose trades are wanted. Trades of others are skipped.
        """
        while self._instruments and self._instruments[0][0] < step.reach[INSTRUMENTS]:
            _, record = self._instruments.popleft()
            owned = self._owned.setdefault(record["instrument"], _Owned(record["author"]))
            owned.author, owned.filters = record["author"], Filters.of(record)
            self._mine.clear()
        mine = self._mine.get(step.author)
        if mine is None:
            mine = self._mine[step.author] = {name: owned for name, owned in self._owned.items() if owned.author == step.author}
        signals = self._take_signals(step, mine)
        taken = StepInput(
            step.time,
            step.decided_at,
            list(mine),
            self._take_trades(step, mine, active),
            signals,
            self._take_settlements(step, mine),
            self._take_books(step, mine, active),
            {one["instrument"]: steps for one in signals if (steps := mine[one["instrument"]].filters) is not None},
        )
        for owned in mine.values():
            owned.time = max(owned.time, step.time)
            owned.trades = max(owned.trades, step.reach[TRADES])
            owned.funding = max(owned.funding, step.reach[FUNDING])
        self._authors[step.author] = step.time
        for topic, reach in step.reach.items():
            if reach > self._reach[topic]:
                self._reach[topic] = reach
        return taken

    def _take_trades(self, step: Step, mine: Mapping[str, _Owned], active: Collection[str]) -> dict[str, TradeColumns]:
        parts = [] if self._waiting is None else [(self._waiting, 0, len(self._waiting))]
        reach = step.reach[TRADES]
        while self._ahead and self._ahead[0].offset[self._taken] < reach:
            block = self._ahead[0]
            split = int(block.offset.searchsorted(reach, "left"))
            parts.append((block, self._taken, split))
            self._taken = split
            if split == len(block):
                self._ahead.popleft()
                self._taken = 0
        if not parts:
            return {}
        # An instrument that moved here from an author further ahead keeps its position: taken records stay taken, also after a restart.
        until = np.full(len(self._names), _NEVER, np.int64)
        wanted = np.zeros(len(self._names), np.bool_)
        for name, owned in mine.items():
            code = self._codes.get(name)
            if code is not None:
                until[code] = max(step.time, owned.time)
                wanted[code] = name in active
        waiting, due = [], []
        for block, start, stop in parts:
            rows = np.empty((2, stop - start), np.int64)
            waits, found = _split(block.code, block.event_time, block.offset, start, stop, reach, until, wanted, rows)
            if waits:
                waiting.append(block.rows(rows[0, :waits]))
            if found:
                due.append(block.rows(rows[1, :found]))
        self._waiting = _joined(self._names, waiting) if waiting else None
        if not due:
            return {}
        rows_due = _joined(self._names, due)
        trades = {}
        for name in active:
            if name in mine and name in self._codes:
                one = rows_due.rows(rows_due.code == self._codes[name])
                if len(one):
                    trades[name] = TradeColumns.of(one.event_time, one.offset, one.agg_id, one.price)
        return trades

    def _take_signals(self, step: Step, mine: Mapping[str, _Owned]) -> list[Record]:
        due: dict[str, Record] = {}
        later = []
        for offset, record in self._signals.before(step.reach[SIGNALS]):
            owned = mine.get(record["instrument"])
            if owned is None or record["event_time"] > step.time or offset >= step.reach[SIGNALS]:
                later.append((offset, record))
            elif record["event_time"] > owned.time:
                due.setdefault(record["signal_id"], record)
        self._signals.waiting = later
        return list(due.values())

    def _take_settlements(self, step: Step, mine: Mapping[str, _Owned]) -> list[Record]:
        due, later = [], []
        for offset, record in self._settlements.before(step.reach[FUNDING]):
            owned = mine.get(record["instrument"])
            if owned is not None and record["event_time"] <= max(step.time, owned.time) and offset < step.reach[FUNDING]:
                due.append(record)
            else:
                later.append((offset, record))
        self._settlements.waiting = later
        return due

    def _take_books(self, step: Step, mine: Mapping[str, _Owned], active: Collection[str]) -> dict[str, Books]:
        if not self._books.ahead:
            return {}
        spans = {
            name: (max(owned.time, WAITS[0]), max(step.time, owned.time)) if name in mine else WAITS for name, owned in self._owned.items()
        }
        return self._books.take(step.reach.get(DEPTH, 0), spans, [name for name in active if name in mine])

    # --- the journal ------------------------------------------------------------------------------------------------------

    def resume_offsets(self) -> dict[str, int]:
        """Return, per input topic, the offset to read from after a restart: the oldest record that was not taken."""
        oldest = dict(self._reach)
        if self._waiting is not None:
            oldest[TRADES] = min(oldest[TRADES], int(self._waiting.offset.min()))
        for topic, rows in ((SIGNALS, self._signals), (FUNDING, self._settlements)):
            oldest[topic] = min([oldest[topic], *(offset for offset, _ in rows.waiting)])
        oldest[DEPTH] = min(oldest[DEPTH], self._books.oldest(oldest[DEPTH]))
        return oldest

    def to_json(self) -> dict[str, Any]:
        """Return the positions as JSON values. Waiting records are not included; they are read again from ``resume_offsets``."""
        return {
            "authors": self._authors,
            "instruments": {
                name: [one.author, one.time, one.trades, one.funding, None if one.filters is None else one.filters.to_json()]
                for name, one in self._owned.items()
            },
            "reach": self._reach,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PaperFeed:
        """Return the feed that ``to_json`` wrote."""
        feed = cls()
        feed._authors = dict(values["authors"])
        for name, (author, time, trades, funding, *later) in values["instruments"].items():
            # An earlier release had no filters, so its state ends before them.
            feed._owned[name] = _Owned(author, time, trades, funding, Filters.from_json(later[0] if later else None))
        feed._reach = {**dict.fromkeys(INPUTS, 0), **values["reach"]}
        return feed


@njit(cache=True, nogil=True)
def _split(code: Any, times: Any, offsets: Any, start: int, stop: int, reach: int, until: Any, wanted: Any, rows: Any) -> tuple[int, int]:
    """Write the rows of [start, stop) that wait for a later step to rows[0], and the wanted rows of this step to rows[1].

    Return their numbers.

    A repeated worker may have written an older cut after a newer one. Rows beyond this cut keep waiting.
    """
    waits = found = 0
    for row in range(start, stop):
        if times[row] > until[code[row]] or offsets[row] >= reach:
            rows[0, waits] = row
            waits += 1
        elif wanted[code[row]]:
            rows[1, found] = row
            found += 1
    return waits, found


def _joined(names: Sequence[str], parts: Sequence[TradeBlock]) -> TradeBlock:
    if len(parts) == 1:
        return parts[0]
    return TradeBlock(
        names,
        np.concatenate([part.code for part in parts]),
        np.concatenate([part.event_time for part in parts]),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.agg_id for part in parts]),
        np.concatenate([part.price for part in parts]),
    )
