"""The one shape of all venues.

A venue is a folder with an ``Adapter``: which streams there are, how to subscribe, how a frame becomes events, and which REST calls answer
what. Everything else (connections, merging, sequence and gap handling, order books, back-fill, silence alarms, writing) is shared and lives
beside this file. Adapters hold no connection and read no clock; mapping functions are pure.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from producers.venue.network.connection import Heartbeat
from producers.venue.network.rest import BANS, Limit, Rest
from schemas.codec.avro import Codec, Record

Level = tuple[float, float]


class MappingError(ValueError):
    """A message that does not have the documented shape.

    Attributes:
        record: What was being read, e.g. ``publicTrade``.
        field: The venue's name of the field at fault.
        reason: What is wrong with it.
    """

    def __init__(self, record: str, field: str, reason: str) -> None:
        super().__init__(f"{record}.{field}: {reason}")
        self.record = record
        self.field = field
        self.reason = reason


class BookDiff(NamedTuple):
    """One change of a book: update ids ``first``..``last``, applied on a book that stands at ``previous``; quantity 0 removes.

    A venue whose ids grow by one a message has ``previous = last - 1``. ``texts`` (price -> the venue's text of the level) is given only
    by venues whose checksum is made of it, ``checksum`` is theirs after the change.
    """

    time: int
    first: int
    last: int
    previous: int
    bids: list[Level]
    asks: list[Level]
    checksum: int | None = None
    texts: dict[float, str] | None = None


class BookSnapshot(NamedTuple):
    """A whole book at update id ``last``; ``time`` is None when the venue does not say (REST of some)."""

    last: int
    bids: list[Level]
    asks: list[Level]
    time: int | None = None
    checksum: int | None = None
    texts: dict[float, str] | None = None


class RejectedRow(NamedTuple):
    """A row of a REST answer that cannot be used: its bytes and why."""

    raw: bytes
    error: MappingError


def map_rows(rows: Iterable[Any], read: Callable[[Any], Record]) -> list[Record | RejectedRow]:
    """Return the rows of a REST answer as records; a bad row costs nobody but itself."""
    found: list[Record | RejectedRow] = []
    for row in rows:
        try:
            found.append(read(row))
        except MappingError as error:
            found.append(RejectedRow(json.dumps(row).encode(), error))  # orjson has no room for the numbers that a broken row may hold
    return found


# What a message says: (topic, record of it) - or, for ``depth``, (``depth``, a BookDiff or BookSnapshot).
# ``agg_trades`` records of a venue without consecutive ids have ``agg_id`` 0 and ``venue_trade_id`` set: see ``Adapter.consecutive_ids``.
Event = tuple[str, Record | BookDiff | BookSnapshot]


class Channel(NamedTuple):
    """One of the venue's streams.

    Attributes:
        name: The venue's name, e.g. ``publicTrade``.
        topic: The topic that it feeds first; the user chooses streams by it.
        silence_s: Seconds without data after which it is called silent; None: silence is normal (liquidations).
        whole_market: One subscription brings all symbols; those that nobody asked for are passed over.
    """

    name: str
    topic: str
    silence_s: float | None
    whole_market: bool = False


@dataclass(slots=True)
class Market:
    """One symbol as an adapter sees it.

    Attributes:
        symbol: The venue's symbol. instrument: our id.
        facts: Its ``instruments`` record (without times); ``take`` may read contract sizes from ``extra``.
        extra: What the adapter keeps of the facts that no topic carries (contract value, multiplier).
        memory: What the adapter remembers between messages (the fields of partial tickers).
    """

    symbol: str
    instrument: str
    facts: Record
    extra: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


class Message(NamedTuple):
    """A frame's message, or one of several: the stream's wire name, the venue's clock, and the payload for ``Adapter.take``.

    A message without a time of its own has clock 0: the newest clock of its connection counts.
    """

    stream: str
    clock: int
    data: Any


@dataclass(slots=True)
class ConnectionPlan:
    """One websocket connection: where it goes, what is sent once it is open, and which (symbol, channel) it carries."""

    name: str
    url: str
    streams: list[tuple[str, Channel]]
    opening: list[str] = field(default_factory=list)


class ContractInfo(NamedTuple):
    """A contract: its ``instruments`` record without times, and what only the adapter needs."""

    record: Record
    extra: dict[str, Any]


@dataclass(slots=True)
class Poll:
    """Something asked over REST again and again.

    Attributes:
        name: For logs and metrics, e.g. ``openInterest``.
        topic: The topic that it feeds (``market_indicators`` or ``funding``).
        every_s: Seconds between two rounds.
        whole_market: One call answers for all symbols; else ``fetch`` is called with one symbol after the other.
        fetch: Returns (symbol, topic, record without ``instrument``, unless it is about another one of the asset); symbols that are not
            followed are ignored.
        gap_s: Seconds between two symbols of a round: with hundreds of them a round takes longer than ``every_s``, and leaves room for others.
    """

    name: str
    topic: str
    every_s: float
    whole_market: bool
    fetch: Callable[[Rest, Sequence[Market], int], Awaitable[list[tuple[str, str, Record]]]]
    gap_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was read of some frames, an entry each.

    Attributes:
        streams: Number of the frame's stream; -1: ``split`` and ``take`` must look at the frame, and nothing else here holds.
        clocks: The venue's clock, ms UTC.
        ids: ``agg_id`` of a trade, ``update_id`` of a quote.
        times: Event time of the record, ms UTC.
        values: The record of a trade or a quote as Avro, header included; else b"".
        previous: Of the change of a book (``BookDiff``), as its ``last`` is in ids; spans: where its bids begin and end, and its asks.
        levels: Price and quantity of each level, shape (any, 2); ``spans`` are rows of it.
    """

    streams: list[int]
    clocks: list[int]
    ids: list[int]
    times: list[int]
    values: list[bytes]
    previous: list[int]
    spans: list[tuple[int, int, int, int]]
    levels: npt.NDArray[np.float64]


class Scanner(Protocol):
    """Reads frames of trades, quotes and changes of books in bulk: the same as by ``split`` and ``take``, of what is plainly right."""

    def scan(self, frames: Sequence[bytes], received: int) -> Scanned:
        """Read frames; ``received``: our clock, ms UTC."""


class Adapter(ABC):
    """A venue.

    Attributes:
        venue: Label and prefix of instrument ids, e.g. ``BYBIT``.
        author: Default author of the progress marks.
        kind: ``perp`` or ``spot``.
        ws_url, rest_url: Where the real venue is.
        channels: Its streams.
        book_mode: ``rest``: diffs on a REST snapshot; ``stream``: the stream begins with a snapshot, and again after resubscribing;
            ``full``: every message is a whole book.
        consecutive_ids: Trade ids of an instrument grow by one: holes are seen, and filled by id.
        limits: REST limits of an address.
        bans: HTTP status -> least wait, seconds, for those that mean a ban of the address.
        heartbeat: What to send while connected, if anything.
        max_streams: Streams a connection may carry.
        send_pause_s: Least time between two messages to the venue on a connection.
        used_header: REST response header with the venue's own count of the weight spent, if it sends one.
        checksum_levels: Levels of each side that ``checksum`` covers; 0: the venue has none.
        rotate_after_s: Age at which a connection is replaced before the venue cuts it; None: the venue does not.
        kline_page: Most bars that one request for ``klines`` brings; 0: none are asked for (a venue whose trades are not followed).
        klines_leave_out_quiet: The venue leaves out bars in which nothing was traded.
    """

    venue: ClassVar[str]
    author: ClassVar[str]
    kind: ClassVar[Literal["perp", "spot"]]
    ws_url: ClassVar[str]
    rest_url: ClassVar[str]
    channels: ClassVar[tuple[Channel, ...]]
    book_mode: ClassVar[Literal["rest", "stream", "full"]]
    consecutive_ids: ClassVar[bool]
    limits: ClassVar[tuple[Limit, ...]]
    bans: ClassVar[Mapping[int, float]] = BANS
    heartbeat: ClassVar[Heartbeat | None] = None
    max_streams: ClassVar[int] = 200
    send_pause_s: ClassVar[float] = 0.2
    used_header: ClassVar[str | None] = None
    checksum_levels: ClassVar[int] = 0
    rotate_after_s: ClassVar[float | None] = 23 * 3600.0
    kline_page: ClassVar[int] = 0
    klines_leave_out_quiet: ClassVar[bool] = False
    # Symbols followed when none are named.
    default_symbols: ClassVar[str]

    # --- streams -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def wire_name(self, symbol: str, channel: Channel) -> str:
        """Return the name under which ``split`` gives a symbol's stream; unique over all streams of the venue."""

    @abstractmethod
    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        """Distribute streams over connections, each with at most ``max_streams``. Deterministic: the order of ``wanted`` decides."""

    def resubscribe(self, symbol: str, channel: Channel) -> list[str]:
        """Return what is sent so that a stream begins anew with a snapshot (``book_mode`` stream)."""
        raise NotImplementedError

    @abstractmethod
    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        """Return a frame's messages; none for acknowledgements, pongs and the like.

        Raises:
            MappingError: no JSON, or not the venue's documented envelope; also a venue's answer that refuses a subscription.
        """

    @abstractmethod
    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        """Return what a message says, in order. Fields that we do not use are ignored: venues add some without notice.

        Raises:
            MappingError: names the field.
        """

    def scanner(self, streams: Sequence[tuple[str, Channel, Market]], codec: Codec) -> Scanner | None:
        """Return what reads trades, quotes and books of some streams (wire name, channel, market) in bulk, numbered as given; None: nothing does."""
        return None

    def checksum(self, bids: Sequence[str], asks: Sequence[str]) -> int:
        """Return the venue's checksum of a book, best levels first, as texts (``BookDiff.texts``); only venues that have one."""
        raise NotImplementedError

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        """Return (reason, seconds to wait) when an HTTP 200 answer says "too many requests", reason and None for any other error, else None."""
        return None

    @abstractmethod
    async def server_time(self, rest: Rest) -> int:
        """Return the venue's clock, ms UTC."""

    @abstractmethod
    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        """Return symbol -> contract of all contracts of this adapter's kind, those that no longer trade with status ``closed``."""

    @abstractmethod
    async def volumes(self, rest: Rest) -> dict[str, float]:
        """Return symbol -> 24 h volume in quote units, in one call for the whole market."""

    async def snapshot(self, rest: Rest, symbol: str) -> BookSnapshot:
        """Return the book (``book_mode`` rest)."""
        raise NotImplementedError

    async def trades_from(self, rest: Rest, market: Market, first: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return a page of trades from id ``first`` on, ascending and marked as back-filled, and whether the page was full (``consecutive_ids``)."""
        raise NotImplementedError

    async def trades_since(self, rest: Rest, market: Market, since: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return the trades since a time as far as the venue serves them, ascending and marked as back-filled; True when they reach back to it."""
        raise NotImplementedError

    async def first_trade(self, rest: Rest, market: Market, since: int) -> int | None:
        """Return the id of the first trade at or after a time; None when there is none (``consecutive_ids``)."""
        raise NotImplementedError

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        """Return the venue's 5-minute bars that begin in [first, last] (ms UTC, full 5 minutes, at most ``kline_page``) as ``klines`` records.

        Order and further bars do not matter; see ``producers.venue.adapter.klines``.
        """
        raise NotImplementedError

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return what the venue tells of the past besides trades: (topic, record without ``instrument``) of ``funding`` (settled rates) and
        ``market_indicators``, with event times in [since, until], ascending."""
        return []

    def polls(self) -> list[Poll]:
        """Return what is asked over REST while the producer runs."""
        return []

    # --- schedule ----------------------------------------------------------------------------------------------------

    def schedule_rule(self) -> Mapping[str, Any] | None:
        """Return the rule of a venue that publishes no funding schedule (``interval_hours``), else None: see ``funding_schedule``."""
        return None
