"""Lighter perpetuals: market statistics of all contracts over one subscription, and the matching REST responses.

Venue documents: websocket reference (channel ``market_stats``), REST models (status, orderBookDetails, fundings). Contracts are margined in
USDC; funding is hourly. Units differ: per cent of an hour and quote units on the stream, base units in orderBookDetails. The venue's trades
and books are not simulated, because it is followed for its funding. Its JSON pings are not sent; the client's pongs are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar
from zlib import crc32

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.events import INTEREST, MARK, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.wire.protocol import Answer, Query, Stream, VenueError, dumps

_CHANNEL = "market_stats"
_ALL = "market_stats/all"
_HOUR_MS = 3_600_000
# Delay of the venue's settlement time, ms.
_LATE_MS = 4


class Lighter(Dialect):
    """Channels are requested as ``market_stats/0`` or ``market_stats/all``, and named ``market_stats:0`` or ``market_stats:all`` in
    replies.
    """

    venue = "LIGHTER"
    funding_hours = 1
    streams = (Stream(_CHANNEL, "ticker", (MARK, INTEREST)), Stream(_ALL, "ticker", (MARK, INTEREST)))
    sockets: ClassVar = {"/stream": ("public", False)}
    vital = ("timestamp", "mark_price", "market_stats")
    client_idle_s = 120.0
    weight_limit = 60
    weight_s = 60.0
    unknown_path = (404, 404, "Not Found")
    bad_parameter = (400, 20001, "invalid param: {name}")

    def symbol(self, base: str, quote: str) -> str:
        """Return the base asset, which is this venue's name of a contract."""
        return base

    def recorded_symbol(self, text: str) -> str:
        """Return e.g. ``BTCUSDT`` for ``BTC``."""
        return text if text.endswith(("USDT", "USDC")) and len(text) > 4 else text + "USDT"

    def head(self, stream: str) -> str:
        """Return a stream's name, for one market or for all."""
        return stream.partition("/")[0]

    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (symbol, stream) of ``market_stats:BTC``, our name of one market's channel, or of ``market_stats/all``."""
        if wire == _ALL:
            return "*", _ALL
        channel, _, symbol = wire.partition(":")
        return (symbol, channel) if channel == _CHANNEL else None

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle subscribe (with the known state), unsubscribe and ping. A pong keeps the connection."""
        try:
            request = orjson.loads(text)
            kind = request["type"]
            if kind in ("ping", "pong"):
                return Answer([dumps({"type": "pong"})] if kind == "ping" else [])
            channel = str(request["channel"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return _failed(30005, f"Invalid Message: {text}")
        if kind not in ("subscribe", "unsubscribe"):
            return _failed(30005, f"Invalid Type: {kind}")
        name, _, number = channel.partition("/")
        wanted = [one for one in venue.markets.values() if one.listed and number in ("all", str(market_id(one)))]
        if name != _CHANNEL or not wanted:
            return _failed(30005, f"Invalid Channel: {channel}")
        wire = _ALL if number == "all" else f"{_CHANNEL}:{wanted[0].symbol}"
        if kind == "unsubscribe":
            return Answer([dumps({"type": "unsubscribed", "channel": f"{_CHANNEL}:{number}"})], unsubscribe=[wire])
        if wire in streams:
            return _failed(30003, f"Already Subscribed: {channel}")
        rows = {str(market_id(one)): row for one in wanted if (row := _stats(one, one.now())) is not None}
        said = rows if number == "all" else next(iter(rows.values()), {})
        return Answer([_message("subscribed", number, said, venue.now())], subscribe=[wire])

    # --- messages ----------------------------------------------------------------------------------------------------
    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return a market's statistics, None before the first mark price."""
        row, number = _stats(market, event.clock), str(market_id(market))
        if row is None:
            return None
        if stream.name == _ALL:
            return _message("update", "all", {number: row}, event.clock)
        return _message("update", number, row, event.clock)

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return status, contracts and settlements."""
        answers = {"/": _status, "/api/v1/orderBookDetails": _details, "/api/v1/fundings": _fundings}
        return [Endpoint("GET", path, 1, answer) for path, answer in answers.items()]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return code and message."""
        return error.status, {"code": error.code, "message": error.text}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return the error for too many requests, or a failure."""
        if status == 429:
            return VenueError(status, 23000, "Too Many Requests!", retry_after)
        return VenueError(status, 29500, "internal server error", retry_after)


def market_id(market: Market) -> int:
    """Return the number of a market. It derives from the name, so listings and delistings do not change it."""
    return crc32(market.symbol.encode()) & 0x7FFF_FFFF


def _failed(code: int, text: str) -> Answer:
    return Answer([dumps({"error": {"code": code, "message": text}})])


def _message(kind: str, number: str, stats: dict[str, Any], clock: int) -> bytes:
    return dumps({"channel": f"{_CHANNEL}:{number}", _CHANNEL: stats, "timestamp": clock, "type": f"{kind}/{_CHANNEL}"})


def _percent(rate: str) -> str:
    return f"{Decimal(rate).scaleb(2):f}"


def _stats(market: Market, clock: int) -> dict[str, Any] | None:
    """Return the known state of a market, None before the first mark price."""
    mark, day = market.mark, market.statistics.day()
    if mark is None:
        return None
    settled = market.settled(None, clock)
    found: dict[str, Any] = {
        "symbol": market.symbol,
        "market_id": market_id(market),
        "index_price": mark.get("i", mark["p"]),
        "mark_price": mark["p"],
        "open_interest_limit": "72057594037927936.000000",
        "funding_clamp_small": "0.0500",
        "funding_clamp_big": "4.0000",
        "last_trade_price": market.statistics.last_price or mark["p"],
        "current_funding_rate": _percent(mark.get("r") or "0"),
        "funding_rate": _percent(settled[-1]["fundingRate"] if settled else mark.get("r") or "0"),
        "funding_timestamp": clock // _HOUR_MS * _HOUR_MS + _LATE_MS,
    }
    if market.interest is not None:
        found["open_interest"] = f"{Decimal(market.interest['openInterest']) * Decimal(mark['p']):.6f}"
    if day is not None:
        found |= {
            "daily_base_token_volume": day.volume,
            "daily_quote_token_volume": day.quote,
            "daily_price_low": day.low,
            "daily_price_high": day.high,
            "daily_price_change": (day.close / day.open - 1) * 100,
        }
    return found


def _status(venue: VenueView, query: Query) -> Any:
    """Return the clock, in seconds."""
    return {"status": 200, "network_id": 1, "timestamp": venue.now() // 1000}


def _details(venue: VenueView, query: Query) -> Any:
    """Return the contracts. A delisted one is inactive."""
    rows = []
    for market in venue.markets.values():
        facts, day = market.facts, market.statistics.day()
        rows.append(
            {
                "symbol": market.symbol,
                "market_id": market_id(market),
                "market_type": "perp",
                "base_asset_id": 0,
                "quote_asset_id": 0,
                "status": "active" if market.listed else "inactive",
                "taker_fee": "0.0000",
                "maker_fee": "0.0000",
                "liquidation_fee": "1.0000",
                "min_base_amount": decimal_step(facts.step_decimals),
                "min_quote_amount": market.min_notional or "10.000000",
                "order_quote_limit": "281474976.710655",
                "supported_size_decimals": facts.step_decimals,
                "supported_price_decimals": facts.tick_decimals,
                "supported_quote_decimals": 6,
                "size_decimals": facts.step_decimals,
                "price_decimals": facts.tick_decimals,
                "quote_multiplier": 1,
                "last_trade_price": float(market.statistics.last_price or 0.0),
                "daily_trades_count": day.count if day is not None else 0,
                "daily_quote_token_volume": day.quote if day is not None else 0.0,
                "open_interest": float(market.interest["openInterest"]) if market.interest is not None else 0.0,
                "market_config": {"market_margin_mode": 0, "hidden": False},
            }
        )
    return {"code": 200, "order_book_details": rows, "spot_order_book_details": []}


def _fundings(venue: VenueView, query: Query) -> Any:
    """Return settlements in a range of seconds, oldest first; of too many the newest. The rate is per cent; its sign is the direction of
    payment.
    """
    number, start, end = query.whole("market_id"), query.whole("start_timestamp"), query.whole("end_timestamp")
    market = next((one for one in venue.markets.values() if market_id(one) == number), None)
    if market is None or start is None or end is None or query.text("resolution") != "1h":
        raise VenueError(400, 20001, "invalid param")
    count = query.whole("count_back") or 0
    rows = market.settled(start * 1000, end * 1000 + 999)[-count:] if count > 0 else []
    return {"code": 200, "resolution": "1h", "fundings": [_settlement(row, market) for row in rows]}


def _settlement(row: Mapping[str, Any], market: Market) -> dict[str, Any]:
    rate = Decimal(row["fundingRate"])
    price = Decimal(market.mark["p"]) if market.mark is not None else Decimal(0)
    return {
        "timestamp": row["fundingTime"] // 1000,
        "value": f"{abs(rate) * price:.6f}",
        "rate": _percent(f"{abs(rate):f}"),
        "direction": "short" if rate < 0 else "long",
    }
