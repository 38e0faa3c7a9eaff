"""The strategy registry: current revisions and audit trail, updated in the transaction that writes the ``strategies`` rows.

The table ``strategies`` has the topic's records unchanged. ``stream_apps.core.signals.strategy.succeeds`` decides in log order which of them take effect, as
in every worker. So registry and audit trail agree with the workers, including rejected revisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from schemas.partition import AssetGroups
from sinks.timescale.tables import table
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError, action, changes, config_hash
from stream_apps.core.signals.strategy_rules import check_together, strategy_from_record, succeeds

TOPIC = "strategies"
_MS = "(extract(epoch FROM s.{}) * 1000)::bigint"
_TIME = "timestamptz 'epoch' + make_interval(days => (%(at)s / 86400000)::int) + (%(at)s %% 86400000) * interval '1 millisecond'"


def mirror(connection: psycopg.Connection, partitions: Sequence[int], groups: AssetGroups) -> int:
    """Add new records of partitions to the registry and the audit trail; return their number.

    Args:
        connection: Inside a transaction that holds the offsets of these partitions.
        partitions: Kafka partitions.
        groups: Assets that share a partition.
    """
    taken = _untaken(connection, partitions)
    known = _known(connection, sorted({str(record["strategy_id"]) for record, _, _ in taken}))
    for record, partition, offset in taken:
        strategy_id = str(record["strategy_id"])
        held, place = known.get(strategy_id, (None, partition))
        try:
            config = strategy_from_record(record)
            if place != partition:
                raise StrategyError("instrument", f"records of {strategy_id} are in partition {place}, this one in {partition}")
            if not succeeds(held, config):
                continue
            check_together(config, groups)
        except StrategyError as error:
            _refuse(connection, record, partition, offset, str(error))
            continue
        _accept(connection, held, config, partition, offset)
        known[strategy_id] = (config, partition)
    return len(taken)


def forget(connection: psycopg.Connection, partitions: Sequence[int]) -> None:
    """Restart the registry of partitions whose topic was recreated. The audit trail stays."""
    connection.execute("DELETE FROM strategy_registry WHERE kafka_partition = ANY(%s)", (list(partitions),))


def _untaken(connection: psycopg.Connection, partitions: Sequence[int]) -> list[tuple[dict[str, Any], int, int]]:
    """Return the new records in log order with their Kafka positions; times in ms."""
    columns = [column for column in table(TOPIC).columns if not column.name.startswith("kafka_")]
    chosen = sql.SQL(", ").join(
        sql.SQL(_MS).format(sql.Identifier(column.name))
        if column.type == "timestamp with time zone"
        else sql.SQL("s.{}").format(sql.Identifier(column.name))
        for column in columns
    )
    rows = connection.execute(
        sql.SQL(
            "SELECT {}, s.kafka_partition, s.kafka_offset FROM strategies s WHERE s.kafka_partition = ANY(%s) AND NOT EXISTS ("
            "SELECT FROM strategy_audit a WHERE (a.strategy_id, a.revision, a.event_time, a.kafka_partition)"
            " = (s.strategy_id, s.revision, s.event_time, s.kafka_partition)) ORDER BY s.kafka_partition, s.kafka_offset"
        ).format(chosen),
        (list(partitions),),
    ).fetchall()
    return [(dict(zip((column.name for column in columns), row, strict=False)), row[-2], row[-1]) for row in rows]


def _known(connection: psycopg.Connection, strategy_ids: list[str]) -> dict[str, tuple[StrategyConfig | None, int]]:
    rows = connection.execute(
        "SELECT strategy_id, config, kafka_partition FROM strategy_registry WHERE strategy_id = ANY(%s)", (strategy_ids,)
    )
    return {strategy_id: (strategy_from_record(config), partition) for strategy_id, config, partition in rows}


def _accept(connection: psycopg.Connection, held: StrategyConfig | None, config: StrategyConfig, partition: int, offset: int) -> None:
    record = config.to_record()
    values = {
        **record,
        "at": config.event_time,
        "hash": config_hash(config),
        "config": Jsonb(record),
        "effective": config.effective_time or None,
        "partition": partition,
        "offset": offset,
    }
    connection.execute(
        "INSERT INTO strategy_registry AS r (strategy_id, revision, instrument, display_name, status, model, config_hash, config, created_at,"
        " updated_at, deprecated_at, effective_time, edited_by, note, kafka_partition, kafka_offset)"
        f" SELECT %(strategy_id)s, %(revision)s, %(instrument)s, %(display_name)s, %(status)s, %(model)s, %(hash)s, %(config)s, at, at,"
        " CASE WHEN %(status)s = 'deprecated' THEN at END, to_timestamp(%(effective)s::bigint / 1000.0), %(edited_by)s, %(note)s,"
        f" %(partition)s, %(offset)s FROM (SELECT {_TIME} AS at) t"
        " ON CONFLICT (strategy_id) DO UPDATE SET revision = EXCLUDED.revision, display_name = EXCLUDED.display_name,"
        " status = EXCLUDED.status, model = EXCLUDED.model, config_hash = EXCLUDED.config_hash, config = EXCLUDED.config,"
        " updated_at = EXCLUDED.updated_at,"
        " deprecated_at = CASE WHEN EXCLUDED.status = 'deprecated' THEN coalesce(r.deprecated_at, EXCLUDED.updated_at) END,"
        " effective_time = EXCLUDED.effective_time, edited_by = EXCLUDED.edited_by, note = EXCLUDED.note,"
        " kafka_offset = EXCLUDED.kafka_offset WHERE r.revision < EXCLUDED.revision",
        values,
        prepare=False,
    )
    changed = {name: list(pair) for name, pair in changes(held, config).items()}
    _audit(connection, record, partition, offset, action(held, config), changed, None, config_hash(config))


def _refuse(connection: psycopg.Connection, record: dict[str, Any], partition: int, offset: int, reason: str) -> None:
    _audit(connection, record, partition, offset, "refused", {}, reason, None)


def _audit(
    connection: psycopg.Connection,
    record: dict[str, Any],
    partition: int,
    offset: int,
    did: str,
    changed: dict[str, Any],
    reason: str | None,
    hash_: str | None,
) -> None:
    connection.execute(
        "INSERT INTO strategy_audit SELECT %(strategy_id)s, %(revision)s,"
        f" {_TIME}, %(partition)s, %(offset)s, %(accepted)s, %(did)s, %(changed)s, %(reason)s, %(hash)s, %(edited_by)s, %(note)s"
        " ON CONFLICT DO NOTHING",
        {
            **{name: record[name] for name in ("strategy_id", "revision", "edited_by", "note")},
            "at": record["event_time"],
            "partition": partition,
            "offset": offset,
            "accepted": reason is None,
            "did": did,
            "changed": Jsonb(changed),
            "reason": reason,
            "hash": hash_,
        },
        prepare=False,
    )
