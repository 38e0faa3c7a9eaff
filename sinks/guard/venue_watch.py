"""Poll the venue in a thread: reachability, available balance, open positions, clock offset, and latency of signed requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

import numpy as np
import structlog

from sinks.venues.common.adapter import TradingVenue, VenueError
from stream_apps.core.execution.account.guard import Share

T = TypeVar("T")

ASK_S = 2.0
CLOCK_S = 30.0
# Time-out of one poll.
ANSWER_S = 5.0
# Window of the 95th percentile of latency: two requests every two seconds make 300.
ROUTE_S = 300.0


@dataclass(frozen=True, slots=True)
class VenueReadings:
    """The newest answers; None before the first.

    Attributes:
        reached_at: Time of the last answer, ms UTC, local clock.
        available: Available balance of the margin asset.
        unrealised: Venue symbol -> unrealised profit of its position, quote units.
        skew_ms: Venue clock minus local clock.
    """

    reached_at: int | None = None
    available: Decimal | None = None
    unrealised: Mapping[str, Decimal] | None = None
    skew_ms: int | None = None
    error: str = ""


class AccountWatch:
    """Polls every two seconds.

    Args:
        venue: A venue that is not open yet.
        asset: Margin asset.
    """

    def __init__(self, venue: TradingVenue, asset: str = "USDT") -> None:
        self._venue, self._asset = venue, asset
        self._log = structlog.get_logger().bind(venue=venue.name)
        self._stop = threading.Event()
        self.seen = VenueReadings()
        # (monotonic seconds, ms) of each signed request; one without an answer counts with its waiting time.
        self._routes: deque[tuple[float, float]] = deque()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="account", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; waits for a request in flight."""
        self._stop.set()
        self._thread.join(ANSWER_S + 2)

    @property
    def route_p95_ms(self) -> Share:
        """95th percentile of the latency of signed requests over the last five minutes, ms, and the number of requests."""
        since = time.monotonic() - ROUTE_S
        taken = [ms for at, ms in tuple(self._routes) if at >= since]
        return Share(float(np.percentile(taken, 95)), len(taken)) if taken else Share()

    async def _timed(self, request: Awaitable[T]) -> T:
        begun = time.monotonic()
        try:
            return await request
        finally:
            now = time.monotonic()
            self._routes.append((now, (now - begun) * 1000))
            while self._routes[0][0] < now - ROUTE_S:
                self._routes.popleft()

    async def _run(self) -> None:
        opened, clock_at = False, 0.0
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(ANSWER_S):
                    if not opened:
                        await self._venue.open()
                        opened = True
                    skew = self.seen.skew_ms
                    if time.monotonic() - clock_at > CLOCK_S or skew is None:
                        skew, clock_at = await self._venue.clock_skew_ms(), time.monotonic()
                    balances = await self._timed(self._venue.balances())
                    positions = await self._timed(self._venue.positions())
                available = next((one.available for one in balances if one.asset == self._asset), Decimal(0))
                unrealised = {one.symbol: one.unrealised for one in positions}
                if self.seen.error:
                    self._log.info("the venue answers again")
                self.seen = VenueReadings(int(time.time() * 1000), available, unrealised, skew)
            except (VenueError, TimeoutError) as error:
                text = str(error) or type(error).__name__
                if not self.seen.error:
                    self._log.warning("the venue does not answer", reason=text)
                self.seen = replace(self.seen, error=text)
            await asyncio.sleep(ASK_S) if not self._stop.is_set() else None
        await self._venue.close()
