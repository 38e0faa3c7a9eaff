"""Logs of messages into archives and topics, and back."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from schemas import catalogue
from schemas.archive.manifest import Manifest, manifests
from schemas.archive.read import PartitionReader
from schemas.codec.avro import Codec
from schemas.codec.recordset import RecordSet
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.archive.service import Archiver, Options
from sinks.archive.writer import ArchiveWriter
from sinks.consuming.reader import PartitionBatch
from tests.support.timescale.timescale_records import record

CODEC = Codec()
Message = tuple[int, int, bytes | None, bytes | None]
Place = tuple[str, int]
INSTRUMENTS = ("BINANCE:BTCUSDT-PERP", "BYBIT:ETHUSDT-PERP", "OKX:SOL-USDT")


class Log:
    """Takes what a writer says."""

    def info(self, *arguments: Any, **more: Any) -> None:
        """Nothing to tell."""

    warning = error = debug = info


def batches_of(place: Place, messages: list[Message], size: int) -> Iterator[PartitionBatch]:
    """Cut messages into batches, as the archiver's loop does."""
    expected = 0
    for at in range(0, len(messages), size):
        part = messages[at : at + size]
        end = part[-1][0] + 1
        half = max(1, len(part) // 2)
        yield PartitionBatch(
            place, expected, end, RecordSet.joined([RecordSet.from_messages(piece) for piece in (part[:half], part[half:]) if piece])
        )
        expected = end


def archived(root: Path, logs: dict[Place, list[Message]], size: int = 10_000, merge: bool = True) -> ArchiveWriter:
    """Archive whole logs; return the writer."""
    writer = ArchiveWriter(root, CODEC, Log())
    writer.claim(logs, {topic: f"id of {topic}" for topic, _ in logs})
    for place, messages in logs.items():
        for batch in batches_of(place, messages, size):
            assert writer.write([batch]).written == {place: batch.next_offset}
            if merge:
                writer.merge(place)
    return writer


def content(root: Path) -> dict[Place, list[Message]]:
    """Return everything that an archive holds, as it was in the topics."""
    found = {}
    for manifest in manifests(root):
        messages = list(PartitionReader(root, CODEC, manifest.topic, manifest.load()).messages())
        if messages:
            found[manifest.topic, manifest.partition] = messages
    return found


def next_offsets(root: Path) -> dict[Place, int]:
    """Return what the manifests say."""
    return {(one.topic, one.partition): one.load().next_offset for one in manifests(root)}


def market(topic: str, count: int, seed: int, start: int = 0) -> list[Message]:
    """Return valid records of three instruments over two days, with a broken one here and there."""
    rng = random.Random(seed)
    made: list[Message] = []
    for number in range(count):
        name = rng.choice(INSTRUMENTS)
        time = 1_723_075_200_000 + (start + number) * 1_000 + (43_200_000 if number % 11 == 0 else 0)
        one = {**record(topic, number, rng, True), "event_time": time}
        if "instrument" in one:
            one["instrument"] = name
        value = CODEC.encode(topic, one) if rng.random() > 0.01 else b"no record"
        made.append((start + number, time, name.encode(), value))
    return made


class Feeder:
    """Writes into the topics of an environment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "enable.idempotence": True, "linger.ms": 5})

    def fill(self, seed: int, count: int, topics: tuple[str, ...] = tuple(catalogue.TOPICS)) -> None:
        """Write ``count`` records to each topic, over its partitions."""
        for topic in topics:
            partitions = catalogue.TOPICS[topic].partition_count(self._settings.partitions)
            for number, (_, time, key, value) in enumerate(market(topic, count, seed)):
                self._producer.produce(self._settings.topic(topic), value, key, number % partitions, timestamp=time)
            self._producer.poll(0)
        assert self._producer.flush(60) == 0


def in_topics(settings: Settings, topics: tuple[str, ...] = tuple(catalogue.TOPICS)) -> dict[Place, list[Message]]:
    """Return what the topics hold, read by a plain consumer."""
    names = {settings.topic(topic): topic for topic in topics}
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "nobody", "enable.auto.commit": False, "fetch.wait.max.ms": 10}
    )
    places = [
        TopicPartition(wire, partition, 0)
        for wire, topic in names.items()
        for partition in range(catalogue.TOPICS[topic].partition_count(settings.partitions))
    ]
    ends = {(place.topic, place.partition): consumer.get_watermark_offsets(place, timeout=10)[1] for place in places}
    consumer.assign(places)
    found: dict[Place, list[Message]] = {}
    missing = sum(ends.values())
    while missing > 0:
        for message in consumer.consume(10_000, 1.0):
            assert message.error() is None, message.error()
            place = (names[str(message.topic())], message.partition())
            found.setdefault(place, []).append((message.offset(), message.timestamp()[1], message.key(), message.value()))
            missing -= 1
    consumer.close()
    return found


@contextlib.contextmanager
def archiver_thread(settings: Settings, root: Path, **options: Any) -> Iterator[tuple[Service, Archiver]]:
    """Run the archiver in a thread of this process; stopped at the end, and its failure is raised."""
    failed: list[BaseException] = []
    with Service("archive") as service:
        archiver = Archiver(settings, Options(root, session_timeout_ms=6000, **options), service)

        def run() -> None:
            try:
                archiver.run()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield service, archiver
        finally:
            service.stop()
            thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def manifest_of(root: Path, place: Place) -> Manifest:
    """Return a place's manifests."""
    return Manifest(root, *place)
