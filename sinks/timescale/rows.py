"""Records as rows of PostgreSQL's binary COPY format.

``encode`` converts the records of one topic partition to rows for COPY. It first uses the compiled transcoder (``transcode``). The codec decodes the rest:
other frames, older schemas, maps and nested records, text beyond ASCII, and every rejected value, so that reasons come from one place. Both paths produce
the same bytes; a test compares them. Pure.

Row format: https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"): field count, then per field its length (-1: null)
and its bytes in network order. timestamptz is int64 microseconds since 2000-01-01; jsonb is a version byte and text; an array is
its dimensions and elements.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import orjson

from schemas import catalogue
from schemas.codec.avro import Codec, CodecError, Record
from schemas.codec.recordset import RecordSet
from sinks.timescale import transcode
from sinks.timescale.tables import table, unwrap

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = struct.pack("!h", -1)

_NULL = struct.pack("!i", -1)
_INT4 = struct.Struct("!ii")
_INT8 = struct.Struct("!iq")
_FLOAT8 = struct.Struct("!id")
_FLOAT4 = struct.Struct("!if")
_PLACE = struct.Struct("!iiiq")
_LENGTH = struct.Struct("!i")
_ARRAY_HEAD = struct.Struct("!iiiii")  # dimensions, has-null flag, element type, length, lower bound
_ARRAY_EMPTY = struct.Struct("!iii")
OID_TEXT, OID_FLOAT8 = 25, 701

Packer = Callable[[Any], bytes]


class RegistryUnavailable(RuntimeError):
    """The schema registry does not answer. No value may be rejected for that."""


@dataclass(frozen=True)
class RejectedValue:
    """A value that cannot be converted to a row.

    Attributes:
        index: Its index among the given values.
        reason: Why it was rejected.
        field: Invalid field, if known.
        instrument: Its instrument, if readable.
    """

    index: int
    reason: str
    field: str | None = None
    instrument: str | None = None


@dataclass
class Rows:
    """Rows of one topic partition in COPY format.

    Attributes:
        topic: Topic and table.
        payload: The concatenated rows.
        bounds: int64, one more than rows: row i is ``payload[bounds[i]:bounds[i + 1]]``.
        index: int64, index of each row's record among the given records.
        event_times: int64 ms.
        ids: The columns of ``tables.Table.identity_columns`` in order: int64 arrays for numbers, lists or ``transcode.DictionaryColumn`` for text.
        refused: Rejected values.
    """

    topic: str
    payload: memoryview
    bounds: np.ndarray
    index: np.ndarray
    event_times: np.ndarray
    ids: list[Any] = field(default_factory=list)
    refused: list[RejectedValue] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.index)

    def slices(self, keep: np.ndarray) -> list[memoryview]:
        """Return the payload of the rows with the given ascending numbers; adjacent rows are one piece."""
        if not len(keep):
            return []
        breaks = np.flatnonzero(np.diff(keep) != 1) + 1
        first = keep[np.concatenate(([0], breaks))]
        last = keep[np.concatenate((breaks - 1, [len(keep) - 1]))]
        return [self.payload[a:b] for a, b in zip(self.bounds[first].tolist(), self.bounds[last + 1].tolist(), strict=True)]


def encode(codec: Codec, topic: str, records: RecordSet, partition: int) -> Rows:
    """Return the rows of one topic partition's records.

    Args:
        codec: Decodes values that the compiled transcoder does not handle.
        topic: Plain topic name.
        records: The records; one without a value (a tombstone) is rejected.
        partition: Their Kafka partition.

    Raises:
        RegistryUnavailable: a schema is unknown and the registry does not answer.
    """
    id_fields = table(topic).identity_columns
    fast = transcode.encode(topic, _header(codec, topic), records, partition, id_fields)
    if fast is not None and not len(fast.left):
        return Rows(topic, fast.payload, fast.bounds, np.arange(len(records)), fast.event_times, fast.ids)
    count = len(records)
    columns: list[Any]
    if fast is None:
        payload, lengths, times = memoryview(b""), np.zeros(count, np.int64), np.zeros(count, np.int64)
        columns = [np.zeros(count, np.int64) if _is_number(topic, name) else [""] * count for name in id_fields]
        left = range(count)
    else:
        payload, lengths, times, columns = fast.payload, np.diff(fast.bounds), fast.event_times, fast.ids
        left = fast.left.tolist()
    pack = packer(topic)
    made: dict[int, bytes] = {}
    refused: list[RejectedValue] = []
    for i in left:
        record: Record = {}
        try:
            record = codec.decode(topic, records.value(i))
            made[i] = pack(record, partition, int(records.index[i, 0]))
        except CodecError as error:
            _raise_if_registry_away(codec, error)
            refused.append(RejectedValue(i, error.reason, error.field, _text(record.get("instrument"))))
            continue
        lengths[i] = len(made[i])
        times[i] = record["event_time"]
        for column, name in zip(columns, id_fields, strict=True):
            transcode.put(column, i, record[name])
    if made:
        payload = _spliced(payload, np.zeros(count, np.int64) if fast is None else fast.bounds, made)
    keep = np.flatnonzero(lengths)  # rejected values have no length
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths[keep])))
    return Rows(topic, payload, bounds, keep, times[keep], [transcode.chosen(column, keep) for column in columns], refused)


def _spliced(payload: memoryview, starts: np.ndarray, made: dict[int, bytes]) -> memoryview:
    """Return the payload with further rows inserted at their ascending numbers."""
    pieces: list[bytes | memoryview] = []
    at = 0
    for number, row in made.items():
        start = int(starts[number])
        pieces += (payload[at:start], row)
        at = start
    pieces.append(payload[at:])
    return memoryview(b"".join(pieces))


def _header(codec: Codec, topic: str) -> bytes:
    if codec.registry is None:
        return codec.header(topic)
    try:
        return codec.header(topic)
    except Exception as error:  # the client raises what its HTTP library raises
        raise RegistryUnavailable(f"{topic}: {type(error).__name__}: {error}") from error


def _raise_if_registry_away(codec: Codec, error: CodecError) -> None:
    """Distinguish an unknown schema (the registry answers HTTP 404) from a registry that does not answer."""
    cause = error.__cause__
    if codec.registry is None or cause is None or not error.reason.startswith("schema id "):
        return
    if getattr(cause, "http_status_code", None) != 404:
        raise RegistryUnavailable(f"{error}") from error


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


@cache
def _is_number(topic: str, name: str) -> bool:
    kind = next(column.type for column in table(topic).columns if column.name == name)
    return kind in ("bigint", "integer", "timestamp with time zone")


@cache
def packer(topic: str) -> Callable[[Record, int, int], bytes]:
    """Return a function (record, Kafka partition, Kafka offset) -> COPY row. It raises CodecError that names an invalid field."""
    fields = [(entry["name"], _packer(*unwrap(entry["type"]))) for entry in catalogue.schema(topic)["fields"]]
    count = struct.pack("!h", len(fields) + 2)

    def pack(record: Record, partition: int, offset: int) -> bytes:
        parts = [count]
        for name, one in fields:
            try:
                parts.append(one(record[name]))
            except (struct.error, ValueError, TypeError, OverflowError, UnicodeEncodeError) as error:
                raise CodecError(topic, f"{name}: {error}", name) from error
        parts.append(_PLACE.pack(4, partition, 8, offset))
        return b"".join(parts)

    return pack


def _packer(kind: Any, nullable: bool) -> Packer:
    one = _value_packer(kind)
    if not nullable:
        return one

    def pack(value: Any) -> bytes:
        return _NULL if value is None else one(value)

    return pack


def _value_packer(kind: Any) -> Packer:
    if isinstance(kind, dict):
        if kind.get("logicalType") == "timestamp-millis":
            return _timestamp
        if kind["type"] == "array" and kind["items"] == "double":
            return _doubles
        if kind["type"] == "array" and kind["items"] == "string":
            return _texts
        if kind["type"] in _PACKERS:
            return _PACKERS[kind["type"]]
        return _json
    return _PACKERS.get(kind, _json) if isinstance(kind, str) else _json


def _timestamp(ms: int) -> bytes:
    if not transcode.MIN_MS <= ms < transcode.END_MS:
        raise ValueError(f"time {ms} ms is out of the database's range")
    return _INT8.pack(8, ms * 1000 - transcode.EPOCH_US)


def _string(text: str) -> bytes:
    data = text.encode()
    if b"\0" in data:
        raise ValueError("text holds a zero character, which PostgreSQL cannot store")
    return _LENGTH.pack(len(data)) + data


def _doubles(values: list[float]) -> bytes:
    if not values:
        return _LENGTH.pack(12) + _ARRAY_EMPTY.pack(0, 0, OID_FLOAT8)
    body = b"".join([_FLOAT8.pack(8, value) for value in values])
    return _LENGTH.pack(20 + len(body)) + _ARRAY_HEAD.pack(1, 0, OID_FLOAT8, len(values), 1) + body


def _texts(values: list[str]) -> bytes:
    if not values:
        return _LENGTH.pack(12) + _ARRAY_EMPTY.pack(0, 0, OID_TEXT)
    body = b"".join([_string(value) for value in values])
    return _LENGTH.pack(20 + len(body)) + _ARRAY_HEAD.pack(1, 0, OID_TEXT, len(values), 1) + body


def _json(value: Any) -> bytes:
    text = orjson.dumps(_finite(value))
    return _LENGTH.pack(len(text) + 1) + b"\1" + text


def _finite(value: Any) -> Any:
    """Return a value with non-finite numbers as text (``NaN``, ``Infinity``, ``-Infinity``), because JSON has none and null means missing."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, bytes):
        return value.hex()
    return value


_PACKERS: dict[str, Packer] = {
    "string": _string,
    "enum": _string,
    "boolean": lambda value: b"\0\0\0\1\1" if value else b"\0\0\0\1\0",
    "int": lambda value: _INT4.pack(4, value),
    "long": lambda value: _INT8.pack(8, value),
    "float": lambda value: _FLOAT4.pack(4, value),
    "double": lambda value: _FLOAT8.pack(8, value),
    "bytes": lambda value: _LENGTH.pack(len(value)) + value,
}
