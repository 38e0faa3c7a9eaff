"""The compiled loop over instants: trades into panes, panes closed, features written, strategies scored.

One call works off as many instants as follow one another with nothing but trades between them: one while the market is live, hundreds while a worker
catches up or history is replayed, when what an instant costs in Python would be most of it. What is rare (a new instrument, a late or a refused trade, a
signal) ends the call where it happens; ``engine`` does it and goes on behind it. So each kind of work stands once, whatever the number of instants.

``state``, ``prints``, ``analytics.store`` and ``scoring.batch`` own and explain the arrays; here they are only handed through.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from stream_apps.core import atr
from stream_apps.core import kernels as k
from stream_apps.core import print_kernels as pk
from stream_apps.core.analytics import (
    basis,
    compose,
    divergence,
    funding,
    intake,
    kyle,
    liquidation,
    microprice,
    ofi,
    volatility,
    vpin,
    wide,
)
from stream_apps.core.analytics.stamp import stamp
from stream_apps.core.scoring import kernel as sk

# Columns of the steps, a row an instant: whose instruments fire (a stretch of ``members``), the pane that ends there, the end of the trades that come
# before it, and the time of the mark that fires it, ms UTC.
FIRST_MEMBER, LAST_MEMBER, PANE, STOP, DECIDED = range(5)
N_STEP = 5
# Of ``ends``: the ends of an instant's features, bars and scores, and the first pane that was open (-1: it closed none).
ROWS, BARS, SCORES, OPENED = range(4)
N_ENDS = 4
# Of ``counter``, which outlives a call: the first trade not taken, how many trades wait for their panes, prints that found no room, trades that came again;
# and of the trades that were taken last, how many were late or refused. ENTRIES: of the histogram, this call's.
ROW, PENDING, UNKEPT, REPEATED, LATE, REFUSED, ENTRIES = range(7)
N_COUNTER = 7
# Why a call ended: nothing was left; before trades of an instrument that has not begun; after trades of which some are late, refused or without room for
# their prints; after an instant with a signal.
DONE, NEW_INSTRUMENT, TRADES_LEFT, SIGNAL = range(4)
# Whole numbers of the configuration.
(
    GRID, PRINT_PANES, FAST_WINDOWS, VWAP_PANES, ATR_LENGTH, PERCENTILE_MIN, QUANTILE_MIN, STALE_BOOK, STALE_FUNDING, STALE_INDICATOR, OI_HORIZON,
    DAY_PANES, ATR_FRAME, SEEDS, WHALE_FLOW, FLOWING, MEASURING, VPIN, FUNDING, DIVERGENCE,
) = range(20)  # fmt: skip
N_WHOLE = 20
PRINT_FLOOR, WHALE_USD = range(2)
N_RESULT = sk.N_RESULT


class MarketArrays(NamedTuple):
    """The arrays of ``MarketState.a``, a row an instrument."""

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
    """The arrays of ``Analytics.a``, a row an instrument."""

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
    """The configuration: whole numbers and limits (columns above), panes of the windows and of the bars, the analytics' numbers and their timeframes."""

    whole: Any
    limits: Any
    windows: Any
    bars: Any
    analytics: Any
    frames: Any


class Trades(NamedTuple):
    """Trades as they were fed, a row each; ``status`` takes what becomes of them."""

    instrument: Any
    good: Any
    times: Any
    offsets: Any
    ids: Any
    prices: Any
    quantities: Any
    makers: Any
    status: Any


class Room(NamedTuple):
    """What waits for its pane or its instant, with room behind it, and scratch.

    Attributes:
        pending: Packed pane-instrument-bucket of trades.
        kept: Takes the prints of the trades that are taken.
        trades, quotes, liquidations, waiting: Queues of the analytics and how many wait in each.
        chosen: A place an instrument, False between uses.
        old, old_starts: Entries of the histogram of the panes that leave the day, and where each pane's begin; -1 is written over those that left.
        first_old: The pane of the first of them.
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


class Desk(NamedTuple):
    """The strategies: those of an instrument by its row (``starts``, ``places``), bytes of all their scores at most, what flows they ask for, the tables."""

    starts: Any
    places: Any
    size: int
    least: Any
    of_whales: Any
    columns: Any
    regimes: Any
    tables: Any


class Found(NamedTuple):
    """Takes what the instants give: rows of features one behind the other, bars, entries of the histogram, evaluations."""

    ends: Any
    instruments: Any
    features: Any
    states: Any
    counts: Any
    prints: Any
    bars: Any
    entries: Any
    entry_panes: Any
    asked: Any
    flows: Any
    results: Any
    values: Any
    scores: Any


def _make_take_trades(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def take_trades(first: int, stop: int, trades: Any, counter: Any, m: Any, a: Any, prints: Any, room: Any, numbers: Any) -> Any:
        """Put trades into their open panes; tells whether something is left to be done for them (late, refused, prints without room)."""
        stamp  # noqa: B018 - see analytics/compose: the compiled code is kept by what it closes over
        whole = numbers.whole
        instrument, times, ids = trades.instrument[first:stop], trades.times[first:stop], trades.ids[first:stop]
        quantities, makers, status = trades.quantities[first:stop], trades.makers[first:stop], trades.status[first:stop]
        counter[PENDING], kept, counter[LATE], repeated, counter[REFUSED] = k.apply_trades(
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
        if kept and not pk.keep(room.kept, kept, whole[GRID], whole[PRINT_PANES], prints.rows, prints.runs, prints.at):
            counter[UNKEPT] = kept
        return counter[LATE] > 0 or counter[REFUSED] > 0 or counter[UNKEPT] > 0

    return take_trades


def _make_close(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def close(
        chosen: Any, first: int, pane: int, bars: int, counter: Any, m: Any, a: Any, prints: Any, room: Any, numbers: Any, found: Any
    ) -> Any:
        """Close the panes up to ``pane`` of the chosen instruments, of which ``first`` is the first open one of any; returns the number of bars so far."""
        stamp  # noqa: B018
        whole = numbers.whole
        k.track_funding(chosen, pane, m.meta, m.in_pane, m.in_value, m.funding_most)
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
        closed = bars + k.close_panes(
            chosen, pane, numbers.bars, whole[ATR_FRAME], whole[ATR_LENGTH], m.meta, m.scale, m.cumulative, m.open_sum, m.open_price, m.bars,
            m.atr_reached, m.atr_waiting, m.atr, m.atr_history, found.bars[bars:],
        )  # fmt: skip
        at, day = counter[ENTRIES], whole[DAY_PANES]
        if counter[PENDING]:
            counter[PENDING], entries = k.take_due(
                room.pending[: counter[PENDING]], chosen, pane, pane - day, room.chosen, found.entries[at:], found.entry_panes[at:],
                m.histogram, m.totals, m.top,
            )  # fmt: skip
            counter[ENTRIES] = at + entries
        begin, end = room.old_starts[first - day - room.first_old], room.old_starts[pane - day + 1 - room.first_old]
        if end > begin:
            k.take_away(room.old[begin:end], chosen, room.chosen, m.histogram, m.totals)
        pk.advance(
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


def _make_look(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def look(chosen: Any, pane: int, m: Any, a: Any, flows: Any, numbers: Any, features: Any, states: Any, counts: Any) -> None:
        """Write what is known of the chosen instruments at the instant that ends ``pane``, a row each."""
        stamp  # noqa: B018
        whole = numbers.whole
        spot = m.spot[chosen]
        k.fill_features(
            chosen, spot, pane, whole[GRID], numbers.windows, whole[FAST_WINDOWS], whole[VWAP_PANES], whole[ATR_LENGTH], whole[PERCENTILE_MIN],
            whole[QUANTILE_MIN], whole[STALE_BOOK], whole[STALE_FUNDING], whole[STALE_INDICATOR], whole[OI_HORIZON], m.p99_floor,
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

    return look


def _make_score(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def _score(first: int, last: int, scores: int, size: int, instant: int, decided: int, prints: Any, desk: Any, found: Any) -> Any:
        """Score the strategies of the rows [first, last); returns the number of evaluations so far, the bytes so far, and whether one fired."""
        chosen, n = found.instruments[first:last], scores
        for c in range(len(chosen)):
            for at in range(desk.starts[chosen[c]], desk.starts[chosen[c] + 1]):
                found.asked[n, 0] = desk.places[at]
                found.asked[n, 1] = c
                n += 1
        if n == scores:
            return scores, size, False
        asked, flows, results = found.asked[scores:n], found.flows[scores:n], found.results[scores:n]
        pk.asked_flows(asked, chosen, desk.least, desk.of_whales, prints.rows, prints.runs, prints.at, flows)
        sk.score(  # type: ignore[call-arg]  # a tuple of tables in the middle
            asked, found.features[first:last], found.states[first:last], found.counts[first:last], found.prints[first:last], flows, instant, decided,
            desk.columns, k.STALE, desk.regimes, *desk.tables, found.scores[size:], results, found.values[scores:n],
        )  # fmt: skip
        fired = False
        for e in range(len(results)):
            results[e, sk.END] += size
            results[e, sk.BLOCK_AT] += size
            results[e, sk.REASON_AT] += size
            fired |= results[e, sk.IS_ENTRY] != 0 or results[e, sk.IS_FLIP] != 0
        return n, results[len(results) - 1, sk.END], fired

    return _score


def _make_run(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def run(
        steps: Any, members: Any, trades: Any, counter: Any, m: Any, a: Any, prints: Any, room: Any, numbers: Any, desk: Any, found: Any
    ) -> Any:
        """Work off instants in order, with the trades before each; returns how many were worked off, and why no more.

        After TRADES_LEFT the trades before the next instant have been taken: it is to be worked off without them once the rest is done.
        """
        stamp  # noqa: B018
        rows = bars = scores = size = 0
        for t in range(len(steps)):
            pane, stop = steps[t, PANE], steps[t, STOP]
            if stop > counter[ROW]:
                first = counter[ROW]
                if k.unstarted(trades.instrument[first:stop], trades.good[first:stop], m.meta):
                    return t, NEW_INSTRUMENT
                counter[ROW] = stop
                if take_trades(first, stop, trades, counter, m, a, prints, room, numbers):
                    return t, TRADES_LEFT
            group = members[steps[t, FIRST_MEMBER] : steps[t, LAST_MEMBER]]
            chosen = np.empty(len(group), dtype=np.int64)
            due, opened = k.due(group, pane, m.meta, chosen)
            found.ends[t, OPENED] = -1
            fired = False
            if due:
                chosen = chosen[:due]
                found.ends[t, OPENED] = opened
                bars = close(chosen, opened, pane, bars, counter, m, a, prints, room, numbers, found)
                until = rows + k.priced(chosen, m.meta, found.instruments[rows:])
                if until > rows:
                    evaluated = found.instruments[rows:until]
                    look(
                        evaluated,
                        pane,
                        m,
                        a,
                        prints.flows,
                        numbers,
                        found.features[rows:until],
                        found.states[rows:until],
                        found.counts[rows:until],
                    )
                    for r in range(rows, until):
                        found.prints[r] = prints.counts[found.instruments[r]]
                    if len(desk.places):
                        scores, size, fired = _score(
                            rows, until, scores, size, pane * numbers.whole[GRID], steps[t, DECIDED], prints, desk, found
                        )
                    rows = until
            found.ends[t, ROWS] = rows
            found.ends[t, BARS] = bars
            found.ends[t, SCORES] = scores
            if fired:
                return t + 1, SIGNAL
        return len(steps), DONE

    return run


_STAMP = stamp(k, pk, sk, atr, basis, compose, divergence, funding, intake, kyle, liquidation, microprice, ofi, volatility, vpin, wide)
take_trades = _make_take_trades(_STAMP)
close = _make_close(_STAMP)
look = _make_look(_STAMP)
_score = _make_score(_STAMP)
run = _make_run(_STAMP)
