"""Compiled inner loops of the kept prints, all instruments of a partition in one call. ``prints.py`` owns and explains the arrays.

They are in one module, because numba caches compiled code by file: a function must not change without its callers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.market.columns import LARGE, WHALE

# Columns of ``at``, one row an instrument. Positions in the array: its section (START to END), its prints (HEAD to TAIL), the end of the
# prints in the window (SEEN; -1: a print came late and the window must be rebuilt), and the two runs of notionals.
START, END, HEAD, SEEN, TAIL, LARGE_HEAD, LARGE_TAIL, WHALE_HEAD, WHALE_TAIL = range(9)
PANE = 9  # the newest pane in the window
# Used while prints are put into place: the end of the earlier prints, and the number of new ones (-1: they came out of order).
OLD_TAIL, MORE = 10, 11
N_AT = 12
# Rows of ``runs``.
OF_LARGE, OF_WHALES = 0, 1


@njit(cache=True, nogil=True)
def pairwise_sum(values: Any) -> Any:
    """Return the sum with the same additions as ``numpy.sum`` of a contiguous array: in eights, and in halves beyond 128.

    Both give the same bits.
    """
    n = len(values)
    if n < 8:
        total = 0.0
        for v in values:
            total += v
        return total
    if n <= 128:
        a, b, c, d, e, f, g, h = values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7]
        i = 8
        while i < n - n % 8:
            a += values[i]
            b += values[i + 1]
            c += values[i + 2]
            d += values[i + 3]
            e += values[i + 4]
            f += values[i + 5]
            g += values[i + 6]
            h += values[i + 7]
            i += 8
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
        while i < n:
            total += values[i]
            i += 1
        return total
    half = n // 2
    half -= half % 8
    return pairwise_sum(values[:half]) + pairwise_sum(values[half:])


@njit(cache=True, nogil=True)
def flow_of(signed: Any, least: float) -> Any:
    """Return (buys - sells)/(buys + sells) of notionals of at least ``least``, quote units; NaN without such notionals.

    Notionals of sells are negative. ``snapshot.whale_flow`` is the readable form; both give the same bits.
    """
    n = len(signed)
    chosen, bought = np.empty(n), np.empty(n)
    found = found_bought = 0
    for value in signed:
        notional = abs(value)
        if notional >= least:
            chosen[found] = notional
            found += 1
            if not np.signbit(value):
                bought[found_bought] = notional
                found_bought += 1
    total = pairwise_sum(chosen[:found])
    if total <= 0.0:
        return np.nan
    return (2.0 * pairwise_sum(bought[:found_bought]) - total) / total


@njit(cache=True, nogil=True)
def _signed(row: Any) -> Any:
    notional = row.price * row.quantity
    return notional if row.buy else -notional


@njit(cache=True, nogil=True)
def _before(one: Any, other: Any) -> Any:
    return one.time < other.time or (one.time == other.time and one.offset < other.offset)


# --- putting into place ------------------------------------------------------------------------------------------------
@njit(cache=True, nogil=True)
def move_to(i: int, start: int, room: int, rows: Any, runs: Any, at: Any, to_rows: Any, to_runs: Any) -> None:
    """Move the prints of an instrument to another section: in other arrays, behind all others, or in front of the present one."""
    head = at[i, HEAD]
    held = at[i, TAIL] - head
    for r in range(held):
        to_rows[start + r] = rows[head + r]
    if at[i, SEEN] >= 0:
        at[i, SEEN] += start - head
    at[i, HEAD] = start
    at[i, TAIL] = start + held
    for kind in range(2):
        column = LARGE_HEAD if kind == OF_LARGE else WHALE_HEAD
        first = at[i, column]
        length = at[i, column + 1] - first
        for r in range(length):
            to_runs[kind, start + r] = runs[kind, first + r]
        at[i, column] = start
        at[i, column + 1] = start + length
    at[i, START] = start
    at[i, END] = start + room


@njit(cache=True, nogil=True)
def _merge(i: int, rows: Any, at: Any) -> None:
    """Merge the new prints of an instrument, which came out of order, with its earlier ones."""
    head, middle, tail = at[i, HEAD], at[i, OLD_TAIL], at[i, TAIL]
    n = tail - middle
    times, offsets = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for r in range(n):
        times[r] = rows[middle + r].time
        offsets[r] = rows[middle + r].offset
    order = np.argsort(offsets, kind="mergesort")
    order = order[np.argsort(times[order], kind="mergesort")]
    come = rows[middle:tail].copy()
    # Go from the newest to the oldest, so that no print is overwritten before it is moved. Prints older than all new ones stay where they
    # are.
    old, new, to = middle - 1, n - 1, tail - 1
    while new >= 0:
        if old >= head and _before(come[order[new]], rows[old]):
            rows[to] = rows[old]
            old -= 1
        else:
            rows[to] = come[order[new]]
            new -= 1
        to -= 1
    if to + 1 < at[i, SEEN]:
        at[i, SEEN] = -1


@njit(cache=True, nogil=True)
def keep(new: Any, n: int, grid: int, window: int, rows: Any, runs: Any, at: Any) -> Any:
    """Put the first ``n`` prints into place. Returns False, and puts none, when an instrument has no room for its prints.

    A print that no window will see again is skipped, and so is a print whose time is not positive.
    """
    for r in range(n):
        i = new[r].instrument
        if new[r].time > max(0, (at[i, PANE] - window) * grid):
            at[i, MORE] += 1
    roomy = True
    for r in range(n):
        i = new[r].instrument
        if at[i, TAIL] + at[i, MORE] > at[i, END]:
            room = at[i, END] - at[i, START]
            # Not when the section is nearly full: it would have to be compacted again soon.
            if 4 * (at[i, TAIL] - at[i, HEAD] + at[i, MORE]) <= 3 * room:
                move_to(i, at[i, START], room, rows, runs, at, rows, runs)
            else:
                roomy = False
    if not roomy:
        for r in range(n):
            at[new[r].instrument, MORE] = 0
        return False
    for r in range(n):
        i = new[r].instrument
        if new[r].time <= max(0, (at[i, PANE] - window) * grid):
            continue
        to = at[i, TAIL]
        if at[i, MORE] > 0:
            at[i, MORE] = 0
            at[i, OLD_TAIL] = to
        if to > at[i, HEAD] and _before(new[r], rows[to - 1]):
            at[i, MORE] = -1
        rows[to] = new[r]
        at[i, TAIL] = to + 1
    for r in range(n):
        i = new[r].instrument
        if at[i, MORE] == -1:
            at[i, MORE] = 0
            _merge(i, rows, at)
    return True


# --- the window --------------------------------------------------------------------------------------------------------
@njit(cache=True, nogil=True)
def advance(chosen: Any, pane: int, grid: int, window: int, whale: float, rows: Any, runs: Any, at: Any, counts: Any, flows: Any) -> None:
    """Move the windows of the chosen instruments to the panes (pane - window, pane]. Older prints are dropped.

    ``counts`` receives the numbers of large buys and sells. ``flows`` receives the flow of whale prints of at least the notional ``whale``,
    quote units.
    """
    oldest = (pane - window) * grid
    newest = pane * grid
    for i in chosen:
        at[i, PANE] = pane
        head, seen, tail = at[i, HEAD], at[i, SEEN], at[i, TAIL]
        changed = False
        if seen < 0:
            counts[i, 0] = counts[i, 1] = 0
            at[i, LARGE_HEAD] = at[i, LARGE_TAIL] = at[i, WHALE_HEAD] = at[i, WHALE_TAIL] = at[i, START]
            seen = head
            changed = True
        while head < tail and rows[head].time <= oldest:
            if head < seen:
                row = rows[head]
                if row.flags & LARGE:
                    at[i, LARGE_HEAD] += 1
                    counts[i, 0 if row.buy else 1] -= 1
                if row.flags & WHALE and row.price * row.quantity >= whale:
                    at[i, WHALE_HEAD] += 1
                    changed = True
            head += 1
        seen = max(seen, head)
        while seen < tail and rows[seen].time <= newest:
            row = rows[seen]
            if row.flags & LARGE:
                runs[OF_LARGE, at[i, LARGE_TAIL]] = _signed(row)
                at[i, LARGE_TAIL] += 1
                counts[i, 0 if row.buy else 1] += 1
            if row.flags & WHALE and row.price * row.quantity >= whale:
                runs[OF_WHALES, at[i, WHALE_TAIL]] = _signed(row)
                at[i, WHALE_TAIL] += 1
                changed = True
            seen += 1
        at[i, HEAD] = head
        at[i, SEEN] = seen
        if changed:
            flows[i] = flow_of(runs[OF_WHALES, at[i, WHALE_HEAD] : at[i, WHALE_TAIL]], 0.0)


@njit(cache=True, nogil=True)
def asked_flows(asked: Any, instruments: Any, least: Any, of_whales: Any, rows: Any, runs: Any, at: Any, out: Any) -> None:
    """Write the flow of big trades that each strategy asks for; see ``PrintStore.flows_of``."""
    for e in range(len(asked)):
        place, row = asked[e, 0], asked[e, 1]
        out[e] = np.nan
        if np.isnan(least[place]):
            continue
        # Strategies are sorted by instrument. Equal questions get the same answer.
        known = e - 1
        while known >= 0 and asked[known, 1] == row:
            if least[asked[known, 0]] == least[place] and of_whales[asked[known, 0]] == of_whales[place]:
                break
            known -= 1
        if known >= 0 and asked[known, 1] == row:
            out[e] = out[known]
            continue
        i = instruments[row]
        if not of_whales[place]:
            out[e] = flow_of(runs[OF_LARGE, at[i, LARGE_HEAD] : at[i, LARGE_TAIL]], least[place])
            continue
        signed = np.empty(max(at[i, SEEN] - at[i, HEAD], 0))
        found = 0
        for r in range(at[i, HEAD], at[i, SEEN]):
            if rows[r].flags & WHALE:
                signed[found] = _signed(rows[r])
                found += 1
        out[e] = flow_of(signed[:found], least[place])


# --- the checkpoint ----------------------------------------------------------------------------------------------------
@njit(cache=True, nogil=True)
def _first_after(time: int, low: int, high: int, rows: Any) -> Any:
    """Return the first position from ``low`` on whose print is later than a time, or ``high``."""
    while low < high:
        middle = (low + high) // 2
        if rows[middle].time <= time:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def between(instruments: Any, after: Any, until: Any, rows: Any, at: Any) -> Any:
    """Return the prints of some instruments with ``after`` < time <= ``until`` (of each, ms UTC), and where those of each end."""
    spans = np.empty((len(instruments), 2), dtype=np.int64)
    ends = np.empty(len(instruments), dtype=np.int64)
    total = 0
    for n in range(len(instruments)):
        i = instruments[n]
        spans[n, 0] = _first_after(after[n], at[i, HEAD], at[i, TAIL], rows)
        spans[n, 1] = _first_after(until[n], spans[n, 0], at[i, TAIL], rows)
        total += spans[n, 1] - spans[n, 0]
        ends[n] = total
    out = np.empty(total, dtype=rows.dtype)
    to = 0
    for n in range(len(instruments)):
        for r in range(spans[n, 0], spans[n, 1]):
            out[to] = rows[r]
            to += 1
    return out, ends
