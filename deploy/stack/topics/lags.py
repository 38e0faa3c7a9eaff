"""Lag of the topics' readers: consumer groups by Kafka's offsets, sinks by their offsets in the database."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas import catalogue
from schemas.cluster import TopicError, admin, partition_counts
from schemas.settings import Settings


@dataclass(frozen=True)
class Lag:
    """Lag of one reader on one topic.

    Attributes:
        reader: Consumer group, or ``sink NAME`` for a sink that keeps its offsets in the database.
        topic: Wire name.
        partitions: Number of partitions with a position of the reader.
        lag: Number of records between its positions and the ends.
    """

    reader: str
    topic: str
    partitions: int
    lag: int


def end_offsets(client: AdminClient, places: list[TopicPartition]) -> dict[tuple[str, int], int]:
    """Return the end offset of each partition."""
    found = client.list_offsets({place: OffsetSpec.latest() for place in places}) if places else {}
    return {(place.topic, place.partition): future.result(20).offset for place, future in found.items()}


def record_counts(client: AdminClient, places: list[TopicPartition]) -> dict[tuple[str, int], int]:
    """Return end offset minus oldest offset of each partition: its number of records, unless compaction removed some."""
    if not places:
        return {}
    oldest = client.list_offsets({place: OffsetSpec.earliest() for place in places})
    ends = end_offsets(client, places)
    return {
        (place.topic, place.partition): ends[place.topic, place.partition] - future.result(20).offset for place, future in oldest.items()
    }


def lags(settings: Settings) -> list[Lag]:
    """Return the lags of this environment's consumer groups and, when DATABASE_URL is set, of its sinks.

    Raises:
        TopicError: the cluster or the database does not answer.
    """
    client = admin(settings)
    counts = partition_counts(client, settings)
    positions = _group_positions(client, settings)
    positions.update(_sink_positions(settings))
    places = sorted({place for offsets in positions.values() for place in offsets if place[0] in counts})
    ends = end_offsets(client, [TopicPartition(*place) for place in places])
    result = []
    for reader, offsets in sorted(positions.items()):
        behind: dict[str, list[int]] = defaultdict(list)
        for place, offset in offsets.items():
            if place in ends:
                behind[place[0]].append(max(0, ends[place] - offset))
        result += [Lag(reader, topic, len(each), sum(each)) for topic, each in sorted(behind.items())]
    return result


def _group_positions(client: AdminClient, settings: Settings) -> dict[str, dict[tuple[str, int], int]]:
    try:
        listed = client.list_consumer_groups(request_timeout=10).result(20).valid
        groups = [group.group_id for group in listed if group.group_id.startswith(settings.group(""))]
        found: dict[str, dict[tuple[str, int], int]] = {}
        for group in groups:  # one request per group: a limit of this client
            answer = next(iter(client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values())).result(20)
            committed = [place for place in answer.topic_partitions or [] if place.offset >= 0]
            found[group] = {(place.topic, place.partition): place.offset for place in committed}
    except KafkaException as error:
        raise TopicError(f"consumer groups at {settings.kafka_bootstrap_servers}: {error.args[0].str()}") from error
    return found


def _sink_positions(settings: Settings) -> dict[str, dict[tuple[str, int], int]]:
    if not settings.database_url:
        return {}
    import psycopg

    try:
        with psycopg.connect(settings.role_url("reader"), connect_timeout=5) as connection:
            if connection.execute("SELECT to_regclass('sink_offsets')").fetchone() == (None,):
                return {}
            rows = connection.execute("SELECT sink, topic, partition, next_offset FROM sink_offsets").fetchall()
    except psycopg.OperationalError as error:
        raise TopicError(f"the database of DATABASE_URL does not answer: {error}") from error
    found: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
    for sink, topic, partition, offset in rows:
        name = settings.topic(topic) if topic in catalogue.TOPICS else topic
        found[f"sink {sink}"][name, partition] = offset
    return found
