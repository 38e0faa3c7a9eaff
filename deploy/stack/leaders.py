"""Whether partitions can be used now: a broker tells of new or recovered partitions a moment before it leads them."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec


def led(client: AdminClient, places: Iterable[TopicPartition], timeout: float = 5.0) -> bool:
    """Return whether every one of these partitions has a leader that answers for it."""
    wanted = {place: OffsetSpec.latest() for place in places}
    if not wanted:
        return True
    try:
        for future in client.list_offsets(wanted, request_timeout=timeout).values():
            future.result(timeout)
    except (KafkaException, TimeoutError):
        return False
    return True
