"""Keeps the order books in step with the depth streams, and writes their top levels. A broken sequence makes a book invalid at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import structlog

from producers.output.pipeline import Pipeline, Source
from producers.venue.adapter.base import Adapter, BookDiff, BookSnapshot, MappingError
from producers.venue.network.rest import Rest, RestError
from producers.venue.state.feed import SNAPSHOT_PAUSE_S, Feed, Stream
from producers.venue.state.order_book import APPLIED, Outcome, Top
from producers.venue.streams.gap_repair import GapRepair
from schemas import metrics
from schemas.codec.avro import Record

SNAPSHOT_PAUSE_CAP_S = 32.0


class BookSync:
    """The order books of all symbols.

    Args:
        adapter: The venue. pipeline: Writes the records. rest: Serves snapshots. gap_repair: Writes gap rows and holds readers.
    """

    def __init__(self, adapter: Adapter, pipeline: Pipeline, rest: Rest, gap_repair: GapRepair) -> None:
        self._adapter = adapter
        self._pipeline = pipeline
        self._rest = rest
        self._gap_repair = gap_repair
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    def take(self, stream: Stream, change: BookDiff | BookSnapshot, received: int, thin: bool) -> Awaitable[None] | None:
        """Take a change of a book. Its connection's clock is already advanced.

        Args:
            stream, change: The stream and its change. received: Our clock, ms UTC. thin: Update the book but write nothing, because the
            producer is behind.

        Returns:
            An awaitable that holds the reader during a snapshot request, if one is needed.
        """
        feed, book = stream.feed, stream.feed.book
        before = book.last_time
        was_live = book.live
        outcome = book.diff(change) if isinstance(change, BookDiff) else book.replace(change)
        if outcome is APPLIED:
            if isinstance(change, BookSnapshot) and book.mode == "stream" and was_live:
                metrics.BOOK_RESYNCS.labels(self._adapter.venue, "venue").inc()
            if not thin or feed.broken is not None:
                self._emit_top(feed, stream.line.source, book.top(), received)
            return None
        if outcome is Outcome.IGNORED:
            self._gap_repair.duplicates += 1
            return None
        if outcome in (Outcome.GAP, Outcome.CHECKSUM):
            self._break(stream, outcome, (change.time or 0) or before or 0, before, received)
        elif outcome is Outcome.STALE:
            metrics.BOOK_RESYNCS.labels(self._adapter.venue, "stale snapshot").inc()
        return self._need_snapshot(stream)

    def lost(self, stream: Stream, clock: int, received: int) -> None:
        """Invalidate a book after its connection broke. It is valid again after the stream's next snapshot."""
        feed = stream.feed
        if feed.book.live and feed.book.mode == "stream":
            self._emit_invalid(feed, stream.line.source, clock, received)
            feed.book.invalidate()

    def _break(self, stream: Stream, outcome: Outcome, at: int, before: int | None, received: int) -> None:
        feed, source = stream.feed, stream.line.source
        self._emit_invalid(feed, source, at, received)
        kind = "sequence_gap" if outcome is Outcome.GAP else "checksum"
        feed.broken = self._gap_repair.emit_gap(
            feed, source, "depth", kind, at, certain=True, ids=feed.book.gap or (None, None), times=(before, at),
            repaired=False, detail="book invalid, resynchronising",
        )  # fmt: skip
        metrics.BOOK_RESYNCS.labels(self._adapter.venue, "gap" if outcome is Outcome.GAP else "checksum").inc()

    def _emit_invalid(self, feed: Feed, source: Source, time_ms: int, received: int) -> None:
        record: Record = {
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
        self._pipeline.emit(source, "depth", feed.partition, record)

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

    # --- synchronising -----------------------------------------------------------------------------------------------

    def _need_snapshot(self, stream: Stream) -> Awaitable[None] | None:
        feed, source = stream.feed, stream.line.source
        if feed.snapshot is not None:
            return None  # the request is running; its connection was held long enough
        if feed.book.mode != "rest":
            feed.snapshot = self._gap_repair.task(self._subscribe_again(stream), source)
            return None  # the snapshot arrives on this connection, so reading must continue
        at_once = time.monotonic() >= feed.snapshot_after and not self._rest.limiter.busy
        feed.snapshot = self._gap_repair.task(self._sync(feed, source), source)
        # A waiting request would hold the whole connection for one symbol.
        return self._gap_repair.hold(feed.snapshot, source) if at_once else None

    async def _sync(self, feed: Feed, source: Source) -> None:
        """Fetch snapshots until the book is live or follows the stream again."""
        try:
            while feed.book.waiting:
                await asyncio.sleep(max(0.0, feed.snapshot_after - time.monotonic()))
                feed.snapshot_after = time.monotonic() + feed.snapshot_pause
                try:
                    snapshot = await self._adapter.snapshot(self._rest, feed.symbol)
                except (RestError, MappingError) as error:
                    self._later(feed)
                    self._log.warning("no depth snapshot", symbol=feed.symbol, error=str(error), next_s=feed.snapshot_pause)
                    continue
                feed.snapshot_pause = SNAPSHOT_PAUSE_S
                tops, again = feed.book.load(snapshot)
                received = self._gap_repair.wall_ms()
                for top in tops:
                    self._emit_top(feed, source, top, received)
                if again and tops:
                    self._emit_invalid(feed, source, tops[-1].time, received)
        finally:
            feed.snapshot = None

    async def _subscribe_again(self, stream: Stream) -> None:
        """Subscribe again until the book is live. The stream begins with the snapshot."""
        feed = stream.feed
        try:
            while feed.book.waiting:
                await asyncio.sleep(max(0.0, feed.snapshot_after - time.monotonic()))
                if not feed.book.waiting:
                    break
                if stream.line.connection is not None:
                    for message in self._adapter.resubscribe(feed.symbol, stream.channel):
                        stream.line.connection.send(message)
                self._later(feed)
            feed.snapshot_pause = SNAPSHOT_PAUSE_S
        finally:
            feed.snapshot = None

    @staticmethod
    def _later(feed: Feed) -> None:
        feed.snapshot_after = time.monotonic() + feed.snapshot_pause
        feed.snapshot_pause = min(SNAPSHOT_PAUSE_CAP_S, feed.snapshot_pause * 2)
