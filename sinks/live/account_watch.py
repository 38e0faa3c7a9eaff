"""What live execution watches beside its inputs: the venue's user stream, the risk switch in the database, and funding settlements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg
import structlog

from sinks.live.journal import LiveJournal
from sinks.live.reconciler import Reconciler
from sinks.venues.common.adapter import TradingVenue
from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.account.funding_payments import HOUR_MS, LISTED_MS, asked_since
from stream_apps.core.execution.orders.events import CloseRequested, EntriesBlocked, Event
from stream_apps.core.execution.orders.venue_reports import BalanceReport, StreamLost, StreamReady

SWITCH_S = 0.5
UNREADABLE = "cannot be read"


class AccountWatchers:
    """Watches one account. Each coroutine runs until it is cancelled.

    Args:
        venue: Open.
        journal: The account's journal; the switch is in the same database.
        book: The account's execution book.
        reconciler: Receives requests for a round.
        give: Queues an event.
        submit: Queues an event and waits until it is journalled.
        journal_lost: Called with a reason when the database cannot be read.
    """

    def __init__(
        self,
        venue: TradingVenue,
        journal: LiveJournal,
        book: ExecutionBook,
        reconciler: Reconciler,
        give: Callable[[Event], None],
        submit: Callable[[Event], Awaitable[None]],
        journal_lost: Callable[[str], None],
    ) -> None:
        self._venue, self._journal, self._book, self._reconciler = venue, journal, book, reconciler
        self._give, self._submit, self._journal_lost = give, submit, journal_lost
        self._log = structlog.get_logger().bind(account=book.account.name)

    async def user_stream(self) -> None:
        """Pass on the events of the user stream; block entries while it is down."""
        lost: asyncio.Task[None] | None = None
        first = True
        async for event in self._venue.user_events():
            if isinstance(event, StreamReady):
                if lost is not None:
                    lost.cancel()
                lost = None
                if not first:
                    # Events of the outage are missing: reconcile before the next entry.
                    self._reconciler.want("stream")
                first = False
                self._give(EntriesBlocked("user_stream", None))
            elif isinstance(event, StreamLost):
                self._log.warning("user stream lost", reason=event.reason)
                if lost is None:
                    lost = asyncio.create_task(self._block_later())
            elif not isinstance(event, BalanceReport):
                self._give(event)

    async def _block_later(self) -> None:
        await asyncio.sleep(self._book.policy.reconcile.stream_lost_ms / 1000)
        self._give(EntriesBlocked("user_stream", "lost"))

    async def switch(self) -> None:
        """Obey the switch in the database. It works without Kafka."""
        while True:
            reason = await self.commands()
            if reason == UNREADABLE:
                # Also when nothing is to be written: a quiet account must reconnect by itself.
                self._journal_lost("the switch cannot be read")
            if self._book.blocks.get("switch") != reason:
                self._log.warning("risk switch", commands=reason)
                await self._submit(EntriesBlocked("switch", reason))
            if reason is not None and "close_all" in reason:
                for symbol in {one.symbol for one in self._book.active}:
                    await self._submit(CloseRequested(symbol, "guard"))
            await asyncio.sleep(SWITCH_S)

    async def commands(self) -> str | None:
        """Return the commands in force, None for none. ``UNREADABLE`` blocks entries as a command does."""
        try:
            commands = await self._journal.commands(self._book.account.name)
        except psycopg.OperationalError:
            return UNREADABLE
        return ", ".join(sorted({one.command for one in commands})) or None

    async def funding(self) -> None:
        """Request the funding payments soon after each full hour, when venues settle. Also drop trades that closed long ago."""
        while True:
            now = _now()
            await asyncio.sleep((HOUR_MS - (now - LISTED_MS) % HOUR_MS) / 1000)
            if asked_since(self._book.trades.values(), _now()) is not None:
                self._reconciler.want("period")
            if self._book.forget_closed(_now()):
                self._reconciler.forgot()


def _now() -> int:
    return time.time_ns() // 1_000_000
