"""Raw Kafka record batches as a block of bytes with an index: no Python object per record.

One compiled kernel walks Kafka's record format v2 (KIP-98) and finds keys and values.
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

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

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
def zigzag(buf: U8, at: int, end: int) -> Any:
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
