"""The order book at the playback position, for the depth snapshot that clients fetch."""

from __future__ import annotations

from typing import Any

from producers.recorded.events import Event


class RecordedBook:
    """The book that the venue held at a position of the recording.

    A snapshot line of the recording is the truth about the book at its update id, wherever in the file it stands (the
    recorder asked for it after the first diffs, and got the answer later still). So the book starts from the first snapshot and
    diffs take effect from the one that spans its id; until then the snapshot itself is the newest that is known. Without any
    snapshot the book is what the diffs built so far.

    A break of the diff chain in the recording leaves the book as the diffs say, until a later snapshot mends it.

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

    def apply(self, diff: Event) -> None:
        """Apply a depth diff; diffs that are older than the snapshot change nothing."""
        body = diff.body
        final, previous = body["u"], body.get("pu")
        if self._chain is not None and previous is not None and previous != self._chain:
            self.broken = True
        self._chain = final
        if self.last_update_id is not None and final < self.last_update_id:
            return
        self.last_update_id = final
        self.event_time = diff.clock
        self.transaction_time = body.get("T")
        for side, levels in ((self._bids, body["b"]), (self._asks, body["a"])):
            for price, quantity in levels:
                if quantity.strip("0."):
                    side[price] = quantity
                else:
                    side.pop(price, None)

    def top(self, limit: int) -> dict[str, Any] | None:
        """Return the answer of the depth endpoint with ``limit`` levels a side; None when no book is known yet."""
        if self.last_update_id is None:
            return None
        bids = sorted(self._bids.items(), key=_price, reverse=True)[:limit]
        asks = sorted(self._asks.items(), key=_price)[:limit]
        return {
            "lastUpdateId": self.last_update_id,
            "E": self.event_time,
            "T": self.transaction_time if self.transaction_time is not None else self.event_time,
            "bids": [list(level) for level in bids],
            "asks": [list(level) for level in asks],
        }


def _price(level: tuple[str, str]) -> float:
    return float(level[0])
