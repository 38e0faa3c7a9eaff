"""Write strategy revisions to the topic ``strategies``, and the control marks that make them take effect.

**Two editors at once.** Both read revision N and write N + 1. Kafka orders the two records, and every reader accepts the first record of a number
(``strategies.log``). So a writer reads the topic back and reports whether its record was accepted. A rejected record may be the last one of its key, and
compaction keeps the last one. So the next writer writes the accepted record again, which readers ignore as a repeat.

**When an edit takes effect.** A worker applies records before the merged cut of the mark at which an instant fires (DESIGN 3). So a revision takes effect at
the first instant after its control mark, which is a function of the log. Strategies in several partitions need several marks, and an instant may fire
between them. Then all revisions name one ``effective_time``, an instant that none of these partitions has reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies import log as strategy_log
from sinks.commands.strategies.log import TIMEOUT_S, StrategyLog, market_marks, partition_for
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError, changes
from stream_apps.core.signals.strategy_rules import next_revision

# Author of the control marks. They say that the strategies topic is complete up to an offset, and fire no instant.
AUTHOR = "strategies"
# Least distance of a common instant from the newest mark, ms of event time; writing takes less.
LEAD_MS = 1_000
# Partitions whose newest marks are further apart have different clocks (recordings of different days) and no common instant.
ONE_CLOCK_MS = 60_000
_SETTLING_ATTEMPTS = 5


class StaleRevision(UserError):
    """An edit was based on a revision that is no longer the newest. It takes no effect."""


@dataclass(frozen=True)
class StrategyResult:
    """The newest revision of a strategy, and whether this call wrote it."""

    config: StrategyConfig
    written: bool


@dataclass(frozen=True)
class PublishResult:
    """The result of a call.

    Attributes:
        outcomes: One result for each requested strategy, in order.
        effective_time: Instant at which all revisions take effect, ms UTC of market time; 0: in each partition at its next instant.
        late: Strategies whose partition had already passed that instant; they take effect at its next instant.
    """

    outcomes: list[StrategyResult]
    effective_time: int = 0
    late: list[str] = field(default_factory=list)


def read(settings: Settings) -> dict[str, StrategyConfig]:
    """Return the newest revision of every strategy by id. Raises UserError as ``strategy_log.read``."""
    return strategy_log.read(settings).newest


def publish(
    settings: Settings,
    wanted: Sequence[StrategyConfig],
    time: int,
    *,
    by: str = "",
    note: str | None = None,
    expected: Mapping[str, int] | None = None,
) -> PublishResult:
    """Write changed strategies as new revisions, then the control marks that make them take effect.

    All strategies are checked before any is written. The marks are written even without a change, so a second call completes an interrupted one.

    Args:
        settings: The environment.
        wanted: The strategies; their revision metadata is ignored.
        time: Time of the edit, ms UTC.
        by, note: Author and reason of the edit.
        expected: Strategy id -> revision on which the edit is based; 0: a new strategy. Other strategies follow their newest revision.

    Raises:
        StrategyError: an invalid configuration or edit (D17); nothing was written.
        StaleRevision: the newest revision is not the expected one, or another editor was faster. The named edits take no effect; the others do.
        UserError: Kafka did not accept a record.
    """
    log = strategy_log.read(settings)
    revisions = _next(log, wanted, time, by, note, expected or {}, 0)
    partitions = sorted({partition_for(settings, config) for config in wanted})
    written_to = sorted({partition_for(settings, config) for config in revisions if config is not None})
    effective_time = common_instant(settings, market_marks(settings, written_to)) if len(written_to) > 1 else 0
    if effective_time:
        revisions = _next(log, wanted, time, by, note, expected or {}, effective_time)
    writing = [config for config in revisions if config is not None]
    written = produce(settings, "strategies", [(one.strategy_id, partition_for(settings, one), one.to_record()) for one in writing])
    log = _settled(settings, written)
    marks = write_marks(settings, log, partitions, max([time, *(config.event_time for config in writing)]))
    if lost := [config for config in writing if config not in log.revisions.get(config.strategy_id, ())]:
        raise StaleRevision("; ".join(_lost(log, config) for config in lost))
    newest = log.newest
    outcomes = [
        StrategyResult(newest[config.strategy_id] if mine is None else mine, mine is not None)
        for config, mine in zip(wanted, revisions, strict=True)
    ]
    return PublishResult(outcomes, effective_time, late_ones(settings, effective_time, marks, writing) if effective_time else [])


def write_marks(settings: Settings, log: StrategyLog, partitions: Sequence[int], at: int) -> dict[int, int]:
    """Write the control marks (the strategies topic is complete up to an offset) at a time (ms UTC); return their offsets by partition."""
    marks = [
        (
            AUTHOR,
            partition,
            {"author": AUTHOR, "venue": "", "event_time": at, "receive_time": at, "cut": {"strategies": log.ends[partition]}},
        )
        for partition in partitions
    ]
    return produce(settings, "progress", marks)


def _next(
    log: StrategyLog,
    wanted: Sequence[StrategyConfig],
    time: int,
    by: str,
    note: str | None,
    expected: Mapping[str, int],
    effective_time: int,
) -> list[StrategyConfig | None]:
    """Return the revision to write for each strategy; None if it is unchanged."""
    newest = log.newest
    revisions = []
    for config in wanted:
        known = newest.get(config.strategy_id)
        named = expected.get(config.strategy_id)
        try:
            following = next_revision(known, config, time, by=by, note=note, effective_time=effective_time)
        except StrategyError as error:
            check_expected(log, config.strategy_id, known, named)  # the truer reason when the strategy became another one meanwhile
            raise StrategyError(error.field, error.rule, config.strategy_id) from error
        if following is not None:
            check_expected(log, config.strategy_id, known, named)
        revisions.append(following)
    return revisions


def check_expected(log: StrategyLog, strategy_id: str, known: StrategyConfig | None, named: int | None) -> None:
    found = 0 if known is None else known.revision
    if named is None or named == found:
        return
    if named == 0:
        raise StaleRevision(f"{strategy_id}: strategy_id: there is a strategy of this name already (revision {found})")
    if known is None:
        raise StaleRevision(f"{strategy_id}: revision: the edit names revision {named}, but there is no such strategy")
    raise StaleRevision(f"{strategy_id}: revision: the edit names revision {named}, the newest is {found}{_of(log, known)}")


def _of(log: StrategyLog, config: StrategyConfig) -> str:
    """Return text about the author and the changes of a revision."""
    held = log.revisions[config.strategy_id]
    before = held[held.index(config) - 1] if held.index(config) else None
    what = "" if before is None else ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changes(before, config).items())
    return f" (written by {config.edited_by or 'nobody named'}{f': {what}' if what else ''})"


def _lost(log: StrategyLog, config: StrategyConfig) -> str:
    newest = log.newest[config.strategy_id]
    return (
        f"{config.strategy_id}: revision: another editor was faster, the newest is {newest.revision}{_of(log, newest)}; this edit "
        "was rejected, read the newest revision and edit again"
    )


def _settled(settings: Settings, written: Mapping[int, int]) -> StrategyLog:
    """Read the topic back. Repeat an accepted record if a rejected one follows it, so that compaction keeps the accepted one.

    Args:
        settings: The environment.
        written: Partition -> last written offset. An earlier open transaction (``strategies.transaction``) hides it until it ends.
    """
    deadline = monotonic() + TIMEOUT_S
    for _ in range(_SETTLING_ATTEMPTS):
        log = strategy_log.read(settings)
        while any(log.next[partition] <= offset for partition, offset in written.items()):
            if monotonic() > deadline:
                raise UserError(
                    f"{settings.topic('strategies')}: an earlier transaction is still open; `strategies list` will show whether the edit was accepted"
                )
            sleep(0.05)
            log = strategy_log.read(settings)
        covered = log.unsettled()
        if not covered:
            return log
        produce(settings, "strategies", [(config.strategy_id, partition_for(settings, config), config.to_record()) for config in covered])
    return strategy_log.read(settings)


def common_instant(settings: Settings, marks: Mapping[int, list[tuple[int, int]]]) -> int:
    """Return the next instant that none of the partitions has reached; 0 if their markets have different clocks or no marks."""
    newest = [max(time for _, time in seen) for seen in marks.values() if seen]
    if not newest or max(newest) - min(newest) > ONE_CLOCK_MS:
        return 0
    return ((max(newest) + LEAD_MS - settings.allowed_lateness_ms) // settings.grid_ms + 1) * settings.grid_ms


def late_ones(settings: Settings, effective_time: int, marks: Mapping[int, int], written: Sequence[StrategyConfig]) -> list[str]:
    """Return the strategies in whose partition the common instant fired before the control mark."""
    seen = market_marks(settings, marks)
    fired = effective_time + settings.allowed_lateness_ms
    passed = {partition for partition, offset in marks.items() if any(at < offset and time >= fired for at, time in seen[partition])}
    return [config.strategy_id for config in written if partition_for(settings, config) in passed]


def produce(settings: Settings, name: str, records: Sequence[tuple[str, int, dict[str, Any]]]) -> dict[int, int]:
    """Send (key, partition, record) to a topic and wait until all are acknowledged; return the offset of the last in each partition."""
    # Not idempotent, because that takes half a second to start. A record that arrives twice is a repeat, which readers ignore.
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "acks": "all",
            "max.in.flight.requests.per.connection": 1,
            "linger.ms": 0,
            "log_level": 0,
        }
    )
    failed: list[str] = []
    offsets: dict[int, int] = {}

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error.str())
        else:
            partition, offset = message.partition() or 0, message.offset() or 0
            offsets[partition] = max(offset, offsets.get(partition, 0))

    encode = settings.codec.encoder(name)
    for key, partition, record in records:
        producer.produce(
            settings.topic(name),
            key=key.encode(),
            value=encode(record),
            partition=partition,
            timestamp=record["event_time"],
            on_delivery=on_delivery,
        )
    unsent = producer.flush(TIMEOUT_S)
    if failed or unsent:
        raise UserError(f"{settings.topic(name)}: {failed[0] if failed else f'{unsent} records not acknowledged'}")
    return offsets
