"""Turns frames into records: every message is checked, mapped, deduplicated, and passed to the pipeline.

Gaps are filled over REST while the reader of their connection is held, for a bounded time. So filled records come in their place, and the
log depends only on the venue's messages. A slower REST interface fills gaps in the background.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

import structlog

from producers.output.pipeline import Pipeline, Source
from producers.venue.adapter.base import Adapter, BookDiff, BookSnapshot, Channel, Event, MappingError, Message, Scanned
from producers.venue.state.feed import ConnectionState, Feed, Stream, StreamState
from producers.venue.state.trade_ids import DUPLICATE, GAP
from producers.venue.streams.book_sync import BookSync
from producers.venue.streams.gap_repair import GapRepair
from producers.venue.streams.trade_backfill import BackFill
from schemas import metrics
from schemas.codec.avro import CodecError, Record
from schemas.codec.recordwriter import text_bytes

# Up to this number, frames are read one by one, because a bulk call has a fixed cost.
FEW_FRAMES = 4
# The delay histogram takes every n-th frame. The sample has the same shape at a fraction of the cost.
DELAY_SAMPLE = 16
# More trades than in the two days that REST serves. An id further ahead is a broken frame, not a gap.
MAX_JUMP = 20_000_000
# Venue time between two records of a symbol's depth and quotes while thinning out, ms: the step of the progress marks.
THIN_MS = 250
# A stream without messages for this time after a reconnect counts as subscribed and quiet.
MISSED_AFTER_S = 15.0
# Fields that distinguish messages of a venue's streams. The schedule is filled in for all of them.
FUNDING_VALUES = ("mark_price", "index_price", "estimated_settle_price", "estimated_rate", "settled_rate")


class Feeds:
    """All symbols of one producer.

    Args:
        adapter: The venue.
        pipeline: Writes the records. books, backfill, gap_repair: Keep order books, fill gaps, and report them.
        conflate_after_s: Delay behind the venue, seconds, above which depth and quotes are thinned out.
    """

    def __init__(
        self,
        adapter: Adapter,
        pipeline: Pipeline,
        books: BookSync,
        backfill: BackFill,
        gap_repair: GapRepair,
        conflate_after_s: float = 5.0,
    ) -> None:
        self.feeds: dict[str, Feed] = {}
        self.streams: dict[str, Stream] = {}
        self.frames_read = 0
        self.thinned = 0
        self._adapter = adapter
        self._venue = adapter.venue
        self._split = adapter.split
        self._take = adapter.take
        self._consecutive = adapter.consecutive_ids
        self._books = books
        self._pipeline = pipeline
        self._backfill = backfill
        self._gap_repair = gap_repair
        self._conflate_after_ms = conflate_after_s * 1000
        # Stream names of whole-market subscriptions begin with the channel's name.
        self._whole_market = tuple(channel.name for channel in adapter.channels if channel.whole_market)
        self._log = structlog.get_logger().bind(venue=adapter.venue)

    def subscribe(self, feed: Feed, channel: Channel, line: ConnectionState) -> None:
        """Add a symbol's stream to a connection."""
        name = self._adapter.wire_name(feed.symbol, channel)
        stream = Stream(name, channel, feed, line, time.monotonic())
        self.feeds[feed.symbol] = feed
        self.streams[name] = stream
        line.streams.append(stream)

    def compile(self, line: ConnectionState) -> None:
        """Read the frames of a connection in bulk from now on, if the adapter can. All its streams are subscribed by now."""
        line.scanned = list(line.streams)
        markets = [(stream.name, stream.channel, stream.feed.market) for stream in line.scanned]
        line.scanner = self._adapter.scanner(markets, self._pipeline.codec)
        if line.scanner is not None:
            for stream in line.scanned:
                if stream.channel.topic == "depth":
                    stream.feed.book.compile(self._pipeline.codec.header("depth") + text_bytes(stream.feed.instrument))

    # --- frames ------------------------------------------------------------------------------------------------------

    def frames(self, line: ConnectionState, raws: Sequence[bytes]) -> Iterator[Awaitable[None]]:
        """Take frames of a connection in their order.

        Yields:
            Awaitables of gap repairs. The caller awaits each before it takes the next frame.
        """
        scanner = line.scanner
        if scanner is None or len(raws) < FEW_FRAMES:
            for raw in raws:
                held = self.frame(line, raw)
                if held is not None:
                    yield held
            return
        received = self._gap_repair.wall_ms()
        line.source.heard = time.monotonic()
        found = scanner.scan(raws, received)
        for row, index in enumerate(found.streams):
            if index < 0 or not self._scanned(line, line.scanned[index], found, row, received):
                held = self.frame(line, raws[row])
                if held is not None:
                    yield held

    def _scanned(self, line: ConnectionState, stream: Stream, found: Scanned, row: int, received: int) -> bool:
        """Take a message that was read in bulk. Return False, without any change, unless it directly follows the stream's last one."""
        feed, source = stream.feed, line.source
        if line.lost_at is not None or stream.missed_since is not None or stream.silent:
            return False
        topic = stream.channel.topic
        clock, number, at = found.clocks[row], found.ids[row], found.times[row]
        late = received - clock > self._conflate_after_ms and not feed.recorded
        value: bytes | None = found.values[row]
        if topic == "agg_trades":
            if not feed.ids.follow(number):
                return False
            feed.trade_time = at
        elif topic == "quotes":
            update, newest = feed.quote
            if late or (number <= update and at <= newest):
                return False
            feed.quote = (number, at)
        else:
            if late or feed.broken is not None:
                return False
            value = feed.book.follow(found.previous[row], number, at, found.levels, found.spans[row], received)
        if value is None:
            return False
        if line.clock is None or clock > line.clock or source.suspended:
            self._pipeline.advance(source, clock)
            line.clock = clock if line.clock is None else max(clock, line.clock)
        self._pipeline.emit_encoded(source, topic, feed.partition, feed.market.instrument, value, at, received)
        self.frames_read += 1
        stream.seen = source.heard
        stream.count += 1
        stream.last_time = clock
        if stream.count % DELAY_SAMPLE == 0:
            metrics.RECEIVE_DELAY.labels(self._venue, stream.channel.name).observe(max(0, received - clock) / 1000)
        return True

    def frame(self, line: ConnectionState, raw: bytes) -> Awaitable[None] | None:
        """Take one frame of a connection. An unusable message becomes a dead letter with its bytes.

        Returns:
            An awaitable while a gap is being filled. Continue to read after it.
        """
        received = self._gap_repair.wall_ms()
        self.frames_read += 1
        line.source.heard = time.monotonic()
        try:
            parts = self._split(raw, received)
        except MappingError as error:
            stream = self.streams.get(error.record)
            instrument = None if stream is None else stream.feed.instrument
            field = None if error.field == "frame" else error.field  # the whole frame is invalid
            self._gap_repair.refuse(raw, "frame" if stream is None else stream.name, str(error), field, instrument)
            return None
        if len(parts) == 1:
            return self._part(line, parts[0], raw, received)
        for index, part in enumerate(parts):
            held = self._part(line, part, raw, received)
            if held is not None:
                return self._rest_of(line, parts[index + 1 :], raw, received, held) if index + 1 < len(parts) else held
        return None

    async def _rest_of(self, line: ConnectionState, parts: Sequence[Message], raw: bytes, received: int, held: Awaitable[None]) -> None:
        """Take the other messages of a frame after the gap before the first one is filled."""
        await held
        for part in parts:
            again = self._part(line, part, raw, received)
            if again is not None:
                await again

    def _part(self, line: ConnectionState, part: Message, raw: bytes, received: int) -> Awaitable[None] | None:
        name, clock, data = part
        stream = self.streams.get(name)
        if stream is None or stream.line is not line:
            if not name.startswith(self._whole_market) or not self._whole_market:
                self._gap_repair.refuse(raw, "frame", f"{name}: no stream of this connection", "stream", None)
            return None
        if clock == 0:
            clock = line.clock or received
        if line.lost_at is not None:
            self._outage(line, clock)
        try:
            events = self._take(stream.channel, data, stream.feed.market, received)
            if stream.missed_since is not None:
                result: Awaitable[None] | None = self._behind_what_was_missed(stream, events, clock, received, raw)
            else:
                result = self._events(stream, events, clock, received)
        except (MappingError, CodecError) as error:
            self._gap_repair.refuse(raw, stream.name, str(error), error.field, stream.feed.instrument)
            return None
        if line.clock is None or clock > line.clock:
            line.clock = clock
        stream.seen = line.source.heard
        stream.count += 1
        if stream.silent:
            self._heard_again(stream, clock)
        stream.last_time = clock
        if stream.count % DELAY_SAMPLE == 0:
            metrics.RECEIVE_DELAY.labels(self._venue, stream.channel.name).observe(max(0, received - clock) / 1000)
        return result

    def _events(self, stream: Stream, events: Sequence[Event], clock: int, received: int) -> Awaitable[None] | None:
        if len(events) == 1:
            return self._event(stream, events[0], clock, received)
        if not events:
            self._pipeline.advance(stream.line.source, clock)
            return None
        for index, event in enumerate(events):
            held = self._event(stream, event, clock, received)
            if held is not None:
                return self._events_after(stream, events[index + 1 :], clock, received, held) if index + 1 < len(events) else held
        return None

    async def _events_after(self, stream: Stream, events: Sequence[Event], clock: int, received: int, held: Awaitable[None]) -> None:
        await held
        for event in events:
            again = self._event(stream, event, clock, received)
            if again is not None:
                await again

    # --- contents of messages -------------------------------------------------------------------------------------------

    def _event(self, stream: Stream, event: Event, clock: int, received: int) -> Awaitable[None] | None:
        topic, what = event
        if topic == "agg_trades":
            assert isinstance(what, dict)
            return self._trade(stream, what, clock)
        self._pipeline.advance(stream.line.source, clock)
        if topic == "depth":
            assert isinstance(what, (BookDiff, BookSnapshot))
            return self._books.take(stream, what, received, self._thin(stream.feed, topic, clock, received))
        assert isinstance(what, dict)
        if topic == "quotes":
            self._quote(stream, what, clock, received)
        elif topic == "liquidations":
            self._liquidation(stream, what)
        else:
            self._newest(stream.feed, stream.line.source, topic, what)
        return None

    def _trade(self, stream: Stream, record: Record, clock: int) -> Awaitable[None] | None:
        feed = stream.feed
        source = stream.line.source
        if self._consecutive:
            number = record["agg_id"]
            verdict = feed.ids.offer(number)
            if verdict is GAP:
                if number > (feed.ids.last or 0) + MAX_JUMP:
                    raise MappingError(stream.name, "id", f"{number} is {number - (feed.ids.last or 0)} ids ahead")
                return self._backfill.before(stream, record, clock)
            self._pipeline.advance(source, clock)
            if verdict is DUPLICATE:
                self._gap_repair.duplicates += 1
                return None
        else:
            self._pipeline.advance(source, clock)
            assigned = feed.recent.offer(record["venue_trade_id"], record["event_time"])
            if assigned is None:
                self._gap_repair.duplicates += 1
                return None
            record["agg_id"] = record["first_trade_id"] = record["last_trade_id"] = assigned
        self._pipeline.emit(source, "agg_trades", feed.partition, record)
        feed.trade_time = record["event_time"]
        return None

    def _quote(self, stream: Stream, record: Record, clock: int, received: int) -> None:
        feed = stream.feed
        update, at = feed.quote
        if record["update_id"] <= update and record["event_time"] <= at:
            self._gap_repair.duplicates += 1  # or older than the newest one, which counts
            return
        feed.quote = (record["update_id"], record["event_time"])
        if not self._thin(feed, "quotes", clock, received):
            self._pipeline.emit(stream.line.source, "quotes", feed.partition, record)

    def _liquidation(self, stream: Stream, record: Record) -> None:
        feed = stream.feed
        print_ = (record["event_time"], record["side"], record["price"], record["quantity"], record["filled_quantity"])
        if print_ in feed.liquidations:
            self._gap_repair.duplicates += 1
            return
        feed.liquidations.append(print_)
        self._pipeline.emit(stream.line.source, "liquidations", feed.partition, record)

    def _newest(self, feed: Feed, source: Source | None, topic: str, record: Record) -> None:
        """Write a record of a stream without ids (funding, indicators), unless it repeats the newest one or is older."""
        key = content_key(topic, record)
        known = feed.newest.get(key)
        if known is not None and (record["event_time"] < known["event_time"] or _same(record, known)):
            self._gap_repair.duplicates += 1
            return
        feed.newest[key] = record
        if topic == "funding":
            record = feed.schedule.apply(record)
        if source is not None:
            self._pipeline.emit(source, topic, feed.partition, record)
        else:
            self._pipeline.emit_aside(topic, feed.partition, record)

    def polled(self, feed: Feed, topic: str, record: Record, source: Source | None = None) -> None:
        """Take a record from REST. It is of the feed's instrument unless it names another one of the same asset.

        It is written before the next mark, or at the clock of ``source`` if given.

        Raises:
            CodecError: it does not fit its schema.
        """
        self._newest(feed, source, topic, {"instrument": feed.instrument, **record})

    # --- falling behind ----------------------------------------------------------------------------------------------

    def _thin(self, feed: Feed, topic: str, clock: int, received: int) -> bool:
        """Return True when a record of depth or quotes is to be left out, because the producer is behind a live venue.

        A live reader needs only the newest state of a book or quote. Trades, liquidations and all others are never left out.
        """
        if received - clock <= self._conflate_after_ms or feed.recorded:
            return False
        if clock - feed.thinned.get(topic, 0) >= THIN_MS:
            feed.thinned[topic] = clock
            return False
        self.thinned += 1
        metrics.CONFLATED.labels(self._venue, topic).inc()
        return True

    # --- gaps and silence -------------------------------------------------------------------------------------------

    def _outage(self, line: ConnectionState, clock: int) -> None:
        """A connection is up, for the first time or again. Record which records may be missing and must be fetched.

        The first time, these are the records since the end of a symbol's log. A cold start misses nothing: it has no history, or a
        requested history whose trades continue without a gap.
        """
        lost, line.lost_at = line.lost_at, None
        first = line.clock is None
        for stream in line.streams:
            topic, feed = stream.channel.topic, stream.feed
            if topic == "agg_trades":
                # The records so far were fetched up to a moment ago. Consecutive ids show their gaps themselves.
                since = (feed.trade_time or feed.log_end) if first else lost
                if since is not None and not self._consecutive and stream.missed_since is None:
                    stream.missed_since = since
            elif topic != "depth":
                since = feed.log_end if first else lost
                if since is not None:
                    self._uncertain(stream, "disconnect", since, clock, "no producer ran" if first else "the connection was down")

    async def _behind_what_was_missed(self, stream: Stream, events: Sequence[Event], clock: int, received: int, raw: bytes) -> None:
        """Fetch the records that a resumed stream missed, then take its message.

        This does not happen at the reconnect. Other streams may be subscribed later, and records in between would be lost.
        """
        await self._fetch_missed(stream, clock)
        try:
            held = self._events(stream, events, clock, received)
        except CodecError as error:
            self._gap_repair.refuse(raw, stream.name, str(error), error.field, stream.feed.instrument)
            return
        if held is not None:
            await held

    async def _fetch_missed(self, stream: Stream, clock: int | None) -> None:
        since, stream.missed_since = stream.missed_since, None
        if since is not None:
            source = stream.line.source
            busy = self._backfill.busy
            task = self._gap_repair.task(self._backfill.since(stream.feed, source, since, clock, "disconnect"), source)
            await self._gap_repair.hold_unless(busy, task, source, lambda: self._backfill.trades)

    def _uncertain(self, stream: Stream, kind: str, since: int, clock: int, detail: str) -> None:
        self._gap_repair.emit_gap(
            stream.feed, stream.line.source, stream.channel.topic, kind, clock, certain=False, ids=(None, None),
            times=(since, clock), repaired=False, detail=detail,
        )  # fmt: skip

    def _heard_again(self, stream: Stream, clock: int) -> None:
        stream.silent = False
        self._log.info("stream resumed", stream=stream.name)
        if stream.last_time is None:
            return
        if stream.channel.topic not in ("agg_trades", "depth"):
            self._uncertain(stream, "silence", stream.last_time, clock, "the stream was silent")
        elif stream.channel.topic == "agg_trades" and not self._consecutive:
            self._gap_repair.task(
                self._backfill.since(stream.feed, stream.line.source, stream.last_time, clock, "silence"), stream.line.source
            )  # fmt: skip

    def watch(self, now: float) -> list[str]:
        """Raise the alarm for streams that are silent beyond their limit. Return the names of all silent ones."""
        silent = []
        for stream in self.streams.values():
            limit = stream.channel.silence_s
            if stream.feed.closed or (stream.feed.recorded and stream.count == 0):
                stream.silent = False
                continue  # a recording may lack the stream; at a live venue the URL would be wrong
            if stream.missed_since is not None and now - stream.seen > MISSED_AFTER_S:
                # A quiet stream: it is subscribed by now and may have no messages for long.
                self._gap_repair.task(self._fetch_missed(stream, None), stream.line.source)
            if stream.line.source.busy:
                stream.seen = max(stream.seen, stream.line.source.heard)
                continue  # its reader is stopped, so silence means nothing
            if limit is not None and now - stream.seen > limit:
                if not stream.silent:
                    stream.silent = True
                    self._log.error("stream is silent", stream=stream.name, limit_s=limit)
                silent.append(stream.name)
        return silent

    def states(self) -> Counter[tuple[str, StreamState]]:
        """Return the number of streams of each channel in each state."""
        return Counter((stream.channel.name, stream.state) for stream in self.streams.values())

    def count(self) -> None:
        """Update the frame counters and the state gauges in bulk, because a counter costs more than a frame."""
        for stream in self.streams.values():
            if stream.count != stream.counted:
                metrics.FRAMES_RECEIVED.labels(self._venue, stream.channel.name).inc(stream.count - stream.counted)
                stream.counted = stream.count
        states = self.states()
        for channel in {stream.channel.name for stream in self.streams.values()}:
            for state in StreamState:
                metrics.STREAMS.labels(self._venue, channel, state.value).set(states[channel, state])


def content_key(topic: str, record: Record) -> str:
    """Return the subject of a record without id: the indicator, or its set of fields (venues send some separately)."""
    if topic == "market_indicators":
        return str(record["indicator"])
    return topic + "".join(f".{name}" for name in FUNDING_VALUES if record.get(name) is not None)


def _same(record: Record, known: dict[str, Any]) -> bool:
    # Records in the log have the schedule filled in, so only the message's own fields are compared.
    return all(value is None or known.get(name) == value for name, value in record.items() if name != "receive_time")
