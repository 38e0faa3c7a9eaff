"""Progress of the services of a pipeline: records in Kafka, marks, evaluated instants, rows in the database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import OffsetSpec

from schemas.catalogue import TOPICS
from schemas.cluster import admin
from schemas.partition import base_asset, split_symbol
from schemas.settings import Settings


class Progress:
    """Reads the state of a running pipeline from Kafka and the database.

    Args:
        settings: Names broker, database, topic prefix and grid.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def ends(self, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """Return (topic, partition) -> next offset, for partitions that have records."""
        asked = {}
        for topic in topics:
            for partition in range(TOPICS[topic].partition_count(self.settings.partitions)):
                asked[TopicPartition(self.settings.topic(topic), partition)] = OffsetSpec.latest()
        plain = {self.settings.topic(topic): topic for topic in topics}
        client = admin(self.settings)  # keep the client until the answers arrive: its thread delivers them
        answers = client.list_offsets(asked)
        return {(plain[place.topic], place.partition): end for place, answer in answers.items() if (end := answer.result(20).offset) > 0}

    def counts(self) -> dict[str, int]:
        """Return topic -> records written."""
        totals = dict.fromkeys(TOPICS, 0)
        for (topic, _), end in self.ends(list(TOPICS)).items():
            totals[topic] += end
        return totals

    def newest_mark(self, author: str, symbol: str) -> int | None:
        """Return the time of the newest mark of the producer of a symbol, ms UTC; None before its first."""
        partition = self.settings.partition_of(base_asset(split_symbol(symbol)[0]))
        end = self.ends(["progress"]).get(("progress", partition))
        marks = self._tail("progress", partition, end) if end else []
        return max((record["event_time"] for record in marks if record["author"] == author), default=None)

    def evaluated(self) -> bool:
        """Whether the workers have evaluated every instant that the marks complete."""
        newest: dict[tuple[int, str], int] = {}
        decided: dict[tuple[int, str], int] = {}
        for (_, partition), end in self.ends(["progress"]).items():
            for record in self._tail("progress", partition, end):
                if record["venue"]:
                    due = (record["event_time"] - self.settings.allowed_lateness_ms) // self.settings.grid_ms * self.settings.grid_ms
                    newest[partition, record["author"]] = max(due, newest.get((partition, record["author"]), 0))
        for (_, partition), end in self.ends(["worker_progress"]).items():
            for record in self._tail("worker_progress", partition, end):
                decided[partition, record["author"]] = max(record["event_time"], decided.get((partition, record["author"]), 0))
        return bool(newest) and all(decided.get(place, 0) >= time for place, time in newest.items())

    def _tail(self, topic: str, partition: int, end: int, records: int = 50) -> list[dict[str, Any]]:
        consumer = Consumer(
            {"bootstrap.servers": self.settings.kafka_bootstrap_servers, "group.id": "perpflow-demo", "enable.auto.commit": False}
        )
        found = []
        try:
            consumer.assign([TopicPartition(self.settings.topic(topic), partition, max(end - records, 0))])
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                for message in consumer.consume(records, timeout=0.5):
                    if not message.error():
                        found.append(self.settings.codec.decode(topic, message.value()))
                if consumer.position([TopicPartition(self.settings.topic(topic), partition)])[0].offset >= end:
                    break
        finally:
            consumer.close()
        return found

    def checked(self) -> bool:
        """Whether the quality monitor has passed every mark and published its findings."""
        marks = {TopicPartition(self.settings.topic(topic), partition): end for (topic, partition), end in self.ends(["progress"]).items()}
        asked = ConsumerGroupTopicPartitions(self.settings.group("monitor"), list(marks))
        client = admin(self.settings)  # keep the client, as above
        answer = next(iter(client.list_consumer_group_offsets([asked]).values())).result(20)
        passed = {(one.topic, one.partition): one.offset for one in answer.topic_partitions or []}
        return all(passed.get((place.topic, place.partition), -1) >= end for place, end in marks.items())

    def executed(self) -> bool:
        """Whether the paper executor has processed every evaluation and published its records."""
        steps = {partition: end for (_, partition), end in self.ends(["worker_progress"]).items()}
        with psycopg.connect(self.settings.database_url) as connection:
            taken: dict[int, int] = dict(connection.execute("SELECT partition, progress_offset FROM executor_state").fetchall())
            row = connection.execute("SELECT count(*) FROM executor_outbox").fetchone()
        return all(taken.get(partition, 0) >= end for partition, end in steps.items()) and row is not None and row[0] == 0

    def written(self) -> bool:
        """Whether every record of every topic is in the database."""
        with psycopg.connect(self.settings.database_url) as connection:
            rows = connection.execute("SELECT topic, partition, next_offset FROM sink_offsets").fetchall()
        there = {(topic.removeprefix(self.settings.topic_prefix), partition): offset for topic, partition, offset in rows}
        return all(there.get(place, 0) >= end for place, end in self.ends(list(TOPICS)).items())
