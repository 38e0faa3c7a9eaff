"""The archiver: write topics to Parquet files (``sinks.consuming.loop``).

Records collect in memory by topic and partition until there are enough or the oldest has waited long enough; then all are written. Memory is bounded:
beyond the limit nothing more is read. The manifests define the start offsets; Kafka's committed offsets are only for lag tools.

What happens at each failure:
    - disk full or missing: the batch is retried with growing pauses, polling continues, /health answers 503. Nothing is lost.
    - broker down: the client reconnects by itself; /health answers 503.
    - this process is killed, frozen or loses partitions: see ``sinks.archive.writer``.
    - retention deleted the next offset: the manifest lists the gap, /health the number of missing records.
    - a topic was deleted and created again: its offsets restart. The partition is skipped, and /health says so.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from schemas import catalogue, metrics
from schemas.archive.manifest import ArchiveError
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.archive.writer import ArchiveWriter, WriteResult
from sinks.consuming.loop import Loop
from sinks.consuming.reader import PartitionBatch, Place, Reader

STOP_SECONDS = 25.0
# Reading stops at this multiple of ``roll_bytes`` in memory.
MOST_BUFFERED = 2


@dataclass(frozen=True)
class Options:
    """Settings of the archiver.

    Attributes:
        root: Folder of the archive.
        topics: Plain topic names.
        roll_bytes: Bytes of keys and values in memory from which everything is written.
        roll_seconds: Longest time that a record waits for its file.
        until_idle: Stop when every assigned partition has been at its end for this many seconds; None: never.
        session_timeout_ms: After this time without a heartbeat Kafka reassigns the partitions.
        instance: Static member name, or None.
    """

    root: Path
    topics: tuple[str, ...] = tuple(catalogue.TOPICS)
    roll_bytes: int = 64 * 1024 * 1024
    roll_seconds: float = 300.0
    until_idle: float | None = None
    session_timeout_ms: int = 10_000
    instance: str | None = None


class Archiver(Loop):
    """Writes topics into the archive until stopped.

    Args:
        settings: Kafka and prefix.
        options: Settings of the archiver.
        service: Stop flag, log, health.
    """

    def __init__(self, settings: Settings, options: Options, service: Service) -> None:
        reader = Reader(
            settings, options.topics, options.session_timeout_ms, options.instance, service.log, group="archive", lag=metrics.ARCHIVE_LAG
        )
        super().__init__(reader, service, name="archive", until_idle=options.until_idle, stop_seconds=STOP_SECONDS, depth=1)
        self._options = options
        self._writer = ArchiveWriter(options.root, settings.codec, service.log)
        self._rows = 0
        service.set_health(self.health)

    def health(self) -> dict[str, Any]:
        """Return the health report: not ok while disk or broker are down or a partition cannot be archived."""
        return {**self.report(), "rows_archived": self._rows}

    def is_due(self) -> bool:
        """Return whether enough records are in memory or the oldest has waited long enough."""
        return self._reader.bytes >= self._options.roll_bytes or time.monotonic() - self._reader.oldest >= self._options.roll_seconds

    def room(self) -> tuple[int, int]:
        """Return the limits of memory beside the batch in progress."""
        return sys.maxsize, MOST_BUFFERED * self._options.roll_bytes

    def claim(self, places: list[Place]) -> tuple[dict[Place, int], dict[Place, str]]:
        """Take ownership of partitions; former owners are fenced."""
        return self._writer.claim(places, self._reader.topic_ids(places))

    def placed(self, answer: tuple[dict[Place, int], dict[Place, str]], ours: set[Place]) -> None:
        """Start reading partitions at the manifests' offsets; skip those that cannot be archived."""
        offsets, refused = answer
        for place in set(refused) & ours:
            self._log.error("a partition is skipped", topic=place[0], partition=place[1], reason=refused[place])
            self._reader.refuse(place, refused[place])
        self._reader.place({place: offset for place, offset in offsets.items() if place in ours})

    def write(self, prepared: list[PartitionBatch]) -> WriteResult:
        """Write files, and merge earlier ones."""
        outcome = self._writer.write(prepared)
        for read in prepared:
            try:
                self._writer.merge(read.place)
            except (ArchiveError, OSError) as error:  # the records are written; merging is retried after the next batch
                self._log.warning("files were not merged", topic=read.place[0], partition=read.place[1], error=str(error))
        return outcome

    def written(self, outcome: WriteResult, ours: set[Place]) -> None:
        """Record the archived offsets; claim partitions again that another archiver took over."""
        self._rows += outcome.rows
        for place in set(outcome.fenced) & ours:
            metrics.FENCED.labels("archive").inc()
            self._reader.displace(place)
        self._reader.written({place: offset for place, offset in outcome.written.items() if place in ours})

    def may_pass(self, error: BaseException) -> bool:
        """Return True: failures of disks and brokers may pass."""
        return isinstance(error, OSError | KafkaException)

    def close(self) -> None:
        """Remove files that were merged into others."""
        self._writer.close()
