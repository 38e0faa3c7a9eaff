"""The protocol of Binance USD-M: signatures, receive window, errors, user stream by listen key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from producers.simulated.exchange.binance import errors, wire_format
from producers.simulated.exchange.binance.api import MARKET, TRADING, verdict
from producers.simulated.exchange.binance.stream import ListenKeyStreams
from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.orders import Event
from producers.simulated.exchange.session.call import Action, Call
from producers.simulated.exchange.session.faults import ExchangeFault
from producers.simulated.exchange.session.keys import ApiKey
from producers.simulated.exchange.session.protocol import Protocol
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.wire.protocol import VenueError

RECV_WINDOW_MS, MOST_RECV_WINDOW_MS, AHEAD_MS = 5000, 60_000, 1000
STATUS_WORDS = {
    403: (0, "Forbidden"),
    418: (-1003, "Way too many requests; IP banned until later. Please use the websocket for live updates to avoid bans."),
    429: (-1003, "Too many requests; current limit is 2400 requests per minute."),
    500: (-1000, "An unknown error occurred while processing the request."),
    502: (-1001, "Internal error; unable to process your request. Please try again."),
    503: (-1001, "Service Unavailable."),
}


class BinanceProtocol(Protocol):
    """See ``Protocol``."""

    trading: ClassVar = TRADING
    market: ClassVar = MARKET
    roots: ClassVar = ("fapi", "sapi")
    key_header: ClassVar = "X-MBX-APIKEY"

    def checked(self, desk: Desk, action: Action, request: web.Request, query: bytes, body: bytes) -> ApiKey | None:
        """Check the key, and for signed endpoints the signature, the time and the permission to trade."""
        if action.access == "NONE":
            return None
        sent = request.headers.get(self.key_header)
        if not sent:
            raise VenueError(401, -2014, "API-key format invalid.")
        key = desk.keys.get(sent)
        if key is None:
            raise VenueError(401, -2015, "Invalid API-key, IP, or permissions for action.")
        if action.access == "SIGNED":
            _check_signature(desk, key, query, body)
            if not key.trade and action.method != "GET":
                raise VenueError(401, -2015, "Invalid API-key, IP, or permissions for action.")
        return key

    def values(self, query: bytes, body: bytes) -> Mapping[str, Any]:
        """Return the parameters of query and form body."""
        return dict(parse_qsl(query.decode(), keep_blank_values=True) + parse_qsl(body.decode(), keep_blank_values=True))

    def answer(self, action: Action, call: Call) -> Any:
        return verdict(action, call)

    def refused(self, error: VenueError, now: int) -> tuple[int, Any]:
        """Return ``{"code": ..., "msg": ...}``."""
        return error.status, {"code": error.code, "msg": error.text}

    def fault(self, fault: ExchangeFault) -> VenueError:
        if fault.kind == "maintenance":
            return VenueError(*errors.MAINTENANCE)
        if fault.kind == "reject":
            return VenueError(
                400, fault.code, next((text for code, text in errors.CODES.values() if code == fault.code), "Order rejected.")
            )
        if fault.kind == "status":
            code, text = STATUS_WORDS.get(fault.code, (-1000, "Error"))
            return VenueError(fault.code, code, text, fault.retry_after if fault.code in (418, 429) else None)
        if fault.kind == "lost" and fault.how == "timeout":
            return VenueError(*errors.TIMEOUT)
        if fault.kind == "lost" and fault.how == "504":
            return VenueError(504, -1000, "Gateway Time-out")
        return VenueError(*errors.UNKNOWN_STATUS)

    def too_many(self, status: int, retry_after: int) -> VenueError:
        return VenueError(status, *STATUS_WORDS[status], retry_after)

    def too_many_orders(self, limit: str) -> VenueError:
        return VenueError(429, -1015, f"Too many new orders; current limit is broken for {limit}.", 1)

    def unknown(self, method: str, path: str) -> VenueError:
        return VenueError(404, -5000, f"Path {path}, Method {method} is invalid")

    def malformed(self, name: str) -> VenueError:
        return errors.malformed(name)

    def illegal(self) -> VenueError:
        return VenueError(400, -1100, "Illegal characters found in a parameter.")

    def messages(self, exchange: Exchange, event: Event, now: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for message in wire_format.messages(exchange, event, now):
            yield message["e"], message

    def streams(self, desk: Desk) -> ListenKeyStreams:
        return ListenKeyStreams(desk)


def _check_signature(desk: Desk, key: ApiKey, query: bytes, body: bytes) -> None:
    signature = None
    parts = []
    for text in (query, body):
        kept = []
        for one in text.split(b"&"):
            if one.startswith(b"signature="):
                signature = unquote_plus(one[len(b"signature=") :].decode())
            else:
                kept.append(one)
        parts.append(b"&".join(kept))
    values = dict(parse_qsl(b"&".join(parts).decode()))
    if signature is None:
        raise errors.missing("signature")
    if "timestamp" not in values:
        raise errors.missing("timestamp")
    if not key.signed(b"".join(parts), signature):
        raise VenueError(400, -1022, "Signature for this request is not valid.")
    try:
        stamp, window = int(values["timestamp"]), int(values.get("recvWindow", RECV_WINDOW_MS))
    except ValueError:
        raise errors.malformed("timestamp") from None
    if not 0 < window <= MOST_RECV_WINDOW_MS:
        raise VenueError(400, -1131, "recvWindow must be less than 60000.")
    clocks = desk.clocks()
    if all(stamp >= now + AHEAD_MS for now in clocks):
        raise VenueError(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if not any(now - window <= stamp < now + AHEAD_MS for now in clocks):
        raise VenueError(400, -1021, "Timestamp for this request is outside of the recvWindow.")
