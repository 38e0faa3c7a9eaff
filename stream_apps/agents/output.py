"""Output as whole record batches instead of single records.

The producer's own builder makes the batches, and each goes to an explicit partition. The futures are kept: a checkpoint waits for them, and
a failed batch is never ignored. Internals of aiokafka in use (pinned in ``schemas.process.pins``): ``BatchBuilder``, ``DefaultRecordBatch``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.structs import RecordMetadata

from stream_apps.agents.changelog import Entry, Ownership, chunks

Timed = tuple[int, bytes | None, bytes | None]  # timestamp ms, key, value

# A checkpoint is one batch, so the log holds all of it or nothing. The changelog topic allows this size (max.message.bytes).
CHECKPOINT_MAX_BYTES = 16 << 20
CHECKPOINT_BATCH_BYTES = CHECKPOINT_MAX_BYTES - (1 << 20)
# zstd makes output five to thirteen times smaller for one or two microseconds a record (``schemas.codec.zstd``). Broker, disks and readers
# have that much less to do. lz4 means level 9 in aiokafka: larger, for four to seven microseconds.
COMPRESSION = "zstd"
_ZSTD = DefaultRecordBatch.CODEC_ZSTD


class OutputError(RuntimeError):
    """Kafka did not take a batch, or it cannot be built."""


class Producers(Protocol):
    """Returns the started aiokafka producer."""

    def __call__(self) -> AIOKafkaProducer: ...


class Sent:
    """One batch that was sent and may be unacknowledged.

    Attributes:
        count: Records in it.
        future: Resolves to the metadata of its first record.
    """

    __slots__ = ("count", "future")

    def __init__(self, count: int, future: asyncio.Future[RecordMetadata]) -> None:
        self.count = count
        self.future = future


class Outbox:
    """Sends record batches and tracks the unacknowledged ones.

    Args:
        producer: Returns the producer. It must be idempotent with acks=all.
    """

    def __init__(self, producer: Producers) -> None:
        self._producer = producer
        self._unacked: set[asyncio.Future[Any]] = set()
        self.failure: BaseException | None = None

    def _track(self, future: asyncio.Future[RecordMetadata]) -> None:
        self._unacked.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[RecordMetadata]) -> None:
        self._unacked.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            self.failure = self.failure or error

    def unacked(self) -> list[asyncio.Future[Any]]:
        """Return the futures of the unacknowledged batches."""
        return list(self._unacked)

    def check(self) -> None:
        """Raise OutputError when a batch has failed since the start: nothing after it may be committed."""
        if self.failure is not None:
            raise OutputError(f"Kafka did not take a batch: {type(self.failure).__name__}: {self.failure}") from self.failure

    async def flush(self) -> None:
        """Wait until everything sent so far is acknowledged. Raises OutputError when a batch failed."""
        if waiting := self.unacked():
            await asyncio.wait(waiting)
        self.check()

    async def send(self, topic: str, partition: int, records: Iterable[Timed]) -> list[Sent]:
        """Send records in order, in as few batches as the producer's batch size allows. Waits only when the partition's queue is full.

        Raises:
            OutputError: an earlier batch failed.
        """
        self.check()
        producer = self._producer()
        sent: list[Sent] = []
        batch = producer.create_batch()
        for timestamp, key, value in records:
            if batch.append(timestamp=timestamp, key=key, value=value) is None:
                sent.append(await self._submit(producer, batch, topic, partition))
                batch = producer.create_batch()
                batch.append(timestamp=timestamp, key=key, value=value)  # an empty batch takes a record of any size
        if batch.record_count():
            sent.append(await self._submit(producer, batch, topic, partition))
        return sent

    async def send_checkpoint(self, topic: str, partition: int, time_ms: int, entries: Sequence[Entry], ownership: Ownership) -> int:
        """Write changelog entries atomically, wait for the acknowledgement, and return the offset after them.

        Returns -1 when other records lie between its batches, or when the broker did not return their offsets.

        Raises:
            OutputError: this or an earlier batch failed.
        """
        self.check()
        producer = self._producer()
        sent: list[Sent] = []
        runs = chunks(entries, CHECKPOINT_BATCH_BYTES)
        for i, run in enumerate(runs):
            batch = BatchBuilder(CHECKPOINT_MAX_BYTES, _ZSTD)
            headers = ownership.headers(more=i + 1 < len(runs))
            for key, value in run:
                batch.append(timestamp=time_ms, key=key, value=value, headers=headers)
            sent.append(await self._submit(producer, batch, topic, partition))
        await asyncio.wait([batch.future for batch in sent])
        self.check()
        expected: int | None = None
        for done in sent:
            base = done.future.result().offset
            if base < 0 or (expected is not None and base != expected):
                return -1
            expected = base + done.count
        return -1 if expected is None else expected

    async def _submit(self, producer: AIOKafkaProducer, batch: BatchBuilder, topic: str, partition: int) -> Sent:
        count = batch.record_count()
        batch.close()
        future = await producer.send_batch(batch, topic, partition=partition)
        self._track(future)
        return Sent(count, future)
