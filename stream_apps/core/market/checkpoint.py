"""The market state in the changelog. A closed pane is written once; everything else is written with each head.

The entry of a pane (key ``p`` + slot) holds the sums, quantity histogram, prints and flows of every instrument in it. It is written again
only when a late trade joins the pane. An entry may hold instruments whose pane the head has not closed yet. Their rows are skipped, and the
panes are computed again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from stream_apps.core.log.checkpoint import ChangelogDamaged, Entry
from stream_apps.core.market import atr
from stream_apps.core.market import columns as col
from stream_apps.core.market.analytics.intake import pane_rows
from stream_apps.core.market.analytics.store import PANE_WIDTH, AnalyticsDamaged
from stream_apps.core.market.config import MOST_BOOK_MS, MOST_FUNDING_MS, MOST_HORIZON_MS, MOST_INDICATOR_MS, EngineConfig
from stream_apps.core.market.kernels import quantile_kernels
from stream_apps.core.market.prints import PRINT, join_prints
from stream_apps.core.market.state import MarketState

Array = npt.NDArray[Any]

_DENSE = ("meta", "scale", "bars", "atr", "atr_history", "totals", "p99_lots", "p99_before", "first_seen", "spot", "funding_most", "atr_reached",
          "liquidated_first", "liquidated_seen", "liquidated_at")  # fmt: skip

# Entry of a pane: pane, number of rows, of histogram entries and of prints; then these arrays (name, type, columns); then the rows of the
# analytics.
_PANE = struct.Struct("<qiii")
_PANE_ARRAYS: tuple[tuple[str, Any, int], ...] = (("rows", "<i4", 1), ("sums", "<i8", 4), ("histogram", "<i8", 1), ("prints", PRINT, 1))
_SUMS, _PRINT, _FLOWS = 32, PRINT.itemsize, 8 * PANE_WIDTH  # bytes of an instrument's sums, of a print and of a row of analytics
_NO_HISTOGRAM = np.empty(0, dtype=np.int64)
_AT_ONCE = 256  # panes written with one call


def changed_panes(state: MarketState) -> list[Entry]:
    """Return the entries of the panes that closed or changed since the last call, oldest first."""
    out: list[Entry] = []
    panes, ring = sorted(state.dirty), state.ring
    for first in range(0, len(panes), _AT_ONCE):
        out += [(b"p%d" % (pane % ring), value) for pane, value in _pane_values(state, panes[first : first + _AT_ONCE])]
    state.dirty.clear()
    return out


@njit(cache=True, nogil=True)
def _closed_panes(
    panes: Any, n: int, cumulative: Any, meta: Any, flowing: bool, flows: Any, returns: Any, rows: Any, sums: Any, flow_rows: Any, ends: Any
) -> None:
    """Write the trading of closed panes: the instruments that traded, their sums, and the rows of the analytics (if ``flowing``).

    The rows of all panes stand behind one another. ``ends`` gets, per pane, the end of its instruments and of its analytics rows.
    """
    ring = cumulative.shape[1]
    found = flown = 0
    for p in range(len(panes)):
        pane = panes[p]
        here, before = pane % ring, (pane - 1) % ring
        for i in range(n):
            closed = meta[i, col.CLOSED]
            if closed < pane or closed - ring + 1 >= pane or cumulative[i, here, col.COUNT] <= cumulative[i, before, col.COUNT]:
                continue
            rows[found] = i
            for j in range(sums.shape[1]):
                sums[found, j] = cumulative[i, here, j] - cumulative[i, before, j]
            found += 1
        if flowing:
            flown += pane_rows(pane, meta[:n, col.CLOSED], flows, returns, flow_rows[flown:])
        ends[p, 0] = found
        ends[p, 1] = flown


def _pane_values(state: MarketState, panes: list[int]) -> Iterator[tuple[int, bytes]]:
    """Yield (pane, its entry) of closed panes. A pane without trades has no entry."""
    n, of = len(state.names), len(panes)
    rows, sums = np.empty(of * n, dtype=np.int64), np.empty((of * n, 4), dtype=np.int64)
    flow_rows, ends = np.empty((of * n, PANE_WIDTH), dtype=np.int64), np.empty((of, 2), dtype=np.int64)
    analytics, numbers = state.analytics, np.array(panes, dtype=np.int64)
    _closed_panes(
        numbers, n, state.a["cumulative"], state.a["meta"],
        bool(analytics.groups), analytics.a["flows"], analytics.a["returns"], rows, sums, flow_rows, ends,
    )  # fmt: skip
    found, flown = ends[-1].tolist()
    prints, print_ends = state.kept.of_panes(rows[:found], ends[:, 0], numbers)
    row_bytes, sum_bytes, flow_bytes = rows[:found].astype(np.int32).tobytes(), sums[:found].tobytes(), flow_rows[:flown].tobytes()
    print_bytes = prints.tobytes()
    start = flows_from = prints_from = 0
    for pane, (stop, flows_to), prints_to in zip(panes, ends.tolist(), print_ends.tolist(), strict=True):
        if stop > start or flows_to > flows_from:
            histogram = state.pane_histogram.get(pane, _NO_HISTOGRAM)
            # There is one header per pane. A JSON header would cost more than the rest of the entry.
            header = _PANE.pack(pane, stop - start, len(histogram), prints_to - prints_from)
            yield pane, b"".join([
                header, row_bytes[4 * start : 4 * stop], sum_bytes[_SUMS * start : _SUMS * stop], histogram.tobytes(),
                print_bytes[_PRINT * prints_from : _PRINT * prints_to], flow_bytes[_FLOWS * flows_from : _FLOWS * flows_to],
            ])  # fmt: skip
        start, flows_from, prints_from = stop, flows_to, prints_to


def _unpack_pane(value: bytes) -> tuple[int, dict[str, Array]]:
    """Return the pane of an entry and its arrays."""
    pane, *counts = _PANE.unpack_from(value)
    at, arrays = _PANE.size, {}
    for (name, dtype, width), count in zip(_PANE_ARRAYS, (counts[0], *counts), strict=True):
        array = np.frombuffer(value, dtype, count * width, at)
        arrays[name] = array.reshape(count, width) if width > 1 else array
        at += array.nbytes
    if (len(value) - at) % (8 * PANE_WIDTH):
        raise ChangelogDamaged(f"state changelog: {len(value) - at} bytes left after pane {pane}")
    arrays["flows"] = np.frombuffer(value, "<i8", -1, at).reshape(-1, PANE_WIDTH)
    return pane, arrays


def head_of(state: MarketState) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the part of the market state that a head holds: JSON values and arrays."""
    n, meta = len(state.names), dict[str, Any]()
    meta["analytics"], analytics = state.analytics.head(n)
    arrays: dict[str, Array] = {name: state.a[name][:n] for name in _DENSE} | analytics
    used = int(arrays["meta"][:, col.N_HOLES].max(initial=0))
    arrays["holes"] = state.a["holes"][:n, :used]
    arrays["pending"] = state.pending
    open_rows, open_slots = np.nonzero(state.a["open_sum"][:n, :, col.COUNT])
    arrays["open_index"] = np.stack([open_rows, open_slots])
    for name in ("open_sum", "open_price", "open_at"):
        arrays[name] = state.a[name][open_rows, open_slots]
    closed = arrays["meta"][:, col.CLOSED]
    fresh = state.a["in_pane"][:n] > (closed[:, None] - _look_back(state.config))[:, :, None]
    where = np.nonzero(fresh)
    arrays["in_index"] = np.stack(where)
    for name in ("in_pane", "in_at", "in_value"):
        arrays[name] = state.a[name][where]
    window = col.FIVE_MINUTES_MS // state.config.grid_ms
    where = np.nonzero(state.a["liquidated_pane"][:n] > (closed - window)[:, None])
    arrays["liquidated_index"] = np.stack(where)
    for name in ("liquidated_pane", "liquidated"):
        arrays[name] = state.a[name][where]
    where = np.nonzero(state.a["atr_waiting"][:n, :, atr.BAR] > state.a["atr_reached"][:n, None])
    arrays["atr_index"], arrays["atr_waiting"] = np.stack(where), state.a["atr_waiting"][where]
    arrays["open_prints"] = state.kept.after(closed)
    return meta, arrays


def _look_back(c: EngineConfig) -> Array:
    """Return, per kind of slow input, how many panes an instant may look back.

    This covers any setting, because limits may be raised after a restart.
    """
    limits = np.full(col.N_KINDS, max(c.stale_indicator_ms, MOST_INDICATOR_MS))
    limits[[col.QUOTE, col.OBI, col.MARK, col.INDEX]] = max(c.stale_book_ms, MOST_BOOK_MS)
    limits[col.FUNDING] = max(c.stale_funding_ms, MOST_FUNDING_MS)
    limits[col.OPEN_INTEREST] += max(c.oi_horizon_ms, MOST_HORIZON_MS)
    panes: Array = limits // c.grid_ms + 2
    return panes


def load(state: MarketState, meta: dict[str, Any], arrays: dict[str, Array], entries: list[tuple[bytes, bytes]]) -> None:
    """Fill a new market state from a head and the entries of panes.

    Raises:
        ChangelogDamaged: the panes do not add up to the counts of the head.
    """
    panes = [_unpack_pane(value) for _, value in entries]
    for name in meta["names"]:
        state.row(name)
    n = len(state.names)
    for name in _DENSE:
        if name in arrays:  # an earlier release did not write all of them
            state.a[name][:n] = arrays[name]
    for name, (author, price, quantity) in meta["facts"].items():
        state.set_facts(name, author, price, quantity)
    state.a["holes"][:n, : arrays["holes"].shape[1]] = arrays["holes"]
    state.pending = arrays["pending"].copy()
    open_rows, open_slots = arrays["open_index"]
    for name in ("open_sum", "open_price", "open_at"):
        state.a[name][open_rows, open_slots] = arrays[name]
    where = tuple(arrays["in_index"])
    for name in ("in_pane", "in_at", "in_value"):
        state.a[name][where] = arrays[name]
    if "liquidated_index" in arrays:
        where = tuple(arrays["liquidated_index"])
        for name in ("liquidated_pane", "liquidated"):
            state.a[name][where] = arrays[name]
    if "atr_index" in arrays:  # an earlier release did not write them
        state.a["atr_waiting"][tuple(arrays["atr_index"])] = arrays["atr_waiting"]
    if meta["format"] == 2:
        state.a["in_value"][:, col.OBI, :, 1] = np.nan  # format 2 stored the imbalance here
    _restore_panes(state, panes, n)
    try:
        state.analytics.restore(
            n, meta.get("analytics"), arrays, state.a["meta"][:n, col.CLOSED], [(pane, part["flows"]) for pane, part in panes]
        )
    except AnalyticsDamaged as error:
        raise ChangelogDamaged(str(error)) from error
    open_prints = join_prints([arrays["open_prints"]])  # a copy: the compiled code needs a writable array
    state.kept.keep(open_prints, len(open_prints))


def _restore_panes(state: MarketState, panes: list[tuple[int, dict[str, Array]]], n: int) -> None:
    """Put the pane sums into the ring and accumulate them. Rows that the head has not closed, or that left the ring, are skipped."""
    closed = state.a["meta"][:n, col.CLOSED]
    sums = state.a["cumulative"]
    day = state.config.day_panes
    a_day_back = np.zeros(n, dtype=np.int64)
    kept = []
    for pane, arrays in sorted(panes, key=lambda entry: entry[0]):  # so that prints come in order
        rows = arrays["rows"].astype(np.int64)
        known = rows < n
        rows, part = rows[known], arrays["sums"][known]
        valid = (pane <= closed[rows]) & (pane > closed[rows] - state.ring + 1)
        sums[rows[valid], pane % state.ring] = part[valid]
        histogram = arrays["histogram"]
        of = histogram >> 32
        fresh = (of < n) & (pane <= closed[np.minimum(of, n - 1)]) & (pane > closed[np.minimum(of, n - 1)] - day)
        if fresh.any():
            state.pane_histogram[pane] = histogram[fresh].copy()
            quantile_kernels.add_histogram(histogram[fresh], state.a["histogram"], a_day_back)
        prints = arrays["prints"]
        of = prints["instrument"]
        fresh = (of < n) & (pane <= closed[np.minimum(of, n - 1)]) & (pane > closed[np.minimum(of, n - 1)] - state.kept.window_panes)
        if fresh.any():
            kept.append(prints[fresh])
    joined = join_prints(kept)
    state.kept.keep(joined, len(joined))
    state.a["top"][:n] = col.N_BUCKETS - 1
    if not np.array_equal(a_day_back, state.a["totals"][:n]):
        raise ChangelogDamaged("state changelog: the trades in the panes do not add up to the counts of the head")
    slots = np.arange(state.ring)
    for i in range(n):
        if closed[i] > 0:
            order = (closed[i] + 1 + slots) % state.ring  # oldest pane of the ring first
            sums[i, order] = np.cumsum(sums[i, order], axis=0)
