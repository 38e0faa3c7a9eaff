"""Which offset of a partition may be committed while messages of several channels are under way. Pure.

A record is settled when each of its messages was sent, suppressed or written to dead_letters; the position is the first offset that is not.
"""

from __future__ import annotations

from dataclasses import dataclass


class PartitionOffsets:
    """One partition that this process owns.

    Attributes:
        topic: Plain name.
        number: Partition.
        revoked: Another process has it now: what is not sent yet is its work.
    """

    def __init__(self, topic: str, number: int, start: int) -> None:
        self.topic = topic
        self.number = number
        self.revoked = False
        self._next = start
        self._open: dict[int, int] = {}  # offset -> messages under way, in order of offsets
        self._events: dict[int, str] = {}

    def take(self, offset: int, messages: int, event_id: str = "") -> None:
        """Take a record that makes so many messages about an event."""
        self._next = offset + 1
        if messages:
            self._open[offset] = messages
            self._events[offset] = event_id

    def settle(self, offset: int) -> None:
        """One message of a record is done. Raises KeyError when none of it is under way."""
        left = self._open[offset] - 1
        if left:
            self._open[offset] = left
        else:
            del self._open[offset], self._events[offset]

    @property
    def events_under_way(self) -> list[str]:
        """Ids of the events whose messages are under way."""
        return list(self._events.values())

    @property
    def position(self) -> int:
        """The offset from which a successor has to read."""
        return next(iter(self._open), self._next)

    @property
    def under_way(self) -> int:
        """Records with messages under way."""
        return len(self._open)


@dataclass(frozen=True)
class SourceRecord:
    """The record behind a message: whom to tell when it is done, and its bytes in case it cannot be sent."""

    partition: PartitionOffsets
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
