"""Kept single trades: the large ones and the whale prints of the last fifteen minutes, per instrument.

All prints of a partition are in one array. Each instrument has a section in it, sorted by (event time, offset). So the prints of a pane are
contiguous, and an instant sees a sliding window: prints enter at the end and leave at the front. Nothing is summed again. An instant costs
one compiled call for any number of instruments. The notionals of large trades and of whale prints are also kept in two contiguous runs per
section.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.market import columns as col
from stream_apps.core.market.arrays import PrintArrays
from stream_apps.core.market.kernels import print_kernels as k
from stream_apps.core.market.snapshot import Prints

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

PRINT = np.dtype(
    [("time", "<i8"), ("offset", "<i8"), ("instrument", "<i8"), ("price", "<f8"), ("quantity", "<f8"), ("buy", "?"), ("flags", "u1")]
)
_LEAST_ROOM = 64  # prints
_FOREVER = np.iinfo(np.int64).max


def join_prints(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate arrays of dtype PRINT as bytes. numpy compares the fields of structured types pair by pair, which costs more than the copy."""
    if not parts:
        return np.empty(0, dtype=PRINT)
    return np.concatenate([part.view(np.uint8) for part in parts]).view(PRINT)


class PrintStore:
    """The kept prints of a partition.

    Args:
        grid_ms: Length of a pane.
        window_panes: How many panes an instant sees.
        whale_usd: Smallest notional of the prints in ``flows``, quote units.

    Attributes:
        counts: Number of large buys and large sells in the window, one row an instrument.
        flows: (buys - sells)/(buys + sells) of the window's prints of at least ``whale_usd``, by notional (D6). NaN without such prints.
    """

    def __init__(self, grid_ms: int, window_panes: int, whale_usd: float) -> None:
        self.window_panes = window_panes
        self.whale_usd = float(whale_usd)
        self._grid = grid_ms
        self._used = 0
        self._rows = np.empty(0, dtype=PRINT)
        self._runs: F64 = np.empty((2, 0))
        self._at: I64 = np.empty((0, k.N_AT), dtype=np.int64)
        self._scratch = np.empty(0, dtype=PRINT)
        self.counts: I64 = np.empty((0, 2), dtype=np.int64)
        self.flows: F64 = np.empty(0)

    def grow(self, capacity: int) -> None:
        """Make rows for this many instruments."""
        more = capacity - len(self._at)
        self._at = np.concatenate([self._at, np.zeros((more, k.N_AT), dtype=np.int64)])
        self.counts = np.concatenate([self.counts, np.zeros((more, 2), dtype=np.int64)])
        self.flows = np.concatenate([self.flows, np.full(more, np.nan)])

    def use(self, whale_usd: float) -> None:
        """Use another smallest notional in ``flows``. The next ``advance`` reads all prints of its window again."""
        self.whale_usd = float(whale_usd)
        self._at[:, k.SEEN] = -1

    # --- putting into place ------------------------------------------------------------------------------------------
    def scratch(self, size: int) -> npt.NDArray[Any]:
        """Return an array to collect prints in. It is reused, because an array of a structured type is expensive to make."""
        if len(self._scratch) < size:
            self._scratch = np.empty(2 * size, dtype=PRINT)
        return self._scratch

    def keep(self, new: npt.NDArray[Any], n: int) -> None:
        """Keep the first ``n`` prints of an array of dtype PRINT. A late print is put into its place, and the window is rebuilt."""
        if not k.keep(new, n, self._grid, self.window_panes, self._rows, self._runs, self._at):
            self._make_room(new[:n])
            k.keep(new, n, self._grid, self.window_panes, self._rows, self._runs, self._at)

    def _make_room(self, new: npt.NDArray[Any]) -> None:
        """Give instruments that lack room for new prints twice the room that they need."""
        at = self._at
        more = np.bincount(new["instrument"], minlength=len(at))
        held = at[:, k.TAIL] - at[:, k.HEAD] + more
        needed = np.where(held > 0, np.maximum(2 * held, _LEAST_ROOM), 0)
        moving = np.flatnonzero(at[:, k.TAIL] + more > at[:, k.END])
        rows, runs, start = self._rows, self._runs, self._used
        if start + needed[moving].sum() > len(rows):
            # A new array. Each instrument gets twice what it needs, and half as much again stays free. Sections that are unused or too
            # large are dropped.
            moving, start, size = np.arange(len(at)), 0, int(needed.sum()) * 3 // 2
            self._rows, self._runs = np.empty(size, dtype=PRINT), np.empty((2, size))
        for i in moving.tolist():
            k.move_to(i, start, int(needed[i]), rows, runs, at, self._rows, self._runs)
            start += int(needed[i])
        self._used = start

    # --- the window --------------------------------------------------------------------------------------------------
    def advance(self, chosen: I64, pane: int) -> None:
        """Move the window of instruments to the instant that ends ``pane``, which is newer than all before. Older prints are dropped.

        The compiled loop over instants does the same with ``arrays``, without this method.
        """
        k.advance(chosen, pane, self._grid, self.window_panes, self.whale_usd, self._rows, self._runs, self._at, self.counts, self.flows)

    @property
    def arrays(self) -> PrintArrays:
        """Return the arrays as the loop over instants takes them."""
        return PrintArrays(self._rows, self._runs, self._at, self.counts, self.flows)

    def flows_of(self, asked: I64, instruments: I64, least: F64, of_whales: npt.NDArray[np.bool_]) -> F64:
        """Return the flow of big trades that each strategy asks for; NaN without such trades in the window.

        Args:
            asked: (index of the strategy, index of its instrument) of each; sorted by instrument.
            instruments: Instruments.
            least: Smallest notional by index of the strategy, quote units; NaN: the strategy does not ask.
            of_whales: True: of all whale prints. False: of the large trades.
        """
        out = np.empty(len(asked))
        k.asked_flows(asked, instruments, least, of_whales, self._rows, self._runs, self._at, out)
        return out

    def large(self, i: int) -> Prints:
        """Return the large trades of an instrument in its window, in order of (event time, offset)."""
        return self._seen(i, col.LARGE)

    def whales(self, i: int) -> Prints:
        """Return the trades of an instrument in its window of at least the print floor, in order of (event time, offset)."""
        return self._seen(i, col.WHALE)

    def _seen(self, i: int, flag: int) -> Prints:
        rows = self._rows[self._at[i, k.HEAD] : self._at[i, k.TAIL]]
        rows = rows[(rows["time"] <= self._at[i, k.PANE] * self._grid) & (rows["flags"] & flag > 0)]
        return Prints(rows["price"], rows["quantity"], rows["buy"])

    # --- the checkpoint ----------------------------------------------------------------------------------------------
    def of_panes(self, instruments: I64, stops: I64, panes: I64) -> tuple[npt.NDArray[Any], I64]:
        """Return the prints of all panes in one array, and where those of each pane end.

        Args:
            instruments: The instruments of each pane, pane after pane.
            stops: Where the instruments of each pane end.
            panes: Panes.
        """
        of = np.repeat(panes, np.diff(stops, prepend=0))
        rows, ends = k.between(instruments, (of - 1) * self._grid, of * self._grid, self._rows, self._at)
        return rows, np.concatenate([[0], ends])[stops]

    def after(self, closed: I64) -> npt.NDArray[Any]:
        """Return the prints of panes that are not closed yet. ``closed``: newest closed pane of each instrument."""
        rows: npt.NDArray[Any]
        rows, _ = k.between(np.arange(len(closed)), closed * self._grid, np.full(len(closed), _FOREVER), self._rows, self._at)
        return rows
