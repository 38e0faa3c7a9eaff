"""Market state of one partition: panes, windows, bars, ATR, quantiles, prints and slow inputs of all its instruments.

All sums are integers in units of 10^-decimals. They are exact and do not depend on order. A window is the difference of two cumulative
sums. It costs nothing per event, and five minutes cost as much as a day. No result depends on the order of rows within a pane.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.codec.columnar import Columns
from schemas.partition import base_of_instrument
from stream_apps.core.log.instruments import InstrumentFacts
from stream_apps.core.market import arrays, atr
from stream_apps.core.market import columns as col
from stream_apps.core.market.analytics.store import FEATURES as ANALYTICS
from stream_apps.core.market.analytics.store import Analytics
from stream_apps.core.market.columns import N_META
from stream_apps.core.market.config import ATR_TIMEFRAME, TIMEFRAME_MS, TIMEFRAMES, EngineConfig
from stream_apps.core.market.kernels import input_kernels, market_kernels, pane_kernels, quantile_kernels
from stream_apps.core.market.prints import PrintStore
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOW_MS, WINDOWS

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

# Columns of a feature row, in the order in which ``feature_kernels`` writes them (names of schemas/avro/features.avsc).
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
    "whale_flow",  # from the print store; the feature kernel does not write it
)
FEATURES: tuple[str, ...] = (*_SEEDS, *ANALYTICS)
_WHALE_FLOW = _SEEDS.index("whale_flow")
# Inputs that are reported when they are missing or stale, in the order of ``states``.
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
# An hour of panes beyond the longest window. A checkpoint may lag, and a late trade at the edge still finds its pane.
RING_SLACK = 240
ATR_FRAME = TIMEFRAMES.index(ATR_TIMEFRAME)


class MarketState:
    """State arrays of one partition; row i belongs to ``names[i]``.

    Args:
        config: The engine's numbers.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._own: Mapping[str, Mapping[str, float]] = {}
        self.ring = config.day_panes + RING_SLACK
        self.names: list[str] = []
        self.facts: dict[str, InstrumentFacts] = {}
        self.index: dict[str, int] = {}
        self.window_panes: I64 = np.array([WINDOW_MS[w] // config.grid_ms for w in WINDOWS], dtype=np.int64)
        self.bar_panes: I64 = np.array([TIMEFRAME_MS[f] // config.grid_ms for f in TIMEFRAMES], dtype=np.int64)
        self.bar_lengths: list[int] = self.bar_panes.tolist()
        self.kept = PrintStore(config.grid_ms, config.print_window_ms // config.grid_ms, config.whale_usd)
        self._shapes: dict[str, tuple[tuple[int, ...], Any, Any]] = {
            "meta": ((N_META,), np.int64, 0),
            "scale": ((2,), np.float64, 0.0),
            "holes": ((col.HOLES, 2), np.int64, 0),
            "cumulative": ((self.ring, 4), np.int64, 0),
            "open_sum": ((col.AHEAD, 4), np.int64, 0),
            "open_price": ((col.AHEAD, 4), np.int64, 0),
            "open_at": ((col.AHEAD, 4), np.int64, 0),
            "bars": ((len(TIMEFRAMES), 7), np.int64, 0),
            "atr_reached": ((), np.int64, -1),
            "atr_waiting": ((atr.RING, 4), np.int64, -1),
            "atr": ((4,), np.float64, 0.0),
            "atr_history": ((config.atr_history,), np.float64, 0.0),
            "ranked_at": ((), np.int64, -2),  # the bar for which ``ranks`` were computed; -2: none yet
            "ranks": ((2,), np.float64, np.nan),
            "histogram": ((col.N_BUCKETS,), np.int32, 0),
            "totals": ((), np.int64, 0),
            "top": ((), np.int64, 0),  # all buckets above it are empty; see quantile_kernels.upper_quantiles
            "p99_lots": ((), np.float64, 0.0),
            "p99_before": ((), np.float64, 0.0),
            "p99_floor": ((), np.float64, 0.0),
            "quantile_history": ((), np.float64, 0.0),  # ms; with a shorter trade history the quantiles do not count
            "spot": ((), np.int64, -1),
            "in_pane": ((col.N_KINDS, col.SLOTS), np.int64, -1),
            "in_at": ((col.N_KINDS, col.SLOTS, 2), np.int64, 0),
            "in_value": ((col.N_KINDS, col.SLOTS, 2), np.float64, np.nan),
            "first_seen": ((col.N_KINDS,), np.int64, np.iinfo(np.int64).max),
            "funding_most": ((), np.float64, 0.0),
            "liquidated_pane": ((col.SLOTS,), np.int64, -1),
            "liquidated": ((col.SLOTS, 2), np.int64, 0),
            "liquidated_first": ((), np.int64, np.iinfo(np.int64).max),
            "liquidated_seen": ((col.LIQUIDATIONS_KEPT,), np.int64, 0),
            "liquidated_at": ((), np.int64, 0),
        }
        self.a: dict[str, npt.NDArray[Any]] = {
            name: np.full((0, *shape), fill, dtype) for name, (shape, dtype, fill) in self._shapes.items()
        }
        self.analytics = Analytics(config.analytics, config.grid_ms, self.ring, TIMEFRAMES, config.stale_book_ms, _SEEDS)
        self._pending: I64 = np.empty(1024, dtype=np.int64)
        self.counter: I64 = np.zeros(arrays.N_COUNTER, dtype=np.int64)
        self.dirty: set[int] = set()  # closed panes that changed since the changelog wrote them
        self.pane_histogram: dict[int, I64] = {}  # closed pane -> packed instrument-bucket-count
        self._chosen = np.zeros(0, dtype=np.bool_)  # scratch, all False between calls
        self._market: arrays.MarketArrays | None = None
        self.numbers = self._make_numbers()

    def use(self, config: EngineConfig, own: Mapping[str, Mapping[str, float]]) -> None:
        """Use other numbers from the next instant on. Only numbers that may change in the middle of a log (``signals.settings``).

        Args:
            config: The numbers. Fixed numbers must be the same as before.
            own: Instrument -> setting -> number, for instruments that have their own p99_floor or own_quantile_history_ms.
        """
        before, self.config, self._own = self.config, config, own
        whole, number, limits = self.numbers.whole, self.analytics.number, self.numbers.limits
        for column, value in (
            (arrays.PERCENTILE_MIN, config.atr_percentile_min), (arrays.QUANTILE_MIN, config.quantile_min_trades),
            (arrays.STALE_BOOK, config.stale_book_ms), (arrays.STALE_FUNDING, config.stale_funding_ms),
            (arrays.STALE_INDICATOR, config.stale_indicator_ms), (arrays.OI_HORIZON, config.oi_horizon_ms),
            (arrays.CORRELATION_PANES, config.correlation_bar_ms // config.grid_ms), (arrays.CORRELATION_BARS, config.correlation_bars),
        ):  # fmt: skip
            whole[column] = value
        self.analytics.use(config.analytics, config.stale_book_ms)
        assert number is self.numbers.analytics
        if config.atr_percentile_min != before.atr_percentile_min:
            self.a["ranked_at"][:] = -2
        if config.whale_usd != before.whale_usd:
            limits[arrays.WHALE_USD] = config.whale_usd
            self.kept.use(config.whale_usd)
        for i, name in enumerate(self.names):
            self._set_own_numbers(i, name)

    def _set_own_numbers(self, i: int, name: str) -> None:
        """Store the numbers of an instrument: its own, else those of its base asset, else those of the engine."""
        own, config = self._own.get(name, {}), self.config
        try:
            asset = base_of_instrument(name)
        except ValueError:
            asset = ""  # an id of unknown form has no configured numbers; its trades still count
        floor, history = config.p99_floors.get(asset, 0.0), config.quantile_histories_ms.get(asset, config.quantile_history_ms)
        self.a["p99_floor"][i] = own.get("p99_floor", floor)
        self.a["quantile_history"][i] = own.get("own_quantile_history_ms", history)

    def _make_numbers(self) -> arrays.Numbers:
        c, analytics = self.config, self.analytics
        whole = np.zeros(arrays.N_WHOLE, dtype=np.int64)
        for column, value in (
            (arrays.GRID, c.grid_ms), (arrays.PRINT_PANES, self.kept.window_panes), (arrays.FAST_WINDOWS, len(FAST_WINDOWS)),
            (arrays.VWAP_PANES, WINDOW_MS["30m"] // c.grid_ms), (arrays.ATR_LENGTH, c.atr_length),
            (arrays.PERCENTILE_MIN, c.atr_percentile_min), (arrays.QUANTILE_MIN, c.quantile_min_trades), (arrays.STALE_BOOK, c.stale_book_ms),
            (arrays.STALE_FUNDING, c.stale_funding_ms), (arrays.STALE_INDICATOR, c.stale_indicator_ms), (arrays.OI_HORIZON, c.oi_horizon_ms),
            (arrays.DAY_PANES, c.day_panes), (arrays.ATR_FRAME, ATR_FRAME), (arrays.SEEDS, len(_SEEDS)), (arrays.WHALE_FLOW, _WHALE_FLOW),
            (arrays.FLOWING, bool(analytics.groups)), (arrays.MEASURING, bool(c.analytics.measures)), (arrays.VPIN, "vpin" in analytics.groups),
            (arrays.FUNDING, "funding" in analytics.groups), (arrays.DIVERGENCE, "divergence" in analytics.groups),
            (arrays.CORRELATION_PANES, c.correlation_bar_ms // c.grid_ms), (arrays.CORRELATION_BARS, c.correlation_bars),
        ):  # fmt: skip
            whole[column] = value
        limits = np.array([c.print_floor, c.whale_usd])
        return arrays.Numbers(whole, limits, self.window_panes, self.bar_panes, analytics.number, analytics.frame_of)

    @property
    def pending(self) -> I64:
        """Packed pane-instrument-bucket of each trade of an open pane."""
        return self._pending[: self.counter[arrays.PENDING]]

    @pending.setter
    def pending(self, packed: I64) -> None:
        self._pending = packed.copy()
        self.counter[arrays.PENDING] = len(packed)

    # --- instruments -------------------------------------------------------------------------------------------------
    def row(self, name: str) -> int:
        """Return the row of an instrument. A new instrument gets a new row."""
        i = self.index.get(name)
        if i is not None:
            return i
        i = len(self.names)
        if i >= len(self.a["meta"]):
            # Grow by a quarter: an instrument needs half a megabyte, so doubling would waste too much.
            self._grow(i + max(2, i // 4))
        self.names.append(name)
        self.index[name] = i
        meta = self.a["meta"][i]
        meta[col.FIRST_PANE] = -1
        meta[col.LAST_AGG_ID] = -1
        self._set_own_numbers(i, name)
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
        self._market = None
        self._chosen = np.zeros(capacity, dtype=np.bool_)
        self.kept.grow(capacity)
        self.analytics.grow(capacity, n)

    def set_facts(self, name: str, author: str, price_decimals: int, quantity_decimals: int) -> int:
        """Store an instrument's facts and return its row. Finer decimals rescale its sums exactly; coarser ones are ignored."""
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
            self.a[name][i, :, : col.PRICE_VOLUME] *= quantity
            self.a[name][i, :, col.PRICE_VOLUME] *= price * quantity
        self.a["open_price"][i] *= price
        self.a["meta"][i, col.LAST_PRICE] *= price
        self.a["bars"][i, :, :4] *= price
        self.a["atr_waiting"][i, :, atr.HIGH :] *= price
        self.a["bars"][i, :, 4:6] *= quantity
        self.a["p99_lots"][i] *= quantity
        self.a["p99_before"][i] *= quantity
        self.analytics.rescale(i, price, quantity)
        if quantity == 1:
            return
        # A quantile bucket moves by its middle. This adds at most half a bucket of error until a day has passed.
        for pane, entries in self.pane_histogram.items():
            mine = (entries >> 32) == i
            if mine.any():
                moved = entries.copy()
                for e in np.flatnonzero(mine).tolist():
                    bucket = quantile_kernels.bucket_of(int(quantile_kernels.bucket_middle(int(entries[e] >> 16) & 0xFFFF) * quantity))
                    moved[e] = (i << 32) | (bucket << 16) | (int(entries[e]) & 0xFFFF)
                self.pane_histogram[pane] = moved
        self.a["histogram"][i] = 0
        self.a["totals"][i] = 0
        self.a["top"][i] = col.N_BUCKETS - 1
        for entries in self.pane_histogram.values():
            quantile_kernels.add_histogram(entries[(entries >> 32) == i], self.a["histogram"], self.a["totals"])
        mine = ((self.pending >> 16) & 0xFFFF) == i
        for e in np.flatnonzero(mine).tolist():
            packed = int(self.pending[e])
            bucket = quantile_kernels.bucket_of(int(quantile_kernels.bucket_middle(packed & 0xFFFF) * quantity))
            self.pending[e] = (packed & ~0xFFFF) | bucket

    def start(self, i: int, closed: int) -> None:
        """Begin an instrument's panes after pane ``closed``, unless they have begun."""
        if self.a["meta"][i, col.CLOSED] == 0:
            self.a["meta"][i, col.CLOSED] = closed

    # --- trades ------------------------------------------------------------------------------------------------------
    def take_trades(self, trades: arrays.Trades, first: int, stop: int) -> bool:
        """Put rows of agg_trades into their panes.

        Return whether ``finish_trades`` is needed (late or refused rows, prints without room).
        """
        self.counter[arrays.ROW] = stop
        room = self.pending_buffers(stop - first, _NO_ENTRIES, _NO_STARTS, 0)
        left: bool = market_kernels.take_trades(
            first, stop, trades, self.counter, self.market_arrays(), self.analytics.arrays, self.kept.arrays, room, self.numbers
        )
        return left

    def finish_trades(self, trades: arrays.Trades, first: int, stop: int) -> set[int]:
        """Finish the rows that the compiled loop took last: make room for prints, apply late trades.

        Return the closed panes that late trades changed.
        """
        if unkept := int(self.counter[arrays.UNKEPT]):
            self.kept.keep(self.kept.scratch(unkept), unkept)
        changed: set[int] = set()
        if not self.counter[arrays.LATE]:
            return changed
        grid, a = self.config.grid_ms, self.a
        for row in (first + np.flatnonzero(trades.status[first:stop] == col.LATE_ROW)).tolist():
            i, pane, quantity = int(trades.instrument[row]), -(-int(trades.times[row]) // grid), trades.quantities[row]
            if pane_kernels.add_late(
                i, pane, trades.prices[row], quantity, bool(trades.makers[row]), a["meta"], a["scale"], a["cumulative"]
            ):
                changed.add(pane)
                if pane > a["meta"][i, col.CLOSED] - self.config.day_panes:
                    bucket = quantile_kernels.bucket_of(int(np.floor(quantity * a["scale"][i, 1] + 0.5)))
                    entry = np.array([(i << 32) | (bucket << 16) | 1], dtype=np.int64)
                    quantile_kernels.add_histogram(entry, a["histogram"], a["totals"])
                    a["top"][i] = col.N_BUCKETS - 1
                    self.pane_histogram[pane] = np.concatenate([self.pane_histogram.get(pane, entry[:0]), entry])
        return changed

    def market_arrays(self) -> arrays.MarketArrays:
        """Return the arrays as compiled calls take them."""
        if self._market is None:
            self._market = arrays.MarketArrays(**self.a)
        return self._market

    def pending_buffers(self, trades: int, old: I64, old_starts: I64, first_old: int) -> arrays.PendingBuffers:
        """Return the buffers of what waits for its pane or instant, with space for this many more trades."""
        waiting = int(self.counter[arrays.PENDING])
        if waiting + trades > len(self._pending):
            grown = np.empty(2 * (waiting + trades), dtype=np.int64)
            grown[:waiting] = self.pending
            self._pending = grown
        queues = self.analytics.queues(trades)
        return arrays.PendingBuffers(self._pending, self.kept.scratch(trades), *queues, self._chosen, old, old_starts, first_old)

    def put_inputs(self, kind: int, instrument: I64, times: I64, offsets: I64, first: F64, second: F64, use: Any, status: Any) -> None:
        """Apply rows of a slow input; set ``status`` of the used rows."""
        a = self.a
        input_kernels.put_inputs(
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
        """Apply rows of klines. ``use`` marks the rows of the ATR's timeframe. ``status`` of refused rows is set."""
        a, c = self.a, self.config
        atr.put_klines(
            instrument, good, use, times, highs, lows, closes, c.grid_ms, int(self.bar_panes[ATR_FRAME]), c.atr_length,
            a["meta"], a["scale"], a["atr_reached"], a["atr_waiting"], a["atr"], a["atr_history"], status,
        )  # fmt: skip

    def take_events(self, topic: str, columns: Columns, part: slice, instrument: I64, times: I64, status: Any) -> None:
        """Give applied rows of a slow topic to the analytics. ``status`` of the rows that they refuse is set."""
        self.analytics.take(topic, columns, part, instrument, times, status, self.a["meta"], self.a["scale"])

    def put_liquidations(self, instrument: I64, times: I64, sides: I64, prices: F64, quantities: F64, good: Any, status: Any) -> None:
        """Apply rows of liquidations: side 1 for a liquidated LONG, -1 for a SHORT, 0 for neither. ``status`` of refused rows is set."""
        a = self.a
        input_kernels.put_liquidations(
            instrument, times, sides, prices, quantities, good, self.config.grid_ms,
            a["meta"], a["liquidated_pane"], a["liquidated"], a["liquidated_first"], a["liquidated_seen"], a["liquidated_at"], status,
        )  # fmt: skip

    # --- instants ----------------------------------------------------------------------------------------------------
    def leaving_histogram(self, first: int, last: int) -> tuple[I64, I64, list[int]]:
        """Return the day's histogram entries of panes [first, last], where the entries of each pane begin and end, and which panes have any."""
        starts = np.zeros(last - first + 2, dtype=np.int64)
        panes = [pane for pane in range(first, last + 1) if pane in self.pane_histogram] if self.pane_histogram else []
        if not panes:
            return _NO_ENTRIES, starts, panes
        parts = [self.pane_histogram[pane] for pane in panes]
        starts[[pane - first + 1 for pane in panes]] = [len(part) for part in parts]
        return np.concatenate(parts), np.cumsum(starts), panes

    def keep_histogram(self, entries: I64, entry_panes: I64, old: I64, starts: I64, panes: list[int], first: int) -> None:
        """Keep the histogram entries of the panes that were closed; drop those of panes that left the day."""
        histogram = self.pane_histogram
        for pane in panes:
            part = old[starts[pane - first] : starts[pane - first + 1]]
            stays = part[part >= 0]
            if not len(stays):
                del histogram[pane]
            elif len(stays) < len(part):
                histogram[pane] = stays
        n = int(self.counter[arrays.ENTRIES])
        if not n:
            return
        entries, of = entries[:n].copy(), entry_panes[:n]
        stops = [*(np.flatnonzero(of[1:] != of[:-1]) + 1).tolist(), n]
        start = 0
        for pane, stop in zip(of[[stop - 1 for stop in stops]].tolist(), stops, strict=True):
            known = histogram.get(pane)
            part = entries[start:stop]
            histogram[pane] = part if known is None else np.concatenate([known, part])
            start = stop

    def features(self, chosen: I64, pane: int) -> tuple[F64, npt.NDArray[np.int8], I64]:
        """Return the state at instant ``pane * grid``, one row per chosen instrument.

        Features (columns FEATURES, NaN where undefined), states of the inputs (columns INPUTS), the number of trades in the pane, and the
        late trades so far.
        """
        out = np.empty((len(chosen), len(FEATURES)))
        states = np.empty((len(chosen), len(INPUTS)), dtype=np.int8)
        counts = np.empty((len(chosen), 2), dtype=np.int64)
        market_kernels.observe(
            chosen, pane, self.market_arrays(), self.analytics.arrays, self.kept.flows, self.numbers, out, states, counts
        )
        return out, states, counts


_NO_ENTRIES: I64 = np.empty(0, dtype=np.int64)
_NO_STARTS: I64 = np.zeros(2, dtype=np.int64)
