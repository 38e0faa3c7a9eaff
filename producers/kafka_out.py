"""Writing released steps to Kafka, and the progress marks behind them (DESIGN 3).

Records go out as fast as Kafka takes them, many steps in flight. A mark follows only when every record of its step
and of all earlier ones is acknowledged: delivery reports count a step down, and finished steps leave in order. The mark's cut is made of
acknowledged offsets alone, so "all I have up to t lies before these offsets" is true whatever happens to this process next.

A record that Kafka refuses for good stops the producer (``DeliveryFailed``): marks after it would be lies. What merely takes long, such as a broker
restart, is waited for without limit; meanwhile ``congested`` tells the readers to stop reading.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from producers.sequencer import Step
from schemas import metrics
from schemas.codec import Record
from schemas.settings import Settings

# (topic of the catalogue, partition, key, Avro value, event time ms, received at ms)
Outgoing = tuple[str, int, bytes, bytes, int, int]

# Unacknowledged records at which the readers are stopped. librdkafka may hold twice that, so that a step begun can be written.
MAX_IN_FLIGHT = 50_000


class DeliveryFailed(RuntimeError):
    """Kafka refused a record for good. The process must end; its successor goes on from the last mark."""


def producer_config(settings: Settings, client_id: str) -> dict[str, Any]:
    """Return the configuration of an idempotent, compressed producer that keeps trying for as long as it takes."""
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": client_id,
        "enable.idempotence": True,
        "acks": "all",
        # What leaves together is a batch already (pacing).
        "linger.ms": 0,
        "compression.type": "lz4",
        "batch.num.messages": 20_000,
        "queue.buffering.max.messages": 2 * MAX_IN_FLIGHT,
        "queue.buffering.max.kbytes": 512 * 1024,
        # 0: no limit. A step is late while the broker is away, but never lost.
        "message.timeout.ms": 0,
        "reconnect.backoff.max.ms": 1000,
        "log_level": 3,
    }


# A broker that dies after it wrote a batch and before it said so answers the repeated batch "already there", without offsets.
UNKNOWN_OFFSET = -1
# How long the broker may take to say where a log ends; it has just acknowledged a record.
LOG_END_S = 30.0


class _Flight:
    """A step on its way: how many of its records are not acknowledged yet, and where those that are begin and end."""

    __slots__ = ("barrier", "counts", "ends", "grid", "items", "owner", "partitions", "received", "sent", "time", "waiting")

    def __init__(self, owner: KafkaOut, step: Step[Outgoing], barrier: bool) -> None:
        self.owner = owner
        self.time = step.time
        self.grid = step.grid
        self.items = step.items
        self.barrier = barrier
        self.sent = 0
        self.waiting = len(step.items)
        self.ends: dict[tuple[str, int], int] = {}
        self.counts: dict[str, int] = {}
        self.partitions = set(step.partitions)
        self.received = step.items[0][5] if step.items else 0

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """Delivery report of one record; reports of a partition come in the order of its offsets, which may be missing (UNKNOWN_OFFSET)."""
        if error is not None:
            self.owner.refused(error, message)
            return
        self.waiting -= 1
        self.owner.in_flight -= 1
        offset = message.offset()
        self.ends[message.topic(), message.partition()] = UNKNOWN_OFFSET if offset is None or offset < 0 else offset  # type: ignore[index]


class KafkaOut:
    """The writer of one author.

    Args:
        settings: Where and under which names to write.
        author: Author of the marks.
        venue: Venue of the marks.
        cuts: Partition -> topic -> next offset at the start, for every topic that this producer writes there; the partitions are those that get marks.
        marks: Partition -> time of the author's last mark there, from an earlier run.
        wall_ms: Our clock, ms UTC, for ``receive_time`` of marks.
    """

    def __init__(
        self,
        settings: Settings,
        author: str,
        venue: str,
        cuts: Mapping[int, Mapping[str, int]],
        marks: Mapping[int, int],
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self.author = author
        self.venue = venue
        self.in_flight = 0
        self.records = 0
        self.marks_written = 0
        self.last_mark: int | None = max(marks.values(), default=None)
        self.failure: DeliveryFailed | None = None
        self._wall_ms = wall_ms
        self._names = {topic: settings.topic(topic) for topics in cuts.values() for topic in topics}
        self._topics = {name: topic for topic, name in self._names.items()}
        self._progress = settings.topic("progress")
        self._dead_letters = settings.topic("dead_letters")
        self._encode_mark = settings.codec.encoder("progress")
        self._encode_dead = settings.codec.encoder("dead_letters")
        self._author_key = author.encode()
        self._servers = settings.kafka_bootstrap_servers
        self._cuts = {partition: dict(topics) for partition, topics in cuts.items()}
        self._marks = dict(marks)
        self._outbox: deque[_Flight] = deque()
        self._flights: deque[_Flight] = deque()
        self._producer = Producer(producer_config(settings, f"perpflow-{author}"), error_cb=self._on_error)

    def cover(self, cuts: Mapping[int, Mapping[str, int]], marks: Mapping[int, int]) -> None:
        """Write marks to more partitions from now on; those covered already stay as they are.

        Args:
            cuts, marks: As for the class.
        """
        for partition, topics in cuts.items():
            if partition not in self._cuts:
                self._cuts[partition] = dict(topics)
                if partition in marks:
                    self._marks[partition] = marks[partition]

    # --- writing -----------------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """True while Kafka is behind: steps wait here because too many records are unacknowledged."""
        return bool(self._outbox)

    @property
    def idle(self) -> bool:
        """True when everything offered is acknowledged, marks included."""
        return not self._outbox and not self._flights and len(self._producer) == 0

    def offer(self, steps: list[Step[Outgoing]], *, barrier: bool = False) -> None:
        """Take steps to be written in order. After a step with ``barrier`` nothing is written until it is acknowledged."""
        for step in steps:
            self._outbox.append(_Flight(self, step, barrier))
        self.pump()

    def pump(self) -> None:
        """Serve delivery reports, write the marks that are due, and write as many waiting records as there is room for.

        Raises:
            DeliveryFailed: Kafka refused a record.
        """
        self._producer.poll(0)
        self._land()
        while self._outbox and self.in_flight < MAX_IN_FLIGHT and not (self._flights and self._flights[-1].barrier):
            flight = self._outbox[0]
            if not self._write(flight):
                break
            self._outbox.popleft()
            self._flights.append(flight)
        self._land()
        if self.failure is not None:
            raise self.failure

    def _write(self, flight: _Flight) -> bool:
        """Hand a step's records to librdkafka; False when there is no room for the rest now."""
        produce, names, counts, partitions = self._producer.produce, self._names, flight.counts, flight.partitions
        delivered = flight.delivered
        items = flight.items
        index = flight.sent
        room = MAX_IN_FLIGHT - self.in_flight
        stop = min(len(items), index + room)
        try:
            while index < stop:
                topic, partition, key, value, event_time, _ = items[index]
                produce(names[topic], value, key, partition, delivered, timestamp=event_time)
                index += 1
                partitions.add(partition)
                counts[topic] = counts.get(topic, 0) + 1
        except BufferError:
            pass  # librdkafka is full before our own limit: the rest waits for acknowledgements
        except KafkaException as error:
            self.failure = self.failure or DeliveryFailed(f"{topic}[{partition}]: Kafka refused a record: {error.args[0].str()}")
        self.in_flight += index - flight.sent
        flight.sent = index
        return index == len(items)

    def _land(self) -> None:
        """Let the acknowledged steps at the head go: move the cuts on and write their marks."""
        flights = self._flights
        while flights and flights[0].waiting == 0:
            flight = flights.popleft()
            for (name, partition), offset in flight.ends.items():
                self._cuts[partition][self._topics[name]] = self._log_end(name, partition) if offset == UNKNOWN_OFFSET else offset + 1
            for topic, count in flight.counts.items():
                metrics.RECORDS_PRODUCED.labels(topic).inc(count)
                metrics.PRODUCED_TIME.labels(self.venue, topic).set(flight.received / 1000)
                self.records += count
            if flight.items:
                metrics.ACK_LATENCY.labels(self.venue).observe(max(0, self._wall_ms() - flight.received) / 1000)
            if flight.time is not None:
                self._mark(flight.time, self._cuts if flight.grid else sorted(flight.partitions))
            flight.items = []

    def _log_end(self, name: str, partition: int) -> int:
        """Return where a log ends now: all that was acknowledged lies before it. Raises DeliveryFailed when the broker does not say."""
        client = AdminClient({"bootstrap.servers": self._servers})
        place = TopicPartition(name, partition)
        try:
            return int(client.list_offsets({place: OffsetSpec.latest()})[place].result(LOG_END_S).offset)
        except (KafkaException, TimeoutError) as error:
            raise DeliveryFailed(
                f"{name}[{partition}]: acknowledged without an offset, and the broker does not say where the log ends"
            ) from error

    def _mark(self, time_ms: int, partitions: Any) -> None:
        now = self._wall_ms()
        for partition in partitions:
            if time_ms <= self._marks.get(partition, -1):
                continue  # an earlier run got that far on this partition
            self._marks[partition] = time_ms
            mark: Record = {
                "author": self.author,
                "venue": self.venue,
                "event_time": time_ms,
                "receive_time": now,
                "cut": self._cuts[partition],
            }
            self._produce_aside(self._progress, self._encode_mark(mark), self._author_key, partition, time_ms)
            self.marks_written += 1
        self.last_mark = time_ms if self.last_mark is None else max(self.last_mark, time_ms)
        metrics.MARK_TIME.labels(self.venue).set(self.last_mark / 1000)

    def dead_letter(self, record: Record) -> None:
        """Write a dead letter at once, outside of the steps."""
        self._produce_aside(self._dead_letters, self._encode_dead(record), record["source"].encode(), 0, record["event_time"])

    def _produce_aside(self, name: str, value: bytes, key: bytes, partition: int, timestamp: int) -> None:
        while True:
            try:
                self._producer.produce(name, value, key, partition, self._aside_delivered, timestamp=timestamp)
                return
            except BufferError:
                # Half of librdkafka's queue is kept for these; only a broker that is long away fills it.
                self._producer.poll(0.1)

    # --- reports -----------------------------------------------------------------------------------------------------

    def _aside_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.refused(error, message)

    def refused(self, error: KafkaError, message: Message) -> None:
        """Note that a record was refused for good."""
        if self.failure is None:
            self.failure = DeliveryFailed(f"{message.topic()}[{message.partition()}]: Kafka refused a record: {error.str()}")

    def _on_error(self, error: KafkaError) -> None:
        # Connection trouble is librdkafka's to mend; only a fatal error ends an idempotent producer.
        if error.fatal() and self.failure is None:
            self.failure = DeliveryFailed(f"Kafka: {error.str()}")

    def close(self, timeout_s: float = 10.0) -> bool:
        """Wait for what is in flight, writing the marks that become due. Blocking.

        Returns:
            True when everything was acknowledged in time.
        """
        deadline = time.monotonic() + timeout_s
        self.pump()
        while not self.idle and time.monotonic() < deadline:
            self._producer.poll(0.02)
            self.pump()
        return self.idle
