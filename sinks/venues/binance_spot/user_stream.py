"""The user data stream of Binance spot: a signed subscription on the WebSocket API (listen keys ended on 2026-02-20), reopened when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import orjson

from sinks.venues.binance.rest import BinanceRest
from sinks.venues.binance_spot import mapping
from sinks.venues.common.user_stream import StreamEnded, events_of_socket, malformed_message, reconnecting
from stream_apps.core.execution.orders.venue_reports import UserEvent

VENUE = "BINANCE_SPOT"
# The venue pings every 20 s.
HEARTBEAT_S = 30.0
# The venue closes a connection after 24 h.
ROTATE_S = 23 * 3600.0
ANSWER_S = 10.0
SUBSCRIBE = "userDataStream.subscribe.signature"


class SpotUserStream:
    """Events of one account.

    Args:
        rest: Signs the subscription.
        url: Address of the WebSocket API.
    """

    def __init__(self, rest: BinanceRest, url: str) -> None:
        self._rest, self._url = rest, url

    def events(self) -> AsyncIterator[UserEvent]:
        """Yield events until closed."""
        return reconnecting(VENUE, self._once)

    async def _once(self) -> AsyncGenerator[UserEvent, None]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._url, heartbeat=HEARTBEAT_S, max_msg_size=0) as socket,
        ):
            await socket.send_json({"id": "user", "method": SUBSCRIBE, "params": self._rest.signed_params()})
            refusal = _refusal(await socket.receive(ANSWER_S))
            if refusal is not None:
                raise StreamEnded(f"the subscription was refused: {refusal}")
            rotate = asyncio.get_running_loop().call_later(ROTATE_S, lambda: asyncio.ensure_future(socket.close()))
            try:
                async for event in events_of_socket(socket, self._events_of):
                    yield event
            finally:
                rotate.cancel()

    def _events_of(self, message: str | bytes) -> list[UserEvent]:
        try:
            event = orjson.loads(message).get("event")
            if event is None:
                return []
            if event["e"] == "eventStreamTerminated":
                raise StreamEnded("the venue ended the subscription")
            return list(facts_of(event))
        except (orjson.JSONDecodeError, AttributeError, KeyError, ValueError, ArithmeticError, TypeError) as error:
            raise malformed_message(VENUE, error) from error


def _refusal(answer: aiohttp.WSMessage) -> str | None:
    """Return why the venue rejected a subscription, or None."""
    if answer.type is not aiohttp.WSMsgType.TEXT:
        return "no answer, the connection was closed"
    try:
        told = orjson.loads(answer.data)
        return None if told["status"] == 200 else str(told["error"]["msg"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise malformed_message(VENUE, error) from error


def facts_of(event: Mapping[str, Any]) -> Iterator[UserEvent]:
    """Yield the reports in an event: an order's new state before its fill. The state of an order list follows from its orders.

    Raises:
        KeyError, ValueError, ArithmeticError, TypeError: the event does not match the documentation.
    """
    if event["e"] == "executionReport":
        yield mapping.order_update(event)
        fill = mapping.fill_update(event)
        if fill is not None:
            yield fill
    elif event["e"] == "outboundAccountPosition":
        for row in event["B"]:
            yield mapping.balance_of({"asset": row["a"], "free": row["f"], "locked": row["l"]})
