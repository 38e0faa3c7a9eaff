"""Compiled reading of the most frequent messages: aggTrade, bookTicker and depthUpdate. One call reads many frames. Trades and quotes
become Avro bytes, book changes become levels.

Its plain equivalent is ``mapping`` with ``BinanceUsdm.split``. Tests compare the two byte for byte. It reads only well-formed messages:
combined frames of known streams without spaces or escapes, with every field once and in range. Decimals without their point must be at most
2**53, so that a double holds them exactly. All other messages go to the plain equivalent, which names the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from producers.venue.adapter.base import Scanned
from producers.venue.adapter.json_values import MAX_AHEAD_MS
from schemas.codec.avro import Codec
from schemas.codec.recordwriter import text_bytes
from schemas.codec.varints import write_long

TRADE, QUOTE, BOOK, OTHER = 0, 1, 2, 3
TOPICS = ("agg_trades", "quotes", "depth")
# Bytes of a record without header and instrument: at most five longs, four doubles, three flags.
MOST_BYTES = 5 * 10 + 4 * 8 + 3
# The shortest level: ["1","1"] with a comma.
LEVEL_BYTES = 10
# Index of each field. Numbers: 0 E, 1 T, 2 a or u, 3 f or U, 4 l or pu; decimals: 0 p or b, 1 q or B, 2 a, 3 A.
_NUMBERS, _DECIMALS = 5, 4
# 15 digits are below 2**53, so no number overflows while digits are added. Ids have at most 18.
_EXACT = 2**53
_LONG_DIGITS = 18
_TENS = 10.0 ** np.arange(23)  # exactly doubles, so that the quotient is the nearest double (Clinger's fast path)
_HASH_START, _HASH_TIMES = 2166136261, 16777619  # FNV-1a, 32 bits


@njit(cache=True, nogil=True)
def _text_end(data, at, end):  # type: ignore[no-untyped-def]
    """Return the end (the quote) of a text that begins at ``at``; -1 for a text with escapes."""
    while at < end:
        byte = data[at]
        if byte == 34:
            return at
        if byte == 92 or byte < 32 or byte > 126:
            return -1
        at += 1
    return -1


@njit(cache=True, nogil=True)
def _whole(data, at, end):  # type: ignore[no-untyped-def]
    """Return (number, end) of a whole number; -1 without one or if it is too long."""
    begin, value = at, 0
    while at < end and 48 <= data[at] <= 57:
        value = value * 10 + (data[at] - 48)
        at += 1
        if at - begin > _LONG_DIGITS:
            return -1, at
    if at == begin or (data[begin] == 48 and at - begin > 1):
        return -1, at
    return value, at


@njit(cache=True, nogil=True)
def _decimal(data, at, end, tens):  # type: ignore[no-untyped-def]
    """Return a decimal text as the nearest double; -1 if this function cannot read it."""
    value, point, digits = 0, -1, 0
    for n in range(at, end):
        byte = data[n]
        if byte == 46 and point < 0 and n > at:
            point = n
        elif 48 <= byte <= 57:
            value = value * 10 + (byte - 48)
            digits += 1
            if value >= _EXACT or digits > 40:
                return -1.0
        else:
            return -1.0
    scale = 0 if point < 0 else end - 1 - point
    if digits == 0 or (point >= 0 and scale == 0) or scale > 22:
        return -1.0
    return float(value) / tens[scale]


@njit(cache=True, nogil=True)
def _skipped(data, at, end):  # type: ignore[no-untyped-def]
    """Return the end of an unused value; -1 unless it is a plain text, number or literal."""
    if at >= end:
        return -1
    byte = data[at]
    if byte == 34:
        close = _text_end(data, at + 1, end)
        return close + 1 if close >= 0 else -1
    if byte == 116 and at + 4 <= end and data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
        return at + 4
    if byte == 102 and at + 5 <= end and data[at + 1] == 97 and data[at + 2] == 108 and data[at + 3] == 115 and data[at + 4] == 101:
        return at + 5
    number, stop = _whole(data, at, end)
    return stop if number >= 0 else -1


@njit(cache=True, nogil=True)
def _levels(data, at, end, levels, count, tens):  # type: ignore[no-untyped-def]
    """Read [["price","quantity"],...] to ``levels`` from row ``count`` on. Return (end, number of rows); -1 if it is not well formed."""
    if at + 1 >= end or data[at] != 91:
        return -1, count
    at += 1
    if data[at] == 93:
        return at + 1, count
    while True:
        if at + 2 >= end or data[at] != 91 or data[at + 1] != 34:
            return -1, count
        close = _text_end(data, at + 2, end)
        if close < 0 or close + 2 >= end or data[close + 1] != 44 or data[close + 2] != 34:
            return -1, count
        price = _decimal(data, at + 2, close, tens)
        at = close + 3
        close = _text_end(data, at, end)
        if close < 0 or close + 2 >= end or data[close + 1] != 93:
            return -1, count
        quantity = _decimal(data, at, close, tens)
        if price <= 0.0 or quantity < 0.0:
            return -1, count
        levels[count, 0], levels[count, 1] = price, quantity
        count += 1
        at = close + 2
        if data[at] == 93:
            return at + 1, count
        if data[at] != 44:
            return -1, count
        at += 1


@njit(cache=True, nogil=True)
def _scan(  # type: ignore[no-untyped-def]
    data,
    ends,
    received,
    slots,
    names,
    name_ends,
    symbols,
    symbol_ends,
    kinds,
    heads,
    head_ends,
    tens,
    scratch,
    scratch_bytes,
    numbers,
    levels,
    out,
    out_ends,
):
    """Read frames. ``numbers`` gets the columns of ``Scanned``, ``out`` the records of trades and quotes, ``levels`` the levels of books."""
    rows = 0
    held = np.zeros(_NUMBERS, dtype=np.int64)
    begin, to = 0, 0
    for n in range(len(ends)):
        end = ends[n]
        at, begin = begin, end
        numbers[n, 0] = -1
        out_ends[n] = to
        # {"stream":"NAME","data":{
        if (
            end - at < 24
            or data[at] != 123
            or data[at + 1] != 34
            or data[at + 2] != 115
            or data[at + 8] != 34
            or data[at + 9] != 58
            or data[at + 10] != 34
        ):
            continue
        if data[at + 3] != 116 or data[at + 4] != 114 or data[at + 5] != 101 or data[at + 6] != 97 or data[at + 7] != 109:
            continue
        at += 11
        name, hashed = at, np.uint32(_HASH_START)
        while at < end and data[at] != 34:
            hashed = (hashed ^ np.uint32(data[at])) * np.uint32(_HASH_TIMES)
            at += 1
        if at + 10 >= end or data[at + 1] != 44 or data[at + 2] != 34 or data[at + 3] != 100 or data[at + 4] != 97:
            continue
        if data[at + 5] != 116 or data[at + 6] != 97 or data[at + 7] != 34 or data[at + 8] != 58 or data[at + 9] != 123:
            continue
        slot, stream = np.int64(hashed) & (len(slots) - 1), -1
        while slots[slot] >= 0:
            one = slots[slot]
            first = name_ends[one - 1] if one else 0
            if name_ends[one] - first == at - name:
                same = True
                for k in range(at - name):
                    if names[first + k] != data[name + k]:
                        same = False
                        break
                if same:
                    stream = one
                    break
            slot = (slot + 1) & (len(slots) - 1)
        if stream < 0:
            continue
        kind = kinds[stream]
        at += 10
        seen, right, maker = 0, True, False
        scratch[:] = -1.0
        while True:
            # "k":value
            if at + 4 >= end or data[at] != 34:
                right = False
                break
            key = data[at + 1]
            if data[at + 2] != 34 or data[at + 3] != 58:
                close = _text_end(data, at + 1, end)
                if close < 0 or close + 1 >= end or data[close + 1] != 58:
                    right = False
                    break
                key = 256 if close == at + 3 and data[at + 1] == 112 and data[at + 2] == 117 else 0  # pu
                at = close + 2
            else:
                at += 4
            number, decimal, side, bit = -1, -1, -1, 0
            if key == 69:  # E
                number, bit = 0, 1
            elif key == 84:  # T
                number, bit = 1, 2
            elif key == 115:  # s
                bit = 4
            elif kind == TRADE:
                if key == 97:  # a
                    number, bit = 2, 8
                elif key == 102:  # f
                    number, bit = 3, 16
                elif key == 108:  # l
                    number, bit = 4, 32
                elif key == 112:  # p
                    decimal, bit = 0, 64
                elif key == 113:  # q
                    decimal, bit = 1, 128
                elif key == 109:  # m
                    bit = 256
            elif key == 117:  # u
                number, bit = 2, 8
            elif kind == BOOK:
                if key == 85:  # U
                    number, bit = 3, 16
                elif key == 256:  # pu
                    number, bit = 4, 32
                elif key == 98:  # b
                    side, bit = 0, 64
                elif key == 97:  # a
                    side, bit = 1, 128
            elif key == 98:  # b
                decimal, bit = 0, 16
            elif key == 66:  # B
                decimal, bit = 1, 32
            elif key == 97:  # a
                decimal, bit = 2, 64
            elif key == 65:  # A
                decimal, bit = 3, 128
            if seen & bit:
                right = False
                break
            seen |= bit
            if number >= 0:
                held[number], at = _whole(data, at, end)
                if held[number] < 0:
                    right = False
                    break
            elif decimal >= 0:
                close = _text_end(data, at + 1, end) if at < end and data[at] == 34 else -1
                if close < 0:
                    right = False
                    break
                scratch[decimal] = _decimal(data, at + 1, close, tens)
                if scratch[decimal] < 0.0:
                    right = False
                    break
                at = close + 1
            elif side >= 0:
                numbers[n, 5 + 2 * side] = rows
                at, rows = _levels(data, at, end, levels, rows, tens)
                numbers[n, 6 + 2 * side] = rows
            elif bit == 4:
                first = symbol_ends[stream - 1] if stream else 0
                length = symbol_ends[stream] - first
                if at + length + 2 > end or data[at] != 34 or data[at + length + 1] != 34:
                    right = False
                    break
                for k in range(length):
                    if symbols[first + k] != data[at + 1 + k]:
                        right = False
                at += length + 2
            elif bit == 256:
                maker = data[at] == 116
                if data[at] != 116 and data[at] != 102:
                    right = False
                    break
                at = _skipped(data, at, end)
            else:
                at = _skipped(data, at, end)
            if not right or at < 0 or at >= end:
                right = False
                break
            if data[at] == 44:
                at += 1
                continue
            right = data[at] == 125
            break
        if not right or at + 2 != end or data[at + 1] != 125 or seen != (511 if kind == TRADE else 255):
            continue
        if held[0] > received + MAX_AHEAD_MS:
            continue
        if kind == BOOK:
            if held[3] <= held[2]:
                numbers[n, 0], numbers[n, 1], numbers[n, 2], numbers[n, 3], numbers[n, 4] = stream, held[0], held[2], held[1], held[4]
            continue
        if scratch[0] <= 0.0:
            continue
        if kind == TRADE:
            if held[1] > received + MAX_AHEAD_MS or held[3] > held[4] or scratch[1] <= 0.0:
                continue
        elif scratch[2] <= 0.0:
            continue
        numbers[n, 0], numbers[n, 1], numbers[n, 2], numbers[n, 3] = stream, held[0], held[2], held[1]
        for k in range(head_ends[stream - 1] if stream else 0, head_ends[stream]):
            out[to] = heads[k]
            to += 1
        to = write_long(out, to, held[1])
        to = write_long(out, to, received)
        to = write_long(out, to, held[2])
        doubles = 4
        if kind == TRADE:
            to = write_long(out, to, held[3])
            to = write_long(out, to, held[4])
            doubles = 2
        for k in range(8 * doubles):
            out[to + k] = scratch_bytes[k]
        to += 8 * doubles
        if kind == TRADE:
            out[to] = 1 if maker else 0
            out[to + 1] = 0  # not back-filled
            out[to + 2] = 0  # no id of text
            to += 3
        out_ends[n] = to


class FrameScanner:
    """Reads the frames of some streams (``Adapter.scanner``). Pure, except for its own buffers.

    Args:
        streams: Wire name, kind (TRADE, QUOTE, BOOK, or OTHER: not read), symbol and instrument id of each.
        codec: Gives the headers of the values.
    """

    def __init__(self, streams: Sequence[tuple[str, int, str, str]], codec: Codec) -> None:
        self._names, self._name_ends = _joined([name.encode() for name, _, _, _ in streams])
        self._symbols, self._symbol_ends = _joined([symbol.encode() for _, _, symbol, _ in streams])
        self._kinds = np.array([kind for _, kind, _, _ in streams], dtype=np.int64)
        heads = [b"" if kind == OTHER else codec.header(TOPICS[kind]) + text_bytes(instrument) for _, kind, _, instrument in streams]
        self._heads, self._head_ends = _joined(heads)
        self._record_bytes = max(map(len, heads), default=0) + MOST_BYTES
        self._slots = np.full(1 << (2 * len(streams) + 1).bit_length(), -1, dtype=np.int64)
        for index, (name, kind, _, _) in enumerate(streams):
            if kind == OTHER:
                continue
            hashed = _HASH_START
            for byte in name.encode():
                hashed = (hashed ^ byte) * _HASH_TIMES & 0xFFFFFFFF
            slot = hashed & (len(self._slots) - 1)
            while self._slots[slot] >= 0:
                slot = (slot + 1) & (len(self._slots) - 1)
            self._slots[slot] = index
        self._scratch = np.empty(_DECIMALS, dtype="<f8")
        self._bytes = self._scratch.view(np.uint8)
        self.scan([b"{}"], 0)  # compile now; the result is cached on the machine

    def scan(self, frames: Sequence[bytes], received: int) -> Scanned:
        """Read frames; ``received``: our clock, ms UTC."""
        count = len(frames)
        numbers = np.empty((count, 9), dtype=np.int64)
        out, ends = np.empty(count * self._record_bytes, dtype=np.uint8), np.empty(count, dtype=np.int64)
        data = b"".join(frames)
        levels = np.empty((len(data) // LEVEL_BYTES + 1, 2))
        _scan(
            np.frombuffer(data, dtype=np.uint8), np.cumsum(np.fromiter(map(len, frames), np.int64, count)), received, self._slots,
            self._names, self._name_ends, self._symbols, self._symbol_ends, self._kinds, self._heads, self._head_ends, _TENS, self._scratch, self._bytes,
            numbers, levels, out, ends,
        )  # fmt: skip
        streams, clocks, ids, times, previous, *spans = numbers.T.tolist()
        last = ends.tolist()
        whole = out[: last[-1] if last else 0].tobytes()
        values = [whole[first:end] for first, end in zip([0, *last], last, strict=False)]
        return Scanned(streams, clocks, ids, times, values, previous, list(zip(*spans, strict=True)), levels)


def _joined(parts: Sequence[bytes]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return np.frombuffer(b"".join(parts) or b"\0", dtype=np.uint8), np.cumsum([len(part) for part in parts], dtype=np.int64)
