"""Events of the execution book besides the venue's reports (``venue_reports``), and its actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from stream_apps.core.execution.orders.venue_reports import (
    FillReport,
    FundingReport,
    OrderReport,
    OrderRequest,
    PairRequest,
    PositionReport,
)

# --- events --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """A ``signals`` record."""

    signal: dict[str, Any]


@dataclass(frozen=True, slots=True)
class QuoteSeen:
    """Best prices of a symbol and, where known, the mark price; ``time`` is wall ms of their arrival."""

    symbol: str
    bid: Decimal
    ask: Decimal
    time: int
    mark: Decimal | None = None


@dataclass(frozen=True, slots=True)
class PlaceFailed:
    """An order was not accepted.

    Attributes:
        kind: ``refused``, ``unknown``, ``limited`` or ``unreachable``: the four errors of a venue.
        reason: For ``refused`` the venue-neutral reason; ``message`` is the venue's text.
        retry_after_ms: For ``limited``: wait before the next attempt.
    """

    client_id: str
    kind: str
    reason: str = ""
    message: str = ""
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class CancelAnswered:
    """Answer to a cancel: ``report`` is the order's state, None if it is not open; ``failed`` without an answer."""

    client_id: str
    report: OrderReport | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class QueryAnswered:
    """Answer to a query: ``report`` is None if the venue never received the order; ``failed`` without an answer."""

    client_id: str
    report: OrderReport | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class FillsLoaded:
    """All fills of a symbol since a time; ``failed`` without an answer."""

    symbol: str
    fills: Sequence[FillReport]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class FundingLoaded:
    """The account's funding payments, queried at ``asked_at`` (wall ms)."""

    payments: Sequence[FundingReport]
    asked_at: int


@dataclass(frozen=True, slots=True)
class PositionLoaded:
    """The position of a symbol, queried after its fills; None without a position."""

    symbol: str
    position: PositionReport | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class GuardChanged:
    """The guard's newest risk state.

    Attributes:
        time: Wall ms of the state; it is valid for ``guard_stale_ms`` from then.
        reasons: Tripped rules.
        close_positions: Keys of the trades that must be closed.
        allow_maker, allow_slices: Allowed entry styles. size_factor: multiplies all sizes (platform-services 13).
    """

    block_entries: bool
    close_all: bool
    time: int
    reasons: tuple[str, ...] = ()
    close_positions: tuple[str, ...] = ()
    allow_maker: bool = True
    allow_slices: bool = True
    size_factor: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class EntriesBlocked:
    """The service blocks entries (red reconciliation, lost user stream); ``reason`` None lifts the block of ``source``."""

    source: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """Close a symbol's trade at market; ``leg`` is the exit reason."""

    symbol: str
    leg: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    SignalReceived
    | QuoteSeen
    | OrderReport
    | FillReport
    | PositionReport
    | FundingReport
    | PlaceFailed
    | CancelAnswered
    | QueryAnswered
    | FillsLoaded
    | FundingLoaded
    | PositionLoaded
    | GuardChanged
    | EntriesBlocked
    | CloseRequested
    | Tick
)

# --- actions -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Send an order, whose intent is journalled first. Ends in an OrderReport or a PlaceFailed."""

    request: OrderRequest


@dataclass(frozen=True, slots=True)
class PlacePair:
    """Send a pair, whose intents are journalled first. Ends in an OrderReport or a PlaceFailed for each order."""

    pair: PairRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel an order. Ends in a CancelAnswered."""

    symbol: str
    client_id: str
    conditional: bool


@dataclass(frozen=True, slots=True)
class Query:
    """Query an order. Ends in a QueryAnswered."""

    symbol: str
    client_id: str
    conditional: bool


@dataclass(frozen=True, slots=True)
class LoadFills:
    """Load a symbol's fills since a time. Ends in a FillsLoaded."""

    symbol: str
    since: int


@dataclass(frozen=True, slots=True)
class LoadPosition:
    """Load a symbol's fills since a time, then its position. Ends in a FillsLoaded and a PositionLoaded, in this order."""

    symbol: str
    since: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Write a record to a topic."""

    topic: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A contradiction that requires a reconciliation."""

    symbol: str
    reason: str


Action = Place | PlacePair | Cancel | Query | LoadFills | LoadPosition | Emit | Anomaly
