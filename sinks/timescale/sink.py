"""The sink: topics into the database, while one batch is copied the rows of the next are made (``sinks.consuming.loop``).

Where to read from is what the database says (``sink_offsets``); Kafka's committed offsets are only for lag tools.

What happens when ...
    - the database is away: the batch is tried again with growing pauses, polling goes on, /health answers 503; nothing is lost.
    - the broker is away: the client reconnects by itself; what was read is written meanwhile; /health answers 503.
    - this process is killed: the transaction is not there or is there with its offset; the next one reads from the stored offset.
    - it is frozen and thawed: its partitions went to another sink; its own batch is fenced by the stored offset.
    - the stored offset was deleted by retention: reading goes on at the oldest record that is left, with an error and a number in /health.
    - the stored offset lies beyond the log's end: the log was cut; the partition is left alone and /health says so.
    - the topic was deleted and created again: it is another log (Kafka's topic id says so) and is read from its start.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import KafkaException

from schemas import catalogue, metrics
from schemas.service import Service
from schemas.settings import Settings
from sinks.consuming.fetcher import FETCH_BYTES
from sinks.consuming.loop import Loop
from sinks.consuming.reader import PartitionBatch, Place, Reader
from sinks.timescale import rows as row_format
from sinks.timescale.dead_letters import DeadLetterWriter, NotDelivered
from sinks.timescale.writer import TableBatch, TableWriter, WriteResult

# A batch that had to wait for the one before it may be so many times ``batch_rows`` long: fewer transactions when there is much to catch up with.
CATCH_UP = 3
# Memory of one batch, whatever the number of rows (values of 20 depth levels are 700 bytes each).
BATCH_BYTES = 32 * 1024 * 1024
STOP_SECONDS = 15.0
_TROUBLE = (psycopg.Error, NotDelivered, KafkaException, row_format.RegistryUnavailable, RuntimeError)


@dataclass(frozen=True)
class Options:
    """How the sink works.

    Attributes:
        topics: Plain topic names.
        batch_rows: Rows from which a batch is written at once.
        batch_seconds: Longest time that a record waits for its batch.
        until_idle: Stop when every assigned partition has been at its end for this many seconds; None: run on.
        session_timeout_ms: After this time without a heartbeat Kafka gives the partitions of a dead sink to others.
        instance: Static member name: a sink killed and started again under it gets its partitions back at once. None: none.
        fetch_bytes: Bytes fetched ahead of what is read.
    """

    topics: tuple[str, ...] = tuple(catalogue.TOPICS)
    batch_rows: int = 20_000
    batch_seconds: float = 1.0
    until_idle: float | None = None
    session_timeout_ms: int = 10_000
    instance: str | None = None
    fetch_bytes: int = FETCH_BYTES


class Sink(Loop):
    """Writes topics into the database until stopped.

    Args:
        settings: Kafka, database, prefix.
        options: How.
        service: Stop flag, log, health.
    """

    def __init__(self, settings: Settings, options: Options, service: Service) -> None:
        reader = Reader(
            settings,
            options.topics,
            options.session_timeout_ms,
            options.instance,
            service.log,
            group="sink",
            lag=metrics.SINK_LAG,
            fetch_bytes=options.fetch_bytes,
        )
        super().__init__(reader, service, name="sink", until_idle=options.until_idle, stop_seconds=STOP_SECONDS, depth=2)
        self._codec = settings.codec
        self._options = options
        self._writer = TableWriter(settings.role_url("writer"), DeadLetterWriter(settings))
        self._written_rows = 0
        service.set_health(self.health)

    def health(self) -> dict[str, Any]:
        """Return the health report: not ok while database or broker are away or a partition cannot be read."""
        return {**self.report(), "rows_written": self._written_rows}

    def is_due(self) -> bool:
        """Return whether there are enough rows or the oldest has waited long enough."""
        reader = self._reader
        waited = time.monotonic() - reader.oldest
        return reader.rows >= self._options.batch_rows or reader.bytes >= BATCH_BYTES or waited >= self._options.batch_seconds

    def room(self) -> tuple[int, int]:
        """Return the largest batch."""
        return CATCH_UP * self._options.batch_rows, BATCH_BYTES

    def claim(self, places: list[Place]) -> tuple[dict[Place, int], list[Place]]:
        """Ask the database where partitions go on."""
        return self._writer.positions(self._reader.topic_ids(places), places)

    def placed(self, answer: tuple[dict[Place, int], list[Place]], ours: set[Place]) -> None:
        """Have partitions read from what the database holds."""
        offsets, anew = answer
        for topic, number in anew:
            self._log.warning("the topic was created anew: its log is read from the start", topic=topic, partition=number)
        self._reader.place({place: offset for place, offset in offsets.items() if place in ours})

    def prepare(self, batch: list[PartitionBatch]) -> list[TableBatch]:
        """Make a batch's rows.

        Raises:
            RegistryUnavailable: see ``rows.encode``.
        """
        return [
            TableBatch(
                read.place,
                read.expected,
                read.next_offset,
                row_format.encode(self._codec, read.place[0], read.records, read.place[1]),
                read.message,
            )
            for read in batch
        ]

    def write(self, prepared: list[TableBatch]) -> WriteResult:
        """Write a batch's rows."""
        return self._writer.write(prepared)

    def written(self, outcome: WriteResult, ours: set[Place]) -> None:
        """Note what the database holds; ask it again where another sink wrote."""
        self._written_rows += sum(outcome.rows.values())
        for place, stored in outcome.fenced.items():
            if place not in ours:
                continue
            metrics.FENCED.labels("sink").inc()
            self._log.warning("fenced: another sink wrote this partition", topic=place[0], partition=place[1], stored=stored)
            self._reader.displace(place)
        self._reader.written({place: offset for place, offset in outcome.written.items() if place in ours})

    def may_pass(self, error: BaseException) -> bool:
        """An error of psycopg that no server reported and no connection met is a fault of this program; other ones of psycopg and Kafka may pass."""
        own = isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError) and error.sqlstate is None
        return isinstance(error, _TROUBLE) and not own

    def failed(self, error: BaseException) -> str:
        """Close the connection, whatever state its session is in, and say what may help."""
        if not isinstance(error, row_format.RegistryUnavailable):  # which comes from the other thread
            self._writer.close()
        unprepared = isinstance(
            error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn | psycopg.errors.InsufficientPrivilege
        )
        return "; run `perpflow db migrate`" if unprepared or "authentication failed" in str(error) else ""

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
