"""The topic ``engine_settings`` as the workers read it: the revisions of one engine that hold, and the records that were refused."""

from __future__ import annotations

from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, TopicPartition

from schemas.cluster import admin, partition_counts
from schemas.codec.avro import CodecError
from schemas.errors import UserError
from schemas.settings import Settings
from stream_apps.core.log.engine_settings import TOPIC, SettingsError, SettingsInForce, SettingsLog, SettingsRevision

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Refused:
    """A record of the topic that no worker uses: where it is and why."""

    partition: int
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{TOPIC} partition {self.partition} offset {self.offset}: {self.reason}"


@dataclass
class EngineSettings:
    """What the topic holds of one engine.

    Attributes:
        engine: Its name.
        revisions: Those that hold, oldest first, each once, as far back as the topic reaches.
        in_force: All numbers that are set after the newest one.
        refused: Records that hold nowhere.
        ends: Partition -> offset after its last record; 0 without one.
        next: Partition -> offset at which the next record will stand.
    """

    engine: str
    revisions: list[SettingsRevision] = field(default_factory=list)
    in_force: SettingsInForce = field(default_factory=SettingsInForce)
    refused: list[Refused] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)

    @property
    def revision(self) -> int:
        """The newest revision; 0: nothing was ever set."""
        return self.in_force.revision


def read(settings: Settings, rules: SettingsLog) -> EngineSettings:
    """Read the topic to its end; only what was committed.

    Args:
        settings: The environment.
        rules: A log without revisions: the engine and its rules.

    Raises:
        UserError: no answer, or a topic that is missing or has another partition count.
    """
    topic = settings.topic(TOPIC)
    found = partition_counts(admin(settings), settings).get(topic)
    if found != settings.partitions:
        has = (
            "does not exist; create it with: perpflow topics create"
            if found is None
            else f"has {found} partitions, not {settings.partitions}"
        )
        raise UserError(f"topic {topic} {has}")
    records: dict[int, list[tuple[int, bytes | None]]] = {partition: [] for partition in range(settings.partitions)}
    log = EngineSettings(rules.engine)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": settings.group("engine-settings"),  # asked for by the client; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in records])
        unread = set(records)
        while unread:
            message = consumer.poll(TIMEOUT_S)
            if message is None:
                raise UserError(f"{topic}: no answer from Kafka for {TIMEOUT_S:.0f} s")
            error, partition, offset = message.error(), message.partition() or 0, message.offset() or 0
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                unread.discard(partition)
                log.next[partition] = offset
                log.ends.setdefault(partition, 0)
            elif error is not None:
                raise UserError(f"{topic}: {error.str()}")
            else:
                records[partition].append((offset, message.value()))
                log.ends[partition] = offset + 1
    finally:
        consumer.close()
    _fold(settings, log, rules, records)
    return log


def _fold(settings: Settings, log: EngineSettings, rules: SettingsLog, records: dict[int, list[tuple[int, bytes | None]]]) -> None:
    """Fold the records of each partition by the workers' rule, then put the revisions that hold in order."""
    held: dict[int, SettingsRevision] = {}
    for partition, found in records.items():
        one = rules.anew()
        for offset, value in found:
            try:
                revision = SettingsRevision.from_record(settings.codec.decode(TOPIC, value))
                if one.take(revision):
                    held[revision.revision] = revision
            except (CodecError, SettingsError) as error:
                log.refused.append(Refused(partition, offset, str(error)))
    log.revisions = [held[number] for number in sorted(held)]
    for revision in log.revisions:
        log.in_force = log.in_force.with_revision(revision)
