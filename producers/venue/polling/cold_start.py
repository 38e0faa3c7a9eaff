"""Loads history on a cold start, so that features are warm in minutes. It writes the venue's bars to the same topics as live data. On
request it also writes the last hours of trades, settled funding and indicators.
"""

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
    """Loads the history of instruments without records in the log.

    Args:
        adapter: The venue. rest: its REST client. pipeline, feeds, backfill, gap_repair, bars: see their classes.
        hours: How far back trades, funding and indicators go; 0: bars only.
    """

    def __init__(
        self,
        adapter: Adapter,
        rest: Rest,
        pipeline: Pipeline,
        feeds: Feeds,
        backfill: BackFill,
        gap_repair: GapRepair,
        bars: PastBars | None,
        hours: float,
    ) -> None:
        self._adapter = adapter
        self._rest = rest
        self._pipeline = pipeline
        self._feeds = feeds
        self._backfill = backfill
        self._gap_repair = gap_repair
        self._bars = bars
        self._hours = hours
        self._has_trades = any(channel.topic == "agg_trades" for channel in adapter.channels)
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    def wanted(self, feed: Feed) -> bool:
        """Return True when a symbol is cold and its history is to be loaded."""
        cold = feed.trade_time is None and not feed.closed
        return cold and (self._hours > 0 or (self._bars is not None and self._bars.wanted(feed)))

    async def load(self, feed: Feed, history: Source, trades: Source, now: int) -> None:
        """Write a symbol's history. Data that the venue does not serve is left out and logged. The live streams start in any case.

        Args:
            feed: The symbol. history, trades: Its sources in the merge, for trades and for the rest. The caller lets ``trades`` leave.
            now: The venue's clock, ms UTC.
        """
        since = now - int(self._hours * HOUR_MS)
        if self._bars is not None:
            self._bars.begin(feed, now, self._hours)
            await self._bars.first(feed, history, since, now)
        count = await self._others(feed, history, since, now) if self._hours > 0 else 0
        self._pipeline.leave(history)
        before = self._backfill.trades
        if self._hours > 0 and self._has_trades:
            await self._trades(feed, trades, since)
        self._log.info("history loaded", symbol=feed.symbol, hours=self._hours, trades=self._backfill.trades - before, others=count)

    async def _others(self, feed: Feed, source: Source, since: int, now: int) -> int:
        try:
            found = await self._adapter.history(self._rest, feed.market, since, now)
        except (RestError, MappingError) as error:
            found = []  # the trades are loaded all the same
            self._log.warning("no history of funding and indicators", symbol=feed.symbol, error=str(error)[:300])
        count = 0
        for topic, record in sorted(found, key=lambda entry: int(entry[1]["event_time"])):
            try:
                self._pipeline.advance(source, record["event_time"])
                self._feeds.polled(feed, topic, record, source)
            except CodecError as error:
                self._gap_repair.refuse(repr(record).encode(), f"history {topic}", str(error), error.field, feed.instrument)
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
