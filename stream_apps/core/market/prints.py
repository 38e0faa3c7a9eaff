"""Single trades kept for a while: large ones and those of a whale's notional, each instrument's last fifteen minutes.

All prints of a partition lie in one array. An instrument has a room in it, where its own stand in order of (event time, offset): so a pane is a stretch
of them, and what an instant sees is a window that moves along, letting in behind and out in front. Nothing is added up again, and an instant costs
one compiled call whatever the number of instruments. The notionals of large trades and of whales stand once more in runs without holes, in the same room.
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
    """Concatenate arrays of dtype PRINT as bytes: numpy compares the fields of structured types pair by pair, which costs more than the copy."""
    if not parts:
        return np.empty(0, dtype=PRINT)
    return np.concatenate([part.view(np.uint8) for part in parts]).view(PRINT)


class PrintStore:
    """The kept prints of a partition.

    Args:
        grid_ms: Length of a pane.
        window_panes: How many panes an instant sees.
        whale_usd: Least notional of the prints of ``flows``, quote units.

    Attributes:
        counts: Large buys and large sells in the window, a row an instrument.
        flows: (buys - sells)/(buys + sells) of the window's prints of at least ``whale_usd``, by notional (D6); NaN when there were none.
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
        """Make rows for so many instruments."""
        more = capacity - len(self._at)
        self._at = np.concatenate([self._at, np.zeros((more, k.N_AT), dtype=np.int64)])
        self.counts = np.concatenate([self.counts, np.zeros((more, 2), dtype=np.int64)])
        self.flows = np.concatenate([self.flows, np.full(more, np.nan)])

    def use(self, whale_usd: float) -> None:
        """Let ``flows`` have another least notional: the next ``advance`` looks at all prints of its window again."""
        self.whale_usd = float(whale_usd)
        self._at[:, k.SEEN] = -1

    # --- putting into place ------------------------------------------------------------------------------------------
    def scratch(self, size: int) -> npt.NDArray[Any]:
        """Return an array to collect prints in, the same every time (an array of a structured type is dear to make)."""
        if len(self._scratch) < size:
            self._scratch = np.empty(2 * size, dtype=PRINT)
        return self._scratch

    def keep(self, new: npt.NDArray[Any], n: int) -> None:
        """Keep the first ``n`` prints of an array of dtype PRINT. One that comes late finds its place: the window is made anew."""
        if not k.keep(new, n, self._grid, self.window_panes, self._rows, self._runs, self._at):
            self._make_room(new[:n])
            k.keep(new, n, self._grid, self.window_panes, self._rows, self._runs, self._at)

    def _make_room(self, new: npt.NDArray[Any]) -> None:
        """Give instruments that lack room for new prints twice what they need."""
        at = self._at
        more = np.bincount(new["instrument"], minlength=len(at))
        held = at[:, k.TAIL] - at[:, k.HEAD] + more
        needed = np.where(held > 0, np.maximum(2 * held, _LEAST_ROOM), 0)
        moving = np.flatnonzero(at[:, k.TAIL] + more > at[:, k.END])
        rows, runs, start = self._rows, self._runs, self._used
        if start + needed[moving].sum() > len(rows):
            # A new array, in which all have twice what they need and half as much is free: rooms that were left or became too large are gone.
            moving, start, size = np.arange(len(at)), 0, int(needed.sum()) * 3 // 2
            self._rows, self._runs = np.empty(size, dtype=PRINT), np.empty((2, size))
        for i in moving.tolist():
            k.move_to(i, start, int(needed[i]), rows, runs, at, self._rows, self._runs)
            start += int(needed[i])
        self._used = start

    # --- the window --------------------------------------------------------------------------------------------------
    def advance(self, chosen: I64, pane: int) -> None:
        """Let instruments see what an instant sees that ends ``pane``, which is newer than those before; what is older is forgotten.

        The loop over instants does the same by ``arrays``, without coming here.
        """
        k.advance(chosen, pane, self._grid, self.window_panes, self.whale_usd, self._rows, self._runs, self._at, self.counts, self.flows)

    @property
    def arrays(self) -> PrintArrays:
        """All of it, as the loop over instants takes it."""
        return PrintArrays(self._rows, self._runs, self._at, self.counts, self.flows)

    def flows_of(self, asked: I64, instruments: I64, least: F64, of_whales: npt.NDArray[np.bool_]) -> F64:
        """Return the flow in the window of the big trades that strategies ask for, NaN when there were none.

        Args:
            asked: (place of the strategy, place of its instrument) of each; those of an instrument together.
            instruments: Instruments.
            least: Least notional by place of the strategy, quote units; NaN: it does not ask.
            of_whales: Whether of all whale prints; else of the large trades.
        """
        out = np.empty(len(asked))
        k.asked_flows(asked, instruments, least, of_whales, self._rows, self._runs, self._at, out)
        return out

    def large(self, i: int) -> Prints:
        """Return the large trades of an instrument in its window, in order of (event time, offset)."""
        return self._seen(i, col.LARGE)

    def whales(self, i: int) -> Prints:
        """Return its trades of at least the print floor, likewise."""
        return self._seen(i, col.WHALE)

    def _seen(self, i: int, flag: int) -> Prints:
        rows = self._rows[self._at[i, k.HEAD] : self._at[i, k.TAIL]]
        rows = rows[(rows["time"] <= self._at[i, k.PANE] * self._grid) & (rows["flags"] & flag > 0)]
        return Prints(rows["price"], rows["quantity"], rows["buy"])

    # --- the checkpoint ----------------------------------------------------------------------------------------------
    def of_panes(self, instruments: I64, stops: I64, panes: I64) -> tuple[npt.NDArray[Any], I64]:
        """Return the prints of panes behind one another, and where each pane's end.

        Args:
            instruments: Those of each pane, behind one another.
            stops: Where each pane's instruments end.
            panes: Panes.
        """
        of = np.repeat(panes, np.diff(stops, prepend=0))
        rows, ends = k.between(instruments, (of - 1) * self._grid, of * self._grid, self._rows, self._at)
        return rows, np.concatenate([[0], ends])[stops]

    def after(self, closed: I64) -> npt.NDArray[Any]:
        """Return the prints of panes that are not closed yet; ``closed``: newest closed pane of each instrument."""
        rows: npt.NDArray[Any]
        rows, _ = k.between(np.arange(len(closed)), closed * self._grid, np.full(len(closed), _FOREVER), self._rows, self._at)
        return rows
