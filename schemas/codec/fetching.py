"""Reads whole record sets from Kafka instead of records, for the worker and for replay.

A Python object per record costs more than all further work on it. Here a fetch yields one object per partition: the raw bytes from the
broker, the first requested offset, and the last covered offset. So two consecutive objects of a partition are always contiguous, whatever
compaction, control batches or aborted transactions removed between them. Continuity can be checked exactly.

Takes from aiokafka's inside ``Fetcher._proc_fetch_request`` and how ``FetchResult`` uses ``PartitionRecords``. The version is pinned in
``schemas.process.pins``; the worker's tests hold what is assumed here.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import TopicPartition
from crc32c import crc32c

from schemas.codec.frames import fetch_in_place

# base offset, length, leader epoch, magic, crc, attributes, last offset delta
_HEADER = struct.Struct(">qiibIhi")
_PRODUCER_ID = struct.Struct(">q")
_PRODUCER_ID_START = 43
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_READ_COMMITTED = 1
_LENGTH_END = 12  # the length field counts the bytes after itself
_CRC_START = 21  # the CRC covers the bytes after itself: from the attributes on


@dataclass(frozen=True, slots=True)
class RawRecords:
    """One fetch of one partition: whole v2 record batches.

    Attributes:
        topic: Wire name of the topic.
        partition: Partition.
        first: First requested offset. The first batch may begin before it.
        last: Last offset covered, which may lie beyond the last record.
        data: The batches.
    """

    topic: str
    partition: int
    first: int
    last: int
    data: bytes | memoryview


class _RawSet:
    """Replaces aiokafka's ``MemoryRecords``. It keeps the bytes, and checks only whether a complete batch is there."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def has_next(self) -> bool:
        return len(self.data) >= _LENGTH_END and len(self.data) >= _LENGTH_END + int.from_bytes(self.data[8:12], "big", signed=True)

    def size_in_bytes(self) -> int:
        return len(self.data)


class _RawPartitionRecords:
    """Stands in for aiokafka's ``PartitionRecords``: yields at most one RawRecords. CRCs are checked here.

    Raises (when iterated):
        CorruptRecordException: a CRC that does not fit its batch, or a message format older than v2.
    """

    def __init__(self, tp: TopicPartition, records: _RawSet, aborted: Any, fetch_offset: int, *options: Any) -> None:
        self._tp = tp
        self._data = records.data
        self._aborted = aborted
        self._done = False
        self.next_fetch_offset = fetch_offset

    def __iter__(self) -> _RawPartitionRecords:
        return self

    def __next__(self) -> RawRecords:
        if self._done:
            raise StopIteration
        self._done = True
        first = self.next_fetch_offset
        end, self.next_fetch_offset = _checked(self._tp, self._data, first)
        # Without a batch that the broker cut off.
        data: bytes | memoryview = self._data if end == len(self._data) else memoryview(self._data)[:end]
        if self._aborted:
            data = _committed(data, self._aborted)
        return RawRecords(self._tp.topic, self._tp.partition, first, self.next_fetch_offset - 1, data)


def _checked(tp: TopicPartition, data: bytes, position: int) -> tuple[int, int]:
    """Check every complete batch. Return where they end, and the offset after them."""
    view = memoryview(data)
    at, total = 0, len(view)
    while total - at >= _HEADER.size:
        base_offset, length, _, magic, crc, _, last_delta = _HEADER.unpack_from(view, at)
        stop = at + _LENGTH_END + length
        if stop > total:
            break
        if magic != 2:
            raise CorruptRecordException(f"{tp}: message format {magic} at offset {base_offset}, only v2 is read")
        if crc32c(view[at + _CRC_START : stop]) != crc:
            raise CorruptRecordException(f"{tp}: the CRC of the batch at offset {base_offset} does not fit")
        position = max(position, base_offset + last_delta + 1)
        at = stop
    return at, position


def _committed(data: bytes | memoryview, aborted: Iterable[tuple[int, int]]) -> bytes:
    """Return complete batches without those of aborted transactions.

    Args:
        data: Whole batches.
        aborted: (producer id, first offset) of the aborted transactions, as the broker lists them with a fetch.
    """
    waiting = sorted(aborted, key=lambda one: one[1])
    ended: set[int] = set()
    kept = []
    view = memoryview(data)
    at = 0
    while at < len(data):
        base_offset, length, _, _, _, attributes, _ = _HEADER.unpack_from(view, at)
        stop = at + _LENGTH_END + length
        (producer,) = _PRODUCER_ID.unpack_from(view, at + _PRODUCER_ID_START)
        while waiting and waiting[0][1] <= base_offset:
            ended.add(waiting.pop(0)[0])
        if attributes & _CONTROL:
            ended.discard(producer)  # the end of its transaction; a control batch has no records for readers
        elif not (attributes & _TRANSACTIONAL and producer in ended):
            kept.append(view[at:stop])
        at = stop
    return b"".join(kept)


# aiokafka refers to both classes as globals of its module. A copy of the method with other globals changes only the consumers that it is
# bound to. Other aiokafka consumers of the process are not affected.
_FETCH = aiokafka_fetcher.Fetcher._proc_fetch_request
_RAW_FETCH = FunctionType(
    _FETCH.__code__,
    {**vars(aiokafka_fetcher), "MemoryRecords": _RawSet, "PartitionRecords": _RawPartitionRecords},
    "raw_fetch_request",
    _FETCH.__defaults__,
    _FETCH.__closure__,
)


def deliver_raw(consumer: AIOKafkaConsumer) -> None:
    """Make a started consumer deliver RawRecords (``getmany`` gives a list of at most one per partition).

    It reads committed records only. Strategies are written in transactions (``sinks.commands.strategies.revisions``), and aborted records
    hold nowhere.
    """
    consumer._fetcher._isolation_level = _READ_COMMITTED
    consumer._fetcher._proc_fetch_request = MethodType(_RAW_FETCH, consumer._fetcher)


async def read_to_end(bootstrap: str, tps: Iterable[TopicPartition], fetch_bytes: int) -> AsyncIterator[RawRecords]:
    """Yield all present records of partitions from their begin, with the same code as live intake, in offset order per partition.

    Raises:
        KafkaError: an error after the client's retries.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=fetch_bytes,
        fetch_max_wait_ms=100,
    )
    fetch_in_place(consumer)
    await consumer.start()
    try:
        deliver_raw(consumer)
        wanted = list(tps)
        consumer.assign(wanted)
        ends = await consumer.end_offsets(wanted)
        starts = await consumer.beginning_offsets(wanted)
        missing = {tp for tp in wanted if starts[tp] < ends[tp]}
        consumer.pause(*(tp for tp in wanted if tp not in missing))
        for tp in missing:
            consumer.seek(tp, starts[tp])
        while missing:
            for tp, sets in (await consumer.getmany(*missing, timeout_ms=1000)).items():
                for raw in sets:
                    yield raw
                    if raw.last + 1 >= ends[tp]:
                        missing.discard(tp)
                        consumer.pause(tp)
    finally:
        await consumer.stop()
