"""Output: whole record batches instead of records.

Batches are built with the producer's own builder and sent to an explicit partition; the futures are kept, so that a
checkpoint can wait for them and a failed one is never passed over. Takes from aiokafka's inside (pinned in ``schemas.pins``): ``BatchBuilder``,
``DefaultRecordBatch``.
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

# A checkpoint is one batch, so that it is in the log whole or not at all; the changelog topic allows as much (max.message.bytes).
CHECKPOINT_MAX_BYTES = 16 << 20
CHECKPOINT_BATCH_BYTES = CHECKPOINT_MAX_BYTES - (1 << 20)
# What is written is five to thirteen times smaller for one or two microseconds a record (``schemas.codec.zstd``): the broker, its disks and whoever recovers or
# reads have that much less to do. lz4 means level 9 in aiokafka: less small, for four to seven microseconds.
COMPRESSION = "zstd"
_ZSTD = DefaultRecordBatch.CODEC_ZSTD


class OutputError(RuntimeError):
    """A batch that Kafka did not take, or that cannot be built."""


class Producers(Protocol):
    """Gives the started aiokafka producer."""

    def __call__(self) -> AIOKafkaProducer: ...


class Sent:
    """One batch on its way.

    Attributes:
        count: Records in it.
        future: Resolves to the metadata of its first record.
    """

    __slots__ = ("count", "future")

    def __init__(self, count: int, future: asyncio.Future[RecordMetadata]) -> None:
        self.count = count
        self.future = future


class Outbox:
    """Sends record batches and knows what is not acknowledged yet.

    Args:
        producer: Gives the producer; it must be idempotent with acks=all.
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
        """Return the futures of the batches on their way."""
        return list(self._unacked)

    def check(self) -> None:
        """Raise OutputError when a batch has failed since the start: what followed it must not be committed."""
        if self.failure is not None:
            raise OutputError(f"Kafka did not take a batch: {type(self.failure).__name__}: {self.failure}") from self.failure

    async def flush(self) -> None:
        """Wait until everything sent so far is acknowledged. Raises OutputError when something was not."""
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
        """Write changelog entries whole or not at all, wait for the acknowledgement, and return the offset after them.

        Returns -1 when other records stand between its batches or the broker could not say where they stand.

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
