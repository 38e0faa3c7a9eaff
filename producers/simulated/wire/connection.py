"""One websocket connection of the venue: its subscriptions, its limits, and batched writing of frames."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Protocol

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from producers.simulated.wire.protocol import MarketDialect

# Largest number of unsent bytes of a connection before the playback waits for it.
WRITE_BUFFER_BYTES = 256 * 1024
# Frames between two checks of the client's reading.
POUR_FRAMES = 512
# Time limit for the reply to a close frame. A slow reader must first read the frames in flight.
CLOSE_TIMEOUT_S = 60.0


class ConnectionHost(Protocol):
    """The venue as a connection needs it. Intervals in seconds; None: there is no such limit."""

    ping_interval_s: float | None
    max_connection_s: float
    client_idle_s: float | None
    server_idle_s: float | None

    @property
    def dialect(self) -> MarketDialect: ...
    def subscribed(self, connection: Connection, streams: list[str]) -> None: ...
    def unsubscribed(self, connection: Connection, streams: list[str]) -> None: ...
    def end_if_over(self, connection: Connection) -> None: ...


def text_frame(payload: bytes) -> bytes:
    """Return an unmasked websocket text frame (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Connection:
    """A client.

    ``flush`` writes the queued frames at once. ``drain`` waits for a slow reader.

    Attributes:
        path: Its path. route: The venue's route of that path, e.g. ``public``.
        named: Frames have their stream's name around them (Binance's ``/stream``).
        streams: Subscribed stream names as the client wrote them.
    """

    def __init__(self, venue: ConnectionHost, ws: web.WebSocketResponse, request: web.Request, route: str, named: bool) -> None:
        self.path = request.path
        self.route = route
        self.named = named
        self.streams: dict[str, None] = {}
        self.opened = time.monotonic()
        self.ended = False
        self._venue = venue
        self._ws = ws
        self._request = request
        self._writer: AbstractStreamWriter | None = None
        self._pending: list[bytes] = []
        self._heard = self._said = time.monotonic()
        self._inbound: list[float] = []
        self._pong_due: float | None = None

    # --- writing ---------------------------------------------------------------------------------------------------
    @property
    def open(self) -> bool:
        """Whether frames still reach the client."""
        transport = self._request.transport
        return not self.ended and transport is not None and not transport.is_closing()

    def write(self, frame: bytes) -> None:
        """Queue a complete websocket frame. After the end of the connection it is dropped."""
        if not self.ended:
            self._pending.append(frame)

    def flush(self) -> None:
        """Write the queued frames to the socket."""
        if self._pending:
            pending, self._pending = self._pending, []
            transport = self._request.transport
            if transport is not None and not transport.is_closing():
                self._said = time.monotonic()
                transport.write(b"".join(pending))

    async def pour(self) -> None:
        """Write many queued frames to the socket, as fast as the client reads."""
        pending, self._pending = self._pending, []
        for at in range(0, len(pending), POUR_FRAMES):
            self._pending = pending[at : at + POUR_FRAMES]
            self.flush()
            await self.drain()

    async def drain(self) -> None:
        """Wait until the client has read enough. The end of the connection ends the wait."""
        if self._writer is not None and self.open:
            try:
                await self._writer.drain()
            except ConnectionError:
                self.ended = True

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after all queued frames. The client's reply, or a minute without one, ends the connection."""
        if self.ended:
            return
        payload = struct.pack("!H", code) + reason.encode()
        self.write(b"\x88" + bytes((len(payload),)) + payload)
        self.flush()
        self.ended = True
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._abort)

    def cut(self) -> None:
        """Break the connection without a close frame, like a network failure."""
        self.flush()
        self.ended = True
        self._abort()

    def _abort(self) -> None:
        transport = self._request.transport
        if transport is not None:
            transport.abort()

    # --- reading ---------------------------------------------------------------------------------------------------
    async def run(self, writer: AbstractStreamWriter, streams: list[str]) -> None:
        """Serve the client until it or the venue ends the connection."""
        self._writer = writer
        transport = self._request.transport
        if transport is not None:
            transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
            sock = transport.get_extra_info("socket")
            if sock is not None:  # else the kernel buffers megabytes for a client that is about to be cut
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER_BYTES)
        keeper = asyncio.create_task(self._keep())
        try:
            limit = self._venue.dialect.max_streams
            if limit is not None and len(streams) > limit:
                self.close(WSCloseCode.POLICY_VIOLATION, f"more than {limit} streams")
            else:
                self.subscribe(streams)
                self.flush()
            async for message in self._ws:
                self._heard = time.monotonic()
                if message.type is WSMsgType.PONG:
                    self._pong_due = None
                    continue
                if self.ended:
                    continue
                if not self._within_limit():
                    self.close(WSCloseCode.POLICY_VIOLATION, f"more than {self._limit_text()}")
                elif message.type is WSMsgType.PING:
                    self.write(b"\x8a" + bytes((len(message.data),)) + bytes(message.data))
                    self.flush()
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._answer(message.data)
        finally:
            self.ended = True
            keeper.cancel()

    def _within_limit(self) -> bool:
        limit = self._venue.dialect.inbound
        if limit is None:
            return True
        count, seconds = limit
        now = time.monotonic()
        self._inbound = [at for at in self._inbound if at > now - seconds]
        self._inbound.append(now)
        return len(self._inbound) <= count

    def _limit_text(self) -> str:
        count, seconds = self._venue.dialect.inbound or (0, 1.0)
        return f"{count} messages a second" if seconds == 1 else f"{count} messages in {seconds:g} s"

    async def _keep(self) -> None:
        """Ping the client if the venue does. End the connection at its age limit or after too long a silence."""
        pings = self._venue.ping_interval_s
        next_ping = self.opened + pings if pings is not None else None
        while not self.ended:
            due = [self.opened + self._venue.max_connection_s]
            due += [at for at in (next_ping, self._silent_from()) if at is not None]
            await asyncio.sleep(max(0.001, min(due) - time.monotonic()))
            now = time.monotonic()
            if now >= self.opened + self._venue.max_connection_s:
                self.close(WSCloseCode.GOING_AWAY, f"connection is {self._venue.dialect.max_age_s / 3600:g} h old")
                return
            silent = self._silent_from()
            if silent is not None and now >= silent:
                self.close(WSCloseCode.POLICY_VIOLATION, "no message for too long")
                return
            if next_ping is None or pings is None or now < next_ping:
                continue
            next_ping = now + pings
            if self._pong_due is not None and now > self._pong_due:
                self.close(WSCloseCode.GOING_AWAY, "no pong")
                return
            if self._pong_due is None:
                self._pong_due = now + self._venue.dialect.pong_s
            self.write(b"\x89\x00")
            self.flush()

    def _silent_from(self) -> float | None:
        """Return the monotonic time at which the venue closes the silent connection."""
        client, server = self._venue.client_idle_s, self._venue.server_idle_s
        due = ([self._heard + client] if client is not None else []) + ([self._said + server] if server is not None else [])
        return min(due, default=None)

    # --- subscriptions ---------------------------------------------------------------------------------------------
    def subscribe(self, streams: list[str]) -> None:
        """Add streams by their wire names. One of a wrong route or an unknown market stays silent."""
        fresh = [stream for stream in dict.fromkeys(streams) if stream not in self.streams]
        self.streams.update(dict.fromkeys(fresh))
        self._venue.subscribed(self, fresh)

    def unsubscribe(self, streams: list[str]) -> None:
        """Remove streams. Unknown ones are ignored."""
        gone = [stream for stream in streams if self.streams.pop(stream, self) is None]
        self._venue.unsubscribed(self, gone)

    def _answer(self, text: str | bytes) -> None:
        said = text if isinstance(text, str) else text.decode("utf-8", "replace")
        answer = self._venue.dialect.answer(self._venue, self.streams, said, self.path)
        self.unsubscribe(answer.unsubscribe)
        for reply in answer.replies:
            self.write(text_frame(reply))
        limit = self._venue.dialect.max_streams
        if answer.close is not None:
            self.close(*answer.close)
        elif limit is not None and len(self.streams.keys() | set(answer.subscribe)) > limit:
            self.close(WSCloseCode.POLICY_VIOLATION, f"more than {limit} streams")
        else:
            self.subscribe(answer.subscribe)
        self.flush()
        self._venue.end_if_over(self)
