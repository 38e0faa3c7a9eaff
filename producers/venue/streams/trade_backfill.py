"""Fetches missing trades over REST: by id if ids are consecutive, else from the venue's newest trades."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from producers.output.pipeline import Pipeline, Source
from producers.venue.adapter.base import Adapter, MappingError, RejectedRow
from producers.venue.network.rest import Rest, RestError
from producers.venue.state.feed import Feed, Stream
from producers.venue.state.trade_ids import Verdict
from producers.venue.streams.gap_repair import GapRepair
from schemas import metrics
from schemas.codec.avro import CodecError, Record

# REST may lag the stream by a moment. Number of repeated requests for ids that the stream has already passed.
LAG_TRIES = 5
LAG_PAUSE_S = 0.25
# Number of background repairs before a gap is given up.
REPAIR_TRIES = 10


class BackFill:
    """Fills gaps in the trades of all symbols.

    Args:
        adapter: The venue. pipeline: Writes the records. rest: Serves the trades. gap_repair: Writes gap rows and holds readers.
    """

    def __init__(self, adapter: Adapter, pipeline: Pipeline, rest: Rest, gap_repair: GapRepair) -> None:
        self.trades = 0
        self._repairing = asyncio.Lock()
        self._adapter = adapter
        self._pipeline = pipeline
        self._rest = rest
        self._gap_repair = gap_repair
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    @property
    def busy(self) -> bool:
        """True while REST is busy."""
        return self._rest.limiter.busy

    # --- consecutive ids ---------------------------------------------------------------------------------------------

    async def before(self, stream: Stream, record: Record, clock: int) -> None:
        """Fill the gap before a trade, then write the trade."""
        feed, source = stream.feed, stream.line.source
        first, last = (feed.ids.last or 0) + 1, record["agg_id"] - 1
        before = feed.trade_time
        busy = self._rest.limiter.busy
        fill = self._gap_repair.task(self.fill(feed, source, first, last), source)
        await self._gap_repair.hold_unless(busy, fill, source, lambda: self.trades)
        if not fill.done():
            outcome = "REST is slow: the back-fill continues"
            fill.add_done_callback(lambda _: self._filled_later(feed, source, first, last))
        elif fill.result() is None:
            outcome = "filled over REST"
        else:
            outcome = str(fill.result())
        feed.ids.skip(record["agg_id"])
        self._gap_repair.emit_gap(
            feed, source, "agg_trades", "id_gap", record["event_time"], certain=True, ids=(first, last), times=(before, record["event_time"]),
            repaired=not feed.ids.lacks(first, last), detail=outcome,
        )  # fmt: skip
        self._pipeline.advance(source, clock)
        if feed.ids.offer(record["agg_id"]) is Verdict.NEW:
            self._pipeline.emit(source, "agg_trades", feed.partition, record)
            feed.trade_time = record["event_time"]

    def _filled_later(self, feed: Feed, source: Source, first: int, last: int) -> None:
        """Report that an open gap is filled. ``repair`` tries again to fill a gap that is still open."""
        if not feed.ids.lacks(first, last):
            feed.repairs.pop((first, last), None)
            self._emit_repaired(feed, source, first, last)

    def _emit_repaired(self, feed: Feed, source: Source, first: int, last: int) -> None:
        self._gap_repair.emit_gap(
            feed, source, "agg_trades", "id_gap", feed.trade_time or 0, certain=True, ids=(first, last), times=(None, None),
            repaired=True, detail="filled over REST later",
        )  # fmt: skip

    async def fill(self, feed: Feed, source: Source, first: int, last: int | None) -> str | None:
        """Fetch trades ``first``..``last`` over REST and write the new ones. ``last`` None: all that the venue has.

        Returns:
            None when the range is complete, else the problem.
        """
        at, tries = first, 0
        while last is None or at <= last:
            try:
                rows, full = await self._adapter.trades_from(self._rest, feed.market, at, self._gap_repair.wall_ms())
            except (RestError, MappingError) as error:
                self._log.warning("back-fill failed", symbol=feed.symbol, from_id=at, to_id=last, error=str(error))
                return f"back-fill failed: {error}"
            newest = self._take_page(feed, source, rows, last)
            if newest is not None:
                at, tries = newest + 1, 0
            if last is None and not full:
                return None
            if newest is None:
                tries += 1
                if tries >= LAG_TRIES:
                    return f"the venue does not serve the ids from {at}"
                await asyncio.sleep(LAG_PAUSE_S)
            if self._pipeline.must_wait(source):
                await self._pipeline.gate(source)
        return "some trades of the range are missing" if last is not None and feed.ids.lacks(first, last) else None

    def _take_page(self, feed: Feed, source: Source, rows: Iterable[Record | RejectedRow], last: int | None) -> int | None:
        """Write the new trades of a page. Return its newest id (at most ``last``), None for an empty page."""
        newest: int | None = None
        for record in rows:
            if isinstance(record, RejectedRow):
                self._refuse(feed, record.raw, record.error)
                continue
            trade_id = record["agg_id"]
            if last is not None and trade_id > last:
                return last  # the venue has nothing (more) below it
            newest = trade_id
            verdict = feed.ids.offer(trade_id)
            if verdict is Verdict.GAP:
                if last is None:  # else the row of the whole range covers it
                    self._gap_repair.emit_gap(
                        feed, source, "agg_trades", "id_gap", record["event_time"], certain=True,
                        ids=((feed.ids.last or 0) + 1, trade_id - 1), times=(feed.trade_time, record["event_time"]),
                        repaired=False, detail="the venue no longer serves them",
                    )  # fmt: skip
                feed.ids.skip(trade_id)
                verdict = feed.ids.offer(trade_id)
            if verdict is Verdict.NEW:
                self._write(feed, source, record)
        return newest

    async def repair(self, streams: Iterable[Stream]) -> None:
        """Try again to fetch the missing trades. Gaps that the venue never serves are given up after some rounds.

        One round runs at a time. A connection that ends waits for the running round before it leaves the merge; later rounds skip it.
        """
        async with self._repairing:
            for stream in streams:
                if not stream.line.ended:
                    await self._repair(stream)

    async def _repair(self, stream: Stream) -> None:
        feed = stream.feed
        for first, last in list(feed.ids.missing):
            tried = feed.repairs.get((first, last), 0) + 1
            if tried > REPAIR_TRIES:
                continue
            feed.repairs[first, last] = tried
            problem = await self.fill(feed, stream.line.source, first, last)
            if not feed.ids.lacks(first, last):
                feed.repairs.pop((first, last), None)
                self._emit_repaired(feed, stream.line.source, first, last)
            elif tried == REPAIR_TRIES:
                self._log.error("trades are lost", symbol=feed.symbol, from_id=first, to_id=last, problem=problem)

    # --- other ids ---------------------------------------------------------------------------------------------------

    async def since(self, feed: Feed, source: Source, lost: int, clock: int | None, kind: str) -> None:
        """Fetch the trades since a time (ms UTC), write the new ones, and report how far back they reached.

        Args:
            feed, source: The symbol, and the source in the merge. lost: Start of the possibly missing trades, venue time.
            clock: Venue time at which the stream resumed, for the gap row; None: that of the newest fetched trade.
            kind: Kind of the gap row, e.g. ``disconnect``.
        """
        before = self.trades
        # The newest trade in the log is fetched again. Its presence proves that no trade is missing in between.
        since = lost if feed.trade_time is None else min(lost, feed.trade_time)
        try:
            rows, complete = await self._adapter.trades_since(self._rest, feed.market, since, self._gap_repair.wall_ms())
        except (RestError, MappingError) as error:
            rows, complete, detail = [], False, f"back-fill failed: {error}"
        else:
            detail = "filled over REST" if complete else "the venue's newest trades do not reach back so far"
        oldest = self._take_recent(feed, source, rows)
        self._gap_repair.emit_gap(
            feed, source, "agg_trades", kind, clock or feed.trade_time or lost, certain=False, ids=(None, None),
            times=(since, clock or feed.trade_time if complete else oldest), repaired=complete,
            detail=f"{detail} ({self.trades - before} trades)",
        )  # fmt: skip

    def _take_recent(self, feed: Feed, source: Source, rows: Iterable[Record | RejectedRow]) -> int | None:
        """Write the trades of a response that are not in the log. Return the time of the oldest one."""
        oldest: int | None = None
        for record in rows:
            if isinstance(record, RejectedRow):
                self._refuse(feed, record.raw, record.error)
                continue
            oldest = record["event_time"] if oldest is None else min(oldest, record["event_time"])
            number = feed.recent.offer(record["venue_trade_id"], record["event_time"])
            if number is not None:
                self._write(feed, source, {**record, "agg_id": number, "first_trade_id": number, "last_trade_id": number})
        return oldest

    # --- both --------------------------------------------------------------------------------------------------------

    def _write(self, feed: Feed, source: Source, record: Record) -> None:
        try:
            self._pipeline.advance(source, record["event_time"])
            self._pipeline.emit(source, "agg_trades", feed.partition, record)
        except CodecError as error:
            self._refuse(feed, repr(record).encode(), error)
            return
        feed.trade_time = max(feed.trade_time or 0, record["event_time"])
        if feed.begun is None:
            feed.begun = record["event_time"]
        self.trades += 1
        metrics.BACKFILLED.labels(self._adapter.venue).inc()

    def _refuse(self, feed: Feed, raw: bytes, error: MappingError | CodecError) -> None:
        self._gap_repair.refuse(raw, f"rest trades {feed.symbol}", str(error), error.field, feed.instrument)
