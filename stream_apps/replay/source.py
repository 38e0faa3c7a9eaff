"""Where a replay's records come from: pieces of topics, as a log of this environment would hold them.

A source with a progress log (the topics) is taken as it is. For one without (files) ``SynthesisedLog`` writes the log that an importer would have
written: the same records, one mark a grid step (DESIGN 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple, Protocol

from schemas.catalogue import ENGINE_INPUTS
from schemas.codec.avro import Codec, Record
from schemas.codec.recordset import RecordSet
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.replay.topics import TopicSource

# Records of all topics after which a synthesised log is fed on; some seconds of the busiest market, and little memory.
PIECE = 20_000
AUTHOR = "replay"
SIGNALS_INPUTS = (*ENGINE_INPUTS, "progress")


class Piece(NamedTuple):
    """Consecutive records of one topic partition."""

    partition: int
    topic: str
    records: RecordSet


class Source(Protocol):
    """Something that can be replayed, any number of times."""

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the pieces, each topic in offset order. ``engine_of`` gives the engine that a partition's pieces go to."""
        ...


class Entry(NamedTuple):
    """A record on its way into a synthesised log, without ``receive_time``: history was received when it happened."""

    partition: int
    topic: str
    record: Record


@dataclass
class SynthesisedLog:
    """Gives records offsets and marks.

    Args:
        codec: How values are encoded.
        venue: Of the marks.
        partitions: That the instruments live in.
        size: Records after which pieces are handed on.
    """

    codec: Codec
    venue: str
    partitions: tuple[int, ...]
    size: int = PIECE
    _next: dict[tuple[int, str], int] = field(default_factory=dict)
    _open: dict[tuple[int, str], list[tuple[int, int, bytes | None, bytes | None]]] = field(default_factory=dict)
    _count: int = 0

    def step(self, time: int | None, entries: Iterable[Entry]) -> Iterator[Piece]:
        """Append records and, when ``time`` is given, a mark at it in every partition; yield what is full."""
        for entry in entries:
            self._append(entry.partition, entry.topic, str(entry.record["instrument"]), entry.record)
        if time is not None:
            for partition in self.partitions:
                cut = {topic: offset for (place, topic), offset in self._next.items() if place == partition and topic != "progress"}
                self._append(partition, "progress", AUTHOR, {"author": AUTHOR, "venue": self.venue, "event_time": time, "cut": cut})
            if self._count >= self.size:
                yield from self.flush()

    def flush(self) -> Iterator[Piece]:
        """Yield what was appended since; marks last, so that what they wait for is there."""
        for (partition, topic), messages in sorted(self._open.items(), key=lambda item: (item[0][0], item[0][1] == "progress", item[0][1])):
            yield Piece(partition, topic, RecordSet.from_messages(messages))
        self._open, self._count = {}, 0

    def _append(self, partition: int, topic: str, key: str, record: Record) -> None:
        offset = self._next.get((partition, topic), 0)
        self._next[partition, topic] = offset + 1
        time = record["event_time"]
        value = self.codec.encode(topic, {"receive_time": time, **record})
        self._open.setdefault((partition, topic), []).append((offset, time, key.encode(), value))
        self._count += 1


@dataclass
class Topics:
    """The topics of the environment as a source.

    Args:
        read: Opens a reader of the topics.
        partitions: To read.
        since: Market data from here on, ms UTC, to warm up by; None: from the beginning of the topics. Contracts are always read whole.
        until: Stop when every producer's marks are beyond, ms UTC; None: at the present end.
        strategies: Take the strategies from the log too; else they are given to the engine.
        inputs: Topics that the engine is fed with.
    """

    read: Callable[[tuple[str, ...]], TopicSource]
    partitions: tuple[int, ...]
    since: int | None = None
    until: int | None = None
    strategies: bool = True
    inputs: tuple[str, ...] = SIGNALS_INPUTS

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield what the topics hold, a partition after the other; ``gaps`` too, which no engine reads."""
        names = tuple(name for name in (*self.inputs, "gaps") if self.strategies or name != "strategies")
        with self.read(names) as source:
            starts_of = {partition: source.starts(partition, self.since) for partition in self.partitions}
            for partition, following in zip_longest(self.partitions, self.partitions[1:]):
                engine, starts = engine_of(partition), starts_of[partition]
                for topic, offset in starts.items():
                    if offset and topic != "gaps":
                        engine.skip_to(topic, offset)
                then = None if following is None else (following, starts_of[following])
                for topic, records in source.records(partition, engine.backlog, engine.wants, starts, then):
                    yield Piece(partition, topic, records)
                    times = engine.marks.times.values()
                    if self.until is not None and times and min(times) > self.until + engine.config.lateness_ms + engine.config.grid_ms:
                        break

    def total(self) -> int:
        """Return the number of records that lie before the present end."""
        with self.read((*self.inputs, "gaps")) as source:
            count = 0
            for partition in self.partitions:
                starts = source.starts(partition, self.since)
                count += sum(high - starts.get(topic, low) for topic, (low, high) in source.ends(partition).items())
            return count
