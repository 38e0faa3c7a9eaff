"""Keeping the order books in step with the depth streams: snapshots, top levels out, invalid at once when the sequence breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import structlog

from producers.binance import mapping
from producers.binance.book import Outcome, Top
from producers.binance.holes import Holes
from producers.binance.mapping import VENUE, MappingError
from producers.binance.rest import Rest, RestError
from producers.binance.state import SNAPSHOT_PAUSE_S, Feed, Stream
from producers.pipeline import Pipeline, Source
from schemas import metrics
from schemas.codec import Record

SNAPSHOT_PAUSE_CAP_S = 32.0


class Books:
    """The order books of all symbols.

    Args:
        pipeline: Where records go. rest: for snapshots. holes: gap rows and holding.
    """

    def __init__(self, pipeline: Pipeline, rest: Rest, holes: Holes) -> None:
        self._pipeline = pipeline
        self._rest = rest
        self._holes = holes
        self._log = structlog.get_logger().bind(venue=VENUE)

    def depth(self, stream: Stream, data: dict[str, Any], clock: int, received: int) -> Awaitable[None] | None:
        """Take a depthUpdate; the awaitable, if any, holds the reader while a snapshot is fetched. Raises MappingError."""
        feed = stream.feed
        diff = mapping.depth_diff(data)
        source = stream.line.source
        self._pipeline.advance(source, clock)
        before = feed.book.last_time
        outcome = feed.book.diff(diff)
        if outcome is Outcome.APPLIED:
            self._emit_top(feed, source, feed.book.top(), received)
            return None
        if outcome is Outcome.IGNORED:
            self._holes.duplicates += 1
            return None
        if outcome is Outcome.GAP:
            first, last = feed.book.gap or (None, None)
            self._pipeline.emit(source, "depth", feed.partition, self._invalid(feed, diff.time, received))
            feed.broken = self._holes.emit_gap(
                feed, source, "depth", "sequence_gap", diff.time, certain=True, ids=(first, last), times=(before, diff.time),
                repaired=False, detail="book invalid, resynchronising",
            )  # fmt: skip
            metrics.BOOK_RESYNCS.labels(VENUE, "gap").inc()
        elif outcome is Outcome.STALE:
            metrics.BOOK_RESYNCS.labels(VENUE, "stale snapshot").inc()
        return self._need_snapshot(feed, source)

    def _invalid(self, feed: Feed, time_ms: int, received: int) -> Record:
        return {
            "instrument": feed.instrument,
            "event_time": time_ms,
            "receive_time": received,
            "epoch": feed.book.epoch,
            "state": "invalid",
            "last_update_id": feed.book.last_update_id,
            "bid_prices": [],
            "bid_quantities": [],
            "ask_prices": [],
            "ask_quantities": [],
        }

    def _emit_top(self, feed: Feed, source: Source, top: Top, received: int) -> None:
        record = {
            "instrument": feed.instrument,
            "event_time": top.time,
            "receive_time": received,
            "epoch": feed.book.epoch,
            "state": "live",
            "last_update_id": top.last_update_id,
            "bid_prices": top.bid_prices,
            "bid_quantities": top.bid_quantities,
            "ask_prices": top.ask_prices,
            "ask_quantities": top.ask_quantities,
        }
        self._pipeline.emit(source, "depth", feed.partition, record)
        if feed.broken is not None:
            gap, feed.broken = feed.broken, None
            detail = f"resynchronised in epoch {feed.book.epoch}"
            record = {**gap, "event_time": top.time, "receive_time": received, "to_time": top.time, "repaired": True, "detail": detail}
            self._pipeline.emit(source, "gaps", feed.partition, record)

    def _need_snapshot(self, feed: Feed, source: Source) -> Awaitable[None] | None:
        if feed.snapshot is not None:
            return None  # on its way; its connection was held for it long enough
        at_once = time.monotonic() >= feed.snapshot_after
        feed.snapshot = self._holes.task(self._sync(feed, source), source)
        # A request that must wait its turn would hold the whole connection for one symbol's sake.
        return self._holes.hold(feed.snapshot, source) if at_once else None

    async def _sync(self, feed: Feed, source: Source) -> None:
        """Fetch snapshots until the book is live or follows the stream again."""
        try:
            while feed.book.waiting:
                await asyncio.sleep(max(0.0, feed.snapshot_after - time.monotonic()))
                feed.snapshot_after = time.monotonic() + feed.snapshot_pause
                try:
                    snapshot = mapping.depth_snapshot(await self._rest.depth(feed.symbol))
                except (RestError, MappingError) as error:
                    feed.snapshot_pause = min(SNAPSHOT_PAUSE_CAP_S, feed.snapshot_pause * 2)
                    feed.snapshot_after = time.monotonic() + feed.snapshot_pause
                    self._log.warning("no depth snapshot", symbol=feed.symbol, error=str(error), next_s=feed.snapshot_pause)
                    continue
                feed.snapshot_pause = SNAPSHOT_PAUSE_S
                tops, again = feed.book.load(snapshot)
                received = self._holes.wall_ms()
                for top in tops:
                    self._emit_top(feed, source, top, received)
                if again and tops:
                    self._pipeline.emit(source, "depth", feed.partition, self._invalid(feed, tops[-1].time, received))
        finally:
            feed.snapshot = None
