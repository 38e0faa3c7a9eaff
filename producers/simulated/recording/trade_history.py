"""The trades played so far, for back-fill by id and by time."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from producers.simulated.recording.events import AGG, Event


class Trade(NamedTuple):
    """One trade, or one aggTrade with the ids ``first``..``last`` of its trades.

    Attributes:
        number: Its id. time: ms UTC.
        price, quantity: Decimal text; the quantity is in base units.
        sell: The taker sold (the buyer is the maker).
    """

    number: int
    time: int
    price: str
    quantity: str
    first: int
    last: int
    sell: bool


def trade_of(event: Event) -> Trade:
    """Return a trade or aggTrade message as a ``Trade``."""
    body = event.body
    if event.kind == AGG:
        return Trade(body["a"], body["T"], body["p"], body["q"], body["f"], body["l"], body["m"])
    number = body["t"]
    return Trade(number, body["T"], body["p"], body["q"], number, number, body["m"])


class TradeHistory:
    """Trades in playing order.

    Ids ascend in a recording. Trade times ascend except for recorded faults. So a search by time reads from the first trade not before its
    start to the last one not after its end.

    Args:
        keep: Least number of trades to keep; None: all.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.total = 0
        self._keep = keep
        self._ids = array("q")
        self._newest = array("q")  # running maximum of the trade times, for bisection
        self._rows: list[Trade] = []

    def __len__(self) -> int:
        return self.total

    def append(self, trade: Trade) -> None:
        """Add a trade that was just played."""
        self.total += 1
        self._ids.append(trade.number)
        self._newest.append(max(trade.time, self._newest[-1]) if self._newest else trade.time)
        self._rows.append(trade)
        if self._keep is not None and len(self._rows) >= 2 * self._keep:  # in blocks, because a single removal moves the whole list
            del self._ids[: -self._keep], self._newest[: -self._keep], self._rows[: -self._keep]

    def page(self, from_id: int | None, start: int | None, end: int | None, limit: int) -> list[Trade]:
        """Return at most ``limit`` trades, oldest first.

        Args:
            from_id: First id; None: select by time, and without times the newest.
            start: Earliest trade time, ms, inclusive. end: latest, inclusive.
            limit: Length of the page.
        """
        total = len(self._rows)
        if from_id is not None:
            first = bisect_left(self._ids, from_id)
            return self._rows[first : first + limit]
        if start is None and end is None:
            return self._rows[max(0, total - limit) :]
        first = 0 if start is None else bisect_left(self._newest, start)
        last = total if end is None else bisect_right(self._newest, end)
        chosen = (at for at in range(first, last) if (start is None or self._rows[at].time >= start))
        return [self._rows[at] for at, _ in zip(chosen, range(limit), strict=False)]

    def before(self, number: int | None, limit: int) -> list[Trade]:
        """Return the newest ``limit`` trades with ids below ``number`` (None: of all), oldest first."""
        last = len(self._rows) if number is None else bisect_left(self._ids, number)
        return self._rows[max(0, last - limit) : last]
