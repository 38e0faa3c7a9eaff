"""The progress log as the engine reads it: marks in log order, the merged cut, and which marks make instants due (DESIGN 3)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from schemas.catalogue import ENGINE_INPUTS


@dataclass(frozen=True, slots=True)
class Mark:
    """One progress mark: 'all that ``author`` has up to ``time`` lies before ``cut``'. Times in ms of event time."""

    offset: int
    author: str
    venue: str
    time: int
    cut: dict[str, int]


@dataclass(slots=True)
class MarkLog:
    """Marks not yet passed, and what the passed ones add up to.

    Attributes:
        merged: Topic -> next offset: the newest cut per topic over the passed marks.
        fired: Author -> newest fired pane.
        next_offset: Offset after the last passed mark.
    """

    merged: dict[str, int] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    next_offset: int = 0
    waiting: deque[Mark] = field(default_factory=deque)

    def cut_after(self, mark: Mark) -> dict[str, int]:
        """Return the merged cut at ``mark``."""
        merged = dict(self.merged)
        for topic, offset in mark.cut.items():
            if topic in ENGINE_INPUTS and offset > merged.get(topic, 0):
                merged[topic] = offset
        return merged

    def due(self, mark: Mark, grid_ms: int, lateness_ms: int) -> range:
        """Return the panes of the mark's author that fire at it, oldest first.

        At an author's first mark only an instant that has just become due fires: nothing is known of earlier ones.
        """
        if not mark.venue:
            return range(0)
        newest = (mark.time - lateness_ms) // grid_ms
        known = self.fired.get(mark.author)
        if known is None:
            known = -(-(mark.time - lateness_ms) // grid_ms) - 1
        return range(known + 1, newest + 1)

    def passed(self, mark: Mark, cut: dict[str, int], grid_ms: int, lateness_ms: int) -> None:
        """Take note that the mark was passed with its merged cut."""
        self.merged = cut
        self.next_offset = mark.offset + 1
        if mark.venue:
            self.times[mark.author] = max(mark.time, self.times.get(mark.author, mark.time))
            first = -(-(mark.time - lateness_ms) // grid_ms) - 1
            newest = (mark.time - lateness_ms) // grid_ms
            self.fired[mark.author] = max(self.fired.get(mark.author, first), newest)
