"""The local order book of one symbol, kept by the venue's rule for diff streams (pure).

The rule (USD-M, "How to manage a local order book correctly"): buffer diffs; take a snapshot after the first diff came; drop diffs
that end before the snapshot's ``lastUpdateId``; the first applied diff spans it (or follows on it: ``pu == lastUpdateId``, else one can wait for
ever); from then on each diff's ``pu`` is the previous one's ``u``. Anything else makes the book invalid at once: it must be rebuilt.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from enum import Enum, auto
from typing import NamedTuple

from producers.binance.mapping import DepthDiff, DepthSnapshot, Level

TOP = 20
# Diffs kept while a snapshot is fetched: 100 s of the fastest stream. Older ones fall out; the snapshot then skips them, or a second one is asked for.
BUFFER = 4096


class Outcome(Enum):
    """What a diff did to the book."""

    APPLIED = auto()  # the book is live and holds it
    IGNORED = auto()  # older than the book: a duplicate, or before the snapshot
    BUFFERED = auto()  # the book waits for a snapshot
    GAP = auto()  # the sequence broke: the book is invalid from now on, and waits for a snapshot
    STALE = auto()  # the snapshot is older than the stream: another one is needed


class Top(NamedTuple):
    """The best levels after a diff, best first."""

    time: int
    last_update_id: int
    bid_prices: list[float]
    bid_quantities: list[float]
    ask_prices: list[float]
    ask_quantities: list[float]


class _Side:
    """Price levels of one side: a dictionary of quantities and the prices in ascending order."""

    __slots__ = ("prices", "quantities")

    def __init__(self) -> None:
        self.quantities: dict[float, float] = {}
        self.prices: list[float] = []

    def load(self, levels: list[Level]) -> None:
        self.quantities = {price: quantity for price, quantity in levels if quantity > 0.0}
        self.prices = sorted(self.quantities)

    def apply(self, levels: list[Level]) -> None:
        quantities, prices = self.quantities, self.prices
        for price, quantity in levels:
            if quantity == 0.0:
                if quantities.pop(price, None) is not None:
                    del prices[bisect_left(prices, price)]
            else:
                if price not in quantities:
                    insort(prices, price)
                quantities[price] = quantity


class OrderBook:
    """One symbol's book.

    Args:
        epoch: Epoch of an earlier run: it grows by one at every synchronisation, so update ids are continuous within one.

    Attributes:
        live: True while the levels may be used.
        epoch: Current epoch.
        last_update_id: Update id of the newest applied diff (or of the snapshot).
        last_time: Transaction time of the newest applied diff, ms UTC.
        gap: After ``Outcome.GAP``: first and last missing update id.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.live = False
        self.epoch = epoch
        self.last_update_id = 0
        self.last_time: int | None = None
        self.gap: tuple[int, int] | None = None
        self._bids = _Side()
        self._asks = _Side()
        self._snapshot: int | None = None  # id of a snapshot on which no diff was applied yet
        self._buffer: deque[DepthDiff] = deque(maxlen=BUFFER)

    def diff(self, diff: DepthDiff) -> Outcome:
        """Take the next diff of the stream."""
        if self.live:
            if diff.previous == self.last_update_id:
                return self._apply(diff)
            if diff.last <= self.last_update_id:
                return Outcome.IGNORED
            self.gap = (self.last_update_id + 1, max(self.last_update_id + 1, diff.previous))
            self.invalidate()
            self._buffer.append(diff)
            return Outcome.GAP
        if self._snapshot is None:
            self._buffer.append(diff)
            return Outcome.BUFFERED
        if diff.last < self._snapshot:
            return Outcome.IGNORED
        if diff.first <= self._snapshot or diff.previous == self._snapshot:
            self._snapshot = None
            self.live = True
            self.epoch += 1
            return self._apply(diff)
        self._snapshot = None
        self._buffer.append(diff)
        return Outcome.STALE

    def load(self, snapshot: DepthSnapshot) -> tuple[list[Top], bool]:
        """Take a snapshot that was asked for after the buffered diffs began, and apply the buffered diffs to it.

        Returns:
            The top of the book after each diff applied, and whether another snapshot is needed.
        """
        self._bids.load(snapshot.bids)
        self._asks.load(snapshot.asks)
        self._snapshot = self.last_update_id = snapshot.last
        self.live = False
        waiting = list(self._buffer)
        self._buffer.clear()
        tops = []
        for diff in waiting:
            outcome = self.diff(diff)
            if outcome is Outcome.APPLIED:
                tops.append(self.top())
        return tops, self.waiting

    def invalidate(self) -> None:
        """Declare the book unusable; a snapshot is needed."""
        self.live = False
        self._snapshot = None
        self._buffer.clear()

    @property
    def waiting(self) -> bool:
        """True when diffs are buffered and a snapshot is needed."""
        return not self.live and self._snapshot is None

    def top(self, depth: int = TOP) -> Top:
        """Return the best levels of both sides."""
        bid_prices = self._bids.prices[: -depth - 1 : -1]
        ask_prices = self._asks.prices[:depth]
        bids, asks = self._bids.quantities, self._asks.quantities
        return Top(
            self.last_time or 0,
            self.last_update_id,
            bid_prices,
            [bids[price] for price in bid_prices],
            ask_prices,
            [asks[price] for price in ask_prices],
        )

    def _apply(self, diff: DepthDiff) -> Outcome:
        self._bids.apply(diff.bids)
        self._asks.apply(diff.asks)
        self.last_update_id = diff.last
        self.last_time = diff.time
        return Outcome.APPLIED
