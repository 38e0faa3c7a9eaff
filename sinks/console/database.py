"""Connections of the console to the database: a pool of the reader for queries, a small one of the role ``console`` for its own tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
import psycopg
from fastapi.concurrency import run_in_threadpool
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from schemas.settings import Settings
from sinks.queries.accounts import AccountQueries

Row = dict[str, Any]
Connection = AsyncConnection[Row]
Pool = AsyncConnectionPool[Connection]
Answer = TypeVar("Answer")
# A request waits this long for a free connection before it is answered with 503.
WAIT_S = 3.0
# What a query raises while the database is away, or while the pool gives no connection.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, TooManyRequests)
# Connections for users, sessions, audit: few and short statements.
OWN_CONNECTIONS = 4
# The command line's queries of accounts run in threads.
ACCOUNT_CONNECTIONS = 2


def _reads_json(connection: psycopg.Connection[Row] | Connection) -> None:
    """Read jsonb by orjson: PostgreSQL writes 1e300 as 301 digits, and only as a float a response can carry them."""
    set_json_loads(orjson.loads, connection)


async def _reads_json_async(connection: Connection) -> None:
    _reads_json(connection)


def _arguments(size: int, statement_timeout_ms: int, *, read_only: bool) -> dict[str, Any]:
    options = f"-c timezone=UTC -c statement_timeout={statement_timeout_ms} -c default_transaction_read_only={'on' if read_only else 'off'}"
    return {
        "kwargs": {
            "autocommit": True,
            "row_factory": dict_row,
            "options": options,
            "connect_timeout": 5,
            "application_name": "perpflow-console",
        },
        "min_size": 1,
        "max_size": size,
        "timeout": WAIT_S,
        "max_waiting": size * 32,  # more waiting requests than this would only time out
        "reconnect_timeout": 1.0,  # a later request tries again
        "open": False,
    }


class Database:
    """The pools.

    Args:
        settings: The environment; roles ``reader`` and ``console``.
        size: Most connections of the reader.
        statement_timeout_ms: Longest time of one query.
    """

    def __init__(self, settings: Settings, size: int, statement_timeout_ms: int) -> None:
        self._settings = settings
        reader, timeout = settings.role_url("reader"), statement_timeout_ms
        self._reads: Pool = AsyncConnectionPool(reader, configure=_reads_json_async, **_arguments(size, timeout, read_only=True))
        self._own: Pool = AsyncConnectionPool(
            settings.role_url("console"), configure=_reads_json_async, **_arguments(OWN_CONNECTIONS, timeout, read_only=False)
        )
        self._accounts: ConnectionPool[psycopg.Connection[Row]] = ConnectionPool(
            reader, configure=_reads_json, **_arguments(ACCOUNT_CONNECTIONS, timeout, read_only=True)
        )

    async def open(self) -> None:
        """Open the pools. A database that is away is tried again by every request."""
        await self._reads.open(wait=False)
        await self._own.open(wait=False)
        self._accounts.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._reads.close(timeout=2.0)
        await self._own.close(timeout=2.0)
        await run_in_threadpool(self._accounts.close, 2.0)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Yield a read-only connection of the reader. Raises PoolTimeout if none is free."""
        async with self._reads.connection() as connection:
            yield connection

    @asynccontextmanager
    async def own(self) -> AsyncIterator[Connection]:
        """Yield a connection of the role ``console`` in a transaction: it commits at the end, or rolls back after an error."""
        async with self._own.connection() as connection, connection.transaction():
            yield connection

    async def accounts(self, ask: Callable[[AccountQueries], Answer]) -> Answer:
        """Return what ``ask`` finds, in a thread. Raises PoolTimeout if no connection is free."""

        def call() -> Answer:
            with self._accounts.connection() as connection:
                return ask(AccountQueries(self._settings, connection))

        return await run_in_threadpool(call)
