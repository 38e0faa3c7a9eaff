"""Shared parts of user streams: reconnecting after each loss, with an event for every gap."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import aiohttp
import structlog

from schemas import metrics
from sinks.venues.common.adapter import VenueError
from stream_apps.core.execution.orders.venue_reports import StreamLost, StreamReady, UserEvent

BACKOFF_S = (0.5, 15.0)
# A connection that lasted this long resets the back-off.
HEALTHY_S = 60.0


class StreamEnded(Exception):
    """A user stream ended; the text says why."""


async def reconnecting(venue: str, once: Callable[[], AsyncGenerator[UserEvent, None]]) -> AsyncIterator[UserEvent]:
    """Yield the events of a stream. Reopen it whenever it ends, and yield ``StreamLost`` in between.

    Args:
        venue: For metrics and log.
        once: Opens the stream and yields its events, ``StreamReady`` first.
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


def malformed_message(venue: str, error: Exception) -> StreamEnded:
    """Count and log a malformed message. It may have been a fill, so the connection is closed and the account is reconciled."""
    metrics.DEAD_LETTERS.labels("live", "user_stream").inc()
    structlog.get_logger().error("malformed user event", venue=venue, reason=f"{type(error).__name__}: {error}")
    return StreamEnded("malformed message")


async def events_of_socket(
    socket: aiohttp.ClientWebSocketResponse, read_events: Callable[[str | bytes], list[UserEvent]]
) -> AsyncGenerator[UserEvent, None]:
    """Yield ``StreamReady``, then the events of an open connection. Raises StreamEnded when it ends."""
    yield StreamReady()
    async for message in socket:
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            for event in read_events(message.data):
                yield event
    raise StreamEnded(f"closed by the venue ({socket.close_code})")
