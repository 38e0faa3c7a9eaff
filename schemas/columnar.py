"""Batch decoding: raw Kafka record batches and flat Avro records to numpy columns, without a Python object per record.

Two compiled kernels: one walks Kafka's record format v2 (KIP-98) and finds keys and values; one walks the Avro bodies of a topic by a
small program made from its schema. What does not start with the expected frame header is decoded by the plain codec, row by row;
what cannot be decoded at all is reported with its reason. ``schemas.codec`` is the reference that the tests hold this module to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt
from numba import njit

from schemas import catalogue
from schemas.codec import Codec, CodecError

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

NULL_LONG = np.iinfo(np.int64).min  # null of a nullable long; no venue sends a time or an id like it
MAX_LEVELS = 20  # depth carries the top 20 levels (schemas/avro/depth.avsc)

_BATCH_HEADER = struct.Struct(">qiibIhiqqqhii")  # base offset .. record count, 61 bytes
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_XERIAL = b"\x82SNAPPY\x00"


class RecordSetError(ValueError):
    """A raw record set that is not made of whole v2 record batches."""


def _unsnappy(data: bytes) -> bytes:
    """Undo snappy, with or without the xerial block framing that Java clients write."""
    if not data.startswith(_XERIAL):
        return bytes(cramjam.snappy.decompress_raw(data))
    out, at = bytearray(), 16
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        out += bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return bytes(out)


def _decompress(kind: int, data: memoryview) -> Any:
    """Return the bytes as something that numpy can look into."""
    if kind == 1:
        return cramjam.gzip.decompress(data)
    if kind == 2:
        return _unsnappy(bytes(data))
    if kind == 3:
        return cramjam.lz4.decompress(data)
    if kind == 4:
        return cramjam.zstd.decompress(data)
    raise RecordSetError(f"compression codec {kind} is not one of {_CODECS}")


@njit(cache=True, nogil=True)
def _zigzag(buf: U8, at: int, end: int) -> Any:
    """Read a zigzag varint; returns (value, next position), position -1 when it runs over the end."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end:
        byte = buf[np.uint64(at)]
        at += 1
        value |= np.uint64(byte & 0x7F) << shift
        if byte < 0x80:
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
        if shift > np.uint64(63):
            break
    return np.int64(0), -1


@njit(cache=True, nogil=True)
def _walk(buf: U8, at: int, end: int, base_offset: int, base_time: int, fixed_time: int, first: int, last: int, out: I64, n: int) -> int:
    """Append the index row of each wanted record (see RecordSet.index); returns the new n, or -1 when a record is broken."""
    while at < end:
        length, at = _zigzag(buf, at, end)
        if at < 0 or length < 0 or at + length > end:
            return -1
        stop = at + length
        at += 1  # attributes: unused by the protocol
        delta_time, at = _zigzag(buf, at, stop)
        if at < 0:
            return -1
        delta, at = _zigzag(buf, at, stop)
        if at < 0:
            return -1
        key_length, at = _zigzag(buf, at, stop)
        if at < 0:
            return -1
        key_at = at
        if key_length > 0:
            at += key_length
        value_length, at = _zigzag(buf, at, stop)
        if at < 0:
            return -1
        if value_length > 0 and at + value_length > stop:
            return -1
        offset = base_offset + delta
        if first <= offset <= last:
            if n >= out.shape[0]:
                return -2
            out[n, 0] = offset
            out[n, 1] = fixed_time if fixed_time >= 0 else base_time + delta_time
            out[n, 2] = key_at
            out[n, 3] = key_length
            out[n, 4] = at
            out[n, 5] = value_length
            n += 1
        at = stop
    return n


@njit(cache=True, nogil=True)
def _big_endian(buf: U8, at: int, size: int) -> Any:
    value = np.int64(0)
    for j in range(size):
        value = (value << 8) | np.int64(buf[at + j])
    return value


@njit(cache=True, nogil=True)
def _survey(buf: U8, first: int, last: int) -> Any:
    """Return (records that the batches of a set hold, offset after the last batch, whether one holds wanted ones); -1 records when not all are plain.

    Plain is a whole batch of format v2 whose records lie in it as they are, without compression.
    """
    at, total, count = 0, len(buf), 0
    following: Any = np.int64(first)
    wanted = False
    while at < total:
        if total - at < 61 or buf[at + 16] != 2:
            return -1, following, wanted
        size = _big_endian(buf, at + 8, 4)
        attributes = buf[at + 22]
        records = _big_endian(buf, at + 57, 4)
        if attributes & 0x07 or size < 49 or size > total - at - 12 or records > size:
            return -1, following, wanted
        begin, delta = _big_endian(buf, at, 8), _big_endian(buf, at + 23, 4)
        end = begin + delta
        if delta >= 1 << 31:
            return -1, following, wanted
        following = max(following, end + 1)
        if not (attributes & 0x20 or end < first or begin > last):
            wanted = True
            count += records
        at += 12 + size
    return count, following, wanted


@njit(cache=True, nogil=True)
def _walk_plain(buf: U8, first: int, last: int, out: I64) -> int:
    """Fill the index of a set whose batches are all plain (``_survey``); returns the number of wanted records, below 0 when one is broken."""
    at, n = 0, 0
    while at < len(buf):
        stop = at + 12 + _big_endian(buf, at + 8, 4)
        attributes = buf[at + 22]
        begin = _big_endian(buf, at, 8)
        end = begin + _big_endian(buf, at + 23, 4)
        if not (attributes & 0x20 or end < first or begin > last):
            fixed: Any = _big_endian(buf, at + 35, 8) if attributes & 0x08 else np.int64(-1)
            n = _walk(buf, at + 61, stop, begin, _big_endian(buf, at + 27, 8), fixed, first, last, out, n)
            if n < 0:
                return n
        at = stop
    return n


@dataclass(slots=True)
class RecordSet:
    """Records of one topic partition in offset order, as positions into one buffer.

    Attributes:
        buffer: The bytes, uint8.
        index: int64 of shape (n, 6): offset, timestamp ms, key position, key length (-1: null), value position, value length (-1: null).
        next_offset: Offset after the last one covered, which may lie beyond the last record (compaction, control batches).
    """

    buffer: U8
    index: I64
    next_offset: int

    def __len__(self) -> int:
        return len(self.index)

    @property
    def offsets(self) -> I64:
        """Offsets, shape (n,)."""
        offsets: I64 = self.index[:, 0]
        return offsets

    @property
    def timestamps(self) -> I64:
        """Record timestamps, ms UTC, shape (n,)."""
        timestamps: I64 = self.index[:, 1]
        return timestamps

    def key(self, row: int) -> bytes | None:
        """Return the key of a row."""
        at, length = int(self.index[row, 2]), int(self.index[row, 3])
        return None if length < 0 else self.buffer[at : at + length].tobytes()

    def value(self, row: int) -> bytes | None:
        """Return the value of a row."""
        at, length = int(self.index[row, 4]), int(self.index[row, 5])
        return None if length < 0 else self.buffer[at : at + length].tobytes()

    def rows(self, start: int, stop: int) -> RecordSet:
        """Return the rows [start, stop) over the same buffer."""
        part = self.index[start:stop]
        return RecordSet(self.buffer, part, int(part[-1, 0]) + 1 if len(part) else self.next_offset)

    @classmethod
    def joined(cls, parts: Sequence[RecordSet]) -> RecordSet:
        """Return record sets that follow one another, at least one, as one."""
        if len(parts) == 1:
            return parts[0]
        index = np.concatenate([part.index for part in parts])
        row = at = 0
        for part in parts:
            index[row : row + len(part), 2] += at
            index[row : row + len(part), 4] += at
            row += len(part)
            at += len(part.buffer)
        return cls(np.concatenate([part.buffer for part in parts]), index, parts[-1].next_offset)

    @classmethod
    def from_raw(cls, raw: bytes | memoryview, first_offset: int, last_offset: int) -> RecordSet:
        """Walk a raw record set (whole v2 batches) and keep records with first_offset <= offset <= last_offset.

        Control batches carry no records of the application and are passed over. CRCs are the fetcher's business.

        Raises:
            RecordSetError: an old message format, a truncated batch or a broken record.
        """
        whole = _as_it_lies(raw, first_offset, last_offset)
        if whole is not None:
            return whole
        view = memoryview(raw)
        at, total = 0, len(view)
        pieces: list[Any] = []
        parts: list[I64] = []
        base = 0
        next_offset = first_offset
        while at < total:
            if total - at < _BATCH_HEADER.size:
                raise RecordSetError(f"truncated batch header at byte {at}")
            header = _BATCH_HEADER.unpack_from(view, at)
            base_offset, size, _, magic, _, attributes, last_delta, base_time, max_time, _, _, _, count = header
            if magic != 2:
                raise RecordSetError(f"message format {magic} at offset {base_offset}: only v2 is read")
            stop = at + 12 + size
            if stop > total:
                raise RecordSetError(f"batch at offset {base_offset} is truncated: {total - at} of {12 + size} bytes")
            body: Any = view[at + _BATCH_HEADER.size : stop]
            at = stop
            next_offset = max(next_offset, base_offset + last_delta + 1)
            if attributes & 0x20 or base_offset + last_delta < first_offset or base_offset > last_offset:
                continue
            if attributes & 0x07:
                body = _decompress(attributes & 0x07, body)
            data = np.frombuffer(body, dtype=np.uint8)
            index = np.empty((count, 6), dtype=np.int64)
            fixed = max_time if attributes & 0x08 else -1
            n = _walk(data, 0, len(data), base_offset, base_time, fixed, first_offset, last_offset, index, 0)
            if n < 0:
                raise RecordSetError(f"broken record in the batch at offset {base_offset}")
            index = index[:n]
            index[:, 2] += base
            index[:, 4] += base
            base += len(data)
            pieces.append(data)
            parts.append(index)
        next_offset = min(next_offset, last_offset + 1) if parts else max(next_offset, first_offset)
        if not parts:
            return cls(np.empty(0, dtype=np.uint8), np.empty((0, 6), dtype=np.int64), next_offset)
        if len(parts) == 1:
            return cls(pieces[0], parts[0], next_offset)
        return cls(np.concatenate(pieces), np.concatenate(parts), next_offset)

    @classmethod
    def from_messages(cls, messages: Sequence[tuple[int, int, bytes | None, bytes | None]]) -> RecordSet:
        """Join (offset, timestamp ms, key, value) tuples, in offset order, into a record set."""
        index = np.empty((len(messages), 6), dtype=np.int64)
        pieces: list[bytes] = []
        at = 0
        for row, (offset, timestamp, key, value) in enumerate(messages):
            index[row, 0] = offset
            index[row, 1] = timestamp
            index[row, 2] = at
            index[row, 3] = -1 if key is None else len(key)
            if key:
                pieces.append(key)
                at += len(key)
            index[row, 4] = at
            index[row, 5] = -1 if value is None else len(value)
            if value:
                pieces.append(value)
                at += len(value)
        buffer = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        return cls(buffer, index, int(messages[-1][0]) + 1 if messages else 0)


def _as_it_lies(raw: bytes | memoryview, first_offset: int, last_offset: int) -> RecordSet | None:
    """Return the records of a set over its own bytes, without a copy; None when a batch is compressed or something is wrong with one."""
    if not len(raw):
        return None
    buffer = np.frombuffer(raw, dtype=np.uint8)
    count, following, wanted = _survey(buffer, first_offset, last_offset)
    if count < 0:
        return None
    index = np.empty((count, 6), dtype=np.int64)
    n = _walk_plain(buffer, first_offset, last_offset, index)
    if n < 0:
        return None
    return RecordSet(buffer, index[:n], min(following, last_offset + 1) if wanted else following)


# --- Avro bodies -----------------------------------------------------------------------------------------------------
STRING, LONG, DOUBLE, BOOLEAN, DOUBLES, NULL_DOUBLE, NULL_LONG_OP, NULL_STRING = range(8)


@dataclass(frozen=True, slots=True)
class Program:
    """How the kernel walks one flat schema: an opcode a field, and the column that each field goes to; -1: it is not kept."""

    topic: str
    names: tuple[str, ...]
    ops: I64
    columns: I64
    n_longs: int
    n_doubles: int
    n_arrays: int


def _op(kind: Any) -> int | None:
    if isinstance(kind, dict) and kind["type"] == "array" and kind["items"] == "double":
        return DOUBLES
    if isinstance(kind, dict):
        kind = kind["type"]
    if isinstance(kind, list):
        inner = _op(kind[1]) if len(kind) == 2 and kind[0] == "null" else None
        return {DOUBLE: NULL_DOUBLE, LONG: NULL_LONG_OP, STRING: NULL_STRING}.get(inner) if inner is not None else None
    if not isinstance(kind, str):
        return None
    return {"string": STRING, "long": LONG, "int": LONG, "double": DOUBLE, "boolean": BOOLEAN}.get(kind)


@cache
def program(topic: str) -> Program:
    """Return the decoding program of a topic.

    Raises:
        ValueError: the schema has a field that is not flat (only the market-data topics are).
    """
    fields = catalogue.schema(topic)["fields"]
    ops, columns = [], []
    counts = [0, 0, 0]  # longs (with booleans, and strings as packed position), doubles, arrays
    for field in fields:
        op = _op(field["type"])
        if op is None:
            raise ValueError(f"{topic}.{field['name']}: not a flat type, it has no columnar form")
        group = 1 if op in (DOUBLE, NULL_DOUBLE) else 2 if op == DOUBLES else 0
        ops.append(op)
        columns.append(counts[group])
        counts[group] += 1
    return Program(topic, tuple(field["name"] for field in fields), np.array(ops), np.array(columns), *counts)


@cache
def narrowed(topic: str, names: tuple[str, ...]) -> Program:
    """Return a topic's program that keeps some of its fields, their columns close together in the order of the schema."""
    whole = program(topic)
    columns, counts = [], [0, 0, 0]
    for name, op in zip(whole.names, whole.ops.tolist(), strict=True):
        group = 1 if op in (DOUBLE, NULL_DOUBLE) else 2 if op == DOUBLES else 0
        columns.append(counts[group] if name in names else -1)
        counts[group] += name in names
    return Program(topic, whole.names, whole.ops, np.array(columns), *counts)


OK, OTHER_FRAME, MALFORMED, LEFT_OVER, NO_VALUE = range(5)
_REASONS = {MALFORMED: "body does not fit its schema", LEFT_OVER: "bytes left after the record", NO_VALUE: "no value"}


@njit(cache=True, nogil=True)
def _eight(buf: U8, at: int) -> Any:
    """Return eight bytes, little end first, as one number (unsigned places: the compiler makes one load of it)."""
    place = np.uint64(at)
    value = np.uint64(0)
    for j in range(8):
        value |= np.uint64(buf[place + np.uint64(j)]) << np.uint64(8 * j)
    return value


@njit(cache=True, nogil=True)
def _over_long(buf: U8, at: int, end: int) -> int:
    """Return the position after a varint, as ``_zigzag`` does."""
    limit = min(end, at + 10)
    while at < limit:
        if buf[np.uint64(at)] < 0x80:
            return at + 1
        at += 1
    return -1


@njit(cache=True, nogil=True)
def _is_ascii(buf: U8, at: int, end: int) -> bool:
    seen = np.uint64(0)
    while at + 8 <= end:
        seen |= _eight(buf, at)
        at += 8
    while at < end:
        seen |= np.uint64(buf[np.uint64(at)])
        at += 1
    return (seen & np.uint64(0x8080808080808080)) == 0


@njit(cache=True, nogil=True)
def _decode(buf: U8, index: I64, header: U8, ops: I64, columns: I64, longs: I64, doubles: Any, arrays: Any, status: U8) -> None:
    """Walk the bodies; ``doubles`` and ``arrays`` are float64 seen as uint64. Fields whose column is -1 are checked and not kept."""
    header_length = len(header)
    not_a_number = np.uint64(0x7FF8000000000000)
    for row in range(index.shape[0]):
        at = index[row, 4]
        length = index[row, 5]
        if length <= 0:
            status[row] = NO_VALUE
            continue
        end = at + length
        same = length >= header_length
        if same:
            for j in range(header_length):
                if buf[np.uint64(at + j)] != header[j]:
                    same = False
                    break
        if not same:
            status[row] = OTHER_FRAME
            continue
        at += header_length
        good = True
        plain = True
        for f in range(len(ops)):
            op = ops[f]
            column = columns[f]
            # A nullable field is its branch, and then the field.
            if op >= NULL_DOUBLE:
                branch, at = _zigzag(buf, at, end)
                if at < 0 or branch < 0 or branch > 1:
                    good = False
                    break
                if branch == 0:
                    if column >= 0:
                        if op == NULL_DOUBLE:
                            doubles[row, column] = not_a_number
                        else:
                            longs[row, column] = NULL_LONG
                    continue
                op = DOUBLE if op == NULL_DOUBLE else LONG if op == NULL_LONG_OP else STRING
            if op == LONG:
                if column >= 0:
                    longs[row, column], at = _zigzag(buf, at, end)
                else:
                    at = _over_long(buf, at, end)
                if at < 0:
                    good = False
                    break
            elif op == DOUBLE:
                if at + 8 > end:
                    good = False
                    break
                if column >= 0:
                    doubles[row, column] = _eight(buf, at)
                at += 8
            elif op == STRING:
                size, at = _zigzag(buf, at, end)
                if at < 0 or size < 0 or at + size > end:
                    good = False
                    break
                if column >= 0:
                    longs[row, column] = (at << 20) | min(size, (1 << 20) - 1)
                if not _is_ascii(buf, at, at + size):
                    plain = False  # the codec judges whether this is UTF-8
                at += size
            elif op == BOOLEAN:
                if at >= end or buf[np.uint64(at)] > 1:
                    good = False
                    break
                if column >= 0:
                    longs[row, column] = buf[np.uint64(at)]
                at += 1
            else:
                count = 0
                while True:
                    block, at = _zigzag(buf, at, end)
                    if at < 0:
                        good = False
                        break
                    if block == 0:
                        break
                    if block < 0:
                        block = -block
                        _, at = _zigzag(buf, at, end)
                        if at < 0:
                            good = False
                            break
                    if block > (end - at) // 8:
                        good = False
                        break
                    for _i in range(block):
                        if count < MAX_LEVELS and column >= 0:
                            arrays[row, column, count] = _eight(buf, at)
                        count += 1
                        at += 8
                if not good:
                    break
        if not good:
            status[row] = MALFORMED
        elif at != end:
            status[row] = LEFT_OVER
        elif not plain:
            status[row] = OTHER_FRAME
        else:
            status[row] = OK


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be decoded."""

    row: int
    reason: str
    field: str | None = None


class Columns:
    """Decoded columns of a record set; row i belongs to row i of ``records``.

    Nullable doubles hold NaN, nullable longs (and the places of nullable strings) ``NULL_LONG``.
    Rows in ``rejected`` have undefined values and ``good[row]`` False; rows in ``other_frames`` were decoded by the codec.
    """

    def __init__(
        self,
        program: Program,
        records: RecordSet,
        longs: I64,
        doubles: F64,
        arrays: F64,
        good: npt.NDArray[np.bool_],
        rejected: list[Rejected],
    ) -> None:
        self.program = program
        self.records = records
        self.good = good
        self.rejected = rejected
        self._longs = longs
        self._doubles = doubles
        self._arrays = arrays
        self._strings: dict[int, dict[int, str]] = {}
        self.other_frames: list[int] = []
        where = zip(program.names, program.ops.tolist(), program.columns.tolist(), strict=True)
        self._where = {name: (op, column) for name, op, column in where if column >= 0}

    def long(self, name: str) -> I64:
        """Return a long, int, timestamp or boolean column, int64 of shape (n,)."""
        column: I64 = self._longs[:, self._where[name][1]]
        return column

    def double(self, name: str) -> F64:
        """Return a double column, float64 of shape (n,)."""
        column: F64 = self._doubles[:, self._where[name][1]]
        return column

    def doubles(self, name: str) -> F64:
        """Return an array column, float64 of shape (n, 20), best level first, NaN beyond the end."""
        column: F64 = self._arrays[:, self._where[name][1], :]
        return column

    def text(self, name: str, row: int) -> str:
        """Return one string; of a nullable field only where it is not null (see ``text_or_none``)."""
        column = self._where[name][1]
        other = self._strings.get(column, {}).get(row)
        if other is not None:
            return other
        packed = int(self._longs[row, column])
        at, size = packed >> 20, packed & 0xFFFFF
        return self.records.buffer[at : at + size].tobytes().decode("utf-8", "replace")

    def text_or_none(self, name: str, row: int) -> str | None:
        """Return one string of a nullable field."""
        return None if self._longs[row, self._where[name][1]] == NULL_LONG else self.text(name, row)

    @property
    def longs(self) -> I64:
        """All long columns, shape (n, count), in the places that ``program.columns`` names."""
        return self._longs

    def packed(self, name: str) -> tuple[I64, dict[int, str]]:
        """Return the places of a string column in the buffer (position << 20 | length), and the rows that stand elsewhere, with their text."""
        column = self._where[name][1]
        places: I64 = self._longs[:, column]
        return places, self._strings.get(column, {})

    def put(self, row: int, record: dict[str, Any]) -> None:
        """Set a row from a decoded record (rows in another frame or of an older schema)."""
        self.other_frames.append(row)
        for name, (op, column) in self._where.items():
            value = record[name]
            if op in (STRING, NULL_STRING):
                self._longs[row, column] = NULL_LONG if value is None else 0
                if value is not None:
                    self._strings.setdefault(column, {})[row] = value
            elif op in (DOUBLE, NULL_DOUBLE):
                self._doubles[row, column] = np.nan if value is None else value
            elif op == DOUBLES:
                self._arrays[row, column] = np.nan
                self._arrays[row, column, : min(len(value), MAX_LEVELS)] = value[:MAX_LEVELS]
            else:
                self._longs[row, column] = NULL_LONG if value is None else value


class DecodedRecords(RecordSet):
    """Records that come as columns (from the archive); their bytes are made when somebody asks for them.

    Attributes:
        index: int64 of shape (n, 2): offset, timestamp ms.
        columns: What ``decode`` returns of them.
        names: Keys.
        numbers: Place of each record's key in ``names``; -1: none that names an instrument.
        message: Returns (offset, timestamp ms, key, value) of the record at an offset.
        messages: Returns those of all records, in order.
    """

    columns: Columns
    names: list[str]
    numbers: I64
    message: Callable[[int], tuple[int, int, bytes | None, bytes | None]]
    messages: Callable[[], list[tuple[int, int, bytes | None, bytes | None]]]

    def key(self, row: int) -> bytes | None:
        """Return the key of a row."""
        number = int(self.numbers[row])
        return self.names[number].encode() if number >= 0 else self.message(int(self.index[row, 0]))[2]

    def value(self, row: int) -> bytes | None:
        """Return the value of a row."""
        return self.message(int(self.index[row, 0]))[3]

    def rows(self, start: int, stop: int) -> RecordSet:
        """Return the rows [start, stop) as bytes."""
        return RecordSet.from_messages(self.messages()[start:stop])


def decode(codec: Codec, topic: str, records: RecordSet, names: tuple[str, ...] | None = None) -> Columns:
    """Decode the values of a flat topic to columns. Never raises for bad bytes: see ``Columns.rejected``.

    Args:
        codec: Codec of the environment.
        topic: Topic of the catalogue.
        records: The records; columns that they come with are returned as they are.
        names: Fields to keep; None: all.
    """
    if isinstance(records, DecodedRecords):
        return records.columns
    prog = program(topic) if names is None else narrowed(topic, names)
    n = len(records)
    # A column lies together: who takes one reads no other.
    longs = np.empty((max(prog.n_longs, 1), n), dtype=np.int64).T
    doubles = np.empty((max(prog.n_doubles, 1), n)).T
    arrays = np.full((n if prog.n_arrays else 0, max(prog.n_arrays, 1), MAX_LEVELS), np.nan)
    status = np.empty(n, dtype=np.uint8)
    header = np.frombuffer(codec.header(topic), dtype=np.uint8)
    bits = doubles.view(np.uint64), arrays.view(np.uint64)
    _decode(records.buffer, records.index, header, prog.ops, prog.columns, longs, *bits, status)
    good = status == OK
    columns = Columns(prog, records, longs, doubles, arrays, good, [])
    if not good.all():
        longs[~good], doubles[~good] = 0, np.nan
        for row in np.flatnonzero(~good).tolist():
            code = int(status[row])
            if code == OTHER_FRAME:
                try:
                    columns.put(row, codec.decode(topic, records.value(row)))
                    good[row] = True
                except CodecError as error:
                    columns.rejected.append(Rejected(row, error.reason, error.field))
            else:
                columns.rejected.append(Rejected(row, _REASONS[code]))
    return columns


# --- keys ------------------------------------------------------------------------------------------------------------
@njit(cache=True, nogil=True)
def _hash(buf: U8, at: int, length: int) -> Any:
    """FNV-1a, 64 bits, made non-negative."""
    value = np.uint64(14695981039346656037)
    for j in range(length):
        value = (value ^ np.uint64(buf[at + j])) * np.uint64(1099511628211)
    return np.int64(value & np.uint64(0x7FFFFFFFFFFFFFFF))


@njit(cache=True, nogil=True)
def _match(buf: U8, index: I64, table: I64, names: U8, starts: I64, out: I64) -> None:
    mask = len(table) - 1
    previous = np.int64(-1)
    for row in range(index.shape[0]):
        at = index[row, 2]
        length = index[row, 3]
        if length <= 0:
            out[row] = -1
            continue
        found = np.int64(-1)
        if previous >= 0 and starts[previous + 1] - starts[previous] == length:
            same = True
            for j in range(length):
                if buf[at + j] != names[starts[previous] + j]:
                    same = False
                    break
            if same:
                found = previous
        if found < 0:
            slot = _hash(buf, at, length) & mask
            while table[slot] >= 0:
                candidate = table[slot]
                if starts[candidate + 1] - starts[candidate] == length:
                    same = True
                    for j in range(length):
                        if buf[at + j] != names[starts[candidate] + j]:
                            same = False
                            break
                    if same:
                        found = candidate
                        break
                slot = (slot + 1) & mask
        out[row] = found
        previous = found


class KeyTable:
    """Maps record keys to small integers, in order of ``add``."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self.keys: list[str] = []
        self._index: dict[str, int] = {}
        self._table: I64 = np.full(16, -1, dtype=np.int64)
        self._names: U8 = np.empty(0, dtype=np.uint8)
        self._starts: I64 = np.zeros(1, dtype=np.int64)
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return len(self.keys)

    def get(self, key: str) -> int | None:
        """Return the number of a key, or None."""
        return self._index.get(key)

    def add(self, key: str) -> int:
        """Return the number of a key, giving it the next one when new."""
        if key in self._index:
            return self._index[key]
        number = len(self.keys)
        self.keys.append(key)
        self._index[key] = number
        encoded = [name.encode() for name in self.keys]
        self._names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._starts = np.cumsum([0, *(len(name) for name in encoded)]).astype(np.int64)
        size = len(self._table)
        while size < 4 * len(self.keys):
            size *= 2
        self._table = np.full(size, -1, dtype=np.int64)
        for i in range(len(self.keys)):
            slot = _hash(self._names, int(self._starts[i]), len(encoded[i])) & (size - 1)
            while self._table[slot] >= 0:
                slot = (slot + 1) & (size - 1)
            self._table[slot] = i
        return number

    def match(self, records: RecordSet) -> I64:
        """Return the number of each record's key, -1 where it is unknown or null, int64 of shape (n,)."""
        if isinstance(records, DecodedRecords):
            known = np.array([*(self._index.get(name, -1) for name in records.names), -1], dtype=np.int64)
            return known[records.numbers]
        out = np.empty(len(records), dtype=np.int64)
        _match(records.buffer, records.index, self._table, self._names, self._starts, out)
        return out
