"""The venue's REST interface: rate limits and faults of every dialect. The dialect makes the responses, only from data up to the playback
position.
"""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any, Protocol

import orjson
from aiohttp import web

from producers.simulated.dialects.shared.dialect import Endpoint, VenueView
from producers.simulated.wire.faults import FaultPlan
from producers.simulated.wire.limits import WeightLimiter
from producers.simulated.wire.protocol import Query, VenueError


class RestHost(VenueView, Protocol):
    """The venue as the REST interface needs it: markets, protocol, and faults."""

    plan: FaultPlan


class Rest:
    """The endpoints of the venue's dialect.

    Args:
        venue: The venue. weight_limit: Request weight of a client address in a window. window_s: Its length.
    """

    def __init__(self, venue: RestHost, weight_limit: int, window_s: float) -> None:
        self._venue = venue
        self._weight_limit = weight_limit
        self._window_s = window_s
        self._limiters: dict[str, WeightLimiter] = {}

    def limiter(self, remote: str) -> WeightLimiter:
        """Return the weights of a client address."""
        return self._limiters.setdefault(remote, WeightLimiter(time.time, self._weight_limit, self._window_s))

    def add_routes(self, app: web.Application, without: Container[str] = ()) -> None:
        """Register the endpoints except those on some paths, and the venue's error for every other path below their roots."""
        dialect = self._venue.dialect
        endpoints = [endpoint for endpoint in dialect.endpoints() if endpoint.path not in without]
        for endpoint in endpoints:
            app.router.add_route(endpoint.method, endpoint.path, self._guarded(endpoint))
        unknown = Endpoint("GET", "", 1, _unknown)
        for root in sorted({endpoint.path.split("/")[1] for endpoint in endpoints} - {""}):
            app.router.add_get(f"/{root}/{{rest:.*}}", self._guarded(unknown))

    def _guarded(self, endpoint: Endpoint) -> Any:
        dialect = self._venue.dialect

        async def handle(request: web.Request) -> web.Response:
            fault = self._venue.plan.rest(request.path)
            used = 0
            headers: dict[str, str] = {}
            try:
                if fault is not None:
                    raise dialect.refusal(fault.status, fault.retry_after)
                query = Query(request.path, await _values(request), dialect.malformed)
                cost = endpoint.weight if isinstance(endpoint.weight, int) else endpoint.weight(query)
                verdict = self.limiter(request.remote or "").ask(cost)
                used = verdict.used
                if verdict.status != 200:
                    raise dialect.refusal(verdict.status, verdict.retry_after)
                status, body = 200, endpoint.answer(self._venue, query)
                if isinstance(body, tuple):  # a response with its own headers
                    body, headers = body
            except VenueError as error:
                status, body = dialect.error(error)
                if error.retry_after is not None:
                    headers["Retry-After"] = str(error.retry_after)
            text = body if isinstance(body, bytes) else orjson.dumps(body)
            return web.Response(body=text, status=status, content_type="application/json", headers=headers | dialect.headers(used))

        return handle


async def _values(request: web.Request) -> dict[str, Any]:
    values: dict[str, Any] = {**request.query, **request.match_info}
    if request.method == "POST":
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            body = None
        if isinstance(body, dict):
            values |= body
    return values


def _unknown(venue: VenueView, query: Query) -> Any:
    raise venue.dialect.unknown(query.path)
