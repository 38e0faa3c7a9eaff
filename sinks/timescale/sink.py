"""The sink: write topics to the database. While one batch is copied, the rows of the next are prepared (``sinks.consuming.loop``).

The table ``sink_offsets`` defines the start offsets; Kafka's committed offsets are only for lag tools.

What happens at each failure:
    - database down: the batch is retried with growing pauses, polling continues, /health answers 503. Nothing is lost.
    - broker down: the client reconnects by itself; records in memory are written; /health answers 503.
    - this process is killed: rows and offset are committed together or not at all. The next process reads from the stored offset.
    - frozen and resumed: another sink has its partitions, and the stored offset fences its batch.
    - retention deleted the stored offset: reading continues at the oldest record, with an error and a number in /health.
    - the stored offset is beyond the end of the log: the log was truncated. The partition is skipped, and /health says so.
    - the topic was deleted and created again: Kafka's topic id differs, and the new log is read from its start.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import KafkaException

from schemas import catalogue, metrics
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.consuming.fetcher import FETCH_BYTES
from sinks.consuming.loop import Loop
from sinks.consuming.reader import PartitionBatch, Place, Reader
from sinks.timescale import rows as row_format
from sinks.timescale.dead_letters import DeadLetterWriter, NotDelivered
from sinks.timescale.writer import TableBatch, TableWriter, WriteResult

# A batch that waits for the previous one may grow to this multiple of ``batch_rows``, so a catch-up needs fewer transactions.
CATCH_UP = 3
# Memory limit of one batch (values with 20 depth levels have 700 bytes).
BATCH_BYTES = 32 * 1024 * 1024
STOP_SECONDS = 15.0
_TROUBLE = (psycopg.Error, NotDelivered, KafkaException, row_format.RegistryUnavailable, RuntimeError)


@dataclass(frozen=True)
class Options:
    """Settings of the sink.

    Attributes:
        topics: Plain topic names.
        batch_rows: Rows at which a batch is written at once.
        batch_seconds: Longest time that a record waits for its batch.
        until_idle: Stop when every assigned partition has been at its end for this many seconds; None: never.
        session_timeout_ms: After this time without a heartbeat Kafka reassigns the partitions.
        instance: Static member name; a sink that restarts with it gets its partitions back at once. None: no static name.
        fetch_bytes: Limit of prefetched bytes.
    """

    topics: tuple[str, ...] = tuple(catalogue.TOPICS)
    batch_rows: int = 20_000
    batch_seconds: float = 1.0
    until_idle: float | None = None
    session_timeout_ms: int = 10_000
    instance: str | None = None
    fetch_bytes: int = FETCH_BYTES


class Sink(Loop):
    """Writes topics to the database until stopped.

    Args:
        settings: Kafka, database, prefix.
        options: Settings of the sink.
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
        self._writer = TableWriter(settings.role_url("writer"), DeadLetterWriter(settings), settings.groups)
        self._written_rows = 0
        service.set_health(self.health)

    def health(self) -> dict[str, Any]:
        """Return the health report: not ok while database or broker are down or a partition cannot be read."""
        return {**self.report(), "rows_written": self._written_rows}

    def is_due(self) -> bool:
        """Return whether there are enough rows or the oldest has waited long enough."""
        reader = self._reader
        waited = time.monotonic() - reader.oldest
        return reader.rows >= self._options.batch_rows or reader.bytes >= BATCH_BYTES or waited >= self._options.batch_seconds

    def room(self) -> tuple[int, int]:
        """Return the limits of a batch."""
        return CATCH_UP * self._options.batch_rows, BATCH_BYTES

    def claim(self, places: list[Place]) -> tuple[dict[Place, int], list[Place]]:
        """Read the stored offsets of partitions."""
        return self._writer.positions(self._reader.topic_ids(places), places)

    def placed(self, answer: tuple[dict[Place, int], list[Place]], ours: set[Place]) -> None:
        """Start reading partitions at their stored offsets."""
        offsets, anew = answer
        for topic, number in anew:
            self._log.warning("the topic was recreated: its log is read from the start", topic=topic, partition=number)
        self._reader.place({place: offset for place, offset in offsets.items() if place in ours})

    def prepare(self, batch: list[PartitionBatch]) -> list[TableBatch]:
        """Prepare the rows of a batch.

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
        """Write the rows of a batch."""
        return self._writer.write(prepared)

    def written(self, outcome: WriteResult, ours: set[Place]) -> None:
        """Record the stored offsets; read them again for partitions that another sink wrote."""
        self._written_rows += sum(outcome.rows.values())
        for place, stored in outcome.fenced.items():
            if place not in ours:
                continue
            metrics.FENCED.labels("sink").inc()
            self._log.warning("fenced: another sink wrote this partition", topic=place[0], partition=place[1], stored=stored)
            self._reader.displace(place)
        self._reader.written({place: offset for place, offset in outcome.written.items() if place in ours})

    def may_pass(self, error: BaseException) -> bool:
        """Return whether a retry may help. A psycopg error that neither the server nor the connection caused is a defect of this program."""
        own = isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError) and error.sqlstate is None
        return isinstance(error, _TROUBLE) and not own

    def failed(self, error: BaseException) -> str:
        """Close the connection and return a hint."""
        if not isinstance(error, row_format.RegistryUnavailable):  # an error of the other thread
            self._writer.close()
        unprepared = isinstance(
            error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn | psycopg.errors.InsufficientPrivilege
        )
        return "; run `perpflow db migrate`" if unprepared or "authentication failed" in str(error) else ""

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
