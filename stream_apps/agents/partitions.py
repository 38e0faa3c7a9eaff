"""The partitions that this worker owns. A rebalance opens them from their changelogs; the next one closes them first."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import structlog
from aiokafka.errors import IllegalStateError
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from faust.types import TP

from schemas import metrics
from schemas.codec.fetching import RawRecords, read_to_end
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from stream_apps.agents.changelog import Entry, Fold, Ownership
from stream_apps.agents.output import CHECKPOINT_MAX_BYTES, OutputError
from stream_apps.agents.runner import Limits, PartitionRunner
from stream_apps.core.log.checkpoint import ChangelogDamaged
from stream_apps.core.log.engine import PartitionEngine

# A changelog that another worker writes meanwhile is read again. After this many times another fault is likely.
CLAIM_ATTEMPTS = 10
# Composites wait in a queue while the engine works. Only one that stays away for this long counts as lost. Reading it twice is harmless.
WATCH_S = 1.0
WATCH_TIMES = 3


class Partitions:
    """Owner of the partition runners, and the ``Source`` of each.

    Args:
        app: The Faust app (see ``worker``).
        engine: Class of the engines.
        config: Their configuration.
        settings: Settings.
        changelog: Wire name of the changelog topic.
        limits: Bounds of a partition.
    """

    def __init__(self, app: Any, engine: type[PartitionEngine], config: Any, settings: Settings, changelog: str, limits: Limits) -> None:
        self.runners: dict[int, PartitionRunner] = {}
        self.generation: int | None = None
        self.recovered_s: float | None = None
        self.log = structlog.get_logger()
        self._app = app
        self._engine = engine
        self._config = config
        self._settings = settings
        self._changelog = changelog
        self._limits = limits
        self._owner = os.urandom(16)
        self._watch: asyncio.Task[None] | None = None
        self._placed: set[tuple[int, str]] = set()
        self._wire = settings.topic
        self._plain = {settings.topic(name): name for name in engine.inputs()}

    # --- open ---------------------------------------------------------------------------------------------------------
    async def open(self, partitions: set[int], assignment: set[TP]) -> dict[TP, int]:
        """Rebuild the engines of the partitions. Return the offsets from which their sources are read.

        Raises:
            RuntimeError: a partition was assigned without some of its sources (topics with different partition counts).
        """
        await self.abandon()
        started = time.monotonic()
        for partition in partitions:
            if absent := {wire for wire in self._plain if TP(wire, partition) not in assignment}:
                raise RuntimeError(f"partition {partition} was assigned without {sorted(absent)}: the inputs are not co-partitioned")
        owned = await self._claim(partitions)
        sources = {(name, p): TopicPartition(self._wire(name), p) for name in self._engine.inputs() for p in partitions}
        consumer = self._app.consumer
        earliest = await consumer.earliest_offsets(*sources.values()) if sources else {}
        decisions = self._engine.DECISIONS
        watched = [] if decisions is None else [TopicPartition(self._wire(decisions), p) for p in partitions]
        ends = await consumer.highwaters(*watched) if watched else {}
        seeks: dict[TP, int] = {}
        for partition in sorted(partitions):
            fold, ownership, changelog_end = owned[partition]
            engine, changelog_end = await self._restored(partition, fold, ownership, changelog_end)
            fed = self._first_wanted(partition, engine, {name: int(earliest[sources[name, partition]]) for name in self._engine.inputs()})
            self.runners[partition] = PartitionRunner(
                partition,
                engine,
                self._app.producer.outbox,
                self,
                wire=self._wire,
                codec=self._settings.codec,
                changelog=self._changelog,
                ownership=ownership,
                changelog_end=changelog_end,
                decisions_end=0 if decisions is None else int(ends[TopicPartition(self._wire(decisions), partition)]),
                fed=fed,
                limits=self._limits,
                failed=self._failed,
            )
            seeks.update({TP(self._wire(name), partition): offset for name, offset in fed.items()})
        self.recovered_s = time.monotonic() - started
        entries = sum(len(fold.entries) for fold, _, _ in owned.values())
        late = sum(fold.late for fold, _, _ in owned.values())
        self.log.info("recovered", partitions=sorted(partitions), entries=entries, late=late, seconds=round(self.recovered_s, 3))
        return seeks

    async def _restored(self, partition: int, fold: Fold, ownership: Ownership, end: int) -> tuple[PartitionEngine, int]:
        """Return the engine and the end of the changelog.

        A damaged state is deleted and computed again from the inputs; its outputs are repeats.
        """
        codec = self._settings.codec
        try:
            return self._engine.restore(partition, self._config, codec, list(fold.entries.items())), end
        except ChangelogDamaged as error:
            self.log.error("state is damaged; computing it again from the inputs", partition=partition, error=str(error))
            deletions: list[Entry] = [(key, None) for key in fold.entries]
            now = int(time.time() * 1000)
            end = await self._app.producer.outbox.send_checkpoint(self._changelog, partition, now, deletions, ownership)
            return self._engine.restore(partition, self._config, codec, []), end

    def _first_wanted(self, partition: int, engine: PartitionEngine, earliest: dict[str, int]) -> dict[str, int]:
        """Return the first offset to read of each input: the position of the state, or the begin of the log."""
        positions = engine.positions()
        first: dict[str, int] = {}
        for topic, start in earliest.items():
            wanted = positions.get(topic, 0)
            if wanted > 0 and wanted < start:
                self.log.error("retention deleted records that the state needs", partition=partition, topic=topic, first=wanted, next=start)
            if wanted < start:
                engine.skip_to(topic, start)
            first[topic] = max(wanted, start)
        return first

    async def _claim(self, partitions: set[int]) -> dict[int, tuple[Fold, Ownership, int]]:
        """Read the changelogs and claim them. Read a changelog again if another record arrived between its end and the claim."""
        owned: dict[int, tuple[Fold, Ownership, int]] = {}
        for _ in range(CLAIM_ATTEMPTS):
            missing = partitions - owned.keys()
            if not missing:
                return owned
            folds = await self._read(missing)
            for partition, fold in folds.items():
                ownership, records = fold.claim(self._owner)
                now = int(time.time() * 1000)
                end = await self._app.producer.outbox.send_checkpoint(self._changelog, partition, now, records, ownership)
                if end == fold.next_offset + len(records):
                    owned[partition] = fold, ownership, end
        if partitions - owned.keys():
            raise OutputError(f"{self._changelog}: partitions {sorted(partitions - owned.keys())} are being written by another worker")
        return owned

    async def _read(self, partitions: set[int]) -> dict[int, Fold]:
        folds = {partition: Fold() for partition in partitions}
        tps = [TopicPartition(self._changelog, partition) for partition in partitions]
        async for raw in read_to_end(self._settings.kafka_bootstrap_servers, tps, CHECKPOINT_MAX_BYTES):
            _fold(raw, folds[raw.partition])
            await asyncio.sleep(0)
        return folds

    def start(self, generation: int) -> None:
        """Start the opened partitions. Composites of ``generation`` arrive from now on."""
        self.generation = generation
        for runner in self.runners.values():
            runner.start()
        self._watch = asyncio.create_task(self._watched())

    async def _watched(self) -> None:
        try:
            await self._watch_delivery()
        except Exception as error:
            self._failed(error)

    async def _watch_delivery(self) -> None:
        """Find records that were fetched but never delivered, when no later record shows the gap (see ``PartitionRunner.feed``)."""
        behind: dict[TP, tuple[int, int, int]] = {}  # first wanted offset, fetched position, number of times seen so
        while True:
            await asyncio.sleep(WATCH_S)
            self._report_misplaced()
            fetched = await self._app.consumer.positions()
            seen: dict[TP, tuple[int, int, int]] = {}
            for partition, runner in self.runners.items():
                for topic, wanted in runner.fed.items():
                    tp = TP(self._wire(topic), partition)
                    position = fetched.get(tp, wanted)
                    if position <= wanted:
                        continue
                    times = behind[tp][2] + 1 if behind.get(tp, ())[:2] == (wanted, position) else 1
                    seen[tp] = (wanted, position, times)
                    if times >= WATCH_TIMES:
                        metrics.CONTINUITY_HEALED.labels(topic).inc()
                        self.log.warning(
                            "records were fetched but not delivered; reading them again", topic=topic, partition=partition, wanted=wanted
                        )
                        await self.seek(topic, partition, wanted)
                        del seen[tp]
            behind = seen

    def _report_misplaced(self) -> None:
        """Report instruments whose asset belongs into another partition: their records or state come from another grouping of assets."""
        for partition, runner in self.runners.items():
            new = [name for name in runner.engine.instruments.names if (partition, name) not in self._placed]
            self._placed.update((partition, name) for name in new)
            for name in new:
                try:
                    wanted = self._settings.partition_of(base_of_instrument(name))
                except ValueError:
                    continue  # its id does not tell its asset
                if wanted != partition:
                    self.log.error(
                        "instrument is in the partition of another grouping of assets (PERPFLOW_ASSET_GROUPS, PERPFLOW_PARTITIONS)",
                        instrument=name,
                        partition=partition,
                        belongs_to=wanted,
                    )

    # --- work ---------------------------------------------------------------------------------------------------------
    async def feed(self, event: Any) -> None:
        """Take a Faust event with a composite. Composites of an earlier assignment are dropped; their records are read again."""
        message = event.message
        runner = self.runners.get(message.partition)
        if runner is not None and message.generation_id == self.generation:
            await runner.feed(self._plain[message.topic], event.value, event)

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read a partition of a topic again from an offset (plain topic name)."""
        try:
            await self._app.consumer.seek_wait({TP(self._wire(topic), partition): offset})
        except IllegalStateError:
            # A rebalance just took the partition. Recovery seeks the partitions that stay.
            self.log.info("seek skipped: a rebalance took the partition", topic=topic, partition=partition)

    async def end(self, topic: str, partition: int) -> int:
        """Return the offset after the last record."""
        tp = TopicPartition(self._wire(topic), partition)
        return int((await self._app.consumer.highwaters(tp))[tp])

    def pause(self, topic: str, partition: int) -> None:
        """Stop fetching a partition of a topic."""
        self._app.consumer.pause_partitions({TP(self._wire(topic), partition)})

    def resume(self, topic: str, partition: int) -> None:
        """Fetch a partition of a topic again."""
        self._app.consumer.resume_partitions({TP(self._wire(topic), partition)})

    async def lost(self, partition: int) -> None:
        """Ask for a rebalance, because another worker wrote this partition's state."""
        await self._app.consumer.rejoin()

    def _failed(self, error: BaseException) -> None:
        self._app.fail(error)

    # --- close --------------------------------------------------------------------------------------------------------
    async def close(self, timeout_s: float) -> None:
        """Write last checkpoints and release all partitions. The next owner recomputes what cannot be written in time."""
        try:
            async with asyncio.timeout(timeout_s):
                results = await asyncio.gather(*(runner.close() for runner in self.runners.values()), return_exceptions=True)
            for partition, result in zip(self.runners, results, strict=True):
                if isinstance(result, BaseException):
                    self.log.warning("last checkpoint failed", partition=partition, error=f"{type(result).__name__}: {result}")
        except TimeoutError:
            self.log.warning("last checkpoints took too long; leaving without them", timeout_s=timeout_s)

    async def abandon(self) -> None:
        """Drop all partitions at once."""
        runners, self.runners, self.generation = self.runners, {}, None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await asyncio.gather(*(runner.abandon() for runner in runners.values()))

    def health(self) -> dict[str, Any]:
        """Return assigned partitions, buffered records, paused topics and recovery time. Sets the gauge of buffered records."""
        buffered: dict[str, int] = {}
        paused: set[str] = set()
        for runner in list(self.runners.values()):
            paused |= runner.paused
            for topic, count in runner.engine.backlog().items():
                buffered[topic] = buffered.get(topic, 0) + count
        for topic in self._engine.inputs():
            metrics.BUFFERED_RECORDS.labels(topic).set(buffered.get(topic, 0))
        return {"partitions": sorted(self.runners), "buffered": buffered, "paused": sorted(paused), "recovery_seconds": self.recovered_s}


def _fold(raw: RawRecords, fold: Fold) -> None:
    """Add the records of a changelog's record set to the fold."""
    records = MemoryRecords(bytes(raw.data))
    while records.has_next():
        batch = records.next_batch()
        if not batch.is_control_batch:
            for record in batch:
                if record.offset >= raw.first and record.key is not None:
                    fold.add(record.offset, record.key, record.value, *Ownership.of(record.headers))
    fold.next_offset = max(fold.next_offset, raw.last + 1)
