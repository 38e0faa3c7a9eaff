"""The shared parts of gap repair: gap rows, dead letters, held readers, background tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from producers.output.pipeline import Pipeline, Source
from producers.venue.state.feed import Feed
from schemas import metrics
from schemas.codec.avro import Record
from schemas.process.dead_letters import dead_letter


class GapRepair:
    """Gap rows and repair tasks.

    Args:
        pipeline: Writes the rows. venue: Label of metrics. service: Name in the dead letters.
        hold_s: Longest hold of a reader for one task, seconds.
        wall_ms: Our clock, ms UTC.
    """

    def __init__(
        self, pipeline: Pipeline, venue: str, service: str, hold_s: float, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self.gaps = 0
        self.refused = 0
        self.duplicates = 0
        self.wall_ms = wall_ms
        self.venue = venue
        self._service = service
        self._pipeline = pipeline
        self._hold_s = hold_s
        self._tasks: dict[asyncio.Task[Any], Source] = {}
        self._log = structlog.get_logger().bind(venue=venue)

    def emit_gap(
        self,
        feed: Feed,
        source: Source,
        topic: str,
        kind: str,
        event_time: int,
        *,
        certain: bool,
        ids: tuple[int | None, int | None],
        times: tuple[int | None, int | None],
        repaired: bool,
        detail: str,
    ) -> Record:
        """Write a ``gaps`` row. ``ids`` and ``times`` are the first and last missing ones. Returns the row."""
        record: Record = {
            "instrument": feed.instrument,
            "event_time": event_time,
            "receive_time": self.wall_ms(),
            "stream": topic,
            "kind": kind,
            "certain": certain,
            "from_id": ids[0],
            "to_id": ids[1],
            "from_time": times[0],
            "to_time": times[1],
            "repaired": repaired,
            "detail": detail,
        }
        self._pipeline.emit(source, "gaps", feed.partition, record)
        self.gaps += 1
        metrics.GAPS.labels(self.venue, topic, kind).inc()
        self._log.warning("gap", instrument=feed.instrument, stream=topic, kind=kind, ids=ids, repaired=repaired, detail=detail)
        return record

    def refuse(self, raw: bytes, source: str, reason: str, at: str | None, instrument: str | None) -> None:
        """Write an unusable message to the dead letters, with its bytes. ``at`` is the invalid field."""
        self.refused += 1
        self._pipeline.out.dead_letter(dead_letter(self._service, source, reason, instrument=instrument, field=at, value=raw))
        self._log.warning("refused a message", source=source, field=at, reason=reason[:300])

    async def hold(self, task: asyncio.Task[Any], source: Source, progress: Callable[[], int] = lambda: 0) -> None:
        """Hold a connection's reader until a task is done, or has no progress for the limit."""
        source.busy += 1
        try:
            seen = progress() - 1
            while not task.done() and progress() != seen:
                seen = progress()
                await asyncio.wait({task}, timeout=self._hold_s)
        finally:
            source.busy -= 1
            source.heard = time.monotonic()

    async def hold_unless(self, busy: bool, task: asyncio.Task[Any], source: Source, progress: Callable[[], int] = lambda: 0) -> None:
        """Hold a connection's reader for a task, unless REST is ``busy``. Otherwise hundreds of symbols would each stop it for the limit."""
        if not busy:
            await self.hold(task, source, progress)

    def task(self, work: Coroutine[Any, Any, Any], source: Source) -> asyncio.Task[Any]:
        """Start a background task that writes to a source."""
        task = asyncio.create_task(work)
        self._tasks[task] = source
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def settle(self, source: Source | None, timeout_s: float) -> None:
        """Wait for the running tasks of a source (None: of all), then cancel the rest."""
        tasks = {task for task, its in self._tasks.items() if source is None or its is source}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
