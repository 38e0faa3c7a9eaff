"""Candles and CVD of one watched instrument: closed bars of the worker, and the forming minute from the trades.

A candle of any timeframe is the sum of its minutes. A minute is, in this order: the worker's closed bar (``bars``, source trades), the trades read here, the
venue's own bar. So a candle forms with every trade, and the worker's exact bar corrects it when it closes. Quantities are added as integer lots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from schemas.codec.recordset import I64
from sinks.console.live.channels import TIMEFRAMES_MS

F64 = npt.NDArray[np.float64]

MINUTE_MS = 60_000
# A day of minutes, and some for the change of the day.
SLOTS = 1536
# Candles in a message: a browser that missed some messages still sees how the last candle closed.
SHOWN = 3
# Decimals of quantities while the instrument's record is unknown. Sums of lots stay below 2**63.
UNKNOWN_DECIMALS = 6
VENUE, WORKER = 1, 2

# Columns of the minutes.
OPEN, HIGH, LOW, CLOSE = range(4)
VOLUME, CVD, TRADES = range(3)


@njit(cache=True, nogil=True)
def _add_trades(
    offsets: I64,
    times: I64,
    ids: I64,
    prices: F64,
    quantities: F64,
    makers: I64,
    good: Any,
    scale: float,
    state: I64,
    minutes: I64,
    ohlc: F64,
    sums: I64,
) -> int:
    """Add trades to their minutes. Returns how many counted.

    ``state``: next offset, highest trade id, newest event time, running total of the CVD in lots.
    """
    counted = 0
    for row in range(len(offsets)):
        if offsets[row] < state[0]:
            continue
        state[0] = offsets[row] + 1
        if not good[row] or ids[row] <= state[1]:
            continue
        state[1] = ids[row]
        # A bar includes its end: a trade at 12:01:00.000 belongs to the minute from 12:00.
        minute = (times[row] - 1) // MINUTE_MS
        slot = minute % SLOTS
        lots = np.int64(np.rint(quantities[row] * scale))
        signed = -lots if makers[row] else lots
        price = prices[row]
        if minutes[slot] > minute:
            continue
        if minutes[slot] != minute:
            minutes[slot] = minute
            ohlc[slot, :] = price
            sums[slot, :] = 0
        ohlc[slot, HIGH] = max(ohlc[slot, HIGH], price)
        ohlc[slot, LOW] = min(ohlc[slot, LOW], price)
        ohlc[slot, CLOSE] = price
        sums[slot, VOLUME] += lots
        sums[slot, CVD] += signed
        sums[slot, TRADES] += 1
        state[2] = max(state[2], times[row])
        state[3] += signed
        counted += 1
    return counted


class Candles:
    """Minutes of one instrument.

    Args:
        decimals: Of its quantities; None: unknown yet.
    """

    def __init__(self, decimals: int | None) -> None:
        self.lots = 10 ** (UNKNOWN_DECIMALS if decimals is None else decimals)
        self.whole_from: int | None = None
        self._state = np.array([0, np.iinfo(np.int64).min, 0, 0], dtype=np.int64)
        self._minutes = np.full(SLOTS, -1, dtype=np.int64)
        self._ohlc = np.zeros((SLOTS, 4))
        self._sums = np.zeros((SLOTS, 3), dtype=np.int64)
        self._closed = np.full(SLOTS, -1, dtype=np.int64)
        self._rank = np.zeros(SLOTS, dtype=np.int64)
        self._closed_ohlc = np.zeros((SLOTS, 4))
        self._closed_sums = np.zeros((SLOTS, 3), dtype=np.int64)
        self.price: float | None = None

    def reading_from(self, time: int) -> None:
        """Note that all trades after ``time`` (ms) are read. Called again, the first time holds."""
        if self.whole_from is None:
            self.whole_from = time

    @property
    def total(self) -> float:
        """CVD since ``whole_from``, base units."""
        return int(self._state[3]) / self.lots

    @property
    def time(self) -> int:
        """Event time of the newest trade, ms; 0: none yet."""
        return int(self._state[2])

    def add_trades(self, offsets: I64, times: I64, ids: I64, prices: F64, quantities: F64, makers: I64, good: Any) -> int:
        """Add trades in log order; those below the next offset are skipped. Returns how many counted."""
        counted: int = _add_trades(
            offsets, times, ids, prices, quantities, makers, good, float(self.lots), self._state, self._minutes, self._ohlc, self._sums
        )
        if counted:
            self.price = float(prices[np.flatnonzero(good)[-1]])
        return counted

    def add_bar(self, end: int, rank: int, ohlc: tuple[float, float, float, float], volume: float, cvd: float, trades: int) -> bool:
        """Set a closed minute. Returns whether it is news.

        Args:
            end: Event time of the bar, ms.
            rank: WORKER or VENUE.
            ohlc, volume, cvd, trades: Fields of ``bars``.
        """
        minute = end // MINUTE_MS - 1
        slot = minute % SLOTS
        if self._closed[slot] > minute or (self._closed[slot] == minute and self._rank[slot] > rank):
            return False
        self._closed[slot], self._rank[slot] = minute, rank
        self._closed_ohlc[slot] = ohlc
        self._closed_sums[slot] = round(volume * self.lots), round(cvd * self.lots), trades
        return True

    def minute_cvd(self) -> tuple[int, float] | None:
        """Return start (ms) and CVD (base units) of the minute of the newest trade, from the trades read here; None before the first."""
        if not self.time:
            return None
        minute = (self.time - 1) // MINUTE_MS
        return minute * MINUTE_MS, int(self._sums[minute % SLOTS, CVD]) / self.lots

    def newest(self, timeframe: str) -> list[dict[str, Any]]:
        """Return the last candles of a timeframe, oldest first, as the channel ``candles`` shows them."""
        last = max(int(self._minutes.max()), int(self._closed.max()))
        if last < 0:
            return []
        length = TIMEFRAMES_MS[timeframe] // MINUTE_MS
        begin = last - last % length
        starts = [begin - back * length for back in range(SHOWN - 1, -1, -1)]
        return [candle for start in starts if start > last - SLOTS and (candle := self._candle(start, length, last)) is not None]

    def _candle(self, start: int, length: int, last: int) -> dict[str, Any] | None:
        minutes = np.arange(start, min(start + length, last + 1))
        slots = minutes % SLOTS
        closed, traded = self._closed[slots] == minutes, self._minutes[slots] == minutes
        since = np.iinfo(np.int64).max if self.whole_from is None else self.whole_from
        read = minutes * MINUTE_MS >= since
        from_worker = closed & (self._rank[slots] == WORKER)
        from_trades = traded & ~from_worker & (read | ~closed)
        from_bars = closed & ~from_trades
        there = from_trades | from_bars
        if not there.any():
            return None
        ohlc = np.where(from_trades[:, None], self._ohlc[slots], self._closed_ohlc[slots])[there]
        sums = np.where(from_trades[:, None], self._sums[slots], self._closed_sums[slots])[there].sum(axis=0)
        return {
            "start_ms": start * MINUTE_MS,
            "end_ms": (start + length) * MINUTE_MS,
            "open": float(ohlc[0, OPEN]),
            "high": float(ohlc[:, HIGH].max()),
            "low": float(ohlc[:, LOW].min()),
            "close": float(ohlc[-1, CLOSE]),
            "volume": int(sums[VOLUME]) / self.lots,
            "cvd": int(sums[CVD]) / self.lots,
            "trades": int(sums[TRADES]),
            "closed": bool(len(minutes) == length and from_worker[-1]),
            # A minute without a bar is empty if the trades of that time were read, else it is missing.
            "partial": bool((~there & ~read).any() or (from_trades & ~read).any()),
        }
