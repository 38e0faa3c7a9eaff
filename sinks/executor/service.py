"""The executor's process: group membership, reading, journalling, publishing.

A consumer group assigns partitions of ``worker_progress``. The owner reads that partition of all input topics with a second consumer, from the journalled
offsets (never from committed ones). So one member always has all topics of a partition, and the two positions cannot disagree. What happens at each
failure:

- kill -9, crash: the next owner claims the journalled row, sends its unpublished outbox rows and continues from its state.
- frozen past the session timeout: the successor raised the epoch, so the commit is refused (``perpflow_fenced``). This process drops its state and joins
  the group again. The successor may repeat records that were already with the producer.
- database down: the state in memory is dropped. The partitions are claimed again when the database is back.
- Kafka down: reading waits. Publishing repeats from the outbox until the records are acknowledged.
- a value that cannot be decoded goes to dead_letters with its bytes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas import metrics
from schemas.codec.avro import CodecError
from schemas.process.dead_letters import dead_letter
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.executor.decode import Message
from sinks.executor.journal import FencedError, Journal
from sinks.executor.partition import STEPS, TOPICS_READ, PartitionRun
from sinks.executor.publish import QUIET, NotAcknowledged, Publisher
from stream_apps.core.paper.feed import DEPTH, SIGNALS, TRADES
from stream_apps.core.paper.model import PaperSettings
from stream_apps.core.paper.records import MODE

# Most steps of one transaction, so that a long catch-up commits in parts.
STEPS_PER_COMMIT = 200
# Steps without a decision are journalled at least this often (wall time). It only limits how much is read again.
IDLE_COMMIT_S = 1.0
# Records read ahead of the worker, for each partition. Beyond it the partition is paused. A trade takes about 40 bytes, a book about 700, others about
# 2 kB. Funding has no limit, because only its settlements are kept.
READ_AHEAD = {TRADES: 200_000, DEPTH: 20_000, SIGNALS: 5_000, STEPS: 5_000}
MESSAGES_PER_ROUND = 20_000
POLL_S = 0.02
RETRY_S = 0.5


class Executor:
    """Runs the paper book on every partition that the group assigns to this process.

    Args:
        settings: Environment.
        service: Stop flag, log, health.
        name: Executors with one name share the partitions and one journal.
        paper: Settings of the paper model.
        session_timeout_ms: Session timeout of the consumer group.
    """

    def __init__(
        self,
        settings: Settings,
        service: Service,
        *,
        name: str = "paper",
        paper: PaperSettings | None = None,
        session_timeout_ms: int = 10_000,
    ) -> None:
        self._settings = settings
        self._service = service
        self._log = service.log
        self._paper = paper or PaperSettings()
        self._group_name = settings.group(f"executor-{name}")
        self._session_timeout_ms = session_timeout_ms
        # The prefix separates environments that share a database.
        self._journal = Journal(settings.role_url("executor"), self._group_name)
        self._publisher = Publisher(settings)
        self._plain = {settings.topic(topic): topic for topic in TOPICS_READ}
        self._assigned: set[int] = set()
        self._runs: dict[int, PartitionRun] = {}
        self._resting: set[tuple[str, int]] = set()
        self._committed_at: dict[int, float] = {}
        self._group: Consumer | None = None
        self._kafka_down = False
        self._reader = self._new_reader()
        self._connected = False
        self._busy_at = time.monotonic()
        service.set_health(self._health)

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def run(self, until_idle: float | None = None) -> None:
        """Work until the service is stopped, or until nothing arrived for ``until_idle`` seconds.

        Raises:
            KafkaException: a fatal error of the Kafka client.
        """
        self._join()
        self._busy_at = time.monotonic()
        try:
            while not self._service.stopping.is_set():
                self._round()
                if until_idle is not None and self._assigned and time.monotonic() - self._busy_at > until_idle:
                    break
            with self._survived():
                self._commit_all(force=True)
        finally:
            if self._group is not None:
                self._group.close()
            self._reader.close()
            self._publisher.close()
            self._journal.close()

    def _round(self) -> None:
        with self._survived():
            if not self._connected:
                self._journal.connect()
                self._connected = True
            self._membership()
            self._claim_new()
            self._read()
            for run in list(self._runs.values()):
                if run.advance(STEPS_PER_COMMIT):
                    self._busy_at = time.monotonic()
            self._commit_all()
            self._rest_or_resume()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Handle a loss of the database, of Kafka or of a partition; afterwards the loop continues from the journal."""
        try:
            yield
        except psycopg.OperationalError as error:
            self._log.warning("the database does not answer; trying again", error=str(error).strip())
            self._connected = False
            self._drop(set(self._runs))
            self._membership()
            self._service.stopping.wait(RETRY_S)
        except NotAcknowledged as error:
            # The rows are in the outbox; the next claim of the partitions sends them first.
            self._log.warning("kafka did not acknowledge; trying again", error=str(error))
            self._drop(set(self._runs))
            self._service.stopping.wait(RETRY_S)
        except FencedError as error:
            metrics.FENCED.labels("executor").inc()
            self._log.warning("fenced: another process owns the partition; joining the group again", reason=str(error))
            self._drop(set(self._runs))
            self._join()

    # --- membership ------------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Join the group as a new member. This consumer only keeps the membership, so its partitions stay paused."""
        if self._group is not None:
            self._group.close()
        self._assigned.clear()
        self._group = Consumer(
            {
                **QUIET,
                "error_cb": self._kafka_trouble,
                "bootstrap.servers": self._settings.kafka_bootstrap_servers,
                "group.id": self._group_name,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": self._session_timeout_ms,
            }
        )
        self._group.subscribe([self._settings.topic(STEPS)], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def _on_assign(self, group: Consumer, partitions: list[TopicPartition]) -> None:
        group.incremental_assign(partitions)
        if partitions:
            group.pause(partitions)
        self._assigned |= {one.partition for one in partitions}
        self._log.info("partitions assigned", partitions=sorted(one.partition for one in partitions))

    def _on_revoke(self, group: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {one.partition for one in partitions}
        self._assigned -= gone
        self._drop(gone & set(self._runs))
        self._log.info("partitions revoked", partitions=sorted(gone))

    def _membership(self) -> None:
        assert self._group is not None
        message = self._group.poll(0)
        error = None if message is None else message.error()
        if error is not None and error.fatal():
            raise KafkaException(error)

    def _claim_new(self) -> None:
        for partition in sorted(self._assigned - set(self._runs)):
            epoch, at = self._journal.claim(partition)
            unpublished = self._journal.unpublished(partition)
            if unpublished:
                self._publisher.publish(partition, unpublished)
                self._journal.forget(partition, unpublished[-1].seq + 1)
                self._log.info("unpublished records sent", partition=partition, records=len(unpublished))
            run = PartitionRun(partition, epoch, at, self._settings.codec, self._paper, self._refuser(partition))
            starts = [TopicPartition(self._settings.topic(topic), partition, start) for topic, start in run.start_offsets().items()]
            self._reader.incremental_assign(starts)
            self._runs[partition] = run
            self._committed_at[partition] = self._busy_at = time.monotonic()

    def _drop(self, partitions: set[int]) -> None:
        """Drop partitions. The next owner recomputes what was not journalled."""
        if partitions:
            self._reader.incremental_unassign([TopicPartition(topic, one) for one in sorted(partitions) for topic in self._plain])
        for one in partitions:
            del self._runs[one]
        self._resting = {(topic, one) for topic, one in self._resting if one not in partitions}
        self._show()

    # --- reading ---------------------------------------------------------------------------------------------------------------

    def _new_reader(self) -> Consumer:
        return Consumer(
            {
                **QUIET,
                "error_cb": self._kafka_trouble,
                "bootstrap.servers": self._settings.kafka_bootstrap_servers,
                # The client requires a group id. Nothing joins the group or commits to it.
                "group.id": f"{self._group_name}-reader",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )

    def _kafka_trouble(self, error: KafkaError) -> None:
        """Log once for each outage that no broker answers; the client retries by itself."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._kafka_down:
            self._kafka_down = True
            self._log.warning("no kafka broker answers; the client keeps trying", error=error.str())

    def _read(self) -> None:
        batches: dict[tuple[str, int], list[Any]] = defaultdict(list)
        ends: list[tuple[str, int, int]] = []
        for message in self._reader.consume(MESSAGES_PER_ROUND, POLL_S):
            error = message.error()
            # The client's types allow None, but a consumed message always has a partition.
            topic, partition = self._plain.get(str(message.topic()), ""), message.partition() or 0
            if error is None:
                batches[topic, partition].append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ends.append((topic, partition, message.offset() or 0))
            elif error.fatal():
                raise KafkaException(error)
            else:
                self._log.warning("reading", error=error.str())
        if batches:
            self._kafka_down = False
        for (topic, partition), messages in batches.items():
            if partition in self._runs:
                self._runs[partition].offer(topic, messages)
                self._busy_at = time.monotonic()
        for topic, partition, offset in ends:
            if partition in self._runs:
                self._runs[partition].reached(topic, offset)

    def _refuser(self, partition: int) -> Any:
        def refuse(topic: str, message: Message, error: CodecError) -> None:
            _, stamp = message.timestamp()
            letter = dead_letter(
                "executor",
                topic,
                str(error),
                event_time=stamp,
                partition=partition,
                offset=message.offset(),
                field=error.field,
                key=message.key(),
                value=message.value(),
            )
            self._publisher.dead_letter(letter)

        return refuse

    def _rest_or_resume(self) -> None:
        """Limit read-ahead: pause a topic while enough of it is buffered and no step waits for it."""
        for partition, run in self._runs.items():
            for topic, limit in READ_AHEAD.items():
                rest = run.rows_ahead(topic) > limit and not run.wants(topic)
                if rest != ((topic, partition) in self._resting):
                    where = [TopicPartition(self._settings.topic(topic), partition)]
                    (self._reader.pause if rest else self._reader.resume)(where)
                    self._resting ^= {(topic, partition)}

    # --- journalling -------------------------------------------------------------------------------------------------------------

    def _commit_all(self, force: bool = False) -> None:
        now = time.monotonic()
        for partition, run in self._runs.items():
            if run.outputs or (run.is_ahead and (force or now - self._committed_at[partition] > IDLE_COMMIT_S)):
                self._commit(run)
                self._committed_at[partition] = now
        self._show()

    def _commit(self, run: PartitionRun) -> None:
        expected = run.committed.progress_offset
        checkpoint, rows = run.checkpoint()
        self._journal.commit(run.partition, run.epoch, expected, checkpoint, rows)
        for topic, record in run.was_committed(checkpoint):
            if topic == "trades_closed":
                metrics.TRADES_CLOSED.labels(MODE, record["exit_reason"]).inc()
            elif topic == "orders":
                metrics.ORDERS.labels(MODE, record["leg"], record["status"]).inc()
        if rows:
            # The process may have been frozen during the commit; then a successor has sent these rows already.
            if not self._journal.owns(run.partition, run.epoch):
                raise FencedError(f"partition {run.partition}: epoch {run.epoch} ended before its records were sent")
            self._publisher.publish(run.partition, rows)
            self._journal.forget(run.partition, checkpoint.next_seq)
        self._tell_group(run)

    def _tell_group(self, run: PartitionRun) -> None:
        """Commit the position to Kafka for lag tools. Nothing starts from it."""
        assert self._group is not None
        if run.partition in self._assigned:
            at = TopicPartition(self._settings.topic(STEPS), run.partition, run.committed.progress_offset)
            self._group.commit(offsets=[at], asynchronous=True)

    # --- what the world sees --------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        metrics.POSITIONS_OPEN.labels(MODE).set(sum(run.book.open_positions() for run in self._runs.values()))
        for partition, run in self._runs.items():
            if run.committed.event_time is not None:
                metrics.EXECUTOR_EVENT_TIME.labels(str(partition)).set(run.committed.event_time / 1000)

    def _health(self) -> dict[str, Any]:
        runs = dict(self._runs)
        return {
            "ok": self._connected,
            "partitions": sorted(runs),
            "steps_waiting": sum(run.rows_ahead(STEPS) for run in runs.values()),
            "positions_open": sum(run.book.open_positions() for run in runs.values()),
        }
