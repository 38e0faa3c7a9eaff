"""Flat Avro records to numpy columns, without a Python object per record.

A compiled kernel reads the Avro bodies of a topic by a small program made from its schema. Values without the expected frame header go to
the plain codec, one by one. Values that cannot be decoded are reported with their reason. ``schemas.codec.avro`` is the reference, against
which the tests compare this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from schemas import catalogue
from schemas.codec.avro import Codec, CodecError
from schemas.codec.recordset import I64, U8, RecordSet, zigzag

F64 = npt.NDArray[np.float64]

NULL_LONG = np.iinfo(np.int64).min  # null of a nullable long; no venue sends such a time or id
MAX_LEVELS = 20  # depth carries the top 20 levels (schemas/avro/depth.avsc)

# --- Avro bodies -----------------------------------------------------------------------------------------------------
STRING, LONG, DOUBLE, BOOLEAN, DOUBLES, NULL_DOUBLE, NULL_LONG_OP, NULL_STRING = range(8)


@dataclass(frozen=True, slots=True)
class Program:
    """The program for one flat schema: an opcode for each field, and the column of the field; -1: it is not kept."""

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
        ValueError: the schema has a field that is not flat (only market-data topics are flat).
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
    """Return a topic's program that keeps some of its fields, with consecutive columns in the order of the schema."""
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
    """Return eight little-endian bytes as one number. Indices are unsigned, so that the compiler makes one load."""
    place = np.uint64(at)
    value = np.uint64(0)
    for j in range(8):
        value |= np.uint64(buf[place + np.uint64(j)]) << np.uint64(8 * j)
    return value


@njit(cache=True, nogil=True)
def _over_long(buf: U8, at: int, end: int) -> int:
    """Return the position after a varint, as ``zigzag`` does."""
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
    """Read the bodies. ``doubles`` and ``arrays`` are float64 viewed as uint64. Fields with column -1 are checked and not kept."""
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
            # A nullable field has a branch number before its value.
            if op >= NULL_DOUBLE:
                branch, at = zigzag(buf, at, end)
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
                    longs[row, column], at = zigzag(buf, at, end)
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
                size, at = zigzag(buf, at, end)
                if at < 0 or size < 0 or at + size > end:
                    good = False
                    break
                if column >= 0:
                    longs[row, column] = (at << 20) | min(size, (1 << 20) - 1)
                if not _is_ascii(buf, at, at + size):
                    plain = False  # the codec decides whether this is UTF-8
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
                    block, at = zigzag(buf, at, end)
                    if at < 0:
                        good = False
                        break
                    if block == 0:
                        break
                    if block < 0:
                        block = -block
                        _, at = zigzag(buf, at, end)
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


@njit(cache=True, nogil=True)
def _choose(buf: U8, places: I64, texts: U8, starts: I64, out: I64) -> None:
    """Find the text that equals each string (position << 20 | length in ``buf``); -1: none."""
    for row in range(len(places)):
        out[row] = -1
        if places[row] < 0:  # null
            continue
        at, size = places[row] >> 20, places[row] & 0xFFFFF
        for text in range(len(starts) - 1):
            begin = starts[text]
            same = starts[text + 1] - begin == size
            j = 0
            while same and j < size:
                same = buf[at + j] == texts[begin + j]
                j += 1
            if same:
                out[row] = text
                break


@cache
def _packed_texts(texts: tuple[str, ...]) -> tuple[U8, I64]:
    """Return texts in one buffer, and the bounds of each."""
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum([0, *(len(text) for text in encoded)]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be decoded."""

    row: int
    reason: str
    field: str | None = None


class Columns:
    """Decoded columns of a record set; row i belongs to row i of ``records``.

    Nullable doubles hold NaN; nullable longs (and positions of nullable strings) hold ``NULL_LONG``. Rows in ``rejected`` have undefined
    values and ``good[row]`` False. The codec decoded rows in ``other_frames``.
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
        """Return one string. For a nullable field only where it is not null (see ``text_or_none``)."""
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

    def choices(self, name: str, texts: tuple[str, ...]) -> I64:
        """Return for each row of a string column the index of the equal text in ``texts``, int64 of shape (n,); -1: none of them, or null."""
        column = self._where[name][1]
        out = np.empty(len(self._longs), dtype=np.int64)
        _choose(self.records.buffer, self._longs[:, column], *_packed_texts(texts), out)
        for row, text in self._strings.get(column, {}).items():
            out[row] = texts.index(text) if text in texts else -1
        out[~self.good] = -1
        return out

    @property
    def longs(self) -> I64:
        """Return all long columns, shape (n, count), in the order of ``program.columns``."""
        return self._longs

    def packed(self, name: str) -> tuple[I64, dict[int, str]]:
        """Return the positions of a string column in the buffer (position << 20 | length), and the rows whose text is elsewhere, with the text."""
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
    """Records that exist as columns (from the archive). Their bytes are encoded on demand.

    Attributes:
        index: int64 of shape (n, 2): offset, timestamp ms.
        columns: The result of ``decode`` for them.
        names: Record keys.
        numbers: Index of each record's key in ``names``; -1: a key that names no instrument.
        message: Returns (offset, timestamp ms, key, value) of the record at an offset.
        messages: Returns the same for all records, in order.
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
    """Decode the values of a flat topic to columns. Bad bytes raise no error: see ``Columns.rejected``.

    Args:
        codec: Codec of the environment.
        topic: Topic of the catalogue.
        records: The records. Existing columns are returned unchanged.
        names: Fields to keep; None: all.
    """
    if isinstance(records, DecodedRecords):
        return records.columns
    prog = program(topic) if names is None else narrowed(topic, names)
    n = len(records)
    # Each column is contiguous: a reader of one column touches no other.
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
