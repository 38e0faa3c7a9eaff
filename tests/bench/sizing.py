"""How much a short form works off: as much as takes a time, not a fixed count.

A count that one machine needs two seconds for takes another one a fraction of a second. Then the figure says how long start and end take, not how fast
the work is. So a short form begins with little, and grows until what it times lasts ``LEAST_S`` or its long form's size is reached.
"""

from __future__ import annotations

import math

# Polls (20 ms), fetches (a few hundred ms for a full one) and commits (500 ms apart) are small beside it.
LEAST_S = 2.0
# A work that is timed in CPU seconds of one process has no polls and no waits in it.
LEAST_CPU_S = 0.4
# More than the rate asks for: a rate that was measured too short is often too low, so one step is mostly enough.
MARGIN = 1.25


def grown(done: int, seconds: float, most: int, least_s: float = LEAST_S) -> int:
    """Return how many units to work off next, so that they take ``least_s``.

    Args:
        done: Units that were worked off: trades, panes, rows.
        seconds: How long that took.
        most: Size of the long form, which is never passed.
        least_s: How long it shall take.

    Returns:
        ``done`` where it lasted long enough or nothing is left to grow, else a greater number.
    """
    if seconds >= least_s or done >= most:
        return done
    return min(most, max(done + 1, math.ceil(done * MARGIN * least_s / max(seconds, 1e-3))))
