"""Best prices of a symbol and its mean spread over the last hour."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal

from stream_apps.core.execution.orders.events import QuoteSeen

MINUTE_MS = 60_000
WINDOW_MINUTES = 60
# Fewer minutes than this do not represent an hour.
ENOUGH_MINUTES = 5


@dataclass(slots=True)
class Quotes:
    """Newest quote and spread history of one symbol.

    Attributes:
        minutes: (minute, sum of spreads in bps, number) of the last hour. Floats suffice, because the mean only chooses a route.
    """

    newest: QuoteSeen | None = None
    minutes: deque[list[float]] = field(default_factory=deque)

    def take(self, quote: QuoteSeen) -> bool:
        """Add a quote; return False, adding nothing, if it is crossed, lacks a side, or is older than the newest."""
        if not 0 < quote.bid <= quote.ask or (self.newest is not None and quote.time < self.newest.time):
            return False
        if quote.mark is None and self.newest is not None and self.newest.mark is not None:
            quote = QuoteSeen(quote.symbol, quote.bid, quote.ask, quote.time, self.newest.mark)
        self.newest = quote
        minute = quote.time // MINUTE_MS
        if not self.minutes or self.minutes[-1][0] != minute:
            self.minutes.append([minute, 0.0, 0])
        self.minutes[-1][1] += spread_bps(quote)
        self.minutes[-1][2] += 1
        while self.minutes[0][0] <= minute - WINDOW_MINUTES:
            self.minutes.popleft()
        return True

    def mean_spread_bps(self) -> float | None:
        """Return the mean spread of the last hour in bps; None before five minutes of history."""
        if len(self.minutes) < ENOUGH_MINUTES:
            return None
        return sum(total for _, total, _ in self.minutes) / sum(count for _, _, count in self.minutes)


def mid_of(quote: QuoteSeen) -> Decimal:
    """Return the middle of bid and ask."""
    return (quote.bid + quote.ask) / 2


def spread_bps(quote: QuoteSeen) -> float:
    """Return the spread in 1/10,000 of the mid."""
    return float((quote.ask - quote.bid) / mid_of(quote) * 10_000)
