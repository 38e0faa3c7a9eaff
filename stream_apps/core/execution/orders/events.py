"""What the execution book is told besides the venue's own reports (``facts``), and what it asks for."""

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
        reason: Of ``refused``: the venue-neutral word; ``message`` the venue's own.
        retry_after_ms: Of ``limited``.
    """

    client_id: str
    kind: str
    reason: str = ""
    message: str = ""
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class CancelAnswered:
    """A cancel is done: ``report`` is the order's state, None where the venue does not have it open; ``failed`` where there was no answer."""

    client_id: str
    report: OrderReport | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class QueryAnswered:
    """A query is done: ``report`` is None where the venue never had the order; ``failed`` where there was no answer."""

    client_id: str
    report: OrderReport | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class FillsLoaded:
    """All fills of a symbol since a time were asked for; ``failed`` where there was no answer."""

    symbol: str
    fills: Sequence[FillReport]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class FundingLoaded:
    """The account's funding payments were asked for at ``asked_at`` (wall ms): every one that was listed by then and may matter."""

    payments: Sequence[FundingReport]
    asked_at: int


@dataclass(frozen=True, slots=True)
class PositionLoaded:
    """The position of a symbol was asked for after its fills were loaded; None: none is open."""

    symbol: str
    position: PositionReport | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class GuardChanged:
    """The guard's newest word.

    Attributes:
        time: Wall ms at which the guard said it; it is valid for ``guard_stale_ms`` from then.
        reasons: Rules that hold.
        close_positions: Keys of the trades that must be closed.
        allow_maker, allow_slices: Ways of entry that are sound now; size_factor: of all sizes (platform-services 13).
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
    """A reason of the service itself (reconciliation red, user stream lost) that blocks entries; None: no longer."""

    source: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """A person or the reconciler wants a trade closed at market; ``leg`` is the exit reason."""

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
    """Send an order; its intent is in the state that was returned with it. Ends in an OrderReport or a PlaceFailed."""

    request: OrderRequest


@dataclass(frozen=True, slots=True)
class PlacePair:
    """Send a pair; both its orders' intents are in the state that was returned with it. Ends in an OrderReport or a PlaceFailed of each order."""

    pair: PairRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel an order. Ends in a CancelAnswered."""

    symbol: str
    client_id: str
    conditional: bool


@dataclass(frozen=True, slots=True)
class Query:
    """Ask for an order. Ends in a QueryAnswered."""

    symbol: str
    client_id: str
    conditional: bool


@dataclass(frozen=True, slots=True)
class LoadFills:
    """Ask for a symbol's fills since a time. Ends in a FillsLoaded."""

    symbol: str
    since: int


@dataclass(frozen=True, slots=True)
class LoadPosition:
    """Ask for a symbol's fills since a time, then for its position. Ends in a FillsLoaded and a PositionLoaded, in this order."""

    symbol: str
    since: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Write a record to a topic."""

    topic: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that only a reconciliation can explain."""

    symbol: str
    reason: str


Action = Place | PlacePair | Cancel | Query | LoadFills | LoadPosition | Emit | Anomaly
