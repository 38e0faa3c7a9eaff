"""Binance USD-M public endpoints that trading needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from producers.simulated.exchange.binance import wire_format
from producers.simulated.exchange.binance.call import BinanceCall as Call
from producers.simulated.exchange.core.rules import ZERO
from producers.simulated.exchange.session.call import Action
from producers.simulated.wire.protocol import VenueError


def _ping(call: Call) -> Any:
    return {}


def _time(call: Call) -> Any:
    return {"serverTime": call.now}


def _exchange_info(call: Call) -> Any:
    exchange = call.desk.exchange
    names = [call.contract().symbol] if call.has("symbol") else list(exchange.markets)
    intervals = {"10S": ("SECOND", 10), "1M": ("MINUTE", 1)}
    limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400}]
    for limit, _, name in call.desk.order_limits:
        interval, number = intervals.get(name, ("MINUTE", 1))
        limits.append({"rateLimitType": "ORDERS", "interval": interval, "intervalNum": number, "limit": limit})
    return {
        "timezone": "UTC",
        "serverTime": call.now,
        "futuresType": "U_MARGINED",
        "rateLimits": limits,
        "exchangeFilters": [],
        "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
        "symbols": [wire_format.contract_row(exchange.markets[name]) for name in names],
        "simulated": True,
    }


def each(row: Callable[[Call, str], dict[str, Any]]) -> Callable[[Call], Any]:
    """Return an endpoint that returns one row if a symbol was sent, else a row of every instrument."""

    def answer(call: Call) -> Any:
        if call.has("symbol"):
            return row(call, call.contract().symbol)
        rows = []
        for name in call.desk.exchange.markets:
            call.desk.before(name)
            rows.append(row(call, name))
        return rows

    return answer


def _premium(call: Call, symbol: str) -> dict[str, Any]:
    market = call.desk.exchange.markets[symbol]
    return {
        "symbol": symbol,
        "markPrice": wire_format.fixed(market.mark, 8),
        "indexPrice": wire_format.fixed(market.index or market.mark, 8),
        "estimatedSettlePrice": wire_format.fixed(market.index or market.mark, 8),
        "lastFundingRate": wire_format.fixed(market.funding_rate, 8),
        "interestRate": "0.00010000",
        "nextFundingTime": market.next_funding,
        "time": call.now,
    }


def book_ticker(call: Call, symbol: str) -> dict[str, Any]:
    """Return the best prices of an instrument."""
    market = call.desk.exchange.markets[symbol]
    bid, ask = (side[0] if side else (ZERO, ZERO) for side in (market.bids, market.asks))
    prices = {
        "bidPrice": wire_format.text(bid[0]),
        "bidQty": wire_format.text(bid[1]),
        "askPrice": wire_format.text(ask[0]),
        "askQty": wire_format.text(ask[1]),
    }
    return {"symbol": symbol, **prices, "time": call.now, "lastUpdateId": market.time}


def price(call: Call, symbol: str) -> dict[str, Any]:
    """Return the last price of an instrument."""
    market = call.desk.exchange.markets[symbol]
    return {"symbol": symbol, "price": wire_format.text(market.last or market.reference), "time": call.now}


def _depth(call: Call) -> Any:
    market = call.desk.exchange.market(call.text("symbol"))
    limit = call.query.whole("limit", 500) or 500
    if limit not in (5, 10, 20, 50, 100, 500, 1000):
        raise VenueError(400, -4021, f"'{limit}' is not valid depth limit.")
    sides = {
        name: [[wire_format.text(price), wire_format.text(size)] for price, size in levels[:limit]]
        for name, levels in (("bids", market.bids), ("asks", market.asks))
    }
    return {"lastUpdateId": market.time, "E": call.now, "T": market.time, **sides}


PUBLIC: tuple[Action, ...] = (
    Action("ping", "GET", "/fapi/v1/ping", 1, "NONE", _ping),
    Action("time", "GET", "/fapi/v1/time", 1, "NONE", _time),
    Action("info", "GET", "/fapi/v1/exchangeInfo", 1, "NONE", _exchange_info),
    Action("ticker.book", "GET", "/fapi/v1/ticker/bookTicker", 2, "NONE", each(book_ticker)),
    Action("ticker.price", "GET", "/fapi/v1/ticker/price", 1, "NONE", each(price)),
)
# Endpoints that a market-data simulator serves itself.
MARKET: tuple[Action, ...] = (
    Action("premium", "GET", "/fapi/v1/premiumIndex", 1, "NONE", each(_premium)),
    Action("depth", "GET", "/fapi/v1/depth", 5, "NONE", _depth),
)
