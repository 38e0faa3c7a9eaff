"""Order books for the paper model: which of them a step may see. Pure.

A book is needed only where an order fills, a few times a day. So only its position in the log is kept, and it is decoded on demand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.paper.fills import STALE_MS, Book, Books

IntArray = npt.NDArray[np.int64]
# Span of an instrument that a step does not move.
WAITS = (-(2**62), -(2**62))


@dataclass(frozen=True, slots=True)
class BookBlock:
    """``depth`` records of one partition in log order.

    Attributes:
        names: Instrument ids.
        code: Index into ``names``, shape (n,).
        event_time, offset: ms UTC and Kafka offset, shape (n,).
        row: Argument for ``read``, shape (n,).
        read: Decodes a record. Returns None for a book that is not live.
    """

    names: Sequence[str]
    code: IntArray
    event_time: IntArray
    offset: IntArray
    row: IntArray
    read: Callable[[int], Book | None]

    def rows(self, chosen: Any) -> BookBlock:
        """Return some of the rows, by slice or mask."""
        return replace(self, code=self.code[chosen], event_time=self.event_time[chosen], offset=self.offset[chosen], row=self.row[chosen])

    def __len__(self) -> int:
        return len(self.code)


class BookTape:
    """Books that were read, grouped by how far the steps have reached."""

    def __init__(self) -> None:
        self._ahead: deque[BookBlock] = deque()
        self._reached: list[BookBlock] = []

    @property
    def ahead(self) -> int:
        """Rows that are kept."""
        return sum(map(len, self._ahead)) + sum(map(len, self._reached))

    def add(self, block: BookBlock) -> None:
        """Add books in log order."""
        if len(block):
            self._ahead.append(block)

    def oldest(self, default: int) -> int:
        """Return the lowest offset that later steps may need again; ``default`` if there is none."""
        return min((int(block.offset.min()) for block in self._reached), default=default)

    def take(self, reach: int, spans: Mapping[str, tuple[int, int]], wanted: Sequence[str]) -> dict[str, Books]:
        """Return the books before an offset. Drop those that are too old for every later step.

        Args:
            reach: The step's cut.
            spans: Instrument -> (from, to), ms UTC: the times between which its books belong to the step. ``WAITS`` for instruments that do
                not move. Books of other instruments are dropped.
            wanted: Instruments whose books are returned.
        """
        while self._ahead and self._ahead[0].offset[0] < reach:
            block = self._ahead.popleft()
            split = int(np.searchsorted(block.offset, reach, "left"))
            self._reached.append(block.rows(slice(0, split)))
            if split < len(block):
                self._ahead.appendleft(block.rows(slice(split, None)))
        found: dict[str, list[tuple[BookBlock, IntArray]]] = {name: [] for name in wanted}
        kept = []
        for block in self._reached:
            known = np.array([name in spans for name in block.names], np.bool_)[block.code]
            bounds = np.array([spans.get(name, WAITS) for name in block.names], np.int64)
            since, until = bounds[:, 0][block.code], bounds[:, 1][block.code]
            # A repeated worker may have written an older cut after a newer one. Books beyond this cut are for a later step. Books too old
            # for the instrument's position are skipped, also late ones. So the result does not depend on where reading began.
            due = (block.event_time <= until) & (block.offset < reach)
            seen = due & (block.event_time >= since - STALE_MS)
            for name, parts in found.items():
                if name in block.names and len(rows := np.flatnonzero(seen & (block.code == block.names.index(name)))):
                    parts.append((block, rows))
            stays = known & (~due | (block.event_time >= until - STALE_MS))
            if stays.all():
                kept.append(block)
            elif stays.any():
                kept.append(block.rows(stays))
        self._reached = kept
        return {name: _books(parts) for name, parts in found.items() if parts}


def _books(parts: list[tuple[BookBlock, IntArray]]) -> Books:
    """Join rows of several blocks, sorted by (event_time, offset)."""
    times = np.concatenate([block.event_time[rows] for block, rows in parts])
    offsets = np.concatenate([block.offset[rows] for block, rows in parts])
    places = [(block, int(row)) for block, rows in parts for row in block.row[rows]]
    order = np.lexsort((offsets, times))

    def read(row: int) -> Book | None:
        block, place = places[order[row]]
        return block.read(place)

    return Books(times[order], read)
