"""One websocket connection that is kept alive: connect, read, reconnect with backoff, replace before the venue closes it.

The reader passes frames on one by one and stops on request. Then the socket is the buffer (back-pressure up to the venue).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Iterator, Sequence
from enum import Enum
from math import inf
from typing import NamedTuple, Protocol

import structlog
from picows import WSError, WSHandshakeError

from producers.venue.network.websocket import Closed, Socket, open_socket
from schemas import metrics

# Close reason of a recorded venue at the end of its recording.
END_OF_RECORDING = "end of recording"
BACKOFF_FIRST_S = 1.0
BACKOFF_CAP_S = 32.0
# A connection of this age counts as healthy, so the next backoff starts over.
HEALTHY_S = 60.0
# A ban (HTTP 418) lasts at least two minutes. An earlier request prolongs it.
BAN_WAIT_S = 120.0
# The venue closes connections after 24 h.
ROTATE_AFTER_S = 23 * 3600.0
# Time for which the old connection is read beside its successor.
OVERLAP_S = 5.0
# Frames between two checks of back-pressure; other tasks run then.
BATCH = 128
# Longest wait for a frame before the reader checks whether a rotation is due.
MOST_WAIT_S = 1.0


def backoff_delays(rng: random.Random, first: float = BACKOFF_FIRST_S, cap: float = BACKOFF_CAP_S) -> Iterator[float]:
    """Yield the waits before the reconnects. They double from ``first`` to ``cap``; each is drawn from its upper half."""
    delay = first
    while True:
        yield delay * (0.5 + 0.5 * rng.random()) if delay > first else first * (1.0 + 0.25 * rng.random())
        delay = min(cap, delay * 2)


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header. None without one, or for a date."""
    return float(value) if value is not None and value.strip().isdigit() else None


class Heartbeat(NamedTuple):
    """The message that keeps a connection open, and its interval."""

    text: str
    every_s: float


class Ended(Enum):
    """Why ``Connection.run`` returned."""

    RECORDING = "end of recording"
    STOPPED = "stopped"


class Handler(Protocol):
    """The callbacks of a connection."""

    def frames(self, raws: Sequence[bytes]) -> Iterator[Awaitable[None]]:
        """Take frames. The connection awaits each yielded object before the next frame."""

    async def pause(self) -> None:
        """Called every few frames: yield to other tasks, and wait while there is no room."""

    def must_wait(self) -> bool:
        """Return True while there is no room for more."""

    def connected(self) -> None:
        """The connection is open."""

    def disconnected(self, reason: str) -> None:
        """The connection broke and will be opened again."""


class Connection:
    """A websocket of one URL with its streams.

    Args:
        name: For logs and metrics.
        url: Full URL with the streams.
        handler: Gets the frames.
        venue: Label of metrics.
        opening: Messages that subscribe, sent once the connection is open.
        heartbeat: Keep-alive message of the venue.
        send_pause_s: Shortest time between two messages to the venue.
        rng: Jitter of the backoff.
        backoff_first_s, ban_wait_s, overlap_s: See the constants. rotate_after_s: None: never.
    """

    def __init__(
        self,
        name: str,
        url: str,
        handler: Handler,
        venue: str,
        *,
        opening: Sequence[str] = (),
        heartbeat: Heartbeat | None = None,
        send_pause_s: float = 0.0,
        rng: random.Random | None = None,
        backoff_first_s: float = BACKOFF_FIRST_S,
        ban_wait_s: float = BAN_WAIT_S,
        rotate_after_s: float | None = ROTATE_AFTER_S,
        overlap_s: float = OVERLAP_S,
    ) -> None:
        self.name = name
        self.url = url
        self.open = False
        self.opening = list(opening)
        self._heartbeat = heartbeat
        self._send_pause_s = send_pause_s
        self._handler = handler
        self._venue = venue
        self._rng = rng or random.Random()
        self._backoff_first_s = backoff_first_s
        self._ban_wait_s = ban_wait_s
        self._rotate_after_s = rotate_after_s
        self._overlap_s = overlap_s
        self._ws: Socket | None = None
        self._senders: dict[Socket, asyncio.Task[None]] = {}
        self._queues: dict[Socket, asyncio.Queue[str]] = {}
        self._rotation: asyncio.Task[Socket] | None = None
        self._stopping = False
        self._log = structlog.get_logger().bind(venue=venue, connection=name)

    async def run(self) -> Ended:
        """Read until ``stop`` or the end of a recording. Reconnect after any other end."""
        delays = backoff_delays(self._rng, self._backoff_first_s)
        while not self._stopping:
            started = time.monotonic()
            wait: float | None = None
            try:
                self._ws = await self._subscribed()
                self.open = True
                self._handler.connected()
                reason = await self._read()
            except WSHandshakeError as error:
                response = error.response
                status = int(response.status) if response is not None else 0
                reason = f"http {status}" if status else "handshake"
                wait = retry_after(response.headers.get("Retry-After")) if response is not None else None
                if status == 418:
                    wait = max(self._ban_wait_s, wait or 0.0)
                if not status:
                    self._log.warning("cannot connect", url=self.url, error=f"{type(error).__name__}: {error}")
            except (OSError, TimeoutError, WSError) as error:
                reason = "connect"
                self._log.warning("cannot connect", url=self.url, error=f"{type(error).__name__}: {error}")
            finally:
                self.open = False
                await self._close()
            if reason == END_OF_RECORDING:
                return Ended.RECORDING
            if self._stopping:
                break
            metrics.RECONNECTS.labels(self._venue, reason).inc()
            self._handler.disconnected(reason)
            if time.monotonic() - started >= HEALTHY_S:
                delays = backoff_delays(self._rng, self._backoff_first_s)
            wait = next(delays) if wait is None else wait
            self._log.warning("reconnecting", reason=reason, wait_s=round(wait, 2))
            await asyncio.sleep(wait)
        return Ended.STOPPED

    async def stop(self) -> None:
        """Close the connection for good."""
        self._stopping = True
        await self._close()

    async def restart(self, reason: str) -> None:
        """Break the connection so that it is opened again (a stream is silent)."""
        self._log.warning("restarting the connection", reason=reason)
        if self._ws is not None:
            await self._ws.close(1000, reason[:100])

    async def _close(self) -> None:
        rotation, self._rotation = self._rotation, None
        if rotation is not None:
            rotation.cancel()
            results = await asyncio.gather(rotation, return_exceptions=True)
            if isinstance(results[0], Socket):
                await self._drop(results[0])
        ws, self._ws = self._ws, None
        if ws is not None:
            await self._drop(ws)

    async def _drop(self, ws: Socket) -> None:
        """Close a websocket and end its sender."""
        self._queues.pop(ws, None)
        sender = self._senders.pop(ws, None)
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        await ws.close()

    async def _subscribed(self) -> Socket:
        """Open a websocket and start its sender: the subscriptions, then heartbeats and the messages of ``send``."""
        ws = await open_socket(self.url)
        queue: asyncio.Queue[str] = asyncio.Queue()
        for message in self.opening:
            queue.put_nowait(message)
        self._queues[ws] = queue
        self._senders[ws] = asyncio.create_task(self._send_all(ws, queue))
        return ws

    async def _send_all(self, ws: Socket, queue: asyncio.Queue[str]) -> None:
        """Send the queued messages with pauses, and each due heartbeat. Ends with the connection. The reader reports the reason."""
        beat = self._heartbeat
        due = time.monotonic() + beat.every_s if beat is not None else None
        try:
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), None if due is None else max(0.0, due - time.monotonic()))
                except TimeoutError:
                    assert beat is not None
                    text, due = beat.text, time.monotonic() + beat.every_s
                await ws.send(text)
                await asyncio.sleep(self._send_pause_s)
        except Closed:
            pass

    def send(self, message: str) -> bool:
        """Queue a message to the venue. False while the connection is down; its successor subscribes again."""
        queue = self._queues.get(self._ws) if self._ws is not None else None
        if queue is None:
            return False
        queue.put_nowait(message)
        return True

    async def _read(self) -> str:
        """Read until the connection ends. Return the reason."""
        rotate_after = inf if self._rotate_after_s is None else self._rotate_after_s
        rotate_at = time.monotonic() + rotate_after
        frames, pause = self._handler.frames, self._handler.pause
        while True:
            ws = self._ws
            assert ws is not None
            try:
                if not ws.frames:
                    # A due rotation must not wait for a silent venue.
                    async with asyncio.timeout(max(0.01, min(rotate_at - time.monotonic(), MOST_WAIT_S))):
                        await ws.wait()
                for held in frames(ws.take(BATCH)):
                    await held
            except TimeoutError:
                pass
            except Closed as error:
                if error.code is None:
                    return "lost"
                if error.code == 1000 and error.reason == END_OF_RECORDING:
                    return END_OF_RECORDING
                return f"close {error.code}"
            await pause()
            if time.monotonic() >= rotate_at:
                if self._rotation is None:
                    self._rotation = asyncio.ensure_future(self._subscribed())
                elif self._rotation.done():
                    rotate_at = time.monotonic() + rotate_after
                    await self._rotate()

    async def _rotate(self) -> None:
        """Hand over to the successor: read the old connection for some time, then close it.

        Meanwhile the successor's frames wait in its socket. Ids remove the duplicates. So no frame is lost.
        """
        rotation, self._rotation = self._rotation, None
        assert rotation is not None
        if rotation.exception() is not None:
            self._log.warning("rotation failed; the old connection stays", error=str(rotation.exception()))
            return
        new, old = rotation.result(), self._ws
        assert old is not None
        until = time.monotonic() + self._overlap_s
        try:
            while (left := until - time.monotonic()) > 0:
                if not self._queues[new].empty():
                    until = time.monotonic() + self._overlap_s  # it is still subscribing; the overlap begins after that
                if not old.frames:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(left, 0.1)):
                            await old.wait()
                for held in self._handler.frames(old.take(BATCH)):
                    await held
                if self._handler.must_wait():
                    await self._handler.pause()
        except Closed:
            pass  # the overlap is over, or the venue closed it first
        self._ws = new
        self._handler.connected()
        await self._drop(old)
        metrics.RECONNECTS.labels(self._venue, "rotation").inc()
        self._log.info("rotated")
