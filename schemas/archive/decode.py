"""Archived columns back to records: exact bytes, or decoded columns (for replay), merged by offset."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import catalogue
from schemas.archive import layout
from schemas.codec import columnar
from schemas.codec.avro import Codec
from schemas.codec.columnar import (
    BOOLEAN,
    DOUBLE,
    DOUBLES,
    I64,
    MAX_LEVELS,
    NULL_DOUBLE,
    NULL_LONG,
    NULL_LONG_OP,
    NULL_STRING,
    STRING,
    Columns,
    DecodedRecords,
    RecordSet,
    Rejected,
)  # fmt: skip

Message = tuple[int, int, bytes | None, bytes | None]


@cache
def parsed(text: bytes) -> Any:
    return fastavro.parse_schema(json.loads(text))


@dataclass(frozen=True)
class Origin:
    """The metadata of a file: the origin of its records, and how to encode their bytes again."""

    topic: str
    partition: int
    folder: str
    header: bytes
    schema: bytes

    @classmethod
    def of(cls, file: pq.ParquetFile) -> Origin:
        """Return the origin in a file's metadata. Raises KeyError if the file is not from an archive."""
        meta = file.metadata.metadata or {}
        return cls(
            meta[layout.META_TOPIC].decode(),
            int(meta[layout.META_PARTITION]),
            meta[layout.META_FOLDER].decode(),
            bytes.fromhex(meta[layout.META_HEADER].decode()),
            meta[layout.META_SCHEMA],
        )

    @property
    def fields(self) -> list[dict[str, Any]]:
        """Return the fields of the schema with which the columns were written."""
        fields: list[dict[str, Any]] = parsed(self.schema)["fields"]
        return fields

    def encode(self, record: dict[str, Any]) -> bytes:
        """Return a record's bytes as they were in the topic."""
        out = io.BytesIO()
        out.write(self.header)
        fastavro.schemaless_writer(out, parsed(self.schema), record)
        return out.getvalue()


def _plain(array: pa.ChunkedArray | pa.Array) -> Any:
    """Return an array with times as integers, also inside lists and records."""
    plain = _plain_type(array.type)
    return array if plain == array.type else array.cast(plain)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _plain_type(one.type)) for one in kind])
    return kind


def messages(origin: Origin, table: pa.Table) -> list[Message]:
    """Return the rows of a table as they were in the topic: offset, timestamp ms, key, value."""
    names = [field["name"] for field in origin.fields]
    fields = [_plain(table[name]).to_pylist(maps_as_pydicts="strict") for name in names]
    own = [_plain(table[name]).to_pylist() for name in layout.OWN_COLUMNS]
    times = fields[names.index("event_time")]
    named = None if origin.folder in (layout.ALL, layout.OTHER) else origin.folder.encode()
    found: list[Message] = []
    for row, (offset, stamp, key, state, raw) in enumerate(zip(*own, strict=True)):
        value = raw
        if state == layout.EXACT:
            value = origin.encode({name: column[row] for name, column in zip(names, fields, strict=True)})
        found.append((offset, times[row] if stamp is None else stamp, key if named is None else named, value))
    return found


def raw_messages(origin: Origin, table: pa.Table) -> list[Message]:
    """Like ``messages``, for topics with stored bytes (``encode.BYTES_KEPT``).

    It needs ``event_time`` and the archive's own columns only.
    """
    own = [_plain(table[name]).to_pylist() for name in (layout.OFFSET, layout.TIMESTAMP, layout.KEY, layout.RAW)]
    times = _plain(table["event_time"]).to_pylist()
    return [
        (offset, time if stamp is None else stamp, key, raw)
        for (offset, stamp, key, raw), time in zip(zip(*own, strict=True), times, strict=True)
    ]


@dataclass(frozen=True)
class Part:
    """Rows of one row group within a window.

    Attributes:
        origin: Metadata of the file.
        table: The rows, with the wanted columns.
        offsets: Their offsets.
        whole: Returns rows (first, number) with all columns.
    """

    origin: Origin
    table: pa.Table
    offsets: I64
    whole: Callable[[int, int], pa.Table]


def _numbers(one: pa.Array, kind: Any, null: Any) -> npt.NDArray[Any]:
    """Return a numeric or boolean column as numpy values of ``kind``, with ``null`` for nulls."""
    if pa.types.is_timestamp(one.type):
        one = one.view(pa.int64())
    if one.null_count:
        one = one.fill_null(null)
    values: npt.NDArray[Any] = one.to_numpy(zero_copy_only=False)
    return values if values.dtype == kind else values.astype(kind)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    )


def window(codec: Codec, topic: str, parts: Sequence[Part], names: tuple[str, ...], next_offset: int) -> DecodedRecords:
    """Return rows of several files as one set of decoded records, in order of offset.

    The result equals that of ``columnar.decode`` for the bytes. Rows whose bytes do not follow from their columns are decoded from the
    bytes.

    Args:
        codec: Codec of the environment.
        topic: A flat topic.
        parts: The rows.
        names: Wanted fields. Others are omitted.
        next_offset: Offset after the window.
    """
    program = columnar.narrowed(topic, names)
    counts = [len(part.offsets) for part in parts]
    n = sum(counts)
    offsets = parts[0].offsets if len(parts) == 1 else np.concatenate([part.offsets for part in parts])
    places: list[Any] = [slice(None)]
    if len(parts) > 1:
        span = int(offsets.max()) - int(offsets.min()) + 1
        place = offsets - offsets.min() if span == n else np.argsort(np.argsort(offsets, kind="stable"), kind="stable")
        places = np.split(place, np.cumsum(counts)[:-1])
    index = np.empty((n, 2), dtype=np.int64)
    longs = np.empty((n, max(program.n_longs, 1)), dtype=np.int64)
    doubles = np.empty((n, max(program.n_doubles, 1)))
    arrays = np.full((n if program.n_arrays else 0, max(program.n_arrays, 1), MAX_LEVELS), np.nan)
    states = np.empty(n, dtype=np.int8)
    number = np.empty(n, dtype=np.int64)
    texts: list[npt.NDArray[np.uint8]] = []
    at = 0
    folders: list[str] = []
    for part, place in zip(parts, places, strict=True):
        table = part.table
        stamps, times = _one(table[layout.TIMESTAMP]), _numbers(_one(table["event_time"]), np.int64, 0)
        index[place, 0] = part.offsets
        index[place, 1] = times if stamps.null_count == len(stamps) else np.where(stamps.is_valid(), _numbers(stamps, np.int64, 0), times)
        states[place] = _numbers(_one(table[layout.STATE]), np.int8, 0)
        if part.origin.folder in (layout.ALL, layout.OTHER):
            number[place] = -1
        else:
            if part.origin.folder not in folders:
                folders.append(part.origin.folder)
            number[place] = folders.index(part.origin.folder)
        for name, op, column in zip(program.names, program.ops.tolist(), program.columns.tolist(), strict=True):
            if column < 0:
                continue
            values = _one(table[name]) if name in table.schema.names else _filled(topic, name, len(part.offsets))
            if op in (STRING, NULL_STRING):
                longs[place, column], data = _packed(values, at)
                texts.append(data)
                at += len(data)
            elif op == DOUBLES:
                arrays[place, column, :] = _unpacked(values)
            elif op in (DOUBLE, NULL_DOUBLE):
                doubles[place, column] = _numbers(values, np.float64, np.nan)
            else:
                longs[place, column] = _numbers(values, np.int64, False if op == BOOLEAN else NULL_LONG if op == NULL_LONG_OP else 0)
    buffer = np.concatenate(texts) if texts else np.empty(0, dtype=np.uint8)
    records = DecodedRecords(buffer, index, next_offset)
    records.names, records.numbers = folders, number
    records.message = found = _Messages(tuple(parts))
    records.messages = found.all
    records.columns = Columns(program, records, longs, doubles, arrays, np.ones(n, dtype=np.bool_), [])
    if states.any():
        _put_kept(codec, topic, records, np.flatnonzero(states))
    return records


def _filled(topic: str, name: str, n: int) -> pa.Array:
    """Return the default of a field that a file lacks, because it was written before the field was added."""
    default = next(field for field in catalogue.schema(topic)["fields"] if field["name"] == name)["default"]
    return pa.array([default] * n, layout.arrow_schema(topic).field(name).type)


def _packed(values: pa.Array, base: int) -> tuple[I64, npt.NDArray[np.uint8]]:
    """Return positions (position << 20 | length; NULL_LONG for null) into a buffer.

    The second value is the buffer's part from ``base`` on.
    """
    _, ends, data = values.buffers()
    bounds = np.frombuffer(ends, dtype=np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    first, last = int(bounds[0]), int(bounds[-1])
    text = np.frombuffer(data, dtype=np.uint8)[first:last] if data is not None else np.empty(0, dtype=np.uint8)
    lengths = np.diff(bounds)
    packed = ((bounds[:-1] - first + base) << 20) | np.minimum(lengths, (1 << 20) - 1)
    if values.null_count:
        packed[~values.is_valid().to_numpy(zero_copy_only=False)] = NULL_LONG
    return packed, text


def _unpacked(values: pa.Array) -> npt.NDArray[np.float64]:
    """Return lists as rows of MAX_LEVELS values, with NaN after the end."""
    out = np.full((len(values), MAX_LEVELS), np.nan)
    sizes = np.minimum(values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), MAX_LEVELS)
    there = np.arange(MAX_LEVELS)[None, :] < sizes[:, None]
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if len(flat) == int(sizes.sum()):
        out[there] = flat
    else:  # a longer list: only in rows with stored bytes, which are decoded from them
        for row, levels in enumerate(values.to_pylist()):
            for level, value in enumerate((levels or [])[:MAX_LEVELS]):
                out[row, level] = value
    return out


class _Messages:
    """Returns the bytes of single rows of a window."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self._parts = parts

    def __call__(self, offset: int) -> Message:
        for part in self._parts:
            row = int(np.searchsorted(part.offsets, offset))
            if row < len(part.offsets) and part.offsets[row] == offset:
                return messages(part.origin, part.whole(row, 1))[0]
        raise KeyError(offset)

    def all(self) -> list[Message]:
        """Return all rows of the window, in order of offset."""
        return sorted(
            (row for part in self._parts for row in messages(part.origin, part.whole(0, len(part.offsets)))), key=lambda message: message[0]
        )


def _put_kept(codec: Codec, topic: str, records: DecodedRecords, rows: I64) -> None:
    """Decode the rows with stored bytes, and put the results into the columns."""
    columns = records.columns
    raw = RecordSet.from_messages([records.message(offset) for offset in records.offsets[rows].tolist()])
    refused = {one.row: one for one in columnar.decode(codec, topic, raw).rejected}
    for at, row in enumerate(rows.tolist()):
        if at in refused:
            columns.good[row] = False
            columns.rejected.append(Rejected(row, refused[at].reason, refused[at].field))
        else:
            columns.put(row, codec.decode(topic, raw.value(at)))
