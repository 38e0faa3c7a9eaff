"""The venue's statistics of the played trades: one-minute bars and the 24 h ticker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from producers.simulated.recording.trade_history import Trade

MINUTE_MS = 60_000
DAY_MINUTES = 24 * 60


@dataclass(slots=True)
class Bar:
    """Trades of one step of time: prices, base and quote volume, number of trades, and taker buy volume. ``start`` in ms UTC."""

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
        """Add the next bar."""
        self.high, self.low, self.close = max(self.high, later.high), min(self.low, later.low), later.close
        self.volume += later.volume
        self.quote += later.quote
        self.count += later.count
        self.taker += later.taker
        self.taker_quote += later.taker_quote


class Statistics:
    """Bars of the last day and the sums over them. Not for accounting, because it uses binary floating point."""

    def __init__(self) -> None:
        self._bars: deque[Bar] = deque(maxlen=DAY_MINUTES)
        self._past: Callable[[], list[Bar]] | None = None
        self._past_day: Bar | None = None
        self.last_price: str | None = None
        self.last_quantity = "0"
        self.last_time = 0

    def begin(self, day: Bar, past: Callable[[], list[Bar]]) -> None:
        """Start after a history: ``day`` is its sum, ``past`` returns its one-minute bars, oldest first, always the same."""
        self._past_day, self._past = day, past

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
        """Return the last 24 h as one bar; None without trades. The whole history counts, regardless of later trades."""
        own = _joined(list(self._bars))
        if self._past_day is None or own is None:
            return own or self._past_day
        return _joined([self._past_day, own])

    def bars(self, step_ms: int, start: int | None, end: int | None, limit: int) -> list[Bar]:
        """Return bars of ``step_ms`` that begin in ``start``..``end`` (ms, inclusive), oldest first. Of too many, return those next to
        ``start``, or the newest without it.
        """
        found: list[Bar] = []
        for bar in [*(self._past() if self._past is not None else ()), *self._bars]:
            begins = bar.start - bar.start % step_ms
            if (start is not None and begins < start) or (end is not None and begins > end):
                continue
            if found and found[-1].start == begins:
                found[-1].join(bar)
            else:
                found.append(replace(bar, start=begins))
        return found[:limit] if start is not None else found[-limit:]


def _joined(bars: list[Bar]) -> Bar | None:
    if not bars:
        return None
    joined = replace(bars[0])
    for bar in bars[1:]:
        joined.join(bar)
    return joined
