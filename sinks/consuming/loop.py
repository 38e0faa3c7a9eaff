"""The loop of a sink: a reader, a writer thread, and a few batches in flight between them.

The reader always polls, so it stays in its group even if the store is slow. While the writer is blocked, no more records are taken, and memory stays
bounded. While one batch is written, the next is prepared in another thread; both release Python's lock.

A batch that follows a batch in flight expects the offset that the other one will store. If the other is fenced, so is this one. Offsets of new partitions
are read only when nothing is in flight.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tenacity
from confluent_kafka import KafkaException

from schemas.process.service import Service
from sinks.consuming.reader import PartitionBatch, PartitionState, Place, Reader

POLL_SECONDS = 0.1
# The loop reports a pause when the writer is behind for longer than this.
PATIENCE_S = 3.0
# Interval of the checks of lag and broker.
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class _Job:
    """A job in flight, the handler of its result, and the partitions of its offsets as they were assigned at its start."""

    future: Future[Any]
    done: Callable[[Any, set[Place]], None]
    owners: dict[Place, PartitionState]


class Loop(ABC):
    """Consumes and writes until the service stops. A subclass defines a batch and writes it.

    Args:
        reader: The partitions.
        service: Stop flag, log, health.
        name: Name of the threads.
        until_idle: Stop when every assigned partition has been at its end for this many seconds; None: never.
        stop_seconds: At a stop, read records are written within this time, or they are read again later.
        depth: Most batches in flight: with 2, one is prepared while another is written.
    """

    def __init__(self, reader: Reader, service: Service, *, name: str, until_idle: float | None, stop_seconds: float, depth: int) -> None:
        self._reader = reader
        self._service = service
        self._log = service.log
        self._until_idle = until_idle
        self._stop_seconds = stop_seconds
        self._depth = depth
        self._preparer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-preparer")
        self._writing = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-writer")
        self._jobs: deque[_Job] = deque()
        self._troubles: dict[str, str] = {}
        self._waiting_since: float | None = None
        self._active = time.monotonic()
        self._looked = 0.0
        self.paused = False

    # --- what a sink is --------------------------------------------------------------------------------------------
    @abstractmethod
    def claim(self, places: list[Place]) -> Any:
        """Read the stored offsets of partitions. Runs in the writer's thread."""

    @abstractmethod
    def placed(self, answer: Any, ours: set[Place]) -> None:
        """Start reading the claimed partitions that are still assigned."""

    @abstractmethod
    def is_due(self) -> bool:
        """Return whether the read records make a batch."""

    @abstractmethod
    def room(self) -> tuple[int, int]:
        """Return the most rows and bytes of values that may be buffered, which is also the largest batch."""

    def prepare(self, batch: list[PartitionBatch]) -> Any:
        """Prepare the argument of ``write``. Runs in the preparer's thread."""
        return batch

    @abstractmethod
    def write(self, prepared: Any) -> Any:
        """Write a batch. Runs in the writer's thread."""

    @abstractmethod
    def written(self, outcome: Any, ours: set[Place]) -> None:
        """Apply the result of a batch to the partitions that are still assigned."""

    @abstractmethod
    def may_pass(self, error: BaseException) -> bool:
        """Return whether a retry can help."""

    def failed(self, error: BaseException) -> str:
        """Clean up after a failed attempt; return a hint for the log. Runs in the thread of the attempt."""
        return ""

    @abstractmethod
    def close(self) -> None:
        """Close the store."""

    # --- health ----------------------------------------------------------------------------------------------------
    def report(self) -> dict[str, Any]:
        """Return the health report of all sinks: not ok while store or broker are down or a partition cannot be read."""
        reader = self._reader
        left = {**reader.cut, **reader.refused}
        trouble = next(iter(list(self._troubles.values())), None)
        away = reader.away
        report: dict[str, Any] = {
            "ok": trouble is None and away is None and not left,
            "partitions": len(reader.partitions),
            "rows_buffered": reader.rows,
            "bytes_buffered": reader.bytes + reader.bytes_ahead,
            "paused": self.paused,
        }
        if trouble:
            report["writer"] = trouble
        if away:
            report["broker"] = away
        if left:
            report["unreadable"] = {f"{topic}/{partition}": reason for (topic, partition), reason in left.items()}
        if reader.lost:
            report["deleted_by_retention_before_written"] = dict(reader.lost)
        return report

    # --- the loop --------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Consume and write until the service stops (read records are written first) or, if configured, until idle.

        Raises:
            KafkaException: a fatal client error, for example a second sink with the same instance name.
        """
        self._reader.subscribe()
        try:
            while not self._service.stopping.is_set():
                self._step()
                if self._until_idle is not None and self._is_idle(self._until_idle):
                    self._log.info("every partition is written to its end")
                    break
            self._drain()
        finally:
            self._service.stop()  # no more retries
            self._preparer.shutdown(wait=True, cancel_futures=True)
            self._writing.shutdown(wait=True, cancel_futures=True)
            self._reader.close()
            self.close()

    def _step(self) -> None:
        rows, size = self.room()
        if len(self._jobs) >= self._depth and (self._reader.rows >= rows or self._reader.bytes >= size):
            self._reader.serve()
            self._wait_for_writer()
        else:
            self._reader.poll(POLL_SECONDS, rows, size)
        while self._jobs and self._jobs[0].future.done():
            self._finish_job()
        self._start_job()
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._reader.look()

    def _wait_for_writer(self) -> None:
        """Wait, because the buffer is full."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if not self.paused and now - self._waiting_since >= PATIENCE_S:
            self.paused = True
            self._log.warning("paused: the writer is too slow", buffered=self._reader.rows, trouble=self._troubles)
        try:
            self._jobs[0].future.exception(timeout=POLL_SECONDS)
        except TimeoutError:
            pass  # read again in the next step

    # --- jobs ------------------------------------------------------------------------------------------------------
    def _start_job(self, everything: bool = False) -> None:
        unplaced = self._reader.unplaced()
        if unplaced and not everything:
            if not self._jobs:
                self._submit(self._writing.submit(self._retried, "claim", self.claim, unplaced), self.placed, unplaced)
            return
        if len(self._jobs) < self._depth and self._reader.rows and (everything or self.is_due()):
            batch = self._reader.take(*((sys.maxsize, sys.maxsize) if everything else self.room()))
            prepared = self._preparer.submit(self._retried, "prepare", self.prepare, batch)
            self._submit(self._writing.submit(self._write, prepared), self.written, [read.place for read in batch])

    def _write(self, prepared: Future[Any]) -> Any:
        return self._retried("write", self.write, prepared.result())

    def _submit(self, future: Future[Any], done: Callable[[Any, set[Place]], None], places: list[Place]) -> None:
        future.add_done_callback(lambda _: self._reader.wake())
        self._jobs.append(_Job(future, done, {place: self._reader.partitions[place] for place in places}))

    def _retried(self, stage: str, call: Callable[[Any], Any], argument: Any) -> Any:
        """Repeat a stage until it succeeds or the service stops. Runs in the stage's thread."""
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception(self.may_pass),
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=5.0),
            stop=tenacity.stop_when_event_set(self._service.stopping),
            sleep=tenacity.sleep_using_event(self._service.stopping),
            before_sleep=lambda state: self._note(stage, state),
            reraise=True,
        ):
            with attempt:
                result = call(argument)
        if self._troubles.pop(stage, None) is not None:
            self._log.info("the writer continues")
        return result

    def _note(self, stage: str, state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        reason = f"{type(error).__name__}: {error}{self.failed(error)}"
        if stage not in self._troubles:
            self._log.warning("the writer failed, trying again", error=reason)
        self._troubles[stage] = f"{reason} (attempt {state.attempt_number})"

    def _finish_job(self) -> bool:
        """Apply the result of the oldest job; return whether it was done."""
        job = self._jobs.popleft()
        try:
            result = job.future.result()
        except Exception as error:
            if not self._service.stopping.is_set() or not self.may_pass(error):
                raise
            self._log.warning("stopped before the last batch was written; it will be read again", error=str(error))
            return False
        self._active = time.monotonic()
        self._waiting_since = None
        job.done(result, {place for place, owner in job.owners.items() if self._reader.partitions.get(place) is owner})
        if self.paused:
            self.paused = False
            self._log.info("resumed")
        return True

    # --- ending ----------------------------------------------------------------------------------------------------
    def _is_idle(self, seconds: float) -> bool:
        if self._jobs or not self._reader.at_end():
            self._active = time.monotonic()
        if time.monotonic() - self._active < seconds:
            return False
        self._active = time.monotonic()
        try:
            ends = self._reader.ends()  # the fetcher's information may be old
        except KafkaException as error:
            self._log.warning("the ends of the logs are unknown", error=str(error))
            return False
        reading = [(place, one) for place, one in self._reader.partitions.items() if place not in self._reader.refused]
        if any(ends.get(place, one.position + 1) > one.position for place, one in reading):
            return False
        if self._reader.rows:
            self._start_job(everything=True)
            return False
        return True

    def _drain(self) -> None:
        """Write the read records until the time limit. The others are read again at the next start."""
        deadline = time.monotonic() + self._stop_seconds
        while self._jobs or self._reader.rows:
            if not self._jobs:
                self._start_job(everything=True)
            try:
                self._jobs[0].future.exception(timeout=max(0.1, deadline - time.monotonic()))
            except TimeoutError:
                self._log.warning("stopped before the last batch was written; it will be read again")
                return
            if not self._finish_job():
                return
