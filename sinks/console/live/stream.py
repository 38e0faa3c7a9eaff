"""The response that carries server-sent events: one chunk a wake-up, with all that the client has to get."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas import metrics
from sinks.console.live.channels import Channel
from sinks.console.live.hub import Client, Hub

HEARTBEAT_S = 15.0
HEARTBEAT = b": alive\n\n"
# The browser connects again after this time, ms.
FIRST = b"retry: 1000\n\n"
# A client whose connection takes nothing for so long is closed: its place is worth more to another one.
STALLED_S = 60.0
# So often a stream asks whether its user may still look.
CHECK_S = 15.0
# A stream ends after this time, and the browser connects again: connections spread over processes. The times of clients differ by up to a fifth.
LIFE_S = 600.0


Permitted = Callable[[], Awaitable[bool]]


class EventStream(Response):
    """Sends a client its messages until one of the two ends it, or the client may no longer look.

    Args:
        hub: Where the client joins, and which it leaves at the end.
        channels: What it selects.
        resume: Id of the last event that it got before, or None.
        permitted: Says whether the client may still look; asked every ``CHECK_S``.
    """

    media_type = "text/event-stream"

    def __init__(self, hub: Hub, channels: tuple[Channel, ...], resume: str | None, permitted: Permitted) -> None:
        super().__init__()
        self._hub, self._channels, self._resume, self._permitted = hub, channels, resume, permitted
        del self.headers["content-length"]
        # No proxy may keep or collect the messages.
        self.headers.update({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream (ASGI)."""
        client = self._hub.join(self._channels, self._resume)
        sending = asyncio.ensure_future(self._send(send, client))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task
            self._hub.leave(client)

    async def _send(self, send: Send, client: Client) -> None:
        loop, hub = asyncio.get_running_loop(), self._hub
        end, check = loop.time() + LIFE_S * random.uniform(0.8, 1.0), loop.time() + CHECK_S
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": FIRST, "more_body": True})
        while not hub.closed and loop.time() < end:
            if loop.time() >= check:
                if not await self._permitted():
                    break  # the browser connects again, and gets 401
                check = loop.time() + CHECK_S
            chunk = hub.take(client)
            if not chunk:
                try:
                    async with asyncio.timeout(min(HEARTBEAT_S, CHECK_S)):
                        await client.news.wait()
                    continue
                except TimeoutError:
                    chunk = HEARTBEAT
            try:
                async with asyncio.timeout(STALLED_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                metrics.CONSOLE_STALLED.inc()
                return  # the server closes a response that was not completed
            metrics.CONSOLE_SENT_BYTES.inc(len(chunk))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
