"""The Kafka side of a sink: its partitions, read from the offsets that the sink stores.

The consumer group assigns partitions. Its client only keeps the membership and the offsets for lag tools; the fetcher reads the records as whole record
sets. A partition is fetched only after its stored offset is known ("placed"), so a store that is down during a rebalance only delays reading. A record set
must start where the previous one ended; otherwise it is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka.structs import TopicPartition as Wire
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from prometheus_client import Gauge

from schemas.codec.recordset import RecordSet, RecordSetError
from schemas.settings import Settings
from sinks.consuming.fetcher import FETCH_BYTES, FetchedRecords, Fetcher

# Plain topic name and partition.
Place = tuple[str, int]

ANSWER_SECONDS = 5.0


@dataclass
class PartitionState:
    """One assigned partition, with the records that were read and not yet passed to the writer.

    Attributes:
        place: Plain topic name and partition.
        placed: True if it is read from ``position``.
        turn: Number of the newest read request; answers to older requests are dropped.
        expected: Next offset in the store after the batches in flight.
        position: Next offset to read.
        written: Next offset in the store.
        records: Buffered records, in order.
    """

    place: Place
    placed: bool = False
    turn: int = 0
    expected: int = 0
    position: int = 0
    written: int = 0
    records: list[RecordSet] = field(default_factory=list)


@dataclass(frozen=True)
class Message:
    """The parts of a Kafka message in a dead letter: key, value, offset and timestamp (ms, negative: none)."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class PartitionBatch:
    """One partition's part of a batch: its records, the offset that the store must have, and the offset after the records."""

    place: Place
    expected: int
    next_offset: int
    records: RecordSet

    def message(self, index: int) -> Message:
        """Return the message of one record, for a dead letter."""
        offset, timestamp = self.records.index[index, :2].tolist()
        return Message(offset, timestamp, self.records.key(index), self.records.value(index))


def cut(records: RecordSet, rows: int) -> tuple[RecordSet, RecordSet]:
    """Split a record set after some rows, at least one on each side. Both parts share its buffer."""
    at = int(records.index[rows, 2])
    head = RecordSet(records.buffer[:at], records.index[:rows], int(records.index[rows - 1, 0]) + 1)
    index = records.index[rows:].copy()
    index[:, 2] -= at
    index[:, 4] -= at
    return head, RecordSet(records.buffer[at:], index, records.next_offset)


def _is_fatal(error: KafkaError) -> bool:
    """Return whether an error is fatal.

    After a broker failure a sink with an instance name may be fenced by its former self. librdkafka reports that with the code _FATAL, but not as fatal.
    The process then ends, and its supervisor restarts it.
    """
    return error.fatal() or error.code() == KafkaError._FATAL


class Reader:
    """Reads the partitions that the group assigns to this process.

    Args:
        settings: Broker and prefix.
        topics: Plain topic names.
        session_timeout_ms: After this time without a heartbeat Kafka reassigns the partitions.
        instance: Static member name, or None.
        log: Structured log.
        group: Name of the service in its consumer group id.
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
        group: str,
        lag: Gauge,
        fetch_bytes: int = FETCH_BYTES,
    ) -> None:
        self._settings = settings
        self._log = log
        self._group = group
        self._lag = lag
        self._names = {settings.topic(name): name for name in topics}
        self._by_wire: dict[tuple[str, int], PartitionState] = {}
        self._wishes: dict[Wire, tuple[int, int] | None] = {}
        self._turns = 0
        self._client = Consumer(self._client_settings(session_timeout_ms, instance))
        self._admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
        self._fetcher = Fetcher(settings.kafka_bootstrap_servers, log, fetch_bytes)
        self._suspected = False
        self._lost_sight: str | None = None
        self._fatal: KafkaError | None = None
        self._assigned_once = False
        self.partitions: dict[Place, PartitionState] = {}
        self.rows = 0
        self.bytes = 0
        self.oldest = 0.0
        self.cut: dict[Place, str] = {}
        self.refused: dict[Place, str] = {}
        self.lost: dict[str, int] = {}

    @property
    def away(self) -> str | None:
        """Why the broker cannot be read, or None."""
        return self._lost_sight or self._fetcher.trouble

    @property
    def bytes_ahead(self) -> int:
        """Bytes fetched and not yet read."""
        return self._fetcher.held

    def _client_settings(self, session_timeout_ms: int, instance: str | None) -> dict[str, Any]:
        config: dict[str, Any] = {
            "bootstrap.servers": self._settings.kafka_bootstrap_servers,
            "group.id": self._settings.group(self._group),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_timeout_ms,
            "heartbeat.interval.ms": max(1000, session_timeout_ms // 4),
            "allow.auto.create.topics": False,
            "topic.metadata.refresh.interval.ms": 10_000,
            "reconnect.backoff.max.ms": 2_000,
            "log_level": 0,
            "error_cb": self._client_error,
        }
        if instance is not None:
            config["group.instance.id"] = instance
        return config

    def _client_error(self, error: KafkaError) -> None:
        self._suspected = True  # one broken connection does not mean that the broker is down: ``look`` checks
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._lost_sight = error.str()
        if _is_fatal(error):
            self._log.error("fatal error of the Kafka client", error=error.str())
            self._fatal = error

    def _at(self, place: Place) -> Wire:
        return Wire(self._settings.topic(place[0]), place[1])

    def _wire(self, place: Place, offset: int | None = None) -> TopicPartition:
        name, partition = self._settings.topic(place[0]), place[1]
        return TopicPartition(name, partition) if offset is None else TopicPartition(name, partition, offset)

    def subscribe(self) -> None:
        """Join the group."""
        self._fetcher.start()
        self._client.subscribe(list(self._names), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def close(self) -> None:
        """Leave the group."""
        self._client.close()
        self._fetcher.close()

    def wake(self) -> None:
        """Make ``poll`` return. Thread-safe."""
        self._fetcher.wake()

    # --- records ---------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve the group membership.

        Raises:
            KafkaException: a fatal client error, for example a second sink with the same instance name.
        """
        for message in self._client.consume(100, 0):
            error = message.error()
            if error is not None and _is_fatal(error):
                raise KafkaException(error)
            self._log.warning("Kafka reports", topic=self._names.get(message.topic() or ""), error=str(error))
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        self._send_wishes()

    def poll(self, seconds: float, rows: int, size: int) -> None:
        """Read until the limits of rows or bytes of values are reached or no more records arrive. Wait at most ``seconds``.

        Raises:
            KafkaException: see ``serve``.
            RuntimeError: the fetcher thread ended.
        """
        self.serve()
        while self.rows < rows and self.bytes < size:
            found = self._fetcher.get(seconds)
            if found is None:
                break
            self._read(found)
            seconds = 0.0
        self._send_wishes()

    def _read(self, found: FetchedRecords) -> None:
        partition = self._by_wire.get((found.partition.topic, found.partition.partition))
        if partition is None or not partition.placed or partition.turn != found.turn:
            return
        if found.raw is None:
            self._out_of_range(partition)
            return
        try:
            records = RecordSet.from_raw(found.raw.data, found.raw.first, found.raw.last)
        except RecordSetError as error:
            self._log.error("a record set cannot be read", topic=partition.place[0], partition=partition.place[1], error=str(error))
            self.refuse(partition.place, str(error))
            partition.placed = False
            return
        partition.position = found.raw.last + 1
        if len(records):
            if not self.rows:
                self.oldest = time.monotonic()
            partition.records.append(records)
            self.rows += len(records)
            self.bytes += len(records.buffer)

    def take(self, rows: int, size: int) -> list[PartitionBatch]:
        """Return the next batch of buffered records, limited to about the given rows and bytes of values."""
        taken = []
        for partition in self.partitions.values():
            chosen: list[RecordSet] = []
            while partition.records and rows > 0 and size > 0:
                first = partition.records[0]
                if len(first) > rows:
                    first, partition.records[0] = cut(first, rows)
                else:
                    del partition.records[0]
                chosen.append(first)
                rows -= len(first)
                size -= len(first.buffer)
            if chosen:
                joined = RecordSet.joined(chosen)
                upto = joined.next_offset if partition.records else partition.position
                taken.append(PartitionBatch(partition.place, partition.expected, upto, joined))
                partition.expected = upto
                self._count_off(chosen)
        return taken

    def _count_off(self, records: list[RecordSet]) -> None:
        self.rows -= sum(map(len, records))
        self.bytes -= sum(len(one.buffer) for one in records)

    def _out_of_range(self, partition: PartitionState) -> None:
        """Handle an offset outside the log: deleted by retention, or beyond the end."""
        place = partition.place
        ends = self._ends_of(place)
        if ends is None:
            self._want(partition, partition.position)
            return
        low, high = ends
        if partition.position < low:
            gone = low - partition.position
            self.lost[place[0]] = self.lost.get(place[0], 0) + gone
            self._log.error("records were deleted by retention before they were written", topic=place[0], partition=place[1], offsets=gone)
            self._want(partition, low)
        elif partition.position > high:
            reason = f"the store holds offset {partition.position}, but the log ends at {high}: it was cut"
            self._log.error(reason, topic=place[0], partition=place[1])
            self.cut[place] = reason
            partition.placed = False
        else:
            self._want(partition, partition.position)

    def _ends_of(self, place: Place) -> tuple[int, int] | None:
        try:
            ends: tuple[int, int] | None = self._client.get_watermark_offsets(self._wire(place), timeout=ANSWER_SECONDS)
        except KafkaException as error:
            self._log.warning("the log's ends are unknown", topic=place[0], partition=place[1], error=str(error))
            return None
        return ends

    # --- partitions ------------------------------------------------------------------------------------------------

    def _on_assign(self, client: Consumer, given: list[TopicPartition]) -> None:
        client.incremental_assign([])  # this client only keeps the membership; the fetcher reads
        for part in given:
            place = (self._names[part.topic], part.partition)
            self.partitions[place] = self._by_wire[part.topic, part.partition] = PartitionState(place)
        self._assigned_once = True
        self._log.info("assigned", partitions=len(given), total=len(self.partitions))

    def _on_revoke(self, client: Consumer, taken: list[TopicPartition]) -> None:
        for part in taken:
            place = (self._names[part.topic], part.partition)
            partition = self.partitions.pop(place, None)
            self._by_wire.pop((part.topic, part.partition), None)
            self.cut.pop(place, None)
            self.refused.pop(place, None)
            if partition is not None:
                self._drop(partition)
        client.incremental_unassign([])
        for name in {self._names[part.topic] for part in taken}:
            if not any(topic == name for topic, _ in self.partitions):
                self._lag.labels(name).set(0)
        self._log.info("revoked", partitions=len(taken), total=len(self.partitions))

    def _drop(self, partition: PartitionState) -> None:
        """Drop a partition's records and stop reading it. Its next owner reads them again."""
        self._count_off(partition.records)
        partition.records = []
        partition.placed = False
        self._wishes[self._at(partition.place)] = None

    def unplaced(self) -> list[Place]:
        """Return the partitions whose offset must be read from the store."""
        return [place for place, one in self.partitions.items() if not one.placed and place not in self.cut and place not in self.refused]

    def place(self, offsets: Mapping[Place, int]) -> None:
        """Start reading partitions at their stored offsets."""
        for place, offset in offsets.items():
            partition = self.partitions.get(place)
            if partition is not None and not partition.placed:
                partition.expected = partition.written = offset
                self._want(partition, offset)
        self._send_wishes()

    def displace(self, place: Place) -> None:
        """Drop a partition's records and read its offset from the store again."""
        self._drop(self.partitions[place])

    def refuse(self, place: Place, reason: str) -> None:
        """Ignore a partition while it is assigned to this process."""
        self.refused[place] = reason

    def _want(self, partition: PartitionState, offset: int) -> None:
        """Continue reading at an offset; drop what was fetched before."""
        self._turns += 1
        partition.placed = True
        partition.turn = self._turns
        partition.position = offset
        self._wishes[self._at(partition.place)] = offset, self._turns

    def _send_wishes(self) -> None:
        if self._wishes:
            self._fetcher.want(self._wishes)
            self._wishes = {}

    def written(self, offsets: Mapping[Place, int]) -> None:
        """Record the stored offsets, and commit them to Kafka for lag tools. Nothing here reads them back."""
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
        """Return Kafka's id of each topic. Thread-safe. Raises KafkaException when the broker does not answer."""
        wire = sorted({self._settings.topic(topic) for topic, _ in places})
        described = self._admin.describe_topics(TopicCollection(wire), request_timeout=10.0)
        return {self._names[name]: str(described[name].result().topic_id) for name in wire}

    def ends(self) -> dict[Place, int]:
        """Query the end offsets of all assigned partitions. Raises KafkaException when the broker does not answer."""
        wire = {self._settings.topic(topic): topic for topic, _ in self.partitions}
        asked = {self._wire(place): OffsetSpec.latest() for place in self.partitions}
        answers = self._admin.list_offsets(asked, request_timeout=ANSWER_SECONDS) if asked else {}
        return {(wire[part.topic], part.partition): answer.result().offset for part, answer in answers.items()}

    def look(self) -> None:
        """Refresh the lag metric, and recheck a broker or a log with an earlier error."""
        lags: dict[str, int] = {}
        for place, partition in self.partitions.items():
            end = self._fetcher.ends.get(self._at(place))
            if partition.placed and end is not None:
                lags[place[0]] = lags.get(place[0], 0) + max(0, end - partition.written)
        for topic, lag in lags.items():
            self._lag.labels(topic).set(lag)
        if self._suspected:
            try:
                self._client.list_topics(next(iter(self._names)), timeout=1.0)
                self._suspected, self._lost_sight = False, None
            except KafkaException as error:
                self._lost_sight = str(error)
        for place in list(self.cut):
            ends = self._ends_of(place)
            if ends is not None and ends[1] >= self.partitions[place].position:
                del self.cut[place]
                self._want(self.partitions[place], self.partitions[place].position)
        self._send_wishes()

    def at_end(self) -> bool:
        """Return whether everything was read to the end of the logs that the fetcher knows."""
        ends = self._fetcher.ends
        return self._assigned_once and all(
            one.placed and ends.get(self._at(place), one.position + 1) <= one.position
            for place, one in self.partitions.items()
            if place not in self.refused
        )
