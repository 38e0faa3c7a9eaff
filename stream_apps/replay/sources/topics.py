"""Reads topics from their begin to their end at the time of opening, as raw record sets, without a consumer group."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from schemas.catalogue import TOPICS
from schemas.codec.fetching import RawRecords, deliver_raw
from schemas.codec.frames import fetch_in_place
from schemas.codec.recordset import RecordSet
from schemas.settings import Settings

# Number of records read ahead before a topic is paused: some seconds of the busiest market.
READ_AHEAD = 200_000
# Bytes of one partition in one fetch. So large that a fetch costs little beside its records, and small beside the memory of a process.
FETCH_BYTES = 8 * 1024 * 1024
# The broker answers one request of a connection after another. A fetch that waits for more at the end of a partition would delay the next.
FETCH_WAIT_MS = 10

T = TypeVar("T")


class TopicsError(RuntimeError):
    """The topics cannot be read."""


class TopicSource:
    """Reads topics of the catalogue. Use as a context manager.

    A thread reads ahead while the caller works, because the client uses asyncio and replay does not. The bounds of all partitions are asked
    once. The first records of the next partition are fetched during the present one, because a broker's answer takes as long as some ten
    thousand trades.

    Args:
        settings: Broker address and topic prefix.
        topics: Plain topic names.

    Raises:
        TopicsError: raised by every method when no broker answers, or it refuses.
    """

    def __init__(self, settings: Settings, topics: tuple[str, ...]) -> None:
        self._settings = settings
        self._topics = topics
        self._names = {settings.topic(topic): topic for topic in topics}  # wire name -> plain name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replay-reader", daemon=True)
        self._bounds: dict[TopicPartition, tuple[int, int]] = {}  # (first offset kept, next offset to be written)
        self._early: dict[TopicPartition, list[RawRecords]] = {}  # fetched before the turn of their partition

    def __enter__(self) -> TopicSource:
        self._thread.start()
        try:
            self._consumer: AIOKafkaConsumer = self._call(self._connect())
            self._bounds = self._call(self._ask_bounds())
        except BaseException:
            self._end_thread()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._call(self._consumer.stop())
        finally:
            self._end_thread()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except KafkaError as error:
            raise TopicsError(f"{self._settings.kafka_bootstrap_servers}: {error}") from error

    async def _connect(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        fetch_in_place(consumer)
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        deliver_raw(consumer)
        return consumer

    def _place(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic(topic), partition)

    async def _ask_bounds(self) -> dict[TopicPartition, tuple[int, int]]:
        places = [self._place(topic, partition) for topic in self._topics for partition in range(self._settings.partitions)]
        # An assignment resolves all topics in one request. Without it the client asks for one unknown topic after the other.
        self._assign(dict.fromkeys(places, 0))
        self._consumer.pause(*places)
        lows = await self._consumer.beginning_offsets(places)
        highs = await self._consumer.end_offsets(places)
        return {place: (lows[place], highs[place]) for place in places}

    def ends(self, partition: int) -> dict[str, tuple[int, int]]:
        """Return topic -> (first offset kept, next offset to be written) of a partition. Empty topics are omitted."""
        bounds = {topic: self._bounds[self._place(topic, partition)] for topic in self._topics}
        return {topic: (low, high) for topic, (low, high) in bounds.items() if high > low}

    def starts(self, partition: int, since: int | None = None) -> dict[str, int]:
        """Return topic -> offset to read from: the first offset kept, or for streams the first record at or after a time.

        Args:
            partition: Partition.
            since: ms UTC. Compacted topics hold configuration of any age, so they are read from their begin.
        """
        ends = self.ends(partition)
        found = {topic: low for topic, (low, _) in ends.items()}
        asked = {self._place(topic, partition): topic for topic in ends if not TOPICS[topic].compacted}
        if since is None or not asked:
            return found
        for place, at in self._call(self._consumer.offsets_for_times(dict.fromkeys(asked, since))).items():
            topic = asked[place]
            found[topic] = ends[topic][1] if at is None else at.offset  # None: every record is older
        return found

    def records(
        self,
        partition: int,
        backlog: Callable[[], dict[str, int]] | None = None,
        wants: Callable[[], set[str]] | None = None,
        starts: Mapping[str, int] | None = None,
        then: tuple[int, Mapping[str, int]] | None = None,
    ) -> Iterator[tuple[str, RecordSet]]:
        """Yield (topic, records) of one partition, until every topic is read to its end at the time of opening.

        Args:
            partition: Partition.
            backlog: Topic -> number of unused records. A topic beyond READ_AHEAD is paused unless it is wanted.
            wants: Topics that the engine waits for.
            starts: Offsets to begin at. Other topics begin at the first offset kept.
            then: The next partition and its ``starts``. Its first records are fetched meanwhile.

        Raises:
            TopicsError: no broker answers, or it refuses.
            RecordSetError: the broker sent no valid record set.
        """
        unread = self._unread(partition, starts)
        next_up = {} if then is None else self._unread(*then)
        found = {place: sets for place, sets in self._early.items() if unread.get(place) == sets[0].first}
        self._early = {}
        if unread or next_up:
            self._call(self._begin(unread | {place: sets[-1].last + 1 for place, sets in found.items()} | next_up))
        while unread:
            for place, sets in found.items():
                topic, end = self._names[place.topic], self._bounds[place][1]
                for raw in sets:
                    if place not in unread:
                        break
                    records = RecordSet.from_raw(raw.data, raw.first, min(raw.last, end - 1))
                    if raw.last + 1 >= end:
                        del unread[place]
                    yield topic, records
            if not unread:
                break
            ahead = backlog() if backlog is not None else {}
            wanted = wants() if wants is not None else set()
            chosen = {place for place in unread if (topic := self._names[place.topic]) in wanted or ahead.get(topic, 0) <= READ_AHEAD}
            # All other topics are read to their end, so nothing more will come for what waits. Read the rest anyway.
            found = self._call(self._fetch(chosen or set(unread), next_up.keys() - self._early.keys()))
            self._early |= {place: found.pop(place) for place in next_up.keys() & found.keys()}
        if missing := next_up.keys() - self._early.keys():
            self._early |= self._call(self._fetch(set(), missing, wait_ms=0))

    def everything(self) -> Iterator[tuple[int, str, RecordSet]]:
        """Yield (partition, topic, records) of all partitions, one after the other, each topic in full. Raises as ``records``."""
        for partition in range(self._settings.partitions):
            then: tuple[int, Mapping[str, int]] | None = (partition + 1, {}) if partition + 1 < self._settings.partitions else None
            for topic, records in self.records(partition, then=then):
                yield partition, topic, records

    def _unread(self, partition: int, starts: Mapping[str, int] | None) -> dict[TopicPartition, int]:
        """Return the topic partitions of a partition to be read, and where they begin."""
        first = {topic: low for topic, (low, _) in self.ends(partition).items()} | dict(starts or {})
        places = {self._place(topic, partition): offset for topic, offset in first.items()}
        return {place: offset for place, offset in places.items() if offset < self._bounds[place][1]}

    async def _begin(self, positions: dict[TopicPartition, int]) -> None:
        self._assign(positions)

    def _assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._consumer.assign(list(positions))
        for place, offset in positions.items():
            self._consumer.seek(place, offset)

    async def _fetch(
        self, chosen: set[TopicPartition], early: set[TopicPartition], wait_ms: int = 200
    ) -> dict[TopicPartition, list[RawRecords]]:
        """Return the fetched records of the chosen topic partitions and of those wanted early. Others are not fetched."""
        asked = chosen | early
        paused = self._consumer.paused()
        if resting := self._consumer.assignment() - asked - paused:
            self._consumer.pause(*resting)
        if back := asked & paused:
            self._consumer.resume(*back)
        found: dict[TopicPartition, list[RawRecords]] = await self._consumer.getmany(*asked, timeout_ms=wait_ms)
        return found
