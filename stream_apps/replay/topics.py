"""Reading topics from their beginning to where they end now, as record sets, without a consumer group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.catalogue import TOPICS
from schemas.columnar import RecordSet
from schemas.settings import Settings

# Records read ahead of what can be used before their topic is paused: some seconds of the busiest market.
READ_AHEAD = 200_000


class TopicSource:
    """Reads plain topics of the catalogue. Use as a context manager.

    Args:
        settings: Where and with which prefix.
        topics: Plain topic names.
    """

    def __init__(self, settings: Settings, topics: tuple[str, ...]) -> None:
        self._settings = settings
        self._topics = topics
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "group.id": settings.group("replay"),  # required by the client; nothing is joined or committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": False,
                # The broker answers one request of a connection after another: a fetch that waits half a second for more at the end of a
                # partition would hold up every question about the next one.
                "fetch.wait.max.ms": 10,
                "fetch.max.bytes": 16 * 1024 * 1024,
                "log_level": 3,
            }
        )

    def __enter__(self) -> TopicSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self._consumer.close()

    def ends(self, partition: int) -> dict[str, tuple[int, int]]:
        """Return topic -> (first offset kept, next offset to be written) of a partition; empty topics are left out."""
        found = {}
        for topic in self._topics:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._settings.topic(topic), partition), timeout=20)
            if high > low:
                found[topic] = (low, high)
        return found

    def starts(self, partition: int, since: int | None = None) -> dict[str, int]:
        """Return topic -> offset to read from: the first kept, or of streams the first record at or after a time.

        Args:
            partition: Partition.
            since: ms UTC. Compacted topics say what holds, whenever it was written: they are read from their beginning.
        """
        ends = self.ends(partition)
        found = {topic: low for topic, (low, _) in ends.items()}
        if since is None:
            return found
        asked = [TopicPartition(self._settings.topic(topic), partition, since) for topic in ends if not TOPICS[topic].compacted]
        names = {self._settings.topic(topic): topic for topic in ends}
        for place in self._consumer.offsets_for_times(asked, timeout=20) if asked else []:
            topic = names[place.topic]
            found[topic] = place.offset if place.offset >= 0 else ends[topic][1]  # below zero: every record is older
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
            backlog: Topic -> records read and not used; a topic beyond READ_AHEAD is paused, unless it is wanted.
            wants: Topics that something waits for.
            starts: Offsets to begin at; None: the first kept.

        Raises:
            KafkaException: the broker refused.
        """
        limits = self.ends(partition)
        names = {self._settings.topic(topic): topic for topic in limits}
        first = {topic: low for topic, (low, _) in limits.items()} | dict(starts or {})
        self._consumer.assign([TopicPartition(wire, partition, first[topic]) for wire, topic in names.items()])
        open_topics = {topic for topic in limits if first[topic] < limits[topic][1]}
        paused: set[str] = set()
        while open_topics:
            batches: dict[str, list[tuple[int, int, bytes | None, bytes | None]]] = {}
            for message in self._consumer.consume(20_000, timeout=0.2):
                error = message.error()
                if error:
                    raise KafkaException(error)
                topic = names[str(message.topic())]
                offset = message.offset()
                assert offset is not None
                if offset < limits[topic][1]:
                    batches.setdefault(topic, []).append((offset, message.timestamp()[1], message.key(), message.value()))
            for topic, messages in batches.items():
                yield topic, RecordSet.from_messages(messages)
            for place in self._consumer.position([TopicPartition(self._settings.topic(topic), partition) for topic in open_topics]):
                if place.offset >= limits[names[place.topic]][1]:
                    open_topics.discard(names[place.topic])
            if backlog is not None and wants is not None:
                ahead, wanted = backlog(), wants()
                for topic in limits:
                    there = [TopicPartition(self._settings.topic(topic), partition)]
                    if topic in paused and (topic in wanted or ahead.get(topic, 0) < READ_AHEAD // 2):
                        self._consumer.resume(there)
                        paused.discard(topic)
                    elif topic not in paused and topic not in wanted and ahead.get(topic, 0) > READ_AHEAD:
                        self._consumer.pause(there)
                        paused.add(topic)
        self._consumer.unassign()
