"""The live room of one console process: the reader's thread, the hub on the event loop, and the limits on clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from schemas import metrics
from schemas.settings import Settings
from sinks.console.http.problems import Problem
from sinks.console.live.channels import KINDS, NONE, ChannelError, parse
from sinks.console.live.hub import Batch, Hub, Snapshot
from sinks.console.live.messages import frame
from sinks.console.live.reader import Reader
from sinks.console.live.stream import EventStream, Permitted

RETRY_AFTER_S = 5


@dataclass(frozen=True)
class LiveOptions:
    """Limits of the live stream.

    Attributes:
        clients: Most connected clients.
        channels: Most channels of a client.
        tick_ms: Time in which messages of a key are conflated; no client gets more than one chunk in it.
        ring: Most events of a channel that are kept for clients that resume.
    """

    clients: int = 500
    channels: int = 100
    tick_ms: int = 200
    ring: int = 2_000


class Live:
    """One a process. ``start`` on the event loop, ``stop`` before the server waits for its connections to end.

    Args:
        settings: The environment.
        options: Limits.
    """

    def __init__(self, settings: Settings, options: LiveOptions | None = None) -> None:
        self.options = options or LiveOptions()
        self._log = structlog.get_logger().bind(service="console")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader = Reader(settings, self._log, self._pass, self.options.tick_ms / 1000)
        self._hub = Hub(self.options.ring, self._reader.look_at)

    def start(self) -> None:
        """Begin to read. Called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._reader.start()

    def end_streams(self) -> None:
        """End all streams; browsers connect again, and find the next process. Called on the event loop."""
        self._hub.close()

    def stop(self) -> None:
        """End all streams and stop reading. It may take some seconds, so call it in a thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._hub.close)
        self._reader.stop()

    def _pass(self, batch: Batch) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._hub.publish, batch)

    def wanted(self, channel: str) -> bool:
        """Return whether somebody looks at a channel without an instrument. Called on the event loop."""
        return self._hub.has(channel)

    def show(self, channel: str, payload: Mapping[str, Any]) -> None:
        """Publish the newest state of a channel that no topic feeds: ``alerts``, ``system``. Called on the event loop.

        Raises:
            ValueError: topics feed the channel.
        """
        if KINDS[channel].topics or KINDS[channel].selects != NONE or channel == "health":
            raise ValueError(f"channel: {channel!r} has its messages from topics")
        self._hub.publish_one(channel, Snapshot(frame(channel, payload), (channel,)))

    def health(self) -> dict[str, Any]:
        """Return the health report; ``ok`` is False while Kafka is away."""
        return {**self._reader.report(), **self._hub.report()}

    def stream(self, channels: str, last_event_id: str | None, permitted: Permitted) -> EventStream:
        """Return the response for a new client.

        Args:
            channels: See ``sinks.console.live.channels``.
            last_event_id: Id of the last event that the client got before, or None.
            permitted: Says whether the client may still look.

        Raises:
            Problem: 422 for channels that cannot be selected, 503 when there are too many clients.
        """
        try:
            wanted = parse(channels, self._reader.market.bases)
        except ChannelError as error:
            raise Problem(422, f"channels: {error}", errors={"query.channels": str(error)}) from error
        if len(wanted) > self.options.channels:
            reason = f"{len(wanted)} channels; one stream carries at most {self.options.channels}"
            raise Problem(422, reason, errors={"query.channels": reason})
        if len(self._hub) >= self.options.clients or self._hub.closed:
            metrics.CONSOLE_TURNED_AWAY.inc()
            reason = "the console is stopping" if self._hub.closed else f"{len(self._hub)} live streams are open, which is the limit"
            raise Problem(503, reason, headers={"Retry-After": str(RETRY_AFTER_S)})
        return EventStream(self._hub, wanted, last_event_id or None, permitted)
