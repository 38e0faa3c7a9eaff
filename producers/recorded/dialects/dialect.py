"""The one shape of all simulated venues' protocols.

The engine (timelines, books, faults, sockets) is one; a dialect says how its market messages look and how clients talk to it.
Market messages come as ``events.Event``, whose bodies are in the words of Binance USD-M. A dialect holds no state of a market:
what it must remember between messages lies in ``Market.memory``.

Sequence numbers of books are the venue's own kind, made of the recording's update ids; a break in the recording stays a break.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import orjson

from producers.recorded.book import Levels, Top
from producers.recorded.events import DEPTH, Event
from schemas.partition import split_symbol

if TYPE_CHECKING:
    from producers.recorded.market import Market
    from producers.recorded.recording import Facts
    from producers.recorded.venue import RecordedVenue


class VenueError(Exception):
    """An error answer of the venue's REST interface: HTTP status, the venue's code, and its text."""

    def __init__(self, status: int, code: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.retry_after = retry_after


class Stream(NamedTuple):
    """One of a venue's streams, of any symbol.

    Attributes:
        name: The venue's name without the symbol, e.g. ``orderbook.50``.
        topic: What it carries, in our words: trades, depth, quotes, ticker, mark, funding, liquidations, open_interest,
            heartbeat.
        sources: Kinds of events after which it may speak.
        cadence_ms: Least step of venue time between two messages; diffs of a book are merged, of other streams the last counts.
        book: For depth: ``diff`` (snapshot, then changes), ``full`` (every message a whole book); else empty.
        levels: Levels a side; None: all.
    """

    name: str
    topic: str
    sources: tuple[str, ...]
    cadence_ms: int = 0
    book: Literal["", "diff", "full"] = ""
    levels: int | None = None


class Change(NamedTuple):
    """One message of a book's stream of changes.

    Attributes:
        clock: Event time, ms.
        first, last: Update ids that it spans. previous: id at which the book must stand before it.
        number: Running number of the stream's messages; grows by one, by more where the recording has a break.
        bids, asks: Levels [price, quantity]; quantity zero removes.
    """

    clock: int
    first: int
    last: int
    previous: int
    number: int
    bids: Levels
    asks: Levels


@dataclass
class Answer:
    """What a client's message does.

    Attributes:
        replies: Sent at once, before anything of a new stream.
        subscribe, unsubscribe: Wire names of streams.
        close: Code and reason with which the venue ends the connection.
    """

    replies: list[bytes] = field(default_factory=list)
    subscribe: list[str] = field(default_factory=list)
    unsubscribe: list[str] = field(default_factory=list)
    close: tuple[int, str] | None = None


class Query:
    """Parameters of a REST request: the query string, or the JSON object of a POST.

    Args:
        values: Name -> value.
        wrong: Makes the venue's error for a parameter that is missing or malformed.
    """

    def __init__(self, path: str, values: Mapping[str, Any], wrong: Callable[[str], VenueError]) -> None:
        self.path = path
        self._values = values
        self._wrong = wrong

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str | None = None) -> str:
        """Return a parameter. Raises VenueError when it is missing and has no default."""
        value = self._values.get(name, default)
        if value is None or value == "":
            raise self._wrong(name)
        return str(value)

    def whole(self, name: str, default: int | None = None) -> int | None:
        """Return a whole number. Raises VenueError when it is none."""
        value = self._values.get(name)
        if value is None:
            return default
        try:
            return int(value)
        except (TypeError, ValueError):
            raise self._wrong(name) from None

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object within the body of a POST. Raises VenueError when there is none."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self._wrong(name)
        return value

    def limit(self, default: int, most: int, name: str = "limit") -> int:
        """Return the length of a page, 1 to ``most``: as the venues do, more is cut off."""
        return max(1, min(most, self.whole(name, default) or default))


class Endpoint(NamedTuple):
    """One REST endpoint.

    Attributes:
        method: GET or POST. path: from the root; may hold aiohttp's ``{name}``, which becomes a parameter.
        weight: What a request costs; a function of the request where the venue says so.
        answer: Returns what goes out as JSON, or bytes of it.
    """

    method: str
    path: str
    weight: int | Callable[[Query], int]
    answer: Callable[[RecordedVenue, Query], Any]


class Dialect(ABC):
    """A venue's protocol.

    Attributes:
        venue: Name, as in ``perpflow produce --venue``. kind: ``perp`` or ``spot``.
        quote: Quote asset of made-up markets. funding_hours: their funding interval; None: several.
        streams: Its streams.
        sockets: Websocket path -> (route, frames carry their stream's name); one route unless the venue splits its streams.
        trade_source: ``trade``: single trades are the venue's trades (where a recording has them), ``aggTrade``: aggregates.
        rest_book: A client joins a book by a REST snapshot.
        vital: Fields that a garbage fault spoils, wherever they stand; the first two are time and price.
        max_streams: Streams a connection may carry. inbound: most client messages (count, seconds); None: no limit.
        ping_s: The venue pings every so many seconds; None: it does not. pong_s: and waits so long for the pong.
        client_idle_s: The venue ends a connection on which the client said nothing for so long; server_idle_s: or it itself.
        max_age_s: Age at which the venue cuts a connection.
        weight_limit: REST weight (or requests, where it has none) in ``weight_s`` seconds.
    """

    venue: ClassVar[str]
    kind: ClassVar[Literal["perp", "spot"]] = "perp"
    quote: ClassVar[str] = "USDT"
    funding_hours: ClassVar[int | None] = None
    streams: ClassVar[tuple[Stream, ...]]
    sockets: ClassVar[Mapping[str, tuple[str, bool]]]
    trade_source: ClassVar[str] = "trade"
    rest_book: ClassVar[bool] = False
    vital: ClassVar[tuple[str, ...]]
    max_streams: ClassVar[int | None] = None
    inbound: ClassVar[tuple[int, float] | None] = None
    ping_s: ClassVar[float | None] = None
    pong_s: ClassVar[float] = 600.0
    client_idle_s: ClassVar[float | None] = None
    server_idle_s: ClassVar[float | None] = None
    max_age_s: ClassVar[float] = 24 * 3600.0
    weight_limit: ClassVar[int] = 1200
    weight_s: ClassVar[float] = 60.0

    def __init__(self) -> None:
        self.by_name = {stream.name: stream for stream in self.streams}
        self.by_source: dict[str, list[Stream]] = {}
        for stream in self.streams:
            for source in stream.sources:
                self.by_source.setdefault(source, []).append(stream)

    # --- names -------------------------------------------------------------------------------------------------------
    def symbol(self, base: str, quote: str) -> str:
        """Return the venue's spelling of a contract or pair."""
        return base + quote

    def recorded_symbol(self, text: str) -> str:
        """Return the symbol by which recordings (of Binance) know what a user calls ``text``: their spelling, or this venue's."""
        return text

    def market_symbol(self, recorded: str) -> str:
        """Return the venue's spelling of a recording's symbol."""
        return self.symbol(*split_symbol(recorded))

    def head(self, stream: str) -> str:
        """Return a stream's name without its variant: ``depth@100ms`` -> ``depth``, ``orderbook.50`` -> ``orderbook``."""
        return stream.partition("@")[0].partition(".")[0]

    def topic(self, stream: str) -> str:
        """Return what a stream carries; empty for one that is not known."""
        known = self.by_name.get(stream)
        return known.topic if known else ""

    def route(self, stream: str) -> str:
        """Return the route of a stream."""
        return "public"

    def routes(self, facts: Facts) -> frozenset[str]:
        """Return the routes on which a market has streams."""
        return frozenset({"public"})

    def quantity(self, market: Market, text: str) -> str:
        """Return a quantity in base units as the venue writes it (contracts, where it counts those)."""
        return text

    # --- websocket ---------------------------------------------------------------------------------------------------
    def initial(self, path: str, parameters: Mapping[str, str]) -> list[str]:
        """Return the wire names that the address of a websocket asks for."""
        return []

    @abstractmethod
    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (symbol, stream) of a wire name on a websocket path; None when it is no name of this venue. Symbol ``*``: of all markets."""

    @abstractmethod
    def answer(self, venue: RecordedVenue, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Return what a client's message does.

        Args:
            venue: For what exists. streams: what the connection is subscribed to (wire names).
            path: Websocket path of the connection.
        """

    def frame(self, market: Market, stream: str, data: bytes, *, named: bool) -> bytes:
        """Return the text that goes over the wire for a message."""
        return data

    def show(self, market: Market, event: Event) -> None:
        """Emit what an event makes the venue say; the market's state already contains it."""
        if event.kind == DEPTH:
            market.show_depth(event)
        for stream in self.by_source.get(event.kind, ()):
            if stream.book != "diff" and market.wants(stream.name) and market.due(stream, event):
                data = self.encode(market, stream, event)
                if data is not None:
                    market.emit(stream.name, data)

    def merged(self, market: Market, event: Event) -> bytes:
        """Return the message of book changes merged by ``Market.merge``."""
        return event.data

    def encode(self, market: Market, stream: Stream, event: Event) -> bytes | None:
        """Return a stream's message after an event; None: it has nothing to say."""
        raise NotImplementedError

    def change(self, market: Market, stream: Stream, change: Change) -> bytes:
        """Return a message of a book's changes (``book`` diff)."""
        raise NotImplementedError

    def snapshot(self, market: Market, stream: Stream, top: Top, number: int) -> bytes:
        """Return the snapshot with which a book's stream begins (``book`` diff); ``number`` precedes that of the next change."""
        raise NotImplementedError

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return with what another stream begins for a new subscriber."""
        return []

    # --- REST --------------------------------------------------------------------------------------------------------
    @abstractmethod
    def endpoints(self) -> list[Endpoint]:
        """Return the REST interface."""

    @abstractmethod
    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return HTTP status and body of an error answer."""

    @abstractmethod
    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return the venue's words for an HTTP status of a fault or of the rate limit (429, 418, 5xx)."""

    @abstractmethod
    def unknown(self, path: str) -> VenueError:
        """Return the answer to a path that the venue does not have."""

    def malformed(self, name: str) -> VenueError:
        """Return the answer to a parameter that is missing or malformed."""
        return VenueError(400, 400, f"parameter {name} error")

    def headers(self, used: int) -> dict[str, str]:
        """Return headers of every answer, with the weight used in this minute."""
        return {}


def dumps(body: Any) -> bytes:
    """Return JSON."""
    return orjson.dumps(body)
