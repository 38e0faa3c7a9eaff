"""The types between the simulated venue and its protocols: streams, requests, responses, errors. They do not depend on a market."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import orjson

from producers.simulated.recording.book import Levels, Top
from producers.simulated.recording.events import Event
from producers.simulated.recording.recording import Facts


class VenueError(Exception):
    """An error of the venue's REST interface: HTTP status, the venue's code, and its text."""

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
        topic: Its kind of data: trades, depth, quotes, ticker, mark, funding, liquidations, open_interest, heartbeat.
        sources: Kinds of events that may cause a message. cadence_ms: Shortest venue time between two messages. Book diffs are merged; of
        other streams the last one counts.
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
        first, last: Update ids that it spans. previous: Required id of the book before it. number: Running number of the stream's messages;
        it grows by one, or by more at a break of the recording.
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
    """The effect of a client's message.

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
        wrong: Makes the venue's error for a missing or malformed parameter.
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
        """Return a whole number. Raises VenueError otherwise."""
        value = self._values.get(name)
        if value is None:
            return default
        try:
            return int(value)
        except (TypeError, ValueError):
            raise self._wrong(name) from None

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object in the body of a POST. Raises VenueError without one."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self._wrong(name)
        return value

    def limit(self, default: int, most: int, name: str = "limit") -> int:
        """Return the length of a page, 1 to ``most``. Like the venues, it limits larger values."""
        return max(1, min(most, self.whole(name, default) or default))


class MarketDialect(Protocol):
    """A venue's protocol as markets, timelines and connections need it. ``Dialect`` documents it.

    Dialects import markets, so the market is ``Any`` here.
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
