"""State of the analytics of one partition, beside the market state. Row i is the same instrument in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.codec.columnar import NULL_LONG, Columns
from schemas.partition import base_of_instrument
from stream_apps.core.market import columns as col
from stream_apps.core.market.analytics import compose as c
from stream_apps.core.market.analytics import intake
from stream_apps.core.market.analytics.config import RATES, RING_ROOM, SHORT_RING, AnalyticsConfig
from stream_apps.core.market.analytics.measures import divergence, funding, liquidation, ofi, volatility, vpin
from stream_apps.core.market.arrays import AnalyticsArrays

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

FEATURES: tuple[str, ...] = c.FEATURES
_DAY_MS = 86_400_000
# The arrays of each group of measures. A group that was off when a checkpoint was written starts empty.
_GROUPS: dict[str, frozenset[str]] = {
    "tape": frozenset({"kyle", "volatility", "vpin_bulk"}),
    "quotes": frozenset({"microprice", "ofi"}),
    "liquidation": frozenset({"liquidation"}),
    "funding": frozenset({"funding"}),
    "divergence": frozenset({"divergence"}),
    "vpin": frozenset({"vpin"}),
    "vpin_bulk": frozenset({"vpin_bulk"}),
}
# Array and index of its second axis, per group.
_PARTS: dict[str, tuple[tuple[str, Any], ...]] = {
    "tape": (("row", slice(c.SINCE, c.CLOSE + 1)),),
    "quotes": (("row", slice(c.QUOTE_SINCE, c.ASK_LOTS + 1)),),
    "liquidation": (("row", slice(c.CAP, c.CAP_TIME + 1)),),
    "funding": (),
    "divergence": (("bars", slice(None)), ("bar_history", slice(None))),
    "vpin": (("clock", vpin.TRUE), ("buckets", vpin.TRUE)),
    "vpin_bulk": (("clock", vpin.BULK), ("buckets", vpin.BULK)),
}
_FLOW_COLUMNS = {"tape": [c.X, c.D], "quotes": [c.OFI]}
_WAITING = ("trades", "quotes", "liquidations")
_WAITS_FOR = ("vpin", "quotes", "liquidation")
PANE_WIDTH = 2 + c.N_FLOWS  # of ``intake.pane_rows``: instrument, flows, return
_SUMS = slice(c.SUM_X, c.OFI_SUM + 2)


class AnalyticsDamaged(ValueError):
    """The pane entries do not add up to the sums of the head."""


class Analytics:
    """Analytics of a partition.

    Args:
        config: Numbers.
        grid_ms: Length of a pane.
        ring: Panes of the market state's ring, more than a day.
        frames: Timeframes of the closed bars, by their number there.
        stale_book_ms: Staleness limit of the book (D9).
        filled: Names of the feature columns that the market state fills before ``fill``.

    Raises:
        ValueError: a window is no whole number of panes, or has too many.
    """

    def __init__(
        self,
        config: AnalyticsConfig,
        grid_ms: int,
        ring: int,
        frames: tuple[str, ...],
        stale_book_ms: int,
        filled: tuple[str, ...],
    ) -> None:
        self.config = config
        self.grid_ms = grid_ms
        self.groups = frozenset(group for group, measures in _GROUPS.items() if measures & config.measures)
        number = np.zeros(c.N_NUMBERS, dtype=np.int64)
        number[c.GRID] = grid_ms
        number[c.KYLE_PANES] = config.kyle_panes(grid_ms)
        self._short_ring = max(SHORT_RING, int(number[c.KYLE_PANES]) + RING_ROOM)
        number[c.RV_PANES : c.RV_PANES + 3] = [window // grid_ms for window in volatility.WINDOWS_MS]
        number[c.OFI_PANES : c.OFI_PANES + 2] = [window // grid_ms for window in ofi.WINDOWS_MS]
        number[c.DAY_PANES] = _DAY_MS // grid_ms
        number[c.BUCKETS_PER_DAY] = config.vpin_buckets_per_day
        number[c.STALE_BOOK] = stale_book_ms
        number[c.FUNDING_WINDOW], number[c.FUNDING_MIN] = config.funding_window_ms, config.funding_min
        number[c.BARS_BEFORE] = config.divergence_bars
        number[c.PANES_A_YEAR] = volatility.YEAR_MS // grid_ms
        number[c.TAPE_ON], number[c.QUOTES_ON] = "tape" in self.groups, "quotes" in self.groups
        for column, measure in (
            (c.MICROPRICE_ON, "microprice"), (c.OFI_ON, "ofi"), (c.VPIN_ON, "vpin"), (c.BULK_ON, "vpin_bulk"), (c.KYLE_ON, "kyle"),
            (c.VOLATILITY_ON, "volatility"), (c.LIQUIDATION_ON, "liquidation"), (c.FUNDING_ON, "funding"), (c.BASIS_ON, "basis"),
            (c.DIVERGENCE_ON, "divergence"),
        ):  # fmt: skip
            number[column] = config.on(measure)
        for column, name in (
            (c.LONGS_AT, "liquidated_long_5m"), (c.SHORTS_AT, "liquidated_short_5m"), (c.RATE_AT, "estimated_funding_rate"), (c.MARK_AT, "mark_price"),
            (c.INDEX_AT, "index_price"),
        ):  # fmt: skip
            number[column] = filled.index(name)
        self.number = number
        self.frame_of = np.array([divergence.TIMEFRAMES.index(f) if f in divergence.TIMEFRAMES else -1 for f in frames], dtype=np.int64)
        self._shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "row": ((c.N_ROW,), np.int64),
            "newest_trade": ((2,), np.int64),
            "newest_quote": ((2,), np.int64),
            "products": ((c.N_PRODUCTS, 2), np.uint64),
            "flows": ((self._short_ring, c.N_FLOWS), np.int64),
            "returns": ((ring if "tape" in self.groups else 1,), np.int64),
            "clock": ((2, vpin.N_CLOCK), np.int64),
            "buckets": ((2, config.vpin_buckets, 2), np.int64),
            "rate_times": ((2, RATES), np.int64),
            "rates": ((2, RATES), np.float64),
            "rate_counts": ((2, 2), np.int64),
            "stats": ((2, 2), np.float64),
            "stats_of": ((2, 3), np.int64),
            "bars": ((3, 3), np.int64),
            "bar_history": ((3, config.divergence_bars, 2), np.int64),
        }
        self.a: dict[str, Array] = {name: np.zeros((0, *shape), dtype) for name, (shape, dtype) in self._shapes.items()}
        self.arrays = AnalyticsArrays(**self.a)
        self._waiting = np.zeros(c.N_WAITING, dtype=np.int64)
        widths = (c.TRADE_WIDTH, c.QUOTE_WIDTH, c.LIQUIDATION_WIDTH)
        self._queues: list[I64] = [np.empty((256, width), dtype=np.int64) for width in widths]

    def use(self, config: AnalyticsConfig, stale_book_ms: int) -> None:
        """Use other numbers from the next instant on: those of the funding z-score, and the staleness limit of the book."""
        self.config = config
        self.number[c.STALE_BOOK] = stale_book_ms
        self.number[c.FUNDING_WINDOW], self.number[c.FUNDING_MIN] = config.funding_window_ms, config.funding_min

    # --- instruments -------------------------------------------------------------------------------------------------
    def grow(self, capacity: int, n: int) -> None:
        """Make room for more instruments; the first ``n`` rows stay."""
        for name, (shape, dtype) in self._shapes.items():
            grown = np.zeros((capacity, *shape), dtype)
            grown[:n] = self.a[name][:n]
            self.a[name] = grown
        for column in (c.SINCE, c.QUOTE_SINCE, c.QUOTE_TIME, c.CAP, c.CAP_TIME):
            self.a["row"][n:, column] = -1
        self.arrays = AnalyticsArrays(**self.a)

    def set_facts(self, i: int, name: str, quantity_decimals: int) -> None:
        """Set an instrument's bucket volume: the configured one of its base asset, else computed from its own volume (see vpin)."""
        try:
            volume = self.config.vpin_bucket.get(base_of_instrument(name))
        except ValueError:
            volume = None  # an id of unknown form
        self.a["row"][i, c.AUTOMATIC] = volume is None
        if volume is not None:
            self.a["clock"][i, :, vpin.NEXT] = max(1, int(np.floor(volume * 10.0**quantity_decimals + 0.5)))

    def rescale(self, i: int, price: int, quantity: int) -> None:
        """Rescale to finer decimals: multiply ticks by ``price`` and lots by ``quantity``."""
        a = self.a
        row = a["row"][i]
        row[[c.CLOSE, c.SUM_D, c.BID, c.ASK]] *= price
        row[[c.SUM_X, c.OFI_SUM, c.OFI_SUM + 1, c.BID_LOTS, c.ASK_LOTS]] *= quantity
        a["flows"][i, :, [c.X, c.OFI]] *= quantity
        a["flows"][i, :, c.D] *= price
        a["clock"][i][:, [vpin.SIZE, vpin.NEXT, vpin.BUY, vpin.SELL, vpin.IMBALANCE, vpin.VOLUME]] *= quantity
        a["buckets"][i] *= quantity
        a["bars"][i, :, divergence.CVD] *= quantity
        a["bar_history"][i, :, :, 0] *= price
        a["bar_history"][i, :, :, 1] *= quantity
        for which, factor in ((c.XX, quantity * quantity), (c.XD, price * quantity), (c.DD, price * price)):
            lo, hi = a["products"][i, which].tolist()
            total = ((hi << 64 | lo) * factor) % (1 << 128)
            a["products"][i, which] = (total & (1 << 64) - 1, total >> 64)
        for queue, n, prices, quantities in zip(
            self._queues[:2], self._waiting[:2].tolist(), ([], [3, 5]), ([3], [4, 6]), strict=True
        ):  # fmt: skip
            mine = np.flatnonzero(queue[:n, c.INSTRUMENT] == i)
            for column in prices:
                queue[mine, column] *= price
            for column in quantities:
                queue[mine, column] *= quantity

    # --- intake ------------------------------------------------------------------------------------------------------
    def _room(self, which: int, more: int) -> tuple[I64, int]:
        queue, n = self._queues[which], int(self._waiting[which])
        if n + more > len(queue):
            grown = np.empty((2 * (n + more), queue.shape[1]), dtype=np.int64)
            grown[:n] = queue[:n]
            self._queues[which] = queue = grown
        return queue, n

    def queues(self, trades: int) -> tuple[I64, I64, I64, I64]:
        """Return the queues of what waits for its instant, with room for this many more trades: trades, quotes, liquidations, and the size of each."""
        if "vpin" in self.groups:
            self._room(0, trades)
        trades_waiting, quotes, liquidations = self._queues
        return trades_waiting, quotes, liquidations, self._waiting

    def take(self, topic: str, columns: Columns, part: slice, instrument: I64, times: I64, status: Array, meta: I64, scale: F64) -> None:
        """Take rows of another topic; set the status of refused rows."""
        good = columns.good[part]
        if topic == "quotes" and "quotes" in self.groups:
            queue, n = self._room(1, len(times))
            self._waiting[1], mixed = intake.add_quotes(
                instrument, good, status, times, columns.long("update_id")[part], columns.double("bid_price")[part], columns.double("bid_quantity")[part],
                columns.double("ask_price")[part], columns.double("ask_quantity")[part], scale, self.a["newest_quote"], queue, n,
            )  # fmt: skip
            if mixed:
                self._waiting[c.QUOTES_MIXED] = 1
        elif topic == "liquidations" and "liquidation" in self.groups:
            chosen = np.flatnonzero(good & (status == col.APPLIED))
            caps = columns.long("sampling_cap_ms")[part][chosen]
            queue, n = self._room(2, len(chosen))
            queue[n : n + len(chosen)] = np.stack(
                [instrument[chosen], times[chosen], np.where(caps == NULL_LONG, liquidation.NO_CAP, caps)], axis=1
            )
            self._waiting[2] = n + len(chosen)
        elif topic == "funding" and "funding" in self.groups:
            settled = columns.double("settled_rate")[part]
            use = good & np.isfinite(settled)
            if use.any():
                intake.check(instrument, use, times, status, self.grid_ms, meta)
                a = self.a
                funding.put_settled(instrument, use, status, times, settled, a["rate_times"], a["rates"], a["rate_counts"])

    # --- durability --------------------------------------------------------------------------------------------------
    def head(self, n: int) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return settings and arrays of the first ``n`` instruments, except what the pane entries hold."""
        a = self.a
        arrays = {f"analytics.{name}": a[name][:n] for name in ("row", "products", "clock", "buckets", "bars", "bar_history")}
        used = np.arange(RATES) < a["rate_counts"][:n, :, :1]
        where = np.nonzero(used)
        arrays["analytics.rate_index"] = np.stack(where)
        arrays["analytics.rate_times"], arrays["analytics.rates"] = a["rate_times"][where], a["rates"][where]
        for name, queue, waiting in zip(_WAITING, self._queues, self._waiting[:3].tolist(), strict=True):
            arrays[f"analytics.{name}"] = queue[:waiting]
        return self._meta(), arrays

    def _meta(self) -> dict[str, Any]:
        return {"groups": sorted(self.groups), "kyle_panes": int(self.number[c.KYLE_PANES])}

    def restore(self, n: int, meta: dict[str, Any] | None, arrays: dict[str, Array], closed: I64, panes: list[tuple[int, I64]]) -> None:
        """Restore from a checkpoint: ``meta`` and ``arrays`` of its head (None: it had no analytics), rows of its panes.

        A group of measures that the checkpoint lacks, or has with other lengths, starts empty.

        Raises:
            AnalyticsDamaged: the panes do not add up to the sums of the head.
        """
        if meta is None:
            return
        set_here = self.a["row"][:n, c.AUTOMATIC] == 0
        sizes = self.a["clock"][:n, :, vpin.NEXT].copy()
        kept = {group for group in set(meta["groups"]) & self.groups if self._fits(group, arrays)}
        for group in kept:
            for name, index in _PARTS[group]:
                self.a[name][:n, index] = arrays[f"analytics.{name}"][:, index]
        self.a["clock"][:n, :, vpin.NEXT][set_here] = sizes[set_here]  # a configured size replaces the stored one
        for which, (name, group) in enumerate(zip(_WAITING, _WAITS_FOR, strict=True)):
            if group in kept:
                waiting = arrays[f"analytics.{name}"]
                queue, _ = self._room(which, len(waiting))
                queue[: len(waiting)] = waiting
                self._waiting[which] = len(waiting)
        for which, name in enumerate(("newest_trade", "newest_quote")):
            self._waiting[c.TRADES_MIXED + which] = 1  # the checkpoint does not say whether they are sorted
            for i, time, number in self._queues[which][: self._waiting[which], :3].tolist():
                self.a[name][i] = max(tuple(self.a[name][i].tolist()), (time, number))
        if "funding" in kept:
            i, kind, slot = arrays["analytics.rate_index"]
            self.a["rate_times"][i, kind, slot], self.a["rates"][i, kind, slot] = arrays["analytics.rate_times"], arrays["analytics.rates"]
            np.add.at(self.a["rate_counts"][:, :, 0], (i, kind), 1)
            self.a["rate_counts"][:n, :, 1] = 1
        self._restore_panes(n, kept, closed, panes)
        begun = np.flatnonzero(closed > 0)
        c.resum(begun, closed[begun], self.number, self.a["row"], self.a["products"], self.a["flows"], self.a["returns"])
        if set(meta["groups"]) == kept == self.groups and meta == self._meta():
            same = np.array_equal(self.a["row"][begun, _SUMS], arrays["analytics.row"][begun, _SUMS])
            if not (same and np.array_equal(self.a["products"][begun], arrays["analytics.products"][begun])):
                raise AnalyticsDamaged("state changelog: the flows in the panes do not add up to the sums of the head")

    def _fits(self, group: str, arrays: dict[str, Array]) -> bool:
        return all(arrays[f"analytics.{name}"].shape[1:] == self.a[name].shape[1:] for name, _ in _PARTS[group])

    def _restore_panes(self, n: int, kept: set[str], closed: I64, panes: list[tuple[int, I64]]) -> None:
        columns = [column for group in kept for column in _FLOW_COLUMNS.get(group, ())]
        for pane, rows in panes:
            rows = rows[rows[:, 0] < n]
            i = rows[:, 0]
            held = (pane <= closed[i]) & (pane > closed[i] - self._short_ring)
            for column in columns:
                self.a["flows"][i[held], pane % self._short_ring, column] = rows[held, 1 + column]
            if "tape" in kept:
                ring = self.a["returns"].shape[1]
                held = (pane <= closed[i]) & (pane > closed[i] - ring)
                self.a["returns"][i[held], pane % ring] = rows[held, -1]
