"""Write a revision of an engine's settings: all of its copies or none, then the control marks that let it take effect.

A revision of the whole engine has a copy in every partition; one of an instrument is in the partition of its asset. The copies are one
Kafka transaction under one id. A new transaction fences all earlier ones. If two people edit at once, the first one to commit wins. The
other one gets an error: it either finds a newer revision than the one that it names, or its transaction cannot be committed.

A revision takes effect at the next instant after its control mark. Where several partitions have a market, they share one instant that none of them has
reached. A call that was cut off between commit and marks is completed by doing it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic, sleep

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import UserError
from schemas.partition import base_of_instrument
from schemas.settings import Settings
from sinks.commands.settings import log as settings_log
from sinks.commands.settings.log import TIMEOUT_S, EngineSettings
from sinks.commands.strategies.log import market_marks
from sinks.commands.strategies.revisions import common_instant, produce
from stream_apps.core.log.engine_settings import TOPIC, SettingsError, SettingsLog, SettingsRevision

# Author of the control marks; they say "the settings hold up to here" and fire nothing.
AUTHOR = "engine_settings"
# The broker ends a transaction that is older: its process is dead.
TRANSACTION_MS = 10_000


class StaleRevision(UserError):
    """The edit names a revision that is not the newest; nothing of it holds."""


@dataclass(frozen=True)
class Written:
    """What became of a call: the newest revision, whether this call wrote it, and the log after it."""

    revision: SettingsRevision | None
    written: bool
    log: EngineSettings


def publish(
    settings: Settings,
    rules: SettingsLog,
    values: Mapping[str, float | None],
    *,
    expected: int,
    time: int,
    instrument: str = "",
    by: str = "",
    note: str | None = None,
) -> Written:
    """Set numbers of an engine, or of one instrument.

    Args:
        settings: The environment.
        rules: A log without revisions: the engine and its rules.
        values: Setting -> number; None: the default again. What is not named stays.
        expected: The revision that the edit changes; 0: nothing was ever set.
        time: Time of the edit, ms UTC.
        instrument: Instrument id; empty: the whole engine.
        by, note: Who edits, and why.

    Raises:
        SettingsError: names the setting, its value and the limit; nothing was written.
        StaleRevision: somebody else was faster; nothing of this edit holds.
        UserError: no such instrument, or Kafka did not take it; nothing of it holds.
    """
    partitions = _partitions(settings, instrument)
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "transactional.id": settings.group("engine-settings"),
            "transaction.timeout.ms": TRANSACTION_MS,
            "linger.ms": 0,
            "log_level": 0,
        }
    )
    try:
        producer.init_transactions(TIMEOUT_S)
        log = settings_log.read(settings, rules)
        if log.revision != expected:
            raise StaleRevision(
                f"revision: the edit names revision {expected} of {rules.engine}, the newest is {log.revision}{_writer(log)}"
            )
        revision = _next(log, values, instrument, time, by, note)
        if revision is None:
            write_marks(settings, log, partitions, time)
            return Written(log.revisions[-1] if log.revisions else None, False, log)
        _check(rules, log, revision)
        marks = {partition: seen for partition, seen in market_marks(settings, partitions).items() if seen}
        revision = replace(revision, effective_time=common_instant(settings, marks) if len(marks) > 1 else 0)
        written = _commit(settings, producer, revision, partitions)
    except KafkaException as error:
        if error.args[0].code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
            raise StaleRevision("revision: another editor was faster; nothing of this edit holds, look and edit again") from error
        raise UserError(f"{settings.topic(TOPIC)}: nothing was changed: {error.args[0].str()}") from error
    log = _read_beyond(settings, rules, written)
    write_marks(settings, log, partitions, revision.event_time)
    return Written(revision, True, log)


def write_marks(settings: Settings, log: EngineSettings, partitions: list[int], at: int) -> None:
    """Write the control marks "the settings hold up to here" at a time, ms UTC."""
    produce(
        settings,
        "progress",
        [
            (AUTHOR, partition, {"author": AUTHOR, "venue": "", "event_time": at, "receive_time": at, "cut": {TOPIC: log.ends[partition]}})
            for partition in partitions
        ],
    )


def _partitions(settings: Settings, instrument: str) -> list[int]:
    if not instrument:
        return list(range(settings.partitions))
    try:
        return [settings.partition_of(base_of_instrument(instrument))]
    except ValueError as error:
        raise UserError(f"instrument: {error}") from error


def _next(
    log: EngineSettings, values: Mapping[str, float | None], instrument: str, time: int, by: str, note: str | None
) -> SettingsRevision | None:
    """Return the next revision; None when the numbers hold already."""
    before = log.in_force.instruments.get(instrument, {}) if instrument else log.in_force.engine
    after = {name: value for name, value in {**before, **values}.items() if value is not None}
    if after == dict(before):
        return None
    at = max(time, log.revisions[-1].event_time + 1) if log.revisions else time
    return SettingsRevision(log.engine, log.revision + 1, after, instrument, at, at, 0, by, note)


def _check(rules: SettingsLog, log: EngineSettings, revision: SettingsRevision) -> None:
    """Check a revision as the workers will. Raises SettingsError."""
    ours = rules.anew()
    ours.kept = [log.in_force]
    ours.take(revision)


def _writer(log: EngineSettings) -> str:
    if not log.revisions:
        return ""
    newest = log.revisions[-1]
    return f" (written by {newest.edited_by or 'nobody named'}{f': {newest.note}' if newest.note else ''})"


def _commit(settings: Settings, producer: Producer, revision: SettingsRevision, partitions: list[int]) -> dict[int, int]:
    """Write the copies in one transaction; return the offset of each by partition."""
    failed: list[str] = []
    places: dict[int, int] = {}

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error.str())
        else:
            places[message.partition() or 0] = message.offset() or 0

    value = settings.codec.encode(TOPIC, revision.to_record())
    producer.begin_transaction()
    for partition in partitions:
        producer.produce(
            settings.topic(TOPIC), key=revision.settings_id.encode(), value=value, partition=partition, timestamp=revision.event_time,
            on_delivery=on_delivery,
        )  # fmt: skip
    producer.commit_transaction(TIMEOUT_S)
    if failed or len(places) < len(partitions):
        raise UserError(f"{settings.topic(TOPIC)}: {failed[0] if failed else 'not all copies were acknowledged'}")
    return places


def _read_beyond(settings: Settings, rules: SettingsLog, written: Mapping[int, int]) -> EngineSettings:
    """Read the topic until it holds what was committed: the broker says "committed" some moments before readers see it."""
    deadline = monotonic() + TIMEOUT_S
    while True:
        log = settings_log.read(settings, rules)
        if all(log.ends[partition] > offset for partition, offset in written.items()):
            return log
        if monotonic() > deadline:
            raise UserError(f"{settings.topic(TOPIC)}: what was committed cannot be read yet; do it again to complete it")
        sleep(0.02)


__all__ = ["SettingsError", "StaleRevision", "Written", "publish", "write_marks"]
