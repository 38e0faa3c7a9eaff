"""The source of a replay's records: pieces of topics, as a log of this environment would hold them.

A source with a progress log (the topics) is used as it is. For a source without one (files) ``SynthesisedLog`` writes the log that an
importer would have written: the same records, one mark a grid step (DESIGN 3).
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
from stream_apps.replay.sources.topics import TopicSource

# Number of records of all topics after which a synthesised log is passed on: some seconds of the busiest market, and little memory.
PIECE = 20_000
AUTHOR = "replay"
SIGNALS_INPUTS = (*ENGINE_INPUTS, "progress")


class Piece(NamedTuple):
    """Consecutive records of one topic partition."""

    partition: int
    topic: str
    records: RecordSet


class Source(Protocol):
    """A source that can be replayed any number of times."""

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the pieces, each topic in offset order. ``engine_of`` returns the engine that receives a partition's pieces."""
        ...


class Entry(NamedTuple):
    """A record for a synthesised log, without ``receive_time``: history counts as received when it happened."""

    partition: int
    topic: str
    record: Record


@dataclass
class SynthesisedLog:
    """Assigns offsets to records and writes marks.

    Args:
        codec: How values are encoded.
        venue: Venue of the marks.
        partitions: Partitions of the instruments.
        size: Number of records after which pieces are passed on.
    """

    codec: Codec
    venue: str
    partitions: tuple[int, ...]
    size: int = PIECE
    _next: dict[tuple[int, str], int] = field(default_factory=dict)
    _open: dict[tuple[int, str], list[tuple[int, int, bytes | None, bytes | None]]] = field(default_factory=dict)
    _count: int = 0

    def step(self, time: int | None, entries: Iterable[Entry]) -> Iterator[Piece]:
        """Append records, and a mark in every partition when ``time`` is given. Yield full pieces."""
        for entry in entries:
            self._append(entry.partition, entry.topic, str(entry.record["instrument"]), entry.record)
        if time is not None:
            for partition in self.partitions:
                cut = {topic: offset for (place, topic), offset in self._next.items() if place == partition and topic != "progress"}
                self._append(partition, "progress", AUTHOR, {"author": AUTHOR, "venue": self.venue, "event_time": time, "cut": cut})
            if self._count >= self.size:
                yield from self.flush()

    def flush(self) -> Iterator[Piece]:
        """Yield the appended records. Marks come last, so that the records before them are there."""
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
        partitions: Partitions to read.
        since: Begin of the market data, ms UTC, warm-up included. None: the begin of the topics. Instruments are always read in full.
        until: Stop when the marks of every producer are later, ms UTC. None: at the present end.
        strategies: Read the strategies from the log too. False: they are given to the engine.
        inputs: Topics of the engine.
    """

    read: Callable[[tuple[str, ...]], TopicSource]
    partitions: tuple[int, ...]
    since: int | None = None
    until: int | None = None
    strategies: bool = True
    inputs: tuple[str, ...] = SIGNALS_INPUTS

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the records of the topics, one partition after the other. ``gaps`` is included, though no engine reads it."""
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
