"""An order: its states, the table of transitions, and its data.

A transition that is not in ``TRANSITIONS`` changes nothing, because reports arrive late, twice and out of order. A passed state never returns, so reports
need no clock. REJECTED and LOST are final states with one exception: both may be inferences. If the venue later reports such an order, it becomes UNKNOWN
and is queried.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any

from stream_apps.core.execution.orders.venue_reports import OrderReport, OrderRequest, OrderType, Side, TimeInForce

ZERO = Decimal(0)


class OrderState(StrEnum):
    """INTENDED is journalled before sending. WAITING never left this machine and will be sent again with its id. LOST never arrived."""

    INTENDED = "INTENDED"
    WAITING = "WAITING"
    UNKNOWN = "UNKNOWN"
    OPEN = "OPEN"
    TRIGGERED = "TRIGGERED"
    PARTIAL = "PARTIAL"
    CANCELLING = "CANCELLING"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    LOST = "LOST"


class Trigger(StrEnum):
    """Causes of transitions. The first seven are the venue's statuses."""

    NEW = "NEW"
    TRIGGERED = "TRIGGERED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    REFUSED = "REFUSED"  # the venue rejected the request
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"  # time-out, lost response, or a restart before the answer
    NOT_SENT = "NOT_SENT"  # rate limit, or no connection
    NOT_FOUND = "NOT_FOUND"  # queried after the receive window: it never arrived
    SEND = "SEND"  # sent again with the same id
    CANCEL = "CANCEL"  # a cancel is requested
    GIVE_UP = "GIVE_UP"  # not sent and no longer needed


_S, _T = OrderState, Trigger
_VENUE_FINAL = {_T.FILLED: _S.FILLED, _T.CANCELED: _S.CANCELLED, _T.EXPIRED: _S.EXPIRED, _T.REJECTED: _S.REJECTED}
_VENUE_ANY = {_T.NEW: _S.OPEN, _T.TRIGGERED: _S.TRIGGERED, _T.PARTIALLY_FILLED: _S.PARTIAL, **_VENUE_FINAL}
_REVIVED = {_T.NEW: _S.UNKNOWN, _T.TRIGGERED: _S.UNKNOWN, _T.PARTIALLY_FILLED: _S.UNKNOWN}

TRANSITIONS: dict[OrderState, dict[Trigger, OrderState]] = {
    _S.INTENDED: {**_VENUE_ANY, _T.REFUSED: _S.REJECTED, _T.OUTCOME_UNKNOWN: _S.UNKNOWN, _T.NOT_SENT: _S.WAITING},
    # The venue reports an order that counted as not sent.
    _S.WAITING: {**_VENUE_ANY, _T.SEND: _S.INTENDED, _T.GIVE_UP: _S.CANCELLED, _T.OUTCOME_UNKNOWN: _S.UNKNOWN},
    # A late rejection is also a final answer.
    _S.UNKNOWN: {**_VENUE_ANY, _T.NOT_FOUND: _S.LOST, _T.REFUSED: _S.REJECTED},
    _S.OPEN: {_T.TRIGGERED: _S.TRIGGERED, _T.PARTIALLY_FILLED: _S.PARTIAL, **_VENUE_FINAL, _T.CANCEL: _S.CANCELLING},
    _S.TRIGGERED: {_T.PARTIALLY_FILLED: _S.PARTIAL, **_VENUE_FINAL},
    _S.PARTIAL: {**_VENUE_FINAL, _T.CANCEL: _S.CANCELLING},
    # A stop that triggered before its cancel arrived is a market order and cannot be cancelled.
    _S.CANCELLING: {**_VENUE_FINAL, _T.TRIGGERED: _S.TRIGGERED},
    # The newer report contains what filled before the cancel arrived.
    _S.CANCELLED: {_T.FILLED: _S.FILLED},
    _S.EXPIRED: {_T.FILLED: _S.FILLED},
    _S.REJECTED: {**_REVIVED, _T.FILLED: _S.FILLED, _T.CANCELED: _S.CANCELLED, _T.EXPIRED: _S.EXPIRED},
    _S.LOST: {**_REVIVED, _T.FILLED: _S.FILLED, _T.CANCELED: _S.CANCELLED, _T.EXPIRED: _S.EXPIRED, _T.REJECTED: _S.REJECTED},
    _S.FILLED: {},
}

FINAL = frozenset((_S.FILLED, _S.CANCELLED, _S.EXPIRED, _S.REJECTED, _S.LOST))
# Certainly at the venue and able to fill.
CONFIRMED = frozenset((_S.OPEN, _S.PARTIAL, _S.TRIGGERED, _S.CANCELLING))
# Sent or to be sent, and not confirmed by the venue.
UNCONFIRMED = frozenset((_S.INTENDED, _S.WAITING, _S.UNKNOWN))


@dataclass(slots=True)
class Order:
    """An order, from its intent to its final state.

    Attributes:
        leg, attempt: Purpose and number; with the signal they determine the client id.
        reported: Executed quantity of the newest reports; may exceed the sum of ``fills``.
        fills: Trade id -> booked quantity.
        intended_at: Time of the decision; ``confirmed_at``: first confirmation; ``filled_at``: first fill; wall ms.
        reference: Mid price at the decision (exit limit: its price, stop: its trigger); reference of slippage.
        unknown_since: Start of the unknown outcome. "Not found" counts only after the receive window from here.
        foreign: A placeholder for somebody else's order.
        pair_id: Client id of its pair (OCO); None for a single order.
        published: Last status written to ``orders``.
        next_at: Time of the next query or attempt. Not journalled.
        asked: A cancel or a query is in flight. Not journalled.
        failures: Queries in a row that did not return the order. Not journalled.
        judged: Its rejection was handled. Not journalled.
    """

    client_id: str
    leg: str
    attempt: int
    symbol: str
    side: Side
    type: OrderType
    quantity: Decimal
    price: Decimal | None
    trigger_price: Decimal | None
    time_in_force: TimeInForce | None
    reduce_only: bool
    intended_at: int
    reference: Decimal | None = None
    state: OrderState = OrderState.INTENDED
    venue_order_id: str = ""
    reported: Decimal = ZERO
    average_price: Decimal | None = None
    fills: dict[int, Decimal] = field(default_factory=dict)
    reason: str | None = None
    confirmed_at: int | None = None
    filled_at: int | None = None
    ended_at: int | None = None
    unknown_since: int | None = None
    foreign: bool = False
    pair_id: str | None = None
    published: str = ""
    next_at: int = 0
    asked: str = ""
    failures: int = 0
    judged: bool = False

    @property
    def is_final(self) -> bool:
        """True in a final state."""
        return self.state in FINAL

    @property
    def is_confirmed(self) -> bool:
        """True while it is certainly open at the venue."""
        return self.state in CONFIRMED

    @property
    def is_stop(self) -> bool:
        """True for conditional orders, which venues list separately."""
        return self.type is OrderType.STOP_MARKET

    @property
    def is_in_doubt(self) -> bool:
        """True when its outcome is unknown and a query had no answer."""
        return self.state is OrderState.UNKNOWN and self.failures > 0

    @property
    def booked(self) -> Decimal:
        """Sum of the booked fills."""
        return sum(self.fills.values(), ZERO)

    @property
    def executed(self) -> Decimal:
        """Executed quantity, booked or only reported."""
        return max(self.booked, self.reported)

    @property
    def remaining(self) -> Decimal:
        """Quantity that can still fill; 0 in a final state."""
        return ZERO if self.is_final else self.quantity - self.executed

    @property
    def is_settled(self) -> bool:
        """True when it is final and every reported execution is booked."""
        return self.is_final and self.booked >= self.reported

    def request(self) -> OrderRequest:
        """Return the request to send."""
        return OrderRequest(
            self.client_id,
            self.symbol,
            self.side,
            self.type,
            self.quantity,
            self.price,
            self.trigger_price,
            self.time_in_force,
            self.reduce_only,
        )

    def apply(self, trigger: Trigger, now: int) -> bool:
        """Apply the transition of the table; return False, changing nothing, if there is none."""
        target = TRANSITIONS[self.state].get(trigger)
        if target is None:
            return False
        if target is OrderState.UNKNOWN and self.state is not OrderState.UNKNOWN:
            self.unknown_since, self.next_at, self.asked, self.failures = now, now, "", 0
        self.state = target
        if target in CONFIRMED or target is OrderState.FILLED:
            self.unknown_since = None
            if self.confirmed_at is None:
                self.confirmed_at = now
        if target in FINAL and self.ended_at is None:
            self.ended_at = now
        elif target not in FINAL:
            self.ended_at = None
        return True

    def take_report(self, report: OrderReport, now: int) -> bool:
        """Apply a report of the venue; return whether anything changed. The executed quantity never decreases.

        Quantity and price are the venue's. An order sent before a crash may differ from the order that was intended with its id after the restart.
        """
        changed = self.apply(Trigger(report.status.value), now)
        if not self.foreign and report.quantity > 0:
            there = (
                report.quantity,
                self.price if self.price is None else report.price or self.price,
                self.trigger_price if self.trigger_price is None else report.trigger_price or self.trigger_price,
            )
            changed = changed or there != (self.quantity, self.price, self.trigger_price)
            self.quantity, self.price, self.trigger_price = there
        if report.filled > self.reported:
            self.reported, changed = report.filled, True
            self.filled_at = now if self.filled_at is None else self.filled_at
        if report.average_price is not None and report.filled >= self.reported:
            self.average_price = report.average_price
        self.venue_order_id = report.venue_order_id or self.venue_order_id
        if report.reason and changed:
            self.reason = report.reason
        return changed

    def take_fill(self, trade_id: int, quantity: Decimal, now: int) -> bool:
        """Book an execution once; return False if it is booked already."""
        if trade_id in self.fills:
            return False
        self.fills[trade_id] = quantity
        self.filled_at = now if self.filled_at is None else self.filled_at
        if self.booked >= self.quantity:
            self.apply(Trigger.FILLED, now)
        elif self.state in UNCONFIRMED or self.state in (OrderState.OPEN, OrderState.TRIGGERED, OrderState.LOST, OrderState.REJECTED):
            self.apply(Trigger.PARTIALLY_FILLED, now)
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the durable part as JSON values."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _VOLATILE}
        made = {name: str(value) if isinstance(value, Decimal | StrEnum) else value for name, value in values.items()}
        made["fills"] = {str(trade): str(quantity) for trade, quantity in self.fills.items()}
        return made

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Order:
        """Return the order that ``to_json`` wrote."""
        read: dict[str, Any] = {
            name: Decimal(value) if name in _DECIMALS and value is not None else value for name, value in values.items()
        }
        read["side"], read["type"], read["state"] = Side(values["side"]), OrderType(values["type"]), OrderState(values["state"])
        read["time_in_force"] = None if values["time_in_force"] is None else TimeInForce(values["time_in_force"])
        read["fills"] = {int(trade): Decimal(quantity) for trade, quantity in values["fills"].items()}
        if "told" in read:  # the name in older journals
            read["published"] = read.pop("told")
        return cls(**read)


_VOLATILE = {"next_at", "asked", "failures", "judged"}
_DECIMALS = {"quantity", "price", "trigger_price", "reference", "reported", "average_price"}
