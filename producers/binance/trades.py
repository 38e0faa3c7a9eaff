"""Which aggregate trades of an instrument are new, doubled or missing: their ids are consecutive (pure)."""

from __future__ import annotations

from enum import Enum, auto
from itertools import pairwise


class Verdict(Enum):
    """What to do with a trade id."""

    NEW = auto()
    DUPLICATE = auto()
    GAP = auto()  # ids before it are missing; nothing was taken


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
            return Verdict.NEW
        if trade_id > self.last:
            return Verdict.GAP
        for index, (first, last) in enumerate(self.missing):
            if first <= trade_id <= last:
                parts = [(first, trade_id - 1), (trade_id + 1, last)]
                self.missing[index : index + 1] = [part for part in parts if part[0] <= part[1]]
                return Verdict.NEW
        return Verdict.DUPLICATE

    def skip(self, before: int) -> None:
        """Leave the hole before ``before`` open for now: its ids are missing, and are new when they come after all."""
        if self.last is not None and before > self.last + 1:
            self.missing.append((self.last + 1, before - 1))
            self.last = before - 1

    def lacks(self, first: int, last: int) -> bool:
        """Return True when an id of the range is still missing."""
        return any(low <= last and first <= high for low, high in self.missing)


def holes(ids: list[int]) -> list[tuple[int, int]]:
    """Return the ranges of ids missing between the smallest and the largest of ``ids``."""
    ordered = sorted(set(ids))
    return [(low + 1, high - 1) for low, high in pairwise(ordered) if high > low + 1]
