"""User data streams of the simulated exchange: connections of accounts, their messages, and faults."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from producers.simulated.exchange.session.trading_session import Desk

# A swapped message waits this long for its successor.
SWAP_S = 1.0
# The venue pings every 3 minutes.
PING_S = 180.0


class Listener:
    """One connection.

    Attributes:
        keys: Its listen keys or topics. named: Messages have their stream's name around them. only: Requested kinds of messages; empty:
        all. account: Its authenticated account, at venues that require it.
    """

    def __init__(self, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.ws, self.request = ws, request
        self.named, self.only, self.account = False, frozenset[str](), ""
        self.keys: set[str] = set()
        self.queue: asyncio.Queue[str | None] = asyncio.Queue()

    def cut(self) -> None:
        """Break it."""
        transport = self.request.transport
        if transport is not None:
            transport.abort()


class UserStreams(ABC):
    """All user data streams of a desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._listeners: set[Listener] = set()
        self._held: dict[str, deque[tuple[float, bytes, str]]] = {}
        self._swapped: dict[str, tuple[bytes, str]] = {}
        self.sent: dict[str, int] = {}

    @abstractmethod
    def add_routes(self, app: web.Application) -> None:
        """Register the paths."""

    @abstractmethod
    def open(self, listener: Listener) -> None:
        """Accept a new connection, with the subscriptions of its URL."""

    @abstractmethod
    def control(self, listener: Listener, text: str) -> str | None:
        """Return the reply to a client's message."""

    @abstractmethod
    def frame(self, listener: Listener, account: str, kind: str, text: str) -> list[str]:
        """Return the frames of a message for a connection; none if it is not for it."""

    @abstractmethod
    def listens(self, listener: Listener, account: str) -> bool:
        """Return whether a connection is one of an account's."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve a connection. An unknown listen key stays silent."""
        ws = web.WebSocketResponse(heartbeat=PING_S, compress=False)
        await ws.prepare(request)
        listener = Listener(ws, request)
        self.open(listener)
        self._listeners.add(listener)
        writer = asyncio.create_task(self._write(listener))
        try:
            async for message in ws:
                if message.type == WSMsgType.TEXT:
                    answer = self.control(listener, message.data)
                    if answer is not None:
                        listener.queue.put_nowait(answer)
        finally:
            self._listeners.discard(listener)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return ws

    async def _write(self, listener: Listener) -> None:
        while True:
            text = await listener.queue.get()
            if text is None:
                await listener.ws.close(code=WSCloseCode.GOING_AWAY)
                return
            try:
                await listener.ws.send_str(text)
            except ConnectionError:
                return

    # --- messages -----------------------------------------------------------------------------------------------------
    def publish(self, account: str, kind: str, message: Mapping[str, Any]) -> None:
        """Send a message of an account through the faults."""
        body = orjson.dumps(message)
        loop = asyncio.get_running_loop()
        copies, cut, swap = 1, False, False
        hold = late = 0.0
        for fault in self.desk.plan.message(kind, account):
            if fault.kind == "duplicate":
                copies += 1
            elif fault.kind == "drop":
                copies = 0
            elif fault.kind == "hold":
                hold = max(hold, fault.ms / 1000)
            elif fault.kind == "late_event":
                late = fault.ms / 1000
            cut, swap = cut or fault.kind == "cut", swap or fault.kind == "swap"
        if late:
            for _ in range(copies):
                loop.call_later(late, self._send, account, body, kind)
        elif swap and copies:
            self._swapped[account] = (body, kind)
            loop.call_later(SWAP_S, self._unswap, account, body)
        else:
            for _ in range(copies):
                self._queue(account, body, kind, hold)
            if account in self._swapped:
                self._queue(account, *self._swapped.pop(account), 0.0)
        if cut:
            loop.call_soon(self.cut, account)

    def _unswap(self, account: str, body: bytes) -> None:
        if account in self._swapped and self._swapped[account][0] is body:
            self._queue(account, *self._swapped.pop(account), 0.0)

    def _queue(self, account: str, body: bytes, kind: str, hold: float) -> None:
        loop = asyncio.get_running_loop()
        waiting = self._held.setdefault(account, deque())
        if not hold and not waiting:
            self._send(account, body, kind)
            return
        due = max(loop.time() + hold, waiting[-1][0] if waiting else 0.0)
        waiting.append((due, body, kind))
        if len(waiting) == 1:
            loop.call_at(due, self._release, account)

    def _release(self, account: str) -> None:
        loop, waiting = asyncio.get_running_loop(), self._held[account]
        while waiting and waiting[0][0] <= loop.time() + 0.001:
            _, body, kind = waiting.popleft()
            self._send(account, body, kind)
        if waiting:
            loop.call_at(waiting[0][0], self._release, account)

    def _send(self, account: str, body: bytes, kind: str) -> None:
        self.sent[kind] = self.sent.get(kind, 0) + 1
        text = body.decode()
        for listener in self._listeners:
            for frame in self.frame(listener, account, kind, text):
                listener.queue.put_nowait(frame)

    def cut(self, account: str | None = None) -> int:
        """Break the connections of an account, or all, like a network failure. Return their number."""
        chosen = [one for one in self._listeners if account is None or self.listens(one, account)]
        for listener in chosen:
            listener.cut()
        return len(chosen)

    def close(self) -> None:
        """Close every connection properly."""
        for listener in self._listeners:
            listener.queue.put_nowait(None)

    def listeners(self, account: str) -> int:
        """Return the number of connections of an account."""
        return sum(self.listens(one, account) for one in self._listeners)

    @abstractmethod
    def tell_expired(self) -> None:
        """Announce expired listen keys to their connections."""

    def all(self) -> list[Listener]:
        """Return every connection."""
        return list(self._listeners)
