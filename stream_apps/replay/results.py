"""Results of a run as sets of records: hashes, and the differences between two runs, field by field."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas.catalogue import RESULT_TOPICS, TOPICS
from schemas.codec.avro import Codec

Identity = tuple[Any, ...]
# Mode of the trades that the paper model closes.
PAPER = "paper"


@dataclass
class ResultSet:
    """Records of the result topics by their id. Repeats from a restarted service are dropped; the first one stays.

    Attributes:
        keeps_order: True: entries of maps keep their order, as bytes do. False: they are sorted by key first, because a database keeps no
            order.
        repeats: Topic -> number of repeats that equalled the first.
        conflicts: (topic, id) of repeats with another content. A correct run has none.
    """

    codec: Codec
    keeps_order: bool = True
    records: dict[str, dict[Identity, bytes]] = field(default_factory=lambda: {topic: {} for topic in RESULT_TOPICS})
    repeats: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULT_TOPICS, 0))
    conflicts: list[tuple[str, Identity]] = field(default_factory=list)

    @classmethod
    def of(cls, codec: Codec, topics: Iterable[str], keeps_order: bool = True) -> ResultSet:
        """Return an empty set for other topics than ``RESULT_TOPICS``."""
        names = tuple(topics)
        return cls(codec, keeps_order, {topic: {} for topic in names}, dict.fromkeys(names, 0))

    def add(self, topic: str, value: bytes | None) -> None:
        """Add one encoded record. Other topics are ignored. Raises CodecError for bytes that are no record."""
        if topic not in self.records:
            return
        record = self.codec.decode(topic, value)
        if record.get("mode", PAPER) != PAPER:
            return  # a trade at a venue: no replay makes it
        if not self.keeps_order:
            value = self.codec.encode(topic, _in_order(record))
        identity = tuple(record[name] for name in TOPICS[topic].record_id)
        known = self.records[topic].setdefault(identity, value or b"")
        if known is not value:
            if known == value:
                self.repeats[topic] += 1
            else:
                self.conflicts.append((topic, identity))

    def hash_of(self, topic: str) -> str:
        """Return sha256 over the sorted encoded records of a topic, each with its length, as hexadecimal digits."""
        digest = hashlib.sha256()
        for value in sorted(self.records[topic].values()):
            digest.update(len(value).to_bytes(4, "big"))
            digest.update(value)
        return digest.hexdigest()

    def hashes(self) -> dict[str, str]:
        """Return topic -> hash for all result topics."""
        return {topic: self.hash_of(topic) for topic in self.records}

    def without(self, instruments: Collection[str]) -> ResultSet:
        """Return the records of all other instruments."""
        kept = {
            topic: {
                identity: value for identity, value in records.items() if self.codec.decode(topic, value)["instrument"] not in instruments
            }
            for topic, records in self.records.items()
        }
        return ResultSet(self.codec, self.keeps_order, kept)

    def counts(self) -> dict[str, int]:
        """Return topic -> number of records."""
        return {topic: len(records) for topic, records in self.records.items()}


def _in_order(value: Any) -> Any:
    """Return a value with the entries of every map sorted by key."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(one) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Difference:
    """A difference between two runs: a record that one of them lacks, or the first field that differs."""

    topic: str
    identity: Identity
    field: str | None
    expected: Any
    found: Any

    def __str__(self) -> str:
        name = "|".join(str(part) for part in self.identity)
        if self.field is None:
            return f"{self.topic} {name}: {'missing in the replay' if self.found is None else 'not in the topics'}"
        return f"{self.topic} {name}: {self.field} is {self.expected!r} in the topics and {self.found!r} in the replay"


def differences(
    expected: ResultSet, found: ResultSet, topics: Iterable[str] | None = None, event_time_until: int | None = None
) -> list[Difference]:
    """Return the differences by topic and event time: for each record its first differing field.

    Args:
        expected: The records of the services.
        found: The records of the replay.
        topics: Topics to compare; None: all of ``expected``.
        event_time_until: Compare records up to this event time only, because a live pipeline goes on writing.
    """
    out: list[tuple[int, Difference]] = []
    for topic in expected.records if topics is None else topics:
        ours, theirs = found.records[topic], expected.records[topic]
        for identity in {**theirs, **ours}:
            a, b = theirs.get(identity), ours.get(identity)
            if a == b:
                continue
            one, two = (None if value is None else expected.codec.decode(topic, value) for value in (a, b))
            time = (one or two or {})["event_time"]
            if event_time_until is not None and time > event_time_until:
                continue
            if one is None or two is None:
                out.append((time, Difference(topic, identity, None, one, two)))
                continue
            name = next((name for name in one if repr(one[name]) != repr(two[name])), "encoding")
            out.append((time, Difference(topic, identity, name, one.get(name), two.get(name))))
    return [difference for _, difference in sorted(out, key=lambda pair: (pair[0], pair[1].topic, str(pair[1].identity)))]
