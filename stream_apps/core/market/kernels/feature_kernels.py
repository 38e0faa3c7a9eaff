"""Compiled writing of feature rows: the state of an instrument at an instant.

``state`` owns and explains the arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.kernel_fingerprint import stamp
from stream_apps.core.market.columns import (
    ATR_COUNT,
    ATR_LOW_BARS,
    BUY,
    COUNT,
    FIRST_PANE,
    FIVE_MINUTES_MS,
    FUNDING,
    HOUR_MS,
    INDEX,
    LAST_PRICE,
    LATE,
    LONG_SHORT,
    MARK,
    MINUTE_MS,
    MISSING,
    OBI,
    OPEN_INTEREST,
    PREMIUM,
    PRESENT,
    PRICE_VOLUME,
    QUOTE,
    SELL,
    SLOTS,
    STALE,
    TOP_TRADER,
)
from stream_apps.core.market.kernels import input_kernels, quantile_kernels
from stream_apps.core.market.kernels.input_kernels import newest_input
from stream_apps.core.market.kernels.quantile_kernels import upper_quantiles


@njit(cache=True, nogil=True)
def _rank_atr(i: int, percentile_min: int, meta: Any, atr_history: Any, ranks: Any) -> None:
    """Write the percentile rank of the newest ATR within the history (S1 2.3), and the smallest rank of the last 12 closed-bar ATRs.

    Each of the 12 is ranked among the ATRs up to it that the history still holds (S2 6, 7). NaN where there are too few.
    """
    ranks[i, 0] = np.nan
    ranks[i, 1] = np.nan
    length = atr_history.shape[1]
    count = meta[i, ATR_COUNT]
    oldest = max(0, count - length)
    for newest in range(count - 1, max(count - 1 - ATR_LOW_BARS, -1), -1):
        known = newest - oldest + 1
        if known < percentile_min:
            break
        value = atr_history[i, newest % length]
        below = 0
        for h in range(oldest, newest + 1):
            if atr_history[i, h % length] <= value:
                below += 1
        percentile = 100.0 * below / known
        if newest == count - 1:
            ranks[i, 0] = percentile
        if np.isnan(ranks[i, 1]) or percentile < ranks[i, 1]:
            ranks[i, 1] = percentile


@njit(cache=True, nogil=True)
def _fill_model_features(
    i: int, pane: int, grid: int, history: int, base: int, scale: Any, cumulative: Any, funding_most: Any, liquidated_pane: Any, liquidated: Any,
    liquidated_first: Any, out: Any,
) -> None:  # fmt: skip
    """Fill the columns that only the older scoring models read (S2 6, 7), from ``base`` on; NaN where undefined.

    In order: volume_1m; slope_1h; after atr_percentile_low: funding_rate_max, the largest |rate| so far; notional of liquidated LONG and
    SHORT positions in (T - 5 min, T].
    """
    ring = cumulative.shape[1]
    now = pane % ring
    minute = MINUTE_MS // grid
    if history >= minute:
        then = (pane - minute) % ring
        out[base] = (cumulative[i, now, BUY] - cumulative[i, then, BUY] + cumulative[i, now, SELL] - cumulative[i, then, SELL]) / scale[
            i, 1
        ]
    hour = HOUR_MS // grid
    if history >= hour + 1:
        lots = 0
        for back in range(2):
            newer = (pane - back) % ring
            older = (pane - back - hour) % ring
            cvd = (cumulative[i, newer, BUY] - cumulative[i, older, BUY]) - (cumulative[i, newer, SELL] - cumulative[i, older, SELL])
            lots += cvd if back == 0 else -cvd
        out[base + 1] = lots / scale[i, 1]
    if funding_most[i] > 0.0:
        out[base + 3] = funding_most[i]
    if liquidated_first[i] <= pane * grid:
        longs = 0
        shorts = 0
        for k in range(pane - FIVE_MINUTES_MS // grid + 1, pane + 1):
            if liquidated_pane[i, k % SLOTS] == k:
                longs += liquidated[i, k % SLOTS, 0]
                shorts += liquidated[i, k % SLOTS, 1]
        out[base + 4] = longs / 100.0
        out[base + 5] = shorts / 100.0


def _make_fill_features(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def fill_features(
        chosen: Any, spot: Any, pane: int, grid: int, window_panes: Any, fast_windows: int, vwap_panes: int, atr_length: int, percentile_min: int,
        quantile_min: int, stale_book: int, stale_funding: int, stale_indicator: int, oi_horizon: int, p99_floor: Any, quantile_history: Any,
        meta: Any, scale: Any, cumulative: Any, atr: Any, atr_history: Any, atr_reached: Any, ranked_at: Any, ranks: Any,
        histogram: Any, totals: Any, top: Any, p99_lots: Any, p99_before: Any,
        in_pane: Any, in_at: Any, in_value: Any, first_seen: Any, funding_most: Any, liquidated_pane: Any, liquidated: Any, liquidated_first: Any,
        out: Any, states: Any, counts: Any,
    ) -> None:  # fmt: skip
        """Fill one row of features per chosen instrument at instant ``pane * grid``; NaN where undefined. Column order: ``state.FEATURES``.

        ``counts`` receives the number of trades in the pane and the late trades so far.
        """
        stamp  # noqa: B018 - see analytics/compose: the compiled code is kept by what it closes over
        ring = cumulative.shape[1]
        instant = pane * grid
        windows = len(window_panes)
        for c in range(len(chosen)):
            i = chosen[c]
            for j in range(out.shape[1]):
                out[c, j] = np.nan
            for j in range(states.shape[1]):
                states[c, j] = PRESENT
            out[c, 0] = meta[i, LAST_PRICE] / scale[i, 0]
            history = pane - meta[i, FIRST_PANE] + 1  # known whole panes, including this one
            now = pane % ring
            counts[c, 0] = cumulative[i, now, COUNT] - cumulative[i, (pane - 1) % ring, COUNT]
            counts[c, 1] = meta[i, LATE]
            for w in range(windows):
                length = window_panes[w]
                if history < length:
                    states[c, w] = MISSING
                    continue
                then = (pane - length) % ring
                buys = cumulative[i, now, BUY] - cumulative[i, then, BUY]
                sells = cumulative[i, now, SELL] - cumulative[i, then, SELL]
                out[c, 1 + w] = (buys - sells) / scale[i, 1]
                out[c, 1 + windows + w] = (buys + sells) / scale[i, 1]
            base = 1 + 2 * windows
            for w in range(fast_windows):
                length = window_panes[w]
                lots = np.zeros(3, dtype=np.int64)
                for back in range(3):
                    newer = (pane - back) % ring
                    older = (pane - back - length) % ring
                    lots[back] = (cumulative[i, newer, BUY] - cumulative[i, older, BUY]) - (
                        cumulative[i, newer, SELL] - cumulative[i, older, SELL]
                    )
                if history >= length + 1:
                    out[c, base + 2 * w] = (lots[0] - lots[1]) / scale[i, 1]
                if history >= length + 2:
                    out[c, base + 2 * w + 1] = (lots[0] - 2 * lots[1] + lots[2]) / scale[i, 1]
            base += 2 * fast_windows
            if history >= vwap_panes:
                then = (pane - vwap_panes) % ring
                volume = cumulative[i, now, BUY] - cumulative[i, then, BUY] + cumulative[i, now, SELL] - cumulative[i, then, SELL]
                if volume > 0:
                    out[c, base] = (cumulative[i, now, PRICE_VOLUME] - cumulative[i, then, PRICE_VOLUME]) / volume / scale[i, 0]
            state = windows
            if atr[i, 2] >= atr_length:
                out[c, base + 1] = atr[i, 3]
                if ranked_at[i] != atr_reached[i]:  # the ranks change with a bar, not with an instant
                    _rank_atr(i, percentile_min, meta, atr_history, ranks)
                    ranked_at[i] = atr_reached[i]
                out[c, base + 2] = ranks[i, 0]
                out[c, base + 19] = ranks[i, 1]
            else:
                states[c, state] = MISSING
            state += 1
            p99_before[i] = p99_lots[i]
            if totals[i] >= quantile_min:
                p95, p99 = upper_quantiles(i, histogram, totals, top)
                p95 = max(p95, p99_floor[i] / 2.0 * scale[i, 1])
                p99 = max(p99, p99_floor[i] * scale[i, 1])
                p99_lots[i] = p99
                out[c, base + 3] = p95 / scale[i, 1]
                out[c, base + 4] = p99 / scale[i, 1]
            else:
                p99_lots[i] = 0.0
            # A quantile of a part of its window is a feature already, but no ground for a decision (D11).
            if totals[i] < quantile_min or history * grid < quantile_history[i]:
                states[c, state] = MISSING
            state += 1
            obi_state, obi, _ = newest_input(i, OBI, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
            out[c, base + 5] = obi
            states[c, state] = obi_state
            state += 1
            quote_state, bid, ask = newest_input(i, QUOTE, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
            out[c, base + 6] = bid
            out[c, base + 7] = ask
            states[c, state] = quote_state
            state += 1
            mark_state, mark, _ = newest_input(i, MARK, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
            out[c, base + 8] = mark
            states[c, state] = mark_state
            state += 1
            _, out[c, base + 9], _ = newest_input(i, INDEX, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
            funding_state, out[c, base + 10], _ = newest_input(
                i, FUNDING, instant, stale_funding, grid, in_pane, in_at, in_value, first_seen
            )
            states[c, state] = funding_state
            state += 1
            spot_state, spot_bid, spot_ask = newest_input(spot[c], QUOTE, instant, stale_book, grid, in_pane, in_at, in_value, first_seen)
            if spot_state == PRESENT and mark_state == PRESENT and mark > 0.0:
                out[c, base + 11] = ((spot_bid + spot_ask) / 2.0 - mark) / mark
            else:
                states[c, state] = MISSING if spot_state == MISSING or mark_state == MISSING else STALE
            state += 1
            oi_state, oi, _ = newest_input(i, OPEN_INTEREST, instant, stale_indicator, grid, in_pane, in_at, in_value, first_seen)
            out[c, base + 12] = oi
            if oi_state == PRESENT:
                before_state, before, _ = newest_input(
                    i, OPEN_INTEREST, instant - oi_horizon, stale_indicator, grid, in_pane, in_at, in_value, first_seen
                )
                if before_state == PRESENT and before > 0.0:
                    out[c, base + 13] = (oi - before) / before
                else:
                    oi_state = before_state if before_state != PRESENT else MISSING
            states[c, state] = oi_state
            state += 1
            for kind in (LONG_SHORT, TOP_TRADER, PREMIUM):
                found, value, _ = newest_input(i, kind, instant, stale_indicator, grid, in_pane, in_at, in_value, first_seen)
                out[c, base + 14 + kind - LONG_SHORT] = value
                states[c, state] = found
                state += 1
            _fill_model_features(
                i, pane, grid, history, base + 17, scale, cumulative, funding_most, liquidated_pane, liquidated, liquidated_first, out[c]
            )  # fmt: skip

    return fill_features


fill_features = _make_fill_features(stamp(input_kernels, quantile_kernels))
