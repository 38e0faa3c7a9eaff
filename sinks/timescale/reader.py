"""The Kafka side of the sink: its partitions, read from where the database says, with holes in the delivery noticed.

The group decides which partitions are this process's; a partition is handed to the client only once its offset is known ("placed"), so
nothing is read that is not wanted, and a database that is away at a rebalance delays and breaks nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from prometheus_client import Gauge

from schemas import catalogue, metrics
from schemas.settings import Settings
from sinks.timescale.offsets import Place
from sinks.timescale.writer import Message

ANSWER_SECONDS = 5.0


@dataclass
class Partition:
    """One partition of this process: what was read and not yet given to the writer.

    Attributes:
        place: Plain topic name and partition.
        placed: The client reads from ``position``.
        attached: The client has it at all.
        expected: Next offset that the database holds once the batch in flight is in.
        position: Next offset to read.
        written: Next offset that the database holds.
        end: The log's end, while reading stands there.
        doubted: Position at which a hole in the delivery was met and read again; -1: none since placing.
        messages: Read and not yet taken.
    """

    place: Place
    placed: bool = False
    attached: bool = False
    expected: int = 0
    position: int = 0
    written: int = 0
    end: int | None = None
    doubted: int = -1
    messages: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Read:
    """What a batch holds of one partition: its messages, the offset that the database must hold, and the one after them."""

    place: Place
    expected: int
    next_offset: int
    messages: list[Any]

    def message(self, index: int) -> Message:
        """Return what a dead letter needs of one message."""
        one = self.messages[index]
        return Message(one.offset(), one.timestamp()[1], one.key(), one.value())


def _is_fatal(error: KafkaError) -> bool:
    """Whether the client has stopped for good. After a broker's death a sink with an instance name may find itself fenced by its own former self;
    librdkafka reports that as a message with the code _FATAL that does not call itself fatal. The process ends and its supervisor starts it again.
    """
    return error.fatal() or error.code() == KafkaError._FATAL


class Reader:
    """Reads the partitions that the group gives this process.

    Args:
        settings: Broker and prefix.
        topics: Plain topic names.
        session_timeout_ms: After this time without a heartbeat Kafka gives the partitions to others.
        instance: Static member name, or None.
        log: Structured log.
        group: Name of the service, by which its consumer group is called.
        lag: Metric of the records not yet written, by topic.
    """

    def __init__(
        self,
        settings: Settings,
        topics: tuple[str, ...],
        session_timeout_ms: int,
        instance: str | None,
        log: Any,
        *,
        group: str = "sink",
        lag: Gauge = metrics.SINK_LAG,
    ) -> None:
        self._settings = settings
        self._log = log
        self._group = group
        self._lag = lag
        self._names = {settings.topic(name): name for name in topics}
        self._by_topic: dict[str, dict[int, Partition]] = {wire: {} for wire in self._names}
        self._seeks: dict[Place, int] = {}
        self._client = Consumer(self._client_settings(session_timeout_ms, instance))
        self._admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
        self.partitions: dict[Place, Partition] = {}
        self.rows = 0
        self.bytes = 0
        self.oldest = 0.0
        self.paused = False
        self.assigned_once = False
        self._suspected = False
        self._fatal: KafkaError | None = None
        self.away: str | None = None
        self.cut: dict[Place, str] = {}
        self.refused: dict[Place, str] = {}
        self.lost: dict[str, int] = {}

    def _client_settings(self, session_timeout_ms: int, instance: str | None) -> dict[str, Any]:
        config: dict[str, Any] = {
            "bootstrap.servers": self._settings.kafka_bootstrap_servers,
            "group.id": self._settings.group(self._group),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # The stored offset decides; where it cannot be read, this process says what to do (``_out_of_range``).
            "auto.offset.reset": "error",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_timeout_ms,
            "heartbeat.interval.ms": max(1000, session_timeout_ms // 4),
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "topic.metadata.refresh.interval.ms": 10_000,
            "queued.max.messages.kbytes": 32_768,
            "fetch.wait.max.ms": 100,
            "reconnect.backoff.max.ms": 2_000,
            "log_level": 0,
            "error_cb": self._client_error,
        }
        if instance is not None:
            config["group.instance.id"] = instance
        return config

    def _client_error(self, error: KafkaError) -> None:
        self._suspected = True  # one broken connection is not an absent broker: ``look`` asks
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.away = error.str()
        if _is_fatal(error):
            self._log.error("the Kafka client cannot go on", error=error.str())
            self._fatal = error

    def _wire(self, place: Place, offset: int | None = None) -> TopicPartition:
        name, partition = self._settings.topic(place[0]), place[1]
        return TopicPartition(name, partition) if offset is None else TopicPartition(name, partition, offset)

    def subscribe(self) -> None:
        """Join the group."""
        self._client.subscribe(list(self._names), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def close(self) -> None:
        """Leave the group."""
        self._client.close()

    # --- messages --------------------------------------------------------------------------------------------------

    def poll(self, most: int, seconds: float) -> None:
        """Read up to ``most`` messages, waiting for ``seconds`` at most.

        Raises:
            KafkaException: the client cannot go on (e.g. another sink runs under the same instance name).
        """
        by_topic = self._by_topic
        messages: list[Any] = self._client.consume(1 if self.paused else most, seconds)
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        for message in messages:
            error = message.error()
            if error is not None:
                self._message_error(message, error)
                continue
            partition = by_topic[message.topic()].get(message.partition())
            offset = message.offset()
            if partition is None or not partition.placed or offset < partition.position:
                continue
            if offset > partition.position and self._is_doubtful(partition):
                continue
            if not self.rows:
                self.oldest = time.monotonic()
            partition.messages.append(message)
            partition.position = offset + 1
            partition.end = None
            self.rows += 1
            self.bytes += len(message)
        self._seek_all()

    def take(self) -> list[Read]:
        """Take everything read so far: the next batch."""
        taken = []
        for partition in self.partitions.values():
            if partition.messages:
                taken.append(Read(partition.place, partition.expected, partition.position, partition.messages))
                partition.messages = []
                partition.expected = partition.position
        self.rows = self.bytes = 0
        return taken

    def _message_error(self, message: Any, error: KafkaError) -> None:
        if _is_fatal(error):
            raise KafkaException(error)
        name = self._names.get(message.topic() or "")
        if name is None:
            self._log.warning("Kafka reports", error=error.str())
            return
        partition = self.partitions.get((name, message.partition()))
        if error.code() == KafkaError._PARTITION_EOF:
            if partition is None or not partition.placed or (message.offset() > partition.position and self._is_doubtful(partition)):
                return
            partition.end = message.offset()
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            if partition is not None and partition.placed:
                self._out_of_range(partition)
        else:
            self._log.warning("Kafka reports", topic=name, partition=message.partition(), error=error.str())

    def _is_doubtful(self, partition: Partition) -> bool:
        """Return whether a hole before the next message must be read again first: the client may have skipped what the log holds.

        A hole that is still there is the log's own (retention; compaction, where only the first one after placing is doubted).
        """
        compacted = catalogue.TOPICS[partition.place[0]].compacted
        if partition.doubted == partition.position or (compacted and partition.doubted >= 0):
            return False
        partition.doubted = partition.position
        self._log.info("a hole in the delivery is read again", topic=partition.place[0], partition=partition.place[1])
        metrics.CONTINUITY_HEALED.labels(partition.place[0]).inc()
        self._seek(partition, partition.position)
        return True

    def _out_of_range(self, partition: Partition) -> None:
        """The wanted offset is not in the log: deleted before it was read, or beyond the end."""
        place = partition.place
        ends = self._ends_of(place)
        if ends is None:
            self._seek(partition, partition.position)
            return
        low, high = ends
        if partition.position < low:
            gone = low - partition.position
            self.lost[place[0]] = self.lost.get(place[0], 0) + gone
            self._log.error("records were deleted by retention before they were written", topic=place[0], partition=place[1], offsets=gone)
            self._seek(partition, low)
        elif partition.position > high:
            reason = f"the database holds offset {partition.position}, but the log ends at {high}: it was cut"
            self._log.error(reason, topic=place[0], partition=place[1])
            self.cut[place] = reason
            partition.placed = False
        else:
            self._seek(partition, partition.position)

    def _ends_of(self, place: Place) -> tuple[int, int] | None:
        try:
            ends: tuple[int, int] | None = self._client.get_watermark_offsets(self._wire(place), timeout=ANSWER_SECONDS)
        except KafkaException as error:
            self._log.warning("the log's ends are unknown", topic=place[0], partition=place[1], error=str(error))
            return None
        return ends

    # --- partitions ------------------------------------------------------------------------------------------------

    def _on_assign(self, client: Consumer, given: list[TopicPartition]) -> None:
        client.incremental_assign([])  # given to the client when placed
        for part in given:
            place = (self._names[part.topic], part.partition)
            self.partitions[place] = self._by_topic[part.topic][part.partition] = Partition(place)
        self.assigned_once = True
        self._log.info("assigned", partitions=len(given), total=len(self.partitions))

    def _on_revoke(self, client: Consumer, taken: list[TopicPartition]) -> None:
        attached = []
        for part in taken:
            place = (self._names[part.topic], part.partition)
            partition = self.partitions.pop(place, None)
            self._by_topic[part.topic].pop(part.partition, None)
            self._seeks.pop(place, None)
            self.cut.pop(place, None)
            self.refused.pop(place, None)
            if partition is not None:
                self._drop(partition)
                if partition.attached:
                    attached.append(part)
        client.incremental_unassign(attached)
        for name in {self._names[part.topic] for part in taken}:
            if not any(topic == name for topic, _ in self.partitions):
                self._lag.labels(name).set(0)
        self._log.info("revoked", partitions=len(taken), total=len(self.partitions))

    def _drop(self, partition: Partition) -> None:
        """Drop what a partition has read: it will be read again, here or elsewhere."""
        self.rows -= len(partition.messages)
        self.bytes -= sum(map(len, partition.messages))
        partition.messages = []

    def unplaced(self) -> list[Place]:
        """Return the partitions whose offset must be asked of the database."""
        known = {*self._seeks, *self.cut, *self.refused}
        return [place for place, one in self.partitions.items() if not one.placed and place not in known]

    def place(self, offsets: Mapping[Place, int]) -> None:
        """Have partitions read from the offsets that the database holds."""
        for place, offset in offsets.items():
            partition = self.partitions.get(place)
            if partition is not None and not partition.placed:
                partition.expected = partition.written = offset
                partition.doubted = -1
                self._seek(partition, offset)
        self._seek_all()

    def displace(self, place: Place) -> None:
        """Drop what was read of a partition and have its offset asked of the database again."""
        partition = self.partitions[place]
        self._drop(partition)
        partition.placed = False
        partition.end = None

    def refuse(self, place: Place, reason: str) -> None:
        """Leave a partition alone as long as this process has it."""
        self.refused[place] = reason

    def _seek(self, partition: Partition, offset: int) -> None:
        """Have reading go on at an offset; until it does, nothing that the client delivers is taken."""
        partition.placed = False
        partition.position = offset
        partition.end = None
        self._seeks[partition.place] = offset

    def _seek_all(self) -> None:
        # Taken from the client and given back: its own seek takes 100 ms a partition, and while it still asks for a logical offset
        # the answer undoes the seek.
        if not self._seeks:
            return
        moved = {place: self.partitions[place] for place in self._seeks}
        self._client.incremental_unassign([self._wire(place) for place, partition in moved.items() if partition.attached])
        given = [self._wire(place, offset) for place, offset in self._seeks.items()]
        self._client.incremental_assign(given)
        # The client remembers a pause beyond taking and giving back, even when the group took the partition meanwhile.
        (self._client.pause if self.paused else self._client.resume)(given)
        for partition in moved.values():
            partition.attached = partition.placed = True
        self._seeks.clear()

    def pause(self) -> None:
        """Stop reading, stay in the group."""
        self.paused = True
        self._client.pause([self._wire(place) for place, partition in self.partitions.items() if partition.attached])

    def resume(self) -> None:
        """Go on reading."""
        self.paused = False
        self._client.resume([self._wire(place) for place, partition in self.partitions.items() if partition.attached])

    def written(self, offsets: Mapping[Place, int]) -> None:
        """Note what the database holds now, and tell Kafka, for tools that show lags; nothing here reads it back."""
        commits = []
        for place, offset in offsets.items():
            partition = self.partitions.get(place)
            if partition is not None:
                partition.written = offset
                commits.append(self._wire(place, offset))
        if commits:
            try:
                self._client.commit(offsets=commits, asynchronous=True)
            except KafkaException as error:  # the next batch commits again
                self._log.debug("offsets for lag tools not committed", error=str(error))

    # --- watching --------------------------------------------------------------------------------------------------

    def topic_ids(self, places: list[Place]) -> dict[str, str]:
        """Return Kafka's id of each topic. Safe to call from another thread. Raises KafkaException when the broker does not answer."""
        wire = sorted({self._settings.topic(topic) for topic, _ in places})
        described = self._admin.describe_topics(TopicCollection(wire), request_timeout=10.0)
        return {self._names[name]: str(described[name].result().topic_id) for name in wire}

    def ends(self) -> dict[Place, int]:
        """Return the ends of all logs of this process, asked of the broker. Raises KafkaException when it does not answer."""
        wire = {self._settings.topic(topic): topic for topic, _ in self.partitions}
        asked = {self._wire(place): OffsetSpec.latest() for place in self.partitions}
        answers = self._admin.list_offsets(asked, request_timeout=ANSWER_SECONDS) if asked else {}
        return {(wire[part.topic], part.partition): answer.result().offset for part, answer in answers.items()}

    def look(self) -> None:
        """Refresh the lag metric, and look after a broker or a log that was found wanting."""
        lags: dict[str, int] = {}
        for place, partition in self.partitions.items():
            if partition.attached:
                _, high = self._client.get_watermark_offsets(self._wire(place), cached=True) or (0, -1)
                if high >= 0:
                    lags[place[0]] = lags.get(place[0], 0) + max(0, high - partition.written)
        for topic, lag in lags.items():
            self._lag.labels(topic).set(lag)
        if self._suspected:
            try:
                self._client.list_topics(next(iter(self._names)), timeout=1.0)
                self._suspected, self.away = False, None
            except KafkaException as error:
                self.away = str(error)
        for place in list(self.cut):
            ends = self._ends_of(place)
            if ends is not None and ends[1] >= self.partitions[place].position:
                del self.cut[place]
                self._seek(self.partitions[place], self.partitions[place].position)

    def at_end(self) -> bool:
        """Return whether everything placed was read to the log's end, as far as the client knows."""
        reading = (partition for place, partition in self.partitions.items() if place not in self.refused)
        return self.assigned_once and not self._seeks and all(partition.end is not None for partition in reading)
