"""Plays one recording to all subscribers, at the speed of its venue clock or of the slowest reader.

When playback runs
    It starts when each expected route and stream has a subscriber, and no subscription was added for ``settle_s``. The expected routes are
    ``expect_routes``, or all on which the recording has streams. So a client may open its connections one by one and still get every
    message. It pauses without subscribers (``wait_for`` "client"), while any expected route or stream has none ("route"), or never
    ("none"). It resumes by the rule of the start.
Snapshot rendezvous
    At some venues a client joins a depth stream with a snapshot after the first diff. At high speed minutes would pass meanwhile, and the
    start of the book would depend on the machine. So playback stops after the first diff of a new depth subscription until the snapshot was
    served, the subscriber left, or ``snapshot_hold_s`` passed. There is no stop for a subscriber that joins beside another one (a
    rotation), because it needs no new book.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from producers.simulated.market.market import Market
from producers.simulated.recording.recording import Facts, Recording
from producers.simulated.wire.connection import Connection
from producers.simulated.wire.faults import FaultPlan
from producers.simulated.wire.protocol import MarketDialect

# Messages between two checks of the sockets and other tasks, when playback need not wait for its clock.
BATCH = 256

log = structlog.get_logger()


class Playback(Market):
    """The timeline of one recording.

    Args:
        recording: The recording. facts: The result of ``survey``. dialect: The venue's protocol.
        plan: Active faults, shared by all timelines of a venue.
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
        dialect: MarketDialect,
        plan: FaultPlan,
        speed: float | None,
        expect_routes: frozenset[str] | None = None,
        expect_streams: frozenset[str] = frozenset(),
        wait_for: str = "client",
        settle_s: float = 1.0,
        snapshot_hold_s: float = 10.0,
    ) -> None:
        super().__init__(recording.symbol, facts, dialect, plan)
        self.recording = recording
        self.kind = recording.kind
        self.min_notional = recording.min_notional
        self.funding_interval_hours = recording.funding_interval_hours
        self.speed = speed
        self.routes = dialect.routes(facts) if expect_routes is None else expect_routes
        self.expect_streams = expect_streams
        self.wait_for = wait_for
        self._settle_s = settle_s
        self._hold_s = snapshot_hold_s if dialect.rest_book else 0.0
        self._joining: set[tuple[Connection, str]] = set()  # depth subscriptions without a diff yet
        self._served: set[tuple[Connection, str]] = set()  # those that got one
        self._held_by: set[Connection] = set()  # those whose snapshot playback waits for
        self._changed = asyncio.Event()
        self._changed_at = 0.0
        self._paused_by_hand = False
        self._forced = False
        self._anchor: tuple[float, int] | None = None

    # --- subscriptions, called by the venue ---------------------------------------------------------------------------
    def subscribe(self, connection: Connection, stream: str) -> None:
        """Serve ``stream`` to a connection from the next message on."""
        super().subscribe(connection, stream)
        if self.dialect.topic(stream) == "depth":
            self._joining.add((connection, stream))
        self._touch()

    def unsubscribe(self, connection: Connection, stream: str) -> None:
        super().unsubscribe(connection, stream)
        self._joining.discard((connection, stream))
        self._served.discard((connection, stream))
        if self.dialect.topic(stream) == "depth":
            self._held_by.discard(connection)
        self._changed.set()

    def snapshot_fetched(self) -> None:
        """Record that a depth snapshot was served: the rendezvous is over."""
        self._held_by.clear()
        self._changed.set()

    def pause(self) -> None:
        """Pause playback until ``resume``."""
        self._paused_by_hand = True

    def resume(self) -> None:
        """Resume. This also starts a recording that still waits for subscribers."""
        self._paused_by_hand = False
        self._forced = self.state == "waiting"
        self._changed.set()

    def set_speed(self, speed: float | None) -> None:
        """Continue at another speed (venue seconds a second; None: as fast as the clients read)."""
        self.speed = speed
        self._anchor = None

    def _touch(self) -> None:
        self._changed_at = time.monotonic()
        self._changed.set()

    # --- running ------------------------------------------------------------------------------------------------------
    def missing(self) -> set[str]:
        """Return the expected routes and streams that have no subscriber."""
        return (set(self.routes) - self.present()) | (self.expect_streams - self.heard())

    def _must_wait(self) -> bool:
        if self._paused_by_hand:
            return True
        if self.wait_for == "none" or self._forced:
            return False
        return bool(self.missing()) if self.wait_for == "route" else not self.present()

    async def run(self) -> None:
        """Play the recording to its end. Raises FormatError when the files change meanwhile."""
        await self._wait_for_clients()
        await self._play()
        for stream, data in self._plan.end(self.symbol):
            self.deliver(stream, [data])
        await self._flush()
        self.state = "finished"
        log.info("recording ended", symbol=self.symbol, messages=self.events, sent=sum(self.sent.values()))

    async def _wait_for_clients(self) -> None:
        self.state = "waiting"
        reported: set[str] | None = None
        while True:
            missing = set() if self._forced else self.missing()
            quiet = time.monotonic() - self._changed_at
            if not missing and not self._paused_by_hand and quiet >= self._settle_s:
                break
            if missing and missing != reported:
                log.info("waiting for subscribers", symbol=self.symbol, missing=sorted(missing))
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
            while (due := self.book_due()) is not None and due <= event.clock:
                await self._pace(due)
                self.flush_books(due)
            if event.clock > self.clock and self.speed is not None:
                await self._pace(event.clock)
            self.take(event)
            batch += 1
            if self._held_by or batch >= BATCH:
                batch = 0
                await self._flush()
                await asyncio.sleep(0)
                if self._held_by:
                    await self._hold()
                if self._must_wait():
                    await self._interrupted()
        self.flush_books(None)

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
                log.warning("no client fetched the depth snapshot; playback continues", symbol=self.symbol, waited_s=self._hold_s)
                break
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue  # the deadline is checked above
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
            # Long quiet periods are slept in parts, so that a pause or a lost client is noticed.
            await asyncio.sleep(min(wait, 0.5))
            if self._must_wait():
                await self._interrupted()
        await self._pace(clock)

    async def _flush(self) -> None:
        connections = self.listeners()
        for connection in connections:
            connection.flush()
        for connection in connections:
            await connection.drain()

    # --- rendezvous ---------------------------------------------------------------------------------------------------
    def _delivered(self, stream: str, listeners: list[Connection]) -> None:
        if self._joining and self.dialect.topic(stream) == "depth":
            self._joined(stream, listeners)

    def _joined(self, stream: str, listeners: list[Connection]) -> None:
        needs_book = self._hold_s > 0 and not any(connection.open for connection, _ in self._served)
        for connection in listeners:
            if (connection, stream) in self._joining:
                self._joining.discard((connection, stream))
                self._served.add((connection, stream))
                if needs_book:
                    self._held_by.add(connection)

    def status(self) -> dict[str, Any]:
        """Return the playback's status."""
        span = max(1, self.facts.last - self.facts.first)
        return {
            **super().status(),
            "speed": "max" if self.speed is None else self.speed,
            "waiting_for": sorted(self.missing()) if self.state == "waiting" else [],
            "first": self.facts.first,
            "last": self.facts.last,
            "progress": round((self.clock - self.facts.first) / span, 4),
        }
