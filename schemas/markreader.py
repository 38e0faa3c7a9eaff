"""Progress marks of a record set, read with one compiled call.

Marks repeat for ever: the same author, venue and topics, other numbers. The kernel parts a mark into its texts and its numbers. What texts mean is learned
from the codec, once; from then on a mark is its numbers and a look into a table. What the kernel does not read as it knows it (another frame, an earlier
schema, a map in several blocks, damage) is decoded by the codec, record by record: ``schemas.codec`` is the reference that the tests hold this module to.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from schemas.codec import Codec, CodecError
from schemas.recordset import I64, U8, RecordSet, zigzag

TOPIC = "progress"

# A mark with longer texts or more topics is left to the codec. The catalogue has some twenty topics.
_MOST_TEXT = 1024
_MOST_TOPICS = 32
_LONG = 9  # bytes of a number that is read here; a longer one does not occur, or not by us
_HEAD = 5  # numbers of a mark before its offsets
# Patterns of texts: one an author and set of topics. Forgotten when there are too many.
_MOST_PATTERNS = 1000
_AT_ONCE = 256  # marks a call


class Mark(NamedTuple):
    """One progress mark: 'all that ``author`` has up to ``time`` lies before ``cut``'. Times in ms of event time."""

    offset: int
    author: str
    venue: str
    time: int
    cut: dict[str, int]


@njit(cache=True, nogil=True)
def _long(buf: U8, at: int, end: int) -> Any:
    return zigzag(buf, at, min(end, at + _LONG))


@njit(cache=True, nogil=True)
def _text(buf: U8, at: int, end: int, texts: U8, size: int, room: int) -> Any:
    """Append a text with its length to ``texts``; returns (new size, position after it), position -1 when it does not fit."""
    length, after = _long(buf, at, end)
    if after < 0 or length < 0 or length > end - after or after - at + length > room - size:
        return size, -1
    for place in range(at, after + length):
        texts[size] = buf[np.uint64(place)]
        size += 1
    return size, after + length


@njit(cache=True, nogil=True)
def _mark(buf: U8, at: int, end: int, texts: U8, size: int, numbers: I64, used: int) -> Any:
    """Read one body: its texts to ``texts``, its time and offsets to ``numbers``; returns (new size, number of topics), -1 topics when it is not read."""
    room = size + _MOST_TEXT
    size, at = _text(buf, at, end, texts, size, room)
    if at < 0:
        return size, -1
    size, at = _text(buf, at, end, texts, size, room)
    if at < 0:
        return size, -1
    numbers[used], at = _long(buf, at, end)
    if at < 0:
        return size, -1
    _, at = _long(buf, at, end)  # the time of receipt
    if at < 0:
        return size, -1
    topics, at = _long(buf, at, end)
    if at < 0 or topics < 0 or topics > _MOST_TOPICS:
        return size, -1
    for n in range(topics):
        size, at = _text(buf, at, end, texts, size, room)
        if at < 0:
            return size, -1
        numbers[used + 1 + n], at = _long(buf, at, end)
        if at < 0:
            return size, -1
    if topics:
        more, at = _long(buf, at, end)
        if at < 0 or more != 0:
            return size, -1
    return size, topics if at == end else -1


@njit(cache=True, nogil=True)
def _read(buf: U8, index: I64, header: U8, least: int, texts: U8, numbers: I64) -> Any:
    """Read the marks from offset ``least`` on; returns how much of ``texts`` and ``numbers`` was written.

    For each mark ``numbers`` gets its row, its offset, the end of its texts, its number of topics (-1: it was not read), its time, and an offset a topic.
    """
    size = used = 0
    for row in range(index.shape[0]):
        if index[row, 0] < least:
            continue
        at, length, topics = index[row, 4], index[row, 5], -1
        if length >= len(header):
            same = True
            for j in range(len(header)):
                if buf[np.uint64(at + j)] != header[j]:
                    same = False
                    break
            if same:
                end, topics = _mark(buf, at + len(header), at + length, texts, size, numbers, used + _HEAD - 1)
                if topics >= 0:
                    size = end
        numbers[used] = row
        numbers[used + 1] = index[row, 0]
        numbers[used + 2] = size
        numbers[used + 3] = topics
        used += _HEAD + max(topics, 0)
    return size, used


class MarkReader:
    """Reads the marks of record sets.

    Args:
        codec: Codec of the environment.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._header: U8 | None = None
        self._patterns: dict[bytes, tuple[str, str, tuple[str, ...]]] = {}  # texts -> author, venue, topics of the cut
        self._texts = np.empty(_AT_ONCE * _MOST_TEXT, dtype=np.uint8)
        self._numbers = np.empty(_AT_ONCE * (_HEAD + _MOST_TOPICS), dtype=np.int64)

    def read(self, records: RecordSet, least: int = 0) -> tuple[list[Mark], list[tuple[int, CodecError]]]:
        """Return the marks of a record set in order, and the rows that are none, each with what the codec says of it.

        Args:
            records: Records of the topic progress.
            least: Those of a smaller offset are passed over.
        """
        if self._header is None:  # now, because with a schema registry it is asked for
            self._header = np.frombuffer(self._codec.header(TOPIC), dtype=np.uint8)
        marks: list[Mark] = []
        refused: list[tuple[int, CodecError]] = []
        for first in range(0, len(records), _AT_ONCE):
            self._read_some(records, self._header, first, least, marks, refused)
        return marks, refused

    def _read_some(
        self, records: RecordSet, header: U8, first: int, least: int, marks: list[Mark], refused: list[tuple[int, CodecError]]
    ) -> None:
        """Append what stands in ``_AT_ONCE`` rows from ``first`` on."""
        index = records.index[first : first + _AT_ONCE]
        size, used = _read(records.buffer, index, header, least, self._texts, self._numbers)
        texts, numbers = self._texts[:size].tobytes(), self._numbers[:used].tolist()
        at = start = 0
        while at < used:
            row, offset, stop, topics, time = numbers[at : at + _HEAD]
            pattern = texts[start:stop]
            start, at = stop, at + _HEAD + max(topics, 0)
            known = self._patterns.get(pattern) if topics >= 0 else None
            if known is not None:
                author, venue, names = known
                marks.append(Mark(offset, author, venue, time, dict(zip(names, numbers[at - topics : at], strict=True))))
                continue
            try:
                record = self._codec.decode(TOPIC, records.value(first + row))
            except CodecError as error:
                refused.append((first + row, error))
                continue
            mark = Mark(offset, record["author"], record["venue"], record["event_time"], record["cut"])
            marks.append(mark)
            if len(mark.cut) == topics:  # no topic stands in it twice
                if len(self._patterns) >= _MOST_PATTERNS:
                    self._patterns.clear()
                self._patterns[pattern] = mark.author, mark.venue, tuple(mark.cut)
