"""Hyperliquid perpetuals.

Venue documents: "API / Websocket" (subscriptions, timeouts and heartbeats) and "API / Info endpoint". Contracts are quoted in USD and
margined in USDC. Every message is a whole book. Liquidations are not published. Funding is hourly. Trade ids are not consecutive, so a rule
scatters them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.book import Levels
from producers.simulated.recording.events import AGG, DEPTH, INTEREST, MARK, TICKER, TRADE, Event
from producers.simulated.recording.trade_history import Trade, trade_of
from producers.simulated.wire.protocol import Answer, Query, Stream, VenueError, dumps

_LEVELS = 20
_HASH = "0x" + "0" * 64
_USERS = ["0x8cdba352268065be9d5444e1f82b8fe83717bbd5", "0x13558be785661958932ceac35ba20de187275a42"]
_STEPS_MS = {
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}
# Weights of the info endpoint by request type; all others weigh 20.
_WEIGHTS = {"l2Book": 2, "allMids": 2, "exchangeStatus": 2}


class Hyperliquid(Dialect):
    """Subscriptions are objects of type and coin."""

    venue = "HYPERLIQUID"
    funding_hours = 1
    streams = (
        Stream("trades", "trades", (TRADE, AGG)),
        Stream("l2Book", "depth", (DEPTH,), 500, "full", _LEVELS),
        Stream("bbo", "quotes", (TICKER,)),
        Stream("activeAssetCtx", "ticker", (MARK, INTEREST), 500),
    )
    sockets: ClassVar = {"/ws": ("public", False)}
    vital = ("time", "px", "coin", "ctx")
    max_streams = 1000
    inbound = (2000, 60.0)
    server_idle_s = 60.0
    weight_limit = 1200
    unknown_path = (404, 404, "Not found")
    bad_parameter = (422, 422, "Failed to deserialize the JSON body into the target type")

    def symbol(self, base: str, quote: str) -> str:
        """Return the coin; a thousand-fold one begins with k."""
        return "k" + base.removeprefix("1000") if base.startswith("1000") else base

    def recorded_symbol(self, text: str) -> str:
        """Return e.g. ``BTCUSDT`` for ``BTC``."""
        if text.startswith("k") and text[1:].isupper():
            text = "1000" + text[1:]
        return text if text.endswith(("USDT", "USDC")) and len(text) > 4 else text + "USDT"

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle ping, subscribe and unsubscribe."""
        try:
            request = orjson.loads(text)
            method = request["method"]
            if method == "ping":
                return Answer([dumps({"channel": "pong"})])
            subscription = request["subscription"]
            wire = f"{subscription['type']}:{subscription['coin']}"
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return Answer([dumps({"channel": "error", "data": f"Error parsing JSON into valid websocket request: {text}"})])
        if method not in ("subscribe", "unsubscribe"):
            return Answer([dumps({"channel": "error", "data": f"Error parsing JSON into valid websocket request: {text}"})])
        shown = orjson.dumps(subscription).decode()
        if not any(market.listed for market, _ in venue.targets(wire, path)):
            return Answer([dumps({"channel": "error", "data": f"Invalid subscription {shown}"})])
        if method == "unsubscribe":
            if wire not in streams:
                return Answer([dumps({"channel": "error", "data": f"Already unsubscribed: {shown}"})])
            return Answer([_acknowledged(method, subscription)], unsubscribe=[wire])
        if wire in streams:
            return Answer([dumps({"channel": "error", "data": f"Already subscribed: {shown}"})])
        return Answer([_acknowledged(method, subscription)], subscribe=[wire])

    # --- messages ----------------------------------------------------------------------------------------------------
    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return a subscription's message."""
        if stream.topic == "trades":
            if event.kind != market.trade_kind:
                return None
            return dumps({"channel": "trades", "data": [_trade(market, trade_of(event))]})
        if stream.topic == "quotes":
            return _quote(market, event.body, event.clock)
        if stream.topic == "ticker":
            return _context_message(market)
        return _book(market, event.clock)

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the newest trades, newest first, or the state."""
        if stream.topic == "trades":
            rows = [_trade(market, trade) for trade in reversed(market.history.before(None, 10))]
            return [dumps({"channel": "trades", "data": rows})] if rows else []
        if stream.topic == "quotes":
            return [_quote(market, market.quote, market.clock)] if market.quote is not None else []
        if stream.topic == "ticker":
            message = _context_message(market)
        else:
            message = _book(market, market.clock)
        return [message] if message is not None else []

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return the info endpoint (POST)."""
        return [Endpoint("POST", "/info", lambda query: _WEIGHTS.get(query.text("type", ""), 20), _info)]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return the error as text, as this venue does."""
        return error.status, error.text

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return 429 for too many requests. The venue has no bans."""
        return VenueError(status, status, "null" if status == 429 else "Internal server error", retry_after)


def _acknowledged(method: str, subscription: dict[str, Any]) -> bytes:
    said = {**subscription, "nSigFigs": None, "mantissa": None} if subscription["type"] == "l2Book" else subscription
    return dumps({"channel": "subscriptionResponse", "data": {"method": method, "subscription": said}})


def scattered(number: int) -> int:
    """Return the id of trade ``number``: 50 bits, unique and not consecutive."""
    return (number * 0x9E3779B97F4A7) & ((1 << 50) - 1)


def _trade(market: Market, trade: Trade) -> dict[str, Any]:
    return {
        "coin": market.symbol,
        "side": "A" if trade.sell else "B",
        "px": trade.price,
        "sz": trade.quantity,
        "time": trade.time,
        "hash": _HASH,
        "tid": scattered(trade.number),
        "users": _USERS,
    }


def _side(levels: Levels) -> list[dict[str, Any]]:
    return [{"px": price, "sz": size, "n": 1} for price, size in levels]


def _book_body(market: Market, clock: int) -> dict[str, Any] | None:
    top = market.book.top(_LEVELS)
    return None if top is None else {"coin": market.symbol, "time": clock, "levels": [_side(top.bids), _side(top.asks)]}


def _book(market: Market, clock: int) -> bytes | None:
    body = _book_body(market, clock)
    return None if body is None else dumps({"channel": "l2Book", "data": body})


def _quote(market: Market, quote: dict[str, Any], clock: int) -> bytes:
    best = _side([[quote["b"], quote["B"]]]) + _side([[quote["a"], quote["A"]]])
    return dumps({"channel": "bbo", "data": {"coin": market.symbol, "time": clock, "bbo": best}})


def _context(market: Market) -> dict[str, Any] | None:
    """Return the known state of the contract, None before the first mark price."""
    if market.mark is None:
        return None
    mark, day, quote = market.mark, market.statistics.day(), market.quote
    price, oracle = mark["p"], mark.get("i", mark["p"])
    middle = f"{(float(quote['b']) + float(quote['a'])) / 2:.8g}" if quote is not None else None
    return {
        "funding": mark.get("r", "0.0"),
        "openInterest": market.interest["openInterest"] if market.interest is not None else "0.0",
        "prevDayPx": f"{day.open:.8g}" if day is not None else price,
        "dayNtlVlm": f"{day.quote:.6f}" if day is not None else "0.0",
        "premium": f"{float(price) / float(oracle) - 1:.10f}" if middle is not None else None,
        "oraclePx": oracle,
        "markPx": price,
        "midPx": middle,
        "impactPxs": [quote["b"], quote["a"]] if quote is not None else None,
        "dayBaseVlm": f"{day.volume:.6f}" if day is not None else "0.0",
    }


def _context_message(market: Market) -> bytes | None:
    context = _context(market)
    return None if context is None else dumps({"channel": "activeAssetCtx", "data": {"coin": market.symbol, "ctx": context}})


def _info(venue: VenueView, query: Query) -> Any:
    answers = {
        "meta": _meta,
        "metaAndAssetCtxs": _meta_and_contexts,
        "allMids": _mids,
        "exchangeStatus": lambda venue, query: {"specialStatuses": None, "time": venue.now()},
        "l2Book": _l2_book,
        "recentTrades": _recent,
        "fundingHistory": _funding,
        "predictedFundings": _predicted,
        "candleSnapshot": _candles,
    }
    answer = answers.get(query.text("type"))
    if answer is None:
        raise VenueError(422, 422, "Failed to deserialize the JSON body into the target type")
    return answer(venue, query)


def _market(venue: VenueView, query: Query) -> Market | None:
    return venue.markets.get(query.text("coin"))


def _meta(venue: VenueView, query: Query) -> Any:
    """Return the contracts. Delisted ones are marked."""
    universe = []
    for market in venue.markets.values():
        row: dict[str, Any] = {"szDecimals": market.facts.step_decimals, "name": market.symbol, "maxLeverage": 50, "marginTableId": 50}
        universe.append(row if market.listed else {**row, "isDelisted": True})
    return {"universe": universe, "marginTables": []}


def _meta_and_contexts(venue: VenueView, query: Query) -> Any:
    empty = {
        "funding": "0.0",
        "openInterest": "0.0",
        "prevDayPx": "0.0",
        "dayNtlVlm": "0.0",
        "premium": None,
        "oraclePx": "0.0",
        "markPx": "0.0",
        "midPx": None,
        "impactPxs": None,
        "dayBaseVlm": "0.0",
    }
    contexts = []
    for market in venue.markets.values():
        context = _context(market)
        day = market.statistics.day()
        if context is None and day is not None:  # a recording without mark prices still has a volume
            context = {**empty, "dayNtlVlm": f"{day.quote:.6f}", "dayBaseVlm": f"{day.volume:.6f}", "prevDayPx": f"{day.open:.8g}"}
        contexts.append(context or empty)
    return [_meta(venue, query), contexts]


def _mids(venue: VenueView, query: Query) -> Any:
    return {
        market.symbol: f"{(float(market.quote['b']) + float(market.quote['a'])) / 2:.8g}"
        for market in venue.markets.values()
        if market.quote is not None
    }


def _l2_book(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    if market is None:
        return None
    top = market.rest_book(_LEVELS)
    return None if top is None else {"coin": market.symbol, "time": market.clock, "levels": [_side(top.bids), _side(top.asks)]}


def _recent(venue: VenueView, query: Query) -> Any:
    """Return the newest trades, newest first."""
    market = _market(venue, query)
    return None if market is None else [_trade(market, trade) for trade in reversed(market.history.before(None, 10))]


def _funding(venue: VenueView, query: Query) -> Any:
    """Return settled rates from a time on, oldest first, 500 at most."""
    market = _market(venue, query)
    if market is None:
        return None
    rows = market.settled(query.whole("startTime"), query.whole("endTime"))[:500]
    return [{"coin": market.symbol, "fundingRate": row["fundingRate"], "premium": "0.0", "time": row["fundingTime"]} for row in rows]


def _predicted(venue: VenueView, query: Query) -> Any:
    found = []
    for market in venue.markets.values():
        if market.mark is not None and market.mark.get("T"):
            said = {"fundingRate": market.mark["r"], "nextFundingTime": market.mark["T"], "fundingIntervalHours": 1}
            found.append([market.symbol, [["HlPerp", said]]])
    return found


def _candles(venue: VenueView, query: Query) -> Any:
    request = query.mapping("req")
    market, step = venue.markets.get(str(request.get("coin"))), _STEPS_MS.get(str(request.get("interval")))
    if market is None or step is None:
        return None
    start, end = request.get("startTime"), request.get("endTime")
    rows = []
    for bar in market.statistics.bars(step, start, end, 5000):
        prices = dict(zip("ohlc", market.prices(bar), strict=True))
        known = {
            "t": bar.start,
            "T": bar.start + step - 1,
            "s": market.symbol,
            "i": request["interval"],
            "v": f"{bar.volume:.6f}",
            "n": bar.count,
        }
        rows.append({**known, **prices})
    return rows
