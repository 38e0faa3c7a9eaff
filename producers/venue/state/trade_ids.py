"""Which trades of an instrument are new, doubled or missing (pure): by consecutive ids, or by remembering the newest ones."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from itertools import pairwise


class Verdict(Enum):
    """What to do with a trade id."""

    NEW = auto()
    DUPLICATE = auto()
    GAP = auto()  # ids before it are missing; nothing was taken


# By these names, because looking a member up in its class costs as much as taking a trade's id.
NEW, DUPLICATE, GAP = Verdict


class TradeIds:
    """The ids of one instrument's aggregate trades.

    Args:
        last: Newest id already written, None when nothing is known: then the first id offered begins the sequence.
        missing: Ranges of ids below it that were never written (first and last, inclusive).
    """

    def __init__(self, last: int | None = None, missing: list[tuple[int, int]] | None = None) -> None:
        self.last = last
        self.missing: list[tuple[int, int]] = list(missing or [])

    def offer(self, trade_id: int) -> Verdict:
        """Take an id: NEW is to be written once, now. After GAP the caller fills the hole or calls ``skip``, and offers again."""
        if self.last is None or trade_id == self.last + 1:
            self.last = trade_id
            return NEW
        if trade_id > self.last:
            return GAP
        for index, (first, last) in enumerate(self.missing):
            if first <= trade_id <= last:
                parts = [(first, trade_id - 1), (trade_id + 1, last)]
                self.missing[index : index + 1] = [part for part in parts if part[0] <= part[1]]
                return Verdict.NEW
        return Verdict.DUPLICATE

    def follow(self, trade_id: int) -> bool:
        """Take an id that follows on the newest; False, and nothing is taken, for any other."""
        if self.last is None or trade_id != self.last + 1:
            return False
        self.last = trade_id
        return True

    def skip(self, before: int) -> None:
        """Leave the hole before ``before`` open for now: its ids are missing, and are new when they come after all."""
        if self.last is not None and before > self.last + 1:
            self.missing.append((self.last + 1, before - 1))
            self.last = before - 1

    def lacks(self, first: int, last: int) -> bool:
        """Return True when an id of the range is still missing."""
        return any(low <= last and first <= high for low, high in self.missing)


# A REST interface answers with a thousand trades at most; a rotation's overlap brings a few seconds of them twice.
KEEP_TRADES = 1_500
KEEP_MS = 30_000
# Room for a million trades in one millisecond keeps assigned ids ascending with time, and they fit a long until the year 2262.
IDS_A_MS = 1_000_000


class RecentIds:
    """The newest trades of an instrument of a venue whose ids say nothing but "this one".

    Such trades get ids of ours, which only ascend: the millisecond of the trade with room for a million, or one more than the last.

    Args:
        last: Newest id assigned in an earlier run.
    """

    __slots__ = ("_known", "_order", "last")

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._known: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()

    def remember(self, venue_id: str, time_ms: int) -> None:
        """Note a trade that is in the log already."""
        if venue_id not in self._known:
            self._known.add(venue_id)
            self._order.append((time_ms, venue_id))

    def offer(self, venue_id: str, time_ms: int) -> int | None:
        """Return the id to write a trade under, once; None for one that was seen. ``time_ms``: venue time of the trade."""
        known, order = self._known, self._order
        if venue_id in known:
            return None
        known.add(venue_id)
        order.append((time_ms, venue_id))
        while len(order) > KEEP_TRADES and order[0][0] < time_ms - KEEP_MS:
            known.discard(order.popleft()[1])
        self.last = max(self.last + 1, time_ms * IDS_A_MS)
        return self.last

    def __len__(self) -> int:
        return len(self._order)


def missing_ranges(ids: list[int]) -> list[tuple[int, int]]:
    """Return the ranges of ids missing between the smallest and the largest of ``ids``."""
    ordered = sorted(set(ids))
    return [(low + 1, high - 1) for low, high in pairwise(ordered) if high > low + 1]
