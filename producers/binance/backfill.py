"""Missing trades fetched over REST by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
import structlog

from producers.binance import mapping
from producers.binance.holes import Holes
from producers.binance.mapping import VENUE, MappingError
from producers.binance.rest import PAGE, Rest, RestError
from producers.binance.state import Feed, Stream
from producers.binance.trades import Verdict
from producers.pipeline import Pipeline, Source
from schemas import metrics
from schemas.codec import CodecError, Record

# REST may lag the stream by a moment: asked again so often for ids that the stream has already passed.
LAG_TRIES = 5
LAG_PAUSE_S = 0.25
# Background repairs of a hole before it is given up.
REPAIR_TRIES = 10


class BackFill:
    """Mends holes in the trades of all symbols.

    Args:
        pipeline: Where records go. rest: where trades come from. holes: gap rows and holding.
    """

    def __init__(self, pipeline: Pipeline, rest: Rest, holes: Holes) -> None:
        self.trades = 0
        self._pipeline = pipeline
        self._rest = rest
        self._holes = holes
        self._log = structlog.get_logger().bind(venue=VENUE)

    async def before(self, stream: Stream, record: Record, clock: int) -> None:
        """Mend the hole before a trade, then write the trade."""
        feed, source = stream.feed, stream.line.source
        first, last = (feed.ids.last or 0) + 1, record["agg_id"] - 1
        before = feed.trade_time
        fill = self._holes.task(self.fill(feed, source, first, last), source)
        await self._holes.hold(fill, source, lambda: self.trades)
        if not fill.done():
            outcome = "REST is slow: the back-fill goes on"
        elif fill.result() is None:
            outcome = "filled over REST"
        else:
            outcome = str(fill.result())
        feed.ids.skip(record["agg_id"])
        self._holes.emit_gap(
            feed, source, "agg_trades", "id_gap", record["event_time"], certain=True, ids=(first, last), times=(before, record["event_time"]),
            repaired=not feed.ids.lacks(first, last), detail=outcome,
        )  # fmt: skip
        self._pipeline.advance(source, clock)
        if feed.ids.offer(record["agg_id"]) is Verdict.NEW:
            self._pipeline.emit(source, "agg_trades", feed.partition, record)
            feed.trade_time = record["event_time"]

    async def fill(self, feed: Feed, source: Source, first: int, last: int | None) -> str | None:
        """Fetch trades ``first``..``last`` over REST and write those that are new; ``last`` None: all that the venue has.

        Returns:
            None when the range is complete, else what is wrong.
        """
        at, tries = first, 0
        while last is None or at <= last:
            try:
                rows = await self._rest.agg_trades(feed.symbol, at)
            except RestError as error:
                self._log.warning("back-fill failed", symbol=feed.symbol, from_id=at, to_id=last, error=str(error))
                return f"back-fill failed: {error}"
            newest = self._take_page(feed, source, rows, last)
            if newest is not None:
                at, tries = newest + 1, 0
            if last is None and len(rows) < PAGE:
                return None
            if newest is None:
                tries += 1
                if tries >= LAG_TRIES:
                    return f"the venue does not serve the ids from {at}"
                await asyncio.sleep(LAG_PAUSE_S)
            if self._pipeline.must_wait(source):
                await self._pipeline.gate(source)
        return "some trades of the range are missing" if last is not None and feed.ids.lacks(first, last) else None

    def _take_page(self, feed: Feed, source: Source, rows: list[dict[str, Any]], last: int | None) -> int | None:
        """Write the new trades of a page; return the newest id in it (cut at ``last``), None for an empty page."""
        received = self._holes.wall_ms()
        newest: int | None = None
        for row in rows:
            try:
                record = mapping.agg_trade(row, feed.instrument, received, backfilled=True)
                trade_id = record["agg_id"]
                if last is not None and trade_id > last:
                    return last  # the venue has nothing (more) below it
                newest = trade_id
                verdict = feed.ids.offer(trade_id)
                if verdict is Verdict.GAP:
                    if last is None:  # else the row of the whole range says it
                        self._holes.emit_gap(
                            feed, source, "agg_trades", "id_gap", record["event_time"], certain=True,
                            ids=((feed.ids.last or 0) + 1, trade_id - 1), times=(feed.trade_time, record["event_time"]),
                            repaired=False, detail="the venue no longer serves them",
                        )  # fmt: skip
                    feed.ids.skip(trade_id)
                    verdict = feed.ids.offer(trade_id)
                if verdict is Verdict.NEW:
                    self._pipeline.advance(source, record["event_time"])
                    self._pipeline.emit(source, "agg_trades", feed.partition, record)
                    feed.trade_time = max(feed.trade_time or 0, record["event_time"])
                    self.trades += 1
                    metrics.BACKFILLED.labels(VENUE).inc()
            except (MappingError, CodecError) as error:
                self._holes.refuse(orjson.dumps(row), f"rest aggTrades {feed.symbol}", str(error), error.field, feed.instrument)
        return newest

    async def repair(self, streams: Iterable[Stream]) -> None:
        """Try once more to fetch what is still missing; holes that the venue never serves are given up after some rounds."""
        for stream in streams:
            feed = stream.feed
            for first, last in list(feed.ids.missing):
                tried = feed.repairs.get((first, last), 0) + 1
                if tried > REPAIR_TRIES:
                    continue
                feed.repairs[first, last] = tried
                problem = await self.fill(feed, stream.line.source, first, last)
                if not feed.ids.lacks(first, last):
                    del feed.repairs[first, last]
                    self._holes.emit_gap(
                        feed, stream.line.source, "agg_trades", "id_gap", feed.trade_time or 0, certain=True, ids=(first, last),
                        times=(None, None), repaired=True, detail="filled over REST later",
                    )  # fmt: skip
                elif tried == REPAIR_TRIES:
                    self._log.error("trades are lost", symbol=feed.symbol, from_id=first, to_id=last, problem=problem)
