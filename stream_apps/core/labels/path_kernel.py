"""What a price path did after an instant, compiled. The engine and the research use this one function."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LONG, SHORT = 0, 1
UNKNOWN = -1
# Prices of a block. An hour at one a second has 56 blocks, so a label reads some 180 numbers in place of 3,600.
BLOCK = 64


@njit(cache=True, nogil=True)
def newest(times: Any, n: int, time: int) -> int:
    """Return the place of the newest of the first ``n`` times at or before ``time``; -1: there is none. Times do not descend."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if times[middle] <= time:
            low = middle + 1
        else:
            high = middle
    return low - 1


@njit(cache=True, nogil=True)
def index_blocks(times: Any, prices: Any, n: int, first: int, blocks: Any) -> int:
    """Write highest and lowest price and longest silence of whole blocks of a path, from block ``first`` on. Return their number."""
    last = min(n // BLOCK, len(blocks))
    for b in range(first, last):
        start = b * BLOCK
        high = low = prices[start]
        silence = times[start] - times[start - 1] if start else 0
        for place in range(start + 1, start + BLOCK):
            high, low = max(high, prices[place]), min(low, prices[place])
            silence = max(silence, times[place] - times[place - 1])
        blocks[b, 0], blocks[b, 1], blocks[b, 2] = high, low, silence
    return max(first, last)


@njit(cache=True, nogil=True)
def outcome(
    times: Any, prices: Any, n: int, blocks: Any, n_blocks: int, time: int, target: float, stop: float, return_ms: Any, binary_ms: Any,
    excursion_ms: int, stale: int, moves: Any, binary: Any, excursion: Any,
) -> float:  # fmt: skip
    """Write what the path did after an instant, and return the price at the instant (NaN: not known; then nothing is known).

    The path counts up to its first silence of more than ``stale`` ms. A level that it touched before is known.

    Args:
        times, prices: The path, ms UTC, not descending; the first ``n`` entries count.
        blocks: What ``index_blocks`` wrote of it; the first ``n_blocks`` count. The result does not depend on them, the speed does.
        time: The instant.
        target, stop: Distances of the levels from the price at the instant, quote units. NaN: not known.
        return_ms, binary_ms, excursion_ms: Horizons, ms.
        stale: A price older than this is not known.
        moves: Takes price / entry - 1 at each return horizon; NaN: not known.
        binary: Takes, for LONG and SHORT and each horizon, 1 where the target was touched and the stop was not touched before it, else 0;
            UNKNOWN where the path does not tell.
        excursion: Takes the highest rise and the deepest fall, quote units, both >= 0; NaN: not known.
    """
    moves[:] = np.nan
    binary[:] = UNKNOWN
    excursion[:] = np.nan
    first = newest(times, n, time)
    if first < 0 or time - times[first] > stale:
        return np.nan
    entry = prices[first]
    for h in range(len(return_ms)):
        until = time + return_ms[h]
        place = newest(times, n, until)
        if until - times[place] <= stale:
            moves[h] = prices[place] / entry - 1
    longest = excursion_ms
    for h in range(len(binary_ms)):
        longest = max(longest, binary_ms[h])
    touch_long = touch_short = np.int64(-1)
    result_long = result_short = 0
    rise = fall = 0.0
    previous, place = time, first + 1
    while place < n:
        b = place // BLOCK
        if b < n_blocks and place % BLOCK == 0 and times[place + BLOCK - 1] <= time + excursion_ms and blocks[b, 2] <= stale:
            up, down = blocks[b, 0] - entry, entry - blocks[b, 1]
            quiet_long = touch_long >= 0 or not (up >= target or down >= stop)
            quiet_short = touch_short >= 0 or not (down >= target or up >= stop)
            if quiet_long and quiet_short:
                rise, fall = max(rise, up), max(fall, down)
                place += BLOCK
                previous = times[place - 1]
                continue
        now = times[place]
        if now > time + longest or now - previous > stale:
            break
        previous = now
        move = prices[place] - entry
        if touch_long < 0 and (move >= target or move <= -stop):
            touch_long, result_long = now, 1 if move > 0 else 0
        if touch_short < 0 and (-move >= target or -move <= -stop):
            touch_short, result_short = now, 1 if move < 0 else 0
        if now <= time + excursion_ms:
            rise, fall = max(rise, move), max(fall, -move)
        place += 1
    for h in range(len(binary_ms)):
        until = time + binary_ms[h]
        rest = 0 if until - previous <= stale else UNKNOWN
        if np.isnan(target) or np.isnan(stop):
            continue
        binary[LONG, h] = result_long if 0 <= touch_long <= until else rest
        binary[SHORT, h] = result_short if 0 <= touch_short <= until else rest
    if time + excursion_ms - previous <= stale:
        excursion[0], excursion[1] = rise, fall
    return entry
