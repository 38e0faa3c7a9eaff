"""Dead letters of the sink: rejected values go to the topic ``dead_letters`` before the offset moves past them."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException, Producer

from schemas.codec.avro import Record
from schemas.process.dead_letters import dead_letter as record_of
from schemas.settings import Settings

SERVICE = "sink"
TOPIC = "dead_letters"
# An outage longer than this is handled by the retries of the batch.
DELIVERY_TIMEOUT_S = 10.0
# Brokers accept about 1 MB by default. A rejected value near that size must still fit into its dead letter.
LARGEST_VALUE = 900_000


class NotDelivered(RuntimeError):
    """Kafka did not accept the dead letters; the batch must be retried."""


class DeadLetterWriter:
    """Writes dead letters and waits for their acknowledgement.

    A process writes each letter once, even if its batch is retried. After kill -9 between the letter and the commit it is written again; readers identify
    letters by source, partition and offset.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Producer | None = None
        self._written: set[tuple[str, int, int]] = set()
        self._records: dict[tuple[str, int, int], Record] = {}

    def write(self, letters: list[dict[str, Any]]) -> None:
        """Write letters and wait for the broker. A letter has the arguments of ``schemas.process.dead_letters``, without the service.

        Raises:
            NotDelivered: not all were acknowledged in time; acknowledged ones are not sent again.
        """
        fresh = [letter for letter in letters if _place(letter) not in self._written]
        if not fresh:
            return
        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self._settings.kafka_bootstrap_servers,
                    "enable.idempotence": True,
                    "delivery.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                    "log_level": 0,
                }
            )
        failed: list[str] = []
        for letter in fresh:
            self._send(self._producer, letter, failed)
        left = self._producer.flush(DELIVERY_TIMEOUT_S + 5)
        if left or failed:
            raise NotDelivered(f"dead letters not acknowledged: {failed[0] if failed else 'no answer from the broker'}")

    def _send(self, producer: Producer, letter: dict[str, Any], failed: list[str]) -> None:
        place = _place(letter)
        record = self._records.get(place)
        if record is None:  # created and counted once, even if it is sent more often
            record = self._records[place] = _record(letter)

        def delivered(error: Any, message: Any) -> None:
            if error is None:
                self._written.add(place)
            else:
                failed.append(str(error))

        try:
            producer.produce(
                self._settings.topic(TOPIC),
                key=record["source"].encode(),
                value=self._settings.codec.encode(TOPIC, record),
                partition=0,
                timestamp=record["event_time"],
                on_delivery=delivered,
            )
        except (BufferError, KafkaException) as error:
            failed.append(str(error))

    def forget(self) -> None:
        """Forget the written letters after the commit of their batch."""
        self._written.clear()
        self._records.clear()


def _place(letter: dict[str, Any]) -> tuple[str, int, int]:
    return letter["source"], letter["partition"], letter["offset"]


def _record(letter: dict[str, Any]) -> Record:
    # The text is external input. A zero character would make the letter itself a row that the database rejects.
    clean: dict[str, Any] = {key: value.replace("\0", "\\0") if isinstance(value, str) else value for key, value in letter.items()}
    value = clean["value"]
    if value is not None and len(value) > LARGEST_VALUE:
        clean["value"] = value[:LARGEST_VALUE]
        clean["reason"] = f"{clean['reason']} (value cut from {len(value)} bytes)"
    return record_of(SERVICE, **clean)
