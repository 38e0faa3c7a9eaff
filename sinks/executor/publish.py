"""Publish journalled records to Kafka: idempotent, acknowledged, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from schemas import metrics
from schemas.codec.avro import Record
from schemas.settings import Settings
from sinks.executor.journal import OutboxRow

# librdkafka writes a plain line to standard error for every failed connection attempt; our structured log reports it once.
QUIET = {"log_level": 2, "reconnect.backoff.max.ms": 2000}
# Longer than a broker's restart. A process that was frozen for longer sends none of its old records when it wakes up.
MESSAGE_TIMEOUT_MS = 30_000


Delivered = Callable[[Any, Any], None]


class NotAcknowledged(RuntimeError):
    """Kafka did not acknowledge a record in time. The record stays in the outbox."""


class Publisher:
    """A producer for outbox rows."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = self._new()

    def _new(self) -> Producer:
        return Producer(
            {
                **QUIET,
                "bootstrap.servers": self._settings.kafka_bootstrap_servers,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                "message.timeout.ms": MESSAGE_TIMEOUT_MS,
            }
        )

    def publish(self, partition: int, rows: Sequence[OutboxRow]) -> None:
        """Send rows and wait for their acknowledgements.

        Raises:
            NotAcknowledged: at least one was not acknowledged; all may be sent again.
        """
        failures: list[str] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failures.append(str(error))

        try:
            for row in rows:
                self._produce(self._settings.topic(row.topic), partition, row.key, row.value, row.event_time, delivered)
            left = self._producer.flush(MESSAGE_TIMEOUT_MS / 1000 + 5)
        except KafkaException as error:
            failures.append(str(error))
            left = 0
        if failures or left:
            # After a lost message the sequence of an idempotent producer is uncertain, so the next attempt uses a new producer.
            self._producer = self._new()
            raise NotAcknowledged(failures[0] if failures else f"{left} records not acknowledged in time")
        for row in rows:
            metrics.RECORDS_PRODUCED.labels(row.topic).inc()

    def dead_letter(self, record: Record) -> None:
        """Send a ``dead_letters`` record without waiting. After a crash its input is read again."""
        value = self._settings.codec.encode("dead_letters", record)
        self._produce(self._settings.topic("dead_letters"), 0, record["source"].encode(), value, record["event_time"], None)

    def _produce(self, topic: str, partition: int, key: bytes, value: bytes, event_time: int, delivered: Delivered | None) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, timestamp=event_time, on_delivery=delivered)
            except BufferError:
                # The local queue is full: wait for acknowledgements.
                self._producer.poll(0.1)
                continue
            self._producer.poll(0)
            return

    def close(self) -> None:
        """Send the remaining records and close."""
        self._producer.flush(5)
