"""Publish journalled records to Kafka in order. Rows are deleted once Kafka acknowledges them. Trading continues while Kafka is down."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import structlog

from schemas.catalogue import TOPICS
from schemas.codec.avro import Record
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from sinks.executor.journal import OutboxRow
from sinks.executor.publish import NotAcknowledged, Publisher
from sinks.live.journal import OutboxEntry

RETRY_S = 1.0


class Outbox:
    """Publishes committed records.

    Args:
        settings: Environment.
        publisher: Sends to Kafka.
        forget: Deletes the journalled rows below a sequence number.
    """

    def __init__(self, settings: Settings, publisher: Publisher, forget: Callable[[int], Awaitable[None]]) -> None:
        self._settings, self._publisher, self._forget = settings, publisher, forget
        self._log = structlog.get_logger()
        self._rows: deque[OutboxEntry] = deque()
        self._there = asyncio.Event()
        self._encoders = {topic: settings.codec.encoder(topic) for topic in TOPICS if topic in WRITTEN}

    def row(self, seq: int, topic: str, record: Record) -> OutboxEntry:
        """Return a record as an outbox row.

        Raises:
            CodecError: the record does not fit its schema.
        """
        key = str(record[TOPICS[topic].key])
        if TOPICS[topic].co_partitioned:
            partition = self._settings.partition_of(base_of_instrument(record["instrument"]))
        else:
            partition = 0
        return OutboxEntry(partition, OutboxRow(seq, topic, key.encode(), record["event_time"], self._encoders[topic](record)))

    def add(self, rows: Iterable[OutboxEntry]) -> None:
        """Queue committed rows."""
        self._rows.extend(rows)
        if self._rows:
            self._there.set()

    def __len__(self) -> int:
        return len(self._rows)

    async def run(self) -> None:
        """Publish until cancelled."""
        down = False
        while True:
            await self._there.wait()
            self._there.clear()
            while self._rows:
                batch = list(self._rows)[:1000]
                try:
                    await asyncio.to_thread(self._publish, batch)
                except NotAcknowledged as error:
                    if not down:
                        self._log.warning("kafka does not acknowledge records; they wait in the journal", reason=str(error))
                    down = True
                    await asyncio.sleep(RETRY_S)
                    continue
                down = False
                for _ in batch:
                    self._rows.popleft()
                await self._forget(batch[-1].row.seq + 1)

    def _publish(self, batch: list[OutboxEntry]) -> None:
        for partition in sorted({one.partition for one in batch}):
            self._publisher.publish(partition, [one.row for one in batch if one.partition == partition])


WRITTEN = frozenset(("orders", "fills", "positions", "trades_closed", "execution_cost_events", "reconciliations"))
