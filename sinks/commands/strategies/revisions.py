"""Write strategies to the ``strategies`` topic: revisions that follow each other, and the control marks that let them take effect.

**Two editors at once.** Both read revision N and both write N + 1. Kafka orders the two records, and every reader lets the first of a number hold
(``strategy_log``). So a writer reads the topic back after its write: its record holds or it lost, and then it says so. A loser's record is the last of
its key until somebody writes again, and compaction keeps the last one; so the loser (or whoever writes next, of whatever strategy) writes the holding
record once more, which readers pass over as a repeat.

**When an edit holds.** A worker takes up what lies before the merged cut of the mark at which an instant fires (DESIGN 3), so a revision begins at
the first instant that fires after its control mark: a function of the log. Strategies in several partitions are edited by several marks, between which
an instant may fire; then all revisions name one ``effective_time``, an instant that none of these partitions has reached.
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

# Author of the control marks; they say "the strategies topic holds up to here" and fire nothing.
AUTHOR = "strategies"
# A common instant lies at least so far beyond the newest mark, ms of event time: writing takes less.
LEAD_MS = 1_000
# Partitions whose newest marks lie further apart do not run on one clock (recordings of different days): no instant is common to them.
ONE_CLOCK_MS = 60_000
_SETTLING_ATTEMPTS = 5


class StaleRevision(UserError):
    """An edit was made on a revision that is not the newest any more; it holds nowhere."""


@dataclass(frozen=True)
class StrategyResult:
    """What became of one strategy: its newest revision, and whether this call wrote it."""

    config: StrategyConfig
    written: bool


@dataclass(frozen=True)
class PublishResult:
    """What became of a call.

    Attributes:
        outcomes: In the order of what was wanted.
        effective_time: The instant from which all of it holds, ms UTC of the market's time; 0: in each partition from its next instant on.
        late: Strategies whose partition had passed that instant already when its mark was written; they hold from its next one on.
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
    """Make strategies hold: write what differs from the topic as the next revision, then the control marks that let it take effect.

    All are checked before any is written. The marks are written even when nothing differs: so doing it again completes a call
    that was cut off between revision and mark.

    Args:
        settings: The environment.
        wanted: The strategies; their bookkeeping is ignored.
        time: Time of the edit, ms UTC.
        by, note: Who edits, and why.
        expected: Strategy id -> revision that the edit was made on; 0: there is none yet. Those not named follow whatever is newest when it is read.

    Raises:
        StrategyError: a configuration or an edit that is not allowed (D17); nothing was written.
        StaleRevision: the newest revision is not the expected one, or another editor was faster; what lost holds nowhere, and what is not named in
            the message holds.
        UserError: Kafka did not take a record.
    """
    log = strategy_log.read(settings)
    revisions = _next(log, wanted, time, by, note, expected or {}, 0)
    partitions = sorted({partition_for(settings, config) for config in wanted})
    written_to = sorted({partition_for(settings, config) for config in revisions if config is not None})
    effective_time = common_instant(settings, market_marks(settings, written_to)) if len(written_to) > 1 else 0
    if effective_time:
        revisions = _next(log, wanted, time, by, note, expected or {}, effective_time)
    writing = [config for config in revisions if config is not None]
    written = _produce(settings, "strategies", [(one.strategy_id, partition_for(settings, one), one.to_record()) for one in writing])
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
    """Write the control marks "the strategies topic holds up to here" at a time (ms UTC); return their offsets by partition."""
    marks = [
        (
            AUTHOR,
            partition,
            {"author": AUTHOR, "venue": "", "event_time": at, "receive_time": at, "cut": {"strategies": log.ends[partition]}},
        )
        for partition in partitions
    ]
    return _produce(settings, "progress", marks)


def _next(
    log: StrategyLog,
    wanted: Sequence[StrategyConfig],
    time: int,
    by: str,
    note: str | None,
    expected: Mapping[str, int],
    effective_time: int,
) -> list[StrategyConfig | None]:
    """Return what is to be written for each strategy, None where it holds already."""
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
    """Say who wrote a revision and what it changed."""
    held = log.revisions[config.strategy_id]
    before = held[held.index(config) - 1] if held.index(config) else None
    what = "" if before is None else ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changes(before, config).items())
    return f" (written by {config.edited_by or 'nobody named'}{f': {what}' if what else ''})"


def _lost(log: StrategyLog, config: StrategyConfig) -> str:
    newest = log.newest[config.strategy_id]
    return (
        f"{config.strategy_id}: revision: another editor was faster, the newest is {newest.revision}{_of(log, newest)}; nothing of this edit "
        "holds, look and edit again"
    )


def _settled(settings: Settings, written: Mapping[int, int]) -> StrategyLog:
    """Read the topic back; repeat what holds wherever a refused record stands behind it, so that compaction keeps what holds.

    Args:
        settings: The environment.
        written: Partition -> last offset that was written. An open transaction (``strategy_transaction``) before it hides it until it ends.
    """
    deadline = monotonic() + TIMEOUT_S
    for _ in range(_SETTLING_ATTEMPTS):
        log = strategy_log.read(settings)
        while any(log.next[partition] <= offset for partition, offset in written.items()):
            if monotonic() > deadline:
                raise UserError(
                    f"{settings.topic('strategies')}: a transaction before the edit does not end; whether it holds, `strategies list` will tell"
                )
            sleep(0.05)
            log = strategy_log.read(settings)
        covered = log.unsettled()
        if not covered:
            return log
        _produce(settings, "strategies", [(config.strategy_id, partition_for(settings, config), config.to_record()) for config in covered])
    return strategy_log.read(settings)


def common_instant(settings: Settings, marks: Mapping[int, list[tuple[int, int]]]) -> int:
    """Return the next instant that none of the partitions has reached; 0 when their markets do not run on one clock, or not at all."""
    newest = [max(time for _, time in seen) for seen in marks.values() if seen]
    if not newest or max(newest) - min(newest) > ONE_CLOCK_MS:
        return 0
    return ((max(newest) + LEAD_MS - settings.allowed_lateness_ms) // settings.grid_ms + 1) * settings.grid_ms


def late_ones(settings: Settings, effective_time: int, marks: Mapping[int, int], written: Sequence[StrategyConfig]) -> list[str]:
    """Return the strategies in whose partition the common instant fired before our mark."""
    seen = market_marks(settings, marks)
    fired = effective_time + settings.allowed_lateness_ms
    passed = {partition for partition, offset in marks.items() if any(at < offset and time >= fired for at, time in seen[partition])}
    return [config.strategy_id for config in written if partition_for(settings, config) in passed]


def _produce(settings: Settings, name: str, records: Sequence[tuple[str, int, dict[str, Any]]]) -> dict[int, int]:
    """Send (key, partition, record) to a topic and wait until all are acknowledged; return the offset of the last in each partition."""
    # Not idempotent, which takes half a second to begin: a record that arrives twice is a repeat, and readers pass over it.
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
