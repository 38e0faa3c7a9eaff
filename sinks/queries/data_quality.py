"""Read ``data_quality``: the newest scores and recent findings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from schemas.cluster import admin
from schemas.codec.avro import CodecError
from schemas.errors import UserError
from schemas.settings import Settings
from stream_apps.core.quality.rules import OVERALL, SCORE

TOPIC = "data_quality"
ANSWER_S = 20.0


@dataclass
class QualityReport:
    """Scores and findings of the topic.

    Attributes:
        scores: (instrument, stream) -> newest score record.
        findings: Findings of the requested time, by id, in order of event time.
    """

    scores: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def venues(self) -> dict[str, tuple[float, float, int]]:
        """Return venue -> (mean overall score, lowest, instruments)."""
        by_venue: dict[str, list[float]] = {}
        for (instrument, stream), record in sorted(self.scores.items()):
            if stream == OVERALL:
                by_venue.setdefault(instrument.partition(":")[0], []).append(record["score"])
        return {venue: (sum(scores) / len(scores), min(scores), len(scores)) for venue, scores in by_venue.items()}

    def counts(self) -> Counter[tuple[str, str, str]]:
        """Return (instrument, stream, kind) -> number of findings."""
        return Counter((record["instrument"], record["stream"], record["kind"]) for record in self.findings)


def read(settings: Settings, since_ms: int, instruments: tuple[str, ...] = ()) -> QualityReport:
    """Read the last ``since_ms`` of event time of each partition; only records of ``instruments``, if given.

    Raises:
        UserError: the broker does not answer, or the topic is missing.
    """
    wire = settings.topic(TOPIC)
    found = QualityReport()
    known: dict[str, dict[str, Any]] = {}
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": settings.group("quality-reader"),  # required by the client; nothing is joined or committed
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        client = admin(settings)
        places = [TopicPartition(wire, partition) for partition in range(settings.partitions)]
        newest = {
            place: answer.result(ANSWER_S) for place, answer in client.list_offsets({p: OffsetSpec.max_timestamp() for p in places}).items()
        }
        ends: dict[int, int] = {}
        asked = [
            TopicPartition(wire, place.partition, max(0, answer.timestamp - since_ms))
            for place, answer in newest.items()
            if answer.offset >= 0
        ]
        starts = consumer.offsets_for_times(asked, timeout=ANSWER_S) if asked else []
        for start in starts:
            ends[start.partition] = consumer.get_watermark_offsets(TopicPartition(wire, start.partition), timeout=ANSWER_S)[1]
        consumer.assign(starts)
        left = {start.partition for start in starts}
        while left:
            for message in consumer.consume(5_000, timeout=0.5):
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
                try:
                    record = settings.codec.decode(TOPIC, message.value())
                except CodecError:
                    continue
                if not instruments or record["instrument"] in instruments:
                    known[record["quality_id"]] = record
            left = {
                place.partition
                for place in consumer.position([TopicPartition(wire, p) for p in left])
                if place.offset < ends[place.partition]
            }
    except KafkaException as error:
        raise UserError(f"the topic {wire} cannot be read: {error.args[0].str() if error.args else error}") from error
    finally:
        consumer.close()
    for record in sorted(known.values(), key=lambda one: (one["event_time"], one["quality_id"])):
        if record["kind"] == SCORE:
            found.scores[record["instrument"], record["stream"]] = record
        else:
            found.findings.append(record)
    return found
