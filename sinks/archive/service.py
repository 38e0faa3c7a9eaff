"""The archiver: topics into files (``sinks.consuming.loop``).

Records gather in memory by topic and partition until there are enough of them or the oldest has waited long enough; then all are written. What is in memory
is bounded: beyond it nothing more is read. Where to read from is what the manifests say; Kafka's committed offsets are only for lag tools.

What happens when ...
    - the disk is full or away: the batch is tried again with growing pauses, polling goes on, /health answers 503; nothing is lost.
    - the broker is away: the client reconnects by itself; /health answers 503.
    - this process is killed, frozen or loses partitions to another: see ``sinks.archive.writer``.
    - the wanted offset was deleted by retention: the manifest has the hole, /health the number.
    - a topic was deleted and created again: its offsets begin again; the partition is left alone and /health says so.
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
from schemas.service import Service
from schemas.settings import Settings
from sinks.archive.writer import ArchiveWriter, WriteResult
from sinks.consuming.loop import Loop
from sinks.consuming.reader import PartitionBatch, Place, Reader

STOP_SECONDS = 25.0
# Beyond so many times ``roll_bytes`` in memory nothing more is read.
MOST_BUFFERED = 2


@dataclass(frozen=True)
class Options:
    """How the archiver works.

    Attributes:
        root: Folder of the archive.
        topics: Plain topic names.
        roll_bytes: Bytes of keys and values in memory from which everything is written.
        roll_seconds: Longest time that a record waits for its file.
        until_idle: Stop when every assigned partition has been at its end for this many seconds; None: run on.
        session_timeout_ms: After this time without a heartbeat Kafka gives the partitions of a dead archiver to others.
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
        options: How.
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
        """Return the health report: not ok while the disk or the broker are away or a partition cannot be archived."""
        return {**self.report(), "rows_archived": self._rows}

    def is_due(self) -> bool:
        """Return whether there is enough for files or the oldest record has waited long enough."""
        return self._reader.bytes >= self._options.roll_bytes or time.monotonic() - self._reader.oldest >= self._options.roll_seconds

    def room(self) -> tuple[int, int]:
        """Return what may be in memory beside the batch that is written."""
        return sys.maxsize, MOST_BUFFERED * self._options.roll_bytes

    def claim(self, places: list[Place]) -> tuple[dict[Place, int], dict[Place, str]]:
        """Shut former owners out."""
        return self._writer.claim(places, self._reader.topic_ids(places))

    def placed(self, answer: tuple[dict[Place, int], dict[Place, str]], ours: set[Place]) -> None:
        """Have partitions read from what the manifests say, and leave those alone that cannot be archived."""
        offsets, refused = answer
        for place in set(refused) & ours:
            self._log.error("a partition is left alone", topic=place[0], partition=place[1], reason=refused[place])
            self._reader.refuse(place, refused[place])
        self._reader.place({place: offset for place, offset in offsets.items() if place in ours})

    def write(self, prepared: list[PartitionBatch]) -> WriteResult:
        """Write files, and merge those of before."""
        outcome = self._writer.write(prepared)
        for read in prepared:
            try:
                self._writer.merge(read.place)
            except (ArchiveError, OSError) as error:  # the records are in; merging is tried again after the next batch
                self._log.warning("files were not merged", topic=read.place[0], partition=read.place[1], error=str(error))
        return outcome

    def written(self, outcome: WriteResult, ours: set[Place]) -> None:
        """Note what the archive holds; claim again what another archiver has taken over."""
        self._rows += outcome.rows
        for place in set(outcome.fenced) & ours:
            metrics.FENCED.labels("archive").inc()
            self._reader.displace(place)
        self._reader.written({place: offset for place, offset in outcome.written.items() if place in ours})

    def may_pass(self, error: BaseException) -> bool:
        """Disks and brokers come back."""
        return isinstance(error, OSError | KafkaException)

    def close(self) -> None:
        """Remove what was merged away."""
        self._writer.close()
