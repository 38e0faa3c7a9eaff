"""A venue's REST client. One limiter serves all users of an address; bans are respected and failures retried."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import structlog
import tenacity

from schemas import metrics

# The venue's limit applies to the address, which may have other users. Leave a part for them.
SHARE = 0.9
# Wait after a refusal without Retry-After. The rest of the window is unknown, so this is a good part of a minute.
SLOW_DOWN_S = 10.0
# A ban (HTTP 418) lasts two minutes at least; asking sooner prolongs it.
BANS: Mapping[int, float] = {418: 120.0}


class RestError(RuntimeError):
    """A request that failed for good: refused by the venue, or without an answer after all attempts."""


class Limit(NamedTuple):
    """At most ``weight`` in any ``seconds``."""

    weight: int
    seconds: float


class _TryAgain(Exception):
    """A temporary refusal or failure."""


class Limiter:
    """The budget of one venue and address, shared by all clients of this process. It includes other users' requests if the venue reports
    them.

    Args:
        venue: Label of metrics.
        limits: All hold at once.
    """

    def __init__(self, venue: str, limits: tuple[Limit, ...]) -> None:
        self._venue = venue
        self._limits = [(Limit(max(1, int(limit.weight * SHARE)), limit.seconds), deque[tuple[float, int]]()) for limit in limits]
        self._spent = [0] * len(limits)
        self._not_before = 0.0
        self._admission: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def admit(self, weight: int) -> None:
        """Wait until no ban holds and every window has room for ``weight``. Requests are served in order."""
        loop = asyncio.get_running_loop()
        if self._admission is None or self._loop is not loop:
            self._admission, self._loop = asyncio.Lock(), loop
        async with self._admission:
            while (wait := self._wait(weight)) > 0:
                await asyncio.sleep(wait)
            self._charge(weight)

    @property
    def busy(self) -> bool:
        """True while requests wait for room. A reader should not be held for one more."""
        return (self._admission is not None and self._admission.locked()) or self._wait(1) > 0

    def refused(self, wait_s: float) -> None:
        """Record that the venue refuses requests for some seconds."""
        self._not_before = max(self._not_before, time.monotonic() + wait_s)

    def venue_says(self, used: int) -> None:
        """Take the venue's count of the first window if it is higher than ours, because others use the address."""
        if self._limits and used > self._spent[0]:
            self._limits[0][1].append((time.monotonic(), used - self._spent[0]))
            self._spent[0] = used
            self._show()

    @property
    def used(self) -> int:
        """Weight spent in the first window."""
        self._wait(0)
        return self._spent[0] if self._limits else 0

    def _wait(self, weight: int) -> float:
        now = time.monotonic()
        wait = self._not_before - now
        for index, (limit, spent) in enumerate(self._limits):
            while spent and spent[0][0] <= now - limit.seconds:
                self._spent[index] -= spent.popleft()[1]
            if spent and self._spent[index] + weight > limit.weight:
                wait = max(wait, spent[0][0] + limit.seconds - now)
        return wait

    def _charge(self, weight: int) -> None:
        now = time.monotonic()
        for index, (_, spent) in enumerate(self._limits):
            spent.append((now, weight))
            self._spent[index] += weight
        self._show()

    def _show(self) -> None:
        for (limit, _), spent in zip(self._limits, self._spent, strict=True):
            metrics.REST_BUDGET.labels(self._venue, f"{limit.seconds:g}s").set(spent / limit.weight)


_LIMITERS: dict[tuple[str, str], Limiter] = {}


def limiter_of(venue: str, base_url: str, limits: tuple[Limit, ...]) -> Limiter:
    """Return the limiter of a venue at an address: one for all adapters and clients of the process."""
    key = (venue, urlsplit(base_url).netloc)
    return _LIMITERS.setdefault(key, Limiter(venue, limits))


class Rest:
    """A client of one venue.

    Args:
        venue: Label of metrics.
        base_url: E.g. ``https://fapi.binance.com``.
        limiter: See ``limiter_of``.
        refusal: ``Adapter.refusal``: the error in an HTTP 200 response.
        used_header: Response header with the venue's count of used weight.
        bans: HTTP status -> least wait, seconds, for those that mean a ban of the address.
        attempts: Tries of one request.
        timeout_s: Time limit of one try.
    """

    def __init__(
        self,
        venue: str,
        base_url: str,
        limiter: Limiter,
        *,
        refusal: Callable[[Any], tuple[str, float | None] | None] | None = None,
        used_header: str | None = None,
        bans: Mapping[int, float] = BANS,
        attempts: int = 6,
        timeout_s: float = 10.0,
    ) -> None:
        self.requests = 0
        self.limiter = limiter
        self._client = httpx.AsyncClient(base_url=base_url, timeout=timeout_s)
        self._refusal = refusal
        self._used_header = used_header
        self._bans = bans
        self._attempts = attempts
        self._log = structlog.get_logger().bind(venue=venue, rest=base_url)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, path: str, weight: int = 1, **params: Any) -> Any:
        """Return the JSON of ``GET path``; raises RestError: refused for good, no JSON, or no success after all attempts."""
        return await self._tried("GET", path, weight, params, None)

    async def post(self, path: str, body: Any, weight: int = 1) -> Any:
        """Return the JSON of ``POST path`` with a JSON body; raises RestError as ``get`` does."""
        return await self._tried("POST", path, weight, {}, body)

    async def _tried(self, method: str, path: str, weight: int, params: dict[str, Any], body: Any) -> Any:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=8),
            stop=tenacity.stop_after_attempt(self._attempts),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await self._once(method, path, weight, params, body)
        except _TryAgain as error:
            raise RestError(f"{path}: no success in {self._attempts} attempts: {error}") from error
        raise AssertionError("unreachable: the loop returns or raises")

    async def _once(self, method: str, path: str, weight: int, params: dict[str, Any], body: Any) -> Any:
        await self.limiter.admit(weight)
        try:
            response = await self._client.request(method, path, params=params, json=body)
        except httpx.TransportError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        self.requests += 1
        used = response.headers.get(self._used_header, "") if self._used_header else ""
        if used.isdigit():
            self.limiter.venue_says(int(used))
        status = response.status_code
        if status == 429 or status in self._bans:
            given = response.headers.get("Retry-After", "")
            wait = float(given) if given.isdigit() else SLOW_DOWN_S
            self._obey(f"HTTP {status}", max(wait, self._bans.get(status, 0.0)), path)
        if status >= 500:
            raise _TryAgain(f"HTTP {status}: {response.text[:200]}")
        if status != 200:
            raise RestError(f"{path} {params or body}: HTTP {status}: {response.text[:200]}")
        try:
            answer = response.json()
        except ValueError as error:
            raise _TryAgain(f"no JSON: {response.text[:200]}") from error
        if self._refusal is not None and (refusal := self._refusal(answer)) is not None:
            reason, refused_s = refusal
            if refused_s is None:
                raise RestError(f"{path} {params or body}: {reason}")
            self._obey(reason, refused_s, path)
        return answer

    def _obey(self, reason: str, wait_s: float, path: str) -> None:
        self.limiter.refused(wait_s)
        self._log.warning("the venue refuses requests", reason=reason, wait_s=wait_s, path=path)
        raise _TryAgain(reason)
