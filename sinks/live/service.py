"""The live executor: one process that owns an account, around the pure book.

For each event: the book decides, one transaction journals what changed (trades with the intents of their orders, signal offset, records), and only then are
orders sent; their outcome is the next event. A database that is away changes that for one kind of orders: see there. Failure by failure:

- kill -9, crash: the next process takes the account's lock, reloads the trades, asks for every order without a known outcome by its client id, and compares
  everything with the venue before it opens anything. Positions stay protected meanwhile by the stops that rest at the venue.
- database gone, or without an answer for two seconds: nothing is opened, because no entry is sent before its intent is journalled. Stops, exits, cancels and
  questions go on: they are reduce-only and their ids follow from what is journalled, so that a process that starts again from the old journal finds them
  under the ids that it would give them (``duplicate_id``), and an execution that it does not expect in the venue's list. What was decided meanwhile is
  written when the database is back.
- Kafka gone: the guard's word grows old, and nothing is opened; exits go on, records wait in the journal.
- user stream gone: nothing is opened after a few seconds; when it is back everything is compared.
- venue gone: outcomes are unknown and asked for until it answers. An answer that cannot be read is an unknown outcome; its bytes go to dead_letters.
- two executors of an account: the second waits for the lock; one that lost it without noticing is fenced by the epoch and ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import structlog

from schemas import metrics
from schemas.codec.avro import Record
from schemas.deadletter import dead_letter
from schemas.service import Service
from schemas.settings import Settings
from sinks.executor.journal import FencedError
from sinks.executor.publish import Publisher
from sinks.live.inputs import Input, KafkaInputs, SignalMessage
from sinks.live.journal import LiveJournal, OutboxEntry
from sinks.live.order_dispatch import OrderDispatch
from sinks.live.outbox import Outbox
from sinks.live.pending_journal import PendingJournal
from sinks.live.reconciler import Reconciler
from sinks.live.rerouter import Rerouter
from sinks.venues.common.adapter import MalformedResponse, TradingVenue
from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.account.funding_payments import HOUR_MS, LISTED_MS, asked_since
from stream_apps.core.execution.orders.events import (
    Action,
    Anomaly,
    CloseRequested,
    Emit,
    EntriesBlocked,
    Event,
    Place,
    PlaceFailed,
    SignalReceived,
    Tick,
)
from stream_apps.core.execution.orders.venue_reports import BalanceReport, StreamLost, StreamReady
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.records import Account

# Time alone is looked at this often at the latest.
TICK_S = 0.1
# Events that are journalled in one transaction.
BATCH = 200
RETRY_S = 0.5
# A transaction without an answer for so long is a database that is away: what is open must not wait for it.
WRITE_S = 2.0
SWITCH_S = 0.5
UNREADABLE = "cannot be read"

BookCall = Callable[[int], list[Action]]
QueuedInput = tuple[Event | BookCall | SignalMessage, asyncio.Future[None] | None]


class LiveExecutor:
    """Trades one account.

    Args:
        settings: Surroundings.
        service: Stop flag, log, health.
        account: Whose; its name is the account id, VENUE-mode.
        venue: Not open yet.
        policy: All settings of execution.
        journal, publisher: Given by tests that watch them; else made here.
    """

    def __init__(
        self,
        settings: Settings,
        service: Service,
        account: Account,
        venue: TradingVenue,
        policy: LivePolicy,
        *,
        journal: LiveJournal | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self._settings, self._service, self._account, self._venue, self._policy = settings, service, account, venue, policy
        self._log = structlog.get_logger().bind(service=service.name, account=account.name)
        self._journal = journal or LiveJournal(settings.role_url("executor"), f"{settings.topic_prefix}{account.name}")
        self._publisher = publisher or Publisher(settings)
        self.book = ExecutionBook(account, policy, venue.rules)
        self._events: asyncio.Queue[QueuedInput] = asyncio.Queue()
        self._offsets: dict[int, int] = {}
        self._epoch = self._next_seq = 0
        self._extra: list[Emit] = []
        self._unwritten = PendingJournal()
        # Those who wait until what they submitted is journalled.
        self._submitted: list[asyncio.Future[None]] = []
        # The way back to a database that is away; None while it is there.
        self._returning: asyncio.Task[None] | None = None
        self._signals: deque[SignalMessage] = deque()
        self._readable = True
        self._phase = "starting"
        service.set_health(self._health)

    # --- life ---------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until the service is stopped.

        Raises:
            FencedError: another executor took the account.
            VenueError: the venue does not answer at the start.
            KafkaException: Kafka does not answer at the start.
        """
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stopped.set)

        self._service.on_stop(stop)
        inputs: KafkaInputs | None = None
        tasks: list[asyncio.Task[Any]] = []
        try:
            if not await self._own(stopped):
                return
            await self._venue.open()
            self.book.rules = self._venue.rules
            inputs = KafkaInputs(
                self._settings,
                self._account.venue,
                self._account.name,
                self._hand_in,
                self._publisher.dead_letter,
                replayed=self._account.mode == "simulated",
                spot=self._account.is_spot,
            )
            await self._take(inputs)
            self._lanes = OrderDispatch(self._venue, self.give, self._unreadable)
            self._outbox = Outbox(self._settings, self._publisher, self._forget)
            self._outbox.add(await self._journal.unpublished())
            self._reconciler = Reconciler(
                self._venue, self.book, self._submit, self._lanes.perform, self._report, self._unreadable, self._account.name
            )
            rerouter = Rerouter(self._settings.role_url("executor"), self._journal.account, self._account.mode, self.book)
            await rerouter.load(self._epoch)
            self.book.blocks["reconcile"] = "not compared with the venue yet"
            self.book.restarted(_now())
            self._phase = "trading"
            inputs.start(self._offsets)
            work: list[tuple[str, Any]] = [
                ("events", self._work()),
                ("outbox", self._outbox.run()),
                ("user stream", self._user_stream()),
                ("reconciler", self._reconciler.run()),
                ("switch", self._watch_switch()),
                ("funding", self._watch_funding()),
                *([("routes", rerouter.run())] if rerouter.is_on else []),
            ]
            tasks = [asyncio.create_task(one, name=name) for name, one in work]
            waiting = asyncio.create_task(stopped.wait(), name="stop")
            done, _ = await asyncio.wait({*tasks, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            for one in done - {waiting}:
                one.result()
        finally:
            await self._close(inputs, tasks)

    async def _own(self, stopped: asyncio.Event) -> bool:
        """Take the account's lock; wait while another process holds it. Return False when stopped meanwhile."""
        told = False
        while not stopped.is_set():
            try:
                await self._journal.connect()
                if await self._journal.lock():
                    return True
            except psycopg.OperationalError as error:
                self._log.warning("the database does not answer", reason=str(error).strip())
            if not told:
                self._log.warning("another executor holds this account, or the database is away; waiting")
                self._phase, told = "waiting", True
            try:
                async with asyncio.timeout(RETRY_S):
                    await stopped.wait()
            except TimeoutError:
                pass
        return False

    async def _take(self, inputs: KafkaInputs) -> None:
        taken = await self._journal.take(self._policy.keep_closed_ms)
        self._epoch, self._next_seq, self._offsets = taken.epoch, taken.next_seq, taken.offsets
        ends = inputs.ends()
        if set(ends) - set(self._offsets):
            # An account that never read begins at the end; where that is, is journalled before anything is read.
            self._offsets = {**ends, **self._offsets}
            await self._journal.commit(self._epoch, [], self._offsets, self._next_seq, [])
        self.book.load(taken.trades)
        unknown = sorted({one.symbol for one in self.book.active} - self.book.rules.keys())
        if unknown:
            # Delisted, or its rules cannot be read: what rests at the venue protects it, and a person must look.
            self._log.error("open trades without instrument rules are left alone", symbols=unknown)
            self.book.blocks["rules"] = f"open trades without instrument rules: {', '.join(unknown)}"
        self._log.info("account taken", epoch=taken.epoch, trades=len(self.book.active))

    async def _close(self, inputs: KafkaInputs | None, tasks: Sequence[asyncio.Task[Any]]) -> None:
        self._phase = "stopping"
        if inputs is not None:
            await asyncio.to_thread(inputs.stop)
        if self._returning is not None:
            tasks = [*tasks, self._returning]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            await self._lanes.close()
        await self._venue.close()
        await asyncio.to_thread(self._publisher.close)
        await self._journal.close()

    # --- events -----------------------------------------------------------------------------------------------------------------

    def give(self, event: Event) -> None:
        """Queue an event."""
        self._events.put_nowait((event, None))

    def _hand_in(self, given: Input) -> None:
        self._events.put_nowait((given, None))

    async def _submit(self, given: Event | BookCall) -> None:
        """Queue an event and wait until it is journalled."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait((given, done))
        await done

    async def _work(self) -> None:
        """Take events, decide, journal, act; for ever."""
        ticked = 0.0
        while True:
            batch = await self._next()
            actions: list[Action] = []
            for given, _ in batch:
                actions += self._handle(given)
            if self._signals:
                # The switch is read right before anything may be opened, not only every half second. Signals wait for a database that is away.
                switch = await self._switch()
                self._readable = switch != UNREADABLE
                if not self._readable:
                    self._lost("the switch cannot be read", None)
                actions += self.book.handle(EntriesBlocked("switch", switch), _now())
            signals = self._due_signals()
            for signal in signals:
                self._offsets[signal.partition] = signal.offset + 1
                if signal.record is not None:
                    actions += self.book.handle(SignalReceived(signal.record), _now())
            due = self.book.next_due()
            if time.monotonic() - ticked >= TICK_S or (due is not None and due <= _now()):
                ticked = time.monotonic()
                actions += self.book.handle(Tick(), _now())
                metrics.ENTRIES_BLOCKED.labels(self._account.name).set(self.book.entries_blocked(_now()) is not None)
            written = await self._write(actions, bool(signals))
            for action in actions:
                if isinstance(action, Anomaly):
                    metrics.ANOMALIES.labels(self._account.name).inc()
                    self._log.warning("anomaly", symbol=action.symbol, reason=action.reason)
                    self._reconciler.want("anomaly")
                elif not written and isinstance(action, Place) and not action.request.reduce_only:
                    self.give(PlaceFailed(action.request.client_order_id, "unreachable", message="the journal cannot be written"))
                elif not isinstance(action, Emit):
                    self._lanes.perform(action)
            self._submitted += [done for _, done in batch if done is not None]
            if written:
                for done in self._submitted:
                    if not done.done():
                        done.set_result(None)
                self._submitted.clear()

    async def _next(self) -> list[QueuedInput]:
        due = self.book.next_due()
        wait = TICK_S if due is None else min(TICK_S, max(0.0, (due - _now()) / 1000))
        try:
            # Not wait_for: it may swallow the cancellation of a stop that falls together with its time-out (Python 3.11).
            async with asyncio.timeout(wait):
                batch = [await self._events.get()]
        except TimeoutError:
            return []
        while len(batch) < BATCH and not self._events.empty():
            batch.append(self._events.get_nowait())
        return batch

    def _handle(self, given: Event | BookCall | SignalMessage) -> list[Action]:
        now = _now()
        if isinstance(given, SignalMessage):
            self._signals.append(given)
            return []
        if callable(given):
            return given(now)
        return self.book.handle(given, now)

    def _due_signals(self) -> list[SignalMessage]:
        """Return the signals to be judged now. At the start they wait for the first comparison and the guard's first word, and later for a database that
        is away, until they are too old."""
        now, limit = _now(), self._policy.max_signal_age_ms
        due = []
        while self._signals:
            record = self._signals[0].record
            if not self._is_ready and record is not None and now - record["decided_at"] <= limit:
                break
            due.append(self._signals.popleft())
        return due

    @property
    def _is_ready(self) -> bool:
        there = self._readable and self._returning is None and "journal" not in self.book.blocks
        return self.book.guard is not None and self._reconciler.done > 0 and there

    # --- journal ------------------------------------------------------------------------------------------------------------------

    async def _write(self, actions: Sequence[Action], moved: bool) -> bool:
        """Write what changed since it could last be written; return whether all of it is written now."""
        records = [*(action for action in actions if isinstance(action, Emit)), *self._extra]
        self._extra = []
        unwritten = self._unwritten
        unwritten.add(self.book.touched(), records, moved)
        if self._returning is not None:
            if not self._returning.done():
                return False
            self._returning.result()
            self._returning, self._phase = None, "trading"
            self._log.info("the database is back")
            self.give(EntriesBlocked("journal", None))
        if unwritten.is_empty:
            return True
        rows: list[OutboxEntry] = [self._outbox.row(self._next_seq + at, one.topic, one.record) for at, one in enumerate(unwritten.records)]
        begun = time.monotonic()
        writing = asyncio.create_task(
            self._journal.commit(self._epoch, unwritten.trades, dict(self._offsets), self._next_seq + len(rows), rows), name="writing"
        )
        await asyncio.wait({writing}, timeout=WRITE_S)
        try:
            if not writing.done():
                raise psycopg.OperationalError(f"no answer for {WRITE_S:g} s")
            writing.result()
        except psycopg.OperationalError as error:
            self._lost(str(error).strip(), writing)
            return False
        metrics.JOURNAL_SECONDS.labels(self._account.name).observe(time.monotonic() - begun)
        self._next_seq += len(rows)
        self._outbox.add(rows)
        self._count(unwritten.records)
        unwritten.clear()
        return True

    def _lost(self, reason: str, writing: asyncio.Task[None] | None) -> None:
        if self._returning is None:
            self._log.warning("the journal cannot be written; nothing is opened until it can", reason=reason)
            self._phase = "no journal"
            self.give(EntriesBlocked("journal", "cannot be written"))
            self._returning = asyncio.create_task(self._return(writing), name="database")

    async def _return(self, writing: asyncio.Task[None] | None) -> None:
        """Come back to the database.

        Args:
            writing: A transaction without an answer: it may still end well; what it wrote is written again, with the same result.

        Raises:
            FencedError: another executor took the account meanwhile.
        """
        if writing is not None:
            try:
                await writing
                return
            except psycopg.OperationalError:
                pass
        while True:
            try:
                await self._journal.connect()
                if not await self._journal.lock():
                    raise FencedError(f"{self._account.name}: another executor took the account while the database was away")
                return
            except psycopg.OperationalError:
                await asyncio.sleep(RETRY_S)

    async def _forget(self, before_seq: int) -> None:
        try:
            await self._journal.forget(before_seq)
        except psycopg.OperationalError:
            # They are sent once more after a restart; readers drop the repeats.
            return

    def _report(self, record: Record) -> None:
        self._extra.append(Emit("reconciliations", record))
        self.give(Tick())

    def _unreadable(self, error: MalformedResponse) -> None:
        """Tell an answer of the venue that is not as documented: log, metric, and its bytes in ``dead_letters``."""
        self._log.error("an answer of the venue cannot be read", call=error.call, field=error.field, reason=str(error))
        key = self._account.name.encode()
        self._publisher.dead_letter(dead_letter("live", "venue", str(error), field=error.field, key=key, value=error.answer))

    def _count(self, emitted: Sequence[Emit]) -> None:
        mode, name = self._account.mode, self._account.name
        for one in emitted:
            if one.topic == "orders":
                metrics.ORDERS.labels(mode, one.record["leg"], one.record["status"]).inc()
            elif one.topic == "trades_closed":
                metrics.TRADES_CLOSED.labels(mode, one.record["exit_reason"]).inc()
            elif one.topic == "execution_cost_events":
                metrics.PROTECTION_GAP.labels(name).observe(one.record["protection_gap_ms"] / 1000)
                if one.record["signal_to_order_ms"] is not None:
                    metrics.SIGNAL_TO_ORDER.labels(name).observe(one.record["signal_to_order_ms"] / 1000)
        metrics.POSITIONS_OPEN.labels(mode).set(sum(one.position.is_open for one in self.book.active))

    # --- what is watched --------------------------------------------------------------------------------------------------------

    async def _user_stream(self) -> None:
        lost: asyncio.Task[None] | None = None
        first = True
        async for event in self._venue.user_events():
            if isinstance(event, StreamReady):
                if lost is not None:
                    lost.cancel()
                lost = None
                if not first:
                    # What happened meanwhile is missing: compared first, then traded.
                    self._reconciler.want("stream")
                first = False
                self.give(EntriesBlocked("user_stream", None))
            elif isinstance(event, StreamLost):
                self._log.warning("user stream lost", reason=event.reason)
                if lost is None:
                    lost = asyncio.create_task(self._block_later())
            elif not isinstance(event, BalanceReport):
                self.give(event)

    async def _block_later(self) -> None:
        await asyncio.sleep(self._policy.reconcile.stream_lost_ms / 1000)
        self.give(EntriesBlocked("user_stream", "lost"))

    async def _watch_switch(self) -> None:
        """Obey the switch in the database: it works without Kafka."""
        while True:
            reason = await self._switch()
            if reason == UNREADABLE:
                # Also where there is nothing to write: a quiet account must find its way back by itself.
                self._lost("the switch cannot be read", None)
            if self.book.blocks.get("switch") != reason:
                self._log.warning("risk switch", commands=reason)
                await self._submit(EntriesBlocked("switch", reason))
            if reason is not None and "close_all" in reason:
                for symbol in {one.symbol for one in self.book.active}:
                    await self._submit(CloseRequested(symbol, "guard"))
            await asyncio.sleep(SWITCH_S)

    async def _switch(self) -> str | None:
        """Return the commands that hold, None for none; a switch that cannot be read blocks."""
        try:
            commands = await self._journal.commands(self._account.name)
        except psycopg.OperationalError:
            return UNREADABLE
        return ", ".join(sorted({one.command for one in commands})) or None

    async def _watch_funding(self) -> None:
        """Have the payments loaded soon after each settlement; all venues settle at full hours. And drop what has been over for long."""
        while True:
            now = _now()
            await asyncio.sleep((HOUR_MS - (now - LISTED_MS) % HOUR_MS) / 1000)
            if asked_since(self.book.trades.values(), _now()) is not None:
                self._reconciler.want("period")
            if self.book.forget_closed(_now()):
                self._reconciler.forgot()

    def _health(self) -> dict[str, Any]:
        now = _now()
        blocked = self.book.entries_blocked(now)
        return {
            "ok": self._phase in ("trading", "waiting") and "user_stream" not in self.book.blocks,
            "account": self._account.name,
            "mode": self._account.mode,
            "phase": self._phase,
            "entries_blocked": blocked,
            "positions_open": sum(one.position.is_open for one in self.book.active),
            "unprotected": [one.symbol for one in self.book.active if one.unprotected_since is not None],
            "reconciled": getattr(getattr(self, "_reconciler", None), "state", "not yet"),
        }


def _now() -> int:
    return time.time_ns() // 1_000_000
