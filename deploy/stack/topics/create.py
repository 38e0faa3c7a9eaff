"""Create the topics of the catalogue on a cluster, and report differences between them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from schemas import catalogue
from schemas.cluster import TopicError, admin, partition_counts
from schemas.settings import Settings

TIMEOUT_S = 120.0
POLL_S = 0.25  # a question about some hundred partitions that are not led yet costs the broker as much as making several of them


def wanted(settings: Settings) -> dict[str, tuple[int, dict[str, str]]]:
    """Return partition count and broker configuration by wire name for every topic of the catalogue."""
    result = {}
    for topic in catalogue.TOPICS.values():
        config = topic.config()
        if settings.keep_history and not topic.compacted:
            config["retention.ms"] = "-1"
        result[settings.topic(topic.name)] = (topic.partition_count(settings.partitions), config)
    return result


def create_topics(settings: Settings) -> list[str]:
    """Create the missing topics of the catalogue. Return their wire names. Safe to repeat.

    Raises:
        TopicError: the cluster does not answer, rejects the request, or has a topic with another partition count. The count
            decides the partition of an asset, so it cannot change under existing data.
    """
    client = admin(settings)
    topics = wanted(settings)
    there = partition_counts(client, settings)
    missing = [name for name in topics if name not in there]
    new = [
        NewTopic(name, num_partitions=topics[name][0], replication_factor=settings.replication_factor, config=topics[name][1])
        for name in missing
    ]
    refused = []
    for name, future in (client.create_topics(new, operation_timeout=TIMEOUT_S) if new else {}).items():
        try:
            future.result()
        except KafkaException as error:
            # Another process created it at the same time. Its partitions are checked below.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                refused.append(f"{name}: {error.args[0].str()}")
    if refused:
        raise TopicError("Kafka refused to create topics: " + "; ".join(refused))
    _await(client, settings, topics)
    return missing


def _await(client: AdminClient, settings: Settings, topics: dict[str, tuple[int, dict[str, str]]]) -> None:
    """Wait until the brokers lead the topics, shortly after the controller created them, and check partition counts."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        there = partition_counts(client, settings)
        absent = [name for name in topics if name not in there]
        if not absent and led(client, [TopicPartition(name, number) for name in topics for number in range(there[name])]):
            break
        if time.monotonic() > deadline:
            raise TopicError(f"created, but not usable after {TIMEOUT_S:.0f} s: {', '.join(absent) or 'partitions without a leader'}")
        time.sleep(POLL_S)
    wrong = [f"{name} has {there[name]} partitions, not {count}" for name, (count, _) in topics.items() if there[name] != count]
    if wrong:
        raise TopicError(
            f"topics do not match PERPFLOW_PARTITIONS={settings.partitions}: {'; '.join(wrong)}. Set the count that they were created "
            "with, use another PERPFLOW_TOPIC_PREFIX, or remove them with their data."
        )


def delete_topics(settings: Settings) -> list[str]:
    """Delete the topics of this environment (prefix) with their data. Return the names of the deleted topics."""
    client = admin(settings)
    there = [name for name in wanted(settings) if name in partition_counts(client, settings)]
    for future in (client.delete_topics(there, operation_timeout=TIMEOUT_S) if there else {}).values():
        future.result()
    return there


def led(client: AdminClient, places: Iterable[TopicPartition], timeout: float = 5.0) -> bool:
    """Return whether every partition has a leader that answers. A broker lists new or recovered partitions shortly before it leads them."""
    wanted = {place: OffsetSpec.latest() for place in places}
    if not wanted:
        return True
    try:
        for future in client.list_offsets(wanted, request_timeout=timeout).values():
            future.result(timeout)
    except (KafkaException, TimeoutError):
        return False
    return True
