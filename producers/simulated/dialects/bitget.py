"""Bitget USDT-margined futures (API v2).

Venue documents: v2 "Common / Websocket", "Contract / Websocket / Public Channels" (ticker, trade, depth), "Contract / Market".
A book's ``checksum`` is the CRC-32 of its best 25 levels: bid and ask alternating, ``price:size`` in the venue's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import Any, ClassVar
from zlib import crc32

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.book import Levels, Top
from producers.simulated.recording.events import AGG, DEPTH, INTEREST, MARK, TICKER, TRADE, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.recording.trade_history import Trade, trade_of
from producers.simulated.wire.protocol import Answer, Change, Query, Stream, VenueError, dumps

PRODUCT = "USDT-FUTURES"
_MARKET = "/api/v2/mix/market"
_CHECKED_LEVELS = 25
_BARS_MS = {
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1H": 3_600_000,
    "4H": 14_400_000,
    "1D": 86_400_000,
}
_PERIODS_MS = {"5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000}


class Bitget(Dialect):
    """Subscriptions are objects of product, channel and instrument; there is no stream of liquidations."""

    venue = "BITGET"
    streams = (
        Stream("trade", "trades", (TRADE, AGG)),
        Stream("books", "depth", (DEPTH,), 150, "diff"),
        Stream("books5", "depth", (DEPTH,), 150, "full", 5),
        Stream("books15", "depth", (DEPTH,), 150, "full", 15),
        Stream("books1", "quotes", (TICKER,), 20),
        Stream("ticker", "ticker", (MARK, INTEREST, TRADE, AGG), 300),
    )
    sockets: ClassVar = {"/v2/ws/public": ("public", False)}
    vital = ("ts", "price", "bids", "seq")
    max_streams = 1000
    inbound = (10, 1.0)
    client_idle_s = 120.0
    weight_limit = 20
    weight_s = 1.0
    unknown_path = (404, 40404, "Request URL NOT FOUND")
    bad_parameter = (400, 40034, "Parameter {name} does not exist")

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle the text ``ping``, subscribe and unsubscribe; each channel is acknowledged or refused on its own."""
        if text == "ping":
            return Answer([b"pong"])
        answer = Answer()
        try:
            request = orjson.loads(text)
            operation, arguments = request["op"], request["args"]
            named = [(f"{one['channel']}:{one['instId']}", one["instType"], one) for one in arguments]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return Answer([dumps({"event": "error", "code": 30003, "msg": "INVALID op"})])
        if operation not in ("subscribe", "unsubscribe"):
            return Answer([dumps({"event": "error", "code": 30003, "msg": f"INVALID op: {operation}"})])
        for wire, product, argument in named:
            known = venue.targets(wire, path) if product == PRODUCT else []
            if not any(market.listed for market, _ in known):
                problem = f"instType:{product},channel:{argument['channel']},instId:{argument['instId']} doesn't exist"
                answer.replies.append(dumps({"event": "error", "arg": argument, "code": 30001, "msg": problem, "op": operation}))
                continue
            answer.replies.append(dumps({"event": operation, "arg": argument}))
            (answer.subscribe if operation == "subscribe" else answer.unsubscribe).append(wire)
        return answer

    # --- messages ----------------------------------------------------------------------------------------------------
    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return a channel's push."""
        if stream.topic == "trades":
            if event.kind != market.trade_kind:
                return None
            return _push(market, stream.name, "update", _trade(trade_of(event)), event.clock)
        if stream.topic == "quotes":
            return _push(market, stream.name, "snapshot", _quote(event.body, event.clock), event.clock)
        if stream.topic == "ticker":
            return _push(market, stream.name, "snapshot", _ticker(market), event.clock)
        top = market.book.top(stream.levels or 1 << 30)
        return (
            None if top is None else _push(market, stream.name, "snapshot", _book(top.bids, top.asks, 0, top.last, top.time), event.clock)
        )

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the newest trades, newest first, the best quote, or the ticker."""
        if stream.topic == "trades":
            rows = [_trade(trade) for trade in reversed(market.history.before(None, 50))]
            body = {"action": "snapshot", "arg": _argument(market, stream.name), "data": rows, "ts": market.clock}
            return [dumps(body)] if rows else []
        if stream.topic == "quotes" and market.quote is not None:
            return [_push(market, stream.name, "snapshot", _quote(market.quote, market.clock), market.clock)]
        if stream.topic == "ticker" and market.statistics.last_price is not None:
            return [_push(market, stream.name, "snapshot", _ticker(market), market.clock)]
        return []

    def change(self, market: Market, stream: Stream, change: Change) -> bytes:
        """Return an update with the checksum of the book after it."""
        top = market.book.top(_CHECKED_LEVELS)
        check = checksum(top.bids, top.asks) if top is not None else 0
        row = {**_book(change.bids, change.asks, check, change.last, change.clock), "pseq": change.previous}
        return _push(market, stream.name, "update", row, change.clock)

    def snapshot(self, market: Market, stream: Stream, top: Top, number: int) -> bytes:
        """Return a snapshot with its checksum."""
        row = {**_book(top.bids, top.asks, checksum(top.bids, top.asks), top.last, top.time), "pseq": 0}
        return _push(market, stream.name, "snapshot", row, top.time)

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return the public part of ``/api/v2``; requests are counted a second."""
        answers = {
            "/api/v2/public/time": _time,
            f"{_MARKET}/contracts": _contracts,
            f"{_MARKET}/tickers": _tickers,
            f"{_MARKET}/ticker": _tickers,
            f"{_MARKET}/merge-depth": _depth,
            f"{_MARKET}/fills": _fills,
            f"{_MARKET}/fills-history": _fills,
            f"{_MARKET}/current-fund-rate": _rates,
            f"{_MARKET}/history-fund-rate": _rate_history,
            f"{_MARKET}/funding-time": _funding_time,
            f"{_MARKET}/open-interest": _interest,
            f"{_MARKET}/account-long-short": _account_ratio,
            f"{_MARKET}/long-short": _ratio,
            f"{_MARKET}/candles": _candles,
            f"{_MARKET}/history-candles": _candles,
        }
        return [Endpoint("GET", path, 1, answer) for path, answer in answers.items()]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return code and message as text."""
        return error.status, {"code": str(error.code), "msg": error.text, "requestTime": 0, "data": None}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return 429 for too many requests, else the system's failure."""
        if status == 429:
            return VenueError(429, 429, "Too Many Requests", retry_after)
        return VenueError(status, 40725 if status >= 500 else 40026, "System release error", retry_after)


def checksum(bids: Levels, asks: Levels) -> int:
    """Return the venue's checksum of a book, best levels first: signed CRC-32."""
    pairs = zip_longest(bids[:_CHECKED_LEVELS], asks[:_CHECKED_LEVELS])
    text = ":".join(f"{price}:{size}" for price, size in (level for level in chain.from_iterable(pairs) if level is not None))
    value = crc32(text.encode())
    return value - (1 << 32) if value >= 1 << 31 else value


def _argument(market: Market, channel: str) -> dict[str, str]:
    return {"instType": PRODUCT, "channel": channel, "instId": market.symbol}


def _push(market: Market, channel: str, action: str, row: dict[str, Any], clock: int) -> bytes:
    return dumps({"action": action, "arg": _argument(market, channel), "data": [row], "ts": clock})


def _book(bids: Levels, asks: Levels, check: int, number: int, clock: int) -> dict[str, Any]:
    return {"asks": asks, "bids": bids, "checksum": check, "seq": number, "ts": str(clock)}


def _quote(quote: dict[str, Any], clock: int) -> dict[str, Any]:
    return _book([[quote["b"], quote["B"]]], [[quote["a"], quote["A"]]], 0, quote["u"], clock)


def _trade(trade: Trade) -> dict[str, str]:
    side = "sell" if trade.sell else "buy"
    return {"ts": str(trade.time), "price": trade.price, "size": trade.quantity, "side": side, "tradeId": str(trade.number)}


def _ticker(market: Market) -> dict[str, Any]:
    """Return the known fields of the ticker, with the names of the channel."""
    day, places = market.statistics.day(), market.facts.price_decimals
    row: dict[str, Any] = {"instId": market.symbol, "symbol": market.symbol, "symbolType": 1, "deliveryPrice": "0"}
    if day is not None:
        row |= {
            "lastPr": market.statistics.last_price or "",
            "open24h": f"{day.open:.{places}f}",
            "high24h": f"{day.high:.{places}f}",
            "low24h": f"{day.low:.{places}f}",
            "change24h": f"{day.close / day.open - 1:.5f}",
            "baseVolume": f"{day.volume:.4f}",
            "quoteVolume": f"{day.quote:.4f}",
            "openUtc": f"{day.open:.{places}f}",
        }
    if market.quote is not None:
        quote = market.quote
        row |= {"bidPr": quote["b"], "askPr": quote["a"], "bidSz": quote["B"], "askSz": quote["A"]}
    if market.mark is not None:
        row["markPrice"] = market.mark["p"]
        if "i" in market.mark:
            row["indexPrice"] = market.mark["i"]
        if market.mark.get("T"):
            row |= {"fundingRate": market.mark["r"], "nextFundingTime": str(market.mark["T"])}
    if market.interest is not None:
        row["holdingAmount"] = market.interest["openInterest"]
    return {**row, "ts": str(market.clock)}


def _data(venue: VenueView, data: Any) -> dict[str, Any]:
    return {"code": "00000", "msg": "success", "requestTime": venue.now(), "data": data}


def _product(query: Query) -> None:
    if query.text("productType").upper() != PRODUCT:
        raise VenueError(400, 40020, "Parameter productType error")


def _market(venue: VenueView, query: Query) -> Market:
    market = venue.markets.get(query.text("symbol"))
    if market is None:
        raise VenueError(400, 40034, "Parameter symbol does not exist")
    return market


def _some(venue: VenueView, query: Query) -> list[Market]:
    return [_market(venue, query)] if "symbol" in query else [one for one in venue.markets.values() if one.listed]


def _time(venue: VenueView, query: Query) -> Any:
    return _data(venue, {"serverTime": str(venue.now())})


def _contracts(venue: VenueView, query: Query) -> Any:
    """Return the contracts; a closed one is off."""
    _product(query)
    markets = [_market(venue, query)] if "symbol" in query else list(venue.markets.values())
    return _data(venue, [_contract(market) for market in markets])


def _contract(market: Market) -> dict[str, Any]:
    facts = market.facts
    step = decimal_step(facts.step_decimals)
    return {
        "symbol": market.symbol,
        "baseCoin": facts.base_asset,
        "quoteCoin": facts.quote_asset,
        "buyLimitPriceRatio": "0.05",
        "sellLimitPriceRatio": "0.05",
        "feeRateUpRatio": "0.005",
        "makerFeeRate": "0.0002",
        "takerFeeRate": "0.0006",
        "openCostUpRatio": "0.01",
        "supportMarginCoins": [facts.quote_asset],
        "minTradeNum": step,
        "priceEndStep": "1",
        "volumePlace": str(facts.step_decimals),
        "pricePlace": str(facts.tick_decimals),
        "sizeMultiplier": step,
        "symbolType": "perpetual",
        "minTradeUSDT": market.min_notional or "5",
        "maxSymbolOrderNum": "200",
        "maxProductOrderNum": "1000",
        "maxPositionNum": "150",
        "symbolStatus": "normal" if market.listed else "off",
        "offTime": "-1",
        "limitOpenTime": "-1",
        "deliveryTime": "",
        "deliveryStartTime": "",
        "launchTime": "",
        "fundInterval": str(market.funding_interval_hours) if market.funding_interval_hours is not None else "",
        "minLever": "1",
        "maxLever": "125",
        "posLimit": "0.1",
        "maintainTime": "",
        "maxMarketOrderQty": "220",
        "maxOrderQty": "1200",
    }


def _tickers(venue: VenueView, query: Query) -> Any:
    """Return tickers, which by REST have no instId and next funding time, but the volume in USDT."""
    _product(query)
    rows = []
    for market in _some(venue, query):
        row = {name: value for name, value in _ticker(market).items() if name not in ("instId", "symbolType", "nextFundingTime")}
        rows.append({**row, "usdtVolume": row.get("quoteVolume", "0")})
    return _data(venue, rows)


def _depth(venue: VenueView, query: Query) -> Any:
    top = _market(venue, query).rest_book(query.limit(100, 1000))
    if top is None:
        return _data(venue, {"asks": [], "bids": [], "ts": str(venue.now())})
    return _data(
        venue, {"asks": top.asks, "bids": top.bids, "ts": str(top.time), "scale": "0.1", "precision": "scale0", "isMaxPrecision": "NO"}
    )


def _fills(venue: VenueView, query: Query) -> Any:
    """Return the newest trades, or with ``idLessThan`` those before an id; newest first."""
    _product(query)
    market = _market(venue, query)
    found = market.history.before(query.whole("idLessThan"), query.limit(500 if "history" in query.path else 100, 1000))
    return _data(venue, [{**_trade(trade), "symbol": market.symbol} for trade in reversed(found)])


def _rates(venue: VenueView, query: Query) -> Any:
    _product(query)
    rows = []
    for market in _some(venue, query):
        if market.mark is None or not market.mark.get("T"):
            continue
        hours = market.funding_interval_hours
        rows.append(
            {
                "symbol": market.symbol,
                "fundingRate": market.mark["r"],
                "fundingRateInterval": str(hours) if hours is not None else "",
                "nextUpdate": str(market.mark["T"]),
                "minFundingRate": "-0.003",
                "maxFundingRate": "0.003",
            }
        )
    return _data(venue, rows)


def _rate_history(venue: VenueView, query: Query) -> Any:
    _product(query)
    market = _market(venue, query)
    size, page = query.limit(20, 100, "pageSize"), query.whole("pageNo", 1) or 1
    rows = market.settled(None, None)[::-1][(page - 1) * size : page * size]
    return _data(
        venue,
        [{"symbol": market.symbol, "fundingRate": row["fundingRate"], "fundingTime": str(row["fundingTime"])} for row in rows],
    )


def _funding_time(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    if market.mark is None or market.funding_interval_hours is None:
        return _data(venue, [])
    row = {"symbol": market.symbol, "nextFundingTime": str(market.mark["T"]), "ratePeriod": str(market.funding_interval_hours)}
    return _data(venue, [row])


def _interest(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    rows = [{"symbol": market.symbol, "size": market.interest["openInterest"]}] if market.interest is not None else []
    return _data(venue, {"openInterestList": rows, "ts": str(market.clock)})


def _account_ratio(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    points = market.ratio_points("account", _PERIODS_MS.get(query.text("period", "5m"), 300_000), 30)
    return _data(
        venue,
        [
            {
                "longAccountRatio": f"{long:.4f}",
                "shortAccountRatio": f"{1 - long:.4f}",
                "longShortAccountRatio": f"{long / (1 - long):.4f}",
                "ts": str(time),
            }
            for time, long in points
        ],
    )


def _ratio(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    points = market.ratio_points("position", _PERIODS_MS.get(query.text("period", "5m"), 300_000), 30)
    rows = [
        {"longRatio": f"{long:.4f}", "shortRatio": f"{1 - long:.4f}", "longShortRatio": f"{long / (1 - long):.4f}", "ts": str(at)}
        for at, long in points
    ]
    return _data(venue, rows)


def _candles(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    step = _BARS_MS.get(query.text("granularity"))
    if step is None:
        raise VenueError(400, 40034, "Parameter granularity error")
    bars = [
        bar
        for bar in market.statistics.bars(step, None, query.whole("endTime"), 1 << 30)
        if bar.start >= (query.whole("startTime", 0) or 0)
    ]
    rows = [
        [
            str(bar.start),
            *market.prices(bar),
            f"{bar.volume:.4f}",
            f"{bar.quote:.4f}",
        ]
        for bar in bars[-query.limit(100, 1000) :]
    ]
    return _data(venue, rows)
