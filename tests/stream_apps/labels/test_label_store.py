"""The arrays of the label store: they have room for every instrument that the queue names."""

from __future__ import annotations

import numpy as np

from stream_apps.core.labels.rules import MINUTE_MS, LabelRules
from stream_apps.core.labels.store import LabelStore

GRID = 15_000


def test_an_instrument_that_begins_after_the_last_mark_price() -> None:
    """It is in the instants of a part whose mark prices came before it. The compiled code checks no bounds: without room it writes elsewhere."""
    rules = LabelRules()
    store = LabelStore(GRID, 8, rules, rules.stale_ms)
    one, three = np.array([10], dtype=np.int64), np.array([10, 0, 10], dtype=np.int64)
    store.add_marks(np.array([0], dtype=np.int64), np.array([10 * GRID]), np.array([100.0]), np.array([True]), one)
    instants = np.array([11], dtype=np.int64)
    store.add_instants(instants, np.array([1]), np.array([2], dtype=np.int64), np.array([True]), np.array([1.5]), three)
    made = store.work()
    assert made is not None and len(made.instants) == 0
    assert len(store._counts) == len(store._pending) == 3

    # An hour later its evaluation gets its label: without a mark price nothing is known, and it says so.
    due = np.array([11 + 60 * MINUTE_MS // GRID], dtype=np.int64)
    store.add_instants(due, np.array([1]), np.array([2], dtype=np.int64), np.array([False]), np.array([np.nan]), three)
    made = store.work()
    assert made is not None and (made.instruments.tolist(), made.times.tolist(), made.atr.tolist()) == ([2], [11 * GRID], [1.5])
    assert np.isnan(made.entry).all() and np.isnan(made.moves).all()
