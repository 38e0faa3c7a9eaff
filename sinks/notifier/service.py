"""The notifier's process: it reads topics, decides about events, passes messages to channels and commits positions.

A position is committed after every message of the earlier records was sent, suppressed or acknowledged in dead_letters. What happens at each failure:

- kill -9, crash: the successor reads from the committed position, so no record is lost. Messages sent after the last commit are sent again with the same
  event id: those of the last second, or of longer if a failing channel holds back an earlier record. At most ``MOST_UNDER_WAY`` records are in flight.
  State in memory is lost: unreported counts of windows and quiet hours, and unsent events of /health and Prometheus. Alerts that still fire are sent again.
- a repeat of a restarted worker or executor is recognised by its id. At a start the ids of the last ``REMEMBERED`` records before the committed position
  are read again.
- a channel fails: only that channel waits and retries (``delivery.channel``). In the end its message goes to dead_letters with the bytes of the record.
- Kafka down: reading waits, messages still go out, and positions are committed when it is back.
- SIGTERM: reading stops. Waiting messages are sent for at most ``DRAIN_S`` unless their channel fails; the successor sends the others.

Several notifiers share the partitions. Each has its own windows, rates and quiet-hour counts.
"""

from __future__ import annotations

import json
import time
from queue import Empty, SimpleQueue
from typing import Any
from zoneinfo import ZoneInfo

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas import catalogue, metrics
from schemas.codec.avro import CodecError
from schemas.process.dead_letters import dead_letter
from schemas.process.service import Service
from schemas.secret import Secrets
from schemas.settings import Settings
from sinks.executor.journal import OutboxRow
from sinks.executor.publish import QUIET, NotAcknowledged, Publisher
from sinks.notifier.delivery.channel import Channel, DeliveryResult
from sinks.notifier.delivery.offsets import PartitionOffsets, SourceRecord
from sinks.notifier.delivery.templating import Message, Templates
from sinks.notifier.delivery.transport import Sender, SendResult, senders
from sinks.notifier.reference import InstrumentReference
from sinks.notifier.rules.config import NotifierConfig
from sinks.notifier.rules.events import READERS, SERVICE, Event, GuardChanges, Level, event_of
from sinks.notifier.rules.origin import LIVE, Origins
from sinks.notifier.rules.policy import Policy
from sinks.notifier.rules.ranking import Ranking
from sinks.notifier.watching import AlertWatcher, HealthWatcher

TOPICS = tuple(READERS)
# Records before the committed position whose ids are read at a start.
REMEMBERED = 500
MOST_UNDER_WAY = 5_000
MESSAGES_PER_ROUND = 500
POLL_S = 0.1
COMMIT_S = 1.0
RETRY_S = 0.5
ANSWER_S = 20.0
DRAIN_S = 5.0
# A channel that fails for longer makes /health fail, so that people learn of it in another way.
UNWELL_AFTER_S = 60.0


class Notifier:
    """See the module's docstring.

    Args:
        settings: Environment.
        service: Stop flag, log, health.
        config: Channels, routes, rules.
        from_beginning: Start at the beginning of the topics without a committed position; otherwise at their end.
        session_timeout_ms: Session timeout of the consumer group.
        instance: Static member name; a notifier that restarts with it gets its partitions back at once.

    Raises:
        ConfigError: an invalid secret, address or template.
    """

    def __init__(
        self,
        settings: Settings,
        service: Service,
        config: NotifierConfig,
        *,
        from_beginning: bool = False,
        session_timeout_ms: int = 10_000,
        instance: str | None = None,
    ) -> None:
        self._settings = settings
        self._service = service
        self._log = service.log
        self._from_beginning = from_beginning
        self._secrets = Secrets()
        zone = ZoneInfo(config.time_zone)
        self._templates = Templates(zone, config.templates)
        self._results: SimpleQueue[DeliveryResult] = SimpleQueue()
        self._channels = {
            one.name: Channel(one, sender, self._templates, config.give_up_s, self._results, self._failed)
            for one, sender in zip(config.channel, senders(config, self._secrets).values(), strict=True)
        }
        self._origins = Origins()
        ranking = Ranking(config.top)
        self._policy = Policy(config, ranking)
        self._guards = GuardChanges()
        self._reference = InstrumentReference(settings, self._origins, ranking, config.top > 0)
        self._health_events: SimpleQueue[Event] = SimpleQueue()
        self._watching = HealthWatcher(config.health, self._health_events, service.stopping)
        self._alerts = AlertWatcher(config.alerts, self._health_events, service.stopping)
        self._publisher = Publisher(settings)
        self._letters: list[tuple[OutboxRow, list[SourceRecord]]] = []
        self._plain = {settings.topic(topic): topic for topic in TOPICS}
        self._partitions: dict[tuple[str, int], PartitionOffsets] = {}
        self._new: set[tuple[str, int]] = set()
        self._at_end: set[tuple[str, int]] = set()
        self._learn_until: dict[tuple[str, int], int] = {}
        self._committed: dict[tuple[str, int], int] = {}
        self._committed_at = time.monotonic()
        self._paused = False
        self._kafka_down = False
        self._ready = False
        self._busy_at = time.monotonic()
        self._group = Consumer(
            {
                **QUIET,
                "error_cb": self._kafka_trouble,
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "group.id": settings.group(SERVICE),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_timeout_ms,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                **({"group.instance.id": f"notifier-{instance}"} if instance else {}),
            }
        )
        service.set_health(self._health)

    # --- the loop ----------------------------------------------------------------------------------------------------------
    def run(self, until_idle: float | None = None) -> None:
        """Work until the service is stopped, or until nothing arrived or waited for ``until_idle`` seconds.

        Raises:
            KafkaException: a fatal error of the Kafka client.
        """
        if not self._channels:
            self._log.warning("no channel is configured: nothing will be sent")
        for channel in self._channels.values():
            channel.start()
        if self._watching.needed:
            self._watching.start()
        if self._alerts.needed:
            self._alerts.start()
        try:
            while not self._service.stopping.is_set():
                self._round()
                read = bool(self._partitions) and not self._new and set(self._partitions) <= self._at_end
                if until_idle is not None and read and time.monotonic() - self._busy_at > until_idle:
                    break
            self._finish()
        finally:
            for channel in self._channels.values():
                channel.end()
            self._group.close()
            self._reference.close()
            self._publisher.close()

    def _round(self) -> None:
        try:
            if not self._ready:
                # Before joining the group, so that messages have their origin.
                self._reference.begin()
                self._group.subscribe(list(self._plain), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
                self._ready = True
            self._reference.read()
            self._begin_new()
            self._read()
            self._own_events()
            self._settle()
            self._commit()
            self._rest_or_resume()
        except NotAcknowledged as problem:
            self._log.warning("kafka did not acknowledge; trying again", error=str(problem))
            self._service.stopping.wait(RETRY_S)
        except KafkaException as problem:
            if problem.args and isinstance(problem.args[0], KafkaError) and problem.args[0].fatal():
                raise
            self._log.warning("kafka does not answer; trying again", error=str(problem))
            self._service.stopping.wait(RETRY_S)

    def _finish(self) -> None:
        """Send what can be sent at once, and commit."""
        for channel in self._channels.values():
            channel.drain()
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and any(not one.idle and one.failing_s == 0 for one in self._channels.values()):
            time.sleep(0.02)
        try:
            self._settle()
            self._commit(force=True)
        except (NotAcknowledged, KafkaException) as problem:  # the successor sends some messages again
            self._log.warning("the last positions were not committed", error=str(problem))

    # --- membership ----------------------------------------------------------------------------------------------------------
    def _kafka_trouble(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._kafka_down:
            self._kafka_down = True
            self._log.warning("no kafka broker answers; the client keeps trying", error=error.str())

    def _on_assign(self, group: Consumer, partitions: list[TopicPartition]) -> None:
        group.incremental_assign(partitions)
        if partitions:
            group.pause(partitions)  # until their positions are set
        self._new |= {(self._plain[place.topic], place.partition) for place in partitions}
        self._log.info("partitions assigned", partitions=len(partitions))

    def _on_revoke(self, group: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit(force=True)
        for place in partitions:
            key = (self._plain[place.topic], place.partition)
            self._new.discard(key)
            gone = self._partitions.pop(key, None)
            if gone is not None:
                gone.revoked = True
                for event_id in gone.events_under_way:
                    self._policy.forget(event_id)
        self._log.info("partitions revoked", partitions=len(partitions))

    def _begin_new(self) -> None:
        """Set new partitions to their positions, or a little before them, to read the ids of the last events."""
        if not self._new:
            return
        places = [TopicPartition(self._settings.topic(topic), number) for topic, number in sorted(self._new)]
        found: list[tuple[TopicPartition, int]] = []
        first: list[TopicPartition] = []
        for committed in self._group.committed(places, timeout=ANSWER_S):
            low, high = self._group.get_watermark_offsets(TopicPartition(committed.topic, committed.partition), timeout=ANSWER_S)
            if committed.offset >= 0:
                position = min(max(committed.offset, low), high)
            else:
                position = low if self._from_beginning else high
                first.append(TopicPartition(committed.topic, committed.partition, position))
            found.append((TopicPartition(committed.topic, committed.partition, max(low, position - REMEMBERED)), position))
        if first:
            # At once, so that later records are not skipped even if this process ends before its first message.
            self._group.commit(offsets=first, asynchronous=False)
        for start, position in found:
            self._group.seek(start)
            key = (self._plain[start.topic], start.partition)
            self._partitions[key] = PartitionOffsets(*key, position)
            self._at_end.discard(key)
            self._learn_until[key] = self._committed[key] = position
        self._group.resume([start for start, _ in found])
        self._new.clear()
        self._paused = False
        self._busy_at = time.monotonic()

    # --- in --------------------------------------------------------------------------------------------------------------------
    def _read(self) -> None:
        for message in self._group.consume(MESSAGES_PER_ROUND, POLL_S):
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if error.fatal():
                    raise KafkaException(error)
                self._log.warning("reading", error=error.str())
                continue
            self._kafka_down = False
            key = (self._plain[str(message.topic())], message.partition() or 0)
            if error is not None:
                self._at_end.add(key)
                continue
            self._at_end.discard(key)
            partition = self._partitions.get(key)
            if partition is not None:  # else: read before the partition went
                self._take(partition, message)

    def _take(self, partition: PartitionOffsets, message: Any) -> None:
        offset, topic = message.offset(), partition.topic
        ticket = SourceRecord(partition, offset, message.timestamp()[1], message.key(), message.value())
        known = offset < self._learn_until[topic, partition.number]
        if message.value() is None:  # a tombstone of a compacted topic
            if not known:
                partition.take(offset, 0)
            return
        try:
            event = event_of(topic, self._settings.codec.decode(topic, message.value()))
        except CodecError as error:
            if not known:
                partition.take(offset, 1)
                self._give_up([ticket], str(error), topic, field=error.field)
            return
        if event is not None and event.kind == "guard":
            event = self._guards.news(event)
        if known:
            if event is not None:
                self._policy.remember(event)
            return
        self._busy_at = time.monotonic()
        if event is None:
            partition.take(offset, 0)
        else:
            self._tell(event, ticket)

    def _own_events(self) -> None:
        while True:
            try:
                self._tell(self._health_events.get_nowait(), None)
            except Empty:
                break
        for due in self._policy.due(time.time()):
            self._channels[due.channel].offer(self._templates.render(due.event, due.origin), [])

    def _tell(self, event: Event, ticket: SourceRecord | None) -> None:
        if event.instrument is not None and not self._origins.knows(event.instrument):
            self._reference.find(event.instrument)
        message = self._templates.render(event, self._origins.of(event.instrument))
        names = []
        for decision in self._policy.decide(event, message.bare_title, message.origin, time.time()):
            if decision.reason:
                metrics.NOTIFICATIONS_SUPPRESSED.labels(decision.channel, decision.reason).inc()
            else:
                names.append(decision.channel)
        if ticket is not None:
            ticket.partition.take(ticket.offset, len(names), event.event_id)
        for name in names:
            self._channels[name].offer(message, [] if ticket is None else [ticket])

    def _rest_or_resume(self) -> None:
        """Limit the records in flight: pause all partitions while too many are, or while too many wait for a working channel."""
        under_way = sum(partition.under_way for partition in self._partitions.values())
        rest = under_way > MOST_UNDER_WAY or any(channel.full(self._paused) for channel in self._channels.values())
        if rest != self._paused:
            (self._group.pause if rest else self._group.resume)(self._group.assignment())
            self._paused = rest

    # --- out -------------------------------------------------------------------------------------------------------------------
    def _failed(self, channel: str, outcome: SendResult, pause_s: float) -> None:
        """Log a failed attempt. Called from a channel's thread."""
        self._log.warning(
            "not sent", channel=channel, reason=outcome.reason, detail=self._secrets.redact(outcome.detail), again_in_s=round(pause_s, 1)
        )

    def _settle(self) -> None:
        """Handle finished messages of the channels; write the failed ones to dead_letters."""
        while True:
            try:
                result = self._results.get_nowait()
            except Empty:
                break
            self._busy_at = time.monotonic()
            if not result.failure:
                for ticket in result.item.tickets:
                    ticket.partition.settle(ticket.offset)
                continue
            reason = f"channel {result.channel}: {result.failure}"
            self._log.error("given up", channel=result.channel, kind=result.item.message.event.kind, reason=self._secrets.redact(reason))
            if result.item.tickets:
                self._give_up(result.item.tickets, reason, "")
            else:
                self._give_up_own(result.item.message, reason)
        if any(not one.idle for one in self._channels.values()):
            self._busy_at = time.monotonic()
        while self._letters:
            self._publisher.publish(0, [row for row, _ in self._letters])
            for _, tickets in self._letters:
                for ticket in tickets:
                    ticket.partition.settle(ticket.offset)
            self._letters.clear()

    def _give_up(self, tickets: list[SourceRecord], reason: str, source: str, field: str | None = None) -> None:
        for ticket in tickets:
            by_instrument = catalogue.TOPICS[ticket.partition.topic].key == "instrument"
            letter = dead_letter(
                SERVICE,
                source or ticket.partition.topic,
                self._secrets.redact(reason),
                event_time=ticket.timestamp,
                partition=ticket.partition.number,
                offset=ticket.offset,
                instrument=ticket.key.decode("utf-8", "replace") if by_instrument and ticket.key else None,
                field=field,
                key=ticket.key,
                value=ticket.value,
            )
            self._letters.append((self._row(letter), [ticket]))

    def _give_up_own(self, message: Message, reason: str) -> None:
        told = {"title": message.title, "body": message.body, "event_id": message.event.event_id}
        letter = dead_letter(
            SERVICE,
            message.event.kind,
            self._secrets.redact(reason),
            event_time=message.event.time,
            value=self._secrets.redact(json.dumps(told)).encode(),
        )
        self._letters.append((self._row(letter), []))

    def _row(self, letter: dict[str, Any]) -> OutboxRow:
        value = self._settings.codec.encode("dead_letters", letter)
        return OutboxRow(0, "dead_letters", letter["source"].encode(), letter["event_time"], value)

    # --- positions ---------------------------------------------------------------------------------------------------------------
    def _commit(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._committed_at < COMMIT_S:
            return
        moved = {key: one.position for key, one in self._partitions.items() if one.position != self._committed[key]}
        if moved:
            places = [TopicPartition(self._settings.topic(topic), number, offset) for (topic, number), offset in moved.items()]
            try:
                self._group.commit(offsets=places, asynchronous=False)
            except KafkaException as problem:  # the successor sends some messages again
                self._log.warning("positions were not committed", error=str(problem))
            else:
                self._committed.update(moved)
        self._committed_at = now

    # --- what the world sees -------------------------------------------------------------------------------------------------------
    def _health(self) -> dict[str, Any]:
        channels = {name: {"waiting": one.waiting, "failing_s": round(one.failing_s)} for name, one in self._channels.items()}
        return {
            "ok": self._ready and not self._kafka_down and all(one.failing_s < UNWELL_AFTER_S for one in self._channels.values()),
            "partitions": len(self._partitions),
            "under_way": sum(partition.under_way for partition in list(self._partitions.values())),
            "channels": channels,
            "services_down": sorted(self._watching.down),
            "prometheus": self._alerts.trouble or ("answers" if self._alerts.needed else "not watched"),
        }


def send_test(config: NotifierConfig) -> dict[str, SendResult]:
    """Send one message to every channel at once, without retries; return the results.

    Raises:
        ConfigError: an invalid secret, address or template.
    """
    secrets = Secrets()
    templates = Templates(ZoneInfo(config.time_zone), config.templates)
    ready: dict[str, Sender] = senders(config, secrets)
    answers = {}
    for name, sender in ready.items():
        event = Event(f"test|{name}", "test", Level.INFO, None, int(time.time() * 1000), "", {"channel": name})
        answers[name] = sender.send(templates.render(event, LIVE), set())
    return answers
