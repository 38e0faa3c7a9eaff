"""A live executor as a process of its own that can kill itself at the k-th crossing of a boundary: journal, venue, user stream, outbox.

Every await of an order's life that leaves the process, and every write, is one of these (``BOUNDARIES``); each is crossed before and after, a journal's
transaction also between its statements and its commit. Awaits that stay in the process (queues, the turn of the journal) have nothing to lose between
the crossings around them. The process dies by SIGKILL: nothing is flushed, closed or rolled back by it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from schemas.process.service import Service, configure_logging
from schemas.settings import Settings
from sinks.executor.publish import Publisher
from sinks.live.journal import LiveJournal
from sinks.live.service import LiveExecutor
from sinks.venues.binance.venue import BinanceVenue
from sinks.venues.binance_spot.venue import BinanceSpotVenue
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.records import Account
from tests.support.trading.live_lab import adapter
from tests.support.trading.spot_lab import spot_adapter

WATCHED = ("open", "place", "place_pair", "cancel", "query", "open_orders", "positions", "balances", "fills", "funding")
JOURNAL = ("lock", "take", "unpublished", "switch", "commit", "forget")
BOUNDARIES = frozenset(
    (
        *(f"{name} {side}" for name in (*WATCHED, *JOURNAL, "publish") for side in ("before", "after")),
        "commit written",
        *(f"event {name}" for name in ("StreamReady", "OrderReport", "FillReport")),
    )
)


class Crossings:
    """Counts, and kills at the k-th."""

    def __init__(self, kill_at: int, path: Path) -> None:
        self._kill_at, self._path, self.names = kill_at, path, []

    def cross(self, name: str) -> None:
        assert name in BOUNDARIES or name.startswith("event "), name
        self.names.append(name)
        if len(self.names) == self._kill_at:
            self._path.write_text("\n".join(self.names))
            os.kill(os.getpid(), signal.SIGKILL)

    def alive(self) -> None:
        """Tell that the account is ours: from here on its positions are our duty."""
        self._path.with_suffix(".alive").touch()

    def save(self) -> None:
        self._path.write_text("\n".join(self.names))


class Counted:
    """Counts every request of an adapter and every event of its user stream."""

    crossings: Crossings

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in WATCHED:
            return found
        crossings = super().__getattribute__("crossings")

        async def crossed(*given: Any, **named: Any) -> Any:
            crossings.cross(f"{name} before")
            answer = await found(*given, **named)
            crossings.cross(f"{name} after")
            return answer

        return crossed

    async def user_events(self) -> AsyncIterator[Any]:
        async for event in super().user_events():  # type: ignore[misc]
            self.crossings.cross(f"event {type(event).__name__}")
            yield event


class Venue(Counted, BinanceVenue):
    """Of contracts."""


class SpotVenue(Counted, BinanceSpotVenue):
    """Of coins."""


class Journal(LiveJournal):
    """Counts transactions: before, between the statements and the commit, after."""

    crossings: Crossings

    async def commit(self, *given: Any, **named: Any) -> None:
        # Quiet transactions (a signal of another instrument) are not of an order's life.
        self.crossings.cross("commit before")
        await super().commit(*given, **named)
        self.crossings.cross("commit after")

    async def lock(self) -> bool:
        self.crossings.cross("lock before")
        held = await super().lock()
        self.crossings.cross("lock after")
        return held

    async def take(self, keep_ms: int) -> Any:
        self.crossings.cross("take before")
        taken = await super().take(keep_ms)
        self.crossings.alive()
        self.crossings.cross("take after")
        return taken

    async def unpublished(self) -> Any:
        self.crossings.cross("unpublished before")
        rows = await super().unpublished()
        self.crossings.cross("unpublished after")
        return rows

    async def _written(self) -> None:
        self.crossings.cross("commit written")

    async def forget(self, before_seq: int) -> None:
        self.crossings.cross("forget before")
        await super().forget(before_seq)
        self.crossings.cross("forget after")


class Published(Publisher):
    """Counts publications."""

    crossings: Crossings

    def publish(self, *given: Any, **named: Any) -> None:
        self.crossings.cross("publish before")
        super().publish(*given, **named)
        self.crossings.cross("publish after")


class Executor(LiveExecutor):
    """Counts readings of the switch right before a signal is judged; those of every half second are of no order's life."""

    crossings: Crossings

    async def _switch(self) -> str | None:
        counts = bool(self._signals)
        if counts:
            self.crossings.cross("switch before")
        reason = await super()._switch()
        if counts:
            self.crossings.cross("switch after")
        return reason


def main(
    settings: dict[str, Any],
    account: Account,
    rest_url: str,
    ws_url: str,
    policy: LivePolicy,
    kill_at: int,
    path: str,
    log: str,
) -> None:
    """Run an executor until SIGTERM or the k-th crossing (0: never)."""
    crossings = Crossings(kill_at, Path(path))
    for kind in (Counted, Journal, Published, Executor):
        kind.crossings = crossings
    made = Settings(**settings)
    with Path(log).open("a", buffering=1) as lines:
        sys.stderr = lines
        configure_logging("info")
        service = Service("live")
        signal.signal(signal.SIGTERM, lambda *_: service.stop())
        venue = spot_adapter(rest_url, ws_url, SpotVenue) if account.is_spot else adapter(rest_url, ws_url, Venue)
        journal = Journal(made.database_url, f"{made.topic_prefix}{account.name}")
        executor = Executor(made, service, account, venue, policy, journal=journal, publisher=Published(made))
        asyncio.run(executor.run())
    crossings.save()
