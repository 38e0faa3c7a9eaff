"""The producer of a venue: one process that reads its sockets and writes the topics.

A run first reads the contract facts over REST, and the author's records in the log. Then it fetches the trades missed since, or on a cold
start the history if requested. Then it reads the websockets until it is stopped or a recording ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog

from producers.output.kafka_writer import KafkaWriter, Outgoing
from producers.output.log_tail import LogError, Tail, read_tail
from producers.output.pipeline import Pipeline
from producers.output.sequencer import Sequencer
from producers.venue.adapter.base import Adapter, ContractInfo, MappingError, Market
from producers.venue.config import ProducerConfig
from producers.venue.contracts import ContractList
from producers.venue.network.connection import Connection, Ended
from producers.venue.network.rest import Limit, Rest, RestError, limiter_of
from producers.venue.polling.cold_start import History
from producers.venue.polling.past_bars import PastBars
from producers.venue.polling.polls import Polls
from producers.venue.state.feed import ConnectionState, Feed
from producers.venue.state.funding_schedule import FundingSchedule, Rule
from producers.venue.state.order_book import OrderBook
from producers.venue.state.trade_ids import RecentIds, TradeIds, missing_ranges
from producers.venue.streams.book_sync import BookSync
from producers.venue.streams.feeds import Feeds, content_key
from producers.venue.streams.gap_repair import GapRepair
from producers.venue.streams.trade_backfill import BackFill
from schemas.codec.avro import Record
from schemas.process.service import Service
from schemas.settings import Settings

# Held records of back-fills leave before those of connections, because missed records are older.
FILL_RANK = -1_000_000
REPAIR_S = 30.0
WATCH_S = 1.0
# Longest wait for Kafka at the end of a run.
FLUSH_S = 60.0


class _Route:
    """Connects a connection with its feeds."""

    def __init__(self, owner: VenueProducer, line: ConnectionState) -> None:
        self._owner = owner
        self._pipeline = owner.pipeline
        self.line = line
        self.frames = partial(owner.feeds.frames, line)

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
        self._owner.disconnected(self.line)


class VenueProducer:
    """One producer of one author.

    Args:
        adapter: The venue. config: The streams. settings: Kafka's address and names. service: The process around it.
    """

    def __init__(self, adapter: Adapter, config: ProducerConfig, settings: Settings, service: Service) -> None:
        self.adapter = adapter
        self.config = config
        self.settings = settings
        self.service = service
        self.author = config.author or adapter.author
        self.rest_url = config.rest_url or adapter.rest_url
        limits = adapter.limits
        if config.weight_limit is not None:
            limits = (Limit(config.weight_limit, limits[0].seconds if limits else 60.0), *limits[1:])
        self.bans = adapter.bans if config.ban_wait_s is None else dict.fromkeys(adapter.bans, config.ban_wait_s)
        self.rest = Rest(
            adapter.venue, self.rest_url, limiter_of(adapter.venue, self.rest_url, limits), refusal=adapter.refusal,
            used_header=adapter.used_header,
            bans=self.bans,
        )  # fmt: skip
        self.channels = config.channels(adapter)
        self.topics = ["instruments", "gaps", *config.topics]
        self.connections: dict[Connection, ConnectionState] = {}
        self.pipeline: Pipeline
        self.feeds: Feeds
        self.out: KafkaWriter
        self.gap_repair: GapRepair
        self.backfill: BackFill
        self.polls: Polls
        self.contracts = ContractList(adapter, config, self.rest, self.author, settings.partition_of)
        self._server_time = 0
        self._ended = 0
        self._serving: list[asyncio.Task[None]] = []
        self._grown: asyncio.Future[None]
        self._stop = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._log = structlog.get_logger().bind(service="produce", venue=adapter.venue)

    # --- a run -------------------------------------------------------------------------------------------------------

    async def run(self) -> bool:
        """Produce until stopped, or to the end of a recording.

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
        """Work until the work is done, a task fails, or ``stop`` is done."""
        work = asyncio.create_task(self._work())
        background: list[asyncio.Task[None]] = [
            asyncio.create_task(coroutine)
            for coroutine in (self.pipeline.run(), self._watch(), self._repair(), self._refresh(), self._afterwards())
        ]
        try:
            await asyncio.wait({work, stop, *background}, return_when=asyncio.FIRST_COMPLETED)
            for failed in background:
                if failed.done():
                    failed.result()  # these end only with an error
            if work.done():
                work.result()
            return work.done()
        finally:
            for task in (work, *background):
                task.cancel()
            await asyncio.gather(work, *background, return_exceptions=True)
            await self._close()

    async def _afterwards(self) -> None:
        """Start the REST polls. New records belong after the history."""
        await self._caught_up.wait()
        await asyncio.gather(self.polls.run(), self.bars.run())

    async def _close(self) -> None:
        for connection in self.connections:
            await connection.stop()
        await self.gap_repair.settle(None, 0)
        if self.out.failure is None:
            # Held records stay unwritten. The next run fetches the trades again, as after kill -9.
            self.pipeline.release()
        await self.out.close(10.0)
        self.feeds.count()

    async def _prepare(self) -> None:
        """Read the contract facts and the log, and create the parts."""
        adapter, config = self.adapter, self.config
        self._server_time = await adapter.server_time(self.rest)
        await self.contracts.load()
        tail = await self._read_tail(self.contracts.known)
        self.contracts.resume(tail.instruments)
        sequencer: Sequencer[Outgoing] = Sequencer(
            self.settings.mark_step_ms,
            self.settings.grid_ms,
            self.settings.allowed_lateness_ms,
            floor=min(tail.marks.values(), default=None),
        )
        if tail.clock is not None:
            sequencer.note_clock(tail.clock)
        self.out = KafkaWriter(self.settings, self.author, adapter.venue, tail.cuts, tail.marks)
        await self.out.start()
        self.pipeline = Pipeline(sequencer, self.out, self.settings.codec, adapter.venue, hold_s=config.hold_s, preamble=self._preamble)
        self.gap_repair = GapRepair(self.pipeline, adapter.venue, f"produce-{adapter.venue.lower()}", config.rest_hold_s)
        self.backfill = BackFill(adapter, self.pipeline, self.rest, self.gap_repair)
        self.books = BookSync(adapter, self.pipeline, self.rest, self.gap_repair)
        self.feeds = Feeds(adapter, self.pipeline, self.books, self.backfill, self.gap_repair, config.conflate_after_s)
        self.polls = Polls(adapter, self.rest, self.feeds, self.gap_repair, config.topics, config.poll_scale, config.poll_recorded)
        self.bars = PastBars(adapter, self.rest, self.feeds, self.gap_repair, self.pipeline, recorded=config.poll_recorded)
        bars = self.bars if "klines" in config.topics else None
        self.history = History(adapter, self.rest, self.pipeline, self.feeds, self.backfill, self.gap_repair, bars, config.history_hours)
        for symbol, facts in self.contracts.known.items():
            self.feeds.feeds[symbol] = self._feed(symbol, facts, tail)
        self.service.set_health(self.health)
        self._log.info(
            "prepared", symbols=len(self.contracts.known), topics=self.topics, partitions=sorted(tail.cuts),
            last_marks=tail.marks, continued=sum(feed.trade_time is not None for feed in self.feeds.feeds.values()),
        )  # fmt: skip

    async def _read_tail(self, facts: dict[str, ContractInfo]) -> Tail:
        partitions = {
            contract.record["instrument"]: self.settings.partition_of(contract.record["base_asset"]) for contract in facts.values()
        }
        return await asyncio.to_thread(read_tail, self.settings, self.author, partitions, self.topics)

    async def _work(self) -> None:
        self._grown = asyncio.get_running_loop().create_future()
        await self._catch_up()
        self._caught_up.set()
        self._lines(list(self.feeds.feeds.values()), joining=False)
        try:
            while pending := [task for task in self._serving if not task.done()]:
                await asyncio.wait([*pending, self._grown], return_when=asyncio.FIRST_COMPLETED)
                if self._grown.done():
                    self._grown = asyncio.get_running_loop().create_future()  # new contracts have their own connections
                for task in self._serving:
                    if task.done():
                        task.result()
        finally:
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
        self.pipeline.finish()
        if not await self.pipeline.flush(FLUSH_S):
            raise TimeoutError(f"Kafka did not acknowledge the last records within {FLUSH_S:.0f} s")
        self._log.info("recording written to its end", last_mark=self.out.last_mark, **self.numbers())
        if not self.config.exit_at_end:
            await self._stop.wait()

    async def _serve(self, connection: Connection, line: ConnectionState) -> None:
        if await connection.run() is Ended.STOPPED:
            return
        # No later id shows what was lost between the last frame and the end, so ask over REST.
        trades = [stream for stream in line.streams if stream.channel.topic == "agg_trades"]
        for stream in trades if self.adapter.consecutive_ids else ():
            if stream.feed.ids.last is not None:
                problem = await self.backfill.fill(stream.feed, line.source, stream.feed.ids.last + 1, None)
                if problem is not None:
                    self._log.error("the end of the trades could not be checked", symbol=stream.feed.symbol, problem=problem)
        await self.gap_repair.settle(line.source, self.config.rest_hold_s)
        await self.backfill.repair(trades)
        self._ended += 1
        line.ended = True
        self.pipeline.leave(line.source)

    def disconnected(self, line: ConnectionState) -> None:
        """A connection broke: books that start with a snapshot of the stream are invalid now."""
        if line.clock is not None:
            for stream in line.streams:
                if stream.channel.topic == "depth":
                    self.books.lost(stream, line.clock, self.gap_repair.wall_ms())

    async def _catch_up(self) -> None:
        """Write the records missed while no producer ran, or the history of a cold start, before anything new."""
        if "agg_trades" not in self.config.topics:
            return
        feeds = [feed for feed in self.feeds.feeds.values() if feed.trade_time is not None or self.history.wanted(feed)]
        if not feeds:
            return
        started = time.monotonic()
        sources = {feed.symbol: self.pipeline.join(f"back-fill {feed.symbol}", FILL_RANK + rank) for rank, feed in enumerate(feeds)}
        cold = [feed for feed in feeds if feed.trade_time is None]
        histories = {feed.symbol: self.pipeline.join(f"history {feed.symbol}", 2 * FILL_RANK + rank) for rank, feed in enumerate(cold)}
        for source in (*sources.values(), *histories.values()):
            source.busy += 1  # waits for REST, which has its own time limits

        async def one(feed: Feed) -> None:
            source = sources[feed.symbol]
            if feed.trade_time is None:
                await self.history.load(feed, histories[feed.symbol], source, self._server_time)
            elif self.adapter.consecutive_ids:
                for first, last in list(feed.ids.missing):
                    await self.backfill.fill(feed, source, first, last)
                await self.backfill.fill(feed, source, (feed.ids.last or 0) + 1, None)
            else:
                await self.backfill.since(feed, source, feed.trade_time, None, "restart")
            self.pipeline.leave(source)

        await asyncio.gather(*(one(feed) for feed in feeds))
        self._log.info("caught up", trades=self.backfill.trades, seconds=round(time.monotonic() - started, 2))

    def _lines(self, feeds: Sequence[Feed], *, joining: bool) -> None:
        """Open the connections of some symbols.

        Args:
            feeds: The symbols.
            joining: They join running connections, which must not wait for them before their first record.
        """
        wanted = [(feed.symbol, channel) for channel in self.channels for feed in feeds]
        rotate = self.config.rotate_after_s if self.config.rotate_after_s is not None else self.adapter.rotate_after_s
        for plan in self.adapter.plans(self.config.ws_url or self.adapter.ws_url, wanted):
            rank = len(self.connections)
            name = f"{plan.name}.{rank}" if joining else plan.name
            line = ConnectionState(
                self.pipeline.join(name, rank, suspended=joining), lost_at=None if joining else self.pipeline.sequencer.clock
            )
            for symbol, channel in plan.streams:
                self.feeds.subscribe(self.feeds.feeds[symbol], channel, line)
            self.feeds.compile(line)
            connection = Connection(
                name, plan.url, _Route(self, line), self.adapter.venue, opening=plan.opening, heartbeat=self.adapter.heartbeat,
                send_pause_s=self.adapter.send_pause_s, ban_wait_s=max(self.bans.values(), default=0.0),
                rotate_after_s=rotate, overlap_s=self.config.overlap_s,
            )  # fmt: skip
            line.connection = connection
            self.connections[connection] = line
            self._serving.append(asyncio.create_task(self._serve(connection, line)))

    # --- contract facts ----------------------------------------------------------------------------------------------

    def _preamble(self, first: int) -> list[tuple[str, int, Record]]:
        """Return the ``instruments`` records that must precede data from event time ``first`` on."""
        return self.contracts.changes(min(first, self._server_time))

    async def _refresh(self) -> None:
        """Read the contract facts again from time to time: write changes, follow new contracts, drop closed ones."""
        while True:
            await asyncio.sleep(self.config.refresh_s)
            try:
                contracts = await self.adapter.facts(self.rest, self.author)
                chosen = await self.contracts.chosen(contracts)
                await self._grow(
                    {symbol: contracts[symbol] for symbol in chosen if symbol in contracts and symbol not in self.contracts.known}
                )
            except (RestError, MappingError, LogError) as error:
                self._log.warning("contract facts not refreshed", error=str(error))
                continue
            if not contracts:
                self._log.warning("contract facts not refreshed", error="the venue names no contract at all")
                continue
            # With top:N a contract may only have dropped in volume. It stays followed, because otherwise its marks would be false.
            for symbol, old in self.contracts.known.items():
                new = contracts.get(symbol) or ContractInfo({**old.record, "status": "closed"}, old.extra)
                self.contracts.known[symbol] = new
                feed = self.feeds.feeds[symbol]
                feed.market.facts, feed.market.extra = new.record, new.extra
                feed.closed = new.record["status"] != "trading"
            clock = self.pipeline.sequencer.clock
            if clock is not None and self.pipeline.sequencer.last is not None:
                for topic, partition, record in self.contracts.changes(clock):
                    self.pipeline.emit_aside(topic, partition, record)

    async def _grow(self, new: dict[str, ContractInfo]) -> None:
        """Follow contracts that are new since the start."""
        if not new or self.pipeline.sequencer.last is None:
            return
        tail = await self._read_tail(new)
        self.out.cover(tail.cuts, tail.marks)
        feeds = []
        for symbol, facts in new.items():
            self.contracts.known[symbol] = facts
            feed = self.feeds.feeds[symbol] = self._feed(symbol, facts, tail)
            feeds.append(feed)
            if feed.trade_time is None and "klines" in self.config.topics:
                self.bars.begin(feed, self.pipeline.sequencer.clock or self._server_time)
        for topic, partition, record in self.contracts.changes(self.pipeline.sequencer.clock or self._server_time):
            self.pipeline.emit_aside(topic, partition, record)
        self._lines(feeds, joining=True)
        if not self._grown.done():
            self._grown.set_result(None)
        self._log.info("new contracts are followed", symbols=sorted(new))

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _repair(self) -> None:
        while True:
            await asyncio.sleep(REPAIR_S)
            await self.backfill.repair([stream for stream in self.feeds.streams.values() if stream.channel.topic == "agg_trades"])

    async def _watch(self) -> None:
        """Raise alarms, break silent connections, and log the progress."""
        printed = time.monotonic()
        records = 0
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            silent = set(self.feeds.watch(now))
            for connection, line in self.connections.items():
                watched = [stream for stream in line.streams if stream.channel.silence_s is not None and not stream.feed.closed]
                # The connection is half open, or the venue dropped our subscriptions. A new connection does not help streams without any
                # message.
                if connection.open and watched and all(stream.name in silent and stream.count for stream in watched):
                    for stream in watched:
                        stream.seen = now
                    with contextlib.suppress(OSError):  # it breaks in any case
                        await connection.restart("silence")
            self.feeds.count()
            if now - printed >= self.config.progress_s:
                rate = (self.out.records - records) / (now - printed)
                printed, records = now, self.out.records
                self._log.info("progress", rate=round(rate), **self.numbers())

    def numbers(self) -> dict[str, Any]:
        """Return counts of this run."""
        return {
            "frames": self.feeds.frames_read,
            "records": self.out.records,
            "marks": self.out.marks_written,
            "mark": self.out.last_mark,
            "in_flight": self.out.in_flight,
            "held": self.pipeline.sequencer.held,
            "backfilled": self.backfill.trades,
            "bars": self.bars.bars,
            "duplicates": self.gap_repair.duplicates,
            "refused": self.gap_repair.refused,
            "gaps": self.gap_repair.gaps,
            "thinned": self.feeds.thinned,
        }

    def state_counts(self) -> dict[str, int]:
        """Return how many streams are in each state."""
        counts: dict[str, int] = {}
        for (_, state), count in self.feeds.states().items():
            counts[state.value] = counts.get(state.value, 0) + count
        return counts

    def health(self) -> dict[str, Any]:
        """Return the health report. It is not ok while a connection is down or a stream is silent beyond its limit."""
        down = [connection.name for connection in self.connections if not connection.open]
        silent = [stream.name for stream in self.feeds.streams.values() if stream.silent]
        over = self.connections and self._ended == len(self.connections)
        return {
            "ok": bool(over) or (not down and not silent and self.out.failure is None),
            "down": down,
            "silent": silent[:20],
            "streams": dict(sorted(self.state_counts().items())),
            **self.numbers(),
        }

    def _feed(self, symbol: str, facts: ContractInfo, tail: Tail) -> Feed:
        """Return the state of a symbol, continued from the log."""
        record, adapter = facts.record, self.adapter
        name = record["instrument"]
        feed = Feed(
            Market(symbol, name, record, facts.extra), self.settings.partition_of(record["base_asset"]), record["recorded"],
            closed=record["status"] != "trading",
        )  # fmt: skip
        times = [record["event_time"] for topic in self.topics if topic != "klines" for record in tail.newest.get((topic, name), ())]
        feed.log_end = max(times, default=None)
        if trades := tail.newest.get(("agg_trades", name)):
            ids = [trade["agg_id"] for trade in trades]
            feed.trade_time = max(trade["event_time"] for trade in trades)
            if adapter.consecutive_ids:
                feed.ids = TradeIds(max(ids), missing_ranges(ids))
            else:
                feed.recent = RecentIds(max(ids))
                for trade in trades:
                    feed.recent.remember(trade["venue_trade_id"] or "", trade["event_time"])
        books = tail.newest.get(("depth", name), ())
        if known_bars := tail.newest.get(("klines", name)):
            self.bars.resume(feed, max(bar["event_time"] for bar in known_bars), self._server_time)
        checksum = adapter.checksum if adapter.checksum_levels else None
        feed.book = OrderBook(max((book["epoch"] for book in books), default=0), adapter.book_mode, checksum, adapter.checksum_levels)
        if quotes := tail.newest.get(("quotes", name)):
            feed.quote = max((quote["update_id"], quote["event_time"]) for quote in quotes)
        rule = adapter.schedule_rule()
        feed.schedule = FundingSchedule(Rule(**rule) if rule else None, record["funding_interval_hours"])
        for known in tail.newest.get(("funding", name), ()):
            feed.schedule.apply(known)
        for topic in ("funding", "market_indicators"):
            for known in tail.newest.get((topic, name), ()):
                feed.newest[content_key(topic, known)] = known
        for forced in tail.newest.get(("liquidations", name), ()):
            feed.liquidations.append((forced["event_time"], forced["side"], forced["price"], forced["quantity"], forced["filled_quantity"]))
        return feed
