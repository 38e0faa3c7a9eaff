"""Plays one recording to everybody who subscribed, at the pace of its own venue clock or of the slowest reader.

The order of work on every message is fixed: venue state first (book, aggTrade index, marks), then faults, then the frames
for each subscribed stream. Nothing of it depends on time, so the frames of a connection are a function of the recording,
the plan of faults and the subscriptions; speed only decides when.

When playback runs
    It starts when every route on which the recording has streams (or ``expect_routes``) has a subscriber of the symbol, so has each
    of ``expect_streams``, and no subscription was added for ``settle_s``; so a client may open its connections one after the
    other and still get all from the first message on. It pauses while nobody is subscribed (``wait_for`` "client"; "route": while
    any expected route or stream has nobody; "none": never) and goes on by the rule of the start.
Snapshot rendezvous
    A client joins a depth stream by fetching a snapshot after the first diff. At high speed minutes would pass meanwhile, and
    where in the recording the book starts would depend on the machine. So after the first diff sent to a new depth subscription
    playback holds until the snapshot was fetched, the subscriber left, or ``snapshot_hold_s`` passed. A subscriber that joins while
    another one is served (a planned change of connections) needs no new book, and is not waited for.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from producers.recorded.book import RecordedBook
from producers.recorded.connection import Connection, text_frame
from producers.recorded.events import AGG, DEPTH, MARK, SNAPSHOT, Event, route_of_stream
from producers.recorded.faults import FaultPlan
from producers.recorded.frames import DEPTH_CADENCES, DepthMerger, depth_cadence_ms
from producers.recorded.history import AggTradeIndex
from producers.recorded.recording import Facts, Recording

# Messages between two looks at the sockets and the other tasks when playback need not wait for its clock.
BATCH = 256
# markPrice without @1s comes every 3 s; recorded stamps jitter around the second.
SLOW_MARK_MS = 2500

log = structlog.get_logger()


class Playback:
    """The timeline of one recording.

    Args:
        recording: What is played. facts: what ``survey`` found in it.
        plan: Faults in force, shared by all timelines of a venue.
        speed: Venue seconds a second; None: as fast as the clients read.
        expect_routes: Routes that must have a subscriber before it starts; None: those of the recording.
        expect_streams: Streams that must have a subscriber too, without symbol and cadence, e.g. ``depth``, ``aggTrade``.
        wait_for: "client", "route" or "none", see above.
        settle_s: Quiet time after the last subscription before a start, seconds.
        snapshot_hold_s: Longest hold for the snapshot rendezvous, seconds; 0: no rendezvous.
    """

    def __init__(
        self,
        recording: Recording,
        facts: Facts,
        plan: FaultPlan,
        speed: float | None,
        expect_routes: frozenset[str] | None = None,
        expect_streams: frozenset[str] = frozenset(),
        wait_for: str = "client",
        settle_s: float = 1.0,
        snapshot_hold_s: float = 10.0,
    ) -> None:
        self.recording = recording
        self.facts = facts
        self.speed = speed
        self.routes = facts.routes if expect_routes is None else expect_routes
        self.expect_streams = expect_streams
        self.wait_for = wait_for
        self.state = "waiting"
        self.clock = facts.first
        self.events = 0
        self.sent: dict[str, int] = {}
        self.book = RecordedBook(facts.snapshot)
        self.history = AggTradeIndex()
        self.mark: dict[str, Any] | None = None
        self._plan = plan
        self._settle_s = settle_s
        self._hold_s = snapshot_hold_s
        self._prefix = recording.symbol.lower() + "@"
        self._subscribers: dict[str, list[Connection]] = {}
        self._ordinals: dict[str, int] = {}
        self._route_counts = {"public": 0, "market": 0}
        self._mergers: dict[str, DepthMerger] = {}
        self._slow_mark: int | None = None
        self._joining: set[tuple[Connection, str]] = set()  # depth subscriptions that have not got a diff yet
        self._served: set[tuple[Connection, str]] = set()  # those that got one
        self._held_by: set[Connection] = set()  # those whose snapshot playback waits for
        self._changed = asyncio.Event()
        self._changed_at = 0.0
        self._paused_by_hand = False
        self._forced = False
        self._anchor: tuple[float, int] | None = None

    # --- subscriptions, called by the venue ---------------------------------------------------------------------------
    def subscribe(self, connection: Connection, stream: str) -> None:
        """Serve ``stream`` (without symbol) to a connection from the next message on."""
        self._subscribers.setdefault(stream, []).append(connection)
        if stream in DEPTH_CADENCES:
            self._joining.add((connection, stream))
        self._touch()

    def unsubscribe(self, connection: Connection, stream: str) -> None:
        """Stop serving ``stream`` to a connection."""
        listeners = self._subscribers.get(stream, [])
        if connection in listeners:
            listeners.remove(connection)
            if not listeners:
                del self._subscribers[stream]
        self._joining.discard((connection, stream))
        self._served.discard((connection, stream))
        if stream in DEPTH_CADENCES:
            self._held_by.discard(connection)
        self._changed.set()

    def snapshot_fetched(self) -> None:
        """Note that a depth snapshot was answered: the rendezvous is over."""
        self._held_by.clear()
        self._changed.set()

    def pause(self) -> None:
        """Hold playback until ``resume``."""
        self._paused_by_hand = True

    def resume(self) -> None:
        """Go on; also starts a recording that waits for subscribers that will not come."""
        self._paused_by_hand = False
        self._forced = self.state == "waiting"
        self._changed.set()

    def set_speed(self, speed: float | None) -> None:
        """Go on at another speed (venue seconds a second; None: as fast as the clients read)."""
        self.speed = speed
        self._anchor = None

    def _touch(self) -> None:
        self._changed_at = time.monotonic()
        self._changed.set()

    # --- running ------------------------------------------------------------------------------------------------------
    def present(self) -> set[str]:
        """Return the routes that have a subscriber."""
        return {connection.route for listeners in self._subscribers.values() for connection in listeners if connection.open}

    def missing(self) -> set[str]:
        """Return the expected routes and streams that have no subscriber."""
        streams = {stream.partition("@")[0] for stream, listeners in self._subscribers.items() if any(one.open for one in listeners)}
        return (set(self.routes) - self.present()) | (self.expect_streams - streams)

    def _must_wait(self) -> bool:
        if self._paused_by_hand:
            return True
        if self.wait_for == "none" or self._forced:
            return False
        return bool(self.missing()) if self.wait_for == "route" else not self.present()

    async def run(self) -> None:
        """Play the recording to its end. Raises FormatError when the files change under it."""
        await self._wait_for_clients()
        await self._play()
        for stream, data in self._plan.end(self.recording.symbol):
            self._deliver(stream, [data])
        await self._flush()
        self.state = "finished"
        log.info("recording ended", symbol=self.recording.symbol, messages=self.events, sent=sum(self.sent.values()))

    async def _wait_for_clients(self) -> None:
        self.state = "waiting"
        reported: set[str] | None = None
        while True:
            missing = set() if self._forced else self.missing()
            quiet = time.monotonic() - self._changed_at
            if not missing and not self._paused_by_hand and quiet >= self._settle_s:
                break
            if missing and missing != reported:
                log.info("waiting for subscribers", symbol=self.recording.symbol, missing=sorted(missing))
                reported = missing
            self._changed.clear()
            timeout = None if missing or self._paused_by_hand else self._settle_s - quiet
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                pass  # the settling time is over
        self.state = "playing"
        self._anchor = None

    async def _play(self) -> None:
        batch = 0
        for event in self.recording.events():
            if self._mergers:
                for merger in self._mergers.values():
                    if merger.due is not None and merger.due <= event.clock:
                        await self._pace(merger.due)
                        self._flush_merger(merger)
            if event.clock > self.clock and self.speed is not None:
                await self._pace(event.clock)
            self._show(event)
            batch += 1
            if self._held_by or batch >= BATCH:
                batch = 0
                await self._flush()
                await asyncio.sleep(0)
                if self._held_by:
                    await self._hold()
                if self._must_wait():
                    await self._interrupted()
        for merger in self._mergers.values():
            self._flush_merger(merger)

    async def _interrupted(self) -> None:
        if self._paused_by_hand and not self.missing():
            self.state = "paused"
            while self._paused_by_hand:
                self._changed.clear()
                await self._changed.wait()
            self.state = "playing"
            self._anchor = None
        else:
            await self._wait_for_clients()

    async def _hold(self) -> None:
        """Wait for the snapshot of a client that just got its first diff."""
        self.state = "held"
        deadline = time.monotonic() + self._hold_s
        while self._held_by and any(connection.open for connection in self._held_by):
            left = deadline - time.monotonic()
            if left <= 0:
                log.warning("nobody fetched the depth snapshot; playback goes on", symbol=self.recording.symbol, waited_s=self._hold_s)
                break
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue  # the deadline is looked at above
        self._held_by.clear()
        self.state = "playing"
        self._anchor = None

    async def _pace(self, clock: int) -> None:
        """Wait until a venue time is due."""
        if self.speed is None:
            return
        if self._anchor is None:
            self._anchor = (time.monotonic(), clock)
        while self._anchor is not None:
            started, first = self._anchor
            wait = started + (clock - first) / 1000 / self.speed - time.monotonic()
            if wait <= 0.0005:
                return
            await self._flush()
            # Long quiet stretches are slept in parts, so that a pause or a lost client is noticed.
            await asyncio.sleep(min(wait, 0.5))
            if self._must_wait():
                await self._interrupted()
        await self._pace(clock)

    async def _flush(self) -> None:
        connections = {connection for listeners in self._subscribers.values() for connection in listeners}
        for connection in connections:
            connection.flush()
        for connection in connections:
            await connection.drain()

    # --- messages -----------------------------------------------------------------------------------------------------
    def _show(self, event: Event) -> None:
        """Bring the venue's state up to a message, and send what it makes."""
        kind = event.kind
        self.events += 1
        if event.clock > self.clock:
            self.clock = event.clock
        if self._plan.holding:
            for stream, data in self._plan.due(self.recording.symbol, self.clock):
                self._deliver(stream, [data])
        if kind == SNAPSHOT:
            self.book.offer_snapshot(event)
            return
        if kind == DEPTH:
            self.book.apply(event)
            self._show_depth(event)
            return
        if kind == AGG:
            self.history.append(event)
        elif kind == MARK:
            self.mark = event.body
            if self._slow_mark is None or event.clock - self._slow_mark >= SLOW_MARK_MS:
                self._slow_mark = event.clock
                if event.stream != "markPrice":
                    self._emit("markPrice", event.data)
        self._emit(event.stream, event.data)

    def _show_depth(self, event: Event) -> None:
        recorded = depth_cadence_ms(event.stream)
        for stream, cadence in DEPTH_CADENCES.items():
            if stream == event.stream or cadence <= recorded:
                # A stream faster than the recording is served at the recorded cadence: nothing finer is known.
                if stream == event.stream or stream in self._subscribers:
                    self._emit(stream, event.data)
            elif stream in self._subscribers or stream in self._mergers:
                merger = self._mergers.get(stream)
                if merger is None:
                    merger = self._mergers[stream] = DepthMerger(stream, cadence)
                merger.add(event)

    def _flush_merger(self, merger: DepthMerger) -> None:
        merged = merger.flush()
        if merged is not None:
            self._emit(merger.stream, merged.data)

    def _emit(self, stream: str, data: bytes) -> None:
        ordinal = self._ordinals.get(stream, 0)
        self._ordinals[stream] = ordinal + 1
        if self._plan.active:
            frames = self._plan.frames(self.recording.symbol, stream, ordinal, self.clock, data)
            self._deliver(stream, frames)
        elif stream in self._subscribers:
            self._deliver(stream, [data])

    def _deliver(self, stream: str, frames: list[bytes]) -> None:
        listeners = self._subscribers.get(stream)
        if not listeners:
            return
        for data in frames:
            combined = bare = b""
            for connection in listeners:
                if connection.combined:
                    combined = combined or text_frame(b'{"stream":"' + (self._prefix + stream).encode() + b'","data":' + data + b"}")
                    connection.write(combined)
                else:
                    bare = bare or text_frame(data)
                    connection.write(bare)
            self.sent[stream] = self.sent.get(stream, 0) + 1
            if self._joining and stream in DEPTH_CADENCES:
                self._joined(stream, listeners)
            if self._plan.active:
                self._cut(route_of_stream(stream))

    def _joined(self, stream: str, listeners: list[Connection]) -> None:
        needs_book = self._hold_s > 0 and not any(connection.open for connection, _ in self._served)
        for connection in listeners:
            if (connection, stream) in self._joining:
                self._joining.discard((connection, stream))
                self._served.add((connection, stream))
                if needs_book:
                    self._held_by.add(connection)

    def _cut(self, route: str) -> None:
        self._route_counts[route] += 1
        fault = self._plan.cut(self.recording.symbol, route, self._route_counts[route])
        if fault is None:
            return
        for connection in {c for listeners in self._subscribers.values() for c in listeners if c.route == route}:
            if fault.code is None:
                connection.cut()
            else:
                connection.close(fault.code, "cut")

    def status(self) -> dict[str, Any]:
        """Return where playback stands."""
        span = max(1, self.facts.last - self.facts.first)
        return {
            "symbol": self.recording.symbol,
            "state": self.state,
            "speed": "max" if self.speed is None else self.speed,
            "finished": self.state == "finished",
            "waiting_for": sorted(self.missing()) if self.state == "waiting" else [],
            "clock": self.clock,
            "first": self.facts.first,
            "last": self.facts.last,
            "progress": round((self.clock - self.facts.first) / span, 4),
            "messages": self.events,
            "frames_sent": dict(self.sent),
            "agg_trades": len(self.history),
        }
