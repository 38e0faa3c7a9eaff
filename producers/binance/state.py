"""What is known of each symbol, stream and connection while the producer runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from producers.binance.book import OrderBook
from producers.binance.trades import TradeIds
from producers.pipeline import Source
from schemas.codec import Record

# Snapshot requests of one symbol: at most one in so many seconds, and ever fewer while they fail.
SNAPSHOT_PAUSE_S = 1.0


@dataclass(slots=True)
class Feed:
    """One symbol.

    Attributes:
        ids: Aggregate trade ids seen.
        book: The order book.
        hours: Funding interval as published.
        recorded: The venue plays a recording.
    """

    symbol: str
    instrument: str
    partition: int
    hours: int | None
    recorded: bool = False
    ids: TradeIds = field(default_factory=TradeIds)
    trade_time: int | None = None
    book: OrderBook = field(default_factory=OrderBook)
    broken: Record | None = None  # the gap row of a book that is being rebuilt
    snapshot: asyncio.Task[None] | None = None
    snapshot_after: float = 0.0
    snapshot_pause: float = SNAPSHOT_PAUSE_S
    quote: tuple[int, int] = (-1, -1)  # update id and time of the newest
    mark_time: int = -1
    liquidations: deque[tuple[Any, ...]] = field(default_factory=lambda: deque(maxlen=64))
    repairs: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """One subscribed stream: ``seen`` is ``time.monotonic()`` of its newest message."""

    name: str
    kind: str
    feed: Feed
    line: Line
    handle: Callable[[Stream, dict[str, Any], int, int], Awaitable[None] | None]
    seen: float
    silent: bool = False
    count: int = 0
    counted: int = 0
    last_time: int | None = None


@dataclass(slots=True)
class Line:
    """The connection that a stream comes on.

    Attributes:
        source: Its place in the merge.
        clock: Newest venue time heard on it.
        lost_at: Venue time at which it was lost; None: it was not.
    """

    source: Source
    clock: int | None = None
    lost_at: int | None = None
    streams: list[Stream] = field(default_factory=list)
