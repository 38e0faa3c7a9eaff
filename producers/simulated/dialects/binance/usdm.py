"""Binance USD-M futures.

Venue documents: USD-M "Websocket Market Streams" (with the /public and /market routes of 2026-04-23), "Market Data Endpoints".
"""

from __future__ import annotations

from typing import Any, ClassVar

from producers.simulated.dialects.binance.family import STEPS_MS, BinanceFamily, agg_rows, kline_row, one, query_has, some
from producers.simulated.dialects.shared.dialect import Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.events import AGG, DEPTH, LIQUIDATION, MARK, TICKER, route_of_stream
from producers.simulated.recording.frames import DEPTH_CADENCES
from producers.simulated.recording.recording import Facts, decimal_step
from producers.simulated.wire.protocol import Query, Stream, VenueError

_DEPTH_WEIGHTS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}


class Binance(BinanceFamily):
    """USD-M: two routes, a REST snapshot under the book, funding with the mark price."""

    venue = "BINANCE"
    streams = (
        *(Stream(name, "depth", (DEPTH,), cadence, "diff") for name, cadence in DEPTH_CADENCES.items()),
        Stream("bookTicker", "quotes", (TICKER,)),
        Stream("aggTrade", "trades", (AGG,)),
        Stream("markPrice", "mark", (MARK,)),
        Stream("markPrice@1s", "mark", (MARK,)),
        Stream("forceOrder", "liquidations", (LIQUIDATION,)),
    )
    sockets: ClassVar = {
        f"/{route}{path}": (route, named)
        for route in ("public", "market")
        for path, named in (("/ws", False), ("/ws/{streams:.+}", False), ("/stream", True))
    }
    inbound = (10, 1.0)
    ping_s = 180.0
    weight_limit = 2400

    def route(self, stream: str) -> str:
        """Return ``public`` for books and quotes, ``market`` for all else."""
        return route_of_stream(stream)

    def routes(self, facts: Facts) -> frozenset[str]:
        """Return the routes on which the recording has streams."""
        return facts.routes

    def endpoints(self) -> list[Endpoint]:
        """Return ``/fapi/v1`` and the statistics of ``/futures/data``."""
        rows: list[tuple[str, int, Any]] = [
            ("time", 1, _time),
            ("exchangeInfo", 1, _exchange_info),
            ("aggTrades", 20, _agg_trades),
            ("premiumIndex", 1, _premium_index),
            ("fundingInfo", 1, _funding_info),
            ("fundingRate", 1, _funding_rate),
            ("openInterest", 1, _open_interest),
            ("ticker/24hr", 40, _day),
        ]
        return [
            *(Endpoint("GET", f"/fapi/v1/{name}", weight, answer) for name, weight, answer in rows),
            Endpoint("GET", "/fapi/v1/depth", _depth_weight, _depth),
            Endpoint("GET", "/fapi/v1/klines", _klines_weight, _klines),
            Endpoint("GET", "/futures/data/openInterestHist", 0, _interest_history),
            *(
                Endpoint("GET", f"/futures/data/{name}", 0, _ratios)
                for name in ("globalLongShortAccountRatio", "topLongShortPositionRatio", "topLongShortAccountRatio")
            ),
        ]


def _time(venue: VenueView, query: Query) -> Any:
    # Every recording has its own venue clock. Without a symbol the slowest of them is "now".
    return {"serverTime": min(market.now() for market in some(venue, query))}


def _exchange_info(venue: VenueView, query: Query) -> Any:
    limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": venue.weight_limit}]
    return {
        "timezone": "UTC",
        "serverTime": min(market.now() for market in some(venue, query)),
        "rateLimits": limits,
        "symbols": [_contract(market) for market in some(venue, query)],
        "recorded": True,
    }


def _depth_weight(query: Query) -> int:
    limit = query.whole("limit", 500)
    if limit not in _DEPTH_WEIGHTS:
        raise VenueError(400, -4021, f"'{limit}' is not valid depth limit.")
    return _DEPTH_WEIGHTS[limit]


def _depth(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    if not market.facts.has_depth and market.facts.snapshot is None:
        raise VenueError(404, -1000, f"the recording of {market.symbol} has no depth")
    top = market.rest_book(query.whole("limit", 500) or 500)
    if top is None:
        raise VenueError(503, -1000, "no book is known yet: the recording has no snapshot, and no depth message was played")
    venue.snapshot_fetched(market)
    time = top.transaction_time if top.transaction_time is not None else top.time
    return {"lastUpdateId": top.last, "E": top.time, "T": time, "bids": top.bids, "asks": top.asks}


def _agg_trades(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    limit = query.whole("limit", 500) or 500
    if not 1 <= limit <= 1000:
        raise VenueError(400, -1130, "Data sent for parameter 'limit' is not valid.")
    return agg_rows(market.history.page(query.whole("fromId"), query.whole("startTime"), query.whole("endTime"), limit))


def _premium_index(venue: VenueView, query: Query) -> Any:
    known = [_premium(market) for market in some(venue, query) if market.mark is not None]
    if "symbol" not in query:
        return known
    if not known:
        raise VenueError(404, -1000, f"the recording of {query.text('symbol')} has no mark price up to its present position")
    return known[0]


def _premium(market: Market) -> dict[str, Any]:
    mark = market.mark or {}
    names = {
        "markPrice": "p",
        "indexPrice": "i",
        "estimatedSettlePrice": "P",
        "lastFundingRate": "r",
        "nextFundingTime": "T",
    }
    return {
        "symbol": market.symbol,
        **{name: mark[field] for name, field in names.items() if field in mark},
        "time": mark.get("E", market.clock),
    }


def _funding_info(venue: VenueView, query: Query) -> Any:
    return [
        {"symbol": market.symbol, "fundingIntervalHours": market.funding_interval_hours, "recorded": True}
        for market in venue.markets.values()
        if market.funding_interval_hours is not None
    ]


def _funding_rate(venue: VenueView, query: Query) -> Any:
    start, end = query.whole("startTime"), query.whole("endTime")
    limit = min(1000, query.whole("limit", 100) or 100)
    rows = [
        {"symbol": market.symbol, "fundingTime": row["fundingTime"], "fundingRate": row["fundingRate"]}
        for market in some(venue, query)
        for row in market.settled(start, end)
    ]
    rows.sort(key=lambda row: row["fundingTime"])
    # Like the venue: the oldest from a given start, else the newest.
    return rows[:limit] if start is not None else rows[-limit:]


def _open_interest(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    if market.interest is None:
        raise VenueError(404, -1000, f"the recording of {market.symbol} has no open interest")
    return {"openInterest": market.interest["openInterest"], "symbol": market.symbol, "time": market.interest["E"]}


def _interest_history(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    points = market.interest_points(STEPS_MS.get(query.text("period"), 300_000), query.limit(30, 500))
    return [
        {"symbol": market.symbol, "sumOpenInterest": amount, "sumOpenInterestValue": value, "timestamp": time}
        for time, amount, value in points
    ]


def _ratios(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    points = market.ratio_points(query.path.rpartition("/")[2], STEPS_MS.get(query.text("period"), 300_000), query.limit(30, 500))
    return [
        {
            "symbol": market.symbol,
            "longShortRatio": f"{long / (1 - long):.4f}",
            "longAccount": f"{long:.4f}",
            "shortAccount": f"{1 - long:.4f}",
            "timestamp": time,
        }
        for time, long in points
    ]


def _day(venue: VenueView, query: Query) -> Any:
    rows = [_day_row(market) for market in some(venue, query) if market.listed]
    return rows[0] if query_has(query, "symbol") else rows


def _day_row(market: Market) -> dict[str, Any]:
    day = market.statistics.day()
    opened, high, low, last = (day.open, day.high, day.low, day.close) if day is not None else (0.0, 0.0, 0.0, 0.0)
    places = market.facts.price_decimals
    return {
        "symbol": market.symbol,
        "priceChange": f"{last - opened:.{places}f}",
        "priceChangePercent": f"{(last / opened - 1) * 100 if opened else 0:.3f}",
        "weightedAvgPrice": f"{day.quote / day.volume if day is not None and day.volume else 0:.{places}f}",
        "lastPrice": f"{last:.{places}f}",
        "lastQty": market.statistics.last_quantity,
        "openPrice": f"{opened:.{places}f}",
        "highPrice": f"{high:.{places}f}",
        "lowPrice": f"{low:.{places}f}",
        "volume": f"{day.volume if day is not None else 0:.3f}",
        "quoteVolume": f"{day.quote if day is not None else 0:.2f}",
        "openTime": day.start if day is not None else market.clock,
        "closeTime": market.clock,
        "count": day.count if day is not None else 0,
    }


def _klines_weight(query: Query) -> int:
    limit = query.limit(500, 1500)
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def _klines(venue: VenueView, query: Query) -> Any:
    market = one(venue, query)
    step = STEPS_MS.get(query.text("interval"))
    if step is None:
        raise VenueError(400, -1120, "Invalid interval.")
    bars = market.statistics.bars(step, query.whole("startTime"), query.whole("endTime"), query.limit(500, 1500))
    return [kline_row(market, bar, step) for bar in bars]


def _contract(market: Market) -> dict[str, Any]:
    facts = market.facts
    filters: list[dict[str, str]] = [
        {"filterType": "PRICE_FILTER", "tickSize": decimal_step(facts.tick_decimals)},
        {"filterType": "LOT_SIZE", "stepSize": decimal_step(facts.step_decimals)},
    ]
    if market.min_notional is not None:
        filters.append({"filterType": "MIN_NOTIONAL", "notional": market.min_notional})
    return {
        "symbol": market.symbol,
        "pair": market.symbol,
        "contractType": "PERPETUAL" if market.kind == "perp" else "SPOT",
        "status": "TRADING" if market.listed else "SETTLING",
        "baseAsset": facts.base_asset,
        "quoteAsset": facts.quote_asset,
        "marginAsset": facts.quote_asset,
        "pricePrecision": facts.price_decimals,
        "quantityPrecision": facts.quantity_decimals,
        "filters": filters,
        "recorded": True,
        "recordedFrom": facts.first,
        "recordedTo": facts.last,
    }
