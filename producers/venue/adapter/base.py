"""The interface of every venue.

A venue is a folder with an ``Adapter``. It defines the streams, the subscriptions, how a frame becomes events, and the REST calls.
Everything else is shared: connections, merging, gap handling, order books, back-fill, silence alarms, writing. Adapters hold no connection
and read no clock; mapping functions are pure.

Times are venue times, ms UTC; ``received`` is our wall clock, ms UTC.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
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
        record: Kind of the message, e.g. ``publicTrade``.
        field: The venue's name of the field at fault.
        reason: What is wrong with it.
    """

    def __init__(self, record: str, field: str, reason: str) -> None:
        super().__init__(f"{record}.{field}: {reason}")
        self.record = record
        self.field = field
        self.reason = reason


class BookDiff(NamedTuple):
    """One change of a book: update ids ``first``..``last``, applied to a book at update id ``previous``. Quantity 0 removes a level.

    A venue whose ids grow by one a message has ``previous = last - 1``. ``texts`` (price -> the venue's text of the level) is set only for
    venues that compute their checksum from it. ``checksum`` is the venue's, after the change.
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
    """A whole book at update id ``last``. ``time`` is None when the venue gives no time, as some do over REST."""

    last: int
    bids: list[Level]
    asks: list[Level]
    time: int | None = None
    checksum: int | None = None
    texts: dict[float, str] | None = None


class RejectedRow(NamedTuple):
    """An unusable row of a REST response: its bytes and the reason."""

    raw: bytes
    error: MappingError


def map_rows(rows: Iterable[Any], read: Callable[[Any], Record]) -> list[Record | RejectedRow]:
    """Return the rows of a REST response as records. A bad row does not affect the others."""
    found: list[Record | RejectedRow] = []
    for row in rows:
        try:
            found.append(read(row))
        except MappingError as error:
            found.append(RejectedRow(json.dumps(row).encode(), error))  # a broken row may hold numbers that orjson cannot write
    return found


# The content of a message: (topic, its record), or for ``depth``: (``depth``, a BookDiff or BookSnapshot). ``agg_trades`` records of a
# venue without consecutive ids have ``agg_id`` 0 and ``venue_trade_id`` set: see ``Adapter.consecutive_ids``.
Event = tuple[str, Record | BookDiff | BookSnapshot]


class Channel(NamedTuple):
    """One of the venue's streams.

    Attributes:
        name: The venue's name, e.g. ``publicTrade``.
        topic: The main topic that it feeds. Users choose streams by topic.
        silence_s: Seconds without data after which it counts as silent; None: silence is normal (liquidations).
        whole_market: One subscription covers all symbols. Other symbols than the chosen ones are skipped.
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
        facts: Its ``instruments`` record (without times). ``take`` may read contract sizes from ``extra``.
        extra: Contract facts that no topic carries (contract value, multiplier).
        memory: State of the adapter between messages (the fields of partial tickers).
    """

    symbol: str
    instrument: str
    facts: Record
    extra: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


class Message(NamedTuple):
    """One message of a frame: the stream's wire name, the venue's clock, and the payload for ``Adapter.take``.

    A message without a time has clock 0. Then the newest clock of its connection counts.
    """

    stream: str
    clock: int
    data: Any


@dataclass(slots=True)
class ConnectionPlan:
    """One websocket connection: its URL, the messages to send once it is open, and its (symbol, channel) pairs."""

    name: str
    url: str
    streams: list[tuple[str, Channel]]
    opening: list[str] = field(default_factory=list)


class ContractInfo(NamedTuple):
    """A contract: its ``instruments`` record without times, and the adapter's own facts."""

    record: Record
    extra: dict[str, Any]


@dataclass(slots=True)
class Poll:
    """A REST request that is repeated at an interval.

    Attributes:
        name: For logs and metrics, e.g. ``openInterest``.
        topic: The topic that it feeds (``market_indicators`` or ``funding``).
        every_s: Seconds between two rounds.
        whole_market: One call covers all symbols. Otherwise ``fetch`` is called for each symbol in turn.
        fetch: Returns (symbol, topic, record). The record has no ``instrument``, unless it is about another one of the asset. Symbols that
            are not followed are ignored.
        gap_s: Seconds between two symbols of a round. With hundreds of symbols a round takes longer than ``every_s``, and other requests
            have room.
    """

    name: str
    topic: str
    every_s: float
    whole_market: bool
    fetch: Callable[[Rest, Sequence[Market], int], Awaitable[list[tuple[str, str, Record]]]]
    gap_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Scanned:
    """The content of some frames, one entry each.

    Attributes:
        streams: Number of the frame's stream; -1: the frame needs ``split`` and ``take``, and its other entries are undefined.
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
    """Reads frames of trades, quotes and book changes in bulk. For well-formed frames the result equals that of ``split`` and ``take``."""

    def scan(self, frames: Sequence[bytes], received: int) -> Scanned:
        """Read frames; ``received``: our clock, ms UTC."""


class Adapter(ABC):
    """A venue.

    Attributes:
        venue: Label and prefix of instrument ids, e.g. ``BYBIT``.
        author: Default author of the progress marks.
        kind: ``perp`` or ``spot``.
        ws_url, rest_url: Addresses of the real venue.
        channels: Its streams.
        book_mode: ``rest``: diffs on a REST snapshot; ``stream``: the stream begins with a snapshot, and again after resubscribing;
            ``full``: every message is a whole book.
        consecutive_ids: Trade ids of an instrument grow by one, so gaps are detected and filled by id.
        limits: REST limits of an address.
        bans: HTTP status that means a ban of the address -> shortest wait, seconds.
        heartbeat: Keep-alive message, if the venue needs one.
        max_streams: Streams a connection may carry.
        send_pause_s: Shortest time between two messages to the venue on a connection.
        used_header: REST response header with the venue's count of used weight, if it sends one.
        checksum_levels: Levels of each side that ``checksum`` covers; 0: the venue has no checksum.
        rotate_after_s: Age at which a connection is replaced before the venue cuts it; None: the venue does not.
        kline_page: Most bars in one response of ``klines``; 0: never requested, because the venue's trades are not followed.
        klines_leave_out_quiet: The venue leaves out bars without trades.
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
    # Symbols to follow when the user names none.
    default_symbols: ClassVar[str]

    # --- streams -----------------------------------------------------------------------------------------------------

    def wire_name(self, symbol: str, channel: Channel) -> str:
        """Return the name that ``split`` uses for a symbol's stream. It is unique over all streams of the venue."""
        return f"{channel.name}:{symbol}"

    @abstractmethod
    def plans(self, base_url: str, wanted: Sequence[tuple[str, Channel]]) -> list[ConnectionPlan]:
        """Distribute streams over connections, each with at most ``max_streams``. Deterministic: the order of ``wanted`` decides."""

    def parts(self, wanted: Sequence[tuple[str, Channel]], most: int | None = None) -> Iterator[list[tuple[str, Channel]]]:
        """Yield the streams in parts of at most ``most`` (None: ``max_streams``)."""
        size = most or self.max_streams
        for start in range(0, len(wanted), size):
            yield list(wanted[start : start + size])

    def resubscribe(self, symbol: str, channel: Channel) -> list[str]:
        """Return the messages that restart a stream with a snapshot (``book_mode`` stream)."""
        raise NotImplementedError

    @abstractmethod
    def split(self, raw: bytes, received: int) -> Sequence[Message]:
        """Return a frame's messages. Acknowledgements and pongs have none.

        Raises:
            MappingError: no JSON, not the venue's documented envelope, or a refused subscription.
        """

    @abstractmethod
    def take(self, channel: Channel, data: Any, market: Market, received: int) -> Sequence[Event]:
        """Return the content of a message, in order. Unused fields are ignored, because venues add fields without notice.

        Raises:
            MappingError: names the field.
        """

    def scanner(self, streams: Sequence[tuple[str, Channel, Market]], codec: Codec) -> Scanner | None:
        """Return a bulk reader of trades, quotes and books of some streams (wire name, channel, market), numbered as given. None: the venue
        has none.
        """
        return None

    def checksum(self, bids: Sequence[str], asks: Sequence[str]) -> int:
        """Return the venue's checksum of a book. Levels are texts (``BookDiff.texts``), best first. Only for venues with a checksum."""
        raise NotImplementedError

    # --- REST --------------------------------------------------------------------------------------------------------

    def refusal(self, answer: Any) -> tuple[str, float | None] | None:
        """Return the error in an HTTP 200 response as (reason, seconds to wait), else None. Seconds are None unless it means "too many
        requests".
        """
        return None

    @abstractmethod
    async def server_time(self, rest: Rest) -> int:
        """Return the venue's clock, ms UTC."""

    @abstractmethod
    async def facts(self, rest: Rest, author: str) -> dict[str, ContractInfo]:
        """Return symbol -> contract for all contracts of this adapter's kind. Contracts that no longer trade have status ``closed``."""

    @abstractmethod
    async def volumes(self, rest: Rest) -> dict[str, float]:
        """Return symbol -> 24 h volume in quote units, in one call for the whole market."""

    async def snapshot(self, rest: Rest, symbol: str) -> BookSnapshot:
        """Return the book (``book_mode`` rest)."""
        raise NotImplementedError

    async def trades_from(self, rest: Rest, market: Market, first: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return a page of trades from id ``first`` on, and whether the page was full. Trades ascend and are marked as back-filled
        (``consecutive_ids``).
        """
        raise NotImplementedError

    async def trades_since(self, rest: Rest, market: Market, since: int, received: int) -> tuple[list[Record | RejectedRow], bool]:
        """Return the trades since a time as far as the venue serves them, and whether they reach back to it. Trades ascend and are marked
        as back-filled.
        """
        raise NotImplementedError

    async def first_trade(self, rest: Rest, market: Market, since: int) -> int | None:
        """Return the id of the first trade at or after a time, None without one (``consecutive_ids``)."""
        raise NotImplementedError

    async def klines(self, rest: Rest, market: Market, first: int, last: int, received: int) -> list[Record | RejectedRow]:
        """Return the venue's 5-minute bars that begin in [first, last] (ms UTC, full 5 minutes, at most ``kline_page``) as ``klines`` records.

        Order and further bars do not matter; see ``producers.venue.adapter.klines``.
        """
        raise NotImplementedError

    async def history(self, rest: Rest, market: Market, since: int, until: int) -> list[tuple[str, Record]]:
        """Return the venue's history besides trades as (topic, record without ``instrument``). It covers ``funding`` (settled rates) and
        ``market_indicators``, with event times in [since, until], ascending.
        """
        return []

    def polls(self) -> list[Poll]:
        """Return the REST polls of a running producer."""
        return []

    # --- schedule ----------------------------------------------------------------------------------------------------

    def schedule_rule(self) -> Mapping[str, Any] | None:
        """Return the rule of a venue that publishes no funding schedule (``interval_hours``), else None. See ``funding_schedule``."""
        return None
