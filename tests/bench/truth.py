"""What all contestants must find: CVD windows and ATR of every pane, computed from the trades themselves with numpy, and the checks against it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.market.windows import WINDOW_MS, WINDOWS
from tests.bench.worker_workload import Instrument, Workload

LOTS = 1000  # a unit: both tapes have three decimals
PANES_A_BAR, LENGTH = 20, 14


class Truth:
    """The panes of one instrument.

    Attributes:
        first: Pane of its first trade, counted from the first of the workload.
        sums: sums[k] is the CVD of the first k panes, lots.
        trades: Trades of each pane.
        atr: Wilder's ATR(14) of the 5 m bars that have ended by the end of each pane, quote units; NaN before there is one. A bar without trades repeats
            the close (D4); the peers leave it out, and in the logs that they are given there is none.
    """

    def __init__(self, workload: Workload, instrument: Instrument) -> None:
        pane = -(-instrument.times // workload.grid) - workload.first_pane
        self.first = int(pane[0])
        self.sums = np.concatenate([[0], np.cumsum(workload.panes_of(instrument))])
        self.trades = np.bincount(pane, minlength=workload.panes)
        price = instrument.tape.ticks[instrument.rows] / 10**instrument.tape.price_decimals
        self.atr = self._atr(workload, pane, price)

    def _atr(self, workload: Workload, pane: npt.NDArray[np.int64], price: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        bar = -(-(pane + workload.first_pane) // PANES_A_BAR)
        starts = np.flatnonzero(np.diff(bar, prepend=bar[0] - 1))
        last = -(-(workload.first_pane + workload.panes - 1) // PANES_A_BAR)
        newest = np.searchsorted(bar[starts], np.arange(bar[0], last + 1), side="right") - 1  # the newest bar with trades up to each
        closes = price[np.append(starts[1:], len(price)) - 1][newest]
        flat = np.diff(newest, prepend=-1) == 0
        highs, lows = (np.where(flat, closes, of.reduceat(price, starts)[newest]) for of in (np.maximum, np.minimum))
        found = np.full(workload.panes, np.nan)
        ranges: list[float] = []
        value = math.nan
        for n in range(1, len(closes)):
            ranges.append(max(highs[n] - lows[n], abs(highs[n] - closes[n - 1]), abs(lows[n] - closes[n - 1])))
            if len(ranges) == LENGTH:
                value = sum(ranges) / LENGTH
            elif len(ranges) > LENGTH:
                value = (value * (LENGTH - 1) + ranges[-1]) / LENGTH
            found[(int(bar[0]) + n) * PANES_A_BAR - workload.first_pane :] = value
        return found

    def cvd(self, pane: int, panes: int, partial: bool = False) -> float | None:
        """Return the CVD of the panes up to one; None while the history is shorter than that, or what there is when ``partial``."""
        if pane - self.first + 1 < panes and not partial:
            return None
        return float(self.sums[pane + 1] - self.sums[max(0, pane + 1 - panes)]) / LOTS


def truths(workload: Workload) -> dict[str, Truth]:
    """Return the truth of every instrument of a workload."""
    return {instrument.name: Truth(workload, instrument) for instrument in workload.instruments}


def _same_atr(found: float | None, expected: float) -> bool:
    return found is None if math.isnan(expected) else found is not None and math.isclose(found, expected, rel_tol=1e-9)


def check_ours(workload: Workload, known: Mapping[str, Truth], records: Iterable[Mapping[str, Any]], panes: int) -> int:
    """Hold every window and the ATR of every features record of our worker to the trades; return how many records there were.

    Args:
        workload, known: What was to be written, and its truth.
        records: The features.
        panes: How many grid steps of it were written.

    Raises:
        AssertionError: a value differs, or records are missing.
    """
    lengths = {window: WINDOW_MS[window] // workload.grid for window in WINDOWS}
    seen, total = set(), 0
    for record in records:
        name, pane = record["instrument"], record["event_time"] // workload.grid - workload.first_pane
        truth = known[name]
        for window, length in lengths.items():
            found, expected = record[f"cvd_{window}"], truth.cvd(pane, length)
            assert found == expected, f"ours: {name} pane {pane}: cvd_{window} is {found}, the trades say {expected}"
        assert _same_atr(record["atr"], truth.atr[pane]), (
            f"ours: {name} pane {pane}: the ATR is {record['atr']}, the trades say {truth.atr[pane]}"
        )
        total += record["pane_trades"]
        seen.add((name, pane))
    wanted = sum(panes - truth.first for truth in known.values())
    assert len(seen) == wanted, f"ours: {len(seen)} features records, not {wanted}"
    trades = sum(int(truth.trades[:panes].sum()) for truth in known.values())
    assert total >= trades, f"ours: {total} trades in the panes, not {trades}"
    return len(seen)


Records = Iterable[tuple[str, Mapping[str, Any]]]


def check_peer(name: str, workload: Workload, known: Mapping[str, Truth], records: Records, trades: int) -> int:
    """Hold all that a peer wrote to the trades; return the number of its records.

    A peer writes a record a pane with trades when a later trade comes. It stops somewhere: only the pane that was open then may be missing.

    Args:
        name: The peer.
        workload: What was in the topic.
        known: Its truth.
        records: Instrument, and ``pane`` with its features.
        trades: How many trades the peer took.

    Raises:
        AssertionError: a value differs, or records are missing or come twice.
    """
    panes: dict[str, set[int]] = {}
    lengths = {window: WINDOW_MS[window] // workload.grid for window in WINDOWS}
    for instrument, record in records:
        truth, pane = known[instrument], record["pane"] - workload.first_pane
        of = panes.setdefault(instrument, set())
        assert pane not in of, f"{name}: {instrument} pane {pane} came twice"
        of.add(pane)
        for window, length in lengths.items():
            expected = truth.cvd(pane, length)
            assert record[window] == expected, f"{name}: {instrument} pane {pane}: {window} is {record[window]}, the trades say {expected}"
        assert _same_atr(record["atr"], truth.atr[pane]), (
            f"{name}: {instrument} pane {pane}: ATR {record['atr']}, the trades say {truth.atr[pane]}"
        )
    left = trades
    for instrument, truth in known.items():
        of = panes.get(instrument, set())
        last = max(of, default=truth.first - 1)
        wanted = {int(pane) for pane in np.flatnonzero(truth.trades[: last + 1])}
        assert of == wanted, f"{name}: {instrument}: {len(wanted - of)} panes are missing, {len(of - wanted)} are too many"
        following = np.flatnonzero(truth.trades[last + 1 :])
        left -= int(truth.trades[: last + 1].sum()) + (int(truth.trades[last + 1 + following[0]]) if len(following) else 0)
    assert left <= 0, f"{name}: its panes hold {left} trades less than it took"
    return sum(map(len, panes.values()))


def check_hopping(name: str, workload: Workload, known: Mapping[str, Truth], records: Records, trades: int) -> int:
    """Hold the 5 m windows of a peer that writes them again and again to the trades; return how many windows were held.

    The newest value of a window counts. Windows that a trade not taken would still have changed are left out.

    Args:
        name, workload, known, records, trades: As of ``check_peer``; ``pane`` is the one that ends the window.

    Raises:
        AssertionError: a value differs, or windows are missing.
    """
    newest: dict[str, dict[int, float]] = {}
    for instrument, record in records:
        newest.setdefault(instrument, {})[record["pane"] - workload.first_pane] = record["5m"]
    length, held, left = WINDOW_MS["5m"] // workload.grid, 0, trades
    for instrument, truth in known.items():
        of = newest.get(instrument, {})
        # A trade of pane p is in the windows that end with the panes p to p + length - 1.
        open_pane = max(of, default=length - 1) - length + 1
        with_trades = np.convolve(truth.trades, np.ones(length, dtype=np.int64))[:open_pane]
        wanted = {int(pane): truth.cvd(int(pane), length, partial=True) for pane in np.flatnonzero(with_trades)}
        found = {pane: value for pane, value in of.items() if pane < open_pane}
        for pane in wanted.keys() | found.keys():
            values = f"{found.get(pane)}, the trades say {wanted.get(pane)}"
            assert found.get(pane) == wanted.get(pane), f"{name}: {instrument} pane {pane}: 5m is {values}"
        held += len(found)
        left -= int(truth.trades[: open_pane + 1].sum())
    assert left <= 0, f"{name}: its windows hold {left} trades less than it took"
    return held
