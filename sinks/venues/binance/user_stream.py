"""The user data stream of Binance futures: listen key, reconnecting websocket, and the events as venue reports.

The stream reports every gap: ``StreamLost`` when it ends and ``StreamReady`` when it is back. The reader must load what happened in between from the
venue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import orjson
import structlog

from sinks.venues.binance import mapping
from sinks.venues.binance.rest import BinanceRest
from sinks.venues.common.adapter import VenueError
from sinks.venues.common.response_parsing import read
from sinks.venues.common.user_stream import StreamEnded, events_of_socket, malformed_message, reconnecting
from stream_apps.core.execution.orders.venue_reports import UserEvent

# The listen key expires after an hour.
KEEP_ALIVE_S = 25 * 60.0
# Ping interval of this side. A missing pong means a dead connection. aiohttp answers the venue's own pings.
HEARTBEAT_S = 60.0
# The venue closes a connection after 24 h.
ROTATE_S = 23 * 3600.0
# Triggered orders whose late executions can be attributed here; the reconciler loads older ones.
MOST_REMEMBERED = 4096


class UserStream:
    """Events of one account.

    Args:
        rest: For the listen key.
        base_url: Address of the websocket, for example wss://HOST/private; ``/ws/<listenKey>`` is added.
    """

    def __init__(self, rest: BinanceRest, base_url: str) -> None:
        self._rest = rest
        self._base = base_url.rstrip("/")
        self._log = structlog.get_logger().bind(venue="BINANCE", stream="user")
        # Venue id of a triggered order -> client id of its conditional order.
        self._became: dict[str, str] = {}

    def events(self) -> AsyncIterator[UserEvent]:
        """Yield events until closed."""
        return reconnecting("BINANCE", self._once)

    async def _once(self) -> AsyncGenerator[UserEvent, None]:
        answer = await self._rest.request("POST", "/fapi/v1/listenKey", urgent=True)
        key = read("POST /fapi/v1/listenKey", lambda answer: str(answer["listenKey"]), answer)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self._base}/ws/{key}", heartbeat=HEARTBEAT_S, max_msg_size=0) as socket,
        ):
            keeper = asyncio.create_task(self._keep_alive(socket))
            try:
                async for event in events_of_socket(socket, self._events_of):
                    yield event
            finally:
                keeper.cancel()

    async def _keep_alive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        begun = time.monotonic()
        while True:
            await asyncio.sleep(min(KEEP_ALIVE_S, ROTATE_S))
            try:
                await self._rest.request("PUT", "/fapi/v1/listenKey", urgent=True)
            except VenueError as error:
                # An expired key ends the stream; the new connection gets a new key.
                self._log.warning("listen key not prolonged", reason=str(error))
                await socket.close()
                return
            if time.monotonic() - begun > ROTATE_S:
                await socket.close()
                return

    def _events_of(self, message: str | bytes) -> list[UserEvent]:
        try:
            event = orjson.loads(message)
            if event.get("e") == "listenKeyExpired":
                raise StreamEnded("the listen key expired")
            return list(self.facts_of(event))
        except (orjson.JSONDecodeError, AttributeError, KeyError, ValueError, ArithmeticError, TypeError) as error:
            raise malformed_message("BINANCE", error) from error

    def facts_of(self, event: Mapping[str, Any]) -> Iterator[UserEvent]:
        """Yield the reports in an event: an order's new state before its fill.

        Raises:
            KeyError, ValueError, ArithmeticError, TypeError: the event does not match the documentation.
        """
        kind = event.get("e")
        if kind == "ORDER_TRADE_UPDATE":
            report, fill = mapping.order_update(event), mapping.fill_update(event)
            ours = self._became.get(report.venue_order_id)
            yield mapping.renamed(report, ours) if ours else report
            if fill is not None:
                yield mapping.renamed(fill, ours) if ours else fill
        elif kind == "ALGO_UPDATE":
            report = mapping.conditional_update(event)
            if event["o"].get("ai"):
                self._became[str(event["o"]["ai"])] = report.client_order_id
                while len(self._became) > MOST_REMEMBERED:
                    del self._became[next(iter(self._became))]
            yield report
