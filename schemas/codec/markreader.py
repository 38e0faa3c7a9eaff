"""Progress marks of a record set, read with one compiled call.

Marks repeat the same author, venue and topics with other numbers. The kernel splits a mark into its texts and its numbers. The codec
decodes each new combination of texts once; from then on a mark costs its numbers and a table look-up. Marks in an unexpected form (another
frame, an earlier schema, a map in several blocks, damage) go to the codec, one by one. ``schemas.codec.avro`` is the reference, against
which the tests compare this module.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from schemas.codec.avro import Codec, CodecError
from schemas.codec.recordset import I64, U8, RecordSet, zigzag

TOPIC = "progress"

# A mark with longer texts or more topics is left to the codec. The catalogue has some twenty topics.
_MOST_TEXT = 1024
_MOST_TOPICS = 32
_LONG = 9  # maximum bytes of a number read here; our producers write no longer ones
# Patterns of texts: one an author and set of topics. Cleared when there are too many.
_MOST_PATTERNS = 1000
_AT_ONCE = 1024  # marks per call
_NEWEST = 16  # number of recent texts with which a mark is compared: authors alternate
# Columns of a call's results, one row a mark: its row in the record set, its offset, the number of its texts (-1: not read), its time, the
# begin of its cut in the numbers, and its number of topics.
_ROW, _OFFSET, _TEXTS, _TIME, _START, _TOPICS = range(6)
_N_COLUMNS = 6


class Mark(NamedTuple):
    """One progress mark: all records of ``author`` up to ``time`` lie before the offsets ``cut``. Times in ms of event time."""

    offset: int
    author: str
    venue: str
    time: int
    cut: dict[str, int]


class Patterns:
    """The texts of marks, by number.

    Attributes:
        authors, venues: Texts.
        topics: Topics of the cut, in the mark's order.
    """

    def __init__(self) -> None:
        self.authors: list[str] = []
        self.venues: list[str] = []
        self.topics: list[tuple[str, ...]] = []
        self._numbers: dict[tuple[str, str, tuple[str, ...]], int] = {}

    def __len__(self) -> int:
        return len(self.authors)

    def number(self, author: str, venue: str, topics: tuple[str, ...]) -> int:
        """Return the number of a pattern. A new pattern gets a new number."""
        found = self._numbers.setdefault((author, venue, topics), len(self.authors))
        if found == len(self.authors):
            self.authors.append(author)
            self.venues.append(venue)
            self.topics.append(topics)
        return found


class Marks(NamedTuple):
    """Marks in log order, as columns.

    Attributes:
        offsets, times: Offsets in the log; ms of event time.
        patterns: Numbers in ``table``.
        starts: The begin of each mark's cut in ``numbers``: one offset a topic of its pattern.
        numbers: Offsets of all cuts.
        table: The patterns.
    """

    offsets: I64
    times: I64
    patterns: I64
    starts: I64
    numbers: I64
    table: Patterns

    def mark(self, i: int) -> Mark:
        """Return one mark."""
        pattern, start, table = int(self.patterns[i]), int(self.starts[i]), self.table
        topics = table.topics[pattern]
        cut = dict(zip(topics, self.numbers[start : start + len(topics)].tolist(), strict=True))
        return Mark(int(self.offsets[i]), table.authors[pattern], table.venues[pattern], int(self.times[i]), cut)


@njit(cache=True, nogil=True)
def _long(buf: U8, at: int, end: int) -> Any:
    return zigzag(buf, at, min(end, at + _LONG))


@njit(cache=True, nogil=True)
def _text(buf: U8, at: int, end: int, texts: U8, size: int, room: int) -> Any:
    """Append a text with its length to ``texts``. Returns (new size, position after it); position -1 if it does not fit."""
    length, after = _long(buf, at, end)
    if after < 0 or length < 0 or length > end - after or after - at + length > room - size:
        return size, -1
    for place in range(at, after + length):
        texts[size] = buf[np.uint64(place)]
        size += 1
    return size, after + length


@njit(cache=True, nogil=True)
def _mark(buf: U8, at: int, end: int, texts: U8, size: int, numbers: I64, used: int) -> Any:
    """Read one body: its texts to ``texts``, its offsets to ``numbers``.

    Returns (new size, number of topics, time); -1 topics if it is not read.
    """
    room = size + _MOST_TEXT
    size, at = _text(buf, at, end, texts, size, room)
    if at < 0:
        return size, -1, 0
    size, at = _text(buf, at, end, texts, size, room)
    if at < 0:
        return size, -1, 0
    time, at = _long(buf, at, end)
    if at < 0:
        return size, -1, 0
    _, at = _long(buf, at, end)  # the receive time
    if at < 0:
        return size, -1, 0
    topics, at = _long(buf, at, end)
    if at < 0 or topics < 0 or topics > _MOST_TOPICS:
        return size, -1, 0
    for n in range(topics):
        size, at = _text(buf, at, end, texts, size, room)
        if at < 0:
            return size, -1, 0
        numbers[used + n], at = _long(buf, at, end)
        if at < 0:
            return size, -1, 0
    if topics:
        more, at = _long(buf, at, end)
        if at < 0 or more != 0:
            return size, -1, 0
    return size, topics if at == end else -1, time


@njit(cache=True, nogil=True)
def _read(buf: U8, index: I64, header: U8, least: int, texts: U8, spans: I64, numbers: I64, columns: I64) -> Any:
    """Read the marks from offset ``least`` on. Returns the number of marks, the number of texts, and the used part of ``numbers``.

    Repeated texts are written once. ``spans`` receives their bounds.
    """
    size = used = n = known = 0
    for row in range(index.shape[0]):
        if index[row, 0] < least:
            continue
        at, length, topics, time, found = index[row, 4], index[row, 5], -1, np.int64(0), -1
        if length >= len(header):
            same = True
            for j in range(len(header)):
                if buf[np.uint64(at + j)] != header[j]:
                    same = False
                    break
            if same:
                end, topics, time = _mark(buf, at + len(header), at + length, texts, size, numbers, used)
                if topics >= 0:
                    for number in range(known - 1, max(known - _NEWEST, 0) - 1, -1):
                        first, last = spans[number, 0], spans[number, 1]
                        if last - first != end - size:
                            continue
                        j = 0
                        while j < last - first and texts[first + j] == texts[size + j]:
                            j += 1
                        if j == last - first:
                            found = number
                            break
                    if found < 0:
                        spans[known, 0], spans[known, 1] = size, end
                        found, size = known, end
                        known += 1
        columns[n, _ROW], columns[n, _OFFSET], columns[n, _TEXTS], columns[n, _TIME] = row, index[row, 0], found, time
        columns[n, _START], columns[n, _TOPICS] = used, topics
        used += max(topics, 0)
        n += 1
    return n, known, used


class MarkReader:
    """Reads the marks of record sets.

    Args:
        codec: Codec of the environment.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._header: U8 | None = None
        self._table = Patterns()
        self._known: dict[bytes, int] = {}  # texts -> pattern
        self._texts = np.empty(_AT_ONCE * _MOST_TEXT, dtype=np.uint8)
        self._spans = np.empty((_AT_ONCE, 2), dtype=np.int64)
        self._numbers = np.empty(_AT_ONCE * _MOST_TOPICS + _MOST_TOPICS, dtype=np.int64)
        self._columns = np.empty((_AT_ONCE, _N_COLUMNS), dtype=np.int64)

    def read(self, records: RecordSet, least: int = 0) -> tuple[list[Marks], list[tuple[int, CodecError]]]:
        """Return the marks of a record set in order, and the rows that are no marks, each with the codec's error.

        Args:
            records: Records of the topic progress.
            least: Marks with a smaller offset are skipped.
        """
        if self._header is None:  # not earlier, because a schema registry is asked for it
            self._header = np.frombuffer(self._codec.header(TOPIC), dtype=np.uint8)
        found: list[Marks] = []
        refused: list[tuple[int, CodecError]] = []
        for first in range(0, len(records), _AT_ONCE):
            if len(self._table) >= _MOST_PATTERNS:
                self._table, self._known = Patterns(), {}
            marks = self._read_some(records, self._header, first, least, refused)
            if len(marks.offsets):
                found.append(marks)
        return found, refused

    def _read_some(self, records: RecordSet, header: U8, first: int, least: int, refused: list[tuple[int, CodecError]]) -> Marks:
        """Return the marks of ``_AT_ONCE`` rows from ``first`` on."""
        index = records.index[first : first + _AT_ONCE]
        n, known, used = _read(records.buffer, index, header, least, self._texts, self._spans, self._numbers, self._columns)
        texts = [self._texts[begin:end].tobytes() for begin, end in self._spans[:known].tolist()]
        patterns = [self._known.get(text, -1) for text in texts]
        columns, numbers = self._columns[:n], self._numbers[:used]
        if -1 in patterns or (n and columns[:, _TEXTS].min() < 0):
            return self._learnt(records, first, columns.tolist(), texts, patterns, numbers, refused)
        of = np.array(patterns, dtype=np.int64)[columns[:, _TEXTS]] if n else np.empty(0, dtype=np.int64)
        return Marks(columns[:, _OFFSET].copy(), columns[:, _TIME].copy(), of, columns[:, _START].copy(), numbers.copy(), self._table)

    def _learnt(
        self, records: RecordSet, first: int, columns: list[list[int]], texts: list[bytes], patterns: list[int], numbers: I64,
        refused: list[tuple[int, CodecError]],
    ) -> Marks:  # fmt: skip
        """Return marks of which the codec must read some: their texts are new, or the kernel cannot read them."""
        rows: list[tuple[int, int, int, int]] = []
        more: list[int] = []
        for row, offset, text, time, start, topics in columns:
            pattern = patterns[text] if text >= 0 else -1
            if pattern < 0:
                try:
                    record = self._codec.decode(TOPIC, records.value(first + row))
                except CodecError as error:
                    refused.append((first + row, error))
                    continue
                cut = record["cut"]
                pattern = self._table.number(record["author"], record["venue"], tuple(cut))
                if text >= 0 and len(cut) == topics:  # no topic occurs twice
                    if len(self._known) >= _MOST_PATTERNS:
                        self._known.clear()
                    self._known[texts[text]] = patterns[text] = pattern
                time, start = record["event_time"], len(numbers) + len(more)
                more += cut.values()
            rows.append((offset, time, pattern, start))
        offsets, times, of, starts = np.array(rows, dtype=np.int64).reshape(-1, 4).T.copy()
        return Marks(offsets, times, of, starts, np.concatenate([numbers, np.array(more, dtype=np.int64)]), self._table)
