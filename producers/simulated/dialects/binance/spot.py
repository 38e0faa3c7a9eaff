"""Binance spot.

Venue documents: "WebSocket Streams for Binance" and "Public Rest API". Book diffs have no ``pu``: each follows the id before its ``U``.
Quotes have neither event type nor time.
"""

from __future__ import annotations

from typing import Any, ClassVar

import orjson

from producers.simulated.dialects.binance.family import STEPS_MS, BinanceFamily, agg_rows, kline_row, one, query_has, some
from producers.simulated.dialects.shared.dialect import Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.events import AGG, DEPTH, TICKER, TRADE, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.recording.statistics import Bar
from producers.simulated.wire.protocol import Query, Stream, VenueError, dumps


class BinanceSpot(BinanceFamily):
    """One route. All messages are converted to spot's format, because recordings are of futures."""

    venue = "BINANCE_SPOT"
    kind = "spot"
    streams = (
        Stream("depth@100ms", "depth", (DEPTH,), 100, "diff"),
        Stream("depth", "depth", (DEPTH,), 1000, "diff"),
        Stream("bookTicker", "quotes", (TICKER,)),
        Stream("aggTrade", "trades", (AGG,)),
        Stream("trade", "trades", (TRADE,)),
        Stream("ticker", "ticker", (AGG,), 1000),
    )
    sockets: ClassVar = {"/ws": ("public", False), "/ws/{streams:.+}": ("public", False), "/stream": ("public", True)}
    max_streams = 1024
    inbound = (5, 1.0)
    ping_s = 20.0
    pong_s = 60.0
    weight_limit = 6000

    def show(self, market: Market, event: Event) -> None:
        """Emit an event on the streams derived from it."""
        for stream in self.by_source.get(event.kind, ()):
            if stream.topic == "depth" and event.data:
                market.merge(stream, event)
            elif market.wants(stream.name) and market.due(stream, event):
                market.emit(stream.name, self.text(market, event) if stream.name != "ticker" else _day_message(market, event.clock))

    def text(self, market: Market, event: Event) -> bytes:
        """Return a message in spot's format."""
        return dumps(self.body(market, event))

    def merged(self, market: Market, event: Event) -> bytes:
        """Return a merged book change in spot's format."""
        return self.text(market, event)

    def body(self, market: Market, event: Event) -> dict[str, Any]:
        """Return a message in spot's format."""
        body, symbol = event.body, market.symbol
        if event.kind == DEPTH:
            # Update ids of futures have gaps, and diffs name the id before. Here a diff begins where the one before it ended.
            first = body["pu"] + 1 if "pu" in body else body["U"]
            return {"e": "depthUpdate", "E": event.clock, "s": symbol, "U": first, "u": body["u"], "b": body["b"], "a": body["a"]}
        if event.kind == TICKER:
            return {"u": body["u"], "s": symbol, "b": body["b"], "B": body["B"], "a": body["a"], "A": body["A"]}
        names = ("a", "p", "q", "f", "l", "T", "m") if event.kind == AGG else ("t", "p", "q", "T", "m")
        kind = "aggTrade" if event.kind == AGG else "trade"
        return {"e": kind, "E": event.clock, "s": symbol, **{name: body[name] for name in names}, "M": True}

    def endpoints(self) -> list[Endpoint]:
        """Return ``/api/v3``."""
        rows: list[tuple[str, int, Any]] = [
            ("time", 1, _time),
            ("exchangeInfo", 20, _exchange_info),
            ("aggTrades", 4, _agg_trades),
            ("ticker/24hr", 80, _day),
            ("ticker/bookTicker", 4, _quotes),
            ("klines", 2, _klines),
        ]
        return [
            *(Endpoint("GET", f"/api/v3/{name}", weight, answer) for name, weight, answer in rows),
            Endpoint("GET", "/api/v3/depth", _depth_weight, _depth),
        ]


def _time(venue: VenueView, query: Query) -> Any:
    return {"serverTime": venue.now()}


def _exchange_info(venue: VenueView, query: Query) -> Any:
    limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": venue.weight_limit}]
    symbols = [_pair(market) for market in some(venue, query)]
    return {"timezone": "UTC", "serverTime": venue.now(), "rateLimits": limits, "exchangeFilters": [], "symbols": symbols}


def _pair(market: Market) -> dict[str, Any]:
    facts = market.facts
    tick, step = decimal_step(facts.tick_decimals), decimal_step(facts.step_decimals)
    filters: list[dict[str, Any]] = [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000.00000000", "stepSize": step},
    ]
    if market.min_notional is not None:
        limits = {"applyMinToMarket": True, "maxNotional": "9000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 5}
        filters.append({"filterType": "NOTIONAL", "minNotional": market.min_notional, **limits})
    return {
        "symbol": market.symbol,
        "status": "TRADING" if market.listed else "BREAK",
        "baseAsset": facts.base_asset,
        "baseAssetPrecision": 8,
        "quoteAsset": facts.quote_asset,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": filters,
        "permissions": ["SPOT"],
    }


def _depth_weight(query: Query) -> int:
    limit = query.whole("limit", 100) or 100
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


def _depth(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    top = market.rest_book(query.limit(100, 5000))
    if top is None:
        raise VenueError(503, -1000, "no book is known yet")
    venue.snapshot_fetched(market)
    return {"lastUpdateId": top.last, "bids": top.bids, "asks": top.asks}


def _agg_trades(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    trades = market.history.page(query.whole("fromId"), query.whole("startTime"), query.whole("endTime"), query.limit(500, 1000))
    return [{**row, "M": True} for row in agg_rows(trades)]


def _sums(market: Market) -> dict[str, Any]:
    day, places = market.statistics.day() or Bar(market.clock, 0.0, 0.0, 0.0, 0.0), market.facts.price_decimals
    quote = market.quote or {"b": "0", "B": "0", "a": "0", "A": "0"}
    newest = market.history.before(None, 1)
    return {
        "p": f"{day.close - day.open:.{places}f}",
        "P": f"{(day.close / day.open - 1) * 100 if day.open else 0:.3f}",
        "w": f"{day.quote / day.volume if day.volume else 0:.{places}f}",
        "c": f"{day.close:.{places}f}",
        "Q": market.statistics.last_quantity,
        "b": quote["b"],
        "B": quote["B"],
        "a": quote["a"],
        "A": quote["A"],
        "o": f"{day.open:.{places}f}",
        "h": f"{day.high:.{places}f}",
        "l": f"{day.low:.{places}f}",
        "v": f"{day.volume:.8f}",
        "q": f"{day.quote:.8f}",
        "O": day.start,
        "C": market.clock,
        "F": 0,
        "L": newest[0].last if newest else 0,
        "n": day.count,
    }


def _day_message(market: Market, clock: int) -> bytes:
    return dumps({"e": "24hrTicker", "E": clock, "s": market.symbol, **_sums(market)})


# The names over REST.
_DAY_NAMES = {
    "p": "priceChange",
    "P": "priceChangePercent",
    "w": "weightedAvgPrice",
    "c": "lastPrice",
    "Q": "lastQty",
    "b": "bidPrice",
    "B": "bidQty",
    "a": "askPrice",
    "A": "askQty",
    "o": "openPrice",
    "h": "highPrice",
    "l": "lowPrice",
    "v": "volume",
    "q": "quoteVolume",
    "O": "openTime",
    "C": "closeTime",
    "F": "firstId",
    "L": "lastId",
    "n": "count",
}


def _day(venue: VenueView, query: Query) -> Any:
    rows = []
    for market in some(venue, query):
        if market.listed:
            rows.append({"symbol": market.symbol, **{_DAY_NAMES[name]: value for name, value in _sums(market).items()}})
    return rows[0] if query_has(query, "symbol") else rows


def _quotes(venue: VenueView, query: Query) -> Any:
    names = {"bidPrice": "b", "bidQty": "B", "askPrice": "a", "askQty": "A"}
    try:
        wanted = orjson.loads(query.text("symbols")) if "symbols" in query else None
    except orjson.JSONDecodeError:
        raise VenueError(400, -1100, "Illegal characters found in parameter 'symbols'.") from None
    if wanted is not None and not set(wanted) <= venue.markets.keys():
        raise VenueError(400, -1121, "Invalid symbol.")
    rows = []
    for market in some(venue, query):
        if wanted is not None and market.symbol not in wanted:
            continue
        if market.quote is not None:
            rows.append({"symbol": market.symbol, **{name: market.quote[field] for name, field in names.items()}})
    return rows[0] if query_has(query, "symbol") and rows else rows


def _klines(venue: VenueView, query: Query) -> Any:
    market, step = one(venue, query), STEPS_MS.get(query.text("interval"))
    if step is None:
        raise VenueError(400, -1120, "Invalid interval.")
    bars = market.statistics.bars(step, query.whole("startTime"), query.whole("endTime"), query.limit(500, 1000))
    return [kline_row(market, bar, step) for bar in bars]
