"""Raw Kafka record batches as one buffer with an index, without a Python object per record.

One compiled kernel reads Kafka's record format v2 (KIP-98) and finds keys and values.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt
from numba import njit
from zstandard import ZstdError

from schemas.codec import zstd

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

# Base offset 8, length 4, leader epoch 4, format 1, CRC 4, attributes 2, last offset delta 4, base time 8, largest time 8, producer 8 + 2 + 4, count 4.
_HEADER = 61
_LEAST_RECORD = 7  # smallest record: a length, attributes, two deltas, two lengths and a count of headers
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_XERIAL = b"\x82SNAPPY\x00"


class RecordSetError(ValueError):
    """A raw record set that is not made of whole v2 record batches."""


def _unsnappy(data: bytes) -> bytes:
    """Decompress snappy, with or without the xerial block framing that Java clients write."""
    if not data.startswith(_XERIAL):
        return bytes(cramjam.snappy.decompress_raw(data))
    out, at = bytearray(), 16
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        out += bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return bytes(out)


def _decompress(kind: int, data: memoryview) -> Any:
    """Return the bytes in a form that can be concatenated."""
    if kind == 0:
        return data
    if kind == 1:
        return cramjam.gzip.decompress(data)
    if kind == 2:
        return _unsnappy(bytes(data))
    if kind == 3:
        return cramjam.lz4.decompress(data)
    if kind == 4:
        return zstd.decompress(data)
    raise RecordSetError(f"compression codec {kind} is not one of {_CODECS}")


@njit(cache=True, nogil=True)
def zigzag(buf: U8, at: int, end: int) -> Any:
    """Read a zigzag varint. Returns (value, next position); position -1 if it ends outside the buffer."""
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
    """Append the index row of each wanted record (see RecordSet.index). Returns the new n, or -1 for a broken record."""
    while at < end:
        length, at = zigzag(buf, at, end)
        if at < 0 or length < 0 or at + length > end:
            return -1
        stop = at + length
        at += 1  # attributes: unused by the protocol
        delta_time, at = zigzag(buf, at, stop)
        if at < 0:
            return -1
        delta, at = zigzag(buf, at, stop)
        if at < 0:
            return -1
        key_length, at = zigzag(buf, at, stop)
        if at < 0:
            return -1
        key_at = at
        if key_length > 0:
            at += key_length
        value_length, at = zigzag(buf, at, stop)
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


_WHOLE, _NO_HEADER, _CUT_OFF, _OLD, _BACKWARDS = range(5)
# Facts of a batch: first and last byte of its records, codec, base offset, base time, and the common time of all records (-1: each has its
# own).
_BEGIN, _END, _CODEC, _BASE, _TIME, _FIXED_TIME = range(6)


@njit(cache=True, nogil=True)
def _survey(buf: U8, first: int, last: int) -> Any:
    """Check a set and count what is wanted of it.

    Returns the fault and its position, the batches with wanted records, the number of their records, the offset after all, and whether a
    batch is compressed.
    """
    at, total, batches, records, packed = 0, len(buf), 0, 0, False
    following: Any = np.int64(first)
    while at < total:
        if total - at < _HEADER:
            return _NO_HEADER, at, batches, records, following, packed
        if buf[at + 16] != 2:
            return _OLD, at, batches, records, following, packed
        size = _big_endian(buf, at + 8, 4)
        if size < _HEADER - 12 or size > total - at - 12:
            return _CUT_OFF, at, batches, records, following, packed
        begin, delta = _big_endian(buf, at, 8), _big_endian(buf, at + 23, 4)
        if delta >= 1 << 31:  # sign of a 32-bit number
            return _BACKWARDS, at, batches, records, following, packed
        end = begin + delta
        following = max(following, end + 1)
        if not (buf[at + 22] & 0x20 or end < first or begin > last):  # control batches carry no records of the application
            batches += 1
            records += _big_endian(buf, at + 57, 4)
            packed |= (buf[at + 22] & 0x07) != 0
        at += 12 + size
    return _WHOLE, at, batches, records, following, packed


@njit(cache=True, nogil=True)
def _note(buf: U8, first: int, last: int, noted: I64) -> None:
    """Fill a row for each batch that ``_survey`` counted."""
    at, row = 0, 0
    while row < noted.shape[0]:
        stop = at + 12 + _big_endian(buf, at + 8, 4)
        attributes = buf[at + 22]
        begin = _big_endian(buf, at, 8)
        end = begin + _big_endian(buf, at + 23, 4)
        if not (attributes & 0x20 or end < first or begin > last):
            noted[row, _BEGIN] = at + _HEADER
            noted[row, _END] = stop
            noted[row, _CODEC] = attributes & 0x07
            noted[row, _BASE] = begin
            noted[row, _TIME] = _big_endian(buf, at + 27, 8)
            noted[row, _FIXED_TIME] = _big_endian(buf, at + 35, 8) if attributes & 0x08 else -1
            row += 1
        at = stop


@njit(cache=True, nogil=True)
def _walk_all(buf: U8, noted: I64, first: int, last: int, out: I64) -> Any:
    """Fill the index of the wanted records of the surveyed batches. Returns their number, and the row of a broken batch or -1."""
    n = 0
    for row in range(noted.shape[0]):
        begin, end, base = noted[row, _BEGIN], noted[row, _END], noted[row, _BASE]
        n = _walk(buf, begin, end, base, noted[row, _TIME], noted[row, _FIXED_TIME], first, last, out, n)
        if n < 0:
            return n, row
    return n, -1


@dataclass(slots=True)
class RecordSet:
    """Records of one topic partition in offset order, as positions into one buffer.

    Attributes:
        buffer: The bytes, uint8.
        index: int64 of shape (n, 6): offset, timestamp ms, key position, key length (-1: null), value position, value length (-1: null).
        next_offset: Offset after the last covered one. It may lie beyond the last record (compaction, control batches).
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
        """Return consecutive record sets, at least one, as one set."""
        if len(parts) == 1:
            return parts[0]
        index = np.concatenate([part.index for part in parts])
        begins = np.cumsum([0, *(len(part.buffer) for part in parts[:-1])])
        moved = np.repeat(begins, [len(part.index) for part in parts])
        index[:, 2] += moved
        index[:, 4] += moved
        return cls(np.concatenate([part.buffer for part in parts]), index, parts[-1].next_offset)

    @classmethod
    def from_raw(cls, raw: bytes | memoryview, first_offset: int, last_offset: int) -> RecordSet:
        """Read a raw record set (complete v2 batches). Keep records with first_offset <= offset <= last_offset.

        The fetcher checks CRCs. A set without a compressed batch is not copied.

        Raises:
            RecordSetError: an old message format, a truncated batch or a broken record.
        """
        if not len(raw):
            return cls(np.empty(0, dtype=np.uint8), np.empty((0, 6), dtype=np.int64), first_offset)
        buffer = np.frombuffer(raw, dtype=np.uint8)
        state, at, batches, records, following, packed = _survey(buffer, first_offset, last_offset)
        if state != _WHOLE:
            raise _damage(state, buffer, at)
        noted = np.empty((batches, 6), dtype=np.int64)
        _note(buffer, first_offset, last_offset, noted)
        if packed:
            view = memoryview(raw)
            pieces = [_unpacked(row, view) for row in noted.tolist()]
            buffer = np.frombuffer(pieces[0] if batches == 1 else b"".join(pieces), dtype=np.uint8)
            noted[:, _END] = np.cumsum([len(piece) for piece in pieces])
            noted[0, _BEGIN] = 0
            noted[1:, _BEGIN] = noted[:-1, _END]
        # A header may claim more records than its bytes can hold. The walk stops there.
        index = np.empty((min(records, len(buffer) // _LEAST_RECORD), 6), dtype=np.int64)
        n, broken = _walk_all(buffer, noted, first_offset, last_offset, index)
        if broken >= 0:
            raise RecordSetError(f"broken record in the batch at offset {int(noted[broken, _BASE])}")
        return cls(buffer, index[:n], min(following, last_offset + 1) if batches else following)

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


def _unpacked(row: list[int], view: memoryview) -> Any:
    """Return the bytes of a batch's records, decompressed."""
    try:
        return _decompress(row[_CODEC], view[row[_BEGIN] : row[_END]])
    except (ZstdError, cramjam.DecompressionError, struct.error) as error:
        raise RecordSetError(f"the batch at offset {row[_BASE]} cannot be decompressed ({_CODECS[row[_CODEC]]}): {error}") from error


def _damage(state: int, buffer: U8, at: int) -> RecordSetError:
    """Return the fault of the batch at a byte."""
    if state == _NO_HEADER:
        return RecordSetError(f"truncated batch header at byte {at}")
    base_offset, size = struct.unpack_from(">qi", buffer.data, at)
    if state == _OLD:
        return RecordSetError(f"message format {int(buffer[at + 16])} at offset {base_offset}: only v2 is read")
    if state == _BACKWARDS:
        return RecordSetError(f"batch at offset {base_offset} ends before it begins")
    return RecordSetError(f"batch at offset {base_offset} is truncated: {len(buffer) - at} of {12 + size} bytes")
