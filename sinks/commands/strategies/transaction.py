"""Change several strategies together: all changes take effect or none, even with other editors or after a crash.

The records are one Kafka transaction, which readers see completely or not at all. If a killed process left it open, the next call aborts it, or the broker
does after ``TRANSACTION_MS``. Each edit is a compare-and-set: the records must start exactly where the read log ended. If another editor's record is there,
the transaction is aborted with an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies import log as strategy_log
from sinks.commands.strategies.log import TIMEOUT_S, StrategyLog, market_marks, partition_for
from sinks.commands.strategies.revisions import (
    PublishResult,
    StaleRevision,
    StrategyResult,
    check_expected,
    common_instant,
    late_ones,
    write_marks,
)
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError
from stream_apps.core.signals.strategy_rules import next_revision

# The broker ends a transaction that is older: its process is dead.
TRANSACTION_MS = 10_000


@dataclass(frozen=True)
class StrategyEdit:
    """One change.

    Attributes:
        config: The new configuration; its revision metadata is ignored. expected: The revision that it follows; 0: a new strategy. note: Reason.
    """

    config: StrategyConfig
    expected: int
    note: str


def publish_together(settings: Settings, edits: Sequence[StrategyEdit], time: int, by: str) -> PublishResult:
    """Write all edits or none, then the control marks that make them take effect. With several partitions they take effect at one instant.

    Args:
        settings: The environment.
        edits: Edits of different strategies.
        time: Time of the edit, ms UTC.
        by: Author.

    Raises:
        StrategyError: an invalid edit (D17); nothing was written.
        StaleRevision: somebody edited one of the strategies, or wrote at the same time; no edit takes effect.
        UserError: Kafka did not accept it; no edit takes effect.
    """
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            # One transactional id for an environment: a second process fences the first, whose transaction then cannot be committed.
            "transactional.id": settings.group("strategies-together"),
            "transaction.timeout.ms": TRANSACTION_MS,
            "linger.ms": 0,
            "log_level": 0,
        }
    )
    try:
        producer.init_transactions(TIMEOUT_S)
        log = strategy_log.read(settings)
        partitions = sorted({partition_for(settings, edit.config) for edit in edits})
        following = _following(log, edits, time, by, 0)
        effective_time = common_instant(settings, market_marks(settings, partitions)) if len(partitions) > 1 else 0
        if effective_time:
            following = _following(log, edits, time, by, effective_time)
        writing = [one for one in following if one is not None]
        written = _commit(settings, producer, log, writing) if writing else {}
    except KafkaException as error:
        raise UserError(f"{settings.topic('strategies')}: nothing was changed: {error.args[0].str()}") from error
    log = _read_beyond(settings, written)
    marks = write_marks(settings, log, partitions, max([time, *(one.event_time for one in writing)]))
    newest = log.newest
    outcomes = [
        StrategyResult(newest[edit.config.strategy_id] if one is None else one, one is not None)
        for edit, one in zip(edits, following, strict=True)
    ]
    return PublishResult(outcomes, effective_time, late_ones(settings, effective_time, marks, writing) if effective_time else [])


def _following(log: StrategyLog, edits: Sequence[StrategyEdit], time: int, by: str, effective_time: int) -> list[StrategyConfig | None]:
    """Return the next revision of each edit; None if it is unchanged."""
    newest = log.newest
    found = []
    for edit in edits:
        strategy_id = edit.config.strategy_id
        known = newest.get(strategy_id)
        try:
            one = next_revision(known, edit.config, time, by=by, note=edit.note[:200], effective_time=effective_time)
        except StrategyError as error:
            check_expected(log, strategy_id, known, edit.expected)
            raise StrategyError(error.field, error.rule, strategy_id) from error
        if one is not None:
            check_expected(log, strategy_id, known, edit.expected)
        found.append(one)
    return found


def _read_beyond(settings: Settings, written: Mapping[int, int]) -> StrategyLog:
    """Read the log until it has the committed records, which readers see a little after the broker's answer."""
    deadline = monotonic() + TIMEOUT_S
    log = strategy_log.read(settings)
    while any(log.ends[partition] <= offset for partition, offset in written.items()):
        if monotonic() > deadline:
            raise UserError(f"{settings.topic('strategies')}: what was committed is not shown; doing it again completes it")
        sleep(0.02)
        log = strategy_log.read(settings)
    return log


def _commit(settings: Settings, producer: Producer, log: StrategyLog, writing: Sequence[StrategyConfig]) -> dict[int, int]:
    """Write the records in one transaction, each exactly where the log ended; return the last offset by partition."""
    failed: list[str] = []
    places: dict[int, list[int]] = {}

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error.str())
        else:
            places.setdefault(message.partition() or 0, []).append(message.offset() or 0)

    encode = settings.codec.encoder("strategies")
    producer.begin_transaction()
    try:
        for config in writing:
            producer.produce(
                settings.topic("strategies"), key=config.strategy_id.encode(), value=encode(config.to_record()), partition=partition_for(settings, config),
                timestamp=config.event_time, on_delivery=on_delivery,
            )  # fmt: skip
        unsent = producer.flush(TIMEOUT_S)
        if failed or unsent:
            raise UserError(
                f"{settings.topic('strategies')}: nothing was changed: {failed[0] if failed else f'{unsent} records not acknowledged'}"
            )
        for partition, offsets in places.items():
            if sorted(offsets) != list(range(log.next[partition], log.next[partition] + len(offsets))):
                raise StaleRevision(
                    "revision: somebody edited a strategy at the same time; this edit was rejected, read the newest revisions and edit again"
                )
        producer.commit_transaction(TIMEOUT_S)
        return {partition: max(offsets) for partition, offsets in places.items()}
    except BaseException:
        # An error of the abort must not hide the cause; the broker aborts open transactions.
        try:
            producer.abort_transaction(TIMEOUT_S)
        except KafkaException:
            pass
        raise
