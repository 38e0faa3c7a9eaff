"""Re-estimate the routing table once a day from journalled trades. Each table is stored in ``live_routes`` and used for the next entries.

The work runs in a thread with its own connection, so orders and their journal never wait for it. A table takes effect only after it is written. A trade in
progress keeps the slices that it started with. If the database is down, the re-estimation is postponed. After a restart the newest stored table applies,
if it was derived from the policy's current table. With ``routing.automatic`` off nothing is read or written, and the policy's table applies.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import structlog
from psycopg.types.json import Jsonb

from sinks.executor.journal import FencedError
from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.routing.proposal import RowProposal
from stream_apps.core.execution.routing.reestimate import DAY_MS, ActiveRoute, entry_of, reestimate, updated_routes
from stream_apps.core.execution.state.trade import Trade

RETRY_MS = 60_000
# Trades of one fetch.
FETCH = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Rerouter:
    """Re-estimates the routes of one account.

    Args:
        database_url: Database of the live_* tables.
        journal: Key of the account's rows.
        mode: Mode of the account.
        book: Execution book whose policy receives the routes.
    """

    def __init__(self, database_url: str, journal: str, mode: str, book: ExecutionBook) -> None:
        self._url, self._journal, self._mode, self._book = database_url, journal, mode, book
        self._log = structlog.get_logger().bind(account=book.account.name)
        self._base = book.policy.entry.routes
        self._held = tuple(ActiveRoute(one) for one in self._base)
        self._due = 0
        self._epoch = -1

    @property
    def is_on(self) -> bool:
        """Whether the table is re-estimated."""
        return self._book.policy.routing.automatic

    async def load(self, epoch: int) -> None:
        """Apply the newest stored table.

        Args:
            epoch: This owner's epoch of the account.

        Raises:
            psycopg.OperationalError: the database is down.
        """
        self._epoch = epoch
        newest = await asyncio.to_thread(self._newest) if self.is_on else None
        if newest is None:
            return
        at, held = newest
        self._due = at + self._book.policy.routing.every_ms
        self._hold(held)
        self._log.info("routing table as re-estimated", estimated_at=at, routes=[one.to_json() for one in held])

    async def run(self) -> None:
        """Re-estimate until cancelled; at once if it is due.

        Raises:
            FencedError: another executor took the account.
        """
        while True:
            await asyncio.sleep(max(0, self._due - _now()) / 1000)
            now = _now()
            try:
                found, held = await asyncio.to_thread(self._estimate, now)
            except psycopg.Error as error:  # no database error may end the service that holds positions
                self._log.warning("the routing table cannot be re-estimated now", reason=str(error).strip())
                self._due = now + RETRY_MS
                continue
            self._due = now + self._book.policy.routing.every_ms
            changed = [f"{one.now.from_notional:f}: {'; '.join(one.why)}" for one in found if one.proposed != one.now]
            self._log.info("routing table re-estimated", entries=sum(one.measured.entries for one in found), changed=changed)
            self._hold(held)

    def _hold(self, held: tuple[ActiveRoute, ...]) -> None:
        self._held = held
        policy = self._book.policy
        self._book.policy = replace(policy, entry=replace(policy.entry, routes=tuple(one.route for one in held)))

    # --- in the thread ------------------------------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._url, connect_timeout=5, application_name=f"perpflow-routes-{self._journal}")

    def _newest(self) -> tuple[int, tuple[ActiveRoute, ...]] | None:
        with self._connect() as connection:
            return newest_routes(connection, self._journal, self._base)

    def _estimate(self, now: int) -> tuple[list[RowProposal], tuple[ActiveRoute, ...]]:
        policy, held = self._book.policy, self._held
        since = _EPOCH + (now - policy.routing.days * DAY_MS) * _MILLISECOND
        entries = []
        with self._connect() as connection:
            with connection.cursor("trades") as cursor:
                cursor.itersize = FETCH
                cursor.execute("SELECT state FROM live_trades WHERE account = %s AND over_at >= %s", (self._journal, since))
                for (state,) in cursor:
                    entry = entry_of(Trade.from_json(state), self._mode)
                    if entry is not None:
                        entries.append(entry)
            found = reestimate(entries, held, policy, now)
            after = updated_routes(found, held, now)
            written = connection.execute(
                "INSERT INTO live_routes (account, estimated_at, base, routes, found, changed) SELECT account, %s, %s, %s, %s, %s"
                " FROM live_accounts WHERE account = %s AND epoch = %s FOR SHARE",
                (
                    _EPOCH + now * _MILLISECOND,
                    Jsonb([ActiveRoute(one).to_json() for one in self._base]),
                    Jsonb([one.to_json() for one in after]),
                    Jsonb([{**asdict(one.measured), "from_notional": f"{one.now.from_notional:f}", "why": list(one.why)} for one in found]),
                    after != held,
                    self._journal,
                    self._epoch,
                ),
            )
            if written.rowcount != 1:
                raise FencedError(f"{self._journal}: epoch {self._epoch} is no longer the newest")
        return found, after


def newest_routes(connection: psycopg.Connection[Any], journal: str, base: tuple[Any, ...]) -> tuple[int, tuple[ActiveRoute, ...]] | None:
    """Return the time of an account's last re-estimation and its routes; None if they derive from another table than ``base``.

    Args:
        connection: Connection to the database of the live_* tables.
        journal: Topic prefix and account.
        base: The policy's table.
    """
    row = connection.execute(
        "SELECT estimated_at, base, routes FROM live_routes WHERE account = %s ORDER BY estimated_at DESC LIMIT 1", (journal,)
    ).fetchone()
    if row is None or [ActiveRoute.from_json(one).route for one in row[1]] != list(base):
        return None
    return (row[0] - _EPOCH) // _MILLISECOND, tuple(ActiveRoute.from_json(one) for one in row[2])


def _now() -> int:
    return time.time_ns() // 1_000_000
