"""The shared part of Binance's USD-M futures and spot: stream names, control methods, errors and limits.

Venue documents: "Websocket Market Streams" (general information, live subscribing) and "General Info" of either REST interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.events import AGG, DEPTH, LIQUIDATION, MARK, TICKER, Event
from producers.simulated.recording.frames import depth_cadence_ms
from producers.simulated.recording.statistics import Bar
from producers.simulated.recording.trade_history import Trade
from producers.simulated.wire.protocol import Answer, Query, VenueError, dumps

# markPrice without @1s comes every 3 s. Recorded times jitter around the second.
SLOW_MARK_MS = 2500
STEPS_MS = {
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}


class BinanceFamily(Dialect):
    """Streams are named ``<symbol>@<stream>`` in the address or by SUBSCRIBE; recorded messages pass byte for byte."""

    trade_source = AGG
    rest_book = True
    vital = ("E", "p", "b")
    max_streams = 200
    unknown_path = (404, -5000, "Path {path}, Method GET is invalid: the recorded venue has no such data")
    bad_parameter = (400, -1130, "Data sent for parameter '{name}' is not valid.")

    def initial(self, path: str, parameters: Mapping[str, str]) -> list[str]:
        """Return the streams of ``/ws/<stream>/<stream>`` or ``/stream?streams=<stream>/<stream>``."""
        named = parameters.get("streams") or (path.partition("/ws/")[2] if "/ws/" in path else "")
        return [stream for stream in named.split("/") if stream]

    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (symbol, stream) of any text. Unknown streams are accepted and stay silent."""
        symbol, _, stream = wire.partition("@")
        return symbol.upper(), stream

    def head(self, stream: str) -> str:
        """Return a stream's name without its cadence."""
        return stream.partition("@")[0]

    def frame(self, market: Market, stream: str, data: bytes, *, named: bool) -> bytes:
        """Return a message, with its stream's name around it on ``/stream``."""
        if not named:
            return data
        head = market.memory.get(stream)
        if head is None:
            head = market.memory[stream] = b'{"stream":"' + f"{market.symbol.lower()}@{stream}".encode() + b'","data":'
        return bytes(head + data + b"}")

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS."""
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return _refused(3, f"Invalid JSON: {error}")
        if not isinstance(request, dict) or not isinstance(request.get("id"), int | str | None):
            return _refused(2, "Invalid request: expected an object with an id")
        number, method, params = request.get("id"), request.get("method"), request.get("params", [])
        if method == "LIST_SUBSCRIPTIONS":
            return Answer([dumps({"result": list(streams), "id": number})])
        if method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            problem = f"Invalid request: unknown variant {method!r}, expected SUBSCRIBE, UNSUBSCRIBE or LIST_SUBSCRIPTIONS"
            return _refused(2, problem, number)
        if not isinstance(params, list) or not params or not all(isinstance(stream, str) for stream in params):
            return _refused(2, "Invalid request: params: expected a list of stream names", number)
        replies = [dumps({"result": None, "id": number})]
        return Answer(replies, subscribe=params) if method == "SUBSCRIBE" else Answer(replies, unsubscribe=params)

    def show(self, market: Market, event: Event) -> None:
        """Emit an event on its own stream, and on the slower streams derived from it."""
        if event.kind == DEPTH:
            self._show_depth(market, event)
            return
        if event.kind == MARK:
            slow = market.memory.get("slow mark")
            if slow is None or event.clock - slow >= SLOW_MARK_MS:
                market.memory["slow mark"] = event.clock
                if event.stream != "markPrice":
                    market.emit("markPrice", self.text(market, event))
        if event.data:
            market.emit(event.stream, event.data)
            return
        for stream in self.by_source.get(event.kind, ()):
            if stream.name != "markPrice" and market.wants(stream.name):
                market.emit(stream.name, self.text(market, event))

    def _show_depth(self, market: Market, event: Event) -> None:
        recorded = depth_cadence_ms(event.stream)
        for stream in self.by_source[DEPTH]:
            if stream.name == event.stream or stream.cadence_ms <= recorded or not event.data:
                # A stream faster than the recording is served at the recorded cadence.
                if stream.name == event.stream or market.wants(stream.name):
                    market.emit(stream.name, self.text(market, event))
            else:
                market.merge(stream, event)

    def text(self, market: Market, event: Event) -> bytes:
        """Return a message as JSON: as recorded, or of a generated event."""
        return event.data or dumps(self.body(market, event))

    def body(self, market: Market, event: Event) -> dict[str, Any]:
        """Return the message of a generated event."""
        return _BODIES[event.kind](market.symbol, event)

    # --- REST --------------------------------------------------------------------------------------------------------
    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return ``{"code": ..., "msg": ...}``."""
        return error.status, {"code": error.code, "msg": error.text}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return the error for 418, 429 and failures of the server."""
        if status == 418:
            return VenueError(418, -1003, "Way too many requests; IP banned. Please use the websocket for live updates.", retry_after)
        if status == 429:
            return VenueError(429, -1003, "Too many requests; slow down.", retry_after)
        return VenueError(status, -1001, "Internal error; unable to process your request. Please try again.", retry_after)

    def headers(self, used: int) -> dict[str, str]:
        """Return the header with the weight used."""
        return {"X-MBX-USED-WEIGHT-1M": str(used)}


def _refused(code: int, text: str, number: Any = None) -> Answer:
    body: dict[str, Any] = {"error": {"code": code, "msg": text}}
    return Answer([dumps(body if number is None else {**body, "id": number})])


def one(venue: VenueView, query: Query) -> Market:
    """Return the market of a request. Raises VenueError when it names none."""
    if not query_has(query, "symbol"):
        raise VenueError(400, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    market = venue.markets.get(query.text("symbol"))
    if market is None:
        raise VenueError(400, -1121, "Invalid symbol.")
    return market


def query_has(query: Query, name: str) -> bool:
    """Return whether a parameter was sent and is not empty."""
    return name in query and query.text(name, " ").strip() != ""


def some(venue: VenueView, query: Query) -> list[Market]:
    """Return the market of a request, or all."""
    return [one(venue, query)] if "symbol" in query else list(venue.markets.values())


def agg_rows(trades: list[Trade]) -> list[dict[str, Any]]:
    """Return trades as rows of aggTrades."""
    return [{"a": t.number, "p": t.price, "q": t.quantity, "f": t.first, "l": t.last, "T": t.time, "m": t.sell} for t in trades]


def kline_row(market: Market, bar: Bar, step_ms: int) -> list[Any]:
    """Return a bar as the klines endpoint does."""
    prices = market.prices(bar)
    sums = [f"{bar.volume:.8f}", bar.start + step_ms - 1, f"{bar.quote:.8f}", bar.count, f"{bar.taker:.8f}", f"{bar.taker_quote:.8f}", "0"]
    return [bar.start, *prices, *sums]


def _depth_update(symbol: str, event: Event) -> dict[str, Any]:
    body = event.body
    names = ("T", "U", "u", "pu", "b", "a")
    return {"e": "depthUpdate", "E": event.clock, "s": symbol, **{name: body[name] for name in names}}


def _book_ticker(symbol: str, event: Event) -> dict[str, Any]:
    body = event.body
    return {
        "e": "bookTicker",
        "u": body["u"],
        "s": symbol,
        "b": body["b"],
        "B": body["B"],
        "a": body["a"],
        "A": body["A"],
        "T": body["T"],
        "E": event.clock,
    }


def _agg_trade(symbol: str, event: Event) -> dict[str, Any]:
    body = event.body
    names = ("a", "p", "q", "f", "l", "T", "m")
    return {"e": "aggTrade", "E": event.clock, "s": symbol, **{name: body[name] for name in names}}


def _mark_price(symbol: str, event: Event) -> dict[str, Any]:
    body = event.body
    return {"e": "markPriceUpdate", "E": event.clock, "s": symbol, **{name: body[name] for name in ("p", "P", "i", "r", "T")}}


def _force_order(symbol: str, event: Event) -> dict[str, Any]:
    return {"e": "forceOrder", "E": event.clock, "o": {"s": symbol, **event.body["o"]}}


_BODIES = {DEPTH: _depth_update, TICKER: _book_ticker, AGG: _agg_trade, MARK: _mark_price, LIQUIDATION: _force_order}
