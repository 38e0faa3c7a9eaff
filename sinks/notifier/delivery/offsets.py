"""The offset of a partition that may be committed while messages of several channels are in flight. Pure.

A record is settled when each of its messages was sent, suppressed or written to dead_letters. The position is the first unsettled offset.
"""

from __future__ import annotations

from dataclasses import dataclass


class PartitionOffsets:
    """One assigned partition.

    Attributes:
        topic: Plain name.
        number: Partition.
        revoked: Another process owns it now and sends the unsent messages.
    """

    def __init__(self, topic: str, number: int, start: int) -> None:
        self.topic = topic
        self.number = number
        self.revoked = False
        self._next = start
        self._open: dict[int, int] = {}  # offset -> messages under way, in order of offsets
        self._events: dict[int, str] = {}

    def take(self, offset: int, messages: int, event_id: str = "") -> None:
        """Add a record with its number of messages and its event."""
        self._next = offset + 1
        if messages:
            self._open[offset] = messages
            self._events[offset] = event_id

    def settle(self, offset: int) -> None:
        """Mark one message of a record as done. Raises KeyError if none is in flight."""
        left = self._open[offset] - 1
        if left:
            self._open[offset] = left
        else:
            del self._open[offset], self._events[offset]

    @property
    def events_under_way(self) -> list[str]:
        """Ids of the events with messages in flight."""
        return list(self._events.values())

    @property
    def position(self) -> int:
        """The offset from which a successor must read."""
        return next(iter(self._open), self._next)

    @property
    def under_way(self) -> int:
        """Number of records with messages in flight."""
        return len(self._open)


@dataclass(frozen=True)
class SourceRecord:
    """The source record of a message: its partition, and its bytes for a dead letter."""

    partition: PartitionOffsets
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
