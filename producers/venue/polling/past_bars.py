"""Fetches the venue's bars on a cold start, until a whole bar of our own trades has begun.

The bar in which our trades begin is incomplete. It is replaced by the venue's bar, fetched once it has ended. From the next bar on ours
count. The market state finds that bar from the trades (``stream_apps.core.market.atr``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from producers.output.pipeline import Pipeline, Source
from producers.venue.adapter import klines
from producers.venue.adapter.base import Adapter, MappingError, RejectedRow
from producers.venue.network.rest import Rest, RestError
from producers.venue.state.feed import Feed
from producers.venue.streams.feeds import Feeds
from producers.venue.streams.gap_repair import GapRepair
from schemas import metrics
from schemas.codec.avro import CodecError

# Seconds between two checks for an ended bar, and the shortest wait after a failed request.
LOOK_S = 1.0
AGAIN_S = 10.0


class PastBars:
    """Fetches bars of symbols whose trades have just begun.

    Args:
        adapter: The venue. rest: its REST client. feeds: The symbols. gap_repair: Refuses bad rows. pipeline: Writes the records.
        recorded: Poll recorded instruments too.
        look_s: See ``LOOK_S``.
    """

    def __init__(
        self,
        adapter: Adapter,
        rest: Rest,
        feeds: Feeds,
        gap_repair: GapRepair,
        pipeline: Pipeline,
        *,
        recorded: bool = False,
        look_s: float = LOOK_S,
    ) -> None:
        self.bars = 0
        self._adapter = adapter
        self._rest = rest
        self._feeds = feeds
        self._gap_repair = gap_repair
        self._pipeline = pipeline
        self._recorded = recorded
        self._look_s = look_s
        self._again: dict[str, float] = {}  # symbol -> time.monotonic() before which it is not asked again
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    def wanted(self, feed: Feed) -> bool:
        """Return True when a symbol needs the venue's bars."""
        return self._adapter.kline_page > 0 and not feed.closed and (self._recorded or not feed.recorded)

    def begin(self, feed: Feed, now: int, hours: float = 0.0) -> None:
        """Request a symbol's bars of the last hours, at least 30. ``now`` is the venue's clock, ms UTC."""
        if self.wanted(feed):
            feed.klines_to = now // klines.FRAME_MS * klines.FRAME_MS - max(klines.LEAST_BARS * klines.FRAME_MS, int(hours * 3_600_000))

    def resume(self, feed: Feed, last: int, now: int) -> None:
        """Continue after the newest bar in the log (its end) if needed. The run before may have ended within the first bar."""
        if self.wanted(feed) and now - last < klines.FRAME_MS * 12:
            feed.klines_to, feed.begun = last, now

    async def load(self, feed: Feed, now: int, write: Callable[[klines.Record], None]) -> None:
        """Fetch the bars that ended since the newest known one and pass them to ``write``. Failures are tried again later."""
        if feed.klines_to is None:
            return
        try:
            found = await klines.past(self._adapter, self._rest, feed.market, feed.klines_to, now, self._gap_repair.wall_ms())
        except (RestError, MappingError) as error:
            self._again[feed.symbol] = time.monotonic() + AGAIN_S
            self._log.warning("no bars of the venue", symbol=feed.symbol, error=str(error)[:300])
            return
        for row in found:
            if isinstance(row, RejectedRow):
                self._gap_repair.refuse(row.raw, f"rest klines {feed.symbol}", str(row.error), row.error.field, feed.instrument)
                continue
            try:
                write(row)
            except CodecError as error:
                self._gap_repair.refuse(repr(row).encode(), f"rest klines {feed.symbol}", str(error), error.field, feed.instrument)
                continue
            feed.klines_to = max(feed.klines_to, row["event_time"])
            self.bars += 1
            metrics.BACKFILLED_BARS.labels(self._adapter.venue).inc()
        if now - klines.SETTLED_MS - feed.klines_to >= klines.FRAME_MS:
            self._again[feed.symbol] = time.monotonic() + AGAIN_S  # the response lacked the newest bar

    async def first(self, feed: Feed, source: Source, since: int, now: int) -> None:
        """Fetch a cold symbol's bars into a back-fill: each in the step of its time, bars before ``since`` at the beginning."""

        def write(record: klines.Record) -> None:
            self._pipeline.advance(source, max(since, record["event_time"]))
            self._pipeline.emit(source, "klines", feed.partition, record)

        await self.load(feed, now, write)

    async def run(self) -> None:
        """Fetch the missing bars, each once it has ended, until cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            clock = self._pipeline.sequencer.clock
            if clock is None or self._pipeline.sequencer.last is None:
                continue
            for feed in list(self._feeds.feeds.values()):
                if feed.klines_to is not None:
                    await self._follow(feed, clock)

    async def _follow(self, feed: Feed, clock: int) -> None:
        assert feed.klines_to is not None
        if feed.begun is None:
            feed.begun = feed.trade_time  # or a little later; one bar more than needed does no harm
        if feed.closed or (feed.begun is not None and feed.klines_to >= feed.begun):
            feed.klines_to = None
            return
        if clock - klines.SETTLED_MS - feed.klines_to < klines.FRAME_MS or time.monotonic() < self._again.get(feed.symbol, 0.0):
            return
        await self.load(feed, clock, lambda record: self._pipeline.emit_aside("klines", feed.partition, record))
