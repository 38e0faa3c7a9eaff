"""The live executor: one process that owns an account and runs its execution book.

For each event the book decides. One transaction then journals the changed trades with the intents of their orders, the signal offset and the records.
Orders are sent only after that commit. What happens at each failure:

- kill -9, crash: the next process locks the account, loads the trades and queries every order with an unknown outcome by its client id. It reconciles
  with the venue before it opens a position. Stops that rest at the venue protect the positions meanwhile.
- database down, or no answer for two seconds: no position is opened, because an entry is never sent before its intent is journalled. Stops, exits,
  cancels and queries continue. They are reduce-only, and their ids follow from the journalled state. A process that restarts from the old journal
  generates the same ids, so the venue refuses a repeat as ``duplicate_id``. Other executions of that time are in the venue's list of fills. The
  pending state is written once the database is back.
- Kafka down: the guard's last state expires, so no position is opened. Exits continue, and records wait in the journal.
- user stream down: after a few seconds no position is opened. When the stream is back, the account is reconciled.
- venue down: outcomes are unknown, and orders are queried until the venue answers. A malformed answer is an unknown outcome; its bytes go to
  dead_letters.
- two executors of one account: the second waits for the lock. One that lost the lock without noticing fails at its next commit and ends.
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
from schemas.process.dead_letters import dead_letter
from schemas.process.service import Service
from schemas.settings import Settings
from sinks.executor.journal import FencedError
from sinks.executor.publish import Publisher
from sinks.live.account_watch import UNREADABLE, AccountWatchers
from sinks.live.inputs import Input, KafkaInputs, SignalMessage
from sinks.live.journal import LiveJournal, OutboxEntry
from sinks.live.order_dispatch import OrderDispatch
from sinks.live.outbox import Outbox
from sinks.live.pending_journal import PendingJournal
from sinks.live.reconciler import Reconciler
from sinks.live.rerouter import Rerouter
from sinks.venues.common.adapter import MalformedResponse, TradingVenue
from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.orders.events import (
    Action,
    Anomaly,
    Emit,
    EntriesBlocked,
    Event,
    Place,
    PlaceFailed,
    SignalReceived,
    Tick,
)
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.records import Account

# Longest time between two ticks.
TICK_S = 0.1
# Most events in one transaction.
BATCH = 200
RETRY_S = 0.5
# After this time without an answer the database counts as down: exits must not wait for it.
WRITE_S = 2.0

BookCall = Callable[[int], list[Action]]
QueuedInput = tuple[Event | BookCall | SignalMessage, asyncio.Future[None] | None]


class LiveExecutor:
    """Trades one account.

    Args:
        settings: Environment.
        service: Stop flag, log, health.
        account: The account; its name is the account id, VENUE-mode.
        venue: Not open yet.
        policy: All settings of execution.
        journal, publisher: Replacements for tests; created here by default.
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
        self._pending = PendingJournal()
        # Callers that wait until their event is journalled.
        self._submitted: list[asyncio.Future[None]] = []
        # Reconnects to the database; None while it answers.
        self._reconnecting: asyncio.Task[None] | None = None
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
                self._queue_input,
                self._publisher.dead_letter,
                replayed=self._account.mode == "simulated",
                spot=self._account.is_spot,
            )
            await self._take(inputs)
            self._dispatch = OrderDispatch(self._venue, self.give, self._malformed)
            self._outbox = Outbox(self._settings, self._publisher, self._forget)
            self._outbox.add(await self._journal.unpublished())
            self._reconciler = Reconciler(
                self._venue, self.book, self._submit, self._dispatch.perform, self._report, self._malformed, self._account.name
            )
            self._watchers = AccountWatchers(
                self._venue, self._journal, self.book, self._reconciler, self.give, self._submit, lambda reason: self._lost(reason, None)
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
                ("user stream", self._watchers.user_stream()),
                ("reconciler", self._reconciler.run()),
                ("switch", self._watchers.switch()),
                ("funding", self._watchers.funding()),
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
        """Take the account's lock; wait while another process holds it. Return False when the service stops first."""
        announced = False
        while not stopped.is_set():
            try:
                await self._journal.connect()
                if await self._journal.lock():
                    return True
            except psycopg.OperationalError as error:
                self._log.warning("the database does not answer", reason=str(error).strip())
            if not announced:
                self._log.warning("another executor holds this account, or the database is down; waiting")
                self._phase, announced = "waiting", True
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
            # A new account begins at the end of the topic. That position is journalled before anything is read.
            self._offsets = {**ends, **self._offsets}
            await self._journal.commit(self._epoch, [], self._offsets, self._next_seq, [])
        self.book.load(taken.trades)
        unknown = sorted({one.symbol for one in self.book.active} - self.book.rules.keys())
        if unknown:
            # Delisted, or its rules are malformed. Orders at the venue still protect the position, but a person must look.
            self._log.error("open trades without instrument rules are not managed", symbols=unknown)
            self.book.blocks["rules"] = f"open trades without instrument rules: {', '.join(unknown)}"
        self._log.info("account taken", epoch=taken.epoch, trades=len(self.book.active))

    async def _close(self, inputs: KafkaInputs | None, tasks: Sequence[asyncio.Task[Any]]) -> None:
        self._phase = "stopping"
        if inputs is not None:
            await asyncio.to_thread(inputs.stop)
        if self._reconnecting is not None:
            tasks = [*tasks, self._reconnecting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            await self._dispatch.close()
        await self._venue.close()
        await asyncio.to_thread(self._publisher.close)
        await self._journal.close()

    # --- events -----------------------------------------------------------------------------------------------------------------

    def give(self, event: Event) -> None:
        """Queue an event."""
        self._events.put_nowait((event, None))

    def _queue_input(self, given: Input) -> None:
        self._events.put_nowait((given, None))

    async def _submit(self, given: Event | BookCall) -> None:
        """Queue an event and wait until it is journalled."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait((given, done))
        await done

    async def _work(self) -> None:
        """Handle events: decide, journal, act."""
        ticked = 0.0
        while True:
            batch = await self._next()
            actions: list[Action] = []
            for given, _ in batch:
                actions += self._handle(given)
            if self._signals:
                # The switch is read right before a position may be opened, not only every half second. Signals wait while the database is down.
                switch = await self._watchers.commands()
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
                    self._dispatch.perform(action)
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
            # Not wait_for: in Python 3.11 it may swallow a cancellation that arrives together with its time-out.
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
        """Return the signals to handle now. Signals wait for the first reconciliation, the first risk state and the database, until they are too old."""
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
        there = self._readable and self._reconnecting is None and "journal" not in self.book.blocks
        return self.book.guard is not None and self._reconciler.done > 0 and there

    # --- journal ------------------------------------------------------------------------------------------------------------------

    async def _write(self, actions: Sequence[Action], moved: bool) -> bool:
        """Write all pending changes; return whether everything is written."""
        records = [*(action for action in actions if isinstance(action, Emit)), *self._extra]
        self._extra = []
        pending = self._pending
        pending.add(self.book.touched(), records, moved)
        if self._reconnecting is not None:
            if not self._reconnecting.done():
                return False
            self._reconnecting.result()
            self._reconnecting, self._phase = None, "trading"
            self._log.info("the database is back")
            self.give(EntriesBlocked("journal", None))
        if pending.is_empty:
            return True
        rows: list[OutboxEntry] = [self._outbox.row(self._next_seq + at, one.topic, one.record) for at, one in enumerate(pending.records)]
        begun = time.monotonic()
        writing = asyncio.create_task(
            self._journal.commit(self._epoch, pending.trades, dict(self._offsets), self._next_seq + len(rows), rows), name="writing"
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
        self._count(pending.records)
        pending.clear()
        return True

    def _lost(self, reason: str, writing: asyncio.Task[None] | None) -> None:
        if self._reconnecting is None:
            self._log.warning("the journal cannot be written; nothing is opened until it can", reason=reason)
            self._phase = "no journal"
            self.give(EntriesBlocked("journal", "cannot be written"))
            self._reconnecting = asyncio.create_task(self._reconnect(writing), name="database")

    async def _reconnect(self, writing: asyncio.Task[None] | None) -> None:
        """Reconnect to the database.

        Args:
            writing: A transaction without an answer. It may still succeed; then the same values are written again.

        Raises:
            FencedError: another executor took the account in the meantime.
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
            # The records are sent again after a restart; readers drop the repeats.
            return

    def _report(self, record: Record) -> None:
        self._extra.append(Emit("reconciliations", record))
        self.give(Tick())

    def _malformed(self, error: MalformedResponse) -> None:
        """Report a malformed answer of the venue: log, metric, and its bytes to ``dead_letters``."""
        self._log.error("malformed answer of the venue", call=error.call, field=error.field, reason=str(error))
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

    # --- health -------------------------------------------------------------------------------------------------------------

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
