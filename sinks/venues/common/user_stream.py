"""What every venue's user stream needs: it is opened again for ever and tells its losses."""

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
# A connection that lived so long begins the back-off anew.
HEALTHY_S = 60.0


class StreamEnded(Exception):
    """A user stream came to its end; the text says why."""


async def reconnecting(venue: str, once: Callable[[], AsyncGenerator[UserEvent, None]]) -> AsyncIterator[UserEvent]:
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


def malformed_message(venue: str, error: Exception) -> StreamEnded:
    """Count and tell a message that cannot be read. It may have been a fill: the connection is given up, so that everything is asked for."""
    metrics.DEAD_LETTERS.labels("live", "user_stream").inc()
    structlog.get_logger().error("user event that cannot be read", venue=venue, reason=f"{type(error).__name__}: {error}")
    return StreamEnded("a message that cannot be read")


async def events_of_socket(
    socket: aiohttp.ClientWebSocketResponse, read_events: Callable[[str | bytes], list[UserEvent]]
) -> AsyncGenerator[UserEvent, None]:
    """Yield ``StreamReady``, then what the messages of an open connection say. Raises StreamEnded at its end."""
    yield StreamReady()
    async for message in socket:
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            for event in read_events(message.data):
                yield event
    raise StreamEnded(f"closed by the venue ({socket.close_code})")
