"""From frames to records: every stream's message is checked, mapped, freed of doubles, and emitted into the pipeline.

Holes are mended over REST while the connection that showed them is held (bounded), so that the mended records come in their place and the
log stays a function of what the venue sent; a REST interface that takes longer mends in the background.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any

import orjson
import structlog

from producers.binance import mapping
from producers.binance.backfill import BackFill
from producers.binance.books import Books
from producers.binance.config import SILENCE_S, STREAM_TOPICS, BinanceConfig
from producers.binance.holes import Holes
from producers.binance.mapping import VENUE, MappingError
from producers.binance.state import Feed, Line, Stream
from producers.binance.trades import Verdict
from producers.pipeline import Pipeline
from schemas import metrics
from schemas.codec import CodecError

# The delay histogram is fed by every n-th frame: a sample shows the same shape at a fraction of the cost.
DELAY_SAMPLE = 16
# More trades than the two days that REST reaches back: an id so far ahead is a broken frame, not a hole.
MAX_JUMP = 20_000_000
# Streams without ids: what was missed on them cannot be known.
UNCERTAIN = ("bookTicker", "markPrice", "forceOrder")


class Feeds:
    """All symbols of one producer.

    Args:
        config: Settings.
        pipeline: Where records go.
        books, backfill, holes: Keep order books, mend holes, and note them.
    """

    def __init__(self, config: BinanceConfig, pipeline: Pipeline, books: Books, backfill: BackFill, holes: Holes) -> None:
        self.feeds: dict[str, Feed] = {}
        self.streams: dict[str, Stream] = {}
        self.frames = 0
        self._config = config
        self._pipeline = pipeline
        self._backfill = backfill
        self._holes = holes
        self._log = structlog.get_logger().bind(venue=VENUE)
        self._handlers = {
            "aggTrade": self._agg_trade,
            "depth": books.depth,
            "bookTicker": self._book_ticker,
            "markPrice": self._mark_price,
            "forceOrder": self._force_order,
        }

    def subscribe(self, feed: Feed, kind: str, line: Line) -> str:
        """Add a symbol's stream to a connection; return the venue's name of it."""
        name = self._config.wire_name(feed.symbol, kind)
        stream = Stream(name, kind, feed, line, self._handlers[kind], time.monotonic())
        self.feeds[feed.symbol] = feed
        self.streams[name] = stream
        line.streams.append(stream)
        return name

    # --- frames ------------------------------------------------------------------------------------------------------

    def frame(self, line: Line, raw: bytes) -> Awaitable[None] | None:
        """Take one combined frame of a connection. What cannot be used becomes a dead letter with its bytes.

        Returns:
            An awaitable when a hole is being mended: read on when it is done.
        """
        received = self._holes.wall_ms()
        self.frames += 1
        line.source.heard = time.monotonic()
        try:
            message = orjson.loads(raw)
            stream = self.streams[message["stream"]]
            data = message["data"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            self._odd_frame(raw, error)
            return None
        try:
            clock = mapping.event_clock(data, received)
            if stream.kind != "forceOrder":  # which has its symbol inside
                mapping.check_symbol(data, stream.feed.symbol, stream.kind)
            result = stream.handle(stream, data, clock, received)
            if line.lost_at is not None and result is None:
                # Not while a hole is being mended: the clock must not run ahead of the trades that fill it.
                self._outage(line, clock)
        except (MappingError, CodecError) as error:
            self._holes.refuse(raw, stream.name, str(error), error.field, stream.feed.instrument)
            return None
        if line.clock is None or clock > line.clock:
            line.clock = clock
        stream.seen = line.source.heard
        stream.count += 1
        if stream.silent:
            self._heard_again(stream, clock)
        stream.last_time = clock
        if stream.count % DELAY_SAMPLE == 0:
            metrics.RECEIVE_DELAY.labels(VENUE, stream.kind).observe(max(0, received - clock) / 1000)
        return result

    def _odd_frame(self, raw: bytes, error: Exception) -> None:
        if isinstance(error, orjson.JSONDecodeError):
            # Cut-off frames still begin with the stream's name, which tells a reader of the dead letters where to look.
            start = raw.find(b'"stream":"')
            end = raw.find(b'"', start + 10) if start >= 0 else -1
            name = raw[start + 10 : end].decode(errors="replace") if end > 0 else ""
            self._holes.refuse(raw, name if name in self.streams else "frame", f"no JSON: {error}", None, None)
            return
        message = orjson.loads(raw)
        if isinstance(message, dict) and "stream" not in message and ("result" in message or "error" in message):
            # The answer to a control message is no market data.
            (self._log.warning if message.get("error") else self._log.info)("answer of the venue", answer=message)
            return
        what = "unknown stream" if isinstance(error, KeyError) else "no combined frame"
        self._holes.refuse(raw, "frame", f"{what}: {error}", "stream", None)

    # --- streams -----------------------------------------------------------------------------------------------------

    def _agg_trade(self, stream: Stream, data: dict[str, Any], clock: int, received: int) -> Awaitable[None] | None:
        feed = stream.feed
        record = mapping.agg_trade(data, feed.instrument, received)
        if feed.ids.last is not None and record["agg_id"] > feed.ids.last + MAX_JUMP:
            raise MappingError("aggTrade", "a", f"{record['agg_id']} lies {record['agg_id'] - feed.ids.last} ids ahead")
        verdict = feed.ids.offer(record["agg_id"])
        if verdict is Verdict.GAP:
            return self._backfill.before(stream, record, clock)
        source = stream.line.source
        self._pipeline.advance(source, clock)
        if verdict is Verdict.NEW:
            self._pipeline.emit(source, "agg_trades", feed.partition, record)
            feed.trade_time = record["event_time"]
        else:
            self._holes.duplicates += 1
        return None

    def _book_ticker(self, stream: Stream, data: dict[str, Any], clock: int, received: int) -> None:
        feed = stream.feed
        record = mapping.quote(data, feed.instrument, received)
        self._pipeline.advance(stream.line.source, clock)
        update, at = feed.quote
        if record["update_id"] <= update and record["event_time"] <= at:
            self._holes.duplicates += 1  # or overtaken by a newer one: the newest is what counts
            return
        feed.quote = (record["update_id"], record["event_time"])
        self._pipeline.emit(stream.line.source, "quotes", feed.partition, record)

    def _mark_price(self, stream: Stream, data: dict[str, Any], clock: int, received: int) -> None:
        feed = stream.feed
        record = mapping.mark_price(data, feed.instrument, received, feed.hours)
        self._pipeline.advance(stream.line.source, clock)
        if record["event_time"] <= feed.mark_time:
            self._holes.duplicates += 1
            return
        feed.mark_time = record["event_time"]
        self._pipeline.emit(stream.line.source, "funding", feed.partition, record)

    def _force_order(self, stream: Stream, data: dict[str, Any], clock: int, received: int) -> None:
        feed = stream.feed
        record = mapping.liquidation(data, feed.instrument, feed.symbol, received)
        self._pipeline.advance(stream.line.source, clock)
        print_ = (record["event_time"], record["side"], record["price"], record["quantity"], record["filled_quantity"])
        if print_ in feed.liquidations:
            self._holes.duplicates += 1
            return
        feed.liquidations.append(print_)
        self._pipeline.emit(stream.line.source, "liquidations", feed.partition, record)

    # --- holes and silence -------------------------------------------------------------------------------------------

    def _outage(self, line: Line, clock: int) -> None:
        """A connection is back: note on its streams without ids that something may be missing."""
        lost, line.lost_at = line.lost_at, None
        for stream in line.streams:
            if stream.kind in UNCERTAIN:
                self._holes.emit_gap(
                    stream.feed, line.source, STREAM_TOPICS[stream.kind], "disconnect", clock, certain=False, ids=(None, None),
                    times=(lost, clock), repaired=False, detail="the connection was down",
                )  # fmt: skip

    def _heard_again(self, stream: Stream, clock: int) -> None:
        stream.silent = False
        metrics.STREAM_SILENT.labels(VENUE, stream.name).set(0)
        self._log.info("stream is heard again", stream=stream.name)
        if stream.kind in UNCERTAIN and stream.last_time is not None:
            self._holes.emit_gap(
                stream.feed, stream.line.source, STREAM_TOPICS[stream.kind], "silence", clock, certain=False, ids=(None, None),
                times=(stream.last_time, clock), repaired=False, detail="the stream was silent",
            )  # fmt: skip

    def watch(self, now: float) -> list[str]:
        """Raise the alarm of streams that are silent beyond their limit; return the names of all silent ones."""
        silent = []
        for stream in self.streams.values():
            limit = SILENCE_S[stream.kind]
            if stream.feed.recorded and stream.count == 0:
                continue  # recordings hold what was recorded; at a live venue it would be the wrong route
            if stream.line.source.busy:
                stream.seen = max(stream.seen, stream.line.source.heard)
                continue  # we are not reading: the stream cannot be heard
            if limit is not None and now - stream.seen > limit:
                if not stream.silent:
                    stream.silent = True
                    metrics.STREAM_SILENT.labels(VENUE, stream.name).set(1)
                    self._log.error("stream is silent", stream=stream.name, limit_s=limit)
                silent.append(stream.name)
        return silent

    def count(self) -> None:
        """Bring the frame counters up to date (done in bulk: a counter is dearer than a frame)."""
        for stream in self.streams.values():
            if stream.count != stream.counted:
                metrics.FRAMES_RECEIVED.labels(VENUE, stream.kind).inc(stream.count - stream.counted)
                stream.counted = stream.count
