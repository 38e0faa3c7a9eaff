"""The local order book of one symbol, kept by the venue's sequence rule (pure).

Adapters convert every rule to one form: a diff has the update id before it (``previous``) and after it (``last``). A live book takes a diff
only if ``previous`` is its update id. Otherwise it becomes invalid at once and must be rebuilt:

- ``rest`` (Binance, "How to manage a local order book correctly"): buffer diffs, request a REST snapshot after the first diff, and drop
  diffs that end before its ``lastUpdateId``. The first applied diff spans that id or follows it directly, because otherwise a quiet book
  would wait for ever.
- ``stream`` (Bybit, OKX, Bitget): the stream begins with a snapshot; a later one resets the book. After a break the stream is subscribed
  again.
- ``full`` (Hyperliquid): every message is a whole book.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from producers.venue.adapter.base import BookDiff, BookSnapshot, Level

if TYPE_CHECKING:
    from producers.venue.state.book_arrays import BookArrays

TOP = 20
# Diffs kept while a snapshot is fetched: 100 s of the fastest stream. Older ones are dropped. The snapshot then covers them, or a second
# one is requested.
BUFFER = 4096


class Outcome(Enum):
    """The effect of a diff on the book."""

    APPLIED = auto()  # applied; the book is live
    IGNORED = auto()  # older than the book: a duplicate, or before the snapshot
    BUFFERED = auto()  # the book waits for a snapshot
    GAP = auto()  # the sequence broke: the book is invalid from now on, and waits for a snapshot
    STALE = auto()  # the snapshot is older than the stream: another one is needed
    CHECKSUM = auto()  # the venue's checksum differs: the book is invalid from now on


# Module names, because the lookup of an enum member costs a good part of applying a diff.
APPLIED = Outcome.APPLIED


class Top(NamedTuple):
    """The best levels after a diff, best first."""

    time: int
    last_update_id: int
    bid_prices: list[float]
    bid_quantities: list[float]
    ask_prices: list[float]
    ask_quantities: list[float]


class Side(Protocol):
    """Price levels of one side of a book."""

    def load(self, levels: Sequence[Level]) -> None:
        """Replace all levels."""

    def apply(self, levels: Sequence[Level]) -> None:
        """Change levels; quantity 0 removes."""

    def best(self, most: int) -> tuple[list[float], list[float]]:
        """Return prices and quantities of the best levels, best first."""


class _Side:
    """A dictionary of quantities and the prices in ascending order."""

    __slots__ = ("_ask", "prices", "quantities")

    def __init__(self, ask: bool) -> None:
        self._ask = ask
        self.quantities: dict[float, float] = {}
        self.prices: list[float] = []

    def best(self, most: int) -> tuple[list[float], list[float]]:
        prices = self.prices[:most] if self._ask else self.prices[: -most - 1 : -1]
        return prices, list(map(self.quantities.__getitem__, prices))

    def load(self, levels: Sequence[Level]) -> None:
        self.quantities = {price: quantity for price, quantity in levels if quantity > 0.0}
        self.prices = sorted(self.quantities)

    def apply(self, levels: Sequence[Level]) -> None:
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
        epoch: Epoch of an earlier run: it grows by one at every synchronisation, so update ids are continuous within an epoch.
        mode: See the module. checksum: The venue's checksum of texts of levels, best first (``Adapter.checksum``), if it has one.
        checksum_levels: Levels of each side that it covers.

    Attributes:
        live: True while the levels may be used.
        epoch: Current epoch.
        last_update_id: Update id of the newest applied diff (or of the snapshot).
        last_time: Transaction time of the newest applied diff, ms UTC.
        gap: After ``Outcome.GAP``: first and last missing update id.
    """

    def __init__(
        self,
        epoch: int = 0,
        mode: Literal["rest", "stream", "full"] = "rest",
        checksum: Callable[[Sequence[str], Sequence[str]], int] | None = None,
        checksum_levels: int = 25,
    ) -> None:
        self.live = False
        self.mode = mode
        self.epoch = epoch
        self.last_update_id = 0
        self.last_time: int | None = None
        self.gap: tuple[int, int] | None = None
        self._bids: Side = _Side(False)
        self._asks: Side = _Side(True)
        self._arrays: BookArrays | None = None
        self._snapshot: int | None = None  # id of a snapshot on which no diff was applied yet
        self._buffer: deque[BookDiff] = deque(maxlen=BUFFER)
        self._checksum = checksum
        self._checksum_levels = checksum_levels
        # One per side: a price may leave one side and be on the other.
        self._bid_texts: dict[float, str] = {}
        self._ask_texts: dict[float, str] = {}

    def compile(self, head: bytes) -> None:
        """Keep the levels of this new book in arrays, so that ``follow`` works. ``head``: first bytes of its records."""
        from producers.venue.state.book_arrays import BookArrays  # imports the compiler

        self._arrays = BookArrays(head, TOP)
        self._bids, self._asks = self._arrays.sides()

    def follow(
        self, previous: int, last: int, time: int, levels: npt.NDArray[np.float64], span: tuple[int, int, int, int], received: int
    ) -> bytes | None:
        """Apply a change that was read in bulk and return the ``depth`` record as Avro. None, without any change, unless it follows
        directly on a live book.

        Args:
            previous, last: Update ids, as of ``BookDiff``.
            time: Of the change; received: our clock; ms UTC.
            levels, span: As of ``Scanned``.
        """
        if not self.live or previous != self.last_update_id or self._arrays is None:
            return None
        self.last_update_id = last
        self.last_time = time
        return self._arrays.change(levels, span, time, received, self.epoch, last)

    def diff(self, diff: BookDiff) -> Outcome:
        """Take the next diff of the stream."""
        if self.live:
            if diff.previous == self.last_update_id:
                return self._apply(diff)
            # A smaller id at a later time is not a duplicate. The venue restarted its count (OKX, Bybit), so diffs were lost.
            if diff.last <= self.last_update_id and (self.mode == "rest" or diff.time <= (self.last_time or 0)):
                return Outcome.IGNORED
            self.gap = (self.last_update_id + 1, max(self.last_update_id + 1, diff.previous))
            self.invalidate()
            if self.mode == "rest":
                self._buffer.append(diff)
            return Outcome.GAP
        if self.mode != "rest":
            return Outcome.BUFFERED  # not needed: the next snapshot includes it
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

    def load(self, snapshot: BookSnapshot) -> tuple[list[Top], bool]:
        """Take a snapshot that was requested after the first buffered diff, and apply the buffered diffs to it.

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

    def replace(self, snapshot: BookSnapshot) -> Outcome:
        """Take a snapshot of the stream. A snapshot older than a live book (a rotated connection's first message) changes nothing."""
        if self.live and self.mode == "stream" and snapshot.last <= self.last_update_id and (snapshot.time or 0) <= (self.last_time or 0):
            return Outcome.IGNORED
        if self.live and self.mode == "full":
            if (snapshot.time or 0) < (self.last_time or 0) or snapshot.last == self.last_update_id:
                return Outcome.IGNORED  # the same or an older one
        else:
            self.epoch += 1
        self._bids.load(snapshot.bids)
        self._asks.load(snapshot.asks)
        self.live = True
        self.last_update_id = snapshot.last
        self.last_time = snapshot.time
        self._bid_texts, self._ask_texts = {}, {}
        self._note(snapshot.bids, snapshot.asks, snapshot.texts)
        return self._verified(snapshot.checksum)

    def _verified(self, checksum: int | None) -> Outcome:
        if checksum is None or self._checksum is None:
            return APPLIED
        count = self._checksum_levels
        bids = [self._bid_texts[price] for price in self._bids.best(count)[0]]
        asks = [self._ask_texts[price] for price in self._asks.best(count)[0]]
        if self._checksum(bids, asks) == checksum:
            return Outcome.APPLIED
        self.gap = (self.last_update_id, self.last_update_id)
        self.invalidate()
        return Outcome.CHECKSUM

    def invalidate(self) -> None:
        """Make the book invalid. A snapshot is needed."""
        self.live = False
        self._snapshot = None
        self._buffer.clear()

    @property
    def waiting(self) -> bool:
        """True when a snapshot is needed."""
        return not self.live and self._snapshot is None

    def top(self, depth: int = TOP) -> Top:
        """Return the best levels of both sides."""
        return Top(self.last_time or 0, self.last_update_id, *self._bids.best(depth), *self._asks.best(depth))

    def _apply(self, diff: BookDiff) -> Outcome:
        self._bids.apply(diff.bids)
        self._asks.apply(diff.asks)
        self.last_update_id = diff.last
        self.last_time = diff.time
        self._note(diff.bids, diff.asks, diff.texts)
        return self._verified(diff.checksum)

    def _note(self, bids: list[Level], asks: list[Level], texts: dict[float, str] | None) -> None:
        """Store the texts of the levels, drop those of removed ones."""
        if texts is None:
            return
        for side, levels in ((self._bid_texts, bids), (self._ask_texts, asks)):
            for price, quantity in levels:
                if quantity == 0.0:
                    side.pop(price, None)
                else:
                    side[price] = texts[price]
