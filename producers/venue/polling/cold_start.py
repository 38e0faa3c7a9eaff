"""History on a cold start: the venue's bars, and the last hours of trades, settled funding and indicators if they are asked for, through the same topics,
so that features are warm in minutes."""

from __future__ import annotations

import structlog

from producers.output.pipeline import Pipeline, Source
from producers.venue.adapter.base import Adapter, MappingError
from producers.venue.network.rest import Rest, RestError
from producers.venue.polling.past_bars import PastBars
from producers.venue.state.feed import Feed
from producers.venue.streams.feeds import Feeds
from producers.venue.streams.gap_repair import GapRepair
from producers.venue.streams.trade_backfill import BackFill
from schemas.codec.avro import CodecError

HOUR_MS = 3_600_000


class History:
    """Loads the past of instruments that the log knows nothing of.

    Args:
        adapter: The venue. rest: where to ask. pipeline, feeds, backfill, holes, bars: see there.
        hours: How far back trades, funding and indicators go; 0: bars only.
    """

    def __init__(
        self,
        adapter: Adapter,
        rest: Rest,
        pipeline: Pipeline,
        feeds: Feeds,
        backfill: BackFill,
        holes: GapRepair,
        bars: PastBars | None,
        hours: float,
    ) -> None:
        self._adapter = adapter
        self._rest = rest
        self._pipeline = pipeline
        self._feeds = feeds
        self._backfill = backfill
        self._holes = holes
        self._bars = bars
        self._hours = hours
        self._has_trades = any(channel.topic == "agg_trades" for channel in adapter.channels)
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    def wanted(self, feed: Feed) -> bool:
        """Return True when a symbol is cold and has a past that is to be loaded."""
        cold = feed.trade_time is None and not feed.closed
        return cold and (self._hours > 0 or (self._bars is not None and self._bars.wanted(feed)))

    async def load(self, feed: Feed, told: Source, trades: Source, now: int) -> None:
        """Write a symbol's history. What the venue does not serve is left out and logged; the live streams come in any case.

        Args:
            feed: Whose. told, trades: its places in the merge, of what is told at once and of the trades; the caller lets ``trades`` leave.
            now: The venue's clock, ms UTC.
        """
        since = now - int(self._hours * HOUR_MS)
        if self._bars is not None:
            self._bars.begin(feed, now, self._hours)
            await self._bars.first(feed, told, since, now)
        count = await self._others(feed, told, since, now) if self._hours > 0 else 0
        self._pipeline.leave(told)
        before = self._backfill.trades
        if self._hours > 0 and self._has_trades:
            await self._trades(feed, trades, since)
        self._log.info("history loaded", symbol=feed.symbol, hours=self._hours, trades=self._backfill.trades - before, others=count)

    async def _others(self, feed: Feed, source: Source, since: int, now: int) -> int:
        try:
            told = await self._adapter.history(self._rest, feed.market, since, now)
        except (RestError, MappingError) as error:
            told = []  # the trades are worth having without it
            self._log.warning("no history of funding and indicators", symbol=feed.symbol, error=str(error)[:300])
        count = 0
        for topic, record in sorted(told, key=lambda entry: int(entry[1]["event_time"])):
            try:
                self._pipeline.advance(source, record["event_time"])
                self._feeds.polled(feed, topic, record, source)
            except CodecError as error:
                self._holes.refuse(repr(record).encode(), f"history {topic}", str(error), error.field, feed.instrument)
            else:
                count += 1
        return count

    async def _trades(self, feed: Feed, source: Source, since: int) -> None:
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
