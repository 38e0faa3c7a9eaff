"""Finds where a killed or extended import continues, from the author's marks in the log.

The files give the same steps every time. So the log has a prefix of them: all steps up to the author's last mark, then the records beyond
that mark's cut. Those are left out and the rest is written, so no record is lost or duplicated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

from producers.importer.files import ImportFailed
from producers.importer.rows import Event
from producers.output.log_tail import TIMEOUT_S, LogError, Tail, read_tail, scan
from schemas.codec.avro import Record
from schemas.settings import Settings

# Fields that identify the records of an instrument in a topic. The first one grows with the files, except for disorder in them.
KEYS = {
    "agg_trades": ("agg_id",), "quotes": ("update_id",), "funding": ("event_time",), "klines": ("event_time", "timeframe"),
    "market_indicators": ("event_time", "indicator"),
}  # fmt: skip


@dataclass
class Past:
    """The records of the author's earlier run.

    Attributes:
        tail: Its marks and newest records.
        beyond: (topic, partition) -> our records after the last mark's cut.
    """

    tail: Tail
    beyond: Counter[tuple[str, int]] = field(default_factory=Counter)
    _known: dict[tuple[str, str], set[tuple[Any, ...]]] = field(default_factory=dict)

    def newest(self, topic: str, instrument: str) -> Record | None:
        """Return the newest record of an instrument in a topic: the one with the highest key."""
        found = self.tail.newest.get((topic, instrument))
        return max(found, key=lambda record: _key(topic, record)) if found else None

    def has(self, topic: str, instrument: str) -> bool:
        """Return True when the author wrote such records before."""
        return (topic, instrument) in self.tail.newest

    def comes_after(self, event: Event, instrument: str) -> bool:
        """Return True when a record is newer than the newest ones in the log."""
        place = (event.topic, instrument)
        if place not in self._known:
            self._known[place] = {_key(event.topic, record) for record in self.tail.newest.get(place, ())}
        known, key = self._known[place], _key(event.topic, event.record)
        return not known or (key not in known and key[0] >= min(known)[0])


def _key(topic: str, record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in KEYS[topic])


def read_past(settings: Settings, author: str, instruments: Mapping[str, int], topics: Iterable[str]) -> Past:
    """Read the author's records from the log. Blocking.

    Args:
        settings: Kafka's address and names.
        author: Author of the marks.
        instruments: Instrument id -> partition.
        topics: Topics that the import writes.

    Raises:
        LogError: no broker, or topics missing.
        ImportFailed: an instrument is another author's.
    """
    wanted = list(topics)
    tail = read_tail(settings, author, instruments, wanted, reach_ms=None)
    for name, record in tail.instruments.items():
        if record["author"] != author:
            raise ImportFailed(
                f"import: {name} is covered by the marks of {record['author']}: import into an environment of its own (PERPFLOW_TOPIC_PREFIX)"
            )
    past = Past(tail)
    ours = set(tail.instruments)
    ranges = {}
    for partition, ends in tail.cuts.items():
        if any(instruments[name] == partition for name in ours):
            begin = tail.marked.get(partition, {})
            ranges.update({(topic, partition): (begin.get(topic, 0), end) for topic, end in ends.items() if topic != "instruments"})
    for topic, partition, key, _ in scan(settings, author, {place: bounds for place, bounds in ranges.items() if bounds[0] < bounds[1]}):
        if key in ours:
            past.beyond[topic, partition] += 1
    return past


def check_retention(settings: Settings, topics: Iterable[str], first: int, now_ms: int) -> None:
    """Raise ImportFailed when a topic's retention is shorter than the age of ``first`` (ms UTC). Record times are event times, so Kafka
    would delete them at once.

    Raises:
        LogError: the broker does not answer.
    """
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
    wanted = {settings.topic(topic): topic for topic in topics}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted]
    try:
        configs = {resource.name: future.result(TIMEOUT_S) for resource, future in client.describe_configs(resources).items()}
    except KafkaException as error:
        raise LogError(f"Kafka at {settings.kafka_bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS): {error.args[0].str()}") from error
    for name, config in configs.items():
        kept = int(config["retention.ms"].value)
        if "delete" in config["cleanup.policy"].value and 0 <= kept < now_ms - first:
            raise ImportFailed(
                f"import: topic {name} keeps {kept / 86_400_000:g} days, but the files begin {(now_ms - first) / 86_400_000:.0f} days ago: their records"
                " would be deleted at once; create the topics of this environment with PERPFLOW_KEEP_HISTORY=1"
            )
