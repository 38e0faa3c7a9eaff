"""Compiled conversion of Avro bodies to rows of binary COPY, for topics whose fields are numbers, text, times and arrays of them.

One loop handles all values of a batch, without a Python object for each record or field. Values outside its scope go to the codec: another frame or schema,
text beyond ASCII, a number out of its column's range, trailing bytes. Nothing is rejected here. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np

from schemas import catalogue
from schemas.codec.recordset import RecordSet
from sinks.timescale.tables import unwrap

# PostgreSQL counts timestamptz from 2000-01-01 in microseconds; its range is 4714-11-24 BC to 294276-12-31 (datatype/timestamp.h).
EPOCH_US = 946_684_800_000_000
MIN_MS = (-211_813_488_000_000_000 + EPOCH_US) // 1000
END_MS = (9_223_371_331_200_000_000 + EPOCH_US) // 1000

_STRING, _LONG, _INT, _TIME, _DOUBLE, _BOOLEAN, _DOUBLES, _TEXTS, _BYTES = range(9)
_OPS = {"string": _STRING, "long": _LONG, "int": _INT, "double": _DOUBLE, "boolean": _BOOLEAN, "bytes": _BYTES}
# Position of null in a union.
_NOT_NULLABLE, _NULL_FIRST, _NULL_SECOND = -1, 0, 1
_PLACE_BYTES = 2 + 4 + 4 + 4 + 8
# A text column with more distinct texts than this in one batch is stored as a list: ids, not names.
MOST_NAMES = 64


class DictionaryColumn(Sequence[str]):
    """A dictionary-encoded text column: each distinct text once, and a code for each row.

    Attributes:
        names: The texts.
        codes: int64, one for each row.
    """

    def __init__(self, names: list[str], codes: np.ndarray) -> None:
        self.names = names
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, at: Any) -> Any:
        return self.names[self.codes[at]] if isinstance(at, int) else [self.names[code] for code in self.codes[at].tolist()]

    def __iter__(self) -> Iterator[str]:
        return (self.names[code] for code in self.codes.tolist())


def put(column: Any, row: int, value: Any) -> None:
    """Set one value of a column (int64 array, list or ``DictionaryColumn``)."""
    if not isinstance(column, DictionaryColumn):
        column[row] = value
        return
    if value not in column.names:
        column.names.append(value)
    column.codes[row] = column.names.index(value)


def chosen(column: Any, rows: np.ndarray) -> Any:
    """Return selected rows of a column in the same form."""
    if isinstance(column, DictionaryColumn):
        return DictionaryColumn(column.names, column.codes[rows])
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows.tolist()]


@dataclass(frozen=True)
class Transcoded:
    """Rows as in ``rows.Rows``, aligned with the given values. The values in ``left`` have an empty row and go to the codec."""

    payload: memoryview
    bounds: np.ndarray
    event_times: np.ndarray
    ids: list[Any]
    left: np.ndarray


@dataclass(frozen=True)
class _Program:
    ops: np.ndarray
    unions: np.ndarray
    fixed: int
    growth: int


@cache
def _program(topic: str) -> _Program | None:
    """Return a topic's fields as codes, or None if a field's type is not supported here."""
    ops, unions, fixed, growth = [], [], _PLACE_BYTES, 2
    for entry in catalogue.schema(topic)["fields"]:
        kind, nullable = unwrap(entry["type"])
        op = _op(kind)
        if op is None or (nullable and len(entry["type"]) != 2):
            return None
        ops.append(op)
        unions.append(_NOT_NULLABLE if not nullable else (_NULL_FIRST if entry["type"][0] == "null" else _NULL_SECOND))
        fixed += 24 if op in (_DOUBLES, _TEXTS) else 12
        growth = 4 if op == _TEXTS else growth  # an empty text takes 1 byte in Avro and 4 in a row
    return _Program(np.array(ops, np.int64), np.array(unions, np.int64), fixed, growth)


def _op(kind: Any) -> int | None:
    if isinstance(kind, dict):
        if kind.get("logicalType") == "timestamp-millis":
            return _TIME
        if kind["type"] == "array":
            return {"double": _DOUBLES, "string": _TEXTS}.get(kind["items"]) if isinstance(kind["items"], str) else None
        return _OPS.get(kind["type"])
    return _OPS.get(kind) if isinstance(kind, str) else None


def encode(topic: str, header: bytes, records: RecordSet, partition: int, id_fields: Sequence[str]) -> Transcoded | None:
    """Return the rows of values in the current schema, or None if the topic's schema is not supported.

    Args:
        topic: Topic.
        header: Frame header of the current schema; other values are left to the codec.
        records: Kafka records.
        partition: Their Kafka partition.
        id_fields: Fields whose values are returned: text or integers that are never null.
    """
    program = _program(topic)
    if program is None or not len(records):
        return None
    names = catalogue.field_names(topic)
    wanted = [names.index("event_time"), *(names.index(name) for name in id_fields)]
    if any(program.unions[number] != _NOT_NULLABLE for number in wanted):
        return None
    capture = np.full(len(names), -1, np.int64)
    for place, number in enumerate(wanted):
        capture[number] = place  # event_time may be an id field too: both places are filled from the later one
    data = records.buffer.view()
    data.flags.writeable = False  # one compiled form for bytes and arrays
    count = len(records)
    size = int(np.maximum(records.index[:, 5], 0).sum())
    out = np.empty(program.fixed * count + program.growth * size, np.uint8)
    bounds = np.empty(count + 1, np.int64)
    captured = np.empty((len(wanted), 2, count), np.int64)
    ok = np.empty(count, np.bool_)
    _run(data, records.index, np.frombuffer(header, np.uint8), program.ops, program.unions, partition, capture, out, bounds, captured, ok)
    places = [int(capture[number]) for number in wanted]
    ids = [_captured(program.ops[number], captured[place], data) for number, place in zip(wanted[1:], places[1:], strict=True)]
    return Transcoded(out[: bounds[-1]].data, bounds, captured[places[0], 0], ids, np.flatnonzero(~ok))


def _captured(op: int, spans: np.ndarray, joined: np.ndarray) -> Any:
    if op != _STRING:
        return spans[0]
    codes = np.empty(spans.shape[1], np.int64)
    first = np.empty(MOST_NAMES, np.int64)
    known = _name_codes(joined, spans, codes, first)
    if known <= MOST_NAMES:
        names = [joined[spans[0, row] : spans[1, row]].tobytes().decode() for row in first[:known].tolist()]
        return DictionaryColumn(names, codes)
    whole = joined.tobytes()
    return [whole[a:b].decode() for a, b in zip(spans[0].tolist(), spans[1].tolist(), strict=True)]


@numba.njit(cache=True, nogil=True)
def _name_codes(data: np.ndarray, spans: np.ndarray, codes: np.ndarray, first: np.ndarray) -> int:
    """Number the distinct texts of a column; return their number, or one more than fit. ``first`` has a row for each text."""
    known = 0
    last = 0
    for row in range(spans.shape[1]):
        length = spans[1, row] - spans[0, row]
        found = -1
        for k in range(known):
            code = (last + k) % known  # neighbours are mostly alike
            start = spans[0, first[code]]
            if spans[1, first[code]] - start != length:
                continue
            alike = True
            for i in range(length):
                if data[start + i] != data[spans[0, row] + i]:
                    alike = False
                    break
            if alike:
                found = code
                break
        if found < 0:
            if known == len(first):
                return known + 1
            first[known] = row
            found = known
            known += 1
        codes[row] = found
        last = found
    return known


@numba.njit(cache=True, nogil=True)
def _varint(data: np.ndarray, at: int, end: int) -> tuple[int, int]:
    """Return an Avro long and its end position; the end is -1 if it is invalid."""
    result = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        if shift == 63 and byte > 1:
            return 0, -1
        result |= np.uint64(byte & 0x7F) << shift
        if byte < 0x80:
            return np.int64(result >> np.uint64(1)) ^ -np.int64(result & np.uint64(1)), at  # type: ignore[return-value]
        shift += np.uint64(7)
    return 0, -1


@numba.njit(cache=True, nogil=True)
def _put4(out: np.ndarray, at: int, value: int) -> int:
    out[at] = (value >> 24) & 0xFF
    out[at + 1] = (value >> 16) & 0xFF
    out[at + 2] = (value >> 8) & 0xFF
    out[at + 3] = value & 0xFF
    return at + 4


@numba.njit(cache=True, nogil=True)
def _put8(out: np.ndarray, at: int, value: int) -> int:
    _put4(out, at, value >> 32)
    return _put4(out, at + 4, value)


@numba.njit(cache=True, nogil=True)
def _put_text(out: np.ndarray, o: int, data: np.ndarray, at: int, end: int) -> tuple[int, int]:
    """Copy one Avro string; return the next output and input positions. Input is -1 unless it is ASCII text without zeros."""
    length, at = _varint(data, at, end)
    if at < 0 or length < 0 or length > end - at:
        return o, -1
    o = _put4(out, o, length)
    for i in range(length):
        byte = data[at + i]
        if byte == 0 or byte > 0x7F:
            return o, -1
        out[o + i] = byte
    return o + length, at + length


@numba.njit(cache=True, nogil=True)
def _put_array(out: np.ndarray, o: int, data: np.ndarray, at: int, end: int, texts: bool) -> tuple[int, int]:
    """Copy one Avro array (blocks) of doubles or texts as a PostgreSQL array. Returns as ``_put_text``."""
    head = o
    o += 24
    total = 0
    while True:
        count, at = _varint(data, at, end)
        if at < 0:
            return o, -1
        if count == 0:
            break
        if count < 0:
            count = -count
            _, at = _varint(data, at, end)
            if at < 0:
                return o, -1
        if count > end - at:
            return o, -1
        for _ in range(count):
            if texts:
                o, at = _put_text(out, o, data, at, end)
                if at < 0:
                    return o, -1
            else:
                if end - at < 8:
                    return o, -1
                o = _put4(out, o, 8)
                for k in range(8):
                    out[o + k] = data[at + 7 - k]
                o += 8
                at += 8
        total += count
    oid = 25 if texts else 701
    if total == 0:
        h = _put4(out, head, 12)
        h = _put4(out, h, 0)
        h = _put4(out, h, 0)
        return _put4(out, h, oid), at
    h = _put4(out, head, o - head - 4)
    h = _put4(out, h, 1)
    h = _put4(out, h, 0)
    h = _put4(out, h, oid)
    h = _put4(out, h, total)
    _put4(out, h, 1)
    return o, at


@numba.njit(cache=True, nogil=True)
def _row(
    data: np.ndarray,
    at: int,
    end: int,
    ops: np.ndarray,
    unions: np.ndarray,
    capture: np.ndarray,
    captured: np.ndarray,
    row: int,
    out: np.ndarray,
    o: int,
) -> int:
    """Write the fields of one record; return the next output position, or -1 if the value is not supported."""
    for field in range(len(ops)):
        if unions[field] >= 0:
            branch, at = _varint(data, at, end)
            if at < 0 or branch < 0 or branch > 1:
                return -1
            if branch == unions[field]:
                o = _put4(out, o, -1)
                continue
        op = ops[field]
        place = capture[field]
        if op == _DOUBLE:
            if end - at < 8:
                return -1
            o = _put4(out, o, 8)
            for k in range(8):
                out[o + k] = data[at + 7 - k]
            o += 8
            at += 8
        elif op in (_LONG, _TIME, _INT):
            value, at = _varint(data, at, end)
            if at < 0:
                return -1
            if place >= 0:
                captured[place, 0, row] = value
            if op == _INT:
                if value < -(1 << 31) or value >= 1 << 31:
                    return -1
                o = _put4(out, o, 4)
                o = _put4(out, o, value)
            else:
                if op == _TIME:
                    if value < MIN_MS or value >= END_MS:
                        return -1
                    value = value * 1000 - EPOCH_US
                o = _put4(out, o, 8)
                o = _put8(out, o, value)
        elif op == _STRING:
            before = o
            o, at = _put_text(out, o, data, at, end)
            if at < 0:
                return -1
            if place >= 0:
                captured[place, 0, row] = at - (o - before - 4)
                captured[place, 1, row] = at
        elif op == _BOOLEAN:
            if at >= end or data[at] > 1:
                return -1
            o = _put4(out, o, 1)
            out[o] = data[at]
            o += 1
            at += 1
        elif op == _BYTES:
            length, at = _varint(data, at, end)
            if at < 0 or length < 0 or length > end - at:
                return -1
            o = _put4(out, o, length)
            out[o : o + length] = data[at : at + length]
            o += length
            at += length
        else:
            o, at = _put_array(out, o, data, at, end, op == _TEXTS)
            if at < 0:
                return -1
    return o if at == end else -1


@numba.njit(cache=True, nogil=True)
def _run(
    data: np.ndarray,
    index: np.ndarray,
    header: np.ndarray,
    ops: np.ndarray,
    unions: np.ndarray,
    partition: int,
    capture: np.ndarray,
    out: np.ndarray,
    bounds: np.ndarray,
    captured: np.ndarray,
    ok: np.ndarray,
) -> None:
    o = 0
    width = len(header)
    bounds[0] = 0
    for row in range(index.shape[0]):
        at = index[row, 4]
        end = at + max(index[row, 5], 0)  # a record without a value has length -1
        good = end - at >= width
        if good:
            for k in range(width):
                if data[at + k] != header[k]:
                    good = False
                    break
        if good:
            begin = o
            out[o] = 0
            out[o + 1] = len(ops) + 2
            reached = _row(data, at + width, end, ops, unions, capture, captured, row, out, o + 2)
            if reached < 0:
                good = False
                o = begin
            else:
                o = _put4(out, reached, 4)
                o = _put4(out, o, partition)
                o = _put4(out, o, 8)
                o = _put8(out, o, index[row, 0])
        ok[row] = good
        if not good:
            for place in range(captured.shape[0]):
                captured[place, 0, row] = 0
                captured[place, 1, row] = 0
        bounds[row + 1] = o
