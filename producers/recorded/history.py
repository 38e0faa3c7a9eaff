"""The aggTrades played so far, for back-fill by id and by time."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

import orjson

from producers.recorded.events import Event

_FIELDS = ("a", "p", "q", "f", "l", "T", "m")


class AggTradeIndex:
    """aggTrades in playing order, each as the JSON that REST answers.

    Ids grow within a recording; trade times grow but for recorded faults, so a search by time reads from the first trade that
    is not older than its start to the last one not younger than its end.
    """

    def __init__(self) -> None:
        self._ids = array("q")
        self._newest = array("q")  # running maximum of the trade times, so that it can be searched
        self._times = array("q")
        self._rows: list[bytes] = []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, event: Event) -> None:
        """Add an aggTrade that was just played."""
        body = event.body
        self._ids.append(body["a"])
        self._times.append(body["T"])
        self._newest.append(max(body["T"], self._newest[-1]) if self._newest else body["T"])
        self._rows.append(orjson.dumps({name: body[name] for name in _FIELDS}))

    def page(self, from_id: int | None, start: int | None, end: int | None, limit: int) -> bytes:
        """Return a JSON list of at most ``limit`` aggTrades.

        Args:
            from_id: First id wanted; None: choose by time, and without times the newest.
            start: Earliest trade time, ms, inclusive. end: latest, inclusive.
            limit: Length of the page.
        """
        total = len(self._rows)
        if from_id is not None:
            first = bisect_left(self._ids, from_id)
            rows = self._rows[first : first + limit]
        elif start is None and end is None:
            rows = self._rows[max(0, total - limit) :]
        else:
            first = 0 if start is None else bisect_left(self._newest, start)
            last = total if end is None else bisect_right(self._newest, end)
            chosen = (at for at in range(first, last) if (start is None or self._times[at] >= start))
            rows = [self._rows[at] for at, _ in zip(chosen, range(limit), strict=False)]
        return b"[" + b",".join(rows) + b"]"
