"""The journal of an account in PostgreSQL: every trade's state, written before anything is sent.

One transaction holds what an event changed: the touched trades with the intents of their orders, the signal offset, and the records to be written
(outbox). Only after its commit are orders sent and records published. So a crash at any point leaves either nothing or everything; what was intended
and has no answer is asked for by its client id, and what was committed and not acknowledged by Kafka is sent again.

An account has one owner: taking it raises its epoch, and a transaction under an older one changes nothing and raises ``FencedError``.
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
from stream_apps.core.execution.account.guard import Command
from stream_apps.core.execution.state.trade import Trade

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
EVERY_ACCOUNT = "*"


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An outbox row and the partition that it goes to."""

    partition: int
    row: OutboxRow


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """What the journal holds when an account is taken.

    Attributes:
        epoch: Ours from now on.
        offsets: Partition of signals -> next offset.
        next_seq: Of the outbox.
        trades: Every trade that is not over, and those that have been over only since ``keep_ms``.
    """

    epoch: int
    offsets: dict[int, int]
    next_seq: int
    trades: list[Trade]


class LiveJournal:
    """The journal of one account. Methods raise psycopg.OperationalError when the database is gone; ``connect`` again then.

    Args:
        database_url: Where the live_* tables are.
        account: Name that the rows stand under.
    """

    def __init__(self, database_url: str, account: str) -> None:
        self._url = database_url
        self.account = account
        self._connection: psycopg.AsyncConnection | None = None
        # One statement or transaction at a time: another task's statement must not fall into a transaction.
        self._turn = asyncio.Lock()

    async def connect(self) -> None:
        """Connect anew."""
        await self.close()
        self._connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            application_name=f"perpflow-live-{self.account}",
            # A host that vanished is noticed within seconds.
            tcp_user_timeout=5_000,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        )

    async def close(self) -> None:
        """Disconnect; the lock goes with the connection."""
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
        """Try to be the account's only executor; return whether we are. Held until the connection ends."""
        cursor = await self._execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"perpflow-live-{self.account}",))
        row = await cursor.fetchone()
        return bool(row is not None and row[0])

    async def take(self, keep_ms: int) -> JournalSnapshot:
        """Become the account's owner; every former owner is fenced from here on."""
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
        """Write what changed, all or nothing.

        Args:
            epoch: Ours.
            trades: (key, JSON, over since ms or None) of the touched trades.
            offsets: All offsets of signals.
            next_seq: Behind the last of ``rows``.
            rows: Records decided.

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
                    # A commit whose acknowledgement was lost is repeated.
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
        """Called between the statements and the commit of a transaction; tests die here."""

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
        """Delete the outbox rows below a sequence number: Kafka has acknowledged them. Losing this in a crash only repeats them."""
        await self._execute("DELETE FROM live_outbox WHERE account = %s AND seq < %s", (self.account, before_seq))

    async def commands(self, account_id: str) -> list[Command]:
        """Return the commands of the switch that hold for an account (``risk_switch``), oldest first."""
        cursor = await self._execute(
            "SELECT command_id, command, given_at, by, reason FROM risk_switch WHERE lifted_at IS NULL AND account IN (%s, %s) ORDER BY given_at",
            (account_id, EVERY_ACCOUNT),
        )
        return [
            Command(command_id, command, round(given.timestamp() * 1000), by, reason)
            for command_id, command, given, by, reason in await cursor.fetchall()
        ]


def trade_row(trade: Trade) -> tuple[str, str, int | None]:
    """Return a trade as the journal keeps it."""
    state: dict[str, Any] = trade.to_json()
    return trade.key, json.dumps(state, separators=(",", ":")), trade.over_at
