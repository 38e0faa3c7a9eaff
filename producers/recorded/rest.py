"""The venue's REST interface over the recordings: what was known at the playback position, never more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from producers.recorded.limits import WeightLimiter
from producers.recorded.playback import Playback
from producers.recorded.recording import decimal_step, read_funding

if TYPE_CHECKING:
    from producers.recorded.venue import RecordedVenue

_DEPTH_WEIGHTS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}


class VenueError(Exception):
    """An error answer of the venue: HTTP status, the venue's code, and its text."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text


class Rest:
    """Handlers of ``/fapi/v1``.

    Args:
        venue: Whose recordings are served.
        weight_limit: Request weight a minute and client address.
    """

    def __init__(self, venue: RecordedVenue, weight_limit: int) -> None:
        self._venue = venue
        self._weight_limit = weight_limit
        self._limiters: dict[str, WeightLimiter] = {}
        self._funding = {name: read_funding(playback.recording) for name, playback in venue.playbacks.items()}

    def add_routes(self, app: web.Application) -> None:
        """Register the endpoints."""
        endpoints = {
            "time": (1, self._time),
            "exchangeInfo": (1, self._exchange_info),
            "depth": (0, self._depth),
            "aggTrades": (20, self._agg_trades),
            "premiumIndex": (1, self._premium_index),
            "fundingInfo": (1, self._funding_info),
            "fundingRate": (1, self._funding_rate),
            "openInterest": (1, self._open_interest),
        }
        for name, (weight, answer) in endpoints.items():
            app.router.add_get(f"/fapi/v1/{name}", self._guarded(name, weight, answer))
        app.router.add_get("/fapi/{rest:.*}", self._guarded("", 1, _unknown))

    def _guarded(self, name: str, weight: int, answer: Any) -> Any:
        async def handle(request: web.Request) -> web.Response:
            fault = self._venue.plan.rest(request.path)
            used = 0
            try:
                if fault is not None:
                    raise _refusal(fault.status, fault.retry_after)
                cost = weight if name != "depth" else _depth_weight(request)
                limiter = self._limiters.setdefault(request.remote or "", WeightLimiter(time.time, self._weight_limit))
                verdict = limiter.ask(cost)
                used = verdict.used
                if verdict.status != 200:
                    raise _refusal(verdict.status, verdict.retry_after)
                body = answer(request)
                response = web.Response(body=body if isinstance(body, bytes) else orjson.dumps(body), content_type="application/json")
            except VenueError as error:
                response = web.json_response({"code": error.code, "msg": error.text}, status=error.status)
                if isinstance(error, _Refusal):
                    response.headers["Retry-After"] = str(error.retry_after)
            response.headers["X-MBX-USED-WEIGHT-1M"] = str(used)
            return response

        return handle

    def _playback(self, request: web.Request) -> Playback:
        symbol = request.query.get("symbol")
        if not symbol:
            raise VenueError(400, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        playback = self._venue.playbacks.get(symbol)
        if playback is None:
            raise VenueError(400, -1121, "Invalid symbol.")
        return playback

    def _playbacks(self, request: web.Request) -> list[Playback]:
        return [self._playback(request)] if "symbol" in request.query else list(self._venue.playbacks.values())

    def _time(self, request: web.Request) -> Any:
        # Every recording has a venue clock of its own; with no symbol given the slowest of them is "now".
        return {"serverTime": min(playback.clock for playback in self._playbacks(request))}

    def _exchange_info(self, request: web.Request) -> Any:
        limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self._weight_limit}]
        symbols = [_contract(playback) for playback in self._playbacks(request)]
        return {
            "timezone": "UTC",
            "serverTime": min(playback.clock for playback in self._playbacks(request)),
            "rateLimits": limits,
            "symbols": symbols,
            "recorded": True,
        }

    def _depth(self, request: web.Request) -> Any:
        playback = self._playback(request)
        if not playback.facts.has_depth and playback.facts.snapshot is None:
            raise VenueError(404, -1000, f"the recording of {playback.recording.symbol} holds no depth")
        book = playback.book.top(_whole(request, "limit", 500) or 500)
        if book is None:
            raise VenueError(503, -1000, "no book is known yet: the recording has no snapshot, and no depth message was played")
        playback.snapshot_fetched()
        return book

    def _agg_trades(self, request: web.Request) -> Any:
        playback = self._playback(request)
        limit = _whole(request, "limit", 500) or 500
        if not 1 <= limit <= 1000:
            raise VenueError(400, -1130, "Data sent for parameter 'limit' is not valid.")
        return playback.history.page(_whole(request, "fromId"), _whole(request, "startTime"), _whole(request, "endTime"), limit)

    def _premium_index(self, request: web.Request) -> Any:
        known = [_premium(playback) for playback in self._playbacks(request) if playback.mark is not None]
        if "symbol" not in request.query:
            return known
        if not known:
            raise VenueError(404, -1000, f"the recording of {request.query['symbol']} holds no mark price up to its present position")
        return known[0]

    def _funding_info(self, request: web.Request) -> Any:
        return [
            {"symbol": playback.recording.symbol, "fundingIntervalHours": playback.recording.funding_interval_hours, "recorded": True}
            for playback in self._venue.playbacks.values()
            if playback.recording.funding_interval_hours is not None
        ]

    def _funding_rate(self, request: web.Request) -> Any:
        start, end = _whole(request, "startTime"), _whole(request, "endTime")
        limit = min(1000, _whole(request, "limit", 100) or 100)
        rows = [
            row
            for playback in self._playbacks(request)
            for row in self._funding[playback.recording.symbol]
            if row["fundingTime"] <= playback.clock
            and (start is None or row["fundingTime"] >= start)
            and (end is None or row["fundingTime"] <= end)
        ]
        rows.sort(key=lambda row: row["fundingTime"])
        # As the venue: from a given start the oldest, else the newest.
        return rows[:limit] if start is not None else rows[-limit:]

    def _open_interest(self, request: web.Request) -> Any:
        symbol = self._playback(request).recording.symbol
        raise VenueError(404, -1000, f"the recording of {symbol} holds no open interest")


class _Refusal(VenueError):
    def __init__(self, status: int, code: int, text: str, retry_after: int) -> None:
        super().__init__(status, code, text)
        self.retry_after = retry_after


def _refusal(status: int, retry_after: int) -> VenueError:
    if status == 418:
        return _Refusal(418, -1003, "Way too many requests; IP banned. Please use the websocket for live updates.", retry_after)
    if status == 429:
        return _Refusal(429, -1003, "Too many requests; slow down.", retry_after)
    return _Refusal(status, -1001, "Internal error; unable to process your request. Please try again.", retry_after)


def _unknown(request: web.Request) -> Any:
    raise VenueError(404, -5000, f"Path {request.path}, Method GET is invalid: the recorded venue has no such data")


def _whole(request: web.Request, name: str, default: int | None = None) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise VenueError(400, -1130, f"Data sent for parameter '{name}' is not valid.") from None


def _depth_weight(request: web.Request) -> int:
    limit = _whole(request, "limit", 500)
    if limit not in _DEPTH_WEIGHTS:
        raise VenueError(400, -4021, f"'{limit}' is not valid depth limit.")
    return _DEPTH_WEIGHTS[limit]


def _contract(playback: Playback) -> dict[str, Any]:
    facts, recording = playback.facts, playback.recording
    filters: list[dict[str, str]] = [
        {"filterType": "PRICE_FILTER", "tickSize": decimal_step(facts.tick_decimals)},
        {"filterType": "LOT_SIZE", "stepSize": decimal_step(facts.step_decimals)},
    ]
    if recording.min_notional is not None:
        filters.append({"filterType": "MIN_NOTIONAL", "notional": recording.min_notional})
    return {
        "symbol": recording.symbol,
        "pair": recording.symbol,
        "contractType": "PERPETUAL" if recording.kind == "perp" else "SPOT",
        "status": "TRADING",
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


def _premium(playback: Playback) -> dict[str, Any]:
    mark = playback.mark or {}
    names = {
        "markPrice": "p",
        "indexPrice": "i",
        "estimatedSettlePrice": "P",
        "lastFundingRate": "r",
        "nextFundingTime": "T",
        "time": "E",
    }
    return {"symbol": playback.recording.symbol, **{name: mark[field] for name, field in names.items() if field in mark}}
