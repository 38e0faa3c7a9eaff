"""Reads a partition of an archive: its files merged by offset, one row group of each in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.archive import decode, layout
from schemas.archive.encode import BYTES_KEPT, is_flat
from schemas.archive.manifest import ArchiveError, File, State
from schemas.codec import columnar
from schemas.codec.avro import Codec
from schemas.codec.recordset import I64, RecordSet


def open_file(root: Path, file: File) -> pq.ParquetFile:
    """Open a file of an archive.

    Raises:
        ArchiveError: it is missing or no Parquet file.
    """
    try:
        return pq.ParquetFile(root / file.path, memory_map=True)
    except (FileNotFoundError, pa.ArrowInvalid, OSError) as error:
        raise ArchiveError(f"{file.path}: {error}") from error


def read_rows(file: pq.ParquetFile, path: str, group: int, names: list[str] | None) -> pa.Table:
    """Read a row group. Raises ArchiveError if the file's bytes are damaged."""
    try:
        return file.read_row_group(group, columns=names, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArchiveError(f"{path}: row group {group}: {error}") from error


def _last_offset(file: pq.ParquetFile, group: int) -> int:
    """Return the last offset of a row group, from its statistics."""
    place = file.schema_arrow.names.index(layout.OFFSET)
    columns = file.metadata.row_group(group)
    # Nested fields have several columns each, before that of the offset.
    while columns.column(place).path_in_schema != layout.OFFSET:
        place += 1
    last: int = columns.column(place).statistics.max
    return last


class _Cursor:
    """One file: the present row group, and the position in it."""

    def __init__(self, root: Path, file: File, names: list[str] | None, start: int) -> None:
        self._root = root
        self._entry = file
        self._path = file.path
        self._file = open_file(root, file)
        self._group = -1
        self._whole: tuple[int, pa.Table] | None = None
        self.origin = decode.Origin.of(self._file)
        self.table: pa.Table | None = None
        self.offsets: I64 = np.empty(0, dtype=np.int64)
        self.at = 0
        held = self._file.schema_arrow.names  # pyarrow builds it at every access
        self._columns = None if names is None else [name for name in names if name in held]
        while self._group + 1 < self._file.num_row_groups and _last_offset(self._file, self._group + 1) < start:
            self._group += 1
        self.advance()
        if self.table is not None:
            self.at = int(np.searchsorted(self.offsets, start))

    @property
    def done(self) -> bool:
        return self.table is None

    def advance(self) -> None:
        """Read the next row group."""
        self._group += 1
        if self._group >= self._file.num_row_groups:
            self.table = None
            self._file.close()
            return
        self.table = read_rows(self._file, self._path, self._group, self._columns)
        self.offsets = self.table[layout.OFFSET].to_numpy()
        self.at = 0

    def take(self, until: int) -> decode.Part | None:
        """Take the rows of the present row group with offset < until."""
        if self.table is None:
            return None
        stop = int(np.searchsorted(self.offsets, until))
        start, self.at = self.at, max(self.at, stop)
        if start >= stop:
            return None
        group = self._group

        def whole(row: int, count: int) -> pa.Table:
            return self._read_whole(group).slice(start + row, count)

        part = decode.Part(self.origin, self.table.slice(start, stop - start), self.offsets[start:stop], whole)
        if self.at == len(self.offsets):
            self.advance()
        return part

    def _read_whole(self, group: int) -> pa.Table:
        if self._whole is None or self._whole[0] != group:
            with open_file(self._root, self._entry) as file:
                self._whole = (group, read_rows(file, self._path, group, None))
        return self._whole[1]


class PartitionReader:
    """Reads one topic and partition of an archive.

    Args:
        root: The archive.
        codec: Codec of the environment.
        topic: Plain topic name.
        state: State of the manifest.
        names: Wanted fields of a flat topic. None: all.
    """

    def __init__(self, root: Path, codec: Codec, topic: str, state: State, names: tuple[str, ...] | None = None) -> None:
        self._root = root
        self._codec = codec
        self._topic = topic
        self._state = state
        self._flat = is_flat(topic)
        self._names = names or (columnar.program(topic).names if self._flat else ())

    @property
    def first_offset(self) -> int:
        """Offset of the first record; ``next_offset`` when there is none."""
        return min((file.first_offset for file in self._state.files.values()), default=self._state.next_offset)

    @property
    def next_offset(self) -> int:
        """Return the first offset that is not in the archive."""
        return self._state.next_offset

    @property
    def rows(self) -> int:
        """Return the number of records in the archive."""
        return self._state.rows

    def parts(self, names: tuple[str, ...] | None, start: int = 0) -> Iterator[tuple[list[decode.Part], int]]:
        """Yield windows: rows of several files up to an offset, and that offset.

        Args:
            names: Columns wanted beside the archive's own. None: all.
            start: First wanted offset.
        """
        wanted = None if names is None else list(dict.fromkeys(["event_time", *names, layout.OFFSET, layout.TIMESTAMP, layout.STATE]))
        closed = sorted((one for one in self._state.files.values() if one.last_offset >= start), key=lambda one: -one.first_offset)
        opened: list[_Cursor] = []
        while opened or closed:
            # All records before ``until`` are in the row groups in memory, or in files that come next.
            until = min((int(cursor.offsets[-1]) + 1 for cursor in opened), default=self._state.next_offset)
            while closed and (closed[-1].first_offset < until or not opened):
                cursor = _Cursor(self._root, closed.pop(), wanted, start)
                opened.append(cursor)
                until = min(until, int(cursor.offsets[-1]) + 1)
            yield [part for cursor in opened if (part := cursor.take(until)) is not None], until
            opened = [cursor for cursor in opened if not cursor.done]

    def windows(self, start: int = 0) -> Iterator[RecordSet]:
        """Yield the records from an offset on: columns for flat topics, bytes for others.

        The last set is empty and ends at the end of the archive.

        Raises:
            ArchiveError: a file is missing or broken.
            ValueError: the topic is neither flat nor one whose bytes are kept.
        """
        if not self._flat and self._topic not in BYTES_KEPT:
            raise ValueError(f"{self._topic}: read its messages")
        names = self._names if self._flat else (layout.KEY, layout.RAW)
        for parts, until in self.parts(names, start):
            if self._flat:
                yield decode.window(self._codec, self._topic, parts, self._names, until)
            else:
                rows = [row for part in parts for row in decode.raw_messages(part.origin, part.table)]
                records = RecordSet.from_messages(sorted(rows, key=_by_offset))
                records.next_offset = until
                yield records
        nothing = RecordSet.from_messages([])
        nothing.next_offset = self._state.next_offset
        yield nothing

    def times(self, start: int = 0) -> Iterator[tuple[I64, I64]]:
        """Yield (offsets, event times ms) of the records from an offset on, each pair from one file, in approximate order of offsets."""
        for parts, _ in self.parts((), start):
            for part in parts:
                yield part.offsets, _times(part)

    def offset_at(self, time_ms: int) -> int:
        """Return the offset of the first record with an event time at or after a time; ``next_offset`` if every record is older."""
        late = replace(self._state, files={path: file for path, file in self._state.files.items() if file.max_event_time >= time_ms})
        for parts, _ in PartitionReader(self._root, self._codec, self._topic, late).parts(()):
            found = [int(part.offsets[rows[0]]) for part in parts if len(rows := np.flatnonzero(_times(part) >= time_ms))]
            if found:
                return min(found)
        return self._state.next_offset

    def messages(self, start: int = 0) -> Iterator[decode.Message]:
        """Yield the records from an offset on, as they were in the topic, in order of offset. Raises ArchiveError."""
        for parts, _ in self.parts(None, start):
            yield from sorted((row for part in parts for row in decode.messages(part.origin, part.table)), key=_by_offset)


def _times(part: decode.Part) -> I64:
    """Return the event times of a part, ms. For undecodable records: the record timestamps."""
    times: I64 = pc.coalesce(part.table["event_time"], part.table[layout.TIMESTAMP]).cast(pa.int64()).to_numpy()
    return times


def _by_offset(message: Any) -> int:
    offset: int = message[0]
    return offset
