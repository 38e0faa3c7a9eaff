"""The part of an adapter that follows from its REST connection: opening, instrument rules, and the clock measured by round trips."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog

from schemas import metrics
from sinks.venues.common.adapter import MalformedResponse
from sinks.venues.common.response_parsing import read
from stream_apps.core.execution.orders.venue_reports import InstrumentRules

# Round trips of a clock measurement; the fastest one counts.
CLOCK_SAMPLES = 5


class RestConnection(Protocol):
    """A venue's REST connection."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Release the connection."""

    async def measure_clock(self) -> int:
        """Return venue time minus ours, ms."""
        ...


RestConnectionT = TypeVar("RestConnectionT", bound=RestConnection)


class RestVenue(Generic[RestConnectionT]):
    """The part of ``TradingVenue`` that all venues share. A venue loads ``_rules`` in ``refresh_rules``.

    Args:
        rest: Not open yet.
    """

    def __init__(self, rest: RestConnectionT) -> None:
        self._rest = rest
        self._rules: dict[str, InstrumentRules] = {}

    @property
    def rules(self) -> dict[str, InstrumentRules]:
        """Instrument rules by symbol, as of the newest ``refresh_rules``."""
        return self._rules

    async def open(self) -> None:
        """Connect, measure the clock, load the rules."""
        await self._rest.open()
        await self._rest.measure_clock()
        await self.refresh_rules()

    async def close(self) -> None:
        """Release the connections."""
        await self._rest.close()

    async def clock_skew_ms(self) -> int:
        """Return venue time minus ours, ms."""
        return await self._rest.measure_clock()

    async def refresh_rules(self) -> None:
        """Load the rules of the traded instruments."""
        raise NotImplementedError


def rules_by_symbol(
    venue: str, call: str, convert: Callable[[Any], InstrumentRules], rows: Sequence[dict[str, Any]]
) -> dict[str, InstrumentRules]:
    """Return the rules by symbol. An instrument with malformed rules is logged and skipped, so it is not traded; the others are.

    Raises:
        MalformedResponse: the rules of all instruments are malformed.
    """
    rules: dict[str, InstrumentRules] = {}
    failed: MalformedResponse | None = None
    for number, row in enumerate(rows):
        try:
            one = read(call, convert, row, f"[{number}]")
        except MalformedResponse as error:
            failed = error
            metrics.DEAD_LETTERS.labels("live", "venue").inc()
            structlog.get_logger().error("malformed instrument rules", venue=venue, symbol=row.get("symbol"), reason=str(error))
        else:
            rules[one.symbol] = one
    if failed is not None and not rules:
        raise failed
    return rules


async def clock_skew(venue_time_ms: Callable[[], Awaitable[float]]) -> int:
    """Return venue time minus local time, ms, from the fastest of a few round trips. The answer counts as half a round trip old."""
    best: tuple[float, int] | None = None
    for _ in range(CLOCK_SAMPLES):
        begun, at = time.monotonic(), time.time()
        there = await venue_time_ms()
        trip = time.monotonic() - begun
        if best is None or trip < best[0]:
            best = (trip, round(there - (at + trip / 2) * 1000))
    assert best is not None
    return best[1]
