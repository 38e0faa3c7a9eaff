"""The remembered state of one topic, one row an instrument, and the counts of its windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.quality import columns as col
from stream_apps.core.quality.rules import KINDS, Freshness, QualityRules

_ROWS = 8  # initial size; doubled when full
WINDOWS = 10  # number of windows whose rates and delays are remembered


class Memory:
    """Arrays of a topic.

    ``L`` and ``D`` are the kernels' scalars; ``counts`` the findings of the current window by kind; ``past`` those before.

    Args:
        rules: Numbers.
        stream: Topic.
    """

    def __init__(self, rules: QualityRules, stream: str) -> None:
        self.rules = rules
        self.stream = stream
        self.freshness: Freshness | None = rules.freshness.get(stream)
        self.priced = stream in ("agg_trades", "quotes")
        self.numbered = stream in ("agg_trades", "quotes", "depth")
        self.rows = 0
        self._allocate(_ROWS)
        self.found: npt.NDArray[np.int64] = np.empty((0, 4), dtype=np.int64)
        self.numbers: npt.NDArray[np.float64] = np.empty((0, 2), dtype=np.float64)

    def _allocate(self, size: int) -> None:
        kinds, windows = len(KINDS), self.rules.score_windows
        prices, memory = (size if self.priced else 0), (size if self.numbered else 0)
        made: dict[str, Any] = {
            "L": np.full((size, col.LONGS), col.NONE, dtype=np.int64),
            "D": np.full((size, col.DOUBLES), np.nan),
            "ids": np.full((memory, col.MEMORY, 2), col.NONE, dtype=np.int64),
            "contents": np.full((memory, col.MEMORY, 2), np.nan),
            "gaps": np.zeros((size if self.stream == "agg_trades" else 0, col.MAX_GAPS, 3), dtype=np.int64),
            "prices": np.full((prices, col.PRICE_MEMORY), np.nan),
            "pending": np.zeros((prices, col.FOLLOWERS, 2), dtype=np.int64),
            "pending_prices": np.full((prices, col.FOLLOWERS), np.nan),
            "counts": np.zeros((size, kinds), dtype=np.int64),
            "past": np.zeros((size, windows, kinds), dtype=np.int64),
            "volumes": np.full((size, WINDOWS), -1, dtype=np.int64),
            "delays": np.full((size, WINDOWS), col.NONE, dtype=np.int64),
            "limits": np.zeros(size, dtype=np.int64),
            "clocked": np.zeros(size, dtype=np.bool_),
            "first_time": np.full(size, col.NONE, dtype=np.int64),
        }
        zero = (
            col.SEEN, col.RECORDS, col.SKIPPED, col.DELAYS, col.LATE, col.SKEWED, col.RUN, col.RUN_REPORTED, col.PRICES,
            col.PENDING, col.INVALID, col.COMPARED, col.OUTSIDE, col.IS_STALE, col.GAPS,
        )  # fmt: skip
        made["L"][:, zero] = 0
        made["L"][:, col.LEAST_DELAY] = np.iinfo(np.int64).max
        made["limits"][:] = 0 if self.freshness is None else self.freshness.most_ms
        for name, array in made.items():
            if self.rows and len(array):
                array[: self.rows] = getattr(self, name)[: self.rows]
            setattr(self, name, array)
        self.size = size

    L: npt.NDArray[np.int64]
    D: npt.NDArray[np.float64]
    ids: npt.NDArray[np.int64]
    contents: npt.NDArray[np.float64]
    gaps: npt.NDArray[np.int64]
    prices: npt.NDArray[np.float64]
    pending: npt.NDArray[np.int64]
    pending_prices: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    past: npt.NDArray[np.int64]
    volumes: npt.NDArray[np.int64]
    delays: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    clocked: npt.NDArray[np.bool_]
    first_time: npt.NDArray[np.int64]

    def grow(self, rows: int) -> None:
        """Make room for this many instruments."""
        if rows > self.size:
            self._allocate(max(rows, 2 * self.size))
        self.rows = max(rows, self.rows)

    def reserve(self, records: int) -> None:
        """Make room for the findings of this many records: at most four each, and those that waited before."""
        need = 4 * records + (col.FOLLOWERS + 2) * self.rows + 16
        if len(self.found) < need:
            self.found = np.empty((2 * need, 4), dtype=np.int64)
            self.numbers = np.empty((2 * need, 2), dtype=np.float64)

    def close_window(self, i: int) -> None:
        """End the current window of an instrument: move its counts to the past and renew its staleness limit."""
        row = self.L[i]
        self.past[i] = np.roll(self.past[i], 1, axis=0)
        self.past[i, 0] = self.counts[i]
        self.counts[i] = 0
        self.volumes[i] = np.roll(self.volumes[i], 1)
        self.volumes[i, 0] = row[col.RECORDS]
        self.delays[i] = np.roll(self.delays[i], 1)
        self.delays[i, 0] = row[col.LEAST_DELAY] if row[col.DELAYS] else col.NONE
        row[[col.RECORDS, col.DELAYS, col.LATE, col.SKEWED, col.COMPARED, col.OUTSIDE]] = 0
        row[col.LEAST_DELAY] = np.iinfo(np.int64).max
        if self.freshness is not None and not row[col.IS_STALE]:  # a silence must not extend its own limit
            known = self.volumes[i][self.volumes[i] >= 0]
            if (total := int(known.sum())) > 0:
                usual = self.rules.stale_factor * len(known) * self.rules.window_ms / total
                self.limits[i] = int(min(max(usual, self.freshness.least_ms), self.freshness.most_ms))
