"""The one shape of a trading venue. What differs between venues ends here; order state machines see only this.

Every call either returns what the venue said, or raises one of four errors, which are all that a caller must tell apart:

- ``RequestRejected``: the venue said no, and nothing happened. ``code`` and ``message`` are its words.
- ``OutcomeUnknown``: the request may or may not have happened (time-out, lost response, 5xx, ``MalformedResponse`` answer): ask with ``query`` before doing
  anything else.
- ``RateLimited``: the venue asks for less; nothing happened; ``retry_after`` seconds.
- ``VenueUnreachable``: it certainly never left this machine (connection refused, no socket).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from stream_apps.core.execution.orders.venue_reports import (
    AccountPermissions,
    BalanceReport,
    FillReport,
    FundingReport,
    InstrumentRules,
    OrderReport,
    OrderRequest,
    PairRequest,
    PositionReport,
    UserEvent,
)


class VenueError(Exception):
    """A venue call that did not return a result.

    Attributes:
        label: Outcome label of the metric ``perpflow_venue_requests``.
    """

    label: ClassVar[str] = "error"


class RequestRejected(VenueError):
    """The venue refused; nothing happened.

    Attributes:
        code: The venue's code as text.
        reason: One of ``insufficient_balance``, ``reduce_only``, ``post_only``, ``would_trigger``, ``filter``, ``duplicate_id``, ``not_found``,
            ``too_many_orders``, ``clock``, ``auth``, ``not_supported``, ``prices``, ``other``: what callers may act on, the same words for all venues.
    """

    label = "refused"

    def __init__(self, reason: str, code: str, message: str) -> None:
        super().__init__(f"{reason} ({code}): {message}")
        self.reason, self.code, self.message = reason, code, message


class OutcomeUnknown(VenueError):
    """Nobody here knows whether it happened."""

    label = "unknown"


class MalformedResponse(OutcomeUnknown):
    """The venue answered, and what it said is not as documented: whether anything happened is not known, and it is told as the fault that it is.

    Attributes:
        call: What was asked, e.g. ``GET /fapi/v1/order``.
        field: Of the answer, with the row's number in a list, e.g. ``[2].orderId``.
        answer: The row or answer, JSON.
    """

    def __init__(self, call: str, field: str, reason: str, answer: bytes) -> None:
        super().__init__(f"{call}: field {field}: {reason}")
        self.call, self.field, self.answer = call, field, answer


class RateLimited(VenueError):
    """Too many requests; nothing happened.

    Attributes:
        retry_after: Seconds to wait.
    """

    label = "limited"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class VenueUnreachable(VenueError):
    """The request never left."""

    label = "unreachable"


class TradingVenue(Protocol):
    """One account at one venue. Coroutines; one instance per process. All times ms UTC."""

    name: str

    async def open(self) -> None:
        """Connect, measure the clock, load the instrument rules. Raises VenueError."""

    async def close(self) -> None:
        """Release the connections."""

    @property
    def rules(self) -> dict[str, InstrumentRules]:
        """Instrument rules by the venue's symbol, as of the newest ``refresh_rules``."""

    async def refresh_rules(self) -> None:
        """Load the instrument rules anew."""

    async def clock_skew_ms(self) -> int:
        """Return venue time minus ours, ms, by the round trip with the least delay of a few."""

    async def place(self, request: OrderRequest) -> OrderReport:
        """Send an order. ``RequestRejected`` with ``duplicate_id`` means that an earlier sending arrived: query it."""

    async def cancel(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Cancel an order; None where the venue no longer has it open (filled, cancelled, never seen: query tells which)."""

    async def query(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Return the state of an order; None where the venue never had it."""

    async def open_orders(self, symbol: str | None = None) -> Sequence[OrderReport]:
        """Return all open orders, conditional ones included."""

    async def positions(self) -> Sequence[PositionReport]:
        """Return the positions that are not zero."""

    async def balances(self) -> Sequence[BalanceReport]:
        """Return the margin assets."""

    async def fills(self, symbol: str, since: int) -> Sequence[FillReport]:
        """Return our fills of a symbol since a time, oldest first, all pages."""

    async def funding(self, since: int) -> Sequence[FundingReport]:
        """Return the funding payments since a time, oldest first, all pages."""

    async def account(self) -> AccountPermissions:
        """Return what preflight checks of key and account."""

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set the leverage of a symbol."""

    async def set_isolated(self, symbol: str) -> None:
        """Put a symbol under isolated margin; being so already is no error."""

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every open order of a symbol, conditional ones included."""

    def user_events(self) -> AsyncIterator[UserEvent]:
        """Yield what happens to the account, for ever; ``StreamReady`` and ``StreamLost`` frame what may have been missed."""


@runtime_checkable
class PairVenue(Protocol):
    """What a venue that takes one-cancels-the-other pairs has besides."""

    async def place_pair(self, pair: PairRequest) -> Sequence[OrderReport]:
        """Send a pair; return the state of both its orders. Both are taken or none."""
