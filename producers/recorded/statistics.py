"""What the venue sums up of the trades played: one-minute bars and the 24 h ticker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from producers.recorded.history import Trade

MINUTE_MS = 60_000
DAY_MINUTES = 24 * 60


@dataclass(slots=True)
class Bar:
    """Trades of one step of time: prices, base and quote volume, number of trades, and what takers bought. ``start`` in ms UTC."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0
    quote: float = 0.0
    count: int = 0
    taker: float = 0.0
    taker_quote: float = 0.0

    def join(self, later: Bar) -> None:
        """Take in the bar that follows."""
        self.high, self.low, self.close = max(self.high, later.high), min(self.low, later.low), later.close
        self.volume += later.volume
        self.quote += later.quote
        self.count += later.count
        self.taker += later.taker
        self.taker_quote += later.taker_quote


class Statistics:
    """Bars of the last day and the sums over them. Not for accounting: binary floating point."""

    def __init__(self) -> None:
        self._bars: deque[Bar] = deque(maxlen=DAY_MINUTES)
        self.last_price: str | None = None
        self.last_quantity = "0"
        self.last_time = 0

    def load(self, bars: list[Bar]) -> None:
        """Begin with bars from before the first trade."""
        self._bars.extend(bars)

    def add(self, trade: Trade) -> None:
        """Take a trade."""
        price, quantity = float(trade.price), float(trade.quantity)
        start = trade.time - trade.time % MINUTE_MS
        bars = self._bars
        if not bars or start > bars[-1].start:
            bars.append(Bar(start, price, price, price, price))
        bar = bars[-1]
        if price > bar.high:
            bar.high = price
        elif price < bar.low:
            bar.low = price
        bar.close = price
        bar.volume += quantity
        bar.quote += price * quantity
        bar.count += 1
        if not trade.sell:
            bar.taker += quantity
            bar.taker_quote += price * quantity
        self.last_price, self.last_quantity, self.last_time = trade.price, trade.quantity, trade.time

    def day(self) -> Bar | None:
        """Return the last 24 h as one bar; None: nothing was traded."""
        joined = self.bars(DAY_MINUTES * MINUTE_MS, None, None, DAY_MINUTES, aligned=False)
        return joined[0] if joined else None

    def bars(self, step_ms: int, start: int | None, end: int | None, limit: int, *, aligned: bool = True) -> list[Bar]:
        """Return bars of ``step_ms`` that begin in ``start``..``end`` (ms, inclusive), oldest first; of too many those next to ``start`` or,
        without it, the newest."""
        found: list[Bar] = []
        for bar in self._bars:
            begins = bar.start - bar.start % step_ms if aligned else self._bars[0].start
            if (start is not None and begins < start) or (end is not None and begins > end):
                continue
            if found and found[-1].start == begins:
                found[-1].join(bar)
            else:
                copy = Bar(begins, bar.open, bar.high, bar.low, bar.close)
                copy.volume, copy.quote, copy.count, copy.taker, copy.taker_quote = (
                    bar.volume,
                    bar.quote,
                    bar.count,
                    bar.taker,
                    bar.taker_quote,
                )
                found.append(copy)
        return found[:limit] if start is not None else found[-limit:]
