"""Signed REST requests to Binance: connection pool, clock offset and rate limits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from schemas import metrics
from schemas.secret import Secrets
from sinks.venues.binance.errors import error_of
from sinks.venues.binance.signing import signer
from sinks.venues.common.adapter import OutcomeUnknown, RateLimited, RequestRejected, VenueUnreachable
from sinks.venues.common.response_parsing import read
from sinks.venues.common.rest_connection import clock_skew

# Oldest request that the venue accepts, ms of its clock. An order that was not seen by then can no longer arrive, so this is the shortest wait
# before an attempt counts as lost.
RECV_WINDOW_MS = 5_000
TIMEOUT_S = 10.0
CONNECT_S = 5.0
# The venue's weight limit, and the part that queries leave for orders and cancels.
WEIGHT_PER_MINUTE = 2_400
KEPT_FOR_ORDERS = 200

Value = str | int | bool | Decimal | None


class BinanceRest:
    """The REST side of one account.

    Args:
        base_url: Address of the venue, its testnet or a simulated venue.
        key, secret: API key.
        secrets: Registers both for redaction.
        recv_window_ms: See RECV_WINDOW_MS.
        venue: Label of metrics. time_path: path of the server time. weight_limit: weight per minute.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        secret: str,
        secrets: Secrets,
        recv_window_ms: int = RECV_WINDOW_MS,
        *,
        venue: str = "BINANCE",
        time_path: str = "/fapi/v1/time",
        weight_limit: int = WEIGHT_PER_MINUTE,
    ) -> None:
        self._venue, self._time_path, self._weight_limit = venue, time_path, weight_limit
        self._base = base_url.rstrip("/")
        secrets.add(key)
        secrets.add(secret)
        self._redact = secrets.redact
        self._key, self._sign = key, signer(secret)
        self.recv_window_ms = recv_window_ms
        self._skew_ms = 0
        self._not_before = self._queries_not_before = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Create the connection pool."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S), headers={"X-MBX-APIKEY": self._key}
        )

    async def close(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def measure_clock(self) -> int:
        """Measure and store venue time minus local time, ms."""

        async def there() -> float:
            path = self._time_path
            return read(f"GET {path}", lambda answer: float(answer["serverTime"]), await self.request("GET", path))

        self._skew_ms = await clock_skew(there)
        return self._skew_ms

    def venue_time(self) -> int:
        """Return the venue's current time, ms, from the measured offset."""
        return int(time.time() * 1000) + self._skew_ms

    def signed_params(self) -> dict[str, str | int]:
        """Return the authentication parameters of the WebSocket API: key, time and window, signed in the order of their names."""
        params: dict[str, str | int] = {"apiKey": self._key, "recvWindow": self.recv_window_ms, "timestamp": self.venue_time()}
        return params | {"signature": self._sign("&".join(f"{name}={params[name]}" for name in sorted(params)))}

    async def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, Value] | None = None,
        *,
        signed: bool = False,
        urgent: bool = False,
        base: str = "",
    ) -> Any:
        """Send one request and return the parsed answer.

        Args:
            params: None values are omitted; decimals are written without exponent.
            signed: Add timestamp, window and signature.
            urgent: Orders and cancels, which may use the reserved part of the weight limit.
            base: Another host than the account's.

        Raises:
            RequestRejected, OutcomeUnknown, RateLimited, VenueUnreachable: see ``sinks.venues.common.adapter``.
        """
        if self._session is None:
            raise VenueUnreachable("the venue is not open")
        wait = max(self._not_before, 0.0 if urgent else self._queries_not_before) - time.monotonic()
        if wait > 0:
            raise RateLimited("the venue asked for a pause", wait)
        for attempt in (1, 2):
            query = urlencode([(name, _text(value)) for name, value in (params or {}).items() if value is not None])
            if signed:
                stamp = f"timestamp={self.venue_time()}&recvWindow={self.recv_window_ms}"
                query = f"{query}&{stamp}" if query else stamp
                query += "&" + urlencode({"signature": self._sign(query)})
            try:
                return await self._send(method, f"{base.rstrip('/') or self._base}{path}" + (f"?{query}" if query else ""), path)
            except RequestRejected as refused:
                # The clock drifted. The venue did not accept the request, so it may be sent again with the right time.
                if refused.reason != "clock" or attempt == 2:
                    raise
                await self.measure_clock()
        raise AssertionError("unreachable")

    async def _send(self, method: str, url: str, path: str) -> Any:
        assert self._session is not None
        begun = time.monotonic()
        try:
            # encoded=True: yarl must not quote the signed text again, or the signature fails.
            async with self._session.request(method, URL(url, encoded=True)) as response:
                body = await response.read()
                status, headers = response.status, response.headers
        except aiohttp.ClientConnectorError as error:
            metrics.VENUE_REQUESTS.labels(self._venue, path, "unreachable").inc()
            raise VenueUnreachable(self._redact(f"{method} {path}: {type(error).__name__}")) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            metrics.VENUE_REQUESTS.labels(self._venue, path, "unknown").inc()
            raise OutcomeUnknown(self._redact(f"{method} {path}: {type(error).__name__}")) from None
        metrics.VENUE_REQUEST_SECONDS.labels(self._venue, path).observe(time.monotonic() - begun)
        self._take_weight(headers.get("X-MBX-USED-WEIGHT-1M"))
        if status == 200:
            metrics.VENUE_REQUESTS.labels(self._venue, path, "ok").inc()
            try:
                return orjson.loads(body)
            except orjson.JSONDecodeError:
                raise OutcomeUnknown(f"{method} {path}: the answer is not JSON") from None
        refusal = error_of(status, body, headers.get("Retry-After"))
        metrics.VENUE_REQUESTS.labels(self._venue, path, refusal.label).inc()
        if isinstance(refusal, RateLimited) and status in (418, 429):
            self._not_before = time.monotonic() + refusal.retry_after
        raise refusal

    def _take_weight(self, used: str | None) -> None:
        """Pause queries until the next minute when only the reserved weight is left. The venue counts by minutes of the wall clock."""
        if used is None or not used.isdigit():
            return
        metrics.VENUE_WEIGHT.labels(self._venue).set(int(used))
        if int(used) >= self._weight_limit - KEPT_FOR_ORDERS:
            self._queries_not_before = time.monotonic() + 60 - (time.time() % 60)


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)
