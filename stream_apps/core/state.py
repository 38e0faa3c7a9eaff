"""Market state of one partition: panes, windows, bars, ATR, quantiles, prints and slow inputs of all its instruments.

All sums are integers in units of 10^-decimals, so they are exact and independent of order. A window is the difference of two cumulative sums:
it costs nothing per event and the same for five minutes and for a day. Nothing here depends on the order of rows within a pane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.columnar import Columns
from schemas.partition import base_of_instrument
from stream_apps.core import atr
from stream_apps.core import kernels as k
from stream_apps.core.analytics.store import FEATURES as ANALYTICS
from stream_apps.core.analytics.store import Analytics
from stream_apps.core.config import ATR_TIMEFRAME, TIMEFRAME_MS, TIMEFRAMES, EngineConfig
from stream_apps.core.meta import N_META
from stream_apps.core.prints import PrintStore
from stream_apps.core.snapshot import FAST_WINDOWS, WINDOW_MS, WINDOWS

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

# Columns of a feature row, in the order in which kernels.fill_features writes them (names of schemas/avro/features.avsc).
_SEEDS: tuple[str, ...] = (
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
    "volume_1m",
    "slope_1h",
    "atr_percentile_low",
    "funding_rate_max",
    "liquidated_long_5m",
    "liquidated_short_5m",
    "whale_flow",  # of the print store; the kernel leaves it out
)
FEATURES: tuple[str, ...] = (*_SEEDS, *ANALYTICS)
_WHALE_FLOW = _SEEDS.index("whale_flow")
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
ATR_FRAME = TIMEFRAMES.index(ATR_TIMEFRAME)


@dataclass(slots=True)
class InstrumentFacts:
    """What the ``instruments`` topic says of an instrument, as far as the engine needs it."""

    author: str
    price_decimals: int
    quantity_decimals: int


class TradesApplied(NamedTuple):
    """What became of rows of agg_trades: status of each (kernels.*), the closed panes that late ones changed, and how many were what."""

    status: npt.NDArray[np.uint8]
    changed: set[int]
    late: int
    repeated: int
    refused: int


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
        self._bar_lengths: list[int] = self.bar_panes.tolist()
        self.kept = PrintStore(config.grid_ms, config.print_window_ms // config.grid_ms, config.whale_usd)
        self._shapes: dict[str, tuple[tuple[int, ...], Any, Any]] = {
            "meta": ((N_META,), np.int64, 0),
            "scale": ((2,), np.float64, 0.0),
            "holes": ((k.HOLES, 2), np.int64, 0),
            "cumulative": ((self.ring, 4), np.int64, 0),
            "open_sum": ((k.AHEAD, 4), np.int64, 0),
            "open_price": ((k.AHEAD, 4), np.int64, 0),
            "open_at": ((k.AHEAD, 4), np.int64, 0),
            "bars": ((len(TIMEFRAMES), 7), np.int64, 0),
            "atr_reached": ((), np.int64, -1),
            "atr_waiting": ((atr.RING, 4), np.int64, -1),
            "atr": ((4,), np.float64, 0.0),
            "atr_history": ((config.atr_history,), np.float64, 0.0),
            "histogram": ((k.N_BUCKETS,), np.int32, 0),
            "totals": ((), np.int64, 0),
            "top": ((), np.int64, 0),  # no bucket above it holds anything; see kernels.upper_quantiles
            "p99_lots": ((), np.float64, 0.0),
            "p99_before": ((), np.float64, 0.0),
            "p99_floor": ((), np.float64, 0.0),
            "spot": ((), np.int64, -1),
            "in_pane": ((k.N_KINDS, k.SLOTS), np.int64, -1),
            "in_at": ((k.N_KINDS, k.SLOTS, 2), np.int64, 0),
            "in_value": ((k.N_KINDS, k.SLOTS, 2), np.float64, np.nan),
            "first_seen": ((k.N_KINDS,), np.int64, np.iinfo(np.int64).max),
            "funding_most": ((), np.float64, 0.0),
            "liquidated_pane": ((k.SLOTS,), np.int64, -1),
            "liquidated": ((k.SLOTS, 2), np.int64, 0),
            "liquidated_first": ((), np.int64, np.iinfo(np.int64).max),
            "liquidated_seen": ((k.LIQUIDATIONS_KEPT,), np.int64, 0),
            "liquidated_at": ((), np.int64, 0),
        }
        self.a: dict[str, npt.NDArray[Any]] = {
            name: np.full((0, *shape), fill, dtype) for name, (shape, dtype, fill) in self._shapes.items()
        }
        self.analytics = Analytics(
            config.analytics, config.grid_ms, self.ring, TIMEFRAMES, config.stale_book_ms, config.stale_funding_ms, _SEEDS
        )
        self._pending: I64 = np.empty(1024, dtype=np.int64)
        self._n_pending = 0
        self.pane_histogram: dict[int, I64] = {}  # closed pane -> packed instrument-bucket-count
        self._chosen = np.zeros(0, dtype=np.bool_)  # scratch of kernels.take_due, all False between calls

    @property
    def pending(self) -> I64:
        """Packed pane-instrument-bucket of each trade of an open pane."""
        return self._pending[: self._n_pending]

    @pending.setter
    def pending(self, packed: I64) -> None:
        self._pending, self._n_pending = packed.copy(), len(packed)

    # --- instruments -------------------------------------------------------------------------------------------------
    def row(self, name: str) -> int:
        """Return the row of an instrument, making one when new."""
        i = self.index.get(name)
        if i is not None:
            return i
        i = len(self.names)
        if i >= len(self.a["meta"]):
            # A quarter more at a time: half a megabyte an instrument is too much to keep twice of.
            self._grow(i + max(2, i // 4))
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
        self.kept.grow(capacity)
        self.analytics.grow(capacity, n)

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
        self.analytics.set_facts(i, name, quantity_decimals)
        return i

    def _rescale(self, i: int, price: int, quantity: int) -> None:
        for name in ("cumulative", "open_sum"):
            self.a[name][i, :, : k.PRICE_VOLUME] *= quantity
            self.a[name][i, :, k.PRICE_VOLUME] *= price * quantity
        self.a["open_price"][i] *= price
        self.a["meta"][i, k.LAST_PRICE] *= price
        self.a["bars"][i, :, :4] *= price
        self.a["atr_waiting"][i, :, atr.HIGH :] *= price
        self.a["bars"][i, :, 4:6] *= quantity
        self.a["p99_lots"][i] *= quantity
        self.a["p99_before"][i] *= quantity
        self.analytics.rescale(i, price, quantity)
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
        self.a["top"][i] = k.N_BUCKETS - 1
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
    ) -> TradesApplied:
        """Apply rows of agg_trades."""
        n = len(times)
        status = np.empty(n, dtype=np.uint8)
        kept = self.kept.scratch(n)
        if self._n_pending + n > len(self._pending):
            grown = np.empty(2 * (self._n_pending + n), dtype=np.int64)
            grown[: self._n_pending] = self.pending
            self._pending = grown
        a = self.a
        self._n_pending, n_kept, late, repeated, refused = k.apply_trades(
            instrument, good, times, offsets, ids, prices, quantities, makers, self.config.grid_ms, self.config.print_floor,
            a["meta"], a["scale"], a["holes"], a["p99_lots"], a["p99_before"],
            a["open_sum"], a["open_price"], a["open_at"], self._pending, self._n_pending, status, kept,
        )  # fmt: skip
        if n_kept:
            self.kept.keep(kept, n_kept)
        self.analytics.take_trades(instrument, status, times, ids, quantities, makers, a["scale"])
        changed: set[int] = set()
        if not late:
            return TradesApplied(status, changed, 0, repeated, refused)
        grid = self.config.grid_ms
        for row in np.flatnonzero(status == k.LATE_ROW).tolist():
            i, pane = int(instrument[row]), -(-int(times[row]) // grid)
            if k.add_late(i, pane, prices[row], quantities[row], bool(makers[row]), a["meta"], a["scale"], a["cumulative"]):
                changed.add(pane)
                if pane > a["meta"][i, k.CLOSED] - self.config.day_panes:
                    bucket = k.bucket_of(int(np.floor(quantities[row] * a["scale"][i, 1] + 0.5)))
                    entry = np.array([(i << 32) | (bucket << 16) | 1], dtype=np.int64)
                    k.add_histogram(entry, 1, a["histogram"], a["totals"])
                    a["top"][i] = k.N_BUCKETS - 1
                    self.pane_histogram[pane] = np.concatenate([self.pane_histogram.get(pane, entry[:0]), entry])
        return TradesApplied(status, changed, late, repeated, refused)

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

    def put_klines(self, instrument: I64, good: Any, use: Any, times: I64, highs: F64, lows: F64, closes: F64, status: Any) -> None:
        """Apply rows of klines; ``use`` tells which are of the ATR's timeframe. ``status`` of refused rows is set."""
        a, c = self.a, self.config
        atr.put_klines(
            instrument, good, use, times, highs, lows, closes, c.grid_ms, int(self.bar_panes[ATR_FRAME]), c.atr_length,
            a["meta"], a["scale"], a["atr_reached"], a["atr_waiting"], a["atr"], a["atr_history"], status,
        )  # fmt: skip

    def take_events(self, topic: str, columns: Columns, part: slice, instrument: I64, times: I64, status: Any) -> None:
        """Let the analytics have rows of a slow topic that were applied; ``status`` of those that they refuse is set."""
        self.analytics.take(topic, columns, part, instrument, times, status, self.a["meta"], self.a["scale"])

    def put_liquidations(self, instrument: I64, times: I64, sides: I64, prices: F64, quantities: F64, good: Any, status: Any) -> None:
        """Apply rows of liquidations: side 1 for a liquidated LONG, -1 for a SHORT, 0 for neither. ``status`` of refused rows is set."""
        a = self.a
        k.put_liquidations(
            instrument, times, sides, prices, quantities, good, self.config.grid_ms,
            a["meta"], a["liquidated_pane"], a["liquidated"], a["liquidated_first"], a["liquidated_seen"], a["liquidated_at"], status,
        )  # fmt: skip

    # --- instants ----------------------------------------------------------------------------------------------------
    def close(self, chosen: I64, first: int, pane: int) -> I64:
        """Close the panes of the chosen instruments up to ``pane``, none of which has closed it; returns closed bars (see kernels.close_panes).

        Args:
            chosen: Instruments.
            first: The first pane that is open of any of them.
            pane: The last pane to be closed.
        """
        a, behind = self.a, pane - first + 1
        k.track_funding(chosen, pane, a["meta"], a["in_pane"], a["in_value"], a["funding_most"])
        room = len(chosen) * sum(behind // panes + 1 for panes in self._bar_lengths)
        out = np.empty((room, 10), dtype=np.int64)
        self.analytics.close(chosen, pane, behind, a)
        n = k.close_panes(
            chosen, pane, self.bar_panes, ATR_FRAME, self.config.atr_length, a["meta"], a["scale"], a["cumulative"], a["open_sum"], a["open_price"],
            a["bars"], a["atr_reached"], a["atr_waiting"], a["atr"], a["atr_history"], out,
        )  # fmt: skip
        self._move_histogram(chosen, first, pane)
        self.kept.advance(chosen, pane)
        self.analytics.take_bars(out[:n])
        return out[:n]

    def _move_histogram(self, chosen: I64, first: int, pane: int) -> None:
        """Let the quantities of panes first..pane into the day's histogram and those a day older out of it, for the chosen instruments."""
        histogram, totals = self.a["histogram"], self.a["totals"]
        if self._n_pending:
            if len(self._chosen) < len(self.names):
                self._chosen = np.zeros(len(self.a["meta"]), dtype=np.bool_)
            entries, panes = np.empty(self._n_pending, dtype=np.int64), np.empty(self._n_pending, dtype=np.int64)
            self._n_pending, found = k.take_due(self.pending, chosen, pane, self._chosen, entries, panes, histogram, totals, self.a["top"])
            at = 0
            while at < found:
                p = int(panes[at])
                stop = found if panes[found - 1] == p else int(np.searchsorted(panes[:found], p, side="right"))
                old = self.pane_histogram.get(p)
                part = entries[at:stop].copy()
                self.pane_histogram[p] = part if old is None else np.concatenate([old, part])
                at = stop
        for old_pane in range(first - self.config.day_panes, pane - self.config.day_panes + 1):
            entries_or_none = self.pane_histogram.get(old_pane)
            if entries_or_none is None:
                continue
            mine = np.isin(entries_or_none >> 32, chosen)
            k.add_histogram(entries_or_none[mine], -1, histogram, totals)
            rest = entries_or_none[~mine]
            if len(rest):
                self.pane_histogram[old_pane] = rest
            else:
                del self.pane_histogram[old_pane]

    def features(self, chosen: I64, pane: int) -> tuple[F64, npt.NDArray[np.int8], I64]:
        """Return what is known at instant ``pane * grid``, a row per chosen instrument.

        Features (columns FEATURES, NaN where undefined), states of the inputs (columns INPUTS), and the trades of the pane and the late ones so far.
        """
        out = np.empty((len(chosen), len(FEATURES)))
        states = np.empty((len(chosen), len(INPUTS)), dtype=np.int8)
        counts = np.empty((len(chosen), 2), dtype=np.int64)
        a, c = self.a, self.config
        spot = a["spot"][chosen]
        k.fill_features(
            chosen, spot, pane, c.grid_ms, self.window_panes, len(FAST_WINDOWS), WINDOW_MS["30m"] // c.grid_ms, c.atr_length, c.atr_percentile_min,
            c.quantile_min_trades, c.stale_book_ms, c.stale_funding_ms, c.stale_indicator_ms, c.oi_horizon_ms, a["p99_floor"],
            a["meta"], a["scale"], a["cumulative"], a["atr"], a["atr_history"], a["histogram"], a["totals"], a["top"], a["p99_lots"], a["p99_before"],
            a["in_pane"], a["in_at"], a["in_value"], a["first_seen"],
            a["funding_most"], a["liquidated_pane"], a["liquidated"], a["liquidated_first"], out, states, counts,
        )  # fmt: skip
        out[:, _WHALE_FLOW] = self.kept.flows[chosen]
        self.analytics.fill(chosen, spot, pane, a, len(_SEEDS), out)
        return out, states, counts
