"""Run instants over the market state: output buffers, the compiled loop, then the histogram of trade sizes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream_apps.core.log.steps import FIRST_MEMBER, LAST_MEMBER, PANE, STOP
from stream_apps.core.market.arrays import ENTRIES, PENDING, ROW, Trades
from stream_apps.core.market.kernels import pane_kernels
from stream_apps.core.market.state import FEATURES, INPUTS, MarketState
from stream_apps.core.signals.instant_kernel import N_ENDS, N_RESULT, InstantOutputs, run
from stream_apps.core.signals.scoring.batch import StrategyTables

I64 = npt.NDArray[np.int64]


class InstantRun(NamedTuple):
    """Result of a run of instants.

    Attributes:
        done: Number of instants that were processed.
        why: Why the run ended: ``instant_kernel.DONE`` and those after it.
        found: The outputs of the instants. ``found.ends`` gives the rows of each instant.
    """

    done: int
    why: int
    found: InstantOutputs


def run_instants(state: MarketState, steps: I64, members: I64, trades: Trades, tables: StrategyTables) -> InstantRun:
    """Process instants in order, with the trades before each.

    Args:
        state: The market state; it is updated.
        steps: Columns ``FIRST_MEMBER`` and those after it, a row an instant.
        members: Rows of instruments in the state. Those that fire together are consecutive.
        trades: Trades as they were fed; ``STOP`` of the steps counts their rows.
        tables: The running strategies.
    """
    day, newest = state.config.day_panes, int(steps[:, PANE].max())  # authors may be hours apart
    first = int(pane_kernels.first_open(members, newest, state.a["meta"]))
    if newest - first >= day and len(steps) > 1:
        # Entries that such an instant adds to the day's histogram leave it with a later one, which must see the result of this one.
        steps = steps[:1]
        newest = int(steps[0, PANE])
        first = int(pane_kernels.first_open(members, newest, state.a["meta"]))
    new = max(int(steps[-1, STOP]) - int(state.counter[ROW]), 0)
    old, starts, panes = state.leaving_histogram(first - day, newest - day)
    fired = int((steps[:, LAST_MEMBER] - steps[:, FIRST_MEMBER]).sum())
    bars = len(members) * sum((newest - first + 1) // length + 1 for length in state.bar_lengths)
    entries = int(state.counter[PENDING]) + new
    found = _outputs(len(steps), fired, bars, entries, tables)
    state.counter[ENTRIES] = 0
    done, why = run(
        steps, members, trades, state.counter, state.market_arrays(), state.analytics.arrays, state.kept.arrays,
        state.pending_buffers(new, old, starts, first - day), state.numbers, tables, found,
    )  # fmt: skip
    state.keep_histogram(found.entries, found.entry_panes, old, starts, panes, first - day)
    return InstantRun(done, why, found)


def _outputs(steps: int, rows: int, bars: int, entries: int, tables: StrategyTables) -> InstantOutputs:
    """Return empty arrays for the outputs of instants."""
    evaluations, size = steps * len(tables.places), steps * tables.size
    return InstantOutputs(
        ends=np.empty((steps, N_ENDS), dtype=np.int64),
        instruments=np.empty(rows, dtype=np.int64),
        features=np.empty((rows, len(FEATURES))),
        states=np.empty((rows, len(INPUTS)), dtype=np.int8),
        counts=np.empty((rows, 2), dtype=np.int64),
        prints=np.empty((rows, 2), dtype=np.int64),
        bars=np.empty((bars, 10), dtype=np.int64),
        entries=np.empty(entries, dtype=np.int64),
        entry_panes=np.empty(entries, dtype=np.int64),
        asked=np.empty((evaluations, 2), dtype=np.int64),
        flows=np.empty(evaluations),
        results=np.empty((evaluations, N_RESULT), dtype=np.int64),
        values=np.empty((evaluations, 2)),
        scores=np.empty(size, dtype=np.uint8),
    )
