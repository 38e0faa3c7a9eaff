"""The order book at the playback position, for snapshots, best quotes and streams of the best levels."""

from __future__ import annotations

from heapq import nlargest, nsmallest
from typing import NamedTuple

from producers.simulated.recording.events import Event

Levels = list[list[str]]


class Top(NamedTuple):
    """The best levels of a book, best first, at an update id.

    Attributes:
        last: Update id. time: Its event time, ms. transaction_time: The venue's; None: not given.
    """

    last: int
    time: int
    transaction_time: int | None
    bids: Levels
    asks: Levels


class RecordedBook:
    """The venue's book at a position of the recording.

    A snapshot line is the true book at its update id, regardless of its place in the file. The recorder requested it after the first diffs
    and got it later. So the book starts from the first snapshot, and diffs apply from the one that spans its id. Until then the snapshot is
    the book. Without a snapshot the diffs alone build the book.

    After a break of the diff chain the book follows the diffs until a later snapshot corrects it.

    Args:
        snapshot: The recording's first snapshot, if it has one.
    """

    def __init__(self, snapshot: Event | None) -> None:
        self.last_update_id: int | None = None
        self.event_time = 0
        self.transaction_time: int | None = None
        self.broken = False
        self._bids: dict[str, str] = {}
        self._asks: dict[str, str] = {}
        self._chain: int | None = None  # update id of the newest diff played, applied or not
        if snapshot is not None:
            self._load(snapshot)

    def _load(self, snapshot: Event) -> None:
        body = snapshot.body
        self.last_update_id = body["lastUpdateId"]
        self.event_time = snapshot.clock
        self.transaction_time = body.get("T")
        self._bids = {price: quantity for price, quantity, *_ in body["bids"]}
        self._asks = {price: quantity for price, quantity, *_ in body["asks"]}
        self.broken = False

    def offer_snapshot(self, snapshot: Event) -> None:
        """Take a later snapshot of the recording if the book needs it (unknown or broken) and it is not older than the book."""
        if self.last_update_id is None or (self.broken and snapshot.body["lastUpdateId"] >= self.last_update_id):
            self._load(snapshot)

    def apply(self, diff: Event) -> bool:
        """Apply a depth diff. Return False, without a change, for a diff older than the snapshot."""
        body = diff.body
        final, previous = body["u"], body.get("pu")
        if self._chain is not None and previous is not None and previous != self._chain:
            self.broken = True
        self._chain = final
        if self.last_update_id is not None and final < self.last_update_id:
            return False
        self.last_update_id = final
        self.event_time = diff.clock
        self.transaction_time = body.get("T")
        for side, levels in ((self._bids, body["b"]), (self._asks, body["a"])):
            for price, quantity in levels:
                if quantity.strip("0."):
                    side[price] = quantity
                else:
                    side.pop(price, None)
        return True

    @property
    def levels(self) -> int:
        """Number of levels of its longer side."""
        return max(len(self._bids), len(self._asks))

    def top(self, limit: int) -> Top | None:
        """Return ``limit`` levels a side; None before the first book."""
        if self.last_update_id is None:
            return None
        if limit >= self.levels:
            bids = sorted(self._bids.items(), key=_price, reverse=True)
            asks = sorted(self._asks.items(), key=_price)
        else:
            bids = nlargest(limit, self._bids.items(), key=_price)
            asks = nsmallest(limit, self._asks.items(), key=_price)
        return Top(self.last_update_id, self.event_time, self.transaction_time, [list(row) for row in bids], [list(row) for row in asks])


def _price(level: tuple[str, str]) -> float:
    return float(level[0])


class Window:
    """The changes of a stream of the best ``limit`` levels: levels that leave the window are removed, others are added.

    Args:
        top: Its start: the subscriber's snapshot.
    """

    def __init__(self, limit: int, top: Top) -> None:
        self.limit = limit
        self._bids = _side(top.bids)
        self._asks = _side(top.asks)

    def move(self, book: RecordedBook) -> tuple[Levels, Levels]:
        """Return the changes since the last call, bids and asks; quantity ``0`` removes."""
        top = book.top(self.limit)
        if top is None:
            return [], []
        bids, asks = _side(top.bids), _side(top.asks)
        changes = _changes(self._bids, bids), _changes(self._asks, asks)
        self._bids, self._asks = bids, asks
        return changes


def _side(levels: Levels) -> dict[str, str]:
    return {price: quantity for price, quantity, *_ in levels}


def _changes(old: dict[str, str], new: dict[str, str]) -> Levels:
    gone = [[price, "0"] for price in old if price not in new]
    return gone + [[price, size] for price, size in new.items() if old.get(price) != size]
