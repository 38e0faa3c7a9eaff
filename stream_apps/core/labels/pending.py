"""Labels of the instants of one call: many are made at once, and each stands in the outputs where its instant stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec
from stream_apps.core.labels.records import LabelRecords
from stream_apps.core.labels.rules import LabelRules
from stream_apps.core.labels.store import LabelStore
from stream_apps.core.log.outputs import OutputRecord

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


class PendingLabels:
    """Queues mark prices and instants, and makes the labels.

    Args:
        grid_ms: Length of a pane.
        ahead: Panes that an instrument may have open.
        rules: Numbers of the labels.
        most_stale_ms: The largest staleness limit that the rules may get.
        codec: Codec of the environment.
        names: Instruments by row. The owner appends to it.
    """

    def __init__(self, grid_ms: int, ahead: int, rules: LabelRules, most_stale_ms: int, codec: Codec, names: list[str]) -> None:
        self.store = LabelStore(grid_ms, ahead, rules, most_stale_ms)
        self._records = LabelRecords(codec, rules)
        self._grid, self._names = grid_ms, names
        self._panes: list[I64] = []
        self._decided: list[I64] = []
        self._places: list[int] = []  # of each queued instant in the outputs
        self._made: list[tuple[int, list[OutputRecord]]] = []  # place in the outputs, and the labels that belong there

    def use(self, rules: LabelRules) -> None:
        """Use other numbers for what becomes due from now on. The horizons are the same."""
        self._make()
        self.store.rules = rules

    def add_marks(self, instrument: I64, times: I64, prices: F64, use: Any, closed: I64) -> None:
        """Queue mark prices; arguments as of ``LabelStore.add_marks``."""
        self.store.add_marks(instrument, times, prices, use, closed)
        if self.store.full:
            self._make()

    def add_instants(
        self, panes: I64, decided: I64, places: list[int], ends: I64, instruments: I64, scored: npt.NDArray[np.bool_], atr: F64, closed: I64
    ) -> None:
        """Queue instants: their panes, the times of their marks, their places in the outputs, and ``LabelStore.add_instants``."""
        self.store.add_instants(panes, ends, instruments, scored, atr, closed)
        self._panes.append(panes)
        self._decided.append(decided)
        self._places += places
        if self.store.full:
            self._make()

    def insert(self, outputs: list[OutputRecord]) -> list[OutputRecord]:
        """Return the outputs of a call with the labels of its instants."""
        self._make()
        if not self._made:
            return outputs
        merged: list[OutputRecord] = []
        at = 0
        for place, labels in self._made:
            merged += outputs[at:place]
            merged += labels
            at = place
        self._made.clear()
        merged += outputs[at:]
        return merged

    def _make(self) -> None:
        """Make the labels that the queued instants make due."""
        rows = self.store.work()
        if rows is not None and len(rows.instants):
            of = rows.instants
            panes, decided = np.concatenate(self._panes)[of], np.concatenate(self._decided)[of]
            records = self._records.records(rows, self.store.rules, panes * self._grid, decided, self._names)
            starts = np.flatnonzero(np.diff(of, prepend=-1)).tolist()
            for first, last, instant in zip(starts, [*starts[1:], len(of)], of[starts].tolist(), strict=True):
                self._made.append((self._places[instant], records[first:last]))
        self._panes.clear()
        self._decided.clear()
        self._places.clear()
