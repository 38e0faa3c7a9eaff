"""Reading topics from their beginning to where they end now, as raw record sets, without a consumer group."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from schemas.catalogue import TOPICS
from schemas.intake import deliver_raw
from schemas.recordset import RecordSet
from schemas.settings import Settings

# Records read ahead of what can be used before their topic is paused: some seconds of the busiest market.
READ_AHEAD = 200_000
# Of one partition in one fetch: large enough that a fetch costs little beside its records, small beside the memory of a process.
FETCH_BYTES = 8 * 1024 * 1024
# The broker answers one request of a connection after another: a fetch that waits for more at the end of a partition would hold up the next.
FETCH_WAIT_MS = 10

T = TypeVar("T")


class TopicsError(RuntimeError):
    """The topics cannot be read."""


class TopicSource:
    """Reads plain topics of the catalogue. Use as a context manager.

    A thread of its own reads ahead while the caller works: the client is asyncio's, replay is not.

    Args:
        settings: Where and with which prefix.
        topics: Plain topic names.

    Raises:
        TopicsError: by every method: no broker answers, or it refuses.
    """

    def __init__(self, settings: Settings, topics: tuple[str, ...]) -> None:
        self._settings = settings
        self._topics = topics
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replay-reader", daemon=True)

    def __enter__(self) -> TopicSource:
        self._thread.start()
        try:
            self._consumer: AIOKafkaConsumer = self._call(self._connect())
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
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        deliver_raw(consumer)
        return consumer

    def _place(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic(topic), partition)

    def ends(self, partition: int) -> dict[str, tuple[int, int]]:
        """Return topic -> (first offset kept, next offset to be written) of a partition; empty topics are left out.

        Raises:
            TopicsError: the broker refused, or knows no such topic.
        """
        places = {topic: self._place(topic, partition) for topic in self._topics}

        async def ask() -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
            return await self._consumer.beginning_offsets(places.values()), await self._consumer.end_offsets(places.values())

        lows, highs = self._call(ask())
        return {topic: (lows[place], highs[place]) for topic, place in places.items() if highs[place] > lows[place]}

    def starts(self, partition: int, since: int | None = None) -> dict[str, int]:
        """Return topic -> offset to read from: the first kept, or of streams the first record at or after a time.

        Args:
            partition: Partition.
            since: ms UTC. Compacted topics say what holds, whenever it was written: they are read from their beginning.
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
    ) -> Iterator[tuple[str, RecordSet]]:
        """Yield (topic, records) of one partition until every topic is read to where it ended at the start.

        Args:
            partition: Partition.
            backlog: Topic -> records read and not used; a topic beyond READ_AHEAD is not read on, unless it is wanted.
            wants: Topics that something waits for.
            starts: Offsets to begin at; None: the first kept.

        Raises:
            TopicsError: no broker answers, or it refuses.
            RecordSetError: what it holds is no record set.
        """
        limits = self.ends(partition)
        names = {self._place(topic, partition): topic for topic in limits}
        first = {topic: low for topic, (low, _) in limits.items()} | dict(starts or {})
        unread = {place for place, topic in names.items() if first[topic] < limits[topic][1]}
        if not unread:
            return
        self._call(self._begin({place: first[names[place]] for place in unread}))
        while unread:
            ahead = backlog() if backlog is not None else {}
            wanted = wants() if wants is not None else set()
            chosen = {place for place in unread if names[place] in wanted or ahead.get(names[place], 0) <= READ_AHEAD}
            # Everything that is left waits for something that is there to the end already: it is read for what it holds.
            for place, sets in self._call(self._fetch(chosen or unread, unread)).items():
                topic = names[place]
                for raw in sets:
                    end = limits[topic][1]
                    records = RecordSet.from_raw(raw.data, raw.first, min(raw.last, end - 1))
                    if raw.last + 1 >= end:
                        unread.discard(place)
                    yield topic, records

    async def _begin(self, starts: dict[TopicPartition, int]) -> None:
        self._consumer.assign(list(starts))
        for place, offset in starts.items():
            self._consumer.seek(place, offset)

    async def _fetch(self, chosen: set[TopicPartition], unread: set[TopicPartition]) -> dict[TopicPartition, list[Any]]:
        """Return what is there of the chosen partitions; the others are neither fetched nor touched."""
        paused = self._consumer.paused()
        if resting := self._consumer.assignment() - chosen - paused:
            self._consumer.pause(*resting)
        if back := chosen & paused:
            self._consumer.resume(*back)
        found: dict[TopicPartition, list[Any]] = await self._consumer.getmany(*chosen, timeout_ms=200)
        return found
