"""The executor's journal in PostgreSQL.

One transaction holds a partition's new state, its offsets and the outgoing records (outbox). Records go to Kafka after the commit, and outbox rows are
deleted after Kafka's acknowledgement. So a crash leaves either all changes or none. The next owner sends unacknowledged records again, and readers drop
repeats by their ids.

A partition has one owner. A claim raises the epoch. A commit under an older epoch, or from another position, changes nothing and raises ``FencedError``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg.types.json import Jsonb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class FencedError(RuntimeError):
    """Another process owns the partition or account now (Kafka: fenced producer)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The position and state of a partition.

    Attributes:
        progress_offset: First worker_progress offset that the state does not include.
        offsets: Input topic -> offset to resume from.
        next_seq: Sequence number of the next outbox row.
        event_time: Newest instant included, ms UTC; None before the first.
        state: The state's bytes; empty before the first.
    """

    progress_offset: int
    offsets: dict[str, int]
    next_seq: int
    event_time: int | None
    state: bytes


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A record to publish: plain topic name, key, record timestamp in ms UTC, encoded value."""

    seq: int
    topic: str
    key: bytes
    event_time: int
    value: bytes


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else _EPOCH + ms * _MILLISECOND


def _ms(time: datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // _MILLISECOND


class Journal:
    """The journal of one executor. Methods raise psycopg.OperationalError when the database is down; call ``connect`` again then.

    Args:
        database_url: Database of the executor_* tables.
        executor: Key of the rows; executors with one name share the partitions.
    """

    def __init__(self, database_url: str, executor: str) -> None:
        self._url = database_url
        self.executor = executor
        self._connection: psycopg.Connection | None = None

    def connect(self) -> None:
        """Close the connection, if any, and open a new one."""
        self.close()
        self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10, application_name="perpflow-executor")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _database(self) -> psycopg.Connection:
        if self._connection is None:
            raise psycopg.OperationalError("not connected")
        return self._connection

    def claim(self, partition: int) -> tuple[int, Checkpoint]:
        """Take ownership of a partition; return the new epoch and the checkpoint. From here on every former owner is fenced."""
        row = self._database.execute(
            "INSERT INTO executor_state AS s (executor, partition, epoch, progress_offset, offsets, next_seq, state)"
            " VALUES (%s, %s, 1, 0, '{}', 0, '') ON CONFLICT (executor, partition) DO UPDATE SET epoch = s.epoch + 1, updated_at = now()"
            " RETURNING epoch, progress_offset, offsets, next_seq, event_time, state",
            (self.executor, partition),
        ).fetchone()
        assert row is not None
        epoch, progress_offset, offsets, next_seq, event_time, state = row
        return epoch, Checkpoint(progress_offset, offsets, next_seq, _ms(event_time), bytes(state))

    def commit(self, partition: int, epoch: int, expected: int, now: Checkpoint, rows: Sequence[OutboxRow]) -> None:
        """Write a new state with its outbox rows in one transaction.

        Args:
            partition: The partition.
            epoch: This owner's epoch, from ``claim``.
            expected: progress_offset of the state that ``now`` follows.
            now: The new state.
            rows: New outgoing records.

        Raises:
            FencedError: the epoch or the position is not current; nothing was written.
        """
        with self._database.transaction(), self._database.cursor() as cursor:
            cursor.execute(
                "UPDATE executor_state SET progress_offset = %s, offsets = %s, next_seq = %s, event_time = %s, state = %s, updated_at = now()"
                " WHERE executor = %s AND partition = %s AND epoch = %s AND progress_offset = %s",
                (
                    now.progress_offset,
                    Jsonb(now.offsets),
                    now.next_seq,
                    _time(now.event_time),
                    now.state,
                    self.executor,
                    partition,
                    epoch,
                    expected,
                ),
            )
            if cursor.rowcount != 1:
                raise FencedError(f"partition {partition}: epoch {epoch} at {expected} is no longer the newest")
            if rows:
                with cursor.copy("COPY executor_outbox (executor, partition, seq, topic, key, event_time, value) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row((self.executor, partition, row.seq, row.topic, row.key, _time(row.event_time), row.value))

    def owns(self, partition: int, epoch: int) -> bool:
        """Return whether the epoch is still current."""
        row = self._database.execute(
            "SELECT epoch FROM executor_state WHERE executor = %s AND partition = %s", (self.executor, partition)
        ).fetchone()
        return row is not None and row[0] == epoch

    def unpublished(self, partition: int) -> list[OutboxRow]:
        """Return the outbox rows of a partition in order."""
        rows: Iterable[tuple[int, str, bytes, datetime, bytes]] = self._database.execute(
            "SELECT seq, topic, key, event_time, value FROM executor_outbox WHERE executor = %s AND partition = %s ORDER BY seq",
            (self.executor, partition),
        )
        return [OutboxRow(seq, topic, bytes(key), _ms(at) or 0, bytes(value)) for seq, topic, key, at, value in rows]

    def forget(self, partition: int, before_seq: int) -> None:
        """Delete the outbox rows below a sequence number, which Kafka has acknowledged. If a crash loses the deletion, they are sent again."""
        with self._database.transaction():
            self._database.execute("SET LOCAL synchronous_commit = off")
            self._database.execute(
                "DELETE FROM executor_outbox WHERE executor = %s AND partition = %s AND seq < %s", (self.executor, partition, before_seq)
            )
