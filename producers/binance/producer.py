"""The Binance USD-M producer: from the venue's sockets to the topics, one process.

Order of a run: contract facts over REST; what an earlier run left in the log; trades missed since, over REST; then the websockets until the
process is told to stop, or the venue is a recording and says that it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from typing import Any

import structlog

from producers.binance.backfill import BackFill
from producers.binance.book import OrderBook
from producers.binance.books import Books
from producers.binance.config import MAX_STREAMS, SILENCE_S, STREAM_ROUTES, STREAM_TOPICS, BinanceConfig
from producers.binance.connection import Connection, Ended
from producers.binance.feeds import Feeds
from producers.binance.holes import Holes
from producers.binance.mapping import VENUE, MappingError, funding_hours, instrument_facts
from producers.binance.rest import Rest, RestError
from producers.binance.state import Feed, Line
from producers.binance.trades import TradeIds, holes
from producers.kafka_out import KafkaOut, Outgoing
from producers.log_tail import Tail, read_tail
from producers.pipeline import Pipeline
from producers.sequencer import Sequencer
from schemas.codec import Record
from schemas.partition import partition_of
from schemas.service import Service
from schemas.settings import Settings

# Back-fills come before the connections in a step that both have records in: what was missed is older than what is new.
FILL_RANK = -1_000_000
REPAIR_S = 30.0
WATCH_S = 1.0
# Longest wait for Kafka at the end of a run.
FLUSH_S = 60.0


class ConfigurationError(ValueError):
    """The producer cannot run as it was told to; the message says what to change."""


class _Route:
    """Glue between a connection and the feeds that come on it."""

    def __init__(self, owner: BinanceProducer, line: Line) -> None:
        self._owner = owner
        self._pipeline = owner.pipeline
        self._frame = owner.feeds.frame
        self.line = line

    def frame(self, raw: bytes) -> Awaitable[None] | None:
        return self._frame(self.line, raw)

    def must_wait(self) -> bool:
        return self._pipeline.must_wait(self.line.source)

    async def pause(self) -> None:
        await self._pipeline.gate(self.line.source)

    def connected(self) -> None:
        now = time.monotonic()
        self.line.source.heard = now
        for stream in self.line.streams:
            stream.seen = max(stream.seen, now)

    def disconnected(self, reason: str) -> None:
        if self.line.lost_at is None:
            self.line.lost_at = self.line.clock


class BinanceProducer:
    """One producer of one author.

    Args:
        config: What to hear. settings: where to write. service: the process around it.
    """

    def __init__(self, config: BinanceConfig, settings: Settings, service: Service) -> None:
        self.config = config
        self.settings = settings
        self.service = service
        self.rest = Rest(config.rest_url, weight_limit=config.weight_limit, ban_wait_s=config.ban_wait_s)
        self.topics = ["instruments", "gaps", *(STREAM_TOPICS[name] for name in config.stream_names)]
        self.connections: dict[Connection, Line] = {}
        self.pipeline: Pipeline
        self.feeds: Feeds
        self.out: KafkaOut
        self.holes: Holes
        self.backfill: BackFill
        self._facts: dict[str, Record] = {}  # symbol -> contract facts without times
        self._written: dict[str, Record] = {}  # instrument -> facts in the log
        self._server_time = 0
        self._ended = 0
        self._stop = asyncio.Event()
        self._log = structlog.get_logger().bind(service="produce", venue=VENUE)

    # --- a run -------------------------------------------------------------------------------------------------------

    async def run(self) -> bool:
        """Produce until told to stop, or to the end of a recording.

        Returns:
            True when the recording was written to its end.

        Raises:
            ConfigurationError: a symbol that the venue does not have.
            RestError: the venue's REST interface does not answer at the start.
            LogError: no broker, or topics missing.
            DeliveryFailed: Kafka refused a record.
        """
        loop = asyncio.get_running_loop()

        def ask_to_stop() -> None:
            loop.call_soon_threadsafe(self._stop.set)

        self.service.on_stop(ask_to_stop)
        stop = asyncio.create_task(self._stop.wait())
        try:
            prepared = asyncio.create_task(self._prepare())
            await asyncio.wait({prepared, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not prepared.done():
                prepared.cancel()
                return False
            prepared.result()
            return await self._until(stop)
        finally:
            stop.cancel()
            await self.rest.close()

    async def _until(self, stop: asyncio.Task[Any]) -> bool:
        """Do the work until it is done, until something fails, or until ``stop`` is done."""
        work = asyncio.create_task(self._work())
        background: list[asyncio.Task[None]] = [
            asyncio.create_task(coroutine) for coroutine in (self.pipeline.run(), self._watch(), self._repair(), self._refresh())
        ]
        try:
            await asyncio.wait({work, stop, *background}, return_when=asyncio.FIRST_COMPLETED)
            for failed in background:
                if failed.done():
                    failed.result()  # these end only by failing
            if work.done():
                work.result()
            return work.done()
        finally:
            for task in (work, *background):
                task.cancel()
            await asyncio.gather(work, *background, return_exceptions=True)
            await self._close()

    async def _close(self) -> None:
        for connection in self.connections:
            await connection.stop()
        await self.holes.settle(None, 0)
        if self.out.failure is None:
            # Records of open steps stay unwritten: the next run fetches its trades again, as after kill -9.
            await asyncio.to_thread(self.out.close, 10.0)
        self.feeds.count()

    async def _prepare(self) -> None:
        """Read the contract facts and the log, and set the parts up."""
        self._server_time = await self.rest.server_time()
        self._facts = await self._read_facts()
        partitions = {facts["instrument"]: partition_of(facts["base_asset"], self.settings.partitions) for facts in self._facts.values()}
        tail = await asyncio.to_thread(read_tail, self.settings, self.config.author, partitions, self.topics)
        self._written = {name: record for name, record in tail.instruments.items() if record["author"] == self.config.author}
        sequencer: Sequencer[Outgoing] = Sequencer(
            self.settings.mark_step_ms,
            self.settings.grid_ms,
            self.settings.allowed_lateness_ms,
            floor=min(tail.marks.values(), default=None),
        )
        if tail.clock is not None:
            sequencer.note_clock(tail.clock)
        self.out = KafkaOut(self.settings, self.config.author, VENUE, tail.cuts, tail.marks)
        self.pipeline = Pipeline(sequencer, self.out, self.settings.codec, VENUE, hold_s=self.config.hold_s, preamble=self._preamble)
        self.holes = Holes(self.pipeline, self.config.rest_hold_s)
        self.backfill = BackFill(self.pipeline, self.rest, self.holes)
        books = Books(self.pipeline, self.rest, self.holes)
        self.feeds = Feeds(self.config, self.pipeline, books, self.backfill, self.holes)
        for symbol, facts in self._facts.items():
            feed = _feed(symbol, facts, partitions[facts["instrument"]], tail)
            self.feeds.feeds[symbol] = feed
        self.service.set_health(self.health)
        self._log.info(
            "prepared", symbols=len(self._facts), topics=self.topics, partitions=sorted(set(partitions.values())),
            last_marks=tail.marks, continued=sum(feed.ids.last is not None for feed in self.feeds.feeds.values()),
        )  # fmt: skip

    async def _work(self) -> None:
        await self._catch_up()
        self._lay_lines()
        tasks = [asyncio.create_task(self._serve(connection, line)) for connection, line in self.connections.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.pipeline.finish()
        if not await self.pipeline.flush(FLUSH_S):
            raise TimeoutError(f"Kafka did not acknowledge the last records within {FLUSH_S:.0f} s")
        self._log.info("recording written to its end", last_mark=self.out.last_mark, **self.numbers())
        if not self.config.exit_at_end:
            await self._stop.wait()

    async def _serve(self, connection: Connection, line: Line) -> None:
        if await connection.run() is Ended.STOPPED:
            return
        # What was lost between the last frame and the end shows in no later id: ask.
        for stream in line.streams:
            if stream.kind == "aggTrade" and stream.feed.ids.last is not None:
                problem = await self.backfill.fill(stream.feed, line.source, stream.feed.ids.last + 1, None)
                if problem is not None:
                    self._log.error("the end of the trades could not be checked", symbol=stream.feed.symbol, problem=problem)
        await self.holes.settle(line.source, self.config.rest_hold_s)
        await self.backfill.repair([stream for stream in line.streams if stream.kind == "aggTrade"])
        self._ended += 1
        self.pipeline.leave(line.source)

    async def _catch_up(self) -> None:
        """Write the trades that were made while no producer ran, in their own steps, before anything new."""
        known = [feed for feed in self.feeds.feeds.values() if feed.ids.last is not None]
        if "aggTrade" not in self.config.stream_names or not known:
            return
        started = time.monotonic()
        sources = {feed.symbol: self.pipeline.join(f"back-fill {feed.symbol}", FILL_RANK + rank) for rank, feed in enumerate(known)}

        async def one(feed: Feed) -> None:
            source = sources[feed.symbol]
            source.busy += 1  # waits for REST, whose time-outs are its own
            for first, last in list(feed.ids.missing):
                await self.backfill.fill(feed, source, first, last)
            await self.backfill.fill(feed, source, (feed.ids.last or 0) + 1, None)
            self.pipeline.leave(source)

        await asyncio.gather(*(one(feed) for feed in known))
        self._log.info("caught up", trades=self.backfill.trades, seconds=round(time.monotonic() - started, 2))

    def _lay_lines(self) -> None:
        """Distribute the streams over connections: one per route, more where a route has too many streams."""
        by_route: dict[str, list[tuple[Feed, str]]] = {}
        for feed in self.feeds.feeds.values():
            for kind in self.config.stream_names:
                by_route.setdefault(STREAM_ROUTES[kind], []).append((feed, kind))
        rank = 0
        for route, wanted in sorted(by_route.items()):
            for start in range(0, len(wanted), MAX_STREAMS):
                name = f"{route}-{start // MAX_STREAMS}"
                line = Line(self.pipeline.join(name, rank), lost_at=self.pipeline.sequencer.clock)
                names = [self.feeds.subscribe(feed, kind, line) for feed, kind in wanted[start : start + MAX_STREAMS]]
                url = f"{self.config.ws_url}/{route}/stream?streams={'/'.join(names)}"
                connection = Connection(name, url, _Route(self, line), VENUE, ban_wait_s=self.config.ban_wait_s)
                self.connections[connection] = line
                rank += 1

    # --- contract facts ----------------------------------------------------------------------------------------------

    async def _read_facts(self) -> dict[str, Record]:
        """Return symbol -> contract facts of the chosen symbols."""
        hours = funding_hours(await self.rest.funding_info())
        entries = {entry.get("symbol"): entry for entry in await self.rest.exchange_info()}
        facts = {}
        for symbol in await self._chosen(entries):
            if symbol not in entries:
                raise ConfigurationError(f"symbols: the venue at {self.config.rest_url} has no {symbol!r} (PERPFLOW_SYMBOLS)")
            try:
                facts[symbol] = instrument_facts(entries[symbol], self.config.author, hours.get(symbol))
            except MappingError as error:
                raise ConfigurationError(f"symbols: {symbol} cannot be used: {error}") from error
        if not facts:
            raise ConfigurationError("symbols: none chosen (PERPFLOW_SYMBOLS)")
        return facts

    async def _chosen(self, entries: dict[Any, dict[str, Any]]) -> list[str]:
        wanted = self.config.symbols.strip()
        trading = [
            name for name, entry in entries.items() if "PERPETUAL" in str(entry.get("contractType")) and entry.get("status") == "TRADING"
        ]
        if wanted == "all":
            return sorted(trading)
        if wanted.startswith("top:"):
            if not wanted[4:].isdigit() or int(wanted[4:]) < 1:
                raise ConfigurationError(f"symbols: expected top:N, got {wanted!r} (PERPFLOW_SYMBOLS)")
            volumes = {row.get("symbol"): float(row.get("quoteVolume") or 0) for row in await self.rest.tickers()}
            return sorted(trading, key=lambda name: (-volumes.get(name, 0.0), name))[: int(wanted[4:])]
        return list(dict.fromkeys(part.strip().upper() for part in wanted.split(",") if part.strip()))

    def _preamble(self, first: int) -> list[tuple[str, int, Record]]:
        """Return the ``instruments`` records that must stand in the log before data whose earliest event time is ``first``."""
        return self._news(min(first, self._server_time))

    def _news(self, event_time: int) -> list[tuple[str, int, Record]]:
        """Return records of the instruments whose facts are not in the log yet."""
        news = []
        for facts in self._facts.values():
            written = self._written.get(facts["instrument"])
            if written is None or any(written.get(name) != value for name, value in facts.items()):
                record = {**facts, "event_time": event_time, "receive_time": int(time.time() * 1000)}
                self._written[facts["instrument"]] = record
                news.append(("instruments", partition_of(facts["base_asset"], self.settings.partitions), record))
        return news

    async def _refresh(self) -> None:
        """Read the contract facts again from time to time and write what changed."""
        while True:
            await asyncio.sleep(self.config.refresh_s)
            try:
                facts = await self._read_facts()
            except (RestError, ConfigurationError, MappingError) as error:
                self._log.warning("contract facts not refreshed", error=str(error))
                continue
            # Symbols are chosen once: with top:N the choice would else move under the marks.
            self._facts = {symbol: facts.get(symbol, {**old, "status": "closed"}) for symbol, old in self._facts.items()}
            for symbol, feed in self.feeds.feeds.items():
                feed.hours = self._facts[symbol]["funding_interval_hours"]
            clock = self.pipeline.sequencer.clock
            if clock is not None and self.pipeline.sequencer.last is not None:
                for topic, partition, record in self._news(clock):
                    self.pipeline.emit_aside(topic, partition, record)

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _repair(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_S)
            await self.backfill.repair([stream for stream in self.feeds.streams.values() if stream.kind == "aggTrade"])

    async def _watch(self) -> None:
        """Raise alarms, break connections that are silent altogether, and print a line of progress."""
        printed = time.monotonic()
        records = 0
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            silent = set(self.feeds.watch(now))
            for connection, line in self.connections.items():
                watched = [stream for stream in line.streams if SILENCE_S[stream.kind] is not None]
                # A half-open connection, or a venue that forgot us. Streams that never spoke may be on the wrong route: a new connection helps nothing.
                if connection.open and watched and all(stream.name in silent and stream.count for stream in watched):
                    for stream in watched:
                        stream.seen = now
                    with contextlib.suppress(OSError):  # it breaks one way or the other
                        await connection.restart("silence")
            self.feeds.count()
            if now - printed >= self.config.progress_s:
                rate = (self.out.records - records) / (now - printed)
                printed, records = now, self.out.records
                self._log.info("progress", rate=round(rate), **self.numbers())

    def numbers(self) -> dict[str, Any]:
        """Return counts of this run."""
        return {
            "frames": self.feeds.frames,
            "records": self.out.records,
            "marks": self.out.marks_written,
            "mark": self.out.last_mark,
            "in_flight": self.out.in_flight,
            "held": self.pipeline.sequencer.held,
            "backfilled": self.backfill.trades,
            "duplicates": self.holes.duplicates,
            "refused": self.holes.refused,
            "gaps": self.holes.gaps,
        }

    def health(self) -> dict[str, Any]:
        """Return the health report: not ok while a connection is down or a stream is silent beyond its limit."""
        down = [connection.name for connection in self.connections if not connection.open]
        silent = [stream.name for stream in self.feeds.streams.values() if stream.silent]
        over = self.connections and self._ended == len(self.connections)
        return {
            "ok": bool(over) or (not down and not silent and self.out.failure is None),
            "down": down,
            "silent": silent,
            **self.numbers(),
        }


def _feed(symbol: str, facts: Record, partition: int, tail: Tail) -> Feed:
    """Return the state of a symbol, continued from what an earlier run left in the log."""
    name = facts["instrument"]
    feed = Feed(symbol, name, partition, facts["funding_interval_hours"], facts["recorded"])
    if trades := tail.newest.get(("agg_trades", name)):
        ids = [record["agg_id"] for record in trades]
        feed.ids = TradeIds(max(ids), holes(ids))
        feed.trade_time = max(record["event_time"] for record in trades)
    if books := tail.newest.get(("depth", name)):
        feed.book = OrderBook(max(record["epoch"] for record in books))
    if quotes := tail.newest.get(("quotes", name)):
        feed.quote = max((record["update_id"], record["event_time"]) for record in quotes)
    if marks := tail.newest.get(("funding", name)):
        feed.mark_time = max(record["event_time"] for record in marks)
    for record in tail.newest.get(("liquidations", name), ()):
        feed.liquidations.append((record["event_time"], record["side"], record["price"], record["quantity"], record["filled_quantity"]))
    return feed
