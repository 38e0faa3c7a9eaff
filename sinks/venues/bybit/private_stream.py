"""The private stream of Bybit: one authenticated websocket with orders, executions and positions. It reconnects and reports every gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import orjson

from sinks.venues.bybit import mapping
from sinks.venues.bybit.rest import BybitRest
from sinks.venues.common.user_stream import StreamEnded, malformed_message, reconnecting
from stream_apps.core.execution.orders.venue_reports import StreamReady, UserEvent

# The venue closes a connection after ten silent minutes and recommends a ping every 20 s.
PING_S = 20.0
SILENT_S = 45.0
ANSWER_S = 10.0
TOPICS = ("order.linear", "execution.linear", "position.linear")


class PrivateStream:
    """Events of one account.

    Args:
        rest: Signs the login and has the venue's clock offset.
        url: wss://HOST/v5/private.
    """

    def __init__(self, rest: BybitRest, url: str) -> None:
        self._rest, self._url = rest, url

    def events(self) -> AsyncIterator[UserEvent]:
        """Yield events until closed."""
        return reconnecting("BYBIT", self._once)

    async def _once(self) -> AsyncGenerator[UserEvent, None]:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as socket:
            await self._login(socket)
            pinger = asyncio.create_task(self._ping(socket))
            try:
                yield StreamReady()
                while True:
                    # A pong arrives every 20 s, so a longer silence means a dead connection.
                    message = await socket.receive(timeout=SILENT_S)
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        raise StreamEnded(f"closed by the venue ({socket.close_code})")
                    for event in _events_of(message.data):
                        yield event
            finally:
                pinger.cancel()

    async def _login(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        expires = self._rest.venue_time() + 10_000
        await socket.send_json({"op": "auth", "args": [self._rest.key, expires, self._rest.sign(f"GET/realtime{expires}")]})
        await self._confirmed(socket, "auth")
        await socket.send_json({"op": "subscribe", "args": list(TOPICS)})
        await self._confirmed(socket, "subscribe")

    async def _confirmed(self, socket: aiohttp.ClientWebSocketResponse, operation: str) -> None:
        async with asyncio.timeout(ANSWER_S):
            while True:
                try:
                    answer = orjson.loads(await socket.receive_str())
                    done, good, words = answer.get("op") == operation, answer.get("success"), answer.get("ret_msg")
                except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
                    raise malformed_message("BYBIT", error) from error
                if done and not good:
                    raise aiohttp.ClientError(f"{operation} refused: {words}")
                if done:
                    return

    async def _ping(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await socket.send_json({"op": "ping"})


def _events_of(message: str) -> list[UserEvent]:
    try:
        return list(facts_of(orjson.loads(message)))
    except (orjson.JSONDecodeError, AttributeError, KeyError, ValueError, ArithmeticError, TypeError) as error:
        raise malformed_message("BYBIT", error) from error


def facts_of(message: Mapping[str, Any]) -> Iterator[UserEvent]:
    """Yield the reports in a message.

    Raises:
        KeyError, ValueError, ArithmeticError, TypeError: the message does not match the documentation.
    """
    topic = str(message.get("topic", "")).partition(".")[0]
    for row in message.get("data", ()) if topic else ():
        if row.get("category", mapping.CATEGORY) != mapping.CATEGORY:
            continue
        if topic == "order":
            yield mapping.order_of(row)
        elif topic == "execution":
            fill = mapping.fill_of(row)
            if fill is not None:
                yield fill
        elif topic == "position":
            yield mapping.position_of(row)
