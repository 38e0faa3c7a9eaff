"""Signed requests to Bybit v5 and the meaning of its answers (documents "Integration Guidance" and "Error Codes").

An answer of the trading system has HTTP 200 and a ``retCode``. Other statuses come from the venue's edge servers.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from schemas import metrics
from schemas.secret import Secrets
from sinks.venues.common.adapter import OutcomeUnknown, RateLimited, RequestRejected, VenueError, VenueUnreachable
from sinks.venues.common.response_parsing import read
from sinks.venues.common.rest_connection import clock_skew

RECV_WINDOW_MS = 5_000
TIMEOUT_S = 10.0
CONNECT_S = 5.0
# 403: the address is banned for ten minutes. 10006 and 429 do not say how long to wait.
BAN_S, SLOW_DOWN_S = 600.0, 1.0

REASONS: Mapping[int, str] = {
    -1: "clock",
    10002: "clock",
    10003: "auth",
    10004: "auth",
    10005: "auth",
    10007: "auth",
    10009: "auth",
    10010: "auth",
    33004: "auth",
    110001: "not_found",
    110003: "filter",
    110004: "insufficient_balance",
    110006: "insufficient_balance",
    110007: "insufficient_balance",
    110012: "insufficient_balance",
    110014: "insufficient_balance",
    110017: "reduce_only",
    110020: "too_many_orders",
    110045: "insufficient_balance",
    110052: "insufficient_balance",
    110072: "duplicate_id",
    110092: "would_trigger",
    110093: "would_trigger",
    110094: "filter",
    170213: "not_found",
}
# "Server timeout", "Internal error", "trading service busy": the request may have taken effect.
OUTCOME_UNKNOWN = frozenset((10000, 10016, 429))
TOO_MANY = frozenset((10006, 10018))


def error_of(code: int, message: str, reset_at_ms: str | None, now_ms: int) -> VenueError:
    """Return the error of a ``retCode`` other than 0."""
    if code in TOO_MANY:
        wait = (int(reset_at_ms) - now_ms) / 1000 if reset_at_ms and reset_at_ms.isdigit() else SLOW_DOWN_S
        return RateLimited(f"retCode {code}: {message}", max(wait, 0.05))
    if code in OUTCOME_UNKNOWN:
        return OutcomeUnknown(f"retCode {code}: {message}")
    return RequestRejected(REASONS.get(code, "other"), str(code), message)


class BybitRest:
    """The REST side of one account.

    Args:
        base_url: Address of the venue, its testnet or a simulated venue.
        key, secret: API key (HMAC).
        secrets: Registers both for redaction.
    """

    def __init__(self, base_url: str, key: str, secret: str, secrets: Secrets, recv_window_ms: int = RECV_WINDOW_MS) -> None:
        self._base = base_url.rstrip("/")
        secrets.add(key)
        secrets.add(secret)
        self._redact = secrets.redact
        self._key, self._secret = key, secret.encode()
        self._window = str(recv_window_ms)
        self._skew_ms = 0
        self._not_before = 0.0
        self._session: aiohttp.ClientSession | None = None

    @property
    def key(self) -> str:
        """The API key."""
        return self._key

    def sign(self, text: str) -> str:
        """Return the HMAC-SHA256 of a text, hexadecimal."""
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    async def open(self) -> None:
        """Create the connection pool."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S))

    async def close(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def venue_time(self) -> int:
        """Return the venue's current time, ms, from the measured offset."""
        return int(time.time() * 1000) + self._skew_ms

    async def measure_clock(self) -> int:
        """Measure and store venue time minus local time, ms."""

        async def there() -> float:
            result = await self.get("/v5/market/time", signed=False)
            return read("GET /v5/market/time", lambda result: int(result["timeNano"]) / 1_000_000, result)

        self._skew_ms = await clock_skew(there)
        return self._skew_ms

    async def get(self, path: str, params: Mapping[str, str | int | None] | None = None, *, signed: bool = True) -> dict[str, Any]:
        """Return the ``result`` of a query. Raises VenueError."""
        query = urlencode([(name, value) for name, value in (params or {}).items() if value is not None])
        return await self._request("GET", path, query, b"", signed)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``result`` of an order. Raises VenueError."""
        return await self._request("POST", path, "", orjson.dumps({name: value for name, value in body.items() if value is not None}), True)

    async def _request(self, method: str, path: str, query: str, body: bytes, signed: bool) -> dict[str, Any]:
        wait = self._not_before - time.monotonic()
        if wait > 0:
            raise RateLimited("the venue asked for a pause", wait)
        try:
            return await self._send(method, path, query, body, signed)
        except RequestRejected as refused:
            # The clock drifted. The venue did not accept the request, so it may be sent again with the right time.
            if refused.reason != "clock":
                raise
            await self.measure_clock()
        return await self._send(method, path, query, body, signed)

    async def _send(self, method: str, path: str, query: str, body: bytes, signed: bool) -> dict[str, Any]:
        if self._session is None:
            raise VenueUnreachable("the venue is not open")
        headers = {"Content-Type": "application/json"} if body else {}
        if signed:
            stamp = str(self.venue_time())
            headers |= {
                "X-BAPI-API-KEY": self._key,
                "X-BAPI-TIMESTAMP": stamp,
                "X-BAPI-RECV-WINDOW": self._window,
                "X-BAPI-SIGN": self.sign(stamp + self._key + self._window + (query or body.decode())),
            }
        begun = time.monotonic()
        try:
            # encoded=True: yarl must not quote the signed query again.
            url = URL(f"{self._base}{path}" + (f"?{query}" if query else ""), encoded=True)
            async with self._session.request(method, url, data=body or None, headers=headers) as response:
                content, status, told = await response.read(), response.status, response.headers
        except aiohttp.ClientConnectorError as error:
            metrics.VENUE_REQUESTS.labels("BYBIT", path, "unreachable").inc()
            raise VenueUnreachable(self._redact(f"{method} {path}: {type(error).__name__}")) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            metrics.VENUE_REQUESTS.labels("BYBIT", path, "unknown").inc()
            raise OutcomeUnknown(self._redact(f"{method} {path}: {type(error).__name__}")) from None
        metrics.VENUE_REQUEST_SECONDS.labels("BYBIT", path).observe(time.monotonic() - begun)
        refusal = self._refusal(status, content, told.get("X-Bapi-Limit-Reset-Timestamp"))
        metrics.VENUE_REQUESTS.labels("BYBIT", path, refusal.label if refusal else "ok").inc()
        if refusal is not None:
            if isinstance(refusal, RateLimited):
                self._not_before = time.monotonic() + refusal.retry_after
            raise refusal
        return read(f"{method} {path}", _result_of, orjson.loads(content))

    def _refusal(self, status: int, content: bytes, reset_at: str | None) -> VenueError | None:
        if status == 403:
            return RateLimited("HTTP 403: the address sent too many requests", BAN_S)
        if status == 429:
            return RateLimited("HTTP 429", SLOW_DOWN_S)
        if status == 401:
            return RequestRejected("auth", "401", "invalid request: key or signature")
        try:
            answer = orjson.loads(content)
            code, message = int(answer["retCode"]), str(answer.get("retMsg", ""))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return OutcomeUnknown(f"HTTP {status}: {content[:200].decode(errors='replace')}")
        if status != 200:
            return OutcomeUnknown(f"HTTP {status}, retCode {code}: {message}")
        return None if code == 0 else error_of(code, message, reset_at, self.venue_time())


def _result_of(answer: Any) -> dict[str, Any]:
    result = answer["result"]
    if not isinstance(result, dict):
        raise TypeError(f"expected an object, got {type(result).__name__}")
    return result
