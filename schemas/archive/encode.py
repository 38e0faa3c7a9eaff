"""Records to Arrow columns.

Compiled kernels turn the record sets of flat topics into columns; only rows in other frames become Python objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from schemas import catalogue
from schemas.archive import layout
from schemas.codec import columnar
from schemas.codec.avro import Codec, CodecError
from schemas.codec.columnar import (
    BOOLEAN,
    DOUBLE,
    DOUBLES,
    F64,
    I64,
    LONG,
    MAX_LEVELS,
    NULL_DOUBLE,
    NULL_LONG,
    NULL_LONG_OP,
    NULL_STRING,
    STRING,
    U8,
    Columns,
    RecordSet,
)
from schemas.codec.key_table import KeyTable  # fmt: skip

_INT_LEAST, _INT_MOST = -(2**31), 2**31 - 1
# Topics that replay reads as bytes, although they are not flat. Their bytes are stored beside the columns, which is cheaper than encoding
# them again.
BYTES_KEPT = ("progress", "strategies", "engine_settings")


@cache
def is_flat(topic: str) -> bool:
    """Return whether the topic has a columnar form (``columnar.program``)."""
    try:
        columnar.program(topic)
    except ValueError:
        return False
    return True


@njit(cache=True, nogil=True)
def _varint_end(buf: U8, at: int, end: int) -> int:
    """Return the position after a varint of the shortest form. -1 if it is longer than necessary or ends outside the buffer."""
    for size in range(10):
        if at >= end:
            return -1
        byte = buf[at]
        at += 1
        if byte < 0x80:
            return -1 if (byte == 0 and size > 0) or (size == 9 and byte > 1) else at
    return -1


@njit(cache=True, nogil=True)
def _as_written(buf: U8, index: I64, header_length: int, ops: I64, narrow: Any, longs: I64, columns: I64, good: Any, out: Any) -> None:
    """Return for each good row whether its columns, encoded again, give its bytes.

    Avro leaves freedom in the length of varints and in the blocks of arrays. Columns cannot hold NaN beside null, more than MAX_LEVELS
    levels, or the long that encodes null.
    """
    scratch = np.empty(8, dtype=np.uint8)
    as_double = scratch.view(np.float64)
    for row in range(index.shape[0]):
        out[row] = False
        if not good[row]:
            continue
        at = index[row, 4] + header_length
        end = index[row, 4] + index[row, 5]
        same = True
        for f in range(len(ops)):
            op = ops[f]
            if op in (NULL_DOUBLE, NULL_LONG_OP, NULL_STRING):
                branch = buf[at]
                at += 1
                if branch == 0:
                    continue
                if branch != 2:
                    same = False
                    break
                op = DOUBLE if op == NULL_DOUBLE else LONG if op == NULL_LONG_OP else STRING
                if op == LONG and longs[row, columns[f]] == NULL_LONG:
                    same = False
                    break
            if op == DOUBLE:
                for j in range(8):
                    scratch[j] = buf[at + j]
                if np.isnan(as_double[0]):
                    same = False
                    break
                at += 8
            elif op == BOOLEAN:
                at += 1
            elif op == DOUBLES:
                start = at
                at = _varint_end(buf, at, end)
                if at < 0 or at - start > 1 or buf[start] > 2 * MAX_LEVELS or buf[start] & 1:
                    same = False
                    break
                count = buf[start] >> 1
                if count == 0:
                    continue
                for _i in range(count):
                    for j in range(8):
                        scratch[j] = buf[at + j]
                    if np.isnan(as_double[0]):
                        same = False
                        break
                    at += 8
                if not same or buf[at] != 0:
                    same = False
                    break
                at += 1
            else:
                at = _varint_end(buf, at, end)
                if at < 0:
                    same = False
                    break
                if op == LONG and narrow[f] and not _INT_LEAST <= longs[row, columns[f]] <= _INT_MOST:
                    same = False
                    break
                if op == STRING:
                    size = longs[row, columns[f]] & 0xFFFFF
                    if size == 0xFFFFF:
                        same = False
                        break
                    at += size
        out[row] = same and at == end


@njit(cache=True, nogil=True)
def _gather(buf: U8, packed: I64, use: Any, sizes: Any, out: U8) -> int:
    """Copy the strings at ``packed`` positions into one buffer. Returns the number of bytes."""
    n = 0
    sizes[0] = 0
    for row in range(len(packed)):
        if use[row]:
            at = packed[row] >> 20
            for j in range(at, at + (packed[row] & 0xFFFFF)):
                out[n] = buf[j]
                n += 1
        sizes[row + 1] = n
    return n


def _bitmap(use: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(use, bitorder="little").tobytes())


def _text(columns: Columns, name: str, use: npt.NDArray[np.bool_]) -> pa.Array:
    """Return a string column, null where ``use`` is False."""
    packed, others = columns.packed(name)
    plain = use.copy()
    plain[list(others)] = False
    if others or bool((packed[plain] & 0xFFFFF == 0xFFFFF).any()):
        return pa.array([columns.text(name, row) if use[row] else None for row in range(len(use))], pa.string())
    sizes = np.empty(len(use) + 1, dtype=np.int32)
    out = np.empty(int((packed[use] & 0xFFFFF).sum()), dtype=np.uint8)
    _gather(columns.records.buffer, np.ascontiguousarray(packed), use, sizes, out)
    return pa.StringArray.from_buffers(len(use), pa.py_buffer(sizes), pa.py_buffer(out), _bitmap(use))


def _levels(values: F64, use: npt.NDArray[np.bool_]) -> pa.Array:
    there = ~np.isnan(values) & use[:, None]
    ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_buffers(
        pa.list_(pa.float64()), len(values), [_bitmap(use), pa.py_buffer(ends)], children=[pa.array(values[there], pa.float64())]
    )


def _flat_columns(codec: Codec, topic: str, records: RecordSet) -> tuple[dict[str, pa.Array], npt.NDArray[np.int8], I64]:
    """Return the field columns, the states and the event times (0 if undecodable)."""
    program = columnar.program(topic)
    columns = columnar.decode(codec, topic, records)
    good, n = columns.good, len(records)
    fields = catalogue.schema(topic)["fields"]
    narrow = np.array([field["type"] in ("int", ["null", "int"]) for field in fields])
    written = np.empty(n, dtype=np.bool_)
    plain = good.copy()
    plain[columns.other_frames] = False
    header_length = len(codec.header(topic))
    _as_written(records.buffer, records.index, header_length, program.ops, narrow, columns.longs, program.columns, plain, written)
    state = np.where(written, layout.EXACT, np.where(good, layout.KEPT, layout.UNDECODABLE)).astype(np.int8)
    state[records.index[:, 5] < 0] = layout.EMPTY
    arrays: dict[str, pa.Array] = {}
    for field, op in zip(fields, program.ops.tolist(), strict=True):
        name, kind = field["name"], layout.arrow_type(field["type"])
        if op in (STRING, NULL_STRING):
            use = good & (columns.long(name) != NULL_LONG) if op == NULL_STRING else good
            arrays[name] = _text(columns, name, use)
        elif op == DOUBLES:
            arrays[name] = _levels(columns.doubles(name), good)
        elif op in (DOUBLE, NULL_DOUBLE):
            values = np.ascontiguousarray(columns.double(name))
            use = good & ~np.isnan(values) if op == NULL_DOUBLE else good
            arrays[name] = pa.array(values, pa.float64(), mask=None if use.all() else ~use, from_pandas=False)
        else:
            longs = np.ascontiguousarray(columns.long(name))
            use = good & (longs != NULL_LONG) if op == NULL_LONG_OP else good
            mask = None if use.all() else ~use
            arrays[name] = (
                pa.array(longs != 0, pa.bool_(), mask=mask) if op == BOOLEAN else pa.array(longs, pa.int64(), mask=mask).cast(kind)
            )
    return arrays, state, np.where(good, columns.long("event_time"), 0)


def _nested_columns(codec: Codec, topic: str, records: RecordSet) -> tuple[dict[str, pa.Array], npt.NDArray[np.int8], I64]:
    """Like ``_flat_columns``, record by record. Topics of decisions are small beside the market data."""
    encode = codec.encoder(topic)
    rows: list[dict[str, Any] | None] = []
    state = np.empty(len(records), dtype=np.int8)
    for row in range(len(records)):
        value = records.value(row)
        try:
            record = codec.decode(topic, value)
            state[row] = layout.EXACT if topic not in BYTES_KEPT and encode(record) == value else layout.KEPT
        except CodecError:
            record, state[row] = None, layout.EMPTY if value is None else layout.UNDECODABLE
        rows.append(record)
    arrays = {}
    for field in catalogue.schema(topic)["fields"]:
        name, kind = field["name"], layout.arrow_type(field["type"])
        values = [None if record is None else record[name] for record in rows]
        if pa.types.is_timestamp(kind):
            arrays[name] = pa.array(values, pa.int64()).cast(kind)
        else:
            arrays[name] = pa.array(values, kind)
    return arrays, state, np.array([0 if record is None else record["event_time"] for record in rows], dtype=np.int64)


@dataclass(frozen=True)
class Group:
    """Records for one file: those of one folder and day, in order of offset, with the times that gave the day."""

    folder: str
    day: str
    table: pa.Table
    times: I64


def by_folder_and_day(codec: Codec, topic: str, records: RecordSet) -> list[Group]:
    """Return records in the archive's columns, by folder and day.

    Args:
        codec: Codec of the environment.
        topic: Plain topic name.
        records: The records, in order of offset.
    """
    arrays, state, times = (_flat_columns if is_flat(topic) else _nested_columns)(codec, topic, records)
    decoded = state <= layout.KEPT
    stamps = np.ascontiguousarray(records.timestamps)
    times = np.where(decoded, times, stamps)
    folders, number = _folders(topic, records)
    named = np.array([folder not in (layout.ALL, layout.OTHER) for folder in folders], dtype=np.bool_)
    arrays[layout.OFFSET] = pa.array(np.ascontiguousarray(records.offsets))
    arrays[layout.TIMESTAMP] = pa.array(stamps, mask=decoded & (stamps == times)).cast(pa.timestamp("ms", tz="UTC"))
    arrays[layout.KEY] = _slices(records, 2, (records.index[:, 3] >= 0) & ~named[number])
    arrays[layout.STATE] = pa.array(state)
    arrays[layout.RAW] = _slices(records, 4, ((state == layout.KEPT) | (state == layout.UNDECODABLE)) & (records.index[:, 5] >= 0))
    schema = layout.arrow_schema(topic)
    table = pa.table([arrays[name] for name in schema.names], schema=schema)
    days = times // layout.DAY_MS
    order = np.lexsort((days, number))  # stable: within a group the order of offsets is kept
    starts = np.flatnonzero(np.diff(number[order], prepend=-1) | np.diff(days[order], prepend=days[order[0]] - 1)).tolist()
    groups: dict[tuple[str, str], list[I64]] = {}
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        rows = order[start:stop]
        groups.setdefault((folders[int(number[rows[0]])], layout.day_of(int(times[rows[0]]))), []).append(rows)
    found = []
    for (folder, day), parts in groups.items():
        rows = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))
        whole = len(rows) == len(records)
        found.append(Group(folder, day, table if whole else table.take(pa.array(rows)), times[rows]))
    return found


def _folders(topic: str, records: RecordSet) -> tuple[list[str], I64]:
    """Return folder names, and the number of each record's folder."""
    if not layout.by_instrument(topic):
        return [layout.ALL], np.zeros(len(records), dtype=np.int64)
    keys = KeyTable()
    number = keys.match(records)
    other = records.index[:, 3] <= 0
    while len(unknown := np.flatnonzero((number < 0) & ~other)):
        row = int(unknown[0])
        folder = layout.folder_of(topic, records.key(row))
        if folder == layout.OTHER:
            other[row] = True  # broken keys are few
        else:
            keys.add(folder)
            number = keys.match(records)
    return [*keys.keys, layout.OTHER], np.where(number < 0, len(keys), number)


def _slices(records: RecordSet, at: int, use: npt.NDArray[np.bool_]) -> pa.Array:
    """Return keys (``at`` 2) or values (``at`` 4) as binary, null where ``use`` is False."""
    kinds = {2: records.key, 4: records.value}
    if not use.any():
        return pa.nulls(len(records), pa.binary())
    if use.sum() < 64:
        return pa.array([kinds[at](row) if use[row] else None for row in range(len(records))], pa.binary())
    lengths = np.where(use, records.index[:, at + 1], 0)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    if ends[-1] > 2**31 - 1:
        raise OverflowError(f"{int(ends[-1])} bytes in one column: more than a batch may hold")
    out = np.empty(int(ends[-1]), dtype=np.uint8)
    _copy(records.buffer, np.ascontiguousarray(records.index[:, at]), lengths, out)
    return pa.Array.from_buffers(pa.binary(), len(records), [_bitmap(use), pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(out)])


@njit(cache=True, nogil=True)
def _copy(buf: U8, places: I64, lengths: I64, out: U8) -> None:
    n = 0
    for row in range(len(places)):
        for j in range(places[row], places[row] + lengths[row]):
            out[n] = buf[j]
            n += 1
