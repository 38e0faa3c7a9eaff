"""Read decoded records of a topic from any position, without a consumer group and without commits."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas import catalogue
from schemas.cluster import TopicError, admin, partition_counts
from schemas.codec.avro import CodecError
from schemas.errors import UserError
from schemas.settings import Settings


@dataclass(frozen=True)
class Shown:
    """One decoded record.

    Attributes:
        key: Key as text. Bytes that are not text become hexadecimal digits.
        partition: Partition.
        offset: Offset.
        timestamp: Record timestamp, ms UTC: the event time.
        value: Decoded value. None for an undecodable value or a tombstone.
        error: Reason why the value is undecodable.
    """

    key: str | None
    partition: int
    offset: int
    timestamp: int
    value: dict[str, Any] | None
    error: str | None = None

    def as_json(self) -> str:
        """Return the record as one line of JSON, bytes in base64."""
        line: dict[str, Any] = {"key": self.key, "partition": self.partition, "offset": self.offset, "timestamp": self.timestamp}
        line["value"] = self.value
        if self.error is not None:
            line["error"] = self.error
        return json.dumps(line, default=lambda value: base64.b64encode(value).decode(), ensure_ascii=False)


def wire_name(settings: Settings, topic: str) -> str:
    """Return the wire name of a topic of the catalogue. Raises UserError with the known topics."""
    if topic not in catalogue.TOPICS:
        raise UserError(f"there is no topic {topic!r}; the catalogue has {', '.join(catalogue.TOPICS)}")
    return settings.topic(topic)


def read(settings: Settings, topic: str, partition: int | None = None, beginning: bool = True, follow: bool = False) -> Iterator[Shown]:
    """Yield the records of a topic of the catalogue, in order within each partition.

    Args:
        settings: Broker, topic prefix and codec.
        topic: Plain name.
        partition: Only this partition. None: all.
        beginning: Start at the oldest retained record. Otherwise return only new records.
        follow: Wait for new records at the end. Otherwise stop at the end of the topic at the time of the call.

    Raises:
        UserError: the topic or partition does not exist, or the broker does not answer.
    """
    name = wire_name(settings, topic)
    count = partition_counts(admin(settings), settings).get(name)
    if count is None:
        raise TopicError(f"topic {name} does not exist on {settings.kafka_bootstrap_servers}: `perpflow topics create` creates it")
    if partition is not None and not 0 <= partition < count:
        raise TopicError(f"topic {name} has the partitions 0 to {count - 1}, not {partition}")
    chosen = range(count) if partition is None else [partition]
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": "perpflow-reader",  # the client requires a group, but never joins it
            "enable.auto.commit": False,
            "log_level": 0,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        yield from _read(consumer, settings, topic, [TopicPartition(name, number) for number in chosen], beginning, follow)
    except KafkaException as error:
        raise TopicError(f"{name}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _read(
    consumer: Consumer, settings: Settings, topic: str, places: list[TopicPartition], beginning: bool, follow: bool
) -> Iterator[Shown]:
    limits = {place.partition: consumer.get_watermark_offsets(place, timeout=10) for place in places}
    starts = [TopicPartition(place.topic, place.partition, limits[place.partition][0 if beginning else 1]) for place in places]
    consumer.assign(starts)
    open_ends = {start.partition: limits[start.partition][1] for start in starts if start.offset < limits[start.partition][1]}
    while follow or open_ends:
        for message in consumer.consume(500, timeout=0.5):
            if error := message.error():
                raise KafkaException(error)
            number, offset = message.partition(), message.offset()
            assert number is not None and offset is not None  # the message has no error
            if follow or offset < limits[number][1]:
                yield _shown(settings, topic, number, offset, message)
        if not follow:
            # By position, not by offset of the last record: compaction and transaction markers leave gaps at the end.
            for position in consumer.position([TopicPartition(places[0].topic, number) for number in open_ends]):
                if position.offset >= open_ends[position.partition]:
                    del open_ends[position.partition]


def _shown(settings: Settings, topic: str, partition: int, offset: int, message: Any) -> Shown:
    raw_key = message.key()
    try:
        key = raw_key.decode() if raw_key is not None else None
    except UnicodeDecodeError:
        key = raw_key.hex()
    if message.value() is None:
        return Shown(key, partition, offset, message.timestamp()[1], None)
    try:
        return Shown(key, partition, offset, message.timestamp()[1], settings.codec.decode(topic, message.value()))
    except CodecError as error:
        return Shown(key, partition, offset, message.timestamp()[1], None, error.reason)
