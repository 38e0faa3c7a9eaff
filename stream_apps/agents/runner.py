"""One partition at work: records go into the engine, its outputs go to Kafka, its state goes to the changelog.

The order ensures that a restart loses and doubles nothing: outputs acknowledged, then the checkpoint, then the source offsets. The module
knows Kafka only through ``Outbox`` and the few calls of ``Source``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from schemas import metrics
from schemas.codec.avro import Codec
from schemas.codec.fetching import RawRecords
from schemas.codec.recordset import RecordSet
from stream_apps.agents.changelog import Ownership
from stream_apps.agents.output import Outbox, Sent, Timed
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.log.steps import completed

DEAD_LETTERS = "dead_letters"

# Wait this long for what the same fetch brought for other topics of the partition: one round instead of one per topic.
COALESCE_S = 0.001
# Records of a topic that a partition may read ahead: two fetches, 20 MB.
BACKLOG = 100_000
# A worker that was down for hours has much to decide. It writes this many outputs a round (5 MB of objects) before it goes on. So memory
# and checkpoint size do not grow with its downtime.
ROUND_OUTPUTS = 5_000
# Kafka's default limit of a record is 1 MiB. A dead letter holds a whole refused record and some text.
DEAD_LETTER_BYTES = 900_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one partition.

    Attributes:
        checkpoint_s: Time between checkpoints, wall clock.
        backlog_high: Number of records read ahead of a topic at which its partition is paused. It resumes below half.
    """

    checkpoint_s: float = 1.0
    backlog_high: int = BACKLOG


class Source(Protocol):
    """The calls of the consumer that a runner needs. Topics are plain names."""

    async def seek(self, topic: str, partition: int, offset: int) -> None: ...
    async def end(self, topic: str, partition: int) -> int: ...
    def pause(self, topic: str, partition: int) -> None: ...
    def resume(self, topic: str, partition: int) -> None: ...
    async def lost(self, partition: int) -> None: ...


class Acknowledged(Protocol):
    """A Faust event. Acknowledging it makes everything up to it committable."""

    def ack(self) -> bool: ...


def shortened(codec: Codec, value: bytes) -> bytes:
    """Return a dead letter with its refused bytes cut to a size that Kafka takes. The reason gives the full length."""
    record = codec.decode(DEAD_LETTERS, value)
    for name in ("key", "value"):
        if record[name] is not None and len(record[name]) > DEAD_LETTER_BYTES // 4:
            record["reason"] += f" ({name}: the first {DEAD_LETTER_BYTES // 4} of {len(record[name])} bytes)"
            record[name] = record[name][: DEAD_LETTER_BYTES // 4]
    return codec.encode(DEAD_LETTERS, record)


class PartitionRunner:
    """Runs the engine of one partition.

    Args:
        partition: Number of the partition.
        engine: Its restored engine.
        outbox: Sends records.
        source: Seeks, pauses and resumes the inputs.
        wire: Plain topic name to wire name.
        codec: Codec of the environment.
        changelog: Wire name of the changelog.
        ownership: Ownership of this worker; every checkpoint carries it.
        changelog_end: Offset after the claim of that ownership.
        decisions_end: Offset after the last record of this partition of the decisions topic; 0 without such a topic.
        fed: First wanted offset of every input topic.
        limits: Bounds.
        failed: Called with the error that ended a background task.
    """

    def __init__(
        self,
        partition: int,
        engine: PartitionEngine,
        outbox: Outbox,
        source: Source,
        *,
        wire: Callable[[str], str],
        codec: Codec,
        changelog: str,
        ownership: Ownership,
        changelog_end: int,
        decisions_end: int,
        fed: dict[str, int],
        limits: Limits,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.partition = partition
        self.engine = engine
        self.fed = fed
        self.paused: set[str] = set()
        self.log = structlog.get_logger().bind(partition=partition)
        self._outbox = outbox
        self._source = source
        self._wire = wire
        self._codec = codec
        self._changelog = changelog
        self._ownership = ownership
        self._changelog_end = changelog_end
        self._decisions_end = decisions_end
        self._limits = limits
        self._failed = failed
        self._dirty = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._checkpointing = asyncio.Lock()
        self._steps: asyncio.Queue[tuple[list[Sent], list[tuple[int, Any]]] | asyncio.Future[None]] = asyncio.Queue()
        self._unread: dict[str, deque[tuple[int, Acknowledged]]] = {}  # composites not yet in a checkpoint, by their last offset
        self._sought: dict[str, tuple[int, int]] = {}
        self._late, self._instants = engine.counts["late"], engine.counts["instants"]  # already added to the metrics
        self._refused: list[Any] = []  # dead letters of marks that could not be fed
        self._moved = False  # a round ran since the last checkpoint
        self._gone = False
        self._tasks: list[asyncio.Task[None]] = []

    # --- in -----------------------------------------------------------------------------------------------------------
    async def feed(self, topic: str, raw: RawRecords, event: Acknowledged) -> None:
        """Take a composite. If it begins beyond the wanted offset, it is refused and the partition is read again from there."""
        if self._gone:
            return
        wanted = self.fed.get(topic)
        if wanted is not None and raw.first > wanted and not await self._accept_gap(topic, raw, wanted):
            return
        self._unread.setdefault(topic, deque()).append((raw.last, event))
        if wanted is not None and raw.last < wanted:
            return
        records = RecordSet.from_raw(raw.data, raw.first if wanted is None else max(raw.first, wanted), raw.last)
        self._refused += self.engine.feed(topic, records)
        self.fed[topic] = raw.last + 1
        metrics.RECORDS_APPLIED.labels(topic).inc(len(records))
        self._dirty.set()

    async def _accept_gap(self, topic: str, raw: RawRecords, wanted: int) -> bool:
        """Read again from the begin of the gap. If the second reading begins at the same place, the records no longer exist."""
        gap = (wanted, raw.first)
        if self._sought.pop(topic, None) == gap:
            self.log.error("retention deleted records; reading on after them", topic=topic, first=wanted, next=raw.first)
            self.engine.skip_to(topic, raw.first)
            return True
        self._sought[topic] = gap
        metrics.CONTINUITY_HEALED.labels(topic).inc()
        self.log.warning("gap in delivery; reading it again", topic=topic, wanted=wanted, delivered=raw.first)
        await self._source.seek(topic, self.partition, wanted)
        return False

    # --- work ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the background tasks."""
        self._tasks = [asyncio.create_task(self._guard(task())) for task in (self._work, self._write_steps, self._checkpoints)]
        self._dirty.set()

    async def _guard(self, task: Any) -> None:
        try:
            await task
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._gone = True
            self._failed(error)

    async def _work(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(COALESCE_S)
            self._dirty.clear()
            self._idle.clear()
            with metrics.EVALUATION_SECONDS.time():
                refused, self._refused = self._refused, []
                outputs = [*refused, *self.engine.advance(ROUND_OUTPUTS)]
            if len(outputs) >= ROUND_OUTPUTS:
                self._dirty.set()  # there is more
            late, instants = self.engine.counts["late"], self.engine.counts["instants"]
            metrics.LATE_TRADES.inc(late - self._late)
            metrics.INSTANTS_FIRED.inc(instants - self._instants)
            self._late, self._instants = late, instants
            await self._publish(outputs)
            del outputs  # free the memory before the next wait
            self._moved = True
            self._balance()
            self._idle.set()

    async def _publish(self, outputs: list[Any]) -> None:
        """Send the engine's outputs, in order within each topic. Progress records follow once their decisions are acknowledged."""
        by_topic: dict[str, list[Timed]] = {}
        steps: list[tuple[int, OutputRecord]] = []  # number of decisions of this round before the step, the record
        decisions, acted_on, progress = 0, self.engine.DECISIONS, self.engine.PROGRESS
        for record in outputs:
            if record.topic == progress:
                steps.append((decisions, record))
                continue
            decisions += record.topic == acted_on
            value = record.value
            if record.topic == DEAD_LETTERS and len(value) > DEAD_LETTER_BYTES:
                value = shortened(self._codec, value)
            by_topic.setdefault(record.topic, []).append((record.timestamp_ms, record.key, value))
        sent_decisions: list[Sent] = []
        for topic, records in by_topic.items():
            sent = await self._outbox.send(self._wire(topic), 0 if topic == DEAD_LETTERS else self.partition, records)
            if topic == acted_on:
                sent_decisions = sent
                metrics.SIGNALS.inc(len(records))
        if steps or sent_decisions:
            self._steps.put_nowait((sent_decisions, steps))

    async def _write_steps(self) -> None:
        while True:
            item = await self._steps.get()
            if isinstance(item, asyncio.Future):
                if not item.done():
                    item.set_result(None)
                continue
            sent, steps = item
            ends = await self._decision_ends(sent)
            records: list[Timed] = [(record.timestamp_ms, record.key, completed(record.value, ends[before])) for before, record in steps]
            self._decisions_end = ends[-1]
            await self._outbox.send(self._wire(self.engine.PROGRESS), self.partition, records)
            if steps:
                newest = max(record.timestamp_ms for _, record in steps)
                metrics.WORKER_EVENT_TIME.labels(str(self.partition)).set(newest / 1000)

    async def _decision_ends(self, sent: list[Sent]) -> list[int]:
        """Return the offset after the i-th decision of the round, for each i, once all are acknowledged."""
        ends = [self._decisions_end]
        for batch in sent:
            base = (await batch.future).offset
            if base < 0:  # the broker recognised a retry and no longer knows the offset of the first attempt
                ends.extend([await self._source.end(self.engine.DECISIONS or self.engine.PROGRESS, self.partition)] * batch.count)
            else:
                ends.extend(range(base + 1, base + batch.count + 1))
        return ends

    def _balance(self) -> None:
        """Pause topics that are far ahead of what can be applied. Topics that the next mark waits for are never paused."""
        backlog, wants = self.engine.backlog(), self.engine.wants()
        high = self._limits.backlog_high
        for topic, count in backlog.items():
            if topic in wants or count < high // 2:
                if topic in self.paused:
                    self.paused.discard(topic)
                    self._source.resume(topic, self.partition)
            elif count > high and topic not in self.paused:
                self.paused.add(topic)
                self._source.pause(topic, self.partition)
        for topic in self.paused - backlog.keys():
            self.paused.discard(topic)
            self._source.resume(topic, self.partition)

    # --- state --------------------------------------------------------------------------------------------------------
    async def _checkpoints(self) -> None:
        while True:
            await asyncio.sleep(self._limits.checkpoint_s)
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write the state: outputs acknowledged, then the changelog. Then acknowledge the included composites to Faust."""
        async with self._checkpointing:
            if not self._moved:
                return
            self._moved = False
            entries = self.engine.checkpoint()
            positions = self.engine.positions()
            await self._written()
            if entries:
                if self._gone:
                    return
                expected = self._changelog_end + len(entries)
                now = int(time.time() * 1000)
                end = await self._outbox.send_checkpoint(self._changelog, self.partition, now, entries, self._ownership)
                if end != expected:
                    self._gone = True
                    self.log.warning("another worker wrote to the changelog; asking for a rebalance", expected=expected, found=end)
                    await self._source.lost(self.partition)
                    return
                self._changelog_end = end
            self._acknowledge(positions)

    async def _written(self) -> None:
        """Wait until all outputs emitted so far are acknowledged."""
        await self._idle.wait()
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._steps.put_nowait(reached)
        await reached
        if waiting := self._outbox.unacked():
            await asyncio.wait(waiting)
        self._outbox.check()

    def _acknowledge(self, positions: dict[str, int]) -> None:
        for topic, composites in self._unread.items():
            end = positions.get(topic, 0)
            newest = None
            while composites and composites[0][0] < end:
                newest = composites.popleft()[1]
            if newest is not None:
                newest.ack()

    # --- end ----------------------------------------------------------------------------------------------------------
    async def close(self) -> None:
        """Finish the current round and write a last checkpoint.

        Raises the error of a failed write; call ``abandon`` afterwards in any case.
        """
        if self._gone or not self._tasks:
            return
        work, _, checkpoints = self._tasks
        while not self._idle.is_set():
            await self._idle.wait()
        work.cancel()
        async with self._checkpointing:  # a running checkpoint must end: the engine has already returned its changes
            checkpoints.cancel()
        await asyncio.gather(work, checkpoints, return_exceptions=True)
        await self.checkpoint()

    async def abandon(self) -> None:
        """Stop at once. The next owner goes on from the last checkpoint."""
        self._gone = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._unread.clear()
