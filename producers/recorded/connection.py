"""One websocket connection of the venue: its subscriptions, the control methods, and writing frames without a task switch each."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from producers.recorded.events import route_of_stream

if TYPE_CHECKING:
    from producers.recorded.venue import RecordedVenue

MAX_STREAMS = 200
MAX_INBOUND_A_SECOND = 10
PING_INTERVAL_S = 180.0
PONG_TIMEOUT_S = 600.0
# What one connection may hold unsent in this process before the playback waits for it.
WRITE_BUFFER_BYTES = 256 * 1024
# How long the venue waits for the answer to its close frame; a slow reader must first read what is in flight.
CLOSE_TIMEOUT_S = 60.0


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

    Frames are collected and written in one piece by ``flush``; ``drain`` waits while the client reads slower than it is served.

    Attributes:
        route: ``public`` or ``market``.
        combined: Frames carry their stream's name (``/stream``), or are bare (``/ws``).
        streams: Subscribed stream names as the client wrote them.
    """

    def __init__(self, venue: RecordedVenue, ws: web.WebSocketResponse, request: web.Request, route: str, combined: bool) -> None:
        self.route = route
        self.combined = combined
        self.streams: dict[str, None] = {}
        self.opened = time.monotonic()
        self.ended = False
        self._venue = venue
        self._ws = ws
        self._request = request
        self._writer: AbstractStreamWriter | None = None
        self._pending: list[bytes] = []
        self._inbound: list[float] = []
        self._pong_due: float | None = None

    # --- writing ---------------------------------------------------------------------------------------------------
    @property
    def open(self) -> bool:
        """Whether frames still reach the client."""
        transport = self._request.transport
        return not self.ended and transport is not None and not transport.is_closing()

    def write(self, frame: bytes) -> None:
        """Queue a complete websocket frame; after the end of the connection it is dropped."""
        if not self.ended:
            self._pending.append(frame)

    def flush(self) -> None:
        """Hand the queued frames to the socket."""
        if self._pending:
            pending, self._pending = self._pending, []
            transport = self._request.transport
            if transport is not None and not transport.is_closing():
                transport.write(b"".join(pending))

    async def drain(self) -> None:
        """Wait until the client has read enough to be sent more. A client that goes away ends the wait."""
        if self._writer is not None and self.open:
            try:
                await self._writer.drain()
            except ConnectionError:
                self.ended = True

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after everything queued; the client's answer, or its absence for a minute, ends the connection."""
        if self.ended:
            return
        payload = struct.pack("!H", code) + reason.encode()
        self.write(b"\x88" + bytes((len(payload),)) + payload)
        self.flush()
        self.ended = True
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._abort)

    def cut(self) -> None:
        """Break the connection without a close frame, as a failing network does."""
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
            if sock is not None:  # else the kernel lets megabytes run ahead of a client that is about to be cut
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER_BYTES)
        keeper = asyncio.create_task(self._keep())
        try:
            if len(streams) > MAX_STREAMS:
                self.close(WSCloseCode.POLICY_VIOLATION, f"more than {MAX_STREAMS} streams")
            else:
                self.subscribe(streams)
            async for message in self._ws:
                if message.type is WSMsgType.PONG:
                    self._pong_due = None
                    continue
                if self.ended:
                    continue
                if not self._within_limit():
                    self.close(WSCloseCode.POLICY_VIOLATION, f"more than {MAX_INBOUND_A_SECOND} messages a second")
                elif message.type is WSMsgType.PING:
                    self.write(b"\x8a" + bytes((len(message.data),)) + bytes(message.data))
                    self.flush()
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._answer(message.data)
        finally:
            self.ended = True
            keeper.cancel()

    def _within_limit(self) -> bool:
        now = time.monotonic()
        self._inbound = [at for at in self._inbound if at > now - 1.0]
        self._inbound.append(now)
        return len(self._inbound) <= MAX_INBOUND_A_SECOND

    async def _keep(self) -> None:
        """Ping the client as the venue does, and end the connection at its age limit."""
        while not self.ended:
            age = time.monotonic() - self.opened
            limit = self._venue.max_connection_s
            await asyncio.sleep(max(0.0, min(self._venue.ping_interval_s, limit - age)))
            if time.monotonic() - self.opened >= limit:
                self.close(WSCloseCode.GOING_AWAY, "connection is 24 h old")
                return
            if self._pong_due is not None and time.monotonic() > self._pong_due:
                self.close(WSCloseCode.GOING_AWAY, "no pong")
                return
            if self._pong_due is None:
                self._pong_due = time.monotonic() + PONG_TIMEOUT_S
            self.write(b"\x89\x00")
            self.flush()

    # --- subscriptions ---------------------------------------------------------------------------------------------
    def subscribe(self, streams: list[str]) -> None:
        """Add streams. One of the wrong route, or of no recording, is accepted and stays silent, as at the venue."""
        fresh = [stream for stream in streams if stream not in self.streams]
        self.streams.update(dict.fromkeys(fresh))
        served = [stream for stream in fresh if route_of_stream(stream.partition("@")[2]) == self.route]
        self._venue.subscribed(self, served)

    def unsubscribe(self, streams: list[str]) -> None:
        """Remove streams; unknown ones are passed over."""
        gone = [stream for stream in streams if self.streams.pop(stream, self) is None]
        self._venue.unsubscribed(self, gone)

    def _answer(self, text: str | bytes) -> None:
        self.write(text_frame(orjson.dumps(self._respond(text))))
        self.flush()
        self._venue.end_if_over(self)

    def _respond(self, text: str | bytes) -> dict[str, Any]:
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return {"error": {"code": 3, "msg": f"Invalid JSON: {error}"}}
        if not isinstance(request, dict) or not isinstance(request.get("id"), int | str | None):
            return {"error": {"code": 2, "msg": "Invalid request: expected an object with an id"}}
        number, method, params = request.get("id"), request.get("method"), request.get("params", [])
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": list(self.streams), "id": number}
        if method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            problem = f"Invalid request: unknown variant {method!r}, expected SUBSCRIBE, UNSUBSCRIBE or LIST_SUBSCRIPTIONS"
            return {"error": {"code": 2, "msg": problem}, "id": number}
        if not isinstance(params, list) or not params or not all(isinstance(stream, str) for stream in params):
            return {"error": {"code": 2, "msg": "Invalid request: params: expected a list of stream names"}, "id": number}
        if method == "UNSUBSCRIBE":
            self.unsubscribe(params)
        elif len(self.streams.keys() | set(params)) > MAX_STREAMS:
            self.close(WSCloseCode.POLICY_VIOLATION, f"more than {MAX_STREAMS} streams")
        else:
            self.subscribe(params)
        return {"result": None, "id": number}
