"""Plain recomputations of the analytics from the raw events, with none of the engine's code: exact fractions, statistics of the standard library."""

from __future__ import annotations

import gzip
import json
import math
import statistics
from collections import deque
from fractions import Fraction
from functools import cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any

from stream_apps.core.market.config import EngineConfig
from tests.support.paths import RECORDINGS

GRID = 15_000
BTC = "BINANCE:BTCUSDT-PERP"


def exact(value: float) -> Fraction:
    """The decimal that a double is the shortest text of."""
    return Fraction(repr(value))


@cache
def recording(name: str = "btcusdt_20240808") -> tuple[list[Any], list[Any], list[Any]]:
    """Trades (time, id, price, quantity, maker), quotes (time, id, bid, quantity, ask, quantity) and marks of a raw recording, as recorded."""
    trades, quotes, marks = [], [], []
    with gzip.open(RECORDINGS / "binance_usdm_raw" / f"{name}.gz", "rt") as file:
        for line in file:
            data = json.loads(line.partition(" ")[2]).get("data")
            kind = data["e"] if data else None
            if kind == "trade" and float(data["q"]) > 0 and float(data["p"]) > 0:
                trades.append((data["T"], data["t"], float(data["p"]), float(data["q"]), data["m"]))
            elif kind == "bookTicker":
                quotes.append((data["T"], data["u"], float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"])))
            elif kind == "markPriceUpdate":
                marks.append((data["E"], float(data["p"]), float(data["i"]), float(data["r"])))
    return trades, quotes, marks


def vpin_series(volumes: list[tuple[Fraction, Fraction]], size: Fraction, n: int) -> list[float | None]:
    """VPIN after each (buy, sell) volume, buckets split at their edges in proportion."""
    ring: deque[Fraction] = deque(maxlen=n)
    buy = sell = Fraction(0)
    out: list[float | None] = []
    for bought, sold in volumes:
        while bought + sold > 0:
            room = size - buy - sell
            take = min(room, bought + sold)
            part = bought * take / (bought + sold)
            buy, sell = buy + part, sell + take - part
            bought, sold = bought - part, sold - (take - part)
            if buy + sell == size:
                ring.append(abs(buy - sell))
                buy = sell = Fraction(0)
        out.append(float(sum(ring) / (n * size)) if len(ring) == n else None)
    return out


def ofi_event(old: Any, new: Any) -> Fraction:
    """e_n of Cont, Kukanov and Stoikov, case by case instead of by indicators."""
    _, _, bid0, bid_quantity0, ask0, ask_quantity0 = old
    _, _, bid, bid_quantity, ask, ask_quantity = new
    if bid > bid0:
        of_bid = exact(bid_quantity)
    elif bid == bid0:
        of_bid = exact(bid_quantity) - exact(bid_quantity0)
    else:
        of_bid = -exact(bid_quantity0)
    if ask < ask0:
        of_ask = exact(ask_quantity)
    elif ask == ask0:
        of_ask = exact(ask_quantity) - exact(ask_quantity0)
    else:
        of_ask = -exact(ask_quantity0)
    return of_bid - of_ask


def ofi(quotes: list[Any], start: int, stop: int) -> float:
    """OFI of the quotes in (start, stop]."""
    return float(sum((ofi_event(old, new) for old, new in pairwise(quotes) if start < new[0] <= stop), Fraction(0)))


class Panes:
    """Closes, price changes, returns and net flow per pane, from the trades.

    Attributes:
        first: Pane of the first trade.
    """

    def __init__(self, trades: list[Any], grid: int) -> None:
        self.first = math.ceil(trades[0][0] / grid)
        self._exact: dict[int, Fraction] = {}
        self.close: dict[int, float] = {}
        self.net: dict[int, Fraction] = {}
        self.volume: dict[int, Fraction] = {}
        for time, _, price, quantity, maker in trades:
            pane = math.ceil(time / grid)
            self.close[pane] = price
            self.net[pane] = self.net.get(pane, Fraction(0)) + exact(quantity) * (-1 if maker else 1)
            self.volume[pane] = self.volume.get(pane, Fraction(0)) + exact(quantity)
        last = self.close[self.first]
        for pane in range(self.first, max(self.close) + 3):
            last = self.close.setdefault(pane, last)

    def changes(self, through: int, n: int) -> list[Fraction] | None:
        """Price changes of the n panes up to one; None when the first of them has no close before it."""
        if through - n < self.first:
            return None
        return [self._change(p) for p in range(through - n + 1, through + 1)]

    def _change(self, pane: int) -> Fraction:
        if pane not in self._exact:
            self._exact[pane] = exact(self.close[pane]) - exact(self.close[pane - 1])
        return self._exact[pane]

    def kyle(self, through: int, n: int) -> float | None:
        """Least-squares slope of price change on net flow, exactly."""
        y = self.changes(through, n)
        if y is None:
            return None
        x = [self.net.get(p, Fraction(0)) for p in range(through - n + 1, through + 1)]
        mean_x, mean_y = sum(x) / n, sum(y) / n
        variation = sum((a - mean_x) ** 2 for a in x)
        return float(sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / variation) if variation else None

    def volatility(self, through: int, n: int, grid: int) -> float | None:
        """Annualised sample deviation of the log returns."""
        if through - n < self.first:
            return None
        returns = [math.log(self.close[p] / self.close[p - 1]) for p in range(through - n + 1, through + 1)]
        return statistics.stdev(returns) * math.sqrt(365 * 86_400_000 / grid)

    def bulk(self, through: int, n: int, decimals: int) -> list[tuple[Fraction, Fraction]]:
        """Bought and sold volume of each pane with trades up to one, by bulk classification in whole lots."""
        lots = 10**decimals
        out = []
        for pane in range(self.first, through + 1):
            y = self.changes(pane, n)
            if y is None or pane not in self.volume:
                continue
            changes = [float(change) for change in y]
            mean = math.fsum(changes) / n
            deviation = math.sqrt(math.fsum((change - mean) ** 2 for change in changes) / (n - 1))
            share = NormalDist().cdf(changes[-1] / deviation) if deviation else 0.5
            volume = int(self.volume[pane] * lots)
            buy = math.floor(volume * share + 0.5)
            out.append((Fraction(buy, lots), Fraction(volume - buy, lots)))
        return out


def divergence(bars: list[tuple[float, float]], n: int) -> int | None:
    """Verdict of the newest of bars (close, CVD of the bar): all there are, or the last n + 1."""
    if len(bars) <= n:
        return None
    closes = [close for close, _ in bars]
    path, total = [], Fraction(0)
    for _, cvd in bars:
        total += exact(cvd)
        path.append(total)
    if closes[-1] > max(closes[-n - 1 : -1]) and path[-1] <= max(path[-n - 1 : -1]):
        return -1
    if closes[-1] < min(closes[-n - 1 : -1]) and path[-1] >= min(path[-n - 1 : -1]):
        return 1
    return 0


def config(**analytics: Any) -> EngineConfig:
    """An engine's numbers with other numbers of the analytics."""
    from stream_apps.core.market.analytics.config import AnalyticsConfig

    return EngineConfig(quantile_history_ms=0, analytics=AnalyticsConfig(**analytics))
