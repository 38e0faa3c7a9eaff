"""The protocol of Bybit v5: signature in headers, ``retCode`` in every response, one private stream with topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from producers.simulated.exchange.bybit import wire_format
from producers.simulated.exchange.bybit.api import CODES, MARKET, TRADING, verdict, wrong
from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.orders import Event
from producers.simulated.exchange.session.call import Action, Call
from producers.simulated.exchange.session.faults import ExchangeFault
from producers.simulated.exchange.session.keys import ApiKey
from producers.simulated.exchange.session.protocol import Protocol
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.exchange.session.users import Listener, UserStreams
from producers.simulated.wire.protocol import VenueError

AHEAD_MS = 1000
TOPICS = frozenset(("order", "execution", "position", "wallet"))


class BybitProtocol(Protocol):
    """See ``Protocol``."""

    trading: ClassVar = TRADING
    market: ClassVar = MARKET
    roots: ClassVar = ("v5",)
    key_header: ClassVar = "X-BAPI-API-KEY"

    def checked(self, desk: Desk, action: Action, request: web.Request, query: bytes, body: bytes) -> ApiKey | None:
        """Check key, receive window, signature of timestamp + key + window + (query or body), and the permission to trade."""
        if action.access == "NONE":
            return None
        headers = request.headers
        key = desk.keys.get(headers.get(self.key_header, ""))
        if key is None:
            raise VenueError(200, 10003, "API key is invalid.")
        stamp, window = headers.get("X-BAPI-TIMESTAMP", ""), headers.get("X-BAPI-RECV-WINDOW", "5000")
        if not stamp.isdigit() or not window.isdigit():
            raise VenueError(200, 10001, "params error: timestamp or recv_window invalid")
        if not any(now - int(window) <= int(stamp) < now + AHEAD_MS for now in desk.clocks()):
            raise VenueError(
                200,
                10002,
                "invalid request, please check your server timestamp or recv_window param. "
                f"req_timestamp[{stamp}],server_timestamp[{desk.now()}],recv_window[{window}]",
            )
        signed = (stamp + key.key + window).encode() + (query or body)
        if not key.signed(signed, headers.get("X-BAPI-SIGN", "")):
            raise VenueError(200, 10004, "error sign! please check your signature generation algorithm.")
        if not key.trade and action.method != "GET":
            raise VenueError(200, 10005, "Permission denied, please check your API key permissions.")
        return key

    def values(self, query: bytes, body: bytes) -> Mapping[str, Any]:
        """Return the parameters of the query, or of a JSON body, as text."""
        values: dict[str, Any] = dict(parse_qsl(query.decode(), keep_blank_values=True))
        if body:
            try:
                sent = orjson.loads(body)
            except orjson.JSONDecodeError:
                raise VenueError(200, 10001, "params error: body is not JSON") from None
            if not isinstance(sent, dict):
                raise VenueError(200, 10001, "params error: body is not an object")
            values |= {
                name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in sent.items() if value is not None
            }
        return values

    def answer(self, action: Action, call: Call) -> Any:
        return verdict(action, call)

    def refused(self, error: VenueError, now: int) -> tuple[int, Any]:
        """Return ``{"retCode": ..., "retMsg": ...}``."""
        return error.status, {"retCode": error.code, "retMsg": error.text, "result": {}, "retExtInfo": {}, "time": now}

    def fault(self, fault: ExchangeFault) -> VenueError:
        if fault.kind == "maintenance":
            return VenueError(503, 10016, "Service is restarting, please try again later.")
        if fault.kind == "reject":
            code = fault.code if fault.code > 0 else 110007
            return VenueError(200, code, next((text for known, text in CODES.values() if known == code), "Order rejected."))
        if fault.kind == "status":
            return VenueError(
                fault.code, 10006 if fault.code in (403, 429) else 10016, "Too many visits or server error.", fault.retry_after
            )
        if fault.kind == "lost" and fault.how == "504":
            return VenueError(504, 10000, "Gateway Time-out")
        return VenueError(200, 10000, "Server Timeout") if fault.how == "timeout" else VenueError(200, 10016, "Server error.")

    def too_many(self, status: int, retry_after: int) -> VenueError:
        """Return the error for too many requests of an address."""
        return VenueError(403, 10018, "Exceeded the IP Rate Limit.", retry_after)

    def too_many_orders(self, limit: str) -> VenueError:
        """Return the error for too many requests of an account."""
        return VenueError(200, 10006, "Too many visits. Exceeded the API Rate Limit.", 1)

    def unknown(self, method: str, path: str) -> VenueError:
        return VenueError(404, 404, f"{method} {path} not found")

    def malformed(self, name: str) -> VenueError:
        return wrong(name)

    def illegal(self) -> VenueError:
        return wrong("encoding")

    def messages(self, exchange: Exchange, event: Event, now: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return wire_format.messages(exchange, event, now)

    def streams(self, desk: Desk) -> PrivateStreams:
        return PrivateStreams(desk)


class PrivateStreams(UserStreams):
    """Connections to ``/v5/private``: ``auth`` proves the account, ``subscribe`` chooses topics."""

    def add_routes(self, app: web.Application) -> None:
        """Register the address."""
        app.router.add_get("/v5/private", self.serve)

    def open(self, listener: Listener) -> None:
        """A new connection has no account until it authenticates."""

    def control(self, listener: Listener, text: str) -> str | None:
        """Handle auth, subscribe, unsubscribe and ping."""
        try:
            request = orjson.loads(text)
            operation, arguments, number = request["op"], request.get("args", []), request.get("req_id", "")
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
            return _said(False, "Request format is wrong", "", "")
        if operation == "ping":
            return orjson.dumps({"req_id": number, "op": "pong", "args": [str(self.desk.now())], "conn_id": "sim"}).decode()
        if operation == "auth":
            good = self._proved(listener, arguments)
            return _said(good, "" if good else "Params Error", number, operation)
        if operation not in ("subscribe", "unsubscribe") or not listener.account:
            return _said(False, "Request not authorized" if not listener.account else "unknown op", number, operation)
        topics = {str(one).removesuffix(".linear") for one in arguments} if isinstance(arguments, list) else set()
        if not topics or not topics <= TOPICS:
            return _said(False, f"error:handler not found,topic:{','.join(sorted(topics - TOPICS))}", number, operation)
        listener.keys = listener.keys | topics if operation == "subscribe" else listener.keys - topics
        return _said(True, "", number, operation)

    def _proved(self, listener: Listener, arguments: Any) -> bool:
        if not isinstance(arguments, list) or len(arguments) != 3:
            return False
        name, expires, signature = arguments
        key = self.desk.keys.get(str(name))
        try:
            late = not any(int(expires) > now for now in self.desk.clocks())
        except (TypeError, ValueError):
            return False
        if key is None or late or not key.signed(f"GET/realtime{expires}".encode(), str(signature)):
            return False
        listener.account = key.account
        return True

    def frame(self, listener: Listener, account: str, kind: str, text: str) -> list[str]:
        """Return a message if the account's connection subscribed to its topic."""
        return [text] if listener.account == account and kind in listener.keys else []

    def listens(self, listener: Listener, account: str) -> bool:
        """Return whether it belongs to the account and has a topic."""
        return listener.account == account and bool(listener.keys)

    def tell_expired(self) -> None:
        """Nothing expires here: a connection stays authenticated."""


def _said(success: bool, text: str, number: str, operation: str) -> str:
    return orjson.dumps({"success": success, "ret_msg": text, "op": operation, "conn_id": "sim", "req_id": number}).decode()
