"""The venue's REST interface: request weights kept, refusals obeyed, failures retried."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import structlog
import tenacity

# The venue's limit belongs to the address, which may have other users: leave them some.
WEIGHT_SHARE = 0.9
# A 429 without Retry-After: what is left of the minute is not known, so wait a good part of it.
SLOW_DOWN_S = 10.0
PAGE = 1000
DEPTH_LIMIT = 1000


class RestError(RuntimeError):
    """A request that failed for good: refused by the venue, or no answer after all attempts."""


class _TryAgain(Exception):
    """A refusal or failure of the kind that passes."""


class Rest:
    """A client of ``/fapi/v1``.

    Args:
        base_url: E.g. ``https://fapi.binance.com``.
        weight_limit: Request weight a minute.
        ban_wait_s: Least wait after HTTP 418.
        attempts: Tries of one request.
        timeout_s: Of one try.
    """

    def __init__(
        self,
        base_url: str,
        *,
        weight_limit: int = 2400,
        ban_wait_s: float = 120.0,
        attempts: int = 6,
        timeout_s: float = 10.0,
    ) -> None:
        self.used_weight = 0
        self.requests = 0
        self._client = httpx.AsyncClient(base_url=base_url, timeout=timeout_s)
        self._budget = max(1, int(weight_limit * WEIGHT_SHARE))
        self._ban_wait_s = ban_wait_s
        self._attempts = attempts
        self._minute = -1
        self._not_before = 0.0
        self._admission = asyncio.Lock()
        self._log = structlog.get_logger().bind(rest=base_url)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def server_time(self) -> int:
        """Return the venue's clock, ms UTC."""
        return int((await self.get("time", 1))["serverTime"])

    async def exchange_info(self) -> list[dict[str, Any]]:
        """Return the contracts."""
        symbols: list[dict[str, Any]] = (await self.get("exchangeInfo", 1))["symbols"]
        return symbols

    async def funding_info(self) -> list[dict[str, Any]]:
        """Return the funding intervals that differ from the venue's default."""
        rows: list[dict[str, Any]] = await self.get("fundingInfo", 1)
        return rows

    async def tickers(self) -> list[dict[str, Any]]:
        """Return the 24 h statistics of all symbols."""
        rows: list[dict[str, Any]] = await self.get("ticker/24hr", 40)
        return rows

    async def depth(self, symbol: str) -> dict[str, Any]:
        """Return a depth snapshot."""
        snapshot: dict[str, Any] = await self.get("depth", 20, symbol=symbol, limit=DEPTH_LIMIT)
        return snapshot

    async def agg_trades(self, symbol: str, from_id: int) -> list[dict[str, Any]]:
        """Return up to ``PAGE`` aggregate trades from an id on; the venue reaches two days back."""
        rows = await self.get("aggTrades", 20, symbol=symbol, fromId=from_id, limit=PAGE)
        if not isinstance(rows, list):
            raise RestError(f"aggTrades of {symbol}: expected a list, got {str(rows)[:200]}")
        return rows

    async def get(self, path: str, weight: int, **params: Any) -> Any:
        """Return the JSON of ``/fapi/v1/<path>``.

        Raises:
            RestError: refused for good, no JSON, or no success after all attempts.
        """
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=8),
            stop=tenacity.stop_after_attempt(self._attempts),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await self._once(path, weight, params)
        except _TryAgain as error:
            raise RestError(f"{path}: no success in {self._attempts} attempts: {error}") from error
        raise AssertionError("unreachable: the loop returns or raises")

    async def _once(self, path: str, weight: int, params: dict[str, Any]) -> Any:
        await self._admit(weight)
        try:
            response = await self._client.get(f"/fapi/v1/{path}", params=params)
        except httpx.TransportError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        self.requests += 1
        used = response.headers.get("X-MBX-USED-WEIGHT-1M", "")
        if used.isdigit():
            self.used_weight = max(self.used_weight, int(used))
        status = response.status_code
        if status in (418, 429):
            given = response.headers.get("Retry-After", "")
            wait = float(given) if given.isdigit() else SLOW_DOWN_S
            if status == 418:
                wait = max(wait, self._ban_wait_s)
            self._not_before = max(self._not_before, time.monotonic() + wait)
            self._log.warning("the venue refuses requests", status=status, wait_s=wait, path=path)
            raise _TryAgain(f"HTTP {status}")
        if status >= 500:
            raise _TryAgain(f"HTTP {status}: {response.text[:200]}")
        if status != 200:
            raise RestError(f"{path} {params}: HTTP {status}: {response.text[:200]}")
        try:
            return response.json()
        except ValueError as error:
            raise _TryAgain(f"no JSON: {response.text[:200]}") from error

    async def _admit(self, weight: int) -> None:
        """Wait until a ban is over and the minute has room for ``weight``."""
        async with self._admission:
            while True:
                wait = self._not_before - time.monotonic()
                if wait <= 0:
                    now = time.time()
                    if int(now // 60) != self._minute:
                        self._minute, self.used_weight = int(now // 60), 0
                    if self.used_weight == 0 or self.used_weight + weight <= self._budget:
                        self.used_weight += weight
                        return
                    wait = (self._minute + 1) * 60 - now
                await asyncio.sleep(wait)
