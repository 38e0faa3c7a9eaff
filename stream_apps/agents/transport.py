"""The only module that uses internals of Faust and aiokafka. Both versions are pinned (``schemas.process.pins``).

Faust gets a transport of our own. Its consumer delivers one message per partition and fetch (``schemas.codec.fetching``); its producer is
idempotent (``output``). Faust 0.15.3 has defects that lose records. This is where each is fixed:

- A rebalance resumes source partitions before it seeks, and records that arrive in between are lost. ``recovery`` seeks while nothing
  flows.
- The fetcher gets the live set of active partitions. An empty set means "all", and a partition that is paused meanwhile loses its records.
  ``RawConsumer.getmany`` passes a frozen copy and delivers exactly what was asked for.
- Records that were fetched when the flow stopped are dropped, although the position moved on. ``RawConsumerThread._fetch_records`` puts the
  position back.
- A getmany that finds the flow stopped seeks to committed offsets at some later time. ``perform_seek`` does nothing; recovery seeks.
- A partition that was paused on purpose is resumed when a buffer drains. ``on_buffer_drop`` checks that first.
- Gaps between offsets are walked one by one in the acknowledgements. With composites the newest acknowledged one is the commit.
- ``flush`` reports success when a batch failed, and a commit follows. ``IdempotentProducer.flush`` raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, ClassVar

import aiokafka
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message
from faust.types.tuples import ack_lock
from mode.utils.futures import notify

from schemas.codec.fetching import RawRecords, deliver_raw
from schemas.codec.frames import fetch_in_place
from stream_apps.agents.output import Outbox

# Producers write every few milliseconds, and each partition of each fetch costs a Faust message. So a fetch waits for this many bytes or
# this time. Half of it costs the worker a third more CPU and makes no decision earlier (measured at 2,500 records a second of 20
# instruments). A resumed partition joins the next fetch.
FETCH_BYTES = 64 * 1024
FETCH_WAIT_MS = 50
# A partition's records are views of the response that brought them (``schemas.codec.frames``). A partition that waits for its mark keeps
# the whole response in memory. With 16 MB instead of aiokafka's 50 MB the worker is as fast, and needs a tenth less memory while it catches
# up.
RESPONSE_BYTES = 16 << 20
POLL_S = 0.1


class RawConsumerThread(driver.AIOKafkaConsumerThread):
    """The consumer's own thread: joins the group, sends heartbeats, fetches raw record sets."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_min_bytes, consumer._fetch_max_wait_ms, consumer._fetch_max_bytes = FETCH_BYTES, FETCH_WAIT_MS, RESPONSE_BYTES
        fetch_in_place(consumer)
        return consumer

    async def on_start(self) -> None:
        """Start the aiokafka consumer and make it deliver raw record sets."""
        await super().on_start()
        deliver_raw(self._ensure_consumer())

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: Any,
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Mapping[Any, list[RawRecords]]:
        fetched: Mapping[Any, list[RawRecords]]
        fetched = await super()._fetch_records(consumer, active_partitions, timeout=timeout, max_records=max_records)
        if fetched and not self.consumer.flow_active:
            # The flow stopped while this fetch waited, so nobody takes its records.
            for tp, sets in fetched.items():
                if tp in consumer.assignment():
                    consumer.seek(tp, sets[0].first)
            return {}
        return fetched

    async def _seek_wait(self, consumer: aiokafka.AIOKafkaConsumer, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            consumer.seek(TopicPartition(tp.topic, tp.partition), offset)
            self.consumer._read_offset[tp] = offset if offset > 0 else None

    async def positions(self) -> dict[TP, int]:
        """Return the next offset to fetch of every assigned partition that has one."""
        found: dict[TP, int] = await self.call_thread(self._positions)
        return found

    async def _positions(self) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return {}
        states = ((tp, assignment.state_value(tp)) for tp in assignment.tps)
        return {TP(tp.topic, tp.partition): state.position for tp, state in states if state.has_valid_position}

    async def rejoin(self) -> None:
        """Ask for a rebalance."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()


class RawConsumer(driver.Consumer):
    """Delivers composites: one Faust message per partition and fetch. Its value is the raw record set, its offset the last one covered."""

    _thread: RawConsumerThread

    def _new_consumer_thread(self) -> RawConsumerThread:
        return RawConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """Yield the results of one fetch. Every requested record is delivered unless the flow stops; recovery then seeks."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        wanted = set(self._get_active_partitions())  # a copy: the set changes while the fetch waits
        if not wanted:
            await self.sleep(POLL_S)
            return
        generation = self.app.consumer_generation_id
        fetched = await self._getmany(active_partitions=wanted, timeout=min(timeout, POLL_S))
        for tp, raw in self.scheduler.iterate(fetched):
            if self.should_stop or not self.flow_active or generation != self.app.consumer_generation_id:
                return
            yield tp, self._to_message(tp, raw)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        return ConsumerMessage(
            record.topic,
            record.partition,
            record.last,
            0.0,
            0,
            None,
            None,
            record,
            None,
            0,
            len(record.data),
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def perform_seek(self) -> None:
        """Do nothing. Recovery seeks to the positions of the recovered state while nothing flows."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing: composites are contiguous, so there are no gaps to fold."""

    def ack(self, message: Message) -> bool:
        """Make a composite committable, and all before it in its partition."""
        with ack_lock:
            if message.acked:
                return False
            message.acked = True
            self._unacked_messages.discard(message)
            self._acked[message.tp] = [message.offset]
            self._n_acked += 1
        notify(self._waiting_for_ack)
        return True

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked.get(tp)
        return acked[-1] + 1 if acked else None

    def on_buffer_drop(self, tp: TP) -> None:
        """Fetch a partition again when its buffer drained, unless it is paused on purpose."""
        if tp in self._buffered_partitions:
            self._buffered_partitions.discard(tp)
            if tp not in self._paused_partitions:
                self._get_active_partitions().add(tp)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing. Faust would report a partition as slow while it waits for its mark. The worker's /health reports backlog instead."""

    async def positions(self) -> dict[TP, int]:
        """Return the next offset to fetch of every assigned partition that has one."""
        return await self._thread.positions()

    async def rejoin(self) -> None:
        """Ask for a rebalance. Its new owner then recovers every partition."""
        await self._thread.rejoin()


class IdempotentProducer(driver.Producer):
    """A producer with acks=all, no duplicates from retries, and order per partition. It retries until Kafka answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.outbox = Outbox(self._ensure_producer)

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def flush(self) -> None:
        """Wait for all batches. Raise OutputError when one failed, because Faust commits after a flush."""
        await super().flush()
        self.outbox.check()


class RawTransport(driver.Transport):
    """The transport given to the app."""

    Consumer: ClassVar[Any] = RawConsumer
    Producer: ClassVar[Any] = IdempotentProducer


def broker_urls(bootstrap_servers: str) -> str:
    """Return ``host:port,host:port`` in Faust's form."""
    return ";".join(f"kafka://{server.strip()}" for server in bootstrap_servers.split(",") if server.strip())


def tps(topics: Iterable[str], partition: int) -> set[TP]:
    """Return the same partition of several topics."""
    return {TP(topic, partition) for topic in topics}


async def gathered(awaitables: Iterable[Any]) -> None:
    """Wait for all, then raise the first failure. So no task runs on after an error."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
