"""The progress log as the engine reads it: marks in log order, the merged cut, and which marks make instants due (DESIGN 3)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from schemas.catalogue import ENGINE_INPUTS
from schemas.markreader import Mark

_INPUTS = frozenset(ENGINE_INPUTS)


@dataclass(slots=True)
class MarkLog:
    """Marks not yet passed, and what the passed ones add up to.

    Attributes:
        merged: Topic -> next offset: the newest cut per topic over the passed marks, in order of the topics. It is replaced, never changed.
        fired: Author -> newest fired pane.
        next_offset: Offset after the last passed mark.
    """

    merged: dict[str, int] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    next_offset: int = 0
    waiting: deque[Mark] = field(default_factory=deque)

    def ahead(self) -> MarkLog:
        """Return a log that may go on without this one; neither sees what the other passes."""
        return MarkLog(self.merged, self.fired.copy(), self.times.copy(), self.next_offset, self.waiting)

    def adopt(self, ahead: MarkLog) -> None:
        """Stand where a log that went ahead stands."""
        self.merged, self.fired, self.times, self.next_offset = ahead.merged, ahead.fired, ahead.times, ahead.next_offset

    def news(self, mark: Mark) -> list[str]:
        """Return the topics of which ``mark`` brings records that no mark before it brought."""
        merged = self.merged
        return [topic for topic, offset in mark.cut.items() if offset > merged.get(topic, 0) and topic in _INPUTS]

    def cut_after(self, mark: Mark) -> dict[str, int]:
        """Return the merged cut at ``mark``, in order of the topics."""
        news = self.news(mark)
        if not news:
            return self.merged
        merged = {**self.merged, **{topic: mark.cut[topic] for topic in news}}
        return merged if len(merged) == len(self.merged) else dict(sorted(merged.items()))

    def due(self, mark: Mark, grid_ms: int, lateness_ms: int) -> range:
        """Return the panes of the mark's author that fire at it, oldest first.

        At an author's first mark only an instant that has just become due fires: nothing is known of earlier ones.
        """
        if not mark.venue:
            return range(0)
        reached = mark.time - lateness_ms
        known = self.fired.get(mark.author)
        if known is None:
            known = -(-reached // grid_ms) - 1
        return range(known + 1, reached // grid_ms + 1)

    def passed(self, mark: Mark, cut: dict[str, int], grid_ms: int, lateness_ms: int) -> None:
        """Take note that the mark was passed with its merged cut."""
        self.merged = cut
        self.next_offset = mark.offset + 1
        if mark.venue:
            author, newest = mark.author, (mark.time - lateness_ms) // grid_ms
            if mark.time >= self.times.get(author, mark.time):
                self.times[author] = mark.time
            if newest >= self.fired.get(author, newest):
                self.fired[author] = newest
