"""The compiled loop over instants: trades into panes, panes closed, features written, strategies scored.

One call processes consecutive instants between which the log holds only trades. In a live market that is one instant. While a worker
catches up, or in a replay, it is hundreds; one Python call an instant would then cost more than the work. Rare events end the call: a new
instrument, a late or refused trade, a signal. ``engine`` handles the event and calls again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from stream_apps.core.kernel_fingerprint import stamp
from stream_apps.core.log import steps as step_columns
from stream_apps.core.log.steps import DECIDED, FIRST_MEMBER, LAST_MEMBER, PANE, STOP
from stream_apps.core.market import arrays
from stream_apps.core.market import columns as col
from stream_apps.core.market.arrays import CORRELATION_BARS, CORRELATION_PANES, GRID, ROW
from stream_apps.core.market.kernels import correlation_kernels, market_kernels, pane_kernels, print_kernels
from stream_apps.core.market.kernels.market_kernels import close, observe, take_trades
from stream_apps.core.signals.scoring import kernel as score_kernel
from stream_apps.core.signals.scoring.kernel import S_N_PAIRS, S_PAIRS

# Columns of ``ends``: the ends of an instant's features, bars and scores, and the first pane that was open (-1: it closed none).
ROWS, BARS, SCORES, OPENED = range(4)
N_ENDS = 4
# Why a call ended. DONE: no instant is left. NEW_INSTRUMENT: trades of an instrument that has not begun come next. TRADES_LEFT: some trades
# are late, refused or without room for their prints. SIGNAL: an instant made a signal.
DONE, NEW_INSTRUMENT, TRADES_LEFT, SIGNAL = range(4)
N_RESULT = score_kernel.N_RESULT


class InstantOutputs(NamedTuple):
    """Output arrays of instants: rows of features, bars, histogram entries, evaluations."""

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


def _make_score(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def _score(
        first: int, last: int, scores: int, size: int, pane: int, decided: int, m: Any, prints: Any, numbers: Any, tables: Any, found: Any
    ) -> Any:
        """Score the strategies of the rows [first, last).

        Returns the number of evaluations so far, the bytes so far, and whether one made a signal.
        """
        chosen, n = found.instruments[first:last], scores
        for c in range(len(chosen)):
            for at in range(tables.starts[chosen[c]], tables.starts[chosen[c] + 1]):
                found.asked[n, 0] = tables.places[at]
                found.asked[n, 1] = c
                n += 1
        if n == scores:
            return scores, size, False
        asked, flows, results = found.asked[scores:n], found.flows[scores:n], found.results[scores:n]
        print_kernels.asked_flows(asked, chosen, tables.least, tables.of_whales, prints.rows, prints.runs, prints.at, flows)
        together = np.full((len(asked), tables.most_pairs), np.nan)
        if len(tables.pair_rows):
            strategies = tables.score_tables[0]
            correlation_kernels.correlations(
                asked, chosen, strategies[:, S_PAIRS], strategies[:, S_N_PAIRS], tables.pair_rows, pane, numbers.whole[CORRELATION_PANES],
                numbers.whole[CORRELATION_BARS], m.meta, m.cumulative, together,
            )  # fmt: skip
        instant = pane * numbers.whole[GRID]
        score_kernel.score(  # type: ignore[call-arg]  # a tuple of tables in the middle
            asked, found.features[first:last], found.states[first:last], found.counts[first:last], found.prints[first:last], flows, together, instant, decided,
            tables.columns, col.STALE, tables.regimes, *tables.score_tables, found.scores[size:], results, found.values[scores:n],
        )  # fmt: skip
        fired = False
        for e in range(len(results)):
            results[e, score_kernel.END] += size
            results[e, score_kernel.BLOCK_AT] += size
            results[e, score_kernel.REASON_AT] += size
            fired |= results[e, score_kernel.IS_ENTRY] != 0 or results[e, score_kernel.IS_FLIP] != 0
        return n, results[len(results) - 1, score_kernel.END], fired

    return _score


def _make_run(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def run(
        steps: Any, members: Any, trades: Any, counter: Any, m: Any, a: Any, prints: Any, room: Any, numbers: Any, tables: Any, found: Any
    ) -> Any:
        """Process instants in order, with the trades before each. Returns how many were processed, and why the call ended.

        After TRADES_LEFT the trades before the next instant are already taken. The caller finishes them and then runs that instant without
        them.
        """
        stamp  # noqa: B018
        rows = bars = scores = size = 0
        for t in range(len(steps)):
            pane, stop = steps[t, PANE], steps[t, STOP]
            if stop > counter[ROW]:
                first = counter[ROW]
                if pane_kernels.unstarted(trades.instrument[first:stop], trades.good[first:stop], m.meta):
                    return t, NEW_INSTRUMENT
                counter[ROW] = stop
                if take_trades(first, stop, trades, counter, m, a, prints, room, numbers):
                    return t, TRADES_LEFT
            group = members[steps[t, FIRST_MEMBER] : steps[t, LAST_MEMBER]]
            chosen = np.empty(len(group), dtype=np.int64)
            due, opened = pane_kernels.due(group, pane, m.meta, chosen)
            found.ends[t, OPENED] = -1
            fired = False
            if due:
                chosen = chosen[:due]
                found.ends[t, OPENED] = opened
                bars = close(chosen, opened, pane, bars, counter, m, a, prints, room, numbers, found)
                until = rows + pane_kernels.priced(chosen, m.meta, found.instruments[rows:])
                if until > rows:
                    evaluated = found.instruments[rows:until]
                    observe(
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
                    if len(tables.places):
                        scores, size, fired = _score(rows, until, scores, size, pane, steps[t, DECIDED], m, prints, numbers, tables, found)
                    rows = until
            found.ends[t, ROWS] = rows
            found.ends[t, BARS] = bars
            found.ends[t, SCORES] = scores
            if fired:
                return t + 1, SIGNAL
        return len(steps), DONE

    return run


_STAMP = stamp(arrays, step_columns, col, correlation_kernels, market_kernels, pane_kernels, print_kernels, score_kernel)
_score = _make_score(_STAMP)
run = _make_run(_STAMP)
