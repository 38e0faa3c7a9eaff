"""A recording independent of its format: one ``Event`` per message of the venue, in recorded order.

Events have the format of Binance USD-M, the source of the recordings. A dialect converts them to another venue's format.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# Kinds of events. DEPTH to AGG are served as frames. SNAPSHOT is a recorded REST response.
DEPTH = "depth"
TICKER = "bookTicker"
TRADE = "trade"
AGG = "aggTrade"
MARK = "markPrice"
LIQUIDATION = "forceOrder"
# Only generated markets have it, because Binance streams no open interest.
INTEREST = "openInterest"
OTHER = "other"
SNAPSHOT = "snapshot"

# Streams of the /public route. All other recorded streams belong to /market.
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
