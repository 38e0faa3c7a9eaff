"""The progress log as the engine reads it: marks in log order, the merged cut, and which marks make instants due (DESIGN 3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.codec.markreader import Mark, Marks


class MarkQueue:
    """Marks that have been read and not been passed, in order of the log."""

    def __init__(self) -> None:
        self._blocks: deque[Marks] = deque()
        self._at = 0  # of the first block
        self._size = 0
        self._first: Mark | None = None

    def __len__(self) -> int:
        return self._size

    def extend(self, blocks: Iterable[Marks]) -> None:
        """Append marks: blocks of at least one."""
        for block in blocks:
            self._blocks.append(block)
            self._size += len(block.offsets)

    def first(self) -> Mark:
        """Return the first. Raises IndexError when there is none."""
        if self._first is None:
            self._first = self._blocks[0].mark(self._at)
        return self._first

    def front(self) -> tuple[Marks, int]:
        """Return a block of columns and the index of its first mark. Raises IndexError when there is none."""
        return self._blocks[0], self._at

    def drop(self, n: int = 1) -> None:
        """Forget so many of the first block."""
        self._first = None
        self._at += n
        self._size -= n
        if self._at == len(self._blocks[0].offsets):
            self._blocks.popleft()
            self._at = 0


@dataclass(slots=True)
class MarkLog:
    """Marks that wait, and what the passed ones add up to.

    Attributes:
        inputs: Topics that count; a cut's other topics are passed over.
        merged: Topic -> next offset: the newest cut per topic over the passed marks, in order of the topics. It is replaced, never changed.
        fired: Author -> newest fired pane.
        next_offset: Offset after the last passed mark.
    """

    inputs: frozenset[str]
    merged: dict[str, int] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    next_offset: int = 0
    waiting: MarkQueue = field(default_factory=MarkQueue)

    def new_topics(self, mark: Mark) -> list[str]:
        """Return the topics of which ``mark`` brings records that no mark before it brought."""
        merged = self.merged
        return [topic for topic, offset in mark.cut.items() if offset > merged.get(topic, 0) and topic in self.inputs]

    def cut_after(self, mark: Mark) -> dict[str, int]:
        """Return the merged cut at ``mark``, in order of the topics."""
        new_topics = self.new_topics(mark)
        if not new_topics:
            return self.merged
        merged = {**self.merged, **{topic: mark.cut[topic] for topic in new_topics}}
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
