"""Prefetch raw record sets of selected partitions in a thread.

One message object for each record costs more than all other work of a sink, so records are fetched as whole record sets (``schemas.codec.fetching``). The
reader decides which partitions to fetch and from which offset.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from schemas.codec.fetching import RawRecords, deliver_raw

# Largest answer of a broker, and the limit of buffered record sets: 100,000 trades.
FETCH_BYTES = 8 * 1024 * 1024
# A request names all partitions and Python parses its answer, so about ten a second must suffice. A broker waits for this many bytes or this long.
FETCH_LEAST_BYTES = 256 * 1024
FETCH_WAIT_MS = 100
AGAIN_SECONDS = 0.5
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class FetchedRecords:
    """A record set of a partition, or None if the requested offset is not in the log.

    Attributes:
        partition: Wire name of the topic, and partition.
        turn: Number of the read request that it answers.
        raw: The record set.
    """

    partition: TopicPartition
    turn: int
    raw: RawRecords | None


# Start offset and number of a read request; None: stop reading.
Wishes = Mapping[TopicPartition, tuple[int, int] | None]


class Fetcher:
    """Fetches the requested partitions in log order, a bounded number of bytes ahead. All methods are thread-safe.

    Args:
        bootstrap: Kafka.
        log: Structured log.
        fetch_bytes: See FETCH_BYTES.

    Attributes:
        ends: Last known end offset (committed records) of each partition.
        trouble: Why nothing can be fetched at present.
        held: Bytes fetched and not yet taken.
    """

    def __init__(self, bootstrap: str, log: Any, fetch_bytes: int = FETCH_BYTES) -> None:
        self._bootstrap = bootstrap
        self._log = log
        self._bytes = fetch_bytes
        self._wishes: queue.SimpleQueue[Wishes] = queue.SimpleQueue()
        # Not a SimpleQueue: in CPython 3.11 its ``get`` may wait forever if the thread is not running when the time-out ends.
        self._found: queue.Queue[FetchedRecords | None] = queue.Queue()
        self._lock = threading.Lock()
        self._stopping = False
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._called = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fetcher", daemon=True)
        # Used by the fetcher thread only: next offset of each partition and number of the request.
        self._positions: dict[TopicPartition, int] = {}
        self._turns: dict[TopicPartition, int] = {}
        self.ends: dict[TopicPartition, int] = {}
        self.trouble: str | None = None
        self.held = 0

    # --- for the reader --------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; drop buffered records."""
        self._stopping = True
        if self._thread.is_alive():
            self._call()
            self._thread.join(CLOSE_SECONDS)

    def want(self, wishes: Wishes) -> None:
        """Read partitions from new offsets, or stop reading them."""
        self._wishes.put(wishes)
        self._call()

    def get(self, seconds: float) -> FetchedRecords | None:
        """Return the next record set, or None after a time-out or a call of ``wake``.

        Raises:
            RuntimeError: the fetcher thread failed.
        """
        try:
            found = self._found.get(timeout=seconds) if seconds > 0 else self._found.get_nowait()
        except queue.Empty:
            found = None
        if self._failure is not None:
            raise RuntimeError(f"the fetcher ended: {type(self._failure).__name__}: {self._failure}") from self._failure
        if found is not None and found.raw is not None:
            was_full = self.held >= self._bytes
            self._hold(-len(found.raw.data))
            if was_full:
                self._call()
        return found

    def wake(self) -> None:
        """Make ``get`` return."""
        self._found.put(None)

    def _call(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._called.set)

    def _hold(self, more: int) -> None:
        with self._lock:
            self.held += more

    # --- in its thread ---------------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._work())
        except BaseException as error:
            self._failure = error
            self.wake()
        finally:
            self._loop.close()

    async def _work(self) -> None:
        consumer = await self._connected()
        if consumer is None:
            return
        try:
            while not self._stopping:
                self._called.clear()
                self._heed(consumer)
                if self._positions and self.held < self._bytes:
                    await self._fetch(consumer)
                else:
                    await self._called.wait()
        finally:
            await consumer.stop()

    async def _connected(self) -> AIOKafkaConsumer | None:
        while not self._stopping:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap,
                enable_auto_commit=False,
                auto_offset_reset="none",
                fetch_max_bytes=self._bytes,
                max_partition_fetch_bytes=max(1, self._bytes // 4),
                fetch_min_bytes=min(FETCH_LEAST_BYTES, self._bytes),
                fetch_max_wait_ms=FETCH_WAIT_MS,
                metadata_max_age_ms=60_000,
            )
            try:
                await consumer.start()
            except KafkaError as error:
                self.trouble = str(error)
                await consumer.stop()
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            except BaseException:
                await consumer.stop()
                raise
            deliver_raw(consumer)
            self.trouble = None
            return consumer
        return None

    def _heed(self, consumer: AIOKafkaConsumer) -> None:
        """Apply the newest read requests."""
        wishes: dict[TopicPartition, tuple[int, int] | None] = {}
        with contextlib.suppress(queue.Empty):
            while True:
                wishes.update(self._wishes.get_nowait())
        for partition, wish in wishes.items():
            self.ends.pop(partition, None)
            if wish is None:
                self._positions.pop(partition, None)
                self._turns.pop(partition, None)
            else:
                self._positions[partition], self._turns[partition] = wish
        if set(self._positions) != consumer.assignment():
            # The client forgets all positions with its assignment.
            consumer.assign(list(self._positions))
            for partition, offset in self._positions.items():
                consumer.seek(partition, offset)
            return
        paused = consumer.paused()
        for partition in wishes.keys() & self._positions.keys():
            if partition in paused:
                consumer.resume(partition)
            consumer.seek(partition, self._positions[partition])

    async def _fetch(self, consumer: AIOKafkaConsumer) -> None:
        try:
            fetched = await consumer.getmany(timeout_ms=FETCH_WAIT_MS)
        except OffsetOutOfRangeError as error:
            for partition in error.args[0]:
                consumer.pause(partition)  # until another offset is requested
                self._found.put(FetchedRecords(partition, self._turns[partition], None))
            return
        except KafkaError as error:
            if self.trouble is None:
                self._log.warning("nothing can be fetched, trying again", error=str(error))
            self.trouble = str(error)
            await asyncio.sleep(AGAIN_SECONDS)
            return
        for partition in self._positions:
            end = consumer.last_stable_offset(partition)
            if end is not None:
                self.ends[partition] = end
        for partition, sets in fetched.items():
            self.trouble = None
            for raw in sets:
                self._hold(len(raw.data))
                self._positions[partition] = raw.last + 1
                self._found.put(FetchedRecords(partition, self._turns[partition], raw))
