"""Finds new, duplicate and missing trades of an instrument (pure): by consecutive ids, or by a set of the newest ids."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from itertools import pairwise


class Verdict(Enum):
    """What to do with a trade id."""

    NEW = auto()
    DUPLICATE = auto()
    GAP = auto()  # ids before it are missing; nothing was taken


# Module names, because the lookup of an enum member costs as much as taking a trade's id.
NEW, DUPLICATE, GAP = Verdict


class TradeIds:
    """The ids of one instrument's aggregate trades.

    Args:
        last: Newest written id. None: the first offered id starts the sequence.
        missing: Ranges of ids below it that were never written (first and last, inclusive).
    """

    def __init__(self, last: int | None = None, missing: list[tuple[int, int]] | None = None) -> None:
        self.last = last
        self.missing: list[tuple[int, int]] = list(missing or [])

    def offer(self, trade_id: int) -> Verdict:
        """Take an id. NEW means: write the trade now. After GAP the caller fills the gap or calls ``skip``, and offers the id again."""
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
        """Take an id that follows the newest one directly. For any other return False and take nothing."""
        if self.last is None or trade_id != self.last + 1:
            return False
        self.last = trade_id
        return True

    def skip(self, before: int) -> None:
        """Leave the gap before ``before`` open. Its ids are missing, and new if they arrive later."""
        if self.last is not None and before > self.last + 1:
            self.missing.append((self.last + 1, before - 1))
            self.last = before - 1

    def lacks(self, first: int, last: int) -> bool:
        """Return True when an id of the range is still missing."""
        return any(low <= last and first <= high for low, high in self.missing)


# A REST response has at most a thousand trades. A rotation's overlap repeats a few seconds of trades.
KEEP_TRADES = 1_500
KEEP_MS = 30_000
# With room for a million trades in a millisecond, assigned ids ascend with time. They fit a long until the year 2262.
IDS_A_MS = 1_000_000


class RecentIds:
    """The newest trades of an instrument whose ids only identify a trade.

    Such trades get ascending ids of ours: a million times the trade's millisecond, or one more than the last id.

    Args:
        last: Newest id assigned in an earlier run.
    """

    __slots__ = ("_known", "_order", "last")

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._known: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()

    def remember(self, venue_id: str, time_ms: int) -> None:
        """Record a trade that is already in the log."""
        if venue_id not in self._known:
            self._known.add(venue_id)
            self._order.append((time_ms, venue_id))

    def offer(self, venue_id: str, time_ms: int) -> int | None:
        """Return the id of a new trade; None for a trade that was seen. ``time_ms``: venue time of the trade."""
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
