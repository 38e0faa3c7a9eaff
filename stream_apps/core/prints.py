"""Single trades kept for a while: large ones and those of a whale's notional, each instrument's last fifteen minutes.

They are kept by pane, because that is how a checkpoint writes them and how late ones find their place. What an instant sees is a window that moves
along: a pane that closes is appended behind, one that has become too old is let go in front. Nothing is added up again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from stream_apps.core import kernels as k
from stream_apps.core.flow import flow_of
from stream_apps.core.snapshot import Prints

PRINT = np.dtype(
    [("time", "<i8"), ("offset", "<i8"), ("instrument", "<i8"), ("price", "<f8"), ("quantity", "<f8"), ("buy", "?"), ("flags", "u1")]
)
_FIRST_CAPACITY = 64


def join_prints(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate arrays of dtype PRINT as bytes: numpy compares the fields of structured types pair by pair, which costs more than the copy."""
    if not parts:
        return np.empty(0, dtype=PRINT)
    return np.concatenate([part.view(np.uint8) for part in parts]).view(PRINT)


@njit(cache=True, nogil=True)
def _grouped(rows: Any, grid: int, out: Any, groups: Any) -> Any:
    """Write rows (in order of offset) to ``out`` by (instrument, pane, time, offset); returns the number of groups (instrument, pane, start).

    -1 when a time is not positive.

    Times are positive and less than an hour beyond what has fired, so a pane fits 44 bits whatever the grid.
    """
    n = len(rows)
    key = np.empty(n, dtype=np.int64)
    for r in range(n):
        key[r] = rows[r].time
        if key[r] <= 0:
            return -1
    order = np.argsort(key, kind="mergesort")
    for r in range(n):
        row = rows[order[r]]
        key[r] = (row.instrument << 44) | ((row.time + grid - 1) // grid)
    order = order[np.argsort(key, kind="mergesort")]
    found = 0
    last = np.int64(-1)
    for r in range(n):
        row = rows[order[r]]
        out[r] = row
        pane = (row.time + grid - 1) // grid
        this = (row.instrument << 44) | pane
        if this != last:
            groups[found, 0] = row.instrument
            groups[found, 1] = pane
            groups[found, 2] = r
            found += 1
            last = this
    return found


@njit(cache=True, nogil=True)
def _append(rows: Any, flag: int, least: float, values: Any, buys: Any, at: int) -> Any:
    """Append price and quantity (and the side) of the rows with a flag and at least a notional; returns (new end, number of buys)."""
    bought = 0
    for r in range(len(rows)):
        row = rows[r]
        if row.flags & flag and row.price * row.quantity >= least:
            values[0, at] = row.price
            values[1, at] = row.quantity
            buys[at] = row.buy
            bought += row.buy
            at += 1
    return at, bought


@njit(cache=True, nogil=True)
def _append_kinds(
    rows: Any, whale: float, large: Any, large_buys: Any, large_at: int, whales: Any, whale_buys: Any, whale_at: int,
    giants: Any, giant_buys: Any, giant_at: int,
) -> Any:  # fmt: skip
    """Append a pane's prints to the large trades, the whale prints, and those of at least the notional ``whale``; returns ends and buys of each."""
    return (
        _append(rows, k.LARGE, 0.0, large, large_buys, large_at),
        _append(rows, k.WHALE, 0.0, whales, whale_buys, whale_at),
        _append(rows, k.WHALE, whale, giants, giant_buys, giant_at),
    )


class _Run:
    """The prints of one kind in the window, oldest first, in arrays without holes."""

    __slots__ = ("_buys", "_panes", "_start", "_stop", "_values", "bought")

    def __init__(self) -> None:
        self._values = np.empty((2, _FIRST_CAPACITY))
        self._buys = np.empty(_FIRST_CAPACITY, dtype=np.bool_)
        self._start = self._stop = 0
        self._panes: deque[tuple[int, int, int]] = deque()  # pane, its end, its number of buys
        self.bought = 0

    def __len__(self) -> int:
        return self._stop - self._start

    def room(self, more: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
        """Return the arrays in which so many more have room, and where they begin."""
        if self._stop + more > len(self._buys):
            self._make_room(more)
        return self._values, self._buys, self._stop

    def appended(self, pane: int, stop: int, bought: int) -> None:
        """Learn that prints of a newer pane were written there."""
        if stop > self._stop:
            self._stop = stop
            self._panes.append((pane, stop, bought))
            self.bought += bought

    def _make_room(self, more: int) -> None:
        # New arrays: what was given out stays as it was.
        size = len(self)
        values, buys = np.empty((2, 2 * (size + more))), np.empty(2 * (size + more), dtype=np.bool_)
        values[:, :size], buys[:size] = self._values[:, self._start : self._stop], self._buys[self._start : self._stop]
        shift = self._start
        self._panes = deque((pane, stop - shift, bought) for pane, stop, bought in self._panes)
        self._values, self._buys, self._start, self._stop = values, buys, 0, size

    def drop(self, through: int) -> None:
        """Let go of the panes up to one."""
        while self._panes and self._panes[0][0] <= through:
            _, self._start, bought = self._panes.popleft()
            self.bought -= bought

    def flow(self) -> float:
        """Return (buys - sells)/(buys + sells) of them all by notional (``snapshot.whale_flow``)."""
        start, stop = self._start, self._stop
        return float(flow_of(self._values[0, start:stop], self._values[1, start:stop], self._buys[start:stop], 0.0))

    def prints(self) -> Prints:
        """Return them; the arrays are views that stay as they are."""
        part = slice(self._start, self._stop)
        return Prints(self._values[0, part], self._values[1, part], self._buys[part])


@dataclass(slots=True)
class _Kept:
    """What is kept of one instrument: pane -> prints in order of (event time, offset), and the window up to pane ``through``."""

    panes: dict[int, npt.NDArray[Any]] = field(default_factory=dict)
    through: int = -1
    large: _Run | None = None
    whales: _Run | None = None
    giants: _Run | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Prints of an instrument in (T - window, T].

    Attributes:
        large_buys, large_sells: Number of large trades.
        whale_flow: Of the prints of at least the configured notional (D6); None when there were none.
    """

    large_buys: int
    large_sells: int
    whale_flow: float | None
    _large: _Run | None = None
    _whales: _Run | None = None

    @property
    def large(self) -> Prints:
        """Large trades, in order of (event time, offset). To be asked for before the next instant."""
        return Prints() if self._large is None else self._large.prints()

    @property
    def whales(self) -> Prints:
        """Trades of at least the print floor, likewise."""
        return Prints() if self._whales is None else self._whales.prints()


_NOTHING = Window(0, 0, None)


class PrintStore:
    """The kept prints of a partition.

    Args:
        grid_ms: Length of a pane.
        window_panes: How many panes an instant sees.
        whale_usd: Least notional of the prints of ``whale_flow``, quote units.
    """

    def __init__(self, grid_ms: int, window_panes: int, whale_usd: float) -> None:
        self.window_panes = window_panes
        self._grid = grid_ms
        self._whale_usd = whale_usd
        self._of: dict[int, _Kept] = {}

    def keep(self, rows: npt.NDArray[Any]) -> None:
        """Keep prints (dtype PRINT, in order of offset) in their panes."""
        out, groups = np.empty(len(rows), dtype=PRINT), np.empty((len(rows), 3), dtype=np.int64)
        found = _grouped(rows, self._grid, out, groups)
        if found < 0:
            self.keep(rows[rows["time"] > 0])  # garbage that no window will see
            return
        bounds = groups[:found].tolist()
        for g, (i, pane, start) in enumerate(bounds):
            new = out[start : bounds[g + 1][2] if g + 1 < found else len(out)]
            kept = self._of.get(i)
            if kept is None:
                kept = self._of[i] = _Kept()
            old = kept.panes.get(pane)
            if old is not None:
                new = join_prints([old, new])
                new = new[np.lexsort((new["offset"], new["time"]))]
            kept.panes[pane] = new
            if pane <= kept.through:
                kept.through = -1  # it came late: the window is made anew

    def of_pane(self, instrument: int, pane: int) -> npt.NDArray[Any] | None:
        """Return the prints of an instrument in a pane, or None when there are none."""
        kept = self._of.get(instrument)
        return None if kept is None else kept.panes.get(pane)

    def after(self, closed: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the prints of panes that are not closed yet; ``closed``: newest closed pane per instrument."""
        return join_prints([rows for i, kept in self._of.items() for pane, rows in kept.panes.items() if pane > closed[i]])

    def forget(self, instrument: int, through: int) -> None:
        """Forget the panes of an instrument up to one."""
        kept = self._of.get(instrument)
        if kept is None:
            return
        # Panes come nearly in order; what came late lies behind at most once, until the panes before it are gone.
        while kept.panes and (oldest := next(iter(kept.panes))) <= through:
            del kept.panes[oldest]

    def window(self, instrument: int, pane: int) -> Window:
        """Return what an instant sees that ends ``pane``."""
        kept = self._of.get(instrument)
        if kept is None:
            return _NOTHING
        oldest = pane - self.window_panes
        large, whales, giants = kept.large, kept.whales, kept.giants
        if large is None or whales is None or giants is None or not 0 <= kept.through <= pane:
            kept.large, kept.whales, kept.giants = large, whales, giants = _Run(), _Run(), _Run()
            kept.through = oldest
        for newer in range(max(kept.through, oldest) + 1, pane + 1):
            rows = kept.panes.get(newer)
            if rows is not None:
                n = len(rows)
                ends = _append_kinds(rows, self._whale_usd, *large.room(n), *whales.room(n), *giants.room(n))
                for run, (stop, bought) in zip((large, whales, giants), ends, strict=True):
                    run.appended(newer, stop, bought)
        kept.through = pane
        for run in (large, whales, giants):
            run.drop(oldest)
        flow = giants.flow() if len(giants) else None
        return Window(large.bought, len(large) - large.bought, flow, large, whales)
