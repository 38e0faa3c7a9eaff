"""History on a cold start: the last hours of trades, settled funding and indicators through the same topics, so that features are warm in minutes."""

from __future__ import annotations

import structlog

from producers.pipeline import Source
from producers.venue.adapter import Adapter, MappingError
from producers.venue.backfill import BackFill
from producers.venue.feeds import Feeds
from producers.venue.holes import Holes
from producers.venue.rest import Rest, RestError
from producers.venue.state import Feed
from schemas.codec import CodecError

HOUR_MS = 3_600_000


class History:
    """Loads the past of instruments that the log knows nothing of.

    Args:
        adapter: The venue. rest: where to ask. feeds, backfill, holes: see there.
        hours: How far back; 0: not at all.
    """

    def __init__(self, adapter: Adapter, rest: Rest, feeds: Feeds, backfill: BackFill, holes: Holes, hours: float) -> None:
        self._adapter = adapter
        self._rest = rest
        self._feeds = feeds
        self._backfill = backfill
        self._holes = holes
        self._hours = hours
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    def wanted(self, feed: Feed) -> bool:
        """Return True when a symbol is cold and history was asked for."""
        return self._hours > 0 and feed.trade_time is None and not feed.closed

    async def load(self, feed: Feed, source: Source, now: int) -> None:
        """Write a symbol's history. What the venue does not serve is left out and logged; the live streams come in any case.

        Args:
            feed, source: Whose, and its place in the merge.
            now: The venue's clock, ms UTC.
        """
        since = now - int(self._hours * HOUR_MS)
        before = self._backfill.trades
        count = 0
        try:
            told = await self._adapter.history(self._rest, feed.market, since, now)
        except (RestError, MappingError) as error:
            told = []  # the trades are worth having without it
            self._log.warning("no history of funding and indicators", symbol=feed.symbol, error=str(error)[:300])
        for topic, record in told:
            try:
                self._feeds.polled(feed, topic, record)
            except CodecError as error:
                self._holes.refuse(repr(record).encode(), f"history {topic}", str(error), error.field, feed.instrument)
            else:
                count += 1
        try:
            if self._adapter.consecutive_ids:
                first = await self._adapter.first_trade(self._rest, feed.market, since)
                problem = None if first is None else await self._backfill.fill(feed, source, first, None)
                if problem is not None:
                    self._log.warning("history is incomplete", symbol=feed.symbol, problem=problem)
            else:
                await self._backfill.since(feed, source, since, None, "cold_start")
        except (RestError, MappingError) as error:
            self._log.warning("no history of trades", symbol=feed.symbol, error=str(error)[:300])
        self._log.info("history loaded", symbol=feed.symbol, hours=self._hours, trades=self._backfill.trades - before, others=count)
