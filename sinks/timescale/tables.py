"""The table of a topic, derived from its Avro schema: one column for each field, then the record's Kafka position.

Migrations define the same tables (``deploy/database/migrations``); a test compares both. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from schemas import catalogue

# Kafka position of a row. No schema field starts with ``kafka_``.
PLACE_COLUMNS = ("kafka_partition", "kafka_offset")

# Small histories in one plain table each; all others are partitioned by time.
UNPARTITIONED = ("instruments", "strategies", "engine_settings")

_SCALARS = {
    "string": "text",
    "enum": "text",
    "boolean": "boolean",
    "int": "integer",
    "long": "bigint",
    "float": "real",
    "double": "double precision",
    "bytes": "bytea",
}


@dataclass(frozen=True)
class Column:
    """One column: name, PostgreSQL type as ``format_type`` prints it, nullability, and meaning."""

    name: str
    type: str
    nullable: bool
    doc: str


@dataclass(frozen=True)
class Table:
    """The table of one topic.

    Attributes:
        name: Same as the topic.
        columns: Schema fields in order, then PLACE_COLUMNS.
        key: Column of the Kafka key.
        record_id: Columns that identify a record within its Kafka partition; empty if only the whole record does. A key always goes to one partition.
            In ``worker_progress`` each partition numbers its own marks, so one id in two partitions means two records.
        rising: Columns of which at least one increases with each new record of a key (see ``catalogue.Topic``).
        step: Span of one native partition: ``day``, ``month``, or None for a plain table.
        doc: Meaning.
    """

    name: str
    columns: tuple[Column, ...]
    key: str
    record_id: tuple[str, ...]
    rising: tuple[str, ...]
    step: str | None
    doc: str

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns in order."""
        return tuple(column.name for column in self.columns)

    @property
    def identity_columns(self) -> tuple[str, ...]:
        """Columns that identify repeats: record id or key, then the rising columns, each once."""
        return tuple(dict.fromkeys((*(self.record_id or (self.key,)), *self.rising)))


@cache
def table(topic: str) -> Table:
    """Return the table of a topic. Raises KeyError for an unknown topic."""
    entry = catalogue.TOPICS[topic]
    schema = catalogue.schema(topic)
    columns = [_column(field) for field in schema["fields"]]
    columns.append(Column("kafka_partition", "integer", False, "Kafka partition that the record was read from."))
    columns.append(Column("kafka_offset", "bigint", False, "Kafka offset of the record."))
    step: str | None = "month"
    if topic in UNPARTITIONED:
        step = None
    elif entry.market_data or topic == "progress":
        step = "day"
    return Table(topic, tuple(columns), entry.key, entry.record_id, entry.rising, step, schema["doc"])


def tables() -> list[Table]:
    """Return the tables of all topics in catalogue order."""
    return [table(topic) for topic in catalogue.TOPICS]


def _column(field: dict[str, Any]) -> Column:
    kind, nullable = unwrap(field["type"])
    return Column(field["name"], column_type(kind), nullable, field.get("doc", ""))


def unwrap(kind: Any) -> tuple[Any, bool]:
    """Return a field's type without its null branch, and whether it had one. A larger union stays a list."""
    if isinstance(kind, list):
        branches = [branch for branch in kind if branch != "null"]
        return (branches[0] if len(branches) == 1 else branches), len(branches) < len(kind)
    return kind, False


def column_type(kind: Any) -> str:
    """Return the PostgreSQL type of an Avro type without its null branch."""
    if isinstance(kind, str):
        return _SCALARS[kind]
    if isinstance(kind, dict):
        if kind.get("logicalType") == "timestamp-millis":
            return "timestamp with time zone"
        if kind["type"] == "array" and kind["items"] == "double":
            return "double precision[]"
        if kind["type"] == "array" and kind["items"] == "string":
            return "text[]"
        if kind["type"] in _SCALARS:
            return _SCALARS[kind["type"]]
    return "jsonb"
