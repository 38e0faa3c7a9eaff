"""The tables of the sink as a source of replay. Each row is the record at its offset of its topic, and rows are read in that order.

All is read in one transaction, so a sink that still writes changes nothing. Cursors of the server keep memory constant. The sink stores no
repeats, so their offsets are missing; the engine ignores repeats anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from schemas import catalogue
from schemas.codec.avro import Codec
from schemas.codec.recordset import I64, RecordSet
from schemas.settings import Settings
from stream_apps.replay.sources.stored import Message, Readers, Stored

# Rows of each topic in memory at a time.
ROWS = 20_000
# The sink's name in the table of its offsets.
SINK = "timescale"
# For a period, only rows within two days of it are read. Later arrivals change no window.
REACH_MS = 2 * 86_400_000
UNBOUND = ("instruments", "strategies", "engine_settings")


class DatabaseError(RuntimeError):
    """The tables cannot be replayed."""


@dataclass(kw_only=True)
class Database(Stored):
    """The sink's tables as a source.

    Args:
        url: URL of the database.
    """

    url: str

    KEEPS_ORDER = False

    @classmethod
    def of(cls, url: str, settings: Settings) -> Database:
        """Return a source of the whole database."""
        return cls(settings.codec, settings.grid_ms, settings.allowed_lateness_ms, url=url)

    @contextmanager
    def opened(self, topics: tuple[str, ...]) -> Iterator[Readers]:
        """Open partition -> topic -> reader. Raises DatabaseError if it does not answer, lacks a table, or holds nothing to replay."""
        try:
            with psycopg.connect(self.url, connect_timeout=10, application_name="perpflow-replay") as connection:
                connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
                found: dict[int, dict[str, TableReader]] = {}
                for topic in topics:
                    for reader in self._readers(connection, topic):
                        if self.partitions is None or reader.partition in self.partitions:
                            found.setdefault(reader.partition, {})[topic] = reader
                if not found and set(topics) & set(self.inputs()):
                    raise DatabaseError("the database holds no market data of these partitions")
                yield found
        except psycopg.Error as error:
            raise DatabaseError(f"the database: {str(error).strip()}") from error

    def _readers(self, connection: psycopg.Connection, topic: str) -> Iterator[TableReader]:
        since = None if self.since is None or topic in UNBOUND else self.since - REACH_MS
        until = None if self.until is None or topic in UNBOUND else self.until + REACH_MS
        within = sql.SQL("event_time >= {} AND event_time <= {}").format(_bound(since, "-infinity"), _bound(until, "infinity"))
        found = connection.execute(
            sql.SQL(
                "SELECT t.*, coalesce(o.next_offset, 0) FROM (SELECT kafka_partition AS partition, min(kafka_offset), max(kafka_offset), count(*)"
                " FROM {} WHERE {} GROUP BY 1) t LEFT JOIN sink_offsets o ON o.sink = {} AND o.topic = {} AND o.partition = t.partition"
            ).format(sql.Identifier(topic), within, sql.Literal(SINK), sql.Literal(topic))
        )
        for partition, first, last, rows, following in found.fetchall():
            yield TableReader(connection, self.codec, topic, partition, within, first, max(last + 1, following), rows)


def _bound(time_ms: int | None, otherwise: str) -> sql.Composable:
    if time_ms is None:
        return sql.SQL("{}::timestamptz").format(sql.Literal(otherwise))
    return sql.SQL("('epoch'::timestamptz + {} * interval '1 millisecond')").format(sql.Literal(time_ms))


@dataclass
class TableReader:
    """One topic and partition of the tables (``stored.Reader``)."""

    connection: psycopg.Connection
    codec: Codec
    topic: str
    partition: int
    within: sql.Composable
    first_offset: int
    next_offset: int
    rows: int

    def windows(self, start: int = 0) -> Iterator[RecordSet]:
        """Yield the records from an offset on, as they were in the topic."""
        for rows in self._fetched(self._columns(), start):
            yield RecordSet.from_messages([self._message(row) for row in rows])
        nothing = RecordSet.from_messages([])
        nothing.next_offset = self.next_offset
        yield nothing

    def messages(self, start: int = 0) -> Iterator[Message]:
        """Yield (offset, timestamp ms, key, value) of the records from an offset on."""
        for rows in self._fetched(self._columns(), start):
            yield from map(self._message, rows)

    def times(self, start: int = 0) -> Iterator[tuple[I64, I64]]:
        """Yield (offsets, event times ms) of the records from an offset on."""
        for rows in self._fetched(_milliseconds("event_time"), start):
            pairs = np.array(rows, dtype=np.int64)
            yield pairs[:, 0], pairs[:, 1]

    def offset_at(self, time_ms: int) -> int:
        """Return the offset of the first record with an event time at or after a time; ``next_offset`` if every record is older."""
        query = sql.SQL("SELECT min(kafka_offset) FROM {} WHERE kafka_partition = {} AND event_time >= {} AND {}").format(
            sql.Identifier(self.topic), sql.Literal(self.partition), _bound(time_ms, ""), self.within
        )
        row = self.connection.execute(query).fetchone()
        return self.next_offset if row is None or row[0] is None else int(row[0])

    def _columns(self) -> sql.Composable:
        fields = catalogue.schema(self.topic)["fields"]
        return sql.SQL(", ").join(_milliseconds(one["name"]) if _is_time(one["type"]) else sql.Identifier(one["name"]) for one in fields)

    def _message(self, row: tuple[Any, ...]) -> Message:
        record = dict(zip(catalogue.field_names(self.topic), row[1:], strict=True))
        key = str(record[catalogue.TOPICS[self.topic].key]).encode()
        return row[0], record["event_time"], key, self.codec.encode(self.topic, record)

    def _fetched(self, columns: sql.Composable, start: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield rows of the offset and these columns, in order of offset."""
        query = sql.SQL(
            "SELECT kafka_offset, {} FROM {} WHERE kafka_partition = {} AND kafka_offset >= {} AND {} ORDER BY kafka_offset"
        ).format(columns, sql.Identifier(self.topic), sql.Literal(self.partition), sql.Literal(start), self.within)
        previous = -1
        with self.connection.cursor(name=f"{self.topic}_{self.partition}_{start}_{id(query)}") as cursor:
            cursor.execute(query, binary=True)
            while rows := cursor.fetchmany(ROWS):
                offsets = np.array([row[0] for row in rows], dtype=np.int64)
                if offsets[0] <= previous or (np.diff(offsets) <= 0).any():
                    raise DatabaseError(
                        f"{self.topic}: partition {self.partition} holds an offset twice: these are rows of two logs (the topic was created again)"
                    )
                previous = int(offsets[-1])
                yield rows


def _milliseconds(name: str) -> sql.Composable:
    return sql.SQL("(extract(epoch FROM {}) * 1000)::bigint").format(sql.Identifier(name))


def _is_time(kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_is_time(one) for one in kind)
    return isinstance(kind, dict) and kind.get("logicalType") == "timestamp-millis"
