"""The levels of a book in arrays, changed and written by compiled code. Its plain equivalent is ``order_book._Side`` with the ``depth``
record of ``book_sync``.

Each side is in ascending order of a key: the price of a bid, the negative price of an ask. The greatest key is the best level. Most changes
are near the best level, so few levels move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from producers.venue.adapter.base import Level
from schemas.codec.varints import write_long

# Initial room for levels a side: twice a REST snapshot.
ROOM = 2048
# Bytes of a record without header, instrument and levels: four longs, a short text, and count and end of four lists.
MOST_BYTES = 4 * 10 + 8 + 4 * 4


@njit(cache=True, nogil=True)
def _apply(keys, quantities, count, levels, first, end, sign):  # type: ignore[no-untyped-def]
    """Apply rows [first, end) of ``levels`` to a side with room for all of them. Return its number of levels."""
    for row in range(first, end):
        key, quantity = sign * levels[row, 0], levels[row, 1]
        low, high = 0, count
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        there = low < count and keys[low] == key
        if quantity == 0.0:
            if there:
                for n in range(low, count - 1):
                    keys[n], quantities[n] = keys[n + 1], quantities[n + 1]
                count -= 1
        elif there:
            quantities[low] = quantity
        else:
            for n in range(count, low, -1):
                keys[n], quantities[n] = keys[n - 1], quantities[n - 1]
            keys[low], quantities[low] = key, quantity
            count += 1
    return count


@njit(cache=True, nogil=True)
def _change(  # type: ignore[no-untyped-def]
    keys, quantities, counts, levels, bids, bids_end, asks, asks_end, head, time, received, epoch, last, top, scratch, scratch_bytes, out
):
    """Apply a change and write the record of the best levels. Return its length, or -1 without any change when the levels do not fit."""
    if max(counts[0] + bids_end - bids, counts[1] + asks_end - asks) > keys.shape[1]:
        return -1
    counts[0] = _apply(keys[0], quantities[0], counts[0], levels, bids, bids_end, 1.0)
    counts[1] = _apply(keys[1], quantities[1], counts[1], levels, asks, asks_end, -1.0)
    at = len(head)
    for n in range(at):
        out[n] = head[n]
    at = write_long(out, at, time)
    at = write_long(out, at, received)
    at = write_long(out, at, epoch)
    for byte in (8, 108, 105, 118, 101):  # "live" and its length
        out[at] = byte
        at += 1
    at = write_long(out, at, last)
    for side in range(2):
        count = min(top, counts[side])
        for what in range(2):
            if count:
                at = write_long(out, at, count)
                for n in range(count):
                    place = counts[side] - 1 - n
                    scratch[n] = quantities[side, place] if what else abs(keys[side, place])
                for n in range(8 * count):
                    out[at + n] = scratch_bytes[n]
                at += 8 * count
            out[at] = 0
            at += 1
    return at


class BookArrays:
    """Both sides of a book.

    Args:
        head: First bytes of its ``depth`` records: header and instrument.
        top: Levels of each side in a record.
    """

    def __init__(self, head: bytes, top: int) -> None:
        self.keys, self.quantities = np.empty((2, ROOM)), np.empty((2, ROOM))
        self.counts = np.zeros(2, dtype=np.int64)
        self._head, self._top = np.frombuffer(head, dtype=np.uint8), top
        self._out = np.empty(len(head) + MOST_BYTES + 4 * 8 * top, dtype=np.uint8)
        self._scratch = np.empty(top, dtype="<f8")
        self._bytes = self._scratch.view(np.uint8)
        # Compile before the book is live. The result is cached on the machine.
        self.change(np.empty((0, 2)), (0, 0, 0, 0), 0, 0, 0, 0)
        ArraySide(self, 0).apply(())

    def change(
        self, levels: npt.NDArray[np.float64], span: tuple[int, int, int, int], time: int, received: int, epoch: int, last: int
    ) -> bytes:
        """Apply a change to a live book and return its ``depth`` record as Avro.

        Args:
            levels, span: As of ``Scanned``.
            time, received, epoch, last: Fields of the record: its time and our clock, ms UTC, the book's epoch and update id.
        """
        while True:
            length = _change(
                self.keys, self.quantities, self.counts, levels, *span, self._head, time, received, epoch, last, self._top, self._scratch, self._bytes,
                self._out,
            )  # fmt: skip
            if length >= 0:
                return self._out[:length].tobytes()
            self.grow(max(span[1] - span[0], span[3] - span[2]))

    def grow(self, more: int) -> None:
        """Make room for at least so many more levels a side. Grow at least by the present room."""
        room = self.keys.shape[1] * 2 + more
        for name in ("keys", "quantities"):
            old, new = getattr(self, name), np.empty((2, room))
            new[:, : old.shape[1]] = old
            setattr(self, name, new)

    def sides(self) -> tuple[ArraySide, ArraySide]:
        """Return bids and asks, as ``OrderBook`` has them."""
        return ArraySide(self, 0), ArraySide(self, 1)


class ArraySide:
    """One side of ``BookArrays``, with the methods of ``order_book._Side``."""

    def __init__(self, arrays: BookArrays, side: int) -> None:
        self._arrays, self._side = arrays, side
        self._sign = -1.0 if side else 1.0

    def load(self, levels: Sequence[Level]) -> None:
        """Replace all levels."""
        self._arrays.counts[self._side] = 0
        self.apply([level for level in levels if level[1] > 0.0])

    def apply(self, levels: Sequence[Level]) -> None:
        """Change levels; quantity 0 removes."""
        arrays, side, rows = self._arrays, self._side, np.array(levels, dtype=np.float64).reshape(-1, 2)
        if arrays.counts[side] + len(rows) > arrays.keys.shape[1]:
            arrays.grow(len(rows))
        arrays.counts[side] = _apply(arrays.keys[side], arrays.quantities[side], arrays.counts[side], rows, 0, len(rows), self._sign)

    def best(self, most: int) -> tuple[list[float], list[float]]:
        """Return prices and quantities of the best levels, best first."""
        count = int(self._arrays.counts[self._side])
        rows: Any = slice(max(0, count - most), count)
        keys, quantities = self._arrays.keys[self._side, rows], self._arrays.quantities[self._side, rows]
        return np.abs(keys[::-1]).tolist(), quantities[::-1].tolist()
