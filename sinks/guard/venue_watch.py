"""What the guard asks the venue, in a thread of its own: is it there, how much money is left, what is open worth, how late is our clock,
how long does a signed request take."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable
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
# An answer may take this long before the venue counts as not answering this time.
ANSWER_S = 5.0
# Over how long the 95th percentile of the route is taken: at two requests in two seconds, 300 of them.
ROUTE_S = 300.0


@dataclass(frozen=True, slots=True)
class VenueReadings:
    """The newest answers; None where there was none yet.

    Attributes:
        reached_at: ms UTC of our clock.
        available: Of the asset, in its units.
        unrealised: Of all positions, quote units.
        skew_ms: Venue clock minus ours.
    """

    reached_at: int | None = None
    available: Decimal | None = None
    unrealised: Decimal | None = None
    skew_ms: int | None = None
    error: str = ""


class AccountWatch:
    """Asks every two seconds.

    Args:
        venue: Not open yet.
        asset: Margin asset whose balance counts.
    """

    def __init__(self, venue: TradingVenue, asset: str = "USDT") -> None:
        self._venue, self._asset = venue, asset
        self._log = structlog.get_logger().bind(venue=venue.name)
        self._stop = threading.Event()
        self.seen = VenueReadings()
        # (monotonic seconds, ms) of each signed request; one that was not answered counts with the time waited.
        self._routes: deque[tuple[float, float]] = deque()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="account", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits for an answer that is under way."""
        self._stop.set()
        self._thread.join(ANSWER_S + 2)

    @property
    def route_p95_ms(self) -> Share:
        """95th percentile of signed request to answer over the last five minutes, ms, and the number of requests."""
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
                unrealised = sum((one.unrealised for one in positions), Decimal(0))
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
