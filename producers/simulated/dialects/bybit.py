"""Bybit v5: linear perpetuals, and the tickers of spot.

Venue documents: v5 "Connect", "Websocket Stream / Public" (orderbook, trade, ticker, all-liquidation) and "Market" endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.book import Top
from producers.simulated.recording.events import AGG, DEPTH, INTEREST, LIQUIDATION, MARK, TICKER, TRADE, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.recording.statistics import Bar
from producers.simulated.recording.trade_history import Trade, trade_of
from producers.simulated.wire.protocol import Answer, Change, Query, Stream, VenueError, dumps

SAID_AGAIN_MS = 3_000
LINEAR, SPOT = "/v5/public/linear", "/v5/public/spot"
_INTERVALS_MS = {
    "1": 60_000,
    "3": 180_000,
    "5": 300_000,
    "15": 900_000,
    "30": 1_800_000,
    "60": 3_600_000,
    "240": 14_400_000,
    "D": 86_400_000,
}
_PERIODS_MS = {"5min": 300_000, "15min": 900_000, "30min": 1_800_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000}
_SPOT_FIELDS = ("symbol", "lastPrice", "highPrice24h", "lowPrice24h", "prevPrice24h", "volume24h", "turnover24h", "price24hPcnt")


class Bybit(Dialect):
    """One message a topic; books and linear tickers are a snapshot and then changes."""

    venue = "BYBIT"
    streams = (
        Stream("orderbook.1", "quotes", (TICKER,), 10),
        Stream("orderbook.50", "depth", (DEPTH,), 20, "diff", 50),
        Stream("orderbook.200", "depth", (DEPTH,), 100, "diff", 200),
        Stream("orderbook.500", "depth", (DEPTH,), 100, "diff", 500),
        Stream("orderbook.1000", "depth", (DEPTH,), 200, "diff", 1000),
        Stream("publicTrade", "trades", (TRADE, AGG)),
        Stream("tickers", "ticker", (MARK, INTEREST, TRADE, AGG), 100),
        Stream("spot tickers", "ticker", (TRADE, AGG), 50),
        Stream("allLiquidation", "liquidations", (LIQUIDATION,)),
    )
    sockets: ClassVar = {LINEAR: ("public", False), SPOT: ("public", False)}
    vital = ("ts", "p", "T", "b", "u")
    # By the documents clients ping every 20 s. A connection without pings is closed after ten minutes.
    client_idle_s = 600.0
    weight_limit = 600
    weight_s = 5.0
    unknown_path = (404, 404, "path {path} is not found")
    bad_parameter = (200, 10001, "params error: {name}")

    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (symbol, stream) of ``orderbook.50.BTCUSDT``; the spot socket has other tickers and no liquidations."""
        stream, _, symbol = wire.rpartition(".")
        if path == SPOT and stream in ("tickers", "allLiquidation"):
            return (symbol, "spot tickers") if stream == "tickers" else None
        return (symbol, stream) if stream in self.by_name else None

    def head(self, stream: str) -> str:
        """Return a stream's name without its depth."""
        return stream.partition(".")[0]

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle ping, subscribe and unsubscribe; a topic that does not exist refuses the whole request."""
        try:
            request = orjson.loads(text)
            operation, number = request["op"], request.get("req_id", "")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return Answer([dumps(_said(False, "error:request format is wrong", "", ""))])
        if operation == "ping":
            return Answer([dumps(_said(True, "pong", number, "ping"))])
        topics = request.get("args")
        if operation not in ("subscribe", "unsubscribe"):
            return Answer([dumps(_said(False, f"error:unknown op {operation}", number, str(operation)))])
        if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics) or not topics:
            return Answer([dumps(_said(False, "error:args are empty", number, operation))])
        wrong = [topic for topic in topics if not self._exists(venue, topic, path)]
        if wrong:
            return Answer([dumps(_said(False, f"error:handler not found,topic:{wrong[0]}", number, operation))])
        if operation == "unsubscribe":
            return Answer([dumps(_said(True, "", number, operation))], unsubscribe=topics)
        doubled = [topic for topic in topics if topic in streams]
        if doubled:
            return Answer([dumps(_said(False, f"error:already subscribed,topic:{doubled[0]}", number, operation))])
        return Answer([dumps(_said(True, "subscribe" if path == SPOT else "", number, operation))], subscribe=topics)

    def _exists(self, venue: VenueView, topic: str, path: str) -> bool:
        return any(market.listed for market, _ in venue.targets(topic, path))

    # --- messages ----------------------------------------------------------------------------------------------------
    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return a trade, a best quote, the changed fields of the ticker, or a liquidation."""
        if stream.topic == "trades":
            if event.kind != market.trade_kind:
                return None
            return _message(market, stream, event.clock, [_trade(market, trade_of(event))])
        if stream.topic == "quotes":
            return self._quote(market, stream, event)
        if stream.name == "spot tickers":
            return _ticker_message(market, "snapshot", _spot_ticker(market), event.clock)
        if stream.topic == "ticker":
            return self._ticker_change(market, stream, event)
        order = event.body["o"]
        row = {"T": order["T"], "s": market.symbol, "S": "Buy" if order["S"] == "SELL" else "Sell", "v": order["q"], "p": order["p"]}
        return _message(market, stream, event.clock, [row])

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the snapshot of the best quotes or of the ticker."""
        if stream.name == "spot tickers":
            return [_ticker_message(market, "snapshot", _spot_ticker(market), market.clock)]
        if stream.topic == "ticker":
            fields = _ticker(market)
            market.memory.setdefault("ticker", fields)
            return [_ticker_message(market, "snapshot", fields, market.clock)]
        if stream.topic == "quotes" and market.quote is not None:
            return [self._quote_snapshot(market, stream)]
        return []

    def _quote_snapshot(self, market: Market, stream: Stream) -> bytes:
        quote = market.quote or {}
        number = market.memory.setdefault("quote number", quote["u"])
        market.memory.setdefault("quote", quote)
        data = {"s": market.symbol, "b": [[quote["b"], quote["B"]]], "a": [[quote["a"], quote["A"]]], "u": number, "seq": quote["u"]}
        return _book(market, stream, "snapshot", market.clock, data)

    def _quote(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        old, new = market.memory.get("quote"), event.body
        if old is None:
            return self._quote_snapshot(market, stream)
        bids, asks = _side(old["b"], old["B"], new["b"], new["B"]), _side(old["a"], old["A"], new["a"], new["A"])
        if not bids and not asks:
            # After 3 s without a change the venue repeats it, as a snapshot with the same number.
            if event.clock - market.memory.get("quote time", 0) < SAID_AGAIN_MS:
                return None
            market.memory["quote time"] = event.clock
            return self._quote_snapshot(market, stream)
        market.memory["quote"], market.memory["quote time"] = new, event.clock
        number = market.memory["quote number"] = market.memory["quote number"] + 1
        return _book(market, stream, "delta", event.clock, {"s": market.symbol, "b": bids, "a": asks, "u": number, "seq": new["u"]})

    def _ticker_change(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        fields, known = _ticker(market), market.memory.get("ticker")
        market.memory["ticker"] = fields
        if known is None:
            return _ticker_message(market, "snapshot", fields, event.clock)
        changed = {name: value for name, value in fields.items() if known.get(name) != value}
        return _ticker_message(market, "delta", {"symbol": market.symbol, **changed}, event.clock) if changed else None

    def change(self, market: Market, stream: Stream, change: Change) -> bytes:
        """Return a delta: ``u`` counts the stream's messages, ``seq`` is the venue's update id."""
        data = {"s": market.symbol, "b": change.bids, "a": change.asks, "u": change.number, "seq": change.last}
        return _book(market, stream, "delta", change.clock, data)

    def snapshot(self, market: Market, stream: Stream, top: Top, number: int) -> bytes:
        """Return a snapshot, which resets the client's book."""
        data = {"s": market.symbol, "b": top.bids, "a": top.asks, "u": number, "seq": top.last}
        return _book(market, stream, "snapshot", top.time, data)

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return ``/v5/market``; every request weighs one."""
        answers = {
            "time": _time,
            "instruments-info": _instruments,
            "tickers": _tickers,
            "orderbook": _orderbook,
            "recent-trade": _recent,
            "funding/history": _funding,
            "open-interest": _interest,
            "account-ratio": _ratio,
            "kline": _klines,
            "mark-price-kline": _mark_klines,
        }
        return [Endpoint("GET", f"/v5/market/{name}", 1, answer) for name, answer in answers.items()]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return ``{"retCode": ...}``, over HTTP 200 except for bans and server failures."""
        return error.status, {"retCode": error.code, "retMsg": error.text, "result": {}, "retExtInfo": {}, "time": 0}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return 10006 over HTTP 200 for too many requests, HTTP 403 for a ban, else the server's error."""
        if status == 429:
            return VenueError(200, 10006, "Too many visits. Exceeded the API Rate Limit.", retry_after)
        if status == 418:
            return VenueError(403, 403, "access too frequent. Please try again later.", retry_after)
        return VenueError(status, 10016, "Server error.", retry_after)


def _said(success: bool, text: str, number: Any, operation: str) -> dict[str, Any]:
    return {"success": success, "ret_msg": text, "conn_id": "c0d1e2f3-simulated", "req_id": str(number), "op": operation}


def _message(market: Market, stream: Stream, clock: int, rows: list[dict[str, Any]]) -> bytes:
    return dumps({"topic": f"{stream.name}.{market.symbol}", "type": "snapshot", "ts": clock, "data": rows})


def _book(market: Market, stream: Stream, kind: str, clock: int, data: dict[str, Any]) -> bytes:
    return dumps({"topic": f"{stream.name}.{market.symbol}", "type": kind, "ts": clock, "data": data, "cts": clock})


def _ticker_message(market: Market, kind: str, fields: dict[str, Any], clock: int) -> bytes:
    number = market.memory["ticker number"] = market.memory.get("ticker number", 0) + 1
    return dumps({"topic": f"tickers.{market.symbol}", "type": kind, "data": fields, "cs": number, "ts": clock})


def _side(old_price: str, old_size: str, price: str, size: str) -> list[list[str]]:
    if price == old_price:
        return [[price, size]] if size != old_size else []
    return [[old_price, "0"], [price, size]]


def trade_uuid(number: int) -> str:
    """Return the text of a trade's id, which is not a number at this venue."""
    return str(UUID(int=(0x5F3E_0000_0000_5000_8000_0000_0000_0000) | number))


def _trade(market: Market, trade: Trade) -> dict[str, Any]:
    last = market.memory.get("trade price", trade.price)
    market.memory["trade price"] = trade.price
    return {
        "T": trade.time,
        "s": market.symbol,
        "S": "Sell" if trade.sell else "Buy",
        "v": trade.quantity,
        "p": trade.price,
        "L": "ZeroPlusTick" if trade.price == last else "PlusTick" if float(trade.price) > float(last) else "MinusTick",
        "i": trade_uuid(trade.number),
        "BT": False,
        "RPI": False,
        "seq": trade.number,
    }


def _ticker(market: Market) -> dict[str, str]:
    """Return the known fields of the linear ticker."""
    day, places = market.statistics.day(), market.facts.price_decimals
    fields = {"symbol": market.symbol}
    if day is not None:
        fields |= {
            "tickDirection": "PlusTick" if day.close >= day.open else "MinusTick",
            "price24hPcnt": f"{day.close / day.open - 1:.6f}",
            "lastPrice": f"{day.close:.{places}f}",
            "prevPrice24h": f"{day.open:.{places}f}",
            "highPrice24h": f"{day.high:.{places}f}",
            "lowPrice24h": f"{day.low:.{places}f}",
            "turnover24h": f"{day.quote:.4f}",
            "volume24h": f"{day.volume:.4f}",
        }
    if market.mark is not None:
        mark = market.mark
        fields["markPrice"] = mark["p"]
        if "i" in mark:
            fields["indexPrice"] = mark["i"]
        if mark.get("T"):
            fields |= {"nextFundingTime": str(mark["T"]), "fundingRate": mark["r"], "fundingCap": "0.005"}
            if market.funding_interval_hours is not None:
                fields["fundingIntervalHour"] = str(market.funding_interval_hours)
    if market.interest is not None:
        amount = market.interest["openInterest"]
        fields["openInterest"] = amount
        if market.mark is not None:
            fields["openInterestValue"] = f"{float(amount) * float(market.mark['p']):.2f}"
    if market.quote is not None:
        quote = market.quote
        fields |= {"bid1Price": quote["b"], "bid1Size": quote["B"], "ask1Price": quote["a"], "ask1Size": quote["A"]}
    return fields


def _spot_ticker(market: Market) -> dict[str, str]:
    return {name: value for name, value in _ticker(market).items() if name in _SPOT_FIELDS}


def _result(venue: VenueView, result: dict[str, Any]) -> dict[str, Any]:
    return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": venue.now()}


def _category(query: Query) -> str:
    category = query.text("category")
    if category not in ("linear", "spot"):
        raise VenueError(200, 10001, "params error: category invalid")
    return category


def _market(venue: VenueView, query: Query) -> Market:
    market = venue.markets.get(query.text("symbol"))
    if market is None:
        raise VenueError(200, 10001, "params error: Symbol Is Invalid")
    return market


def _time(venue: VenueView, query: Query) -> Any:
    now = venue.now()
    return _result(venue, {"timeSecond": str(now // 1000), "timeNano": str(now * 1_000_000)})


def _instruments(venue: VenueView, query: Query) -> Any:
    """Return a page of instruments: those that trade, or those of the requested status."""
    category = _category(query)
    closed = query.text("status", "Trading") in ("Closed", "Delivering")
    markets = [one for one in venue.markets.values() if one.listed != closed]
    if "symbol" in query:
        markets = [one for one in markets if one.symbol == query.text("symbol")]
    limit = query.limit(500, 1000)
    start = query.whole("cursor", 0) or 0
    page = markets[start : start + limit]
    cursor = str(start + limit) if start + limit < len(markets) else ""
    rows = [_instrument(market, closed) if category == "linear" else _pair(market) for market in page]
    return _result(venue, {"category": category, "list": rows, "nextPageCursor": cursor})


def _instrument(market: Market, closed: bool) -> dict[str, Any]:
    facts = market.facts
    tick, step = decimal_step(facts.tick_decimals), decimal_step(facts.step_decimals)
    return {
        "symbol": market.symbol,
        "contractType": "LinearPerpetual",
        "status": "Closed" if closed else "Trading",
        "baseCoin": facts.base_asset,
        "quoteCoin": facts.quote_asset,
        "launchTime": "1585526400000",
        "deliveryTime": "0",
        "deliveryFeeRate": "",
        "priceScale": str(facts.price_decimals),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": tick, "maxPrice": "1999999.80", "tickSize": tick},
        "lotSizeFilter": {
            "maxOrderQty": "1190.000",
            "minOrderQty": step,
            "qtyStep": step,
            "postOnlyMaxOrderQty": "1190.000",
            "maxMktOrderQty": "500.000",
            "minNotionalValue": market.min_notional or "5",
        },
        "unifiedMarginTrade": True,
        "fundingInterval": (market.funding_interval_hours or 8) * 60,
        "settleCoin": facts.quote_asset,
        "copyTrading": "both",
        "upperFundingRate": "0.00375",
        "lowerFundingRate": "-0.00375",
        "isPreListing": False,
        "preListingInfo": None,
        "riskParameters": {"priceLimitRatioX": "0.01", "priceLimitRatioY": "0.02"},
        "displayName": "",
    }


def _pair(market: Market) -> dict[str, Any]:
    facts = market.facts
    step = decimal_step(facts.step_decimals)
    return {
        "symbol": market.symbol,
        "baseCoin": facts.base_asset,
        "quoteCoin": facts.quote_asset,
        "innovation": "0",
        "status": "Trading",
        "marginTrading": "utaOnly",
        "lotSizeFilter": {
            "basePrecision": step,
            "quotePrecision": "0.0000001",
            "minOrderQty": step,
            "minOrderAmt": market.min_notional or "5",
        },
        "priceFilter": {"tickSize": decimal_step(facts.tick_decimals)},
        "riskParameters": {"priceLimitRatioX": "0.01", "priceLimitRatioY": "0.01"},
    }


def _tickers(venue: VenueView, query: Query) -> Any:
    category = _category(query)
    markets = [_market(venue, query)] if "symbol" in query else [one for one in venue.markets.values() if one.listed]
    rows = []
    for market in markets:
        fields = _ticker(market) if category == "linear" else _spot_ticker(market)
        rows.append({name: value for name, value in fields.items() if name != "tickDirection"})
    return _result(venue, {"category": category, "list": rows})


def _orderbook(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    top = market.rest_book(query.limit(25, 500))
    if top is None:
        raise VenueError(200, 10001, "no book is known yet")
    book = {"s": market.symbol, "b": top.bids, "a": top.asks, "ts": top.time, "u": top.last, "seq": top.last, "cts": top.time}
    return _result(venue, book)


def _recent(venue: VenueView, query: Query) -> Any:
    """Return the newest trades, newest first. The venue serves no earlier ones."""
    market, category = _market(venue, query), _category(query)
    rows = [
        {
            "execId": trade_uuid(trade.number),
            "symbol": market.symbol,
            "price": trade.price,
            "size": trade.quantity,
            "side": "Sell" if trade.sell else "Buy",
            "time": str(trade.time),
            "isBlockTrade": False,
            "isRPITrade": False,
            "seq": str(trade.number),
        }
        for trade in reversed(market.history.before(None, query.limit(500 if category == "linear" else 60, 1000)))
    ]
    return _result(venue, {"category": category, "list": rows})


def _funding(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    rows = market.settled(query.whole("startTime"), query.whole("endTime"))[-query.limit(200, 200) :]
    return _result(
        venue,
        {
            "category": "linear",
            "list": [
                {"symbol": market.symbol, "fundingRate": row["fundingRate"], "fundingRateTimestamp": str(row["fundingTime"])}
                for row in reversed(rows)
            ],
        },
    )


def _interest(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    step = _PERIODS_MS.get(query.text("intervalTime"), 300_000)
    start = query.whole("startTime", 0) or 0
    points = market.interest_points(step, query.limit(50, 200), query.whole("endTime"))
    rows = [{"openInterest": amount, "timestamp": str(time)} for time, amount, _ in reversed(points) if time >= start]
    return _result(venue, {"symbol": market.symbol, "category": "linear", "list": rows, "nextPageCursor": ""})


def _ratio(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    step = _PERIODS_MS.get(query.text("period"), 300_000)
    start = query.whole("startTime", 0) or 0
    rows = [
        {"symbol": market.symbol, "buyRatio": f"{long:.4f}", "sellRatio": f"{1 - long:.4f}", "timestamp": str(time)}
        for time, long in reversed(market.ratio_points("account", step, query.limit(50, 500), query.whole("endTime")))
        if time >= start
    ]
    return _result(venue, {"list": rows, "nextPageCursor": ""})


def _bars(venue: VenueView, query: Query) -> tuple[Market, list[Bar]]:
    market = _market(venue, query)
    step = _INTERVALS_MS.get(query.text("interval"))
    if step is None:
        raise VenueError(200, 10001, "Invalid period!")
    start, end = query.whole("start"), query.whole("end")
    # Like the venue: of too many bars the newest ones, newest first.
    bars = [bar for bar in market.statistics.bars(step, None, end, 1 << 30) if start is None or bar.start >= start]
    return market, bars[-query.limit(200, 1000) :][::-1]


def _klines(venue: VenueView, query: Query) -> Any:
    market, bars = _bars(venue, query)
    rows = [[str(bar.start), *market.prices(bar), f"{bar.volume:.4f}", f"{bar.quote:.4f}"] for bar in bars]
    return _result(venue, {"category": query.text("category"), "symbol": market.symbol, "list": rows})


def _mark_klines(venue: VenueView, query: Query) -> Any:
    """Return the bars of trades. In made-up markets the mark price follows them."""
    market, bars = _bars(venue, query)
    rows = [[str(bar.start), *market.prices(bar)] for bar in bars]
    return _result(venue, {"category": "linear", "symbol": market.symbol, "list": rows})
