"""Where reading begins: offsets of partitions, found in a thread of its own, because a broker that is away lets every question wait."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.settings import Settings
from sinks.console.live.event_ids import EVENT_TOPICS, checksum

ANSWER_S = 3.0

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin to read a partition; without fields: at its first record.

    Attributes:
        rows: So many offsets before the end.
        back_ms: So much event time before the newest record.
        step_ms: Begin at a whole multiple of it, seen from the Unix epoch.
    """

    rows: int | None = None
    back_ms: int | None = None
    step_ms: int = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """The answer for one partition.

    Attributes:
        offset: Where to begin.
        end: End of the committed records.
        since: All records with a later event time are read, ms; None where no time was asked for, or the partition is empty.
    """

    offset: int
    end: int
    since: int | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the broker says of the topics that exist.

    Attributes:
        partitions: Topic -> number of partitions; only topics that exist.
        event_topics: Topic -> ``checksum`` of Kafka's id of it; only event topics that exist.
    """

    partitions: Mapping[str, int]
    event_topics: Mapping[str, int]


class Placing:
    """Asks the broker without waiting for it. All methods are called from one thread.

    Args:
        settings: The environment.
        topics: Topics of the catalogue that are read.
    """

    def __init__(self, settings: Settings, topics: tuple[str, ...]) -> None:
        self._settings = settings
        self._wire = {topic: settings.topic(topic) for topic in topics}
        self._admin = AdminClient(
            {
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "log_level": 0,
                "socket.timeout.ms": int(ANSWER_S * 1000),
                "reconnect.backoff.max.ms": 1000,
            }
        )
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="live-places")

    def cluster(self) -> Future[Cluster]:
        """Ask for the topics. The future raises KafkaException if the broker does not answer."""
        return self._asking.submit(self._cluster)

    def starts(self, wanted: Mapping[Place, Start]) -> Future[dict[Place, Placed]]:
        """Ask where to begin. A partition that cannot be answered is left out. The future raises KafkaException if no broker answers."""
        return self._asking.submit(self._starts, dict(wanted))

    def close(self) -> None:
        """Ask no more."""
        self._asking.shutdown(wait=False, cancel_futures=True)

    def _cluster(self) -> Cluster:
        found = self._admin.list_topics(timeout=ANSWER_S).topics
        there = {topic: len(found[wire].partitions) for topic, wire in self._wire.items() if wire in found}
        events = [topic for topic in EVENT_TOPICS if topic in there]
        marks = {}
        if events:
            described = self._admin.describe_topics(TopicCollection([self._wire[topic] for topic in events]), request_timeout=ANSWER_S)
            for topic in events:
                marks[topic] = checksum(str(described[self._wire[topic]].result().topic_id))
        return Cluster(there, marks)

    def _offsets(self, asked: Mapping[Place, OffsetSpec]) -> dict[Place, Any]:
        if not asked:
            return {}
        back = {TopicPartition(self._wire[place[0]], place[1]): place for place in asked}
        answers = self._admin.list_offsets(
            {wire: asked[place] for wire, place in back.items()},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=ANSWER_S,
        )
        found = {}
        for wire, future in answers.items():
            try:
                found[back[wire]] = future.result(ANSWER_S)
            except (KafkaException, TimeoutError):
                continue
        if not found:
            raise KafkaException(f"no offsets of {len(asked)} partitions")
        return found

    def _starts(self, wanted: dict[Place, Start]) -> dict[Place, Placed]:
        ends = {place: found.offset for place, found in self._offsets(dict.fromkeys(wanted, OffsetSpec.latest())).items()}
        begins = {place: found.offset for place, found in self._offsets(dict.fromkeys(ends, OffsetSpec.earliest())).items()}
        timed = [place for place in begins if wanted[place].back_ms is not None and ends[place] > begins[place]]
        newest = self._offsets(dict.fromkeys(timed, OffsetSpec.max_timestamp()))
        since = {}
        for place, found in newest.items():
            start = wanted[place]
            time = found.timestamp - (start.back_ms or 0)
            since[place] = time - time % start.step_ms
        at = {place: found.offset for place, found in self._offsets({p: OffsetSpec.for_timestamp(t) for p, t in since.items()}).items()}
        placed = {}
        for place, begin in begins.items():
            rows, end = wanted[place].rows, ends[place]
            if wanted[place].back_ms is not None:
                offset = at.get(place, end)
                placed[place] = Placed(offset if 0 <= offset <= end else end, end, since.get(place))
            else:
                placed[place] = Placed(begin if rows is None else max(begin, end - rows), end, None)
        return placed
