"""The state of each symbol, stream and connection of a running producer."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from producers.output.pipeline import Source
from producers.venue.adapter.base import Channel, Market, Scanner
from producers.venue.network.connection import Connection
from producers.venue.state.funding_schedule import FundingSchedule
from producers.venue.state.order_book import OrderBook
from producers.venue.state.trade_ids import RecentIds, TradeIds
from schemas.codec.avro import Record

# Shortest time between two snapshot requests of a symbol. It grows while they fail.
SNAPSHOT_PAUSE_S = 1.0


class StreamState(Enum):
    """The status of a stream, shown in /health and as a metric."""

    CONNECTING = "connecting"  # its connection is down
    SYNCING = "syncing"  # subscribed, nothing usable came yet
    LIVE = "live"
    STALE = "stale"  # silent beyond its limit
    INVALID = "invalid"  # its book broke and is being rebuilt
    CLOSED = "closed"  # the contract was delisted


@dataclass(slots=True)
class Feed:
    """One symbol.

    Attributes:
        market: The adapter's view of it.
        ids: Ids of its trades where they are consecutive; recent: its newest trades where they are not.
        book: The order book.
        recorded: The venue plays a recording.
        closed: The contract no longer trades.
        log_end: Newest venue time of an earlier run, ms UTC; None: the log holds only its bars, or nothing.
    """

    market: Market
    partition: int
    recorded: bool = False
    closed: bool = False
    ids: TradeIds = field(default_factory=TradeIds)
    recent: RecentIds = field(default_factory=RecentIds)
    trade_time: int | None = None
    log_end: int | None = None
    begun: int | None = None  # venue time of its first trade in the log, if this run knows it
    klines_to: int | None = None  # end of the venue's newest bar in the log; None: no more are needed
    book: OrderBook = field(default_factory=OrderBook)
    broken: Record | None = None  # the gap row of a book that is being rebuilt
    snapshot: asyncio.Task[None] | None = None
    snapshot_after: float = 0.0
    snapshot_pause: float = SNAPSHOT_PAUSE_S
    quote: tuple[int, int] = (-1, -1)  # update id and time of the newest
    newest: dict[str, Record] = field(default_factory=dict)  # channel or indicator -> newest record, for streams without ids
    schedule: FundingSchedule = field(default_factory=FundingSchedule)
    liquidations: deque[tuple[Any, ...]] = field(default_factory=lambda: deque(maxlen=64))
    repairs: dict[tuple[int, int], int] = field(default_factory=dict)
    thinned: dict[str, int] = field(default_factory=dict)  # topic -> venue time of the last record written while thinning out

    @property
    def symbol(self) -> str:
        """The venue's symbol."""
        return self.market.symbol

    @property
    def instrument(self) -> str:
        """Our id."""
        return self.market.instrument


@dataclass(slots=True)
class Stream:
    """One subscribed stream.

    Attributes:
        seen: ``time.monotonic()`` of its newest message.
        missed_since: Start of the trades to fetch once the stream resumes, venue time; None: nothing to fetch.
    """

    name: str
    channel: Channel
    feed: Feed
    line: ConnectionState
    seen: float
    silent: bool = False
    missed_since: int | None = None
    count: int = 0
    counted: int = 0
    last_time: int | None = None

    @property
    def state(self) -> StreamState:
        """Its status."""
        if self.feed.closed:
            return StreamState.CLOSED
        if self.line.connection is None or not self.line.connection.open:
            return StreamState.CONNECTING
        if self.silent:
            return StreamState.STALE
        if self.channel.topic == "depth" and not self.feed.book.live:
            return StreamState.INVALID if self.feed.broken is not None else StreamState.SYNCING
        # A stream on which silence is normal is as live as its connection.
        return StreamState.LIVE if self.count or self.channel.silence_s is None else StreamState.SYNCING


@dataclass(slots=True)
class ConnectionState:
    """The connection of some streams.

    Attributes:
        source: Its source in the merge. clock: Its newest venue time.
        lost_at: Venue time at which it was lost, or at which the run began; None: it was not lost.
        ended: The recording is over and its source has left the merge.
        scanner: Reads most of its frames in bulk, if the venue has one (``Adapter.scanner``); scanned: the streams by its numbers.
    """

    source: Source
    clock: int | None = None
    lost_at: int | None = None
    ended: bool = False
    streams: list[Stream] = field(default_factory=list)
    connection: Connection | None = None
    scanner: Scanner | None = None
    scanned: list[Stream] = field(default_factory=list)
