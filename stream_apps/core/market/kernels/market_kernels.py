"""Compiled calls over the whole market state: trades into panes, panes closed, features written.

An engine's own compiled loop calls them. Each kind of work exists once, for one instant in a call or for many.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from stream_apps.core.kernel_fingerprint import stamp
from stream_apps.core.market import arrays, atr
from stream_apps.core.market import columns as col
from stream_apps.core.market.analytics import compose, int128, intake
from stream_apps.core.market.analytics.measures import basis, divergence, funding, kyle, liquidation, microprice, ofi, volatility, vpin
from stream_apps.core.market.arrays import (
    ATR_FRAME,
    ATR_LENGTH,
    DAY_PANES,
    DIVERGENCE,
    ENTRIES,
    FAST_WINDOWS,
    FLOWING,
    FUNDING,
    GRID,
    LATE,
    MEASURING,
    OI_HORIZON,
    PENDING,
    PERCENTILE_MIN,
    PRINT_FLOOR,
    PRINT_PANES,
    QUANTILE_MIN,
    REFUSED,
    REPEATED,
    SEEDS,
    STALE_BOOK,
    STALE_FUNDING,
    STALE_INDICATOR,
    UNKEPT,
    VPIN,
    VWAP_PANES,
    WHALE_FLOW,
    WHALE_USD,
)
from stream_apps.core.market.kernels import feature_kernels, input_kernels, pane_kernels, print_kernels, quantile_kernels


def _make_take_trades(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def take_trades(first: int, stop: int, trades: Any, counter: Any, m: Any, a: Any, prints: Any, room: Any, numbers: Any) -> Any:
        """Put trades into their open panes.

        Return whether work is left for ``finish_trades`` (late or refused rows, prints without room).
        """
        stamp  # noqa: B018 - see analytics/compose: the compiled code is kept by what it closes over
        whole = numbers.whole
        instrument, times, ids = trades.instrument[first:stop], trades.times[first:stop], trades.ids[first:stop]
        quantities, makers, status = trades.quantities[first:stop], trades.makers[first:stop], trades.status[first:stop]
        counter[PENDING], kept, counter[LATE], repeated, counter[REFUSED] = pane_kernels.apply_trades(
            instrument, trades.good[first:stop], times, trades.offsets[first:stop], ids, trades.prices[first:stop], quantities, makers,
            whole[GRID], numbers.limits[PRINT_FLOOR], m.meta, m.scale, m.holes, m.p99_lots, m.p99_before, m.open_sum, m.open_price, m.open_at,
            room.pending, counter[PENDING], status, room.kept,
        )  # fmt: skip
        counter[REPEATED] += repeated
        if whole[VPIN]:
            room.waiting[0], mixed = intake.add_trades(
                instrument, status, times, ids, quantities, makers, m.scale, a.newest_trade, room.trades, room.waiting[0]
            )
            if mixed:
                room.waiting[compose.TRADES_MIXED] = 1
        counter[UNKEPT] = 0
        if kept and not print_kernels.keep(room.kept, kept, whole[GRID], whole[PRINT_PANES], prints.rows, prints.runs, prints.at):
            counter[UNKEPT] = kept
        return counter[LATE] > 0 or counter[REFUSED] > 0 or counter[UNKEPT] > 0

    return take_trades


def _make_close(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def close(
        chosen: Any, first: int, pane: int, bars: int, counter: Any, m: Any, a: Any, prints: Any, room: Any, numbers: Any, found: Any
    ) -> Any:
        """Close the panes up to ``pane`` of the chosen instruments.

        ``first``: the first open pane of any of them. Returns the number of bars so far.
        """
        stamp  # noqa: B018
        whole = numbers.whole
        input_kernels.track_funding(chosen, pane, m.meta, m.in_pane, m.in_value, m.funding_most)
        if whole[FLOWING]:
            compose.close(
                chosen, pane, numbers.analytics, m.meta, m.cumulative, m.open_sum, m.open_price, a.row, a.products, a.flows, a.returns, a.clock,
                a.buckets, room.trades, room.quotes, room.liquidations, room.waiting,
            )  # fmt: skip
        if whole[FUNDING]:
            hour = pane * whole[GRID] // funding.SAMPLE_MS * funding.SAMPLE_MS
            if hour > (first - 1) * whole[GRID]:
                compose.sample(
                    chosen, hour, whole[STALE_FUNDING], whole[GRID], m.meta, m.in_pane, m.in_at, m.in_value, m.first_seen,
                    a.rate_times, a.rates, a.rate_counts,
                )  # fmt: skip
        closed = bars + pane_kernels.close_panes(
            chosen, pane, numbers.bars, whole[ATR_FRAME], whole[ATR_LENGTH], m.meta, m.scale, m.cumulative, m.open_sum, m.open_price, m.bars,
            m.atr_reached, m.atr_waiting, m.atr, m.atr_history, found.bars[bars:],
        )  # fmt: skip
        at, day = counter[ENTRIES], whole[DAY_PANES]
        if counter[PENDING]:
            counter[PENDING], entries = quantile_kernels.take_due(
                room.pending[: counter[PENDING]], chosen, pane, pane - day, room.chosen, found.entries[at:], found.entry_panes[at:],
                m.histogram, m.totals, m.top,
            )  # fmt: skip
            counter[ENTRIES] = at + entries
        begin, end = room.old_starts[first - day - room.first_old], room.old_starts[pane - day + 1 - room.first_old]
        if end > begin:
            quantile_kernels.take_away(room.old[begin:end], chosen, room.chosen, m.histogram, m.totals)
        print_kernels.advance(
            chosen,
            pane,
            whole[GRID],
            whole[PRINT_PANES],
            numbers.limits[WHALE_USD],
            prints.rows,
            prints.runs,
            prints.at,
            prints.counts,
            prints.flows,
        )
        if whole[DIVERGENCE] and closed > bars:
            divergence.close_bars(found.bars[bars:closed], numbers.frames, a.bars, a.bar_history)
        return closed

    return close


def _make_observe(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def observe(chosen: Any, pane: int, m: Any, a: Any, flows: Any, numbers: Any, features: Any, states: Any, counts: Any) -> None:
        """Write the state of the chosen instruments at the instant that ends ``pane``, one row each."""
        stamp  # noqa: B018
        whole = numbers.whole
        spot = m.spot[chosen]
        feature_kernels.fill_features(
            chosen, spot, pane, whole[GRID], numbers.windows, whole[FAST_WINDOWS], whole[VWAP_PANES], whole[ATR_LENGTH], whole[PERCENTILE_MIN],
            whole[QUANTILE_MIN], whole[STALE_BOOK], whole[STALE_FUNDING], whole[STALE_INDICATOR], whole[OI_HORIZON], m.p99_floor, m.quantile_history,
            m.meta, m.scale, m.cumulative, m.atr, m.atr_history, m.atr_reached, m.ranked_at, m.ranks, m.histogram, m.totals, m.top, m.p99_lots, m.p99_before,
            m.in_pane, m.in_at, m.in_value, m.first_seen, m.funding_most, m.liquidated_pane, m.liquidated, m.liquidated_first,
            features, states, counts,
        )  # fmt: skip
        for c in range(len(chosen)):
            features[c, whole[WHALE_FLOW]] = flows[chosen[c]]
        if whole[MEASURING]:
            compose.fill(
                chosen, spot, pane, numbers.analytics, m.scale, m.in_pane, m.in_at, m.in_value, m.first_seen, a.row, a.products, a.clock, a.buckets,
                a.rate_times, a.rates, a.rate_counts, a.stats, a.stats_of, a.bars, whole[SEEDS], features,
            )  # fmt: skip

    return observe


_STAMP = stamp(
    arrays, col, feature_kernels, input_kernels, pane_kernels, print_kernels, quantile_kernels, atr, basis, compose, divergence, funding, intake, kyle,
    liquidation, microprice, ofi, volatility, vpin, int128,
)  # fmt: skip
take_trades = _make_take_trades(_STAMP)
close = _make_close(_STAMP)
observe = _make_observe(_STAMP)
