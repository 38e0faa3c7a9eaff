"""Reference data of messages: which instruments are recordings, and how much each trades.

``instruments`` (compacted) is read from its beginning, ``features`` from shortly before its end. All partitions are read outside of the group, without
commits.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec.avro import CodecError
from schemas.settings import Settings
from sinks.executor.publish import QUIET
from sinks.notifier.rules.origin import Origins
from sinks.notifier.rules.ranking import Ranking

ANSWER_S = 20.0
# Records before the end of each partition of ``features``: one instant of some hundred instruments.
FEATURES_BACK = 100
MESSAGES_PER_READ = 2_000
ASK_AGAIN_S = 60.0


class InstrumentReference:
    """Feeds ``Origins`` and ``Ranking``.

    Args:
        settings: Environment.
        origins: Receives ``instruments`` records.
        ranking: Receives ``features`` records.
        with_features: Whether the ranking is used.
    """

    def __init__(self, settings: Settings, origins: Origins, ranking: Ranking, with_features: bool) -> None:
        self._settings = settings
        self._origins = origins
        self._ranking = ranking
        self._topics = ("instruments", "features") if with_features else ("instruments",)
        self._plain = {settings.topic(topic): topic for topic in self._topics}
        self._ends: set[tuple[str, int]] = set()
        self._begun = False
        self._asked: dict[str, float] = {}
        self._consumer = Consumer(
            {
                **QUIET,
                "error_cb": lambda error: None,  # the group's consumer logs broker failures
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                # The client requires a group id. Nothing joins the group or commits to it.
                "group.id": settings.group("notifier-reference"),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
            }
        )

    def begin(self) -> None:
        """Start reading, and read ``instruments`` to its end. Raises KafkaException when Kafka does not answer."""
        places = []
        for topic in self._topics:
            found = self._consumer.list_topics(self._settings.topic(topic), timeout=ANSWER_S).topics[self._settings.topic(topic)]
            if found.error is not None:
                raise KafkaException(found.error)
            for number in found.partitions:
                place = TopicPartition(self._settings.topic(topic), number)
                low, high = self._consumer.get_watermark_offsets(place, timeout=ANSWER_S)
                place.offset = low if topic == "instruments" else max(low, high - FEATURES_BACK)
                places.append(place)
        self._consumer.assign(places)
        self._begun = True
        self._ends.clear()
        self._until_end({(place.topic, place.partition) for place in places})

    def find(self, instrument: str) -> None:
        """Read new ``instruments`` records for an unknown instrument. Returns when it is known, or after a moment; retries only after a minute."""
        now = time.monotonic()
        if now - self._asked.get(instrument, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return
        self._asked[instrument] = now
        deadline = now + 1.0
        while not self._origins.knows(instrument) and time.monotonic() < deadline:
            self.read(0.05)

    def read(self, wait_s: float = 0.0) -> None:
        """Read the available records."""
        if not self._begun:
            return
        for message in self._consumer.consume(MESSAGES_PER_READ, wait_s):
            error = message.error()
            wire, number = str(message.topic()), message.partition() or 0
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._ends.add((wire, number))
                continue
            topic = self._plain[wire]
            try:
                record = self._settings.codec.decode(topic, message.value())
            except CodecError:  # the sink writes the dead letter; this is only reference data
                continue
            if topic == "features":
                self._ranking.put(record)
                continue
            self._origins.put(record)
            if record["status"] != "trading":
                self._ranking.forget(record["instrument"])

    def _until_end(self, places: set[tuple[str, int]]) -> None:
        deadline = time.monotonic() + ANSWER_S
        while not places <= self._ends and time.monotonic() < deadline:
            self.read(0.1)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
