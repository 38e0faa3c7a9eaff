"""Questions to a Kafka cluster: its topics and partition counts."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import UserError
from schemas.settings import Settings


class TopicError(UserError):
    """The cluster cannot be used: it is unreachable, or its topics do not fit the catalogue."""


def admin(settings: Settings) -> AdminClient:
    """Return an administration client for the cluster of the settings."""
    return AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0, "socket.timeout.ms": 10_000})


def partition_counts(client: AdminClient, settings: Settings, timeout: float = 10.0) -> dict[str, int]:
    """Return the partition counts of all topics of a cluster by wire name.

    Raises:
        TopicError: the cluster does not answer.
    """
    try:
        found = client.list_topics(timeout=timeout).topics
    except KafkaException as error:
        servers = settings.kafka_bootstrap_servers
        raise TopicError(f"no answer from Kafka at {servers} (KAFKA_BOOTSTRAP_SERVERS): {error.args[0].str()}") from error
    return {name: len(topic.partitions) for name, topic in found.items()}
