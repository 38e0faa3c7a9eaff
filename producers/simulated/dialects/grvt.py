"""GRVT perpetuals: the ticker of each contract every half second, and the matching REST responses.

Venue documents: "Market Data Websocket Streams" and "Market Data APIs", the form with full names. Times are nanoseconds, rates percentage
points, quantities base units. The venue's trades and books are not simulated, because it is followed for its funding.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

import orjson

from producers.simulated.dialects.shared.dialect import Dialect, Endpoint, VenueView
from producers.simulated.market.market import Market
from producers.simulated.recording.events import INTEREST, MARK, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.wire.protocol import Answer, Query, Stream, VenueError, dumps

_TICKER = "v1.ticker.s"
_RATE = "500"
_NS = 1_000_000
_SUFFIX = "_Perp"


class Grvt(Dialect):
    """Subscriptions are JSON-RPC: a stream and selectors ``instrument@rate``."""

    venue = "GRVT"
    streams = (Stream(_TICKER, "ticker", (MARK, INTEREST), 500),)
    sockets: ClassVar = {"/ws/full": ("public", False)}
    vital = ("event_time", "mark_price", "feed")
    max_streams = 1000
    weight_limit = 75
    weight_s = 10.0
    unknown_path = (404, 1004, "API could not be found")
    bad_parameter = (400, 1003, "Request could not be processed due to malformed syntax: {name}")

    def symbol(self, base: str, quote: str) -> str:
        """Return e.g. ``BTC_USDT_Perp``; a thousand-fold asset begins with K."""
        return f"{'K' + base.removeprefix('1000') if base.startswith('1000') else base}_{quote}{_SUFFIX}"

    def recorded_symbol(self, text: str) -> str:
        """Return e.g. ``BTCUSDT`` for ``BTC_USDT_Perp``."""
        return text.removesuffix(_SUFFIX).replace("_", "")

    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (instrument, stream) of ``stream:instrument@rate``."""
        stream, _, selector = wire.partition(":")
        instrument, _, rate = selector.partition("@")
        return (instrument, stream) if stream == _TICKER and rate == _RATE else None

    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Handle subscribe and unsubscribe. An unknown selector refuses the whole request."""
        number: Any = 0
        try:
            request = orjson.loads(text)
            number, method = request.get("id", 0), request["method"]
            stream, selectors = request["params"]["stream"], list(map(str, request["params"]["selectors"]))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return _failed(1003, "Request could not be processed due to malformed syntax", number, "")
        if method not in ("subscribe", "unsubscribe"):
            return _failed(1004, "API could not be found", number, method)
        wires = [f"{stream}:{selector}" for selector in selectors]
        for selector, wire in zip(selectors, wires, strict=True):
            if not any(market.listed for market, _ in venue.targets(wire, path)):
                return _failed(1101, f"Feed Format must be in the format of <primary>@<secondary>: {selector}", number, method)
        begins = method == "subscribe"
        result = {
            "stream": stream,
            "subs": selectors if begins else [],
            "unsubs": [] if begins else selectors,
            "num_snapshots": [1] * len(selectors) if begins else [],
            "first_sequence_number": ["0"] * len(selectors) if begins else [],
        }
        said = dumps({"jsonrpc": "2.0", "result": result, "id": number, "method": method})
        return Answer([said], subscribe=wires) if begins else Answer([said], unsubscribe=wires)

    # --- messages ----------------------------------------------------------------------------------------------------
    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return the ticker, None before the first mark price."""
        return _push(market, event.clock)

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the first snapshot of a stream."""
        message = _push(market, market.now())
        return [message] if message is not None else []

    # --- REST --------------------------------------------------------------------------------------------------------
    def endpoints(self) -> list[Endpoint]:
        """Return the clock, and the POST endpoints."""
        answers = {"/full/v1/all_instruments": _instruments, "/full/v1/ticker": _rest_ticker, "/full/v1/funding": _funding}
        return [Endpoint("GET", "/time", 1, _time), *(Endpoint("POST", path, 1, answer) for path, answer in answers.items())]

    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return code, message and status."""
        return error.status, {"code": error.code, "message": error.text, "status": error.status}

    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return the error for too many requests, or a failure."""
        if status == 429:
            return VenueError(status, 1006, "You have surpassed the allocated rate limit for your tier", retry_after)
        return VenueError(status, 1002, "Internal Server Error", retry_after)


def _failed(code: int, text: str, number: Any, method: Any) -> Answer:
    return Answer([dumps({"jsonrpc": "2.0", "error": {"code": code, "message": text}, "id": number, "method": method})])


def _percent(rate: str) -> str:
    return f"{Decimal(rate).scaleb(2):f}"


def _hours(market: Market) -> int:
    return market.funding_interval_hours or 8


def _push(market: Market, clock: int) -> bytes | None:
    """Return a message of the stream, None before the first mark price."""
    feed = _ticker(market, clock)
    if feed is None:
        return None
    before = market.memory.get("sequence", 0)
    market.memory["sequence"] = before + 1
    return dumps(
        {
            "stream": _TICKER,
            "selector": f"{market.symbol}@{_RATE}",
            "sequence_number": str(before + 1),
            "feed": feed,
            "prev_sequence_number": str(before),
        }
    )


def _ticker(market: Market, clock: int) -> dict[str, Any] | None:
    mark, day, quote, statistics = market.mark, market.statistics.day(), market.quote, market.statistics
    if mark is None:
        return None
    rate = _percent(mark.get("r") or "0")
    found: dict[str, Any] = {
        "event_time": str(clock * _NS),
        "instrument": market.symbol,
        "mark_price": mark["p"],
        "index_price": mark.get("i", mark["p"]),
        "last_price": statistics.last_price or mark["p"],
        "last_size": statistics.last_quantity,
        "funding_rate_8h_curr": rate,
        "funding_rate_8h_avg": rate,
        "interest_rate": "0.0",
        "forward_price": "0.0",
        "funding_rate": rate,
        "funding_interval_hours": _hours(market),
    }
    if mark.get("T"):
        found["next_funding_time"] = str(mark["T"] * _NS)
    if market.interest is not None:
        found["open_interest"] = market.interest["openInterest"]
    if quote is not None:
        middle = (Decimal(quote["b"]) + Decimal(quote["a"])) / 2
        best = {"best_bid_price": quote["b"], "best_bid_size": quote["B"], "best_ask_price": quote["a"], "best_ask_size": quote["A"]}
        found |= {"mid_price": f"{middle:f}", **best}
    if day is not None:
        opened, high, low, _ = market.prices(day)
        found |= {
            "buy_volume_24h_b": f"{day.taker:.6f}",
            "sell_volume_24h_b": f"{day.volume - day.taker:.6f}",
            "buy_volume_24h_q": f"{day.taker_quote:.6f}",
            "sell_volume_24h_q": f"{max(0.0, day.quote - day.taker_quote):.6f}",
            "high_price": high,
            "low_price": low,
            "open_price": opened,
        }
    ratios = market.ratio_points("account", 300_000, 1, clock)
    if ratios:
        found["long_short_ratio"] = f"{ratios[-1][1] / (1 - ratios[-1][1]):.6f}"
    return found


def _market(venue: VenueView, query: Query) -> Market:
    market = venue.markets.get(query.text("instrument"))
    if market is None:
        raise VenueError(400, 2020, "Instrument is invalid")
    return market


def _time(venue: VenueView, query: Query) -> Any:
    return {"server_time": venue.now()}


def _instruments(venue: VenueView, query: Query) -> Any:
    """Return the contracts without delisted ones, as ``is_active`` requests."""
    rows = []
    for market in venue.markets.values():
        if not market.listed:
            continue
        base, quote, _ = market.symbol.split("_")
        rows.append(
            {
                "instrument": market.symbol,
                "instrument_hash": "0x030501",
                "base": base,
                "quote": quote,
                "kind": "PERPETUAL",
                "venues": ["ORDERBOOK", "RFQ"],
                "settlement_period": "PERPETUAL",
                "base_decimals": 9,
                "quote_decimals": 6,
                "tick_size": decimal_step(market.facts.tick_decimals),
                "min_size": decimal_step(market.facts.step_decimals),
                "create_time": str(market.facts.first * _NS),
                "max_position_size": "1000.0",
                "funding_interval_hours": _hours(market),
                "adjusted_funding_rate_cap": "0.3",
                "adjusted_funding_rate_floor": "-0.3",
                "min_notional": market.min_notional or "5.0",
            }
        )
    return {"result": rows}


def _rest_ticker(venue: VenueView, query: Query) -> Any:
    return {"result": _ticker(_market(venue, query), venue.now()) or {}}


def _funding(venue: VenueView, query: Query) -> Any:
    """Return settlements in a range of nanoseconds, newest first."""
    market = _market(venue, query)
    start, end = query.whole("start_time"), query.whole("end_time")
    rows = market.settled(None if start is None else -(-start // _NS), None if end is None else end // _NS)[-query.limit(500, 1000) :]
    said = [
        {
            "instrument": market.symbol,
            "funding_rate": _percent(row["fundingRate"]),
            "funding_time": str(row["fundingTime"] * _NS),
            "funding_interval_hours": _hours(market),
        }
        for row in reversed(rows)
    ]
    return {"result": said, "next": ""}
