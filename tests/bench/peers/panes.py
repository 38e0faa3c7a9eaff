"""The work of all Python peers: 15 s panes of one instrument, from them CVD windows and Wilder's ATR(14) of 5 m bars, in plain Python.

Written for speed within that: one call a trade, a record only when a pane closes, windows from a ring of running sums. Prices are floats, quantities are
whole lots of 1/1000, so that sums are exact.
"""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any

import fastavro

GRID_MS, PANES_A_BAR, LENGTH, RING = 15_000, 20, 14, 5760
WINDOWS = {"5m": 20, "15m": 60, "30m": 120, "1h": 240, "4h": 960, "24h": 5760}
LOTS = 1000
HEADER = 10  # bytes of the single-object header
FEATURES = ("pane", *WINDOWS, "atr")


class Panes:
    """Panes, bars and ATR of one instrument; ``add`` takes its trades in order of time."""

    __slots__ = (
        "atr",
        "bar",
        "bar_close",
        "bar_high",
        "bar_low",
        "close",
        "cvd",
        "first",
        "high",
        "low",
        "pane",
        "previous",
        "ranges",
        "ring",
        "total",
    )

    def __init__(self) -> None:
        self.pane = self.first = self.bar = -1
        self.cvd = self.total = self.ranges = 0
        self.high = self.low = self.close = self.bar_high = self.bar_low = self.bar_close = self.atr = 0.0
        self.previous: float | None = None
        self.ring = [0] * RING

    def add(self, when: int, price: float, lots: int) -> dict[str, Any] | None:
        """Take a trade (ms, quote units, lots signed by the taker's side); return the features of the pane that it closes, if it does."""
        pane = -(-when // GRID_MS)
        closed = None
        if pane != self.pane:
            if self.pane >= 0:
                closed = self._close(pane)
            else:
                self.first = pane
            self.pane, self.cvd, self.high, self.low = pane, 0, price, price
        self.cvd += lots
        self.close = price
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        return closed

    def _close(self, following: int) -> dict[str, Any]:
        pane, bar = self.pane, -(-self.pane // PANES_A_BAR)
        self.total += self.cvd
        if bar == self.bar:
            self.bar_high, self.bar_low = max(self.bar_high, self.high), min(self.bar_low, self.low)
        else:
            self.bar, self.bar_high, self.bar_low = bar, self.high, self.low
        self.bar_close = self.close
        ended = pane % PANES_A_BAR == 0
        if ended:
            self._end_bar()
        known = pane - self.first + 1
        features: dict[str, Any] = {"pane": pane}
        for name, length in WINDOWS.items():
            features[name] = (self.total - self.ring[(pane - length) % RING]) / LOTS if known >= length else None
        features["atr"] = self.atr if self.ranges >= LENGTH else None
        for at in range(pane, min(following, pane + RING)):
            self.ring[at % RING] = self.total
        if not ended and -(-following // PANES_A_BAR) > bar:
            self._end_bar()
        return features

    def _end_bar(self) -> None:
        if self.previous is not None:
            high, low, before = self.bar_high, self.bar_low, self.previous
            true_range = max(high - low, abs(high - before), abs(low - before))
            self.ranges += 1
            if self.ranges <= LENGTH:
                self.atr += true_range / LENGTH
            else:
                self.atr = (self.atr * (LENGTH - 1) + true_range) / LENGTH
        self.previous = self.bar_close


def trade_of(schema: Any, value: bytes) -> tuple[str, int, float, int]:
    """Return instrument, time, price and signed lots of an Avro value of ``agg_trades``."""
    trade = fastavro.schemaless_reader(io.BytesIO(value[HEADER:]), schema)
    lots = round(trade["quantity"] * LOTS)
    return trade["instrument"], trade["event_time"], trade["price"], -lots if trade["buyer_is_maker"] else lots


class Clock:
    """Counts trades; the clock runs over the second half of those that are wanted."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen, self._half, self._began, self._cpu = wanted, 0, wanted // 2, 0.0, 0.0

    def tick(self) -> bool:
        """Count a trade; return whether it was the last."""
        self.seen += 1
        if self.seen == self._half:
            self._began, self._cpu = time.perf_counter(), time.process_time()
        return self.seen == self.wanted

    def report(self) -> None:
        """Print the result, when everything is acknowledged."""
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        print(json.dumps({"trades": self.seen - self._half, "seconds": seconds, "cpu_seconds": cpu}), flush=True)


def job() -> dict[str, Any]:
    """Return what the first argument, a line of JSON, asks for: bootstrap, partitions, input, output, trades, group, folder, schema."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    asked["schema"] = fastavro.parse_schema(asked["schema"])
    return asked
