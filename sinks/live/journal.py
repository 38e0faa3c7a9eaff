"""The journal of an account in PostgreSQL: the state of every trade, written before an order is sent.

One transaction holds all changes of an event: the changed trades with the intents of their orders, the signal offset, and the outgoing records (outbox).
Orders are sent and records are published only after the commit. So a crash leaves either all changes or none. After a restart, intended orders without
an answer are queried by client id, and records that Kafka did not acknowledge are sent again.

An account has one owner. Taking ownership raises the epoch. A transaction under an older epoch changes nothing and raises ``FencedError``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from sinks.executor.journal import FencedError, OutboxRow
from sinks.guard.switch import EVERY_ACCOUNT, IN_FORCE, commands_of
from stream_apps.core.execution.account.guard import Command
from stream_apps.core.execution.state.trade import Trade

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An outbox row and its Kafka partition."""

    partition: int
    row: OutboxRow


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """The state of an account when ownership is taken.

    Attributes:
        epoch: The new owner's epoch.
        offsets: Partition of signals -> next offset.
        next_seq: Next sequence number of the outbox.
        trades: All open trades, and those that ended within ``keep_ms``.
    """

    epoch: int
    offsets: dict[int, int]
    next_seq: int
    trades: list[Trade]


class LiveJournal:
    """The journal of one account. Methods raise psycopg.OperationalError when the database is down; call ``connect`` again then.

    Args:
        database_url: Database of the live_* tables.
        account: Key of the account's rows.
    """

    def __init__(self, database_url: str, account: str) -> None:
        self._url = database_url
        self.account = account
        self._connection: psycopg.AsyncConnection | None = None
        # One statement or transaction at a time: a statement of another task must not become part of a transaction.
        self._turn = asyncio.Lock()

    async def connect(self) -> None:
        """Close the connection, if any, and open a new one."""
        await self.close()
        self._connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            application_name=f"perpflow-live-{self.account}",
            # Detect a dead host within seconds.
            tcp_user_timeout=5_000,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        )

    async def close(self) -> None:
        """Close the connection; this releases the lock."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @property
    def _database(self) -> psycopg.AsyncConnection:
        if self._connection is None or self._connection.closed:
            raise psycopg.OperationalError("not connected")
        return self._connection

    async def _execute(self, query: LiteralString, parameters: Sequence[Any]) -> psycopg.AsyncCursor:
        async with self._turn:
            return await self._database.execute(query, parameters)

    async def lock(self) -> bool:
        """Try to lock the account; return whether this process holds the lock. The lock ends with the connection."""
        cursor = await self._execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"perpflow-live-{self.account}",))
        row = await cursor.fetchone()
        return bool(row is not None and row[0])

    async def take(self, keep_ms: int) -> JournalSnapshot:
        """Take ownership of the account. From here on every former owner is fenced."""
        cursor = await self._execute(
            "INSERT INTO live_accounts AS a (account, epoch, offsets, next_seq) VALUES (%s, 1, '{}', 0)"
            " ON CONFLICT (account) DO UPDATE SET epoch = a.epoch + 1, updated_at = now() RETURNING epoch, offsets, next_seq",
            (self.account,),
        )
        row = await cursor.fetchone()
        assert row is not None
        epoch, offsets, next_seq = row
        cursor = await self._execute(
            "SELECT state FROM live_trades WHERE account = %s AND (over_at IS NULL OR over_at > now() - %s) ORDER BY trade_key",
            (self.account, keep_ms * _MILLISECOND),
        )
        trades = [Trade.from_json(state) for (state,) in await cursor.fetchall()]
        return JournalSnapshot(epoch, {int(partition): offset for partition, offset in offsets.items()}, next_seq, trades)

    async def commit(
        self,
        epoch: int,
        trades: Sequence[tuple[str, str, int | None]],
        offsets: Mapping[int, int],
        next_seq: int,
        rows: Sequence[OutboxEntry],
    ) -> None:
        """Write all changes in one transaction.

        Args:
            epoch: This owner's epoch.
            trades: (key, JSON, end time in ms or None) of the changed trades.
            offsets: Partition of ``signals`` -> next offset.
            next_seq: Sequence number after the last of ``rows``.
            rows: Outgoing records.

        Raises:
            FencedError: another executor owns the account; nothing was written.
        """
        async with self._turn, self._database.transaction(), self._database.cursor() as cursor:
            await cursor.execute(
                "UPDATE live_accounts SET offsets = %s, next_seq = %s, updated_at = now() WHERE account = %s AND epoch = %s",
                (Jsonb({str(partition): offset for partition, offset in offsets.items()}), next_seq, self.account, epoch),
            )
            if cursor.rowcount != 1:
                raise FencedError(f"{self.account}: epoch {epoch} is no longer the newest")
            if trades:
                await cursor.executemany(
                    "INSERT INTO live_trades (account, trade_key, state, over_at) VALUES (%s, %s, %s::jsonb, %s)"
                    " ON CONFLICT (account, trade_key) DO UPDATE SET state = excluded.state, over_at = excluded.over_at, updated_at = now()",
                    [
                        (self.account, key, state, None if over_at is None else _EPOCH + over_at * _MILLISECOND)
                        for key, state, over_at in trades
                    ],
                )
            if rows:
                await cursor.executemany(
                    "INSERT INTO live_outbox (account, seq, partition, topic, key, event_time, value) VALUES (%s, %s, %s, %s, %s, %s, %s)"
                    # A commit is repeated when its acknowledgement was lost.
                    " ON CONFLICT (account, seq) DO NOTHING",
                    [
                        (
                            self.account,
                            one.row.seq,
                            one.partition,
                            one.row.topic,
                            one.row.key,
                            _EPOCH + one.row.event_time * _MILLISECOND,
                            one.row.value,
                        )
                        for one in rows
                    ],
                )
            await self._written()

    async def _written(self) -> None:
        """Hook between the last statement and the commit; crash tests end the process here."""

    async def unpublished(self) -> list[OutboxEntry]:
        """Return the outbox in order."""
        cursor = await self._execute(
            "SELECT partition, seq, topic, key, event_time, value FROM live_outbox WHERE account = %s ORDER BY seq", (self.account,)
        )
        return [
            OutboxEntry(partition, OutboxRow(seq, topic, bytes(key), (at - _EPOCH) // _MILLISECOND, bytes(value)))
            for partition, seq, topic, key, at, value in await cursor.fetchall()
        ]

    async def forget(self, before_seq: int) -> None:
        """Delete the outbox rows below a sequence number, which Kafka has acknowledged. If a crash loses the deletion, they are sent again."""
        await self._execute("DELETE FROM live_outbox WHERE account = %s AND seq < %s", (self.account, before_seq))

    async def commands(self, account_id: str) -> list[Command]:
        """Return the commands in force for an account (table ``risk_switch``), oldest first."""
        cursor = await self._execute(IN_FORCE, (account_id, EVERY_ACCOUNT))
        return commands_of(await cursor.fetchall())


def trade_row(trade: Trade) -> tuple[str, str, int | None]:
    """Return a trade as a journal row: key, JSON, end time in ms or None."""
    state: dict[str, Any] = trade.to_json()
    return trade.key, json.dumps(state, separators=(",", ":")), trade.over_at
