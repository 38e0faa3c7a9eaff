"""Fetched bytes are not copied: a response is read into one buffer, and a partition's record set is a view of it.

aiokafka's reader copies each byte three times: into a growing buffer, out of it, and into the partition's bytes. Each copy needs new memory
from the system. While a worker catches up, this costs a third of a core in the fetching thread.

It uses internals of aiokafka: ``AIOKafkaClient._get_conn``, ``AIOKafkaConnection`` and its protocol. The version is pinned in
``schemas.process.pins``.
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

# Size of the buffer for bytes that arrive before they are requested. A response that fits is read as aiokafka reads it.
AHEAD_BYTES = 64 << 10
# A view keeps its whole response in memory. So a part smaller than a sixteenth of it is copied, and at most sixteen times the wanted memory
# is kept. No text of the protocol is as long as 32 KiB: larger parts are record sets.
_PARTS = 16
_LONGEST_TEXT = 32 << 10


class _Frames(aiokafka_conn.AIOKafkaProtocol, asyncio.BufferedProtocol):
    """Reads responses into buffers of their size. Its stream reader returns them."""

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
        """Return the buffer for the next bytes."""
        return self._ahead[self._end :] if self._frame is None else self._frame[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Note the number of received bytes."""
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
        """Wait for data. Raises the error that ended the connection."""
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
        """Return the next n bytes. A large part is returned as the buffer into which it was read.

        Raises:
            IncompleteReadError: the connection ended before; or the error that ended it.
        """
        if n > AHEAD_BYTES:
            frame = np.empty(n, dtype=np.uint8).data  # not zeroed, and on huge pages if the system has them
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
    """A response for aiokafka's types, whose large parts are views."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._view_from = max(len(data) // _PARTS, _LONGEST_TEXT)

    def read(self, n: int) -> bytes | memoryview:
        """Return the next n bytes, or all that are left."""
        part = self._data[self._at : self._at + n]
        self._at += len(part)
        return part if n >= self._view_from else bytes(part)


def _with(function: Any, **names: Any) -> Any:
    """Return a copy of a function with some other globals. Other users of aiokafka in this process are not affected."""
    copy = FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class _Connection(aiokafka_conn.AIOKafkaConnection):
    """A connection that does not copy responses to fetches."""

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
    """Make a consumer that has not started keep fetched bytes in their response buffer."""
    client = consumer._client
    client._get_conn = MethodType(_get_connection, client)
