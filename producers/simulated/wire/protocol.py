"""What the simulated venue and its protocols tell each other: streams, requests, answers, errors. Nothing here knows a market."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import orjson

from producers.simulated.recording.book import Levels, Top
from producers.simulated.recording.events import Event
from producers.simulated.recording.recording import Facts


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


class MarketDialect(Protocol):
    """What a market, its timeline and a connection need of a venue's protocol. ``Dialect`` documents it.

    Markets stand below dialects, which read them; so the market is ``Any`` here.
    """

    venue: ClassVar[str]
    kind: ClassVar[Literal["perp", "spot"]]
    funding_hours: ClassVar[int | None]
    streams: ClassVar[tuple[Stream, ...]]
    trade_source: ClassVar[str]
    rest_book: ClassVar[bool]
    max_streams: ClassVar[int | None]
    inbound: ClassVar[tuple[int, float] | None]
    pong_s: ClassVar[float]
    max_age_s: ClassVar[float]
    by_name: dict[str, Stream]
    by_source: dict[str, list[Stream]]

    def market_symbol(self, recorded: str) -> str: ...
    def head(self, stream: str) -> str: ...
    def topic(self, stream: str) -> str: ...
    def route(self, stream: str) -> str: ...
    def routes(self, facts: Facts) -> frozenset[str]: ...
    def answer(self, venue: Any, streams: Mapping[str, None], text: str, path: str) -> Answer: ...
    def frame(self, market: Any, stream: str, data: bytes, *, named: bool) -> bytes: ...
    def show(self, market: Any, event: Event) -> None: ...
    def merged(self, market: Any, event: Event) -> bytes: ...
    def change(self, market: Any, stream: Stream, change: Change) -> bytes: ...
    def snapshot(self, market: Any, stream: Stream, top: Top, number: int) -> bytes: ...
    def opening(self, market: Any, stream: Stream) -> list[bytes]: ...


def dumps(body: Any) -> bytes:
    """Return JSON."""
    return orjson.dumps(body)
