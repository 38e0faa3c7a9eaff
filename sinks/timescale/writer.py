"""Write a batch in one transaction: rows, duplicate check, rejected rows and offsets (DESIGN 4).

Offsets are locked first. The holder of a partition's offset lock is its only writer. A sink that expects another offset than the stored one was frozen and
replaced; it is fenced. Nothing of that partition is written, and the sink reads again from the stored offset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from schemas import metrics
from schemas.partition import AssetGroups
from sinks.consuming.reader import Message, Place
from sinks.timescale import changes, offsets, repeats, strategy_registry
from sinks.timescale.copying import bisect, try_copy
from sinks.timescale.dead_letters import DeadLetterWriter
from sinks.timescale.partitions import Partitions
from sinks.timescale.rows import Rows
from sinks.timescale.tables import table

# Longest time that a frozen sink keeps its locks. A successor waits a little longer than a normal batch takes.
STATEMENT_TIMEOUT = "60s"
IDLE_TIMEOUT = "15s"
LOCK_TIMEOUT = "10s"
CONNECT_TIMEOUT_S = 5


@dataclass
class TableBatch:
    """One topic partition's part of a batch.

    Attributes:
        place: Plain topic name and partition.
        expected: Next offset that the database must have.
        next_offset: Next offset after the batch.
        rows: Rows in COPY format.
        message: Returns the message of a value's index, for dead letters.
    """

    place: Place
    expected: int
    next_offset: int
    rows: Rows
    message: Callable[[int], Message]


@dataclass
class WriteResult:
    """The result of a batch: next offset of each written partition, and the stored offset of each fenced one."""

    written: dict[Place, int] = field(default_factory=dict)
    fenced: dict[Place, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    refused: int = 0


class TableWriter:
    """Holds the database connection. Not thread-safe: one thread at a time.

    Args:
        database_url: PostgreSQL or TimescaleDB.
        letters: Writes dead letters of rejected values.
        groups: Assets that share a partition.
    """

    def __init__(self, database_url: str, letters: DeadLetterWriter, groups: AssetGroups) -> None:
        self._url = database_url
        self._groups = groups
        self._letters = letters
        self._connection: psycopg.Connection | None = None
        self._partitions: Partitions | None = None
        self._sources: frozenset[str] = frozenset()
        self._watermarks: dict[Place, repeats.Watermarks] = {}

    # --- connection ------------------------------------------------------------------------------------------------

    def connection(self) -> psycopg.Connection:
        """Return the connection; open it if needed. Raises psycopg.OperationalError when the database does not answer."""
        if self._connection is None or self._connection.closed:
            connection = psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="perpflow-sink")
            connection.execute(
                "SELECT set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false),"
                " set_config('idle_in_transaction_session_timeout', %s, false), set_config('lock_timeout', %s, false),"
                # Lookups of ids must use the index, even for a table without statistics.
                " set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),"
                # Releases the locks of a dead machine within a minute.
                " set_config('tcp_keepalives_idle', '20', false), set_config('tcp_keepalives_interval', '10', false)",
                (STATEMENT_TIMEOUT, IDLE_TIMEOUT, LOCK_TIMEOUT),
            )
            self._connection, self._partitions, self._sources = connection, Partitions(connection), changes.sources(connection)
        return self._connection

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        connection, self._connection, self._partitions = self._connection, None, None
        if connection is not None:
            connection.close()

    # --- positions -------------------------------------------------------------------------------------------------

    def positions(self, topic_ids: Mapping[str, str], places: Iterable[Place]) -> tuple[dict[Place, int], list[Place]]:
        """Return the stored next offsets of newly assigned partitions, and which of them restart (see ``offsets.stored``)."""
        wanted = list(places)
        connection = self.connection()
        strategies = [partition for topic, partition in wanted if topic == strategy_registry.TOPIC]
        with connection.transaction():
            found = offsets.stored(connection, topic_ids, wanted)
            strategy_registry.forget(connection, [partition for topic, partition in found[1] if topic == strategy_registry.TOPIC])
            if strategies:
                strategy_registry.mirror(connection, strategies, self._groups)  # rows of a release that had no registry
        self._watermarks.update(offsets.watermarks(connection, (place for place in wanted if table(place[0]).rising)))
        return found

    # --- a batch ---------------------------------------------------------------------------------------------------

    def write(self, parts: list[TableBatch]) -> WriteResult:
        """Write a batch. After an error the database has nothing of it, or all of it if the commit's answer was lost. It may be retried.

        Raises:
            psycopg.Error: the database does not answer, or its schema does not fit.
            NotDelivered: Kafka did not accept the dead letters.
        """
        started = time.perf_counter()
        try:
            connection = self.connection()
            assert self._partitions is not None
            for topic, times in _times(parts).items():
                self._partitions.ensure(topic, times)
            outcome = WriteResult()
            marks: dict[Place, repeats.Watermarks] = {}
            with connection.transaction():
                mine = self._unfenced(connection, parts, outcome)
                chosen = [(part, self._new(connection, part, outcome, marks)) for part in mine]
                letters = [letter for part in mine for letter in _refusals(part)]
                for topic in sorted({part.place[0] for part in mine}):
                    letters += self._copy(connection, topic, [(part, keep) for part, keep in chosen if part.place[0] == topic], outcome)
                changes.note(connection, self._sources, ((part.place[0], part.rows.event_times[keep]) for part, keep in chosen))
                if strategies := [part.place[1] for part in mine if part.place[0] == strategy_registry.TOPIC]:
                    strategy_registry.mirror(connection, strategies, self._groups)
                offsets.raise_watermarks(connection, marks)
                offsets.advance(connection, {part.place: (part.expected, part.next_offset) for part in mine})
                self._letters.write(letters)
        except BaseException:
            self.close()  # close the session, so that nobody waits for its locks
            raise
        for place, changed in marks.items():
            self._watermarks.setdefault(place, {}).update(changed)
        for place in (*outcome.fenced, *outcome.written):
            if table(place[0]).rising:
                self._watermarks[place] = offsets.watermarks(connection, [place])[place]
        outcome.written.update({part.place: part.next_offset for part in mine})
        outcome.refused = len(letters)
        self._letters.forget()
        for topic, count in outcome.rows.items():
            metrics.ROWS_WRITTEN.labels(topic).inc(count)
        for topic, count in outcome.repeated.items():
            metrics.ROWS_REPEATED.labels(topic).inc(count)
        metrics.COPY_SECONDS.observe(time.perf_counter() - started)
        return outcome

    def _unfenced(self, connection: psycopg.Connection, parts: list[TableBatch], outcome: WriteResult) -> list[TableBatch]:
        held = offsets.lock(connection, (part.place for part in parts))
        mine = []
        for part in parts:
            if held.get(part.place) == part.expected:
                mine.append(part)
            elif held.get(part.place) == part.next_offset:
                outcome.written[part.place] = part.next_offset  # an earlier attempt was committed, but its answer was lost
            else:
                outcome.fenced[part.place] = held.get(part.place, 0)
        return mine

    def _new(
        self, connection: psycopg.Connection, part: TableBatch, outcome: WriteResult, marks: dict[Place, repeats.Watermarks]
    ) -> np.ndarray:
        """Return the numbers of a part's new rows."""
        topic, partition = part.place
        if table(topic).rising:
            keep, marks[part.place] = repeats.new_rising(connection, part.rows, partition, self._watermarks.get(part.place, {}))
        else:
            keep = repeats.new_rows(connection, part.rows, partition)
        if len(keep) < len(part.rows):
            outcome.repeated[topic] = outcome.repeated.get(topic, 0) + len(part.rows) - len(keep)
        return keep

    def _copy(
        self, connection: psycopg.Connection, topic: str, chosen: list[tuple[TableBatch, np.ndarray]], outcome: WriteResult
    ) -> list[dict[str, Any]]:
        """Copy the rows of one table; return the dead letters of rejected rows."""
        count = sum(len(keep) for _, keep in chosen)
        if not count:
            return []
        error = try_copy(connection, topic, [piece for part, keep in chosen for piece in part.rows.slices(keep)])
        letters: list[dict[str, Any]] = []
        if error is not None:
            for part, keep in chosen:
                letters += [_refused(part, int(number), reason) for number, reason in bisect(connection, part.rows, keep)]
        outcome.rows[topic] = count - len(letters)
        return letters


def _times(parts: list[TableBatch]) -> dict[str, np.ndarray]:
    by_topic: dict[str, list[np.ndarray]] = {}
    for part in parts:
        if len(part.rows):
            by_topic.setdefault(part.place[0], []).append(part.rows.event_times)
    return {topic: np.concatenate(times) for topic, times in by_topic.items()}


def _refusals(part: TableBatch) -> list[dict[str, Any]]:
    return [
        {**_letter(part, refusal.index, refusal.reason), "field": refusal.field, "instrument": refusal.instrument}
        for refusal in part.rows.refused
    ]


def _refused(part: TableBatch, number: int, reason: str) -> dict[str, Any]:
    return _letter(part, int(part.rows.index[number]), reason)


def _letter(part: TableBatch, index: int, reason: str) -> dict[str, Any]:
    message = part.message(index)
    return {
        "source": part.place[0],
        "reason": reason,
        "event_time": message.timestamp,
        "partition": part.place[1],
        "offset": message.offset,
        "key": message.key,
        "value": message.value,
    }
