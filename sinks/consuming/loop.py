"""The loop of a sink: the reader in front, a writer's thread behind, a few batches in flight between them.

The reader polls always, whatever the store does, so it stays in its group; while the writer cannot go on, nothing more is taken and memory stays
bounded. While one batch is written the next is prepared in a thread of its own: both are work outside of Python that lets other threads run.

A batch that was taken while the one before it was on its way counts on that one: it expects the offset that the other will have stored. Where the
other is fenced, so is this one. Offsets of new partitions are asked only when nothing is in flight.
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

from schemas.service import Service
from sinks.consuming.reader import PartitionBatch, PartitionState, Place, Reader

POLL_SECONDS = 0.1
# The writer may be behind for so long before this is called a pause.
PATIENCE_S = 3.0
# Lag and broker state are looked at this often.
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class _Job:
    """Work in flight, what is done with its result, and the partitions (as they were assigned then) whose offsets it is about."""

    future: Future[Any]
    done: Callable[[Any, set[Place]], None]
    owners: dict[Place, PartitionState]


class Loop(ABC):
    """Consumes and writes until the service stops. A sink says what a batch is and writes it.

    Args:
        reader: The partitions.
        service: Stop flag, log, health.
        name: Of the threads.
        until_idle: Stop when every assigned partition has been at its end for this many seconds; None: run on.
        stop_seconds: When the service stops, what was read is written within this time or left to be read again.
        depth: Batches in flight at most: with 2, one is prepared while another is written.
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
        """Ask the store where partitions go on. Runs in the writer's thread."""

    @abstractmethod
    def placed(self, answer: Any, ours: set[Place]) -> None:
        """Have those of the claimed partitions read that are ours still."""

    @abstractmethod
    def is_due(self) -> bool:
        """Return whether what was read is a batch."""

    @abstractmethod
    def room(self) -> tuple[int, int]:
        """Return how many rows and bytes of values may be read and not taken, which is also what a batch holds at most."""

    def prepare(self, batch: list[PartitionBatch]) -> Any:
        """Make what ``write`` is given. Runs in the preparer's thread."""
        return batch

    @abstractmethod
    def write(self, prepared: Any) -> Any:
        """Write a batch. Runs in the writer's thread."""

    @abstractmethod
    def written(self, outcome: Any, ours: set[Place]) -> None:
        """Take note of what became of a batch, as far as its partitions are ours still."""

    @abstractmethod
    def may_pass(self, error: BaseException) -> bool:
        """Return whether trying again can help."""

    def failed(self, error: BaseException) -> str:
        """Clean up after an attempt that failed; return a hint for the log. Runs in the thread where it failed."""
        return ""

    @abstractmethod
    def close(self) -> None:
        """Close the store."""

    # --- health ----------------------------------------------------------------------------------------------------
    def report(self) -> dict[str, Any]:
        """Return the health report that all sinks have: not ok while store or broker are away or a partition cannot be read."""
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
        """Consume and write until the service stops (what was read is written first) or, if asked, until idle.

        Raises:
            KafkaException: the client cannot go on (e.g. another sink runs under the same instance name).
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
            self._service.stop()  # no attempt is repeated any more
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
        """There is no room for more."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if not self.paused and now - self._waiting_since >= PATIENCE_S:
            self.paused = True
            self._log.warning("paused: the writer does not keep up", buffered=self._reader.rows, trouble=self._troubles)
        try:
            self._jobs[0].future.exception(timeout=POLL_SECONDS)
        except TimeoutError:
            pass  # asked again in the next step

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
        """Do a stage until it succeeds or the service stops. Runs in the stage's thread."""
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
            self._log.info("the writer goes on")
        return result

    def _note(self, stage: str, state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        reason = f"{type(error).__name__}: {error}{self.failed(error)}"
        if stage not in self._troubles:
            self._log.warning("the writer cannot go on, trying again", error=reason)
        self._troubles[stage] = f"{reason} (attempt {state.attempt_number})"

    def _finish_job(self) -> bool:
        """Take note of what the oldest job did; return whether it was done."""
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
            ends = self._reader.ends()  # what the fetcher has heard may be old
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
        """Write what was read, as far as the store goes along in time. What is not written is read again next time."""
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
