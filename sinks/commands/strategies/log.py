"""Read the topic ``strategies``: accepted and rejected records, and the market time of the progress marks.

The worker, this reader and the sink's registry share one rule, ``stream_apps.core.signals.strategy.succeeds``. In partition order, a record is accepted if
it is valid and newer than the accepted one before. So all readers agree without communication.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.cluster import admin, partition_counts
from schemas.codec.avro import CodecError, Record
from schemas.errors import UserError
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError
from stream_apps.core.signals.strategy_rules import check_together, strategy_from_record, succeeds

TIMEOUT_S = 30.0
# Marks to search for the newest market mark: more than producers write while commands write theirs.
_TAIL = 200


@dataclass(frozen=True)
class RejectedRevision:
    """A rejected record of the topic: its position and the reason."""

    partition: int
    offset: int
    strategy_id: str
    reason: str

    def __str__(self) -> str:
        return f"strategies partition {self.partition} offset {self.offset} ({self.strategy_id}): {self.reason}"


@dataclass
class StrategyLog:
    """The content of the topic.

    Attributes:
        revisions: Strategy id -> its accepted revisions, oldest first (as far back as the topic reaches).
        refused: Rejected records.
        last: Strategy id -> its last readable record, accepted or not; compaction keeps this one.
        ends: Partition -> offset after its last record; 0 without one. A transaction marker may follow it.
        next: Partition -> offset of the next record.
    """

    revisions: dict[str, list[StrategyConfig]] = field(default_factory=dict)
    refused: list[RejectedRevision] = field(default_factory=list)
    last: dict[str, StrategyConfig] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)

    @property
    def newest(self) -> dict[str, StrategyConfig]:
        """The newest revision of every strategy."""
        return {strategy_id: revisions[-1] for strategy_id, revisions in self.revisions.items()}

    def unsettled(self) -> list[StrategyConfig]:
        """Return the newest revisions that compaction would lose to a later rejected record."""
        return [config for strategy_id, config in self.newest.items() if self.last[strategy_id] != config]

    def take(self, settings: Settings, message: Message) -> None:
        """Add the next record of a partition."""
        partition, offset, key = message.partition() or 0, message.offset() or 0, (message.key() or b"").decode("utf-8", "replace")
        self.ends[partition] = offset + 1
        try:
            config = strategy_from_record(settings.codec.decode("strategies", message.value()))
            held = self.revisions.get(config.strategy_id)
            if base := _wrong_partition(settings, config, partition):
                raise StrategyError("instrument", f"records of {base} belong into partition {settings.partition_of(base)}")
            self.last[config.strategy_id] = config
            if succeeds(held[-1] if held else None, config):
                check_together(config, settings.groups)
                self.revisions.setdefault(config.strategy_id, []).append(config)
        except (CodecError, StrategyError) as error:
            self.refused.append(RejectedRevision(partition, offset, key, str(error)))


def partition_for(settings: Settings, config: StrategyConfig) -> int:
    """Return the partition of a strategy: that of its instruments' base assets. Raises StrategyError if they have several."""
    check_together(config, settings.groups)
    return settings.partition_of(base_of_instrument(config.instrument))


def _wrong_partition(settings: Settings, config: StrategyConfig, partition: int) -> str | None:
    """Return the base asset of a strategy in a wrong partition, where no worker evaluates it; else None."""
    try:
        base = base_of_instrument(config.instrument)
    except ValueError:
        return None  # the rules say so better
    return base if settings.partition_of(base) != partition else None


def read(settings: Settings) -> StrategyLog:
    """Read the topic to its end.

    Raises:
        UserError: no answer, or a topic that is missing or has another partition count.
    """
    topic = settings.topic("strategies")
    _check_topics(settings)
    log = StrategyLog()
    consumer = _consumer(settings)
    try:
        # From offset 0, or from the log's start if that is later. A query for the start would take the client half a second.
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(settings.partitions)])
        unread = set(range(settings.partitions))
        while unread:
            message = consumer.poll(TIMEOUT_S)
            if message is None:
                raise UserError(f"{topic}: no answer from Kafka for {TIMEOUT_S:.0f} s")
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition() or 0)
                log.next[message.partition() or 0] = message.offset() or 0
                log.ends.setdefault(message.partition() or 0, 0)
            elif error is not None:
                raise UserError(f"{topic}: {error.str()}")
            else:
                log.take(settings, message)
    finally:
        consumer.close()
    return log


def market_marks(settings: Settings, partitions: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
    """Return (offset, event time) of the producers' last marks for each partition, without the marks of commands.

    Raises:
        UserError: no answer.
    """
    topic = settings.topic("progress")
    consumer = _consumer(settings)
    found: dict[int, list[tuple[int, int]]] = {partition: [] for partition in partitions}
    try:
        starts = []
        for partition in found:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
            if high > low:
                starts.append(TopicPartition(topic, partition, max(low, high - _TAIL)))
        if starts:
            consumer.assign(starts)
        unread = {start.partition for start in starts}
        while unread:
            message = consumer.poll(TIMEOUT_S)
            if message is None:
                raise UserError(f"{topic}: no answer from Kafka for {TIMEOUT_S:.0f} s")
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition() or 0)
            elif error is not None:
                raise UserError(f"{topic}: {error.str()}")
            elif (mark := _mark(settings, message)) is not None and mark["venue"]:
                found[message.partition() or 0].append((message.offset() or 0, mark["event_time"]))
    except KafkaException as error:
        raise UserError(f"{topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return found


def _mark(settings: Settings, message: Message) -> Record | None:
    try:
        return settings.codec.decode("progress", message.value())
    except CodecError:
        return None  # the worker rejects it, too


def _consumer(settings: Settings) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": settings.group("strategies"),  # required by the client; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )


def _check_topics(settings: Settings) -> None:
    counts = partition_counts(admin(settings), settings)
    for name in ("strategies", "progress"):
        found = counts.get(settings.topic(name))
        if found is None:
            raise UserError(f"topic {settings.topic(name)} does not exist; create it with: perpflow topics create")
        if found != settings.partitions:
            raise UserError(f"topic {settings.topic(name)} has {found} partitions, PERPFLOW_PARTITIONS says {settings.partitions}")
