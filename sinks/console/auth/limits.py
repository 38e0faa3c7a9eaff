"""Rate limits, by the library ``limits``, in the memory of this process.

A restart forgets them: an attacker cannot restart the console, and an operator who is locked out can.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from dataclasses import dataclass, field

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from sinks.console.http.problems import Problem

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Rates:
    """How often each thing may be done.

    Attributes:
        failures: Failed logins of one name in a row within an hour, before its lock.
        lock: The lock of a name.
        logins: Logins from one address: enough for an office behind one address.
        registrations: Registrations from one address: an invitation code cannot be guessed.
        refreshes: Refreshes from one address. Each open page needs one in 15 minutes.
        reads: Reads of one user, or of one address without login. A page needs about 30 at once.
        commands: Commands of one user. A person does not give two a second.
    """

    failures: RateLimitItem = field(default_factory=lambda: RateLimitItemPerHour(5))
    lock: RateLimitItem = field(default_factory=lambda: RateLimitItemPerMinute(1, 15))
    logins: RateLimitItem = field(default_factory=lambda: RateLimitItemPerMinute(30))
    registrations: RateLimitItem = field(default_factory=lambda: RateLimitItemPerHour(20))
    refreshes: RateLimitItem = field(default_factory=lambda: RateLimitItemPerMinute(300))
    reads: RateLimitItem = field(default_factory=lambda: RateLimitItemPerSecond(5_000, 10))
    commands: RateLimitItem = field(default_factory=lambda: RateLimitItemPerMinute(120))


class Limits:
    """Counts of this process."""

    def __init__(self, rates: Rates | None = None) -> None:
        self.rates = rates or Rates()
        # Two stores: an expired entry is found by a walk over all of one, and names that attackers try are many.
        self._logins = FixedWindowRateLimiter(MemoryStorage())
        self._requests = FixedWindowRateLimiter(MemoryStorage())

    async def request(self, who: str, method: str) -> None:
        """Count a request of ``who`` (a user or an address). Raises Problem 429."""
        safe = method in SAFE_METHODS
        await self._count(self._requests, self.rates.reads if safe else self.rates.commands, "read" if safe else "command", who)

    async def login(self, address: str) -> None:
        """Count a login from an address. Raises Problem 429."""
        await self._count(self._logins, self.rates.logins, "login", network(address))

    async def registration(self, address: str) -> None:
        """Count a registration from an address. Raises Problem 429."""
        await self._count(self._logins, self.rates.registrations, "registration", network(address))

    async def refresh(self, address: str) -> None:
        """Count a refresh from an address. Raises Problem 429."""
        await self._count(self._requests, self.rates.refreshes, "refresh", network(address))

    async def attempt(self, name: str) -> None:
        """Count an attempt to log in as ``name`` before the password is checked, so that parallel attempts count too.

        Raises:
            Problem: 429, the name is locked.
        """
        key = _key(name)
        if not await self._logins.test(self.rates.lock, "lock", key):
            raise await self._locked(self.rates.lock, "lock", key)
        if not await self._logins.hit(self.rates.failures, "failures", key):
            raise await self._locked(self.rates.failures, "failures", key)

    async def failed(self, name: str) -> bool:
        """Note that the attempt failed. Return whether the name is locked from now on."""
        key = _key(name)
        if await self._logins.test(self.rates.failures, "failures", key):
            return False
        if not await self._logins.hit(self.rates.lock, "lock", key):
            return False  # another failure of the same moment locked it
        await self._logins.clear(self.rates.failures, "failures", key)
        return True

    async def succeeded(self, name: str) -> None:
        """Forget the failures of a name."""
        key = _key(name)
        await self._logins.clear(self.rates.failures, "failures", key)
        await self._logins.clear(self.rates.lock, "lock", key)

    async def _locked(self, item: RateLimitItem, *keys: str) -> Problem:
        return _too_many("too many failed logins; this name is locked for 15 minutes", await self._wait(self._logins, item, *keys))

    async def _count(self, limiter: FixedWindowRateLimiter, item: RateLimitItem, what: str, who: str) -> None:
        if not await limiter.hit(item, what, who):
            raise _too_many(f"too many requests ({what})", await self._wait(limiter, item, what, who))

    async def _wait(self, limiter: FixedWindowRateLimiter, item: RateLimitItem, *keys: str) -> int:
        stats = await limiter.get_window_stats(item, *keys)
        return max(1, math.ceil(stats.reset_time - time.time()))


def _too_many(detail: str, wait_s: int) -> Problem:
    return Problem(429, f"{detail}; try again in {wait_s} s", headers={"Retry-After": str(wait_s)})


def _key(name: str) -> str:
    """Return a short key of any text that somebody typed as a name. It may be a password typed in the wrong field, so it is not kept."""
    return hashlib.blake2b(name.casefold().encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def network(address: str) -> str:
    """Return what one subscriber holds: an IPv4 address, or the /64 of an IPv6 address. Other text stays as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))
    return str(parsed)
