"""The monitor's process: group membership, reading by progress marks, and writing findings.

A consumer group assigns partitions of ``progress``. The owner reads that partition of all market topics with a second consumer. After Kafka acknowledges the
findings, the position in ``progress`` is committed. What happens at each failure:

- kill -9, crash: the next owner reads again from ``memory_ms`` of event time before the committed mark, to restore the monitor's memory (last ids, prices,
  rates). It writes only later findings. Uncommitted findings are written again with the same ``quality_id``, and readers drop them. Memory older than
  ``memory_ms`` (an open gap, a stream that was silent before) is lost.
- Kafka down: reading waits; unacknowledged findings are computed and sent again.
- two owners for a moment, after a frozen process resumes: both write the same records.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas import metrics
from schemas.codec.recordset import RecordSet
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.executor.journal import OutboxRow
from sinks.executor.publish import QUIET, NotAcknowledged, Publisher
from stream_apps.core.quality.monitor import PartitionMonitor, QualityRecord
from stream_apps.core.quality.rules import SCORE, QualityRules

TOPIC = "data_quality"
# Longer than the history of a score: ten windows of rates and delays, and the price memory of a quiet contract.
MEMORY_MS = 15 * 60_000
MARKS_PER_ROUND = 2_000
MESSAGES_PER_ROUND = 20_000
READ_AHEAD = 200_000
POLL_S = 0.05
COMMIT_S = 1.0
RETRY_S = 0.5
ANSWER_S = 20.0


class _Run:
    """One partition: its monitor, and the mark up to which all findings are written."""

    def __init__(self, monitor: PartitionMonitor, written: int) -> None:
        self.monitor = monitor
        self.written = written  # offset of the first mark whose findings are not in the topic
        self.committed = written
        self.committed_at = time.monotonic()
        self.counted: dict[str, int] = dict(monitor.checked)


class Monitor:
    """Monitors every partition that the group assigns to this process.

    Args:
        settings: Environment.
        service: Stop flag, log, health.
        rules: Limits and costs.
        from_beginning: Start at the beginning of the logs without a committed position; otherwise ``memory_ms`` before their end.
        memory_ms: See the module's docstring.
        session_timeout_ms: Session timeout of the consumer group.
    """

    def __init__(
        self,
        settings: Settings,
        service: Service,
        rules: QualityRules,
        *,
        from_beginning: bool = False,
        memory_ms: int = MEMORY_MS,
        session_timeout_ms: int = 10_000,
    ) -> None:
        self._settings = settings
        self._service = service
        self._log = service.log
        self._rules = rules
        self._from_beginning = from_beginning
        self._memory_ms = memory_ms
        self._encode = settings.codec.encoder(TOPIC)
        self._plain = {settings.topic(topic): topic for topic in PartitionMonitor.INPUTS}
        self._publisher = Publisher(settings)
        self._admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
        self._assigned: set[int] = set()
        self._runs: dict[int, _Run] = {}
        self._resting: set[tuple[str, int]] = set()
        self._busy_at = time.monotonic()
        self._kafka_down = False
        shared = {
            **QUIET,
            "error_cb": self._kafka_trouble,
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "enable.auto.commit": False,
        }
        self._group = Consumer(
            {
                **shared,
                "group.id": settings.group("monitor"),
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_timeout_ms,
            }
        )
        self._reader = Consumer(
            {
                **shared,
                # The client requires a group id. Nothing joins the group or commits to it.
                "group.id": settings.group("monitor-reader"),
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 32_768,
                "fetch.wait.max.ms": 100,
            }
        )
        service.set_health(self._health)

    # --- the loop ----------------------------------------------------------------------------------------------------
    def run(self, until_idle: float | None = None) -> None:
        """Work until the service is stopped, or until nothing arrived for ``until_idle`` seconds.

        Raises:
            KafkaException: a fatal error of the Kafka client.
        """
        self._group.subscribe(
            [self._settings.topic("progress")], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        self._busy_at = time.monotonic()
        try:
            while not self._service.stopping.is_set():
                self._round()
                if until_idle is not None and self._assigned and time.monotonic() - self._busy_at > until_idle:
                    break
            self._commit(force=True)
        finally:
            self._group.close()
            self._reader.close()
            self._publisher.close()

    def _round(self) -> None:
        message = self._group.poll(0)
        error = None if message is None else message.error()
        if error is not None and error.fatal():
            raise KafkaException(error)
        try:
            for partition in sorted(self._assigned - set(self._runs)):
                self._begin(partition)
            self._read()
            for partition, run in list(self._runs.items()):
                self._step(partition, run)
            self._commit()
        except NotAcknowledged as problem:
            self._log.warning("kafka did not acknowledge; trying again", error=str(problem))
            self._drop(set(self._runs))
            self._service.stopping.wait(RETRY_S)
        except KafkaException as problem:
            if problem.args and isinstance(problem.args[0], KafkaError) and problem.args[0].fatal():
                raise
            self._log.warning("kafka does not answer; trying again", error=str(problem))
            self._service.stopping.wait(RETRY_S)
        self._rest_or_resume()

    def _step(self, partition: int, run: _Run) -> None:
        before = run.monitor.marks.next_offset
        found = run.monitor.advance(MARKS_PER_ROUND)
        after = run.monitor.marks.next_offset
        if after == before:
            return
        self._busy_at = time.monotonic()
        new = [one for one in found if one.mark >= run.written]
        if new:
            self._publisher.publish(partition, [self._row(one) for one in new])
        run.written = max(run.written, after)
        self._count(partition, run, new)

    def _row(self, one: QualityRecord) -> OutboxRow:
        record = one.record
        return OutboxRow(0, TOPIC, record["instrument"].encode(), record["event_time"], self._encode(record))

    # --- membership --------------------------------------------------------------------------------------------------
    def _on_assign(self, group: Consumer, partitions: list[TopicPartition]) -> None:
        group.incremental_assign(partitions)
        if partitions:
            group.pause(partitions)  # this consumer only keeps the membership
        self._assigned |= {one.partition for one in partitions}
        self._log.info("partitions assigned", partitions=sorted(one.partition for one in partitions))

    def _on_revoke(self, group: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {one.partition for one in partitions}
        self._assigned -= gone
        self._drop(gone & set(self._runs))
        self._log.info("partitions revoked", partitions=sorted(gone))

    def _drop(self, partitions: set[int]) -> None:
        if partitions:
            self._reader.incremental_unassign([TopicPartition(wire, one) for one in sorted(partitions) for wire in self._plain])
        for one in partitions:
            del self._runs[one]
        self._resting = {(topic, one) for topic, one in self._resting if one not in partitions}
        self._show()

    def _begin(self, partition: int) -> None:
        """Set the start of a partition: ``memory_ms`` before the committed mark, or the start of a new monitor."""
        here = TopicPartition(self._settings.topic("progress"), partition)
        (committed,) = self._group.committed([here], timeout=ANSWER_S)
        written = max(committed.offset, 0)
        kept = json.loads(committed.metadata) if committed.offset >= 0 and committed.metadata else {}
        newest: int | None = kept.get("event_time")
        if newest is None and not self._from_beginning:
            newest = self._newest_time(here)
        starts = dict.fromkeys(self._plain, 0)
        if newest is not None and newest > self._memory_ms:
            # Contract facts are few and always needed, so they are read from the beginning.
            asked = [
                TopicPartition(wire, partition, newest - self._memory_ms) for wire, topic in self._plain.items() if topic != "instruments"
            ]
            for place in self._reader.offsets_for_times(asked, timeout=ANSWER_S):
                starts[place.topic] = place.offset if place.offset >= 0 else self._ends(place)[1]
            # Recordings of several times may share a partition; unchecked records must not be skipped.
            limits = {"progress": written, **kept.get("cut", {})} if kept else {}
            for wire, topic in self._plain.items():
                starts[wire] = min(starts[wire], limits.get(topic, starts[wire]))
        monitor = PartitionMonitor(self._rules, self._settings.codec)
        for wire, topic in self._plain.items():
            low, high = self._ends(TopicPartition(wire, partition))
            starts[wire] = min(max(starts[wire], low), high)
            monitor.skip_to(topic, starts[wire])
        self._reader.incremental_assign([TopicPartition(wire, partition, offset) for wire, offset in starts.items()])
        self._runs[partition] = _Run(monitor, written)
        self._busy_at = time.monotonic()

    def _ends(self, place: TopicPartition) -> tuple[int, int]:
        ends: tuple[int, int] = self._reader.get_watermark_offsets(TopicPartition(place.topic, place.partition), timeout=ANSWER_S)
        return ends

    def _newest_time(self, place: TopicPartition) -> int | None:
        """Return the newest event time in a partition, ms; None if it is empty."""
        answer = self._admin.list_offsets({place: OffsetSpec.max_timestamp()}, request_timeout=ANSWER_S)[place].result(ANSWER_S)
        return int(answer.timestamp) if answer.offset >= 0 else None

    # --- reading -----------------------------------------------------------------------------------------------------
    def _kafka_trouble(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._kafka_down:
            self._kafka_down = True
            self._log.warning("no kafka broker answers; the client keeps trying", error=error.str())

    def _read(self) -> None:
        batches: dict[tuple[str, int], list[tuple[int, int, bytes | None, bytes | None]]] = defaultdict(list)
        ends: list[tuple[str, int, int]] = []
        for message in self._reader.consume(MESSAGES_PER_ROUND, POLL_S):
            error = message.error()
            # The client's types allow None, but a consumed message always has a partition.
            topic, partition, offset = self._plain.get(str(message.topic()), ""), message.partition() or 0, message.offset() or 0
            if error is None:
                batches[topic, partition].append((offset, message.timestamp()[1], message.key(), message.value()))
            elif error.code() == KafkaError._PARTITION_EOF:
                ends.append((topic, partition, offset))
            elif error.fatal():
                raise KafkaException(error)
            else:
                self._log.warning("reading", error=error.str())
        if batches or ends:
            self._kafka_down = False
        for (topic, partition), messages in batches.items():
            if partition in self._runs:
                self._runs[partition].monitor.feed(topic, RecordSet.from_messages(messages))
                self._busy_at = time.monotonic()
        for topic, partition, offset in ends:
            if partition in self._runs:
                self._runs[partition].monitor.skip_to(topic, offset)  # compaction leaves offsets out

    def _rest_or_resume(self) -> None:
        """Limit read-ahead: pause a topic while enough of it is buffered and no mark waits for it."""
        for partition, run in self._runs.items():
            wanted = run.monitor.wants()
            for wire, topic in self._plain.items():
                rest = run.monitor.backlog(topic) > READ_AHEAD and topic not in wanted
                if rest != ((topic, partition) in self._resting):
                    (self._reader.pause if rest else self._reader.resume)([TopicPartition(wire, partition)])
                    self._resting ^= {(topic, partition)}

    # --- positions -----------------------------------------------------------------------------------------------------
    def _commit(self, force: bool = False) -> None:
        now = time.monotonic()
        for partition, run in self._runs.items():
            times = run.monitor.marks.times
            if (
                partition not in self._assigned
                or run.written == run.committed
                or not times
                or not (force or now - run.committed_at >= COMMIT_S)
            ):
                continue
            kept = {
                "event_time": max(times.values()),
                "cut": {t: n for t, n in run.monitor.marks.merged.items() if t in PartitionMonitor.INPUTS},
            }
            place = TopicPartition(self._settings.topic("progress"), partition, run.written, json.dumps(kept))
            try:
                if force:
                    self._group.commit(offsets=[place], asynchronous=False)
                else:
                    self._group.commit(offsets=[place], asynchronous=True)
            except KafkaException as problem:  # the next owner writes some records again with the same ids
                self._log.warning("the position was not committed", error=str(problem))
                continue
            run.committed, run.committed_at = run.written, now

    # --- what the world sees ---------------------------------------------------------------------------------------------
    def _count(self, partition: int, run: _Run, new: list[QualityRecord]) -> None:
        scored = False
        for one in new:
            record = one.record
            if record["kind"] == SCORE:
                scored = True
            else:
                venue = record["instrument"].partition(":")[0]
                metrics.QUALITY_FINDINGS.labels(venue, record["stream"], record["kind"]).inc()
        for topic, count in run.monitor.checked.items():
            metrics.QUALITY_CHECKED.labels(topic).inc(count - run.counted[topic])
        run.counted = dict(run.monitor.checked)
        if run.monitor.marks.times:
            metrics.QUALITY_EVENT_TIME.labels(str(partition)).set(max(run.monitor.marks.times.values()) / 1000)
        if scored:
            self._show()

    def _venues(self) -> dict[tuple[str, str], list[float]]:
        venues: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in list(self._runs.values()):
            for (instrument, stream), score in list(run.monitor.scores.items()):
                venues[instrument.partition(":")[0], stream].append(score)
        return venues

    def _show(self) -> None:
        metrics.QUALITY_SCORE.clear()
        metrics.QUALITY_LOWEST.clear()
        for (venue, stream), scores in self._venues().items():
            metrics.QUALITY_SCORE.labels(venue, stream).set(sum(scores) / len(scores))
            metrics.QUALITY_LOWEST.labels(venue, stream).set(min(scores))

    def _health(self) -> dict[str, Any]:
        runs = dict(self._runs)
        venues = self._venues()
        return {
            "ok": not self._kafka_down,
            "partitions": sorted(runs),
            "marks_waiting": sum(run.monitor.backlog("progress") for run in runs.values()),
            "marks_refused": sum(run.monitor.refused for run in runs.values()),
            "scores": {
                venue: round(sum(scores) / len(scores), 2) for (venue, stream), scores in sorted(venues.items()) if stream == "overall"
            },
        }
