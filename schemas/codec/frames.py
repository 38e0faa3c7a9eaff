"""Fetched bytes stay where the socket put them: a response is read into one buffer, and a partition's record set is a view of it.

aiokafka's reader copies each byte three times more (into a buffer that grows, out of it, and into the partition's bytes), each time into memory that the
system must find first: a third of what the thread that fetches uses of a core while a worker catches up.

Takes from aiokafka's inside ``AIOKafkaClient._get_conn``, ``AIOKafkaConnection`` and its protocol. The version is pinned in ``schemas.process.pins``.
"""

from __future__ import annotations

import asyncio
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka import client as aiokafka_client
from aiokafka import conn as aiokafka_conn
from aiokafka.protocol.fetch import FetchRequest

# What has arrived before anybody asked for it; responses that fit in are read as aiokafka reads them.
AHEAD_BYTES = 64 << 10
# A view keeps its whole response: a part that is smaller than a sixteenth of it is copied, so that what is kept is no more than sixteen times what
# is wanted. And no text of the protocol is as long as 32 KiB: what is larger are record sets.
_PARTS = 16
_LONGEST_TEXT = 32 << 10


class _Frames(aiokafka_conn.AIOKafkaProtocol, asyncio.BufferedProtocol):
    """Reads responses into buffers of their size; has its stream reader hand them out."""

    def __init__(self, closed: asyncio.Future[None], reader: asyncio.StreamReader, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(closed, reader, loop=loop)
        self._stream = reader
        self._event_loop = loop
        self._ahead = memoryview(bytearray(AHEAD_BYTES))
        self._begin = self._end = 0
        self._frame: memoryview | None = None
        self._filled = 0
        self._waiting: asyncio.Future[None] | None = None
        self._read_from: Any = None
        reader.readexactly = self.readexactly  # type: ignore[assignment, method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._read_from = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # type: ignore[override]
        """Return where the next bytes go."""
        return self._ahead[self._end :] if self._frame is None else self._frame[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Learn that so many bytes are there."""
        if self._frame is None:
            self._end += nbytes
            if self._end == AHEAD_BYTES:
                self._read_from.pause_reading()
            self._wake()
            return
        self._filled += nbytes
        if self._filled == len(self._frame):
            self._frame = None
            self._wake()

    def eof_received(self) -> bool | None:
        kept = super().eof_received()
        self._wake()
        return kept

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _more(self, wanted: int) -> None:
        """Wait until something has come. Raises what ended the connection."""
        if (error := self._stream.exception()) is not None:
            raise error
        if self._stream.at_eof():
            raise asyncio.IncompleteReadError(b"", wanted)
        self._read_from.resume_reading()
        self._waiting = self._event_loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    async def readexactly(self, n: int) -> bytes | memoryview:
        """Return the next n bytes; many of them as the buffer into which they were read.

        Raises:
            IncompleteReadError: the connection ended before; or what ended it.
        """
        if n > AHEAD_BYTES:
            frame = np.empty(n, dtype=np.uint8).data  # not zeroed, and of huge pages where the system has them
            self._filled = self._end - self._begin
            frame[: self._filled] = self._ahead[self._begin : self._end]
            self._begin = self._end = 0
            self._frame = frame
            try:
                while self._frame is not None:
                    await self._more(n)
            finally:
                self._frame = None
            return frame
        if self._begin + n > AHEAD_BYTES:
            rest = bytes(self._ahead[self._begin : self._end])
            self._ahead[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        while self._end - self._begin < n:
            await self._more(n)
        found = bytes(self._ahead[self._begin : self._begin + n])
        self._begin += n
        if self._begin == self._end:
            self._begin = self._end = 0
        return found


class _Response:
    """A response as aiokafka's types read one, whose large parts are views."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._view_from = max(len(data) // _PARTS, _LONGEST_TEXT)

    def read(self, n: int) -> bytes | memoryview:
        """Return the next n bytes, or as many as there are."""
        part = self._data[self._at : self._at + n]
        self._at += len(part)
        return part if n >= self._view_from else bytes(part)


def _with(function: Any, **names: Any) -> Any:
    """Return a copy of a function that sees some globals otherwise: whoever else uses aiokafka in this process is left alone."""
    copy = FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class _Connection(aiokafka_conn.AIOKafkaConnection):
    """A connection whose responses to fetches are not copied."""

    connect = _with(aiokafka_conn.AIOKafkaConnection.connect, AIOKafkaProtocol=_Frames)
    _handle_in_place = _with(aiokafka_conn.AIOKafkaConnection._handle_frame, io=SimpleNamespace(BytesIO=_Response))

    def _handle_frame(self, resp: bytes | memoryview) -> None:
        request = self._requests[0][1]
        if request is not None and request.API_KEY == FetchRequest.API_KEY:
            self._handle_in_place(resp)
        else:
            super()._handle_frame(bytes(resp))


_create_connection = _with(aiokafka_conn.create_conn, AIOKafkaConnection=_Connection)
_get_connection = _with(aiokafka_client.AIOKafkaClient._get_conn, create_conn=_create_connection)


def fetch_in_place(consumer: AIOKafkaConsumer) -> None:
    """Have a consumer that has not been started leave what it fetches where the socket put it."""
    client = consumer._client
    client._get_conn = MethodType(_get_connection, client)
