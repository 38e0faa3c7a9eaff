"""The market state's arrays as compiled calls take them; the columns of its counters and of its numbers.

``state``, ``prints`` and ``analytics.store`` own and explain the arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Columns of ``counter``, which is kept between calls. ROW: first trade not taken. PENDING: trades that wait for their panes. UNKEPT: prints
# without room. REPEATED: repeated trades. LATE, REFUSED: of the trades taken last. ENTRIES: histogram entries of this call.
ROW, PENDING, UNKEPT, REPEATED, LATE, REFUSED, ENTRIES = range(7)
N_COUNTER = 7
# Columns of the configuration's whole numbers.
(
    GRID, PRINT_PANES, FAST_WINDOWS, VWAP_PANES, ATR_LENGTH, PERCENTILE_MIN, QUANTILE_MIN, STALE_BOOK, STALE_FUNDING, STALE_INDICATOR, OI_HORIZON,
    DAY_PANES, ATR_FRAME, SEEDS, WHALE_FLOW, FLOWING, MEASURING, VPIN, FUNDING, DIVERGENCE, CORRELATION_PANES, CORRELATION_BARS,
) = range(22)  # fmt: skip
N_WHOLE = 22
PRINT_FLOOR, WHALE_USD = range(2)


class MarketArrays(NamedTuple):
    """The arrays of ``MarketState.a``, one row an instrument."""

    meta: Any
    scale: Any
    holes: Any
    cumulative: Any
    open_sum: Any
    open_price: Any
    open_at: Any
    bars: Any
    atr_reached: Any
    atr_waiting: Any
    atr: Any
    atr_history: Any
    ranked_at: Any
    ranks: Any
    histogram: Any
    totals: Any
    top: Any
    p99_lots: Any
    p99_before: Any
    p99_floor: Any
    quantile_history: Any
    spot: Any
    in_pane: Any
    in_at: Any
    in_value: Any
    first_seen: Any
    funding_most: Any
    liquidated_pane: Any
    liquidated: Any
    liquidated_first: Any
    liquidated_seen: Any
    liquidated_at: Any


class AnalyticsArrays(NamedTuple):
    """The arrays of ``Analytics.a``, one row an instrument."""

    row: Any
    newest_trade: Any
    newest_quote: Any
    products: Any
    flows: Any
    returns: Any
    clock: Any
    buckets: Any
    rate_times: Any
    rates: Any
    rate_counts: Any
    stats: Any
    stats_of: Any
    bars: Any
    bar_history: Any


class PrintArrays(NamedTuple):
    """The arrays of ``PrintStore``."""

    rows: Any
    runs: Any
    at: Any
    counts: Any
    flows: Any


class Numbers(NamedTuple):
    """The configuration: whole numbers and limits (columns above), panes of windows and bars, the numbers of the analytics and their timeframes."""

    whole: Any
    limits: Any
    windows: Any
    bars: Any
    analytics: Any
    frames: Any


class Trades(NamedTuple):
    """Trades as they were fed, one row each. ``status`` receives the status of each row."""

    instrument: Any
    good: Any
    times: Any
    offsets: Any
    ids: Any
    prices: Any
    quantities: Any
    makers: Any
    status: Any


class PendingBuffers(NamedTuple):
    """Buffers of what waits for its pane or instant, with free space, and scratch space.

    Attributes:
        pending: Packed pane-instrument-bucket of trades.
        kept: Receives the prints of the applied trades.
        trades, quotes, liquidations, waiting: Queues of the analytics, and how many entries each has.
        chosen: One flag an instrument, False between uses.
        old, old_starts: Histogram entries of the panes that leave the day, and where those of each pane begin. An entry that has left is
            overwritten with -1.
        first_old: The first of these panes.
    """

    pending: Any
    kept: Any
    trades: Any
    quotes: Any
    liquidations: Any
    waiting: Any
    chosen: Any
    old: Any
    old_starts: Any
    first_old: int
