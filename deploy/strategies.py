"""Write strategies to the ``strategies`` topic and read them back, from the outside of the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from deploy.errors import UserError
from deploy.stack.topics import admin, partition_counts
from schemas.codec import CodecError
from schemas.partition import base_of_instrument, partition_of
from schemas.settings import Settings
from stream_apps.core.strategy import StrategyConfig, next_revision

# Author of the control marks; they say "the strategies topic holds up to here" and fire nothing.
AUTHOR = "strategies"
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of one strategy: its newest revision, and whether this call wrote it."""

    config: StrategyConfig
    written: bool


def read(settings: Settings) -> dict[str, StrategyConfig]:
    """Return the newest revision of every strategy by id.

    Raises:
        UserError: no answer, a topic that is missing, or a record that cannot be read (with its position).
    """
    topic = settings.topic("strategies")
    _check_topics(settings)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": settings.group("strategies"),  # asked for by the client; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    newest: dict[str, StrategyConfig] = {}
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(settings.partitions)])
        unread = set(range(settings.partitions))
        while unread:
            message = consumer.poll(_TIMEOUT_S)
            if message is None:
                raise UserError(f"{topic}: no answer from Kafka for {_TIMEOUT_S:.0f} s")
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition() or 0)
            elif error is not None:
                raise UserError(f"{topic}: {error.str()}")
            else:
                config = _decoded(settings, message)
                newest[config.strategy_id] = config
    finally:
        consumer.close()
    return newest


def publish(settings: Settings, wanted: Sequence[StrategyConfig], time: int) -> list[Outcome]:
    """Make strategies hold: write what differs from the topic as the next revision, then the control marks that let it take effect.

    All are checked before any is written. The marks are written even when nothing differs: so doing it again completes a call
    that was cut off between revision and mark. Two writers at the same time are not kept apart: the later record holds.

    Args:
        settings: The environment.
        wanted: The strategies; revisions and times in them are ignored.
        time: Time of the edit, ms UTC.

    Raises:
        StrategyError: a configuration or an edit that is not allowed (D17); nothing was written.
        UserError: Kafka did not take a record.
    """
    current = read(settings)
    outcomes = []
    for config in wanted:
        known = current.get(config.strategy_id)
        revision = next_revision(known, config, time)
        outcomes.append(Outcome(revision or known or config, revision is not None))
    written = [outcome.config for outcome in outcomes if outcome.written]
    _produce(settings, "strategies", [(config.strategy_id, _partition(settings, config), config.to_record()) for config in written])
    ends = _ends(settings, sorted({_partition(settings, outcome.config) for outcome in outcomes}))
    at = max([time, *(outcome.config.event_time for outcome in outcomes)])
    marks = [
        (AUTHOR, partition, {"author": AUTHOR, "venue": "", "event_time": at, "receive_time": at, "cut": {"strategies": end}})
        for partition, end in ends.items()
    ]
    _produce(settings, "progress", marks)
    return outcomes


def _partition(settings: Settings, config: StrategyConfig) -> int:
    return partition_of(base_of_instrument(config.instrument), settings.partitions)


def _check_topics(settings: Settings) -> None:
    counts = partition_counts(admin(settings), settings)
    for name in ("strategies", "progress"):
        found = counts.get(settings.topic(name))
        if found is None:
            raise UserError(f"topic {settings.topic(name)} does not exist; create it with: perpflow topics create")
        if found != settings.partitions:
            raise UserError(f"topic {settings.topic(name)} has {found} partitions, PERPFLOW_PARTITIONS says {settings.partitions}")


def _decoded(settings: Settings, message: Message) -> StrategyConfig:
    try:
        return StrategyConfig.from_record(settings.codec.decode("strategies", message.value()))
    except (CodecError, ValueError) as error:
        raise UserError(f"{message.topic()} partition {message.partition()} offset {message.offset()}: {error}") from error


def _produce(settings: Settings, name: str, records: Sequence[tuple[str, int, dict[str, Any]]]) -> None:
    """Send (key, partition, record) to a topic and wait until all are acknowledged."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "enable.idempotence": True, "log_level": 0})
    failed: list[str] = []

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error.str())

    encode = settings.codec.encoder(name)
    for key, partition, record in records:
        producer.produce(
            settings.topic(name),
            key=key.encode(),
            value=encode(record),
            partition=partition,
            timestamp=record["event_time"],
            on_delivery=on_delivery,
        )
    unsent = producer.flush(_TIMEOUT_S)
    if failed or unsent:
        raise UserError(f"{settings.topic(name)}: {failed[0] if failed else f'{unsent} records not acknowledged'}")


def _ends(settings: Settings, partitions: Sequence[int]) -> dict[int, int]:
    """Return the next offset of each of some partitions of the strategies topic."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.group("strategies"), "log_level": 0})
    try:
        ends = {}
        for partition in partitions:
            _, ends[partition] = consumer.get_watermark_offsets(TopicPartition(settings.topic("strategies"), partition), timeout=_TIMEOUT_S)
        return ends
    except KafkaException as error:
        raise UserError(f"{settings.topic('strategies')}: {error.args[0].str()}") from error
    finally:
        consumer.close()
