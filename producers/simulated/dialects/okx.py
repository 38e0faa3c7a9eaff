"""OKX perpetual swaps (API v5).

Venue documents: v5 "WebSocket / Connect, Subscribe, Notification", "Order Book Trading / Market Data", "Public Data", "Trading Statistics".
Sizes are in contracts of ``ctVal`` base units. The checksum of books is always 0 there. Liquidations come for the whole market: the
venue drops ``instId`` from that subscription.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.book import Levels, Top
from producers.simulated.recording.events import AGG, DEPTH, INTEREST, LIQUIDATION, MARK, TICKER, TRADE, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.recording.trade_history import Trade, trade_of
from producers.simulated.wire.protocol import Answer, Change, Query, Stream, VenueError, dumps

PUBLIC, BUSINESS = "/ws/v5/public", "/ws/v5/business"
_CONTRACTS = {"BTC": 2, "ETH": 1, "LTC": 0, "SOL": 0, "BNB": 2, "XRP": -2, "DOGE": -3, "TRX": -3, "ADA": -2}
_BARS_MS = {
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1H": 3_600_000,
    "4H": 14_400_000,
    "1Dutc": 86_400_000,
}
_PERIODS_MS = {"5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1H": 3_600_000, "4H": 14_400_000, "1D": 86_400_000}
_HOUR_MS = 3_600_000
_STATISTICS = "/api/v5/rubik/stat/contracts"


class Okx(Dialect):
    """Subscriptions are objects of channel and instrument; every value is text but sequence numbers."""

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

    def symbol(self, base: str, quote: str) -> str:
        """Return e.g. ``BTC-USDT-SWAP``."""
        return f"{base}-{quote}-SWAP"

    def recorded_symbol(self, text: str) -> str:
        """Return e.g. ``BTCUSDT`` for ``BTC-USDT-SWAP``."""
        return text.removesuffix("-SWAP").replace("-", "")

    def head(self, stream: str) -> str:
        """Return a stream's name as it is."""
        return stream

    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (symbol, stream) of ``channel:instId``; index tickers are named by the pair."""
        channel, _, instrument = wire.partition(":")
        if channel not in self.by_name or (channel == "trades-all") != (path == BUSINESS):
            return None
        if channel == "liquidation-orders":
            return "*", channel
        return (instrument + "-SWAP" if channel == "index-tickers" else instrument), channel

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Answer the text ``ping``, subscribe and unsubscribe; each channel is acknowledged or refused for itself."""
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
            trade = _trade(market, trade_of(event))
            trade |= {"source": "0"} if name == "trades-all" else {"count": "1", "source": "0", "seqId": event.clock}
            return _push(name, market.symbol, trade)
        if name == "bbo-tbt":
            bids, asks = [[body["b"], body["B"]]], [[body["a"], body["A"]]]
            return _push(
                name, market.symbol, {"asks": _levels(market, asks), "bids": _levels(market, bids), "ts": clock, "seqId": body["u"]}
            )
        if name == "books5":
            top = market.book.top(5)
            if top is None:
                return None
            book = {
                "asks": _levels(market, top.asks),
                "bids": _levels(market, top.bids),
                "instId": market.symbol,
                "ts": clock,
                "seqId": top.last,
            }
            return _push(name, market.symbol, book)
        if name == "mark-price":
            return _push(name, market.symbol, {"instType": "SWAP", "instId": market.symbol, "markPx": body["p"], "ts": clock})
        if name == "index-tickers":
            return self._index(market, body, clock)
        if name == "funding-rate":
            return _push(name, market.symbol, _funding_rate(market)) if body.get("T") else None
        if name == "open-interest":
            return _push(name, market.symbol, _open_interest(market))
        if name == "tickers":
            return _push(name, market.symbol, _ticker(market)) if event.kind == market.trade_kind else None
        return _liquidation(market, body["o"])

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
        return _push("index-tickers", pair, row)

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the state of the channels that begin with it."""
        if stream.name == "funding-rate" and market.mark is not None and market.mark.get("T"):
            return [_push(stream.name, market.symbol, _funding_rate(market))]
        if stream.name == "open-interest" and market.interest is not None:
            return [_push(stream.name, market.symbol, _open_interest(market))]
        if stream.name == "mark-price" and market.mark is not None:
            row = {"instType": "SWAP", "instId": market.symbol, "markPx": market.mark["p"], "ts": str(market.clock)}
            return [_push(stream.name, market.symbol, row)]
        if stream.name == "tickers" and market.statistics.last_price is not None:
            return [_push(stream.name, market.symbol, _ticker(market))]
        return []

    def change(self, market: Market, stream: Stream, change: Change) -> bytes:
        """Return an update: ``prevSeqId`` is the ``seqId`` of the message before it."""
        return _book(market, stream, "update", change.bids, change.asks, change.clock, change.previous, change.last)

    def snapshot(self, market: Market, stream: Stream, top: Top, number: int) -> bytes:
        """Return a snapshot: ``prevSeqId`` is -1."""
        return _book(market, stream, "snapshot", top.bids, top.asks, top.time, -1, top.last)

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return the public part of ``/api/v5``; every request weighs one of the window's 40 (the venue counts per endpoint)."""
        answers = {
            "/api/v5/public/time": _time,
            "/api/v5/public/instruments": _instruments,
            "/api/v5/public/funding-rate": _rates,
            "/api/v5/public/funding-rate-history": _rate_history,
            "/api/v5/public/open-interest": _interests,
            "/api/v5/public/mark-price": _marks,
            "/api/v5/market/tickers": _tickers,
            "/api/v5/market/ticker": _tickers,
            "/api/v5/market/books": _books,
            "/api/v5/market/trades": _trades,
            "/api/v5/market/history-trades": _history_trades,
            "/api/v5/market/candles": _candles,
            "/api/v5/market/history-candles": _candles,
            f"{_STATISTICS}/open-interest-history": _interest_history,
            f"{_STATISTICS}/long-short-account-ratio-contract": _ratios,
            f"{_STATISTICS}/long-short-account-ratio-contract-top-trader": _ratios,
            f"{_STATISTICS}/long-short-position-ratio-contract-top-trader": _ratios,
        }
        return [Endpoint("GET", path, 1, answer) for path, answer in answers.items()]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return code and message as text."""
        return error.status, {"code": str(error.code), "msg": error.text, "data": []}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return 50011 for too many requests, 50026 for failures."""
        if status == 429:
            return VenueError(429, 50011, "Too Many Requests", retry_after)
        return VenueError(status, 50026 if status >= 500 else 50012, "System error. Try again later", retry_after)

    def unknown(self, path: str) -> VenueError:
        """Return the answer to an unknown path."""
        return VenueError(404, 404, f"{path} is not found")

    def malformed(self, name: str) -> VenueError:
        """Return the answer to a bad parameter."""
        return VenueError(400, 51000, f"Parameter {name} error")


def _wire(argument: dict[str, Any]) -> str:
    channel = argument["channel"]
    if channel == "liquidation-orders":
        return channel + ":" if argument.get("instType") == "SWAP" else ""
    return f"{channel}:{argument.get('instId', '')}"


def _push(channel: str, instrument: str, row: dict[str, Any]) -> bytes:
    return dumps({"arg": {"channel": channel, "instId": instrument}, "data": [row]})


def _shift(market: Market) -> int:
    """Return n of the contract's value, 10^-n base units."""
    return _CONTRACTS.get(market.facts.base_asset, max(0, market.facts.step_decimals))


@lru_cache(maxsize=65536)
def _contracts(text: str, shift: int) -> str:
    value = format(Decimal(text).scaleb(shift), "f")
    return value.rstrip("0").rstrip(".") if "." in value else value


def _size(market: Market, text: str) -> str:
    return _contracts(text, _shift(market))


def _levels(market: Market, levels: Levels) -> list[list[str]]:
    shift = _shift(market)
    rows = []
    for price, quantity in levels:
        size = _contracts(quantity, shift)
        rows.append([price, size, "0", "0" if size == "0" else "1"])
    return rows


def _book(market: Market, stream: Stream, action: str, bids: Levels, asks: Levels, clock: int, previous: int, number: int) -> bytes:
    book = {
        "asks": _levels(market, asks),
        "bids": _levels(market, bids),
        "ts": str(clock),
        "checksum": 0,
        "prevSeqId": previous,
        "seqId": number,
    }
    return dumps({"arg": {"channel": stream.name, "instId": market.symbol}, "action": action, "data": [book]})


def _trade(market: Market, trade: Trade) -> dict[str, Any]:
    return {
        "instId": market.symbol,
        "tradeId": str(trade.number),
        "px": trade.price,
        "sz": _size(market, trade.quantity),
        "side": "sell" if trade.sell else "buy",
        "ts": str(trade.time),
    }


def _funding_rate(market: Market) -> dict[str, Any]:
    mark = market.mark or {}
    hours = market.funding_interval_hours
    return {
        "formulaType": "noRate",
        "fundingRate": mark["r"],
        "fundingTime": str(mark["T"]),
        "impactValue": "",
        "instId": market.symbol,
        "instType": "SWAP",
        "interestRate": "",
        "method": "current_period",
        "maxFundingRate": "0.00375",
        "minFundingRate": "-0.00375",
        "nextFundingRate": "",
        # What a recording does not tell is left empty, as the venue does.
        "nextFundingTime": str(mark["T"] + hours * _HOUR_MS) if hours is not None else "",
        "premium": "",
        "settFundingRate": market.funding[-1]["fundingRate"] if market.funding else "",
        "settState": "settled",
        "ts": str(market.clock),
    }


def _open_interest(market: Market) -> dict[str, Any]:
    amount = market.interest["openInterest"] if market.interest is not None else "0"
    price = float(market.mark["p"]) if market.mark is not None else 0.0
    return {
        "instId": market.symbol,
        "instType": "SWAP",
        "oi": _size(market, amount),
        "oiCcy": amount,
        "oiUsd": f"{float(amount) * price:.8f}",
        "ts": str(market.clock),
    }


def _ticker(market: Market) -> dict[str, Any]:
    day, statistics, places = market.statistics.day(), market.statistics, market.facts.price_decimals
    quote = market.quote or {}
    opened = f"{day.open:.{places}f}" if day is not None else ""
    return {
        "instType": "SWAP",
        "instId": market.symbol,
        "last": statistics.last_price or "",
        "lastSz": _size(market, statistics.last_quantity),
        "askPx": quote.get("a", ""),
        "askSz": _size(market, quote["A"]) if quote else "",
        "bidPx": quote.get("b", ""),
        "bidSz": _size(market, quote["B"]) if quote else "",
        "open24h": opened,
        "high24h": f"{day.high:.{places}f}" if day is not None else "",
        "low24h": f"{day.low:.{places}f}" if day is not None else "",
        "volCcy24h": f"{day.volume:.4f}" if day is not None else "0",
        "vol24h": _size(market, f"{day.volume:.4f}") if day is not None else "0",
        "sodUtc0": opened,
        "sodUtc8": opened,
        "ts": str(market.clock),
    }


def _liquidation(market: Market, order: dict[str, Any]) -> bytes:
    long = order["S"] == "SELL"
    detail = {
        "bkLoss": "0",
        "bkPx": order["p"],
        "ccy": "",
        "posSide": "long" if long else "short",
        "side": "sell" if long else "buy",
        "sz": _size(market, order["q"]),
        "ts": str(order["T"]),
    }
    pair = market.symbol.removesuffix("-SWAP")
    row = {"details": [detail], "instFamily": pair, "instId": market.symbol, "instType": "SWAP", "uly": pair}
    return dumps({"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [row]})


def _data(rows: list[Any]) -> dict[str, Any]:
    return {"code": "0", "msg": "", "data": rows}


def _market(venue: VenueView, query: Query) -> Market:
    market = venue.markets.get(query.text("instId"))
    if market is None:
        raise VenueError(200, 51001, "Instrument ID doesn't exist.")
    return market


def _some(venue: VenueView, query: Query) -> list[Market]:
    if "instId" in query and query.text("instId") != "ANY":
        return [_market(venue, query)]
    return [market for market in venue.markets.values() if market.listed]


def _time(venue: VenueView, query: Query) -> Any:
    return _data([{"ts": str(venue.now())}])


def _instruments(venue: VenueView, query: Query) -> Any:
    """Answer the swaps; a closed one is suspended."""
    if query.text("instType") != "SWAP":
        return _data([])
    markets = [_market(venue, query)] if "instId" in query else list(venue.markets.values())
    return _data([_instrument(market, number) for number, market in enumerate(markets)])


def _instrument(market: Market, number: int) -> dict[str, Any]:
    facts, shift = market.facts, _shift(market)
    pair = market.symbol.removesuffix("-SWAP")
    value = decimal_step(shift) if shift > 0 else str(10**-shift)
    smallest = _contracts(decimal_step(facts.step_decimals), shift)
    return {
        "alias": "",
        "auctionEndTime": "",
        "baseCcy": "",
        "category": "1",
        "contTdSwTime": "",
        "ctMult": "1",
        "ctType": "linear",
        "ctVal": value,
        "ctValCcy": facts.base_asset,
        "expTime": "",
        "futureSettlement": False,
        "instFamily": pair,
        "instId": market.symbol,
        "instIdCode": 10_459 + number,
        "instType": "SWAP",
        "lever": "100",
        "listTime": "1573557408000",
        "lotSz": smallest,
        "maxLmtSz": "100000000",
        "maxMktSz": "12000",
        "minSz": smallest,
        "optType": "",
        "quoteCcy": "",
        "ruleType": "normal",
        "settleCcy": facts.quote_asset,
        "state": "live" if market.listed else "suspend",
        "stk": "",
        "tickSz": decimal_step(facts.tick_decimals),
        "tradeQuoteCcyList": [],
        "uly": pair,
    }


def _rates(venue: VenueView, query: Query) -> Any:
    return _data([_funding_rate(market) for market in _some(venue, query) if market.mark is not None and market.mark.get("T")])


def _rate_history(venue: VenueView, query: Query) -> Any:
    """Answer settled rates, newest first; ``after`` asks for older ones, ``before`` for newer ones."""
    market = _market(venue, query)
    after, before = query.whole("after"), query.whole("before")
    rows = market.settled(None if before is None else before + 1, None if after is None else after - 1)
    return _data(
        [
            {
                "instType": "SWAP",
                "instId": market.symbol,
                "fundingRate": row["fundingRate"],
                "realizedRate": row["fundingRate"],
                "fundingTime": str(row["fundingTime"]),
                "method": "current_period",
                "formulaType": "noRate",
            }
            for row in reversed(rows[-query.limit(400, 400) :])
        ]
    )


def _interests(venue: VenueView, query: Query) -> Any:
    return _data([_open_interest(market) for market in _some(venue, query) if market.interest is not None])


def _marks(venue: VenueView, query: Query) -> Any:
    rows = []
    for market in _some(venue, query):
        if market.mark is not None:
            rows.append({"instType": "SWAP", "instId": market.symbol, "markPx": market.mark["p"], "ts": str(market.clock)})
    return _data(rows)


def _tickers(venue: VenueView, query: Query) -> Any:
    return _data([_ticker(market) for market in _some(venue, query)])


def _books(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    top = market.rest_book(query.limit(1, 400, "sz"))
    if top is None:
        return _data([])
    return _data([{"asks": _levels(market, top.asks), "bids": _levels(market, top.bids), "ts": str(top.time), "seqId": top.last}])


def _trades(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    return _data([{**_trade(market, trade), "source": "0"} for trade in reversed(market.history.before(None, query.limit(100, 500)))])


def _history_trades(venue: VenueView, query: Query) -> Any:
    """Answer trades older than ``after`` (type 1: an id, type 2: a time), newest first."""
    market, limit = _market(venue, query), query.limit(100, 100)
    kind, after, before = query.whole("type", 1), query.whole("after"), query.whole("before")
    if kind == 2:
        everything = market.history.page(None, None, None if after is None else after - 1, 1 << 30)
        found = [trade for trade in everything if before is None or trade.time > before][-limit:]
    else:
        found = [trade for trade in market.history.before(after, limit) if before is None or trade.number > before]
    return _data([{**_trade(market, trade), "source": "0"} for trade in reversed(found)])


def _candles(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    step = _BARS_MS.get(query.text("bar", "1m"))
    if step is None:
        raise VenueError(400, 51000, "Parameter bar error")
    after, before = query.whole("after"), query.whole("before")
    bars = [
        bar
        for bar in market.statistics.bars(step, None, None, 1 << 30)
        if (after is None or bar.start < after) and (before is None or bar.start > before)
    ]
    rows = []
    for bar in reversed(bars[-query.limit(100, 300) :]):
        volume = f"{bar.volume:.4f}"
        confirmed = "1" if bar.start + step <= market.clock else "0"
        rows.append([str(bar.start), *market.prices(bar), _size(market, volume), volume, f"{bar.quote:.4f}", confirmed])
    return _data(rows)


def _window(query: Query) -> tuple[int, int | None]:
    return query.whole("begin", 0) or 0, query.whole("end")


def _interest_history(venue: VenueView, query: Query) -> Any:
    """Answer rows [time, contracts, base units, value], newest first."""
    market = _market(venue, query)
    begin, end = _window(query)
    points = market.interest_points(_PERIODS_MS.get(query.text("period", "5m"), 300_000), query.limit(100, 100), end)
    return _data([[str(time), _size(market, amount), amount, value] for time, amount, value in reversed(points) if time >= begin])


def _ratios(venue: VenueView, query: Query) -> Any:
    """Answer rows [time, longs over shorts], newest first."""
    market = _market(venue, query)
    begin, end = _window(query)
    name, step = query.path.rpartition("/")[2], _PERIODS_MS.get(query.text("period", "5m"), 300_000)
    points = market.ratio_points(name, step, query.limit(100, 100), end)
    return _data([[str(time), f"{long / (1 - long):.4f}"] for time, long in reversed(points) if time >= begin])
