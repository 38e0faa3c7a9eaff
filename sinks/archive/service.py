"""The archiver's loop: the reader in front, the files' writer in a thread behind, one job in flight.

Records gather in memory by topic and partition until there are enough of them or the oldest has waited long enough; then all are written. What is in memory
is bounded: beyond it the partitions are paused. Where to read from is what the manifests say; Kafka's committed offsets are only for lag tools.

What happens when ...
    - the disk is full or away: the batch is tried again with growing pauses, polling goes on, /health answers 503; nothing is lost.
    - the broker is away: the client reconnects by itself; /health answers 503.
    - this process is killed, frozen or loses partitions to another: see ``sinks.archive.writer``.
    - the wanted offset was deleted by retention: the manifest has the hole, /health the number.
    - a topic was deleted and created again: its offsets begin again; the partition is left alone and /health says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tenacity
from confluent_kafka import KafkaException

from schemas import catalogue, metrics
from schemas.archive.manifest import ArchiveError
from schemas.columnar import RecordSet
from schemas.service import Service
from schemas.settings import Settings
from sinks.archive.writer import Batch, Outcome, Writer
from sinks.timescale.offsets import Place
from sinks.timescale.reader import Partition, Reader

POLL_MESSAGES = 10_000
POLL_SECONDS = 0.1
LOOK_SECONDS = 2.0
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


@dataclass
class _Buffer:
    """What was read of one partition and not yet given to the writer."""

    owner: Partition
    expected: int
    next_offset: int
    records: list[RecordSet] = field(default_factory=list)


class Archiver:
    """Writes topics into the archive until stopped.

    Args:
        settings: Kafka and prefix.
        options: How.
        service: Stop flag, log, health.
    """

    def __init__(self, settings: Settings, options: Options, service: Service) -> None:
        self._options = options
        self._service = service
        self._log = service.log
        self._reader = Reader(
            settings, options.topics, options.session_timeout_ms, options.instance, service.log, group="archive", lag=metrics.ARCHIVE_LAG
        )
        self._writer = Writer(options.root, settings.codec, service.log)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive-writer")
        self._job: Future[Any] | None = None
        self._done: Callable[[Any], None] = self._placed
        self._buffers: dict[Place, _Buffer] = {}
        self._buffered = 0
        self._oldest = 0.0
        self._owners: dict[Place, Partition] = {}
        self._trouble: str | None = None
        self._active = time.monotonic()
        self._looked = 0.0
        self._rows = 0
        service.set_health(self.health)

    def health(self) -> dict[str, Any]:
        """Return the health report: not ok while the disk or the broker are away or a partition cannot be archived."""
        reader = self._reader
        report: dict[str, Any] = {
            "ok": self._trouble is None and reader.away is None and not reader.cut and not reader.refused,
            "partitions": len(reader.partitions),
            "rows_archived": self._rows,
            "bytes_buffered": self._buffered,
            "paused": reader.paused,
        }
        if self._trouble:
            report["writer"] = self._trouble
        if reader.away:
            report["broker"] = reader.away
        if reader.cut or reader.refused:
            left = {**reader.cut, **reader.refused}
            report["unreadable"] = {f"{topic}/{partition}": reason for (topic, partition), reason in left.items()}
        if reader.lost:
            report["deleted_by_retention_before_archived"] = dict(reader.lost)
        return report

    # --- the loop --------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Consume and write until the service stops (what was read is written first) or, if asked, until idle.

        Raises:
            KafkaException: the client cannot go on (e.g. another archiver runs under the same instance name).
        """
        self._reader.subscribe()
        try:
            while not self._service.stopping.is_set():
                self._step()
                if self._options.until_idle is not None and self._is_idle(self._options.until_idle):
                    self._log.info("every partition is archived to its end", rows=self._rows)
                    break
            self._drain()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._reader.close()
            self._writer.close()

    def _step(self) -> None:
        self._reader.poll(1 if self._reader.paused else POLL_MESSAGES, POLL_SECONDS)
        self._gather()
        self._finish_job()
        self._start_job()
        full = self._buffered >= MOST_BUFFERED * self._options.roll_bytes
        if full and not self._reader.paused:
            self._log.warning("paused: the disk does not keep up", buffered=self._buffered, trouble=self._trouble)
            self._reader.pause()
        elif self._reader.paused and not full:
            self._reader.resume()
            self._log.info("resumed")
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._reader.look()

    def _gather(self) -> None:
        """Take what was read into the buffers; what was read of partitions that are no longer ours is dropped, their new owner reads it."""
        for place in [place for place, buffer in self._buffers.items() if self._reader.partitions.get(place) is not buffer.owner]:
            self._drop(place)
        for read in self._reader.take():
            owner = self._reader.partitions[read.place]
            buffer = self._buffers.get(read.place)
            if buffer is None:
                buffer = self._buffers[read.place] = _Buffer(owner, read.expected, read.expected)
            records = RecordSet.from_messages([(one.offset(), one.timestamp()[1], one.key(), one.value()) for one in read.messages])
            buffer.records.append(records)
            buffer.next_offset = read.next_offset
            if not self._buffered:
                self._oldest = time.monotonic()
            self._buffered += len(records.buffer)

    def _drop(self, place: Place) -> None:
        buffer = self._buffers.pop(place, None)
        if buffer is not None:
            self._buffered -= sum(len(one.buffer) for one in buffer.records)

    # --- the writer's jobs -----------------------------------------------------------------------------------------
    def _start_job(self, everything: bool = False) -> None:
        if self._job is not None:
            return
        unplaced = self._reader.unplaced()
        if unplaced and not everything:
            self._owners = {place: self._reader.partitions[place] for place in unplaced}
            self._submit(self._claim, unplaced, self._placed)
        elif self._buffers and (
            everything or self._buffered >= self._options.roll_bytes or time.monotonic() - self._oldest >= self._options.roll_seconds
        ):
            batches = [Batch(place, one.expected, one.next_offset, one.records) for place, one in self._buffers.items()]
            self._owners = {place: one.owner for place, one in self._buffers.items()}
            self._buffers = {}
            self._buffered = 0
            self._submit(self._write, batches, self._written)

    def _submit(self, call: Callable[[Any], Any], argument: Any, done: Callable[[Any], None]) -> None:
        self._done = done
        self._job = self._pool.submit(self._retried, call, argument)

    def _claim(self, places: list[Place]) -> tuple[dict[Place, int], dict[Place, str]]:
        """Runs in the writer's thread."""
        return self._writer.claim(places, self._reader.topic_ids(places))

    def _write(self, batches: list[Batch]) -> Outcome:
        """Runs in the writer's thread."""
        outcome = self._writer.write(batches)
        for batch in batches:
            try:
                self._writer.merge(batch.place)
            except (ArchiveError, OSError) as error:  # the records are in; merging is tried again after the next batch
                self._log.warning("files were not merged", topic=batch.place[0], partition=batch.place[1], error=str(error))
        return outcome

    def _retried(self, call: Callable[[Any], Any], argument: Any) -> Any:
        """Run a job until it succeeds or the service stops. Runs in the writer's thread."""
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((OSError, KafkaException)),
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=5.0),
            stop=tenacity.stop_when_event_set(self._service.stopping),
            sleep=tenacity.sleep_using_event(self._service.stopping),
            before_sleep=self._failed,
            reraise=True,
        ):
            with attempt:
                result = call(argument)
        if self._trouble is not None:
            self._log.info("the writer goes on")
            self._trouble = None
        return result

    def _failed(self, state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        if self._trouble is None:
            self._log.warning("the writer cannot go on, trying again", error=f"{type(error).__name__}: {error}")
        self._trouble = f"{type(error).__name__}: {error} (attempt {state.attempt_number})"

    def _finish_job(self) -> None:
        if self._job is None or not self._job.done():
            return
        job, self._job = self._job, None
        try:
            result = job.result()
        except (OSError, KafkaException) as error:
            if not self._service.stopping.is_set():
                raise
            self._log.warning("stopped before the last batch was written; it will be read again", error=str(error))
            return
        self._active = time.monotonic()
        self._done(result)

    def _placed(self, result: tuple[dict[Place, int], dict[Place, str]]) -> None:
        offsets, refused = result
        ours = {place for place, owner in self._owners.items() if self._reader.partitions.get(place) is owner}
        for place in set(refused) & ours:
            self._log.error("a partition is left alone", topic=place[0], partition=place[1], reason=refused[place])
            self._reader.refuse(place, refused[place])
        self._reader.place({place: offset for place, offset in offsets.items() if place in ours})

    def _written(self, outcome: Outcome) -> None:
        self._rows += outcome.rows
        ours = {place for place, owner in self._owners.items() if self._reader.partitions.get(place) is owner}
        for place in set(outcome.fenced) & ours:
            metrics.FENCED.labels("archive").inc()
            self._drop(place)
            self._reader.displace(place)
        self._reader.written({place: offset for place, offset in outcome.written.items() if place in ours})

    # --- ending ----------------------------------------------------------------------------------------------------
    def _is_idle(self, seconds: float) -> bool:
        if self._job is not None or not self._reader.at_end():
            self._active = time.monotonic()
        if time.monotonic() - self._active < seconds:
            return False
        try:
            ends = self._reader.ends()  # what the client remembers may be old
        except KafkaException as error:
            self._log.warning("the ends of the logs are unknown", error=str(error))
            ends = {}
        self._active = time.monotonic()
        reading = [(place, one) for place, one in self._reader.partitions.items() if place not in self._reader.refused]
        if any(one.end is None or ends.get(place, one.end + 1) > one.end for place, one in reading):
            return False
        if self._buffers:
            self._start_job(everything=True)
            return False
        return True

    def _drain(self) -> None:
        """Write what was read, as far as the disk goes along within STOP_SECONDS. What is not written is read again next time."""
        deadline = time.monotonic() + STOP_SECONDS
        for _ in range(2):  # the job in flight, then what is buffered
            if self._job is not None:
                try:
                    failed = self._job.exception(timeout=max(0.1, deadline - time.monotonic())) is not None
                except TimeoutError:
                    self._log.warning("stopped before the last batch was written; it will be read again")
                    return
                self._finish_job()
                if failed:
                    return
            self._gather()
            self._start_job(everything=True)
