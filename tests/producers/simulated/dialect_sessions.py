"""A client's session at a simulated venue of any dialect, for the tests of all dialects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import aiohttp
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from producers.simulated.venue import RecordedVenue
from tests.producers.simulated.dialect_readers import READERS, BinanceReader, Reader
from tests.support.markets.recorded_client import get

VENUES = list(READERS)

START = 1_795_000_000_000


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def pace(venue: str) -> float | None:
    """Return a rate at which a client has time to fetch a snapshot, where it needs one; else None: as fast as possible."""
    return 2500.0 if issubclass(READERS[venue][0], BinanceReader) else None


async def session(socket: ClientConnection, reader: Reader, serving: RecordedVenue, skip_garbage: bool = False) -> None:
    """Subscribe and read to the end of the connection."""
    for text in reader.subscribe():
        await socket.send(text)
    fetched = False
    try:
        async for frame in socket:
            text = str(frame)
            if isinstance(reader, BinanceReader) and not fetched and '"depthUpdate"' in text:
                fetched = True
                await reader.first_diff(serving.rest_url)
            try:
                reader.take(text)
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, ArithmeticError):
                if not skip_garbage:
                    raise
                reader.garbage += 1
    except ConnectionClosed:
        pass  # how it ended is looked at by the test


async def heard(venue: str, serving: RecordedVenue, **options: Any) -> Reader:
    """Return what a client of a venue heard from its subscription to the end."""
    kind, symbol = READERS[venue]
    reader = kind(symbol)
    await hear(venue, serving, reader, **options)
    return reader


async def hear(venue: str, serving: RecordedVenue, reader: Reader, **options: Any) -> None:
    """Let a client hear all streams of a venue to the end."""
    paths = ["/public/stream", "/market/stream"] if venue == "BINANCE" else [reader.path]  # two routes, and so two connections
    async with asyncio.TaskGroup() as group:
        for path in paths:
            group.create_task(connected(serving, path, reader, **options))


async def connected(serving: RecordedVenue, path: str, reader: Reader, **options: Any) -> None:
    async with connect(serving.ws_url + path, max_size=None, compression=None) as socket:
        await session(socket, reader, serving, **options)
        assert socket.close_code == 1000 or options, (socket.close_code, socket.close_reason)


POSTS = {"HYPERLIQUID": "/info", "GRVT": "/full/v1/all_instruments"}


async def asked(serving: RecordedVenue, what: str | dict[str, Any]) -> Any:
    if isinstance(what, str):
        status, body, _ = await get(serving.rest_url + what)
    else:
        path = POSTS[serving.dialect.venue]
        async with aiohttp.ClientSession() as client, client.post(serving.rest_url + path, json=what) as answer:
            status, body = answer.status, await answer.json()
    assert status == 200, body
    return body
