"""Writes released steps to Kafka, and the progress marks after them (DESIGN 3).

Records are sent as fast as Kafka accepts them, with many steps in flight. A mark is written only when every record of its step and of all
earlier steps is acknowledged. Each step counts its open records, and finished steps leave in order. The mark's cut holds acknowledged
offsets only. So "all records up to t lie before these offsets" stays true if the process dies.

A record that Kafka refuses for good stops the producer (``DeliveryFailed``), because later marks would be false. The writer waits without
limit for a slow broker or a broker restart. Meanwhile ``congested`` makes the readers stop.

The client is aiokafka: one request carries the batches of all partitions of a broker, one request at a time. librdkafka sends a request for
each partition (its issue 1700). For 12 partitions of five topics these are thousands of requests a second, which cost more than the
records. aiokafka's ``send`` makes a future for each record. So records are appended directly to the batches in its accumulator, an internal
of a pinned version (``process.pins``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, OffsetSpec

from producers.output.sequencer import Step
from schemas import metrics
from schemas.codec import zstd
from schemas.codec.avro import Record
from schemas.process.pins import check_pins
from schemas.settings import Settings

# (topic of the catalogue, partition, key, Avro value, event time ms, received at ms)
Outgoing = tuple[str, int, bytes, bytes, int, int]

# Number of unacknowledged records at which the readers stop.
MAX_IN_FLIGHT = 50_000
# Largest batch before compression: half of a broker's default limit.
BATCH_BYTES = 512 * 1024
# zstd gives the smallest batches, for one or two microseconds a record (``schemas.codec.zstd``). aiokafka's lz4 uses level 9.
COMPRESSION = "zstd"
# Time limit of a request. After it the request is sent again; records never expire.
REQUEST_MS = 40_000
# Pause between two attempts to reach the broker at the start.
START_PAUSE_S = 1.0
# Pause between two checks for open acknowledgements.
FLUSH_S = 0.002
# Time limit for the client's stop.
LEAVE_S = 5.0


class DeliveryFailed(RuntimeError):
    """Kafka refused a record for good. The process must end. The next one continues from the last mark."""


# A broker may die after it wrote a batch and before it acknowledged it. It then answers the repeated batch with "duplicate" and no offsets.
UNKNOWN_OFFSET = -1
# Time limit for the broker's answer with the end of a log. It has just acknowledged a record.
LOG_END_S = 30.0


class _PendingStep:
    """A step in flight: the number of its unacknowledged records, and the newest acknowledged offsets."""

    __slots__ = ("barrier", "counts", "ends", "grid", "items", "partitions", "received", "sent", "time", "waiting")

    def __init__(self, step: Step[Outgoing], barrier: bool) -> None:
        self.time = step.time
        self.grid = step.grid
        self.items = step.items
        self.barrier = barrier
        self.sent = 0
        self.waiting = len(step.items)
        self.ends: dict[tuple[str, int], int] = {}  # topic and partition -> newest acknowledged offset
        self.counts: dict[str, int] = {}
        self.partitions = set(step.partitions)
        self.received = step.items[0][5] if step.items else 0


class _Batch:
    """Records of one partition that go out together.

    Attributes:
        append: Adds a record (timestamp ms, key, value); False when there is no room.
        flights: The steps of its records, in order: step and number of records.
    """

    __slots__ = ("_accumulated", "_builder", "flights", "owner", "place")

    def __init__(self, owner: KafkaWriter, place: tuple[str, int], wire: TopicPartition, accumulator: Any) -> None:
        self.owner = owner
        self.place = place
        self.flights: list[tuple[_PendingStep, int]] = []
        self._builder = accumulator.create_builder()
        self._accumulated = accumulator._append_batch(self._builder, wire)
        self._accumulated.future.add_done_callback(self.done)

    @property
    def gone(self) -> bool:
        """True when it accepts no more records, because it is full or being sent."""
        return bool(self._accumulated._drain_waiter.done() or self._builder.closed())

    def append(self, timestamp: int, key: bytes, value: bytes) -> bool:
        return self._builder.append(timestamp=timestamp, key=key, value=value) is not None

    def done(self, future: asyncio.Future[Any]) -> None:
        """Handle its acknowledgement or its failure."""
        owner = self.owner
        owner._unacknowledged -= 1
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            owner.refused(f"{self.place[0]}[{self.place[1]}]: Kafka refused a record: {type(error).__name__}: {error}")
            return
        base, count = future.result().offset, 0
        for flight, records in self.flights:
            count += records
            flight.waiting -= records
            flight.ends[self.place] = UNKNOWN_OFFSET if base is None or base < 0 else base + count - 1
        owner.in_flight -= count
        owner._land_soon()


class KafkaWriter:
    """The writer of one author. It runs on one asyncio loop.

    Args:
        settings: Kafka's address, topic prefix and names.
        author: Author of the marks.
        venue: Venue of the marks.
        cuts: Partition -> topic -> next offset at the start, for every topic that this producer writes there. These partitions get marks.
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
        check_pins("aiokafka")
        zstd.use_in_aiokafka()
        self.author = author
        self.venue = venue
        self.in_flight = 0
        self.records = 0
        self.marks_written = 0
        self.last_mark: int | None = max(marks.values(), default=None)
        self.failure: DeliveryFailed | None = None
        self._settings = settings
        self._wall_ms = wall_ms
        self._topics = sorted({topic for topics in cuts.values() for topic in topics} | {"progress", "dead_letters"})
        self._wires: dict[tuple[str, int], TopicPartition] = {}
        self._encode_mark = settings.codec.encoder("progress")
        self._encode_dead = settings.codec.encoder("dead_letters")
        self._author_key = author.encode()
        self._cuts = {partition: dict(topics) for partition, topics in cuts.items()}
        self._marks = dict(marks)
        self._outbox: deque[_PendingStep] = deque()
        self._flights: deque[_PendingStep] = deque()
        self._open: dict[tuple[str, int], _Batch] = {}
        self._unacknowledged = 0  # batches
        self._landing: asyncio.Handle | None = None
        self._producer: AIOKafkaProducer | None = None
        self._log = structlog.get_logger().bind(venue=venue)

    async def start(self) -> None:
        """Connect to Kafka. Wait while no broker answers. Call it before the first ``offer``."""
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.kafka_bootstrap_servers, client_id=f"perpflow-{self.author}", enable_idempotence=True, acks="all",
                compression_type=COMPRESSION, max_batch_size=BATCH_BYTES, request_timeout_ms=REQUEST_MS,
            )  # fmt: skip
            try:
                await producer.start()
                for topic in self._topics:
                    await producer.partitions_for(self._settings.topic(topic))
            except KafkaError as error:
                self._log.warning("Kafka is not there", error=f"{type(error).__name__}: {error}", wait_s=START_PAUSE_S)
                await producer.stop()
                await asyncio.sleep(START_PAUSE_S)
                continue
            # While a broker is away, an idempotent batch is late but not lost. It expires only if its partition has no leader for this
            # time.
            producer._message_accumulator._batch_ttl = float("inf")
            self._producer = producer
            return

    def cover(self, cuts: Mapping[int, Mapping[str, int]], marks: Mapping[int, int]) -> None:
        """Write marks to more partitions from now on. Known partitions do not change.

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
        """True while Kafka is behind: steps wait because too many records are unacknowledged."""
        return bool(self._outbox)

    @property
    def idle(self) -> bool:
        """True when everything offered is acknowledged, marks included."""
        return not self._outbox and not self._flights and not self._unacknowledged

    def offer(self, steps: list[Step[Outgoing]], *, barrier: bool = False) -> None:
        """Take steps to be written in order. After a step with ``barrier`` nothing is written until it is acknowledged.

        Raises:
            DeliveryFailed: Kafka refused a record.
        """
        for step in steps:
            self._outbox.append(_PendingStep(step, barrier))
        self.pump()

    def pump(self) -> None:
        """Write the due marks, and as many waiting records as fit.

        Raises:
            DeliveryFailed: Kafka refused a record.
        """
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

    def _write(self, flight: _PendingStep) -> bool:
        """Put a step's records into batches. Return False when the rest does not fit now."""
        counts, partitions, items = flight.counts, flight.partitions, flight.items
        stop = min(len(items), flight.sent + MAX_IN_FLIGHT - self.in_flight)
        batches: dict[tuple[str, int], _Batch] = {}
        added: dict[_Batch, int] = {}
        for index in range(flight.sent, stop):
            topic, partition, key, value, event_time, _ = items[index]
            place = topic, partition
            batch = batches.get(place)
            if batch is None or not batch.append(event_time, key, value):
                batch = batches[place] = self._into(place, event_time, key, value)
                partitions.add(partition)
            added[batch] = added.get(batch, 0) + 1
        for batch, count in added.items():
            batch.flights.append((flight, count))
            topic = batch.place[0]
            counts[topic] = counts.get(topic, 0) + count
        self.in_flight += stop - flight.sent
        flight.sent = stop
        return stop == len(items)

    def _into(self, place: tuple[str, int], event_time: int, key: bytes, value: bytes) -> _Batch:
        """Add a record to the partition's waiting batch or to a new one. Return that batch."""
        batch = self._open.get(place)
        if batch is not None and not batch.gone and batch.append(event_time, key, value):
            return batch
        assert self._producer is not None, "start comes first"
        accumulator = self._producer._message_accumulator
        if accumulator._exception is not None:
            self.refused(f"Kafka: {type(accumulator._exception).__name__}: {accumulator._exception}")
        wire = self._wires.get(place)
        if wire is None:
            wire = self._wires[place] = TopicPartition(self._settings.topic(place[0]), place[1])
        batch = self._open[place] = _Batch(self, place, wire, accumulator)
        self._unacknowledged += 1
        batch.append(event_time, key, value)  # an empty batch accepts a record of any size
        return batch

    def _land_soon(self) -> None:
        """Schedule the removal of acknowledged steps, once for all acknowledgements of an answer."""
        if self._landing is None and self._flights and self._flights[0].waiting == 0:
            self._landing = asyncio.get_running_loop().call_soon(self._land_now)

    def _land_now(self) -> None:
        self._landing = None
        with contextlib.suppress(DeliveryFailed):  # ``pump`` raises the stored error
            self._land()

    def _land(self) -> None:
        """Remove the acknowledged steps at the head: advance the cuts and write their marks."""
        flights = self._flights
        while flights and flights[0].waiting == 0 and self.failure is None:
            flight = flights[0]
            for (topic, partition), offset in flight.ends.items():
                self._cuts[partition][topic] = self._log_end(topic, partition) if offset == UNKNOWN_OFFSET else offset + 1
            flights.popleft()
            for topic, count in flight.counts.items():
                metrics.RECORDS_PRODUCED.labels(topic).inc(count)
                metrics.PRODUCED_TIME.labels(self.venue, topic).set(flight.received / 1000)
                self.records += count
            if flight.items:
                metrics.ACK_LATENCY.labels(self.venue).observe(max(0, self._wall_ms() - flight.received) / 1000)
            if flight.time is not None:
                self._mark(flight.time, self._cuts if flight.grid else sorted(flight.partitions))
            flight.items = []

    def _log_end(self, topic: str, partition: int) -> int:
        """Return the end offset of a log. All acknowledged records lie before it. Raises DeliveryFailed when the broker does not answer."""
        client = AdminClient({"bootstrap.servers": self._settings.kafka_bootstrap_servers})
        place = Place(self._settings.topic(topic), partition)
        try:
            return int(client.list_offsets({place: OffsetSpec.latest()})[place].result(LOG_END_S).offset)
        except (KafkaException, TimeoutError) as error:
            self.refused(f"{place.topic}[{partition}]: acknowledged without an offset, and the broker does not return the log's end")
            assert self.failure is not None
            raise self.failure from error

    def _mark(self, time_ms: int, partitions: Any) -> None:
        now = self._wall_ms()
        for partition in partitions:
            if time_ms <= self._marks.get(partition, -1):
                continue  # an earlier run already wrote this mark
            self._marks[partition] = time_ms
            mark: Record = {
                "author": self.author,
                "venue": self.venue,
                "event_time": time_ms,
                "receive_time": now,
                "cut": self._cuts[partition],
            }
            self._into(("progress", partition), time_ms, self._author_key, self._encode_mark(mark))
            self.marks_written += 1
        self.last_mark = time_ms if self.last_mark is None else max(self.last_mark, time_ms)
        metrics.MARK_TIME.labels(self.venue).set(self.last_mark / 1000)

    def dead_letter(self, record: Record) -> None:
        """Write a dead letter at once, outside the steps."""
        self._into(("dead_letters", 0), record["event_time"], record["source"].encode(), self._encode_dead(record))

    def refused(self, reason: str) -> None:
        """Store the error of a record that Kafka refused for good."""
        if self.failure is None:
            self.failure = DeliveryFailed(reason)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything offered is acknowledged, marks included; False when that takes longer than ``timeout_s``. Raises DeliveryFailed."""
        deadline = time.monotonic() + timeout_s
        self.pump()
        while not self.idle and time.monotonic() < deadline:
            await asyncio.sleep(FLUSH_S)
            self.pump()
        return self.idle

    async def close(self, timeout_s: float = 10.0) -> bool:
        """Wait for the records in flight, write the marks that become due, and disconnect.

        Returns:
            True when everything was acknowledged in time.

        Raises:
            DeliveryFailed: Kafka refused a record.
        """
        try:
            return self.failure is None and await self.flush(timeout_s)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Stop the client. It would wait without end for a broker that does not return. Records that are unacknowledged by now stay unsent."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        if self._unacknowledged:
            accumulator = producer._message_accumulator
            for waiting in accumulator._batches.values():
                for batch in waiting:
                    batch._drain_waiter.cancel()  # no task awaits it; without this, asyncio logs an exception that was never retrieved
            accumulator.fail_all(KafkaError("the producer is closed"))
        with contextlib.suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(producer.stop(), LEAVE_S)
