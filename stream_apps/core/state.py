"""Market state of one partition: panes, windows, bars, ATR, quantiles, prints and slow inputs of all its instruments.

All sums are integers in units of 10^-decimals, so they are exact and independent of order. A window is the difference of two cumulative sums:
it costs nothing per event and the same for five minutes and for a day. Nothing here depends on the order of rows within a pane.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.partition import base_of_instrument
from stream_apps.core import kernels as k
from stream_apps.core.config import TIMEFRAME_MS, TIMEFRAMES, EngineConfig
from stream_apps.core.snapshot import FAST_WINDOWS, WINDOW_MS, WINDOWS, Prints

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

# Columns of a feature row, in the order in which kernels.fill_features writes them (names of schemas/avro/features.avsc).
FEATURES: tuple[str, ...] = (
    "price",
    *(f"cvd_{w}" for w in WINDOWS),
    *(f"volume_{w}" for w in WINDOWS),
    *(name for w in FAST_WINDOWS for name in (f"slope_{w}", f"acceleration_{w}")),
    "vwap_30m",
    "atr",
    "atr_percentile",
    "trade_quantity_p95",
    "trade_quantity_p99",
    "obi",
    "best_bid",
    "best_ask",
    "mark_price",
    "index_price",
    "estimated_funding_rate",
    "spot_perp_divergence",
    "open_interest",
    "open_interest_change",
    "long_short_ratio",
    "top_trader_long_share",
    "coinbase_premium",
)
# Inputs whose absence is reported, in the order of ``states``.
INPUTS: tuple[str, ...] = (
    *(f"cvd_{w}" for w in WINDOWS),
    "atr",
    "quantity_p99",
    "obi",
    "quotes",
    "mark_price",
    "estimated_funding_rate",
    "spot_perp_divergence",
    "open_interest_change",
    "long_short_ratio",
    "top_trader_long_share",
    "coinbase_premium",
)
# An hour of panes beyond the longest window, so that a checkpoint may lag and late trades of the edge still find their pane.
RING_SLACK = 240
ATR_TIMEFRAME = TIMEFRAMES.index("5m")

PRINT = np.dtype(
    [("time", "<i8"), ("offset", "<i8"), ("instrument", "<i8"), ("price", "<f8"), ("quantity", "<f8"), ("buy", "?"), ("flags", "u1")]
)


@dataclass(slots=True)
class InstrumentFacts:
    """What the ``instruments`` topic says of an instrument, as far as the engine needs it."""

    author: str
    price_decimals: int
    quantity_decimals: int


@dataclass(slots=True)
class PrintsInWindow:
    """Prints of an instrument in the current window, rebuilt only when a pane with prints came or went."""

    panes: tuple[int, ...] = ()
    large: Prints = field(default_factory=Prints)
    whales: Prints = field(default_factory=Prints)
    large_buys: int = 0
    large_sells: int = 0


class MarketState:
    """State arrays of one partition; row i belongs to ``names[i]``.

    Args:
        config: The engine's numbers.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.ring = config.day_panes + RING_SLACK
        self.names: list[str] = []
        self.facts: dict[str, InstrumentFacts] = {}
        self.index: dict[str, int] = {}
        self.window_panes: I64 = np.array([WINDOW_MS[w] // config.grid_ms for w in WINDOWS], dtype=np.int64)
        self.bar_panes: I64 = np.array([TIMEFRAME_MS[f] // config.grid_ms for f in TIMEFRAMES], dtype=np.int64)
        self.print_panes = config.print_window_ms // config.grid_ms
        self._shapes: dict[str, tuple[tuple[int, ...], Any, Any]] = {
            "meta": ((k.N_META,), np.int64, 0),
            "scale": ((2,), np.float64, 0.0),
            "holes": ((k.HOLES, 2), np.int64, 0),
            "cumulative": ((self.ring, 4), np.int64, 0),
            "open_sum": ((k.AHEAD, 4), np.int64, 0),
            "open_price": ((k.AHEAD, 4), np.int64, 0),
            "open_at": ((k.AHEAD, 4), np.int64, 0),
            "bars": ((len(TIMEFRAMES), 7), np.int64, 0),
            "atr": ((4,), np.float64, 0.0),
            "atr_history": ((config.atr_history,), np.float64, 0.0),
            "histogram": ((k.N_BUCKETS,), np.int32, 0),
            "totals": ((), np.int64, 0),
            "p99_lots": ((), np.float64, 0.0),
            "p99_floor": ((), np.float64, 0.0),
            "spot": ((), np.int64, -1),
            "in_pane": ((k.N_KINDS, k.SLOTS), np.int64, -1),
            "in_at": ((k.N_KINDS, k.SLOTS, 2), np.int64, 0),
            "in_value": ((k.N_KINDS, k.SLOTS, 2), np.float64, np.nan),
            "first_seen": ((k.N_KINDS,), np.int64, np.iinfo(np.int64).max),
        }
        self.a: dict[str, npt.NDArray[Any]] = {
            name: np.full((0, *shape), fill, dtype) for name, (shape, dtype, fill) in self._shapes.items()
        }
        self.pending: I64 = np.empty(0, dtype=np.int64)  # packed pane-instrument-bucket of each trade of an open pane
        self.pane_histogram: dict[int, I64] = {}  # closed pane -> packed instrument-bucket-count
        self.print_rows: dict[int, dict[int, npt.NDArray[Any]]] = {}  # instrument -> pane -> kept prints, open panes included
        self._cache: dict[int, PrintsInWindow] = {}

    # --- instruments -------------------------------------------------------------------------------------------------
    def row(self, name: str) -> int:
        """Return the row of an instrument, making one when new."""
        i = self.index.get(name)
        if i is not None:
            return i
        i = len(self.names)
        if i >= len(self.a["meta"]):
            self._grow(max(2, 2 * i))
        self.names.append(name)
        self.index[name] = i
        meta = self.a["meta"][i]
        meta[k.FIRST_PANE] = -1
        meta[k.LAST_AGG_ID] = -1
        try:
            self.a["p99_floor"][i] = self.config.p99_floors.get(base_of_instrument(name), 0.0)
        except ValueError:
            self.a["p99_floor"][i] = 0.0  # an id in no known form has no configured floor; its trades are judged all the same
        other = name.removesuffix("-PERP") if name.endswith("-PERP") else name + "-PERP"
        pair = self.index.get(other)
        if pair is not None:
            perp, spot = (i, pair) if name.endswith("-PERP") else (pair, i)
            self.a["spot"][perp] = spot
        return i

    def _grow(self, capacity: int) -> None:
        n = len(self.names)
        for name, (shape, dtype, fill) in self._shapes.items():
            grown = np.full((capacity, *shape), fill, dtype)
            grown[:n] = self.a[name][:n]
            self.a[name] = grown

    def set_facts(self, name: str, author: str, price_decimals: int, quantity_decimals: int) -> int:
        """Take an instrument's facts; finer decimals than before rescale its sums exactly, coarser ones are ignored. Returns its row."""
        i = self.row(name)
        known = self.facts.get(name)
        if known is not None:
            finer_price = max(price_decimals, known.price_decimals) - known.price_decimals
            finer_quantity = max(quantity_decimals, known.quantity_decimals) - known.quantity_decimals
            price_decimals, quantity_decimals = known.price_decimals + finer_price, known.quantity_decimals + finer_quantity
            if finer_price or finer_quantity:
                self._rescale(i, 10**finer_price, 10**finer_quantity)
        self.facts[name] = InstrumentFacts(author, price_decimals, quantity_decimals)
        self.a["scale"][i] = (10.0**price_decimals, 10.0**quantity_decimals)
        return i

    def _rescale(self, i: int, price: int, quantity: int) -> None:
        for name in ("cumulative", "open_sum"):
            self.a[name][i, :, : k.PRICE_VOLUME] *= quantity
            self.a[name][i, :, k.PRICE_VOLUME] *= price * quantity
        self.a["open_price"][i] *= price
        self.a["meta"][i, k.LAST_PRICE] *= price
        self.a["bars"][i, :, :4] *= price
        self.a["bars"][i, :, 4:6] *= quantity
        self.a["p99_lots"][i] *= quantity
        if quantity == 1:
            return
        # Quantile buckets move by their middles: at most one more half bucket of error until a day has passed.
        for pane, entries in self.pane_histogram.items():
            mine = (entries >> 32) == i
            if mine.any():
                moved = entries.copy()
                for e in np.flatnonzero(mine).tolist():
                    bucket = k.bucket_of(int(k.bucket_middle(int(entries[e] >> 16) & 0xFFFF) * quantity))
                    moved[e] = (i << 32) | (bucket << 16) | (int(entries[e]) & 0xFFFF)
                self.pane_histogram[pane] = moved
        self.a["histogram"][i] = 0
        self.a["totals"][i] = 0
        for entries in self.pane_histogram.values():
            k.add_histogram(entries[(entries >> 32) == i], 1, self.a["histogram"], self.a["totals"])
        mine = ((self.pending >> 16) & 0xFFFF) == i
        for e in np.flatnonzero(mine).tolist():
            packed = int(self.pending[e])
            bucket = k.bucket_of(int(k.bucket_middle(packed & 0xFFFF) * quantity))
            self.pending[e] = (packed & ~0xFFFF) | bucket

    def start(self, i: int, closed: int) -> None:
        """Begin an instrument's panes after pane ``closed``, unless it has begun."""
        if self.a["meta"][i, k.CLOSED] == 0:
            self.a["meta"][i, k.CLOSED] = closed

    # --- trades ------------------------------------------------------------------------------------------------------
    def apply_trades(
        self, instrument: I64, good: Any, times: I64, offsets: I64, ids: I64, prices: F64, quantities: F64, makers: I64
    ) -> tuple[Any, set[int]]:
        """Apply rows of agg_trades. Returns their status (kernels.*) and the closed panes that late trades changed."""
        n = len(times)
        status = np.empty(n, dtype=np.uint8)
        prints = np.empty(n, dtype=np.uint8)
        pending = np.empty(len(self.pending) + n, dtype=np.int64)
        pending[: len(self.pending)] = self.pending
        a = self.a
        filled = k.apply_trades(
            instrument, good, times, offsets, ids, prices, quantities, makers, self.config.grid_ms, self.config.print_floor,
            a["meta"], a["scale"], a["holes"], a["p99_lots"], a["open_sum"], a["open_price"], a["open_at"], pending, len(self.pending), status, prints,
        )  # fmt: skip
        self.pending = pending[:filled]
        grid = self.config.grid_ms
        changed: set[int] = set()
        for row in np.flatnonzero(status == k.LATE_ROW).tolist():
            i, pane = int(instrument[row]), -(-int(times[row]) // grid)
            if k.add_late(i, pane, prices[row], quantities[row], bool(makers[row]), a["meta"], a["scale"], a["cumulative"]):
                changed.add(pane)
                if pane > a["meta"][i, k.CLOSED] - self.config.day_panes:
                    bucket = k.bucket_of(int(np.floor(quantities[row] * a["scale"][i, 1] + 0.5)))
                    entry = np.array([(i << 32) | (bucket << 16) | 1], dtype=np.int64)
                    k.add_histogram(entry, 1, a["histogram"], a["totals"])
                    self.pane_histogram[pane] = np.concatenate([self.pane_histogram.get(pane, entry[:0]), entry])
        kept = np.flatnonzero((prints > 0) & (status <= k.LATE_ROW))
        if len(kept):
            rows = np.empty(len(kept), dtype=PRINT)
            rows["time"], rows["offset"], rows["instrument"] = times[kept], offsets[kept], instrument[kept]
            rows["price"], rows["quantity"], rows["buy"], rows["flags"] = prices[kept], quantities[kept], makers[kept] == 0, prints[kept]
            self.keep_prints(rows)
        return status, changed

    def put_inputs(self, kind: int, instrument: I64, times: I64, offsets: I64, first: F64, second: F64, use: Any, status: Any) -> None:
        """Apply rows of a slow input; ``status`` of the used rows is set."""
        a = self.a
        k.put_inputs(
            instrument,
            kind,
            times,
            offsets,
            first,
            second,
            use,
            self.config.grid_ms,
            a["meta"],
            a["in_pane"],
            a["in_at"],
            a["in_value"],
            a["first_seen"],
            status,
        )

    # --- instants ----------------------------------------------------------------------------------------------------
    def close(self, chosen: I64, pane: int) -> I64:
        """Close the panes of the chosen instruments up to ``pane``; returns closed bars (see kernels.close_panes)."""
        a = self.a
        behind = int((pane - a["meta"][chosen, k.CLOSED]).max(initial=0))
        if behind <= 0:
            return np.empty((0, 10), dtype=np.int64)
        room = int(sum(len(chosen) * (behind // panes + 1) for panes in self.bar_panes.tolist()))
        out = np.empty((room, 10), dtype=np.int64)
        first = int(a["meta"][chosen, k.CLOSED].min()) + 1
        n = k.close_panes(
            chosen, pane, self.bar_panes, ATR_TIMEFRAME, self.config.atr_length, a["meta"], a["scale"], a["cumulative"], a["open_sum"], a["open_price"],
            a["bars"], a["atr"], a["atr_history"], out,
        )  # fmt: skip
        self._move_histogram(chosen, first, pane)
        for i in chosen.tolist():
            kept = self.print_rows.get(i)
            if kept:
                for old in [p for p in kept if p <= pane - self.print_panes]:
                    del kept[old]
        return out[:n]

    def keep_prints(self, rows: npt.NDArray[Any]) -> None:
        """Keep prints (dtype PRINT) in their panes, in order of (event time, offset)."""
        panes = -(-rows["time"] // self.config.grid_ms)
        for i in np.unique(rows["instrument"]).tolist():
            mine = rows["instrument"] == i
            of_instrument = self.print_rows.setdefault(i, {})
            for pane in np.unique(panes[mine]).tolist():
                new, old = rows[mine & (panes == pane)], of_instrument.get(pane)
                joined = new if old is None else join_prints([old, new])
                of_instrument[pane] = joined[np.lexsort((joined["offset"], joined["time"]))]
            self._cache.pop(i, None)

    def _move_histogram(self, chosen: I64, first: int, pane: int) -> None:
        """Let the quantities of panes first..pane into the day's histogram and those a day older out of it, for the chosen instruments."""
        histogram, totals = self.a["histogram"], self.a["totals"]
        if len(self.pending):
            is_chosen = np.zeros(len(self.names), dtype=np.bool_)
            is_chosen[chosen] = True
            due = (self.pending >> 32 <= pane) & is_chosen[(self.pending >> 16) & 0xFFFF]
            if due.any():
                packed, counts = np.unique(self.pending[due], return_counts=True)
                self.pending = self.pending[~due]
                panes = packed >> 32
                starts = np.flatnonzero(np.diff(panes, prepend=-1))
                for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(packed)], strict=True):
                    part = np.repeat(packed[start:stop], -(-counts[start:stop] // 0xFFFF))  # a count above 16 bits takes several entries
                    full = np.full(len(part), 0xFFFF, dtype=np.int64)
                    last = np.cumsum(-(-counts[start:stop] // 0xFFFF)) - 1
                    full[last] = counts[start:stop] - 0xFFFF * (-(-counts[start:stop] // 0xFFFF) - 1)
                    entries = (((part >> 16) & 0xFFFF) << 32) | ((part & 0xFFFF) << 16) | full
                    k.add_histogram(entries, 1, histogram, totals)
                    p = int(panes[start])
                    old = self.pane_histogram.get(p)
                    self.pane_histogram[p] = entries if old is None else np.concatenate([old, entries])
        for old_pane in range(first - self.config.day_panes, pane - self.config.day_panes + 1):
            entries_or_none = self.pane_histogram.get(old_pane)
            if entries_or_none is None:
                continue
            is_chosen = np.zeros(len(self.names), dtype=np.bool_)
            is_chosen[chosen] = True
            mine = is_chosen[entries_or_none >> 32]
            k.add_histogram(entries_or_none[mine], -1, histogram, totals)
            rest = entries_or_none[~mine]
            if len(rest):
                self.pane_histogram[old_pane] = rest
            else:
                del self.pane_histogram[old_pane]

    def features(self, chosen: I64, pane: int) -> tuple[F64, npt.NDArray[np.int8]]:
        """Return feature rows (n, len(FEATURES)), NaN where undefined, and input states (n, len(INPUTS)) at instant ``pane * grid``."""
        out = np.empty((len(chosen), len(FEATURES)))
        states = np.empty((len(chosen), len(INPUTS)), dtype=np.int8)
        a, c = self.a, self.config
        k.fill_features(
            chosen, a["spot"][chosen], pane, c.grid_ms, self.window_panes, len(FAST_WINDOWS), WINDOW_MS["30m"] // c.grid_ms, c.atr_length, c.atr_percentile_min,
            c.quantile_min_trades, c.stale_book_ms, c.stale_funding_ms, c.stale_indicator_ms, c.oi_horizon_ms, a["p99_floor"],
            a["meta"], a["scale"], a["cumulative"], a["atr"], a["atr_history"], a["histogram"], a["totals"], a["p99_lots"],
            a["in_pane"], a["in_at"], a["in_value"], a["first_seen"], out, states,
        )  # fmt: skip
        return out, states

    def prints(self, i: int, pane: int) -> PrintsInWindow:
        """Return the kept prints of an instrument in (T - window, T], T = ``pane * grid``, in order of (event time, offset)."""
        kept = self.print_rows.get(i) or {}
        panes = tuple(sorted(p for p in kept if pane - self.print_panes < p <= pane))
        cache = self._cache.get(i)
        if cache is not None and cache.panes == panes:
            return cache
        rows = join_prints([kept[p] for p in panes])
        large = rows[(rows["flags"] & k.LARGE) > 0]
        whales = rows[(rows["flags"] & k.WHALE) > 0]
        buys = int(large["buy"].sum())
        cache = self._cache[i] = PrintsInWindow(panes, _as_prints(large), _as_prints(whales), buys, len(large) - buys)
        return cache


def join_prints(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate arrays of dtype PRINT as bytes: numpy compares the fields of structured types pair by pair, which costs more than the copy."""
    if not parts:
        return np.empty(0, dtype=PRINT)
    return np.concatenate([part.view(np.uint8) for part in parts]).view(PRINT)


def _as_prints(rows: npt.NDArray[Any]) -> Prints:
    return Prints(np.ascontiguousarray(rows["price"]), np.ascontiguousarray(rows["quantity"]), np.ascontiguousarray(rows["buy"]))
