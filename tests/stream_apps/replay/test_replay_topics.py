"""Topics read partition by partition while the next one's records are fetched early: the same records as a stock consumer reads, whatever the cut."""

from __future__ import annotations

import random

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.settings import Settings
from stream_apps.replay.sources import topics as reading
from stream_apps.replay.sources.topics import TopicSource

pytestmark = pytest.mark.stack

TOPICS = ("agg_trades", "progress", "instruments")
Found = dict[tuple[str, int], list[tuple[int, bytes]]]


@pytest.fixture
def written(environment: Settings, topics: list[str]) -> Found:
    """Write records of unequal number and size: one partition has none, one only those of one topic."""
    chance = random.Random(11)
    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers, "batch.num.messages": 7, "linger.ms": 1})
    found: Found = {}
    for partition in range(environment.partitions):
        for topic in TOPICS:
            count = 0 if partition == 3 or (partition == 5 and topic != "progress") else chance.randrange(1, 400)
            values = [chance.randbytes(chance.randrange(1, 300)) for _ in range(count)]
            for number, value in enumerate(values):
                producer.produce(environment.topic(topic), value, str(number).encode(), partition)
            if values:
                found[topic, partition] = list(enumerate(values))
    assert producer.flush(30) == 0
    return found


def stock(settings: Settings, written: Found) -> Found:
    """Read the same with the stock client."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "stock", "enable.auto.commit": False})
    consumer.assign([TopicPartition(settings.topic(topic), partition, 0) for topic, partition in written])
    names = {settings.topic(topic): topic for topic in TOPICS}
    found: Found = {}
    while sum(map(len, found.values())) < sum(map(len, written.values())):
        for message in consumer.consume(1000, 5):
            found.setdefault((names[message.topic()], message.partition()), []).append((message.offset(), message.value()))
    consumer.close()
    return found


@pytest.mark.parametrize("fetch_bytes", [2_000, 8 * 1024 * 1024])
def test_every_record_once(environment: Settings, written: Found, monkeypatch: pytest.MonkeyPatch, fetch_bytes: int) -> None:
    monkeypatch.setattr(reading, "FETCH_BYTES", fetch_bytes)
    truth = stock(environment, written)
    assert truth == written
    found: Found = {}
    order = []
    with TopicSource(environment, TOPICS) as source:
        assert {partition for partition in range(environment.partitions) if source.ends(partition)} == {place[1] for place in written}
        for partition, topic, records in source.everything():
            order.append(partition)
            rows = records.rows(0, len(records))
            found.setdefault((topic, partition), []).extend((int(rows.offsets[row]), bytes(rows.value(row))) for row in range(len(rows)))
    assert found == truth
    assert order == sorted(order)


def test_what_was_fetched_early_is_not_taken_for_another_start(environment: Settings, written: Found) -> None:
    """A partition may be read from elsewhere than was said, again, or after one that was left in the middle."""
    with TopicSource(environment, TOPICS) as source:

        def offsets(partition: int, starts: dict[str, int], then: tuple[int, dict[str, int]] | None = None) -> list[int]:
            return [
                int(offset)
                for topic, records in source.records(partition, starts=starts, then=then)
                if topic == "progress"
                for offset in records.offsets
            ]

        whole = [offset for offset, _ in written["progress", 1]]
        assert offsets(0, {}, then=(1, {})) == [offset for offset, _ in written["progress", 0]]
        assert offsets(1, {"progress": len(whole) - 1}) == whole[-1:]
        assert offsets(1, {}) == whole
        for _ in source.records(0, then=(1, {"progress": 1})):
            break
        assert offsets(1, {"progress": 1}) == whole[1:]
        assert offsets(3, {}) == []


def test_records_written_later_are_left_to_the_next_reading(environment: Settings, written: Found) -> None:
    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers})
    with TopicSource(environment, TOPICS) as source:
        producer.produce(environment.topic("progress"), b"late", b"k", 2)
        assert producer.flush(30) == 0
        read = [int(offset) for topic, records in source.records(2) if topic == "progress" for offset in records.offsets]
    assert read == [offset for offset, _ in written["progress", 2]]
