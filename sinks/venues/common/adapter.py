"""The interface of a trading venue. Differences between venues end here; the order state machines use only this interface.

Every call returns the venue's answer or raises one of four errors:

- ``RequestRejected``: the venue rejected the request; nothing happened. ``code`` and ``message`` are the venue's.
- ``OutcomeUnknown``: the request may have taken effect (time-out, lost response, HTTP 5xx, ``MalformedResponse``). Call ``query`` first.
- ``RateLimited``: too many requests; nothing happened. Retry after ``retry_after`` seconds.
- ``VenueUnreachable``: the request never left this machine (connection refused, no socket).
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
    """The venue rejected the request; nothing happened.

    Attributes:
        code: The venue's code as text.
        reason: One of ``insufficient_balance``, ``reduce_only``, ``post_only``, ``would_trigger``, ``filter``, ``duplicate_id``, ``not_found``,
            ``too_many_orders``, ``clock``, ``auth``, ``not_supported``, ``prices``, ``other``. Callers act on it; all venues use the same values.
    """

    label = "refused"

    def __init__(self, reason: str, code: str, message: str) -> None:
        super().__init__(f"{reason} ({code}): {message}")
        self.reason, self.code, self.message = reason, code, message


class OutcomeUnknown(VenueError):
    """It is not known whether the request took effect."""

    label = "unknown"


class MalformedResponse(OutcomeUnknown):
    """The venue's answer does not match its documentation. Whether the request took effect is not known.

    Attributes:
        call: The request, for example ``GET /fapi/v1/order``.
        field: Field of the answer, with the row's number in a list, for example ``[2].orderId``.
        answer: The row or the answer, as JSON.
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
    """The request never left this machine."""

    label = "unreachable"


class TradingVenue(Protocol):
    """One account at one venue; one instance for each process. All times are ms UTC."""

    name: str

    async def open(self) -> None:
        """Connect, measure the clock, load the instrument rules. Raises VenueError."""

    async def close(self) -> None:
        """Release the connections."""

    @property
    def rules(self) -> dict[str, InstrumentRules]:
        """Instrument rules by the venue's symbol, as of the newest ``refresh_rules``."""

    async def refresh_rules(self) -> None:
        """Reload the instrument rules."""

    async def clock_skew_ms(self) -> int:
        """Return venue time minus local time, ms, from the fastest of a few round trips."""

    async def place(self, request: OrderRequest) -> OrderReport:
        """Send an order. ``RequestRejected`` with ``duplicate_id`` means that an earlier attempt arrived: query the order."""

    async def cancel(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Cancel an order; None if it is not open at the venue (filled, cancelled or never received: ``query`` says which)."""

    async def query(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Return the state of an order; None if the venue never received it."""

    async def open_orders(self, symbol: str | None = None) -> Sequence[OrderReport]:
        """Return all open orders, including conditional orders."""

    async def positions(self) -> Sequence[PositionReport]:
        """Return the positions that are not zero."""

    async def balances(self) -> Sequence[BalanceReport]:
        """Return the balances of the margin assets."""

    async def fills(self, symbol: str, since: int) -> Sequence[FillReport]:
        """Return the account's fills of a symbol since a time, oldest first, all pages."""

    async def funding(self, since: int) -> Sequence[FundingReport]:
        """Return the funding payments since a time, oldest first, all pages."""

    async def account(self) -> AccountPermissions:
        """Return the permissions of the key and the position mode, for preflight."""

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set the leverage of a symbol."""

    async def set_isolated(self, symbol: str) -> None:
        """Set a symbol to isolated margin. It is no error if it is set already."""

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every open order of a symbol, including conditional orders."""

    def user_events(self) -> AsyncIterator[UserEvent]:
        """Yield the account's events until closed. Events between ``StreamLost`` and ``StreamReady`` may be missing."""


@runtime_checkable
class PairVenue(Protocol):
    """A venue that also accepts one-cancels-the-other pairs."""

    async def place_pair(self, pair: PairRequest) -> Sequence[OrderReport]:
        """Send a pair; return the state of both orders. The venue accepts both or none."""
