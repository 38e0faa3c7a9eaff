"""What a recording is made of once its format is forgotten: one ``Event`` per message the venue sent, in recorded order.

Events speak Binance USD-M, whose recordings we have; a dialect says the same in the words of another venue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# Kinds of events. DEPTH to AGG are served as frames; SNAPSHOT is a REST answer that the recorder kept.
DEPTH = "depth"
TICKER = "bookTicker"
TRADE = "trade"
AGG = "aggTrade"
MARK = "markPrice"
LIQUIDATION = "forceOrder"
# Only generated markets have it: Binance, in whose terms messages are kept, streams no open interest.
INTEREST = "openInterest"
OTHER = "other"
SNAPSHOT = "snapshot"

# Streams of the /public route; everything else that a recording can hold belongs to /market.
PUBLIC_STREAMS = ("depth", "rpiDepth", "bookTicker")


class FormatError(ValueError):
    """A recording cannot be read. The message names the file, the line and the field."""

    def __init__(self, file: str, line: int, field: str, problem: str) -> None:
        super().__init__(f"{file}:{line}: {field}: {problem}")
        self.file = file
        self.line = line
        self.field = field


class Event(NamedTuple):
    """One message of the venue.

    Attributes:
        kind: One of this module's kinds.
        clock: Venue event time (``E``), ms UTC.
        stream: Stream name after the symbol, e.g. ``depth@0ms``; empty for a snapshot.
        data: The message as JSON; for raw recordings the recorded bytes themselves; empty for generated markets.
        body: The same, parsed. Prices and quantities are the venue's decimal text.
    """

    kind: str
    clock: int
    stream: str
    data: bytes
    body: dict[str, Any]


Events = Iterator[Event]


def kind_of_stream(stream: str) -> str:
    """Return the kind of a stream name such as ``depth@100ms`` or ``trade``."""
    head = stream.partition("@")[0]
    return head if head in (DEPTH, TICKER, TRADE, AGG, MARK, LIQUIDATION) else OTHER


def route_of_stream(stream: str) -> str:
    """Return the websocket route that serves a stream: ``public`` or ``market``."""
    return "public" if stream.partition("@")[0] in PUBLIC_STREAMS else "market"
