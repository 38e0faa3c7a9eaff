"""Request weights of the venue's REST interface: 429 above the limit of a minute, 418 for clients that do not stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WEIGHT_A_MINUTE = 2400
# Number of requests after a 429 until the address is banned, and the length of the first ban.
REFUSALS_BEFORE_BAN = 10
BAN_S = 120.0


@dataclass(frozen=True)
class Verdict:
    """Result for a request: the status (200: accepted), the weight used this minute, seconds to wait if refused."""

    status: int
    used: int
    retry_after: int = 0


class WeightLimiter:
    """Weights of one client address, counted per calendar minute of ``clock``, or other window.

    Args:
        clock: Seconds, wall time: limits protect a server and are not part of the recording.
        limit: Weight allowed a window.
        window_s: Its length, seconds.
    """

    def __init__(self, clock: Callable[[], float], limit: int = WEIGHT_A_MINUTE, window_s: float = 60.0) -> None:
        self._clock = clock
        self._window_s = window_s
        self._limit = limit
        self._minute = -1
        self._used = 0
        self._refused = 0
        self._banned_until = 0.0

    def ask(self, weight: int) -> Verdict:
        """Count a request and return whether it is accepted."""
        now = self._clock()
        minute = int(now // self._window_s)
        if minute != self._minute:
            self._minute, self._used, self._refused = minute, 0, 0
        self._used += weight
        if now < self._banned_until:
            return Verdict(418, self._used, int(self._banned_until - now) + 1)
        if self._used <= self._limit:
            return Verdict(200, self._used)
        self._refused += 1
        if self._refused > REFUSALS_BEFORE_BAN:
            self._banned_until = now + BAN_S
            return Verdict(418, self._used, int(BAN_S))
        return Verdict(429, self._used, int((minute + 1) * self._window_s - now) + 1)
