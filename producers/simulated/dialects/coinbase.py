"""Coinbase Exchange, spot.

Venue documents: "Exchange WebSocket" (overview, channels, errors) and the REST reference of products. The side of a match is the
**maker's**. Trade ids of a product are consecutive. Times are ISO 8601 with microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.book import Top
from producers.simulated.recording.events import AGG, DEPTH, TRADE, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.recording.trade_history import Trade, trade_of
from producers.simulated.wire.protocol import Answer, Change, Query, Stream, VenueError, dumps

_GRANULARITIES = (60, 300, 900, 3600, 21600, 86400)


class Coinbase(Dialect):
    """One socket at the root; channels are subscribed for products, in one or in separate lists."""

    venue = "COINBASE"
    kind = "spot"
    quote = "USD"
    streams = (
        Stream("matches", "trades", (TRADE, AGG)),
        Stream("ticker", "quotes", (TRADE, AGG)),
        Stream("ticker_batch", "quotes", (TRADE, AGG), 5_000),
        Stream("level2_batch", "depth", (DEPTH,), 50, "diff"),
        Stream("heartbeat", "heartbeat", (TRADE, AGG, DEPTH), 1_000),
    )
    sockets: ClassVar = {"/": ("public", False)}
    vital = ("time", "price", "product_id", "changes")
    inbound = (100, 1.0)
    weight_limit = 10
    weight_s = 1.0
    unknown_path = (404, 404, "NotFound")

    def symbol(self, base: str, quote: str) -> str:
        """Return e.g. ``BTC-USD``; recordings against USDT are served against USD."""
        return f"{base}-{'USD' if quote == 'USDT' else quote}"

    def recorded_symbol(self, text: str) -> str:
        """Return e.g. ``BTCUSDT`` for ``BTC-USD``."""
        plain = text.replace("-", "")
        return plain + "T" if plain.endswith("USD") else plain

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle subscribe and unsubscribe. The reply lists all subscriptions. An unknown product refuses the whole request."""
        try:
            request = orjson.loads(text)
            kind, channels = request["type"], request["channels"]
            named = [one if isinstance(one, dict) else {"name": one, "product_ids": request.get("product_ids", [])} for one in channels]
            wanted = [(one["name"], product) for one in named for product in one.get("product_ids", request.get("product_ids", []))]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return _failed("Malformed JSON")
        if kind not in ("subscribe", "unsubscribe"):
            return _failed(f"Type {kind} is not valid")
        for channel, product in wanted:
            if channel not in self.by_name:
                return _failed(f"{channel} is not a valid channel")
            if not any(market.listed for market, _ in venue.targets(f"{channel}:{product}", path)):
                return _failed(f"{product} is not a valid product")
        wires = [f"{channel}:{product}" for channel, product in wanted]
        after = [wire for wire in streams if wire not in wires] if kind == "unsubscribe" else list(dict.fromkeys([*streams, *wires]))
        lists: dict[str, list[str]] = {}
        for wire in after:
            channel, _, product = wire.partition(":")
            lists.setdefault(channel, []).append(product)
        said = {
            "type": "subscriptions",
            "channels": [{"name": name, "product_ids": products, "account_ids": None} for name, products in lists.items()],
        }
        return Answer([dumps(said)], subscribe=wires) if kind == "subscribe" else Answer([dumps(said)], unsubscribe=wires)

    # --- messages ----------------------------------------------------------------------------------------------------
    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return a channel's message."""
        if stream.name == "heartbeat":
            return _heartbeat(market, event.clock)
        if event.kind != market.trade_kind:
            return None
        trade = trade_of(event)
        return dumps(_match(market, "match", trade)) if stream.name == "matches" else _ticker(market, trade)

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the last trade, or its ticker."""
        last = market.history.before(None, 1)
        if not last:
            return []
        if stream.name == "matches":
            return [dumps(_match(market, "last_match", last[0]))]
        message = _ticker(market, last[0]) if stream.topic == "quotes" else None
        return [message] if message is not None else []

    def change(self, market: Market, stream: Stream, change: Change) -> bytes:
        """Return the changes of a step, without a number."""
        changes = [["buy", *level] for level in change.bids] + [["sell", *level] for level in change.asks]
        return dumps({"type": "l2update", "product_id": market.symbol, "changes": changes, "time": _time_text(change.clock)})

    def snapshot(self, market: Market, stream: Stream, top: Top, number: int) -> bytes:
        """Return the book."""
        return dumps({"type": "snapshot", "product_id": market.symbol, "asks": top.asks, "bids": top.bids, "time": _time_text(top.time)})

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return the products' endpoints; requests are counted a second."""
        answers = {
            "/time": _time,
            "/products": _products,
            "/products/stats": _all_statistics,
            "/products/{id}": _product,
            "/products/{id}/stats": _statistics,
            "/products/{id}/ticker": _rest_ticker,
            "/products/{id}/book": _book,
            "/products/{id}/trades": _trades,
            "/products/{id}/candles": _candles,
        }
        return [Endpoint("GET", path, 1, answer) for path, answer in answers.items()]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return the message."""
        return error.status, {"message": error.text}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return the error for too many requests, or a failure."""
        return VenueError(status, status, "Public rate limit exceeded" if status == 429 else "Internal server error", retry_after)


def _failed(reason: str) -> Answer:
    return Answer([dumps({"type": "error", "message": "Failed to subscribe", "reason": reason})])


def _time_text(clock: int) -> str:
    """Return a time in ms as ISO text with microseconds."""
    return datetime.fromtimestamp(clock // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{clock % 1000:03d}000Z"


def _order(number: int, side: int) -> str:
    return str(UUID(int=(side << 124) | number))


def _maker(trade: Trade) -> str:
    return "buy" if trade.sell else "sell"


def _match(market: Market, kind: str, trade: Trade) -> dict[str, Any]:
    return {
        "type": kind,
        "trade_id": trade.number,
        "maker_order_id": _order(trade.number, 1),
        "taker_order_id": _order(trade.number, 2),
        "side": _maker(trade),
        "size": trade.quantity,
        "price": trade.price,
        "product_id": market.symbol,
        "sequence": trade.number * 3,
        "time": _time_text(trade.time),
    }


def _ticker(market: Market, trade: Trade) -> bytes | None:
    """Return the ticker after a trade; None while no quote is known. Here the side is the taker's."""
    quote, day = market.quote, market.statistics.day()
    if quote is None or day is None:
        return None
    return dumps(
        {
            "type": "ticker",
            "sequence": trade.number * 3,
            "product_id": market.symbol,
            "price": trade.price,
            "open_24h": f"{day.open:.8g}",
            "volume_24h": f"{day.volume:.8f}",
            "low_24h": f"{day.low:.8g}",
            "high_24h": f"{day.high:.8g}",
            "volume_30d": f"{day.volume * 30:.8f}",
            "best_bid": quote["b"],
            "best_bid_size": quote["B"],
            "best_ask": quote["a"],
            "best_ask_size": quote["A"],
            "side": "sell" if trade.sell else "buy",
            "time": _time_text(trade.time),
            "trade_id": trade.number,
            "last_size": trade.quantity,
        }
    )


def _heartbeat(market: Market, clock: int) -> bytes | None:
    last = market.history.before(None, 1)
    if not last:
        return None
    number = last[0].number
    return dumps(
        {"type": "heartbeat", "last_trade_id": number, "product_id": market.symbol, "sequence": number * 3, "time": _time_text(clock)}
    )


def _market(venue: VenueView, query: Query) -> Market:
    market = venue.markets.get(query.text("id"))
    if market is None:
        raise VenueError(404, 404, "NotFound")
    return market


def _time(venue: VenueView, query: Query) -> Any:
    now = venue.now()
    return {"iso": _time_text(now)[:-4] + "Z", "epoch": now / 1000}


def _products(venue: VenueView, query: Query) -> Any:
    return [_row(market) for market in venue.markets.values()]


def _product(venue: VenueView, query: Query) -> Any:
    return _row(_market(venue, query))


def _row(market: Market) -> dict[str, Any]:
    base, _, quote = market.symbol.partition("-")
    return {
        "id": market.symbol,
        "base_currency": base,
        "quote_currency": quote,
        "quote_increment": decimal_step(market.facts.tick_decimals),
        "base_increment": decimal_step(market.facts.step_decimals),
        "display_name": f"{base}-{quote}",
        "min_market_funds": market.min_notional or "1",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "status": "online" if market.listed else "delisted",
        "status_message": "",
        "trading_disabled": not market.listed,
        "fx_stablecoin": False,
        "max_slippage_percentage": "0.02000000",
        "auction_mode": False,
        "high_bid_limit_percentage": "",
    }


def _sums(market: Market) -> dict[str, str]:
    day = market.statistics.day()
    if day is None:
        return {"open": "", "high": "", "low": "", "last": "", "volume": "0"}
    prices = {name: f"{price:.8g}" for name, price in (("open", day.open), ("high", day.high), ("low", day.low), ("last", day.close))}
    return {**prices, "volume": f"{day.volume:.8f}"}


def _all_statistics(venue: VenueView, query: Query) -> Any:
    found = {}
    for market in venue.markets.values():
        if market.listed:
            sums = _sums(market)
            found[market.symbol] = {"stats_30day": {"volume": f"{float(sums['volume']) * 30:.8f}"}, "stats_24hour": sums}
    return found


def _statistics(venue: VenueView, query: Query) -> Any:
    return _sums(_market(venue, query))


def _rest_ticker(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    last, quote = market.history.before(None, 1), market.quote or {}
    if not last:
        raise VenueError(404, 404, "NotFound")
    return {
        "trade_id": last[0].number,
        "price": last[0].price,
        "size": last[0].quantity,
        "time": _time_text(last[0].time),
        "bid": quote.get("b", ""),
        "ask": quote.get("a", ""),
        "volume": _sums(market)["volume"],
    }


def _book(venue: VenueView, query: Query) -> Any:
    market = _market(venue, query)
    top = market.rest_book(1 if query.whole("level", 1) == 1 else 1 << 30)
    if top is None:
        raise VenueError(404, 404, "NotFound")
    sides = {"bids": [[*level, 1] for level in top.bids], "asks": [[*level, 1] for level in top.asks]}
    return {**sides, "sequence": top.last, "auction_mode": False, "auction": None, "time": _time_text(top.time)}


def _trades(venue: VenueView, query: Query) -> Any:
    """Return trades, newest first. ``after`` requests older ids, ``before`` newer ones. The headers name the next pages."""
    market, limit = _market(venue, query), query.limit(1000, 1000)
    before = query.whole("before")
    found = [trade for trade in market.history.before(query.whole("after"), limit) if before is None or trade.number > before]
    rows = [
        {"trade_id": one.number, "side": _maker(one), "size": one.quantity, "price": one.price, "time": _time_text(one.time)}
        for one in reversed(found)
    ]
    headers = {"CB-BEFORE": str(found[-1].number), "CB-AFTER": str(found[0].number)} if found else {}
    return rows, headers


def _candles(venue: VenueView, query: Query) -> Any:
    """Return rows [time in s, low, high, open, close, volume], newest first, 300 at most."""
    market, step = _market(venue, query), query.whole("granularity", 60)
    if step not in _GRANULARITIES:
        raise VenueError(400, 400, "Unsupported granularity")
    start, end = _moment(query, "start"), _moment(query, "end")
    bars = market.statistics.bars(step * 1000, start, end, 300)
    rows = []
    for bar in reversed(bars):
        opened, high, low, close = map(float, market.prices(bar))
        rows.append([bar.start // 1000, low, high, opened, close, bar.volume])
    return rows


def _moment(query: Query, name: str) -> int | None:
    if name not in query:
        return None
    text = query.text(name)
    if text.isdigit():
        return int(text) * 1000
    try:
        return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
    except ValueError:
        raise VenueError(400, 400, f"Invalid {name}") from None
