"""Mark prices and pending evaluations of a partition's instruments, and their entries in the changelog.

A label needs the mark prices from its evaluation to the longest horizon, and the ATR of the evaluation (S1 10.4 forbids to compute it later).
Mark prices and instants queue up; one call of the compiled code takes them all in their order and labels what became due.

Each closed pane has one changelog entry (key ``l`` + slot): the evaluations of its instant and the mark prices of all instruments. It is
written again when a late mark price joins the pane. The head holds the mark prices of open panes.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream_apps.core.labels import store_kernel
from stream_apps.core.labels.path_kernel import BLOCK
from stream_apps.core.labels.rules import MINUTE_MS, LabelRules
from stream_apps.core.log.checkpoint import ChangelogDamaged, Entry

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

PREFIX = b"l"
_PANE = struct.Struct("<qii")  # pane, number of evaluations, of mark prices; then these arrays
_ARRAYS = ("<i4", "<f8", "<i4", "<i8", "<f8")  # instrument and ATR of the evaluations; instrument, time and price of the mark prices
_ROOM = 1024  # mark prices an instrument has room for at first: a quarter of an hour at one a second
# Mark prices and rows of instants that may queue up: it bounds the memory, and one call costs some microseconds a row.
_MOST_QUEUED = 4096
_NO_MARKS = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.bool_))


class LabelRows(NamedTuple):
    """Labels, a row each.

    Attributes:
        instruments, times: Row of the instrument, and time of the evaluation, ms UTC.
        instants: Number of the instant at which it was due, of those that queued up.
        entry, atr: Mark price and ATR at the evaluation, quote units; NaN: not known.
        moves: Price / entry - 1 at each return horizon; NaN: not known.
        binary: LONG and SHORT, each horizon: 0, 1 or UNKNOWN.
        excursion: Highest rise and deepest fall, quote units; NaN: not known.
    """

    instruments: I64
    times: I64
    instants: I64
    entry: F64
    atr: F64
    moves: F64
    binary: I64
    excursion: F64


class LabelStore:
    """What labels need of the past.

    Args:
        grid_ms: Length of a pane.
        ahead: Panes that an instrument may have open.
        rules: Numbers of the labels. Distances and staleness may change between calls of ``work``; the horizons may not.
        most_stale_ms: The largest staleness limit that the rules may get.
    """

    def __init__(self, grid_ms: int, ahead: int, rules: LabelRules, most_stale_ms: int) -> None:
        self.rules = rules
        self._grid, self._ahead = grid_ms, ahead
        self.horizon = -(-rules.longest_ms // grid_ms)  # panes from an evaluation to its label
        self._kept = self.horizon + -(-most_stale_ms // grid_ms)
        self._slots = self._kept + ahead
        self._return_ms = np.array(rules.return_minutes, dtype=np.int64) * MINUTE_MS
        self._binary_ms = np.array(rules.binary_minutes, dtype=np.int64) * MINUTE_MS
        self._times: I64 = np.zeros((0, _ROOM), dtype=np.int64)
        self._prices: F64 = np.zeros((0, _ROOM))
        self._blocks: F64 = np.zeros((0, _ROOM // BLOCK, 3))
        self._counts: I64 = np.zeros(0, dtype=np.int64)
        self._indexed: I64 = np.zeros(0, dtype=np.int64)
        self._pending: I64 = np.zeros((0, self.horizon + 2), dtype=np.int64)
        self._pending_atr: F64 = np.zeros((0, self.horizon + 2))
        self._heads: I64 = np.zeros(0, dtype=np.int64)
        self._sizes: I64 = np.zeros(0, dtype=np.int64)
        self._written: I64 = np.zeros(0, dtype=np.int64)  # last pane whose entry is written
        self._late: set[int] = set()
        self._marks: list[tuple[I64, I64, F64, Any]] = []
        self._instants: list[tuple[I64, I64, I64, Array, F64]] = []
        self._parts: list[tuple[int, int]] = []  # ends of mark prices and of instants, by part
        self._closed: list[I64] = []  # by part
        self._n_marks = self._n_instants = self._n_rows = 0
        self._n_known = 0  # instruments that the queued rows may name

    def _ensure(self, n: int) -> None:
        more = n - len(self._counts)
        if more > 0:
            names = ("_times", "_prices", "_blocks", "_counts", "_indexed", "_pending", "_pending_atr", "_heads", "_sizes", "_written")
            for name in names:
                array = getattr(self, name)
                setattr(self, name, np.concatenate([array, np.zeros((more, *array.shape[1:]), dtype=array.dtype)]))

    # --- queue -----------------------------------------------------------------------------------------------------------
    @property
    def full(self) -> bool:
        """Return whether ``work`` should be called before more is added."""
        return self._n_marks + self._n_rows >= _MOST_QUEUED

    def add_marks(self, instrument: I64, times: I64, prices: F64, use: Any, closed: I64) -> None:
        """Queue mark prices. Prices that are no price, too old for any label, or too far ahead will be passed over.

        Args:
            instrument, times, prices, use: The rows; ``use`` False skips one.
            closed: Last closed pane of each instrument.
        """
        self._n_known = max(self._n_known, len(closed))
        self._marks.append((instrument, times, prices, use))
        self._n_marks += len(times)
        self._parts.append((self._n_marks, self._n_instants))
        self._closed.append(closed.copy())

    def add_instants(self, panes: I64, ends: I64, instruments: I64, scored: Array, atr: F64, closed: I64) -> None:
        """Queue instants.

        Args:
            panes, ends: Pane of each instant, and the end of its rows.
            instruments, scored, atr: The rows: instrument, whether a strategy was scored, ATR (NaN: not known).
            closed: Last closed pane of each instrument.
        """
        # An instrument may have begun after the last mark prices were queued.
        self._n_known = max(self._n_known, len(closed))
        self._instants.append((panes, ends + self._n_rows, instruments, scored, atr))
        self._n_instants += len(panes)
        self._n_rows += len(instruments)
        if self._parts:
            self._parts[-1] = (self._n_marks, self._n_instants)
        else:
            self._parts.append((self._n_marks, self._n_instants))
            self._closed.append(closed.copy())

    def work(self) -> LabelRows | None:
        """Take what queued up and return the labels that became due, in the order of the instants. None: nothing queued up."""
        if not self._parts:
            return None
        n = self._n_known
        self._ensure(n)
        closed = np.zeros((len(self._parts), n), dtype=np.int64)
        for part, one in enumerate(self._closed):
            closed[part, : len(one)] = one
        instrument, times, prices, use = map(np.concatenate, zip(*self._marks, strict=True)) if self._marks else _NO_MARKS
        while not store_kernel.has_room(
            instrument, closed[0], self._grid, self._kept, self._times, self._prices, self._counts, self._indexed
        ):
            self._grow()
        if self._instants:
            panes, ends, rows, scored, atr = map(np.concatenate, zip(*self._instants, strict=True))
        else:
            panes = ends = rows = scored = np.empty(0, dtype=np.int64)
            atr = np.empty(0)
        rules, most = self.rules, int(self._sizes.sum()) + len(rows) if len(rows) else 0
        who, late = np.empty((most, 3), dtype=np.int64), np.empty(len(times), dtype=np.int64)
        moves, numbers, excursion = np.empty((most, len(self._return_ms))), np.empty((most, 2)), np.empty((most, 2))
        binary = np.empty((most, 2, len(self._binary_ms)), dtype=np.int64)
        made, n_late = store_kernel.label(
            np.array(self._parts, dtype=np.int64), instrument, times, prices, use, closed, panes, ends, rows, scored.astype(np.bool_), atr,
            self._grid, self.horizon, self._kept, self._ahead, rules.target_atr, rules.stop_atr, self._return_ms, self._binary_ms,
            rules.excursion_minutes * MINUTE_MS, rules.stale_ms, self._times, self._prices, self._counts, self._blocks, self._indexed,
            self._pending, self._pending_atr, self._heads, self._sizes, late, who, moves, binary, excursion, numbers,
        )  # fmt: skip
        self._late.update(late[:n_late].tolist())
        for queue in (self._marks, self._instants, self._parts, self._closed):
            queue.clear()
        self._n_marks = self._n_instants = self._n_rows = 0
        return LabelRows(
            who[:made, 0], who[:made, 1] * self._grid, who[:made, 2], numbers[:made, 0], numbers[:made, 1], moves[:made], binary[:made],
            excursion[:made],
        )  # fmt: skip

    def _grow(self) -> None:
        for name in ("_times", "_prices", "_blocks"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)], axis=1))

    # --- changelog -------------------------------------------------------------------------------------------------------
    def changed_entries(self, closed: I64) -> list[Entry]:
        """Return the entries of panes that closed, or that late mark prices joined, since the last call. Nothing may be queued."""
        n = len(closed)
        self._ensure(n)
        opened = np.maximum(self._written[:n], closed - self._kept)
        for first, last in set(zip(opened.tolist(), closed.tolist(), strict=True)):
            self._late.update(range(first + 1, last + 1))
        self._written[:n] = closed
        if not self._late:
            return []
        panes = np.array(sorted(self._late), dtype=np.int64)
        self._late.clear()
        marks, evaluations = int(self._counts[:n].sum()), int(self._sizes[:n].sum())
        if not marks and not evaluations:
            return []
        who, atr, ends = np.empty(evaluations, dtype=np.int32), np.empty(evaluations), np.empty((len(panes), 2), dtype=np.int64)
        rows, times, prices = np.empty(marks, dtype=np.int32), np.empty(marks, dtype=np.int64), np.empty(marks)
        store_kernel.closed_panes(
            panes, closed, self._grid, self._kept, self._times, self._prices, self._counts, self._pending, self._pending_atr, self._heads,
            self._sizes, who, atr, rows, times, prices, ends,
        )  # fmt: skip
        found: list[Entry] = []
        first = mark = 0
        of_evaluations = [(one.itemsize, one[: ends[-1, 0]].tobytes()) for one in (who, atr)]
        of_marks = [(one.itemsize, one[: ends[-1, 1]].tobytes()) for one in (rows, times, prices)]
        for pane, (last, mark_end) in zip(panes.tolist(), ends.tolist(), strict=True):
            if last > first or mark_end > mark:
                parts = [
                    _PANE.pack(pane, last - first, mark_end - mark),
                    *(data[first * size : last * size] for size, data in of_evaluations),
                ]
                if mark_end > mark:
                    parts += [data[mark * size : mark_end * size] for size, data in of_marks]
                found.append((b"%s%d" % (PREFIX, pane % self._slots), b"".join(parts)))
            first, mark = last, mark_end
        return found

    def head(self, closed: I64) -> dict[str, Array]:
        """Return the mark prices of open panes, and how much the closed ones hold. Nothing may be queued."""
        n = len(closed)
        self._ensure(n)
        most = int(self._counts[:n].sum())
        sums, rows = np.zeros((n, 2), dtype=np.int64), np.empty(most, dtype=np.int64)
        times, prices = np.empty(most, dtype=np.int64), np.empty(most)
        found = store_kernel.open_marks(
            closed, self._grid, self._kept, self._times, self._prices, self._counts, self._sizes, sums, rows, times, prices
        )
        return {"label_sums": sums, "label_rows": rows[:found], "label_times": times[:found], "label_prices": prices[:found]}

    def load(self, closed: I64, arrays: dict[str, Array], entries: list[tuple[bytes, bytes]]) -> None:
        """Take the state of a head and of the entries of panes. A head of an earlier release has none: labels begin anew.

        Raises:
            ChangelogDamaged: the panes do not add up to the counts of the head.
        """
        n = len(closed)
        self._ensure(n)
        self._written[:n] = closed
        if "label_sums" not in arrays:
            return
        marks: list[tuple[Array, Array, Array]] = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))]
        sums = np.zeros((n, 2), dtype=np.int64)
        for pane, (who, atr, rows, times, prices) in sorted((_unpacked(value) for _, value in entries), key=lambda one: one[0]):
            in_time = (pane <= closed) & (pane > closed - self._kept)
            for i, value in zip(who.tolist(), atr.tolist(), strict=True):
                if i >= n or not in_time[i] or pane <= closed[i] - self.horizon:  # those before have their label
                    continue
                if self._sizes[i] == self._pending.shape[1]:
                    raise ChangelogDamaged("state changelog: an instrument has more evaluations than panes of the longest horizon")
                self._pending[i, self._sizes[i]], self._pending_atr[i, self._sizes[i]] = pane, value
                self._sizes[i] += 1
            known = rows < n
            known[known] = in_time[rows[known]]
            marks.append((rows[known].astype(np.int64), times[known], prices[known]))
        rows, times, prices = map(np.concatenate, zip(*marks, strict=True))
        sums[:, 0], sums[:, 1] = np.bincount(rows, minlength=n)[:n], self._sizes[:n]
        if not np.array_equal(sums, arrays["label_sums"]):
            raise ChangelogDamaged("state changelog: the mark prices and evaluations of the panes do not add up to the counts of the head")
        for row, time, price in ((rows, times, prices), tuple(arrays[f"label_{name}"] for name in ("rows", "times", "prices"))):
            self.add_marks(row, time, price, np.ones(len(row), dtype=np.bool_), closed)
        self.work()
        self._late.clear()


def _unpacked(value: bytes) -> tuple[int, list[Array]]:
    """Return the pane of an entry and its arrays."""
    pane, evaluations, marks = _PANE.unpack_from(value)
    at, arrays = _PANE.size, []
    for dtype, count in zip(_ARRAYS, (evaluations, evaluations, marks, marks, marks), strict=True):
        arrays.append(np.frombuffer(value, dtype, count, at))
        at += arrays[-1].nbytes
    if at != len(value):
        raise ChangelogDamaged(f"state changelog: {len(value) - at} bytes left after the mark prices of pane {pane}")
    return pane, arrays


__all__ = ["PREFIX", "LabelRows", "LabelStore"]
