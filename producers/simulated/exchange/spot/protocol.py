"""The protocol of Binance spot: requests as for its futures, the user stream over the WebSocket API (listen keys ended on 2026-02-20)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import orjson
from aiohttp import web

from producers.simulated.exchange.binance.errors import refused as refused_by_futures
from producers.simulated.exchange.binance.protocol import AHEAD_MS, RECV_WINDOW_MS, BinanceProtocol
from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.orders import Event
from producers.simulated.exchange.core.rules import Refusal
from producers.simulated.exchange.session.call import Action, Call
from producers.simulated.exchange.session.faults import ExchangeFault
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.exchange.session.users import Listener, UserStreams
from producers.simulated.exchange.spot import errors, wire_format
from producers.simulated.exchange.spot.api import MARKET, TRADING, SpotCall
from producers.simulated.exchange.spot.engine import SpotExchange
from producers.simulated.wire.protocol import VenueError

SUBSCRIBE = "userDataStream.subscribe.signature"


class BinanceSpotProtocol(BinanceProtocol):
    """See ``Protocol``."""

    trading: ClassVar = TRADING
    market: ClassVar = MARKET
    roots: ClassVar = ("api", "sapi")
    exchange: ClassVar[type[Exchange]] = SpotExchange

    def answer(self, action: Action, call: Call) -> Any:
        try:
            return action.answer(SpotCall(call.desk, call.query, call.now, call.key))
        except Refusal as refusal:
            raise errors.refused(refusal) if refusal.reason in errors.CODES else refused_by_futures(refusal) from refusal

    def fault(self, fault: ExchangeFault) -> VenueError:
        if fault.kind == "reject":
            return VenueError(
                400, fault.code, next((text for code, text in errors.CODES.values() if code == fault.code), "Order rejected.")
            )
        return super().fault(fault)

    def messages(self, exchange: Exchange, event: Event, now: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return wire_format.messages(event, now)

    def streams(self, desk: Desk) -> SpotStreams:  # type: ignore[override]
        return SpotStreams(desk)


class SpotStreams(UserStreams):
    """Connections to the WebSocket API. A signed subscription connects them to their account."""

    def add_routes(self, app: web.Application) -> None:
        """Register the address."""
        app.router.add_get("/ws-api/v3", self.serve)

    def open(self, listener: Listener) -> None:
        """A new connection has no account until it subscribes."""

    def control(self, listener: Listener, text: str) -> str | None:
        """Handle a request: the signed subscription, and ping."""
        try:
            request = orjson.loads(text)
            number, method, params = request.get("id"), request["method"], request.get("params", {})
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
            return _said(None, 400, {"code": -1135, "msg": "Invalid JSON Request"})
        if method == "ping":
            return _said(number, 200, {})
        if method != SUBSCRIBE:
            return _said(number, 400, {"code": -1099, "msg": "Not found, authenticated, or authorized."})
        refusal = self._prove(listener, params)
        if refusal is not None:
            return _said(number, 400, refusal)
        return _said(number, 200, {"subscriptionId": 0})

    def _prove(self, listener: Listener, params: Any) -> dict[str, Any] | None:
        if not isinstance(params, dict):
            return {"code": -1130, "msg": "Data sent for parameter 'params' is not valid."}
        key = self.desk.keys.get(str(params.get("apiKey", "")))
        if key is None:
            return {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}
        # The signed text is the request without the signature, sorted by name.
        payload = "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")
        if not key.signed(payload.encode(), str(params.get("signature", ""))):
            return {"code": -1022, "msg": "Signature for this request is not valid."}
        try:
            stamp, window = int(params["timestamp"]), int(params.get("recvWindow", RECV_WINDOW_MS))
        except (KeyError, ValueError, TypeError):
            return {"code": -1102, "msg": "Mandatory parameter 'timestamp' was not sent, was empty/null, or malformed."}
        if not any(now - window <= stamp < now + AHEAD_MS for now in self.desk.clocks()):
            return {"code": -1021, "msg": "Timestamp for this request is outside of the recvWindow."}
        listener.account = key.account
        return None

    def frame(self, listener: Listener, account: str, kind: str, text: str) -> list[str]:
        """Return a message in the frame of the subscription."""
        return [f'{{"subscriptionId":0,"event":{text}}}'] if listener.account == account else []

    def listens(self, listener: Listener, account: str) -> bool:
        """Return whether it has subscribed to the account."""
        return listener.account == account

    def tell_expired(self) -> None:
        """Nothing expires here."""


def _said(number: Any, status: int, body: dict[str, Any]) -> str:
    name = "result" if status == 200 else "error"
    return orjson.dumps({"id": number, "status": status, name: body, "rateLimits": []}).decode()
