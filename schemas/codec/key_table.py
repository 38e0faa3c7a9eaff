"""Record keys as small integers, matched by compiled code without a Python object per record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from schemas.codec.columnar import DecodedRecords
from schemas.codec.recordset import I64, U8, RecordSet


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
