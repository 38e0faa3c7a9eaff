"""CVD divergence on bars of 1m, 15m and 1h: the taker flow does not confirm a new price extreme.

    -1 (bearish)  the newest closed bar's close is above all of the n closes before it, its CVD is not above all of their CVDs
    +1 (bullish)  its close is below all of them, its CVD is not below all of theirs
     0            neither

CVD is the running sum of the bars' taker-buy minus taker-sell quantity, so its zero point does not matter. The bars are those of the
scanned timeframe (market-monitor R000-88, R000-89). The source leaves pivot and look-back open (R000-93). Here the pivot is the bar itself
and n is ``divergence_bars`` (default 20). So nothing after T is needed and no value is revised. The value holds until the next bar of the
timeframe closes.

Undefined until n + 1 bars have closed. Late trades change no closed bar.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FEATURES = ("cvd_divergence_1m", "cvd_divergence_15m", "cvd_divergence_1h")
TIMEFRAMES = ("1m", "15m", "1h")
# Columns of ``state`` (int64 per instrument and timeframe): bars so far, CVD at the newest, verdict.
BARS, CVD, VERDICT = range(3)


@njit(cache=True, nogil=True)
def _close_bar(state: Any, history: Any, close: Any, cvd: Any) -> None:
    """Take a closed bar: close in ticks, CVD of the bar in lots. ``history``: int64 (n, 2), close and CVD of the bars before."""
    n = len(history)
    state[CVD] += cvd
    if state[BARS] >= n:
        above = below = cvd_above = cvd_below = True
        for j in range(n):
            above &= close > history[j, 0]
            below &= close < history[j, 0]
            cvd_above &= state[CVD] > history[j, 1]
            cvd_below &= state[CVD] < history[j, 1]
        state[VERDICT] = -1 if above and not cvd_above else 1 if below and not cvd_below else 0
    slot = state[BARS] % n
    history[slot, 0] = close
    history[slot, 1] = state[CVD]
    state[BARS] += 1


@njit(cache=True, nogil=True)
def close_bars(closed: Any, frame_of: Any, states: Any, histories: Any) -> None:
    """Take closed bars (rows of ``pane_kernels.close_panes``).

    ``frame_of``: number of a timeframe here, -1 for those that are not scanned.
    """
    for b in range(len(closed)):
        frame = frame_of[closed[b, 1]]
        if frame >= 0:
            i = closed[b, 0]
            _close_bar(states[i, frame], histories[i, frame], closed[b, 6], closed[b, 8])


@njit(cache=True, nogil=True)
def value(state: Any, n: Any) -> Any:
    """Return the verdict of the newest closed bar; NaN until it has n bars before it."""
    return np.float64(state[VERDICT]) if state[BARS] > n else np.nan
