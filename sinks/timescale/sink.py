"""The sink's loop: the reader in front, the database writer in a thread behind, one batch in flight.

The reader polls always, whatever the database does, so it stays in its group; while the writer cannot go on, partitions are paused and
memory stays bounded. Where to read from is what the database says (``sink_offsets``); Kafka's committed offsets are only for lag tools.

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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import tenacity
from confluent_kafka import KafkaException

from schemas import catalogue, metrics
from schemas.service import Service
from schemas.settings import Settings
from sinks.timescale import rows as row_format
from sinks.timescale.letters import Letters, NotDelivered
from sinks.timescale.offsets import Place
from sinks.timescale.reader import Read, Reader
from sinks.timescale.writer import Outcome, Part, Writer

# How many messages one call takes from the client at most; each is a Python object.
POLL_MESSAGES = 10_000
POLL_SECONDS = 0.1
# The loop waits for the writer this long before it pauses partitions (which drops the client's prefetched messages).
PATIENCE_S = 3.0
# Lag and broker state are looked at this often.
LOOK_SECONDS = 2.0
# Memory of one batch, whatever the number of rows (values of 20 depth levels are 700 bytes each).
BATCH_BYTES = 32 * 1024 * 1024
STOP_SECONDS = 15.0
_TROUBLE = (psycopg.Error, NotDelivered, KafkaException, RuntimeError)


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
    """

    topics: tuple[str, ...] = tuple(catalogue.TOPICS)
    batch_rows: int = 20_000
    batch_seconds: float = 1.0
    until_idle: float | None = None
    session_timeout_ms: int = 10_000
    instance: str | None = None


class Sink:
    """Writes topics into the database until stopped.

    Args:
        settings: Kafka, database, prefix.
        options: How.
        service: Stop flag, log, health.
    """

    def __init__(self, settings: Settings, options: Options, service: Service) -> None:
        self._codec = settings.codec
        self._options = options
        self._service = service
        self._log = service.log
        self._reader = Reader(settings, options.topics, options.session_timeout_ms, options.instance, service.log)
        self._writer = Writer(settings.database_url, Letters(settings))
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sink-writer")
        self._job: Future[Any] | None = None
        self._done: Callable[[Any], None] = self._placed
        self._trouble: str | None = None
        self._waiting_since: float | None = None
        self._active = time.monotonic()
        self._looked = 0.0
        self._written_rows = 0
        service.set_health(self.health)

    def health(self) -> dict[str, Any]:
        """Return the health report: not ok while database or broker are away or a partition cannot be read."""
        reader = self._reader
        report: dict[str, Any] = {
            "ok": self._trouble is None and reader.away is None and not reader.cut,
            "partitions": len(reader.partitions),
            "rows_written": self._written_rows,
            "rows_buffered": reader.rows,
            "paused": reader.paused,
        }
        if self._trouble:
            report["writer"] = self._trouble
        if reader.away:
            report["broker"] = reader.away
        if reader.cut:
            report["unreadable"] = {f"{topic}/{partition}": reason for (topic, partition), reason in list(reader.cut.items())}
        if reader.lost:
            report["deleted_by_retention_before_written"] = dict(reader.lost)
        return report

    # --- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Consume and write until the service stops (what was read is written first) or, if asked, until idle.

        Raises:
            KafkaException: the client cannot go on (e.g. another sink runs under the same instance name).
        """
        self._reader.subscribe()
        try:
            while not self._service.stopping.is_set():
                self._step()
                if self._options.until_idle is not None and self._is_idle(self._options.until_idle):
                    self._log.info("every partition is written to its end", rows=self._written_rows)
                    break
            self._drain()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._reader.close()
            self._writer.close()

    def _step(self) -> None:
        if self._is_full() and self._job is not None:
            self._wait_for_writer()
        else:
            self._reader.poll(min(POLL_MESSAGES, self._options.batch_rows), POLL_SECONDS)
        self._finish_job()
        self._start_job()
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._reader.look()

    def _is_full(self) -> bool:
        return self._reader.rows >= self._options.batch_rows or self._reader.bytes >= BATCH_BYTES

    def _wait_for_writer(self) -> None:
        """The buffer is full: wait for the writer; when that takes long, pause the partitions and poll on."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since < PATIENCE_S:
            assert self._job is not None
            try:
                self._job.exception(timeout=POLL_SECONDS)
            except TimeoutError:
                pass  # asked again in the next step
            return
        if not self._reader.paused:
            self._log.warning("paused: the writer does not keep up", buffered=self._reader.rows, trouble=self._trouble)
            self._reader.pause()
        self._reader.poll(1, POLL_SECONDS)

    # --- the writer's jobs -----------------------------------------------------------------------------------------

    def _start_job(self, drain: bool = False) -> None:
        if self._job is not None:
            return
        unplaced = self._reader.unplaced()
        if unplaced and not drain:
            self._submit(self._positions, unplaced, self._placed)
        elif self._reader.rows and (drain or self._is_full() or time.monotonic() - self._reader.oldest >= self._options.batch_seconds):
            self._submit(self._write, self._reader.take(), self._written)

    def _submit(self, call: Callable[[Any], Any], argument: Any, done: Callable[[Any], None]) -> None:
        self._done = done
        self._job = self._pool.submit(self._retried, call, argument)

    def _positions(self, places: list[Place]) -> tuple[dict[Place, int], list[Place]]:
        """Ask the database where partitions go on. Runs in the writer's thread."""
        return self._writer.positions(self._reader.topic_ids(places), places)

    def _write(self, batch: list[Read]) -> Outcome:
        """Make a batch's rows and write them. Runs in the writer's thread."""
        parts = []
        for read in batch:
            topic, number = read.place
            values = [message.value() for message in read.messages]
            made = row_format.encode(self._codec, topic, values, [message.offset() for message in read.messages], number)
            parts.append(Part(read.place, read.expected, read.next_offset, made, read.message))
        return self._writer.write(parts)

    def _retried(self, call: Callable[[Any], Any], argument: Any) -> Any:
        """Run a job until it succeeds or the service stops. Runs in the writer's thread."""
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
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
        self._writer.close()
        hint = "; run `perpflow db migrate`" if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn) else ""
        if self._trouble is None:
            self._log.warning("the writer cannot go on, trying again", error=f"{type(error).__name__}: {error}{hint}")
        self._trouble = f"{type(error).__name__}: {error}{hint} (attempt {state.attempt_number})"

    def _finish_job(self) -> None:
        if self._job is None or not self._job.done():
            return
        job, self._job = self._job, None
        try:
            result = job.result()
        except _TROUBLE as error:
            if not self._service.stopping.is_set():
                raise
            self._log.warning("stopped before the last batch was written; it will be read again", error=str(error))
            return
        self._active = time.monotonic()
        self._done(result)
        self._waiting_since = None
        if self._reader.paused:
            self._reader.resume()
            self._log.info("resumed")

    def _placed(self, result: tuple[dict[Place, int], list[Place]]) -> None:
        offsets, anew = result
        for topic, number in anew:
            self._log.warning("the topic was created anew: its log is read from the start", topic=topic, partition=number)
        self._reader.place(offsets)

    def _written(self, outcome: Outcome) -> None:
        self._written_rows += sum(outcome.rows.values())
        written = dict(outcome.written)
        for place, stored in outcome.fenced.items():
            partition = self._reader.partitions.get(place)
            if partition is None:
                continue
            if stored == partition.expected:
                written[place] = stored  # an earlier try of this batch had been committed without our hearing of it
                continue
            metrics.FENCED.labels("sink").inc()
            self._log.warning("fenced: another sink wrote this partition", topic=place[0], partition=place[1], stored=stored)
            self._reader.displace(place)
        self._reader.written(written)

    # --- ending ----------------------------------------------------------------------------------------------------

    def _is_idle(self, seconds: float) -> bool:
        if self._job is not None or self._reader.rows or not self._reader.at_end():
            self._active = time.monotonic()
        if time.monotonic() - self._active < seconds:
            return False
        # What the client remembers may be old: ask the broker for the ends.
        try:
            ends = self._reader.ends()
        except KafkaException as error:
            self._log.warning("the ends of the logs are unknown", error=str(error))
            ends = {}
        partitions = self._reader.partitions
        if all(
            partition.end is not None and ends.get(place, partition.end + 1) <= partition.end for place, partition in partitions.items()
        ):
            return True
        self._active = time.monotonic()
        return False

    def _drain(self) -> None:
        """Write what was read, as far as the database goes along within STOP_SECONDS. What is not written is read again next time."""
        deadline = time.monotonic() + STOP_SECONDS
        for _ in range(2):  # the batch in flight, then what is buffered
            if self._job is not None:
                try:
                    failed = self._job.exception(timeout=max(0.1, deadline - time.monotonic())) is not None
                except TimeoutError:
                    self._log.warning("stopped before the last batch was written; it will be read again")
                    return
                self._finish_job()
                if failed:
                    return
            self._start_job(drain=True)


def _may_pass(error: BaseException) -> bool:
    """Return whether trying again can help. An error of psycopg that no server reported and no connection met is a fault of this program."""
    own = isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError) and error.sqlstate is None
    return isinstance(error, _TROUBLE) and not own
