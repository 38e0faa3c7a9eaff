"""The two quantiles that are found in one pass from a remembered top, against sorting the quantities."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_apps.core.market import columns as col
from stream_apps.core.market.kernels import quantile_kernels

LOTS = st.one_of(st.integers(1, 300), st.integers(1, 2**46))
TRADES = st.lists(st.tuples(st.integers(0, 2), LOTS), max_size=60)


def plain(lots: list[int], per_cent: int) -> float:
    """The floor(q N)-th smallest, as the middle of its bucket."""
    return float(quantile_kernels.bucket_middle(int(quantile_kernels.bucket_of(sorted(lots)[len(lots) * per_cent // 100]))))


@settings(deadline=None, max_examples=60)
@given(panes=st.lists(TRADES, min_size=1, max_size=8), day=st.integers(1, 4))
def test_any_coming_and_going_of_trades_gives_the_sorted_quantiles(panes: list[list[tuple[int, int]]], day: int) -> None:
    histogram, totals, top = np.zeros((3, col.N_BUCKETS), dtype=np.int32), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    kept: list[np.ndarray] = []
    for pane, trades in enumerate(panes):
        pending = np.array([(pane << 32) | (i << 16) | int(quantile_kernels.bucket_of(lots)) for i, lots in trades], dtype=np.int64)
        entries, of = np.empty(len(trades), dtype=np.int64), np.empty(len(trades), dtype=np.int64)
        stay, found = quantile_kernels.take_due(
            pending, np.arange(3), pane, -1, np.zeros(3, dtype=np.bool_), entries, of, histogram, totals, top
        )
        assert stay == 0
        kept.append(entries[:found].copy())
        if pane >= day:  # the oldest pane leaves the window
            quantile_kernels.take_away(kept[pane - day], np.arange(3), np.zeros(3, dtype=np.bool_), histogram, totals)
        for i in range(3):
            window = [lots for trades_of in panes[max(0, pane - day + 1) : pane + 1] for j, lots in trades_of if j == i]
            assert totals[i] == len(window)
            if window:
                assert tuple(quantile_kernels.upper_quantiles(i, histogram, totals, top)) == (plain(window, 95), plain(window, 99))
