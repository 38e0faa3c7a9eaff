"""Ids of events: the position of the live stream in all event topics, as one text.

The position is the next offset of every partition. It does not depend on the process, so a browser resumes after a restart of the console.
A checksum of Kafka's id of each topic is part of it: offsets mean nothing in a topic that was made again.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping

from sinks.console.live.channels import KINDS

# In the order of the text; a new topic goes to the end, so that ids of an earlier release remain readable.
EVENT_TOPICS = (
    "signals", "orders", "fills", "trades_closed", "liquidations", "gaps", "data_quality", "strategies", "risk_state", "risk_commands",
    "reconciliations",
)  # fmt: skip
assert set(EVENT_TOPICS) == {topic for kind in KINDS.values() if kind.event for topic in kind.topics}
_VERSION = 1
# A longer text is not one of ours: all topics with a thousand partitions each.
LONGEST = 65_536
_MOST_PARTITIONS = 10_000

Place = tuple[str, int]


class EventIdError(ValueError):
    """A text that is not an event id."""


def checksum(topic_id: str) -> int:
    """Return the checksum of Kafka's id of a topic, 1 to 65535."""
    return zlib.crc32(topic_id.encode()) % 0xFFFF + 1


def encode(position: Mapping[Place, int], topics: Mapping[str, int]) -> str:
    """Return the id of a position.

    Args:
        position: (topic, partition) -> next offset.
        topics: Topic -> ``checksum`` of its id; a topic that does not exist is left out.
    """
    out = bytearray((_VERSION,))
    counts = dict.fromkeys(EVENT_TOPICS, 0)
    for topic, partition in position:
        counts[topic] = max(counts[topic], partition + 1)
    for topic in EVENT_TOPICS:
        out += topics.get(topic, 0).to_bytes(2, "big")
        _write(out, counts[topic])
        for partition in range(counts[topic]):
            _write(out, position.get((topic, partition), 0))
    return base64.urlsafe_b64encode(out).decode().rstrip("=")


def decode(text: str) -> tuple[dict[Place, int], dict[str, int]]:
    """Return the position of an id, and the checksums of the topics that existed.

    Raises:
        EventIdError: the text is not an id.
    """
    if len(text) > LONGEST:
        raise EventIdError("too long")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise EventIdError(str(error)) from error
    if not data or data[0] != _VERSION:
        raise EventIdError("unknown version")
    at = 1
    position: dict[Place, int] = {}
    topics: dict[str, int] = {}
    for topic in EVENT_TOPICS:
        if at == len(data):
            break  # of a release that did not have this topic
        if mark := int.from_bytes(data[at : at + 2], "big"):
            topics[topic] = mark
        count, at = _read(data, at + 2)
        if count > _MOST_PARTITIONS:
            raise EventIdError("too many partitions")
        for partition in range(count):
            position[topic, partition], at = _read(data, at)
    if at != len(data):
        raise EventIdError("bytes left after the position")
    return position, topics


def _write(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise EventIdError("truncated")
