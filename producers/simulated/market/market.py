"""One symbol of the venue: its state at the timeline's position, its subscribers, and their messages.

The order of work on every message is fixed: venue state first (book, trades, marks), then faults, then the frames for each
subscribed stream. It does not depend on time. So the frames of a connection depend only on the market's messages, the faults and the
subscriptions; speed only changes their timing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from producers.simulated.recording.book import Levels, RecordedBook, Top, Window
from producers.simulated.recording.events import AGG, DEPTH, INTEREST, LIQUIDATION, MARK, SNAPSHOT, TICKER, TRADE, Event
from producers.simulated.recording.frames import DepthMerger, depth_cadence_ms
from producers.simulated.recording.recording import Facts
from producers.simulated.recording.statistics import Bar, Statistics
from producers.simulated.recording.trade_history import TradeHistory, trade_of
from producers.simulated.wire.connection import Connection, text_frame
from producers.simulated.wire.faults import FaultPlan
from producers.simulated.wire.protocol import Change, MarketDialect, Stream


@dataclass
class _Chain:
    """Position of a book's stream: number of its last message, update id after it, and the recording's last id."""

    number: int
    last: int
    seen: int | None = None
    window: Window | None = None
    merger: DepthMerger | None = None
    awaited: list[Connection] = field(default_factory=list)  # subscribed before the first book


class Market:
    """State, subscribers and delivery of one symbol. A timeline (``Playback``, ``GeneratedMarket``) calls ``take``.

    Args:
        name: Symbol in the recordings' spelling, e.g. ``BTCUSDT``. facts: Its facts before the playback. dialect: The venue's protocol.
        plan: Active faults, shared by all markets of a venue. keep_trades: Number of trades for REST; None: all.

    Attributes:
        symbol: The venue's symbol. clock: venue time of the timeline, ms.
        state: waiting, playing, held, paused or finished.
        listed: False after its delisting: nothing is sent any more.
        mark, quote, interest, liquidation: Body of the newest message of the kind; None before the first. memory: The dialect's state
        between messages. watcher: Called after every message; None: not used.
    """

    def __init__(self, name: str, facts: Facts, dialect: MarketDialect, plan: FaultPlan, keep_trades: int | None = None) -> None:
        self.name = name
        self.facts = facts
        self.dialect = dialect
        self.symbol = dialect.market_symbol(name)
        self.kind: str = dialect.kind
        self.state = "waiting"
        self.listed = True
        self.clock = facts.first
        self.events = 0
        self.sent: dict[str, int] = {}
        self.book = RecordedBook(facts.snapshot)
        self.history = TradeHistory(keep_trades)
        self.statistics = Statistics()
        self.mark: dict[str, Any] | None = None
        self.quote: dict[str, Any] | None = None
        self.interest: dict[str, Any] | None = None
        self.memory: dict[str, Any] = {}
        self.watcher: Callable[[Market, Event], None] | None = None
        self.min_notional: str | None = None
        self.funding_interval_hours: int | None = None
        self.funding: list[dict[str, Any]] = []
        source = AGG if dialect.trade_source == AGG or TRADE not in facts.counts else TRADE
        self.trade_kind = source
        self._plan = plan
        self._subscribers: dict[str, list[Connection]] = {}
        self._ordinals: dict[str, int] = {}
        self._spoken: dict[str, int] = {}
        self._chains: dict[str, _Chain] = {}
        self._mergers: dict[str, DepthMerger] = {}
        self._route_counts: dict[str, int] = {}

    # --- subscriptions, called by the venue ---------------------------------------------------------------------------
    def subscribe(self, connection: Connection, stream: str) -> None:
        """Serve ``stream`` to a connection from the next message on, after the venue's first messages of such a stream."""
        known = self.dialect.by_name.get(stream)
        if known is not None and self.listed:
            if known.book == "diff" and not self.dialect.rest_book:
                self._open_book(connection, known)
            else:
                for data in self.dialect.opening(self, known):
                    self.send_to(connection, stream, data)
        self._subscribers.setdefault(stream, []).append(connection)

    def unsubscribe(self, connection: Connection, stream: str) -> None:
        """Stop serving ``stream`` to a connection."""
        listeners = self._subscribers.get(stream, [])
        if connection in listeners:
            listeners.remove(connection)
            if not listeners:
                del self._subscribers[stream]
                self._chains.pop(stream, None)
        chain = self._chains.get(stream)
        if chain is not None and connection in chain.awaited:
            chain.awaited.remove(connection)

    def prices(self, bar: Bar) -> list[str]:
        """Return open, high, low and close of a bar as decimal texts on the market's price grid."""
        return [f"{price:.{self.facts.price_decimals}f}" for price in (bar.open, bar.high, bar.low, bar.close)]

    def listeners(self) -> set[Connection]:
        """Return the connections with any stream."""
        return {connection for listeners in self._subscribers.values() for connection in listeners}

    def present(self) -> set[str]:
        """Return the routes that have a subscriber."""
        return {connection.route for connection in self.listeners() if connection.open}

    def heard(self) -> set[str]:
        """Return the streams, without their variant, that have a subscriber."""
        return {self.dialect.head(stream) for stream, listeners in self._subscribers.items() if any(one.open for one in listeners)}

    # --- messages -----------------------------------------------------------------------------------------------------
    def take(self, event: Event) -> None:
        """Apply a message to the market, and send the resulting messages."""
        kind = event.kind
        self.events += 1
        if event.clock > self.clock:
            self.clock = event.clock
        if self._plan.holding:
            for stream, data in self._plan.due(self.symbol, self.clock):
                self.deliver(stream, [data])
        if kind == SNAPSHOT:
            self.book.offer_snapshot(event)
            return
        if kind == DEPTH:
            self.memory["applied"] = self.book.apply(event)
        elif kind == self.trade_kind:
            trade = trade_of(event)
            self.history.append(trade)
            self.statistics.add(trade)
        elif kind == MARK:
            self.mark = event.body
        elif kind == TICKER:
            self.quote = event.body
        elif kind == INTEREST:
            self.interest = event.body
        if self.listed and (kind != LIQUIDATION or self.kind == "perp"):
            self.dialect.show(self, event)
        if self.watcher is not None and self.listed:
            self.watcher(self, event)

    def now(self) -> int:
        """Return the venue's time of this market, ms."""
        return self.clock

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state == "finished" or not self.listed

    def delist(self) -> None:
        """End trading: nothing is sent any more, and REST shows it."""
        self.listed = False

    def wants(self, stream: str) -> bool:
        """Return whether a stream has a subscriber."""
        return stream in self._subscribers

    def due(self, stream: Stream, event: Event) -> bool:
        """Return whether a stream's cadence allows a message after an event. If so, it counts as sent."""
        if stream.cadence_ms and (event.data or stream.topic not in ("depth", "quotes")):
            step = event.clock // stream.cadence_ms
            if self._spoken.get(stream.name) == step:
                return False
            self._spoken[stream.name] = step
        return True

    def emit(self, stream: str, data: bytes) -> None:
        """Send a stream's next message through the faults to its subscribers."""
        ordinal = self._ordinals.get(stream, 0)
        self._ordinals[stream] = ordinal + 1
        if self._plan.active:
            self.deliver(stream, self._plan.frames(self.symbol, stream, ordinal, self.clock, data))
        elif stream in self._subscribers:
            self.deliver(stream, [data])

    def deliver(self, stream: str, frames: list[bytes]) -> None:
        """Write messages to the subscribers of a stream."""
        listeners = self._subscribers.get(stream)
        if not listeners:
            return
        frame = self.dialect.frame
        for data in frames:
            named = bare = b""
            for connection in listeners:
                if connection.named:
                    named = named or text_frame(frame(self, stream, data, named=True))
                    connection.write(named)
                else:
                    bare = bare or text_frame(frame(self, stream, data, named=False))
                    connection.write(bare)
            self.sent[stream] = self.sent.get(stream, 0) + 1
            self._delivered(stream, listeners)
            if self._plan.active:
                self._cut(self.dialect.route(stream))

    def send_to(self, connection: Connection, stream: str, data: bytes) -> None:
        """Send one connection the first messages of a stream. Only the snapshot fault affects them."""
        connection.write(text_frame(self.dialect.frame(self, stream, data, named=connection.named)))

    def _delivered(self, stream: str, listeners: list[Connection]) -> None:
        """Record that a message of a stream was sent."""

    def _cut(self, route: str) -> None:
        count = self._route_counts[route] = self._route_counts.get(route, 0) + 1
        fault = self._plan.cut(self.symbol, route, count)
        if fault is None:
            return
        for connection in self.listeners():
            if connection.route != route:
                continue
            if fault.code is None:
                connection.cut()
            else:
                connection.close(fault.code, "cut")

    # --- books that begin with a snapshot on the stream ---------------------------------------------------------------
    def show_depth(self, event: Event) -> None:
        """Emit a book change on every diff stream with a subscriber."""
        for stream in self.dialect.by_source.get(DEPTH, ()):
            if stream.book != "diff" or stream.name not in self._subscribers:
                continue
            chain = self._chains.get(stream.name)
            if chain is None or not self.memory["applied"]:
                continue
            if chain.awaited:
                for connection in chain.awaited:
                    self._begin(connection, stream, chain)
                chain.awaited = []
                chain.seen = event.body["u"]
            elif not event.data or stream.cadence_ms <= depth_cadence_ms(event.stream):  # made-up books are sent at the requested rate
                self._change(stream, chain, event)
            else:
                if chain.merger is None:
                    chain.merger = DepthMerger(stream.name, stream.cadence_ms)
                chain.merger.add(event)

    def merge(self, stream: Stream, event: Event) -> None:
        """Merge a book change into a slower stream without snapshots (``MarketDialect.rest_book``).

        Once started it continues without subscribers, so that its merges depend only on the recording.
        """
        merger = self._mergers.get(stream.name)
        if merger is None:
            if stream.name not in self._subscribers:
                return
            merger = self._mergers[stream.name] = DepthMerger(stream.name, stream.cadence_ms)
        merger.add(event)

    def flush_books(self, clock: int | None) -> None:
        """Send the merged changes of steps that ended at or before a venue time; None: all."""
        for merger in self._mergers.values():
            if merger.due is not None and (clock is None or merger.due <= clock):
                merged = merger.flush()
                if merged is not None:
                    self.emit(merger.stream, self.dialect.merged(self, merged))
        for name, chain in self._chains.items():
            if chain.merger is not None and chain.merger.due is not None and (clock is None or chain.merger.due <= clock):
                merged = chain.merger.flush()
                if merged is not None:
                    self._change(self.dialect.by_name[name], chain, merged)

    def book_due(self) -> int | None:
        """Return the venue time at which the next merged change is due."""
        if not self._mergers and not self._chains:
            return None
        mergers = [*self._mergers.values(), *(chain.merger for chain in self._chains.values() if chain.merger is not None)]
        return min((merger.due for merger in mergers if merger.due is not None), default=None)

    def _change(self, stream: Stream, chain: _Chain, event: Event) -> None:
        body = event.body
        previous = body.get("pu", body["U"] - 1)
        whole = chain.seen is None or previous == chain.seen
        chain.number += 1 if whole else 2
        bids, asks = body["b"], body["a"]
        if stream.levels is not None:
            if chain.window is not None:
                bids, asks = chain.window.move(self.book)
            elif self.book.levels > stream.levels and (everything := self.book.top(self.book.levels)) is not None:
                # The book is larger than the stream's window. From here on levels leave it, first the excess ones.
                chain.window = Window(stream.levels, everything)
                out = chain.window.move(self.book)
                bids, asks = _without(bids, out[0]), _without(asks, out[1])
        change = Change(event.clock, body["U"], body["u"], chain.last if whole else previous, chain.number, bids, asks)
        chain.last = chain.seen = body["u"]
        self.emit(stream.name, self.dialect.change(self, stream, change))

    def _open_book(self, connection: Connection, stream: Stream) -> None:
        """Send a new subscriber the book. Other subscribers first get the merged changes so far, so that all share one numbering."""
        chain = self._chains.get(stream.name)
        if chain is None:
            chain = self._chains[stream.name] = _Chain(0, self.book.last_update_id or 0)
        elif chain.merger is not None:
            merged = chain.merger.flush()
            if merged is not None:
                self._change(stream, chain, merged)
        if self.book.last_update_id is None:
            chain.awaited.append(connection)
        else:
            self._begin(connection, stream, chain)

    def _begin(self, connection: Connection, stream: Stream, chain: _Chain) -> None:
        top = self.book.top(stream.levels or 1 << 30)
        if top is None:
            raise AssertionError("a stream begins when a book is known")
        chain.number = chain.number or top.last  # never changed for present subscribers
        chain.last = max(chain.last, top.last)
        if stream.levels is not None and chain.window is None and self.book.levels > stream.levels:
            chain.window = Window(stream.levels, top)
        spoiled = self._plan.snapshot(self.symbol, top)
        number = chain.number - (top.last - spoiled.last)
        self.send_to(connection, stream.name, self.dialect.snapshot(self, stream, spoiled, number))

    def rest_book(self, limit: int) -> Top | None:
        """Return the book for a REST response, None while unknown."""
        top = self.book.top(limit)
        return None if top is None else self._plan.snapshot(self.symbol, top)

    def settled(self, start: int | None, end: int | None) -> list[dict[str, Any]]:
        """Return the settled funding rates up to now in ``start``..``end`` (ms, inclusive), oldest first."""
        return [
            row
            for row in self.funding
            if row["fundingTime"] <= self.now()
            and (start is None or row["fundingTime"] >= start)
            and (end is None or row["fundingTime"] <= end)
        ]

    def interest_points(self, step_ms: int, count: int, end: int | None = None) -> list[tuple[int, str, str]]:
        """Return (time ms, amount in base units, value in quote units) of past open interest up to ``end``; none for recordings."""
        return []

    def ratio_points(self, name: str, step_ms: int, count: int, end: int | None = None) -> list[tuple[int, float]]:
        """Return (time ms, share of longs) of past account or position ratios up to ``end``; none for recordings."""
        return []

    # --- figures ------------------------------------------------------------------------------------------------------
    def status(self) -> dict[str, Any]:
        """Return the market's status."""
        return {
            "symbol": self.symbol,
            "state": self.state,
            "listed": self.listed,
            "finished": self.state == "finished",
            "clock": self.clock,
            "messages": self.events,
            "frames_sent": dict(self.sent),
            "trades": len(self.history),
        }


def _without(changes: Levels, gone: Levels) -> Levels:
    prices = {price for price, _ in gone}
    return [level for level in changes if level[0] not in prices] + gone
