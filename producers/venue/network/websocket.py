"""A websocket whose frames are taken in batches. Frames gather while the reader works; reading stops while too many wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from picows import WSAutoPingStrategy, WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

# Number of waiting frames at which reading stops; it resumes at half. It equals some milliseconds of the busiest venue.
MOST_FRAMES = 2048
MOST_BYTES = 8 * 1024 * 1024
MAX_FRAME_BYTES = 16 * 1024 * 1024
# A held reader sees pongs late, so the limits are well above any hold.
PING_S = 60.0
HANDSHAKE_S = 10.0
# Looked up once, because it is called for every frame.
_TEXT, _DATA = WSMsgType.TEXT, (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION)


class Closed(ConnectionError):
    """The websocket is closed and all its frames were taken.

    Attributes:
        code, reason: Of the venue's close frame; None and "" when the connection was lost without one.
    """

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"closed: {code} {reason}")
        self.code = code
        self.reason = reason


class Socket(WSListener):  # type: ignore[misc]
    """One websocket; see ``open_socket``."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self._bytes = 0
        self._parts: list[bytes] = []
        self._transport: WSTransport | None = None
        self._wake = asyncio.Event()
        self._paused = False
        self._over = False
        self._code: int | None = None
        self._reason = ""

    # --- what the library calls ---------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame is there."""
        kind = frame.msg_type
        if kind is _TEXT or kind in _DATA:
            payload = frame.get_payload_as_bytes()
            if not frame.fin or self._parts:
                self._parts.append(payload)
                if not frame.fin:
                    return
                payload, self._parts = b"".join(self._parts), []
            self.frames.append(payload)
            self._bytes += len(payload)
            if not self._paused and (len(self.frames) >= MOST_FRAMES or self._bytes >= MOST_BYTES):
                self._paused = True
                transport.underlying_transport.pause_reading()
            if not self._wake.is_set():
                self._wake.set()
        elif kind == WSMsgType.CLOSE:
            code = frame.get_close_code()
            value = cast(Any, code)
            self._code = getattr(value, "value", value)
            message = frame.get_close_message()
            self._reason = message.decode(errors="replace") if isinstance(message, bytes) else (message or "")
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection is gone."""
        self._over = True
        self._wake.set()

    # --- what the reader calls ----------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Wait for a frame. Raises Closed when no more can come."""
        while not self.frames:
            if self._over:
                raise Closed(self._code, self._reason)
            self._wake.clear()
            await self._wake.wait()

    def take(self, most: int) -> list[bytes]:
        """Return the next waiting frames, at most so many."""
        frames = self.frames
        if len(frames) <= most:
            taken = list(frames)
            frames.clear()
        else:
            taken = [frames.popleft() for _ in range(most)]
        self._bytes -= sum(map(len, taken))
        if self._paused and len(self.frames) <= MOST_FRAMES // 2 and self._bytes <= MOST_BYTES // 2:
            self._paused = False
            if not self._over:
                cast(WSTransport, self._transport).underlying_transport.resume_reading()
        return taken

    async def send(self, text: str) -> None:
        """Send a text message. Raises Closed."""
        if self._over:
            raise Closed(self._code, self._reason)
        cast(WSTransport, self._transport).send(WSMsgType.TEXT, text.encode())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it and wait until it is gone. Waiting frames are dropped."""
        transport = self._transport
        if transport is None:
            return
        if not self._over:
            transport.send_close(WSCloseCode(code), reason.encode()[:120])
            transport.disconnect()
        try:
            await asyncio.wait_for(transport.wait_disconnected(), 5.0)
        except TimeoutError:
            transport.disconnect(False)


async def open_socket(url: str, **options: Any) -> Socket:
    """Return an open websocket.

    Args:
        url: ``ws://`` or ``wss://``. options: passed on to the library.

    Raises:
        picows.WSHandshakeError: the venue refused; ``response`` has its status and headers.
        OSError, TimeoutError: no connection.
    """
    _, listener = await ws_connect(
        Socket,
        url,
        websocket_handshake_timeout=HANDSHAKE_S,
        enable_auto_ping=True,
        auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
        auto_ping_idle_timeout=PING_S,
        auto_ping_reply_timeout=PING_S,
        max_frame_size=MAX_FRAME_BYTES,
        read_buffer_init_size=256 * 1024,
        **options,
    )
    return cast(Socket, listener)
