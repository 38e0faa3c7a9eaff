"""Records that have been fed to an engine and wait for their mark."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.codec import columnar
from schemas.codec.avro import Codec
from schemas.codec.columnar import Columns, DecodedRecords, Rejected
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet

# A producer's records come in many small sets, and what a call costs is paid for each: neighbours with fewer records are joined before they are taken.
SMALL = 2_000

# What engine and paper model take of a trade; the rest is checked and not kept.
TRADE_FIELDS = ("event_time", "agg_id", "price", "quantity", "buyer_is_maker")


class Chunk:
    """Records as they were fed. A mark takes some rows of it; what costs a call is done once for all of them.

    Attributes:
        records: The records.
        offsets: Their offsets, contiguous in memory.
        at: First row not yet taken.
        derived: Whatever column the taker made of ``columns``, kept for its next rows.
    """

    __slots__ = ("_columns", "_fields", "_first", "_keys_known", "_numbers", "_whole", "at", "derived", "offsets", "records")

    def __init__(self, records: RecordSet, fields: tuple[str, ...] | None = None) -> None:
        self.records = records
        self._fields = fields
        self.offsets = np.ascontiguousarray(records.offsets)
        self.at = 0
        self.derived: Any = None
        self._first = int(self.offsets[0])
        self._whole = int(self.offsets[-1]) - self._first + 1 == len(self.offsets)  # no offset is left out
        self._columns: Columns | None = None
        self._numbers: npt.NDArray[np.int64] | None = None
        self._keys_known = -1

    def take(self, cut: int) -> range:
        """Take the rows with offset < cut that have not been taken."""
        taken = range(self.at, self.stop(cut))
        self.at = taken.stop
        return taken

    def stop(self, cut: int) -> int:
        """Return the end of the rows with offset < cut, or of those that have been taken when that is further."""
        stop = cut - self._first if self._whole else int(np.searchsorted(self.offsets, cut))
        return max(self.at, min(stop, len(self.offsets)))

    def columns(self, codec: Codec, topic: str) -> Columns:
        """Return the wanted fields of all rows."""
        if self._columns is None:
            self._columns = columnar.decode(codec, topic, self.records, self._fields)
        return self._columns

    def rejected(self, rows: range) -> list[Rejected]:
        """Return which of the rows could not be decoded."""
        found = self._columns.rejected if self._columns is not None else []
        if not found:
            return []
        start = bisect_left(found, rows.start, key=lambda rejected: rejected.row)
        return found[start : bisect_left(found, rows.stop, key=lambda rejected: rejected.row)]

    def instruments(self, keys: KeyTable, rows_of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return ``rows_of[number of the key]`` of each record, -1 where the key is unknown (so far)."""
        if self._numbers is None or self._keys_known != len(keys):
            numbers = keys.match(self.records)
            self._numbers = np.where(numbers >= 0, rows_of[numbers], -1) if len(rows_of) else numbers
            self._keys_known = len(keys)
        return self._numbers


class Inbox:
    """Records of one topic that have been fed and not yet applied.

    Args:
        fields: What is taken of a record of a flat topic; None: all.

    Attributes:
        next_offset: First offset not fed; None when nothing is known.
        size: Number of records.
    """

    def __init__(self, fields: tuple[str, ...] | None = None) -> None:
        self._fields = fields
        self.next_offset: int | None = None
        self.size = 0
        self._chunks: deque[Chunk] = deque()
        self._small: list[RecordSet] = []  # behind the chunks
        self._n_small = 0

    def feed(self, records: RecordSet) -> None:
        """Append records; those below ``next_offset`` are passed over."""
        if self.next_offset is not None and len(records) and int(records.index[0, 0]) < self.next_offset:
            start = int(np.searchsorted(records.offsets, self.next_offset))
            following, records = records.next_offset, records.rows(start, len(records))
            records.next_offset = following
        # Columns have no bytes that could be joined.
        if len(records) >= SMALL or (len(records) and isinstance(records, DecodedRecords)):
            self._join()
            self._chunks.append(Chunk(records, self._fields))
        elif len(records):
            self._small.append(records)
            self._n_small += len(records)
            if self._n_small >= SMALL:
                self._join()
        self.size += len(records)
        self.next_offset = max(records.next_offset, self.next_offset or 0)

    def _join(self) -> None:
        if self._small:
            self._chunks.append(Chunk(RecordSet.joined(self._small), self._fields))
            self._small, self._n_small = [], 0

    def decode(self, cut: int, codec: Codec, topic: str) -> None:
        """Decode the chunks that lie before ``cut`` in whole, so that taking them costs less. They stay, and nothing else changes."""
        for chunk in self._chunks:
            if chunk.offsets[-1] >= cut:
                break
            chunk.columns(codec, topic)

    def front(self) -> Chunk | None:
        """Return the chunk that is taken from next; None when nothing waits."""
        self._join()
        return self._chunks[0] if self._chunks else None

    def taken(self, stop: int) -> int:
        """Learn that the rows of the front chunk up to ``stop`` have been taken; return how many."""
        chunk = self._chunks[0]
        n = stop - chunk.at
        chunk.at = stop
        self.size -= n
        if stop == len(chunk.offsets):
            self._chunks.popleft()
        return n

    def take(self, cut: int) -> list[tuple[Chunk, range]]:
        """Take the records with offset < cut."""
        self._join()
        taken: list[tuple[Chunk, range]] = []
        while self._chunks:
            chunk = self._chunks[0]
            rows = chunk.take(cut)
            if rows:
                taken.append((chunk, rows))
                self.size -= len(rows)
            if rows.stop < len(chunk.records):
                break
            self._chunks.popleft()
        return taken
