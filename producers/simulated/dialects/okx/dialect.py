"""OKX perpetual swaps (API v5).

Venue documents: v5 "WebSocket / Connect, Subscribe, Notification", "Order Book Trading / Market Data", "Public Data", "Trading Statistics".
Sizes are in contracts of ``ctVal`` base units. The checksum of books is always 0 there. Liquidations cover the whole market: the venue
ignores ``instId`` in that subscription.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from producers.simulated.dialects.okx.messages import book, funding_rate, levels, liquidation, open_interest, push, ticker, trade_row
from producers.simulated.dialects.okx.rest import ANSWERS
from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.book import Top
from producers.simulated.recording.events import AGG, DEPTH, INTEREST, LIQUIDATION, MARK, TICKER, TRADE, Event
from producers.simulated.recording.trade_history import trade_of
from producers.simulated.wire.protocol import Answer, Change, Stream, VenueError, dumps

PUBLIC, BUSINESS = "/ws/v5/public", "/ws/v5/business"


class Okx(Dialect):
    """Subscriptions are objects of channel and instrument. Every value is text, except sequence numbers."""

    venue = "OKX"
    streams = (
        Stream("trades", "trades", (TRADE, AGG)),
        Stream("trades-all", "trades", (TRADE, AGG)),
        Stream("books", "depth", (DEPTH,), 100, "diff", 400),
        Stream("books5", "depth", (DEPTH,), 100, "full", 5),
        Stream("bbo-tbt", "quotes", (TICKER,), 10),
        Stream("mark-price", "mark", (MARK,), 200),
        Stream("index-tickers", "mark", (MARK,), 100),
        Stream("funding-rate", "funding", (MARK,), 30_000),
        Stream("open-interest", "open_interest", (INTEREST,), 3_000),
        Stream("tickers", "ticker", (TRADE, AGG), 100),
        Stream("liquidation-orders", "liquidations", (LIQUIDATION,)),
    )
    sockets: ClassVar = {PUBLIC: ("public", False), BUSINESS: ("public", False)}
    vital = ("ts", "px", "bids", "seqId")
    inbound = (480, 3600.0)
    server_idle_s = 30.0
    weight_limit = 40
    weight_s = 2.0
    unknown_path = (404, 404, "{path} is not found")
    bad_parameter = (400, 51000, "Parameter {name} error")

    def symbol(self, base: str, quote: str) -> str:
        """Return e.g. ``BTC-USDT-SWAP``."""
        return f"{base}-{quote}-SWAP"

    def recorded_symbol(self, text: str) -> str:
        """Return e.g. ``BTCUSDT`` for ``BTC-USDT-SWAP``."""
        return text.removesuffix("-SWAP").replace("-", "")

    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (symbol, stream) of ``channel:instId``; index tickers have the pair's name."""
        channel, _, instrument = wire.partition(":")
        if channel not in self.by_name or (channel == "trades-all") != (path == BUSINESS):
            return None
        if channel == "liquidation-orders":
            return "*", channel
        return (instrument + "-SWAP" if channel == "index-tickers" else instrument), channel

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle the text ``ping``, subscribe and unsubscribe; each channel is acknowledged or refused on its own."""
        if text == "ping":
            return Answer([b"pong"])
        answer = Answer()
        try:
            request = orjson.loads(text)
            operation, arguments = request["op"], request["args"]
            wires = [(_wire(argument), argument) for argument in arguments]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return Answer([dumps({"event": "error", "code": "60012", "msg": f"Invalid request: {text}", "connId": "a4d3ae55"})])
        if operation not in ("subscribe", "unsubscribe"):
            return Answer([dumps({"event": "error", "code": "60012", "msg": f"Invalid request: {text}", "connId": "a4d3ae55"})])
        number = {"id": request["id"]} if "id" in request else {}
        for wire, argument in wires:
            channel = argument["channel"]
            known = venue.targets(wire, path) if wire else []
            if not any(market.listed for market, _ in known):
                named = ",".join(f"{name}:{value}" for name, value in argument.items())
                problem = (
                    f"Wrong URL or {named} doesn't exist. Please use the correct URL, channel and parameters referring to API document."
                )
                answer.replies.append(dumps({**number, "event": "error", "code": "60018", "msg": problem, "connId": "a4d3ae55"}))
                continue
            said = (
                {"channel": channel, "instType": "SWAP"}
                if channel == "liquidation-orders"
                else {"channel": channel, "instId": argument["instId"]}
            )
            answer.replies.append(dumps({**number, "event": operation, "arg": said, "connId": "a4d3ae55"}))
            (answer.subscribe if operation == "subscribe" else answer.unsubscribe).append(wire)
        return answer

    # --- messages ----------------------------------------------------------------------------------------------------
    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return a channel's push."""
        name, body, clock = stream.name, event.body, str(event.clock)
        if stream.topic == "trades":
            if event.kind != market.trade_kind:
                return None
            row = trade_row(market, trade_of(event))
            row |= {"source": "0"} if name == "trades-all" else {"count": "1", "source": "0", "seqId": event.clock}
            return push(name, market.symbol, row)
        if name == "bbo-tbt":
            bids, asks = [[body["b"], body["B"]]], [[body["a"], body["A"]]]
            return push(name, market.symbol, {"asks": levels(market, asks), "bids": levels(market, bids), "ts": clock, "seqId": body["u"]})
        if name == "books5":
            top = market.book.top(5)
            if top is None:
                return None
            row = {
                "asks": levels(market, top.asks),
                "bids": levels(market, top.bids),
                "instId": market.symbol,
                "ts": clock,
                "seqId": top.last,
            }
            return push(name, market.symbol, row)
        if name == "mark-price":
            return push(name, market.symbol, {"instType": "SWAP", "instId": market.symbol, "markPx": body["p"], "ts": clock})
        if name == "index-tickers":
            return self._index(market, body, clock)
        if name == "funding-rate":
            return push(name, market.symbol, funding_rate(market)) if body.get("T") else None
        if name == "open-interest":
            return push(name, market.symbol, open_interest(market))
        if name == "tickers":
            return push(name, market.symbol, ticker(market)) if event.kind == market.trade_kind else None
        return liquidation(market, body["o"])

    def _index(self, market: Market, body: dict[str, Any], clock: str) -> bytes | None:
        if "i" not in body:
            return None
        pair, price = market.symbol.removesuffix("-SWAP"), body["i"]
        row = {
            "instId": pair,
            "idxPx": price,
            "high24h": price,
            "low24h": price,
            "open24h": price,
            "sodUtc0": price,
            "sodUtc8": price,
            "ts": clock,
        }
        return push("index-tickers", pair, row)

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the first state of channels that begin with one."""
        if stream.name == "funding-rate" and market.mark is not None and market.mark.get("T"):
            return [push(stream.name, market.symbol, funding_rate(market))]
        if stream.name == "open-interest" and market.interest is not None:
            return [push(stream.name, market.symbol, open_interest(market))]
        if stream.name == "mark-price" and market.mark is not None:
            row = {"instType": "SWAP", "instId": market.symbol, "markPx": market.mark["p"], "ts": str(market.clock)}
            return [push(stream.name, market.symbol, row)]
        if stream.name == "tickers" and market.statistics.last_price is not None:
            return [push(stream.name, market.symbol, ticker(market))]
        return []

    def change(self, market: Market, stream: Stream, change: Change) -> bytes:
        """Return an update: ``prevSeqId`` is the ``seqId`` of the message before it."""
        return book(market, stream, "update", change.bids, change.asks, change.clock, change.previous, change.last)

    def snapshot(self, market: Market, stream: Stream, top: Top, number: int) -> bytes:
        """Return a snapshot: ``prevSeqId`` is -1."""
        return book(market, stream, "snapshot", top.bids, top.asks, top.time, -1, top.last)

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return the public part of ``/api/v5``; every request weighs one of the window's 40 (the venue counts per endpoint)."""
        return [Endpoint("GET", path, 1, answer) for path, answer in ANSWERS.items()]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return code and message as text."""
        return error.status, {"code": str(error.code), "msg": error.text, "data": []}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return 50011 for too many requests, 50026 for failures."""
        if status == 429:
            return VenueError(429, 50011, "Too Many Requests", retry_after)
        return VenueError(status, 50026 if status >= 500 else 50012, "System error. Try again later", retry_after)


def _wire(argument: dict[str, Any]) -> str:
    channel = argument["channel"]
    if channel == "liquidation-orders":
        return channel + ":" if argument.get("instType") == "SWAP" else ""
    return f"{channel}:{argument.get('instId', '')}"
