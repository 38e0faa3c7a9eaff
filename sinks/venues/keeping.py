"""What every venue's connections need: a stream that is opened again for ever and tells its losses, and a clock measured by round trips."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
import structlog

from schemas import metrics
from sinks.venues.adapter import Unreadable, VenueError
from sinks.venues.answers import read
from stream_apps.core.execution.facts import InstrumentRules, StreamLost, UserEvent

BACKOFF_S = (0.5, 15.0)
# A connection that lived so long begins the back-off anew.
HEALTHY_S = 60.0
# Round trips of which the quickest measures the clock.
CLOCK_SAMPLES = 5


class StreamEnded(Exception):
    """A user stream came to its end; the text says why."""


async def opened_again(venue: str, once: Callable[[], AsyncGenerator[UserEvent, None]]) -> AsyncIterator[UserEvent]:
    """Yield the events of a stream that is opened again whenever it ends, with ``StreamLost`` between.

    Args:
        venue: For metrics and log.
        once: Opens it and yields until it ends: ``StreamReady`` first.
    """
    log = structlog.get_logger().bind(venue=venue, stream="user")
    failures = 0
    while True:
        reason, begun = "closed", time.monotonic()
        try:
            async with aclosing(once()) as events:
                async for event in events:
                    yield event
        except StreamEnded as ended:
            reason = str(ended)
        except (aiohttp.ClientError, VenueError, OSError, TimeoutError) as error:
            reason = type(error).__name__
        metrics.RECONNECTS.labels(venue, "user_stream").inc()
        log.warning("user stream lost", reason=reason)
        yield StreamLost(reason)
        failures = 0 if time.monotonic() - begun > HEALTHY_S else failures + 1
        await asyncio.sleep(min(BACKOFF_S[0] * 2**failures, BACKOFF_S[1]) * random.uniform(0.5, 1.0))


def unreadable(venue: str, error: Exception) -> StreamEnded:
    """Count and tell a message that cannot be read. It may have been a fill: the connection is given up, so that everything is asked for."""
    metrics.DEAD_LETTERS.labels("live", "user_stream").inc()
    structlog.get_logger().error("user event that cannot be read", venue=venue, reason=f"{type(error).__name__}: {error}")
    return StreamEnded("a message that cannot be read")


def rules_by_symbol(
    venue: str, call: str, convert: Callable[[Any], InstrumentRules], rows: Sequence[dict[str, Any]]
) -> dict[str, InstrumentRules]:
    """Return the rules of every instrument that can be read. One that cannot is told and left out: it is not traded; all others are.

    Raises:
        Unreadable: none can be read.
    """
    rules: dict[str, InstrumentRules] = {}
    failed: Unreadable | None = None
    for number, row in enumerate(rows):
        try:
            one = read(call, convert, row, f"[{number}]")
        except Unreadable as error:
            failed = error
            metrics.DEAD_LETTERS.labels("live", "venue").inc()
            structlog.get_logger().error("instrument rules that cannot be read", venue=venue, symbol=row.get("symbol"), reason=str(error))
        else:
            rules[one.symbol] = one
    if failed is not None and not rules:
        raise failed
    return rules


async def clock_skew(venue_time_ms: Callable[[], Awaitable[float]]) -> int:
    """Return the venue's time minus ours, ms, by the quickest of a few round trips (half of which the answer is old)."""
    best: tuple[float, int] | None = None
    for _ in range(CLOCK_SAMPLES):
        begun, at = time.monotonic(), time.time()
        there = await venue_time_ms()
        trip = time.monotonic() - begun
        if best is None or trip < best[0]:
            best = (trip, round(there - (at + trip / 2) * 1000))
    assert best is not None
    return best[1]
