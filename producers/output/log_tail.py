"""Reads an author's last marks, and the newest records of its instruments, from the log at the start.

After kill -9 only the log is left. It holds the producer's last mark and the last acknowledged ids. The producer continues from there, so
no record is lost or written twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec.avro import CodecError, Record
from schemas.settings import Settings

# Size of the first read at the end of a partition. Each further read goes back eight times as far.
FIRST_LOOK = 4_000
GROWTH = 8
# Venues serve trades of the last two days over REST. A producer cannot continue from older records.
REACH_MS = 2 * 24 * 3600 * 1000
TIMEOUT_S = 30.0


class LogError(RuntimeError):
    """The log cannot be read: no broker, or topics that are missing."""


@dataclass
class Tail:
    """The author's newest records in the log.

    Attributes:
        marks: Partition -> time of the author's last mark there, ms UTC.
        marked: Partition -> topic -> the cut of that mark.
        cuts: Partition -> topic -> end offset.
        instruments: Instrument id -> its newest ``instruments`` record.
        newest: (topic, instrument id) -> the newest records, oldest first; at least one if any exists.
    """

    marks: dict[int, int] = field(default_factory=dict)
    marked: dict[int, dict[str, int]] = field(default_factory=dict)
    cuts: dict[int, dict[str, int]] = field(default_factory=dict)
    instruments: dict[str, Record] = field(default_factory=dict)
    newest: dict[tuple[str, str], list[Record]] = field(default_factory=dict)

    @property
    def clock(self) -> int | None:
        """The newest event time among the records, ms UTC."""
        return max((record["event_time"] for records in self.newest.values() for record in records), default=None)


def read_tail(
    settings: Settings, author: str, instruments: Mapping[str, int], topics: Iterable[str], reach_ms: int | None = REACH_MS
) -> Tail:
    """Read an author's marks and newest records from the log. Blocking.

    Args:
        settings: Kafka's address and names.
        author: Author of the marks.
        instruments: Instrument id -> partition.
        topics: Topics that the author writes, ``instruments`` among them.
        reach_ms: How far before the last mark to search, ms; None: to the beginning.

    Raises:
        LogError: no broker, or a topic or partition is missing.
    """
    return _Reader(settings, author, instruments, list(topics), reach_ms).read()


def scan(
    settings: Settings, author: str, ranges: Mapping[tuple[str, int], tuple[int, int]]
) -> Iterable[tuple[str, int, str, bytes | None]]:
    """Yield topic, partition, key and value of the records in offset ranges [low, high) of (topic, partition). Blocking.

    Raises:
        LogError: no broker, or it does not answer.
    """
    reader = _Reader(settings, author, {}, [])
    try:
        yield from reader._scan(ranges)
    except KafkaException as error:
        raise LogError(f"Kafka at {settings.kafka_bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS): {error.args[0].str()}") from error
    finally:
        reader.consumer.close()


class _Reader:
    def __init__(
        self, settings: Settings, author: str, instruments: Mapping[str, int], topics: list[str], reach_ms: int | None = REACH_MS
    ) -> None:
        self.reach_ms = reach_ms
        self.settings = settings
        self.author = author
        self.instruments = instruments
        self.topics = topics
        self.partitions = sorted(set(instruments.values()))
        self.consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "group.id": settings.group(f"tail-{author}"),  # the client requires a group id; it commits nothing
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "log_level": 0,  # the raised error reports it once
            }
        )

    def read(self) -> Tail:
        try:
            return self._read()
        except KafkaException as error:
            servers = self.settings.kafka_bootstrap_servers
            raise LogError(f"Kafka at {servers} (KAFKA_BOOTSTRAP_SERVERS): {error.args[0].str()}") from error
        finally:
            self.consumer.close()

    def _read(self) -> Tail:
        self._check_topics()
        tail = Tail()
        bounds = {(topic, p): self._watermarks(topic, p) for topic in {*self.topics, "progress"} for p in self.partitions}
        tail.cuts = {p: {topic: bounds[topic, p][1] for topic in self.topics} for p in self.partitions}
        # The compacted topic is small, so it is read in full. It lists every instrument that this author wrote.
        whole = {("instruments", p): bounds["instruments", p] for p in self.partitions}
        for _, _, key, value in self._scan(whole):
            if key in self.instruments and value is not None:
                tail.instruments[key] = self.settings.codec.decode("instruments", value)
        known: dict[int, set[str]] = {}
        for name, record in tail.instruments.items():
            if record["author"] == self.author:
                known.setdefault(self.instruments[name], set()).add(name)
        found = self._newest(bounds, {("progress", p): {self.author} for p in known}, floor=None)
        for (_, partition, _), marks in found.items():
            newest = max(marks, key=lambda mark: int(mark["event_time"]))
            tail.marks[partition], tail.marked[partition] = newest["event_time"], newest["cut"]
        wanted = {(topic, p): set(names) for p, names in known.items() for topic in self.topics if topic not in ("instruments", "gaps")}
        floor = {} if self.reach_ms is None else {p: max(0, mark - self.reach_ms) for p, mark in tail.marks.items()}
        for (topic, _, name), records in self._newest(bounds, wanted, floor).items():
            tail.newest[topic, name] = records
        return tail

    def _check_topics(self) -> None:
        there = self.consumer.list_topics(timeout=TIMEOUT_S).topics
        for topic in [*self.topics, "progress", "dead_letters"]:
            name = self.settings.topic(topic)
            if name not in there or there[name].error is not None:
                raise LogError(f"topic {name} does not exist: create the topics first (perpflow topics create)")
            count = len(there[name].partitions)
            if topic != "dead_letters" and count != self.settings.partitions:
                raise LogError(f"topic {name} has {count} partitions, but PERPFLOW_PARTITIONS is {self.settings.partitions}")

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        low, high = self.consumer.get_watermark_offsets(TopicPartition(self.settings.topic(topic), partition), timeout=TIMEOUT_S)
        return low, high

    def _scan(self, ranges: Mapping[tuple[str, int], tuple[int, int]]) -> Iterable[tuple[str, int, str, bytes | None]]:
        """Yield (topic, partition, key, value) of the records in offset ranges [low, high)."""
        left = {(self.settings.topic(topic), p): bounds for (topic, p), bounds in ranges.items() if bounds[0] < bounds[1]}
        plain = {self.settings.topic(topic): topic for topic, _ in ranges}
        if not left:
            return
        self.consumer.assign([TopicPartition(name, p, bounds[0]) for (name, p), bounds in left.items()])
        deadline = time.monotonic() + TIMEOUT_S
        while left:
            messages = self.consumer.consume(5_000, timeout=0.05)
            if messages:
                deadline = time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise LogError(f"no answer for {TIMEOUT_S:.0f} s while reading {', '.join(f'{name}[{p}]' for name, p in left)}")
            for message in messages:
                place = (message.topic(), message.partition())
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    left.pop(place, None)  # type: ignore[arg-type]
                    continue
                if place not in left:
                    continue
                if message.offset() < left[place][1]:  # type: ignore[index,operator]
                    yield plain[place[0]], place[1], (message.key() or b"").decode(errors="replace"), message.value()  # type: ignore
                if message.offset() >= left[place][1] - 1:  # type: ignore[index,operator]
                    del left[place]  # type: ignore[arg-type]
        self.consumer.unassign()

    def _newest(
        self,
        bounds: Mapping[tuple[str, int], tuple[int, int]],
        wanted: Mapping[tuple[str, int], set[str]],
        floor: Mapping[int, int] | None,
    ) -> dict[tuple[str, int, str], list[Record]]:
        """Return (topic, partition, key) -> its newest records. The search goes back until each key is found or the floor is reached."""
        found: dict[tuple[str, int, str], list[Record]] = {}
        open_: dict[tuple[str, int], tuple[int, set[str]]] = {place: (bounds[place][1], set(keys)) for place, keys in wanted.items()}
        lows = self._lows(bounds, wanted, floor)
        look = FIRST_LOOK
        while open_:
            ranges = {place: (max(lows[place], high - look), high) for place, (high, _) in open_.items()}
            for topic, partition, key, value in self._scan(ranges):
                if key in open_[topic, partition][1]:
                    try:
                        record = self.settings.codec.decode(topic, value)
                    except CodecError:
                        continue  # bytes of another writer under our key
                    if topic != "progress" or record["author"] == self.author:
                        found.setdefault((topic, partition, key), []).append(record)
            still: dict[tuple[str, int], tuple[int, set[str]]] = {}
            for place, (_, keys) in open_.items():
                missing = {key for key in keys if (*place, key) not in found}
                if missing and ranges[place][0] > lows[place]:
                    still[place] = (ranges[place][0], missing)
            open_ = still
            look *= GROWTH
        return found

    def _lows(
        self,
        bounds: Mapping[tuple[str, int], tuple[int, int]],
        wanted: Mapping[tuple[str, int], set[str]],
        floor: Mapping[int, int] | None,
    ) -> dict[tuple[str, int], int]:
        lows = {place: bounds[place][0] for place in wanted}
        asked = [TopicPartition(self.settings.topic(topic), p, floor[p]) for topic, p in wanted if floor is not None and p in floor]
        if asked:
            plain = {self.settings.topic(topic): topic for topic, _ in wanted}
            for answer in self.consumer.offsets_for_times(asked, timeout=TIMEOUT_S):
                place = (plain[answer.topic], answer.partition)
                # A negative offset: no record is as new as the floor.
                lows[place] = max(lows[place], answer.offset) if answer.offset >= 0 else bounds[place][1]
        return lows
