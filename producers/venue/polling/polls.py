"""Repeated REST requests: open interest, long/short ratios, settled funding, volumes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import structlog

from producers.venue.adapter.base import Adapter, MappingError, Market, Poll
from producers.venue.network.rest import Rest, RestError
from producers.venue.streams.feeds import Feeds
from producers.venue.streams.gap_repair import GapRepair
from schemas import metrics
from schemas.codec.avro import CodecError

# Each wait varies by this share, so that several producers do not poll in the same second.
JITTER = 0.05


class Polls:
    """The polls of one producer.

    Args:
        adapter: The venue. rest: its REST client. feeds: Take the records. gap_repair: Refuses bad ones.
        topics: Only polls that feed one of them run.
        scale: Factor for the waits. recorded: Poll recorded instruments too.
    """

    def __init__(
        self,
        adapter: Adapter,
        rest: Rest,
        feeds: Feeds,
        gap_repair: GapRepair,
        topics: Sequence[str],
        scale: float = 1.0,
        recorded: bool = False,
    ) -> None:
        self._venue = adapter.venue
        self._rest = rest
        self._feeds = feeds
        self._gap_repair = gap_repair
        self._scale = scale
        self._recorded = recorded
        self._polls = [poll for poll in adapter.polls() if poll.topic in topics]
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    async def run(self) -> None:
        """Poll until cancelled. A failed poll is tried again at its next turn."""
        await asyncio.gather(*(self._repeat(poll) for poll in self._polls), asyncio.Event().wait())

    async def _repeat(self, poll: Poll) -> None:
        while True:
            started = time.monotonic()
            try:
                count = await self.once(poll)
            except (RestError, MappingError) as error:
                metrics.POLLS.labels(self._venue, poll.name, "failed").inc()
                self._log.warning("poll failed", poll=poll.name, error=str(error)[:300])
            else:
                metrics.POLLS.labels(self._venue, poll.name, "ok").inc()
                metrics.POLLED.labels(self._venue, poll.name).set_to_current_time()
                self._log.debug("polled", poll=poll.name, records=count)
            wait = poll.every_s * self._scale * random.uniform(1 - JITTER, 1 + JITTER)
            await asyncio.sleep(max(0.05, wait - (time.monotonic() - started)))

    async def once(self, poll: Poll) -> int:
        """Do one round. Return the number of records. Raises RestError, MappingError."""
        markets = [feed.market for feed in self._feeds.feeds.values() if not feed.closed and (self._recorded or not feed.recorded)]
        if not markets:
            return 0
        if poll.whole_market:
            return await self._ask(poll, markets)
        count, failure = 0, None
        for number, market in enumerate(markets):
            if number:
                await asyncio.sleep(poll.gap_s)
            try:
                count += await self._ask(poll, [market])
            except (RestError, MappingError) as error:
                failure = error  # one failed symbol does not affect the others
        if failure is not None:
            raise failure
        return count

    async def _ask(self, poll: Poll, markets: list[Market]) -> int:
        count = 0
        for symbol, topic, record in await poll.fetch(self._rest, markets, self._gap_repair.wall_ms()):
            feed = self._feeds.feeds.get(symbol)
            if feed is None or (feed.recorded and not self._recorded):
                continue
            try:
                self._feeds.polled(feed, topic, record)
            except CodecError as error:
                self._gap_repair.refuse(repr(record).encode(), f"poll {poll.name}", str(error), error.field, feed.instrument)
            else:
                count += 1
        return count
