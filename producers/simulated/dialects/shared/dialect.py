"""The interface of all simulated venues' protocols.

Timelines, books, faults and sockets are the same for all venues. A dialect defines the venue's messages and its client protocol. Market
messages arrive as ``events.Event``; their bodies have the fields of Binance USD-M. A dialect holds no state of a market. State between
messages is in ``Market.memory``.

Sequence numbers of books follow the venue's rule and derive from the recording's update ids. A break in the recording stays a break.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from producers.simulated.market.market import Market
from producers.simulated.recording.book import Top
from producers.simulated.recording.events import DEPTH, Event
from producers.simulated.recording.recording import Facts
from producers.simulated.wire.protocol import Answer, Change, Query, Stream, VenueError
from schemas.partition import split_symbol


class VenueView(Protocol):
    """The venue as its protocol sees it.

    Attributes:
        dialect: The protocol itself.
        markets: By the venue's symbol.
        weight_limit: REST request weight a window.
    """

    dialect: Dialect
    weight_limit: int
    markets: dict[str, Market]

    def now(self) -> int:
        """Return the venue's clock, ms UTC."""

    def targets(self, wire: str, path: str) -> list[tuple[Market, str]]:
        """Return the markets and the stream of a wire name on a websocket path."""

    def snapshot_fetched(self, market: Market) -> None:
        """Record that a depth snapshot was served."""


class Endpoint(NamedTuple):
    """One REST endpoint.

    Attributes:
        method: GET or POST. path: from the root; may hold aiohttp's ``{name}``, which becomes a parameter.
        weight: Weight of a request; a function of the request if the venue defines it so. answer: Returns the JSON value to send, or its
        bytes.
    """

    method: str
    path: str
    weight: int | Callable[[Query], int]
    answer: Callable[[VenueView, Query], Any]


class Dialect(ABC):
    """A venue's protocol.

    Attributes:
        venue: Name, as in ``perpflow produce --venue``. kind: ``perp`` or ``spot``.
        quote: Quote asset of made-up markets. funding_hours: Their funding interval; None: several.
        streams: Its streams.
        sockets: Websocket path -> (route, frames have their stream's name). One route unless the venue splits its streams.
        trade_source: ``trade``: the venue's trades are single trades (if a recording has them), ``aggTrade``: aggregates.
        rest_book: A client joins a book by a REST snapshot.
        vital: Fields that a garbage fault corrupts at any depth. The first two are time and price.
        max_streams: Streams a connection may carry. inbound: most client messages (count, seconds); None: no limit.
        ping_s: Interval of the venue's pings, seconds; None: no pings. pong_s: Its time limit for the pong, seconds. client_idle_s: Silence
        of the client after which the venue closes a connection, seconds. server_idle_s: The same for its own silence.
        max_age_s: Age at which the venue closes a connection.
        weight_limit: REST weight (or number of requests, without weights) in ``weight_s`` seconds.
        unknown_path, bad_parameter: HTTP status, code and text of these errors; ``{path}`` and ``{name}`` are filled in.
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
    unknown_path: ClassVar[tuple[int, int, str]]
    bad_parameter: ClassVar[tuple[int, int, str]] = (400, 400, "parameter {name} error")

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
        """Return the symbol in recordings (of Binance) for the user's ``text``, which has their spelling or this venue's."""
        return text

    def market_symbol(self, recorded: str) -> str:
        """Return the venue's spelling of a recording's symbol."""
        return self.symbol(*split_symbol(recorded))

    def head(self, stream: str) -> str:
        """Return a stream's name without its variant: ``depth@100ms`` -> ``depth``, ``orderbook.50`` -> ``orderbook``."""
        return stream

    def topic(self, stream: str) -> str:
        """Return the kind of data of a stream; empty for an unknown one."""
        known = self.by_name.get(stream)
        return known.topic if known else ""

    def route(self, stream: str) -> str:
        """Return the route of a stream."""
        return "public"

    def routes(self, facts: Facts) -> frozenset[str]:
        """Return the routes on which a market has streams."""
        return frozenset({"public"})

    def quantity(self, market: Market, text: str) -> str:
        """Return a quantity in base units in the venue's text (contracts, if it counts those)."""
        return text

    # --- websocket ---------------------------------------------------------------------------------------------------
    def initial(self, path: str, parameters: Mapping[str, str]) -> list[str]:
        """Return the wire names in the URL of a websocket."""
        return []

    def target(self, wire: str, path: str) -> tuple[str, str] | None:
        """Return (symbol, stream) of a wire name on a websocket path. None if it is not a name of this venue. Symbol ``*``: of all markets."""
        stream, _, symbol = wire.partition(":")
        return (symbol, stream) if stream in self.by_name else None

    @abstractmethod
    def answer(self, venue: VenueView, streams: Mapping[str, None], text: str, path: str) -> Answer:
        """Return the effect of a client's message.

        Args:
            venue: For the existing markets. streams: The connection's subscriptions (wire names).
            path: Websocket path of the connection.
        """

    def frame(self, market: Market, stream: str, data: bytes, *, named: bool) -> bytes:
        """Return the text that goes over the wire for a message."""
        return data

    def show(self, market: Market, event: Event) -> None:
        """Emit the venue's messages for an event. The market's state already includes it."""
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
        """Return a stream's message after an event, None without one."""
        raise NotImplementedError

    def change(self, market: Market, stream: Stream, change: Change) -> bytes:
        """Return a message of a book's changes (``book`` diff)."""
        raise NotImplementedError

    def snapshot(self, market: Market, stream: Stream, top: Top, number: int) -> bytes:
        """Return the first snapshot of a book's stream (``book`` diff). ``number`` precedes that of the next change."""
        raise NotImplementedError

    def opening(self, market: Market, stream: Stream) -> list[bytes]:
        """Return the first messages of another stream for a new subscriber."""
        return []

    # --- REST --------------------------------------------------------------------------------------------------------
    @abstractmethod
    def endpoints(self) -> list[Endpoint]:
        """Return the REST interface."""

    @abstractmethod
    def error(self, error: VenueError) -> tuple[int, Any]:
        """Return HTTP status and body of an error."""

    @abstractmethod
    def refusal(self, status: int, retry_after: int) -> VenueError:
        """Return the venue's error for an HTTP status of a fault or of the rate limit (429, 418, 5xx)."""

    def unknown(self, path: str) -> VenueError:
        """Return the error for an unknown path."""
        status, code, words = self.unknown_path
        return VenueError(status, code, words.format(path=path))

    def malformed(self, name: str) -> VenueError:
        """Return the error for a missing or malformed parameter."""
        status, code, words = self.bad_parameter
        return VenueError(status, code, words.format(name=name))

    def headers(self, used: int) -> dict[str, str]:
        """Return the headers of every response, with the weight used in this minute."""
        return {}
